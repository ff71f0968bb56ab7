//! The tool `sleep`: calls that take time, all on one timer thread, so that a sleeping call holds up nobody.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

use crate::output::Output;

/// The calls that sleep. They end with the process at the latest.
pub(crate) struct Sleeps {
    timer: Handle,
    output: Output,
    running: Running,
}

/// One call, as its answer needs it: all JSON texts, verbatim.
pub(crate) struct Sleep {
    pub(crate) id: String,
    pub(crate) progress_token: Option<String>,
    pub(crate) length: Duration,
    /// What follows the answer's `content`: the era's own members and the closing braces.
    pub(crate) ending: &'static str,
}

type Running = Arc<Mutex<HashMap<String, AbortHandle>>>;

impl Sleeps {
    /// Starts the timer thread.
    pub(crate) fn start(output: Output) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let timer = runtime.handle().clone();
        // Never joined: it ends with the process, as the sleeping calls do.
        std::thread::Builder::new()
            .name("timer".to_owned())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Sleeps { timer, output, running: Running::default() })
    }

    /// Takes the call; false when too many sleep already, or one with this id does.
    pub(crate) fn begin(&self, sleep: Sleep) -> bool {
        // Held until the call is in the table, or a short sleep would leave the table before it is in it.
        let mut running = lock(&self.running);
        if running.len() >= SLEEPS_LIMIT || running.contains_key(&sleep.id) {
            return false;
        }
        let id = sleep.id.clone();
        let task = self.timer.spawn(run(sleep, self.output.clone(), self.running.clone()));
        running.insert(id, task.abort_handle());
        true
    }

    /// Ends the call without an answer, as the protocol wants it. Unknown ids are ignored.
    pub(crate) fn cancel(&self, id: &str) {
        if let Some(task) = lock(&self.running).remove(id) {
            task.abort();
        }
    }
}

async fn run(sleep: Sleep, output: Output, running: Running) {
    let step = sleep.length / STEPS;
    for done in 1..=STEPS {
        tokio::time::sleep(step).await;
        // The last step is the answer itself.
        if let Some(token) = sleep.progress_token.as_deref().filter(|_| done < STEPS) {
            let progress = format!(r#","progress":{done},"total":{STEPS}}}}}"#);
            let opening = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"#;
            output.put(&[opening, token, &progress]);
            if output.flush().is_err() {
                return;
            }
        }
    }
    // Whoever takes the call out of the table, this or `cancel`, decides whether it is answered.
    if lock(&running).remove(&sleep.id).is_none() {
        return;
    }
    let text = format!(
        r#","result":{{"content":[{{"type":"text","text":"slept {} ms"}}]"#,
        sleep.length.as_millis()
    );
    output.put(&[r#"{"jsonrpc":"2.0","id":"#, &sleep.id, &text, sleep.ending]);
    // A client that is gone is seen by the reading thread.
    let _ = output.flush();
}

fn lock(running: &Running) -> MutexGuard<'_, HashMap<String, AbortHandle>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Enough to see progress move, few enough not to measure it.
const STEPS: u32 = 10;
/// More than any test holds at once; a client that forgets its calls meets a sentence, not the end of memory.
const SLEEPS_LIMIT: usize = 16 * 1024;
