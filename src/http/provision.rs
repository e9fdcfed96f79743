//! How a payment makes a customer.
//!
//! Used by the webhook, and by the return page and the sweep ([`super::lost`]) when the webhook
//! does not come. Recording is safe to repeat; only a payment that came out of the very checkout
//! session which we made for a token, and is for what that checkout was for, may bind the token:
//! metadata can be put into any payment link, so that its signature alone proves nothing.

use super::Site;
use super::checkout::{METADATA_KEY, SIGNATURE_KEY};
use crate::billing::events::Payment;
use crate::billing::notice::Payer;
use crate::crash::CrashPoint;
use crate::domain::address::{Domain, Mailbox};
use crate::domain::ids::CustomerId;
use crate::domain::sender::SenderPattern;
use crate::store::StoreError;
use crate::store::checkout::{self, Begun, Checkout};

/// What became of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// Its customer is one of ours, perhaps since now.
    Ours,
    /// It was for something that Postmeter does not sell, by nobody it knows.
    NotOurs,
}

/// Records a payment that a webhook told of.
pub(super) async fn record_told(site: &Site, payment: &Payment) -> Result<Recorded, StoreError> {
    let token_hash = bound_token(site, payment).await?;
    let is_known = site.store.customer(&payment.customer_id).await?.is_some();
    if !is_known && token_hash.is_none() && !buys_credits(site, payment) {
        return Ok(Recorded::NotOurs);
    }
    record(site, payment, token_hash).await?;
    Ok(Recorded::Ours)
}

/// Records a payment that was found through our own checkout session.
pub(super) async fn record_found(site: &Site, payment: &Payment, token_hash: &str) -> Result<(), StoreError> {
    let begun = site.store.checkout(token_hash).await?;
    let is_for_it = begun.is_some_and(|begun| is_for(site, payment, &begun));
    record(site, payment, is_for_it.then(|| token_hash.to_owned())).await
}

async fn record(site: &Site, payment: &Payment, token_hash: Option<String>) -> Result<(), StoreError> {
    let starter = site.settings.starter_domain.as_ref();
    let starter = starter.and_then(|domain| starter_sender(&payment.customer_id, domain));
    let known = site.store.customer(&payment.customer_id).await?;
    let (email, name) = (payment.email.as_deref(), payment.name.as_deref());
    let payer = Payer { customer_id: &payment.customer_id, email, name };
    // Whoever is known is written to where they are known to be.
    let is_sold = buys_credits(site, payment);
    let received = known
        .as_ref()
        .filter(|_| is_sold)
        .and_then(|known| site.billing.payment_received(Payer { email: known.email.as_deref(), ..payer }));
    let welcome = match known {
        Some(_) => None,
        None => site.billing.welcome(payer, starter.as_ref()),
    };
    let recorded = checkout::Payment {
        payment_id: payment.payment_id.clone(),
        customer_id: payment.customer_id.clone(),
        email: payment.email.clone(),
        name: payment.name.clone(),
        token_hash,
        starter,
        welcome,
        received,
    };
    if site.store.record_payment(&recorded, site.clock.now()).await? {
        tracing::info!(customer_id = %payment.customer_id, "a payment made a new customer");
    }
    site.store.pass(CrashPoint::PaymentRecorded);
    site.billing.balance_changed(&payment.customer_id);
    Ok(())
}

/// The token hash in the metadata, if it is signed, and this payment came from the session that
/// was made for it, is for what is sold there, and the session still waits.
async fn bound_token(site: &Site, payment: &Payment) -> Result<Option<String>, StoreError> {
    let Some(hash) = payment.metadata.get(METADATA_KEY) else { return Ok(None) };
    let signature = payment.metadata.get(SIGNATURE_KEY).map(String::as_str).unwrap_or_default();
    if !site.settings.checkout_key.has_signed(hash, signature) {
        tracing::warn!(
            customer_id = %payment.customer_id,
            "a payment names a checkout without our signature; nobody may claim its credential"
        );
        return Ok(None);
    }
    let Some(begun) = site.store.checkout(hash).await? else { return Ok(None) };
    let Checkout::Pending { session_id: Some(session_id) } = &begun.state else { return Ok(None) };
    if payment.checkout_session_id.as_ref() != Some(session_id) {
        tracing::warn!(
            customer_id = %payment.customer_id,
            "a payment names a checkout that it did not come from; nobody may claim its credential"
        );
        return Ok(None);
    }
    Ok(is_for(site, payment, &begun).then(|| hash.clone()))
}

/// Whether a payment is for what its checkout was for. That of a subscription may come without a
/// cart.
fn is_for(site: &Site, payment: &Payment, begun: &Begun) -> bool {
    let product_id = begun.product_id.as_deref().unwrap_or(&site.settings.plan_product_id);
    let is_for = match payment.product_cart.as_slice() {
        [] => payment.subscription_id.is_some(),
        [item] => item.product_id == product_id && item.quantity == 1,
        _ => false,
    };
    if !is_for {
        tracing::warn!(
            customer_id = %payment.customer_id,
            "a payment is not for what its checkout was for; nobody may claim its credential"
        );
    }
    is_for
}

/// A payment for a subscription may come without a cart.
fn buys_credits(site: &Site, payment: &Payment) -> bool {
    let settings = &site.settings;
    let is_ours = |id: &str| id == settings.plan_product_id || id == settings.topup_product_id;
    let cart = &payment.product_cart;
    cart.iter().any(|item| is_ours(&item.product_id))
        || (cart.is_empty() && payment.subscription_id.is_some())
}

/// The address at the operator's domain from which a new customer may send at once.
fn starter_sender(customer_id: &CustomerId, domain: &Domain) -> Option<SenderPattern> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let local: String = customer_id.as_str().chars().map(plain).take(64).collect();
    Mailbox::parse(&format!("{local}@{domain}")).ok().map(SenderPattern::Address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starter_address_is_an_address_whatever_the_id() {
        let domain = Domain::parse("mail.example").unwrap();
        let long = "x".repeat(128);
        let table = [
            ("cus_Ab1", "cus_Ab1@mail.example"),
            ("..a@b+c..", "--a-b-c--@mail.example"),
            (long.as_str(), &format!("{}@mail.example", "x".repeat(64))),
        ];
        for (id, want) in table {
            let sender = starter_sender(&CustomerId::parse(id).unwrap(), &domain);
            assert_eq!(sender.unwrap().to_string(), want);
        }
    }
}
