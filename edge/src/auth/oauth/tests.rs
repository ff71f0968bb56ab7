//! Tokens signed for the test, and an issuer that comes and goes.

use serde_json::Value;
use testkit::issuer::{self, Signer, base64url, key_set, now, part};
use tokio::time::timeout;

use super::*;

const EDGE: &str = "https://edge.example/mcp";

/// What the claims of the tests are made for.
pub(crate) fn config() -> Config {
    Config {
        audience: vec!["api://further".to_owned()],
        scopes: vec!["mcp".to_owned()],
        ..Config::new(EDGE.parse().unwrap(), "https://idp.example/realms/team".parse().unwrap())
    }
}

/// The same with these keys.
pub(crate) fn with_keys(signers: &[&Signer]) -> Config {
    Config { keys: Source::File(Keys::of(&key_set(signers)).unwrap()), ..config() }
}

/// What a good token says.
pub(crate) fn claims(subject: &str) -> Value {
    json!({
        "iss": "https://idp.example/realms/team", "aud": EDGE, "sub": subject, "scope": "mcp",
        "exp": now() + 60,
    })
}

impl Authority {
    /// By the keys in force.
    fn caller(&self, token: &[u8], server: Option<&str>) -> Result<Caller, AuthError> {
        self.caller_by(self.keys().as_deref(), token, server)
    }
}

fn authority(signers: &[&Signer]) -> Authority {
    Authority::new(with_keys(signers), Metrics::default())
}

fn error(authority: &Authority, token: &str) -> AuthError {
    authority.caller(token.as_bytes(), None).unwrap_err()
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_verified() {
    for algorithm in
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "Ed25519"]
    {
        let (signer, other) = (Signer::new("k", algorithm), Signer::new("o", "ES256"));
        let authority = authority(&[&other, &signer]);
        let token = signer.token(&claims("ann"));
        let caller =
            authority.caller(token.as_bytes(), None).unwrap_or_else(|error| panic!("{algorithm}: {error:?}"));
        assert_eq!(&**caller.principal(), "oauth:ann");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let forged = signed.replace(&part(&claims("ann")), &part(&claims("eve")));
        assert_ne!(forged, signed);
        assert_eq!(error(&authority, &format!("{forged}.{signature}")), AuthError::Signature, "{algorithm}");
        for signature in ["", "AA", &base64url(&[0; 64]), &base64url(&[0; 96]), &base64url(&[0; 256])] {
            assert_eq!(
                error(&authority, &format!("{signed}.{signature}")),
                AuthError::Signature,
                "{algorithm}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_cannot_say_how_it_is_to_be_verified() {
    let (rsa, ec) = (Signer::new("rsa", "RS256"), Signer::new("ec", "ES256"));
    let authority = authority(&[&rsa, &ec]);
    let unsigned = format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims("eve")));
    assert_eq!(error(&authority, &unsigned), AuthError::Algorithm);
    // The public key as the secret of an HMAC: whatever the signature, nobody computes it here.
    for alg in ["HS256", "HS512"] {
        let token = rsa.sign(&json!({"alg": alg, "kid": "rsa"}), &claims("eve"));
        assert_eq!(error(&authority, &token), AuthError::Algorithm, "{alg}");
    }
    // A key of one kind under the algorithm of another.
    for (signer, alg, id) in
        [(&ec, "RS256", "ec"), (&rsa, "ES256", "rsa"), (&ec, "ES384", "ec"), (&ec, "EdDSA", "ec")]
    {
        let token = signer.sign(&json!({"alg": alg, "kid": id}), &claims("eve"));
        assert_eq!(error(&authority, &token), AuthError::Key, "{alg} {id}");
    }
    // A padding that was not signed with.
    let token = rsa.sign(&json!({"alg": "PS256", "kid": "rsa"}), &claims("eve"));
    assert_eq!(error(&authority, &token), AuthError::Signature);
    // Keys of its own.
    let own = Signer::new("own", "ES256");
    for header in [
        json!({"alg": "ES256", "jwk": own.public()}),
        json!({"alg": "ES256", "kid": "own", "jku": "https://evil.example/jwks"}),
        json!({"alg": "ES256", "kid": "ec", "jwk": own.public()}),
    ] {
        let why = error(&authority, &own.sign(&header, &claims("eve")));
        assert!(matches!(why, AuthError::Key | AuthError::Signature), "{header}: {why:?}");
    }
}

#[tokio::test]
async fn claims_count_only_under_a_signature_and_scopes_last() {
    let signer = Signer::new("k", "ES256");
    let authority = authority(&[&signer]);
    let with = |name: &str, value: Value| {
        let mut claims = claims("ann");
        claims[name] = value;
        claims
    };
    for (claims, why) in [
        (with("iss", json!("https://evil.example")), AuthError::Issuer),
        (with("aud", json!("https://other.example")), AuthError::Audience),
        (with("exp", json!(now() - 31)), AuthError::Expired),
        (with("nbf", json!(now() + 60)), AuthError::NotYet),
        (with("sub", json!("a\nb")), AuthError::Principal),
        (with("scope", json!("other")), AuthError::Scope),
        (with("exp", json!("soon")), AuthError::Malformed),
    ] {
        assert_eq!(error(&authority, &signer.token(&claims)), why, "{claims}");
    }
    // Whoever cannot sign does not hear which scopes would do.
    let stranger = Signer::new("k", "ES256");
    assert_eq!(error(&authority, &stranger.token(&with("scope", json!("other")))), AuthError::Signature);
}

#[tokio::test(start_paused = true)]
async fn a_known_token_is_not_verified_again_until_it_runs_out() {
    let signer = Signer::new("k", "ES256");
    let authority = authority(&[&signer]);
    let token = signer.token(&claims("ann"));
    let caller = authority.caller(token.as_bytes(), None).unwrap();
    // Without keys nothing can be verified.
    authority.keyring.forget();
    assert_eq!(authority.caller(token.as_bytes(), Some("time")).unwrap(), caller);
    assert!(!caller.is_over());
    tokio::time::advance(Duration::from_secs(60 + LEEWAY_SECS)).await;
    assert!(caller.is_over());
    assert_eq!(error(&authority, &token), AuthError::NoKeys, "it has to be looked at anew");
}

#[tokio::test]
async fn a_token_for_one_server_counts_there_known_or_not() {
    let signer = Signer::new("k", "ES256");
    let authority = authority(&[&signer]);
    let mut claims = claims("ann");
    claims["aud"] = json!("https://edge.example/servers/time/mcp");
    let token = signer.token(&claims);
    for _ in 0..2 {
        assert!(authority.caller(token.as_bytes(), Some("time")).is_ok());
        assert_eq!(authority.caller(token.as_bytes(), Some("other")), Err(AuthError::Audience));
        assert_eq!(authority.caller(token.as_bytes(), None), Err(AuthError::Audience));
    }
}

/// An authority whose issuer is at hand, with no time between fetches.
async fn with_issuer(signers: &[&Signer], between: Duration) -> (Arc<Authority>, issuer::Issuer) {
    let issuer = issuer::Issuer::start(signers).await;
    let pace = Pace { between, ..Pace::default() };
    let config = Config { pace, ..Config::new(EDGE.parse().unwrap(), issuer.name().parse().unwrap()) };
    (Arc::new(Authority::new(config, Metrics::default())), issuer)
}

fn kept_fresh(authority: &Arc<Authority>) -> tokio_util::task::AbortOnDropHandle<()> {
    let authority = authority.clone();
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { authority.keep_fresh().await }))
}

#[tokio::test]
async fn keys_are_found_fetched_and_replaced_while_old_tokens_go() {
    let (old, new) = (Signer::new("old", "ES256"), Signer::new("new", "EdDSA"));
    let (authority, issuer) = with_issuer(&[&old], Duration::ZERO).await;
    let token = |signer: &Signer| signer.token(&issuer.claims(EDGE, "ann"));
    let (of_old, of_new) = (token(&old), token(&new));
    assert_eq!(error(&authority, &of_old), AuthError::NoKeys);
    let _keeping = kept_fresh(&authority);
    assert!(authority.wait_for_new_keys().await, "the first client waits for the first keys");
    assert!(authority.caller(of_old.as_bytes(), None).is_ok());
    assert_eq!(error(&authority, &of_new), AuthError::Key);
    issuer.publish(&[&new]);
    assert!(authority.wait_for_new_keys().await);
    assert!(authority.caller(of_new.as_bytes(), None).is_ok());
    assert_eq!(error(&authority, &of_old), AuthError::Key, "known as it was, its key counts no longer");
    // An issuer that is away, or answers nonsense, takes no keys with it.
    issuer.publish(&[]);
    assert!(authority.wait_for_new_keys().await, "a fetch has ended");
    assert!(authority.caller(token(&new).as_bytes(), None).is_ok());
}

#[tokio::test]
async fn strange_keys_do_not_hammer_the_issuer() {
    let signer = Signer::new("k", "ES256");
    let (authority, issuer) = with_issuer(&[&signer], Duration::from_secs(30)).await;
    let _keeping = kept_fresh(&authority);
    assert!(authority.wait_for_new_keys().await);
    for number in 0..100 {
        let stranger = Signer::new(&format!("strange-{number}"), "ES256");
        assert_eq!(error(&authority, &stranger.token(&issuer.claims(EDGE, "eve"))), AuthError::Key);
        assert!(!authority.wait_for_new_keys().await, "nobody waits, either");
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn a_document_without_end_is_none_and_the_keys_before_it_stay() {
    let (signer, endless) = (Signer::new("k", "ES256"), Signer::new(&"k".repeat(1 << 20), "ES256"));
    let (authority, issuer) = with_issuer(&[&signer], Duration::ZERO).await;
    let _keeping = kept_fresh(&authority);
    assert!(authority.wait_for_new_keys().await);
    issuer.publish(&[&endless]);
    assert!(authority.wait_for_new_keys().await, "a fetch has ended");
    assert_eq!(issuer.fetches(), 2);
    assert!(authority.caller(signer.token(&issuer.claims(EDGE, "ann")).as_bytes(), None).is_ok());
}

/// Waits for a condition, as long as nothing hangs.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

async fn with_pace(signer: &Signer, pace: Pace) -> (Arc<Authority>, issuer::Issuer) {
    let (authority, issuer) = with_issuer(&[signer], Duration::ZERO).await;
    let config = Config { pace, ..authority.config.clone() };
    (Arc::new(Authority::new(config, Metrics::default())), issuer)
}

#[tokio::test]
async fn keys_are_fetched_now_and_then_though_nobody_asks_and_streams_end_with_them() {
    let (old, new) = (Signer::new("old", "ES256"), Signer::new("new", "ES256"));
    let pace = Pace { period: Duration::from_millis(20), ..Pace::default() };
    let (authority, issuer) = with_pace(&old, pace).await;
    let _keeping = kept_fresh(&authority);
    until("the first keys", || authority.keyring.in_force().is_some()).await;
    let caller =
        |signer: &Signer| authority.caller(signer.token(&issuer.claims(EDGE, "ann")).as_bytes(), None);
    let (token, before) = (old.token(&issuer.claims(EDGE, "ann")), caller(&old).unwrap());
    assert!(authority.caller(token.as_bytes(), None).is_ok());
    issuer.publish(&[&old, &new]);
    until("one more key", || caller(&new).is_ok()).await;
    assert!(!before.is_over(), "a key that is added ends nothing");
    issuer.publish(&[&new]);
    until("a key less", || before.is_over()).await;
    assert_eq!(authority.caller(token.as_bytes(), None), Err(AuthError::Key), "known as it was");
    assert!(issuer.fetches() >= 3);
}

#[tokio::test]
async fn a_key_set_without_keys_counts_as_well() {
    let (signer, useless) = (Signer::new("k", "ES256"), Signer::new(&"k".repeat(9), "ES256"));
    let (authority, issuer) = with_issuer(&[&signer], Duration::ZERO).await;
    let _keeping = kept_fresh(&authority);
    assert!(authority.wait_for_new_keys().await);
    let token = signer.token(&issuer.claims(EDGE, "ann"));
    let before = authority.caller(token.as_bytes(), None).unwrap();
    issuer.publish_set(json!({"keys": [{"kty": "oct", "kid": useless.id}]}));
    assert!(authority.wait_for_new_keys().await);
    assert!(before.is_over());
    assert_eq!(error(&authority, &token), AuthError::NoKeys);
}

#[tokio::test]
async fn keys_of_which_the_issuer_says_nothing_any_more_do_not_last() {
    let signer = Signer::new("k", "ES256");
    let pace = Pace { between: Duration::ZERO, oldest: Duration::from_millis(50), ..Pace::default() };
    let (authority, issuer) = with_pace(&signer, pace).await;
    let _keeping = kept_fresh(&authority);
    assert!(authority.wait_for_new_keys().await);
    let token = signer.token(&issuer.claims(EDGE, "ann"));
    let before = authority.caller(token.as_bytes(), None).unwrap();
    issuer.publish(&[]);
    until("keys grow old", || {
        authority.keyring.ask();
        before.is_over()
    })
    .await;
    assert_eq!(error(&authority, &token), AuthError::NoKeys);
}

#[tokio::test]
async fn keys_do_not_last_longer_because_they_are_looked_for_elsewhere() {
    let signer = Signer::new("k", "ES256");
    let pace = Pace { between: Duration::ZERO, oldest: Duration::from_millis(50), ..Pace::default() };
    let (authority, issuer) = with_pace(&signer, pace).await;
    let keeping = kept_fresh(&authority);
    assert!(authority.wait_for_new_keys().await);
    drop(keeping);
    let before = authority.caller(signer.token(&issuer.claims(EDGE, "ann")).as_bytes(), None).unwrap();
    let nowhere = Source::Url("http://127.0.0.1:1/keys".parse().unwrap());
    let next =
        authority.reconfigured(Config { keys: nowhere, ..authority.config.clone() }, Metrics::default());
    assert!(!before.is_over());
    let _keeping = kept_fresh(&next);
    until("keys grow old", || {
        next.keyring.ask();
        before.is_over()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_stands_as_long_as_the_token_says_however_long_that_is() {
    let signer = Signer::new("k", "ES256");
    let authority = authority(&[&signer]);
    for (exp, days) in [(now() + 3 * LONGEST_SECS, 2), (u64::MAX, 1_000)] {
        let mut claims = claims("ann");
        claims["exp"] = json!(exp);
        let caller = authority.caller(signer.token(&claims).as_bytes(), None).unwrap();
        tokio::time::advance(Duration::from_secs(days * LONGEST_SECS)).await;
        assert!(!caller.is_over(), "{exp}");
    }
}

#[tokio::test]
async fn a_reload_asks_for_no_keys_that_are_there() {
    let signer = Signer::new("k", "ES256");
    let (authority, issuer) = with_issuer(&[&signer], Duration::ZERO).await;
    let keeping = kept_fresh(&authority);
    assert!(authority.wait_for_new_keys().await);
    drop(keeping);
    let before = authority.caller(signer.token(&issuer.claims(EDGE, "ann")).as_bytes(), None).unwrap();
    let other = Config { scopes: vec!["mcp".to_owned()], ..authority.config.clone() };
    let next = authority.reconfigured(other, Metrics::default());
    assert!(before.is_over(), "other terms");
    assert!(next.caller(signer.token(&issuer.claims(EDGE, "ann")).as_bytes(), None).is_ok(), "at once");
    let _keeping = kept_fresh(&next);
    tokio::task::yield_now().await;
    assert_eq!(issuer.fetches(), 1);
    assert!(next.wait_for_new_keys().await, "it is asked when there is a reason");
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn nothing_counts_by_terms_that_were_replaced_while_it_was_verified() {
    let signer = Signer::new("k", "ES256");
    let (authority, issuer) = with_issuer(&[&signer], Duration::ZERO).await;
    let _keeping = kept_fresh(&authority);
    assert!(authority.wait_for_new_keys().await);
    let token = signer.token(&issuer.claims(EDGE, "ann"));
    let keys = authority.keys();
    let other = Config { scopes: vec!["other".to_owned()], ..authority.config.clone() };
    let next = authority.reconfigured(other, Metrics::default());
    assert!(next.keys().is_some(), "the key is in force still");
    assert_eq!(authority.caller_by(keys.as_deref(), token.as_bytes(), None), Err(AuthError::Key));
}
