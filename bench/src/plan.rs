//! Which cells are measured: every target at every number of connections, so many times, interleaved, so that
//! a change of the machine's mood meets all targets alike.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::process::Command;

use crate::report;
use crate::stat::Outcome;
use crate::targets::{Target, Targets};

/// What is measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// How often every cell is measured.
    pub(crate) runs: usize,
    /// How long one measurement takes, after its warm-up.
    pub(crate) seconds: u64,
    /// Bytes of the text that is echoed.
    pub(crate) text_bytes: usize,
    /// Connections held open, each with one request under way.
    pub(crate) connections: Vec<usize>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) run: usize,
    pub(crate) target: &'static str,
    pub(crate) connections: usize,
    /// CPU time of the target's own process for one request, in microseconds.
    pub(crate) cpu_us: f64,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

impl Plan {
    /// `--runs N --seconds N --bytes N --connections N,N,…`, all optional.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Plan> {
        // A mean over 3 s moves by a few per cent between runs; five runs show by how much.
        let mut plan = Plan { runs: 5, seconds: 3, text_bytes: 64, connections: vec![1, 32, 256] };
        for pair in arguments.chunks(2) {
            let [flag, value] = pair else { bail!("{} needs a value", pair.join(" ")) };
            match *flag {
                "--runs" => plan.runs = value.parse()?,
                "--seconds" => plan.seconds = value.parse()?,
                "--bytes" => plan.text_bytes = value.parse()?,
                "--connections" => {
                    plan.connections = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                _ => bail!("{flag} is unknown; there are --runs, --seconds, --bytes and --connections"),
            }
        }
        Ok(plan)
    }

    /// Starts the targets and measures every cell.
    pub(crate) async fn run(&self) -> Result<Vec<Cell>> {
        let targets = Targets::start(self.text_bytes).await?;
        let mut cells = Vec::new();
        for run in 1..=self.runs {
            for &connections in &self.connections {
                let mut pair = [&targets.bare, &targets.edge];
                if run % 2 == 0 {
                    pair.reverse(); // neither is always the one that comes after the other
                }
                for target in pair {
                    let cell = self.measure(&targets, target, run, connections).await?;
                    report::print(&format!(
                        "run {run}: {:<4} {connections:>4} connections {:>9.0} requests/s",
                        cell.target, cell.outcome.per_second
                    ));
                    cells.push(cell);
                }
            }
        }
        Ok(cells)
    }

    async fn measure(
        &self,
        targets: &Targets,
        target: &Target,
        run: usize,
        connections: usize,
    ) -> Result<Cell> {
        let before = target.cpu()?;
        let mut load = Command::new(std::env::current_exe()?);
        load.arg("load").arg(target.address.to_string()).arg(connections.to_string());
        load.arg(self.seconds.to_string()).arg(targets.request()).kill_on_drop(true);
        let guard = Duration::from_secs(self.seconds) * 4 + Duration::from_secs(30);
        let output = tokio::time::timeout(guard, load.output()).await.context("the load did not end")??;
        let outcome: Outcome = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no outcome: {}", String::from_utf8_lossy(&output.stderr)))?;
        let cpu = target.cpu()?.saturating_sub(before);
        let cpu_us = cpu.as_secs_f64() * 1e6 / (outcome.with_warm_up as f64).max(1.0);
        Ok(Cell { run, target: target.name, connections, cpu_us, outcome })
    }
}
