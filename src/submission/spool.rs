//! Large messages on their way in: what is beyond the header goes to disk while it
//! arrives, in chunks, and is read back only as far as somebody must see it.
//!
//! A [`Spool`] that is dropped before its message was accepted takes its chunks with
//! it. How much of such may lie on disk is limited, of all customers together and of
//! each: whoever would go beyond is refused for now. A translation for Resend needs
//! the whole message at once; such messages wait for one another
//! ([`translating`](crate::upstream::translating)).

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{SignedIn, Submission, Submitted, Tools, not_carried, unavailable};
use crate::allowance::Claim;
use crate::clock::Clock;
use crate::domain::address::Mailbox;
use crate::domain::digest::hex;
use crate::domain::ids::{CustomerId, MessageId, SpoolId};
use crate::domain::message::CHUNK_BYTES;
use crate::domain::refusal::Refusal;
use crate::mime::header::header_length;
use crate::random;
use crate::routing::Route;
use crate::store::Store;
use crate::store::spool::{NewChunk, Spooled};
use crate::upstream::translating::{AT_ONCE, First, NotTranslated};

/// What one message has on disk already.
#[derive(Debug)]
pub struct Spool {
    store: Store,
    clock: Clock,
    spool_id: SpoolId,
    chunks: u32,
    octets: usize,
    hash: Sha256,
    /// What it has of the room for messages that are not accepted yet; `None`: it is a message's now.
    claim: Option<Claim>,
    /// A chunk was handed in, and nothing heard of it.
    is_writing: bool,
}

impl Spool {
    /// Octets so far.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Writes the next chunk; when this returns `Ok`, it is on disk.
    ///
    /// # Errors
    /// When there is no room for it, or it cannot be written: the message cannot be whole any more.
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Refusal> {
        self.claim(bytes.len())?;
        let chunk_no = self.chunks;
        self.chunks = self.chunks.saturating_add(1);
        self.octets = self.octets.saturating_add(bytes.len());
        self.hash.update(&bytes);
        let (spool_id, now) = (self.spool_id.clone(), self.clock.now());
        self.is_writing = true;
        let written = self.store.write_chunk(NewChunk { spool_id, chunk_no, bytes, now }).await;
        self.is_writing = false;
        written.map_err(unavailable)
    }

    /// Counts so many octets more before they are written.
    fn claim(&mut self, more: usize) -> Result<(), Refusal> {
        let Some(claim) = &mut self.claim else { return Ok(()) };
        claim.grow(more).map_err(|reason| {
            let (customer_id, arrived) = (claim.customer_id(), self.octets);
            tracing::warn!(%customer_id, arrived, %reason, "a large message is refused for now");
            Refusal::StoreUnavailable
        })
    }

    /// It belongs to a message and stays.
    pub(super) fn keep(&mut self) {
        self.claim = None;
    }

    /// As an acceptance names it.
    pub(super) fn spooled(&self) -> Spooled {
        let sha256 = hex(&self.hash.clone().finalize());
        Spooled { spool_id: self.spool_id.clone(), octets: self.octets, sha256 }
    }

    /// Reads it back, one chunk in memory at a time.
    pub(super) async fn read(&self, mut take: impl FnMut(&[u8])) -> Result<(), Refusal> {
        for chunk_no in 0..self.chunks {
            let chunk = self.store.read_chunk(&self.spool_id, chunk_no).await.map_err(unavailable)?;
            take(&chunk.ok_or(Refusal::StoreUnavailable)?);
        }
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take().filter(|_| self.chunks > 0) {
            self.store.discard_spool(self.spool_id.clone(), claim, self.is_writing);
        }
    }
}

impl Submission {
    /// A place on disk for what is beyond the header of a large message of this customer.
    pub fn spool(&self, customer_id: &CustomerId) -> Spool {
        let clock = self.0.tools.clock.clone();
        Spool {
            store: self.0.tools.store.clone(),
            spool_id: SpoolId::generate(clock.now(), random::octets()),
            clock,
            chunks: 0,
            octets: 0,
            hash: Sha256::new(),
            claim: Some(self.0.allowance.claim(customer_id)),
            is_writing: false,
        }
    }

    /// Spools a large message that came as a whole: nothing large is written while it is accepted.
    pub(super) async fn spool_if_large(
        &self,
        who: &SignedIn,
        submitted: &mut Submitted,
    ) -> Result<(), Refusal> {
        if submitted.spool.is_some() || submitted.bytes.len() <= CHUNK_BYTES {
            return Ok(());
        }
        let Some(header) = header_length(&submitted.bytes) else { return Ok(()) };
        let rest = submitted.bytes.split_off(header);
        submitted.bytes.shrink_to_fit();
        let mut spool = self.spool(&who.customer_id);
        for chunk in rest.chunks(CHUNK_BYTES) {
            spool.write(chunk.to_vec()).await?;
        }
        submitted.spool = Some(spool);
        Ok(())
    }

    /// The way of a message, of which `bytes` is the beginning as it will leave. Whoever
    /// had to wait for it is the first of its customer's until it is accepted: the next
    /// one finds the credit that is left then.
    pub(super) async fn route(
        &self,
        who: &SignedIn,
        message_id: &MessageId,
        (bytes, spool): (&Bytes, Option<&Spool>),
        recipients: &[Mailbox],
    ) -> Result<(Route, Option<First>), Refusal> {
        let Tools { routing, translating, .. } = &self.0.tools;
        let (routing, message_id, recipients) = (*routing, message_id.clone(), recipients.to_vec());
        let Some(spool) = spool.filter(|spool| spool.octets > 0 && routing.prefers_resend()) else {
            let bytes = bytes.clone();
            // Each of them may get a request.
            let octets = bytes.len().saturating_mul(recipients.len());
            let route = move || routing.route(&message_id, &bytes, &recipients);
            let route =
                if octets <= AT_ONCE { route() } else { translating.aside(route).await.map_err(not_now)? };
            return Ok((route.map_err(not_carried)?, None));
        };
        let first = translating.first(&who.customer_id).await.map_err(not_now)?;
        self.still_covers(who, recipients.len()).await?;
        let size = bytes.len().saturating_add(spool.octets);
        let turn = translating.turn(size).await.map_err(not_now)?;
        let mut whole = Vec::with_capacity(size);
        whole.extend_from_slice(bytes);
        spool.read(|chunk| whole.extend_from_slice(chunk)).await?;
        let route = move || (routing.route(&message_id, &whole, &recipients), first);
        let ((route, first), _) = turn.run(route).await.map_err(not_now)?;
        Ok((route.map_err(not_carried)?, Some(first)))
    }

    /// Whether the customer still has the credit for so many recipients, before much is
    /// done for them. What is told here is no more than a hint: the acceptance decides.
    async fn still_covers(&self, who: &SignedIn, recipients: usize) -> Result<(), Refusal> {
        let price = self.0.unit.price(recipients).ok_or(self.too_many_recipients())?;
        let Tools { store, billing, .. } = &self.0.tools;
        let account = store.account(&who.customer_id).await.map_err(unavailable)?;
        if account.and_then(|account| account.covers(price)) != Some(true) {
            billing.check_credit_live(&who.customer_id, price).await?;
        }
        Ok(())
    }
}

fn not_now(reason: NotTranslated) -> Refusal {
    tracing::warn!(%reason, "a large message is refused for now");
    Refusal::StoreUnavailable
}
