//! Payments whose webhook did not come, and whose browser did not come back either.
//!
//! Dodo is asked of each checkout that is pending and younger than two days, first after a quarter
//! of an hour and then whenever it has become twice as old, in the turn of calls that nobody waits
//! for: whoever begins very many checkouts keeps it from nobody else's. Of several servers the one
//! asks that writes down first that it does.

use std::time::Duration;

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::{Shared, Site, provision};
use crate::billing::dodo::DodoError;
use crate::billing::events::Payment;
use crate::store::StoreError;
use crate::telemetry::DodoCall;

/// A session at Dodo lasts a day, and a payment may take its time.
const WITHIN: SignedDuration = SignedDuration::from_hours(48);
/// Between two questions about one checkout, and before the first.
const EACH: SignedDuration = SignedDuration::from_mins(15);
/// Between two looks at what there is to ask.
const LOOK: Duration = Duration::from_secs(60);
/// Checkouts that are looked at in one go.
const PAGE: u32 = 50;

/// Looks for lost payments until the stop.
pub async fn find_lost_payments(site: Shared, stop: CancellationToken) {
    loop {
        let round = async {
            if let Err(error) = round(&site).await {
                error.tell("pending checkouts could not be looked through; they are next time");
            }
            tokio::time::sleep(LOOK).await;
        };
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}

/// Asks of every checkout whose time it is. Returns how many were paid.
pub(super) async fn round(site: &Site) -> Result<usize, StoreError> {
    let mut paid = 0;
    loop {
        let due = site.store.checkouts_to_ask((WITHIN, EACH), site.clock.now(), PAGE).await?;
        if due.is_empty() {
            return Ok(paid);
        }
        for hash in due {
            let now = site.clock.now();
            let Some(session_id) = site.store.ask_of_checkout(&hash, EACH, now).await? else { continue };
            match ask(site, &session_id).await {
                Ok(Some(payment)) => {
                    tracing::warn!(
                        customer_id = %payment.customer_id,
                        "a payment was found of which no webhook had told: check the webhook's address at Dodo"
                    );
                    provision::record_found(site, &payment, &hash).await?;
                    paid += 1;
                }
                Ok(None) => {}
                // Whoever does not answer is asked of the others in the next round.
                Err(DodoError::Unavailable { .. } | DodoError::RateLimited { .. }) => return Ok(paid),
                Err(error) => tracing::warn!(%error, "Dodo does not tell what became of a checkout"),
            }
        }
    }
}

/// The payment that came out of this session, if it was paid.
async fn ask(site: &Site, session_id: &str) -> Result<Option<Payment>, DodoError> {
    let billing = &site.billing;
    let status = billing.call_in_turn(DodoCall::Other, site.dodo.checkout(session_id)).await?;
    let Some(payment_id) = status.payment_id else { return Ok(None) };
    let payment = billing.call_in_turn(DodoCall::Other, site.dodo.payment(&payment_id)).await?;
    Ok(Some(payment).filter(Payment::is_paid))
}
