//! The event loop: accepts, hands events to connections, starts and reaps processes, stops when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::args::Settings;
use crate::backoff::{Backoff, QUICKLY};
use crate::clock::{self, Moment};
use crate::connection::{Connection, Next, Peer};
use crate::failure::Failure;
use crate::hub::Hub;
use crate::kernel::{self, Ended, Ending};
use crate::listeners::Listeners;
use crate::poller::{Token, Watch};
use crate::{command, files};

/// Serves until SIGTERM or SIGINT, and until everything is stopped after that.
///
/// # Errors
/// A command that cannot run, an address that cannot be bound, a kernel that lacks what the bridge needs.
pub(crate) fn serve(mut settings: Settings) -> Result<(), Failure> {
    command::verify(&settings.command)?;
    let (connections, waiting) = (settings.max_connections, settings.max_waiting);
    let open_files = files::fit(&mut settings);
    let listeners = Listeners::bind(&settings)?;
    let kernel =
        |error: Errno| Failure::runtime(format!("the kernel refuses what the bridge needs: {error}"));
    let mut bridge = Bridge::new(settings, open_files, listeners).map_err(kernel)?;
    let settings = &bridge.hub.settings;
    if (settings.max_connections, settings.max_waiting) != (connections, waiting) {
        bridge.hub.log.event(format_args!(
            "the limit of open files allows max-connections={} max-waiting={}",
            settings.max_connections, settings.max_waiting
        ));
    }
    bridge.hub.log.event(format_args!("listening on {}", bridge.listeners));
    bridge.run().map_err(kernel)
}

struct Bridge {
    hub: Hub,
    listeners: Listeners,
    signals: SignalFd,
    connections: BTreeMap<u64, Connection>,
    /// Connections without a process, oldest first.
    idle: BTreeSet<u64>,
    processes: BTreeMap<Pid, u64>,
    last_number: u64,
    backoff: Backoff,
    refusals: Refusals,
    /// Connections whose stderr is not read until the log has room again.
    unread_stderr: BTreeSet<u64>,
    phase: Phase,
    phase_deadline: Option<Moment>,
}

/// ```text
/// Serving ──SIGTERM──▶ Draining ──drain over, second signal──▶ Stopping ──all gone, or the ladder's end──▶ exit 0
///                          └──no connection left──▶ exit 0
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Stopping,
    /// Terminal.
    Over,
}

#[derive(Default)]
struct Refusals {
    unreported: u64,
    silent_until: Moment,
}

impl Bridge {
    fn new(settings: Settings, open_files: files::OpenFiles, listeners: Listeners) -> nix::Result<Self> {
        // Whoever loses his parent below us becomes our child, wherever we are in the tree of processes.
        prctl::set_child_subreaper(true)?;
        kernel::report_ended_children()?;
        let mask: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let hub = Hub::new(settings, open_files)?;
        hub.poller.set(&mut Watch::default(), &signals, Token::Signals, Some(EpollFlags::EPOLLIN))?;
        Ok(Self {
            hub,
            listeners,
            signals,
            connections: BTreeMap::new(),
            idle: BTreeSet::new(),
            processes: BTreeMap::new(),
            last_number: BRIDGE,
            backoff: Backoff::default(),
            refusals: Refusals::default(),
            unread_stderr: BTreeSet::new(),
            phase: Phase::Serving,
            phase_deadline: None,
        })
    }

    fn run(mut self) -> nix::Result<()> {
        self.listeners.watch(&self.hub.poller, true)?;
        let mut events = [EpollEvent::empty(); EVENTS_A_TURN];
        while self.phase != Phase::Over {
            let ready = self.hub.poller.wait(&mut events, self.timeout())?;
            self.hub.now = clock::now();
            for (token, flags) in ready {
                self.dispatch(token, flags);
            }
            while let Some(number) = self.hub.deadlines.passed(self.hub.now) {
                self.deadline_passed(number);
            }
            self.hub.log.flush();
            self.resume_stderr();
            if self.phase != Phase::Serving && self.connections.is_empty() {
                self.phase = Phase::Over;
            }
        }
        self.hub.log.event(format_args!("stopped"));
        Ok(())
    }

    fn timeout(&self) -> Option<Moment> {
        let next = self.hub.deadlines.next().map(|moment| moment.saturating_sub(clock::now()));
        if self.hub.log.is_waiting() {
            Some(next.map_or(LOG_RETRY, |next| next.min(LOG_RETRY)))
        } else {
            next
        }
    }

    fn dispatch(&mut self, token: Token, flags: EpollFlags) {
        let number = match token {
            Token::Signals => return self.read_signals(),
            Token::Listener(index) => return self.accept(index),
            Token::Client(number) | Token::Stdin(number) | Token::Stdout(number) | Token::Stderr(number) => {
                number
            }
        };
        // An earlier event of this turn may have ended it.
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let next = match token {
            Token::Client(_) => connection.on_client(flags, &mut self.hub),
            Token::Stdin(_) => connection.on_stdin(&mut self.hub),
            Token::Stdout(_) => connection.on_stdout(&mut self.hub),
            _ => {
                self.read_stderr(number);
                Next::Stay
            }
        };
        self.act(number, next);
    }

    fn act(&mut self, number: u64, next: Next) {
        match next {
            Next::Stay => {}
            Next::Start => self.start(number),
            Next::End => self.end(number),
        }
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS_A_TURN {
            match self.listeners.accept(index) {
                Ok(Some((socket, peer))) => self.accepted(socket, peer),
                Ok(None) => return,
                Err(error) => {
                    // EMFILE and its kind: the connection stays in the backlog and would be reported again at once.
                    self.hub.log.event(format_args!("cannot accept: {error}"));
                    let _ = self.listeners.watch(&self.hub.poller, false);
                    let mut slot = None;
                    self.hub.deadlines.set(LISTENERS, &mut slot, Some(self.hub.now + ACCEPT_PAUSE));
                    self.listeners.paused = slot;
                    if let Some(oldest) = self.idle.first().copied() {
                        self.end(oldest);
                    }
                    return;
                }
            }
        }
    }

    fn accepted(&mut self, socket: OwnedFd, peer: Peer) {
        self.last_number += 1;
        let number = self.last_number;
        match Connection::accepted(number, socket, peer, &mut self.hub) {
            Ok(connection) => {
                self.connections.insert(number, connection);
                self.idle.insert(number);
            }
            Err(error) => self.hub.log.event(format_args!("[{number}] cannot be watched: {error}")),
        }
        if self.idle.len() > self.hub.settings.max_waiting
            && let Some(oldest) = self.idle.first().copied()
        {
            // Whoever came last is the likeliest to say something soon.
            self.end(oldest);
        }
    }

    fn start(&mut self, number: u64) {
        if self.phase != Phase::Serving {
            return self.end(number);
        }
        if self.processes.len() >= self.hub.settings.max_connections {
            return self.refuse(number, "max-connections is reached");
        }
        if !self.backoff.permits(self.hub.now) {
            return self.refuse(number, "the command keeps crashing");
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match connection.start(&mut self.hub) {
            Ok(()) => {
                self.idle.remove(&number);
                let pid = connection.process().map(|process| process.pid);
                self.processes.extend(pid.map(|pid| (pid, number)));
                let next = connection.after_start(&mut self.hub);
                self.act(number, next);
            }
            Err(error) => {
                let command = self.hub.settings.command.display();
                self.hub.log.event(format_args!("[{number}] cannot start `{command}`: {error}"));
                self.crashed();
                self.end(number);
            }
        }
    }

    fn refuse(&mut self, number: u64, reason: &str) {
        self.refusals.unreported += 1;
        if self.hub.now >= self.refusals.silent_until {
            let count = self.refusals.unreported;
            self.hub
                .log
                .event(format_args!("[{number}] refused, {reason} ({count} since the last such line)"));
            self.refusals = Refusals { unreported: 0, silent_until: self.hub.now + REFUSALS_EVERY };
        }
        self.end(number);
    }

    fn crashed(&mut self) {
        if let Some(pause) = self.backoff.crashed(self.hub.now) {
            let pause = pause.as_secs_f64();
            self.hub.log.event(format_args!("the command keeps crashing, no start for {pause:.1}s"));
        }
    }

    fn end(&mut self, number: u64) {
        self.idle.remove(&number);
        self.unread_stderr.remove(&number);
        if let Some(connection) = self.connections.remove(&number) {
            connection.close(&mut self.hub);
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(signal) => self.stop_requested(signal),
                Err(_) => {}
            }
        }
    }

    /// Ends the group of each process that has ended, and only then lets its number go.
    fn reap(&mut self) {
        while let Some(Ended { pid, how }) = kernel::next_ended() {
            let number = self.processes.get(&pid).copied();
            if let Some(process) = number.and_then(|number| self.connections.get_mut(&number)?.process()) {
                process.signal_group(Signal::SIGKILL);
            }
            // The status is known; nix's reading of it may fail for a real-time signal, the reaping does not.
            let _ = waitpid(pid, None);
            self.processes.remove(&pid);
            if let Some(number) = number {
                self.process_ended(number, how);
            }
        }
        let processes = &self.processes;
        let live: BTreeSet<u64> = processes.values().copied().collect();
        let swept = self.hub.nonce.sweep(|pid| processes.contains_key(&pid), |number| live.contains(&number));
        for (pid, number) in swept {
            self.hub.log.event(format_args!("[{number}] ended orphan pid={pid}"));
        }
    }

    fn process_ended(&mut self, number: u64, how: Ending) {
        self.unread_stderr.remove(&number);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if let Some(process) = connection.process() {
            let quick = self.hub.now.saturating_sub(process.started) < QUICKLY;
            let crashed = quick && how != Ending::Status(0) && !process.was_asked_to_leave();
            if crashed {
                self.crashed();
            } else {
                self.backoff.works();
            }
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let next = connection.process_ended(how, &mut self.hub);
        if connection.is_idle() {
            self.idle.insert(number);
        }
        self.act(number, next);
    }

    fn read_stderr(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if self.hub.log.is_full() {
            if let Some(process) = connection.process() {
                process.watch_stderr(number, &mut self.hub, false);
                self.unread_stderr.insert(number);
            }
        } else {
            connection.on_stderr(&mut self.hub);
        }
    }

    fn resume_stderr(&mut self) {
        if self.hub.log.is_full() {
            return;
        }
        for number in std::mem::take(&mut self.unread_stderr) {
            if let Some(process) = self.connections.get_mut(&number).and_then(Connection::process) {
                process.watch_stderr(number, &mut self.hub, true);
            }
        }
    }

    fn deadline_passed(&mut self, number: u64) {
        match number {
            BRIDGE => self.phase_over(),
            LISTENERS => {
                let mut slot = self.listeners.paused.take();
                self.hub.deadlines.set(LISTENERS, &mut slot, None);
                if self.phase == Phase::Serving {
                    let _ = self.listeners.watch(&self.hub.poller, true);
                }
            }
            number => {
                let Some(connection) = self.connections.get_mut(&number) else { return };
                let next = connection.on_deadline(&mut self.hub);
                self.act(number, next);
            }
        }
    }

    fn stop_requested(&mut self, signal: Signal) {
        match self.phase {
            Phase::Serving => {
                let running = self.processes.len();
                self.hub.log.event(format_args!("draining signal={signal} connections={running}"));
                self.listeners.close(&self.hub.poller);
                let waiting = |number: &u64| self.connections.get(number).is_some_and(Connection::is_waiting);
                for number in self.idle.iter().copied().filter(waiting).collect::<Vec<_>>() {
                    self.end(number);
                }
                self.enter(Phase::Draining, self.hub.settings.drain);
            }
            Phase::Draining => self.stop_all(),
            Phase::Stopping | Phase::Over => {}
        }
    }

    fn phase_over(&mut self) {
        match self.phase {
            Phase::Serving | Phase::Over => {}
            Phase::Draining => self.stop_all(),
            Phase::Stopping => {
                for process in self.processes.keys() {
                    self.hub.log.event(format_args!("pid={process} outlives SIGKILL"));
                }
                self.phase = Phase::Over;
            }
        }
    }

    fn stop_all(&mut self) {
        for connection in self.connections.values_mut() {
            connection.stop(&mut self.hub);
        }
        self.enter(Phase::Stopping, self.hub.settings.stop_grace + LAST_RESORT);
    }

    fn enter(&mut self, phase: Phase, length: Moment) {
        self.phase = phase;
        self.hub.deadlines.set(BRIDGE, &mut self.phase_deadline, Some(self.hub.now + length));
    }
}

/// The bridge's own deadline, in the list of connections' deadlines; connections count from 1.
const BRIDGE: u64 = 0;
/// The listeners' deadline.
const LISTENERS: u64 = u64::MAX;
/// One page of events a turn.
const EVENTS_A_TURN: usize = 256;
/// A flood of connects must not keep the others waiting.
const ACCEPTS_A_TURN: usize = 64;
/// Long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Moment = Moment::from_millis(100);
/// How soon a log that could not be written is tried again.
const LOG_RETRY: Moment = Moment::from_millis(50);
/// A client that retries fast must not fill the log.
const REFUSALS_EVERY: Moment = Moment::from_secs(1);
/// After the stop grace: SIGTERM's two seconds, then SIGKILL, then what the kernel needs to tear down large processes.
const LAST_RESORT: Moment = Moment::from_secs(5);
