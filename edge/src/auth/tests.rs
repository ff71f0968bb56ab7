//! Which headers make a caller, and what the others are told.

use http::StatusCode;
use http::header::HeaderValue;
use prometheus_client::registry::Registry;
use serde_json::json;
use testkit::issuer::Signer;

use super::oauth::tests::{claims, with_keys};
use super::*;

const AT: Endpoint<'static> = Endpoint { path: ["/mcp", ""], server: None };

async fn caller(auth: &Authenticator, values: &[&str]) -> Result<Caller, Denied> {
    auth.authenticate(&headers(values), AT).await
}

async fn challenge(auth: &Authenticator, values: &[&str]) -> String {
    let denied = caller(auth, values).await.unwrap_err();
    denied.challenge.unwrap().to_str().unwrap().to_owned()
}

fn authenticator(tokens: &[(&str, &str)]) -> Authenticator {
    let tokens = tokens
        .iter()
        .map(|(secret, principal)| Token {
            secret: Secret::parse(secret).unwrap(),
            principal: (*principal).into(),
        })
        .collect();
    Authenticator::new(Config { tokens, ..Config::default() })
}

fn headers(values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
}

#[tokio::test]
async fn each_token_stands_for_its_principal() {
    let auth = authenticator(&[("old", "ci"), ("new", "ci"), ("other", "alice")]);
    for (token, principal) in [("old", "ci"), ("new", "ci"), ("other", "alice")] {
        for value in [format!("Bearer {token}"), format!("bearer   {token} ")] {
            let caller = caller(&auth, &[&value]).await.unwrap();
            assert_eq!(&**caller.principal(), principal, "{value}");
        }
    }
}

#[tokio::test]
async fn a_request_without_a_token_is_challenged_without_an_error_code() {
    let auth = authenticator(&[("secret", "ci")]);
    for values in [&[][..], &["Basic c2VjcmV0"], &["Bearer"], &["Bearersecret"], &["secret"]] {
        assert_eq!(challenge(&auth, values).await, r#"Bearer realm="mcp-edge""#, "{values:?}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_called_invalid() {
    let auth = authenticator(&[("secret", "ci")]);
    for values in [&["Bearer secre"][..], &["Bearer secrets"], &["Bearer "]] {
        assert_eq!(
            challenge(&auth, values).await,
            r#"Bearer realm="mcp-edge", error="invalid_token""#,
            "{values:?}"
        );
    }
}

#[tokio::test]
async fn two_tokens_make_no_request() {
    let auth = authenticator(&[("secret", "ci")]);
    let denied = caller(&auth, &["Bearer secret", "Bearer secret"]).await.unwrap_err();
    assert_eq!(denied.status, StatusCode::BAD_REQUEST);
    assert_eq!(denied.challenge.unwrap(), r#"Bearer realm="mcp-edge", error="invalid_request""#);
}

#[tokio::test]
async fn nobody_comes_in_by_default() {
    let auth = Authenticator::new(Config::default());
    assert!(caller(&auth, &[]).await.is_err());
    assert!(caller(&auth, &["Bearer "]).await.is_err());
}

#[tokio::test]
async fn everybody_is_anonymous_when_that_is_allowed() {
    let auth = Authenticator::new(Config { allow_unauthenticated: true, ..Config::default() });
    for values in [&[][..], &["Bearer whatever"]] {
        assert_eq!(&**caller(&auth, values).await.unwrap().principal(), ANONYMOUS);
    }
}

#[tokio::test]
async fn tokens_are_asked_for_even_where_none_would_do() {
    let token = Token { secret: Secret::parse("secret").unwrap(), principal: "ci".into() };
    let auth = Authenticator::new(Config { tokens: vec![token], allow_unauthenticated: true, oauth: None });
    assert!(caller(&auth, &[]).await.is_err());
}

#[test]
fn a_secret_does_not_show_itself() {
    let config = Config {
        tokens: vec![Token { secret: Secret::parse("hunter2").unwrap(), principal: "ci".into() }],
        ..Config::default()
    };
    assert!(!format!("{config:?} {:?}", Authenticator::new(config.clone())).contains("hunter2"));
}

#[test]
fn a_secret_that_no_header_can_carry_is_refused() {
    for text in ["", " ", "two words", "new\nline", "café"] {
        assert!(Secret::parse(text).is_none(), "{text:?}");
    }
}

#[tokio::test]
async fn refusals_are_counted_by_reason() {
    let auth = authenticator(&[("secret", "ci")]);
    caller(&auth, &[]).await.unwrap_err();
    caller(&auth, &["Bearer x"]).await.unwrap_err();
    caller(&auth, &["Bearer y"]).await.unwrap_err();
    let mut registry = Registry::default();
    auth.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains(r#"auth_refused_total{reason="missing"} 1"#), "{text}");
    assert!(text.contains(r#"auth_refused_total{reason="unknown"} 2"#), "{text}");
}

fn metric(auth: &Authenticator, name: &str) -> String {
    let (mut registry, mut text) = (Registry::default(), String::new());
    auth.metrics().register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_default().to_owned()
}

/// Beside a configured token.
fn with_oauth(signer: &Signer) -> Config {
    let token = Token { secret: Secret::parse("secret").unwrap(), principal: "default".into() };
    Config { tokens: vec![token], oauth: Some(with_keys(&[signer])), allow_unauthenticated: true }
}

#[tokio::test]
async fn both_kinds_of_tokens_are_taken_side_by_side_and_their_names_never_meet() {
    let signer = Signer::new("k", "ES256");
    let auth = Authenticator::new(with_oauth(&signer));
    let token = signer.token(&claims("default"));
    let (configured, issued) = (
        caller(&auth, &["Bearer secret"]).await.unwrap(),
        caller(&auth, &[&format!("bearer {token}")]).await.unwrap(),
    );
    assert_eq!((&**configured.principal(), &**issued.principal()), ("default", "oauth:default"));
    assert_ne!(configured, issued);
    assert!(caller(&auth, &[]).await.is_err(), "nobody is anonymous here");
    assert!(caller(&auth, &["Bearer secret.secret.secret"]).await.is_err());
}

#[tokio::test]
async fn a_challenge_says_where_tokens_are_to_be_had_and_which() {
    let signer = Signer::new("k", "ES256");
    let auth = Authenticator::new(with_oauth(&signer));
    let metadata =
        r#"resource_metadata="https://edge.example/.well-known/oauth-protected-resource/mcp", scope="mcp""#;
    assert_eq!(challenge(&auth, &[]).await, format!(r#"Bearer realm="mcp-edge", {metadata}"#));
    let invalid = challenge(&auth, &["Bearer wrong"]).await;
    assert!(
        invalid.starts_with(r#"Bearer realm="mcp-edge", error="invalid_token", error_description="#),
        "{invalid}"
    );
    assert!(invalid.ends_with(metadata), "{invalid}");
    let mut poor = claims("ann");
    poor["scope"] = json!("openid");
    let denied = caller(&auth, &[&format!("Bearer {}", signer.token(&poor))]).await.unwrap_err();
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    let challenge = denied.challenge.unwrap().to_str().unwrap().to_owned();
    assert!(
        challenge.contains(r#"error="insufficient_scope""#) && challenge.ends_with(metadata),
        "{challenge}"
    );
    // What others write into a path stays out of it.
    for (path, shown) in
        [("/servers/time/mcp", "/servers/time/mcp"), ("/servers/a\"b/mcp", ""), ("/sse", "/sse")]
    {
        let denied =
            auth.authenticate(&headers(&[]), Endpoint { path: [path, ""], server: None }).await.unwrap_err();
        let url = format!("https://edge.example/.well-known/oauth-protected-resource{shown}\"");
        assert!(denied.challenge.unwrap().to_str().unwrap().contains(&url), "{path}");
    }
}

#[tokio::test]
async fn without_keys_nobody_is_sent_to_log_in() {
    let signer = Signer::new("k", "ES256");
    // Nobody listens there, and nobody fetches.
    let keys = oauth::Source::Url("http://127.0.0.1:1/jwks".parse().unwrap());
    let pace = oauth::Pace { wait: std::time::Duration::from_millis(1), ..oauth::Pace::default() };
    let oauth = oauth::Config { keys, pace, ..with_keys(&[&signer]) };
    let auth = Authenticator::new(Config { oauth: Some(oauth), ..with_oauth(&signer) });
    let denied = caller(&auth, &[&format!("Bearer {}", signer.token(&claims("ann")))]).await.unwrap_err();
    assert_eq!((denied.status, denied.challenge), (StatusCode::SERVICE_UNAVAILABLE, None));
    assert!(denied.retry_after_secs.is_some());
    assert!(caller(&auth, &["Bearer secret"]).await.is_ok(), "configured tokens need no issuer");
    assert_eq!(caller(&auth, &["Bearer wrong"]).await.unwrap_err().status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn another_issuer_or_none_takes_back_what_its_tokens_opened() {
    let signer = Signer::new("k", "ES256");
    let config = with_oauth(&signer);
    let auth = Authenticator::new(config.clone());
    let token = format!("Bearer {}", signer.token(&claims("ann")));
    let before = caller(&auth, &[&token]).await.unwrap();
    let fewer = Config { tokens: Vec::new(), ..config.clone() };
    auth.replace(fewer.clone());
    assert!(!before.is_over(), "the same issuer goes on");
    assert_eq!(metric(&auth, "oauth_keys"), "1", "and so does what is told of it");
    let other = oauth::Config { scopes: Vec::new(), ..with_keys(&[&signer]) };
    auth.replace(Config { oauth: Some(other), ..fewer });
    assert!(before.is_over());
    let after = caller(&auth, &[&token]).await.unwrap();
    auth.replace(Config { oauth: None, ..config });
    assert!(after.is_over() && caller(&auth, &[&token]).await.is_err());
    assert!(!auth.has_metadata());
    assert_eq!(metric(&auth, "oauth_keys"), "0");
}

#[tokio::test]
async fn metadata_is_of_the_gateway_or_of_the_endpoint_in_the_path() {
    let auth = Authenticator::new(with_oauth(&Signer::new("k", "ES256")));
    let metadata = |path: &str| -> serde_json::Value {
        serde_json::from_str(&auth.metadata(path, |path| path != "/nowhere").unwrap()).unwrap()
    };
    let common = json!({
        "resource": "https://edge.example/mcp", "authorization_servers": ["https://idp.example/realms/team"],
        "bearer_methods_supported": ["header"], "scopes_supported": ["mcp"], "resource_name": "mcp-edge",
    });
    assert_eq!((metadata(""), metadata("/mcp")), (common.clone(), common));
    assert_eq!(metadata("/servers/time/mcp")["resource"], "https://edge.example/servers/time/mcp");
    assert!(auth.metadata("/nowhere", |path| path != "/nowhere").is_none());
}

#[tokio::test]
async fn what_changes_beside_the_terms_ends_nothing_and_a_key_takes_its_own_along() {
    let (a, b, c) = (Signer::new("a", "ES256"), Signer::new("b", "ES256"), Signer::new("c", "ES256"));
    let with = |signers: &[&Signer]| Config { oauth: Some(with_keys(signers)), ..with_oauth(&a) };
    let auth = Authenticator::new(with(&[&a, &b]));
    let of =
        async |signer: &Signer| caller(&auth, &[&format!("Bearer {}", signer.token(&claims("ann")))]).await;
    let (one, other) = (of(&a).await.unwrap(), of(&b).await.unwrap());
    auth.replace(with(&[&c, &a, &b]));
    assert!(!one.is_over() && !other.is_over() && of(&c).await.is_ok());
    assert_eq!(metric(&auth, "oauth_keys"), "3");
    assert_eq!(metric(&auth, "oauth_keys_fetched_timestamp_seconds"), "0", "nobody fetched them");
    let authorities = Config {
        oauth: Some(oauth::Config { authorities: Some("ca.pem".into()), ..with_keys(&[&a]) }),
        ..with_oauth(&a)
    };
    auth.replace(authorities);
    assert!(!one.is_over() && other.is_over() && of(&b).await.is_err());
}

#[tokio::test]
async fn names_stay_those_of_one_issuer_while_it_serves() {
    let signer = Signer::new("k", "ES256");
    let config = with_oauth(&signer);
    let auth = Authenticator::new(config.clone());
    let token = format!("Bearer {}", signer.token(&claims("ann")));
    let before = caller(&auth, &[&token]).await.unwrap();
    let changed = |change: &dyn Fn(&mut oauth::Config)| {
        let mut oauth = with_keys(&[&signer]);
        change(&mut oauth);
        Config { tokens: Vec::new(), oauth: Some(oauth), allow_unauthenticated: true }
    };
    let (issuer, claim) = (
        changed(&|oauth| oauth.issuer = "https://other.example".parse().unwrap()),
        changed(&|oauth| oauth.principal = "email".to_owned()),
    );
    assert_eq!(auth.restart_only_change(&issuer), Some("auth.oauth.issuer"));
    assert_eq!(auth.restart_only_change(&claim), Some("auth.oauth.principal"));
    assert_eq!(auth.restart_only_change(&config), None);
    // Also after a time without any: what was opened before may be there still.
    let without = Config { oauth: None, ..config.clone() };
    assert_eq!(auth.restart_only_change(&without), None);
    auth.replace(without);
    assert!(before.is_over());
    assert_eq!(auth.restart_only_change(&issuer), Some("auth.oauth.issuer"));
    assert_eq!(auth.restart_only_change(&config), None);
    auth.replace(config);
    assert!(caller(&auth, &[&token]).await.is_ok());
}

#[tokio::test]
async fn a_key_that_was_replaced_under_its_name_is_fetched() {
    let (old, new) = (Signer::new("k", "ES256"), Signer::new("k", "ES256"));
    let issuer = testkit::issuer::Issuer::start(&[&old]).await;
    let pace = oauth::Pace { between: std::time::Duration::ZERO, ..oauth::Pace::default() };
    let edge = "https://edge.example/mcp";
    let oauth =
        oauth::Config { pace, ..oauth::Config::new(edge.parse().unwrap(), issuer.name().parse().unwrap()) };
    let auth = Authenticator::new(Config { oauth: Some(oauth), ..Config::default() });
    let drain = crate::ops::drain::Drain::new();
    let keeping = tokio::spawn(auth.clone().keep_fresh(drain.watch()));
    let token = |signer: &Signer| format!("Bearer {}", signer.token(&issuer.claims(edge, "ann")));
    assert!(caller(&auth, &[&token(&old)]).await.is_ok());
    issuer.publish(&[&new]);
    assert!(caller(&auth, &[&token(&new)]).await.is_ok());
    keeping.abort();
}
