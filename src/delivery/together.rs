//! One call to Resend with several parts, or with one that might have had company.
//!
//! Who is in the call is written down before it is made, since a call without an answer
//! can only be made again with the same parts, of which none may be missing then. What
//! became of it is written down for all of them at once.

use super::gather::Leave;
use super::news::{self, Door};
use super::waiting::{Comer, Member};
use super::worker::{label_of, outgoing};
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
        let Leave { resend, turn, place } = leave;
        let members = self.within_headroom(members);
        let members = self.those_who_may(members, place.is_none()).await;
        let (members, mails) = self.translated(members).await;
        let (members, mails) = self.composed(members, mails).await;
        let Some(key) = members.first().map(|member| member.part.idempotency_key()) else { return };
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
        drop(place);
        store.pass(CrashPoint::UpstreamAnswered);
        let is_too_much = matches!(called, Called::Together(Together::OverQuota { .. }));
        let news = self.understand_call(&members, called).await;
        self.report_all(parts(&members).zip(news.iter().cloned()).collect()).await;
        if is_too_much || news.iter().any(|news| matches!(news, News::Retry { batch_max: Some(_), .. })) {
            self.gather_again(members, &news).await;
        }
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
    async fn those_who_may(&self, members: Vec<Member>, is_probe: bool) -> Vec<Member> {
        let (now, gate) = (self.0.tools.clock.now(), self.0.gates.get(Road::Resend));
        let door = match &gate {
            None => Door::Open,
            Some(gate) if is_probe => Door::Tried(gate),
            Some(gate) => Door::Closed(gate),
        };
        let news = |member: &Member| match member.lease.lost.is_cancelled() {
            true => Some(news::lost(&member.part, now)),
            false => news::before(&member.part, now, door),
        };
        let judged = members.into_iter().map(|member| (news(&member), member)).collect();
        self.without_the_judged(judged).await
    }

    /// The mails of those that can be translated, each with its hash.
    async fn translated(&self, mut members: Vec<Member>) -> (Vec<Member>, Vec<(Request, String)>) {
        let outgoing = members.iter_mut().map(|member| outgoing(&mut member.part)).collect();
        let made = Request::make_each(outgoing, &self.0.tools.upstreams.translating).await;
        let (mut mails, mut judged) = (Vec::with_capacity(made.len()), Vec::with_capacity(made.len()));
        for (member, made) in members.into_iter().zip(made) {
            let news = match made {
                Ok(mail) => {
                    mails.push(mail);
                    None
                }
                Err(outcome) => Some(self.understand(&member.part, outcome).await),
            };
            judged.push((news, member));
        }
        let members = self.without_the_judged(judged).await;
        mails.truncate(members.len());
        (members, mails)
    }

    /// Fixes the call on disk, if it is not there yet; without those whose lease was lost.
    async fn composed(
        &self,
        members: Vec<Member>,
        mails: Vec<(Request, String)>,
    ) -> (Vec<Member>, Vec<Request>) {
        let (mails, hashes): (Vec<_>, Vec<_>) = mails.into_iter().unzip();
        if members.iter().all(|member| member.part.batch.is_some()) {
            return (members, mails);
        }
        let Tools { store, clock, .. } = &self.0.tools;
        let now = clock.now();
        let id = BatchId::generate(now, random::octets());
        let candidate = |(part, request_hash): (&LeasedPart, String)| {
            let LeasedPart { message_id, part_no, attempt, .. } = part;
            Candidate { message_id: message_id.clone(), part_no: *part_no, attempt: *attempt, request_hash }
        };
        let candidates: Vec<_> = parts(&members).zip(hashes).map(candidate).collect();
        let places = match store.compose(&id, &candidates, now).await {
            Ok(places) => places,
            Err(error) => {
                tracing::error!(%error, "a call could not be composed");
                let due = now.checked_add(STORE_WAIT).unwrap_or(now);
                let news = |part| (part, news::not_composed(part, due));
                self.report_all(parts(&members).map(news).collect()).await;
                return (Vec::new(), Vec::new());
            }
        };
        store.pass(CrashPoint::BatchComposed);
        let (mut there, mut lost) = (Vec::with_capacity(places.len()), Vec::new());
        for ((mut member, mail), place) in members.into_iter().zip(mails).zip(places) {
            match place {
                None => lost.push((Some(news::lost(&member.part, now)), member)),
                place => {
                    member.part.batch = place;
                    there.push((member, mail));
                }
            }
        }
        self.without_the_judged(lost).await;
        there.into_iter().unzip()
    }

    /// Reports those of whom there is news already, and returns the others. A call that is
    /// made again needs all of its members, and nobody is left of it then.
    async fn without_the_judged(&self, judged: Vec<(Option<News>, Member)>) -> Vec<Member> {
        let is_made_again = judged.iter().any(|(_, member)| member.part.batch.is_some());
        let shared = judged.iter().find_map(|(news, _)| news.clone()).filter(|_| is_made_again);
        let judged = judged.into_iter().map(|(news, member)| (news.or(shared.clone()), member));
        let (told, others): (Vec<_>, Vec<_>) = judged.partition(|(news, _)| news.is_some());
        let told: Vec<_> =
            told.iter().filter_map(|(news, member)| Some((&member.part, news.clone()?))).collect();
        self.report_all(told).await;
        others.into_iter().map(|(_, member)| member).collect()
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
