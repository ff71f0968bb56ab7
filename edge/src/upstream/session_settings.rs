//! The settings of a legacy session as far as servers are concerned, its log level and subscriptions: what requests
//! change them, and how much they may take.

use wire::mcp::level::Level;
use wire::mcp::method::Method;

use crate::call::{Affinity, Call, SUBSCRIPTIONS_BYTES, ServerName, Settings, subscription_bytes};

/// Whether a method subscribes to a resource, or unsubscribes from one.
pub(super) fn is_subscription(method: Method) -> bool {
    matches!(method, Method::ResourcesSubscribe | Method::ResourcesUnsubscribe)
}

/// The resource that a call names, as the server spells it: updates come under that URI.
pub(super) fn uri(call: &Call) -> Option<String> {
    match &call.rename {
        Some(rename) => serde_json::from_slice(&rename.token).ok(),
        None => Some(call.request.param("uri")?.as_str()?.into_owned()),
    }
}

/// Whether a subscription to `uri` fits into what one session may hold, or is there already.
pub(super) fn has_room(wished: &Settings, server: &ServerName, uri: &str) -> bool {
    let held: usize = wished.subscriptions.iter().map(|(_, uri)| subscription_bytes(uri)).sum();
    held + subscription_bytes(uri) <= SUBSCRIPTIONS_BYTES
        || wished.subscriptions.contains(&(server.clone(), uri.to_owned()))
}

/// Records with the session that the server accepted its subscribe or unsubscribe request. A subscription that finds
/// no room by now is not renewed on a later connection.
pub(super) fn note_accepted(call: &Call, server: &ServerName) {
    if !is_subscription(call.method) {
        return; // every answer comes here, and reading the URI takes memory
    }
    let (Affinity::Session(session), Some(uri)) = (&call.affinity, uri(call)) else { return };
    session.settings.change(|wished| {
        if call.method == Method::ResourcesUnsubscribe {
            wished.subscriptions.remove(&(server.clone(), uri));
        } else if has_room(wished, server, &uri) {
            wished.subscriptions.insert((server.clone(), uri));
        }
    });
}

/// The params of `logging/setLevel`.
pub(super) fn level_params(level: Level) -> String {
    format!(r#"{{"level":"{}"}}"#, level.as_str())
}
