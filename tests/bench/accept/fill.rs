//! What stands in a database before it is measured, written in bulk as rows that a server would
//! have written: very many messages that wait, or that have long been over and may leave.

use anyhow::{Result, ensure};
use postmeter::domain::digest::sha256_hex;

/// Customers whose they are.
const CUSTOMERS: u64 = 1_000;
/// Captures that an entry has settled.
const SETTLED: u64 = 10;
/// What waits is due so much later, and what is over so much older, in milliseconds.
const A_DAY: u64 = 24 * 3_600_000;
const OVER: u64 = 40 * A_DAY;
/// Octets of a message.
const SIZE: usize = 512;

/// So many messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fill {
    /// They were put off, and are due tomorrow.
    Waiting(u64),
    /// They are final, their captures settled, and older than they are kept.
    Leaving(u64),
}

/// Whose words a statement is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Fill {
    /// Fails unless every customer has as many of them, and every entry as many of theirs.
    pub(crate) fn checked(self) -> Result<Self> {
        let (Self::Waiting(count) | Self::Leaving(count)) = self;
        let whole = CUSTOMERS * SETTLED;
        ensure!(count > 0 && count.is_multiple_of(whole), "{count} messages: take a multiple of {whole}");
        Ok(self)
    }

    /// How many there are.
    pub(crate) fn count(self) -> u64 {
        let (Self::Waiting(count) | Self::Leaving(count)) = self;
        count
    }

    /// Asks how many are left.
    pub(crate) fn left(self) -> String {
        let count = self.count();
        format!(
            "SELECT {count} - CAST(coalesce(sum(closed_price), 0) AS BIGINT) FROM account
             WHERE customer_id LIKE 'filled-%'"
        )
    }

    /// All rows.
    pub(crate) fn statements(self, dialect: Dialect) -> String {
        let now = jiff::Timestamp::now().as_millisecond();
        let body = body();
        let octets: String = body.bytes().map(|octet| format!("{octet:02x}")).collect();
        let body_literal = match dialect {
            Dialect::Sqlite => format!("x'{octets}'"),
            Dialect::Postgres => format!("'\\x{octets}'::bytea"),
        };
        let text = match self {
            Self::Waiting(_) => WAITING,
            Self::Leaving(_) => LEAVING,
        };
        [
            ("{all}", series(dialect, self.count())),
            ("{customers}", series(dialect, CUSTOMERS)),
            ("{entries}", series(dialect, self.count() / SETTLED)),
            ("{id}", id(dialect)),
            ("{customer}", "'filled-' || ((i - 1) % {of})".to_owned()),
            ("{at}", "({now} - {age} + i * {span} / {count})".to_owned()),
            ("{age}", if matches!(self, Self::Waiting(_)) { A_DAY / 24 } else { OVER }.to_string()),
            ("{span}", if matches!(self, Self::Waiting(_)) { A_DAY / 24 } else { A_DAY }.to_string()),
            ("{day}", A_DAY.to_string()),
            ("{each}", (self.count() / CUSTOMERS).to_string()),
            ("{settled}", SETTLED.to_string()),
            ("{of}", CUSTOMERS.to_string()),
            ("{count}", self.count().to_string()),
            ("{now}", now.to_string()),
            ("{size}", body.len().to_string()),
            ("{sha}", sha256_hex(body.as_bytes())),
            ("{body}", body_literal),
        ]
        .into_iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, &value))
    }
}

/// The numbers from 1 as `i`.
fn series(dialect: Dialect, count: u64) -> String {
    match dialect {
        Dialect::Sqlite => format!(
            "(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n)"
        ),
        Dialect::Postgres => format!("generate_series(CAST(1 AS BIGINT), {count}) AS i"),
    }
}

/// An id as the server makes them, which sorts by time.
fn id(dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite => "format('%012x7%03x8%015x', {at}, i % 4096, i)",
        Dialect::Postgres => {
            "lpad(to_hex({at}), 12, '0') || '7' || lpad(to_hex(i % 4096), 3, '0') || '8' || lpad(to_hex(i), 15, '0')"
        }
    }
    .to_owned()
}

fn body() -> String {
    let mut body = "Message-ID: <waiting@filled.example>\r\n\
        Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\
        From: App <app@filled.example>\r\n\
        To: someone@elsewhere.example\r\n\
        Subject: A message that was there before\r\n\r\n"
        .to_owned();
    while body.len() < SIZE {
        body.push_str("A line of text, as lines of text are.\r\n");
    }
    body
}

const WAITING: &str = "
    INSERT INTO customer (customer_id, created_at) SELECT 'filled-' || (i - 1), {now} FROM {customers};
    INSERT INTO account (customer_id, balance, balance_read_at, held)
    SELECT 'filled-' || (i - 1), 1000000000, {now}, {each} FROM {customers};
    INSERT INTO message (message_id, customer_id, username, kind, reverse_path, header_from, subject, size,
                         body_sha256, unit, price, accepted_at, expires_at)
    SELECT {id}, {customer}, 'pm-0123456789abcdef', 'submission', 'app@filled.example', 'app@filled.example',
           'A message that was there before', {size}, '{sha}', 'message', 1, {at}, {at} + 5 * {day} FROM {all};
    INSERT INTO part (message_id, part_no, road, state, attempt, due_at, key_no, last_error, customer_id)
    SELECT {id}, 0, 'smtp', 'queued', 1, {at} + {day}, 1, '4.3.0 Try again later', {customer} FROM {all};
    INSERT INTO recipient (message_id, address, part_no, ordinal, state)
    SELECT {id}, 'someone-' || i || '@elsewhere.example', 0, 0, 'queued' FROM {all};
    INSERT INTO body (message_id, chunk_no, bytes) SELECT {id}, 0, {body} FROM {all}";

const LEAVING: &str = "
    INSERT INTO customer (customer_id, created_at) SELECT 'filled-' || (i - 1), {now} FROM {customers};
    INSERT INTO account (customer_id, balance, balance_read_at, last_capture, last_entered, version)
    SELECT 'filled-' || (i - 1), 1000000000, {now}, {each}, {each}, 2 * {each} / {settled} FROM {customers};
    INSERT INTO message (message_id, customer_id, username, kind, reverse_path, header_from, subject, size,
                         body_sha256, unit, price, captured, accepted_at, expires_at, final_at, capture_no)
    SELECT {id}, {customer}, 'pm-0123456789abcdef', 'submission', 'app@filled.example', 'app@filled.example',
           'A message that was there before', {size}, '{sha}', 'message', 1, 1, {at}, {at} + 5 * {day}, {at} + 1000,
           (i - 1) / {of} + 1 FROM {all};
    INSERT INTO part (message_id, part_no, road, state, attempt, key_no, upstream_id, customer_id)
    SELECT {id}, 0, 'smtp', 'sent', 1, 1, '250 2.0.0 Swallowed', {customer} FROM {all};
    INSERT INTO recipient (message_id, address, part_no, ordinal, state)
    SELECT {id}, 'someone-' || i || '@elsewhere.example', 0, 0, 'sent' FROM {all};
    INSERT INTO capture (customer_id, number, message_id, amount, captured_at)
    SELECT {customer}, (i - 1) / {of} + 1, {id}, 1, {at} + 1000 FROM {all};
    INSERT INTO entry (entry_id, customer_id, kind, first_capture, last_capture, amount, reason, state, tries,
                       opened_at, closed_at)
    SELECT 'entry-filled-' || i, {customer}, 'debit', (i - 1) / {of} * {settled} + 1, ((i - 1) / {of} + 1) * {settled},
           {settled}, 'Postmeter', 'done', 1, {now} - {age} + {day}, {now} - {age} + {day} + i FROM {entries}";
