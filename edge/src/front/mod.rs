//! One HTTP request, from its head to its response.
//!
//! ```text
//! path ─▶ Host, Origin ─▶ method ─▶ credentials ─▶ body ─▶ era ─▶ modern │ legacy ─▶ response
//!  404        403          405          401         413     400
//! ```
//! Where a challenge leads to metadata, a GET hears of credentials first: clients look for it before they have a session.
//! Nothing of a body is read before the caller is known, and nothing is dispatched before the message fits
//! its era. The two adapters are the only places that know of eras; what they make of a request is a
//! [`Call`](crate::call::Call). What is not here: sockets and TLS (`listen`), names (`router`).

mod asks;
mod body;
mod client;
mod door;
mod exchange;
mod legacy;
mod metrics;
mod modern;
mod plain;
mod refusal;
mod reply;
mod sse;
pub mod stdio;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::request::Parts as Head;
use http::{Method, Request, Response, StatusCode, Uri};

use http_body::Body as HttpBody;
use wire::code;
use wire::error::{ScanError, ScanErrorKind};
use wire::limits::Limits;
use wire::splice::Parts;
use wire::{Kind, Message};

use self::asks::park::Park;
use self::asks::rounds;
use self::door::arrival::Arrival;
use self::door::classify::{Class, Clues};
use self::door::media::Accepts;
use self::door::origin::Admission;
use self::door::route::{Door, Route};
use self::door::{classify, headers, media, metadata};
use self::exchange::Pace;
use self::legacy::http_sse::Channels;
use self::legacy::{batch, http_sse};
use self::modern::tasks::Tasks;
use self::refusal::Refusal;
use crate::auth::{Authenticator, Endpoint};
use crate::call::{Caller, ServerName};
use crate::error::Error;
use crate::ops::drain::DrainWatch;
use crate::peer::Peers;
use crate::permit::{Bound, CallPermit, NoRoom, Permits};
use crate::router::Gateway;
use crate::seal::Sealer;
use crate::session;

pub use self::asks::park::Config as ParkConfig;
pub use self::body::Body;
pub use self::door::origin::{Host, Origin, Rules};
pub use self::metrics::{Class as CallClass, Ending, Metrics};
pub use self::modern::tasks::Config as TasksConfig;

/// How the front behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names and origins that are let in.
    pub rules: Rules,
    /// Whether streamable HTTP is served; off when another transport alone was asked for.
    pub streaming: bool,
    /// The same for HTTP+SSE.
    pub sse: bool,
    /// Streams of HTTP+SSE. 10,000: as many as sessions, for each carries one.
    pub channels: usize,
    /// Calls that wait for answers of their clients.
    pub park: ParkConfig,
    /// Slow calls that become tasks.
    pub tasks: TasksConfig,
    /// Bounds of messages.
    pub limits: Limits,
    /// How long a request's body may take. 30 s: 4 MiB at a modem's pace, and no longer a connection is held.
    pub body_timeout: Duration,
    /// Silence after which a stream says that it is alive. 15 s: load balancers cut idle connections after 30
    /// to 60, and SDK servers use the same.
    pub keep_alive: Duration,
    /// Silence after which a call's response becomes a stream. 10 s: errors with a status of their own come
    /// earlier, and no proxy waits less for a first byte.
    pub stream_after: Duration,
    /// The same for a call that a server has, of a session whose stream can be resumed from its first byte on. 500 ms:
    /// most calls are one JSON answer still, and a slower one is not lost with its connection.
    pub resumable_after: Duration,
    /// Rounds of one call in which a modern server wants something of a client with a session. 10: a wizard of
    /// ten pages fits, and a server that asks for ever does not.
    pub rounds: usize,
    /// All rounds of one call together, from the first question to the last answer. 10 m: a person reads,
    /// thinks and types; later nobody is there.
    pub rounds_time: Duration,
    /// How this gateway introduces itself.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One log event for each call.
    pub log_calls: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            streaming: true,
            sse: true,
            channels: 10_000,
            park: ParkConfig::default(),
            tasks: TasksConfig::default(),
            limits: Limits::default(),
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            stream_after: Duration::from_secs(10),
            resumable_after: Duration::from_millis(500),
            rounds: 10,
            rounds_time: Duration::from_secs(600),
            name: "mcp-edge".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log_calls: false,
        }
    }
}

impl Config {
    fn pace(&self) -> Pace {
        let Self { stream_after, resumable_after, keep_alive, .. } = *self;
        Pace { stream_after, resumable_after, keep_alive }
    }

    fn serves(&self, door: Door) -> bool {
        match door {
            Door::Mcp | Door::Call => self.streaming,
            Door::Sse | Door::Messages => self.sse,
        }
    }

    fn identity(&self) -> serde_json::Value {
        serde_json::json!({ "name": self.name, "version": self.version })
    }
}

/// The rooms behind the front.
pub struct Rooms {
    /// What answers calls.
    pub gateway: Arc<dyn Gateway>,
    /// What tells callers.
    pub auth: Authenticator,
    /// The sessions of legacy clients.
    pub sessions: session::Table,
    /// Room for calls and bytes.
    pub permits: Permits,
    /// The other replicas, if there are any.
    pub peers: Option<Peers>,
    /// What is counted here.
    pub metrics: Metrics,
    /// The end of the process.
    pub drain: DrainWatch,
}

/// The downstream side of the gateway.
pub struct Front {
    config: Config,
    rooms: Rooms,
    channels: Channels,
    park: Park,
    rounds: Arc<rounds::Terms>,
    tasks: Tasks,
}

/// A request to one of the doors, before its body is read.
struct Knock<'a> {
    door: Door,
    method: Method,
    slug: Option<&'a str>,
    uri: &'a Uri,
    headers: HeaderMap,
}

/// A POST that was read and is a message.
struct Posted {
    headers: HeaderMap,
    accepts: Accepts,
    arrival: Arrival,
}

impl Front {
    /// Ready to take requests; `sealer` seals what clients carry for us. To be called inside a runtime.
    ///
    /// # Errors
    /// When the system gives out no random numbers.
    pub fn new(config: Config, rooms: Rooms, sealer: Sealer) -> Result<Arc<Self>, Error> {
        let rounds = Arc::new(rounds::Terms {
            gateway: rooms.gateway.clone(),
            limits: config.limits.clone(),
            rounds: config.rounds,
            time: config.rounds_time,
            permits: rooms.permits.clone(),
            sealer: sealer.clone(),
        });
        let metrics = (rooms.permits.metrics().clone(), rooms.metrics.parked());
        let park = Park::new((config.park.clone(), config.rounds), sealer.clone(), metrics, &rooms.drain)?;
        let metrics = (rooms.permits.metrics().clone(), rooms.metrics.tasks());
        let tasks = Tasks::new(config.tasks.clone(), sealer.clone(), metrics, &rooms.drain);
        Ok(Arc::new(Self { config, rooms, channels: Channels::new(sealer)?, park, rounds, tasks }))
    }

    /// Answers one request. Dropping the future is the client's leaving.
    pub async fn handle<B>(self: Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes>,
    {
        let (Head { method, uri, version, headers, .. }, body) = request.into_parts();
        let response = match Route::of(uri.path()) {
            Route::To(door, slug) if self.config.serves(door) => {
                let admission = self.config.rules.admit((version, &uri), &headers);
                self.door(admission, Knock { door, method, slug, uri: &uri, headers }, body).await
            }
            Route::Health => plain(&method, StatusCode::OK, "ok"),
            Route::Ready => self.ready(&method),
            Route::Metadata(about) => metadata::answer(&self, &method, about),
            Route::To(..) | Route::Nothing => not_found("nothing is served at this path").into_response(),
        };
        self.rooms.metrics.response(response.status());
        response
    }

    async fn door<B>(
        self: &Arc<Self>,
        admission: Result<Admission, Refusal>,
        knock: Knock<'_>,
        body: B,
    ) -> Response<Body>
    where
        B: HttpBody<Data = Bytes>,
    {
        let admission = match admission {
            Ok(admission) => admission,
            Err(refusal) => return refused(refusal),
        };
        let answer = if knock.method == Method::OPTIONS {
            admission.preflight(&knock.headers)
        } else {
            self.admitted(knock, body).await
        };
        let mut response = answer.unwrap_or_else(refused);
        admission.open_to_page(response.headers_mut());
        response
    }

    async fn admitted<B>(self: &Arc<Self>, knock: Knock<'_>, body: B) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        let checked = knock.door.check_method(&knock.method, &knock.headers);
        // Where there is a challenge to find, clients may look for it by GET, before they have a session.
        let may_look = knock.method == Method::GET && self.rooms.auth.has_metadata();
        let checked = if may_look { checked } else { Ok(checked?) };
        let at = Endpoint { path: knock.door.endpoint(knock.uri.path()), server: knock.slug };
        let caller = self.rooms.auth.authenticate(&knock.headers, at).await?;
        checked?;
        self.known(knock, caller, self.rooms.peers.as_ref(), body).await
    }

    /// Answers a caller, or has one of `peers` do it that holds what this is about.
    async fn known<B>(
        self: &Arc<Self>,
        knock: Knock<'_>,
        caller: Caller,
        peers: Option<&Peers>,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        let Knock { door, method, slug, uri, headers } = knock;
        let server = |slug| {
            self.rooms.gateway.server(&caller, slug).ok_or_else(|| not_found("no server of that name"))
        };
        let scope = slug.map(server).transpose()?;
        match (door, method) {
            (Door::Sse, _) => {
                media::wants_events(&headers)?;
                http_sse::open(self, uri, (caller, scope))
            }
            (Door::Messages, _) => {
                if let Some(elsewhere) = self.channel_elsewhere(peers, uri) {
                    let (_room, bytes) = self.receive(&caller, body).await?;
                    return elsewhere.pass((Method::POST, uri.clone(), headers), bytes, caller).await;
                }
                let to = http_sse::addressee(self, uri, &caller, scope.as_ref())?;
                media::is_json(&headers)?;
                let (room, bytes) = self.receive(&caller, body).await?;
                if batch::is_batch(&bytes)
                    && let Some(session) = to.batching()
                {
                    drop(room); // each call takes its own
                    return http_sse::take_batch(self, &to, &session, &bytes);
                }
                let arrival = self.arrival((caller, scope), (room, bytes))?;
                http_sse::take(self, &to, arrival)
            }
            (Door::Call, _) => self.plain(headers, (caller, scope), body).await,
            (Door::Mcp, method @ (Method::GET | Method::DELETE)) => {
                match self.session_elsewhere(peers, &headers, &caller) {
                    Some(elsewhere) => {
                        elsewhere.pass((method, uri.clone(), headers), Bytes::new(), caller).await
                    }
                    None if method == Method::GET => {
                        legacy::open_stream(self, &headers, &caller, scope.as_ref())
                    }
                    None => legacy::end_session(self, &headers, &caller, scope.as_ref()),
                }
            }
            (Door::Mcp, _) => self.post((headers, uri), (caller, scope), peers, body).await,
        }
    }

    async fn plain<B>(
        &self,
        headers: HeaderMap,
        whom: (Caller, Option<ServerName>),
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        media::is_json(&headers)?;
        let (room, bytes) = self.receive(&whom.0, body).await?;
        plain::call(self, whom, room.map_err(NoRoom::refusal)?, &bytes).await
    }

    async fn post<B>(
        &self,
        (headers, uri): (HeaderMap, &Uri),
        (caller, scope): (Caller, Option<ServerName>),
        peers: Option<&Peers>,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        media::is_json(&headers)?;
        let accepts = Accepts::of(&headers)?;
        let (room, bytes) = self.receive(&caller, body).await?;
        if batch::is_batch(&bytes) {
            if let Some(elsewhere) = self.session_elsewhere(peers, &headers, &caller) {
                return elsewhere.pass((Method::POST, uri.clone(), headers), bytes, caller).await;
            }
            if let Some(session) = legacy::batching(self, &headers, &caller, scope.as_ref()) {
                drop(room); // each call takes its own
                return batch::answer(self, (&caller, scope.as_ref()), &session, accepts, &bytes).await;
            }
        }
        let arrival = self.arrival((caller, scope), (room, bytes))?;
        let message = &arrival.message;
        let id = (message.kind() == Kind::Request).then(|| message.id().cloned()).flatten();
        let answered = async {
            let class = self.class(&headers, &arrival.message)?;
            let elsewhere = match class {
                Class::Legacy => self.session_elsewhere(peers, &headers, &arrival.caller),
                Class::Modern => self.held_elsewhere(peers, &arrival.message),
                Class::Initialize | Class::ModernNotice => None,
            };
            if let Some(elsewhere) = elsewhere {
                let bytes = arrival.message.bytes().clone();
                return elsewhere.pass((Method::POST, uri.clone(), headers), bytes, arrival.caller).await;
            }
            self.message(class, Posted { headers, accepts, arrival }).await
        };
        answered.await.map_err(|refusal| refusal.answering(id.as_ref()))
    }

    /// A body, with room for what it may turn out to be.
    async fn receive<B>(
        &self,
        caller: &Caller,
        body: B,
    ) -> Result<(Result<CallPermit, NoRoom>, Bytes), Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        let mut room = self.rooms.permits.call(caller.principal());
        let bytes = self.read(body, &mut room).await?;
        Ok((room, bytes))
    }

    fn arrival(
        &self,
        (caller, scope): (Caller, Option<ServerName>),
        (room, bytes): (Result<CallPermit, NoRoom>, Bytes),
    ) -> Result<Arrival, Refusal> {
        let message = Message::scan(bytes, &self.config.limits).map_err(|error| self.unreadable(&error))?;
        Ok(Arrival { caller, scope, room, message })
    }

    /// The refusal of a message, and which bound it was over if any.
    fn unreadable(&self, error: &ScanError) -> Refusal {
        match error.kind {
            ScanErrorKind::TooDeep => self.rooms.permits.metrics().hit(Bound::Depth),
            ScanErrorKind::TooManyMembers => self.rooms.permits.metrics().hit(Bound::Members),
            _ => {}
        }
        classify::uncounted_refusal(error)
    }

    async fn read<B>(&self, body: B, room: &mut Result<CallPermit, NoRoom>) -> Result<Bytes, Refusal>
    where
        B: HttpBody<Data = Bytes>,
    {
        let limit_bytes = self.config.limits.body_bytes;
        body::read(body, limit_bytes, self.config.body_timeout, room).await.map_err(|error| {
            if matches!(error, body::ReadError::TooLarge(_)) {
                self.rooms.permits.metrics().hit(Bound::Body);
            }
            error.into()
        })
    }

    fn class(&self, headers: &HeaderMap, message: &Message) -> Result<Class, Refusal> {
        let clues =
            Clues { version: headers::version(headers), session: headers.contains_key(&headers::SESSION_ID) };
        classify::classify(message, clues)
    }

    async fn message(&self, class: Class, posted: Posted) -> Result<Response<Body>, Refusal> {
        match class {
            Class::Modern => modern::request(self, posted).await,
            Class::ModernNotice => modern::notice(&posted.headers, &posted.arrival.message),
            Class::Initialize => legacy::initialize(self, posted).await,
            Class::Legacy => legacy::message(self, posted).await,
        }
    }

    /// One word, for whoever asks: the state of each server is told on the admin listener.
    fn ready(&self, method: &Method) -> Response<Body> {
        if self.rooms.drain.is_leaving() {
            return plain(method, StatusCode::SERVICE_UNAVAILABLE, "draining");
        }
        if !*self.rooms.gateway.settled().borrow() {
            return plain(method, StatusCode::SERVICE_UNAVAILABLE, "starting");
        }
        plain(method, StatusCode::OK, "ready")
    }
}

fn refused(refusal: Refusal) -> Response<Body> {
    tracing::debug!(status = refusal.status().as_u16(), "request refused");
    refusal.into_response()
}

fn not_found(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, code::INVALID_REQUEST, message)
}

fn plain(method: &Method, status: StatusCode, word: &'static str) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return Refusal::method_not_allowed("GET, HEAD", "use GET").into_response();
    }
    let mut response = Response::new(Body::whole(Parts::from(Bytes::from_static(word.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
