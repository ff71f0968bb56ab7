//! Load runs: the cost of the edge, compared with the limit of the machine, the server's own pipes, and the peers.
//!
//! ```text
//! bench (plan) ── starts ──▶ edges ─▶ bridges ─▶ bench server       the whole path, in its variants
//!      │                     peers ───────────────▶ bench server    the same server
//!      │                     bench bare                             hyper, answering the same bytes
//!      └─ for each cell ───▶ bench load          (a process of its own: it shares no runtime with its target)
//! ```
//! - `plan` — which cells are measured, in which order · `candidate` — what a cell is · `groups` — what there is to measure
//! - `testbed` — the programs of a run · `peers` — the products to compare with · `usage` — the resources of processes
//! - `load`, `bare`, `server` — the other three processes
//! - `idle`, `soak` — two programs of their own: what idle sessions cost, and what hours of calls leave behind
//! - `slices` — the time of a measurement, without the machine's slow moments · `stat` — histogram, median, spread
//! - `report` — the tables, the JSON, the plot and the verdicts
//!
//! Black box: the edge is a program here and never a library.

mod bare;
mod candidate;
mod groups;
mod idle;
mod load;
mod peers;
mod plan;
mod report;
mod server;
mod slices;
mod soak;
mod stat;
mod testbed;
mod tls;
mod usage;

use anyhow::{Result, bail};
use tokio::runtime::Builder;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["server", rest @ ..] => Ok(server::Server::parse(rest)?.serve()?),
        // As many threads as there are cores, tokio's default: it is the limit to compare with.
        ["bare", bare] => {
            let bare: bare::Bare = serde_json::from_str(bare)?;
            Builder::new_multi_thread().enable_all().build()?.block_on(bare.serve())
        }
        ["load", load] => {
            let load: load::Load = serde_json::from_str(load)?;
            // One thread leaves the others to what is measured.
            let outcome = Builder::new_current_thread().enable_all().build()?.block_on(load.run())?;
            report::print(&serde_json::to_string(&outcome)?);
            Ok(())
        }
        ["idle", rest @ ..] => Builder::new_multi_thread().enable_all().build()?.block_on(idle::run(rest)),
        ["soak", rest @ ..] => Builder::new_multi_thread().enable_all().build()?.block_on(soak::run(rest)),
        rest => {
            let plan = plan::Plan::parse(rest)?;
            let measured = Builder::new_multi_thread().enable_all().build()?.block_on(plan.run())?;
            report::all(&plan, &measured)?;
            let cells = measured.iter().flat_map(|measured| &measured.cells);
            if let Some(failed) =
                cells.filter(|cell| cell.outcome.failed > 0).max_by_key(|cell| cell.outcome.failed)
            {
                let why = failed.outcome.first_failure.as_deref().unwrap_or_default();
                bail!(
                    "requests failed, so some figures say nothing; {} of {}: {why}",
                    failed.outcome.failed,
                    failed.side
                );
            }
            Ok(())
        }
    }
}
