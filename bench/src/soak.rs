//! Whether a long time of calls leaves something behind: memory and open files of edge and bridge, watched under a
//! steady mixture of small, large and streamed calls, and of sessions that come and go with a process each.
//!
//! The rates are a part of what one core can do, so that what grows is a leak and not a queue.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testkit::http::Request;
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval};

use crate::groups::{BOTH, LEGACY, call_as, steps};
use crate::load::Load;
use crate::report::print;
use crate::server::PROGRESS;
use crate::stat::{Median, Outcome};
use crate::testbed::{self, Gateway, Testbed};
use crate::usage::Family;

/// `bench soak [--minutes N]`.
pub(crate) async fn run(arguments: &[&str]) -> Result<()> {
    let minutes: f64 = match *arguments {
        [] => 30.0,
        ["--minutes", minutes] => minutes.parse()?,
        _ => bail!("{} is unknown; there is --minutes", arguments.join(" ")),
    };
    let mut testbed = Testbed::new()?;
    let (both, legacy) = (testbed.bridge(&[], &BOTH).await?, testbed.bridge(&[], &LEGACY).await?);
    let servers = format!(
        "servers:\n  both: {{address: \"{}\"}}\n  legacy: {{address: \"{}\"}}\n",
        both.address, legacy.address
    );
    let edge = testbed.edge(&servers).await?;
    let bridges = both.family.and(&legacy.family);
    let mixture = mixture(&mut testbed, &edge).await?;
    let time = Duration::from_secs_f64(minutes * 60.0);
    let start = |part: Part| Ok((part.start(&edge, time)?, part));
    let mut loads = mixture.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    let samples = watch((&edge.family, &bridges), &mut loads, time).await?;
    table(&samples);
    // A load that has ended early comes first: its error shows what failed.
    loads.sort_by_key(|(load, _)| load.id().is_some());
    for (load, part) in loads {
        part.end(load).await?;
    }
    Ok(())
}

/// One of the concurrent loads.
struct Part {
    name: &'static str,
    requests: PathBuf,
    connections: usize,
    /// Per second; sessions come one after the other.
    rate: Option<f64>,
}

async fn mixture(testbed: &mut Testbed, edge: &Gateway) -> Result<Vec<Part>> {
    let modern = testbed::modern(edge.address);
    let session = testbed::legacy(edge.address).await;
    let progress = format!("m-{PROGRESS}");
    let mut part = |name, rate, request: &dyn Fn(usize) -> Request| -> Result<Part> {
        Ok(Part { name, requests: testbed.many(request)?, connections: 16, rate: Some(rate) })
    };
    let mut parts = vec![
        part("small calls, stateless", 2_000.0, &|id| call_as(&modern, "m-r200", id))?,
        part("small calls in a session", 500.0, &|id| call_as(&session, "l-r200", id))?,
        part("calls of 200 KB", 50.0, &|id| call_as(&modern, "m-r200k", id))?,
        part("calls with progress", 50.0, &|id| call_as(&modern, &progress, id))?,
    ];
    let steps = steps(edge, "l-r200").map(|step| step.bytes("localhost"));
    let requests = testbed.requests(steps.iter().map(Vec::as_slice))?;
    parts.push(Part { name: "sessions with a process each", requests, connections: 1, rate: None });
    Ok(parts)
}

impl Part {
    fn start(&self, edge: &Gateway, time: Duration) -> Result<Child> {
        let load = Load {
            to: edge.to(),
            requests: self.requests.clone(),
            connections: self.connections,
            seconds: time.as_secs_f64(),
            rate: self.rate,
            sessions: self.rate.is_none(),
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("load").arg(serde_json::to_string(&load)?).stdout(Stdio::piped()).kill_on_drop(true);
        Ok(command.spawn()?)
    }

    async fn end(&self, child: Child) -> Result<()> {
        let output = tokio::time::timeout(END_GUARD, child.wait_with_output()).await;
        let output = output.with_context(|| format!("{} do not end", self.name))??;
        let outcome: Outcome = serde_json::from_slice(&output.stdout).context(self.name)?;
        let failure = outcome.first_failure.unwrap_or_default();
        ensure!(outcome.failed == 0, "{}: {} failed: {failure}", self.name, outcome.failed);
        print(&format!(
            "{}: {} answered, none failed, p99 {:.0} µs",
            self.name, outcome.with_warm_up, outcome.p99_us
        ));
        Ok(())
    }
}

/// What was seen at a time.
struct Sample {
    at: Duration,
    edge_kib: f64,
    bridges_kib: f64,
    files: f64,
}

/// Watches until the time is up or one of the loads has ended, which it does early when none of its connections is left.
async fn watch(
    (edge, bridges): (&Family, &Family),
    loads: &mut [(Child, Part)],
    time: Duration,
) -> Result<Vec<Sample>> {
    let (began, mut ticks) = (Instant::now(), interval((time / SAMPLES).max(Duration::from_millis(100))));
    let mut samples = Vec::new();
    while began.elapsed() < time {
        ticks.tick().await;
        for (load, _) in &mut *loads {
            if load.try_wait()?.is_some() {
                return Ok(samples);
            }
        }
        let files = edge.open_files() + bridges.open_files();
        let (edge, bridges) = (edge.usage(), bridges.usage());
        samples.push(Sample {
            at: began.elapsed(),
            edge_kib: edge.memory_kib as f64,
            bridges_kib: bridges.memory_kib as f64,
            files: files as f64,
        });
    }
    Ok(samples)
}

/// Medians of each tenth of the time, and what the last one has more than the second. The first is left out: caches
/// fill in it.
fn table(samples: &[Sample]) {
    print("| until | edge KiB | bridges KiB | open files |\n| ---: | ---: | ---: | ---: |");
    let tenths: Vec<_> = samples.chunks(samples.len().div_ceil(10).max(1)).map(Tenth::of).collect();
    for Tenth { until, edge, bridges, files } in &tenths {
        let minutes = until.as_secs_f64() / 60.0;
        print(&format!("| {minutes:.1} min | {} | {} | {} |", spread(edge), spread(bridges), spread(files)));
    }
    if let [_, second, .., last] = tenths.as_slice() {
        let grown = |of: fn(&Tenth) -> &Median| of(last).median - of(second).median;
        print(&format!(
            "\nfrom the second tenth to the last: edge {:+.0} KiB, bridges {:+.0} KiB, open files {:+.0}\n",
            grown(|tenth| &tenth.edge),
            grown(|tenth| &tenth.bridges),
            grown(|tenth| &tenth.files),
        ));
    }
}

struct Tenth {
    until: Duration,
    edge: Median,
    bridges: Median,
    files: Median,
}

impl Tenth {
    fn of(samples: &[Sample]) -> Tenth {
        let median = |figure: fn(&Sample) -> f64| Median::of(samples.iter().map(figure));
        Tenth {
            until: samples.last().map_or(Duration::ZERO, |sample| sample.at),
            edge: median(|sample| sample.edge_kib),
            bridges: median(|sample| sample.bridges_kib),
            files: median(|sample| sample.files),
        }
    }
}

fn spread(Median { median, least, most }: &Median) -> String {
    format!("{median:.0} ({least:.0}–{most:.0})")
}

/// Often enough that each tenth has a median.
const SAMPLES: u32 = 300;
/// For the loads to read their last answers.
const END_GUARD: Duration = Duration::from_secs(60);
