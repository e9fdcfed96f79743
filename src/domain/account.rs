//! One customer's account: what Dodo last said, what is set aside, what is due.
//!
//! `available = balance − held − owed` is the only number that lets mail in. It
//! is computed here and in the accepting transaction, and nowhere else.

use jiff::Timestamp;

use super::credits::Credits;

/// An account as the database holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// What Dodo last said, moved along by our own settlements; `None`: never read.
    /// May be negative where an entitlement allows overage.
    pub balance: Option<i64>,
    /// When Dodo last said it.
    pub balance_read_at: Option<Timestamp>,
    /// Set aside for accepted messages that are not final yet.
    pub held: Credits,
    /// Captured, and not yet confirmed as debited at Dodo.
    pub owed: Credits,
    /// Moves with every change of an entry and every balance that is applied; a
    /// read started under an older version is not applied.
    pub version: i64,
}

impl Account {
    /// `balance − held − owed`: what may still be spent. `None` while no balance
    /// was ever read. Negative: in debt.
    pub fn available(&self) -> Option<i64> {
        let spent = self.held.to_i64().saturating_add(self.owed.to_i64());
        Some(self.balance?.saturating_sub(spent))
    }

    /// The same as a customer is shown it: 0 when in debt.
    pub fn available_credits(&self) -> Option<Credits> {
        self.available().map(|n| Credits::from_i64(n.max(0)).unwrap_or(Credits::ZERO))
    }

    /// What is owed beyond the balance: credits for mail that was sent expired at
    /// Dodo, or were spent elsewhere, before they could be debited.
    pub fn shortfall(&self) -> Credits {
        let covered = self.balance.map_or(i64::MAX, |balance| balance.max(0));
        Credits::from_i64(self.owed.to_i64().saturating_sub(covered).max(0)).unwrap_or(Credits::ZERO)
    }

    /// Whether `price` can be held now; `None` while the balance is unknown.
    pub fn covers(&self, price: Credits) -> Option<bool> {
        self.available().map(|n| n >= price.to_i64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(balance: Option<i64>, held: u64, owed: u64) -> Account {
        Account {
            balance,
            balance_read_at: None,
            held: Credits::new(held).unwrap(),
            owed: Credits::new(owed).unwrap(),
            version: 0,
        }
    }

    #[test]
    fn available_is_balance_less_held_less_owed() {
        let table = [
            (Some(10), 0, 0, Some(10), Some(true)),
            (Some(10), 4, 5, Some(1), Some(true)),
            (Some(10), 5, 5, Some(0), Some(false)),
            (Some(3), 0, 5, Some(-2), Some(false)),
            (Some(-1), 0, 0, Some(-1), Some(false)),
            (None, 1, 0, None, None),
        ];
        for (balance, held, owed, available, covers) in table {
            let account = account(balance, held, owed);
            assert_eq!(account.available(), available);
            assert_eq!(account.covers(Credits::ONE), covers);
        }
        assert_eq!(account(Some(3), 0, 5).available_credits(), Some(Credits::ZERO));
    }

    #[test]
    fn a_shortfall_is_what_is_owed_beyond_the_balance() {
        let table = [(Some(10), 5, 0), (Some(5), 5, 0), (Some(3), 5, 2), (Some(-1), 5, 5), (None, 5, 0)];
        for (balance, owed, shortfall) in table {
            assert_eq!(account(balance, 9, owed).shortfall().get(), shortfall, "{balance:?} {owed}");
        }
    }
}
