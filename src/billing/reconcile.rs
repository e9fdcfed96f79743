//! The books against Dodo's ledger, entry by entry: what `audit --dodo` compares.
//!
//! `compare` is pure. An entry is known again by its id in the description of a
//! line; where Dodo gives no reasons back, only sums can be compared, and a debit
//! that somebody made by hand is then taken for one of ours. The books move while
//! the pages are read, so they are read before and after: what was settled before
//! must stand there, what stands there must be known after.
//!
//! Where the operator decided a doubtful entry against what Dodo shows, somebody has
//! lost credits. If that is the operator, who knew the risk, it is worth a remark. If
//! it is the customer, it is wrong until it is put right: a line in the other
//! direction whose reason names the entry undoes it, and is reckoned against it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::budget::{Budget, Purpose, is_limited};
use super::dodo::{Dodo, DodoError, LedgerLine};
use super::ledger::{Owner, Reading, owner, sum};
use crate::clock::Clock;
use crate::domain::ids::{CustomerId, EntryId};
use crate::ration::Ration;
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
    /// Nothing has to be done about it: the operator's decision, at the operator's cost.
    pub is_remark: bool,
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
    /// With a budget of its own, which learns of the server's calls by what Dodo answers,
    /// and draws from what is shared with it.
    pub fn new(store: Store, dodo: Dodo, clock: &Clock) -> Self {
        let budget = Budget::new(Ration::of(&store, clock));
        Self { store, dodo, budget }
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
            let is_well = |found: &Vec<Difference>| found.iter().all(|difference| difference.is_remark);
            if differences.as_ref().is_some_and(is_well) {
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

impl Difference {
    fn of(entry: &Booked, problem: &'static str, credits: i64) -> Self {
        Self { entry_id: Some(entry.entry_id.clone()), problem, credits, is_remark: false }
    }

    fn of_sums(problem: &'static str, credits: i64) -> Self {
        Self { entry_id: None, problem, credits, is_remark: false }
    }

    fn remark(self) -> Self {
        Self { is_remark: true, ..self }
    }
}

/// A debit that the operator settled: if Dodo lacks it, its credits were given away knowingly.
fn may_be_given_away(entry: &Booked) -> bool {
    entry.state == Standing::Done && entry.is_by_operator && !entry.is_credit
}

fn without_ledger(books: &Books) -> Vec<Difference> {
    let done = || books.entries.iter().filter(|entry| entry.state == Standing::Done);
    let credits = sum(done()
        .filter(|entry| !may_be_given_away(entry))
        .map(|entry| entry.amount.to_i64())
        .chain([books.gone, books.gone_back]));
    let given_away = done().filter(|entry| may_be_given_away(entry)).map(missing);
    let problem = "entries are settled, and Dodo knows no ledger of this customer";
    Vec::from_iter((credits > 0).then(|| Difference::of_sums(problem, credits)).into_iter().chain(given_away))
}

/// Holds a whole ledger against the books as they were before it was read, and as
/// they were after.
pub(crate) fn compare(before: &Books, after: &Books, lines: &[LedgerLine]) -> Vec<Difference> {
    let named = named(lines);
    if named.is_empty() {
        return by_sums(before, after, lines);
    }
    let known: BTreeMap<&EntryId, &Booked> =
        after.entries.iter().map(|entry| (&entry.entry_id, entry)).collect();
    let mut differences = Vec::new();
    let mut unknown = Vec::new();
    for (entry_id, debited) in &named {
        match known.get(entry_id) {
            Some(entry) if entry.is_credit => {
                differences.extend(held_against(entry, debited.saturating_neg()))
            }
            Some(entry) => differences.extend(held_against(entry, *debited)),
            None => unknown.push((entry_id, *debited)),
        }
    }
    // Reasons come back, and those of the missing did not.
    let is_missing = |entry: &&Booked| entry.state == Standing::Done && !named.contains_key(&entry.entry_id);
    differences.extend(before.entries.iter().filter(is_missing).map(missing));
    differences.extend(unknown_to_us(&unknown, after));
    differences
}

/// What is wrong about an entry that stands in Dodo's ledger with so many credits,
/// those left out that were undone there.
fn held_against(entry: &Booked, credits: i64) -> Option<Difference> {
    const UNDO: &str = "the operator voided it, and Dodo has it: the customer pays it twice, unless a credit at \
                        Dodo whose reason names it gives it back";
    let amount = entry.amount.to_i64();
    let differs = |problem, credits| Some(Difference::of(entry, problem, credits));
    match entry.state {
        _ if credits < 0 => {
            differs("more of it is undone in Dodo's ledger than stood there", credits.saturating_neg())
        }
        Standing::Void if credits == 0 => None,
        Standing::Void if entry.is_by_operator && entry.is_credit => {
            differs("the operator voided it, and Dodo has given it", credits).map(Difference::remark)
        }
        Standing::Void if entry.is_by_operator => differs(UNDO, credits),
        Standing::Void => differs("it was given up, and stands in Dodo's ledger", credits),
        _ if credits > amount => differs("Dodo's ledger shows more of it than was settled", credits - amount),
        Standing::Done if credits < amount && may_be_given_away(entry) => {
            let problem = "settled by the operator's decision; Dodo's ledger shows less of it";
            differs(problem, amount - credits).map(Difference::remark)
        }
        Standing::Done if credits < amount => {
            differs("Dodo's ledger shows less of it than was settled", amount - credits)
        }
        Standing::Done | Standing::Open => None,
    }
}

/// What is wrong about a settled entry that Dodo's ledger does not show.
fn missing(entry: &Booked) -> Difference {
    const UNGIVEN: &str = "the operator settled it, and Dodo's ledger does not show it: the customer lacks it, \
                           unless a credit at Dodo whose reason names it gives it";
    let differs = |problem| Difference::of(entry, problem, entry.amount.to_i64());
    match entry.is_by_operator {
        true if entry.is_credit => differs(UNGIVEN),
        true => differs("settled by the operator's decision; Dodo's ledger shows no such debit").remark(),
        false => differs("it is settled, and Dodo's ledger does not show it"),
    }
}

/// Credits that lines debit under each id that they name; less those that lines under
/// it give.
fn named(lines: &[LedgerLine]) -> BTreeMap<EntryId, i64> {
    let mut named: BTreeMap<EntryId, i64> = BTreeMap::new();
    for line in lines {
        if let Owner::Named(entry_id) = owner(line) {
            let debited = named.entry(entry_id).or_default();
            let amount = if line.is_credit { line.amount.saturating_neg() } else { line.amount };
            *debited = debited.saturating_add(amount);
        }
    }
    named
}

/// Ids in Dodo's ledger that the books do not have: old entries, whose rows have
/// left and of which only the sum is known, or what should not be there.
fn unknown_to_us(unknown: &[(&EntryId, i64)], books: &Books) -> Vec<Difference> {
    let old_debits = "old debits in Dodo's ledger are not what was settled in rows that have left";
    let old_credits = "old credits in Dodo's ledger are not what was given back in rows that have left";
    let mut differences = Vec::new();
    for (sign, gone, problem) in [(1, books.gone, old_debits), (-1, books.gone_back, old_credits)] {
        let unknown = unknown.iter().filter(|(_, debited)| debited.signum() == sign);
        if gone == 0 {
            differences.extend(unknown.map(|(entry_id, debited)| Difference {
                entry_id: Some((*entry_id).clone()),
                problem: "it stands in Dodo's ledger, and the books do not know it",
                credits: debited.saturating_abs(),
                is_remark: false,
            }));
            continue;
        }
        let shown = sum(unknown.map(|(_, debited)| debited.saturating_abs()));
        if shown != gone {
            differences.push(Difference::of_sums(problem, shown.saturating_sub(gone).saturating_abs()));
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
        let settled = booked(before, is_credit, |entry| entry.state == Standing::Done);
        let given_away = sum(before
            .entries
            .iter()
            .filter(|entry| entry.is_credit == is_credit && may_be_given_away(entry))
            .map(|entry| entry.amount.to_i64()));
        let at_most = booked(after, is_credit, |entry| entry.state != Standing::Void);
        if shown < settled - given_away {
            let problem = "less stands in Dodo's ledger than was settled";
            differences.push(Difference::of_sums(problem, settled - given_away - shown));
        } else if shown < settled {
            let problem = "less stands in Dodo's ledger than was settled, by the operator's decision";
            differences.push(Difference::of_sums(problem, settled - shown).remark());
        } else if !is_credit && settled > 0 && shown > at_most {
            let problem = "more was debited in Dodo's ledger than was settled, and it does not say by whom";
            differences.push(Difference::of_sums(problem, shown - at_most));
        }
    }
    differences
}

/// The sum of what is booked in one direction, with what has left.
fn booked(books: &Books, is_credit: bool, is_meant: impl Fn(&Booked) -> bool) -> i64 {
    let entries = books.entries.iter().filter(|entry| entry.is_credit == is_credit && is_meant(entry));
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

    #[test]
    fn what_the_operator_decided_is_a_remark_where_it_is_his_loss_and_wrong_where_it_is_the_customers() {
        use Standing::*;
        let decided =
            |name, state, is_credit| Booked { is_credit, is_by_operator: true, ..entry(name, 3, state) };
        let given = |amount, name| LedgerLine { is_credit: true, ..line(amount, Some(name)) };
        let debited = |amount, name| line(amount, Some(name));
        // What was decided, what Dodo shows, credits of the difference, whether it is a remark.
        let table = [
            (decided("x", Done, false), vec![], Some((3, true))),
            (decided("x", Done, false), vec![debited(2, "x")], Some((1, true))),
            (decided("x", Done, false), vec![debited(3, "x")], None),
            (decided("x", Done, false), vec![debited(4, "x")], Some((1, false))),
            (decided("x", Void, false), vec![], None),
            (decided("x", Void, false), vec![debited(3, "x")], Some((3, false))),
            (decided("x", Void, false), vec![debited(3, "x"), given(2, "x")], Some((1, false))),
            (decided("x", Void, false), vec![debited(3, "x"), given(3, "x")], None),
            (decided("x", Void, false), vec![debited(3, "x"), given(4, "x")], Some((1, false))),
            (decided("x", Done, true), vec![], Some((3, false))),
            (decided("x", Done, true), vec![given(3, "x")], None),
            (decided("x", Void, true), vec![given(3, "x")], Some((3, true))),
            (decided("x", Void, true), vec![given(3, "x"), debited(3, "x")], None),
        ];
        for (decided, shown, wanted) in table {
            let books = books(&[entry("a", 5, Done), decided.clone()]);
            let lines = [vec![debited(5, "a")], shown].concat();
            let found = compare(&books, &books, &lines);
            let told = found.iter().map(|found| (found.credits, found.is_remark)).collect::<Vec<_>>();
            assert_eq!(told, Vec::from_iter(wanted), "{decided:?} {lines:?}: {found:?}");
        }
    }

    #[test]
    fn what_the_operator_gave_away_is_a_remark_where_only_sums_or_no_ledger_can_be_compared() {
        let given_away = Booked { is_by_operator: true, ..entry("x", 3, Standing::Done) };
        let books = books(&[entry("a", 5, Standing::Done), given_away]);
        let told = |found: Vec<Difference>| {
            found.iter().map(|found| (found.credits, found.is_remark)).collect::<Vec<_>>()
        };
        for (shown, wanted) in [
            (8, None),
            (7, Some((1, true))),
            (5, Some((3, true))),
            (4, Some((1, false))),
            (9, Some((1, false))),
        ] {
            let found = compare(&books, &books, &[line(shown, None)]);
            assert_eq!(told(found), Vec::from_iter(wanted), "{shown}");
        }
        assert_eq!(told(without_ledger(&books)), [(5, false), (3, true)]);
    }
}
