//! The SMTP server: submission over STARTTLS (RFC 6409) and implicit TLS (RFC 8314).
//!
//! Inside are pure rooms: [`mod@line`] and [`data`] frame the stream, [`command`] and
//! [`sasl`] parse what a frame holds, [`session`] decides, [`reply`] holds every
//! word that is answered. Around them `stream` moves octets, [`connection`] does
//! what the session says and waits for the world, and [`listener`] takes
//! connections in. Hostile octets meet only pure code (P7).
//!
//! What this room must not know: SQL, HTTP, Dodo, upstreams. It hands messages to
//! [`crate::submission`] and says what came back.

pub mod command;
pub mod connection;
pub mod data;
pub mod line;
pub mod listener;
pub mod reply;
pub mod sasl;
pub mod session;
mod stream;
