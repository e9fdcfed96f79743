//! The use case that takes a message in, for SMTP and HTTP alike.

use std::net::SocketAddr;

use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::credential::Secret;
use crate::domain::credits::Credits;
use crate::domain::envelope::Envelope;
use crate::domain::ids::{CustomerId, MessageId, Username};
use crate::domain::refusal::Refusal;

/// Takes messages in: sign-in, sender policy, price, room, acceptance.
#[derive(Debug, Clone)]
pub struct Submission {}

/// Who signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The customer.
    pub customer_id: CustomerId,
    /// The credential that was used.
    pub username: Username,
}

/// How a message reached us; goes into its Received header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// `ESMTPSA` for SMTP under TLS, `HTTP` for /send (RFC 3848).
    pub protocol: &'static str,
    /// The client's address.
    pub peer: SocketAddr,
    /// What it called itself in EHLO, if it did.
    pub helo: Option<String>,
    /// The TLS version and cipher suite, if any.
    pub tls: Option<String>,
}

/// A complete message at the door.
#[derive(Debug)]
pub struct Submitted {
    /// Who sends and who receives.
    pub envelope: Envelope,
    /// The message, dots unstuffed.
    pub bytes: Vec<u8>,
    /// How it came.
    pub arrival: Arrival,
}

/// A message that is safe: committed and fsynced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub message_id: MessageId,
    /// What the customer has left.
    pub available: Option<Credits>,
}

impl Submission {
    /// Checks a credential. Never waits for Dodo. Returns who it is and the
    /// credits available, unless they are unknown.
    pub async fn sign_in(
        &self,
        _username: &str,
        _secret: &Secret,
    ) -> Result<(SignedIn, Option<Credits>), Refusal> {
        Err(Refusal::BadCredential)
    }

    /// The checks at MAIL: credential still good, customer not suspended, sender
    /// allowed, credit there.
    pub async fn begin(&self, _who: &SignedIn, _reverse_path: &ReversePath) -> Result<(), Refusal> {
        Err(Refusal::StoreUnavailable)
    }

    /// The check at RCPT: whether a configured road can carry the address.
    pub fn check_recipient(&self, _recipient: &Mailbox) -> Result<(), Refusal> {
        Ok(())
    }

    /// Takes the message in. When this returns `Ok`, it is committed and fsynced.
    pub async fn submit(&self, _who: &SignedIn, _submitted: Submitted) -> Result<Accepted, Refusal> {
        Err(Refusal::StoreUnavailable)
    }
}
