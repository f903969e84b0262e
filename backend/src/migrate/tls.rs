//! The channel between switches: TLS 1.3, in which each side shows a certificate that the other's CA has signed. Whoever passes is a
//! switch of the same operator, and what it says of a port is believed.
//!
//! A refusal says whose certificate it is about and why, because each side has three files that can be the wrong ones.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, RootCertStore, ServerConfig, crypto::ring,
    version,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use utoipa::ToSchema;

/// The files with which a switch shows who it is, and by which it knows others. Absolute, in PEM; the switch reads them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// Its certificate, followed by those between it and the CA.
    #[schema(value_type = String)]
    pub cert: PathBuf,
    /// The certificate's private key.
    #[schema(value_type = String)]
    pub key: PathBuf,
    /// Certificates of the CAs that sign for switches.
    #[schema(value_type = String)]
    pub ca: PathBuf,
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// What ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// In a sentence.
    pub reason: String,
    /// Whether it would be the same the next time.
    pub lasting: bool,
}

impl Credentials {
    /// For the side that connects.
    pub fn connector(&self) -> Result<TlsConnector, BadFile> {
        let (chain, key, roots) = self.read()?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|e| self.unusable(&e))?;
        let config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key);
        Ok(TlsConnector::from(Arc::new(config.map_err(|e| self.unusable(&e))?)))
    }

    /// For the side that listens.
    pub fn acceptor(&self) -> Result<TlsAcceptor, BadFile> {
        let (chain, key, roots) = self.read()?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier.build().map_err(|e| bad(&self.ca, e.to_string()))?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|e| self.unusable(&e))?;
        let config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key);
        Ok(TlsAcceptor::from(Arc::new(config.map_err(|e| self.unusable(&e))?)))
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, RootCertStore), BadFile> {
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|e| bad(&self.key, format!("it has no private key in PEM: {e}")))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|e| bad(&self.ca, e.to_string()))?;
        }
        Ok((chain, key, roots))
    }

    /// The certificate and the key do not go together, or are of a kind that is not known.
    fn unusable(&self, error: &Error) -> BadFile {
        bad(&self.key, format!("it does not go with the certificate {}: {error}", self.cert.display()))
    }
}

fn bad(path: &Path, reason: String) -> BadFile {
    BadFile { path: path.to_owned(), reason }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let list = read.map_err(|e| bad(path, format!("it has no certificates in PEM: {e}")))?;
    if list.is_empty() { Err(bad(path, "it has no certificates in PEM".into())) } else { Ok(list) }
}

/// What an error on a connection to `peer` (such as "the destination") means.
pub fn explain(peer: &str, error: &io::Error) -> Broken {
    let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) else {
        return Broken { reason: format!("the connection to {peer} broke: {error}"), lasting: false };
    };
    let lasting = |reason: String| Broken { reason, lasting: true };
    match error {
        Error::InvalidCertificate(why) => {
            lasting(format!("the certificate of {peer} is refused on this side: {}", of_certificate(why)))
        }
        Error::NoCertificatesPresented => lasting(format!("{peer} has shown no certificate")),
        Error::AlertReceived(alert) => match of_alert(*alert) {
            Some(why) => lasting(format!("{peer} refuses the certificate of this side: {why}")),
            None => Broken { reason: format!("{peer} has ended the connection: {error}"), lasting: false },
        },
        _ => Broken { reason: format!("TLS with {peer} failed: {error}"), lasting: false },
    }
}

fn of_certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet (or the clock is wrong)".into()
        }
        CertificateError::UnknownIssuer => "none of the CAs given with --ca has signed it".into(),
        CertificateError::Revoked => "it was revoked".into(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is not for the address or name that was asked for (--server-name)".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for this purpose (extended key usage)".into()
        }
        other => other.to_string(),
    }
}

fn of_alert(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::UnknownCA => "none of the CAs known there has signed it",
        AlertDescription::CertificateExpired => "it has expired, or is not valid yet by the clock there",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::CertificateRequired => "none was shown",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => "it is not valid there",
        _ => return None,
    })
}
