//! Handshakes against certificates made for the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// A directory of one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mcp-edge-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn config(&self) -> tls::Config {
        let config = tls::Config::new(self.0.join("tls.crt"), self.0.join("tls.key"));
        tls::Config { reload_every: Duration::from_millis(10), ..config }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `edge.test`: (chain PEM, key PEM, certificate).
fn certificate(authority: &Authority) -> (String, String, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let made = CertificateParams::new(["edge.test".to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    (made.pem(), key.serialize_pem(), made.der().clone())
}

/// Replaces a file as renewals do: writes a new one in the same directory, then renames it.
fn write(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::rename(beside, path).unwrap();
}

fn client(authority: &Authority, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

async fn connect(served: &Served, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(served.address).await?;
    let name = ServerName::try_from("edge.test").unwrap();
    guarded(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

async fn serve_tls(tls: tls::Config) -> Served {
    serve(Config { tls: Some(tls), ..Config::default() }, permit::Config::default(), hello).await
}

/// Over TLS as over plain TCP, see `leaving`.
#[tokio::test]
async fn request_over_tls_is_cancelled_when_a_client_with_unread_bytes_leaves() {
    let (directory, authority) = (Directory::new("leaving"), authority());
    let config = directory.config();
    let (cert, key, _) = certificate(&authority);
    write(&config.cert, &cert);
    write(&config.key, &key);
    let never = leaving::Never::default();
    let config = Config { tls: Some(config), ..Config::default() };
    let served = serve(config, permit::Config::default(), never.handler()).await;
    let mut stream = connect(&served, client(&authority, &[])).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: edge\r\n\r\n").await.unwrap();
    never.requests(1).await;
    stream.write_all(b"\r\n").await.unwrap();
    stream.flush().await.unwrap();
    drop(stream);
    never.requests(0).await;
}

#[tokio::test]
async fn the_protocol_is_agreed_in_the_handshake() {
    let (directory, authority) = (Directory::new("alpn"), authority());
    let config = directory.config();
    let (cert, key, _) = certificate(&authority);
    write(&config.cert, &cert);
    write(&config.key, &key);
    let served = serve_tls(config).await;

    let stream = connect(&served, client(&authority, &["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let response = guarded(http2_over(stream).await.send_request(get("/"))).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);

    for alpn in [&["http/1.1"][..], &[]] {
        let stream = connect(&served, client(&authority, alpn)).await.unwrap();
        let response = guarded(http1_over(stream).await.send_request(get("/"))).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11);
    }
    assert!(connect(&served, client(&authority, &["smtp"])).await.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_served_and_a_bad_one_is_not() {
    let (directory, authority) = (Directory::new("reload"), authority());
    let config = directory.config();
    let (cert, key, old) = certificate(&authority);
    write(&config.cert, &cert);
    write(&config.key, &key);
    let served = serve_tls(config.clone()).await;
    let presented = async || {
        let stream = connect(&served, client(&authority, &[])).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    assert_eq!(presented().await, old);

    // The renewal writes the certificate first: until the key follows, the pair does not fit.
    let (cert, key, new) = certificate(&authority);
    write(&config.cert, &cert);
    eventually(|| served.metrics.tls_reload_failed.get() == 1).await;
    assert_eq!(presented().await, old);
    write(&config.key, &key);
    eventually(|| served.metrics.tls_reload_failed.get() == 0).await;
    assert_eq!(presented().await, new);

    fs::remove_file(&config.key).unwrap();
    eventually(|| served.metrics.tls_reload_failed.get() == 1).await;
    assert_eq!(presented().await, new);
}

#[tokio::test]
async fn unusable_certificate_files_are_named() {
    let (directory, authority) = (Directory::new("bad"), authority());
    let config = directory.config();
    let bind = async |config: tls::Config| {
        let config = Config { address: Address::new("127.0.0.1", 0), tls: Some(config), ..Config::default() };
        Listener::bind(config, Metrics::default()).await.err().unwrap().to_string()
    };
    let (cert, key, _) = certificate(&authority);
    write(&config.key, &key);
    assert!(bind(config.clone()).await.contains("tls.crt: no certificate could be read"));
    write(&config.cert, "no PEM");
    assert!(bind(config.clone()).await.contains("tls.crt: no certificate could be read"));
    write(&config.cert, &cert);
    write(&config.key, "");
    assert!(bind(config.clone()).await.contains("tls.key: no private key could be read"));
    write(&config.key, &certificate(&authority).1);
    assert!(bind(config.clone()).await.contains("do not make an identity"));
}

#[tokio::test]
async fn client_without_a_certificate_of_the_client_ca_is_refused() {
    let (directory, authority) = (Directory::new("mutual"), authority());
    let ca = directory.0.join("ca.crt");
    let config = tls::Config { client_ca: Some(ca.clone()), ..directory.config() };
    let (cert, key, _) = certificate(&authority);
    write(&config.cert, &cert);
    write(&config.key, &key);
    write(&ca, &authority.pem());
    let served = serve_tls(config).await;

    let refused = HandshakeLabel { reason: HandshakeFailure::Refused };
    // With TLS 1.3 the client learns of the refusal only when it reads.
    if let Ok(mut stream) = connect(&served, client(&authority, &[])).await {
        assert!(guarded(stream.read_u8()).await.is_err());
    }
    eventually(|| served.metrics.handshakes.get_or_create(&refused).get() == 1).await;

    let (_, key, own) = certificate(&authority);
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let known = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], pem_key(&key))
        .unwrap();
    let stream = connect(&served, known).await.unwrap();
    let response = guarded(http1_over(stream).await.send_request(get("/"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

fn pem_key(pem: &str) -> PrivateKeyDer<'static> {
    use rustls::pki_types::pem::PemObject;
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_handshake_that_stops_is_cut_off() {
    let (directory, authority) = (Directory::new("stuck"), authority());
    let config = tls::Config { handshake_timeout: Duration::from_millis(100), ..directory.config() };
    let (cert, key, _) = certificate(&authority);
    write(&config.cert, &cert);
    write(&config.key, &key);
    let served = serve_tls(config).await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    closed_by_server(stream, &[0x16, 0x03, 0x01]).await;
    let timeout = HandshakeLabel { reason: HandshakeFailure::Timeout };
    assert_eq!(served.metrics.handshakes.get_or_create(&timeout).get(), 1);
}
