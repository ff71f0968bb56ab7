//! docker-mcp-bridge: turns a stdio server into a listener. It moves bytes and owns processes; it knows neither frames
//! nor JSON.
//!
//! One thread, one epoll. A file imports only files to its left:
//! `failure < clock < address < args < command, help, install, files < kernel, backoff, log < orphan, poller < hub
//! < process < spare, pump < connection < listeners < serve < main`.
//!
//! The way of a connection: `listeners` accepts it, `connection` waits for the first byte, `process` starts the server
//! in its own group; `pump` copies through its pipes, unless it was handed the socket itself; `serve` reaps the process
//! when it ends, and `connection` sees the output delivered and the socket closed.

mod address;
mod args;
mod backoff;
mod clock;
mod command;
mod connection;
mod failure;
mod files;
mod help;
mod hub;
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
            // Without stderr the exit code has to do.
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
            .knock(KNOCK_TIMEOUT)
            .map_err(|error| Failure::runtime(format!("nobody listens on {address}: {error}"))),
        Action::Serve(settings) => serve::serve(settings),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::runtime(format!("cannot print: {error}")))
}

/// Under the one second a Kubernetes probe has by default less the start of this program.
const KNOCK_TIMEOUT: Duration = Duration::from_millis(800);
