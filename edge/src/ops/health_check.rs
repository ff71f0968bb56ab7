//! `--check-health`: asks a running process whether it is alive, for probes and HEALTHCHECK in images that have
//! no curl.
//!
//! `https` is asked on loopback only, and there the certificate is not verified: it is made out to the public
//! name, the question holds no secret, and whoever answers on loopback is on this machine already.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::bind::Address;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    address: Address,
    tls: bool,
}

impl Target {
    /// The admin listener of this machine, as it is configured.
    pub fn admin(listener: &Address) -> Self {
        // Whoever listens on every address also listens on this one.
        let host = if matches!(listener.host(), "::" | "0.0.0.0") { "127.0.0.1" } else { listener.host() };
        let address = Address::new(host, listener.port());
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(address.to_string()).path_and_query(PATH);
        // A host that makes no URI makes no connection either: the check then fails and names it.
        Self { uri: uri.build().unwrap_or_default(), address, tls: false }
    }

    /// A URL as given on the command line; without a path it means `/health`.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn parse(url: &str) -> Result<Self, BadTarget> {
        let bad = |why| BadTarget { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| bad("it is no URL"))?;
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
        let uri = whole.build().map_err(|_| bad("it is no URL"))?;
        Ok(Self { uri, address, tls })
    }

    /// Asks; the sentence says what was found.
    ///
    /// # Errors
    /// Nobody answered in time, or not with success.
    pub async fn ask(&self) -> Result<String, String> {
        match timeout(DEADLINE, self.status()).await {
            Ok(Ok(status)) if status.is_success() => Ok(format!("{} answers {status}", self.uri)),
            Ok(Ok(status)) => Err(format!("{} answers {status}", self.uri)),
            Ok(Err(error)) => Err(format!("{}: {error}", self.uri)),
            Err(_) => Err(format!("{} does not answer within {} s", self.uri, DEADLINE.as_secs())),
        }
    }

    async fn status(&self) -> Result<http::StatusCode, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect((self.address.host(), self.address.port())).await?;
        if !self.tls {
            return self.get(stream).await;
        }
        let name = ServerName::try_from(self.address.host().to_owned())?;
        self.get(TlsConnector::from(Arc::new(unverified()?)).connect(name, stream).await?).await
    }

    async fn get<S>(&self, stream: S) -> Result<http::StatusCode, Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::get(self.uri.path())
            .header(http::header::HOST, self.address.to_string())
            .body(Empty::<Bytes>::new())?;
        Ok(client.send_request(request).await?.status())
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

fn unverified() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Takes every certificate, but only from who holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What is asked for where nothing else is said.
const PATH: &str = "/health";
/// Kubernetes gives a probe 1 s by default and Docker 30 s; a healthy process needs milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

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
    async fn the_status_decides() {
        let target = Target::parse(&format!("http://{}", answering("200 OK").await)).unwrap();
        assert!(target.ask().await.unwrap().ends_with("/health answers 200 OK"));
        let target = Target::parse(&format!("http://{}/", answering("503 No").await)).unwrap();
        assert!(target.ask().await.unwrap_err().contains("answers 503"));
    }

    #[tokio::test]
    async fn https_on_loopback_takes_the_certificate_of_another_name() {
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
        Target::parse(&format!("https://{address}")).unwrap().ask().await.unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_a_sentence() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let target = Target::admin(&free.to_string().parse().unwrap());
        let sentence = target.ask().await.unwrap_err();
        assert!(sentence.starts_with(&format!("http://{free}/health: ")), "{sentence}");
    }

    #[test]
    fn the_admin_listener_is_asked_on_loopback() {
        for (listener, url) in [
            ("[::]:9090", "http://127.0.0.1:9090/health"),
            ("0.0.0.0:1", "http://127.0.0.1:1/health"),
            ("[::1]:9090", "http://[::1]:9090/health"),
            ("10.0.0.7:9090", "http://10.0.0.7:9090/health"),
        ] {
            assert_eq!(Target::admin(&listener.parse().unwrap()).uri.to_string(), url);
        }
    }

    #[test]
    fn urls_are_judged_before_anything_is_sent() {
        assert!(Target::parse("https://[::1]:8811/health").is_ok());
        assert_eq!(Target::parse("http://edge:9090/ready").unwrap().uri, "http://edge:9090/ready");
        for url in ["", "edge:9090", "/health", "ftp://edge/", "https://edge.example/health"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
