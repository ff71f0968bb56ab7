//! A server that is a local command: one process per connection, in a process group of its own, with its stderr in
//! the gateway's log, and a stop ladder that leaves nothing behind.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, Command as Spawn};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::{Link, stderr};
use crate::call::ServerName;
use crate::ops::files::OpenFiles;
use crate::upstream::metrics::ServerMetrics;
use crate::upstream::settings::{Config, ServerConfig, Source};

/// What to run for a server that is a local command.
pub(in crate::upstream) struct Command {
    server: ServerName,
    source: Source,
    grace: Duration,
    files: Option<OpenFiles>,
    withheld: Vec<String>,
    metrics: Arc<ServerMetrics>,
    tasks: TaskTracker,
}

impl Command {
    pub(in crate::upstream) fn new(
        server: &ServerConfig,
        config: &Config,
        metrics: Arc<ServerMetrics>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            server: server.name.clone(),
            source: server.source.clone(),
            grace: config.stop_grace,
            files: config.files,
            withheld: config.withheld.clone(),
            metrics,
            tasks,
        }
    }

    /// Starts a process; its stdin and stdout are the link.
    pub(super) fn start(&self) -> io::Result<Link> {
        let Source::Command { program, args, env } = &self.source else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the server is no local command"));
        };
        let mut spawn = Spawn::new(program);
        // These variables hold tokens and keys of this gateway; a server is somebody else's program.
        self.withheld.iter().for_each(|name| {
            spawn.env_remove(name);
        });
        let mut child = spawn
            .args(args)
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its children end with it, and Ctrl-C at the gateway's terminal does not reach it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("`{program}` does not start: {error}")))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the process has no pipes"));
        };
        // Over the user's share of pipe memory the kernel refuses, and the pipes keep their size.
        let _ = fcntl_setpipe_size(&stdin, PIPE_BYTES);
        let _ = fcntl_setpipe_size(&stdout, PIPE_BYTES);
        if let Some(pipe) = child.stderr.take() {
            self.tasks.spawn(stderr::log(self.server.clone(), self.metrics.clone(), pipe));
        }
        if let (Some(files), Some(id)) = (self.files, child.id()) {
            // A child that keeps the raised limit works too; only old programs cannot cope with it.
            let _ = files.restore(id);
        }
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Link { process: Some(Process { child, pid, grace: self.grace }), ..Link::new(stdout, stdin) })
    }
}

/// Resolves a while after the process `pid` has ended, so that its last output is read; never without a process. The
/// end of its output would not do: its children may hold that open. The process stays a zombie.
pub(in crate::upstream) async fn outlived(pid: Option<Pid>) {
    let (Some(pid), Ok(mut children)) = (pid, signal(SignalKind::child())) else {
        return std::future::pending().await;
    };
    while !has_exited(pid) {
        children.recv().await;
    }
    sleep(LAST_OUTPUT).await;
}

/// A local process. [`Process::stop`] ends it in good order; when dropped it is killed with its group.
pub(in crate::upstream) struct Process {
    child: Child,
    pid: Option<Pid>,
    grace: Duration,
}

impl Process {
    /// Its process id, until it is stopped.
    pub(in crate::upstream) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// How long it has for each step of the ladder.
    pub(in crate::upstream) fn grace(&self) -> Duration {
        self.grace
    }

    /// The stop ladder, after the end of its input: wait, SIGTERM, wait, SIGKILL.
    ///
    /// The group's leader is reaped last: until then its process id stays taken, so no signal can reach a foreign
    /// group.
    // MCP 2025-11-25 basic/lifecycle, Shutdown: stdio
    pub(in crate::upstream) async fn stop(self) {
        let grace = self.grace;
        self.climb(grace).await;
    }

    /// The stop ladder without its first wait, for a process that has had that time since the end of its input.
    pub(in crate::upstream) async fn stop_overdue(self) {
        self.climb(Duration::ZERO).await;
    }

    async fn climb(mut self, timeout: Duration) {
        let Some(pid) = self.pid else { return };
        if !exited(pid, timeout).await {
            let _ = kill_process_group(pid, Signal::TERM); // it may be gone by now
            exited(pid, self.grace).await;
        }
        // The leader may have left children behind in its group.
        let _ = kill_process_group(pid, Signal::KILL);
        self.pid = None;
        let _ = self.child.wait().await; // reaps; the exit status does not matter
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Not stopped, because the runtime shuts down. Not reaped either, so the group is still its own.
        if let Some(pid) = self.pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Whether the process has ended within `grace`; it stays a zombie.
async fn exited(pid: Pid, grace: Duration) -> bool {
    let deadline = Instant::now() + grace;
    loop {
        if has_exited(pid) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL).await;
    }
}

fn has_exited(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error means that it is no longer a child of this process.
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
}

/// How long the output of a process that has ended is still read. 2 s: it is in the pipe already, and all of it is
/// read in milliseconds. What other holders of the pipe write after that is not wanted.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// How often a stopped process is looked at. 20 ms: servers end within some ten milliseconds of the end of their input.
const POLL: Duration = Duration::from_millis(20);
/// The size of the pipes. 256 KiB, as in the bridge: a large answer takes a quarter of the turns of the default of 64
/// KiB.
const PIPE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::upstream::metrics::Metrics;

    fn shell(script: &str, grace: Duration) -> Command {
        let source = Source::Command {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: BTreeMap::from([("GREETING".into(), "hello".into())]),
        };
        command(source, grace, Some(OpenFiles::raise()))
    }

    fn command(source: Source, stop_grace: Duration, files: Option<OpenFiles>) -> Command {
        let server = ServerConfig::new(ServerName::parse("local").unwrap(), source);
        let config = Config { stop_grace, files, ..Config::default() };
        with(&server, &config)
    }

    fn with(server: &ServerConfig, config: &Config) -> Command {
        Command::new(server, config, Metrics::default().server(&server.name), TaskTracker::new())
    }

    async fn read_pid(link: &mut Link) -> Pid {
        let mut text = [0; 16];
        let n = link.incoming.read(&mut text).await.unwrap();
        Pid::from_raw(std::str::from_utf8(&text[..n]).unwrap().trim().parse().unwrap()).unwrap()
    }

    fn alive(pid: Pid) -> bool {
        // A zombie that somebody else has to reap counts as gone.
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    #[tokio::test]
    async fn the_pipes_are_the_link_and_the_environment_is_added() {
        let mut link = shell("read line; echo $line $GREETING", Duration::from_secs(5)).start().unwrap();
        link.outgoing.write_all(b"say\n").await.unwrap();
        let mut said = String::new();
        link.incoming.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "say hello\n");
        link.process.unwrap().stop().await;
    }

    #[tokio::test]
    async fn a_large_answer_fits_its_pipe() {
        let mut link = shell("read line; head -c 200000 /dev/zero", Duration::from_secs(60)).start().unwrap();
        link.outgoing.write_all(b"\n").await.unwrap();
        // Nothing reads the pipe, so the process ends only if all of its output fits in.
        assert!(exited(link.process.as_ref().unwrap().pid.unwrap(), Duration::from_secs(60)).await);
    }

    #[tokio::test]
    async fn a_withheld_variable_reaches_a_process_only_when_it_is_given_to_it() {
        // Any variable that certainly exists will do: tests must not set variables of their own process.
        for (given, said) in [(None, "[]"), (Some("given"), "[given]")] {
            let source = Source::Command {
                program: "/bin/sh".into(),
                args: vec!["-c".into(), "read line; echo [$CARGO_MANIFEST_DIR]".into()],
                env: given.map(|value| ("CARGO_MANIFEST_DIR".into(), value.into())).into_iter().collect(),
            };
            let server = ServerConfig::new(ServerName::parse("local").unwrap(), source);
            let config = Config { withheld: vec!["CARGO_MANIFEST_DIR".into()], ..Config::default() };
            let mut link = with(&server, &config).start().unwrap();
            link.outgoing.write_all(b"\n").await.unwrap();
            let mut line = String::new();
            link.incoming.read_to_string(&mut line).await.unwrap();
            assert_eq!(line.trim(), said);
            link.process.unwrap().stop().await;
        }
    }

    #[tokio::test]
    async fn a_child_gets_the_limit_of_open_files_that_we_were_started_with() {
        // The test runner's limit may be at the maximum already; then both limits are equal and must stay so.
        let before = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let mut link = shell("read line; ulimit -Sn", Duration::from_secs(5)).start().unwrap();
        link.outgoing.write_all(b"\n").await.unwrap();
        let mut said = String::new();
        link.incoming.read_to_string(&mut said).await.unwrap();
        assert_eq!(said.trim().parse().ok(), before, "{said}");
        link.process.unwrap().stop().await;
    }

    #[tokio::test]
    async fn a_process_that_ignores_everything_is_killed_with_its_group() {
        let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done'";
        let mut link = shell(script, Duration::from_millis(100)).start().unwrap();
        let grandchild = read_pid(&mut link).await;
        assert!(alive(grandchild));
        link.process.take().unwrap().stop().await;
        for _ in 0..300 {
            if !alive(grandchild) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("the grandchild outlived its group");
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed_while_another_holds_its_output() {
        let link = shell("sleep 60 & read line", Duration::from_secs(5)).start().unwrap();
        let mut ended = Box::pin(outlived(link.process.as_ref().unwrap().pid()));
        assert!(tokio::time::timeout(POLL, &mut ended).await.is_err());
        drop(link.outgoing);
        tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
        link.process.unwrap().stop().await;
    }

    #[test]
    fn a_missing_program_is_an_error_at_once() {
        let source =
            Source::Command { program: "/no/such/program".into(), args: vec![], env: BTreeMap::new() };
        let command = command(source, POLL, None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(async { command.start().err().unwrap() });
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
