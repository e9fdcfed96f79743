//! What an operator is alerted to: payments that do not stay what they were.

/// What happened to a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertKind {
    /// It went back to whoever paid, in whole or in part.
    Refund,
    /// Whoever paid disputes it with their bank.
    Dispute,
}

impl AlertKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Refund, Self::Dispute];

    /// The name in the database, in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refund => "refund",
            Self::Dispute => "dispute",
        }
    }

    /// Why a customer is suspended for it, as they are told.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Refund => "a payment was refunded",
            Self::Dispute => "a payment is disputed",
        }
    }

    /// The kind of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}
