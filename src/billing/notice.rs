//! The low-balance notice: mailed once a crossing, free of charge.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::Billing;
use crate::crash::CrashPoint;
use crate::domain::address::Mailbox;
use crate::domain::credits::Credits;
use crate::domain::ids::CustomerId;
use crate::mime::Origin;
use crate::mime::notice::low_balance;
use crate::routing::{OwnMail, new_message_id};
use crate::store::StoreError;
use crate::store::accept::{Acceptance, Kind};

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
    /// Mails the notice, unless the mark was disarmed meanwhile. A customer who
    /// cannot be told is not tried again with every message until the next crossing.
    pub(super) async fn tell_low(&self, customer_id: &CustomerId, available: Option<Credits>) {
        let store = &self.0.tools.store;
        let told = match self.low_notice(customer_id, available).await {
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
        Ok(Mailbox::parse(&email)
            .map_err(|error| error.to_string())
            .and_then(|to| self.compose_low(customer_id, to, available)))
    }

    fn compose_low(
        &self,
        customer_id: &CustomerId,
        to: Mailbox,
        available: Credits,
    ) -> Result<Acceptance, String> {
        let now = self.0.tools.clock.now();
        let message_id = new_message_id(now);
        let from = &self.0.settings.notices_from;
        let origin = Origin { from, hostname: &self.0.settings.hostname, now, message_id: &message_id };
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
        self.0.tools.routing.own(mail).map_err(|reason| reason.what)
    }
}
