//! From nothing to the first answer: a new legacy session for each measurement.

use std::rc::Rc;

use anyhow::Result;
use memchr::memmem;
use tokio::time::Instant;

use super::channel::Channel;
use super::{Counting, within};

/// Opens one session after the other until the time is up. What counts is the time from `initialize` to the
/// answer of the call; the end of the session comes after it and is not in it.
pub(super) async fn keep_opening(mut channel: Channel, steps: Rc<[Vec<u8>]>, counted: Counting) {
    let until = counted.borrow().until();
    while Instant::now() < until {
        let began = Instant::now();
        match within(open(&mut channel, &steps)).await {
            Ok((body_bytes, session)) => {
                counted.borrow_mut().answered(began, body_bytes);
                if let [_, _, _, end] = &*steps {
                    // A side that cannot end a session keeps it; that is its own affair.
                    let _ = within(channel.step(&with_session(end, &session))).await;
                }
            }
            Err(error) => return counted.borrow_mut().failed(&format!("{error:#}")),
        }
    }
}

async fn open(channel: &mut Channel, steps: &[Vec<u8>]) -> Result<(usize, String)> {
    let [initialize, initialized, call, ..] = steps else { anyhow::bail!("a session has three steps") };
    let session = channel.step(initialize).await?.unwrap_or_else(|| "none".to_owned());
    channel.step(&with_session(initialized, &session)).await?;
    let body_bytes = channel.ask(&with_session(call, &session)).await?;
    Ok((body_bytes, session))
}

/// The request of this session.
pub(crate) fn with_session(request: &[u8], session: &str) -> Vec<u8> {
    let Some(at) = memmem::find(request, SESSION.as_bytes()) else { return request.to_vec() };
    let (before, after) = request.split_at(at);
    [before, session.as_bytes(), after.get(SESSION.len()..).unwrap_or_default()].concat()
}

/// Stands for the session's id in a request.
pub(crate) const SESSION: &str = "@SESSION@";
