//! Notices to customers about their account: each once per occasion, free of charge.
//!
//! | notice | its occasion, and what keeps it to one |
//! |---|---|
//! | welcome | a payment made the customer: written in that transaction |
//! | payment received | one more payment: written with the mark of it |
//! | credits run low | available crossed the limit: whoever disarms the mark mails |
//! | no credits | mail was refused: written with a mark that stays until there is more |
//!
//! That an account is paused is told by delivery, in the transaction that pauses it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::Billing;
use crate::crash::CrashPoint;
use crate::domain::address::Mailbox;
use crate::domain::credits::Credits;
use crate::domain::ids::CustomerId;
use crate::domain::sender::SenderPattern;
use crate::mime::Origin;
use crate::mime::notice::{Links, low_balance, out_of_credit, payment_received, welcome};
use crate::routing::{OwnMail, new_message_id};
use crate::store::StoreError;
use crate::store::accept::{Acceptance, Kind};
use crate::throttle::Throttle;

/// How often it is looked whether a customer whose mail is refused was told.
const TOLD_OF_NONE: Duration = Duration::from_secs(60);

/// Whom something is told now, so that a burst of mail asks once.
#[derive(Debug)]
pub(super) struct Notices {
    /// Customers who are being told that credits run low.
    low: Mutex<BTreeSet<CustomerId>>,
    /// Customers without credit.
    none: Throttle<CustomerId>,
}

impl Default for Notices {
    fn default() -> Self {
        Self { low: Mutex::default(), none: Throttle::new(1, TOLD_OF_NONE) }
    }
}

impl Notices {
    /// Whether nobody else is telling this customer.
    pub(super) fn begin(&self, customer_id: &CustomerId) -> bool {
        self.telling().insert(customer_id.clone())
    }

    /// Whether it is time to look if this customer is to be told that there is no credit.
    pub(super) fn may_tell_of_none(&self, customer_id: &CustomerId, now: Timestamp) -> bool {
        self.none.take(customer_id.clone(), now).is_ok()
    }

    fn end(&self, customer_id: &CustomerId) {
        self.telling().remove(customer_id);
    }

    fn telling(&self) -> std::sync::MutexGuard<'_, BTreeSet<CustomerId>> {
        self.low.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom a payment's letter is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payer<'a> {
    pub(crate) customer_id: &'a CustomerId,
    pub(crate) email: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
}

impl Billing {
    /// The letter to a customer whom a payment makes; `None`: none is wanted, or they cannot be told.
    pub(crate) fn welcome(&self, payer: Payer<'_>, starter: Option<&SenderPattern>) -> Option<Acceptance> {
        let senders: Vec<String> = starter.iter().map(ToString::to_string).collect();
        let is_wanted = self.0.settings.notices.welcome;
        self.letter(payer, is_wanted, |origin, to, links| {
            welcome(origin, to, (payer.name, senders.as_slice()), links)
        })
    }

    /// The letter to a customer from whom one more payment came; `None`: the same.
    pub(crate) fn payment_received(&self, payer: Payer<'_>) -> Option<Acceptance> {
        self.letter(payer, self.0.settings.notices.top_up, payment_received)
    }

    fn letter(
        &self,
        Payer { customer_id, email, .. }: Payer<'_>,
        is_wanted: bool,
        write: impl FnOnce(&Origin<'_>, &Mailbox, &Links<'_>) -> Vec<u8>,
    ) -> Option<Acceptance> {
        let email = email.filter(|_| is_wanted)?;
        self.composed_to(customer_id, email, write)
            .inspect_err(|reason| tracing::warn!(%customer_id, ?reason, "a notice cannot be mailed"))
            .ok()
    }

    /// Mails the notice, unless the mark was disarmed meanwhile. A customer who
    /// cannot be told is not tried again with every message until the next crossing.
    pub(super) async fn tell_low(&self, customer_id: &CustomerId, available: Option<Credits>) {
        let store = &self.0.tools.store;
        let told = match self.low_notice(customer_id, available).await {
            _ if !self.0.settings.notices.low_balance => store.disarm_low_balance(customer_id).await,
            Ok(Ok(notice)) => store.low_balance_notice(&notice).await.map(|is_told| {
                if is_told {
                    store.pass(CrashPoint::NoticeCommitted);
                    tracing::info!(%customer_id, message_id = %notice.message_id, "low-balance notice queued");
                }
            }),
            Ok(Err(reason)) => {
                tracing::warn!(%customer_id, ?reason, "the low-balance notice cannot be mailed");
                store.disarm_low_balance(customer_id).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::error!(%customer_id, %error, "the low-balance notice could not be taken in");
        }
        self.0.notices.end(customer_id);
    }

    /// The notice, or why this customer cannot get one.
    async fn low_notice(
        &self,
        customer_id: &CustomerId,
        available: Option<Credits>,
    ) -> Result<Result<Acceptance, String>, StoreError> {
        let Some(customer) = self.0.tools.store.customer(customer_id).await? else {
            return Ok(Err("there is no such customer".to_owned()));
        };
        let available = available.or(customer.account.available_credits()).unwrap_or(Credits::ZERO);
        let Some(email) = customer.email else {
            return Ok(Err("no email address of the customer is known".to_owned()));
        };
        let write =
            |origin: &Origin<'_>, to: &Mailbox, links: &Links<'_>| low_balance(origin, to, available, links);
        Ok(self.composed_to(customer_id, &email, write))
    }

    /// Mails that there is no credit, unless that was told since there was any.
    pub(super) async fn tell_none(&self, customer_id: &CustomerId) {
        if let Err(error) = self.try_tell_none(customer_id).await {
            error.tell("a notice that there is no credit could not be taken in");
        }
    }

    async fn try_tell_none(&self, customer_id: &CustomerId) -> Result<(), StoreError> {
        let store = &self.0.tools.store;
        if !self.0.settings.notices.out_of_credit || store.is_told_out_of_credit(customer_id).await? {
            return Ok(());
        }
        let Some(customer) = store.customer(customer_id).await? else { return Ok(()) };
        let payer = Payer { customer_id, email: customer.email.as_deref(), name: None };
        let notice = self.letter(payer, true, out_of_credit);
        let now = self.0.tools.clock.now();
        if store.out_of_credit_notice(customer_id, notice.as_ref(), now).await?
            && let Some(notice) = notice
        {
            store.pass(CrashPoint::NoticeCommitted);
            tracing::info!(%customer_id, message_id = %notice.message_id, "out-of-credit notice queued");
        }
        Ok(())
    }

    fn composed_to(
        &self,
        customer_id: &CustomerId,
        email: &str,
        write: impl FnOnce(&Origin<'_>, &Mailbox, &Links<'_>) -> Vec<u8>,
    ) -> Result<Acceptance, String> {
        let to = Mailbox::parse(email).map_err(|error| error.to_string())?;
        let account = format!("{}/account", self.0.settings.base_url);
        let links = Links { account: &account, top_up: &self.0.settings.top_up_url };
        self.composed(customer_id, &to, |origin| write(origin, &to, &links))
    }

    /// A notice, ready for the store, or why it cannot leave.
    pub(super) fn composed(
        &self,
        customer_id: &CustomerId,
        to: &Mailbox,
        write: impl FnOnce(&Origin<'_>) -> Vec<u8>,
    ) -> Result<Acceptance, String> {
        let now = self.0.tools.clock.now();
        let message_id = new_message_id(now);
        let from = &self.0.settings.notices_from;
        let origin = Origin { from, hostname: &self.0.settings.hostname, now, message_id: &message_id };
        let mail = OwnMail {
            kind: Kind::Notice,
            customer_id: customer_id.clone(),
            to: to.clone(),
            from: from.mailbox.clone(),
            bytes: Bytes::from(write(&origin)),
            now,
            message_id,
        };
        self.0.tools.routing.own(mail).map_err(|reason| reason.what)
    }
}
