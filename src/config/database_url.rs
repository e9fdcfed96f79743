//! `database_url`: a secret of the file, since a password may stand in it.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::store::{InvalidDatabaseUrl, check_url};

/// Where PostgreSQL is. Never shown.
#[derive(Debug, Clone, Deserialize)]
pub struct DatabaseUrl(SecretString);

impl DatabaseUrl {
    /// What the store is opened with.
    pub fn secret(&self) -> SecretString {
        self.0.clone()
    }

    /// Checks it as far as that is possible without a look at disk and network.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidDatabaseUrl> {
        let url = Self(text.into());
        url.name()?;
        Ok(url)
    }

    /// What people are told of it, without user and password.
    pub(crate) fn name(&self) -> Result<String, InvalidDatabaseUrl> {
        check_url(self.0.expose_secret())
    }
}

impl PartialEq for DatabaseUrl {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for DatabaseUrl {}
