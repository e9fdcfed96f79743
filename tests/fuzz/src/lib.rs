//! What hostile octets must never do, room by room: one function each, which takes any
//! octets at all and panics where the room breaks its word.
//!
//! Two callers share them. The targets in `fuzz_targets` hand in what libFuzzer thinks
//! of, for as long as they are left to run (`tests/fuzz/run.sh`); the tests below hand
//! in a few hundred inputs made of the tokens that matter, with every `cargo test`.
//! Where it can be said in a few lines what the right answer is, a plain reader that
//! sees all octets at once says so, and the room must agree however they arrive.

// A property fails by a panic; and a reader that is to be seen right at a glance may index.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

pub mod bdat;
pub mod command;
pub mod data;
pub mod envelope;
mod large;
pub mod line;
pub mod mime;
pub mod proxy;
pub mod sasl;
pub mod session;
pub mod tree;

#[cfg(test)]
mod tests;

/// Takes the first octet off, as a number that the rest is to be played with; 0 if there is none.
fn split_choice(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(choice, rest)| (*choice, rest))
}

/// In how long pieces a stream arrives: one octet each, as many as `choice` says, all at once.
fn steps(choice: u8) -> [usize; 3] {
    [1, usize::from(choice) + 1, usize::MAX]
}
