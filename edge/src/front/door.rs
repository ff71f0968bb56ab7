//! What every request passes before its era is known: which path, who may come in, what it brings, and which of the
//! two adapters takes it.
//!
//! Must not know what the adapters do with a message.

pub(super) mod arrival;
pub(super) mod classify;
mod elsewhere;
pub(super) mod headers;
pub(super) mod media;
pub(super) mod metadata;
pub(super) mod origin;
pub(super) mod route;

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Response, StatusCode, Uri};
use http_body::Body as HttpBody;
use wire::envelope::is_batch;
use wire::error::{ScanError, ScanErrorKind};
use wire::{Kind, Message, code};

use self::arrival::Arrival;
use self::classify::{Class, Clues};
use self::media::Accepts;
use self::origin::Admission;
use self::route::Door;
use super::body::{self, Body};
use super::legacy::{self, batch, http_sse};
use super::refusal::Refusal;
use super::{Front, modern, plain};
use crate::auth::Endpoint;
use crate::call::{Caller, ServerName};
use crate::peer::Peers;
use crate::permit::{Bound, CallPermit};

/// A request to one of the doors, before its body is read.
pub(super) struct Knock<'a> {
    pub(super) door: Door,
    pub(super) method: Method,
    pub(super) slug: Option<&'a str>,
    pub(super) uri: &'a Uri,
    pub(super) headers: HeaderMap,
}

/// A POST that was read and is a message.
pub(super) struct Posted {
    pub(super) headers: HeaderMap,
    pub(super) accepts: Accepts,
    pub(super) arrival: Arrival,
}

impl Front {
    /// Answers whoever knocks, in the headers that a page of another host may read.
    pub(super) async fn door<B>(
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
                if is_batch(&bytes)
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
        plain::call(self, whom, room.map_err(Bound::refusal)?, &bytes).await
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
        if is_batch(&bytes) {
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
    ) -> Result<(Result<CallPermit, Bound>, Bytes), Refusal>
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
        (room, bytes): (Result<CallPermit, Bound>, Bytes),
    ) -> Result<Arrival, Refusal> {
        let message = Message::scan(bytes, &self.config.limits).map_err(|error| self.unreadable(&error))?;
        Ok(Arrival { caller, scope, room, message })
    }

    /// The refusal of a message, and which bound it was over if any.
    pub(super) fn unreadable(&self, error: &ScanError) -> Refusal {
        match error.kind {
            ScanErrorKind::TooDeep => self.rooms.permits.metrics().hit(Bound::Depth),
            ScanErrorKind::TooManyMembers => self.rooms.permits.metrics().hit(Bound::Members),
            _ => {}
        }
        classify::uncounted_refusal(error)
    }

    async fn read<B>(&self, body: B, room: &mut Result<CallPermit, Bound>) -> Result<Bytes, Refusal>
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
}

fn refused(refusal: Refusal) -> Response<Body> {
    tracing::debug!(status = refusal.status().as_u16(), "request refused");
    refusal.into_response()
}

pub(super) fn not_found(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, code::INVALID_REQUEST, message)
}
