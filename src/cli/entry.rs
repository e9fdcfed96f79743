//! `postmeter entry`: entries that Postmeter cannot decide by itself, and the
//! operator's word on them.

use anyhow::bail;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::print;
use super::{Desk, Format, Printout};
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, EntryId};
use crate::store::doubt::{Decider, DoubtfulEntry};

/// `postmeter entry …`
#[derive(Debug, Args)]
pub struct EntryArgs {
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
    /// What to do.
    #[command(subcommand)]
    pub action: EntryAction,
}

/// What to do with entries in doubt.
#[derive(Debug, Subcommand)]
pub enum EntryAction {
    /// List the entries that Dodo may or may not have applied; their credits stay owed
    List,
    /// Say that Dodo has applied an entry: its debt is paid. If it has not, its credits are given away
    Settle {
        /// The entry
        #[arg(value_name = "ENTRY")]
        entry_id: EntryId,
    },
    /// Say that Dodo has not applied an entry: its credits go into a new one. If it has, they are debited twice
    Void {
        /// The entry
        #[arg(value_name = "ENTRY")]
        entry_id: EntryId,
    },
}

/// An entry in doubt as programs see it.
#[derive(Serialize)]
struct EntryObject<'a> {
    entry_id: &'a EntryId,
    customer_id: &'a CustomerId,
    kind: &'static str,
    amount: Credits,
    reason: &'a str,
    opened_at: Timestamp,
    doubtful_since: Option<Timestamp>,
    why: Option<&'a str>,
}

impl<'a> EntryObject<'a> {
    fn of(doubtful: &'a DoubtfulEntry) -> Self {
        let entry = &doubtful.entry;
        Self {
            entry_id: &entry.entry_id,
            customer_id: &entry.customer_id,
            kind: entry.kind.as_str(),
            amount: entry.amount,
            reason: &entry.reason,
            opened_at: entry.opened_at,
            doubtful_since: entry.doubtful_since,
            why: doubtful.why.as_deref(),
        }
    }

    fn row(&self) -> [String; 6] {
        [
            self.entry_id.to_string(),
            self.customer_id.to_string(),
            self.kind.to_owned(),
            self.amount.to_string(),
            self.opened_at.to_string(),
            self.why.unwrap_or(print::NOTHING).to_owned(),
        ]
    }
}

pub(super) async fn run(args: EntryArgs, desk: &Desk) -> anyhow::Result<Printout> {
    let EntryArgs { format, action } = args;
    match action {
        EntryAction::List => list(desk, format).await,
        EntryAction::Settle { entry_id } => settle(desk, &doubtful(desk, &entry_id).await?, format).await,
        EntryAction::Void { entry_id } => void(desk, &doubtful(desk, &entry_id).await?, format).await,
    }
}

async fn list(desk: &Desk, format: Format) -> anyhow::Result<Printout> {
    let doubtful = desk.store.doubtful_entries().await?;
    let objects: Vec<_> = doubtful.iter().map(EntryObject::of).collect();
    if format.json {
        return Printout::json(&objects);
    }
    if objects.is_empty() {
        return Ok(Printout::text("no entry is in doubt\n".to_owned()));
    }
    let rows: Vec<_> = objects.iter().map(EntryObject::row).collect();
    Ok(Printout::text(print::table(["ENTRY", "CUSTOMER", "KIND", "CREDITS", "OPENED", "WHY"], &rows)))
}

/// An entry that nobody doubts is Postmeter's own business.
async fn doubtful(desk: &Desk, entry_id: &EntryId) -> anyhow::Result<DoubtfulEntry> {
    let doubtful = desk.store.doubtful_entries().await?;
    let Some(found) = doubtful.into_iter().find(|found| found.entry.entry_id == *entry_id) else {
        bail!("no entry {entry_id} is in doubt; `postmeter entry list` shows those that are");
    };
    Ok(found)
}

async fn settle(desk: &Desk, doubtful: &DoubtfulEntry, format: Format) -> anyhow::Result<Printout> {
    let entry = &doubtful.entry;
    if desk.store.settle_doubtful(entry, Decider::Operator, desk.clock.now()).await?.is_none() {
        bail!("the entry {} has just been decided", entry.entry_id);
    }
    tracing::warn!(entry_id = %entry.entry_id, customer_id = %entry.customer_id, "the operator says that Dodo applied it");
    decided(doubtful, format, "is settled; if Dodo has not applied it, its credits are given away")
}

async fn void(desk: &Desk, doubtful: &DoubtfulEntry, format: Format) -> anyhow::Result<Printout> {
    let entry = &doubtful.entry;
    let now = desk.clock.now();
    let since = now.duration_since(entry.last_tried_at.unwrap_or(entry.opened_at)).as_secs();
    let wait = i64::try_from(desk.config.billing.lookup_wait_s)?.saturating_sub(since);
    if wait > 0 {
        bail!("the last call for {} may still be under way at Dodo; try again in {wait} s", entry.entry_id);
    }
    let why = "the operator says that Dodo did not apply it";
    if !desk.store.void_doubtful(entry, Decider::Operator, why, now).await? {
        bail!("the entry {} has just been decided", entry.entry_id);
    }
    tracing::warn!(entry_id = %entry.entry_id, customer_id = %entry.customer_id, "{why}");
    decided(doubtful, format, "is void; if Dodo has applied it, its credits are debited twice")
}

fn decided(doubtful: &DoubtfulEntry, format: Format, what: &str) -> anyhow::Result<Printout> {
    if format.json {
        return Printout::json(&EntryObject::of(doubtful));
    }
    Ok(Printout::text(format!("{} {what}\n", doubtful.entry.entry_id)))
}
