//! The input that a modern server requires of a modern client: relayed unchanged, but for the `requestState`, which is
//! sealed. What the client did not declare is not asked of it, and fails the call.
//!
//! Guarantees: a state is valid only for its request, its caller and its server, and only for a while; that server gets
//! its own state back byte for byte, or none if it gave none. Nothing is kept here, so any process with the same key
//! takes the retry.
// MCP 2026-07-28 basic/patterns/mrtr, server requirements

use bytes::Bytes;
use wire::Message;
use wire::code;
use wire::limits::Limits;
use wire::splice::Splice;

use super::digest::digest;
use crate::call::{Caller, Capabilities, InputRequired, Outcome, ServerName};
use crate::error::{self, Blame, Error};
use crate::front::refusal::Refusal;
use crate::ops::unix_time::now_unix_secs;
use crate::seal::{Kind, Sealer};

/// The result that a modern client gets: the server's own, with our state in place of the server's.
pub(in crate::front) fn wrap(sealer: &Sealer, input: &InputRequired, limits: &Limits) -> Outcome {
    check(input, limits).and_then(|()| wrapped(sealer, input)).unwrap_or_else(Outcome::Failed)
}

/// Whether the client declared what is asked of it. Kinds that are not known here are for the client to judge.
// MCP 2026-07-28 basic/patterns/mrtr: a server must not ask for what the request did not declare
fn check(input: &InputRequired, limits: &Limits) -> Result<(), Error> {
    let questions = input.questions(limits).ok_or_else(|| {
        Error::new(error::Kind::Protocol, Blame::Upstream, "the server requires input that cannot be read")
    })?;
    let can = Capabilities::of(&input.call.client);
    let needed = questions.iter().filter_map(|asked| Capabilities::needed(asked.kind, &asked.request));
    let missing = needed.filter(|needed| !can.allow(*needed)).reduce(Capabilities::with);
    missing.map_or(Ok(()), |missing| Err(missing.missing_at(&input.server)))
}

fn wrapped(sealer: &Sealer, input: &InputRequired) -> Result<Outcome, Error> {
    let sealed = SealedState {
        expires_at_unix_secs: now_unix_secs().saturating_add(VALID_SECS),
        caller: input.call.caller.principal_hash(),
        request: digest(&input.call.request),
        server: input.server.clone(),
        own: input.state(),
    };
    let token = sealer.seal(KIND, &sealed.encode()).map_err(|error| match error.kind {
        error::Kind::TooLarge => {
            let message = "the server's requestState is larger than this gateway relays";
            Error::new(error::Kind::TooLarge, Blame::Upstream, message)
        }
        _ => error,
    })?;
    let answer = input.answer();
    let result = answer.result_object().ok_or_else(|| {
        Error::new(error::Kind::Protocol, Blame::Upstream, "the server sent a result that is no object")
    })?;
    let mut splice = Splice::within(answer.bytes().clone(), result.span());
    // The token has nothing that JSON escapes.
    splice.object(result).set("requestState", format!("\"{token}\""));
    Ok(Outcome::Result(splice.finish()))
}

/// The retry with the server's own state, and the server that it must go to.
///
/// # Errors
/// When the state was not issued for this request.
pub(super) fn unwrap(
    sealer: &Sealer,
    caller: &Caller,
    (state, request): (&str, &Message),
    limits: &Limits,
) -> Result<(Message, ServerName), Refusal> {
    let sealed = sealer.open(KIND, state).and_then(|bytes| SealedState::decode(&bytes));
    let (sealed, params) = sealed.zip(request.params()).ok_or_else(|| bad(UNKNOWN))?;
    sealed.check(caller, now_unix_secs(), || digest(request)).map_err(bad)?;
    let mut splice = Splice::new(request.bytes().clone());
    let mut edit = splice.object(params);
    match sealed.own {
        Some(own) => edit.set("requestState", own),
        None => edit.remove("requestState"),
    }
    edit.done();
    let request = Message::scan(splice.finish().into_bytes(), limits).map_err(|_| bad(UNKNOWN))?;
    Ok((request, sealed.server))
}

/// What is sealed: whose state it is, for which request and server, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SealedState {
    expires_at_unix_secs: u64,
    caller: [u8; 32],
    request: [u8; 32],
    server: ServerName,
    /// The server's own, a JSON string as it stands.
    own: Option<Bytes>,
}

impl SealedState {
    fn encode(&self) -> Vec<u8> {
        let slug = self.server.as_str().as_bytes();
        let mut bytes = Vec::new();
        bytes.extend(self.expires_at_unix_secs.to_be_bytes());
        bytes.extend(self.caller);
        bytes.extend(self.request);
        // A slug has at most 20 characters.
        bytes.push(u8::try_from(slug.len()).unwrap_or_default());
        bytes.extend(slug);
        bytes.push(u8::from(self.own.is_some()));
        bytes.extend(self.own.as_deref().unwrap_or_default());
        bytes
    }

    /// `None` for anything that [`SealedState::encode`] did not write.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (expires, rest) = bytes.split_first_chunk()?;
        let (caller, rest) = rest.split_first_chunk()?;
        let (request, rest) = rest.split_first_chunk()?;
        let (slug_len, rest) = rest.split_first()?;
        let (slug, rest) = rest.split_at_checked(usize::from(*slug_len))?;
        let (has_own, own) = rest.split_first()?;
        Some(Self {
            expires_at_unix_secs: u64::from_be_bytes(*expires),
            caller: *caller,
            request: *request,
            server: ServerName::parse(std::str::from_utf8(slug).ok()?)?,
            own: (*has_own == 1).then(|| Bytes::copy_from_slice(own)),
        })
    }

    /// Whether it is valid for this caller and request at this time; the error says why not.
    fn check(
        &self,
        caller: &Caller,
        now_unix_secs: u64,
        request: impl FnOnce() -> [u8; 32],
    ) -> Result<(), &'static str> {
        if self.caller != caller.principal_hash() {
            return Err(UNKNOWN); // whose it is is not disclosed
        }
        if self.expires_at_unix_secs <= now_unix_secs {
            return Err("this requestState has expired; send the request again without it");
        }
        if self.request != request() {
            return Err(
                "this requestState belongs to another request; a retry has the same method, name and arguments",
            );
        }
        Ok(())
    }
}

fn bad(message: &'static str) -> Refusal {
    Refusal::bad_request(code::INVALID_PARAMS, message)
}

const UNKNOWN: &str = "requestState is not one that this gateway gave you; send the request again without it";
/// The token travels in a body. 64 KiB: servers that keep a whole form in their state stay far below.
const KIND: Kind = Kind::of_size("input", 64 << 10);
/// Ten minutes: a person reads, thinks and types; later nobody is there.
const VALID_SECS: u64 = 600;

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(own: Option<&'static str>) -> SealedState {
        SealedState {
            expires_at_unix_secs: 1000,
            caller: Caller::new("ann").principal_hash(),
            request: [7; 32],
            server: ServerName::parse("a-1").unwrap(),
            own: own.map(|own| Bytes::from_static(own.as_bytes())),
        }
    }

    #[test]
    fn what_is_sealed_comes_back() {
        for own in [None, Some(r#""""#), Some(r#""\u00e9\/""#)] {
            let sealed = sealed(own);
            let bytes = sealed.encode();
            assert_eq!(SealedState::decode(&bytes), Some(sealed));
            for end in 0..bytes.len() - own.map_or(0, str::len) {
                assert_eq!(SealedState::decode(&bytes[..end]), None);
            }
        }
    }

    #[test]
    fn it_counts_for_its_caller_and_request_and_for_a_while() {
        let (sealed, ann) = (sealed(None), Caller::new("ann"));
        assert_eq!(sealed.check(&ann, 999, || [7; 32]), Ok(()));
        assert!(sealed.check(&ann, 1000, || [7; 32]).unwrap_err().contains("expired"));
        assert!(sealed.check(&ann, 0, || [8; 32]).unwrap_err().contains("another request"));
        assert_eq!(sealed.check(&Caller::new("bob"), 0, || [7; 32]), Err(UNKNOWN));
    }
}
