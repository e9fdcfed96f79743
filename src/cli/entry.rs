//! `postmeter entry`: entries that Postmeter cannot decide by itself, and the
//! operator's word on them.
//!
//! A wrong word costs somebody credits for good, so whoever says it hears first
//! whom and how many. A running server may be looking the same entry up: whoever
//! decides first has decided.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::print;
use super::{Desk, Format, Place, Printout};
use crate::billing::doubt::may_be_under_way;
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, EntryId};
use crate::store::doubt::{Decider, DoubtfulEntry};
use crate::store::entry::Entry;
use crate::telemetry::EntryKind;

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
    /// List the entries that Dodo may or may not have applied; until they are decided debits stay owed and refunds due
    List,
    /// Say that Dodo has applied an entry: the debit is paid, or the refund was given
    Settle {
        /// The entry
        #[arg(value_name = "ENTRY")]
        entry_id: EntryId,
        /// The risk of being wrong is known
        #[arg(long)]
        yes: bool,
    },
    /// Say that Dodo has not applied an entry: its debit, or its refund, goes into a new one
    Void {
        /// The entry
        #[arg(value_name = "ENTRY")]
        entry_id: EntryId,
        /// The risk of being wrong is known
        #[arg(long)]
        yes: bool,
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

pub(super) async fn run(args: EntryArgs, place: &Place<'_>) -> anyhow::Result<Printout> {
    let EntryArgs { format, action } = args;
    let desk = Desk::open(place).await?;
    let (entry_id, word, yes) = match action {
        EntryAction::List => return list(&desk, format).await,
        EntryAction::Settle { entry_id, yes } => (entry_id, Word::Applied, yes),
        EntryAction::Void { entry_id, yes } => (entry_id, Word::NotApplied, yes),
    };
    let doubtful = doubtful(&desk, &entry_id).await?;
    if word == Word::NotApplied {
        no_call_is_under_way(&desk, &doubtful.entry)?;
    }
    if !yes {
        place.confirm(&word.question(&doubtful.entry))?;
    }
    decide(&desk, &doubtful.entry, word).await?;
    if format.json {
        return Printout::json(&EntryObject::of(&doubtful));
    }
    Ok(Printout::text(format!("{entry_id} is {}\n", word.done(doubtful.entry.kind))))
}

/// What the operator says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Dodo has applied it.
    Applied,
    /// It has not, and will not.
    NotApplied,
}

impl Word {
    /// What is done if nobody objects, and who pays if the word is wrong.
    fn question(self, entry: &Entry) -> String {
        let Entry { entry_id, customer_id, amount, .. } = entry;
        let what = match entry.kind {
            EntryKind::Debit => format!("{entry_id} debits {amount} credits of {customer_id}"),
            EntryKind::Credit => format!("{entry_id} gives {amount} credits back to {customer_id}"),
        };
        let risk = match (self, entry.kind) {
            (Self::Applied, EntryKind::Debit) => {
                "if Dodo has not applied it, its credits are given away; settle it?"
            }
            (Self::NotApplied, EntryKind::Debit) => {
                "if Dodo has applied it, its credits are debited twice; void it?"
            }
            (Self::Applied, EntryKind::Credit) => {
                "if Dodo has not applied it, the customer does not get them; settle it?"
            }
            (Self::NotApplied, EntryKind::Credit) => {
                "if Dodo has applied it, the customer gets them twice; void it?"
            }
        };
        format!("{what}: {risk}")
    }

    const fn done(self, kind: EntryKind) -> &'static str {
        match (self, kind) {
            (Self::Applied, EntryKind::Debit) => "settled: its debt is paid",
            (Self::NotApplied, EntryKind::Debit) => "void: its credits are owed, and go into a new debit",
            (Self::Applied, EntryKind::Credit) => "settled: its refunds are given",
            (Self::NotApplied, EntryKind::Credit) => {
                "void: its refunds go into a new credit, unless entries for them were void too often"
            }
        }
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

/// A call that is still on its way may take effect after all.
fn no_call_is_under_way(desk: &Desk, entry: &Entry) -> anyhow::Result<()> {
    let lookup_wait = Duration::from_secs(desk.config.billing.lookup_wait_s);
    if let Some(wait) = may_be_under_way(entry, desk.clock.now(), lookup_wait) {
        let (entry_id, wait) = (&entry.entry_id, wait.as_secs().saturating_add(1));
        bail!("the last call for {entry_id} may still be under way at Dodo; try again in {wait} s");
    }
    Ok(())
}

async fn decide(desk: &Desk, entry: &Entry, word: Word) -> anyhow::Result<()> {
    let now = desk.clock.now();
    let said = match word {
        Word::Applied => {
            desk.store.settle_doubtful(entry, Decider::Operator, now).await??;
            "the operator says that Dodo applied it"
        }
        Word::NotApplied => {
            let said = "the operator says that Dodo did not apply it";
            desk.store.void_doubtful(entry, Decider::Operator, said, now).await??;
            said
        }
    };
    tracing::warn!(entry_id = %entry.entry_id, customer_id = %entry.customer_id, kind = entry.kind.as_str(), "{said}");
    Ok(())
}
