//! Messages as bytes: what a header says, what is stamped on it, how a body is
//! built, and the messages that Postmeter writes itself.
//!
//! Everything here is pure and meets hostile bytes: it is bounded, it never
//! panics, and it knows neither the clock nor randomness. There is one scanner
//! for header fields ([`header`]) and one walker for bodies ([`entity`]), so that
//! the sender policy, the trace header and the translation for Resend can never
//! read the same message differently. mail-parser takes address lists apart, and
//! encoding_rs knows the character sets; everything else is read here, so that what
//! is guessed or lost can be told and no input costs more than its length. What this
//! room must not know: sockets, SQL, upstreams, credits.

pub mod address_list;
mod advice;
pub mod bounce;
pub mod charset;
pub mod compose;
pub mod encoded_word;
pub mod entity;
pub mod header;
pub mod inspect;
pub mod internationalized;
pub mod media;
pub mod notice;
mod parameters;
mod returned;
pub mod trace;
mod transfer;
mod write;

pub use returned::MAX_RETURNED_BYTES;
pub use write::Origin;
