//! One server process: started in its own group, its stderr logged, stopped by the ladder.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};

use crate::args::Settings;
use crate::clock::Moment;
use crate::event_loop::EventLoop;
use crate::kernel::{self, Ending};
use crate::log::Lines;
use crate::orphan::Nonce;
use crate::poller::{Interest, Token, Watch};

/// A running process. It must not be dropped before it has ended.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) started: Moment,
    ladder: Ladder,
    /// Why it has to stop, if it has to; the first cause counts.
    cause: Option<Cause>,
    stderr: ChildStderr,
    stderr_watch: Watch,
    lines: Lines,
}

/// The bridge's ends of the process's stdin and stdout pipes.
pub(crate) struct Pipes {
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
}

/// How far the process has been stopped.
///
/// ```text
/// Serving ──it has to stop──▶ Grace ──stop-grace──▶ Terminated ──2 s──▶ Killed (terminal: SIGCHLD reports the end)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ladder {
    Serving,
    Grace,
    Terminated,
    Killed,
}

/// Why a process has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client has half-closed or gone, or the bridge stops.
    InputEnded,
    /// The process has closed its stdout, and can never answer again.
    OutputEnded,
}

impl Process {
    /// Starts the command for `connection` with the client's socket as stdin and stdout.
    ///
    /// # Errors
    /// fork or exec failed, or descriptors have run out.
    pub(crate) fn start_on(socket: &OwnedFd, connection: u64, event_loop: &EventLoop) -> io::Result<Self> {
        let mut command = command(&event_loop.settings, event_loop.nonce.mark(connection));
        // Servers expect blocking descriptors; the bridge itself uses the socket with MSG_DONTWAIT.
        fcntl(socket, FcntlArg::F_SETFL(OFlag::empty()))?;
        command.stdin(Stdio::from(socket.try_clone()?)).stdout(Stdio::from(socket.try_clone()?));
        // If stdin is a socket, bash assumes that a remote shell daemon started it and runs ~/.bashrc, whose output would
        // enter the protocol. SHLVL prevents that (bash(1), Invocation).
        if std::env::var_os("SHLVL").is_none() {
            command.env("SHLVL", "1");
        }
        Self::spawn(command, event_loop).map(|(process, _)| process)
    }

    /// Starts the command for `connection` with pipes.
    ///
    /// # Errors
    /// fork or exec failed, or descriptors have run out.
    pub(crate) fn start_piped(connection: u64, event_loop: &EventLoop) -> io::Result<(Self, Pipes)> {
        let mut command = command(&event_loop.settings, event_loop.nonce.mark(connection));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (process, mut child) = Self::spawn(command, event_loop)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| io::Error::other("a pipe is missing"))?;
        set_nonblocking(&stdin)?;
        set_nonblocking(&stdout)?;
        // The kernel refuses beyond the user's share of pipe memory; the pipes then keep their size.
        let _ = fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok((process, Pipes { stdin, stdout }))
    }

    fn spawn(mut command: Command, event_loop: &EventLoop) -> io::Result<(Self, Child)> {
        kernel::before_exec(&mut command, event_loop.open_files);
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("a pipe is missing"))?;
        set_nonblocking(&stderr)?;
        let (stderr_watch, lines) = (Watch::default(), Lines::default());
        let process = Self {
            pid,
            started: event_loop.now,
            ladder: Ladder::Serving,
            cause: None,
            stderr,
            stderr_watch,
            lines,
        };
        Ok((process, child))
    }

    /// Begins to stop the process. Returns the deadline of the first rung; `None` if the ladder had begun before.
    pub(crate) fn begin_ladder(&mut self, cause: Cause, event_loop: &EventLoop) -> Option<Moment> {
        self.cause = self.cause.or(Some(cause));
        (self.ladder == Ladder::Serving).then(|| {
            self.ladder = Ladder::Grace;
            event_loop.now + event_loop.settings.stop_grace
        })
    }

    /// Whether its input ended before it closed stdout by itself.
    pub(crate) fn was_asked_to_leave(&self) -> bool {
        self.cause == Some(Cause::InputEnded)
    }

    /// Takes the next rung of the ladder. Returns that rung's deadline.
    pub(crate) fn next_rung(&mut self, connection: u64, event_loop: &mut EventLoop) -> Option<Moment> {
        let (rung, signal, wait) = match self.ladder {
            Ladder::Serving | Ladder::Killed => return None,
            Ladder::Grace => (Ladder::Terminated, Signal::SIGTERM, Some(event_loop.now + TERM_GRACE)),
            Ladder::Terminated => (Ladder::Killed, Signal::SIGKILL, None),
        };
        self.ladder = rung;
        event_loop.log.event(format_args!("[{connection}] stopping pid={} signal={signal}", self.pid));
        self.signal_group(signal);
        wait
    }

    /// Signals the process and the descendants that stayed in its group. Must not be called after the process is reaped: the
    /// group's number may then belong to another one.
    pub(crate) fn signal_group(&self, signal: Signal) {
        // Errors mean that they have already ended.
        let _ = killpg(self.pid, signal);
        if getpgid(Some(self.pid)) != Ok(self.pid) {
            let _ = kill(self.pid, signal); // it has joined another group
        }
    }

    /// Starts or stops notifications of stderr.
    pub(crate) fn watch_stderr(&mut self, connection: u64, event_loop: &mut EventLoop, interest: Interest) {
        let token = Token::Stderr(connection);
        if let Err(error) =
            event_loop.poller.set(&mut self.stderr_watch, &self.stderr, token, interest.flags())
        {
            event_loop.log.event(format_args!("[{connection}] stderr is not watched: {error}"));
        }
    }

    /// Reads stderr once and logs its lines.
    pub(crate) fn read_stderr(&mut self, connection: u64, event_loop: &mut EventLoop) {
        match self.stderr.read(&mut event_loop.scratch) {
            Ok(0) => self.watch_stderr(connection, event_loop, Interest::Nothing),
            Ok(bytes) => {
                self.lines.push(
                    connection,
                    event_loop.scratch.get(..bytes).unwrap_or_default(),
                    event_loop.now,
                    &mut event_loop.log,
                );
                event_loop.log.flush();
            }
            Err(error) if is_transient(&error) => {}
            Err(_) => self.watch_stderr(connection, event_loop, Interest::Nothing),
        }
    }

    /// Logs what the ended process left in stderr, including an unfinished last line, and how it ended. The pipe is then
    /// closed, even if a grandchild holds its other end.
    pub(crate) fn log_end(mut self, connection: u64, how: Ending, event_loop: &mut EventLoop) {
        for _ in 0..LEFT_IN_A_PIPE_READS {
            match self.stderr.read(&mut event_loop.scratch) {
                Ok(0) => break,
                Ok(bytes) => {
                    self.lines.push(
                        connection,
                        event_loop.scratch.get(..bytes).unwrap_or_default(),
                        event_loop.now,
                        &mut event_loop.log,
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.lines.finish(connection, &mut event_loop.log);
        self.watch_stderr(connection, event_loop, Interest::Nothing);
        let lived_ms = event_loop.now.saturating_sub(self.started).as_millis();
        event_loop.log.event(format_args!("[{connection}] ended pid={} {how} after_ms={lived_ms}", self.pid));
    }
}

fn command(settings: &Settings, mark: String) -> Command {
    let mut command = Command::new(&settings.command);
    command.args(&settings.arguments).env(Nonce::VARIABLE, OsString::from(mark)).process_group(0);
    command
}

fn set_nonblocking(fd: impl std::os::fd::AsFd) -> nix::Result<()> {
    // Each end of a pipe has its own flags, so the process's end still blocks.
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// Whether the operation may succeed later.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// From SIGTERM to SIGKILL. Together with the drain (20 s) and the stop grace (5 s) it is below the 30 s that Kubernetes
/// gives a pod.
const TERM_GRACE: Moment = Moment::from_secs(2);
/// The size of our pipes: a large answer takes a quarter of the turns that the default of 64 KiB takes.
const PIPE_BYTES: i32 = 256 * 1024;
/// Bounds the reads of a dead process's stderr: a pipe may hold 1 MiB (pipe(7), pipe-max-size), and a grandchild may keep
/// writing for ever.
const LEFT_IN_A_PIPE_READS: usize = 32;
