//! `demo-server`: the bundled MCP server over stdio, for `make run`, for tests and for benches.
//!
//! It needs nothing installed, starts in milliseconds and speaks both eras. Tools: `echo`, `add` and `sleep`
//! (with progress, cancellable); one resource and one template; one prompt with completion for its argument.
//!
//! ```text
//! stdin ─▶ main thread: lines ─▶ session::Session (era, checks) ─▶ answers (content) ─▶ output ─▶ stdout
//!                                        └─▶ sleep::Sleeps (one timer thread) ────────────┘
//! ```
//! `echo` is answered by the reading thread and its text is never decoded, so that a bench measures the way
//! to the server and not the server. Answers to lines that arrived together leave in one write.

mod answers;
mod message;
mod output;
mod session;
mod sleep;

use std::io::{self, BufRead, BufReader, Read};
use std::process::ExitCode;

use output::Output;
use session::{Offered, Session};
use sleep::Sleeps;

fn main() -> ExitCode {
    let offered = match offered(std::env::args().skip(1)) {
        Ok(offered) => offered,
        Err(sentence) => {
            eprint(&sentence);
            return ExitCode::from(2);
        }
    };
    match serve(offered) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint(&format!("the connection broke: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Reads lines until the client closes our stdin; that ends the process, sleeping calls included.
fn serve(offered: Offered) -> io::Result<()> {
    let output = Output::stdout();
    let sleeps = Sleeps::start(output.clone())?;
    let mut session = Session::new(offered, output.clone(), sleeps);
    let mut input = BufReader::with_capacity(INPUT_BYTES, io::stdin().lock());
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.by_ref().take(LINE_LIMIT_BYTES).read_until(b'\n', &mut line)?;
        if read == 0 {
            return output.flush();
        }
        if read as u64 == LINE_LIMIT_BYTES && !line.ends_with(b"\n") {
            return Err(io::Error::other("a line is longer than this server takes"));
        }
        session.take_line(line.trim_ascii());
        let more_is_here = input.buffer().contains(&b'\n');
        if !more_is_here {
            output.flush()?;
        }
    }
}

/// `--era legacy|modern|both`, the only setting.
fn offered(arguments: impl Iterator<Item = String>) -> Result<Offered, String> {
    let mut offered = Offered::Both;
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let value = match argument.split_once('=') {
            Some(("--era", value)) => value.to_owned(),
            None if argument == "--era" => arguments.next().unwrap_or_default(),
            _ => return Err(format!("unknown argument {argument:?}; {USAGE}")),
        };
        offered = match value.as_str() {
            "legacy" => Offered::Legacy,
            "modern" => Offered::Modern,
            "both" => Offered::Both,
            _ => return Err(format!("--era cannot be {value:?}; {USAGE}")),
        };
    }
    Ok(offered)
}

#[expect(
    clippy::print_stderr,
    reason = "stdout is the protocol; stderr is where a stdio server talks to people"
)]
fn eprint(sentence: &str) {
    eprintln!("demo-server: {sentence}");
}

const USAGE: &str = "usage: demo-server [--era legacy|modern|both]";
/// Large enough that the lines of many clients on one connection are taken up in one read.
const INPUT_BYTES: usize = 256 * 1024;
/// Four times the edge's default frame limit: the edge is what refuses, not this server.
const LINE_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
