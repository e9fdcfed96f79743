//! Which of Dodo's documented, seen or possible manners the stand-in has.

use serde::{Deserialize, Serialize};

/// What can be set while it runs; over HTTP with `PUT /_behaviour`, where absent fields get their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// What a repeated `idempotency_key` is answered.
    pub repeated_key: RepeatedKey,
    /// Whether the balance is looked at before the key: a repeated debit that emptied the account is then a 400.
    pub balance_before_key: bool,
    /// How balances and grants write amounts.
    pub amounts: Amounts,
    /// Requests a second; 0: no limit.
    pub per_second: u32,
    /// Requests a minute; 0: no limit.
    pub per_minute: u32,
    /// Whether `reason` of an entry comes back as `description` of the ledger's line.
    pub reason_in_ledger: bool,
    /// What an entry posted over the API is called in the ledger.
    pub api_entries: ApiEntries,
    /// Whether entries posted over the API make `credit.*` webhooks.
    pub api_entry_events: bool,
    /// Whether each webhook is delivered twice, with the same id.
    pub duplicate_events: bool,
    /// In which order the webhooks of one payment leave.
    pub event_order: EventOrder,
    /// Waits before the second, third … try of a webhook that was not taken, in milliseconds.
    pub event_retries_ms: Vec<u64>,
}

/// What a repeated `idempotency_key` is answered; nothing is applied again in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepeatedKey {
    /// 409, as documented.
    Conflict,
    /// 201 with the first answer and its old `balance_after`, as seen.
    FirstAnswer,
}

/// How balances and grants write amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amounts {
    /// JSON numbers, as seen.
    Number,
    /// Strings, as documented.
    String,
}

/// What an entry posted over the API is called in the ledger; the documentation says both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiEntries {
    /// `credit_added` and `credit_deducted`.
    ByDirection,
    /// `manual_adjustment`.
    ManualAdjustment,
}

/// In which order the webhooks of one payment leave; Dodo promises none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventOrder {
    /// As things happened.
    AsHappened,
    /// The last first.
    Reversed,
    /// Any.
    Shuffled,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            repeated_key: RepeatedKey::Conflict,
            balance_before_key: false,
            amounts: Amounts::Number,
            per_second: 40,
            per_minute: 240,
            reason_in_ledger: true,
            api_entries: ApiEntries::ByDirection,
            api_entry_events: true,
            duplicate_events: false,
            event_order: EventOrder::AsHappened,
            event_retries_ms: vec![500, 1_000, 2_000, 5_000, 15_000, 60_000],
        }
    }
}
