//! The four things that Dodo must have: looked for, compared with what was asked for,
//! and made where they are missing, in the order in which they need each other.

use anyhow::{Context, bail};
use secrecy::SecretString;

use super::inputs::{Goods, Inputs};
use super::money;
use crate::billing::dodo::catalog::{
    EVENTS, Endpoint, ListedProduct, NewEntitlement, NewProduct, Offer, Term,
};
use crate::billing::dodo::{Dodo, DodoError, EntitlementInfo};
use crate::config::Secrets;

/// What the entitlement is found again by: it has no metadata.
const ENTITLEMENT_NAME: &str = "Email credits (Postmeter)";
/// Days after which credits lapse where no product says otherwise: Dodo's own default.
const ENTITLEMENT_DAYS: u32 = 30;
/// The mark of the endpoint.
const ENDPOINT_MARK: &str = "setup";

/// One of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Entitlement,
    Plan,
    TopUp,
    Webhook,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Entitlement, Self::Plan, Self::TopUp, Self::Webhook];

    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::Entitlement => "credit entitlement",
            Self::Plan => "plan",
            Self::TopUp => "top-up",
            Self::Webhook => "webhook",
        }
    }

    /// The variable that names its id.
    pub(super) const fn variable(self) -> Option<&'static str> {
        match self {
            Self::Entitlement => Some("CREDIT_ENTITLEMENT_ID"),
            Self::Plan => Some("PLAN_PRODUCT_ID"),
            Self::TopUp => Some("TOPUP_PRODUCT_ID"),
            Self::Webhook => None,
        }
    }

    /// The id that the environment or the file names; empty: none.
    pub(super) fn named_in(self, secrets: &Secrets) -> Option<&str> {
        match self {
            Self::Entitlement => Some(&secrets.credit_entitlement_id),
            Self::Plan => Some(&secrets.plan_product_id),
            Self::TopUp => Some(&secrets.topup_product_id),
            Self::Webhook => None,
        }
    }

    /// The mark of a product.
    const fn mark(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::TopUp => "top-up",
            Self::Entitlement | Self::Webhook => ENDPOINT_MARK,
        }
    }
}

/// One of the four, as it stands at Dodo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) part: Part,
    /// `None`: it is not there yet.
    pub(super) id: Option<String>,
    /// What it is called, or where it goes.
    pub(super) name: String,
    pub(super) is_made: bool,
    /// In what it is not as it was asked for.
    pub(super) differences: Vec<String>,
}

impl Item {
    fn found(part: Part, id: String, name: String) -> Self {
        Self { part, id: Some(id), name, is_made: false, differences: Vec::new() }
    }

    fn missing(part: Part, name: &str) -> Self {
        Self { part, id: None, name: name.to_owned(), is_made: false, differences: Vec::new() }
    }

    fn made(&mut self, id: String) {
        self.id = Some(id);
        self.is_made = true;
    }
}

/// All four.
pub(super) struct Stock {
    entitlement: Item,
    plan: Item,
    top_up: Item,
    webhook: Item,
    secret: Option<SecretString>,
    /// What else was seen that a person should know.
    pub(super) remarks: Vec<String>,
}

impl Stock {
    /// Looks for all four; asks only.
    pub(super) async fn find(dodo: &Dodo, inputs: &Inputs) -> anyhow::Result<Self> {
        let entitlement = find_entitlement(dodo, inputs).await?;
        let listed = dodo.products().await?;
        let mut plan = find_product(dodo, inputs, Part::Plan, &listed).await?;
        let mut top_up = find_product(dodo, inputs, Part::TopUp, &listed).await?;
        for (found, goods) in [(&mut plan, &inputs.plan), (&mut top_up, &inputs.top_up)] {
            if let (item, Some(offer)) = found {
                item.differences = differences(offer, item.part, goods, entitlement.id.as_deref());
            }
        }
        let url = webhook_url(inputs);
        let (webhook, remarks) = find_webhook(dodo.endpoints().await?, &url)?;
        let secret = match &webhook.id {
            Some(id) => Some(dodo.endpoint_secret(id).await.context("the webhook's secret cannot be read")?),
            None => None,
        };
        Ok(Self { entitlement, plan: plan.0, top_up: top_up.0, webhook, secret, remarks })
    }

    pub(super) fn items(&self) -> [&Item; 4] {
        [&self.entitlement, &self.plan, &self.top_up, &self.webhook]
    }

    /// Whether something has to be made.
    pub(super) fn is_incomplete(&self) -> bool {
        self.items().iter().any(|item| item.id.is_none())
    }

    /// The webhook's secret, if there is a webhook.
    pub(super) const fn secret(&self) -> Option<&SecretString> {
        self.secret.as_ref()
    }

    /// What the environment is to say of them; `None`: not known yet.
    pub(super) fn settings(&self) -> Vec<(&'static str, Option<SecretString>)> {
        let ids = self.items().map(|item| Some((item.part.variable()?, item.id.clone().map(Into::into))));
        [("DODO_WEBHOOK_KEY", self.secret.clone())].into_iter().chain(ids.into_iter().flatten()).collect()
    }

    /// Makes what is missing.
    pub(super) async fn complete(&mut self, dodo: &Dodo, inputs: &Inputs) -> anyhow::Result<()> {
        if self.entitlement.id.is_none() {
            let new = NewEntitlement {
                name: ENTITLEMENT_NAME,
                unit: "email",
                expires_after_days: ENTITLEMENT_DAYS,
            };
            let made = dodo.make_entitlement(&new).await;
            let made = made.with_context(|| broken_off(Part::Entitlement))?;
            self.entitlement.made(made.id);
        }
        let entitlement_id = self.entitlement.id.clone().unwrap_or_default();
        for (item, goods) in [(&mut self.plan, &inputs.plan), (&mut self.top_up, &inputs.top_up)] {
            if item.id.is_none() {
                let new = NewProduct {
                    name: &goods.name,
                    mark: item.part.mark(),
                    price: &goods.price,
                    term: term(item.part),
                    entitlement_id: &entitlement_id,
                    credits: goods.credits,
                    expires_after_days: goods.days,
                };
                let made = dodo.make_product(&new).await;
                item.made(made.with_context(|| broken_off(item.part))?);
            }
        }
        if self.webhook.id.is_none() {
            let made = dodo.make_endpoint(&self.webhook.name, ENDPOINT_MARK).await;
            let made = made.with_context(|| broken_off(Part::Webhook))?;
            let secret = dodo.endpoint_secret(&made.id).await;
            self.secret = Some(secret.with_context(|| broken_off(Part::Webhook))?);
            self.webhook.made(made.id);
        }
        Ok(())
    }
}

/// Where events go.
pub(super) fn webhook_url(inputs: &Inputs) -> String {
    format!("{}/webhooks/dodo", inputs.secrets.base_url)
}

fn broken_off(part: Part) -> String {
    format!(
        "the {} may not have been made; run `postmeter setup` again, it finds what is there and goes on",
        part.what()
    )
}

const fn term(part: Part) -> Term {
    if matches!(part, Part::Plan) { Term::Monthly } else { Term::Once }
}

/// The one thing that is meant, if there is any.
fn only<T>(mut found: Vec<T>, told: impl Fn(&[T]) -> String) -> anyhow::Result<Option<T>> {
    if found.len() > 1 {
        bail!(told(&found));
    }
    Ok(found.pop())
}

/// Something that was named by its id must be there.
fn named<T>(part: Part, id: &str, answer: Result<T, DodoError>) -> anyhow::Result<T> {
    match answer {
        Err(DodoError::NotFound { .. }) => bail!(
            "{} names {id}, which Dodo does not know in the mode of this key; correct it, or take it away and have it \
             looked for",
            part.variable().unwrap_or_default()
        ),
        answer => Ok(answer?),
    }
}

async fn find_entitlement(dodo: &Dodo, inputs: &Inputs) -> anyhow::Result<Item> {
    let id = inputs.secrets.credit_entitlement_id.as_str();
    let found = if id.is_empty() {
        let mut all = dodo.entitlements().await?;
        all.retain(|entitlement| entitlement.name == ENTITLEMENT_NAME);
        only(all, |all| {
            let ids: Vec<_> = all.iter().map(|entitlement| entitlement.id.as_str()).collect();
            several(Part::Entitlement, &ids)
        })?
    } else {
        Some(named(Part::Entitlement, id, dodo.entitlement_of(id).await)?)
    };
    Ok(match found {
        None => Item::missing(Part::Entitlement, ENTITLEMENT_NAME),
        Some(found) => Item {
            differences: entitlement_differences(&found),
            ..Item::found(Part::Entitlement, found.id, found.name)
        },
    })
}

fn several(part: Part, ids: &[&str]) -> String {
    format!(
        "Dodo has several of what setup makes as the {}: {}; name the one that is meant in {}",
        part.what(),
        ids.join(", "),
        part.variable().unwrap_or_default()
    )
}

fn entitlement_differences(found: &EntitlementInfo) -> Vec<String> {
    let mut differences = Vec::new();
    if found.overage_enabled {
        differences.push("it allows overage, so balances can fall below nothing".to_owned());
    }
    if let Some(places) = found.precision.filter(|places| *places != 0) {
        differences.push(format!("it counts {places} decimals of a credit, not whole ones"));
    }
    differences
}

async fn find_product(
    dodo: &Dodo,
    inputs: &Inputs,
    part: Part,
    listed: &[ListedProduct],
) -> anyhow::Result<(Item, Option<Offer>)> {
    let goods = if part == Part::Plan { &inputs.plan } else { &inputs.top_up };
    let named_id = part.named_in(&inputs.secrets).unwrap_or_default();
    let id = if named_id.is_empty() {
        let is_ours = |product: &&ListedProduct| match &product.mark {
            Some(mark) => mark.as_deref() == Some(part.mark()),
            // Without metadata the name is all there is.
            None => product.name == goods.name,
        };
        let ids = listed.iter().filter(is_ours).map(|product| product.product_id.as_str()).collect();
        only(ids, |ids| several(part, ids))?
    } else {
        Some(named_id)
    };
    let Some(id) = id else { return Ok((Item::missing(part, &goods.name), None)) };
    let offer = named(part, id, dodo.offer(id).await)?;
    Ok((Item::found(part, id.to_owned(), offer.info.name.clone()), Some(offer)))
}

/// In what a product is not as it was asked for.
fn differences(offer: &Offer, part: Part, wanted: &Goods, entitlement_id: Option<&str>) -> Vec<String> {
    let mut differences = Vec::new();
    match (&offer.price, money::told(&wanted.price)) {
        (Some(price), _) if *price == wanted.price => {}
        (Some(price), asked) => differences.push(format!("it costs {}, not {asked}", money::told(price))),
        (None, asked) => differences.push(format!("its price cannot be read, {asked} was asked for")),
    }
    if offer.term != Some(term(part)) {
        let terms = if part == Part::Plan { "paid every month" } else { "paid once" };
        differences.push(format!("it is not {terms}"));
    }
    let attached = entitlement_id
        .and_then(|id| offer.info.credits.iter().find(|attached| attached.entitlement_id == id));
    let Some(attached) = attached else {
        differences.push("it grants no credits of the credit entitlement".to_owned());
        return differences;
    };
    if attached.credits != Some(i64::from(wanted.credits)) {
        let granted = attached.credits.map_or_else(|| "no known number of".to_owned(), |n| n.to_string());
        differences.push(format!("it grants {granted} credits, not {}", wanted.credits));
    }
    if attached.overage_enabled {
        differences.push("it allows overage, so balances can fall below nothing".to_owned());
    }
    if let (Part::TopUp, Some(days)) = (part, attached.expires_after_days)
        && days != i64::from(wanted.days)
    {
        differences.push(format!("its credits lapse after {days} days, not {}", wanted.days));
    }
    differences
}

fn find_webhook(endpoints: Vec<Endpoint>, url: &str) -> anyhow::Result<(Item, Vec<String>)> {
    let (here, elsewhere): (Vec<Endpoint>, Vec<Endpoint>) =
        endpoints.into_iter().partition(|endpoint| endpoint.url.trim_end_matches('/') == url);
    let ours = elsewhere.iter().filter(|endpoint| endpoint.mark.as_deref() == Some(ENDPOINT_MARK));
    let remarks = ours
        .map(|endpoint| {
            format!(
                "the webhook {}, which setup made, goes to {}: delete it in Dodo's dashboard if nobody listens there",
                endpoint.id, endpoint.url
            )
        })
        .collect();
    let found = only(here, |here| {
        let ids: Vec<_> = here.iter().map(|endpoint| endpoint.id.as_str()).collect();
        format!(
            "Dodo has several webhooks to {url}: {}; each has a secret of its own, so delete all but one in Dodo's \
             dashboard",
            ids.join(", ")
        )
    })?;
    let Some(found) = found else { return Ok((Item::missing(Part::Webhook, url), remarks)) };
    let differences = webhook_differences(&found);
    Ok((Item { differences, ..Item::found(Part::Webhook, found.id, found.url) }, remarks))
}

fn webhook_differences(found: &Endpoint) -> Vec<String> {
    let mut differences = Vec::new();
    if found.is_disabled {
        differences.push("it is disabled".to_owned());
    }
    let is_told = |name: &str| found.events.is_empty() || found.events.iter().any(|event| event == name);
    let untold: Vec<&str> = EVENTS.iter().copied().filter(|name| !is_told(name)).collect();
    if !untold.is_empty() {
        differences.push(format!("it is not told of {}", untold.join(", ")));
    }
    differences
}

#[cfg(test)]
mod tests;
