//! Calls to Resend with as many parts as wait for one.
//!
//! A part that may have company comes here with its lease held and its room kept, and
//! waits without a place. Whenever there is a place and the next turn under Resend's rate
//! limit, those who wait leave together: nobody waits for company, and the more there is
//! to send the more goes with each call.

use std::collections::BTreeMap;

use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc};

use super::leases::Lease;
use super::news;
use super::waiting::{Comer, Member, Waiting};
use super::{Delivery, Tools};
use crate::domain::message::Road;
use crate::handover::Handed;
use crate::store::queue::{DuePart, LeasedPart};
use crate::store::report::News;
use crate::upstream::Outcome;
use crate::upstream::resend::Resend;
use crate::upstream::resend::turns::Turn;

/// Where parts come in that may have company.
#[derive(Debug)]
pub(super) struct Gathering {
    come: mpsc::UnboundedSender<Comer>,
    /// Held by the one task that makes calls of them.
    comers: Mutex<mpsc::UnboundedReceiver<Comer>>,
}

impl Default for Gathering {
    fn default() -> Self {
        let (come, comers) = mpsc::unbounded_channel();
        Self { come, comers: Mutex::new(comers) }
    }
}

/// What a call needs beside its members.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    pub(super) resend: &'a Resend,
    pub(super) turn: Turn,
    /// `None`: it is to see whether a closed gate may be opened.
    pub(super) place: Option<OwnedSemaphorePermit>,
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
                ready = async { (self.place().await, resend.turn().await) } => ready,
            };
            while let Ok(comer) = comers.try_recv() {
                waiting.push(comer);
            }
            match turn {
                Ok(turn) if !self.is_closed(Road::Resend) => {
                    self.spawn_call(waiting.next_call(), turn, place);
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
        for members in waiting.all() {
            self.give_all_back(members).await;
        }
    }

    fn spawn_call(&self, members: Vec<Member>, turn: Turn, place: Option<OwnedSemaphorePermit>) {
        let delivery = self.clone();
        self.0.tools.tasks.spawn(async move {
            if let Some(resend) = &delivery.0.tools.upstreams.resend {
                delivery.leave_together(members, Leave { resend, turn, place }).await;
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
            Ok(turn) => self.leave_together(members, Leave { resend, turn, place: None }).await,
            Err(outcome) => {
                let moment = self.moment();
                self.report_each(&members, |part| news::of(part, outcome.clone(), moment)).await;
            }
        }
        true
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
    async fn report_each(&self, members: &[Member], news: impl Fn(&LeasedPart) -> News) {
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
            page.push(DuePart { message_id, part_no, size: 0, batch_max: 1, batch_id: None });
        }
        let due = |news: &News| match news {
            News::Retry { due, .. } => Some(*due),
            _ => None,
        };
        let now = news.iter().filter_map(due).chain([clock.now()]).max().unwrap_or_else(|| clock.now());
        let until = now.checked_add(self.0.settings.lease).unwrap_or(now);
        let leased = match store.lease_page(&page, now, until).await {
            Ok(leased) => leased.parts,
            Err(error) => return tracing::error!(%error, "the queue could not be read"),
        };
        let mut free = Vec::with_capacity(leased.len());
        for part in leased {
            let Some(room) = rooms.remove(&(part.message_id.clone(), part.part_no)) else { continue };
            if self.gathers(&part) {
                let lease = self.0.leases.hold(&part);
                free.push(Member { part, lease, room: Some(room), ahead: None });
            } else {
                handover.hand(part, room);
            }
        }
        self.gather(Comer::Free(free));
    }
}
