//! `scripted-server`: a scripted MCP server on stdio, for what real servers do not do.
//!
//! The flags are the words of `testkit::script`, and `--record FILE` for what it saw. Example:
//! `scripted-server --name slow --start-delay 500 --on tools/call:t0=progress:3,die --record /tmp/seen`.

use std::path::Path;
use std::process::ExitCode;

use testkit::record::Record;
use testkit::script::Script;
use testkit::scripted::{Ending, Server};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut script = Script::default();
    let mut record = Record::in_memory();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_default();
        if flag == "--record" {
            record = Record::in_file(Path::new(&value()));
        } else if let Err(sentence) = script.set(&flag, &mut value) {
            eprint(&format!("{flag}: {sentence}"));
            return ExitCode::from(2);
        }
    }
    let server = Server::new(script, record);
    let ending = server.serve(tokio::io::stdin(), tokio::io::stdout(), std::process::id().into()).await;
    // Not by returning: the runtime would wait for the read of stdin that is still under way.
    std::process::exit(match ending {
        Ending::EndOfInput => 0,
        Ending::Died => 1,
    });
}

#[expect(
    clippy::print_stderr,
    reason = "stdout is the protocol; stderr is where a stdio server talks to people"
)]
fn eprint(sentence: &str) {
    eprintln!("scripted-server: {sentence}");
}
