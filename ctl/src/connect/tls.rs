//! TCP with certificates on either side.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::Tcp;
use super::{TlsFiles, greeted};

/// Connects, and waits until the daemon has let the client in.
///
/// # Errors
/// Says whose certificate is not accepted by whom.
pub(super) async fn open(
    place: &Tcp,
    files: &TlsFiles,
) -> anyhow::Result<BufReader<TlsStream<TcpStream>>> {
    let config = client(files)?;
    let name = ServerName::try_from(place.host.clone()).context("the name of the machine")?;
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await?;
    // Keys that somebody types go at once.
    let _ = stream.set_nodelay(true);
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let mut stream = BufReader::new(stream.map_err(|error| explained(error, files))?);
    // With TLS 1.3 the daemon looks at the client's certificate after the handshake.
    let error = match greeted(&mut stream).await {
        Ok(true) => return Ok(stream),
        Ok(false) => io::Error::from(ErrorKind::UnexpectedEof),
        Err(error) => error,
    };
    if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) {
        bail!("it has closed the connection: its log says why");
    }
    Err(explained(error, files))
}

/// Whether a client can use these files.
///
/// # Errors
/// Names what is wrong.
pub(crate) fn check(files: &TlsFiles) -> anyhow::Result<()> {
    client(files).map(drop)
}

/// TLS 1.2 or newer, HTTP/2, and a certificate to show.
fn client(files: &TlsFiles) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots
            .add(certificate)
            .with_context(|| format!("{} as an authority", files.ca.display()))?;
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("read the key {}", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("set up TLS")?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&files.cert)?, key)
        .with_context(|| format!("use the certificate {}", files.cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// All certificates of a file.
fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    let all = all.with_context(|| format!("read the certificates {}", path.display()))?;
    if all.is_empty() {
        bail!("{} has no certificate", path.display());
    }
    Ok(all)
}

/// A failure with what it means.
fn explained(error: io::Error, files: &TlsFiles) -> anyhow::Error {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return error.into();
    };
    let what = match tls {
        rustls::Error::InvalidCertificate(_) => {
            format!("its certificate is not accepted by {}", files.ca.display())
        }
        rustls::Error::AlertReceived(alert) if is_about_certificates(*alert) => {
            format!("it does not accept the certificate {}", files.cert.display())
        }
        rustls::Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        _ => "TLS failed".to_owned(),
    };
    anyhow!(tls.clone()).context(what)
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::describe;

    #[test]
    fn files_that_are_none_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let files = TlsFiles { ca: path("ca"), cert: path("cert"), key: path("key") };
        let said = || describe(&check(&files).unwrap_err());
        assert!(said().starts_with("read the certificates /"), "{}", said());
        std::fs::write(&files.ca, "nothing").unwrap();
        assert!(said().ends_with("/ca has no certificate"), "{}", said());
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&files.ca, damaged).unwrap();
        assert!(said().contains("/ca as an authority"), "{}", said());
    }

    #[test]
    fn refusals_say_whose_certificate_it_was() {
        let files = TlsFiles { ca: "/c/ca".into(), cert: "/c/cert".into(), ..TlsFiles::default() };
        let said = |error: rustls::Error| describe(&explained(io::Error::other(error), &files));
        let alert = said(rustls::Error::AlertReceived(AlertDescription::UnknownCA));
        assert!(alert.starts_with("it does not accept the certificate /c/cert: "), "{alert}");
        let issuer = rustls::CertificateError::UnknownIssuer;
        let issuer = said(rustls::Error::InvalidCertificate(issuer));
        assert!(issuer.starts_with("its certificate is not accepted by /c/ca: "), "{issuer}");
        let plain = explained(io::Error::from(ErrorKind::ConnectionReset), &files);
        assert!(!describe(&plain).contains("certificate"));
    }
}
