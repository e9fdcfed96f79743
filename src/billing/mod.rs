//! Money: what is said to Dodo Payments and what it says to us.
//!
//! [`dodo`] makes the calls, [`events`] reads its webhooks. This room must not
//! know SMTP or how mail leaves.

pub mod dodo;
pub mod events;
