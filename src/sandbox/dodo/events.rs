//! Getting webhooks delivered: in which order, how often, and until when.

use std::time::Duration;

use serde_json::Value;

use super::books::Event;
use super::ledger::{Posting, Transaction};
use super::sale::parcel;
use super::shop::{Customer, Payment};
use super::{DodoStandIn, EventOrder, wire};
use crate::random;
use crate::sandbox::webhook::Parcel;

impl DodoStandIn {
    /// Puts the webhooks of one payment in the order in which they leave.
    pub(super) fn shuffle(&self, mut parcels: Vec<Parcel>) -> Vec<Parcel> {
        match self.behaviour().event_order {
            EventOrder::AsHappened => {}
            EventOrder::Reversed => parcels.reverse(),
            EventOrder::Shuffled => parcels.sort_by_cached_key(|_| random::octets::<4>()),
        }
        parcels
    }

    /// Sends parcels in that order. Those that are `owed` stand in the books until they are taken.
    pub(super) fn send(&self, parcels: Vec<Parcel>, owed: bool) {
        if parcels.is_empty() {
            return;
        }
        let stand_in = self.clone();
        self.0.tasks.spawn(async move {
            let stopped = stand_in.0.tasks.stop.clone();
            let all = async {
                for parcel in parcels {
                    stand_in.first_try(parcel, owed).await;
                }
            };
            stopped.run_until_cancelled(all).await;
        });
    }

    async fn first_try(&self, parcel: Parcel, owed: bool) {
        let behaviour = self.behaviour();
        if behaviour.duplicate_events {
            self.try_once(&parcel).await;
        }
        if self.try_once(&parcel).await {
            self.taken(&parcel, owed);
            return;
        }
        // The others need not wait for this one.
        let stand_in = self.clone();
        self.0.tasks.spawn(async move {
            let stopped = stand_in.0.tasks.stop.clone();
            stopped.run_until_cancelled(stand_in.try_again(parcel, owed, behaviour.event_retries_ms)).await;
        });
    }

    async fn try_again(&self, parcel: Parcel, owed: bool, waits_ms: Vec<u64>) {
        for wait_ms in waits_ms {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            if self.try_once(&parcel).await {
                break;
            }
        }
        self.taken(&parcel, owed);
    }

    async fn try_once(&self, parcel: &Parcel) -> bool {
        let tried = self.0.courier.post(parcel, self.0.clock.now()).await;
        if let Err(why) = &tried {
            tracing::warn!(webhook_id = %parcel.webhook_id, event = %parcel.event, %why, "a webhook was not taken");
        }
        tried.is_ok()
    }

    /// Delivered, or given up.
    fn taken(&self, parcel: &Parcel, owed: bool) {
        if !owed {
            return;
        }
        let settled = Event::Settled { webhook_id: parcel.webhook_id.clone() };
        if let Err(error) = self.kept().commit(vec![settled]) {
            tracing::error!(%error, "the sandbox cannot write its journal");
        }
    }

    /// Sends the money of a payment back, and tells of it; credits stay. `false`: there is no such payment.
    pub fn refund(&self, payment_id: &str) -> bool {
        self.turn_back(payment_id, "refund.succeeded", "Refund", wire::refund)
    }

    /// Has a payment disputed, and tells of it. `false`: there is no such payment.
    pub fn dispute(&self, payment_id: &str) -> bool {
        self.turn_back(payment_id, "dispute.opened", "Dispute", |payment, _, at_ms| {
            wire::dispute(payment, at_ms)
        })
    }

    fn turn_back(
        &self,
        payment_id: &str,
        event: &str,
        payload_type: &str,
        data: impl FnOnce(&Payment, &Customer, i64) -> Value,
    ) -> bool {
        let at_ms = self.now_ms();
        let kept = self.kept();
        let Some(payment) = kept.books.payment(payment_id) else { return false };
        let Some(payer) = kept.books.customer(&payment.customer_id) else { return false };
        let parcel = parcel(event, payload_type, at_ms, data(payment, payer, at_ms));
        drop(kept);
        if self.0.courier.has_endpoint() {
            self.send(vec![parcel], false);
        }
        true
    }

    /// The webhooks that an entry posted over the API makes, if any are wanted.
    pub(super) fn tell_of_entry(&self, posting: &Posting) {
        if !self.behaviour().api_entry_events || !self.0.courier.has_endpoint() {
            return;
        }
        let line = &posting.line;
        let event = match line.transaction {
            Transaction::CreditAdded => "credit.added",
            Transaction::CreditDeducted => "credit.deducted",
            Transaction::CreditExpired => "credit.expired",
            Transaction::ManualAdjustment => "credit.manual_adjustment",
        };
        let data = wire::ledger_entry(&posting.customer_id, line, true);
        let mut parcels = vec![parcel(event, "CreditLedgerEntry", line.at_ms, data)];
        let kept = self.kept();
        let subscriptions = kept.books.subscriptions_of(&posting.customer_id);
        for subscription in subscriptions {
            let threshold = subscription.low_balance();
            if line.before > threshold && line.after <= threshold {
                let data = wire::balance_low(subscription, line.after);
                parcels.push(parcel("credit.balance_low", "CreditBalanceLow", line.at_ms, data));
            }
        }
        drop(kept);
        self.send(parcels, false);
    }
}
