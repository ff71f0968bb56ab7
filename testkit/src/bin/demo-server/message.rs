//! What is read of a JSON-RPC message, borrowed from its line: ids, texts and tokens are copied verbatim into
//! the answer and never decoded.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A request or a notification; responses never reach this server, since it asks nothing.
#[derive(Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) params: Option<&'a RawValue>,
}

/// The members of `params` that some method of ours reads.
#[derive(Default, Deserialize)]
pub(crate) struct Params<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) uri: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) arguments: Option<&'a RawValue>,
    #[serde(borrow, rename = "protocolVersion")]
    pub(crate) protocol_version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "requestId")]
    pub(crate) request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) argument: Option<CompletionArgument<'a>>,
    #[serde(borrow, rename = "_meta")]
    pub(crate) meta: Option<Meta<'a>>,
}

/// The members of `params._meta` that count.
#[derive(Default, Deserialize)]
pub(crate) struct Meta<'a> {
    #[serde(borrow, rename = "progressToken")]
    pub(crate) progress_token: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    pub(crate) protocol_version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub(crate) client_capabilities: Option<&'a RawValue>,
}

/// `argument` of `completion/complete`.
#[derive(Deserialize)]
pub(crate) struct CompletionArgument<'a> {
    #[serde(borrow)]
    pub(crate) value: Cow<'a, str>,
}

/// Arguments of the tool `echo`.
#[derive(Deserialize)]
pub(crate) struct EchoArguments<'a> {
    #[serde(borrow)]
    pub(crate) text: &'a RawValue,
}

/// Arguments of the tool `add`.
#[derive(Deserialize)]
pub(crate) struct AddArguments {
    pub(crate) a: f64,
    pub(crate) b: f64,
}

/// Arguments of the tool `sleep`; `ms` counts when both are given.
#[derive(Deserialize)]
pub(crate) struct SleepArguments {
    pub(crate) seconds: Option<f64>,
    pub(crate) ms: Option<f64>,
}

/// Arguments of the prompt `greet`.
#[derive(Default, Deserialize)]
pub(crate) struct GreetArguments<'a> {
    #[serde(borrow)]
    pub(crate) name: Option<Cow<'a, str>>,
}
