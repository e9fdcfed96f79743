//! `postmeter suppression`: whom a customer's mail is not taken for.

use clap::{Args, Subcommand};

use super::print::{self, or_nothing};
use super::{Desk, Format, Printout, one_line_text};
use crate::domain::address::{InvalidAddress, Mailbox};
use crate::domain::ids::CustomerId;
use crate::domain::suppression::{Cause, SuppressedAddress};
use crate::store::customer::ChangeError;
use crate::store::suppression::Suppression;

/// Addresses that are read at once.
const PAGE: u32 = 1000;

/// `postmeter suppression …`
#[derive(Debug, Args)]
pub struct SuppressionArgs {
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
    /// What to do.
    #[command(subcommand)]
    pub action: SuppressionAction,
}

/// What to do with a suppression list.
#[derive(Debug, Subcommand)]
pub enum SuppressionAction {
    /// List the addresses that a customer's mail is not taken for, and why
    List {
        /// The customer
        #[arg(long = "customer", value_name = "ID")]
        customer_id: CustomerId,
    },
    /// Put an address on a customer's list
    Add {
        /// The address
        #[arg(value_parser = mailbox)]
        address: Mailbox,
        /// The customer
        #[arg(long = "customer", value_name = "ID")]
        customer_id: CustomerId,
        /// Why, as senders are told
        #[arg(long, value_name = "TEXT", value_parser = one_line_text)]
        reason: Option<String>,
    },
    /// Take an address off a customer's list
    Remove {
        /// The address
        #[arg(value_parser = mailbox)]
        address: Mailbox,
        /// The customer
        #[arg(long = "customer", value_name = "ID")]
        customer_id: CustomerId,
    },
}

pub(super) async fn run(args: SuppressionArgs, desk: &Desk) -> anyhow::Result<Printout> {
    let SuppressionArgs { format, action } = args;
    match action {
        SuppressionAction::List { customer_id } => list(desk, &customer_id, format).await,
        SuppressionAction::Add { address, customer_id, reason } => {
            let now = desk.clock.now();
            let is_new = desk.store.suppress(&customer_id, &address, reason.as_deref(), now).await?;
            let key = SuppressedAddress::of(&address);
            let found = desk.store.suppression(&customer_id, &key).await?;
            let found = found.ok_or(ChangeError::NotSuppressed(key))?;
            let what = if is_new { "suppressed" } else { "suppressed already" };
            one(&found, format, format!("{what} for {customer_id}: {}\n", found.address))
        }
        SuppressionAction::Remove { address, customer_id } => {
            desk.customer(&customer_id).await?;
            let removed = desk.store.unsuppress(&customer_id, &address).await?;
            let mut text = format!("mail of {customer_id} to {} is taken again\n", removed.address);
            if desk.config.uses_resend() && removed.reason != Cause::Manual {
                text += "Resend keeps a list of its own for the whole team: take the address off that too \
                         (dashboard, Suppressions), or it is skipped there\n";
            }
            one(&removed, format, text)
        }
    }
}

fn one(suppression: &Suppression, format: Format, text: String) -> anyhow::Result<Printout> {
    if format.json { Printout::json(suppression) } else { Ok(Printout::text(text)) }
}

async fn list(desk: &Desk, customer_id: &CustomerId, format: Format) -> anyhow::Result<Printout> {
    desk.customer(customer_id).await?;
    let mut found: Vec<Suppression> = Vec::new();
    loop {
        let after = found.last().map(|last| last.address.clone());
        let page = desk.store.suppressions(customer_id, after.as_deref(), PAGE).await?;
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    if format.json {
        return Printout::json(&found);
    }
    if found.is_empty() {
        return Ok(Printout::text(format!("nothing is on the suppression list of {customer_id}\n")));
    }
    let rows: Vec<_> = found
        .iter()
        .map(|one| {
            let (reason, detail) = (one.reason.as_str().to_owned(), or_nothing(one.detail.as_deref()));
            let message_id = or_nothing(one.message_id.as_deref());
            [one.address.clone(), reason, one.added_at.to_string(), message_id, detail]
        })
        .collect();
    Ok(Printout::text(print::table(["ADDRESS", "REASON", "SINCE", "MESSAGE", "DETAIL"], &rows)))
}

fn mailbox(text: &str) -> Result<Mailbox, InvalidAddress> {
    Mailbox::parse(text)
}
