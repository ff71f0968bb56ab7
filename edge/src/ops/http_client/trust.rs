//! Whose certificates are accepted, and TLS errors in plain words.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::FetchError;
use crate::ops::bind::Address;

/// Whose certificates are accepted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those of this machine's authorities, and of the ones in a file.
    Authorities {
        /// More authorities (PEM).
        file: Option<PathBuf>,
        /// What sets `file`, as the user writes it; named in errors.
        setting: &'static str,
    },
    /// Any certificate, for loopback addresses alone.
    AnyOnLoopback,
}

/// The TLS settings for a connection to `host`.
///
/// # Errors
/// The authorities cannot be read, or `host` may not be trusted without them.
pub(super) fn client_config(trust: &Trust, host: &str) -> Result<Arc<ClientConfig>, FetchError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Local(error.to_string()))?;
    let config = match trust {
        Trust::Authorities { file, setting } => {
            builder.with_root_certificates(roots(file.as_deref(), setting)?).with_no_client_auth()
        }
        Trust::AnyOnLoopback if Address::new(host, 0).is_loopback() => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
        Trust::AnyOnLoopback => {
            return Err(FetchError::Local(format!("the certificate of {host} would not be verified")));
        }
    };
    Ok(Arc::new(config))
}

fn roots(file: Option<&Path>, setting: &str) -> Result<RootCertStore, FetchError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = file {
        let bad =
            |why: String| FetchError::Local(format!("{} cannot be used as {setting}: {why}", path.display()));
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
        return Err(FetchError::Local(format!(
            "this machine has no certificate authorities; name a file of them as {setting}"
        )));
    }
    Ok(roots)
}

/// Adds the certificates of a file and returns how many. Certificates that cannot be parsed are left out.
fn add(roots: &mut RootCertStore, path: &Path) -> Result<usize, rustls::pki_types::pem::Error> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)?.flatten().collect();
    Ok(roots.add_parsable_certificates(found).0)
}

/// Why a handshake with `host` failed.
pub(super) fn explain(error: &io::Error, host: &str, trust: &Trust) -> FetchError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    FetchError::Tls(match inner {
        Some(rustls::Error::InvalidCertificate(why)) => certificate(why, host, trust),
        Some(rustls::Error::InvalidMessage(_)) => {
            "the other side does not speak TLS; write http:// if that is meant".to_owned()
        }
        Some(rustls::Error::AlertReceived(alert)) => format!("the other side refuses: {alert:?}"),
        _ => format!("the handshake failed: {error}; the other side may not speak TLS at all"),
    })
}

fn certificate(why: &CertificateError, host: &str, trust: &Trust) -> String {
    match why {
        CertificateError::UnknownIssuer => match trust {
            Trust::Authorities { setting, .. } => {
                format!(
                    "its certificate is from an authority that is not trusted; name the authority's file as {setting}"
                )
            }
            Trust::AnyOnLoopback => "its certificate is from an authority that is not trusted".to_owned(),
        },
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

/// Accepts every certificate, but only from whoever holds its key.
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

/// Where systems keep their certificate authorities: Debian and Alpine, Fedora, SUSE, BSD and macOS.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_authority_is_reported_with_the_setting_that_adds_one() {
        for setting in ["--ca", "`auth.oauth.ca`"] {
            let trust = Trust::Authorities { file: None, setting };
            let why = certificate(&CertificateError::UnknownIssuer, "idp.example", &trust);
            assert!(why.ends_with(&format!("as {setting}")), "{why}");
            let missing = Trust::Authorities { file: Some("/no/such/file".into()), setting };
            let why = client_config(&missing, "idp.example").unwrap_err().to_string();
            assert!(why.contains(&format!("cannot be used as {setting}")), "{why}");
        }
    }

    #[test]
    fn unverified_certificates_are_for_loopback_alone() {
        for (host, is_accepted) in
            [("127.0.0.1", true), ("::1", true), ("localhost", true), ("10.0.0.1", false), ("edge", false)]
        {
            assert_eq!(client_config(&Trust::AnyOnLoopback, host).is_ok(), is_accepted, "{host}");
        }
    }
}
