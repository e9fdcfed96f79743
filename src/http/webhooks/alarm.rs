//! Payments that went back, or are disputed: the operator is told, and where they want it so, the
//! customer is suspended.

use super::super::checkout::asked;
use super::super::error::HttpError;
use super::super::{Shared, Site};
use super::known;
use crate::billing::dodo::DodoError;
use crate::billing::events::Reversal;
use crate::domain::alert::AlertKind;
use crate::domain::ids::CustomerId;
use crate::store::alert::Alert;
use crate::telemetry::{DodoCall, WebhookResult};

/// Raises the alert, once. Returns whom of ours it is about.
pub(super) async fn raise(
    site: &Shared,
    kind: AlertKind,
    reversal: &Reversal,
    (named, webhook_id): (Option<&CustomerId>, &str),
) -> Result<(WebhookResult, Option<CustomerId>), HttpError> {
    let paid_by = match named {
        Some(_) => None,
        None => payer(site, reversal).await?,
    };
    let Some(customer_id) = known(site, named.or(paid_by.as_ref())).await? else {
        return Ok((WebhookResult::Ignored, None));
    };
    let alert = Alert {
        kind,
        subject_id: reversal.subject_id.clone().unwrap_or_else(|| webhook_id.to_owned()),
        customer_id: customer_id.clone(),
        payment_id: reversal.payment_id.clone(),
        words: reversal.words.clone(),
        suspended: false,
        raised_at: site.clock.now(),
    };
    let suspends = match kind {
        AlertKind::Refund => site.settings.suspends.on_refund,
        AlertKind::Dispute => site.settings.suspends.on_dispute,
    };
    if let Some(raised) = site.store.raise_alert(&alert, suspends).await? {
        site.metrics.alert(kind);
        tracing::warn!(
            alert = kind.as_str(),
            %customer_id,
            payment_id = ?raised.payment_id,
            reason = ?raised.words,
            suspended = raised.suspended,
            "a payment was refunded or is disputed"
        );
    }
    // Dodo may have taken the credits back with the money.
    site.billing.balance_changed(&customer_id);
    Ok((WebhookResult::Accepted, Some(customer_id)))
}

/// Who paid, where the event does not say so. What Dodo does not answer now it tells again.
async fn payer(site: &Site, reversal: &Reversal) -> Result<Option<CustomerId>, HttpError> {
    let Some(payment_id) = &reversal.payment_id else { return Ok(None) };
    match asked(site, DodoCall::Other, site.dodo.payment(payment_id)).await {
        Ok(payment) => Ok(Some(payment.customer_id)),
        Err(DodoError::NotFound { .. } | DodoError::Malformed { .. }) => Ok(None),
        Err(_) => Err(HttpError::PaymentsUnavailable),
    }
}
