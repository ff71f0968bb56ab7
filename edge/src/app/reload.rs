//! Takes a changed configuration while the process serves: the servers, the policy and the tokens. What is wrong leaves the
//! old one in force; a gauge and a log line say so. Everything else counts at the next start, and that is said too.

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
use crate::config::{self, Config, ConfigError, Said, Transport};
use crate::ops::drain::DrainWatch;
use crate::ops::fingerprint::{Fingerprint, LOOK_EVERY};
use crate::router::policy::Rule;

/// How the configuration is read again.
pub struct Reload {
    /// Reads it.
    pub load: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// Wants it read at once, whether or not a file looks changed.
    pub asked: Arc<Notify>,
}

/// See the module.
pub(super) struct Reloader {
    /// As of the start: what counts only then is compared with it.
    said: Said,
    /// What is in force.
    current: Live,
    /// Whether it may be that nobody has to show a token, where the process listens by now.
    may_be_open: bool,
    /// The keys of which the log said that they count at the next start.
    told: Vec<String>,
    servers: Servers,
    auth: Authenticator,
    reloads: Counter,
    stale: Gauge,
}

/// What of a configuration is taken while the process serves.
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
        let (said, told) = (config.said.clone(), Vec::new());
        Self { said, current, may_be_open, told, servers, auth, reloads, stale }
    }

    /// Until the process leaves: looks at the files now and then, and at once when asked to.
    pub(super) async fn run(mut self, reload: Reload, drain: DrainWatch) {
        let (load, mut files) = (Arc::new(reload.load), self.said.files().to_vec());
        if files.is_empty() {
            return;
        }
        // What the files were when they were read last. `None`: not known, as at the start, or there is a fault, which may
        // lie in what is not looked at; then they are read again at each look.
        let (mut seen, mut refused) = (None, String::new());
        loop {
            let is_asked = tokio::select! {
                () = drain.leaving() => return,
                () = sleep(LOOK_EVERY) => false,
                () = reload.asked.notified() => true,
            };
            let before = look(&files).await;
            if seen.as_ref() == Some(&before) && !is_asked {
                continue;
            }
            let load = load.clone();
            let loaded = match spawn_blocking(move || load()).await {
                Ok(loaded) => loaded.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if look(&files).await != before {
                seen = None; // somebody is writing
                continue;
            }
            match loaded.and_then(|config| self.take(&config).map(|()| config)) {
                Ok(config) => {
                    refused.clear();
                    // Those that are new are read once more, now that they are known.
                    seen = (config.said.files() == files).then_some(before);
                    files = config.said.files().to_vec();
                }
                Err(why) => {
                    self.stale.set(1);
                    if why != refused || is_asked {
                        tell(&why);
                    }
                    (seen, refused) = (None, why);
                }
            }
        }
    }

    /// Takes what is another one than before.
    ///
    /// # Errors
    /// It must not be taken by a process that listens where this one does.
    fn take(&mut self, config: &Config) -> Result<(), String> {
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
            // First what principals may use: nobody comes in whom the policy before did not know.
            let changed = self.servers.serve(config);
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
            status::tell_policy(config);
            status::tell_globs(&self.servers);
            self.current = new;
            self.reloads.inc();
        }
        let keys = self.said.needs_start(&config.said);
        if !keys.is_empty() && keys != self.told {
            tracing::warn!(?keys, "these keys have changed too and take effect at the next start");
        }
        self.told = keys;
        Ok(())
    }
}

fn tell(why: &str) {
    for line in why.lines() {
        tracing::error!("configuration rejected, the previous one stays in force: {line}");
    }
}

async fn look(files: &[PathBuf]) -> Vec<Fingerprint> {
    let files = files.to_vec();
    let looked = spawn_blocking(move || files.iter().map(|file| Fingerprint::of(file)).collect()).await;
    looked.unwrap_or_default()
}
