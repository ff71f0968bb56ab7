//! The command line of `mcp-edge check`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use super::env;
use super::problem::{ConfigError, Problem};
use crate::ops::diagnose::Diagnose;

/// Go to an endpoint as a client does, list and time what it offers, and say what is wrong.
#[derive(Debug, Parser)]
#[command(name = "mcp-edge check")]
struct DiagnoseFlags {
    /// The endpoint, e.g. http://localhost:8811/mcp; without a path it means /mcp
    url: String,

    /// The variable that holds the token
    #[arg(long, value_name = "NAME", default_value = env::TOKEN)]
    token_env: String,

    /// Certificates (PEM) to trust beside this machine's own
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// An edge's admin listener, e.g. http://localhost:9090, to show the state of each server
    #[arg(long, value_name = "URL")]
    admin: Option<String>,

    /// The longest wait for one answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// The parsed command line.
pub(super) enum Parsed {
    Diagnose(Box<Diagnose>),
    /// `--help`.
    Text(String),
}

/// Reads the arguments after `check`.
pub(super) fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Parsed, ConfigError> {
    let flags =
        match DiagnoseFlags::try_parse_from(std::iter::once(OsString::from("mcp-edge check")).chain(args)) {
            Ok(flags) => flags,
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                return Ok(Parsed::Text(error.to_string()));
            }
            Err(error) => {
                let text = error.to_string();
                return Err(wrong(text.trim_end().trim_start_matches("error: ")));
            }
        };
    let url = Diagnose::url(&flags.url, "/mcp").map_err(|why| wrong(&why))?;
    let admin = flags
        .admin
        .as_deref()
        .map(|url| Diagnose::url(url, "/ready"))
        .transpose()
        .map_err(|why| wrong(&why))?;
    Ok(Parsed::Diagnose(Box::new(Diagnose {
        url,
        token: env(&flags.token_env).unwrap_or_default(),
        token_variable: flags.token_env,
        authorities: flags.ca,
        admin,
        timeout: Duration::from_secs(flags.timeout),
    })))
}

fn wrong(text: &str) -> ConfigError {
    ConfigError { problems: vec![Problem::new("", text)] }
}
