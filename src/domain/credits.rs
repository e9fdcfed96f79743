//! Credits: whole, checked, never negative where they cannot be.

use std::fmt;

/// A count of email credits that cannot be negative: a price, a hold, a debt.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Credits(u64);

/// Dodo keeps the integer part of an amount below 10^10 (ledger entries, `amount`).
pub const MAX_CREDITS: u64 = 9_999_999_999;

impl Credits {
    /// No credits.
    pub const ZERO: Self = Self(0);
    /// One credit: what a message costs.
    pub const ONE: Self = Self(1);

    /// A count, if it is within what Dodo can keep (0 to [`MAX_CREDITS`]).
    pub const fn new(count: u64) -> Option<Self> {
        if count <= MAX_CREDITS { Some(Self(count)) } else { None }
    }

    /// A count read back from our own database.
    pub fn from_i64(count: i64) -> Option<Self> {
        u64::try_from(count).ok().and_then(Self::new)
    }

    /// The count.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The count as the database keeps it; always fits, since it is at most [`MAX_CREDITS`].
    pub fn to_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// The sum, unless it leaves the range.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Self::new(sum),
            None => None,
        }
    }

    /// The difference, unless it would be negative.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a message is charged by (`billing.unit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// One credit a message, whatever the number of its recipients.
    #[default]
    Message,
    /// One credit for each distinct accepted recipient.
    Recipient,
}

impl Unit {
    /// The price of a message with so many distinct recipients.
    pub fn price(self, recipients: usize) -> Option<Credits> {
        match self {
            Self::Message => Some(Credits::ONE),
            Self::Recipient => u64::try_from(recipients).ok().and_then(Credits::new),
        }
    }
}

/// A number as people read it: 1,234,567.
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "−" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_never_wraps() {
        let max = Credits::new(MAX_CREDITS).unwrap();
        assert_eq!(max.checked_add(Credits::ONE), None);
        assert_eq!(Credits::ZERO.checked_sub(Credits::ONE), None);
        assert_eq!(Credits::new(MAX_CREDITS + 1), None);
        assert_eq!(Credits::from_i64(-1), None);
        assert_eq!(Credits::from_i64(7).unwrap().to_i64(), 7);
    }

    #[test]
    fn price_follows_the_unit() {
        assert_eq!(Unit::Message.price(50), Some(Credits::ONE));
        assert_eq!(Unit::Recipient.price(50), Credits::new(50));
    }
}
