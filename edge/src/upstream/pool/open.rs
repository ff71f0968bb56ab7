//! Opening a connection: endpoints in order of load, those last that took none lately, a first answer from the server, again with backoff while
//! there is time; and on the first connection of all, finding out the server's era.
//!
//! ```text
//! era open ── probe on a throwaway connection ──┬─ facts ────────────────▶ modern, this connection is kept
//!                                               ├─ modern error ─────────▶ modern, a new connection
//!                                               ├─ other error, end ─▶ initialize ─▶ legacy
//!                                               └─ silence ──────────▶ initialize ─▶ legacy, not remembered
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use wire::Era;

use super::Shared;
use super::health::Backoff;
use super::roster::Key;
use super::tenant::Tenant;
use crate::error::{Blame, Error, Kind};
use crate::upstream::conn::{Conn, Spec, draining, session_over, unneeded};
use crate::upstream::facts::{Facts, NO_CAPABILITIES, Refusal, Verdict, all_capabilities};
use crate::upstream::link::Pending;
use crate::upstream::link::address::{Endpoint, spread};
use crate::upstream::metrics::Handshake;
use crate::upstream::wishes::listen::Beside;
use crate::upstream::{legacy, modern};

/// Why an attempt at one endpoint failed.
enum Failure {
    /// Another endpoint, or the same one a little later, may do.
    Again(Error),
    /// Trying again would end the same way.
    Final(Error),
}

/// A connection whose server said what it is.
type Known = (Arc<Conn>, Facts);

type Met = Result<Known, Failure>;

/// What a probe showed.
enum Probed {
    /// A modern server; the connection stays.
    Modern(Known),
    /// Something else; the connection is closed.
    Refused(Refusal),
}

impl Shared {
    /// The task of one attempt; its end is told to all who wait for it.
    pub(super) async fn open(
        self: Arc<Self>,
        key: Key,
        tenant: Option<Arc<Tenant>>,
        ended: watch::Sender<Option<Result<Arc<Conn>, Error>>>,
    ) {
        let tenant = tenant.as_ref();
        let until = Tenant::until(tenant);
        let reached = tokio::select! {
            biased; // what has ended opens nothing more
            () = until.cancelled() => Err(session_over()),
            () = self.stop.cancelled() => Err(draining()),
            reached = self.reach(&key, tenant) => reached,
        };
        let result = match reached {
            Ok((conn, facts)) => Ok(self.take_in(&key, conn, facts).await),
            Err(error) => {
                tracing::warn!(server = %self.server.name, kind = ?error.kind, %error, "upstream connection failed");
                let mut state = self.state.lock();
                state.roster.opened(&key, None);
                state.last_error = Some(error.message.clone());
                if error.blame == Blame::Upstream {
                    // A server that accepts no connection is down, which `health` knows.
                    state.fails_to_open = error.kind != Kind::Unreachable;
                }
                Err(error)
            }
        };
        ended.send_replace(Some(result));
    }

    async fn take_in(&self, key: &Key, conn: Arc<Conn>, facts: Facts) -> Arc<Conn> {
        conn.met(facts.clone());
        let session = conn.spec().tenant.as_ref().and_then(|tenant| tenant.session()).cloned();
        let Some(session) = session else { return self.admit(key, conn, facts) };
        let told = self.replay(&conn, &session, &facts).await;
        let conn = self.admit(key, conn, facts.clone());
        self.moved_in(&session, &facts, &told);
        conn
    }

    fn admit(&self, key: &Key, conn: Arc<Conn>, facts: Facts) -> Arc<Conn> {
        {
            let mut state = self.state.lock();
            // It may have died since; whoever waits for it finds out when it sends.
            state.roster.opened(key, conn.is_open().then(|| conn.clone()));
            state.fails_to_open = !conn.is_open();
            if let Some(profile) = conn.spec().tenant.as_ref().and_then(|tenant| tenant.profile()) {
                self.seats.declared(key, conn.is_open().then_some(profile));
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

    async fn reach(&self, key: &Key, tenant: Option<&Arc<Tenant>>) -> Result<Known, Error> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST, self.seed ^ self.number());
        loop {
            let error = match self.round(key, tenant, deadline).await {
                Ok(met) => return Ok(met),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error)) => error,
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
    async fn round(&self, key: &Key, tenant: Option<&Arc<Tenant>>, deadline: Instant) -> Met {
        let endpoints = self.endpoints(deadline).await.map_err(Failure::Again)?;
        let turn = usize::try_from(self.number() ^ self.seed).unwrap_or_default();
        let endpoints = {
            let (state, now) = (self.state.lock(), Instant::now());
            // One that is gone has no load, and would be tried first by every new connection.
            let rank = |endpoint: &_| (state.health.was_missed(endpoint, now), state.roster.load(endpoint));
            spread(endpoints, turn, rank)
        };
        let mut failure = None::<Error>;
        for endpoint in &endpoints {
            match self.meet(key, tenant, (endpoint, deadline)).await {
                // One that took the connection says more of the server than others that did not.
                Err(Failure::Again(error)) => match &failure {
                    Some(before) if before.kind != Kind::Unreachable && error.kind == Kind::Unreachable => {}
                    _ => failure = Some(error),
                },
                end => return end,
            }
        }
        Err(Failure::Again(failure.unwrap_or_else(|| self.nowhere())))
    }

    async fn meet(&self, key: &Key, tenant: Option<&Arc<Tenant>>, at: (&Endpoint, Instant)) -> Met {
        let era = self.state.lock().verdict.era();
        match era {
            Some(era) => self.shake(key, self.connect(key, at, era, tenant).await?).await,
            None => self.find_out(key, tenant, at).await,
        }
    }

    /// The first connection to a server whose era is not known.
    async fn find_out(&self, key: &Key, tenant: Option<&Arc<Tenant>>, at: (&Endpoint, Instant)) -> Met {
        let mut silent = false;
        if !self.state.lock().closes_at_once {
            let mut probed = self.probe(key, tenant, at).await?;
            if matches!(probed, Probed::Refused(Refusal::Gone)) {
                // A full bridge closes too. Twice in a row is a process that ends at what it does not know.
                probed = self.probe(key, tenant, at).await?;
            }
            match probed {
                Probed::Modern(met) => {
                    self.around.metrics.handshake(Handshake::Done);
                    self.learn(Verdict::Known(Era::Modern));
                    return Ok(met);
                }
                Probed::Refused(Refusal::ModernOnly) => {
                    self.learn(Verdict::Known(Era::Modern));
                    return self.shake(key, self.connect(key, at, Era::Modern, tenant).await?).await;
                }
                Probed::Refused(Refusal::Ended(error)) => return Err(Failure::Final(error)),
                Probed::Refused(Refusal::Gone) => self.state.lock().closes_at_once = true,
                Probed::Refused(Refusal::Silent) => silent = true,
                Probed::Refused(Refusal::Refused | Refusal::Unusable(_)) => {}
            }
        }
        let met = self.shake(key, self.connect(key, at, Era::Legacy, tenant).await?).await?;
        // Only a handshake that worked proves a legacy server, and not even that if the probe was not answered:
        // it may have been slow to start.
        let proven = Verdict::Known(Era::Legacy);
        self.learn(if silent { Verdict::Assumed(Era::Legacy) } else { proven });
        Ok(met)
    }

    /// Asks on a connection of its own: a server that does not know the question may end, or take the
    /// connection for a modern one from then on.
    // MCP 2026-07-28 basic/versioning, Backward Compatibility
    async fn probe(
        &self,
        key: &Key,
        tenant: Option<&Arc<Tenant>>,
        at: (&Endpoint, Instant),
    ) -> Result<Probed, Failure> {
        let conn = self.connect(key, at, Era::Modern, tenant).await?;
        let asked = modern::shake(&conn, all_capabilities(Era::Modern), self.config.probe_timeout).await;
        Ok(match asked {
            Ok(facts) => Probed::Modern((conn, facts)),
            Err(refusal) => {
                conn.close(&unneeded());
                // Its process goes first where it can, so that two of them do not meet over one resource.
                let _ = timeout(PROBE_END, conn.closed()).await;
                Probed::Refused(refusal)
            }
        })
    }

    /// The first request on a connection, in its era.
    async fn shake(&self, key: &Key, conn: Arc<Conn>) -> Met {
        let era = conn.spec().era;
        let offer = conn.spec().tenant.as_ref().map(|tenant| tenant.offer());
        let capabilities = match &offer {
            Some(offer) => offer,
            None if *key == Key::Control => all_capabilities(era),
            None => NO_CAPABILITIES,
        };
        let timeout = self.config.handshake_timeout;
        let shaken = match era {
            Era::Legacy => legacy::shake(&conn, capabilities, timeout).await,
            Era::Modern => modern::shake(&conn, capabilities, timeout).await,
        };
        let refusal = match shaken {
            Ok(facts) => {
                self.around.metrics.handshake(Handshake::Done);
                return Ok((conn, facts));
            }
            Err(refusal) => refusal,
        };
        conn.close(&unneeded());
        Err(self.failure(era, refusal))
    }

    fn failure(&self, era: Era, refusal: Refusal) -> Failure {
        let count = |outcome| self.around.metrics.handshake(outcome);
        match refusal {
            Refusal::Gone => {
                count(Handshake::Gone);
                Failure::Again(self.busy())
            }
            Refusal::Silent => {
                count(Handshake::Silent);
                let message = format!("server `{}` did not answer the handshake in time", self.server.name);
                Failure::Final(Error::new(Kind::Timeout, Blame::Upstream, message))
            }
            Refusal::Ended(error) => Failure::Final(error),
            Refusal::Unusable(clause) => {
                count(Handshake::Refused);
                Failure::Final(self.protocol(clause))
            }
            Refusal::ModernOnly | Refusal::Refused => {
                count(Handshake::Refused);
                let error = self.protocol("it refused the handshake; check what `era` says of it");
                if self.doubt(era, refusal == Refusal::ModernOnly) {
                    Failure::Again(error)
                } else {
                    Failure::Final(error)
                }
            }
        }
    }

    /// The server did not take a handshake of `era`. `true` when that changes what is known of it.
    fn doubt(&self, era: Era, is_modern: bool) -> bool {
        let verdict = self.state.lock().verdict;
        match verdict {
            Verdict::Fixed(_) => false,
            _ if is_modern && era == Era::Legacy => {
                self.learn(Verdict::Known(Era::Modern));
                true
            }
            Verdict::Known(Era::Modern) if !is_modern => {
                self.learn(Verdict::Open(None));
                true
            }
            _ => false,
        }
    }

    fn learn(&self, verdict: Verdict) {
        {
            let mut state = self.state.lock();
            state.verdict = verdict;
            state.closes_at_once &= verdict.era().is_none();
        }
        self.around.metrics.era(verdict.era());
        tracing::info!(server = %self.server.name, ?verdict, "era of a server");
    }

    /// A new connection to one endpoint; nothing is sent yet.
    async fn connect(
        &self,
        key: &Key,
        (endpoint, deadline): (&Endpoint, Instant),
        era: Era,
        tenant: Option<&Arc<Tenant>>,
    ) -> Result<Arc<Conn>, Failure> {
        // The deadline bounds the tries; what follows a try that was begun in time has one of its own.
        let deadline = deadline.max(Instant::now() + CONNECT_LEAST).min(Instant::now() + CONNECT_MOST);
        let attempt = self.around.dial.dial(endpoint);
        let link = self.in_time(deadline, attempt).await.map_err(|error| {
            self.state.lock().health.missed(endpoint, Instant::now());
            Failure::Again(error)
        })?;
        self.state.lock().health.met(endpoint);
        self.reached();
        let server = self.server.name.clone();
        let (endpoint, until) = (endpoint.clone(), Tenant::until(tenant));
        let is_control = *key == Key::Control;
        // What a modern server has to ask it puts into a result.
        let tenant = tenant.filter(|_| era == Era::Legacy).cloned();
        let spec = Spec { number: self.number(), server, endpoint, era, is_control, until, tenant };
        Ok(Conn::start(link, spec, self.surroundings()))
    }

    /// Where the server can be reached now, as far as its names are resolved by the deadline.
    pub(super) async fn endpoints(&self, deadline: Instant) -> Result<Vec<Endpoint>, Error> {
        let found = self.around.dial.endpoints(deadline).await;
        match found.failure {
            _ if !found.endpoints.is_empty() => Ok(found.endpoints),
            Some(error) => Err(self.unreachable(&error.to_string())),
            None => Err(self.nowhere()),
        }
    }

    /// What an attempt to connect comes to by the deadline.
    pub(super) async fn in_time<T>(&self, deadline: Instant, attempt: Pending<'_, T>) -> Result<T, Error> {
        match timeout_at(deadline, attempt).await {
            Ok(Ok(met)) => Ok(met),
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            Err(_) => Err(self.unreachable("no answer to the connection attempt")),
        }
    }

    pub(super) fn nowhere(&self) -> Error {
        self.unreachable("its name has no address")
    }

    /// A new number for a connection.
    fn number(&self) -> u64 {
        let mut state = self.state.lock();
        state.next_number += 1;
        state.next_number
    }

    pub(super) fn reached(&self) {
        if self.state.lock().health.reached(Instant::now()) {
            tracing::info!(server = %self.server.name, "server is back");
        }
        self.around.metrics.down.set(0);
        self.changes.send_if_modified(|changes| std::mem::replace(&mut changes.down, false));
    }

    /// Nothing stands against another try, though nobody looked.
    pub(super) fn may_be_back(&self) {
        self.state.lock().health.forget(Instant::now());
        self.around.metrics.down.set(0);
        self.changes.send_if_modified(|changes| std::mem::replace(&mut changes.down, false));
    }

    pub(super) fn not_reached(&self, why: &str) {
        if self.is_news_that_down(why) {
            tracing::warn!(server = %self.server.name, why, "server is down");
        }
        self.around.metrics.down.set(1);
        self.changes.send_if_modified(|changes| !std::mem::replace(&mut changes.down, true));
    }

    fn is_news_that_down(&self, why: &str) -> bool {
        let mut state = self.state.lock();
        let is_news = state.health.not_reached(Instant::now(), why.to_owned());
        if is_news {
            state.beside_listen = Beside::default(); // what comes back may be another version of it
        }
        is_news
    }
}

/// The first pause after a round in which no endpoint would do: a bridge frees a place within milliseconds.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// With it a server that comes up within `connect_timeout` is found soon enough.
const RETRY_LAST: Duration = Duration::from_secs(1);
/// An endpoint that does not even refuse must leave time for the others.
pub(super) const CONNECT_MOST: Duration = Duration::from_secs(2);
/// What an endpoint gets that is tried when the time is nearly over, or after a slow probe.
const CONNECT_LEAST: Duration = Duration::from_millis(500);
/// A process that was asked to end before it did anything needs no more.
const PROBE_END: Duration = Duration::from_secs(1);
