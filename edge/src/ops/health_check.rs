//! `--check-health`: asks a running process whether it is alive, for probes and HEALTHCHECK in images without curl.
//!
//! `https` is accepted on loopback only, where the certificate is not verified: it is issued for the public name, the
//! request holds no secret, and whoever answers on loopback is on this machine already.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Uri};
use tokio::time::timeout;

use super::bind::Address;
use super::http_client::{FetchError, HttpConnection, Options, Trust};

/// The URL to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    uri: Uri,
}

impl HealthCheck {
    /// Asks the admin listener of this machine.
    pub fn admin(listener: &Address) -> Self {
        // A listener on every address is also reached on loopback.
        let host = if matches!(listener.host(), "::" | "0.0.0.0") { "127.0.0.1" } else { listener.host() };
        let address = Address::new(host, listener.port());
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(address.to_string()).path_and_query(PATH);
        // A host that does not fit into a URI is not reachable either: the check then fails and names it.
        Self { uri: uri.build().unwrap_or_default() }
    }

    /// Parses the URL of the command line; without a path it means `/health`.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn parse(url: &str) -> Result<Self, BadTarget> {
        let bad = |why| BadTarget { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it must begin with http:// or https://")),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let address = Address::new(host, uri.port_u16().unwrap_or(if tls { 443 } else { 80 }));
        if tls && !address.is_loopback() {
            return Err(bad("https is checked on loopback only, because certificates are not verified here"));
        }
        let path = if uri.path() == "/" { PATH } else { uri.path() };
        let whole = Uri::builder().scheme(if tls { Scheme::HTTPS } else { Scheme::HTTP });
        let whole = whole.authority(address.to_string()).path_and_query(path);
        let uri = whole.build().map_err(|_| bad("it is not a URL"))?;
        Ok(Self { uri })
    }

    /// Asks and describes the answer.
    ///
    /// # Errors
    /// No answer in time, or one without success.
    pub async fn run(&self) -> Result<String, String> {
        match timeout(DEADLINE, self.status()).await {
            Ok(Ok(status)) if status.is_success() => Ok(format!("{} answers {status}", self.uri)),
            Ok(Ok(status)) => Err(format!("{} answers {status}", self.uri)),
            Ok(Err(error)) => Err(format!("{}: {error}", self.uri)),
            Err(_) => Err(format!("{} does not answer within {} s", self.uri, DEADLINE.as_secs())),
        }
    }

    /// The status alone: the body may not end.
    async fn status(&self) -> Result<http::StatusCode, FetchError> {
        // The deadline for the whole exchange passes before that of any step.
        let timeout = DEADLINE * 2;
        let options = Options { timeout, trust: Trust::AnyOnLoopback, max_response_bytes: 0 };
        let request = Request::get(self.uri.path())
            .body(Bytes::new())
            .map_err(|error| FetchError::Local(error.to_string()))?;
        let mut connection = HttpConnection::new(self.uri.clone(), &options)?;
        Ok(connection.send(request).await?.status())
    }
}

/// A URL that cannot be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTarget {
    url: String,
    why: &'static str,
}

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` cannot be checked: {}", self.url, self.why)
    }
}

impl std::error::Error for BadTarget {}

/// The path where the URL has none.
const PATH: &str = "/health";
/// Kubernetes gives a probe 1 s by default and Docker 30 s; a healthy process needs milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::crypto::ring;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with this status line.
    async fn answering(status: &'static str) -> String {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            answer(socket.accept().await.unwrap().0, status).await;
        });
        address.to_string()
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, status: &str) {
        let mut head = [0; 1024];
        let read = stream.read(&mut head).await.unwrap();
        assert!(head[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }

    #[tokio::test]
    async fn health_check_succeeds_by_the_status_alone() {
        let target = HealthCheck::parse(&format!("http://{}", answering("200 OK").await)).unwrap();
        assert!(target.run().await.unwrap().ends_with("/health answers 200 OK"));
        let target = HealthCheck::parse(&format!("http://{}/", answering("503 No").await)).unwrap();
        assert!(target.run().await.unwrap_err().contains("answers 503"));
    }

    #[tokio::test]
    async fn https_on_loopback_accepts_the_certificate_of_another_name() {
        let made = rcgen::generate_simple_self_signed(["edge.example".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            answer(acceptor.accept(socket.accept().await.unwrap().0).await.unwrap(), "200 OK").await;
        });
        HealthCheck::parse(&format!("https://{address}")).unwrap().run().await.unwrap();
    }

    #[tokio::test]
    async fn health_check_without_a_listener_names_the_url() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let target = HealthCheck::admin(&free.to_string().parse().unwrap());
        let sentence = target.run().await.unwrap_err();
        assert!(sentence.starts_with(&format!("http://{free}/health: ")), "{sentence}");
    }

    #[test]
    fn admin_listener_is_checked_on_loopback() {
        for (listener, url) in [
            ("[::]:9090", "http://127.0.0.1:9090/health"),
            ("0.0.0.0:1", "http://127.0.0.1:1/health"),
            ("[::1]:9090", "http://[::1]:9090/health"),
            ("10.0.0.7:9090", "http://10.0.0.7:9090/health"),
        ] {
            assert_eq!(HealthCheck::admin(&listener.parse().unwrap()).uri.to_string(), url);
        }
    }

    #[test]
    fn invalid_url_is_refused_before_anything_is_sent() {
        assert!(HealthCheck::parse("https://[::1]:8811/health").is_ok());
        assert_eq!(HealthCheck::parse("http://edge:9090/ready").unwrap().uri, "http://edge:9090/ready");
        for url in ["", "edge:9090", "/health", "ftp://edge/", "https://edge.example/health"] {
            assert!(HealthCheck::parse(url).is_err(), "{url}");
        }
    }
}
