//! One call to Resend with several parts, or with one that might have had company.
//!
//! Who is in the call is written down before it is made, since a call without an answer
//! can only be made again with the same parts, of which none may be missing then. What
//! became of it is written down for all of them at once.

use super::composing::Room;
use super::gather::Leave;
use super::news;
use super::waiting::{Comer, Member};
use super::worker::{Pass, label_of, outgoing};
use super::{Delivery, STORE_WAIT, Tools};
use crate::crash::CrashPoint;
use crate::domain::answer::Answer;
use crate::domain::ids::BatchId;
use crate::domain::message::Road;
use crate::random;
use crate::store::batch::Candidate;
use crate::store::queue::LeasedPart;
use crate::store::report::News;
use crate::telemetry::AttemptOutcome;
use crate::upstream::Outcome;
use crate::upstream::resend::batch::Together;
use crate::upstream::resend::turns::Turn;
use crate::upstream::resend::{Request, Resend};

/// A mail as it is posted, and the SHA-256 by which it is known when it is made again.
struct Mail {
    request: Request,
    hash: String,
}

/// What was answered to a call.
enum Called {
    /// With one part.
    Alone(Outcome),
    /// With several.
    Together(Together),
}

impl Delivery {
    /// Makes one call with those of these parts with which there can be one, and reports
    /// what became of each.
    pub(super) async fn leave_together(&self, members: Vec<Member>, leave: Leave<'_>) {
        let Leave { resend, turn, pass } = leave;
        let members = self.within_headroom(members);
        let members = self.those_who_may(members, &pass).await;
        let (mut room, turn) = match self.room_and_turn(&members, (resend, turn)).await {
            Ok(both) => both,
            Err(outcome) => {
                let moment = self.moment();
                return self.report_each(&members, |part| news::of(part, outcome.clone(), moment)).await;
            }
        };
        let translated = self.translated(members).await;
        room.keep(translated.iter().map(|(_, mail)| mail.request.octets()));
        let (members, mails): (Vec<_>, Vec<_>) = self.composed(translated).await.into_iter().unzip();
        let Some(key) = members.first().map(|member| member.part.idempotency_key()) else { return };
        if !all_ours(&members).await {
            tracing::warn!(idempotency_key = key, parts = members.len(), "leases were lost before the call");
            return;
        }
        let Tools { store, metrics, .. } = &self.0.tools;
        metrics.resend_call(u32::try_from(members.len()).unwrap_or(u32::MAX));
        store.pass(CrashPoint::AttemptBegun);
        let called = tokio::select! {
            called = call(resend, (turn, mails), &key) => called,
            () = all_lost(&members) => {
                let reason = "the lease was lost during the attempt".to_owned();
                let unknown = Outcome::Unknown { reason, retry_after: None, left_out: Vec::new() };
                Called::Together(Together::Each(unknown))
            }
        };
        drop((pass, room));
        store.pass(CrashPoint::UpstreamAnswered);
        let is_too_much = matches!(called, Called::Together(Together::OverQuota { .. }));
        let news = self.understand_call(&members, called).await;
        self.report_all(parts(&members).zip(news.iter().cloned()).collect()).await;
        if is_too_much || news.iter().any(|news| matches!(news, News::Retry { batch_max: Some(_), .. })) {
            self.gather_again(members, &news).await;
        }
    }

    /// Room for the requests. Where it is to be waited for, others have the turn.
    async fn room_and_turn(
        &self,
        members: &[Member],
        (resend, turn): (&Resend, Turn),
    ) -> Result<(Room, Turn), Outcome> {
        let composing = &self.0.gathering.composing;
        if let Some(room) = composing.room_at_once(parts(members)) {
            return Ok((room, turn));
        }
        drop(turn);
        let room = composing.room(parts(members)).await;
        Ok((room, resend.turn().await?))
    }

    /// As many as Resend's quota may have place for; the others wait for another call. A
    /// call that is made again stays as it is.
    fn within_headroom(&self, mut members: Vec<Member>) -> Vec<Member> {
        let most = usize::try_from(self.0.headroom.most(self.0.tools.clock.now())).unwrap_or(usize::MAX);
        let is_new = members.iter().all(|member| member.part.batch.is_none());
        if is_new && members.len() > most {
            self.gather(Comer::Free(members.split_off(most)));
        }
        members
    }

    /// Those with whom a call may be made now.
    async fn those_who_may(&self, members: Vec<Member>, pass: &Pass) -> Vec<Member> {
        let (now, gate) = (self.0.tools.clock.now(), self.0.gates.get(Road::Resend));
        let door = pass.door(gate.as_ref());
        let news = |member: &Member| match member.lease.lost.is_cancelled() {
            true => Some(news::lost(&member.part, now)),
            false => news::before(&member.part, now, door),
        };
        let judged = members.into_iter().map(|member| {
            let news = news(&member);
            (member, news.map_or(Ok(()), Err))
        });
        self.without_the_judged(judged.collect()).await.into_iter().map(|(member, ())| member).collect()
    }

    /// Those that can be translated, each with its mail.
    async fn translated(&self, mut members: Vec<Member>) -> Vec<(Member, Mail)> {
        let outgoing = members.iter_mut().map(|member| outgoing(&mut member.part, &member.lease)).collect();
        let made = Request::make_each(outgoing, &self.0.tools.upstreams.translating).await;
        let mut judged = Vec::with_capacity(made.len());
        for (member, made) in members.into_iter().zip(made) {
            let mail = match made {
                Ok((request, hash)) => Ok(Mail { request, hash }),
                Err(outcome) => Err(self.understand(&member.part, outcome).await),
            };
            judged.push((member, mail));
        }
        self.without_the_judged(judged).await
    }

    /// Fixes the call on disk, if it is not there yet; without those whose lease was lost.
    async fn composed(&self, members: Vec<(Member, Mail)>) -> Vec<(Member, Request)> {
        if members.iter().all(|(member, _)| member.part.batch.is_some()) {
            return members.into_iter().map(|(member, mail)| (member, mail.request)).collect();
        }
        let Tools { store, clock, .. } = &self.0.tools;
        let now = clock.now();
        let id = BatchId::generate(now, random::octets());
        let candidate = |(member, mail): &(Member, Mail)| {
            let LeasedPart { message_id, part_no, attempt, .. } = &member.part;
            let (message_id, request_hash) = (message_id.clone(), mail.hash.clone());
            Candidate { message_id, part_no: *part_no, attempt: *attempt, request_hash }
        };
        let candidates: Vec<_> = members.iter().map(candidate).collect();
        let places = match store.compose(&id, &candidates, now).await {
            Ok(places) => places,
            Err(error) => {
                error.tell("a call could not be composed");
                let due = now.checked_add(STORE_WAIT).unwrap_or(now);
                let news = |(member, _): &(Member, Mail)| news::not_composed(&member.part, due);
                self.report_all(members.iter().map(|of| (&of.0.part, news(of))).collect()).await;
                return Vec::new();
            }
        };
        store.pass(CrashPoint::BatchComposed);
        let seated = members.into_iter().zip(places).map(|((mut member, mail), place)| {
            let is_lost = place.is_none();
            member.part.batch = place;
            let lost = || news::lost(&member.part, now);
            let judged = if is_lost { Err(lost()) } else { Ok(mail.request) };
            (member, judged)
        });
        let (there, lost): (Vec<_>, Vec<_>) = seated.partition(|(_, judged)| judged.is_ok());
        self.without_the_judged(lost).await;
        there.into_iter().filter_map(|(member, mail)| Some((member, mail.ok()?))).collect()
    }

    /// Reports those of whom there is news already, and returns the others, with what they
    /// have. A call that is made again needs all of its members, and nobody is left of it then.
    async fn without_the_judged<T>(&self, judged: Vec<(Member, Result<T, News>)>) -> Vec<(Member, T)> {
        let is_made_again = judged.iter().any(|(member, _)| member.part.batch.is_some());
        let news = judged.iter().find_map(|(_, judged)| judged.as_ref().err());
        let shared = news.filter(|_| is_made_again).cloned();
        let (mut told, mut others) = (Vec::new(), Vec::with_capacity(judged.len()));
        for (member, judged) in judged {
            match (judged, &shared) {
                (Ok(with), None) => others.push((member, with)),
                (Ok(_), Some(news)) => told.push((member, news.clone())),
                (Err(news), _) => told.push((member, news)),
            }
        }
        self.report_all(told.iter().map(|(member, news)| (&member.part, news.clone())).collect()).await;
        others
    }

    /// Opens or closes the gate by what was answered, and says what is written down of each.
    async fn understand_call(&self, members: &[Member], called: Called) -> Vec<News> {
        let together = match (called, members) {
            (Called::Alone(outcome), [only]) => return vec![self.understand(&only.part, outcome).await],
            (Called::Alone(outcome), _) => Together::Each(outcome),
            (Called::Together(together), _) => together,
        };
        for part in parts(members) {
            self.0.tools.metrics.attempt(part.road, label(&together));
        }
        self.learn_from(members, &together);
        let is_unknown = parts(members).any(|part| part.unknown);
        match &together {
            Together::Taken(_) => self.open_gate(Road::Resend).await,
            Together::Each(Outcome::Closed { reason, retry_after }) => {
                self.close_gate(Road::Resend, reason, *retry_after).await;
            }
            Together::OverQuota { reason, retry_after } if is_unknown => {
                self.close_gate(Road::Resend, reason, *retry_after).await;
            }
            Together::OverQuota { reason, .. } => {
                let size = u32::try_from(members.len()).unwrap_or(u32::MAX);
                let most = self.0.headroom.exceeded(size, self.0.tools.clock.now());
                tracing::warn!(
                    reason,
                    size,
                    most,
                    "a call asked for more than Resend's quota has left: the next carry less"
                );
            }
            Together::Refused(Answer { status, text }) | Together::Barred(Answer { status, text }) => {
                let size = members.len();
                tracing::info!(
                    reason = format!("{status} {text}"),
                    size,
                    "a call was refused for one of its mails"
                );
            }
            Together::Failed(_) | Together::Each(_) => {}
        }
        let parts: Vec<_> = parts(members).collect();
        news::of_together(&parts, together, self.moment())
    }
}

fn parts(members: &[Member]) -> impl Iterator<Item = &LeasedPart> {
    members.iter().map(|member| &member.part)
}

async fn call(resend: &Resend, (turn, mut mails): (Turn, Vec<Request>), key: &str) -> Called {
    match (mails.pop(), mails.is_empty()) {
        (Some(only), true) => Called::Alone(resend.send_alone(turn, only, key).await),
        (last, _) => {
            mails.extend(last);
            Called::Together(resend.send_together(turn, mails, key).await)
        }
    }
}

/// Whether every member is ours still: a call with one that another process has is that one's.
async fn all_ours(members: &[Member]) -> bool {
    for member in members {
        if !member.lease.tenure.is_ours().await {
            return false;
        }
    }
    true
}

/// Until nobody's lease is ours any more.
async fn all_lost(members: &[Member]) {
    for member in members {
        member.lease.lost.cancelled().await;
    }
}

fn label(together: &Together) -> AttemptOutcome {
    match together {
        Together::Taken(_) => AttemptOutcome::Accepted,
        // One of them was, and nobody knows who.
        Together::Refused(_) | Together::Barred(_) => AttemptOutcome::Deferred,
        Together::OverQuota { .. } => AttemptOutcome::Deferred,
        Together::Failed(outcome) | Together::Each(outcome) => label_of(outcome),
    }
}
