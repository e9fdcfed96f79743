//! What a client has used up of our patience: counts that a message makes up for.

/// Counts since the beginning, or since the last message that was accepted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    errors: u32,
    sign_in_failures: u32,
    idle: u32,
}

impl Tally {
    /// One more command was refused; how many that makes.
    pub(super) fn erred(&mut self) -> u32 {
        more(&mut self.errors)
    }

    /// One more sign-in failed; how many that makes.
    pub(super) fn failed_to_sign_in(&mut self) -> u32 {
        more(&mut self.sign_in_failures)
    }

    /// One more command came that brings no message nearer; how many that makes.
    pub(super) fn idled(&mut self) -> u32 {
        more(&mut self.idle)
    }
}

fn more(count: &mut u32) -> u32 {
    *count = count.saturating_add(1);
    *count
}
