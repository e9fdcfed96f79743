//! What a ledger says about one doubtful entry. Pure.
//!
//! An entry that the ledger names is there. That it is absent is concluded from
//! sums, never from single lines: a debit may be drawn from two grants and stand
//! in two lines, and whether a reason comes back at all is not known. So an entry
//! is absent if even all lines that nobody else can be shown to own do not make up
//! its amount. Where they do, be it one line, several that fit, or a stranger's
//! of the same amount, it cannot be decided: to take somebody else's debit for
//! ours would give mail away, to overlook ours would debit twice, and waiting does
//! neither.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::billing::dodo::{LedgerLine, SKEW};
use crate::billing::ledger::{Owner, owner, sum};
use crate::domain::ids::EntryId;
use crate::store::doubt::{Booked, DoubtfulEntry};
use crate::telemetry::EntryKind;

/// What a ledger says about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It stands there.
    Found {
        /// Credits that stand there under its id beyond its amount.
        surplus: i64,
    },
    /// It does not stand there.
    Absent,
    /// It cannot be told.
    Undecidable(&'static str),
}

/// From when a ledger has to be read to tell about an entry, and who else made
/// lines since then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// From then on.
    pub(crate) from: Timestamp,
    /// The entries before it that surely stand in the ledger since then.
    pub(crate) others: Vec<Booked>,
}

/// The window of an entry, by those of the same customer that Dodo has, from the
/// one before it backwards.
///
/// Entries of a customer follow one another, so the window begins in the last
/// pause that is longer than the clocks may differ: what is before the pause then
/// lies outside for certain, and what is after it inside.
pub(crate) fn window(opened_at: Timestamp, done_before: &[Booked]) -> Window {
    let mut first = opened_at;
    let mut others = Vec::new();
    for other in done_before {
        let closed_at = other.closed_at.unwrap_or(first);
        if first.duration_since(closed_at) > SKEW * 2 {
            break;
        }
        first = first.min(other.opened_at);
        others.push(other.clone());
    }
    Window { from: first.saturating_sub(SKEW).unwrap_or(Timestamp::UNIX_EPOCH), others }
}

/// What the lines since the beginning of its window say about an entry.
pub(crate) fn judge(
    sought: &DoubtfulEntry,
    others: &[Booked],
    lines: &[LedgerLine],
    is_whole: bool,
) -> Judgement {
    let amount = sought.entry.amount.to_i64();
    let is_credit = sought.entry.kind == EntryKind::Credit;
    let owners: Vec<(Owner, &LedgerLine)> =
        lines.iter().filter(|line| line.is_credit == is_credit).map(|line| (owner(line), line)).collect();
    let ours = |owner: &Owner| matches!(owner, Owner::Named(id) if *id == sought.entry.entry_id);
    let found = sum(owners.iter().filter(|(owner, _)| ours(owner)).map(|(_, line)| line.amount));
    if found >= amount {
        return Judgement::Found { surplus: found.saturating_sub(amount) };
    }
    if found > 0 {
        return Judgement::Undecidable("Dodo's ledger shows it in part");
    }
    if !is_whole {
        return Judgement::Undecidable("Dodo's ledger could not be read as a whole");
    }
    let named: BTreeSet<&EntryId> = owners
        .iter()
        .filter_map(|(owner, _)| match owner {
            Owner::Named(id) => Some(id),
            _ => None,
        })
        .collect();
    let unowned =
        sum(owners.iter().filter(|(owner, _)| *owner == Owner::Perhaps).map(|(_, line)| line.amount));
    let claimed = others
        .iter()
        .filter(|other| other.is_credit == is_credit && !other.is_by_operator)
        .filter(|other| !named.contains(&other.entry_id));
    let claimed = sum(claimed.map(|other| other.amount.to_i64()));
    if unowned.saturating_sub(claimed) < amount {
        return Judgement::Absent;
    }
    Judgement::Undecidable("lines of Dodo's ledger that name no entry could be it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credits::Credits;
    use crate::domain::ids::CustomerId;
    use crate::store::doubt::Standing;
    use crate::store::entry::Entry;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
    }

    /// An entry of ours over three credits, opened in minute 60.
    fn sought(kind: EntryKind) -> DoubtfulEntry {
        let entry = Entry {
            entry_id: EntryId::parse("entry-ours").unwrap(),
            customer_id: CustomerId::parse("ann").unwrap(),
            kind,
            amount: Credits::new(3).unwrap(),
            expires_at: None,
            reason: "email send 3 messages entry-ours".to_owned(),
            tries: 2,
            unknown_tries: 1,
            opened_at: at(60),
            first_unknown_at: Some(at(60)),
            last_tried_at: Some(at(61)),
            doubtful_since: Some(at(61)),
        };
        DoubtfulEntry { entry, why: None }
    }

    fn booked(name: &str, amount: u64, (opened, closed): (i64, i64)) -> Booked {
        Booked {
            entry_id: EntryId::parse(&format!("entry-{name}")).unwrap(),
            is_credit: false,
            amount: Credits::new(amount).unwrap(),
            state: Standing::Done,
            opened_at: at(opened),
            closed_at: Some(at(closed)),
            is_by_operator: false,
        }
    }

    fn line(amount: i64, description: Option<&str>) -> LedgerLine {
        LedgerLine {
            id: String::new(),
            is_credit: false,
            amount,
            created_at: at(60),
            transaction: "credit_deducted".to_owned(),
            reference: None,
            description: description.map(str::to_owned),
        }
    }

    fn of_kind(transaction: &str, amount: i64) -> LedgerLine {
        LedgerLine { transaction: transaction.to_owned(), ..line(amount, None) }
    }

    const OURS: Option<&str> = Some("email send 3 messages entry-ours");
    const OTHER: Option<&str> = Some("email send 01 entry-other");
    const PART: Judgement = Judgement::Undecidable("Dodo's ledger shows it in part");
    const UNREAD: Judgement = Judgement::Undecidable("Dodo's ledger could not be read as a whole");
    const UNNAMED: Judgement =
        Judgement::Undecidable("lines of Dodo's ledger that name no entry could be it");

    #[test]
    fn p3_an_entry_is_absent_only_where_no_line_could_be_it() {
        use Judgement::*;
        let found = Found { surplus: 0 };
        let table: Vec<(&str, Vec<LedgerLine>, Judgement)> = vec![
            ("nothing at all", vec![], Absent),
            ("named", vec![line(3, OURS)], found),
            ("named among others", vec![line(3, OTHER), line(3, OURS), line(3, None)], found),
            ("named, drawn from two grants", vec![line(1, OURS), line(2, OURS)], found),
            ("named twice", vec![line(3, OURS), line(3, OURS)], Found { surplus: 3 }),
            ("named in part", vec![line(2, OURS)], PART),
            ("only others are named", vec![line(3, OTHER), line(50, OTHER)], Absent),
            ("one of its amount that names nobody", vec![line(3, None)], UNNAMED),
            ("one of its amount with words of Dodo's", vec![line(3, Some("API debit"))], UNNAMED),
            ("several that could be it", vec![line(3, None), line(3, None)], UNNAMED),
            ("two that could be it together", vec![line(1, None), line(2, None)], UNNAMED),
            ("a larger one, of which it may be a part", vec![line(5, None)], UNNAMED),
            ("too little for it", vec![line(2, None)], Absent),
            ("a name that only begins like it", vec![line(3, Some("email send entry-ours-2"))], Absent),
            ("expired", vec![of_kind("credit_expired", 3), of_kind("rollover_forfeited", 3)], Absent),
            ("a manual adjustment may be it", vec![of_kind("manual_adjustment", 3)], UNNAMED),
            ("a kind that is new may be it", vec![of_kind("brand_new", 3)], UNNAMED),
            ("a credit is no debit", vec![LedgerLine { is_credit: true, ..line(3, None) }], Absent),
        ];
        for (what, lines, wanted) in table {
            assert_eq!(judge(&sought(EntryKind::Debit), &[], &lines, true), wanted, "{what}");
        }
    }

    #[test]
    fn p3_what_was_not_read_whole_shows_presence_and_no_absence() {
        assert_eq!(
            judge(&sought(EntryKind::Debit), &[], &[line(3, OURS)], false),
            Judgement::Found { surplus: 0 }
        );
        assert_eq!(judge(&sought(EntryKind::Debit), &[], &[], false), UNREAD);
    }

    #[test]
    fn p3_lines_that_other_entries_surely_made_are_not_ours() {
        let other = booked("other", 3, (58, 59));
        let by_hand = Booked { is_by_operator: true, ..other.clone() };
        let table: [(&str, &[Booked], Vec<LedgerLine>, Judgement); 6] = [
            ("the other's line", std::slice::from_ref(&other), vec![line(3, None)], Judgement::Absent),
            ("one more", std::slice::from_ref(&other), vec![line(3, None), line(3, None)], UNNAMED),
            ("the other is named", std::slice::from_ref(&other), vec![line(3, OTHER)], Judgement::Absent),
            (
                "the other is named, and one is not",
                std::slice::from_ref(&other),
                vec![line(3, OTHER), line(3, None)],
                UNNAMED,
            ),
            ("the other was settled by hand", &[by_hand], vec![line(3, None)], UNNAMED),
            ("another amount", &[booked("other", 1, (58, 59))], vec![line(3, None)], Judgement::Absent),
        ];
        for (what, others, lines, wanted) in table {
            assert_eq!(judge(&sought(EntryKind::Debit), others, &lines, true), wanted, "{what}");
        }
    }

    #[test]
    fn p3_a_refund_is_no_purchase() {
        let bought = LedgerLine {
            is_credit: true,
            transaction: "credit_added".to_owned(),
            reference: Some("payment".to_owned()),
            ..line(5_000, None)
        };
        let given = LedgerLine { reference: None, ..bought.clone() };
        assert_eq!(judge(&sought(EntryKind::Credit), &[], &[bought], true), Judgement::Absent);
        assert_eq!(judge(&sought(EntryKind::Credit), &[], &[given], true), UNNAMED);
    }

    #[test]
    fn p3_a_window_begins_in_a_pause_longer_than_clocks_differ() {
        let far = booked("far", 1, (1, 2));
        let near = booked("near", 1, (52, 53));
        let chained = booked("chained", 1, (40, 45));
        let table: [(&[Booked], i64, &[&Booked]); 4] = [
            (&[], 55, &[]),
            (std::slice::from_ref(&far), 55, &[]),
            (&[near.clone(), far.clone()], 47, &[&near]),
            (&[near.clone(), chained.clone(), far.clone()], 35, &[&near, &chained]),
        ];
        for (before, from, others) in table {
            let window = window(at(60), before);
            assert_eq!(window.from, at(from), "{before:?}");
            assert_eq!(window.others.iter().collect::<Vec<_>>(), others);
        }
    }
}
