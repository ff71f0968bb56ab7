//! Our targets, and whether this run meets them: the losing cases as plainly as the others.

use crate::candidate::Step;
use crate::plan::Measured;

use super::{Row, print as line};

/// What a target is about, what was found, and whether that is good enough.
struct Verdict {
    target: String,
    found: String,
    met: bool,
}

/// Prints the verdicts that this run has the figures for.
pub(super) fn print(measured: &[Measured]) {
    let found = Found(measured);
    let verdicts: Vec<_> = [
        found.half_of_the_limit(),
        found.little_added(),
        found.peers(),
        found.lists(),
        found.huge(),
        found.tls(),
        found.scale(),
    ]
    .into_iter()
    .flatten()
    .collect();
    if verdicts.is_empty() {
        return;
    }
    line("| target | found | met |");
    line("| --- | --- | --- |");
    for Verdict { target, found, met } in verdicts {
        line(&format!("| {target} | {found} | {} |", if met { "yes" } else { "**no**" }));
    }
}

struct Found<'a>(&'a [Measured]);

impl Found<'_> {
    fn groups<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Measured> {
        self.0.iter().filter(move |measured| measured.group.name == name)
    }

    fn row(&self, group: &str, side: &str, step: Step) -> Option<Row> {
        let measured = self.groups(group).next()?;
        Row::of(&measured.cells, side, step, measured.group.base)
    }

    /// Of the bridge's ways, the one that does best here.
    fn best(&self, group: &str, step: Step, better: fn(&Row, &Row) -> bool) -> Option<(&'static str, Row)> {
        let rows = OURS.iter().filter_map(|&side| Some((side, self.row(group, side, step)?)));
        rows.reduce(|best, other| if better(&other.1, &best.1) { other } else { best })
    }

    fn half_of_the_limit(&self) -> Vec<Verdict> {
        let one = |connections: usize| {
            let step = Step::Closed { connections };
            let default = self.row("call", "edge", step)?;
            let (side, best) = self.best("call", step, |a, b| a.ratio.median > b.ratio.median)?;
            Some(Verdict {
                target: format!("200 B, {connections} connections: half of bare hyper"),
                found: format!("{:.2} ({side}); edge {:.2}", best.ratio.median, default.ratio.median),
                met: best.ratio.median >= 0.5,
            })
        };
        [1, 8, 32].into_iter().filter_map(one).collect()
    }

    fn little_added(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let one = Step::Closed { connections: 1 };
        if let (Some(pipe), Some((side, best))) =
            (self.row("call", "pipe", one), self.best("call", one, |a, b| a.p50_us.median < b.p50_us.median))
        {
            let added = best.p50_us.median - pipe.p50_us.median;
            let bare =
                self.row("call", "bare", one).map_or(0.0, |bare| bare.p50_us.median - pipe.p50_us.median);
            verdicts.push(Verdict {
                target: "p50 over the pipe, 1 connection: at most 60 µs".to_owned(),
                found: format!("{added:.0} µs ({side}); bare hyper {bare:.0} µs"),
                met: added <= 60.0,
            });
        }
        let half = Step::Open { percent: 50 };
        if let Some((side, best)) =
            self.best("open", half, |a, b| a.added_p99_us.median < b.added_p99_us.median)
        {
            let added = best.added_p99_us.median;
            verdicts.push(Verdict {
                target: "p99 over the pipe at 50 % load: at most 300 µs".to_owned(),
                found: format!("{added:.0} µs ({side})"),
                met: added <= 300.0,
            });
        }
        verdicts
    }

    fn peers(&self) -> Vec<Verdict> {
        let step = Step::Closed { connections: 32 };
        let Some(edge) = self.row("call-json", "edge", step) else { return Vec::new() };
        let one = |peer: &str| {
            let row = self.row("call-json", peer, step)?;
            let (times, share) = (
                edge.per_second.median / row.per_second.median,
                edge.memory_mib.median / row.memory_mib.median,
            );
            Some(Verdict {
                target: format!("20 × the throughput of {peer}, 32 connections, a tenth of its memory"),
                found: format!("{times:.0} ×; {share:.2} of its memory"),
                met: times >= 20.0 && share <= 0.1,
            })
        };
        ["mcp-proxy", "supergateway", "contextforge"].into_iter().filter_map(one).collect()
    }

    fn lists(&self) -> Vec<Verdict> {
        let one = |connections: usize| {
            let row = self.row("list", "edge", Step::Closed { connections })?;
            Some(Verdict {
                target: format!("tools/list, {connections} connections: 0.9 of bare hyper"),
                found: format!("{:.2}", row.ratio.median),
                met: row.ratio.median >= 0.9,
            })
        };
        [1, 32].into_iter().filter_map(one).collect()
    }

    fn huge(&self) -> Vec<Verdict> {
        let one = |connections: usize| {
            let step = Step::Closed { connections };
            let (side, best) = self.best("huge", step, |a, b| a.ratio.median > b.ratio.median)?;
            Some(Verdict {
                target: format!("200 KB, {connections} connections: 0.7 of bare hyper's bytes"),
                found: format!("{:.2} ({side})", best.ratio.median),
                met: best.ratio.median >= 0.7,
            })
        };
        [1, 32].into_iter().filter_map(one).collect()
    }

    /// What TLS adds to the CPU time of one request.
    fn tls(&self) -> Vec<Verdict> {
        let step = Step::Closed { connections: 32 };
        let wires: Vec<_> = self.groups("wire").collect();
        let cpu = |group: Option<&&Measured>, side: &str| {
            Some(Row::of(&group?.cells, side, step, "bare")?.cpu_us.median)
        };
        let one = |(name, plain, secure): (&str, usize, usize)| {
            let added = |side| Some(cpu(wires.get(secure), side)? - cpu(wires.get(plain), side)?);
            let (edge, bare): (f64, f64) = (added("edge")?, added("bare")?);
            Some(Verdict {
                target: format!("TLS on {name}: no more CPU than it costs bare hyper"),
                found: format!("{edge:.1} µs; bare {bare:.1} µs"),
                met: edge <= bare * 1.1, // the clock ticks in hundredths of a second
            })
        };
        [("HTTP/1.1", 0, 1), ("HTTP/2", 2, 3)].into_iter().filter_map(one).collect()
    }

    fn scale(&self) -> Vec<Verdict> {
        let step = Step::Closed { connections: 32 };
        let one = |name: &str| {
            let measured = self.groups(name).next()?;
            let (first, last) = (measured.group.candidates.first()?, measured.group.candidates.last()?);
            let row = Row::of(&measured.cells, &last.side, step, &first.side)?;
            Some(Verdict {
                target: format!("no less throughput with {} than with {}", last.side, first.side),
                found: format!("{:.2} ({:.2}–{:.2})", row.ratio.median, row.ratio.least, row.ratio.most),
                met: row.ratio.median >= 0.95,
            })
        };
        ["sessions", "servers", "tools"].into_iter().filter_map(one).collect()
    }
}

/// The ways of ours with a bridge.
const OURS: [&str; 3] = ["edge", "edge handoff", "edge unix"];
