//! Load runs: what the edge costs, next to the bare limit of the machine, in one table.
//!
//! ```text
//! bench (plan) ── starts ──▶ bridge + demo server ◀── edge      "edge": the whole path
//!      │                     bench bare                         "bare": hyper, answering the same bytes
//!      └─ for each cell ───▶ bench load  (a process of its own: it shares no runtime with its target)
//! ```
//! The load is a closed loop: each connection sends its next request when the answer to the last one is
//! there. That finds what the path can do and what a request costs; it hides queueing, so latencies are those
//! of a full machine.
//!
//! - `plan` — which cells are measured, in which order; `targets` — what they are measured on
//! - `load`, `bare` — the other two processes
//! - `stat` — histogram, median, spread; `report` — the table and the JSON next to it
//!
//! Black box: the edge is a program here and never a library.

mod bare;
mod load;
mod plan;
mod report;
mod stat;
mod targets;

use anyhow::{Result, bail};
use tokio::runtime::Builder;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        // As many threads as the edge has: it is the limit to compare with.
        ["bare", address, body] => {
            Builder::new_multi_thread().enable_all().build()?.block_on(bare::serve(address, body))
        }
        ["load", rest @ ..] => {
            let load = load::Load::parse(rest)?;
            // One thread leaves the others to what is measured.
            let outcome = Builder::new_current_thread().enable_all().build()?.block_on(load.run())?;
            report::print(&serde_json::to_string(&outcome)?);
            Ok(())
        }
        rest => {
            let plan = plan::Plan::parse(rest)?;
            let runtime = Builder::new_multi_thread().enable_all().build()?;
            let cells = runtime.block_on(plan.run())?;
            report::table(&plan, &cells)?;
            if cells.iter().any(|cell| cell.outcome.failed > 0) {
                bail!("some requests failed: the figures say nothing");
            }
            Ok(())
        }
    }
}
