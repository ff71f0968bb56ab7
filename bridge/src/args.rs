//! From the command line and the environment to checked [`Settings`].
//!
//! One table names every option. Each has an environment variable, `DOCKER_MCP_BRIDGE_` and the name in capitals; the option
//! takes precedence. The first word that is not an option is the command, and nothing after it is parsed.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::address::Address;
use crate::failure::Failure;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Help,
    Version,
    Install(PathBuf),
    Check(Address),
    Serve(Settings),
}

/// The settings of a serving bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) command: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) listen: Vec<Address>,
    pub(crate) data_path: DataPath,
    /// The number of processes started ahead of their clients.
    pub(crate) warm: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_waiting: usize,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) client_timeout: Duration,
    pub(crate) stop_grace: Duration,
    pub(crate) drain: Duration,
}

/// How bytes get from the client to the process and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataPath {
    /// The process's stdin and stdout are pipes, and the bridge copies. The default, because every server works on pipes.
    /// Python's asyncio does not work on a socket that is both stdin and stdout: it treats incoming data as "stdout closed",
    /// and sets the socket non-blocking, so `print` can fail.
    Pipe,
    /// The accepted socket is the process's stdin and stdout; the bridge copies nothing.
    Handoff,
}

/// Reads `arguments` (without the program's name) and `environment`.
///
/// # Errors
/// What is wrong, in a sentence; exit code 2.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Action, Failure> {
    let mut arguments = arguments.into_iter();
    let mut given = Given::default();
    let mut words: Vec<OsString> = Vec::new();
    while let Some(word) = arguments.next() {
        match word.to_str() {
            Some("-h" | "--help") => return Ok(Action::Help),
            Some("-V" | "--version") => return Ok(Action::Version),
            Some("--") => {
                words.extend(arguments.by_ref());
            }
            Some(option) if option.starts_with('-') => given.take_option(option, &mut arguments)?,
            _ => {
                words.push(word);
                words.extend(arguments.by_ref());
            }
        }
    }
    given.fill_from(environment)?;
    given.into_action(words)
}

struct OptionSpec {
    name: &'static str,
    value: Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Required,
    Repeatable,
    /// May have no value. A value is attached with `=`, or is the word that would otherwise be the command.
    Optional,
}

const OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "listen", value: Value::Repeatable },
    OptionSpec { name: "stdio", value: Value::Required },
    OptionSpec { name: "warm", value: Value::Required },
    OptionSpec { name: "max-connections", value: Value::Required },
    OptionSpec { name: "max-waiting", value: Value::Required },
    OptionSpec { name: "first-byte-timeout", value: Value::Required },
    OptionSpec { name: "client-timeout", value: Value::Required },
    OptionSpec { name: "stop-grace", value: Value::Required },
    OptionSpec { name: "drain", value: Value::Required },
    OptionSpec { name: "install", value: Value::Required },
    OptionSpec { name: "check", value: Value::Optional },
];

/// The options as given, before they are parsed.
#[derive(Default)]
struct Given {
    values: Vec<(&'static str, Vec<String>)>,
}

impl Given {
    fn take_option(
        &mut self,
        option: &str,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Failure> {
        let (name, attached) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let spec = name
            .strip_prefix("--")
            .and_then(|name| OPTIONS.iter().find(|spec| spec.name == name))
            .ok_or_else(|| unknown(option, name))?;
        let value = match (attached, spec.value) {
            (Some(value), _) => value,
            (None, Value::Optional) => String::new(),
            (None, _) => rest
                .next()
                .ok_or_else(|| Failure::usage(format!("{name} needs a value")))?
                .into_string()
                .map_err(|_| Failure::usage(format!("the value of {name} is not UTF-8")))?,
        };
        match self.values.iter_mut().find(|(name, _)| *name == spec.name) {
            None => self.values.push((spec.name, vec![value])),
            Some((_, values)) if spec.value == Value::Repeatable => values.push(value),
            Some(_) => return Err(Failure::usage(format!("{name} is given twice"))),
        }
        Ok(())
    }

    /// Adds options that are set by the environment and not by the command line.
    fn fill_from(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), Failure> {
        for (variable, value) in environment {
            let Some(spec) = option_of(&variable) else { continue };
            if self.values.iter().any(|(name, _)| *name == spec.name) {
                continue;
            }
            let value = value.into_string().map_err(|_| {
                Failure::usage(format!("the value of {} is not UTF-8", variable_of(spec.name)))
            })?;
            let values = match spec.value {
                Value::Repeatable => {
                    value.split([',', ' ']).filter(|v| !v.is_empty()).map(str::to_owned).collect()
                }
                _ => vec![value],
            };
            // Manifests use an empty variable for "not set".
            if values.iter().any(|value| !value.is_empty()) {
                self.values.push((spec.name, values));
            }
        }
        Ok(())
    }

    fn into_action(mut self, words: Vec<OsString>) -> Result<Action, Failure> {
        let mut words = words.into_iter();
        if let Some(directory) = self.one("install") {
            return match words.next() {
                None if !directory.is_empty() => Ok(Action::Install(directory.into())),
                None => Err(Failure::usage("--install needs a directory")),
                Some(_) => Err(Failure::usage("--install takes a directory and no command")),
            };
        }
        let listen = self.addresses()?;
        if let Some(address) = self.one("check") {
            let address = match (address.as_str(), words.next()) {
                ("", None) => listen.into_iter().next().unwrap_or(Address::DEFAULT),
                ("", Some(word)) => {
                    Address::parse(&word.to_string_lossy()).map_err(|e| invalid("check", &e))?
                }
                (address, None) => Address::parse(address).map_err(|e| invalid("check", &e))?,
                (_, Some(_)) => return Err(Failure::usage("--check takes one address and no command")),
            };
            return Ok(Action::Check(address));
        }
        let command = words.next().ok_or_else(|| {
            Failure::usage(
                "no command: say which server to run, as in `docker-mcp-bridge npx -y some-server`",
            )
        })?;
        let warm = self.number("warm", 0, 0)?;
        Ok(Action::Serve(Settings {
            command,
            arguments: words.collect(),
            listen,
            data_path: self.data_path(warm)?,
            warm,
            max_connections: self.number("max-connections", MAX_CONNECTIONS, 1)?,
            max_waiting: self.number("max-waiting", MAX_WAITING, 1)?,
            first_byte_timeout: self.duration("first-byte-timeout", FIRST_BYTE_TIMEOUT)?,
            client_timeout: self.client_timeout()?,
            stop_grace: self.duration("stop-grace", STOP_GRACE)?,
            drain: self.duration("drain", DRAIN)?,
        }))
    }

    fn one(&mut self, name: &str) -> Option<String> {
        self.all(name).and_then(|mut values| values.pop())
    }

    fn all(&mut self, name: &str) -> Option<Vec<String>> {
        let at = self.values.iter().position(|(given, _)| *given == name)?;
        Some(self.values.swap_remove(at).1)
    }

    fn addresses(&mut self) -> Result<Vec<Address>, Failure> {
        let Some(texts) = self.all("listen") else { return Ok(vec![Address::DEFAULT]) };
        texts.iter().map(|text| Address::parse(text).map_err(|e| invalid("listen", &e))).collect()
    }

    fn data_path(&mut self, warm: usize) -> Result<DataPath, Failure> {
        match self.one("stdio").as_deref() {
            Some("handoff") if warm > 0 => {
                Err(invalid("warm", "a process started ahead has no socket yet; it needs --stdio pipe"))
            }
            None | Some("pipe") => Ok(DataPath::Pipe),
            Some("handoff") => Ok(DataPath::Handoff),
            Some(other) => Err(invalid("stdio", &format!("`{other}` is neither handoff nor pipe"))),
        }
    }

    fn number(&mut self, name: &str, default: usize, least: usize) -> Result<usize, Failure> {
        let Some(text) = self.one(name) else { return Ok(default) };
        match text.parse() {
            Ok(number) if number >= least => Ok(number),
            _ => Err(invalid(name, &format!("`{text}` is not a number of at least {least}"))),
        }
    }

    fn duration(&mut self, name: &str, default: Duration) -> Result<Duration, Failure> {
        let Some(text) = self.one(name) else { return Ok(default) };
        read_duration(&text)
            .ok_or_else(|| invalid(name, &format!("`{text}` is not a duration like 500ms, 20s, 5m or 1h")))
    }

    fn client_timeout(&mut self) -> Result<Duration, Failure> {
        let timeout = self.duration("client-timeout", CLIENT_TIMEOUT)?;
        if (SHORTEST_CLIENT_TIMEOUT..=LONGEST).contains(&timeout) {
            return Ok(timeout);
        }
        Err(invalid("client-timeout", "keep-alive counts in seconds; at least 4s"))
    }
}

fn read_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(unit_at)?;
    let number: u64 = number.parse().ok()?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    };
    (duration <= LONGEST).then_some(duration)
}

fn option_of(variable: &OsStr) -> Option<&'static OptionSpec> {
    let variable = variable.to_str().filter(|name| name.starts_with(PREFIX))?;
    OPTIONS.iter().find(|spec| variable == variable_of(spec.name))
}

fn variable_of(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('-', "_").to_ascii_uppercase())
}

fn invalid(name: &str, reason: &str) -> Failure {
    Failure::usage(format!("--{name} ({}): {reason}", variable_of(name)))
}

fn unknown(option: &str, name: &str) -> Failure {
    let bare = name.trim_start_matches('-');
    let nearest = OPTIONS
        .iter()
        .map(|spec| (spec.name.chars().zip(bare.chars()).take_while(|(a, b)| a == b).count(), spec.name))
        .max()
        .filter(|(same, _)| *same > 1);
    match nearest {
        Some((_, nearest)) => Failure::usage(format!("unknown option {option}; did you mean --{nearest}?")),
        None => Failure::usage(format!("unknown option {option}; --help lists them all")),
    }
}

const PREFIX: &str = "DOCKER_MCP_BRIDGE_";
/// Node and Python servers take 70 MB each: 256 of them fill the 18 GB of a node.
const MAX_CONNECTIONS: usize = 256;
/// Connections without a process cost a kilobyte or two each; enough for the probes of many replicas and a port scan.
const MAX_WAITING: usize = 1024;
/// A minute is enough for a client that connects before it has read its configuration.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than the edge ever stops reading (30 s).
const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);
/// A quarter of it must be a whole second: TCP_KEEPIDLE and TCP_KEEPINTVL count in seconds.
const SHORTEST_CLIENT_TIMEOUT: Duration = Duration::from_secs(4);
/// Enough for servers to save their state and exit (MCP 2025-11-25 lifecycle, Shutdown, gives no figure).
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Together with the stop ladder it is below Kubernetes' terminationGracePeriodSeconds of 30.
const DRAIN: Duration = Duration::from_secs(20);
/// A day: anything longer is a mistake, and TCP_USER_TIMEOUT holds 24 days at most.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests;
