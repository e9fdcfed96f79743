//! The stand-in for Dodo that Postmeter settles with, and the one for Resend beside it: the
//! sandbox's, with their documented rate limits, and with a customer of the bench's own.

use anyhow::Result;
use postmeter::sandbox::{
    DODO_API_KEY, ENTITLEMENT_ID, PLAN_PRODUCT_ID, RESEND_API_KEY, Settings, StandIns, TOPUP_PRODUCT_ID,
    WEBHOOK_SECRET,
};

/// More than the bench can spend.
const CREDITS: u64 = 100_000_000;

/// A running stand-in, and the environment that makes Postmeter use it.
pub(crate) struct Dodo {
    pub(crate) environment: Vec<(String, String)>,
    /// They serve as long as the bench runs.
    pub(crate) stand_ins: StandIns,
}

/// Starts it, with nothing on disk, and gives the customer credits.
pub(crate) async fn start(customer_id: &str) -> Result<Dodo> {
    let stand_ins = StandIns::start(Settings::default()).await?;
    stand_ins.dodo.add_customer(customer_id, "bench@example.com", "Bench")?;
    stand_ins.dodo.grant(customer_id, CREDITS, None)?;
    let environment = [
        ("DODO_PAYMENTS_BASE_URL", stand_ins.dodo_url.as_str()),
        ("DODO_PAYMENTS_API_KEY", DODO_API_KEY),
        ("DODO_WEBHOOK_KEY", WEBHOOK_SECRET),
        ("CREDIT_ENTITLEMENT_ID", ENTITLEMENT_ID),
        ("PLAN_PRODUCT_ID", PLAN_PRODUCT_ID),
        ("TOPUP_PRODUCT_ID", TOPUP_PRODUCT_ID),
        ("RESEND_BASE_URL", stand_ins.resend_url.as_str()),
        ("RESEND_API_KEY", RESEND_API_KEY),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    Ok(Dodo { environment, stand_ins })
}
