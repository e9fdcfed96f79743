//! A private key: read from PEM, put to work, and its other half for the DNS.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

/// Why a file is no key to sign with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableKey {
    /// No PEM with a private key in it.
    #[error("it holds no private key in PEM form")]
    Pem,
    /// A key that DKIM has no use for.
    #[error("it is neither an RSA key of 2048 to 4096 bits nor an Ed25519 key ({0})")]
    Kind(String),
}

/// A key.
pub(super) enum Key {
    /// RFC 6376 §3.3.2, with the sizes of RFC 8301.
    Rsa(RsaKeyPair),
    /// RFC 8463.
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())
    }
}

impl Key {
    /// PKCS#8, as `openssl genpkey` writes it, or PKCS#1 (`openssl genrsa -traditional`).
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, UnusableKey> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| UnusableKey::Pem)?;
        let unusable = |error: ring::error::KeyRejected| UnusableKey::Kind(error.to_string());
        match &der {
            PrivateKeyDer::Pkcs1(der) => {
                RsaKeyPair::from_der(der.secret_pkcs1_der()).map(Self::Rsa).map_err(unusable)
            }
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                // openssl leaves the public half out, which is optional (RFC 5958 §2).
                if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                    return Ok(Self::Ed25519(key));
                }
                RsaKeyPair::from_pkcs8(der).map(Self::Rsa).map_err(unusable)
            }
            _ => Err(UnusableKey::Kind("an elliptic curve of another kind".to_owned())),
        }
    }

    /// For `a=`.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "rsa-sha256",
            Self::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// The signature of these octets. `None` only if the system has no random octets.
    pub(super) fn sign(&self, octets: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), octets, &mut signature).ok()?;
                Some(signature)
            }
            // It is the hash that is signed (RFC 8463 §3).
            Self::Ed25519(key) => Some(key.sign(&Sha256::digest(octets)).as_ref().to_vec()),
        }
    }

    /// The TXT record that publishes the other half (RFC 6376 §3.6.1, RFC 8463 §4).
    pub(super) fn record(&self) -> String {
        match self {
            Self::Rsa(key) => {
                format!("v=DKIM1; k=rsa; p={}", BASE64.encode(rsa_info(key.public().as_ref())))
            }
            Self::Ed25519(key) => {
                format!("v=DKIM1; k=ed25519; p={}", BASE64.encode(key.public_key().as_ref()))
            }
        }
    }
}

/// SubjectPublicKeyInfo around an RSAPublicKey (RFC 5280 §4.1, RFC 8017 A.1). RFC 6376
/// has the inner one, everybody publishes the outer one (its erratum 3017).
fn rsa_info(key: &[u8]) -> Vec<u8> {
    /// SEQUENCE { OID rsaEncryption, NULL }
    const RSA: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    // A BIT STRING begins with the number of its unused bits.
    let bits = tagged(3, &[&[0], key].concat());
    tagged(0x30, &[&RSA, bits.as_slice()].concat())
}

/// Tag, length and value (X.690 §8.1).
fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|octet| *octet == 0).collect();
    let mut out = vec![tag];
    match (significant.as_slice(), u8::try_from(significant.len())) {
        ([], _) => out.push(0),
        ([short @ 0..0x80], _) => out.push(*short),
        (long, Ok(count)) => {
            out.push(0x80 | count);
            out.extend_from_slice(long);
        }
        (_, Err(_)) => {}
    }
    out.extend_from_slice(value);
    out
}
