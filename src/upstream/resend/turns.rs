//! Who takes the next turn under the rate limit.
//!
//! Whoever calls waits until its turn has come, in the order of asking. Calls of
//! single mails stand in a line of their own before that, so that calls of many have
//! every other turn however long the line is; what no mail waits for goes last. A turn
//! that no call was made in is given back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;
use crate::outbound::RateInfo;
use crate::ration::{Ration, Share};

/// The longest that a call waits for its turn in memory; beyond it, the queue waits.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The turns of all calls. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    pace: Arc<Mutex<Pace>>,
    /// Held by whoever waits for the next turn.
    head: Arc<tokio::sync::Mutex<()>>,
    /// Held by the first of those who call with one mail.
    singles: Arc<tokio::sync::Mutex<()>>,
    ration: Ration,
}

/// The turn of one call, which is to be made ready now.
#[derive(Debug)]
pub struct Turn {
    pace: Arc<Mutex<Pace>>,
    ration: Ration,
    is_used: bool,
}

impl Turn {
    /// The call leaves, as soon as a second has room for it, of this node and of all together.
    pub(super) async fn leave(mut self) {
        let interval = with(&self.pace, |pace| pace.interval());
        self.ration.draw(&[Share { name: Ration::RESEND, interval, ahead: interval }]).await;
        while let Err(wait) = with(&self.pace, |pace| pace.leave(Instant::now())) {
            tokio::time::sleep(wait).await;
        }
        self.is_used = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_used {
            with(&self.pace, Pace::give_back);
        }
    }
}

impl Turns {
    /// Turns of calls that are drawn from there too.
    pub(super) fn drawing_from(ration: Ration) -> Self {
        Self { ration, ..Self::default() }
    }

    /// Waits for the next turn.
    ///
    /// # Errors
    /// How long to leave the calls alone, where that is more than ten seconds.
    pub(super) async fn next(&self) -> Result<Turn, Duration> {
        let _head = self.head.lock().await;
        loop {
            match self.now() {
                Ok(turn) => return Ok(turn),
                Err(wait) if wait > MAX_WAIT => return Err(wait),
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Waits for the turn of a single mail.
    ///
    /// # Errors
    /// How long to leave the calls alone: none came within ten seconds.
    pub(super) async fn single(&self) -> Result<Turn, Duration> {
        match tokio::time::timeout(MAX_WAIT, self.singles.lock()).await {
            Ok(_first) => self.next().await,
            Err(_) => Err(MAX_WAIT),
        }
    }

    /// A turn that nobody else wants, if this is one; or when to ask again.
    pub(super) fn spare(&self) -> Result<Turn, Duration> {
        match self.head.try_lock() {
            Ok(_head) => self.now(),
            Err(_) => Err(Duration::ZERO),
        }
    }

    /// Takes in what an answer says about the limit.
    pub(super) fn learn(&self, status: u16, rate: &RateInfo) {
        with(&self.pace, |pace| pace.learn(status, rate, Instant::now()));
    }

    fn now(&self) -> Result<Turn, Duration> {
        with(&self.pace, |pace| pace.turn(Instant::now()))?;
        Ok(Turn { pace: Arc::clone(&self.pace), ration: self.ration.clone(), is_used: false })
    }
}

fn with<T>(pace: &Mutex<Pace>, look: impl FnOnce(&mut Pace) -> T) -> T {
    look(&mut pace.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(limit: Option<u32>, retry_after_s: u64) -> RateInfo {
        let retry_after = Some(Duration::from_secs(retry_after_s));
        RateInfo { limit, retry_after, ..RateInfo::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_many_have_every_other_turn_however_many_single_ones_wait() {
        let turns = Turns::default();
        turns.next().await.unwrap().leave().await;
        let taken = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let (turns, taken) = (turns.clone(), Arc::clone(&taken));
            waiting.push(tokio::spawn(async move {
                turns.single().await.unwrap().leave().await;
                taken.lock().unwrap().push("single");
            }));
        }
        tokio::task::yield_now().await;
        for _ in 0..5 {
            turns.next().await.unwrap().leave().await;
            taken.lock().unwrap().push("many");
        }
        let order = taken.lock().unwrap().clone();
        assert!(order.len() <= 10, "{order:?}");
        for single in waiting {
            single.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_would_wait_long_is_told_so_and_takes_none() {
        let turns = Turns::default();
        turns.learn(429, &told(None, 60));
        assert!(turns.next().await.is_err_and(|wait| wait > MAX_WAIT));
        assert!(turns.single().await.is_err());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(turns.next().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_not_used_is_the_next_ones() {
        let turns = Turns::default();
        turns.learn(200, &told(Some(1), 0));
        let began = Instant::now();
        drop(turns.next().await.unwrap());
        turns.next().await.unwrap().leave().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spare_turn_is_one_that_no_mail_waits_for() {
        let turns = Turns::default();
        turns.spare().unwrap().leave().await;
        assert!(turns.spare().is_err());
        let (mail, last) = (turns.clone(), turns.clone());
        let mail = tokio::spawn(async move { mail.next().await.unwrap().leave().await });
        tokio::task::yield_now().await;
        assert!(last.spare().is_err_and(|wait| wait.is_zero()), "mail waits");
        mail.await.unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(last.spare().is_ok());
    }
}
