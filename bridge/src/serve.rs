//! The event loop: passes events to connections, and stops on SIGTERM or SIGINT. `admit` starts processes, `reap` handles
//! their ends.

mod admit;
mod reap;

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::args::Settings;
use crate::backoff::Backoff;
use crate::clock::{self, Moment, Timer};
use crate::connection::{Connection, Next};
use crate::event_loop::EventLoop;
use crate::failure::Failure;
use crate::files::OpenFiles;
use crate::kernel;
use crate::listeners::Listeners;
use crate::poller::{Interest, Token, Watch};
use crate::spare::Spare;
use crate::{command, files};

/// Serves until SIGTERM or SIGINT, then until everything has stopped.
///
/// # Errors
/// The command cannot run, an address cannot be bound, or the kernel lacks something that the bridge needs.
pub(crate) fn serve(mut settings: Settings) -> Result<(), Failure> {
    command::verify(&settings.command)?;
    let (connections, waiting) = (settings.max_connections, settings.max_waiting);
    let open_files = files::fit(&mut settings);
    let listeners = Listeners::bind(&settings)?;
    let kernel =
        |error: Errno| Failure::runtime(format!("the kernel refuses what the bridge needs: {error}"));
    let mut bridge = Bridge::new(settings, open_files, listeners).map_err(kernel)?;
    let settings = &bridge.event_loop.settings;
    if (settings.max_connections, settings.max_waiting) != (connections, waiting) {
        bridge.event_loop.log.event(format_args!(
            "the limit of open files allows max-connections={} max-waiting={}",
            settings.max_connections, settings.max_waiting
        ));
    }
    bridge.event_loop.log.event(format_args!("listening on {}", bridge.listeners));
    bridge.run().map_err(kernel)
}

struct Bridge {
    event_loop: EventLoop,
    listeners: Listeners,
    signals: SignalFd,
    /// By number, so the oldest is first.
    connections: BTreeMap<u64, Connection>,
    /// Processes that wait for clients, the oldest first.
    spares: Vec<Spare>,
    last_number: u64,
    backoff: Backoff,
    refusals: Refusals,
    /// How many adopted processes were on their way out at the last sweep. Each of them will be reported by a SIGCHLD,
    /// and the sweep that follows finds the children that it leaves to the bridge.
    exiting_orphans: usize,
    /// Some process's stderr is not read until the log has room again.
    stderr_waits: bool,
    phase: Phase,
    own_deadlines: OwnDeadlines,
}

/// ```text
/// Serving ──SIGTERM──▶ Draining ──drain over, later signal──▶ Stopping ──all gone, or the ladder's end──▶ Over: exit 0
///                          └──all gone──▶ Over
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining {
        since: Moment,
    },
    Stopping,
    /// Terminal.
    Over,
}

/// Refused connections that are not logged yet.
#[derive(Default)]
struct Refusals {
    unreported: u64,
    silent_until: Moment,
}

/// The present deadlines of the bridge's own timers.
#[derive(Default)]
struct OwnDeadlines {
    phase: Option<Moment>,
    accept: Option<Moment>,
    spares: Option<Moment>,
}

impl Bridge {
    fn new(settings: Settings, open_files: OpenFiles, listeners: Listeners) -> nix::Result<Self> {
        // Descendants that lose their parent become our children, even if we are not PID 1.
        prctl::set_child_subreaper(true)?;
        kernel::report_ended_children()?;
        let mask: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let event_loop = EventLoop::new(settings, open_files)?;
        event_loop.poller.set(&mut Watch::default(), &signals, Token::Signals, Some(EpollFlags::EPOLLIN))?;
        Ok(Self {
            event_loop,
            listeners,
            signals,
            connections: BTreeMap::new(),
            spares: Vec::new(),
            last_number: 0,
            backoff: Backoff::default(),
            refusals: Refusals::default(),
            exiting_orphans: 0,
            stderr_waits: false,
            phase: Phase::Serving,
            own_deadlines: OwnDeadlines::default(),
        })
    }

    fn run(mut self) -> nix::Result<()> {
        self.listeners.watch(&self.event_loop.poller, Interest::Input)?;
        self.fill_spares();
        let mut events = [EpollEvent::empty(); EVENTS_A_TURN];
        while self.phase != Phase::Over {
            let ready = self.event_loop.poller.wait(&mut events, self.timeout())?;
            self.event_loop.now = clock::now();
            for (token, flags) in ready {
                self.dispatch(token, flags);
            }
            while let Some(timer) = self.event_loop.deadlines.passed(self.event_loop.now) {
                self.deadline_passed(timer);
            }
            self.event_loop.log.flush();
            self.resume_stderr();
            if self.phase != Phase::Serving && self.is_all_gone() {
                self.phase = Phase::Over;
            }
        }
        self.event_loop.log.event(format_args!("stopped"));
        Ok(())
    }

    fn is_all_gone(&self) -> bool {
        self.connections.is_empty() && self.spares.is_empty() && self.exiting_orphans == 0
    }

    fn timeout(&self) -> Option<Moment> {
        let next = self.event_loop.deadlines.next().map(|moment| moment.saturating_sub(clock::now()));
        if self.event_loop.log.is_waiting() {
            Some(next.map_or(LOG_RETRY, |next| next.min(LOG_RETRY)))
        } else {
            next
        }
    }

    fn dispatch(&mut self, token: Token, flags: EpollFlags) {
        let number = match token {
            Token::Signals => return self.read_signals(),
            Token::Listener(index) => return self.accept(index),
            Token::Stderr(number) => return self.read_stderr(number),
            Token::Client(number) | Token::Stdin(number) | Token::Stdout(number) => number,
        };
        // An earlier event of this turn may have ended the connection.
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let next = match token {
            Token::Stdin(_) => connection.on_stdin(&mut self.event_loop),
            Token::Stdout(_) => connection.on_stdout(&mut self.event_loop),
            _ => connection.on_client(flags, &mut self.event_loop),
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

    fn end(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            connection.close(&mut self.event_loop);
        }
    }

    fn deadline_passed(&mut self, timer: Timer) {
        match timer {
            Timer::Phase => self.phase_over(),
            Timer::Accept => self.resume_accepting(),
            Timer::Spares => {
                self.event_loop.deadlines.set(Timer::Spares, &mut self.own_deadlines.spares, None);
                self.fill_spares();
            }
            Timer::Connection(number) => {
                if let Some(spare) = self.spares.iter_mut().find(|spare| spare.number == number) {
                    return spare.next_rung(&mut self.event_loop);
                }
                let Some(connection) = self.connections.get_mut(&number) else { return };
                let next = connection.on_deadline(&mut self.event_loop);
                self.act(number, next);
            }
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

    fn stop_requested(&mut self, signal: Signal) {
        match self.phase {
            Phase::Serving => {
                let running = self.connections.values().filter(|connection| connection.is_running()).count();
                self.event_loop.log.event(format_args!("draining signal={signal} connections={running}"));
                self.listeners.close(&self.event_loop.poller);
                self.spares.iter_mut().for_each(|spare| spare.stop(&mut self.event_loop));
                let waiting = self.connections.iter().filter(|(_, connection)| connection.is_waiting());
                for number in waiting.map(|(number, _)| *number).collect::<Vec<u64>>() {
                    self.end(number);
                }
                self.enter(Phase::Draining { since: self.event_loop.now }, self.event_loop.settings.drain);
            }
            Phase::Draining { since } if self.event_loop.now.saturating_sub(since) >= SIGNAL_ECHO => {
                self.stop_all();
            }
            Phase::Draining { .. } | Phase::Stopping | Phase::Over => {}
        }
    }

    fn phase_over(&mut self) {
        // A deadline that stays passed would keep the loop from ever waiting again.
        self.event_loop.deadlines.set(Timer::Phase, &mut self.own_deadlines.phase, None);
        match self.phase {
            Phase::Serving | Phase::Over => {}
            Phase::Draining { .. } => self.stop_all(),
            Phase::Stopping => {
                let processes = self.processes() + self.exiting_orphans;
                let clients = self.connections.values().filter(|connection| !connection.is_running()).count();
                self.event_loop.log.event(format_args!(
                    "leaving {processes} processes that outlive SIGKILL and {clients} clients that take nothing"
                ));
                self.phase = Phase::Over;
            }
        }
    }

    fn stop_all(&mut self) {
        self.spares.iter_mut().for_each(|spare| spare.next_rung(&mut self.event_loop));
        for connection in self.connections.values_mut() {
            connection.stop(&mut self.event_loop);
        }
        self.enter(Phase::Stopping, self.event_loop.settings.stop_grace + LAST_RESORT);
    }

    fn enter(&mut self, phase: Phase, length: Moment) {
        self.phase = phase;
        let end = Some(self.event_loop.now + length);
        self.event_loop.deadlines.set(Timer::Phase, &mut self.own_deadlines.phase, end);
    }
}

/// Events handled in one turn: a few kilobytes.
const EVENTS_A_TURN: usize = 256;
/// How soon writing the log is tried again.
const LOG_RETRY: Moment = Moment::from_millis(50);
/// npm, uv and make forward the Ctrl-C of a terminal that has sent it to the bridge as well. 300 ms: longer than that takes,
/// and shorter than a person needs to press Ctrl-C again. The edge uses the same time.
const SIGNAL_ECHO: Moment = Moment::from_millis(300);
/// After the stop grace: SIGTERM's two seconds, then SIGKILL, then what the kernel needs to tear down large processes.
const LAST_RESORT: Moment = Moment::from_secs(5);
