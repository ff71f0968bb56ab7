//! Reloads a changed configuration while the process serves: the servers, the policy and the tokens. An invalid
//! configuration leaves the previous one in force; a gauge and a log line say so. All other changes take effect at the next
//! start, which is logged as well.

use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::servers::Servers;
use super::status;
use crate::auth::{self, Authenticator};
use crate::config::{self, Config, ConfigError, FileSnapshot, Transport};
use crate::ops::drain::DrainWatch;
use crate::ops::fingerprint::{CHECK_EVERY, Fingerprint};
use crate::router::policy::Rule;

/// How the configuration is read again.
pub struct Reload {
    /// Reads the configuration.
    pub load: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// Requests a reload at once, whether or not a file looks changed.
    pub asked: Arc<Notify>,
}

/// The state of reloading.
pub(super) struct Reloader {
    /// The files as of the start, to find changes that need a restart.
    at_start: FileSnapshot,
    /// The live part of the configuration in force.
    current: Live,
    /// Whether the process may run without credentials where it listens.
    may_be_open: bool,
    /// The keys that were logged as changes for the next start.
    logged: Vec<String>,
    servers: Servers,
    auth: Authenticator,
    reloads: Counter,
    stale: Gauge,
}

/// The part of a configuration that is reloaded while the process serves.
#[derive(PartialEq)]
struct Live {
    servers: Vec<config::Server>,
    auth: auth::Config,
    policy: Option<Vec<Rule>>,
}

impl Live {
    fn of(config: &Config) -> Self {
        let (servers, auth) = (config.servers.clone(), config.auth.clone());
        Self { servers, auth, policy: config.router.policy.clone() }
    }
}

impl Reloader {
    pub(super) fn new(
        config: &Config,
        (servers, auth): (Servers, Authenticator),
        registry: &mut Registry,
    ) -> Self {
        let (reloads, stale) = (Counter::default(), Gauge::default());
        registry.register(
            "config_reloads",
            "Times a changed configuration was taken while serving",
            reloads.clone(),
        );
        registry.register(
            "config_stale",
            "1 while the configuration has faults, or could not be read, and the one before it is in force; see the log",
            stale.clone(),
        );
        let is_local = config.transport == Transport::Stdio || config.listen.address.is_loopback();
        let may_be_open = is_local || config.allow_unauthenticated;
        let current = Live::of(config);
        let (at_start, logged) = (config.files.clone(), Vec::new());
        Self { at_start, current, may_be_open, logged, servers, auth, reloads, stale }
    }

    /// Checks the files now and then, and at once on request, until the process stops.
    pub(super) async fn run(mut self, reload: Reload, drain: DrainWatch) {
        let (load, mut files) = (Arc::new(reload.load), self.at_start.files().to_vec());
        if files.is_empty() {
            return;
        }
        // The fingerprints of the files as they were read last. `None` if not known, as at the start, or if the configuration
        // was rejected: the reason may lie outside these files, so they are read again at each check.
        let (mut seen, mut refused) = (None, String::new());
        loop {
            let is_asked = tokio::select! {
                () = drain.leaving() => return,
                () = sleep(CHECK_EVERY) => false,
                () = reload.asked.notified() => true,
            };
            let before = fingerprints(&files).await;
            if seen.as_ref() == Some(&before) && !is_asked {
                continue;
            }
            let load = load.clone();
            let loaded = match spawn_blocking(move || load()).await {
                Ok(loaded) => loaded.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if fingerprints(&files).await != before {
                seen = None; // a file is being written
                continue;
            }
            match loaded.and_then(|config| self.apply(&config).map(|()| config)) {
                Ok(config) => {
                    refused.clear();
                    // If other files were named, they are read once more, now that they are watched.
                    seen = (config.files.files() == files).then_some(before);
                    files = config.files.files().to_vec();
                }
                Err(why) => {
                    self.stale.set(1);
                    if why != refused || is_asked {
                        log_rejection(&why);
                    }
                    (seen, refused) = (None, why);
                }
            }
        }
    }

    /// Applies the live part of `config`, if it changed.
    ///
    /// # Errors
    /// A running process must not apply it.
    fn apply(&mut self, config: &Config) -> Result<(), String> {
        if !config.auth.asks() && !self.may_be_open {
            let why = "auth: no token is left, and this process can be reached from other machines; configure a \
                       token or `oauth`, or restart it listening on 127.0.0.1";
            return Err(why.to_owned());
        }
        if let Some(key) = self.auth.restart_only_change(&config.auth) {
            let why = format!(
                "{key}: state kept under the name of a principal would pass to another user of that name; restart the \
                 process to change it"
            );
            return Err(why);
        }
        let new = Live::of(config);
        if self.current.policy.is_some() && new.policy.is_none() {
            let why = "policy: it was removed, and without one every principal may use everything; if that is \
                       intended, write `policy: {\"*\": {}}`, or restart the process";
            return Err(why.to_owned());
        }
        self.stale.set(0);
        if new != self.current {
            // The policy comes before the credentials, so that no new principal is judged by the previous policy.
            let changed = self.servers.reconfigure(config);
            self.auth.replace(config.auth.clone());
            tracing::info!(
                added = ?changed.added,
                replaced = ?changed.replaced,
                removed = ?changed.removed,
                tokens = config.auth.tokens.len(),
                issuer = self.auth.issuer(),
                policy = config.router.policy.as_ref().map(Vec::len),
                "configuration reloaded"
            );
            status::log_odd_policy(config);
            status::log_odd_globs(&self.servers);
            self.current = new;
            self.reloads.inc();
        }
        let keys = self.at_start.restart_only_changes(&config.files);
        if !keys.is_empty() && keys != self.logged {
            tracing::warn!(?keys, "these keys have changed too and take effect at the next start");
        }
        self.logged = keys;
        Ok(())
    }
}

fn log_rejection(why: &str) {
    for line in why.lines() {
        tracing::error!("configuration rejected, the previous one stays in force: {line}");
    }
}

async fn fingerprints(files: &[PathBuf]) -> Vec<Fingerprint> {
    let files = files.to_vec();
    let looked = spawn_blocking(move || files.iter().map(|file| Fingerprint::of(file)).collect()).await;
    looked.unwrap_or_default()
}
