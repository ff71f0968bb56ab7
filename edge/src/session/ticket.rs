//! The sealed content of a session id. It tells a process with the same key whose session it is, which process has
//! it, and what was negotiated.
//!
//! Every field has a fixed length, so all ids have one length. An id is no credential: each request must also be
//! authenticated as the principal in it.

use std::time::Duration;

use wire::mcp::version::ProtocolVersion;

use super::SessionParams;
use crate::call::{Caller, Capabilities, ServerName};
use crate::ops::unix_time::now_unix_secs;
use crate::seal::{HOME_LEN, Home, Kind};

/// The kind of token that a session id is.
pub(super) const KIND: Kind = Kind::new("session");

/// The content of one session id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) version: ProtocolVersion,
    pub(super) capabilities: Capabilities,
    pub(super) principal: [u8; PRINCIPAL_LEN],
    /// The path the session was opened at.
    pub(super) scope: Option<ServerName>,
    /// The process that has the session, as a random number drawn at its start.
    pub(super) instance: [u8; 8],
    /// The session's number in that process.
    pub(super) number: u64,
    /// Where other processes reach that one.
    pub(super) owner: Home,
    pub(super) issued_at_unix_secs: u64,
}

impl Ticket {
    /// The ticket of a session that opens now.
    pub(super) fn issue(params: &SessionParams, (instance, owner): ([u8; 8], Home), number: u64) -> Self {
        Self {
            version: params.version,
            capabilities: Capabilities::of(&params.client),
            principal: principal(&params.caller),
            scope: params.scope.clone(),
            instance,
            number,
            owner,
            issued_at_unix_secs: now_unix_secs(),
        }
    }

    /// How long ago it was issued; zero if the clock of this process is behind.
    pub(super) fn age(&self) -> Duration {
        Duration::from_secs(now_unix_secs().saturating_sub(self.issued_at_unix_secs))
    }

    /// The bytes to seal; always [`LEN`] of them.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend(padded::<VERSION_LEN>(self.version.as_str()));
        bytes.extend(self.capabilities.bits().to_be_bytes());
        bytes.extend(self.principal);
        bytes.extend(padded::<{ ServerName::MAX_CHARS }>(self.scope.as_ref().map_or("", ServerName::as_str)));
        bytes.extend(self.instance);
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.owner.encode());
        bytes.extend(self.issued_at_unix_secs.to_be_bytes());
        bytes
    }

    /// `None` for anything that [`Ticket::encode`] did not write.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let version = ProtocolVersion::parse(&text(take::<VERSION_LEN>(&mut rest)?)?)?;
        let capabilities = Capabilities::from_bits(u16::from_be_bytes(take(&mut rest)?));
        let principal = take(&mut rest)?;
        let scope = match text(take::<{ ServerName::MAX_CHARS }>(&mut rest)?)? {
            none if none.is_empty() => None,
            slug => Some(ServerName::parse(&slug)?),
        };
        let (instance, number) = (take(&mut rest)?, u64::from_be_bytes(take(&mut rest)?));
        let owner = Home::decode(take(&mut rest)?);
        let issued_at_unix_secs = u64::from_be_bytes(take(&mut rest)?);
        let ticket =
            Self { version, capabilities, principal, scope, instance, number, owner, issued_at_unix_secs };
        rest.is_empty().then_some(ticket)
    }
}

/// The caller's principal, as it is in a ticket.
pub(super) fn principal(caller: &Caller) -> [u8; PRINCIPAL_LEN] {
    caller.principal_hash().first_chunk().copied().unwrap_or_default()
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    bytes
}

fn text<const N: usize>(bytes: [u8; N]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(N);
    String::from_utf8(bytes.get(..end)?.to_vec()).ok()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

/// `2025-11-25`.
const VERSION_LEN: usize = 10;
/// 128 bits of SHA-256: no two principals of a deployment meet by chance.
const PRINCIPAL_LEN: usize = 16;
const LEN: usize = VERSION_LEN + 2 + PRINCIPAL_LEN + ServerName::MAX_CHARS + 8 + 8 + HOME_LEN + 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(scope: Option<&str>) -> Ticket {
        Ticket {
            version: ProtocolVersion::V2025_03_26,
            capabilities: Capabilities::from_bits(0b101),
            principal: principal(&Caller::new("a principal of any length whatsoever")),
            scope: scope.map(|slug| ServerName::parse(slug).unwrap()),
            instance: [7; 8],
            number: u64::MAX,
            owner: Home::at("10.0.0.1:4445".parse().unwrap()),
            issued_at_unix_secs: 1_800_000_000,
        }
    }

    #[test]
    fn a_ticket_comes_back_and_has_one_length() {
        for scope in [None, Some("t"), Some("a-slug-of-20-letters")] {
            let bytes = ticket(scope).encode();
            assert_eq!(bytes.len(), LEN);
            assert_eq!(Ticket::decode(&bytes), Some(ticket(scope)));
        }
    }

    #[test]
    fn other_bytes_are_no_ticket() {
        let bytes = ticket(None).encode();
        assert_eq!(Ticket::decode(&bytes[1..]), None);
        assert_eq!(Ticket::decode(&[bytes.clone(), vec![0]].concat()), None);
        let mut odd = bytes;
        odd[0] = b'9';
        assert_eq!(Ticket::decode(&odd), None, "no such revision");
    }
}
