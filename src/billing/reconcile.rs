//! The books against Dodo's ledger, entry by entry: what `audit --dodo` compares.
//!
//! `compare` is pure. An entry is known again by its id in the description of a
//! line; where Dodo gives no reasons back, only sums can be compared, and a debit
//! that somebody made by hand is then taken for one of ours. The books move while
//! the pages are read, so they are read before and after: what was settled before
//! must stand there, what stands there must be known after.

use std::collections::BTreeMap;
use std::time::Duration;

use super::budget::{Budget, Purpose, is_limited};
use super::dodo::{Dodo, DodoError, LedgerLine};
use super::ledger::{Owner, Reading, owner, sum};
use crate::domain::ids::{CustomerId, EntryId};
use crate::store::doubt::{Booked, Books, Standing};
use crate::store::{Store, StoreError};

/// The server that runs beside us needs the calls more: at most so many a second.
const PAUSE: Duration = Duration::from_millis(500);
/// Times that one page is asked for while Dodo refuses or is away.
const TRIES: u32 = 5;
/// Times that a ledger is read before what differs is believed: it may move while
/// it is read, and show an entry a moment after it was answered.
const READINGS: u32 = 3;
/// Between two of them.
const LAG: Duration = Duration::from_secs(2);

/// Something about which the books and Dodo disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The entry, unless only sums can be compared.
    pub entry_id: Option<EntryId>,
    /// What is wrong.
    pub problem: &'static str,
    /// By how many credits.
    pub credits: i64,
}

/// Why a comparison was not made.
#[derive(Debug, thiserror::Error)]
pub enum CannotCompare {
    /// The database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Dodo's ledger could not be read.
    #[error("the ledger of {0} could not be read: {1}")]
    Dodo(CustomerId, DodoError),
    /// It changed too often.
    #[error("the ledger of {0} changed whenever it was read; run it again")]
    Moving(CustomerId),
}

/// Reads ledgers slowly and holds them against the books.
#[derive(Debug)]
pub struct Auditor {
    store: Store,
    dodo: Dodo,
    budget: Budget,
}

impl Auditor {
    /// With a budget of its own, which learns of the server's calls by what Dodo answers.
    pub fn new(store: Store, dodo: Dodo) -> Self {
        Self { store, dodo, budget: Budget::new() }
    }

    /// What a customer's ledger at Dodo shows otherwise than the books do.
    pub async fn differences(&self, customer_id: &CustomerId) -> Result<Vec<Difference>, CannotCompare> {
        let mut differences = None;
        for reading in 0..READINGS {
            if reading > 0 {
                tokio::time::sleep(LAG).await;
            }
            let before = self.store.books(customer_id).await?;
            let reading = self.read(customer_id).await?;
            let after = self.store.books(customer_id).await?;
            differences = match reading {
                None => Some(without_ledger(&before)),
                Some(reading) if reading.is_whole() => Some(compare(&before, &after, reading.lines())),
                Some(_) => differences,
            };
            if differences.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
        }
        differences.ok_or_else(|| CannotCompare::Moving(customer_id.clone()))
    }

    /// `None`: Dodo knows no ledger of this customer.
    async fn read(&self, customer_id: &CustomerId) -> Result<Option<Reading>, CannotCompare> {
        let mut reading = Reading::new(None);
        let mut tries = 0;
        while let Some(page) = reading.next_page() {
            self.budget.take(Purpose::Refresh).await;
            let reply = self.dodo.ledger(customer_id, None, page).await;
            self.budget.learn(&reply.rate, is_limited(&reply.answer));
            tokio::time::sleep(PAUSE).await;
            tries += 1;
            match reply.answer {
                Ok(page) => {
                    reading.add(page);
                    tries = 0;
                }
                Err(DodoError::NotFound { .. }) => return Ok(None),
                Err(DodoError::RateLimited { .. } | DodoError::Unavailable { .. }) if tries < TRIES => {}
                Err(error) => return Err(CannotCompare::Dodo(customer_id.clone(), error)),
            }
        }
        Ok(Some(reading))
    }
}

fn without_ledger(books: &Books) -> Vec<Difference> {
    let done = books.entries.iter().filter(|entry| entry.state == Standing::Done);
    let credits = sum(done.map(|entry| entry.amount.to_i64()).chain([books.gone, books.gone_back]));
    let problem = "entries are settled, and Dodo knows no ledger of this customer";
    Vec::from_iter((credits > 0).then_some(Difference { entry_id: None, problem, credits }))
}

/// Holds a whole ledger against the books as they were before it was read, and as
/// they were after.
pub(crate) fn compare(before: &Books, after: &Books, lines: &[LedgerLine]) -> Vec<Difference> {
    let named = named(lines);
    let mut differences = Vec::new();
    let mut differ = |entry_id: &EntryId, problem, credits| {
        differences.push(Difference { entry_id: Some(entry_id.clone()), problem, credits });
    };
    let known: BTreeMap<&EntryId, &Booked> =
        after.entries.iter().map(|entry| (&entry.entry_id, entry)).collect();
    let mut unknown = Vec::new();
    for ((entry_id, is_credit), credits) in &named {
        let Some(entry) = known.get(entry_id).filter(|entry| entry.is_credit == *is_credit) else {
            unknown.push((entry_id, *is_credit, *credits));
            continue;
        };
        let amount = entry.amount.to_i64();
        if entry.state == Standing::Void {
            differ(entry_id, "it was given up, and stands in Dodo's ledger", *credits);
        } else if *credits > amount {
            differ(entry_id, "Dodo's ledger shows more of it than was settled", credits - amount);
        } else if entry.state == Standing::Done && *credits < amount {
            differ(entry_id, "Dodo's ledger shows less of it than was settled", amount - credits);
        }
    }
    let is_named = |entry: &Booked| named.contains_key(&(entry.entry_id.clone(), entry.is_credit));
    let is_missing = |entry: &&Booked| entry.state == Standing::Done && !is_named(entry);
    let missing: Vec<&Booked> = before.entries.iter().filter(is_missing).collect();
    if named.is_empty() {
        return by_sums(before, after, lines);
    }
    // Reasons come back, and those of the missing did not.
    for entry in missing {
        differ(&entry.entry_id, "it is settled, and Dodo's ledger does not show it", entry.amount.to_i64());
    }
    differences.extend(unknown_to_us(&unknown, after));
    differences
}

/// Credits under each id that lines name, for each direction.
fn named(lines: &[LedgerLine]) -> BTreeMap<(EntryId, bool), i64> {
    let mut named: BTreeMap<(EntryId, bool), i64> = BTreeMap::new();
    for line in lines {
        if let Owner::Named(entry_id) = owner(line) {
            let credits = named.entry((entry_id, line.is_credit)).or_default();
            *credits = credits.saturating_add(line.amount);
        }
    }
    named
}

/// Ids in Dodo's ledger that the books do not have: old entries, whose rows have
/// left and of which only the sum is known, or what should not be there.
fn unknown_to_us(unknown: &[(&EntryId, bool, i64)], books: &Books) -> Vec<Difference> {
    let old_debits = "old debits in Dodo's ledger are not what was settled in rows that have left";
    let old_credits = "old credits in Dodo's ledger are not what was given back in rows that have left";
    let mut differences = Vec::new();
    for (is_credit, gone, problem) in [(false, books.gone, old_debits), (true, books.gone_back, old_credits)]
    {
        let unknown = unknown.iter().filter(|(_, is_given, _)| *is_given == is_credit);
        if gone == 0 {
            differences.extend(unknown.map(|(entry_id, _, credits)| Difference {
                entry_id: Some((*entry_id).clone()),
                problem: "it stands in Dodo's ledger, and the books do not know it",
                credits: *credits,
            }));
            continue;
        }
        let shown = sum(unknown.map(|(_, _, credits)| *credits));
        if shown != gone {
            let credits = shown.saturating_sub(gone).saturating_abs();
            differences.push(Difference { entry_id: None, problem, credits });
        }
    }
    differences
}

/// No line names an entry: the sums of those that may be ours, for each direction.
fn by_sums(before: &Books, after: &Books, lines: &[LedgerLine]) -> Vec<Difference> {
    let mut differences = Vec::new();
    for is_credit in [false, true] {
        let shown = lines.iter().filter(|line| line.is_credit == is_credit && owner(line) == Owner::Perhaps);
        let shown = sum(shown.map(|line| line.amount));
        let settled = booked(before, is_credit, |state| state == Standing::Done);
        let at_most = booked(after, is_credit, |state| state != Standing::Void);
        let mut differ = |problem, credits| {
            differences.push(Difference { entry_id: None, problem, credits });
        };
        if shown < settled {
            differ("less stands in Dodo's ledger than was settled", settled - shown);
        } else if !is_credit && settled > 0 && shown > at_most {
            differ(
                "more was debited in Dodo's ledger than was settled, and it does not say by whom",
                shown - at_most,
            );
        }
    }
    differences
}

/// The sum of what is booked in one direction, with what has left.
fn booked(books: &Books, is_credit: bool, is_meant: impl Fn(Standing) -> bool) -> i64 {
    let entries = books.entries.iter().filter(|entry| entry.is_credit == is_credit && is_meant(entry.state));
    let gone = if is_credit { books.gone_back } else { books.gone };
    sum(entries.map(|entry| entry.amount.to_i64()).chain([gone]))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::credits::Credits;

    fn entry(name: &str, amount: u64, state: Standing) -> Booked {
        Booked {
            entry_id: EntryId::parse(&format!("entry-{name}")).unwrap(),
            is_credit: false,
            amount: Credits::new(amount).unwrap(),
            state,
            opened_at: Timestamp::UNIX_EPOCH,
            closed_at: None,
            is_by_operator: false,
        }
    }

    fn line(amount: i64, name: Option<&str>) -> LedgerLine {
        LedgerLine {
            id: String::new(),
            is_credit: false,
            amount,
            created_at: Timestamp::UNIX_EPOCH,
            transaction: "credit_deducted".to_owned(),
            reference: None,
            description: name.map(|name| format!("email send entry-{name}")),
        }
    }

    fn books(entries: &[Booked]) -> Books {
        Books { entries: entries.to_vec(), gone: 0, gone_back: 0 }
    }

    /// What differs: the entry (or nothing), its words, its credits.
    fn told(before: &Books, after: &Books, lines: &[LedgerLine]) -> Vec<(String, i64)> {
        let told = |difference: Difference| {
            let name = difference.entry_id.map(|id| id.to_string()).unwrap_or_default();
            (format!("{name}: {}", difference.problem), difference.credits)
        };
        compare(before, after, lines).into_iter().map(told).collect()
    }

    #[test]
    fn what_is_settled_stands_there_once_and_nothing_else_does() {
        use Standing::*;
        let books =
            books(&[entry("a", 3, Done), entry("b", 2, Done), entry("v", 9, Void), entry("o", 4, Open)]);
        let (a, b) = (line(3, Some("a")), line(2, Some("b")));
        let by_hand = line(50, None);
        let table = [
            (vec![a.clone(), b.clone()], "", 0),
            (vec![a.clone(), b.clone(), by_hand.clone()], "", 0),
            (vec![a.clone(), line(1, Some("b")), line(1, Some("b"))], "", 0),
            (vec![a.clone(), b.clone(), line(4, Some("o"))], "", 0),
            (vec![a.clone(), by_hand], "entry-b: it is settled, and Dodo's ledger does not show it", 2),
            (
                vec![a.clone(), b.clone(), b.clone()],
                "entry-b: Dodo's ledger shows more of it than was settled",
                2,
            ),
            (
                vec![a.clone(), line(1, Some("b"))],
                "entry-b: Dodo's ledger shows less of it than was settled",
                1,
            ),
            (
                vec![a.clone(), b.clone(), line(9, Some("v"))],
                "entry-v: it was given up, and stands in Dodo's ledger",
                9,
            ),
            (
                vec![a, b, line(7, Some("x"))],
                "entry-x: it stands in Dodo's ledger, and the books do not know it",
                7,
            ),
        ];
        for (lines, problem, credits) in table {
            let wanted = Vec::from_iter((credits > 0).then_some((problem.to_owned(), credits)));
            assert_eq!(told(&books, &books, &lines), wanted, "{lines:?}");
        }
    }

    #[test]
    fn where_no_line_names_an_entry_the_sums_are_compared() {
        use Standing::*;
        let before = books(&[entry("a", 3, Done), entry("b", 2, Open)]);
        let after = books(&[entry("a", 3, Done), entry("b", 2, Done), entry("c", 4, Open)]);
        for (shown, wanted) in [(2, Some(1)), (3, None), (5, None), (9, None), (10, Some(1))] {
            let found: Vec<_> = compare(&before, &after, &[line(shown, None)]);
            assert_eq!(found.first().map(|found| found.credits), wanted, "{shown}");
        }
        let gone = Books { gone: 10, ..before.clone() };
        assert_eq!(compare(&gone, &gone, &[line(14, None)]), [], "rows that have left count");
        let nothing_settled = books(&[entry("o", 1, Open)]);
        assert_eq!(compare(&nothing_settled, &nothing_settled, &[line(50, None)]), []);
    }

    #[test]
    fn entries_whose_rows_have_left_are_compared_by_their_sum() {
        let books = Books { gone: 10, ..books(&[entry("a", 3, Standing::Done)]) };
        let old = |credits| [line(3, Some("a")), line(4, Some("old")), line(credits, Some("older"))];
        assert_eq!(compare(&books, &books, &old(6)), []);
        for (credits, difference) in [(7, 1), (4, 2)] {
            let found = told(&books, &books, &old(credits));
            let problem = ": old debits in Dodo's ledger are not what was settled in rows that have left";
            assert_eq!(found, [(problem.to_owned(), difference)]);
        }
        let given = LedgerLine { is_credit: true, ..line(1, Some("gift")) };
        let [a, b, c] = old(6);
        let found = told(&books, &books, &[a, b, c, given]);
        let problem = "entry-gift: it stands in Dodo's ledger, and the books do not know it";
        assert_eq!(found, [(problem.to_owned(), 1)]);
        let given = |credits| LedgerLine { is_credit: true, ..line(credits, Some("refund")) };
        let books = Books { gone_back: 2, ..books };
        let with = |credits| old(6).into_iter().chain([given(credits)]).collect::<Vec<_>>();
        assert_eq!(compare(&books, &books, &with(2)), []);
        let problem = ": old credits in Dodo's ledger are not what was given back in rows that have left";
        assert_eq!(told(&books, &books, &with(3)), [(problem.to_owned(), 1)]);
    }
}
