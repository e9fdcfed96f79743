//! The stand-in for Dodo that Postmeter settles with.

use anyhow::{Result, bail};

/// A running stand-in, and the environment that makes Postmeter use it.
pub(crate) struct Dodo {
    pub(crate) environment: Vec<(String, String)>,
}

/// Starts it with one customer who has more credits than the bench can spend.
pub(crate) async fn start(customer: &str) -> Result<Dodo> {
    bail!("not here yet: {customer}")
}
