//! What the database says is due: asked for by the page, and taken as there is room.
//!
//! What leaves alone, what may leave together and what is large are asked for apart: none
//! waits for the others. Nor do those who look for lost leases and try closed gates. A page is
//! of all customers in turn, so that none waits for another's queue either.
//!
//! Whoever is taken needs room in memory first, and then a place among the attempts; who
//! waits for company needs no place yet, but is one of so many that are read ahead. The
//! first of a page waits for that, and the others come along if they need not: so nobody
//! who waits for room has any.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::leases::Lease;
use super::waiting::{Comer, Member};
use super::worker::Pass;
use super::{Delivery, GATES, IDLE, LAPSE, LARGE_PAGE, PAGE, POLL, STORE_WAIT, Tools};
use crate::crash::CrashPoint;
use crate::domain::ids::BatchId;
use crate::domain::message::Road;
use crate::handover::{Handed, Lane, Room};
use crate::store::StoreError;
use crate::store::queue::{DuePart, Leased, LeasedPart};
use crate::store::wake::{Bell, Wake};

/// What a poller looks for. Each has a poller of its own: where parts of one kind wait for
/// a place or for a slow upstream, the others do not wait for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// Small parts that leave alone.
    Alone,
    /// Parts that may leave together, and calls that are made again.
    Together,
    /// Parts of spooled messages.
    Large,
}

impl Queue {
    const ALL: [Self; 3] = [Self::Together, Self::Alone, Self::Large];

    /// Whose room its parts take.
    const fn lane(self) -> Lane {
        match self {
            Self::Alone | Self::Together => Lane::Small,
            Self::Large => Lane::Large,
        }
    }

    /// Parts asked for at once.
    const fn page(self) -> u32 {
        match self {
            Self::Alone | Self::Together => PAGE,
            Self::Large => LARGE_PAGE,
        }
    }
}

/// What a part has that may be leased.
#[derive(Debug)]
struct Seat {
    room: Room,
    /// Unless it waits for company.
    place: Option<OwnedSemaphorePermit>,
    /// If it does.
    ahead: Option<OwnedSemaphorePermit>,
}

impl Delivery {
    /// Works through what the database says is due, each kind for itself.
    pub(super) fn start_polling(&self) {
        for queue in Queue::ALL {
            self.0.tools.tasks.spawn(self.clone().poll(queue));
        }
        self.0.tools.tasks.spawn(self.clone().tend());
    }

    /// Works through what the database says is due of that kind.
    async fn poll(self, queue: Queue) {
        let Tools { store, stop, .. } = &self.0.tools;
        let mut told = store.ear(Bell::Parts);
        let mut was_more = false;
        loop {
            let looked = Instant::now();
            let (is_more, wait) = match self.poll_once(queue).await {
                Ok(found) => found,
                Err(error) => {
                    error.tell("the queue could not be read");
                    (false, STORE_WAIT)
                }
            };
            if is_more && !was_more {
                // More than is taken at once: others may have the time for it.
                store.tell(Wake::Parts).await;
            }
            was_more = is_more;
            if is_more && !stop.is_cancelled() {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = async { tokio::join!(told.rung(), sleep_until(looked + POLL)); } => {}
                () = sleep_until(looked + wait) => {}
            }
        }
    }

    /// Takes one page of what is due; whether there may be more, and how long it may be until
    /// it is asked for again.
    async fn poll_once(&self, queue: Queue) -> Result<(bool, Duration), StoreError> {
        let now = self.0.tools.clock.now();
        let (open, _) = self.0.gates.passable(now);
        let page = queue.page();
        let due = if open.is_empty() { Vec::new() } else { self.due(queue, &open, page).await? };
        let is_more = u32::try_from(due.len()).is_ok_and(|len| len == page);
        let wait = if due.is_empty() { self.until_due(now, &open).await? } else { POLL };
        self.take_page(queue.lane(), due).await?;
        Ok((is_more, wait))
    }

    /// How long it may be until anything is due, where nothing was. What changes that is told
    /// by whoever changes it; what has been in the queue before is known.
    async fn until_due(&self, now: Timestamp, open: &[Road]) -> Result<Duration, StoreError> {
        let store = &self.0.tools.store;
        let idle = store.look_again(POLL, IDLE);
        if idle == POLL {
            return Ok(POLL);
        }
        let next = store.next_due(now, open).await?;
        let wait = next.map(|due| Duration::try_from(due.duration_since(now)).unwrap_or_default());
        Ok(wait.unwrap_or(idle).clamp(POLL, idle))
    }

    /// Looks for leases that ran out, whosesoever, for gates that another process has opened
    /// or closed, and for those that are worth a try: whoever does that waits for nobody.
    async fn tend(self) {
        let Tools { store, stop, .. } = &self.0.tools;
        let mut told = store.ear(Bell::Gates);
        let mut looked = Some(Instant::now());
        while !stop.is_cancelled() {
            let interval = store.look_again(GATES, GATES);
            if store.is_shared() && looked.is_none_or(|looked| looked.elapsed() >= interval) {
                looked = Some(Instant::now());
                if let Err(error) = self.load_gates().await {
                    error.tell("the gates could not be read");
                }
                if let Err(error) = self.shorten_leases().await {
                    error.tell("leases could not be looked at");
                }
            }
            let wait = match self.lapse_expired().await {
                Ok(()) => self.until_tended(),
                Err(error) => {
                    error.tell("the queue could not be read");
                    STORE_WAIT
                }
            };
            let (_, probing) = self.0.gates.passable(self.0.tools.clock.now());
            for road in probing.into_iter().filter(|_| !stop.is_cancelled()) {
                if self.0.gates.begin_probe(road) {
                    let delivery = self.clone();
                    self.0.tools.tasks.spawn(async move { delivery.probe(road).await });
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = told.rung() => looked = None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A small part of the time for which a lease lasts, while no gate is to be tried.
    fn until_tended(&self) -> Duration {
        let seldom = (self.0.settings.lease / 20).clamp(POLL, LAPSE);
        match self.0.gates.are_open() {
            true => self.0.tools.store.look_again(POLL, seldom).min(seldom),
            false => POLL,
        }
    }

    async fn lapse_expired(&self) -> Result<(), StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let lapsed = store.lapse_expired(&self.0.leases.keys(), clock.now()).await?;
        if lapsed > 0 {
            tracing::warn!(parts = lapsed, "leases lapsed; their parts are sent again");
        }
        Ok(())
    }

    async fn shorten_leases(&self) -> Result<(), StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let shortened = store.shorten_leases(clock.now(), self.0.settings.lease).await?;
        if shortened > 0 {
            tracing::warn!(
                parts = shortened,
                "leases end much later than any that begins now: the database's clock was set back"
            );
        }
        Ok(())
    }

    async fn due(&self, queue: Queue, roads: &[Road], limit: u32) -> Result<Vec<DuePart>, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        match queue {
            Queue::Alone => store.due_alone(clock.now(), roads, limit).await,
            Queue::Together => store.due_together(clock.now(), roads, limit).await,
            Queue::Large => store.due_large(clock.now(), roads, limit).await,
        }
    }

    /// Takes those of a page as many at once as there is room for.
    async fn take_page(&self, lane: Lane, due: Vec<DuePart>) -> Result<(), StoreError> {
        let stop = &self.0.tools.stop;
        let mut due = due.into_iter().peekable();
        while let Some(first) = due.next() {
            // Whoever has a place never waits for room, so that neither can wait for the other for ever.
            let seat = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                seat = self.seat(lane, &first) => seat,
            };
            let Some(seat) = seat else { return Ok(()) };
            if let Some(batch_id) = &first.batch_id {
                self.take_call(batch_id, &seat.room).await?;
                continue;
            }
            let mut seated = vec![(first, seat)];
            while let Some(seat) = due.peek().and_then(|next| self.seat_at_once(lane, next)) {
                seated.extend(due.next().map(|next| (next, seat)));
            }
            self.take_seated(lane, seated).await?;
        }
        Ok(())
    }

    /// What a part needs, as soon as there is that.
    async fn seat(&self, lane: Lane, due: &DuePart) -> Option<Seat> {
        let room = self.0.tools.handover.room(lane, due.size).await?;
        if due.batch_id.is_some() {
            return Some(Seat { room, place: None, ahead: None });
        }
        if due.batch_max > 1 {
            let ahead = Arc::clone(&self.0.ahead).acquire_owned().await.ok()?;
            return Some(Seat { room, place: None, ahead: Some(ahead) });
        }
        Some(Seat { room, place: self.place().await, ahead: None })
    }

    /// The same, if it is there now.
    fn seat_at_once(&self, lane: Lane, due: &DuePart) -> Option<Seat> {
        if due.batch_id.is_some() {
            return None;
        }
        let room = self.0.tools.handover.room_at_once(lane, due.size)?;
        let waits = due.batch_max > 1;
        let from = if waits { &self.0.ahead } else { &self.0.places };
        let permit = Some(Arc::clone(from).try_acquire_owned().ok()?);
        let (place, ahead) = if waits { (None, permit) } else { (permit, None) };
        Some(Seat { room, place, ahead })
    }

    /// Leases those who have what they need, and has them leave.
    async fn take_seated(&self, lane: Lane, seated: Vec<(DuePart, Seat)>) -> Result<(), StoreError> {
        let mut seats = BTreeMap::new();
        let mut page = Vec::with_capacity(seated.len());
        for (due, seat) in seated {
            seats.insert((due.message_id.clone(), due.part_no), seat);
            page.push(due);
        }
        let mut free = Vec::new();
        for (part, lease) in self.lease(lane, &page).await? {
            let Some(seat) = seats.remove(&(part.message_id.clone(), part.part_no)) else { continue };
            let Seat { room, place, ahead } = seat;
            if self.gathers(&part) {
                free.push(Member { part, lease, room: Some(room), ahead });
            } else {
                self.spawn(Handed { part, room }, lease, place);
            }
        }
        self.gather(Comer::Free(free));
        Ok(())
    }

    /// Leases parts that no call has. What cannot be read is set aside: the parts behind it go on.
    async fn lease(&self, lane: Lane, page: &[DuePart]) -> Result<Vec<(LeasedPart, Lease)>, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let now = clock.now();
        let until = self.0.settings.leased_until(now);
        let leased = match (lane, page) {
            (Lane::Large, [due]) => match store.lease(due, now, until).await {
                Ok(part) => Leased { parts: part.into_iter().collect(), unreadable: Vec::new() },
                Err(StoreError::Corrupt(reason)) => {
                    Leased { parts: Vec::new(), unreadable: vec![(due.clone(), reason)] }
                }
                Err(error) => return Err(error),
            },
            _ => store.lease_page(page, now, until).await?,
        };
        if !leased.parts.is_empty() {
            store.pass(CrashPoint::PartLeased);
        }
        for (due, reason) in leased.unreadable {
            tracing::error!(message_id = %due.message_id, part_no = due.part_no, reason, "a part cannot be read; it is held");
            store.set_aside(&due, &reason).await?;
        }
        let held = |part| {
            let lease = self.0.leases.hold(&part, until, clock.now());
            (part, lease)
        };
        Ok(leased.parts.into_iter().map(held).collect())
    }

    /// Takes all members of a call that is made again.
    async fn take_call(&self, id: &BatchId, room: &Room) -> Result<(), StoreError> {
        self.gather(Comer::Call(self.lease_call(id, Some(room)).await?));
        Ok(())
    }

    async fn lease_call(&self, id: &BatchId, room: Option<&Room>) -> Result<Vec<Member>, StoreError> {
        let Tools { store, clock, .. } = &self.0.tools;
        let now = clock.now();
        let until = self.0.settings.leased_until(now);
        let parts = store.lease_batch(id, now, until).await?;
        if !parts.is_empty() {
            store.pass(CrashPoint::PartLeased);
        }
        let member = |part: LeasedPart| {
            let lease = self.0.leases.hold(&part, until, clock.now());
            Member { part, lease, room: room.cloned(), ahead: None }
        };
        Ok(parts.into_iter().map(member).collect())
    }

    /// Sends one part through a closed gate, to see, or makes a call again.
    async fn probe(self, road: Road) {
        let was_tried = self.try_probe(road).await.unwrap_or_else(|error| {
            error.tell("the queue could not be read");
            false
        });
        self.end_probe(road, was_tried).await;
    }

    async fn first_due(&self, road: Road) -> Result<Option<(Lane, DuePart)>, StoreError> {
        for queue in Queue::ALL {
            if let Some(due) = self.due(queue, &[road], 1).await?.pop() {
                return Ok(Some((queue.lane(), due)));
            }
        }
        Ok(None)
    }

    async fn try_probe(&self, road: Road) -> Result<bool, StoreError> {
        let Some((lane, due)) = self.first_due(road).await? else { return Ok(false) };
        if let Some(batch_id) = &due.batch_id {
            let members = self.lease_call(batch_id, None).await?;
            return Ok(self.probe_together(members).await);
        }
        let Some((part, lease)) = self.lease(lane, &[due]).await?.pop() else { return Ok(false) };
        if self.gathers(&part) {
            return Ok(self.probe_together(vec![Member { part, lease, room: None, ahead: None }]).await);
        }
        self.deliver(part, &lease, Pass::Probe).await;
        Ok(true)
    }
}
