//! A customer's ledger at Dodo, read page by page, and whose its lines are. Pure:
//! whoever makes the calls hands the pages in.
//!
//! That something stands in the ledger is seen on one page; that something does
//! not stand there is seen only by who has read it whole. The order of the lines
//! is not documented, so a line that is met twice, because lines moved from page
//! to page meanwhile, is proof that another may have been missed.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::dodo::{LedgerLine, LedgerPage};
use crate::domain::ids::EntryId;

/// Kinds of movement (`transaction_type`) that no entry of ours makes.
const FOREIGN: [&str; 6] =
    ["credit_expired", "credit_rolled_over", "rollover_forfeited", "overage_reset", "auto_top_up", "refund"];
/// What lines come from (`reference_type`) that no entry of ours made.
const BOUGHT: [&str; 2] = ["payment", "subscription"];
/// How the ids of entries begin, wherever they were made.
const ENTRY_PREFIX: &str = "entry-";

/// A ledger while it is read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    from: Option<Timestamp>,
    lines: Vec<LedgerLine>,
    seen: BTreeSet<String>,
    pages: u32,
    has_end: bool,
    has_moved: bool,
}

impl Reading {
    /// Of what happened since `from`; `None`: of all.
    pub(crate) fn new(from: Option<Timestamp>) -> Self {
        Self { from, ..Self::default() }
    }

    /// The page that is missing; `None`: there is none after those that were read.
    pub(crate) fn next_page(&self) -> Option<u32> {
        (!self.has_end).then_some(self.pages)
    }

    /// One more page.
    pub(crate) fn add(&mut self, page: LedgerPage) {
        self.pages = self.pages.saturating_add(1);
        self.has_end = page.is_last;
        for line in page.lines {
            if !self.seen.insert(line.id.clone()) {
                self.has_moved = true;
            } else if self.from.is_none_or(|from| line.created_at >= from) {
                self.lines.push(line);
            }
        }
    }

    /// The lines, each once.
    pub(crate) fn lines(&self) -> &[LedgerLine] {
        &self.lines
    }

    /// Whether a line that is not among them does not stand there.
    pub(crate) fn is_whole(&self) -> bool {
        self.has_end && !self.has_moved
    }
}

/// Whose a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The entry that it names.
    Named(EntryId),
    /// It names none, and an entry may have made it: Dodo may not give reasons back.
    Perhaps,
    /// Something else made it.
    Foreign,
}

/// Whose a line is, by what it says.
pub(crate) fn owner(line: &LedgerLine) -> Owner {
    let words = line.description.as_deref().unwrap_or_default().split_whitespace();
    let named =
        words.filter(|word| word.starts_with(ENTRY_PREFIX)).find_map(|word| EntryId::parse(word).ok());
    let is_foreign = FOREIGN.contains(&line.transaction.as_str())
        || line.reference.as_deref().is_some_and(|reference| BOUGHT.contains(&reference));
    match named {
        Some(entry_id) => Owner::Named(entry_id),
        None if is_foreign => Owner::Foreign,
        None => Owner::Perhaps,
    }
}

/// The sum of amounts; a sum that does not fit is as large as can be.
pub(crate) fn sum(amounts: impl Iterator<Item = i64>) -> i64 {
    amounts.fold(0, i64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: &[&str], is_last: bool) -> LedgerPage {
        let line = |id: &&str| LedgerLine {
            id: (*id).to_owned(),
            is_credit: false,
            amount: 1,
            created_at: Timestamp::from_second(id.len().try_into().unwrap()).unwrap(),
            transaction: String::new(),
            reference: None,
            description: None,
        };
        LedgerPage { lines: ids.iter().map(line).collect(), is_last }
    }

    #[test]
    fn a_ledger_is_whole_when_its_end_was_seen_and_nothing_moved() {
        let mut reading = Reading::new(None);
        assert_eq!((reading.next_page(), reading.is_whole()), (Some(0), false));
        reading.add(page(&["a", "b"], false));
        assert_eq!((reading.next_page(), reading.is_whole()), (Some(1), false));
        let mut moved = reading.clone();
        reading.add(page(&["c"], true));
        assert_eq!((reading.next_page(), reading.is_whole(), reading.lines().len()), (None, true, 3));
        moved.add(page(&["b", "c"], true));
        assert_eq!((moved.is_whole(), moved.lines().len()), (false, 3), "one may have been missed");
        let mut empty = Reading::new(None);
        empty.add(page(&[], true));
        assert!(empty.is_whole());
    }

    #[test]
    fn what_is_older_than_asked_for_is_left_out_here_whatever_dodo_does() {
        let mut reading = Reading::new(Some(Timestamp::from_second(2).unwrap()));
        reading.add(page(&["1", "22", "333"], true));
        assert_eq!(reading.lines().iter().map(|line| line.id.as_str()).collect::<Vec<_>>(), ["22", "333"]);
    }
}
