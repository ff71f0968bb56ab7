//! Fetches the keys of an issuer, from the URL of the configuration or from the one in the issuer's metadata.
//!
//! Guarantees: everything is read under TLS or from this machine, no redirect is followed, and responses are bounded in bytes
//! and time. It must not know tokens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use serde_json::Value;

use super::keys::Keys;
use super::resource::is_secure;
use crate::ops::http_client::{FetchError, Options, Trust, fetch};

/// The authorization server, as its tokens name it in `iss`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer(String);

/// A URL to read keys from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysUrl(Uri);

/// Where the keys of the issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Where its metadata says.
    Discovered,
    /// At this URL.
    Url(KeysUrl),
    /// These keys, from a file.
    File(Keys),
}

/// Why no keys could be fetched, in one sentence.
#[derive(Debug)]
pub struct NoKeys(String);

impl Issuer {
    /// As configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Issuer {
    type Err = String;

    // RFC 8414 §2: https, no query, no fragment
    fn from_str(text: &str) -> Result<Self, String> {
        let is_url = |uri: Uri| uri.scheme().is_some() && uri.host().is_some_and(|host| !host.is_empty());
        let fits = text.parse().is_ok_and(is_url);
        if !fits || text.contains(['?', '#', '@']) {
            return Err(format!(
                "`{text}` is not an issuer: https://, a host, perhaps a path, and no query, fragment or user; it is what \
                 `iss` says in its tokens, to the letter"
            ));
        }
        is_secure(text).map_err(|why| format!("`{text}` {why}"))?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for KeysUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
        is_secure(text).map_err(|why| format!("`{text}` {why}"))?;
        Ok(Self(uri))
    }
}

impl Source {
    /// Whether both are the same place, whose keys may have changed.
    pub(super) fn is_place_of(&self, other: &Self) -> bool {
        matches!((self, other), (Self::File(_), Self::File(_))) || self == other
    }

    /// Reads the keys. Returns them with the place where they are.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn keys(
        &self,
        issuer: &Issuer,
        authorities: Option<PathBuf>,
    ) -> Result<(Keys, String), NoKeys> {
        let url = match self {
            Self::File(keys) => return Ok((keys.clone(), "the file".to_owned())),
            Self::Url(KeysUrl(url)) => url.clone(),
            Self::Discovered => find(issuer, authorities.clone()).await?,
        };
        let because = |why: &dyn fmt::Display| NoKeys(format!("{url}: {why}"));
        let document = fetch(&url, options(authorities)).await.map_err(|error| because(&error))?;
        if !document.status.is_success() {
            return Err(because(&format_args!("it answers {}", document.status)));
        }
        let keys = Keys::of(&document.body).map_err(|why| because(&why))?;
        Ok((keys, url.to_string()))
    }
}

/// Finds the URL of the keys in the issuer's metadata, which may be at one of several URLs.
async fn find(issuer: &Issuer, authorities: Option<PathBuf>) -> Result<Uri, NoKeys> {
    let mut said = Vec::new();
    for url in metadata_urls(issuer) {
        let document = match fetch(&url, options(authorities.clone())).await {
            Ok(document) => document,
            // An issuer that cannot be reached has no other path either.
            Err(
                error @ (FetchError::UnknownHost(_)
                | FetchError::ConnectionRefused { .. }
                | FetchError::Tls(_)),
            ) => {
                return Err(NoKeys(format!("{url}: {error}")));
            }
            Err(error) => {
                said.push(format!("{url}: {error}"));
                continue;
            }
        };
        if !document.status.is_success() {
            said.push(format!("{url} answers {}", document.status));
            continue;
        }
        match keys_url(issuer, &document.body) {
            Ok(keys) => return Ok(keys),
            // Some issuers answer at every path, and the OAuth metadata may lack what the OpenID Connect metadata has.
            Err(why) => said.push(format!("{url}: {why}")),
        }
    }
    Err(NoKeys(format!("{}; where its keys are can be said as `auth.oauth.keys.url`", said.join("; "))))
}

fn options(authorities: Option<PathBuf>) -> Options {
    let trust = Trust::Authorities { file: authorities, setting: "`auth.oauth.ca`" };
    Options { timeout: TIMEOUT, trust, max_response_bytes: MAX_BYTES }
}

/// The URLs of the metadata, in the order in which clients try them.
// MCP 2025-11-25 basic/authorization, Authorization Server Metadata Discovery
fn metadata_urls(Issuer(issuer): &Issuer) -> Vec<Uri> {
    let Ok(uri) = issuer.parse::<Uri>() else { return Vec::new() };
    let origin = format!(
        "{}://{}",
        uri.scheme_str().unwrap_or("https"),
        uri.authority().map_or("", |authority| authority.as_str())
    );
    let path = uri.path().trim_end_matches('/');
    let (oauth, oidc) = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration");
    let mut urls = vec![format!("{origin}{oauth}{path}"), format!("{origin}{oidc}{path}")];
    if !path.is_empty() {
        urls.push(format!("{origin}{path}{oidc}"));
    }
    urls.into_iter().filter_map(|url| url.parse().ok()).collect()
}

fn keys_url(issuer: &Issuer, metadata: &Value) -> Result<Uri, String> {
    let text = |name| metadata.get(name).and_then(Value::as_str);
    // RFC 8414 §3.3, OIDC Discovery §4.3: metadata of another issuer must not be used
    match text("issuer") {
        Some(said) if said == issuer.0 => {}
        Some(said) => {
            return Err(format!(
                "it is of the issuer `{said}`, and not of `{}`; both must be the same to the letter",
                issuer.0
            ));
        }
        None => return Err("it names no issuer".to_owned()),
    }
    let url = text("jwks_uri").ok_or("it does not say where its keys are (`jwks_uri`)")?;
    let KeysUrl(url) = url.parse().map_err(|why| format!("`jwks_uri`: {why}"))?;
    Ok(url)
}

impl fmt::Display for NoKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest wait for one document. 10 s: longer than an issuer takes that answers at all; the next attempt comes soon.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest document that is read. 1 MiB: a hundred times the usual size.
const MAX_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_looked_for_where_issuers_keep_it() {
        let urls = |issuer: &str| -> Vec<String> {
            metadata_urls(&issuer.parse().unwrap()).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            urls("https://idp.example/realms/team"),
            [
                "https://idp.example/.well-known/oauth-authorization-server/realms/team",
                "https://idp.example/.well-known/openid-configuration/realms/team",
                "https://idp.example/realms/team/.well-known/openid-configuration",
            ]
        );
        assert_eq!(
            urls("https://idp.example:8443/"),
            [
                "https://idp.example:8443/.well-known/oauth-authorization-server",
                "https://idp.example:8443/.well-known/openid-configuration",
            ]
        );
    }

    #[test]
    fn metadata_of_somebody_else_leads_nowhere() {
        let issuer: Issuer = "https://idp.example".parse().unwrap();
        let url = |metadata: Value| keys_url(&issuer, &metadata).map(|url| url.to_string());
        let keys = "https://keys.example/jwks";
        assert_eq!(url(json!({"issuer": "https://idp.example", "jwks_uri": keys})).unwrap(), keys);
        for (metadata, why) in [
            (json!({"issuer": "https://idp.example/", "jwks_uri": keys}), "to the letter"),
            (json!({"issuer": "https://evil.example", "jwks_uri": keys}), "evil.example"),
            (json!({"jwks_uri": keys}), "names no issuer"),
            (json!({"issuer": "https://idp.example"}), "jwks_uri"),
            (json!({"issuer": "https://idp.example", "jwks_uri": "http://10.0.0.1/jwks"}), "https://"),
            (json!({"issuer": "https://idp.example", "jwks_uri": "file:///etc/passwd"}), "not a URL"),
        ] {
            let said = url(metadata.clone()).unwrap_err();
            assert!(said.contains(why), "{metadata}: {said}");
        }
    }

    #[tokio::test]
    async fn metadata_that_says_nothing_of_keys_is_not_the_last() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("http://{}", listener.local_addr().unwrap());
        let (keys, said) = (format!("{name}/jwks"), json!({"issuer": name.clone()}));
        let whole = json!({"issuer": name.clone(), "jwks_uri": keys});
        tokio::spawn(async move {
            // Twice with what helps at the second place, and then never.
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                let body = if number == 1 { &whole } else { &said }.to_string();
                let head =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        let issuer = name.parse().unwrap();
        assert_eq!(find(&issuer, None).await.unwrap().to_string(), keys);
        let said = find(&issuer, None).await.unwrap_err().to_string();
        assert!(
            said.contains("oauth-authorization-server") && said.contains("openid-configuration"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn unusable_authorities_are_reported_with_the_setting_of_the_configuration() {
        let source = Source::Url("https://idp.example/jwks".parse().unwrap());
        let issuer = "https://idp.example".parse().unwrap();
        let why = source.keys(&issuer, Some("/no/such/file".into())).await.unwrap_err().to_string();
        assert!(why.contains("cannot be used as `auth.oauth.ca`"), "{why}");
    }

    #[test]
    fn an_issuer_is_a_url_under_tls() {
        for text in
            ["", "idp", "https://", "https://idp/?a", "https://idp/#a", "https://u@idp/", "/realms/team"]
        {
            assert!(Issuer::from_str(text).unwrap_err().contains("not an issuer"), "{text}");
        }
        assert!(Issuer::from_str("http://idp.example").unwrap_err().contains("https://"));
        assert!(Issuer::from_str("http://127.0.0.1:9/realms/a").is_ok());
        assert!(KeysUrl::from_str("http://idp.example/jwks").unwrap_err().contains("https://"));
        assert!(KeysUrl::from_str("jwks.json").unwrap_err().contains("https://"));
    }
}
