//! The report: a table for each group, the verdicts on our targets, and in addition everything as JSON and
//! the main figures as a plot.

mod plot;
mod verdict;

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::candidate::{Group, Step};
use crate::plan::{Cell, Measured, Plan};
use crate::stat::Median;

/// The only place that prints.
#[expect(clippy::print_stdout, reason = "a bench talks to people, and a load process to its parent")]
pub(crate) fn print(line: &str) {
    println!("{line}");
}

/// Something on the way that is no result.
#[expect(clippy::print_stderr, reason = "standard output holds the tables alone, so that it can be kept")]
pub(crate) fn note(line: &str) {
    eprintln!("{line}");
}

/// One line for each cell, while it goes on.
pub(crate) fn progress(cell: &Cell) {
    let Cell { run, side, step, outcome, .. } = cell;
    let label = step.label();
    let failed = if outcome.failed > 0 { format!("  {} FAILED", outcome.failed) } else { String::new() };
    note(&format!("run {run}  {label:>5}  {side:<22} {:>9.0} requests/s{failed}", outcome.per_second));
}

/// The medians of one candidate at one step.
pub(crate) struct Row {
    pub(crate) per_second: Median,
    /// To the base of the group, run by run: the machine's mood drops out.
    pub(crate) ratio: Median,
    pub(crate) bytes_per_second: Median,
    pub(crate) p50_us: Median,
    pub(crate) p90_us: Median,
    pub(crate) p99_us: Median,
    pub(crate) p999_us: Median,
    /// Over the base of the group, run by run.
    pub(crate) added_p50_us: Median,
    pub(crate) added_p99_us: Median,
    pub(crate) cpu_us: Median,
    pub(crate) waits: Median,
    pub(crate) memory_mib: Median,
    failed: u64,
}

impl Row {
    /// `None` when the side has no such step.
    pub(crate) fn of(cells: &[Cell], side: &str, step: Step, base: &str) -> Option<Row> {
        let those = |side: &str| -> Vec<&Cell> {
            cells.iter().filter(|cell| cell.side == side && cell.step == step).collect()
        };
        let (own, base) = (those(side), those(base));
        if own.is_empty() {
            return None;
        }
        let median = |figure: fn(&Cell) -> f64| Median::of(own.iter().map(|cell| figure(cell)));
        let beside = |figure: fn(&Cell) -> f64, join: fn(f64, f64) -> f64| {
            Median::of(own.iter().filter_map(|cell| {
                let base = base.iter().find(|base| base.run == cell.run)?;
                Some(join(figure(cell), figure(base)))
            }))
        };
        Some(Row {
            per_second: median(|cell| cell.outcome.per_second),
            ratio: beside(|cell| cell.outcome.per_second, |own, base| own / base),
            bytes_per_second: median(|cell| cell.outcome.bytes_per_second),
            p50_us: median(|cell| cell.outcome.p50_us),
            p90_us: median(|cell| cell.outcome.p90_us),
            p99_us: median(|cell| cell.outcome.p99_us),
            p999_us: median(|cell| cell.outcome.p999_us),
            added_p50_us: beside(|cell| cell.outcome.p50_us, |own, base| own - base),
            added_p99_us: beside(|cell| cell.outcome.p99_us, |own, base| own - base),
            cpu_us: median(|cell| cell.cpu_us),
            waits: median(|cell| cell.waits),
            memory_mib: median(|cell| cell.memory_kib as f64 / 1024.0),
            failed: own.iter().map(|cell| cell.outcome.failed).sum(),
        })
    }

    fn closed(&self, side: &str, step: &str) -> String {
        let Median { median, least, most } = self.ratio;
        format!(
            "| {step} | {side} | {:.0} | {:.0} % | {median:.2} ({least:.2}–{most:.2}) | {:.1} | {:.0} | {:.0} | {:.0} | {} | {} | {} |{}",
            self.per_second.median,
            self.per_second.spread_percent(),
            self.bytes_per_second.median / 1e6,
            self.p50_us.median,
            self.p99_us.median,
            self.p999_us.median,
            of_side(self.cpu_us.median, 1, self.memory_mib.median),
            of_side(self.waits.median, 2, self.memory_mib.median),
            of_side(self.memory_mib.median, 1, self.memory_mib.median),
            self.failures(),
        )
    }

    fn open(&self, side: &str, step: &str) -> String {
        format!(
            "| {step} | {side} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} ({:.0}–{:.0}) | {:.0} ({:.0}–{:.0}) |{}",
            self.per_second.median,
            self.p50_us.median,
            self.p90_us.median,
            self.p99_us.median,
            self.p999_us.median,
            self.added_p50_us.median,
            self.added_p50_us.least,
            self.added_p50_us.most,
            self.added_p99_us.median,
            self.added_p99_us.least,
            self.added_p99_us.most,
            self.failures(),
        )
    }

    fn failures(&self) -> String {
        if self.failed > 0 { format!(" {} FAILED |", self.failed) } else { String::new() }
    }
}

/// A figure of the side's processes; the pipe has none.
fn of_side(figure: f64, digits: usize, memory: f64) -> String {
    if memory > 0.0 { format!("{figure:.digits$}") } else { "–".to_owned() }
}

/// Prints one group.
pub(crate) fn table(group: &Group, cells: &[Cell]) {
    print(&format!("\n### {}: {}\n", group.name, group.title));
    let base = group.base;
    let open = group.steps.iter().any(|step| matches!(step, Step::Open { .. }));
    if open {
        print(&format!(
            "| load | side | requests/s | p50 µs | p90 µs | p99 µs | p99.9 µs | p50 over {base} µs | p99 over {base} µs |"
        ));
        print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    } else {
        print(&format!(
            "| connections | side | requests/s | spread | to {base} | MB/s | p50 µs | p99 µs | p99.9 µs | CPU µs | waits | MiB |"
        ));
        print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    }
    for &step in &group.steps {
        for candidate in &group.candidates {
            if let Some(row) = Row::of(cells, &candidate.side, step, base) {
                let label = step.label();
                print(&if open {
                    row.open(&candidate.side, &label)
                } else {
                    row.closed(&candidate.side, &label)
                });
            }
        }
    }
}

/// The verdicts, and `bench/out/bench.json` and `bench/out/bench.svg`.
pub(crate) fn all(plan: &Plan, measured: &[Measured]) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(0, Into::into);
    print(&format!(
        "\nMedians of {} runs of {} s, all sides taking turns, {threads} hardware threads for all; \
         spread = (most − least) / median. A ratio is taken within each run.\n",
        plan.runs, plan.seconds
    ));
    let cells = measured.iter().flat_map(|measured| &measured.cells);
    let shares: Vec<f64> = cells.map(|cell| cell.outcome.left_out).collect();
    print(&format!(
        "Moments in which the machine itself was slow are left out with their neighbours: {:.0} % of the time.\n",
        100.0 * shares.iter().sum::<f64>() / (shares.len() as f64).max(1.0)
    ));
    verdict::print(measured);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("out");
    std::fs::create_dir_all(&folder)?;
    let groups: Vec<_> = measured
        .iter()
        .map(|Measured { group, cells }| {
            json!({"group": group.name, "title": group.title, "base": group.base, "cells": cells})
        })
        .collect();
    let all = json!({"plan": plan, "hardware_threads": threads, "groups": groups});
    std::fs::write(folder.join("bench.json"), serde_json::to_string_pretty(&all)?)?;
    std::fs::write(folder.join("bench.svg"), plot::svg(measured))?;
    print(&format!("\nAll figures: {0}/bench.json; plot: {0}/bench.svg", folder.display()));
    Ok(())
}
