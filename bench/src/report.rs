//! The table, and everything that was measured as JSON next to it.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::plan::{Cell, Plan};
use crate::stat::Median;

/// The only place that prints.
#[expect(clippy::print_stdout, reason = "a bench talks to people, and a load process to its parent")]
pub(crate) fn print(line: &str) {
    println!("{line}");
}

/// Prints medians over all runs, and writes `bench/out/echo.json`.
pub(crate) fn table(plan: &Plan, cells: &[Cell]) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(0, Into::into);
    print(&format!(
        "\necho of {} bytes, closed loop, keep-alive, {} runs of {} s, {threads} hardware threads for all",
        plan.text_bytes, plan.runs, plan.seconds
    ));
    print("medians over the runs; spread = (most - least) / median");
    print("ratio = edge / bare within one run: median, and in brackets least and most\n");
    print(&format!(
        "{:>11}  {:<6} {:>10} {:>7}  {:<17} {:>8} {:>8} {:>9} {:>11}",
        "connections",
        "target",
        "requests/s",
        "spread",
        "ratio",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "CPU us/req"
    ));
    for &connections in &plan.connections {
        Row::of(cells, "bare", connections).print(connections, "");
        let Median { median, least, most } = ratio(cells, connections);
        let ratio = format!("{median:.2} ({least:.2}-{most:.2})");
        Row::of(cells, "edge", connections).print(connections, &ratio);
    }
    save(plan, cells, threads)
}

struct Row {
    target: &'static str,
    per_second: Median,
    p50_us: Median,
    p99_us: Median,
    p999_us: Median,
    cpu_us: Median,
}

impl Row {
    fn of(cells: &[Cell], target: &'static str, connections: usize) -> Row {
        let median = |figure: fn(&Cell) -> f64| {
            let those = cells.iter().filter(|cell| cell.target == target && cell.connections == connections);
            Median::of(those.map(figure))
        };
        Row {
            target,
            per_second: median(|cell| cell.outcome.per_second),
            p50_us: median(|cell| cell.outcome.p50_us),
            p99_us: median(|cell| cell.outcome.p99_us),
            p999_us: median(|cell| cell.outcome.p999_us),
            cpu_us: median(|cell| cell.cpu_us),
        }
    }

    fn print(&self, connections: usize, ratio: &str) {
        print(&format!(
            "{connections:>11}  {:<6} {:>10.0} {:>6.1}%  {ratio:<17} {:>8.0} {:>8.0} {:>9.0} {:>11.1}",
            self.target,
            self.per_second.median,
            self.per_second.spread_percent(),
            self.p50_us.median,
            self.p99_us.median,
            self.p999_us.median,
            self.cpu_us.median
        ));
    }
}

/// What stood side by side is compared, and only then the runs: the machine's mood drops out.
fn ratio(cells: &[Cell], connections: usize) -> Median {
    let those =
        |target| cells.iter().filter(move |cell| cell.target == target && cell.connections == connections);
    Median::of(those("edge").filter_map(|edge| {
        let bare = those("bare").find(|bare| bare.run == edge.run)?;
        Some(edge.outcome.per_second / bare.outcome.per_second)
    }))
}

fn save(plan: &Plan, cells: &[Cell], threads: usize) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("out");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("echo.json");
    let all = json!({"plan": plan, "hardware_threads": threads, "cells": cells});
    std::fs::write(&path, serde_json::to_string_pretty(&all)?)?;
    print(&format!("\nall figures: {}", path.display()));
    Ok(())
}
