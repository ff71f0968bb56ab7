//! Takes a changed configuration while the process serves: the servers and the tokens. What is wrong leaves the old one in
//! force; a gauge and a log line say so. Everything else counts at the next start, and that is said too.

use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::servers::Servers;
use crate::auth::Authenticator;
use crate::config::{Config, ConfigError, Said};
use crate::ops::drain::DrainWatch;
use crate::ops::fingerprint::{Fingerprint, LOOK_EVERY};

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
    servers: Servers,
    auth: Authenticator,
    reloads: Counter,
    stale: Gauge,
}

impl Reloader {
    pub(super) fn new(
        said: Said,
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
        Self { said, servers, auth, reloads, stale }
    }

    /// Until the process leaves: looks at the files now and then, and at once when asked to.
    pub(super) async fn run(self, reload: Reload, drain: DrainWatch) {
        let mut files = self.said.files().to_vec();
        if files.is_empty() {
            return;
        }
        let (load, mut seen) = (Arc::new(reload.load), look(&files).await);
        loop {
            let is_asked = tokio::select! {
                () = drain.leaving() => return,
                () = sleep(LOOK_EVERY) => false,
                () = reload.asked.notified() => true,
            };
            // Before they are read: what is written meanwhile is seen as a change.
            let now = look(&files).await;
            if now == seen && !is_asked {
                continue;
            }
            let load = load.clone();
            match spawn_blocking(move || load()).await {
                Ok(Ok(config)) => {
                    self.take(&config);
                    if config.said.files() == files {
                        seen = now;
                    } else {
                        files = config.said.files().to_vec();
                        seen = look(&files).await;
                    }
                }
                Ok(Err(error)) => {
                    seen = now;
                    self.refuse(&error.to_string());
                }
                Err(error) => self.refuse(&error.to_string()),
            }
        }
    }

    fn take(&self, config: &Config) {
        self.auth.replace(config.auth.clone());
        let changed = self.servers.serve(config);
        self.reloads.inc();
        self.stale.set(0);
        tracing::info!(
            added = ?changed.added,
            replaced = ?changed.replaced,
            removed = ?changed.removed,
            tokens = config.auth.tokens.len(),
            "configuration taken anew"
        );
        let keys = self.said.needs_start(&config.said);
        if !keys.is_empty() {
            tracing::warn!(?keys, "these have changed too and count at the next start");
        }
    }

    fn refuse(&self, why: &str) {
        self.stale.set(1);
        for line in why.lines() {
            tracing::error!("configuration not taken, the one before stays in force: {line}");
        }
    }
}

async fn look(files: &[PathBuf]) -> Vec<Fingerprint> {
    let files = files.to_vec();
    let looked = spawn_blocking(move || files.iter().map(|file| Fingerprint::of(file)).collect()).await;
    looked.unwrap_or_default()
}
