//! The low-balance notice: mailed once a crossing, free of charge.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::Billing;
use crate::domain::address::Mailbox;
use crate::domain::credits::Credits;
use crate::domain::ids::CustomerId;
use crate::mime::Origin;
use crate::mime::notice::low_balance;
use crate::routing::{OwnMail, new_message_id};
use crate::store::accept::Kind;

/// Customers who are being told now, so that a burst of mail asks once.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<BTreeSet<CustomerId>>);

impl Notices {
    /// Whether nobody else is telling this customer.
    pub(super) fn begin(&self, customer_id: &CustomerId) -> bool {
        self.telling().insert(customer_id.clone())
    }

    fn end(&self, customer_id: &CustomerId) {
        self.telling().remove(customer_id);
    }

    fn telling(&self) -> std::sync::MutexGuard<'_, BTreeSet<CustomerId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Billing {
    /// Mails the notice, unless the mark was disarmed meanwhile.
    pub(super) async fn tell_low(&self, customer_id: &CustomerId, available: Option<Credits>) {
        if let Err(reason) = self.try_tell_low(customer_id, available).await {
            tracing::warn!(%customer_id, reason = ?reason, "the low-balance notice could not be mailed");
        }
        self.0.notices.end(customer_id);
    }

    async fn try_tell_low(&self, customer_id: &CustomerId, available: Option<Credits>) -> Result<(), String> {
        let store = &self.0.tools.store;
        let customer = store.customer(customer_id).await.map_err(|e| e.to_string())?;
        let customer = customer.ok_or("there is no such customer")?;
        let email = customer.email.ok_or("no email address of the customer is known")?;
        let to = Mailbox::parse(&email).map_err(|e| e.to_string())?;
        let now = self.0.tools.clock.now();
        let message_id = new_message_id(now);
        let from = &self.0.settings.notices_from;
        let origin = Origin { from, hostname: &self.0.settings.hostname, now, message_id: &message_id };
        let available = available.or(customer.account.available_credits()).unwrap_or(Credits::ZERO);
        let bytes = low_balance(&origin, &to, available, &self.0.settings.top_up_url);
        let mail = OwnMail {
            kind: Kind::Notice,
            customer_id: customer_id.clone(),
            to,
            from: from.mailbox.clone(),
            bytes: Bytes::from(bytes),
            now,
            message_id,
        };
        let notice = self.0.tools.routing.own(mail).map_err(|reason| reason.what)?;
        if store.low_balance_notice(&notice).await.map_err(|e| e.to_string())? {
            tracing::info!(%customer_id, message_id = %notice.message_id, "low-balance notice queued");
        }
        Ok(())
    }
}
