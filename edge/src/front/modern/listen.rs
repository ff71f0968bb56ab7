//! A modern client's `subscriptions/listen`: its filter, and the stream of notifications.
//!
//! ```text
//! Opening ── servers agreed, or timed out ───────────▶ Open ── the process stops ──▶ Over (terminal)
//!    └─ nothing is sent before the acknowledgement       └──── the client lags ─────▲
//! ```
//! Guarantees: the acknowledgement comes first and names what was subscribed to; every message carries the id of the
//! request as the client wrote it; what changed meanwhile is reported after the acknowledgement. The client ends a
//! listen by closing its stream, over stdio by a notification; then its subscriptions end. It holds no call's permit.
// MCP 2026-07-28 basic/patterns/subscriptions

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use wire::envelope::Value;
use wire::id::RequestId;
use wire::mcp::meta::SUBSCRIPTION_ID;
use wire::mcp::method::Notice;
use wire::splice::{Parts, Splice};
use wire::{Era, Message, code};

use super::{tasks, undeclared_tasks};
use crate::call::{
    Affinity, Caller, Client, Event, Next, Outcome, Reply, Responder, SUBSCRIPTIONS_BYTES, StreamCredentials,
    Subscriber, Subscription, UpdateSink, reply, subscription_bytes,
};
use crate::error::{Blame, Error, Kind};
use crate::front::Front;
use crate::front::body::Body;
use crate::front::door::inbound::InboundMessage;
use crate::front::door::media::{self, Accepts};
use crate::front::list_changes::{Changes, ListUpdate};
use crate::front::metrics::StreamKind;
use crate::front::refusal::{self, Refusal};
use crate::front::reply::ResponseEncoding;
use crate::front::requester::Requester;
use crate::front::sse::{self, Feed};
use crate::permit::{self, Bound, ListenPermit};
use crate::router::{Accepted, ListChanges};
use crate::session::replay::Delivery;
use crate::session::{Said, Source};

/// A listen of one client.
pub(in crate::front) struct Listen {
    id: RequestId,
    caller: Caller,
    filter: Filter,
    state: State,
    changes: Changes,
    /// The changes that were reported to the client.
    reported: ListChanges,
    /// Updates of its resources.
    updates: Reply,
    /// Kept because without subscriptions nobody else does, and dropping it would end `updates`.
    _sink: Arc<ListenSink>,
    _permit: ListenPermit,
}

/// See the drawing above.
enum State {
    Opening(Accepted),
    Open {
        /// Notifications of changed lists that are not sent yet.
        waiting: VecDeque<Notice>,
        _subscriptions: Vec<Subscription>,
    },
    Over,
}

/// What a client subscribes to. Unknown members are left out of the acknowledgement.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Filter {
    tools_list_changed: Option<bool>,
    prompts_list_changed: Option<bool>,
    resources_list_changed: Option<bool>,
    resource_subscriptions: Option<Vec<String>>,
    task_ids: Option<Vec<String>>,
}

/// Opens a listen.
pub(super) fn start(front: &Front, inbound: InboundMessage, client: Client) -> Result<Listen, Refusal> {
    let InboundMessage { requester: Requester { caller, scope }, message, .. } = inbound;
    let rooms = &front.rooms;
    let Some(id) = message.id().cloned() else {
        return Err(Refusal::bad_request(code::INVALID_REQUEST, "a request has an id"));
    };
    let mut filter = Filter::of(&message)?;
    // MCP extension io.modelcontextprotocol/tasks, Subscribing to Task Notifications
    if filter.task_ids.take().is_some() && !tasks::knows_tasks(&client) {
        return Err(undeclared_tasks());
    }
    let permit = rooms.permits.listen(caller.principal()).map_err(Bound::refusal)?;
    let uris = filter.resource_subscriptions.take().unwrap_or_default();
    if uris.iter().map(|uri| subscription_bytes(uri)).sum::<usize>() > SUBSCRIPTIONS_BYTES {
        rooms.permits.metrics().hit(Bound::Subscriptions);
        return Err(Bound::Subscriptions.refusal().into());
    }
    let changes = rooms.gateway.changes(&caller, scope.as_ref());
    let mut changes = Changes::new(changes, rooms.drain.clone());
    // Changes from here on are reported.
    let reported = changes.now();
    let (responder, updates) = reply();
    let sink = ListenSink { to: Mutex::new(Some(responder)), refusals: rooms.permits.metrics().clone() };
    let sink = Arc::new(sink);
    let (client, affinity) = (Arc::new(client.copied()), Affinity::Principal);
    let subscriber = Subscriber { caller: caller.clone(), client, affinity, sink: sink.clone() };
    let mut once = HashSet::new();
    let uris: Vec<_> = uris.into_iter().filter(|uri| once.insert(uri.clone())).collect();
    let state = State::Opening(rooms.gateway.subscribe(subscriber, scope, uris));
    Ok(Listen { id, caller, filter, state, changes, reported, updates, _sink: sink, _permit: permit })
}

impl Filter {
    fn of(message: &Message) -> Result<Self, Refusal> {
        let filter = message.param("notifications").filter(Value::is_object);
        filter.and_then(|filter| filter.parse().ok()).ok_or_else(|| {
            let message = "params.notifications must be an object: toolsListChanged, promptsListChanged and \
                           resourcesListChanged are booleans, resourceSubscriptions is an array of URIs";
            Refusal::bad_request(code::INVALID_PARAMS, message)
        })
    }

    /// The lists that changed and are wanted.
    fn changed(&self, reported: ListChanges, now: ListChanges) -> Vec<Notice> {
        let lists = [
            (self.tools_list_changed, reported.tools != now.tools, Notice::ToolsChanged),
            (self.prompts_list_changed, reported.prompts != now.prompts, Notice::PromptsChanged),
            (self.resources_list_changed, reported.resources != now.resources, Notice::ResourcesChanged),
        ];
        let wanted = lists.into_iter().filter(|(wanted, changed, _)| *changed && *wanted == Some(true));
        wanted.map(|(.., notice)| notice).collect()
    }

    /// The part of it that is subscribed to, a JSON object.
    fn accepted(&self, subscriptions: &[Subscription]) -> serde_json::Value {
        let lists = [
            ("toolsListChanged", self.tools_list_changed),
            ("promptsListChanged", self.prompts_list_changed),
            ("resourcesListChanged", self.resources_list_changed),
        ];
        let mut accepted = serde_json::Map::new();
        for (key, _) in lists.into_iter().filter(|(_, wanted)| *wanted == Some(true)) {
            accepted.insert(key.to_owned(), true.into());
        }
        if !subscriptions.is_empty() {
            let uris: Vec<_> = subscriptions.iter().map(Subscription::uri).collect();
            accepted.insert("resourceSubscriptions".to_owned(), json!(uris));
        }
        accepted.into()
    }
}

impl Listen {
    /// The response, which is always a stream.
    pub(in crate::front) fn respond(self, front: &Front, accepts: Accepts) -> Response<Body> {
        if !accepts.events {
            return media::no_stream_wanted().answering(Some(&self.id)).into_response();
        }
        let count = front.rooms.metrics.stream(StreamKind::Listen);
        let validity = StreamCredentials::of(self.caller.clone());
        sse::long_lived(validity, (None, Feed::Plain(Box::new(self))), front.config.keep_alive, count)
    }

    fn acknowledgement(&self, subscriptions: &[Subscription]) -> Parts {
        let notifications = format!(r#","notifications":{}"#, self.filter.accepted(subscriptions));
        self.own(Notice::Acknowledged, &notifications)
    }

    /// A notification of the gateway; in its params `members` follow `_meta`.
    fn own(&self, notice: Notice, members: &str) -> Parts {
        let (method, meta) = (notice.as_str(), self.meta());
        let text = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"_meta":{meta}{members}}}}}"#);
        Bytes::from(text).into()
    }

    fn meta(&self) -> String {
        format!(r#"{{"{SUBSCRIPTION_ID}":{}}}"#, self.id)
    }

    /// A server's notification with the id of this listen.
    fn tagged(&self, message: &Message) -> Option<Parts> {
        let mut splice = Splice::new(message.bytes().clone());
        match (message.meta(), message.params()) {
            (Some(meta), _) => splice.object(meta).set(SUBSCRIPTION_ID, self.id.token().clone()),
            (None, params) => splice.object(params?).set("_meta", self.meta()),
        }
        Some(splice.finish())
    }

    /// Ends the listen in good order: the client may listen at another replica.
    // MCP 2026-07-28 basic/patterns/subscriptions, Graceful Closure
    fn end(&mut self) -> Parts {
        self.state = State::Over;
        let result = format!(r#"{{"resultType":"complete","_meta":{}}}"#, self.meta());
        refusal::message(Some(&self.id), "result", Bytes::from(result).into())
    }

    fn poll_update(&mut self, context: &mut Context<'_>) -> Poll<Said> {
        loop {
            match ready!(self.updates.poll_next(context)) {
                Next::Event(Event::Notice(_, message)) => {
                    if let Some(message) = self.tagged(&message) {
                        return Poll::Ready(Said::Message(message, Delivery::Required));
                    }
                }
                Next::Event(_) => {}
                Next::Outcome(Outcome::Failed(error)) => {
                    self.state = State::Over;
                    let encoding = ResponseEncoding { era: Era::Modern, server: None };
                    return Poll::Ready(Said::Last(encoding.failed(&self.id, &error).message));
                }
                // The sink ends in no other way.
                Next::Outcome(_) => return Poll::Pending,
            }
        }
    }
}

impl Source for Listen {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Said> {
        loop {
            match &mut self.state {
                State::Opening(accepted) => {
                    let subscriptions = ready!(accepted.as_mut().poll(context));
                    let message = self.acknowledgement(&subscriptions);
                    self.state = State::Open { waiting: VecDeque::new(), _subscriptions: subscriptions };
                    return Poll::Ready(Said::Message(message, Delivery::Required));
                }
                State::Open { waiting, .. } => {
                    let now = self.changes.now();
                    for notice in self.filter.changed(std::mem::replace(&mut self.reported, now), now) {
                        if !waiting.contains(&notice) {
                            waiting.push_back(notice);
                        }
                    }
                    if let Some(notice) = waiting.pop_front() {
                        return Poll::Ready(Said::Message(self.own(notice, ""), Delivery::Required));
                    }
                }
                State::Over => return Poll::Ready(Said::End),
            }
            if let Poll::Ready(update) = self.poll_update(context) {
                return Poll::Ready(update);
            }
            match ready!(self.changes.poll_update(context)) {
                ListUpdate::Changed => {}
                ListUpdate::End => return Poll::Ready(Said::Last(self.end())),
            }
        }
    }
}

/// Queues updates of resources until the client reads them.
struct ListenSink {
    /// `None` once the client has lagged, or the resources are lost.
    to: Mutex<Option<Responder>>,
    refusals: permit::Metrics,
}

impl UpdateSink for ListenSink {
    fn updated(&self, message: &Message) {
        let lagging = {
            let mut to = self.to.lock();
            let Some(responder) = &*to else { return };
            if responder.event(Event::Notice(Notice::ResourceUpdated, message.clone())) {
                return;
            }
            to.take()
        };
        let Some(responder) = lagging.filter(|responder| !responder.is_cancelled()) else { return };
        self.refusals.hit(Bound::EventBytes);
        let message = "the client read this stream too slowly and missed notifications; listen again, and read the resources again";
        responder.fail(Error::new(Kind::Lost, Blame::Downstream, message));
    }

    fn lost(&self) {
        let taken = self.to.lock().take();
        if let Some(responder) = taken {
            let message =
                "the source of these resources has changed; listen again, and read the resources again";
            responder.fail(Error::new(Kind::Lost, Blame::Edge, message));
        }
    }
}
