//! Which headers make a caller, and what the others are told.

use super::*;

fn authenticator(tokens: &[(&str, &str)]) -> Authenticator {
    let tokens = tokens
        .iter()
        .map(|(secret, principal)| Token {
            secret: Secret::parse(secret).unwrap(),
            principal: (*principal).into(),
        })
        .collect();
    Authenticator::new(Config { tokens, allow_unauthenticated: false })
}

fn headers(values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
}

#[test]
fn each_token_stands_for_its_principal() {
    let auth = authenticator(&[("old", "ci"), ("new", "ci"), ("other", "alice")]);
    for (token, principal) in [("old", "ci"), ("new", "ci"), ("other", "alice")] {
        for value in [format!("Bearer {token}"), format!("bearer   {token} ")] {
            let caller = auth.authenticate(&headers(&[&value])).unwrap();
            assert_eq!(&**caller.principal(), principal, "{value}");
        }
    }
}

#[test]
fn a_request_without_a_token_is_challenged_without_an_error_code() {
    let auth = authenticator(&[("secret", "ci")]);
    for values in [&[][..], &["Basic c2VjcmV0"], &["Bearer"], &["Bearersecret"], &["secret"]] {
        let refusal = auth.authenticate(&headers(values)).unwrap_err();
        assert_eq!(refusal.challenge, r#"Bearer realm="mcp-edge""#, "{values:?}");
    }
}

#[test]
fn a_wrong_token_is_called_invalid() {
    let auth = authenticator(&[("secret", "ci")]);
    for values in
        [&["Bearer secre"][..], &["Bearer secrets"], &["Bearer "], &["Bearer secret", "Bearer secret"]]
    {
        let refusal = auth.authenticate(&headers(values)).unwrap_err();
        assert_eq!(refusal.challenge, r#"Bearer realm="mcp-edge", error="invalid_token""#, "{values:?}");
    }
}

#[test]
fn nobody_comes_in_by_default() {
    let auth = Authenticator::new(Config::default());
    assert!(auth.authenticate(&headers(&[])).is_err());
    assert!(auth.authenticate(&headers(&["Bearer "])).is_err());
}

#[test]
fn everybody_is_anonymous_when_that_is_allowed() {
    let auth = Authenticator::new(Config { tokens: Vec::new(), allow_unauthenticated: true });
    for values in [&[][..], &["Bearer whatever"]] {
        assert_eq!(&**auth.authenticate(&headers(values)).unwrap().principal(), ANONYMOUS);
    }
}

#[test]
fn tokens_are_asked_for_even_where_none_would_do() {
    let token = Token { secret: Secret::parse("secret").unwrap(), principal: "ci".into() };
    let auth = Authenticator::new(Config { tokens: vec![token], allow_unauthenticated: true });
    assert!(auth.authenticate(&headers(&[])).is_err());
}

#[test]
fn a_secret_does_not_show_itself() {
    let config = Config {
        tokens: vec![Token { secret: Secret::parse("hunter2").unwrap(), principal: "ci".into() }],
        allow_unauthenticated: false,
    };
    assert!(!format!("{config:?} {:?}", Authenticator::new(config.clone())).contains("hunter2"));
}

#[test]
fn a_secret_that_no_header_can_carry_is_refused() {
    for text in ["", " ", "two words", "new\nline", "café"] {
        assert!(Secret::parse(text).is_none(), "{text:?}");
    }
}

#[test]
fn refusals_are_counted_by_reason() {
    let auth = authenticator(&[("secret", "ci")]);
    auth.authenticate(&headers(&[])).unwrap_err();
    auth.authenticate(&headers(&["Bearer x"])).unwrap_err();
    auth.authenticate(&headers(&["Bearer y"])).unwrap_err();
    let mut registry = Registry::default();
    auth.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains(r#"auth_refused_total{reason="missing"} 1"#), "{text}");
    assert!(text.contains(r#"auth_refused_total{reason="unknown"} 2"#), "{text}");
}
