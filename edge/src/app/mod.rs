//! The composition root: builds the rooms from right to left and ends the process. The only room that sees all others.

mod dry_run;
mod reload;
mod servers;
mod status;
mod transports;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::Authenticator;
use crate::config::{Config, DrainConfig, Transport};
use crate::error::Error;
use crate::front::{self, Front, Rooms};
use crate::listen;
use crate::ops::busy_poll::BusyPoll;
use crate::ops::drain::Drain;
use crate::ops::files::OpenFiles;
use crate::ops::{log, metrics};
use crate::peer::{self, Peers};
use crate::permit::{self, Permits};
use crate::router::Gateway;
use crate::seal::Sealer;
use crate::session;

pub use dry_run::dry_run;
pub use reload::Reload;

use reload::Reloader;
use servers::Servers;
use transports::Transports;

/// A gateway whose listeners are bound and which is not serving yet.
pub struct App {
    drain: Drain,
    times: DrainConfig,
    transports: Transports,
    front: Arc<Front>,
    permits: Permits,
    servers: Servers,
    auth: Authenticator,
    reloader: Reloader,
    busy_poll: BusyPoll,
}

/// The reason to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM, from the system: load balancers still send clients here for a while.
    Terminate,
    /// SIGINT, from a person at the terminal, who waits for the end.
    Interrupt,
}

/// Why a gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keys that seal session ids and other tokens.
    #[error("no key can be made")]
    Seal(#[source] Error),
    /// The public listener, or its certificate.
    #[error("the public listener cannot be opened")]
    Listen(#[source] listen::ListenError),
    /// The listener for other replicas.
    #[error("the listener for other replicas cannot be opened")]
    Peers(#[source] listen::ListenError),
    /// The admin listener.
    #[error("the admin listener cannot be opened")]
    Admin(#[source] crate::ops::bind::BindError),
}

impl App {
    /// Builds every room and binds the listeners; no server is contacted yet. The thread of this runtime reports to
    /// `busy_poll` when it parks.
    ///
    /// # Errors
    /// An address that cannot be bound, a certificate that cannot be read.
    pub async fn bind(
        mut config: Config,
        busy_poll: BusyPoll,
        log: &log::Metrics,
    ) -> Result<Self, StartError> {
        limit_files(&mut config);
        let drain = Drain::new();
        let mut registry = metrics::registry();
        busy_poll.register(&mut registry);
        log.register(&mut registry);
        let bounds = permit::Metrics::default();
        bounds.register(&mut registry);
        let permits = Permits::new(config.permits.clone(), bounds.clone());
        permits.register(&mut registry);

        let sealer = sealer(&config).map_err(StartError::Seal)?;
        let arrivals = busy_poll.arrivals();
        let servers = Servers::build(&config, &permits, &drain.watch(), &sealer, (&mut registry, arrivals));
        status::log_odd_policy(&config);
        let auth = Authenticator::new(config.auth.clone());
        auth.metrics().register(&mut registry);
        let reloader = Reloader::new(&config, (servers.clone(), auth.clone()), &mut registry);
        let session_metrics = session::Metrics::default();
        session_metrics.register(&mut registry);
        let sessions = session::Table::new(
            config.session.clone(),
            session_metrics,
            bounds,
            &drain.watch(),
            sealer.clone(),
        )
        .map_err(StartError::Seal)?;
        let front_metrics = front::Metrics::default();
        front_metrics.register(&mut registry);
        let peers = config.peers.listen.is_some().then(|| {
            let metrics = peer::Metrics::default();
            metrics.register(&mut registry);
            let places = (config.permits.connections, permits.metrics().clone());
            Peers::new(&config.peers, sealer.clone(), metrics, places)
        });
        let rooms = Rooms {
            peers,
            gateway: Arc::new(servers.router.clone()),
            auth: auth.clone(),
            sessions,
            permits: permits.clone(),
            metrics: front_metrics,
            drain: drain.watch(),
        };
        let front = Front::new(config.front.clone(), rooms, sealer).map_err(StartError::Seal)?;

        let ready = status::readiness(servers.clone(), drain.watch());
        let times = config.drain;
        let transports =
            Transports::bind(config, (registry, busy_poll.arrivals()), permits.metrics().clone(), ready)
                .await?;
        Ok(Self { drain, times, transports, front, permits, servers, auth, reloader, busy_poll })
    }

    /// Serves until `stop` resolves or the only client leaves, and then drains. If `stop` resolves again, everything left is
    /// dropped, local servers included. Reloads a changed configuration while it serves.
    pub async fn run(self, mut stop: impl AsyncFnMut() -> Stop, reload: Reload) {
        let watch = self.drain.watch();
        self.servers.start();
        if matches!(self.transports, Transports::Http(_)) {
            watch.spawn(self.auth.keep_fresh(watch.clone()));
        }
        watch.spawn(self.reloader.run(reload, watch.clone()));
        watch.spawn(self.busy_poll.run(watch.clone()));
        let serving = self.transports.serve(self.front, self.permits.clone(), &watch);
        let why = tokio::select! {
            biased; // if a signal and the end of the input come together, the signal counts, and servers get their time to stop
            why = stop() => Some(why),
            () = serving.client_left() => None,
        };
        let drained = async {
            // A client that sent everything at once may have calls that wait for names, and a draining process gives out none.
            if why.is_none() && self.permits.calls_in_flight() > 0 {
                // If that fails, the calls fail as well.
                let _ = self.servers.router.settling().await;
            }
            tracing::info!("draining");
            let delay = if why == Some(Stop::Terminate) { self.times.delay } else { Duration::ZERO };
            self.drain.run(delay, self.times.grace).await;
        };
        tokio::select! {
            () = drained => {}
            () = second_stop(stop, why.is_some()) => tracing::warn!("second stop signal: calls in flight are cut off"),
        }
        drop(serving);
        tracing::info!("stopped");
    }
}

/// Resolves with the next signal. After a first signal, its echo does not count.
async fn second_stop(mut stop: impl AsyncFnMut() -> Stop, was_signal: bool) {
    let first = Instant::now();
    loop {
        stop().await;
        if !was_signal || first.elapsed() >= ECHO {
            return;
        }
    }
}

/// Seals with the keys of the configuration, or with a random key.
fn sealer(config: &Config) -> Result<Sealer, Error> {
    if config.seal.current.is_none() && config.transport == Transport::Http {
        tracing::info!(
            "session ids are valid in this process only; set MCP_EDGE_KEY to share a key between replicas"
        );
    }
    Sealer::new(&config.seal)
}

/// Raises the limit of open files, and lowers `limits.connections` to fit it.
fn limit_files(config: &mut Config) {
    let files = OpenFiles::raise();
    let upstream = config.servers.iter().map(|server| server.upstream.files()).sum();
    // A client whose session is at another replica takes three: to here, from here to there, and there.
    let each = if config.peers.listen.is_some() { 3 } else { 1 };
    let fits = files.fit(config.permits.connections.saturating_mul(each), upstream) / each;
    if fits < config.permits.connections {
        let wanted = config.permits.connections;
        tracing::warn!(
            wanted,
            fits,
            limit = files.limit,
            "limits.connections lowered to fit the limit of open files"
        );
        config.permits.connections = fits;
    }
    config.upstream.files = Some(files);
}

/// Closing terminals and wrappers that pass signals on to a process group often send a signal twice. 300 ms: longer than that
/// takes, and shorter than a person needs to press Ctrl-C again.
const ECHO: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn second_stop_ignores_the_echo_of_a_signal() {
        for (was_signal, ends_ms) in [(true, 1_050), (false, 50)] {
            let start = Instant::now();
            let mut pauses_ms = [50, 200, 800, 800].into_iter();
            let stop = async || {
                sleep(Duration::from_millis(pauses_ms.next().unwrap())).await;
                Stop::Terminate
            };
            second_stop(stop, was_signal).await;
            assert_eq!(start.elapsed().as_millis(), ends_ms);
        }
    }
}
