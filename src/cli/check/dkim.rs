//! The keys that sign mail: each can be used, and what the DNS must say of it.

use super::Finding;
use crate::dkim::{KeySetting, Record, Signer};

const SUBJECT: &str = "dkim";

/// One finding a key; whether the record is there is not looked up.
pub(super) fn findings(keys: &[KeySetting]) -> Vec<Finding> {
    keys.iter().flat_map(finding).collect()
}

fn finding(key: &KeySetting) -> Vec<Finding> {
    match Signer::load(std::slice::from_ref(key)) {
        Ok(signer) => {
            let published = |record: Record| {
                Finding::ok(SUBJECT, format!("publish TXT {} \"{}\"", record.name, record.value))
            };
            signer.records().into_iter().map(published).collect()
        }
        Err(error) => {
            let hint = "make one: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out dkim.pem";
            vec![Finding::fail(SUBJECT, error.to_string(), hint)]
        }
    }
}
