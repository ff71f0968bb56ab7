//! The only unsafe code of the workspace: three kernel services that neither std nor nix offers in a usable form.
//!
//! Each is a few lines, and says why the safe form does not suffice.
#![expect(unsafe_code, reason = "std and nix have no safe form of these three; see each function")]

use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{Pid, getppid};

use crate::files::OpenFiles;

/// A child that has ended and waits to be reaped, so its pid (and group id) cannot be anybody else's yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) pid: Pid,
    pub(crate) how: Ending,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Status(i32),
    Signal(i32),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status={status}"),
            Self::Signal(signal) => write!(f, "signal={signal}"),
        }
    }
}

/// Finds a child that has ended without reaping it.
///
/// For a child that a real-time signal killed, nix's `waitid` returns an error without the pid; such a zombie would be
/// reported first for ever and hide all others.
pub(crate) fn next_ended() -> Option<Ended> {
    loop {
        // SAFETY: `siginfo_t` is plain data for which all zeroes is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a live, exclusive `siginfo_t` for the length of the call.
        let result = unsafe {
            libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
        };
        if result == -1 && Errno::last() == Errno::EINTR {
            continue;
        }
        // SAFETY: after waitid(2) the SIGCHLD fields are the valid ones; the pid stays zero when nobody has ended.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let how =
            if info.si_code == libc::CLD_EXITED { Ending::Status(status) } else { Ending::Signal(status) };
        return (result == 0 && pid != 0).then_some(Ended { pid: Pid::from_raw(pid), how });
    }
}

/// Makes the kernel report ended children. If our parent ignored SIGCHLD, we inherit that through exec, and the kernel would
/// reap children without reporting them.
///
/// # Errors
/// The kernel's error.
pub(crate) fn report_ended_children() -> nix::Result<()> {
    // SAFETY: SIG_DFL installs no code.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map(drop)
}

/// Makes `command` start as it would without the bridge: no signal blocked, and the limit of open files that the bridge was
/// started with. Also ties its life to the bridge's.
///
/// Done from the parent, all of this would come too late: the program might run before.
pub(crate) fn before_exec(command: &mut Command, open_files: OpenFiles) {
    let bridge = Pid::this();
    let prepare = move || -> io::Result<()> {
        SigSet::empty().thread_set_mask()?;
        setrlimit(Resource::RLIMIT_NOFILE, open_files.soft, open_files.hard)?;
        // A bridge that is killed by SIGKILL leaves no server behind. The signal is sent when the *thread* that forked ends,
        // so the bridge must have only one thread.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != bridge {
            return Err(io::Error::from(Errno::ESRCH)); // the bridge ended between fork and prctl
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls that signal-safety(7) permits or that are bare; it allocates nothing
    // (an `io::Error` from an errno is a number) and takes no lock.
    unsafe { command.pre_exec(prepare) };
}
