//! `auth.oauth`: its settings and its problems.

use edge::auth::oauth::Source;
use testkit::issuer::{Signer, key_set};

use super::*;

const GOOD: &str = "resource: https://edge.example/mcp, issuer: https://idp.example";

fn oauth(test: &str, text: &str) -> edge::auth::Config {
    let file = Written::new(test, &format!("servers: {{a: {{}}}}\nauth: {{oauth: {{{text}}}}}"));
    match run(&["--config", &file.path()], &[]) {
        Ok(Command::Serve(config)) => config.auth,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_issuer_is_enough_to_listen_to_a_network() {
    let auth = oauth("oauth", GOOD);
    assert!(!auth.allow_unauthenticated && auth.tokens.is_empty());
    let config = auth.oauth.unwrap();
    assert_eq!(
        (config.resource.as_str(), config.issuer.as_str()),
        ("https://edge.example/mcp", "https://idp.example")
    );
    assert_eq!((config.keys, config.principal.as_str()), (Source::Discovered, "sub"));
    assert!(config.scopes.is_empty() && config.audience.is_empty() && config.authorities.is_none());
    let auth = oauth(
        "oauth-more",
        &format!(
            "{GOOD}, scopes: [mcp, tools], audience: 'api://x', principal: oid, keys: {{url: https://idp.example/jwks}}"
        ),
    );
    let config = auth.oauth.unwrap();
    assert_eq!(
        (config.scopes, config.audience),
        (vec!["mcp".to_owned(), "tools".to_owned()], vec!["api://x".to_owned()])
    );
    assert!(matches!(config.keys, Source::Url(_)) && config.principal == "oid");
}

#[test]
fn configured_tokens_stay_beside_it() {
    let file = Written::new("oauth-beside", &format!("servers: {{a: {{}}}}\nauth: {{oauth: {{{GOOD}}}}}"));
    let config = serve(&["--config", &file.path()]);
    assert!(config.auth.tokens.len() == 1 && config.auth.oauth.is_some());
}

#[test]
fn keys_may_be_in_a_file_beside_the_configuration() {
    let text = format!("servers: {{a: {{}}}}\nauth: {{oauth: {{{GOOD}, keys: {{file: keys.json}}}}}}");
    let file = Written::new("oauth-keys", &text);
    let said = || run(&["--config", &file.path()], &[]).unwrap_err();
    assert!(said().contains("auth.oauth.keys.file: ") && said().contains("cannot be used: "), "{}", said());
    for (text, why) in
        [("{}", "no list `keys`"), ("x", "not JSON"), (r#"{"keys": [{"kty": "oct"}]}"#, "none of its 1 keys")]
    {
        fs::write(file.0.join("keys.json"), text).unwrap();
        assert!(said().contains(why), "{}", said());
    }
    fs::write(file.0.join("keys.json"), key_set(&[&Signer::new("k", "ES256")]).to_string()).unwrap();
    match run(&["--config", &file.path()], &[]) {
        Ok(Command::Serve(config)) => {
            assert!(matches!(config.auth.oauth.unwrap().keys, Source::File(keys) if keys.len() == 1));
            assert!(
                config.files.files().contains(&file.0.join("keys.json")),
                "it is looked at while serving"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_work_is_told_with_its_key() {
    let text = r#"
auth:
  oauth:
    resource: http://edge.example/mcp
    issuer: https://idp.example/?tenant=1
    scopes: ["two words", offline_access, 'a"b']
    keys: {url: http://idp.example/jwks}
    principle: sub
    ca: missing.pem
"#;
    let said = complaints("oauth-wrong", text);
    for (line, start) in [
        ("4: auth.oauth.resource", "`http://edge.example/mcp` must begin with https://"),
        ("5: auth.oauth.issuer", "`https://idp.example/?tenant=1` is not an issuer"),
        ("6: auth.oauth.scopes[0]", "`two words` is not a scope"),
        ("6: auth.oauth.scopes[1]", "`offline_access` is for clients"),
        ("6: auth.oauth.scopes[2]", "`a\"b` is not a scope"),
        ("7: auth.oauth.keys.url", "`http://idp.example/jwks` must begin with https://"),
        ("8: auth.oauth.principle", "there is no such key; the nearest is `auth.oauth.principal`"),
        ("9: auth.oauth.ca", ""),
    ] {
        let wanted = format!("edge.yaml:{line}: {start}");
        assert!(said.iter().any(|said| said.starts_with(&wanted)), "{wanted}\nis not in\n{said:#?}");
    }
    assert_eq!(said.len(), 8, "{said:#?}");
    for (test, text, why) in [
        ("oauth-none", "auth: {oauth: {}}", "both `resource` and `issuer` belong here"),
        (
            "oauth-half",
            "auth: {oauth: {issuer: https://idp.example}}",
            "both `resource` and `issuer` belong here",
        ),
        (
            "oauth-both",
            "auth: {oauth: {resource: https://e/mcp, issuer: https://i, keys: {}}}",
            "either `url` or `file`",
        ),
    ] {
        let said = complaints(test, text);
        assert!(said.len() == 1 && said[0].contains(why), "{said:?}");
    }
}

#[test]
fn no_configured_token_takes_a_name_of_the_issuers_users() {
    let text = "auth: {tokens: [{env: MCP_GATEWAY_AUTH_TOKEN, principal: 'oauth:ann'}]}";
    let said = complaints("oauth-name", text);
    assert!(said.len() == 1 && said[0].contains("stands for `oauth:ann`"), "{said:?}");
}
