//! Calls to Resend with as many parts as wait for one.
//!
//! A part that may have company comes here with its lease held and its room kept, and
//! waits without a place. Whenever there is a place and the next turn under Resend's rate
//! limit, those who wait leave together: nobody waits for company, and the more there is
//! to send the more goes with each call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::apart::Apart;
use super::composing::Composing;
use super::leases::Lease;
use super::news;
use super::waiting::{Comer, Member, Waiting};
use super::worker::Pass;
use super::{Delivery, READ_AHEAD, Tools};
use crate::domain::batch::MOST;
use crate::domain::message::Road;
use crate::handover::Handed;
use crate::store::queue::{DuePart, LeasedPart};
use crate::store::report::News;
use crate::store::wake::Wake;
use crate::upstream::resend::Resend;
use crate::upstream::resend::batch::Together;
use crate::upstream::resend::turns::Turn;
use crate::upstream::{Outcome, RecipientAnswer};

/// How long parts are put by that others are read in the place of.
const PUT_BY: Duration = Duration::from_secs(30);

/// Where parts come in that may have company.
#[derive(Debug)]
pub(super) struct Gathering {
    come: mpsc::UnboundedSender<Comer>,
    /// Held by the one task that makes calls of them.
    comers: Mutex<mpsc::UnboundedReceiver<Comer>>,
    /// Places of calls, of which no single mail takes any.
    places: Arc<Semaphore>,
    /// Room for what they carry.
    pub(super) composing: Composing,
    /// Whose calls are their own.
    apart: std::sync::Mutex<Apart>,
}

impl Gathering {
    /// With so many calls at the same time at most.
    pub(super) fn new(calls: usize) -> Self {
        let (come, comers) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new(calls));
        let (comers, composing) = (Mutex::new(comers), Composing::default());
        Self { come, comers, places, composing, apart: std::sync::Mutex::default() }
    }

    fn apart(&self) -> MutexGuard<'_, Apart> {
        let mut apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        apart.forget(Instant::now());
        apart
    }
}

/// What a call needs beside its members.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    pub(super) resend: &'a Resend,
    pub(super) turn: Turn,
    pub(super) pass: Pass,
}

impl Delivery {
    /// Whether a part leaves by calls that are composed.
    pub(super) fn gathers(&self, part: &LeasedPart) -> bool {
        let is_composed = part.batch.is_some() || (part.batch_max > 1 && !part.unknown);
        part.road == Road::Resend && is_composed && self.0.tools.upstreams.resend.is_some()
    }

    /// Has somebody wait for a call; given back, if delivery has stopped.
    pub(super) fn gather(&self, comer: Comer) {
        if comer.is_nobody() {
            return;
        }
        let Err(mpsc::error::SendError(comer)) = self.0.gathering.come.send(comer) else { return };
        let delivery = self.clone();
        self.0.tools.tasks.spawn(async move {
            delivery.give_all_back(comer.into_members()).await;
        });
    }

    /// The same for a part that was handed over.
    pub(super) fn gather_handed(&self, Handed { part, room }: Handed, lease: Lease) {
        self.gather(Comer::Free(vec![Member { part, lease, room: Some(room), ahead: None }]));
    }

    /// Makes calls with those who wait, as soon as there are a place and a turn.
    pub(super) async fn gather_calls(self) {
        let Tools { stop, upstreams, .. } = &self.0.tools;
        let mut comers = self.0.gathering.comers.lock().await;
        let mut waiting = Waiting::default();
        while let Some(resend) = &upstreams.resend {
            if waiting.is_empty() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    comer = comers.recv() => comer.into_iter().for_each(|comer| waiting.push(comer)),
                }
            }
            // Both before anybody is chosen: whoever comes meanwhile leaves with the others.
            let (place, turn) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ready = async { (self.call_place().await, resend.turn().await) } => ready,
            };
            while let Ok(comer) = comers.try_recv() {
                waiting.push(comer);
            }
            match turn {
                Ok(turn) if !self.is_closed(Road::Resend) => {
                    let members = waiting.next_call(&self.0.gathering.apart());
                    self.spawn_call(members, turn, place);
                    self.put_by(&mut waiting);
                }
                Ok(_) => self.put_all_off(&mut waiting, None).await,
                Err(outcome) => self.put_all_off(&mut waiting, Some(outcome)).await,
            }
        }
        // What nobody has begun to send goes back into the queue.
        comers.close();
        while let Some(comer) = comers.recv().await {
            waiting.push(comer);
        }
        let is_any = !waiting.is_empty();
        for members in waiting.all() {
            self.give_all_back(members).await;
        }
        if is_any {
            self.0.tools.store.tell(Wake::Parts).await;
        }
    }

    /// Learns from a call with several whose mail is to leave apart.
    pub(super) fn learn_from(&self, members: &[Member], together: &Together) {
        let customers: BTreeSet<_> = members.iter().map(|member| &member.part.customer_id).collect();
        let call = members.first().and_then(|member| member.part.batch.as_ref());
        let (mut apart, now) = (self.0.gathering.apart(), Instant::now());
        match (together, call) {
            (Together::Taken(_), Some(call)) => apart.taken(&call.id),
            (Together::Refused(_) | Together::Barred(_), _) if customers.len() == 1 => {
                customers.iter().for_each(|customer| apart.refused(customer, now));
            }
            (Together::Failed(Outcome::Unknown { reason, .. }), Some(call)) => {
                customers.iter().for_each(|customer| apart.failed(customer, &call.id, now));
                tracing::warn!(
                    batch_id = %call.id,
                    parts = members.len(),
                    customers = customers.len(),
                    reason,
                    "Resend failed at a call; it is made again, and its customers' mail leaves apart meanwhile"
                );
            }
            _ => {}
        }
    }

    /// Learns the same from a call with one, with which others may have been refused before.
    pub(super) fn learn_alone(&self, part: &LeasedPart, outcome: &Outcome) {
        let is_refused = match outcome {
            Outcome::Barred(_) => true,
            Outcome::Answered { answers, .. } => {
                answers.iter().any(|answer| matches!(answer, RecipientAnswer::Refused(_)))
            }
            _ => false,
        };
        if part.road == Road::Resend && part.batch_max < MOST && is_refused {
            self.0.gathering.apart().refused(&part.customer_id, Instant::now());
        }
    }

    fn spawn_call(&self, members: Vec<Member>, turn: Turn, place: Option<OwnedSemaphorePermit>) {
        let delivery = self.clone();
        self.0.tools.tasks.spawn(async move {
            if let Some(resend) = &delivery.0.tools.upstreams.resend {
                delivery.leave_together(members, Leave { resend, turn, pass: Pass::Ordinary(place) }).await;
            }
        });
    }

    /// Makes a call through a closed gate, to see; whether it was tried.
    pub(super) async fn probe_together(&self, members: Vec<Member>) -> bool {
        let Some(resend) = &self.0.tools.upstreams.resend else { return false };
        if members.is_empty() {
            return false;
        }
        match resend.turn().await {
            Ok(turn) => self.leave_together(members, Leave { resend, turn, pass: Pass::Probe }).await,
            Err(outcome) => {
                let moment = self.moment();
                self.report_each(&members, |part| news::of(part, outcome.clone(), moment)).await;
            }
        }
        true
    }

    /// Those who are apart do not hold all that may be read ahead.
    fn put_by(&self, waiting: &mut Waiting) {
        if self.0.ahead.available_permits() > 0 {
            return;
        }
        let members = waiting.too_many(&self.0.gathering.apart(), READ_AHEAD / 2);
        if members.is_empty() {
            return;
        }
        let now = self.0.tools.clock.now();
        let due = now.checked_add(PUT_BY).unwrap_or(now);
        let delivery = self.clone();
        self.0.tools.tasks.spawn(async move {
            delivery.report_each(&members, |part| news::put_by(part, due)).await;
        });
    }

    async fn call_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.gathering.places).acquire_owned().await.ok()
    }

    /// The gate is closed, or no turn comes for long: nobody waits for that in memory.
    async fn put_all_off(&self, waiting: &mut Waiting, outcome: Option<Outcome>) {
        let gate = self.0.gates.get(Road::Resend);
        for members in waiting.all() {
            let (now, moment) = (self.0.tools.clock.now(), self.moment());
            let news = |part: &LeasedPart| match (&outcome, &gate) {
                (Some(outcome), _) => news::of(part, outcome.clone(), moment),
                (None, Some(gate)) => news::closed(part, gate),
                (None, None) => news::not_begun(part, now),
            };
            self.report_each(&members, news).await;
        }
    }

    async fn give_all_back(&self, members: Vec<Member>) {
        let now = self.0.tools.clock.now();
        self.report_each(&members, |part| news::not_begun(part, now)).await;
    }

    /// Reports parts with which no call is made.
    pub(super) async fn report_each(&self, members: &[Member], news: impl Fn(&LeasedPart) -> News) {
        self.report_all(members.iter().map(|member| (&member.part, news(&member.part))).collect()).await;
    }

    /// Parts whose call was divided are taken up at once, before others that are due. Who
    /// is not leased here is found by the poll.
    pub(super) async fn gather_again(&self, members: Vec<Member>, news: &[News]) {
        let Tools { store, clock, stop, handover, .. } = &self.0.tools;
        if stop.is_cancelled() {
            return;
        }
        let mut rooms = BTreeMap::new();
        let mut page = Vec::with_capacity(members.len());
        for Member { part, room, .. } in members {
            let Some(room) = room else { continue };
            let (message_id, part_no) = (part.message_id, part.part_no);
            rooms.insert((message_id.clone(), part_no), room);
            let (size, batch_max) = (part.bytes.len(), part.batch_max);
            page.push(DuePart { message_id, part_no, size, batch_max, batch_id: None });
        }
        let due = |news: &News| match news {
            News::Retry { due, .. } => Some(*due),
            _ => None,
        };
        let now = news.iter().filter_map(due).chain([clock.now()]).max().unwrap_or_else(|| clock.now());
        let until = self.0.settings.leased_until(now);
        let leased = match store.lease_page(&page, now, until).await {
            Ok(leased) => leased.parts,
            Err(error) => return error.tell("the queue could not be read"),
        };
        let mut free = Vec::with_capacity(leased.len());
        for part in leased {
            let Some(room) = rooms.remove(&(part.message_id.clone(), part.part_no)) else { continue };
            if self.gathers(&part) {
                let lease = self.0.leases.hold(&part, until, clock.now());
                free.push(Member { part, lease, room: Some(room), ahead: None });
            } else {
                handover.hand(part, room);
            }
        }
        self.gather(Comer::Free(free));
    }
}
