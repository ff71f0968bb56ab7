//! Certificates for the run, and TLS 1.3 for the bare server and the load.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Makes a certificate for localhost that signs itself; the files of it and of its key.
pub(crate) fn certificate(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    Ok((certificate, key))
}

pub(crate) fn server(certificate: &Path, key: &Path) -> Result<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(certificate).context("the certificate")?];
    let key = PrivateKeyDer::from_pem_file(key).context("the key")?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let mut config =
        builder.with_protocol_versions(&[&TLS13])?.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Trusts this certificate alone.
pub(crate) fn client(certificate: &Path, http2: bool) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).context("the certificate")?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let mut config =
        builder.with_protocol_versions(&[&TLS13])?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(config)
}
