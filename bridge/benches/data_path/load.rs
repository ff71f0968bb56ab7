//! The load and what it costs.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::contender::{Client, Contender};

#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
}

/// One contender, one shape.
pub(crate) struct Sum {
    pub(crate) p50: Duration,
    p99: Duration,
    per_second: f64,
    /// Of the processes between client and server, per message.
    cpu: Duration,
    switches: f64,
    resident_kib: u64,
}

/// One turn: enough messages for a p99, little enough that all contenders meet the same machine.
const TURN: Duration = Duration::from_millis(400);
const WARM_UP_MESSAGES: usize = 20;

pub(crate) fn measure(contender: &Contender, shape: Shape) -> Option<Sum> {
    let running = contender.start();
    let mut message = vec![b'x'; shape.bytes];
    *message.last_mut()? = b'\n';
    let mut clients: Vec<Client> = (0..shape.connections).map(|_| running.connect()).collect();
    let mut answer = vec![0; shape.bytes];
    for client in &mut clients {
        for _ in 0..WARM_UP_MESSAGES {
            client.round_trip(&message, &mut answer).ok()?;
        }
    }
    let before = running.pid().map(Costs::of).unwrap_or_default();
    let begun = Instant::now();
    let talkers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let (message, mut answer) = (message.clone(), answer.clone());
            thread::spawn(move || {
                let mut times = Vec::new();
                while begun.elapsed() < TURN {
                    let sent = Instant::now();
                    client.round_trip(&message, &mut answer).expect("answered");
                    times.push(sent.elapsed());
                }
                (times, client)
            })
        })
        .collect();
    let mut times = Vec::new();
    let mut clients = Vec::new();
    for talker in talkers {
        let (its_times, client) = talker.join().expect("it talked");
        times.extend(its_times);
        clients.push(client);
    }
    let elapsed = begun.elapsed();
    let after = running.pid().map(Costs::of).unwrap_or_default();
    clients.into_iter().for_each(Client::close);
    times.sort_unstable();
    let messages = u32::try_from(times.len()).ok()?;
    Some(Sum {
        p50: *times.get(times.len() / 2)?,
        p99: *times.get(times.len() * 99 / 100)?,
        per_second: f64::from(messages) / elapsed.as_secs_f64(),
        cpu: after.cpu.saturating_sub(before.cpu) / messages,
        switches: after.switches.saturating_sub(before.switches) as f64 / f64::from(messages),
        resident_kib: after.resident_kib,
    })
}

/// What a program and those of its children that run the same program have used.
#[derive(Default)]
struct Costs {
    cpu: Duration,
    switches: u64,
    resident_kib: u64,
}

impl Costs {
    fn of(program: u32) -> Self {
        let executable = fs::read_link(format!("/proc/{program}/exe")).ok();
        let children =
            fs::read_to_string(format!("/proc/{program}/task/{program}/children")).unwrap_or_default();
        let family = children
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).ok() == executable)
            .chain([program]);
        family.fold(Self::default(), |sum, pid| {
            let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name: &str| -> u64 {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
            };
            let nanos = schedstat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
            Self {
                cpu: sum.cpu + Duration::from_nanos(nanos),
                switches: sum.switches
                    + field("voluntary_ctxt_switches:")
                    + field("nonvoluntary_ctxt_switches:"),
                resident_kib: sum.resident_kib + field("VmRSS:"),
            }
        })
    }
}

impl Sum {
    pub(crate) const HEADER: &str = "\
| bytes | connections | way | p50 µs | to floor | p99 µs | messages/s | CPU µs/message | switches/message | RSS KiB |
| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |";

    /// Each figure's median, so that one disturbed turn does not count.
    pub(crate) fn median(sums: Vec<Self>) -> Option<Self> {
        fn middle<T: PartialOrd + Copy>(sums: &[Sum], figure: impl Fn(&Sum) -> T) -> Option<T> {
            let mut figures: Vec<T> = sums.iter().map(figure).collect();
            figures.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
            figures.get(figures.len() / 2).copied()
        }
        Some(Self {
            p50: middle(&sums, |sum| sum.p50)?,
            p99: middle(&sums, |sum| sum.p99)?,
            per_second: middle(&sums, |sum| sum.per_second)?,
            cpu: middle(&sums, |sum| sum.cpu)?,
            switches: middle(&sums, |sum| sum.switches)?,
            resident_kib: middle(&sums, |sum| sum.resident_kib)?,
        })
    }

    pub(crate) fn row(&self, contender: &Contender, shape: Shape, floor: Option<Duration>) -> String {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let ratio = floor.map_or("".to_owned(), |floor| format!("{:.2}", micros(self.p50) / micros(floor)));
        format!(
            "| {} | {} | {} | {:.1} | {ratio} | {:.1} | {:.0} | {:.2} | {:.2} | {} |",
            shape.bytes,
            shape.connections,
            contender.name,
            micros(self.p50),
            micros(self.p99),
            self.per_second,
            micros(self.cpu),
            self.switches,
            self.resident_kib,
        )
    }
}
