//! The use case that takes a message in, for SMTP and HTTP alike.
//!
//! Sign-in, then the checks at MAIL (credential, suspension, sender, credit), then
//! the message itself: From checked, stamped, cut into parts, accepted in one
//! transaction, handed to delivery. `Ok` from [`Submission::submit`] means that the
//! message is on disk and its credits are held. What this room must not know:
//! replies and status codes, SQL, Dodo's or Resend's wire formats.
//!
//! Where each recipient costs a credit, MAIL's answer says how many it found, and
//! RCPT asks again only beyond them. A submission that is retried under a key is
//! answered as the first time (`retried`). Sign-ins that fail are slowed down and in
//! the end not looked at (`sign_in`).

mod bounds;
mod recent;
mod retried;
mod sign_in;
mod spool;
#[cfg(test)]
pub(crate) mod stand_in;
mod together;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::allowance::Allowance;
use crate::billing::Billing;
use crate::clock::Clock;
use crate::config::{Config, Limits, ProofBy};
use crate::crash::CrashPoint;
use crate::domain::address::{Mailbox, ReversePath};
pub use crate::domain::arrival::Arrival;
use crate::domain::credits::{Credits, Unit};
use crate::domain::dsn::Dsn;
use crate::domain::envelope::Envelope;
use crate::domain::idempotency::Keyed;
use crate::domain::ids::{CustomerId, MessageId, Username};
pub use crate::domain::message::CHUNK_BYTES;
use crate::domain::refusal::Refusal;
use crate::domain::sender::{SenderPattern, SenderPolicy};
use crate::handover::{Handover, Room};
use crate::mime::inspect::Inspection;
use crate::mime::trace::{Stamp, prepare};
use crate::routing::{Routing, new_message_id};
use crate::store::Store;
use crate::store::accept::{self, Acceptance, Kind};
use crate::store::queue::LeasedPart;
use crate::store::standing::Standing;
use crate::telemetry::Metrics;
use crate::throttle::sign_in::{NamesKey, SignIns};
use crate::throttle::{Throttle, TooSoon};
use crate::upstream::translate::{CannotCarry, MAX_EMAIL_BYTES, Note};
use crate::upstream::translating::{First, Translating};
pub use bounds::Bounds;
use recent::Recent;
pub use recent::Refused;
use retried::Look;
pub use spool::Spool;

/// Notes of one message that are kept for its log.
const MAX_NOTES: usize = 50;
/// Sign-ins that ask the database at the same time what is known at other nodes.
const SHARING: usize = 2;
/// Characters of each.
const MAX_NOTE_CHARS: usize = 300;

/// Takes messages in.
#[derive(Debug, Clone)]
pub struct Submission(Arc<Inner>);

/// What submission works with.
#[derive(Debug)]
pub struct Tools {
    /// The database.
    pub store: Store,
    /// Credit.
    pub billing: Billing,
    /// The short way to delivery.
    pub handover: Handover,
    /// The roads.
    pub routing: Routing,
    /// The turns of large messages at their translation.
    pub translating: Translating,
    /// The time.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// The owner of acceptances whose client may hang up.
    pub tasks: TaskTracker,
    /// Under which names are counted that fail to sign in.
    pub names_key: NamesKey,
}

#[derive(Debug)]
struct Inner {
    tools: Tools,
    policy: SenderPolicy,
    may_prove: bool,
    unit: Unit,
    hostname: String,
    bounds: Bounds,
    lease: Duration,
    sign_ins: SignIns,
    /// Who may ask and tell other nodes about failed sign-ins: few at a time, since whoever
    /// knocks needs no credential. The others are counted here alone.
    sharing: Semaphore,
    /// `None`: as fast as they come.
    pace: Option<Throttle<CustomerId>>,
    /// What may lie on disk of messages that are not accepted yet.
    allowance: Allowance,
    recent: Recent,
}

/// Who signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The customer.
    pub customer_id: CustomerId,
    /// The credential that was used; `None`: somebody signed in on the page by a mailed link.
    pub username: Option<Username>,
}

/// What MAIL found out, for the message that follows: a second look at the
/// database for the From header would find the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    senders: Vec<SenderPattern>,
    /// What was available, where each recipient costs a credit.
    available: Option<Credits>,
    /// Whether anything was on the suppression list.
    suppresses: bool,
}

/// What was available when it was asked again, since MAIL's answer was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered(Credits);

impl Begun {
    /// Remembers what was found.
    pub fn covers(&mut self, Covered(available): Covered) {
        self.available = Some(available);
    }
}

/// A complete message at the door.
#[derive(Debug)]
pub struct Submitted {
    /// What its MAIL found out.
    pub begun: Begun,
    /// Who sends and who receives.
    pub envelope: Envelope,
    /// The message, dots unstuffed; where there is a spool: its header.
    pub bytes: Vec<u8>,
    /// What follows behind it, of a large message.
    pub spool: Option<Spool>,
    /// How it came.
    pub arrival: Arrival,
    /// Set where the client may retry it and said so beside the message; a key in
    /// its header is found here.
    pub keyed: Option<Keyed>,
    /// What its client asked for and is not done, for its log.
    pub notes: Vec<Note>,
}

/// A message that is safe: committed and fsynced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub message_id: MessageId,
    /// What the customer has left.
    pub available: Option<Credits>,
}

impl Submission {
    /// Submission by this configuration.
    pub fn new(config: &Config, tools: Tools) -> Self {
        Self(Arc::new(Inner {
            policy: config.senders.policy,
            may_prove: config.senders.proof != ProofBy::None,
            unit: config.billing.unit,
            hostname: config.smtp.hostname.clone(),
            bounds: Bounds::new(&config.smtp),
            lease: Duration::from_secs(config.queue.lease_s),
            sign_ins: SignIns::new(&config.limits, tools.names_key),
            sharing: Semaphore::new(SHARING),
            pace: pace(&config.limits),
            recent: Recent::default(),
            allowance: Allowance::new(
                "smtp.max_bytes_spooled",
                config.smtp.max_bytes_spooled,
                config.smtp.max_bytes_spooled_per_customer,
            ),
            tools,
        }))
    }

    /// The checks at MAIL: credential still good, customer not suspended, sender
    /// allowed, not too fast, credit there. What is told to come later is told before
    /// its message has been sent to us.
    pub async fn begin(&self, who: &SignedIn, reverse_path: &ReversePath) -> Result<Begun, Refusal> {
        self.counted(Some(who), self.try_begin(who, reverse_path).await)
    }

    /// Whether a message of this customer could be taken in at all, for who asks before
    /// the message is there: credential still good, customer not suspended, credit there.
    pub async fn check_customer(&self, who: &SignedIn) -> Result<(), Refusal> {
        let checked = async {
            let Standing { customer_id, account, .. } = self.standing(who).await?;
            self.0.tools.billing.check_credit(&customer_id, &account, Credits::ONE).await
        };
        self.counted(Some(who), checked.await.map(|_| ()))
    }

    /// The check of credit at RCPT, where each recipient costs one: whether there is
    /// enough for so many of them. Asks nobody unless they are more than were
    /// covered when it was asked last; what was found then belongs in `begun`.
    pub async fn check_credit(
        &self,
        who: &SignedIn,
        begun: &Begun,
        recipients: usize,
    ) -> Result<Option<Covered>, Refusal> {
        let price = self.0.unit.price(recipients).ok_or(self.too_many_recipients())?;
        if begun.available.is_none_or(|available| price <= available) {
            return Ok(None);
        }
        let found = self.0.tools.billing.check_credit_live(&who.customer_id, price).await;
        self.counted(Some(who), found.map(|available| Some(Covered(available))))
    }

    /// The check at RCPT: whether a configured road can carry the address.
    pub fn check_recipient(&self, recipient: &Mailbox) -> Result<(), Refusal> {
        self.counted(None, self.0.tools.routing.check_address(recipient).map_err(not_carried))
    }

    /// The check at RCPT: whether the address is on the customer's suppression list.
    /// Asks nobody if MAIL found the list empty; what came on it since then is found
    /// when the message is accepted.
    pub async fn check_suppressed(
        &self,
        who: &SignedIn,
        begun: &Begun,
        recipient: &Mailbox,
    ) -> Result<(), Refusal> {
        if !begun.suppresses {
            return Ok(());
        }
        let found = self.0.tools.store.suppressed(&who.customer_id, recipient).await.map_err(unavailable)?;
        let Some(why) = found else { return Ok(()) };
        self.counted(Some(who), Err(Refusal::Suppressed { recipient: recipient.clone(), why }))
    }

    /// Takes the message in. When this returns `Ok`, it is committed and fsynced.
    pub async fn submit(&self, who: &SignedIn, submitted: Submitted) -> Result<Accepted, Refusal> {
        self.counted(Some(who), self.try_submit(who, submitted).await)
    }

    /// The last refusals of this process, the newest first.
    pub fn refused_lately(&self, most: usize) -> Vec<Refused> {
        self.0.recent.newest(most)
    }

    fn counted<T>(&self, who: Option<&SignedIn>, result: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &result {
            self.0.tools.metrics.submission_refused(refusal);
            self.0.recent.note(who.map(|who| &who.customer_id), refusal, self.0.tools.clock.now());
        }
        result
    }

    async fn try_begin(&self, who: &SignedIn, reverse_path: &ReversePath) -> Result<Begun, Refusal> {
        let standing = self.standing(who).await?;
        if let Some(sender) = reverse_path.mailbox() {
            self.check_sender(&standing.senders, sender)?;
            self.0.tools.routing.check_address(sender).map_err(not_carried)?;
        }
        standing.tally.check(self.0.tools.clock.now()).map_err(Refusal::Capped)?;
        let Standing { customer_id, account, senders, suppresses, .. } = standing;
        if let Some(pace) = &self.0.pace {
            let too_fast = |TooSoon { retry_after_s }| Refusal::TooFast { retry_after_s };
            pace.take(customer_id.clone(), self.0.tools.clock.now()).map_err(too_fast)?;
        }
        let available = self.0.tools.billing.check_credit(&customer_id, &account, Credits::ONE).await?;
        let available = Some(available).filter(|_| self.0.unit == Unit::Recipient);
        Ok(Begun { senders, available, suppresses })
    }

    async fn standing(&self, who: &SignedIn) -> Result<Standing, Refusal> {
        let store = &self.0.tools.store;
        let standing = match &who.username {
            Some(username) => store.standing(username).await,
            None => store.standing_of(&who.customer_id).await,
        };
        let standing = standing.map_err(unavailable)?;
        let standing = standing.filter(|s| !s.is_revoked).ok_or(Refusal::BadCredential)?;
        self.0.tools.store.note_use(&standing, self.0.tools.clock.now());
        match &standing.suspended_reason {
            Some(reason) => Err(Refusal::Suspended { reason: reason.clone() }),
            None => Ok(standing),
        }
    }

    fn check_sender(&self, senders: &[SenderPattern], sender: &Mailbox) -> Result<(), Refusal> {
        let is_allowed =
            self.0.policy == SenderPolicy::Any || senders.iter().any(|pattern| pattern.matches(sender));
        let (address, may_prove) = (sender.to_string(), self.0.may_prove);
        if is_allowed { Ok(()) } else { Err(Refusal::SenderNotAllowed { address, may_prove }) }
    }

    async fn try_submit(&self, who: &SignedIn, mut submitted: Submitted) -> Result<Accepted, Refusal> {
        let inspection = self.inspect(&submitted)?;
        self.spool_if_large(who, &mut submitted).await?;
        let in_header = retried::in_header(&submitted, &inspection).await?;
        submitted.keyed = in_header.or(submitted.keyed);
        // Each time that it is overtaken somebody else was accepted for one of its
        // recipients at least, and there are only so many.
        loop {
            let now = self.0.tools.clock.now();
            if let Some(keyed) = &mut submitted.keyed {
                match self.look(who, keyed, submitted.envelope.recipients(), now).await? {
                    Look::Answered(earlier) => return Ok(earlier),
                    Look::Served(served) => keyed.served = served,
                }
            }
            let senders = &submitted.begun.senders;
            inspection.from.iter().try_for_each(|from| self.check_sender(senders, from))?;
            let asked = self.acceptance(who, &submitted, &inspection, now).await?;
            let (accepted, spool) = self.accept_to_the_end(asked, submitted.spool.take()).await?;
            if let Some(accepted) = accepted {
                return Ok(accepted);
            }
            submitted.spool = spool;
        }
    }

    /// A client that hangs up ends its own task, not the one that this runs in: what is
    /// committed with a lease must come to delivery, or it would wait until the lease lapses.
    /// The spool is given back to whoever was overtaken and tries again.
    async fn accept_to_the_end(
        &self,
        (acceptance, first): (Acceptance, Option<First>),
        mut spool: Option<Spool>,
    ) -> Result<(Option<Accepted>, Option<Spool>), Refusal> {
        let submission = self.clone();
        let accepting = self.0.tools.tasks.spawn(async move {
            let accepted = submission.accept(acceptance, spool.as_mut()).await;
            drop(first);
            Ok((accepted?, spool))
        });
        accepting.await.unwrap_or_else(|error| {
            tracing::error!(%error, "an acceptance ended without an answer");
            Err(Refusal::StoreUnavailable)
        })
    }

    fn inspect(&self, submitted: &Submitted) -> Result<Inspection, Refusal> {
        let spooled = submitted.spool.as_ref().map_or(0, Spool::octets);
        let octets = submitted.bytes.len().saturating_add(spooled);
        self.0.bounds.inspect(&submitted.bytes, octets, submitted.envelope.recipients().len())
    }

    fn too_many_recipients(&self) -> Refusal {
        self.0.bounds.too_many_recipients()
    }

    /// What asks to be accepted: the message to those who do not have it under its key.
    async fn acceptance(
        &self,
        who: &SignedIn,
        submitted: &Submitted,
        inspection: &Inspection,
        now: Timestamp,
    ) -> Result<(Acceptance, Option<First>), Refusal> {
        let message_id = new_message_id(now);
        let stamp =
            Stamp { hostname: &self.0.hostname, now, message_id: &message_id, arrival: &submitted.arrival };
        let bytes = Bytes::from(prepare(&submitted.bytes, inspection, &stamp));
        let served = submitted.keyed.as_ref().map_or(&[][..], |keyed| &keyed.served);
        let everybody = submitted.envelope.recipients().iter();
        let recipients: Vec<Mailbox> = everybody.filter(|to| !served.contains(to)).cloned().collect();
        let spool = submitted.spool.as_ref();
        let size = bytes.len().saturating_add(spool.map_or(0, Spool::octets));
        let reverse_path = submitted.envelope.reverse_path();
        let null_sender = self.0.tools.routing.by_sender(reverse_path, (&bytes, size), &recipients);
        let (route, first) = match null_sender {
            Some(route) => (route.map_err(not_carried)?, None),
            None => self.route(who, &message_id, (&bytes, spool), &recipients).await?,
        };
        let price = self.0.unit.price(recipients.len());
        let acceptance = Acceptance {
            message_id,
            customer_id: who.customer_id.clone(),
            username: who.username.clone(),
            kind: Kind::Submission,
            reverse_path: submitted.envelope.reverse_path().clone(),
            header_from: inspection.from.first().map(ToString::to_string).unwrap_or_default(),
            subject: inspection.subject.clone(),
            bytes,
            spooled: spool.map(Spool::spooled),
            unit: self.0.unit,
            price: price.ok_or(self.too_many_recipients())?,
            accepted_at: now,
            lifetime: self.0.tools.routing.lifetime(),
            parts: route.parts,
            lease_until: None,
            keyed: submitted.keyed.clone(),
            notes: told(inspection, &submitted.notes, &route.notes),
            dsn: self.dsn(submitted),
        };
        Ok((acceptance, first))
    }

    /// What is told of the message. Where any sender goes, nobody answers for the address
    /// that reports go to: one that is not listed gets the least.
    fn dsn(&self, submitted: &Submitted) -> Arc<Dsn> {
        let (dsn, sender) = (submitted.envelope.dsn(), submitted.envelope.reverse_path().mailbox());
        let is_listed = |sender: &Mailbox| submitted.begun.senders.iter().any(|of| of.matches(sender));
        match self.0.policy == SenderPolicy::Any && !sender.is_some_and(is_listed) {
            true => Arc::new(dsn.for_a_stranger()),
            false => Arc::clone(dsn),
        }
    }

    /// `None`: overtaken by another submission under its key.
    async fn accept(
        &self,
        mut acceptance: Acceptance,
        spool: Option<&mut Spool>,
    ) -> Result<Option<Accepted>, Refusal> {
        let Tools { store, billing, handover, metrics, .. } = &self.0.tools;
        let road = acceptance.parts.first().map(|part| part.road);
        // A large message is not in memory any more: delivery finds it in the database.
        let road = road.filter(|_| acceptance.spooled.is_none());
        let (bytes, parts) = (acceptance.bytes.len(), acceptance.parts.len());
        let room = road.and_then(|road| handover.reserve(&acceptance.customer_id, road, bytes, parts));
        acceptance.lease_until =
            room.as_ref().and_then(|_| acceptance.accepted_at.checked_add(self.0.lease).ok());
        let mut answer = store.accept(acceptance.clone()).await.map_err(unavailable)?;
        if answer == accept::Accepted::OutOfCredit {
            // A race was lost, or Dodo knows of a top-up that we do not: look once.
            billing.check_credit_live(&acceptance.customer_id, acceptance.price).await?;
            let now = self.0.tools.clock.now();
            acceptance.lease_until = acceptance.lease_until.and_then(|_| now.checked_add(self.0.lease).ok());
            answer = store.accept(acceptance.clone()).await.map_err(unavailable)?;
        }
        let available = match answer {
            accept::Accepted::Yes { available, low } => {
                if low {
                    billing.low_balance(&acceptance.customer_id, available);
                }
                available
            }
            accept::Accepted::Before { message_id, available } => {
                return Ok(Some(retried::answered(&acceptance.customer_id, message_id, available)));
            }
            accept::Accepted::Overtaken => return Ok(None),
            accept::Accepted::KeyReused => return Err(Refusal::KeyReused),
            accept::Accepted::OutOfCredit => return Err(billing.out_of_credit(Credits::ZERO)),
            accept::Accepted::BalanceUnknown => return Err(Refusal::BillingUnknown),
            accept::Accepted::Suspended(reason) => return Err(Refusal::Suspended { reason }),
            accept::Accepted::Suppressed { recipient, why } => {
                return Err(Refusal::Suppressed { recipient, why });
            }
            accept::Accepted::Revoked => return Err(Refusal::BadCredential),
            accept::Accepted::Capped(reached) => return Err(Refusal::Capped(reached)),
        };
        if let Some(spool) = spool {
            spool.keep();
        }
        metrics.message_accepted();
        log_accepted(&acceptance, available);
        let message_id = acceptance.message_id.clone();
        if let Some(room) = room {
            hand_over(handover, acceptance, &room);
            store.pass(CrashPoint::HandedOver);
        }
        Ok(Some(Accepted { message_id, available }))
    }
}

/// Why no road can carry a message, as the customer is told.
pub(crate) fn not_carried(reason: CannotCarry) -> Refusal {
    match (reason.status, reason.address) {
        ("5.6.7", Some(address)) => Refusal::AddressNotCarried { address },
        ("5.3.4", _) => Refusal::TooLarge { limit_bytes: MAX_EMAIL_BYTES },
        (status, _) => Refusal::Unacceptable { status, what: reason.what },
    }
}

/// What is kept of a message's notes: as many as somebody reads, and how many more there were.
/// What was taken out before the message went its way is not among those of the way.
fn told(inspection: &Inspection, asked: &[Note], of_the_way: &[Note]) -> Vec<String> {
    let withheld = inspection.withheld.iter().map(|name| Note::withheld(name));
    let notes: Vec<Note> = withheld.chain(asked.iter().chain(of_the_way).cloned()).collect();
    let more = notes.len().saturating_sub(MAX_NOTES);
    let more = (more > 0).then(|| format!("and {more} more of the kind"));
    let line = |note: &Note| note.to_string().chars().take(MAX_NOTE_CHARS).collect();
    notes.iter().take(MAX_NOTES).map(line).chain(more).collect()
}

fn log_accepted(acceptance: &Acceptance, available: Option<Credits>) {
    tracing::info!(
        message_id = %acceptance.message_id,
        customer_id = %acceptance.customer_id,
        username = acceptance.username.as_ref().map(Username::as_str),
        recipients = acceptance.parts.iter().map(|part| part.recipients.len()).sum::<usize>(),
        served_before = acceptance.keyed.as_ref().map(|keyed| keyed.served.len()).filter(|served| *served > 0),
        bytes = acceptance.size(),
        available = available.map(Credits::get),
        "message accepted"
    );
}

/// The buckets of `limits.messages_per_s`.
fn pace(limits: &Limits) -> Option<Throttle<CustomerId>> {
    let interval = Duration::from_secs(1).checked_div(limits.messages_per_s)?;
    Some(Throttle::new(limits.messages_burst, interval))
}

/// The parts, leased in the insert, go to delivery without a look at the database.
fn hand_over(handover: &Handover, acceptance: Acceptance, room: &Room) {
    let expires_at = acceptance.accepted_at.checked_add(acceptance.lifetime).unwrap_or(Timestamp::MAX);
    for (part_no, part) in (0..).zip(acceptance.parts) {
        let leased = LeasedPart {
            message_id: acceptance.message_id.clone(),
            part_no,
            customer_id: acceptance.customer_id.clone(),
            kind: acceptance.kind,
            road: part.road,
            attempt: 1,
            key_no: 0,
            first_try_at: acceptance.accepted_at,
            unknown: false,
            request_hash: part.request_hash,
            reverse_path: acceptance.reverse_path.clone(),
            recipients: part.recipients,
            maybe_taken: Vec::new(),
            accepted_at: acceptance.accepted_at,
            expires_at,
            batch_max: part.batch_max,
            batch: None,
            bytes: acceptance.bytes.clone(),
            dsn: Arc::clone(&acceptance.dsn),
        };
        handover.hand(leased, room.clone());
    }
}

fn unavailable(error: crate::store::StoreError) -> Refusal {
    error.tell("a submission is refused because the store is not available");
    Refusal::StoreUnavailable
}

#[cfg(test)]
mod tests;
