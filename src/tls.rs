//! Certificates: loaded, checked, read again when they change, made for development.
//!
//! The provider is ring, named explicitly, and TLS 1.2 and 1.3 are all there is.
//! Each listener gets a `ServerConfig` of its own, so a session ticket from one is
//! worth nothing at another. A certificate that was renewed on disk is taken up
//! without a restart; a bad one is reported once and the old one stays in use.
//! What this room must not know: what is spoken under TLS.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(5);

/// What is wrong with a certificate or key, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; check that smtp.tls_cert and smtp.tls_key name readable files")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}; make its directory writable, or put a certificate there")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No certificate in the file.
    #[error(
        "{path} holds no sound certificate ({reason}); it must be a PEM chain, the server's own certificate first"
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// No key in the file.
    #[error(
        "{path} holds no sound private key ({reason}); it must be PEM (PKCS #8, PKCS #1 or SEC1), without a passphrase"
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error(
        "the key in {key} does not belong to the certificate in {cert}; put files there that were issued together"
    )]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// One of the two files of a development certificate is there, and the other is not.
    #[error("{present} is there and {missing} is not; add it, or remove the other to have both made")]
    Half {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// rustls or rcgen refused what we ask of them.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// What a certificate says, for `check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// When it expires.
    pub not_after: Timestamp,
    /// The host names and addresses it is for.
    pub names: Vec<String>,
}

/// The certificate in use and the files it comes from.
#[derive(Debug)]
pub struct CertificateStore {
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

/// The octets of both files.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl CertificateStore {
    /// Loads chain and key, and checks that they belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let pair = Files::read(cert, key)?.pair(cert, key)?;
        Ok(Arc::new(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current: ArcSwap::from_pointee(pair),
        }))
    }

    /// A configuration for one listener; make one for each.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(setup)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        // Tickets are sealed and kept by the client: nothing to remember for each
        // session, and nothing for connections to wait on one another for.
        config.ticketer = ring::Ticketer::new().map_err(setup)?;
        config.send_tls13_tickets = 1;
        // Whatever a client would rather have, it gets the best that both know.
        config.ignore_client_order = true;
        Ok(Arc::new(config))
    }

    /// Takes up what changes on disk, until `stop`. Owned by the caller's tracker.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = Files::read(&self.cert, &self.key);
        self.take_up(&seen);
        while stop.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            let files = Files::read(&self.cert, &self.key);
            if files.as_ref().ok() != seen.as_ref().ok() {
                self.take_up(&files);
                seen = files;
            }
        }
    }

    fn take_up(&self, files: &Result<Files, TlsError>) {
        let pair = match files {
            Ok(files) => files.pair(&self.cert, &self.key),
            Err(error) => return tracing::warn!(%error, "the old certificate stays in use"),
        };
        match pair {
            Ok(pair) if pair.cert == self.current.load().cert => {}
            Ok(pair) => {
                self.current.store(Arc::new(pair));
                tracing::info!(cert = %self.cert.display(), "new certificate in use");
            }
            Err(error) => tracing::warn!(%error, "the old certificate stays in use"),
        }
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Files {
    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
        };
        Ok(Self { cert: read(cert)?, key: read(key)? })
    }

    fn pair(&self, cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
        let bad_cert = |reason: String| TlsError::Certificate { path: cert.to_owned(), reason };
        let bad_key = |reason: String| TlsError::Key { path: key.to_owned(), reason };
        let chain = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad_cert(error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| bad_cert("there is none".to_owned()))?;
        describe(leaf).map_err(bad_cert)?;
        let private = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| bad_key(error.to_string()))?;
        let signing = ring::sign::any_supported_type(&private).map_err(|error| bad_key(error.to_string()))?;
        let pair = CertifiedKey::new(chain, signing);
        pair.keys_match().map_err(|_| TlsError::Mismatch { cert: cert.to_owned(), key: key.to_owned() })?;
        Ok(pair)
    }
}

/// Loads and checks a pair, and says what the certificate is for.
pub fn inspect(cert: &Path, key: &Path) -> Result<CertificateInfo, TlsError> {
    let pair = Files::read(cert, key)?.pair(cert, key)?;
    let leaf = pair.cert.first().ok_or_else(|| "there is none".to_owned());
    leaf.and_then(describe).map_err(|reason| TlsError::Certificate { path: cert.to_owned(), reason })
}

fn describe(leaf: &CertificateDer<'_>) -> Result<CertificateInfo, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
    let not_after =
        Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|error| error.to_string())?;
    let alternative = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = alternative
        .map_or_else(Vec::new, |extension| extension.value.general_names.iter().filter_map(name).collect());
    Ok(CertificateInfo { not_after, names })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|v4| IpAddr::from(v4).to_string()),
            _ => <[u8; 16]>::try_from(*octets).ok().map(|v6| IpAddr::from(v6).to_string()),
        },
        _ => None,
    }
}

/// Makes a self-signed certificate for this machine if neither file is there;
/// returns whether it did. The key's file is for its owner only.
pub fn ensure_development(cert: &Path, key: &Path) -> Result<bool, TlsError> {
    let half = |present: &Path, missing: &Path| {
        Err(TlsError::Half { present: present.to_owned(), missing: missing.to_owned() })
    };
    match (cert.exists(), key.exists()) {
        (true, true) => return Ok(false),
        (true, false) => return half(cert, key),
        (false, true) => return half(key, cert),
        (false, false) => {}
    }
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made =
        rcgen::generate_simple_self_signed(names).map_err(|error| TlsError::Setup(error.to_string()))?;
    write(key, made.signing_key.serialize_pem().as_bytes(), 0o600)?;
    write(cert, made.cert.pem().as_bytes(), 0o644)?;
    Ok(true)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let written = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)
    };
    written().map_err(|source| TlsError::Unwritable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
