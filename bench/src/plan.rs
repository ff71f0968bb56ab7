//! Which cells are measured, and in which order: every candidate of a group at every step, this many times and in turn, so
//! that a change in the machine's speed affects all candidates alike.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tokio::process::Command;

use crate::candidate::{Candidate, Group, OPEN_CONNECTIONS, Step};
use crate::groups::{self, Shared};
use crate::load::Load;
use crate::report;
use crate::stat::Outcome;

/// What is measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// How often every cell is measured.
    pub(crate) runs: usize,
    /// How long one measurement takes, after its warm-up; an open loop takes twice as long, for its tail.
    pub(crate) seconds: f64,
    /// Connections held open, each with one request under way.
    pub(crate) connections: Vec<usize>,
    pub(crate) groups: Vec<String>,
    pub(crate) peers: bool,
    pub(crate) quick: bool,
    pub(crate) agentgateway: Option<PathBuf>,
    pub(crate) docker_gateway: Option<PathBuf>,
    /// Peers that run already: name, and address with path and process.
    pub(crate) running: Vec<(String, String)>,
    /// Only candidates with one of these names.
    pub(crate) sides: Vec<String>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) run: usize,
    pub(crate) side: String,
    pub(crate) step: Step,
    /// CPU time of the side for one request, in microseconds.
    pub(crate) cpu_us: f64,
    /// How often the side's threads waited, for one request.
    pub(crate) waits: f64,
    pub(crate) memory_kib: u64,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// A group with what was measured.
pub(crate) struct Measured {
    pub(crate) group: Group,
    pub(crate) cells: Vec<Cell>,
}

impl Plan {
    /// See `bench/README.md`; a wrong word is answered with the list.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Plan> {
        let quick = arguments.contains(&"--quick");
        let mut plan = Plan {
            runs: if quick { 2 } else { 5 },
            seconds: if quick { 0.4 } else { 0.5 },
            connections: if quick { vec![1, 32] } else { vec![1, 8, 32, 256] },
            groups: Vec::new(),
            peers: true,
            quick,
            agentgateway: None,
            docker_gateway: None,
            running: Vec::new(),
            sides: Vec::new(),
        };
        let mut words = arguments.iter().filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().with_context(|| format!("{word} needs a value"));
            match *word {
                "--quick" => {}
                "--runs" => plan.runs = value()?.parse()?,
                "--seconds" => plan.seconds = value()?.parse()?,
                "--connections" => {
                    plan.connections = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--sides" => plan.sides = value()?.split(',').map(str::to_owned).collect(),
                "--no-peers" => plan.peers = false,
                "--agentgateway" => plan.agentgateway = Some(value()?.into()),
                "--docker-gateway" => plan.docker_gateway = Some(value()?.into()),
                "--peer" => {
                    let (name, url) =
                        value()?.split_once('=').context("--peer NAME=ADDRESS:PORT/PATH[@PID]")?;
                    plan.running.push((name.to_owned(), url.to_owned()));
                }
                name if groups::NAMES.contains(&name) => plan.groups.push(name.to_owned()),
                other => bail!("{other} is unknown; {USAGE} [{}]", groups::NAMES.join("|")),
            }
        }
        if plan.groups.is_empty() {
            let names = if quick { &groups::QUICK[..] } else { &groups::NAMES };
            plan.groups = names.iter().map(|&name| name.to_owned()).collect();
        }
        ensure!(plan.runs > 0 && plan.seconds > 0.0, "nothing would be measured");
        Ok(plan)
    }

    /// One connection and many: enough where the shape of the curve is known from another group.
    pub(crate) fn few(&self) -> Vec<usize> {
        [1, 32].into_iter().filter(|connections| self.connections.contains(connections)).collect()
    }

    /// Starts what the groups need and measures every cell.
    pub(crate) async fn run(&self) -> Result<Vec<Measured>> {
        let mut shared = Shared::start(self).await?;
        let mut all = Vec::new();
        for name in &self.groups {
            for mut group in shared.group(name, self).await.with_context(|| format!("group {name}"))? {
                let open = group.steps.iter().any(|step| matches!(step, Step::Open { .. }));
                group.candidates.retain(|candidate| {
                    let wanted = self.sides.is_empty() || self.sides.contains(&candidate.side);
                    wanted || candidate.side == group.base || (open && candidate.side == PEAK_OF)
                });
                let cells = self.measure_group(&group).await?;
                report::table(&group, &cells);
                all.push(Measured { group, cells });
            }
        }
        Ok(all)
    }

    async fn measure_group(&self, group: &Group) -> Result<Vec<Cell>> {
        let peaks = self.peaks(group).await?;
        let mut cells = Vec::new();
        for run in 1..=self.runs {
            for &step in &group.steps {
                let mut candidates: Vec<_> = group.candidates.iter().collect();
                // Rotated, so that no candidate always follows the same other one.
                let turn = (run - 1) % candidates.len().max(1);
                candidates.rotate_left(turn);
                for candidate in candidates {
                    let load = self.load(candidate, step, &peaks);
                    cells.push(measure(candidate, (run, step), &load).await?);
                }
            }
        }
        Ok(cells)
    }

    /// What the open loop takes its rates from: the most requests per second of a closed loop, by side.
    async fn peaks(&self, group: &Group) -> Result<HashMap<String, f64>> {
        let mut peaks = HashMap::new();
        let step = Step::Closed { connections: OPEN_CONNECTIONS };
        if !group.steps.iter().any(|step| matches!(step, Step::Open { .. })) {
            return Ok(peaks);
        }
        for candidate in
            group.candidates.iter().filter(|candidate| candidate.own_peak || candidate.side == PEAK_OF)
        {
            let mut tries = Vec::new();
            for run in 1..=3 {
                let load = self.load(candidate, step, &peaks);
                tries.push(measure(candidate, (run, step), &load).await?.outcome.per_second);
            }
            peaks.insert(candidate.side.clone(), crate::stat::Median::of(tries.into_iter()).median);
        }
        Ok(peaks)
    }

    fn load(&self, candidate: &Candidate, step: Step, peaks: &HashMap<String, f64>) -> Load {
        match step {
            Step::Closed { connections } => candidate.load(connections, self.seconds, None),
            Step::Open { percent } => {
                let side = if candidate.own_peak { candidate.side.as_str() } else { PEAK_OF };
                let peak = peaks.get(side).copied().unwrap_or_default();
                let rate = (peak * f64::from(percent) / 100.0).max(1.0);
                candidate.load(OPEN_CONNECTIONS, self.seconds * 2.0, Some(rate))
            }
        }
    }
}

async fn measure(candidate: &Candidate, (run, step): (usize, Step), load: &Load) -> Result<Cell> {
    let before = candidate.family.usage();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("load").arg(serde_json::to_string(load)?).kill_on_drop(true);
    let guard = Duration::from_secs_f64(load.seconds) * 4 + Duration::from_secs(30);
    let output = tokio::time::timeout(guard, command.output()).await.context("the load did not end")??;
    let outcome: Outcome = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("{}: no outcome: {}", candidate.side, String::from_utf8_lossy(&output.stderr))
    })?;
    let after = candidate.family.usage();
    let requests = (outcome.with_warm_up as f64).max(1.0);
    let cell = Cell {
        run,
        side: candidate.side.clone(),
        step,
        cpu_us: after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / requests,
        waits: after.waits.saturating_sub(before.waits) as f64 / requests,
        memory_kib: after.memory_kib,
        outcome,
    };
    report::progress(&cell);
    Ok(cell)
}

/// The side whose peak is everybody's.
const PEAK_OF: &str = "edge";
const USAGE: &str = "usage: bench [--quick] [--runs N] [--seconds S] [--connections N,N] [--sides NAME,NAME] [--no-peers] \
    [--agentgateway PROGRAM] [--docker-gateway PROGRAM] [--peer NAME=ADDRESS:PORT/PATH[@PID]] [GROUP…], or bench idle [--sessions N] [--runs N] [--seconds N] [--tls], \
    or bench soak [--minutes N]; GROUP is one of";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_leaves_the_rest_out() {
        let plan = Plan::parse(&["--runs", "3", "--connections", "1,32", "call", "list"]).unwrap();
        assert_eq!((plan.runs, plan.connections.as_slice()), (3, &[1, 32][..]));
        assert_eq!(plan.groups, ["call", "list"]);
        assert_eq!(Plan::parse(&["--quick"]).unwrap().groups, groups::QUICK);
        assert!(Plan::parse(&["calls"]).is_err());
    }
}
