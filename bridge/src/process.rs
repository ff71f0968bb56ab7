//! One server process: started in its own group, its stderr tapped, stopped by the ladder.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};

use crate::args::Settings;
use crate::clock::Moment;
use crate::hub::Hub;
use crate::kernel::{self, Ending};
use crate::log::Lines;
use crate::orphan::Nonce;
use crate::poller::{Token, Watch};

/// A running process. Whoever drops it has seen it end.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) started: Moment,
    ladder: Ladder,
    /// Why it has to leave, if it has; the first cause counts.
    cause: Option<Cause>,
    stderr: ChildStderr,
    stderr_watch: Watch,
    lines: Lines,
}

/// The bridge's ends of the pipes, where there are pipes.
pub(crate) struct Pipes {
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
}

/// How far the process has been asked to leave.
///
/// ```text
/// Serving ──it has to leave──▶ Grace ──stop-grace──▶ Terminated ──2 s──▶ Killed (terminal: the kernel will report it)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ladder {
    Serving,
    Grace,
    Terminated,
    Killed,
}

/// Why a process has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client has finished or gone, or the bridge stops.
    InputEnded,
    /// The process has closed its stdout, and can never answer again.
    OutputEnded,
}

impl Process {
    /// Starts the command for `connection` with the client's socket as stdin and stdout.
    ///
    /// # Errors
    /// What fork or exec said, or that descriptors have run out.
    pub(crate) fn start_on(socket: &OwnedFd, connection: u64, hub: &Hub) -> io::Result<Self> {
        let mut command = command(&hub.settings, hub.nonce.mark(connection));
        // Servers expect to block; what the bridge itself does with the socket says MSG_DONTWAIT each time.
        fcntl(socket, FcntlArg::F_SETFL(OFlag::empty()))?;
        command.stdin(Stdio::from(socket.try_clone()?)).stdout(Stdio::from(socket.try_clone()?));
        // A bash that finds a socket on stdin takes itself for the child of a remote shell daemon and runs ~/.bashrc,
        // whose output would enter the protocol, unless SHLVL says otherwise (bash(1), Invocation).
        if std::env::var_os("SHLVL").is_none() {
            command.env("SHLVL", "1");
        }
        Self::spawn(command, hub).map(|(process, _)| process)
    }

    /// Starts the command for `connection` with pipes.
    ///
    /// # Errors
    /// What fork or exec said, or that descriptors have run out.
    pub(crate) fn start_piped(connection: u64, hub: &Hub) -> io::Result<(Self, Pipes)> {
        let mut command = command(&hub.settings, hub.nonce.mark(connection));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (process, mut child) = Self::spawn(command, hub)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| io::Error::other("a pipe is missing"))?;
        set_nonblocking(&stdin)?;
        set_nonblocking(&stdout)?;
        // Over the user's share of pipe memory the kernel refuses, and the pipes keep their size.
        let _ = fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok((process, Pipes { stdin, stdout }))
    }

    fn spawn(mut command: Command, hub: &Hub) -> io::Result<(Self, Child)> {
        kernel::before_exec(&mut command, hub.open_files);
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("a pipe is missing"))?;
        set_nonblocking(&stderr)?;
        let (stderr_watch, lines) = (Watch::default(), Lines::default());
        let process =
            Self { pid, started: hub.now, ladder: Ladder::Serving, cause: None, stderr, stderr_watch, lines };
        Ok((process, child))
    }

    /// From now on it has to leave. Returns when to look again; `None` if the ladder had begun before.
    pub(crate) fn begin_ladder(&mut self, cause: Cause, hub: &Hub) -> Option<Moment> {
        self.cause = self.cause.or(Some(cause));
        (self.ladder == Ladder::Serving).then(|| {
            self.ladder = Ladder::Grace;
            hub.now + hub.settings.stop_grace
        })
    }

    /// Whether its input had ended before it did anything to leave.
    pub(crate) fn was_asked_to_leave(&self) -> bool {
        self.cause == Some(Cause::InputEnded)
    }

    /// The time of the present rung is over. Returns when to look again.
    pub(crate) fn next_rung(&mut self, connection: u64, hub: &mut Hub) -> Option<Moment> {
        let (rung, signal, wait) = match self.ladder {
            Ladder::Serving | Ladder::Killed => return None,
            Ladder::Grace => (Ladder::Terminated, Signal::SIGTERM, Some(hub.now + TERM_GRACE)),
            Ladder::Terminated => (Ladder::Killed, Signal::SIGKILL, None),
        };
        self.ladder = rung;
        hub.log.event(format_args!("[{connection}] stopping pid={} signal={signal}", self.pid));
        self.signal_group(signal);
        wait
    }

    /// Signals the process and everybody it started who stayed in its group. Only to be called while the process is not
    /// reaped: afterwards the group's number may be somebody else's.
    pub(crate) fn signal_group(&self, signal: Signal) {
        // Both may have ended by themselves; that is what is wanted.
        let _ = killpg(self.pid, signal);
        if getpgid(Some(self.pid)) != Ok(self.pid) {
            let _ = kill(self.pid, signal); // it has joined another group
        }
    }

    /// Wants to hear of stderr, or not while the log is full.
    pub(crate) fn watch_stderr(&mut self, connection: u64, hub: &mut Hub, wanted: bool) {
        let flags = wanted.then_some(EpollFlags::EPOLLIN);
        if let Err(error) =
            hub.poller.set(&mut self.stderr_watch, &self.stderr, Token::Stderr(connection), flags)
        {
            hub.log.event(format_args!("[{connection}] stderr is not watched: {error}"));
        }
    }

    /// Reads stderr once and logs its lines.
    pub(crate) fn read_stderr(&mut self, connection: u64, hub: &mut Hub) {
        match self.stderr.read(&mut hub.scratch) {
            Ok(0) => self.watch_stderr(connection, hub, false),
            Ok(bytes) => {
                self.lines.push(connection, hub.scratch.get(..bytes).unwrap_or_default(), &mut hub.log);
                hub.log.flush();
            }
            Err(error) if is_transient(&error) => {}
            Err(_) => self.watch_stderr(connection, hub, false),
        }
    }

    /// Logs what the ended process left in stderr, its unfinished last line too, and how it ended. Then the pipe is
    /// forgotten, which a grandchild may hold open.
    pub(crate) fn log_end(mut self, connection: u64, how: Ending, hub: &mut Hub) {
        for _ in 0..LEFT_IN_A_PIPE_READS {
            match self.stderr.read(&mut hub.scratch) {
                Ok(0) => break,
                Ok(bytes) => {
                    self.lines.push(connection, hub.scratch.get(..bytes).unwrap_or_default(), &mut hub.log);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.lines.finish(connection, &mut hub.log);
        self.watch_stderr(connection, hub, false);
        let lived_ms = hub.now.saturating_sub(self.started).as_millis();
        hub.log.event(format_args!("[{connection}] ended pid={} {how} after_ms={lived_ms}", self.pid));
    }
}

fn command(settings: &Settings, mark: String) -> Command {
    let mut command = Command::new(&settings.command);
    command.args(&settings.arguments).env(Nonce::VARIABLE, OsString::from(mark)).process_group(0);
    command
}

fn set_nonblocking(fd: impl std::os::fd::AsFd) -> nix::Result<()> {
    // The other end of a pipe has flags of its own, so the process does not notice.
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// Nothing now, perhaps later.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Between SIGTERM and SIGKILL. Drain (20 s), stop grace (5 s) and this stay under the 30 s Kubernetes gives a pod.
const TERM_GRACE: Moment = Moment::from_secs(2);
/// A large answer goes through in a quarter of the turns that the default of 64 KiB takes.
const PIPE_BYTES: i32 = 256 * 1024;
/// A pipe may have been enlarged to 1 MiB (pipe(7), pipe-max-size); a grandchild may go on writing for ever.
const LEFT_IN_A_PIPE_READS: usize = 32;
