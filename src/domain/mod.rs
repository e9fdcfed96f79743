//! The words of Postmeter as types, and the rules that hold whatever the
//! database, the network or the clock do.
//!
//! Everything here is pure: no I/O, no clock, no randomness of its own. A value
//! that exists has been parsed; a transition that compiles is allowed. What this
//! room must not know: SQL, sockets, HTTP, Dodo's or Resend's wire formats.

pub mod account;
pub mod address;
pub mod alert;
pub mod answer;
pub mod arrival;
pub mod batch;
pub mod caps;
pub mod closure;
pub mod credential;
pub mod credits;
pub mod decision;
pub mod digest;
pub mod dsn;
pub mod envelope;
pub mod event;
pub mod forecast;
pub mod idempotency;
pub mod ids;
pub mod message;
pub mod proof;
pub mod refusal;
pub mod reputation;
pub mod retry;
pub mod sender;
pub mod suppression;
