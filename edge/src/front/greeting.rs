//! What the gateway says of itself to a client that begins: the answers to `initialize` and `server/discover`.
//!
//! The servers' instructions are part of it, and are known once names are given out: until then the answer waits, as lists
//! do. If that takes too long, or the process stops, it is sent without them: it is true all the same, and a client that gets
//! none does not begin at all.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use wire::Message;
use wire::id::RequestId;
use wire::splice::Parts;

use super::door::inbound::Started;
use super::refusal;
use super::requester::Requester;
use crate::permit::CallPermit;
use crate::router::Gateway;

/// An answer that lacks the instructions so far.
pub(super) struct Greeting {
    gateway: Arc<dyn Gateway>,
    requester: Requester,
    id: Option<RequestId>,
    result: Value,
    /// Of a request that takes the place of a call while it waits.
    _permit: Option<CallPermit>,
}

impl Greeting {
    /// The answer to `message`; `result` is all of it but the instructions.
    pub(super) fn new(
        gateway: Arc<dyn Gateway>,
        requester: Requester,
        message: &Message,
        result: Value,
    ) -> Self {
        Self { gateway, requester, id: message.id().cloned(), result, _permit: None }
    }

    pub(super) fn with_permit(self, permit: CallPermit) -> Self {
        Self { _permit: Some(permit), ..self }
    }

    /// The answer if all of it is known, else what waits for it.
    pub(super) fn started(self) -> Started {
        if is_due(&*self.gateway) {
            Started::Answered(self.message())
        } else {
            Started::Greeting(Box::new(self))
        }
    }

    /// The answer, once all of it is known.
    pub(super) async fn ready(self) -> Parts {
        wait(&*self.gateway).await;
        self.message()
    }

    /// The answer, with the instructions that are known now.
    pub(super) fn message(self) -> Parts {
        let Self { gateway, requester, id, mut result, .. } = self;
        let instructions = gateway.instructions(&requester.caller, requester.scope.as_ref());
        if let (Some(text), Some(result)) = (instructions, result.as_object_mut()) {
            result.insert("instructions".to_owned(), text.into());
        }
        refusal::message(id.as_ref(), "result", Parts::from(Bytes::from(result.to_string())))
    }
}

/// Whether all of a greeting is known.
pub(super) fn is_due(gateway: &dyn Gateway) -> bool {
    *gateway.settled().borrow()
}

/// Waits until all of a greeting is known, no longer than a list would.
pub(super) async fn wait(gateway: &dyn Gateway) {
    if !is_due(gateway) {
        // However it ends, the answer is sent with what is known then.
        let _ = gateway.settling().await;
    }
}
