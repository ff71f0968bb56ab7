//! What the bridge costs a message: `cargo bench -p docker-mcp-bridge --bench data_path`.
//!
//! The same echo server is reached in several ways, in turns, so that a busy moment of the machine hits all of them:
//!
//! - `pipe`: the client holds the server's pipes; no socket, no bridge.
//! - `floor`: a bare launcher gives the accepted socket to the server and does nothing else, on TCP and on unix sockets.
//! - the bridge on each data path and transport, and `socat` if it is installed.
//! - any further `NAME=COMMAND` given as an argument, where `{port}` stands for the port and `{server}` for the server.
//!
//! Latency is closed-loop (each connection sends its next message when the answer is there). CPU time and context
//! switches are those of the processes between client and server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program: it may stop at anything unexpected, and it keeps real time"
)]

mod contender;
mod load;

use std::io::{self, BufRead, BufReader, Write};

use contender::{Contender, contenders};
use load::{Shape, Sum};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|argument| argument == SERVER_MODE) {
        return echo_lines();
    }
    let (rounds, extra) = match arguments.split_first() {
        Some((first, rest)) if first.parse::<usize>().is_ok() => (first.parse().unwrap(), rest),
        _ => (ROUNDS, &arguments[..]),
    };
    let contenders = contenders(extra);
    println!("{}", Sum::HEADER);
    for shape in SHAPES {
        let mut sums: Vec<Vec<Sum>> = contenders.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (contender, sums) in contenders.iter().zip(&mut sums) {
                sums.extend(load::measure(contender, shape));
            }
        }
        let medians: Vec<(&Contender, Sum)> = contenders
            .iter()
            .zip(sums)
            .filter_map(|(contender, sums)| Some((contender, Sum::median(sums)?)))
            .collect();
        for (contender, sum) in &medians {
            let floor =
                medians.iter().find(|(other, _)| other.name == contender.floor).map(|(_, sum)| sum.p50);
            println!("{}", sum.row(contender, shape, floor));
        }
    }
}

/// The server: an answer for each line, the line itself, once it is there whole.
fn echo_lines() {
    let (mut input, mut output) = (BufReader::with_capacity(65_536, io::stdin().lock()), io::stdout().lock());
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        if output.write_all(&line).and_then(|()| output.flush()).is_err() {
            return;
        }
        line.clear();
    }
}

/// Makes this program the server.
pub(crate) const SERVER_MODE: &str = "--serve";
const ROUNDS: usize = 5;
const SHAPES: [Shape; 6] = [
    Shape { bytes: 200, connections: 1 },
    Shape { bytes: 16_384, connections: 1 },
    Shape { bytes: 1_048_576, connections: 1 },
    Shape { bytes: 200, connections: 64 },
    Shape { bytes: 16_384, connections: 64 },
    Shape { bytes: 1_048_576, connections: 64 },
];
