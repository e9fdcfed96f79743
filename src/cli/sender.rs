//! `postmeter sender`: whom a customer may send as.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::print;
use super::{Desk, Format, Printout};
use crate::domain::ids::CustomerId;
use crate::domain::proof::{Origin, ProofState};
use crate::domain::sender::{SenderPattern, SenderPolicy};

/// `postmeter sender …`
#[derive(Debug, Args)]
pub struct SenderArgs {
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
    /// What to do.
    #[command(subcommand)]
    pub action: SenderAction,
}

/// What to do with senders.
#[derive(Debug, Subcommand)]
pub enum SenderAction {
    /// Let a customer send from an address, a domain or all domains below one
    Allow {
        /// The customer
        #[arg(value_name = "ID")]
        customer_id: CustomerId,
        /// user@example.com, example.com or *.example.com
        #[arg(value_parser = allowable)]
        pattern: SenderPattern,
    },
    /// List what a customer may send from
    List {
        /// The customer
        #[arg(value_name = "ID")]
        customer_id: CustomerId,
    },
    /// Take a pattern off a customer's list
    Deny {
        /// The customer
        #[arg(value_name = "ID")]
        customer_id: CustomerId,
        /// The pattern as `sender list` shows it
        #[arg(value_parser = SenderPattern::parse)]
        pattern: SenderPattern,
    },
}

/// A sender as programs see it.
#[derive(Serialize)]
struct SenderObject<'a> {
    customer_id: &'a CustomerId,
    pattern: String,
    /// Where it came from, and where it stands; left out of what a change prints.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    standing: Option<Standing>,
}

/// Where a line of the list came from, or a domain that may become one, and where it stands.
#[derive(Serialize)]
struct Standing {
    origin: Origin,
    /// `allowed`, or where the proof stands.
    state: &'static str,
}

pub(super) async fn run(args: SenderArgs, desk: &Desk) -> anyhow::Result<Printout> {
    let SenderArgs { format, action } = args;
    match action {
        SenderAction::Allow { customer_id, pattern } => {
            desk.store.allow_sender(&customer_id, &pattern, desk.clock.now()).await?;
            changed(&customer_id, &pattern, format, "may send from")
        }
        SenderAction::Deny { customer_id, pattern } => {
            desk.customer(&customer_id).await?;
            desk.store.deny_sender(&customer_id, &pattern).await?;
            changed(&customer_id, &pattern, format, "may no longer send from")
        }
        SenderAction::List { customer_id } => list(desk, &customer_id, format).await,
    }
}

fn changed(
    customer_id: &CustomerId,
    pattern: &SenderPattern,
    format: Format,
    what: &str,
) -> anyhow::Result<Printout> {
    let pattern = pattern.to_string();
    if format.json {
        return Printout::json(&SenderObject { customer_id, pattern, standing: None });
    }
    Ok(Printout::text(format!("{customer_id} {what} {pattern}\n")))
}

async fn list(desk: &Desk, customer_id: &CustomerId, format: Format) -> anyhow::Result<Printout> {
    desk.customer(customer_id).await?;
    let senders = standing(desk, customer_id).await?;
    if format.json {
        return Printout::json(&senders);
    }
    let mut text: String = senders.iter().map(line).collect();
    if desk.config.senders.policy == SenderPolicy::Any {
        text += "senders.policy is \"any\": the list is not used, every customer may send from any address\n";
    } else if text.is_empty() {
        let step = format!("sender allow {customer_id} example.com");
        text = format!("{customer_id} may not send from any address yet\n");
        text += &print::next_steps(&desk.program, &[step]);
    }
    Ok(Printout::text(text))
}

/// The customer's list, and the domains that they claim beside it.
async fn standing<'a>(desk: &Desk, customer_id: &'a CustomerId) -> anyhow::Result<Vec<SenderObject<'a>>> {
    let object = |pattern, origin, state| SenderObject {
        customer_id,
        pattern,
        standing: Some(Standing { origin, state }),
    };
    let lines = desk.store.sender_lines(customer_id).await?.into_iter().map(|line| {
        let state = if line.origin == Origin::Proof { ProofState::Verified.as_str() } else { "allowed" };
        object(line.pattern.to_string(), line.origin, state)
    });
    let proofs = desk.store.proofs(customer_id).await?.into_iter();
    let claims = proofs.filter(|proof| proof.claim.state != ProofState::Verified);
    let claims =
        claims.map(|proof| object(proof.domain.to_string(), Origin::Proof, proof.claim.state.as_str()));
    Ok(lines.chain(claims).collect())
}

/// A line for people: what the operator allowed needs no words.
fn line(sender: &SenderObject<'_>) -> String {
    match &sender.standing {
        Some(Standing { origin: Origin::Proof, state }) => {
            format!("{}  ({state}, by its customer's proof)\n", sender.pattern)
        }
        Some(Standing { origin: Origin::Starter, .. }) => {
            format!("{}  (came with the account)\n", sender.pattern)
        }
        _ => format!("{}\n", sender.pattern),
    }
}

/// `*` would lift the limit for one customer unseen; the policy does it for all, in the open.
fn allowable(text: &str) -> Result<SenderPattern, String> {
    match SenderPattern::parse(text) {
        Ok(SenderPattern::Any) => {
            Err("name a domain; senders.policy = \"any\" in the configuration allows all of them".to_owned())
        }
        Ok(pattern) => Ok(pattern),
        Err(error) => Err(format!("{error}; use user@example.com, example.com or *.example.com")),
    }
}
