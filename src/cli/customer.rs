//! `postmeter customer`: who may buy and send.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::credential::CredentialObject;
use super::print::{self, or_nothing};
use super::{Desk, Format, Place, Printout, one_line_text};
use crate::domain::address::{InvalidAddress, Mailbox};
use crate::domain::ids::CustomerId;
use crate::domain::sender::SenderPolicy;
use crate::store::alert::Alert;
use crate::store::customer::{ChangeError, Customer};

/// Alerts that are shown of one customer, the newest.
const ALERTS: u32 = 20;

/// `postmeter customer …`
#[derive(Debug, Args)]
pub struct CustomerArgs {
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
    /// What to do.
    #[command(subcommand)]
    pub action: CustomerAction,
}

/// What to do with customers.
#[derive(Debug, Subcommand)]
pub enum CustomerAction {
    /// Add a customer under the id that Dodo gave it
    Add {
        /// Dodo's id, such as cus_1a2b3c
        #[arg(value_name = "ID")]
        customer_id: CustomerId,
        /// Where notices about credits go
        #[arg(long, value_parser = email)]
        email: Option<String>,
        /// What to call the customer
        #[arg(long, value_parser = one_line_text)]
        name: Option<String>,
    },
    /// List all customers with their credits
    List,
    /// Show one customer with credits, senders, credentials and alerts
    Show {
        /// The customer
        #[arg(value_name = "ID")]
        customer_id: CustomerId,
    },
    /// Refuse the customer's mail, telling the reason
    Suspend {
        /// The customer
        #[arg(value_name = "ID")]
        customer_id: CustomerId,
        /// What the customer is told in every refusal
        #[arg(long, value_parser = one_line_text)]
        reason: String,
    },
    /// Take a suspended customer's mail again
    Resume {
        /// The customer
        #[arg(value_name = "ID")]
        customer_id: CustomerId,
    },
}

/// A customer as programs see it.
#[derive(Serialize)]
struct CustomerObject<'a> {
    customer_id: &'a CustomerId,
    email: Option<&'a str>,
    name: Option<&'a str>,
    suspended_reason: Option<&'a str>,
    created_at: Timestamp,
    balance: Option<i64>,
    as_of: Option<Timestamp>,
    held: u64,
    owed: u64,
    available: Option<i64>,
}

/// The same with everything that belongs to it.
#[derive(Serialize)]
struct CustomerWhole<'a> {
    #[serde(flatten)]
    customer: CustomerObject<'a>,
    senders: Vec<String>,
    credentials: Vec<CredentialObject>,
    alerts: Vec<Alert>,
}

impl<'a> From<&'a Customer> for CustomerObject<'a> {
    fn from(customer: &'a Customer) -> Self {
        let account = &customer.account;
        Self {
            customer_id: &customer.customer_id,
            email: customer.email.as_deref(),
            name: customer.name.as_deref(),
            suspended_reason: customer.suspended_reason.as_deref(),
            created_at: customer.created_at,
            balance: account.balance,
            as_of: account.balance_read_at,
            held: account.held.get(),
            owed: account.owed.get(),
            available: account.available(),
        }
    }
}

pub(super) async fn run(args: CustomerArgs, place: &Place<'_>) -> anyhow::Result<Printout> {
    let CustomerArgs { format, action } = args;
    match action {
        CustomerAction::Add { customer_id, email, name } => {
            let desk = Desk::open_or_make(place).await?;
            let now = desk.clock.now();
            desk.store.add_customer(&customer_id, email.as_deref(), name.as_deref(), now).await?;
            let steps = first_steps(&desk, &customer_id);
            desk.changed(&customer_id, format, format!("added customer {customer_id}\n{steps}")).await
        }
        CustomerAction::List => list(&Desk::open(place).await?, format).await,
        CustomerAction::Show { customer_id } => show(&Desk::open(place).await?, &customer_id, format).await,
        CustomerAction::Suspend { customer_id, reason } => {
            let desk = Desk::open(place).await?;
            desk.store.suspend(&customer_id, &reason).await?;
            let step = print::next_steps(&desk.program, &[format!("customer resume {customer_id}")]);
            let text =
                format!("suspended {customer_id}; its mail is refused with the reason: {reason}\n{step}");
            desk.changed(&customer_id, format, text).await
        }
        CustomerAction::Resume { customer_id } => {
            let desk = Desk::open(place).await?;
            desk.store.resume(&customer_id, desk.clock.now()).await?;
            desk.changed(&customer_id, format, format!("resumed {customer_id}: mail is taken again\n")).await
        }
    }
}

impl Desk {
    /// A customer who must be there.
    pub(super) async fn customer(&self, customer_id: &CustomerId) -> anyhow::Result<Customer> {
        let found = self.store.customer(customer_id).await?;
        Ok(found.ok_or_else(|| ChangeError::NoCustomer(customer_id.clone()))?)
    }

    /// After a change: `text` for people, the customer as it is now for programs.
    async fn changed(
        &self,
        customer_id: &CustomerId,
        format: Format,
        text: String,
    ) -> anyhow::Result<Printout> {
        if !format.json {
            return Ok(Printout::text(text));
        }
        Printout::json(&CustomerObject::from(&self.customer(customer_id).await?))
    }
}

/// What a new customer needs before mail can be sent.
fn first_steps(desk: &Desk, customer_id: &CustomerId) -> String {
    let mut steps = vec![format!("credential create --customer {customer_id}")];
    if desk.config.senders.policy == SenderPolicy::Listed {
        steps.push(format!("sender allow {customer_id} example.com"));
    }
    print::next_steps(&desk.program, &steps)
}

async fn list(desk: &Desk, format: Format) -> anyhow::Result<Printout> {
    let customers = desk.store.customers().await?;
    if format.json {
        return Printout::json(&customers.iter().map(CustomerObject::from).collect::<Vec<_>>());
    }
    if customers.is_empty() {
        let step = print::next_steps(&desk.program, &["customer add ID --email ADDRESS".to_owned()]);
        return Ok(Printout::text(format!("there are no customers yet\n{step}")));
    }
    let rows: Vec<_> = customers
        .iter()
        .map(|customer| {
            let account = &customer.account;
            [
                customer.customer_id.to_string(),
                or_nothing(account.available()),
                or_nothing(account.balance),
                account.held.to_string(),
                account.owed.to_string(),
                if customer.suspended_reason.is_some() { "suspended" } else { "active" }.to_owned(),
                or_nothing(customer.email.as_deref()),
                or_nothing(customer.name.as_deref()),
            ]
        })
        .collect();
    let head = ["CUSTOMER", "AVAILABLE", "BALANCE", "HELD", "OWED", "STATE", "EMAIL", "NAME"];
    Ok(Printout::text(print::table(head, &rows)))
}

async fn show(desk: &Desk, customer_id: &CustomerId, format: Format) -> anyhow::Result<Printout> {
    let customer = desk.customer(customer_id).await?;
    let senders: Vec<String> =
        desk.store.senders(customer_id).await?.iter().map(ToString::to_string).collect();
    let credentials: Vec<CredentialObject> =
        desk.store.credentials(Some(customer_id)).await?.into_iter().map(Into::into).collect();
    let alerts = desk.store.alerts(Some(customer_id), ALERTS).await?;
    if format.json {
        let customer = CustomerObject::from(&customer);
        return Printout::json(&CustomerWhole { customer, senders, credentials, alerts });
    }
    let state = customer.suspended_reason.as_deref().map(|reason| format!("suspended: {reason}"));
    let senders = match (senders.is_empty(), desk.config.senders.policy) {
        (_, SenderPolicy::Any) => vec!["any (senders.policy)".to_owned()],
        (true, SenderPolicy::Listed) => {
            vec![format!("none: `{} sender allow {customer_id} example.com`", desk.program)]
        }
        (false, SenderPolicy::Listed) => senders,
    };
    let mut names: Vec<String> = credentials.iter().map(CredentialObject::summary).collect();
    if names.is_empty() {
        names.push(format!("none: `{} credential create --customer {customer_id}`", desk.program));
    }
    Ok(Printout::text(print::pairs(&[
        ("customer", vec![customer.customer_id.to_string()]),
        ("email", vec![or_nothing(customer.email.as_deref())]),
        ("name", vec![or_nothing(customer.name.as_deref())]),
        ("created", vec![customer.created_at.to_string()]),
        ("state", vec![state.unwrap_or_else(|| "active".to_owned())]),
        ("available", vec![credits(&customer)]),
        ("senders", senders),
        ("credentials", names),
        ("alerts", alerts.iter().map(told).collect()),
    ])))
}

/// An alert on one line.
fn told(alert: &Alert) -> String {
    let of = alert.payment_id.as_deref().map(|payment_id| format!(" of {payment_id}")).unwrap_or_default();
    let suspended = if alert.suspended { "; suspended for it" } else { "" };
    let (at, kind, words) = (alert.raised_at, alert.kind.as_str(), &alert.words);
    format!("{at} {kind} {}{of}: {words}{suspended}", alert.subject_id)
}

fn credits(customer: &Customer) -> String {
    let account = &customer.account;
    let (Some(available), Some(balance)) = (account.available(), account.balance) else {
        return "unknown: the balance has not been read at Dodo yet".to_owned();
    };
    let as_of = account.balance_read_at.map(|time| format!(", as of {time}")).unwrap_or_default();
    format!("{available} (balance {balance} - held {} - owed {}{as_of})", account.held, account.owed)
}

fn email(text: &str) -> Result<String, InvalidAddress> {
    Mailbox::parse(text).map(|mailbox| mailbox.to_string())
}
