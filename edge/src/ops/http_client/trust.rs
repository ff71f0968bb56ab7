//! Whom the visitor trusts, and TLS errors in plain words.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};

use super::Trouble;

/// A client that verifies, with this machine's authorities and those in `own`.
pub(super) fn client(own: Option<&Path>) -> Result<Arc<ClientConfig>, Trouble> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = own {
        let bad = |why: String| Trouble::Ours(format!("{} cannot be used as --ca: {why}", path.display()));
        if add(&mut roots, path).map_err(|error| bad(error.to_string()))? == 0 {
            return Err(bad("it holds no certificate".to_owned()));
        }
    }
    let named = std::env::var_os("SSL_CERT_FILE");
    for path in named.iter().map(Path::new).chain(BUNDLES.iter().map(Path::new)) {
        // A bundle that is missing or broken is no reason to stop: another may do.
        if add(&mut roots, path).is_ok_and(|added| added > 0) {
            break;
        }
    }
    if roots.is_empty() {
        let why = "this machine has no certificate authorities; name a file of them as --ca".to_owned();
        return Err(Trouble::Ours(why));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Trouble::Ours(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Adds what a file holds; certificates that cannot be read are left out, as elsewhere.
fn add(roots: &mut RootCertStore, path: &Path) -> Result<usize, rustls::pki_types::pem::Error> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)?.flatten().collect();
    Ok(roots.add_parsable_certificates(found).0)
}

/// Why a handshake failed.
pub(super) fn words(error: &io::Error, host: &str) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => certificate(why, host),
        Some(rustls::Error::InvalidMessage(_)) => {
            "the other side does not speak TLS; write http:// if that is meant".to_owned()
        }
        Some(rustls::Error::AlertReceived(alert)) => format!("the other side refuses: {alert:?}"),
        _ => format!("the handshake failed: {error}; the other side may not speak TLS at all"),
    }
}

fn certificate(why: &CertificateError, host: &str) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "its certificate is from nobody we trust; name the authority's file as --ca".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired; was it renewed, and did the renewal reach it?".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; one of the clocks is wrong".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is not for {host}; clients must use the name that it is made out to")
        }
        other => format!("its certificate is refused: {other}"),
    }
}

/// Where systems keep their certificate authorities: Debian and Alpine, Fedora, SUSE, BSD and macOS.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
