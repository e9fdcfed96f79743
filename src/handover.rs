//! The short way: what submission has just accepted goes to delivery in memory.
//!
//! The accepting process already holds the bytes, so it leases the parts in the
//! insert and hands them over; the database is read only after a restart, for
//! retries, or when there is no room here. Room is bounded in octets and in parts; it is
//! a message's, and then that of the request which a road makes of it. Large messages
//! have one half of it, and small ones the other: neither waits for the other's. Of the
//! parts a customer may have a quarter here, so that there is room for others' as well.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::domain::ids::CustomerId;
use crate::domain::message::Road;
use crate::memory::{Memory, Share};
use crate::store::queue::LeasedPart;

/// Parts that may wait here at most; their leases are all renewed together.
const MAX_PARTS: usize = 2048;
/// One customer's of them, as they are accepted.
const MAX_OF_ONE: usize = MAX_PARTS / 4;

/// Whose room it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// That of messages which are in memory from their arrival on.
    Small,
    /// That of messages which were spooled.
    Large,
}

/// A part in memory, with the room that it takes; the room is free again when it is dropped.
#[derive(Debug)]
pub struct Handed {
    /// The part, leased.
    pub part: LeasedPart,
    /// Its room.
    pub room: Room,
}

/// Room for one message's octets, shared by its parts.
#[derive(Debug, Clone)]
pub struct Room {
    _octets: Arc<Share>,
    _slot: Arc<OwnedSemaphorePermit>,
    _of_one: Option<Arc<OfOne>>,
}

/// How many parts of each customer have room here that was reserved as they were accepted.
#[derive(Debug, Clone, Default)]
struct Customers(Arc<Mutex<BTreeMap<CustomerId, usize>>>);

/// Some of one customer's; counted no more when it is dropped.
#[derive(Debug)]
struct OfOne {
    customers: Customers,
    customer: CustomerId,
    parts: usize,
}

impl Customers {
    fn count(&self, customer: &CustomerId, parts: usize) -> Option<OfOne> {
        let mut all = self.lock();
        let total = all.get(customer).copied().unwrap_or(0).checked_add(parts)?;
        if total > MAX_OF_ONE {
            return None;
        }
        all.insert(customer.clone(), total);
        Some(OfOne { customers: self.clone(), customer: customer.clone(), parts })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CustomerId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OfOne {
    fn drop(&mut self) {
        let mut all = self.customers.lock();
        match all.get_mut(&self.customer) {
            Some(total) if *total > self.parts => *total -= self.parts,
            _ => {
                all.remove(&self.customer);
            }
        }
    }
}

/// The room of one lane.
#[derive(Debug, Clone)]
struct Rooms {
    octets: Memory,
    slots: Arc<Semaphore>,
}

impl Rooms {
    fn new(octets: usize, parts: usize) -> Self {
        Self { octets: Memory::new(octets), slots: Arc::new(Semaphore::new(parts)) }
    }

    fn at_once(&self, bytes: usize, parts: u32) -> Option<Room> {
        let mut octets = self.octets.share();
        if !octets.resize(bytes) {
            return None;
        }
        let slot = Arc::clone(&self.slots).try_acquire_many_owned(parts).ok()?;
        Some(Room { _octets: Arc::new(octets), _slot: Arc::new(slot), _of_one: None })
    }
}

/// The side that submission holds.
#[derive(Debug, Clone)]
pub struct Handover {
    parts: mpsc::UnboundedSender<Handed>,
    small: Rooms,
    large: Rooms,
    customers: Customers,
    resend_open: Arc<AtomicBool>,
    smtp_open: Arc<AtomicBool>,
}

impl Handover {
    /// A handover with room for `max_bytes` octets, and the side that delivery holds, which
    /// makes `max_concurrency` attempts at the same time. Large parts may take half of either,
    /// and there may be one of them at least.
    pub fn new(max_bytes: usize, max_concurrency: usize) -> (Self, mpsc::UnboundedReceiver<Handed>) {
        let (parts, handed) = mpsc::unbounded_channel();
        let large = Rooms::new(max_bytes / 2, (max_concurrency / 2).max(1));
        let small = Rooms::new(max_bytes - max_bytes / 2, MAX_PARTS);
        let open = || Arc::new(AtomicBool::new(true));
        let customers = Customers::default();
        (Self { parts, small, large, customers, resend_open: open(), smtp_open: open() }, handed)
    }

    /// Room for a customer's small message of `bytes` octets in `parts` parts that leaves by
    /// `road`; `None`: there is none now, or the customer has their share of it, or the road's gate
    /// is closed, or delivery is stopping, and it waits in the database.
    pub fn reserve(&self, customer: &CustomerId, road: Road, bytes: usize, parts: usize) -> Option<Room> {
        if self.parts.is_closed() || !self.gate(road).load(Ordering::Relaxed) {
            return None;
        }
        let of_one = self.customers.count(customer, parts)?;
        let room = self.small.at_once(bytes, u32::try_from(parts).ok()?)?;
        Some(Room { _of_one: Some(Arc::new(of_one)), ..room })
    }

    /// Room for a message that is read back from the database; waits for it. A
    /// message larger than its lane's octets waits until it has them for itself.
    pub async fn room(&self, lane: Lane, bytes: usize) -> Option<Room> {
        let Rooms { octets, slots } = self.of(lane);
        let octets = octets.wait_for(bytes).await?;
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        Some(Room { _octets: Arc::new(octets), _slot: Arc::new(slot), _of_one: None })
    }

    /// The same, if there is room now.
    pub fn room_at_once(&self, lane: Lane, bytes: usize) -> Option<Room> {
        self.of(lane).at_once(bytes, 1)
    }

    fn of(&self, lane: Lane) -> &Rooms {
        match lane {
            Lane::Small => &self.small,
            Lane::Large => &self.large,
        }
    }

    /// Hands a leased part over. If delivery has stopped, the lease lapses.
    pub fn hand(&self, part: LeasedPart, room: Room) {
        let _ = self.parts.send(Handed { part, room });
    }

    /// Tells submission that a road's gate was opened or closed.
    pub fn set_open(&self, road: Road, open: bool) {
        self.gate(road).store(open, Ordering::Relaxed);
    }

    fn gate(&self, road: Road) -> &AtomicBool {
        match road {
            Road::Resend => &self.resend_open,
            Road::Smtp => &self.smtp_open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GRAIN;

    fn ann() -> CustomerId {
        CustomerId::parse("ann").unwrap()
    }

    #[test]
    fn room_is_bounded_and_comes_back() {
        let (handover, _handed) = Handover::new(20 * GRAIN, 9);
        let room = handover.reserve(&ann(), Road::Smtp, 8 * GRAIN, 1);
        assert!(room.is_some());
        assert!(handover.reserve(&ann(), Road::Smtp, 3 * GRAIN, 1).is_none(), "over budget");
        drop(room);
        assert!(handover.reserve(&ann(), Road::Smtp, 3 * GRAIN, 1).is_some());
    }

    #[test]
    fn a_customer_leaves_room_for_others() {
        let (handover, _handed) = Handover::new(1 << 20, 9);
        let bob = CustomerId::parse("bob").unwrap();
        assert!(handover.reserve(&ann(), Road::Resend, 1, MAX_OF_ONE + 1).is_none());
        let large = handover.reserve(&ann(), Road::Resend, 1, MAX_OF_ONE - 1);
        let small = handover.reserve(&ann(), Road::Resend, 1, 1);
        assert!(large.is_some() && small.is_some());
        assert!(handover.reserve(&ann(), Road::Resend, 1, 1).is_none(), "theirs is used up");
        assert!(handover.reserve(&bob, Road::Resend, 1, 1).is_some());
        let shared = small.clone();
        drop(small);
        assert!(handover.reserve(&ann(), Road::Resend, 1, 1).is_none(), "a part of it is still there");
        drop(shared);
        let small = handover.reserve(&ann(), Road::Resend, 1, 1);
        drop((large, small));
        assert!(handover.reserve(&ann(), Road::Resend, 1, MAX_OF_ONE).is_some());
        assert!(handover.customers.lock().is_empty());
    }

    #[tokio::test]
    async fn a_message_larger_than_the_budget_is_sent_all_the_same() {
        let (handover, handed) = Handover::new(4 * GRAIN, 9);
        let room = handover.room(Lane::Small, 5 * GRAIN).await;
        assert!(room.is_some());
        assert!(handover.reserve(&ann(), Road::Smtp, 1, 1).is_none(), "it has the budget for itself");
        drop((room, handed));
        assert!(handover.reserve(&ann(), Road::Smtp, 1, 1).is_none(), "nobody is there to take it");
    }

    #[tokio::test]
    async fn p7_large_parts_take_half_and_small_ones_find_the_other_half() {
        // Octets and places, octets of each large part, and how many of them there is room for.
        let table = [(20, 9, 5, 2), (20, 9, 1, 4), (20, 1, 1, 1), (4, 9, 5, 1)];
        for (octets, places, each, most) in table {
            let (handover, _handed) = Handover::new(octets * GRAIN, places);
            let mut rooms = Vec::new();
            for _ in 0..most {
                rooms.push(handover.room(Lane::Large, each * GRAIN).await.unwrap());
            }
            let mut next = Box::pin(handover.room(Lane::Large, each * GRAIN));
            tokio::select! {
                biased;
                _ = &mut next => panic!("there is room for one more than {most}"),
                () = std::future::ready(()) => {}
            }
            let small = handover.reserve(&ann(), Road::Smtp, octets * GRAIN / 2, 1);
            assert!(small.is_some(), "{octets} {places} {each}");
            rooms.pop();
            assert!(next.await.is_some());
        }
    }

    #[test]
    fn a_closed_gate_takes_nothing_in_memory() {
        let (handover, _handed) = Handover::new(20 * GRAIN, 9);
        handover.set_open(Road::Resend, false);
        assert!(handover.reserve(&ann(), Road::Resend, 1, 1).is_none());
        assert!(handover.reserve(&ann(), Road::Smtp, 1, 1).is_some());
    }
}
