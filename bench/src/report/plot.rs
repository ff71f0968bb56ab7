//! The main figures as a plot: throughput as a share of the limit, throughput compared with the peers, latency under load.

use crate::candidate::Step;
use crate::plan::Measured;

use super::Row;

/// One bar: what it stands for, which colour, how long (0 to 1), and what is written at its end.
struct Bar {
    label: String,
    colour: &'static str,
    share: f64,
    figure: String,
}

/// Bars under one heading.
struct Panel {
    heading: String,
    bars: Vec<Bar>,
}

/// The whole plot.
pub(super) fn svg(measured: &[Measured]) -> String {
    let panels: Vec<_> = measured
        .iter()
        .filter_map(|measured| match measured.group.name {
            "call" => Some(throughput(measured)),
            "call-json" => Some(beside_peers(measured)),
            "open" => Some(latency(measured)),
            _ => None,
        })
        .collect();
    let rows: usize = panels.iter().map(|panel| panel.bars.len() + 3).sum();
    let height = rows * ROW + ROW;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>"##
    );
    let mut y = ROW;
    for panel in &panels {
        svg.push_str(&format!(
            r#"<text x="16" y="{}" font-weight="bold">{}</text>"#,
            y + 13,
            escaped(&panel.heading)
        ));
        y += ROW + 4;
        for bar in &panel.bars {
            let length = (bar.share.clamp(0.0, 1.0) * f64::from(BAR)).max(1.0);
            svg.push_str(&format!(
                r#"<text x="{LABEL}" y="{0}" text-anchor="end">{1}</text><rect x="{2}" y="{3}" width="{length:.1}" height="12" fill="{4}"/><text x="{5:.1}" y="{0}">{6}</text>"#,
                y + 11,
                escaped(&bar.label),
                LABEL + 8,
                y + 1,
                bar.colour,
                f64::from(LABEL) + 14.0 + length,
                escaped(&bar.figure)
            ));
            y += ROW;
        }
        y += 2 * ROW - 4;
    }
    svg.push_str("</svg>\n");
    svg
}

fn throughput(measured: &Measured) -> Panel {
    let bars = rows(measured, |side| side != "bare").map(|(side, step, row)| Bar {
        label: format!("{side}, {}", step.label()),
        colour: colour(&side),
        share: row.ratio.median / 2.5,
        figure: format!("{:.2}  ({:.0}/s)", row.ratio.median, row.per_second.median),
    });
    let heading = format!("{}: requests/s by connections, bare hyper = 1", measured.group.title);
    Panel { heading, bars: bars.collect() }
}

/// On a logarithmic scale, from 10 to 1,000,000 requests a second.
fn beside_peers(measured: &Measured) -> Panel {
    let bars = rows(measured, |_| true).filter(|(_, step, _)| *step == Step::Closed { connections: 32 }).map(
        |(side, _, row)| Bar {
            label: side.clone(),
            colour: colour(&side),
            share: (row.per_second.median.max(10.0).log10() - 1.0) / 5.0,
            figure: format!("{:.0}/s, {:.0} MiB", row.per_second.median, row.memory_mib.median),
        },
    );
    let heading = format!("{}: requests/s at 32 connections, logarithmic", measured.group.title);
    Panel { heading, bars: bars.collect() }
}

/// On a logarithmic scale, from 10 µs to 100 ms.
fn latency(measured: &Measured) -> Panel {
    let scale = |us: f64| (us.max(10.0).log10() - 1.0) / 4.0;
    let bars = rows(measured, |_| true).flat_map(|(side, step, row)| {
        let label = format!("{side}, {}", step.label());
        let figures = [("p50", row.p50_us.median), ("p99", row.p99_us.median), ("p99.9", row.p999_us.median)];
        figures.map(|(percentile, us)| Bar {
            label: if percentile == "p50" { format!("{label}  p50") } else { percentile.to_owned() },
            colour: colour(&side),
            share: scale(us),
            figure: format!("{us:.0} µs"),
        })
    });
    let heading = format!("{}: latency, logarithmic", measured.group.title);
    Panel { heading, bars: bars.collect() }
}

fn rows(
    measured: &Measured,
    wanted: fn(&str) -> bool,
) -> impl Iterator<Item = (String, Step, Row)> + use<'_> {
    let Measured { group, cells } = measured;
    group.steps.iter().flat_map(move |&step| {
        group.candidates.iter().filter(move |candidate| wanted(&candidate.side)).filter_map(
            move |candidate| {
                Some((candidate.side.clone(), step, Row::of(cells, &candidate.side, step, group.base)?))
            },
        )
    })
}

fn colour(side: &str) -> &'static str {
    match side {
        "bare" => "#999999",
        "pipe" => "#c8c8c8",
        side if side.starts_with("edge") => "#2a6fb0",
        _ => "#d08020",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

const WIDTH: u32 = 1000;
const ROW: usize = 16;
/// Where labels end and bars begin.
const LABEL: u32 = 190;
const BAR: u32 = 600;
