//! Who somebody is: a credential checked, and what a failure costs.
//!
//! A name that does not exist, a wrong secret and a revoked credential are one thing to
//! whoever asks: one text, the same question to the database, the same comparison, and
//! an answer at a time that was fixed before the question was asked. What has failed
//! before, and what that leads to, is [`crate::throttle::sign_in`]'s to say.

use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};

use super::{SignedIn, Submission};
use crate::domain::credential::{Secret, SecretHash};
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, Username};
use crate::domain::refusal::Refusal;
use crate::store::bucket::Change;
use crate::telemetry::SignInResult;
use crate::throttle::sign_in::{Count, Elsewhere};

/// How long a sign-in may wait for what is known at other nodes.
const TURN: Duration = Duration::from_secs(1);

impl Submission {
    /// Checks a credential that was presented from an address. Never waits for Dodo.
    /// Returns who it is and the credits available, unless they are unknown.
    ///
    /// # Errors
    /// [`Refusal::BadCredential`] after a wait that grows with each failure;
    /// [`Refusal::TooManyFailures`], and nothing was looked at;
    /// [`Refusal::StoreUnavailable`].
    pub async fn sign_in(
        &self,
        peer: IpAddr,
        username: &str,
        secret: &Secret,
    ) -> Result<(SignedIn, Option<Credits>), Refusal> {
        let check = self.recognize(username, secret);
        self.guarded(peer, username, check, |(who, _)| Some(&who.customer_id)).await
    }

    /// The same for a check of another kind, which refuses what is wrong with
    /// [`Refusal::BadCredential`]; `name` says by what its failures are counted, `whose`
    /// which customer it was, if not the operator.
    pub async fn guarded<T>(
        &self,
        peer: IpAddr,
        name: impl Hash + Copy,
        check: impl Future<Output = Result<T, Refusal>>,
        whose: impl Fn(&T) -> Option<&CustomerId>,
    ) -> Result<T, Refusal> {
        let (sign_ins, metrics) = (&self.0.sign_ins, &self.0.tools.metrics);
        let (begun, now) = (Instant::now(), self.0.tools.clock.now());
        let elsewhere = self.hear_of_failures(peer, name, now).await;
        let attempt = sign_ins.begin(peer, name, elsewhere, now);
        let answer = if attempt.is_looked_at { check.await } else { Err(Refusal::BadCredential) };
        match &answer {
            Ok(recognized) => {
                metrics.sign_in(SignInResult::Accepted);
                let forgiven = sign_ins.succeeded(&attempt, whose(recognized), now);
                self.tell_of_failures(forgiven, now).await;
                return answer;
            }
            Err(Refusal::BadCredential) if attempt.is_looked_at => {
                metrics.sign_in(SignInResult::Refused);
                sign_ins.failed(&attempt, now);
                if self.tell_of_failures(sign_ins.failure(&attempt), now).await {
                    sign_ins.told(&attempt);
                }
                tracing::info!(%peer, "sign-in failed");
            }
            Err(Refusal::BadCredential) => metrics.sign_in(SignInResult::Limited),
            Err(_) => {
                metrics.sign_in(SignInResult::Unavailable);
                return answer;
            }
        }
        // Not so long after the answer was found, which would tell how long that took.
        sleep_until(begun + attempt.answer_after).await;
        match attempt.is_put_off {
            true => Err(Refusal::TooManyFailures { retry_after_s: sign_ins.retry_after_s() }),
            false => answer,
        }
    }

    /// One's turn with the database. A few at a time, so that whoever tries secrets leaves its
    /// connections to mail; `None`: it took too long.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        timeout(TURN, self.0.sharing.acquire()).await.ok()?.ok()
    }

    /// Takes in what failed at other nodes of the same database. When it does not answer,
    /// what failed here has to do.
    async fn hear_of_failures(&self, peer: IpAddr, name: impl Hash + Copy, now: Timestamp) -> Elsewhere {
        let (sign_ins, store) = (&self.0.sign_ins, &self.0.tools.store);
        if !store.is_shared() {
            return Elsewhere::default();
        }
        let Some(_turn) = self.turn().await else { return Elsewhere::default() };
        match store.buckets(&sign_ins.counts_of(peer, name), now).await {
            Ok(counted) => sign_ins.hear(peer, name, &counted, now),
            Err(error) => {
                tracing::debug!(%error, "failed sign-ins elsewhere are not known");
                Elsewhere::default()
            }
        }
    }

    /// Whether that counts at all nodes now.
    async fn tell_of_failures(&self, counts: Vec<Count>, now: Timestamp) -> bool {
        let store = &self.0.tools.store;
        if counts.is_empty() || !store.is_shared() {
            return false;
        }
        let Some(_turn) = self.turn().await else { return false };
        let change =
            |Count { name, counted_us, limit_us }| Change { name, taken_us: counted_us, whole_us: limit_us };
        let told = store.change_buckets(counts.into_iter().map(change).collect(), now).await;
        if let Err(error) = &told {
            tracing::debug!(%error, "failed sign-ins are not known elsewhere");
        }
        told.is_ok()
    }

    /// Whose credential this is, for [`guarded`](Self::guarded) and nothing else.
    pub async fn recognize(
        &self,
        username: &str,
        secret: &Secret,
    ) -> Result<(SignedIn, Option<Credits>), Refusal> {
        // A name that cannot be one is looked up like any other, so that the time tells nothing.
        let username = Username::parse(username)
            .or_else(|_| Username::parse("-"))
            .map_err(|_| Refusal::BadCredential)?;
        // Hashed and compared whether the name exists or not, for the same reason.
        let presented = secret.hash();
        let standing = self.0.tools.store.standing(&username).await.map_err(|error| {
            error.tell("sign-in could not be checked");
            Refusal::StoreUnavailable
        })?;
        let expected = standing.as_ref().map_or(SecretHash::NOBODYS, |standing| standing.secret_hash);
        let is_right = expected.is(&presented);
        let standing = standing.filter(|s| is_right && !s.is_revoked).ok_or(Refusal::BadCredential)?;
        self.0.tools.store.note_use(&standing, self.0.tools.clock.now());
        self.0.tools.billing.refresh_if_stale(&standing.customer_id, &standing.account);
        let available = standing.account.available_credits();
        Ok((SignedIn { customer_id: standing.customer_id, username: Some(username) }, available))
    }
}

#[cfg(test)]
mod tests;
