//! Everything comes to its end: both services are well, every call is answered,
//! and the process goes on until nothing is left to be done.

use super::Broken;
use super::law::law;
use super::steps::{Fate, Manner, NAMES, Step, Upstream};
use super::world::World;
use crate::store::tests::{account, id};

/// Rounds after which everything has to be done. The longest wait of a part is four hours.
const ROUNDS: u32 = 60;
/// Rounds in which debts may still wait for credit.
const ROUNDS_IN_DEBT: u32 = 2;

/// Rounds in which the process looks for entries that are in doubt by itself.
const ROUNDS_IN_DOUBT: u32 = 4;

impl World {
    /// Lets everything come to rest, and holds it against the laws of rest.
    pub(super) async fn come_to_rest(&mut self) -> Result<(), Broken> {
        for _ in 0..ROUNDS_IN_DEBT {
            self.round(1).await?;
        }
        let mut rounds = 0;
        while self.is_busy().await? {
            law!(rounds < ROUNDS, "something is never done: {:?}", self.process.store.totals().await?);
            rounds += 1;
            // Again and again, since what was bought for some hours may lapse meanwhile.
            self.pay_debts().await?;
            self.round(1800).await?;
            // What Dodo's ledger does not tell us, it tells the operator.
            for who in (0..NAMES.len()).filter(|_| rounds > ROUNDS_IN_DOUBT) {
                self.operator_looks(who).await?;
            }
        }
        self.round(1).await?;
        for who in 0..NAMES.len() {
            self.check_rest(who).await?;
        }
        // And once more when only the sums of it are left.
        self.take(Step::LeaveBehind(0)).await?;
        for who in 0..NAMES.len() {
            self.check_rest(who).await?;
        }
        self.spend_everything().await
    }

    /// Whoever is in debt buys credits, and pays the debt first.
    async fn pay_debts(&mut self) -> Result<(), Broken> {
        for (who, name) in NAMES.into_iter().enumerate() {
            let account = account(&self.process.store, &id(name)).await;
            let debt = account.owed.to_i64() + account.held.to_i64() - self.dodo.balance(who);
            if let Ok(credits @ 1..) = u8::try_from(debt) {
                self.take(Step::TopUp(who, credits + 1, None)).await?;
            }
        }
        Ok(())
    }

    /// Everything that can happen now happens.
    async fn round(&mut self, seconds: u32) -> Result<(), Broken> {
        while !self.wind.is_empty() {
            self.take(Step::WindBlows(0)).await?;
        }
        // News that did not come so far never comes.
        self.late.clear();
        if self.process.store.totals().await?.parts_queued > 0 {
            self.take(Step::Poll).await?;
        }
        while !self.process.sending.is_empty() {
            self.take(Step::SendLeaves(0)).await?;
            self.take(Step::SendTakesEffect(0, Upstream::Takes)).await?;
            self.take(Step::SendAnswered(0, Fate::Arrives)).await?;
        }
        for (who, name) in NAMES.into_iter().enumerate() {
            self.take(Step::GrantsLeave(who)).await?;
            self.take(Step::GrantsTakeEffect(who, Manner::Well)).await?;
            self.take(Step::GrantsAnswered(who, Fate::Arrives)).await?;
            let is_open = self.process.store.open_entries().await?.iter().any(|e| e.customer_id == id(name));
            let is_owed = account(&self.process.store, &id(name)).await.owed.get() > 0;
            if is_open || is_owed || self.is_refundable(who).await? {
                self.take(Step::EntryLeaves(who)).await?;
                self.take(Step::EntryTakesEffect(who, Manner::Well)).await?;
                self.take(Step::EntryAnswered(who, Fate::Arrives)).await?;
                self.take(Step::LookLeaves(who)).await?;
            }
        }
        while !self.process.looks.is_empty() {
            self.take(Step::LookTakesEffect(0, Manner::Well)).await?;
            self.take(Step::LookAnswered(0, Fate::Arrives)).await?;
        }
        self.finish_reads().await?;
        self.take(Step::ListLeaves).await?;
        self.finish_reads().await?;
        self.check().await?;
        self.take(Step::Wait(seconds)).await
    }

    async fn finish_reads(&mut self) -> Result<(), Broken> {
        while !self.process.reads.is_empty() {
            self.take(Step::ReadTakesEffect(0, Manner::Well)).await?;
            self.take(Step::ReadAnswered(0, Fate::Arrives)).await?;
        }
        Ok(())
    }

    async fn is_busy(&self) -> Result<bool, Broken> {
        let store = &self.process.store;
        let totals = store.totals().await?;
        let is_refunding =
            !store.refundable(&[], 9).await?.is_empty() || !store.refunds_to_decide().await?.is_empty();
        Ok(is_refunding || totals.parts_queued > 0 || totals.owed > 0 || totals.entries_open > 0)
    }

    /// Whoever has so many credits gets so many messages accepted, and not one more.
    async fn spend_everything(&mut self) -> Result<(), Broken> {
        let account = account(&self.process.store, &id(NAMES[0])).await;
        let left = self.dodo.balance(0) - account.held.to_i64();
        let left = usize::try_from(left).unwrap_or(0);
        let taken = self.rush(0, left + 2).await?;
        law!(taken == left, "P2: {left} credits let {taken} messages in");
        self.check().await
    }
}
