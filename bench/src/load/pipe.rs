//! The server's own pipes, driven directly: what a call costs with nothing between.
//!
//! One process, as many requests in flight as there would be connections. The bench server answers in order, so
//! the oldest request is the one that an answer belongs to.

use std::collections::VecDeque;
use std::process::Stdio;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

use super::http1::holds_result;
use super::open::{Alarm, Schedule};
use super::{Counting, Load, To, pulse};

struct Pipe {
    input: ChildStdin,
    output: ChildStdout,
    waiting: Vec<u8>,
    /// Since when each request waits, the oldest first.
    asked: VecDeque<Instant>,
    /// What is to be written.
    next: Vec<u8>,
    requests: Rc<[Vec<u8>]>,
    turn: usize,
    counted: Counting,
}

/// Measures a process's pipes.
pub(super) async fn run(load: &Load, requests: &Rc<[Vec<u8>]>) -> Result<Counting> {
    let To::Pipe { command } = &load.to else { bail!("not a pipe") };
    let (program, arguments) = command.split_first().context("no command")?;
    let mut process = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut pipe = Pipe {
        input: process.stdin.take().context("no stdin")?,
        output: process.stdout.take().context("no stdout")?,
        waiting: Vec::with_capacity(READ_BYTES),
        asked: VecDeque::new(),
        next: Vec::new(),
        requests: requests.clone(),
        turn: 0,
        counted: load.counted(),
    };
    let _pulse = pulse::feel(&pipe.counted);
    match load.rate {
        None => pipe.closed(load.connections).await?,
        Some(rate) => pipe.open(rate).await?,
    }
    Ok(pipe.counted)
}

impl Pipe {
    async fn closed(&mut self, in_flight: usize) -> Result<()> {
        let until = self.counted.borrow().until();
        for _ in 0..in_flight {
            self.due(Instant::now())?;
        }
        loop {
            self.write().await?;
            let answered = self.read().await?;
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            for _ in 0..answered {
                self.due(now)?;
            }
        }
    }

    async fn open(&mut self, rate: f64) -> Result<()> {
        let until = self.counted.borrow().until();
        let (alarm, mut schedule) = (Alarm::new()?, Schedule::new(Instant::now(), rate));
        while schedule.next() < until {
            tokio::select! {
                // Both arms are cancel-safe: a read that is dropped has read nothing.
                due = alarm.at(schedule.next()) => {
                    due?;
                    self.due(schedule.next())?;
                    schedule.advance();
                    self.write().await?;
                }
                answered = read(&mut self.output, &mut self.waiting), if !self.asked.is_empty() => {
                    answered?;
                    self.settle()?;
                }
            }
        }
        Ok(())
    }

    /// One more request, due at this time.
    fn due(&mut self, at: Instant) -> Result<()> {
        let request = self.requests.get(self.turn).context("no requests")?;
        self.next.extend_from_slice(request);
        self.asked.push_back(at);
        self.turn = (self.turn + 1) % self.requests.len();
        Ok(())
    }

    async fn write(&mut self) -> Result<()> {
        self.input.write_all(&self.next).await?;
        self.next.clear();
        Ok(())
    }

    /// Reads until something is answered; how many are.
    async fn read(&mut self) -> Result<usize> {
        loop {
            read(&mut self.output, &mut self.waiting).await?;
            match self.settle()? {
                0 => {}
                answered => return Ok(answered),
            }
        }
    }

    /// Counts the whole lines that wait.
    fn settle(&mut self) -> Result<usize> {
        let mut counted = self.counted.borrow_mut();
        let (mut answered, mut start) = (0, 0);
        for end in memchr::memchr_iter(b'\n', &self.waiting) {
            let line = self.waiting.get(start..end).unwrap_or_default();
            start = end + 1;
            if line.starts_with(NOTIFICATION) {
                continue;
            }
            ensure!(holds_result(line), "the server refused: {}", String::from_utf8_lossy(line));
            let began = self.asked.pop_front().context("an answer to nothing")?;
            counted.answered_due(began, line.len());
            answered += 1;
        }
        self.waiting.drain(..start);
        Ok(answered)
    }
}

async fn read(output: &mut ChildStdout, waiting: &mut Vec<u8>) -> Result<()> {
    waiting.reserve(READ_BYTES / 2);
    ensure!(output.read_buf(waiting).await? > 0, "the server ended");
    Ok(())
}

const NOTIFICATION: &[u8] = br#"{"jsonrpc":"2.0","method""#;
const READ_BYTES: usize = 256 << 10;
