//! Dodo Payments: the key, the credit entitlement and the two products.

use secrecy::ExposeSecret;

use super::{Finding, TIMEOUT};
use crate::billing::dodo::{
    Dodo, DodoError, DodoSettings, EntitlementInfo, KeyRights, LIVE_HOST, ProductInfo, TEST_HOST,
};
use crate::clock::Clock;
use crate::config::Secrets;

const SUBJECT: &str = "dodo";

/// What a product is bought for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The subscription.
    Plan,
    /// Bought once, when credits run short.
    Topup,
}

impl Role {
    const fn variable(self) -> &'static str {
        match self {
            Self::Plan => "PLAN_PRODUCT_ID",
            Self::Topup => "TOPUP_PRODUCT_ID",
        }
    }
}

pub(super) async fn findings(secrets: &Secrets, clock: &Clock) -> Vec<Finding> {
    if secrets.dodo_api_key.expose_secret().is_empty() || secrets.credit_entitlement_id.is_empty() {
        let hint = "set DODO_PAYMENTS_API_KEY and CREDIT_ENTITLEMENT_ID first";
        return vec![Finding::warn(SUBJECT, "it was not asked anything", hint)];
    }
    let client = Dodo::new(DodoSettings {
        base_url: secrets.dodo_base_url.clone(),
        api_key: secrets.dodo_api_key.clone(),
        entitlement_id: secrets.credit_entitlement_id.clone(),
        timeout: TIMEOUT,
        clock: clock.clone(),
    });
    match client {
        Ok(dodo) => ask(&dodo, secrets).await,
        Err(error) => vec![Finding::fail(
            SUBJECT,
            error.to_string(),
            "check DODO_PAYMENTS_BASE_URL and DODO_PAYMENTS_API_KEY",
        )],
    }
}

async fn ask(dodo: &Dodo, secrets: &Secrets) -> Vec<Finding> {
    let rights = dodo.key_rights().await;
    let can_read = matches!(rights, Ok(KeyRights::Writes | KeyRights::ReadsOnly));
    let mut findings = vec![key(rights, &secrets.dodo_base_url)];
    if !can_read {
        return findings;
    }
    let entitlement_id = &secrets.credit_entitlement_id;
    findings.extend(entitlement(dodo.entitlement().await.answer, entitlement_id));
    for (role, product_id) in
        [(Role::Plan, &secrets.plan_product_id), (Role::Topup, &secrets.topup_product_id)]
    {
        if !product_id.is_empty() {
            let answer = dodo.product(product_id).await.answer;
            findings.extend(product(role, product_id, answer, entitlement_id));
        }
    }
    findings
}

pub(super) fn key(rights: Result<KeyRights, DodoError>, base_url: &str) -> Finding {
    match rights {
        Ok(KeyRights::Writes) => Finding::ok(SUBJECT, format!("the key reads and writes at {base_url}")),
        Ok(KeyRights::ReadsOnly) => Finding::fail(
            SUBJECT,
            "the API key may only read, so no credit could be debited",
            "make a key with write access in the dashboard and put it in DODO_PAYMENTS_API_KEY",
        ),
        Ok(KeyRights::OtherHost(host)) => {
            let mode = if host == LIVE_HOST { "live_mode" } else { "test_mode" };
            Finding::fail(
                SUBJECT,
                format!("the API key is one of {mode}, and {base_url} is not its host"),
                format!("set DODO_PAYMENTS_ENVIRONMENT={mode}, or use a key of the other mode"),
            )
        }
        Ok(KeyRights::Bad) => {
            Finding::fail(SUBJECT, format!("{base_url} refuses the API key"), bad_key(base_url))
        }
        Err(error) => unanswered(&error),
    }
}

fn bad_key(base_url: &str) -> &'static str {
    match base_url {
        TEST_HOST => "copy it again from the dashboard in test mode into DODO_PAYMENTS_API_KEY",
        LIVE_HOST => "copy it again from the dashboard in live mode into DODO_PAYMENTS_API_KEY",
        _ => "check DODO_PAYMENTS_API_KEY and DODO_PAYMENTS_BASE_URL",
    }
}

pub(super) fn entitlement(answer: Result<EntitlementInfo, DodoError>, entitlement_id: &str) -> Vec<Finding> {
    let info = match answer {
        Ok(info) => info,
        Err(DodoError::NotFound { .. }) => {
            let hint = "copy the id of the credit entitlement from the dashboard, in the mode of the key, into \
                        CREDIT_ENTITLEMENT_ID";
            return vec![Finding::fail(
                SUBJECT,
                format!("there is no credit entitlement {entitlement_id}"),
                hint,
            )];
        }
        Err(error) => return vec![unanswered(&error)],
    };
    let mut findings =
        vec![Finding::ok(SUBJECT, format!("credit entitlement {entitlement_id} ({})", info.name))];
    if info.overage_enabled {
        findings.push(overage(&format!("the credit entitlement {entitlement_id}")));
    }
    if info.precision.is_some_and(|places| places != 0) {
        findings.push(Finding::warn(
            SUBJECT,
            format!("the credit entitlement {entitlement_id} counts fractions of a credit"),
            "Postmeter rounds balances down to whole credits; set its precision to 0",
        ));
    }
    findings
}

fn overage(what: &str) -> Finding {
    Finding::warn(
        SUBJECT,
        format!("{what} allows overage, so balances can fall below nothing"),
        "turn overage off in the dashboard, since customers pay in advance",
    )
}

pub(super) fn product(
    role: Role,
    product_id: &str,
    answer: Result<ProductInfo, DodoError>,
    entitlement_id: &str,
) -> Vec<Finding> {
    let variable = role.variable();
    let info = match answer {
        Ok(info) => info,
        Err(DodoError::NotFound { .. }) => {
            let hint =
                format!("copy the product's id from the dashboard, in the mode of the key, into {variable}");
            return vec![Finding::fail(SUBJECT, format!("there is no product {product_id}"), hint)];
        }
        Err(error) => return vec![unanswered(&error)],
    };
    let mut findings = Vec::new();
    match info.credits.iter().find(|credits| credits.entitlement_id == entitlement_id) {
        None => findings.push(Finding::warn(
            SUBJECT,
            format!("the product {product_id} ({variable}) grants no credits of {entitlement_id}"),
            "attach the credit entitlement to it in the dashboard, or its buyers pay for nothing",
        )),
        Some(credits) => {
            let count = credits.credits.map_or_else(|| "its".to_owned(), |count| count.to_string());
            let message = format!("{variable} {product_id} ({}) grants {count} credits", info.name);
            findings.push(Finding::ok(SUBJECT, message));
            if credits.overage_enabled {
                findings.push(overage(&format!("the product {product_id}")));
            }
        }
    }
    match (role, info.is_recurring) {
        (Role::Plan, Some(false)) => findings.push(Finding::warn(
            SUBJECT,
            format!("{variable} {product_id} is no subscription"),
            "it is bought once and not renewed; name a recurring product if you meant a plan",
        )),
        (Role::Topup, Some(true)) => findings.push(Finding::warn(
            SUBJECT,
            format!("{variable} {product_id} is a subscription"),
            "every top-up would start another one; name a product that is paid once",
        )),
        _ => {}
    }
    findings
}

fn unanswered(error: &DodoError) -> Finding {
    let hint = match error {
        DodoError::RateLimited { .. } => "wait a minute and check again",
        DodoError::Unavailable { .. } => {
            "check this machine's way to the network and DODO_PAYMENTS_BASE_URL, if it is set"
        }
        _ => "check DODO_PAYMENTS_API_KEY and DODO_PAYMENTS_BASE_URL, if it is set",
    };
    Finding::fail(SUBJECT, error.to_string(), hint)
}
