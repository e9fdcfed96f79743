//! What the operator's page shows beside what others show too: customers page by page, why
//! parts wait, and which process does what. Nothing here reads more rows than it says.

use jiff::Timestamp;

use super::customer::{Customer, CustomerRow};
use super::operator::Waiting;
use super::sql::{Whole, query_as};
use super::{Store, StoreError, stored, timestamp};
use crate::domain::ids::CustomerId;

/// Customers that one page of a search looks at.
const LOOKED_AT: u32 = 5_000;
/// Parts of each kind that are asked why they wait.
const ASKED: u32 = 1_000;
/// Reasons that are told.
const REASONS: u32 = 20;
/// Processes that are told.
const NODES: u32 = 50;

/// Some customers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerPage {
    /// By id.
    pub customers: Vec<Customer>,
    /// Where to go on, if there may be more.
    pub next: Option<CustomerId>,
}

/// Why some parts wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingFor {
    /// Where they stand.
    pub state: Waiting,
    /// What went wrong last; `None`: nothing did yet.
    pub reason: Option<String>,
    /// How many of those that were asked.
    pub parts: u64,
}

/// The processes on the database, and who does what only one has to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crew {
    /// When each was seen last, the latest first; a database that is a file has one, and no row for it.
    pub nodes: Vec<(String, Timestamp)>,
    /// Duties by name: whose, and until when.
    pub duties: Vec<(String, String, Timestamp)>,
}

impl Store {
    /// Customers behind `after`, by id. With a search only those whose id, address or name has it in it,
    /// small and large letters alike, out of the next five thousand; a page may be empty, and not the last.
    pub async fn customer_page(
        &self,
        search: Option<&str>,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<CustomerPage, StoreError> {
        const READ: &str = "
            SELECT c.customer_id, c.email, c.name, c.suspended_reason, c.created_at,
                   a.balance, a.balance_read_at, a.held, a.owed, a.version
            FROM (SELECT customer_id, email, name, suspended_reason, created_at FROM customer
                  WHERE customer_id > $1 ORDER BY customer_id LIMIT $2) AS c
                 JOIN account a ON a.customer_id = c.customer_id
            WHERE lower(c.customer_id) LIKE $3 ESCAPE '!' OR lower(coalesce(c.email, '')) LIKE $3 ESCAPE '!'
               OR lower(coalesce(c.name, '')) LIKE $3 ESCAPE '!'
            ORDER BY c.customer_id LIMIT $4";
        const END: &str = "
            SELECT count(*) AS looked_at, max(customer_id) AS last FROM
                (SELECT customer_id FROM customer WHERE customer_id > $1 ORDER BY customer_id LIMIT $2) AS c";
        let after = after.map_or("", CustomerId::as_str);
        let rows: Vec<CustomerRow> = query_as(READ)
            .bind(after)
            .bind(LOOKED_AT)
            .bind(pattern(search.unwrap_or_default()))
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        let customers: Vec<Customer> = rows.into_iter().map(CustomerRow::read).collect::<Result<_, _>>()?;
        if u32::try_from(customers.len()).is_ok_and(|found| found >= limit) {
            let next = customers.last().map(|customer| customer.customer_id.clone());
            return Ok(CustomerPage { customers, next });
        }
        let (looked_at, last): (Whole, Option<String>) =
            query_as(END).bind(after).bind(LOOKED_AT).fetch_one(&self.readers).await?;
        let last = last.filter(|_| looked_at.0 >= LOOKED_AT);
        let next = last.map(|id| stored(CustomerId::parse(&id))).transpose()?;
        Ok(CustomerPage { customers, next })
    }

    /// Why parts wait: the most frequent reasons first, of a thousand of each kind at most.
    pub async fn waiting_for(&self) -> Result<Vec<WaitingFor>, StoreError> {
        // Each arm has its own small index; the rows of what was sent are not touched.
        const READ: &str = "
            SELECT w.state, w.reason, count(*) AS parts FROM
                (SELECT h.state, substr(h.last_error, 1, 160) AS reason FROM
                     (SELECT state, last_error FROM part WHERE state = 'held' LIMIT $1) AS h
                 UNION ALL
                 SELECT s.state, substr(s.last_error, 1, 160) AS reason FROM
                     (SELECT state, last_error FROM part WHERE state = 'sending' LIMIT $1) AS s
                 UNION ALL
                 SELECT q.state, substr(q.last_error, 1, 160) AS reason FROM
                     (SELECT state, last_error FROM part WHERE state = 'queued' AND batch_max = 1 LIMIT $1) AS q
                 UNION ALL
                 SELECT t.state, substr(t.last_error, 1, 160) AS reason FROM
                     (SELECT state, last_error FROM part WHERE state = 'queued' AND batch_max > 1 LIMIT $1) AS t
                ) AS w
            GROUP BY w.state, w.reason ORDER BY count(*) DESC, w.state, w.reason LIMIT $2";
        let rows: Vec<(String, Option<String>, i64)> =
            query_as(READ).bind(ASKED).bind(REASONS).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|(state, reason, parts)| {
                let known = Waiting::ALL.into_iter().find(|known| known.as_str() == state);
                let state =
                    known.ok_or_else(|| StoreError::Corrupt(format!("{state} is no state that waits")))?;
                Ok(WaitingFor { state, reason, parts: u64::try_from(parts).unwrap_or(0) })
            })
            .collect()
    }

    /// Which processes are there, and who does what only one has to do.
    pub async fn crew(&self) -> Result<Crew, StoreError> {
        const NODE: &str = "SELECT node_id, seen_at FROM node ORDER BY seen_at DESC LIMIT $1";
        const DUTY: &str = "SELECT name, node, held_until FROM duty ORDER BY name";
        let nodes: Vec<(String, i64)> = query_as(NODE).bind(NODES).fetch_all(&self.readers).await?;
        let duties: Vec<(String, String, i64)> = query_as(DUTY).fetch_all(&self.readers).await?;
        let nodes = nodes.into_iter().map(|(id, seen_at)| Ok((id, timestamp(seen_at)?)));
        let duties = duties.into_iter().map(|(name, node, until)| Ok((name, node, timestamp(until)?)));
        Ok(Crew {
            nodes: nodes.collect::<Result<_, StoreError>>()?,
            duties: duties.collect::<Result<_, StoreError>>()?,
        })
    }
}

/// What `LIKE … ESCAPE '!'` finds a text by, wherever it stands.
fn pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for letter in text.trim().to_lowercase().chars() {
        if matches!(letter, '!' | '%' | '_') {
            pattern.push('!');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}
