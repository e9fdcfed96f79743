//! The sweep: what has had its time leaves in the background, a little at a time.
//!
//! It owns only when; which rows may leave, and what of them stays, is the store's.
//! What was written ahead for messages that were never accepted goes first, by its age: on a
//! database that several processes share it may be arriving at another one. What was arriving
//! at this one when it ended is gone already ([`Store::open`]).
//! Then idempotency keys that have expired, since a message stays as long as a key
//! that names it. Between two steps it pauses, the longer the longer they take, so that mail never
//! waits for more than one of them, and seldom for any.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Queue;
use crate::crash::CrashPoint;
use crate::store::node::Duty;
use crate::store::{Store, StoreError};

/// Between two steps, at least.
const PAUSE: Duration = Duration::from_millis(20);
/// And so many times as long as the step took: mail has most of the writer's time, and of the
/// disk's, however many rows leave.
const REST: u32 = 4;
/// So many keys are deleted in one step: acceptances wait for the same writer.
const KEYS: u32 = 500;
/// Between two rounds.
const ROUND: Duration = Duration::from_secs(60);
/// The same where rows leave as soon as they may.
const QUICK_ROUND: Duration = Duration::from_secs(1);
/// Whoever has sent a message to its end waits no longer for it to be accepted.
const SUBMITTED_WITHIN: Duration = Duration::from_secs(3600);
/// What names no person's mail is remembered for so long at least: entries, because
/// what Dodo's ledger shows may be held against them; webhooks, because Dodo repeats
/// what it could not deliver; checkouts, because a buyer may come back the next day.
const LEAST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Payments of which customers were told are remembered for so long: Dodo may be made to tell of
/// them again for two weeks.
const TOLD: Duration = Duration::from_secs(30 * 24 * 3600);

/// The sweep.
#[derive(Debug)]
pub struct Sweep {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// How long rows stay after their end.
    pub keep: Duration,
    /// The longest time that a message may take to arrive: `smtp.data_timeout_s`.
    pub arrives_within: Duration,
    /// The soft stop.
    pub stop: CancellationToken,
}

impl Sweep {
    /// How long rows stay: `queue.keep_log_days`.
    pub const fn keep(queue: &Queue) -> Duration {
        Duration::from_secs(queue.keep_log_days.saturating_mul(24 * 3600))
    }

    /// Runs until the stop.
    pub async fn run(self) {
        let round = if self.keep.is_zero() { QUICK_ROUND } else { ROUND };
        loop {
            self.tell(self.round_of_ours(round).await);
            if !self.wait(round).await {
                return;
            }
        }
    }

    /// A round, unless another process makes it.
    async fn round_of_ours(&self, wait: Duration) -> Result<(), StoreError> {
        if self.store.takes(Duty::Sweep, self.clock.now(), wait).await? { self.round().await } else { Ok(()) }
    }

    fn tell(&self, done: Result<(), StoreError>) {
        if let Err(error) = done {
            error.tell("old rows could not be removed; they are tried again");
        }
    }

    /// What was begun before `cutoff` and belongs to no message, and what final messages
    /// left behind when a process ended before it was removed.
    async fn orphans(&self, cutoff: Timestamp) -> Result<(), StoreError> {
        let (mut spools, mut began) = (0, Instant::now());
        while let left @ 1.. = self.store.sweep_orphans(cutoff).await? {
            spools += left;
            if !self.rest(&mut began).await {
                break;
            }
        }
        if spools > 0 {
            tracing::info!(
                spools,
                "what lay on disk of messages that were never accepted, or are final, is removed"
            );
        }
        Ok(())
    }

    async fn round(&self) -> Result<(), StoreError> {
        self.orphans(self.before(self.arrives_within.saturating_add(SUBMITTED_WITHIN))).await?;
        let mut began = Instant::now();
        while self.store.sweep_keys(self.clock.now(), KEYS).await? > 0 {
            self.store.pass(CrashPoint::KeysSwept);
            if !self.rest(&mut began).await {
                return Ok(());
            }
        }
        began = Instant::now();
        while self.store.sweep_buckets(self.clock.now()).await? > 0 {
            if !self.rest(&mut began).await {
                return Ok(());
            }
        }
        self.log().await?;
        let long_ago = self.before(self.keep.max(LEAST));
        began = Instant::now();
        while self.store.close_entries(long_ago).await? > 0 {
            self.store.pass(CrashPoint::EntriesLeft);
            if !self.rest(&mut began).await {
                return Ok(());
            }
        }
        began = Instant::now();
        while self.store.sweep_sessions(self.clock.now()).await? > 0 {
            if !self.rest(&mut began).await {
                return Ok(());
            }
        }
        began = Instant::now();
        while self.store.forget_told(self.before(TOLD)).await? > 0 {
            if !self.rest(&mut began).await {
                return Ok(());
            }
        }
        began = Instant::now();
        while self.store.close_marks(long_ago).await? > 0 {
            self.store.pass(CrashPoint::MarksLeft);
            if !self.rest(&mut began).await {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Messages and their captures leave the log.
    async fn log(&self) -> Result<(), StoreError> {
        let (mut captures, mut messages) = (0, 0);
        let mut began = Instant::now();
        while let left @ 1.. = self.store.close_captures(self.before(self.keep)).await? {
            self.store.pass(CrashPoint::CapturesLeft);
            captures += left;
            if !self.rest(&mut began).await {
                return Ok(());
            }
        }
        let mut after = None;
        began = Instant::now();
        loop {
            let now = self.clock.now();
            let closed = self.store.close_messages(self.before(self.keep), now, after.as_ref()).await?;
            if closed.count > 0 {
                self.store.pass(CrashPoint::MessagesLeft);
            }
            messages += closed.count;
            after = closed.next;
            if after.is_none() || !self.rest(&mut began).await {
                break;
            }
        }
        if captures + messages > 0 {
            tracing::debug!(captures, messages, "old rows have left; their sums stay");
        }
        Ok(())
    }

    fn before(&self, keep: Duration) -> Timestamp {
        self.clock.now().checked_sub(keep).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Pauses after a step that began then, and notes when the next one does. `false`: it is time
    /// to stop.
    async fn rest(&self, began: &mut Instant) -> bool {
        let goes_on = self.wait(PAUSE.max(began.elapsed() * REST)).await;
        *began = Instant::now();
        goes_on
    }

    /// `false`: it is time to stop.
    async fn wait(&self, pause: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::store::webhook::Webhook;
    use crate::submission::Submitted;
    use crate::submission::stand_in::{signed_in, store, submission, submitted};

    #[tokio::test]
    async fn rows_stay_for_as_long_as_the_configuration_says() {
        let (store, _directory) = store().await;
        let clock = Clock::manual("2026-11-22T10:00:00Z".parse().unwrap());
        let (webhook_id, event_type) = ("msg_1".to_owned(), "credit.added".to_owned());
        let webhook = Webhook { source: "dodo", webhook_id, event_type, customer_id: None };
        store.webhook_handled(&webhook, clock.now()).await.unwrap();
        let queue = Queue { keep_log_days: 9, ..Queue::default() };
        for (days, is_there) in [(0, true), (8, true), (1, false)] {
            clock.advance(Duration::from_secs(days * 24 * 3600));
            let (keep, stop) = (Sweep::keep(&queue), CancellationToken::new());
            let sweep = Sweep {
                store: store.clone(),
                clock: clock.clone(),
                keep,
                arrives_within: Duration::ZERO,
                stop,
            };
            sweep.round().await.unwrap();
            assert_eq!(store.is_webhook_handled("dodo", "msg_1").await.unwrap(), is_there, "{days}");
        }
    }

    #[tokio::test]
    async fn keys_stay_until_they_expire_and_their_messages_until_then() {
        let (submission, store, _directory) = submission(&Config::default()).await;
        let who = signed_in(&store).await;
        let bytes = [b"X-Postmeter-Idempotency-Key: k\r\n".as_slice(), &submitted().bytes].concat();
        let keyed = || Submitted { bytes: bytes.clone(), ..submitted() };
        let first = submission.submit(&who, keyed()).await.unwrap();
        let clock = Clock::manual(Clock::system().now());
        let round = || async {
            let (keep, stop) = (Duration::ZERO, CancellationToken::new());
            Sweep { store: store.clone(), clock: clock.clone(), keep, arrives_within: Duration::ZERO, stop }
                .round()
                .await
                .unwrap();
        };
        clock.advance(Duration::from_secs(23 * 3600));
        round().await;
        assert_eq!(submission.submit(&who, keyed()).await.unwrap(), first, "it has not expired");
        clock.advance(Duration::from_secs(2 * 3600));
        round().await;
        assert_ne!(submission.submit(&who, keyed()).await.unwrap().message_id, first.message_id);
        assert_eq!(store.audit().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_stop_ends_it() {
        let (store, _directory) = store().await;
        let stop = CancellationToken::new();
        let sweep = Sweep {
            store,
            clock: Clock::system(),
            keep: Duration::ZERO,
            arrives_within: Duration::ZERO,
            stop: stop.clone(),
        };
        let running = tokio::spawn(sweep.run());
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
    }
}
