//! The proof in a forwarded request: who the caller is, and that the sender has the keys.

use std::time::Duration;

use http::{Method, Uri};
use ring::digest::{Context, SHA256};
use tokio::time::Instant;

use crate::call::Caller;
use crate::error::Error;
use crate::ops::unix_time::now_unix_secs;
use crate::seal::{Home, Kind, Sealer};

/// A proof for a request of this caller, method and path, at that address, for a minute; what is in its body is not
/// bound. It is sealed with the key of the token that the request came with: the process that
/// made that token has it, also while keys are replaced.
///
/// # Errors
/// When the system gives out no random numbers, or the principal has a name of kilobytes.
pub(super) fn write(
    (sealer, token): (&Sealer, &str),
    of: (&Method, &Uri, Home),
    caller: &Caller,
) -> Result<Box<str>, Error> {
    let payload = [
        &now_unix_secs().to_be_bytes()[..],
        &left(caller).to_be_bytes(),
        &digest(of),
        caller.principal().as_bytes(),
    ]
    .concat();
    sealer.seal_like(token, KIND, &payload).unwrap_or_else(|| sealer.seal(KIND, &payload))
}

/// The caller, if the proof is for this request and fresh.
pub(super) fn read(sealer: &Sealer, of: (&Method, &Uri, Home), proof: &str) -> Option<Caller> {
    let payload = sealer.open(KIND, proof)?;
    let (made, rest) = payload.split_first_chunk()?;
    let (left, rest) = rest.split_first_chunk()?;
    let (about, principal) = rest.split_first_chunk::<DIGEST_LEN>()?;
    let is_fresh = now_unix_secs().abs_diff(u64::from_be_bytes(*made)) <= FRESH_SECS;
    let principal = std::str::from_utf8(principal).ok()?;
    (is_fresh && *about == digest(of)).then(|| Caller::vouched(principal, end(u64::from_be_bytes(*left))))
}

/// How many nanoseconds the credentials hold: a span and no time, for clocks differ. A proof that is heard twice prolongs a
/// stream by [`FRESH_SECS`] at most.
fn left(caller: &Caller) -> u64 {
    let left = |ends: Instant| ends.saturating_duration_since(Instant::now()).as_nanos();
    caller.ends().map_or(ENDLESS, |ends| u64::try_from(left(ends)).unwrap_or(ENDLESS - 1))
}

fn end(left: u64) -> Option<Instant> {
    if left == ENDLESS { None } else { Instant::now().checked_add(Duration::from_nanos(left)) }
}

/// The target address is included, so whoever inherits an address cannot replay a proof elsewhere.
fn digest((method, uri, to): (&Method, &Uri, Home)) -> [u8; DIGEST_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(&to.encode());
    context.update(method.as_str().as_bytes());
    context.update(b" ");
    context.update(uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

/// Renamed from `peer`: older proofs have no expiry and must not parse as these.
const KIND: Kind = Kind::of_size("peer-until", 4096);
/// For credentials that do not expire.
const ENDLESS: u64 = u64::MAX;
const DIGEST_LEN: usize = 32;
/// How far the clocks of two machines may differ, and how long an intercepted proof could be used. 60 s.
const FRESH_SECS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Revocation;
    use crate::seal::Config;

    #[test]
    fn a_proof_is_good_for_its_request_and_for_those_who_have_the_key() {
        let key = |text: &str| Config { current: Some(text.parse().unwrap()), ..Config::default() };
        let ours = Sealer::new(&key(&"k".repeat(32))).unwrap();
        let others = Sealer::new(&key(&"o".repeat(32))).unwrap();
        let (post, uri) = (Method::POST, "/mcp?x=1".parse::<Uri>().unwrap());
        let at = Home::at("10.0.0.1:4445".parse().unwrap());
        let token = ours.seal(Kind::new("session"), b"x").unwrap();
        let proof = write((&ours, &token), (&post, &uri, at), &Caller::new("ann")).unwrap();
        let whose =
            |sealer, of, proof: &str| read(sealer, of, proof).map(|caller| caller.principal().to_string());
        assert_eq!(whose(&ours, (&post, &uri, at), &proof).as_deref(), Some("ann"));
        let full = "http://10.0.0.1:4445/mcp?x=1".parse().unwrap();
        assert!(whose(&ours, (&post, &full, at), &proof).is_some(), "wherever it was sent to");
        assert_eq!(whose(&ours, (&Method::DELETE, &uri, at), &proof), None);
        let elsewhere = Home::at("10.0.0.2:4445".parse().unwrap());
        assert_eq!(whose(&ours, (&post, &uri, elsewhere), &proof), None);
        let other = "/mcp".parse().unwrap();
        assert_eq!(whose(&ours, (&post, &other, at), &proof), None);
        assert_eq!(whose(&others, (&post, &uri, at), &proof), None);
        assert_eq!(whose(&ours, (&post, &uri, at), &token), None, "a client's token is none");
        // While keys are replaced the other one may have the old key alone.
        let both = Config { previous: Some("k".repeat(32).parse().unwrap()), ..key(&"n".repeat(32)) };
        let proof =
            write((&Sealer::new(&both).unwrap(), &token), (&post, &uri, at), &Caller::new("ann")).unwrap();
        assert_eq!(whose(&ours, (&post, &uri, at), &proof).as_deref(), Some("ann"));
        let stale = [
            &(now_unix_secs() - FRESH_SECS - 5).to_be_bytes()[..],
            &[255; 8],
            &digest((&post, &uri, at)),
            b"ann",
        ]
        .concat();
        let stale = ours.seal(KIND, &stale).unwrap();
        assert_eq!(whose(&ours, (&post, &uri, at), &stale), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_says_how_long_the_credentials_hold() {
        let sealer = Sealer::new(&Config::default()).unwrap();
        let (post, uri) = (Method::POST, "/messages".parse::<Uri>().unwrap());
        let of = (&post, &uri, Home::at("10.0.0.1:4445".parse().unwrap()));
        let token = sealer.seal(Kind::new("sse"), b"x").unwrap();
        let ends = Instant::now() + Duration::from_millis(90_500);
        for ends in [Some(ends), None] {
            let caller = Caller::until("ann", Revocation::default(), ends);
            let proof = write((&sealer, &token), of, &caller).unwrap();
            assert_eq!(read(&sealer, of, &proof).unwrap().ends(), ends);
        }
        // As it was before it said so.
        let old = [&now_unix_secs().to_be_bytes()[..], &digest(of), b"ann"].concat();
        let old = sealer.seal(Kind::of_size("peer", 4096), &old).unwrap();
        assert!(read(&sealer, of, &old).is_none());
    }
}
