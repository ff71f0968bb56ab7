//! One HTTP request, from its head to its response.
//!
//! ```text
//! path ─▶ Host, Origin ─▶ method ─▶ credentials ─▶ body ─▶ era ─▶ modern │ legacy ─▶ response
//!  404        403          405          401         413     400
//! ```
//! Where OAuth metadata is served, credentials come before the method for a GET: clients look for the challenge before
//! they have a session.
//! Nothing of a body is read before the caller is known, and nothing is dispatched before the message fits
//! its era. The two adapters are the only places that know of eras; what they make of a request is a
//! [`Call`](crate::call::Call). What is not here: sockets and TLS (`listen`), names (`router`).
//!
//! ```text
//! door ─▶ legacy │ modern ─▶ exchange (a call in flight) ─▶ reply ─▶ JSON or sse
//!            stdio                └─ asks (what a server wants of its client meanwhile)
//! ```

mod asks;
mod body;
mod client;
mod door;
mod downgrade;
mod exchange;
mod greeting;
mod legacy;
mod list_changes;
mod metrics;
mod modern;
mod plain;
mod refusal;
mod reply;
mod requester;
mod sse;
pub mod stdio;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts as Head;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use wire::limits::Limits;
use wire::splice::Parts;

use self::asks::park::Park;
use self::asks::rounds;
use self::door::route::{EndpointKind, Route};
use self::door::{InboundRequest, metadata, not_found};
use self::exchange::Pace;
use self::legacy::http_sse::Channels;
use self::modern::tasks::Tasks;
use self::refusal::Refusal;
use crate::auth::Authenticator;
use crate::error::Error;
use crate::ops::drain::DrainWatch;
use crate::peer::Peers;
use crate::permit::Permits;
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
    /// Names and origins that are admitted.
    pub rules: Rules,
    /// Whether streamable HTTP is served; off when another transport alone was asked for.
    pub streaming: bool,
    /// Whether HTTP+SSE is served.
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

    fn serves(&self, endpoint: EndpointKind) -> bool {
        match endpoint {
            EndpointKind::Mcp | EndpointKind::Call => self.streaming,
            EndpointKind::Sse | EndpointKind::Messages => self.sse,
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
    /// Authenticates callers.
    pub auth: Authenticator,
    /// The sessions of legacy clients.
    pub sessions: session::Table,
    /// Permits of calls and bytes.
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
    round_context: Arc<rounds::RoundContext>,
    tasks: Tasks,
    /// Opens the ids of servers' tasks, which name their replica.
    sealer: Sealer,
}

impl Front {
    /// A front that is ready for requests; `sealer` seals the tokens that clients carry. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the system gives out no random numbers.
    pub fn new(config: Config, rooms: Rooms, sealer: Sealer) -> Result<Arc<Self>, Error> {
        let round_context = Arc::new(rounds::RoundContext {
            gateway: rooms.gateway.clone(),
            limits: config.limits.clone(),
            rounds_max: config.rounds,
            timeout: config.rounds_time,
            permits: rooms.permits.clone(),
            sealer: sealer.clone(),
        });
        let metrics = (rooms.permits.metrics().clone(), rooms.metrics.parked());
        let park = Park::new((config.park.clone(), config.rounds), sealer.clone(), metrics, &rooms.drain)?;
        let metrics = (rooms.permits.metrics().clone(), rooms.metrics.tasks());
        let tasks = Tasks::new(config.tasks.clone(), sealer.clone(), metrics, &rooms.drain);
        let channels = Channels::new(sealer.clone())?;
        Ok(Arc::new(Self { config, rooms, channels, park, round_context, tasks, sealer }))
    }

    /// Answers one request. Dropping the future means that the client has left.
    pub async fn handle<B>(self: Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes>,
    {
        let (Head { method, uri, version, headers, .. }, body) = request.into_parts();
        let response = match Route::of(uri.path()) {
            Route::To(endpoint, slug) if self.config.serves(endpoint) => {
                let admission = self.config.rules.admit((version, &uri), &headers);
                self.serve(admission, InboundRequest { endpoint, method, slug, uri: &uri, headers }, body)
                    .await
            }
            Route::Health => plain(&method, StatusCode::OK, "ok"),
            Route::Ready => self.ready(&method),
            Route::Metadata(about) => metadata::answer(&self, &method, about),
            Route::To(..) | Route::Nothing => not_found("nothing is served at this path").into_response(),
        };
        self.rooms.metrics.response(response.status());
        response
    }

    /// Readiness in one word, without credentials; the state of each server is on the admin listener.
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

fn plain(method: &Method, status: StatusCode, word: &'static str) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return Refusal::method_not_allowed("GET, HEAD", "use GET").into_response();
    }
    let mut response = Response::new(Body::whole(Parts::from(Bytes::from_static(word.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
