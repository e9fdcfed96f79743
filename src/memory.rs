//! The memory that accepted messages may take: a budget for those that are translated,
//! one for those on their way to delivery. What arrives has one of its own
//! ([`allowance`](crate::allowance)).
//!
//! Whoever keeps octets of a message has a [`Share`] for them, taken before they are
//! kept and given back when it is dropped. A share never waits to grow: whoever is
//! kept waiting holds what it has, and two such could wait for each other for ever. Who
//! has nothing yet may wait for all that is needed at once. What this must not know:
//! what a message is.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which octets are counted, so that a large budget fits a semaphore.
pub(crate) const GRAIN: usize = 1 << 10;

/// The budget.
#[derive(Debug, Clone)]
pub struct Memory {
    grains: Arc<Semaphore>,
    total: usize,
}

/// What somebody has of it.
#[derive(Debug)]
pub struct Share {
    memory: Memory,
    held: Option<OwnedSemaphorePermit>,
}

impl Memory {
    /// A budget of so many octets.
    pub fn new(bytes: usize) -> Self {
        let total = (bytes / GRAIN).min(Semaphore::MAX_PERMITS);
        Self { grains: Arc::new(Semaphore::new(total)), total }
    }

    /// A share of nothing yet.
    pub fn share(&self) -> Share {
        Share { memory: self.clone(), held: None }
    }

    /// A share of so many octets, as soon as there is one; what is larger than the
    /// whole budget waits until it has it for itself.
    pub async fn wait_for(&self, bytes: usize) -> Option<Share> {
        let grains = u32::try_from(bytes.div_ceil(GRAIN).min(self.total)).ok()?;
        let held = Arc::clone(&self.grains).acquire_many_owned(grains).await.ok()?;
        Some(Share { memory: self.clone(), held: Some(held) })
    }
}

impl Share {
    /// Makes it a share of so many octets; `false`: there is no room for more, and it
    /// is what it was.
    pub fn resize(&mut self, bytes: usize) -> bool {
        let needed = bytes.div_ceil(GRAIN);
        let has = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed <= has {
            if needed == 0 {
                self.held = None;
            } else if let Some(held) = &mut self.held {
                drop(held.split(has - needed));
            }
            return true;
        }
        let more = u32::try_from(needed - has).ok();
        let grains = Arc::clone(&self.memory.grains);
        match (&mut self.held, more.and_then(|more| grains.try_acquire_many_owned(more).ok())) {
            (Some(held), Some(more)) => held.merge(more),
            (held @ None, Some(more)) => *held = Some(more),
            (_, None) => return false,
        }
        true
    }

    /// What it is a share of now, in whole grains.
    #[cfg(test)]
    pub(crate) fn octets(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * GRAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_grow_and_shrink_within_one_budget() {
        let memory = Memory::new(10 * GRAIN);
        let (mut one, mut two) = (memory.share(), memory.share());
        // Whose share, its new size in grains, and whether there is room.
        let table = [
            (1, 6, true),
            (2, 4, true),
            (2, 5, false),
            (1, 5, true),
            (2, 5, true),
            (1, 0, true),
            (2, 10, true),
        ];
        for (whose, grains, want) in table {
            let share = if whose == 1 { &mut one } else { &mut two };
            assert_eq!(share.resize(grains * GRAIN), want, "{whose} {grains}");
        }
        assert!(!one.resize(1), "the other has all of it");
        drop(two);
        assert!(one.resize(1));
    }
}
