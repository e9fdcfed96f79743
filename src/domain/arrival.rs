//! How a message reached us.

use std::net::SocketAddr;

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
