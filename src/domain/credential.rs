//! A credential's secret: shown once, kept as a hash.
//!
//! Secrets are generated with 256 bits, so a plain SHA-256 is enough to check
//! them: there is nothing to guess, and no slow hash for an attacker to lean on.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::digest::hex;

/// A secret in clear. Exists while it is shown or checked; `Debug` hides it.
#[derive(Clone)]
pub struct Secret(String);

/// SHA-256 of a secret: what the database keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl Secret {
    /// What a client presented.
    pub fn presented(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// A new secret from 32 octets of randomness: 64 hexadecimal digits.
    pub fn generate(entropy: [u8; 32]) -> Self {
        Self(hex(&entropy))
    }

    /// The secret itself, to show it this once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored and compared.
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretHash {
    /// A hash read back from the database; `None` if it has not 32 octets.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 octets.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash of no secret that anybody knows: what an unknown username is compared with.
    pub const NOBODYS: Self = Self([0; 32]);

    /// Whether both are the hash of one secret, in constant time.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_matches_its_hash_only() {
        let secret = Secret::generate([7; 32]);
        assert_eq!(secret.reveal().len(), 64);
        assert!(secret.hash().is(&secret.hash()));
        assert!(!secret.hash().is(&Secret::presented("other").hash()));
        assert!(!SecretHash::NOBODYS.is(&secret.hash()));
    }

    #[test]
    fn secrets_never_reach_debug() {
        let secret = Secret::presented("hunter2");
        let shown = format!("{secret:?} {:?}", secret.hash());
        assert!(!shown.contains("hunter2"), "P10");
    }
}
