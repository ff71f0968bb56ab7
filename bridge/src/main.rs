//! docker-mcp-bridge: turns a stdio server into a listener. It moves bytes and owns processes; it knows neither frames
//! nor JSON.
//!
//! One thread, one epoll. A file imports only files to its left:
//! `failure < clock < address < args < command, help, install, files < kernel, backoff, log < orphan, poller < event_loop
//! < process < spare, pump < connection < listeners < serve < main`.
//!
//! The life of a connection: `listeners` accepts it, `connection` waits for the first byte, `process` starts the server in
//! its own process group; `pump` copies between socket and pipes, unless the server was handed the socket itself; `serve`
//! reaps the process when it ends, and `connection` delivers the remaining output and closes the socket.

mod address;
mod args;
mod backoff;
mod clock;
mod command;
mod connection;
mod event_loop;
mod failure;
mod files;
mod help;
mod install;
mod kernel;
mod listeners;
mod log;
mod orphan;
mod poller;
mod process;
mod pump;
mod serve;
mod spare;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use args::Action;
use failure::Failure;

fn main() -> ExitCode {
    match args::parse(env::args_os().skip(1), env::vars_os()).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If stderr is closed, the exit code is all there is.
            let _ = writeln!(io::stderr(), "docker-mcp-bridge: {failure}");
            failure.exit_code()
        }
    }
}

fn run(action: Action) -> Result<(), Failure> {
    match action {
        Action::Help => print(help::TEXT),
        Action::Version => print(concat!("docker-mcp-bridge ", env!("CARGO_PKG_VERSION"), "\n")),
        Action::Install(directory) => install::install(&directory),
        Action::Check(address) => address
            .probe(PROBE_TIMEOUT)
            .map_err(|error| Failure::runtime(format!("nobody listens on {address}: {error}"))),
        Action::Serve(settings) => serve::serve(settings),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::runtime(format!("cannot print: {error}")))
}

/// A Kubernetes probe has one second by default, and this program needs some of it to start.
const PROBE_TIMEOUT: Duration = Duration::from_millis(800);
