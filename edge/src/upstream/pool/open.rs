//! Opening a connection: the endpoints in order of load, those last that took no connection lately, a handshake, and
//! again with backoff while there is time. The first connection of all also finds out the server's era.
//!
//! ```text
//! era unknown ── probe on a throwaway connection ──┬─ facts ────────────────▶ modern, this connection is kept
//!                                                  ├─ a modern error ───────▶ modern, on a new connection
//!                                                  ├─ any other error, or the end ─▶ initialize ─▶ legacy
//!                                                  └─ no answer in time ───────────▶ initialize ─▶ legacy, not remembered
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use wire::Era;

use super::PoolInner;
use super::health::Backoff;
use crate::error::{Blame, Error, Kind};
use crate::upstream::conn::{Conn, Spec, draining, session_over, unneeded};
use crate::upstream::facts::{Facts, HandshakeFailure, KnownEra, NO_CAPABILITIES, all_capabilities};
use crate::upstream::handshake::handshake;
use crate::upstream::key::{Key, Target};
use crate::upstream::link::Pending;
use crate::upstream::link::address::{Endpoint, spread};
use crate::upstream::metrics::Handshake;
use crate::upstream::subscriptions::server_listen::ListenConcurrency;

/// Why an attempt at one endpoint failed.
enum Failure {
    /// Another endpoint, or the same one a little later, may do.
    Retry(Error),
    /// Trying again would end the same way.
    Final(Error),
}

/// A connection whose handshake succeeded.
type Opened = (Arc<Conn>, Facts);

/// What a probe showed.
enum Probed {
    /// A modern server; the connection stays.
    Modern(Opened),
    /// Something else; the connection is closed.
    Failed(HandshakeFailure),
}

impl PoolInner {
    /// The task of one attempt to open a connection; `ended` gets its result.
    pub(super) async fn open(
        self: Arc<Self>,
        target: Target,
        ended: watch::Sender<Option<Result<Arc<Conn>, Error>>>,
    ) {
        let until = target.until();
        let opened = tokio::select! {
            biased; // what has ended opens nothing more
            () = until.cancelled() => Err(session_over()),
            () = self.stop.cancelled() => Err(draining()),
            opened = self.open_in_time(&target) => opened,
        };
        let result = match opened {
            Ok((conn, facts)) => Ok(self.take_in(&target.key, conn, facts).await),
            Err(error) => {
                let mut state = self.state.lock();
                state.connections.opened(&target.key, None);
                // The end of a session, or our own, says nothing about the server.
                if error.blame == Blame::Upstream {
                    tracing::warn!(server = %self.server.name, kind = ?error.kind, %error, "upstream connection failed");
                    state.last_error = Some(error.message.clone());
                    // A server that accepts no connection is down, which `health` knows, and one that serves is full.
                    let serves = state.connections.iter().any(|(_, _, retired)| !retired);
                    state.fails_to_open = error.kind != Kind::Unreachable && !serves;
                }
                Err(error)
            }
        };
        ended.send_replace(Some(result));
    }

    /// Sends the settings of its session to a new connection, and then lets it take calls.
    async fn take_in(&self, key: &Key, conn: Arc<Conn>, facts: Facts) -> Arc<Conn> {
        conn.set_facts(facts.clone());
        let session = conn.spec().client.as_ref().and_then(|client| client.session()).cloned();
        let Some(session) = session else { return self.register(key, conn, facts) };
        let sent = self.replay_settings(&conn, &session, &facts).await;
        let conn = self.register(key, conn, facts.clone());
        self.session_connected(&session, &facts, &sent);
        conn
    }

    fn register(&self, key: &Key, conn: Arc<Conn>, facts: Facts) -> Arc<Conn> {
        {
            let mut state = self.state.lock();
            // It may have died since; the calls that wait for it find out when they are sent.
            state.connections.opened(key, conn.is_open().then(|| conn.clone()));
            state.fails_to_open = !conn.is_open();
            if let Some(profile) = conn.spec().client.as_ref().and_then(|client| client.profile()) {
                self.seats.set_declared(key, conn.is_open().then_some(profile));
            }
            if *key == Key::Control {
                state.facts = Some(Arc::new(facts));
            }
        }
        let (server, number) = (&self.server.name, conn.spec().number);
        let (era, endpoint) = (conn.spec().era, &conn.spec().endpoint);
        tracing::info!(%server, conn = number, ?era, %endpoint, "upstream connection opened");
        if *key == Key::Control {
            self.follow_lists(&conn);
            self.changes.send_modify(|changes| changes.connected += 1);
        }
        conn
    }

    /// Tries all endpoints again and again, with backoff, for `connect_timeout`.
    async fn open_in_time(&self, target: &Target) -> Result<Opened, Error> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST, self.seed ^ self.number());
        loop {
            let error = match self.try_endpoints(target, deadline).await {
                Ok(opened) => return Ok(opened),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Retry(error)) => error,
            };
            let pause = backoff.next();
            if Instant::now() + pause >= deadline {
                if error.kind == Kind::Unreachable {
                    self.not_reached(&error.message);
                }
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// Tries each endpoint once.
    async fn try_endpoints(&self, target: &Target, deadline: Instant) -> Result<Opened, Failure> {
        let endpoints = self.endpoints(deadline).await.map_err(Failure::Retry)?;
        let turn = usize::try_from(self.number() ^ self.seed).unwrap_or_default();
        let endpoints = {
            let (state, now) = (self.state.lock(), Instant::now());
            // An endpoint that is gone has no load, and would be tried first by every new connection.
            let rank =
                |endpoint: &_| (state.health.was_missed(endpoint, now), state.connections.load(endpoint));
            spread(endpoints, turn, rank)
        };
        let mut failure = None::<Error>;
        for endpoint in &endpoints {
            match self.try_endpoint(target, endpoint, deadline).await {
                // The error of an endpoint that took the connection says more than that of one that did not.
                Err(Failure::Retry(error)) => match &failure {
                    Some(before) if before.kind != Kind::Unreachable && error.kind == Kind::Unreachable => {}
                    _ => failure = Some(error),
                },
                end => return end,
            }
        }
        Err(Failure::Retry(failure.unwrap_or_else(|| self.no_address())))
    }

    async fn try_endpoint(
        &self,
        target: &Target,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Opened, Failure> {
        let era = self.state.lock().era.get();
        match era {
            Some(era) => self.open_as(era, target, endpoint, deadline).await,
            None => self.detect_era(target, endpoint, deadline).await,
        }
    }

    /// The first connection to a server whose era is not known.
    async fn detect_era(
        &self,
        target: &Target,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Opened, Failure> {
        let mut timed_out = false;
        if !self.state.lock().closes_at_once {
            let mut probed = self.probe(target, endpoint, deadline).await?;
            if matches!(probed, Probed::Failed(HandshakeFailure::Closed)) {
                // A full bridge closes too. Twice in a row means a process that ends at a request it does not know.
                probed = self.probe(target, endpoint, deadline).await?;
            }
            match probed {
                Probed::Modern(opened) => {
                    self.deps.metrics.handshake(Handshake::Done);
                    self.set_era(KnownEra::Known(Era::Modern));
                    return Ok(opened);
                }
                Probed::Failed(HandshakeFailure::ModernOnly) => {
                    self.set_era(KnownEra::Known(Era::Modern));
                    return self.open_as(Era::Modern, target, endpoint, deadline).await;
                }
                Probed::Failed(HandshakeFailure::Ended(error)) => return Err(Failure::Final(error)),
                Probed::Failed(HandshakeFailure::Closed) => self.state.lock().closes_at_once = true,
                Probed::Failed(HandshakeFailure::TimedOut) => timed_out = true,
                Probed::Failed(HandshakeFailure::Refused | HandshakeFailure::Unusable(_)) => {}
            }
        }
        let opened = self.open_as(Era::Legacy, target, endpoint, deadline).await?;
        // Only a handshake that worked proves a legacy server, and not even that if the probe was not answered: the
        // server may have been slow to start.
        let proven = KnownEra::Known(Era::Legacy);
        self.set_era(if timed_out { KnownEra::Assumed(Era::Legacy) } else { proven });
        Ok(opened)
    }

    /// Sends `server/discover` on a throwaway connection: a server that does not know the request may end, or take the
    /// connection for a modern one from then on.
    // MCP 2026-07-28 basic/versioning, Backward Compatibility
    async fn probe(
        &self,
        target: &Target,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Probed, Failure> {
        let conn = self.connect(Era::Modern, target, endpoint, deadline).await?;
        let probed = handshake(&conn, all_capabilities(Era::Modern), self.config.probe_timeout).await;
        Ok(match probed {
            Ok(facts) => Probed::Modern((conn, facts)),
            Err(failure) => {
                conn.close(&unneeded());
                // Waits for its process to end, so that two processes do not compete for one resource.
                let _ = timeout(PROBE_END, conn.closed()).await;
                Probed::Failed(failure)
            }
        })
    }

    /// Opens a connection to one endpoint, and performs the handshake of `era`.
    async fn open_as(
        &self,
        era: Era,
        target: &Target,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Opened, Failure> {
        let conn = self.connect(era, target, endpoint, deadline).await?;
        let declared = conn.spec().client.as_ref().map(|client| client.declared());
        let capabilities = match &declared {
            Some(declared) => declared,
            None if target.key == Key::Control => all_capabilities(era),
            None => NO_CAPABILITIES,
        };
        match handshake(&conn, capabilities, self.config.handshake_timeout).await {
            Ok(facts) => {
                self.deps.metrics.handshake(Handshake::Done);
                Ok((conn, facts))
            }
            Err(failure) => {
                conn.close(&unneeded());
                Err(self.failed(era, failure))
            }
        }
    }

    fn failed(&self, era: Era, failure: HandshakeFailure) -> Failure {
        let count = |outcome| self.deps.metrics.handshake(outcome);
        match failure {
            HandshakeFailure::Closed => {
                count(Handshake::Gone);
                Failure::Retry(self.busy())
            }
            HandshakeFailure::TimedOut => {
                count(Handshake::Silent);
                let message = format!("server `{}` did not answer the handshake in time", self.server.name);
                Failure::Final(Error::new(Kind::Timeout, Blame::Upstream, message))
            }
            HandshakeFailure::Ended(error) => Failure::Final(error),
            HandshakeFailure::Unusable(clause) => {
                count(Handshake::Refused);
                Failure::Final(self.protocol(clause))
            }
            HandshakeFailure::ModernOnly | HandshakeFailure::Refused => {
                count(Handshake::Refused);
                let error = self.protocol("it refused the handshake; check what `era` says of it");
                if self.revise_era(era, failure == HandshakeFailure::ModernOnly) {
                    Failure::Retry(error)
                } else {
                    Failure::Final(error)
                }
            }
        }
    }

    /// The server refused a handshake of `era`. `true` if that changes what is known of its era.
    fn revise_era(&self, era: Era, is_modern: bool) -> bool {
        let known = self.state.lock().era;
        match known {
            KnownEra::Fixed(_) => false,
            _ if is_modern && era == Era::Legacy => {
                self.set_era(KnownEra::Known(Era::Modern));
                true
            }
            KnownEra::Known(Era::Modern) if !is_modern => {
                self.set_era(KnownEra::Open(None));
                true
            }
            _ => false,
        }
    }

    fn set_era(&self, known: KnownEra) {
        {
            let mut state = self.state.lock();
            state.era = known;
            state.closes_at_once &= known.get().is_none();
        }
        self.deps.metrics.era(known.get());
        tracing::info!(server = %self.server.name, verdict = ?known, "era of a server");
    }

    /// A new connection to one endpoint; nothing is sent yet.
    async fn connect(
        &self,
        era: Era,
        target: &Target,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Arc<Conn>, Failure> {
        // The deadline bounds the attempts; the handshake of an attempt that began in time has a timeout of its own.
        let deadline = deadline.max(Instant::now() + CONNECT_LEAST).min(Instant::now() + CONNECT_MOST);
        let attempt = self.deps.dial.dial(endpoint);
        let link = self.in_time(deadline, attempt).await.map_err(|error| {
            self.state.lock().health.missed(endpoint, Instant::now());
            Failure::Retry(error)
        })?;
        self.state.lock().health.met(endpoint);
        self.reached();
        let server = self.server.name.clone();
        let (endpoint, until) = (endpoint.clone(), target.until());
        let is_control = target.key == Key::Control;
        let logs_to_calls = matches!(target.key, Key::Principal(_));
        // A modern server asks by a result of the call, so its connection needs no client to ask.
        let client = target.client.clone().filter(|_| era == Era::Legacy);
        let number = self.number();
        let spec = Spec { number, server, endpoint, era, is_control, logs_to_calls, until, client };
        Ok(Conn::start(link, spec, self.conn_context()))
    }

    /// The endpoints of the server, as far as its names are resolved by the deadline.
    pub(super) async fn endpoints(&self, deadline: Instant) -> Result<Vec<Endpoint>, Error> {
        let found = self.deps.dial.endpoints(deadline).await;
        match found.failure {
            _ if !found.endpoints.is_empty() => Ok(found.endpoints),
            Some(error) => Err(self.unreachable(&error.to_string())),
            None => Err(self.no_address()),
        }
    }

    /// The result of an attempt to connect, which fails at the deadline.
    pub(super) async fn in_time<T>(&self, deadline: Instant, attempt: Pending<'_, T>) -> Result<T, Error> {
        match timeout_at(deadline, attempt).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            Err(_) => Err(self.unreachable("no answer to the connection attempt")),
        }
    }

    pub(super) fn no_address(&self) -> Error {
        self.unreachable("its name has no address")
    }

    /// The number of the next connection.
    fn number(&self) -> u64 {
        let mut state = self.state.lock();
        state.next_number += 1;
        state.next_number
    }

    pub(super) fn reached(&self) {
        if self.state.lock().health.reached(Instant::now()) {
            tracing::info!(server = %self.server.name, "server is back");
        }
        self.deps.metrics.down.set(0);
        self.changes.send_if_modified(|changes| std::mem::replace(&mut changes.down, false));
    }

    /// The server cannot be checked without starting it, so the next call tries it.
    pub(super) fn may_be_back(&self) {
        self.state.lock().health.forget(Instant::now());
        self.deps.metrics.down.set(0);
        self.changes.send_if_modified(|changes| std::mem::replace(&mut changes.down, false));
    }

    pub(super) fn not_reached(&self, why: &str) {
        if self.is_news_that_down(why) {
            tracing::warn!(server = %self.server.name, why, "server is down");
        }
        self.deps.metrics.down.set(1);
        self.changes.send_if_modified(|changes| !std::mem::replace(&mut changes.down, true));
    }

    fn is_news_that_down(&self, why: &str) -> bool {
        let mut state = self.state.lock();
        let is_news = state.health.not_reached(Instant::now(), why.to_owned());
        // Also what a check found: the reason may be another one than when the server went down.
        state.last_error = Some(why.to_owned());
        if is_news {
            state.listen_concurrency = ListenConcurrency::default(); // the server that comes back may be another version
        }
        is_news
    }
}

/// The first pause after all endpoints failed. 100 ms: a full bridge frees a place within milliseconds.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest such pause. 1 s: a server that comes up within `connect_timeout` (5 s) is still found.
const RETRY_LAST: Duration = Duration::from_secs(1);
/// The longest attempt at one endpoint. 2 s: one that does not even refuse must leave time for the others.
pub(super) const CONNECT_MOST: Duration = Duration::from_secs(2);
/// What an endpoint gets that is tried when the time is nearly over, or after a slow probe. 500 ms: enough within a
/// cluster.
const CONNECT_LEAST: Duration = Duration::from_millis(500);
/// How long the process of a probe is waited for. 1 s: it has done nothing yet that would take longer to end.
const PROBE_END: Duration = Duration::from_secs(1);
