//! One customer's credits: grants, drawn first in first out, and the lines that
//! tell what happened to them.
//!
//! Pure. A change is a [`Posting`], decided first and applied after it is
//! written down; applying the same postings in the same order gives the same
//! account again.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Dodo keeps the integer part of an amount below 10^10.
const AMOUNT_LIMIT: u64 = 10_000_000_000;

/// Where a grant came from (`source_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A period of a subscription.
    Subscription,
    /// A one-time product.
    OneTime,
    /// A ledger entry posted over the API.
    Api,
}

/// What a line of the ledger is (`transaction_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transaction {
    /// A grant.
    CreditAdded,
    /// A debit.
    CreditDeducted,
    /// What was left of a grant when it expired.
    CreditExpired,
    /// A debit or credit made by hand, where the account names API entries so.
    ManualAdjustment,
}

/// A portion of credits with its own expiry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `cdg_…`
    pub id: String,
    /// Where it came from.
    pub source: Source,
    /// The payment or subscription that made it.
    pub source_id: Option<String>,
    /// Credits granted.
    pub initial: u64,
    /// Credits left.
    pub remaining: u64,
    /// When the rest is lost, in milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it was last drawn from, in milliseconds since 1970.
    pub updated_ms: i64,
    /// That of the checkout that made it.
    pub metadata: Map<String, Value>,
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// `cdl_…`
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What it is.
    pub transaction: Transaction,
    /// Whether it added credits.
    pub is_credit: bool,
    /// Credits moved.
    pub amount: u64,
    /// Balance before it.
    pub before: u64,
    /// Balance after it.
    pub after: u64,
    /// For people; `reason` of an API entry.
    pub description: Option<String>,
    /// The grant that was made, lost, or drawn from first.
    pub grant_id: Option<String>,
    /// What it refers to: (`payment`, `pay_…`).
    pub reference: Option<(String, String)>,
    /// That of the payment or subscription behind it; never that of an API entry.
    pub metadata: Map<String, Value>,
}

/// A change of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Posting {
    pub(super) customer_id: String,
    pub(super) line: Line,
    /// The grant that a credit makes.
    pub(super) grant: Option<Grant>,
    /// The `idempotency_key` that it uses up.
    pub(super) key: Option<String>,
}

/// The credits of one customer.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) id: String,
    pub(super) customer_id: String,
    pub(super) balance: u64,
    pub(super) debited: u64,
    pub(super) grants: Vec<Grant>,
    pub(super) lines: Vec<Line>,
    pub(super) created_ms: i64,
    pub(super) updated_ms: i64,
    /// Grants before this one are used up or expired.
    first_live: usize,
    next_expiry_ms: Option<i64>,
}

impl Account {
    /// An account without credits.
    pub(super) fn new(customer_id: &str, now_ms: i64) -> Self {
        Self {
            id: format!("cdb_{customer_id}"),
            customer_id: customer_id.to_owned(),
            balance: 0,
            debited: 0,
            grants: Vec::new(),
            lines: Vec::new(),
            created_ms: now_ms,
            updated_ms: now_ms,
            first_live: 0,
            next_expiry_ms: None,
        }
    }

    /// The grant that the next debit draws from first.
    pub(super) fn first_grant(&self) -> Option<&Grant> {
        self.grants.get(self.first_live..)?.iter().find(|grant| grant.remaining > 0)
    }

    /// What expired by now and still counts: (grant, credits).
    pub(super) fn lapses(&mut self, now_ms: i64) -> Vec<(String, u64)> {
        if self.next_expiry_ms.is_none_or(|next| next > now_ms) {
            return Vec::new();
        }
        let live = self.grants.get(self.first_live..).unwrap_or_default();
        let (gone, kept): (Vec<_>, Vec<_>) = live
            .iter()
            .filter(|grant| grant.remaining > 0)
            .partition(|grant| grant.expires_ms.is_some_and(|expires| expires <= now_ms));
        self.next_expiry_ms = kept.iter().filter_map(|grant| grant.expires_ms).min();
        gone.iter().map(|grant| (grant.id.clone(), grant.remaining)).collect()
    }

    /// Carries out what was decided.
    pub(super) fn apply(&mut self, posting: Posting) {
        let Posting { line, grant, .. } = posting;
        self.balance = line.after;
        self.updated_ms = line.at_ms;
        if let Some(grant) = grant {
            self.next_expiry_ms = [self.next_expiry_ms, grant.expires_ms].into_iter().flatten().min();
            self.grants.push(grant);
        } else if line.transaction == Transaction::CreditExpired {
            self.expire(line.grant_id.as_deref(), line.at_ms);
        } else {
            self.debited = self.debited.saturating_add(line.amount);
            self.draw(line.amount, line.at_ms);
        }
        self.lines.push(line);
    }

    fn expire(&mut self, grant_id: Option<&str>, at_ms: i64) {
        let live = self.grants.get_mut(self.first_live..).unwrap_or_default();
        if let Some(grant) = live.iter_mut().find(|grant| Some(grant.id.as_str()) == grant_id) {
            grant.remaining = 0;
            grant.updated_ms = at_ms;
            grant.expires_ms = Some(grant.expires_ms.map_or(at_ms, |expires| expires.min(at_ms)));
        }
    }

    fn draw(&mut self, mut amount: u64, at_ms: i64) {
        while amount > 0 {
            let Some(grant) = self.grants.get_mut(self.first_live) else { return };
            let drawn = grant.remaining.min(amount);
            grant.remaining -= drawn;
            amount -= drawn;
            if drawn > 0 {
                grant.updated_ms = at_ms;
            }
            if grant.remaining == 0 {
                self.first_live += 1;
            }
        }
    }
}

/// A decimal amount in whole credits (the entitlement's precision is 0), or what is wrong with it.
pub(super) fn whole_credits(text: &str) -> Result<u64, &'static str> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
        return Err("amount must be a positive decimal number");
    }
    if fraction.bytes().any(|b| b != b'0') {
        return Err("amount has more decimal places than the precision of the credit entitlement");
    }
    match whole.parse::<u64>() {
        Ok(0) => Err("amount must be greater than zero"),
        Ok(amount) if amount < AMOUNT_LIMIT => Ok(amount),
        _ => Err("amount is out of bounds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(id: &str, credits: u64, expires_ms: Option<i64>) -> Grant {
        Grant {
            id: id.to_owned(),
            source: Source::Api,
            source_id: None,
            initial: credits,
            remaining: credits,
            expires_ms,
            created_ms: 0,
            updated_ms: 0,
            metadata: Map::new(),
        }
    }

    fn post(account: &mut Account, transaction: Transaction, amount: u64, grant: Option<Grant>) {
        let is_credit = grant.is_some();
        let after = if is_credit { account.balance + amount } else { account.balance - amount };
        let line = Line {
            id: String::new(),
            at_ms: 1,
            transaction,
            is_credit,
            amount,
            before: account.balance,
            after,
            description: None,
            grant_id: account.first_grant().map(|grant| grant.id.clone()),
            reference: None,
            metadata: Map::new(),
        };
        account.apply(Posting { customer_id: "c".to_owned(), line, grant, key: None });
    }

    #[test]
    fn debits_draw_the_oldest_grant_first_and_then_the_next() {
        let mut account = Account::new("c", 0);
        for id in ["a", "b"] {
            post(&mut account, Transaction::CreditAdded, 5, Some(grant(id, 5, None)));
        }
        post(&mut account, Transaction::CreditDeducted, 7, None);
        assert_eq!(account.grants.iter().map(|g| g.remaining).collect::<Vec<_>>(), [0, 3]);
        assert_eq!((account.balance, account.debited), (3, 7));
        assert_eq!(account.first_grant().map(|g| g.id.as_str()), Some("b"));
    }

    #[test]
    fn a_grant_is_lost_at_its_hour_but_only_what_was_left_of_it() {
        let mut account = Account::new("c", 0);
        post(&mut account, Transaction::CreditAdded, 5, Some(grant("a", 5, Some(100))));
        post(&mut account, Transaction::CreditAdded, 5, Some(grant("b", 5, None)));
        post(&mut account, Transaction::CreditDeducted, 2, None);
        assert_eq!(account.lapses(99), []);
        assert_eq!(account.lapses(100), [("a".to_owned(), 3)]);
        post(&mut account, Transaction::CreditExpired, 3, None);
        assert_eq!(account.lapses(200), []);
        assert_eq!((account.balance, account.debited), (5, 2));
        post(&mut account, Transaction::CreditDeducted, 5, None);
        assert_eq!(account.balance, 0);
    }

    #[test]
    fn amounts_are_whole_positive_and_bounded() {
        let table = [
            ("1", Some(1)),
            ("007", Some(7)),
            ("10.00", Some(10)),
            ("9999999999", Some(9_999_999_999)),
            ("10000000000", None),
            ("99999999999999999999999", None),
            ("0", None),
            ("0.0", None),
            ("1.5", None),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("1.", None),
            (".5", None),
            ("", None),
            (" 1", None),
        ];
        for (text, wanted) in table {
            assert_eq!(whole_credits(text).ok(), wanted, "{text:?}");
        }
    }
}
