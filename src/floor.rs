//! The least that must arrive of a message, on average from its beginning. Who is
//! slower than that and yet never silent would stay for the whole time it may take.

use std::time::Duration;

/// How slow a message may be.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// Octets a second; 0: anything.
    pub bytes_per_s: u64,
    /// How long it may be less.
    pub grace: Duration,
}

impl Floor {
    /// For how long so many octets are enough; `None`: for ever.
    pub fn lasts(&self, octets: usize) -> Option<Duration> {
        let octets = u64::try_from(octets).unwrap_or(u64::MAX);
        let earned_ms = octets.saturating_mul(1_000).checked_div(self.bytes_per_s)?;
        Some(self.grace.saturating_add(Duration::from_millis(earned_ms)))
    }
}
