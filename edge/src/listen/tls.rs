//! TLS by rustls: one certificate, reloaded when its files change.
//!
//! If certificate and key do not match (a renewal writes the two files one after the other), the old certificate stays in
//! use; a gauge and a log line report that until the files are good again. The first load is strict: without a certificate
//! there is no listener.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Metrics;
use crate::ops::fingerprint::{CHECK_EVERY, Fingerprint};

/// The files of the listener's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The certificate chain, PEM, the server's own first.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities (PEM) that sign client certificates; if set, a client without a certificate is refused.
    pub client_ca: Option<PathBuf>,
    /// The longest handshake. 10 s: several round trips around the world, and a slow phone.
    pub handshake_timeout: Duration,
    /// How often the files are checked.
    pub reload_every: Duration,
}

impl Config {
    /// Serves with this certificate and key.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            cert: cert.into(),
            key: key.into(),
            client_ca: None,
            handshake_timeout: Duration::from_secs(10),
            reload_every: CHECK_EVERY,
        }
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.cert, &self.key].into_iter().chain(&self.client_ca).map(PathBuf::as_path)
    }
}

/// Does handshakes with the current certificate. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    config: Arc<Config>,
    current: watch::Receiver<Arc<ServerConfig>>,
}

/// Reloads the files when they change.
pub(super) struct Reloader {
    config: Arc<Config>,
    current: watch::Sender<Arc<ServerConfig>>,
    seen: Vec<Fingerprint>,
    metrics: Metrics,
}

impl Tls {
    /// Loads the files. The reloader must be run to reload them.
    pub(super) fn load(config: Config, metrics: Metrics) -> Result<(Self, Reloader), TlsError> {
        let config = Arc::new(config);
        let seen = fingerprints(&config); // before the load: a change during it is seen as one
        let (current, receiver) = watch::channel(Arc::new(server_config(&config)?));
        let tls = Self { config: config.clone(), current: receiver };
        Ok((tls, Reloader { config, current, seen, metrics }))
    }

    /// Does the handshake of one connection.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.current.borrow().clone());
        match timeout(self.config.handshake_timeout, acceptor.accept(stream)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Reloader {
    /// Reloads the files when they change, until dropped.
    pub(super) async fn run(mut self) {
        loop {
            sleep(self.config.reload_every).await;
            let config = self.config.clone();
            let Ok(now) = spawn_blocking(move || fingerprints(&config)).await else { continue };
            if now != self.seen {
                self.seen = now;
                self.reload().await;
            }
        }
    }

    async fn reload(&self) {
        let config = self.config.clone();
        let loaded = spawn_blocking(move || server_config(&config)).await;
        match loaded {
            Ok(Ok(config)) => {
                self.current.send_replace(Arc::new(config));
                self.metrics.tls_reload_failed.set(0);
                tracing::info!(cert = %self.config.cert.display(), "certificate reloaded");
            }
            Ok(Err(error)) => {
                self.metrics.tls_reload_failed.set(1);
                tracing::warn!(%error, "certificate not reloaded, the old one stays in force");
            }
            Err(error) => {
                self.metrics.tls_reload_failed.set(1);
                tracing::error!(%error, "certificate not reloaded");
            }
        }
    }
}

/// Why the certificate cannot be used. Names the file.
#[derive(Debug)]
pub enum TlsError {
    /// The file cannot be read, or holds no PEM of the expected kind.
    Pem {
        /// The file.
        path: PathBuf,
        /// The kind that is expected.
        wanted: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// Certificate and key do not match, or are of a kind that is not supported.
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// rustls' error.
        source: rustls::Error,
    },
    /// The file holds certificates that cannot sign others.
    ClientCa {
        /// The file.
        path: PathBuf,
        /// rustls' error.
        source: VerifierBuilderError,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { path, wanted, source } => {
                write!(f, "{}: no {wanted} could be read: {source}", path.display())
            }
            Self::Pair { cert, key, source } => {
                write!(f, "{} and {} do not make an identity: {source}", cert.display(), key.display())
            }
            Self::ClientCa { path, source } => {
                write!(f, "{}: not usable as client CA: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for TlsError {}

fn server_config(config: &Config) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let pair = |source| TlsError::Pair { cert: config.cert.clone(), key: config.key.clone(), source };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let refused = |source| TlsError::ClientCa { path: path.clone(), source };
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(refused)?)
        }
    };
    let chain = certificates(&config.cert)?;
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|source| TlsError::Pem {
        path: config.key.clone(),
        wanted: "private key",
        source,
    })?;
    let mut made = builder.with_single_cert(chain, key).map_err(pair)?;
    made.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()]; // RFC 9113 §3.2, RFC 7301 §6
    Ok(made)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { path: path.to_owned(), wanted: "certificate", source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn fingerprints(config: &Config) -> Vec<Fingerprint> {
    config.files().map(Fingerprint::of).collect()
}
