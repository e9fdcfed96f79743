//! What sign-in and MAIL ask about a credential, gathered: whatever was asked
//! while the last look ran is answered by the next one, so that many connections
//! cost the database no more journeys than one.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::SqlitePool;
use tokio::sync::{mpsc, oneshot};

use super::{Store, StoreError, json, stored};
use crate::domain::account::Account;
use crate::domain::credential::SecretHash;
use crate::domain::ids::{CustomerId, Username};
use crate::domain::sender::SenderPattern;

/// Most questions answered by one look.
const MAX_QUESTIONS: usize = 256;

/// What sign-in and MAIL ask about a credential.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Whose it is.
    pub customer_id: CustomerId,
    /// The credential.
    pub username: Username,
    /// What its secret must hash to.
    pub secret_hash: SecretHash,
    /// Whether it was revoked.
    pub is_revoked: bool,
    /// Set while the customer is suspended.
    pub suspended_reason: Option<String>,
    /// The account.
    pub account: Account,
    /// Whom the customer may send as.
    pub senders: Vec<SenderPattern>,
    /// Whether there is anything on the customer's suppression list.
    pub suppresses: bool,
}

/// One question.
#[derive(Debug)]
pub(super) struct Question {
    username: Username,
    answer: oneshot::Sender<Result<Option<Standing>, StoreError>>,
}

impl Store {
    /// What stands behind a username, if it exists, by a look that begins after the question.
    pub async fn standing(&self, username: &Username) -> Result<Option<Standing>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::Unavailable("the reader has stopped".to_owned());
        let question = Question { username: username.clone(), answer };
        self.questions.send(question).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Answers questions until the last [`Store`] is gone.
pub(super) async fn answer(readers: SqlitePool, mut questions: mpsc::Receiver<Question>) {
    while let Some(first) = questions.recv().await {
        let mut batch = vec![first];
        while batch.len() < MAX_QUESTIONS {
            let Ok(next) = questions.try_recv() else { break };
            batch.push(next);
        }
        let looked = look(&readers, &batch).await;
        for Question { username, answer } in batch {
            let standing = match &looked {
                Ok(standings) => Ok(standings.get(&username).cloned()),
                Err(error) => Err(error.clone()),
            };
            // The asker may have hung up.
            let _ = answer.send(standing);
        }
    }
}

async fn look(readers: &SqlitePool, batch: &[Question]) -> Result<BTreeMap<Username, Standing>, StoreError> {
    const READ: &str = "
        SELECT k.customer_id, k.username, k.secret_hash, k.revoked_at, c.suspended_reason,
               a.balance, a.balance_read_at, a.held, a.owed, a.version,
               (SELECT group_concat(s.pattern, char(10)) FROM sender s WHERE s.customer_id = k.customer_id)
                   AS senders,
               EXISTS (SELECT 1 FROM suppression x WHERE x.customer_id = k.customer_id) AS suppresses
        FROM credential k JOIN customer c ON c.customer_id = k.customer_id
             JOIN account a ON a.customer_id = k.customer_id
        WHERE k.username IN (SELECT value FROM json_each(?1))";
    let names: BTreeSet<&str> = batch.iter().map(|question| question.username.as_str()).collect();
    let rows: Vec<StandingRow> = sqlx::query_as(READ).bind(json(&names)?).fetch_all(readers).await?;
    rows.into_iter().map(|row| row.read().map(|standing| (standing.username.clone(), standing))).collect()
}

#[derive(sqlx::FromRow)]
struct StandingRow {
    customer_id: String,
    username: String,
    secret_hash: Vec<u8>,
    revoked_at: Option<i64>,
    suspended_reason: Option<String>,
    balance: Option<i64>,
    balance_read_at: Option<i64>,
    held: i64,
    owed: i64,
    version: i64,
    senders: Option<String>,
    suppresses: bool,
}

impl StandingRow {
    fn read(self) -> Result<Standing, StoreError> {
        let no_hash =
            || StoreError::Corrupt(format!("the secret hash of {} is not 32 octets", self.username));
        let senders = self.senders.as_deref().unwrap_or_default();
        let sums = (self.held, self.owed);
        Ok(Standing {
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            username: stored(Username::parse(&self.username))?,
            secret_hash: SecretHash::from_slice(&self.secret_hash).ok_or_else(no_hash)?,
            is_revoked: self.revoked_at.is_some(),
            suspended_reason: self.suspended_reason,
            account: Account::from_columns(self.balance, self.balance_read_at, sums, self.version)?,
            senders: senders.lines().map(|p| stored(SenderPattern::parse(p))).collect::<Result<_, _>>()?,
            suppresses: self.suppresses,
        })
    }
}
