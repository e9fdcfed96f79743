//! Domains that customers claim and prove, and the lines that proofs give them.
//!
//! A line of a customer's list that a proof made leaves in the transaction that ends
//! the proof, and no other line does. A domain is verified for one customer at a
//! time, which a unique index keeps whatever runs beside it.

use jiff::Timestamp;

use super::sql::{Session, query, query_as, query_scalar};
use super::{Store, StoreError, lock, millis, stored, timestamp};
use crate::domain::address::Domain;
use crate::domain::ids::CustomerId;
use crate::domain::proof::{Claim, Origin, ProofState, Way};
use crate::domain::sender::SenderPattern;

/// A claim to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Whose it is.
    pub customer_id: CustomerId,
    /// The domain, in A-labels.
    pub domain: Domain,
    /// Who is asked.
    pub way: Way,
    /// Where it stands.
    pub claim: Claim,
    /// What has to be published in DNS.
    pub token: Option<String>,
    /// What the other side says.
    pub told: Told,
    /// Since when it is there.
    pub created_at: Timestamp,
    /// When it was looked at last.
    pub checked_at: Option<Timestamp>,
    /// When it was proven last.
    pub verified_at: Option<Timestamp>,
}

/// What the last look brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Resend's id of the domain.
    pub resend_id: Option<String>,
    /// Resend's word for where it stands.
    pub status: Option<String>,
    /// The records that Resend asks for: JSON, as it wrote them.
    pub records: Option<String>,
    /// The same in words of ours, for the customer.
    pub detail: Option<String>,
}

/// A claim that is to be made.
#[derive(Debug, Clone)]
pub struct NewProof {
    /// Whose.
    pub customer_id: CustomerId,
    /// The domain, in A-labels.
    pub domain: Domain,
    /// Who is asked.
    pub way: Way,
    /// What has to be published, where DNS is asked.
    pub token: Option<String>,
    /// Claims that a customer may have.
    pub limit: u32,
}

/// What became of a new claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It was made.
    New(Proof),
    /// This customer has it already.
    Known(Proof),
    /// It is another customer's.
    Taken,
    /// This customer has as many as may be.
    TooMany,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Done(Proof),
    /// The claim is not what it was: somebody was faster.
    Overtaken,
    /// The domain is verified for another customer.
    OwnedBy(Proof),
}

/// A line of a customer's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderLine {
    /// The pattern.
    pub pattern: SenderPattern,
    /// Where it came from.
    pub origin: Origin,
}

/// Claims of which this is so. By name: whoever asks for all columns is answered otherwise from
/// the moment on that a newer version adds one.
macro_rules! proofs {
    ($condition:literal) => {
        concat!(
            "SELECT customer_id, domain, way, state, token, resend_id, status, records, detail, created_at,
                    checked_at, verified_at, missing_since, tries, next_check_at, expires_at
             FROM proof WHERE ",
            $condition
        )
    };
}

#[derive(sqlx::FromRow)]
struct ProofRow {
    customer_id: String,
    domain: String,
    way: String,
    state: String,
    token: Option<String>,
    resend_id: Option<String>,
    status: Option<String>,
    records: Option<String>,
    detail: Option<String>,
    created_at: i64,
    checked_at: Option<i64>,
    verified_at: Option<i64>,
    missing_since: Option<i64>,
    #[sqlx(try_from = "i64")]
    tries: u32,
    next_check_at: Option<i64>,
    expires_at: Option<i64>,
}

impl ProofRow {
    fn read(self) -> Result<Proof, StoreError> {
        let unknown = |what: &str| StoreError::Corrupt(format!("{what} is nothing that a proof can be"));
        let time = |millis: Option<i64>| millis.map(timestamp).transpose();
        Ok(Proof {
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            domain: stored(Domain::parse(&self.domain))?,
            way: Way::parse(&self.way).ok_or_else(|| unknown(&self.way))?,
            claim: Claim {
                state: ProofState::parse(&self.state).ok_or_else(|| unknown(&self.state))?,
                tries: self.tries,
                missing_since: time(self.missing_since)?,
                expires_at: time(self.expires_at)?,
                next_check_at: time(self.next_check_at)?,
            },
            token: self.token,
            told: Told {
                resend_id: self.resend_id,
                status: self.status,
                records: self.records,
                detail: self.detail,
            },
            created_at: timestamp(self.created_at)?,
            checked_at: time(self.checked_at)?,
            verified_at: time(self.verified_at)?,
        })
    }
}

impl Store {
    /// Writes a claim down, before anybody outside is told of it.
    pub async fn claim_domain(&self, new: &NewProof, now: Timestamp) -> Result<Claimed, StoreError> {
        const COUNT: &str = "SELECT count(*) FROM proof WHERE customer_id = $1";
        // Resend gives everybody the same records for a domain, so there only one may have them.
        const TAKEN: &str = "
            SELECT count(*) FROM proof
            WHERE domain = $1 AND customer_id <> $2 AND $3 = 'resend' AND (way = 'resend' OR state = 'verified')";
        const INSERT: &str = "
            INSERT INTO proof (customer_id, domain, way, state, token, created_at, next_check_at, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
        let state = if new.way == Way::Resend { ProofState::Adding } else { ProofState::Pending };
        let claim = Claim::new(state, now);
        let (customer, domain) = (new.customer_id.as_str(), new.domain.as_str());
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &new.customer_id).await?;
        if let Some(known) = find(&mut tx, &new.customer_id, &new.domain).await? {
            return Ok(Claimed::Known(known));
        }
        let taken: i64 = query_scalar(TAKEN)
            .bind(domain)
            .bind(customer)
            .bind(new.way.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if taken > 0 {
            return Ok(Claimed::Taken);
        }
        let count: i64 = query_scalar(COUNT).bind(customer).fetch_one(&mut *tx).await?;
        if count >= i64::from(new.limit) {
            return Ok(Claimed::TooMany);
        }
        let done = query(INSERT)
            .bind(customer)
            .bind(domain)
            .bind(new.way.as_str())
            .bind(state.as_str())
            .bind(&new.token)
            .bind(millis(now))
            .bind(claim.next_check_at.map(millis))
            .bind(claim.expires_at.map(millis))
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            // Another customer was faster, at the same moment.
            return Ok(Claimed::Taken);
        }
        tx.commit().await?;
        Ok(Claimed::New(Proof {
            customer_id: new.customer_id.clone(),
            domain: new.domain.clone(),
            way: new.way,
            claim,
            token: new.token.clone(),
            told: Told::default(),
            created_at: now,
            checked_at: None,
            verified_at: None,
        }))
    }

    /// Writes down what a look at `was` came to, with the line of the customer's
    /// list that it gives or takes.
    pub async fn change_proof(
        &self,
        was: &Proof,
        claim: Claim,
        told: Told,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        // Compare-and-set: on the state, and on who is asked.
        const CHANGE: &str = "
            UPDATE proof SET state = $4, tries = $5, missing_since = $6, expires_at = $7, next_check_at = $8,
                   resend_id = $9, status = $10, records = $11, detail = $12, checked_at = $13, verified_at = $14
            WHERE customer_id = $1 AND domain = $2 AND state = $3 AND created_at = $15";
        let is_new = claim.state == ProofState::Verified && was.claim.state != ProofState::Verified;
        let verified_at = if is_new { Some(now) } else { was.verified_at };
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &was.customer_id).await?;
        if is_new && let Some(owner) = owner(&mut tx, was).await? {
            return Ok(Changed::OwnedBy(owner));
        }
        let done = query(CHANGE)
            .bind(was.customer_id.as_str())
            .bind(was.domain.as_str())
            .bind(was.claim.state.as_str())
            .bind(claim.state.as_str())
            .bind(claim.tries)
            .bind(claim.missing_since.map(millis))
            .bind(claim.expires_at.map(millis))
            .bind(claim.next_check_at.map(millis))
            .bind(&told.resend_id)
            .bind(&told.status)
            .bind(&told.records)
            .bind(&told.detail)
            .bind(millis(now))
            .bind(verified_at.map(millis))
            .bind(millis(was.created_at))
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(Changed::Overtaken);
        }
        if is_new {
            give(&mut tx, was, now).await?;
        } else if claim.state != ProofState::Verified {
            take_back(&mut tx, was).await?;
        }
        tx.commit().await?;
        Ok(Changed::Done(Proof { claim, told, checked_at: Some(now), verified_at, ..was.clone() }))
    }

    /// Has the claim looked at as soon as may be; `false`: nobody has it.
    pub async fn hasten_proof(&self, resend_id: &str, now: Timestamp) -> Result<bool, StoreError> {
        const HASTEN: &str = "
            UPDATE proof SET next_check_at = $2
            WHERE resend_id = $1 AND state IN ('pending', 'verified', 'lost') AND next_check_at > $2";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done = query(HASTEN).bind(resend_id).bind(millis(now)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Removes a claim and the line that it gave; `false`: it is not what it was.
    pub async fn forget_proof(&self, was: &Proof) -> Result<bool, StoreError> {
        const FORGET: &str = "
            DELETE FROM proof WHERE customer_id = $1 AND domain = $2 AND state = $3 AND created_at = $4";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &was.customer_id).await?;
        let done = query(FORGET)
            .bind(was.customer_id.as_str())
            .bind(was.domain.as_str())
            .bind(was.claim.state.as_str())
            .bind(millis(was.created_at))
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        take_back(&mut tx, was).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// A customer's claim to a domain.
    pub async fn proof(
        &self,
        customer_id: &CustomerId,
        domain: &Domain,
    ) -> Result<Option<Proof>, StoreError> {
        find(&mut *self.readers.begin().await?, customer_id, domain).await
    }

    /// A customer's claims, by domain.
    pub async fn proofs(&self, customer_id: &CustomerId) -> Result<Vec<Proof>, StoreError> {
        const READ: &str = proofs!("customer_id = $1 ORDER BY domain");
        let rows: Vec<ProofRow> = query_as(READ).bind(customer_id.as_str()).fetch_all(&self.readers).await?;
        rows.into_iter().map(ProofRow::read).collect()
    }

    /// Claims that are to be looked at now, the longest due first.
    pub async fn due_proofs(&self, now: Timestamp, limit: u32) -> Result<Vec<Proof>, StoreError> {
        const READ: &str = proofs!("next_check_at <= $1 ORDER BY next_check_at LIMIT $2");
        let rows: Vec<ProofRow> =
            query_as(READ).bind(millis(now)).bind(limit).fetch_all(&self.readers).await?;
        rows.into_iter().map(ProofRow::read).collect()
    }

    /// How many claims stand where; those that nobody has are left out.
    pub async fn count_proofs(&self) -> Result<Vec<(ProofState, i64)>, StoreError> {
        const READ: &str = "SELECT state, count(*) FROM proof GROUP BY state";
        let rows: Vec<(String, i64)> = query_as(READ).fetch_all(&self.readers).await?;
        let counted = |(state, count): (String, i64)| {
            let unknown = || StoreError::Corrupt(format!("{state} is nowhere that a proof stands"));
            Ok((ProofState::parse(&state).ok_or_else(unknown)?, count))
        };
        rows.into_iter().map(counted).collect()
    }

    /// A customer's list, with where each line came from.
    pub async fn sender_lines(&self, customer_id: &CustomerId) -> Result<Vec<SenderLine>, StoreError> {
        const READ: &str = "SELECT pattern, origin FROM sender WHERE customer_id = $1 ORDER BY pattern";
        let rows: Vec<(String, String)> =
            query_as(READ).bind(customer_id.as_str()).fetch_all(&self.readers).await?;
        let line = |(pattern, origin): (String, String)| {
            let unknown = || StoreError::Corrupt(format!("{origin} is nowhere that senders come from"));
            let origin = Origin::parse(&origin).ok_or_else(unknown)?;
            Ok(SenderLine { pattern: stored(SenderPattern::parse(&pattern))?, origin })
        };
        rows.into_iter().map(line).collect()
    }
}

async fn find(
    connection: &mut Session<'_>,
    customer_id: &CustomerId,
    domain: &Domain,
) -> Result<Option<Proof>, StoreError> {
    const READ: &str = proofs!("customer_id = $1 AND domain = $2");
    let row: Option<ProofRow> =
        query_as(READ).bind(customer_id.as_str()).bind(domain.as_str()).fetch_optional(connection).await?;
    row.map(ProofRow::read).transpose()
}

/// Another customer for whom the domain is verified.
async fn owner(tx: &mut Session<'_>, of: &Proof) -> Result<Option<Proof>, StoreError> {
    const READ: &str = proofs!("domain = $1 AND state = 'verified' AND customer_id <> $2");
    // All who claim it: of two who are proven right at the same time one is first.
    const LOCK: &str = "
        SELECT customer_id FROM proof WHERE domain = $1 ORDER BY customer_id FOR NO KEY UPDATE";
    lock::rows(tx, query(LOCK).bind(of.domain.as_str())).await?;
    let row: Option<ProofRow> =
        query_as(READ).bind(of.domain.as_str()).bind(of.customer_id.as_str()).fetch_optional(tx).await?;
    row.map(ProofRow::read).transpose()
}

/// The line that a proof gives; one that the operator allowed stays the operator's.
async fn give(tx: &mut Session<'_>, proof: &Proof, now: Timestamp) -> Result<(), StoreError> {
    const GIVE: &str = "
        INSERT INTO sender (customer_id, pattern, created_at, origin) VALUES ($1, $2, $3, 'proof')
        ON CONFLICT DO NOTHING";
    query(GIVE)
        .bind(proof.customer_id.as_str())
        .bind(proof.domain.as_str())
        .bind(millis(now))
        .execute(tx)
        .await?;
    Ok(())
}

/// Exactly the line that the proof gave.
async fn take_back(tx: &mut Session<'_>, proof: &Proof) -> Result<(), StoreError> {
    const TAKE: &str = "DELETE FROM sender WHERE customer_id = $1 AND pattern = $2 AND origin = 'proof'";
    query(TAKE).bind(proof.customer_id.as_str()).bind(proof.domain.as_str()).execute(tx).await?;
    Ok(())
}

/// The operator denies a pattern: a claim to that domain ends, and is not made again
/// before the operator allows it. `false`: there is none.
pub(super) async fn deny(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    pattern: &SenderPattern,
) -> Result<bool, StoreError> {
    const DENY: &str = "
        UPDATE proof SET state = 'denied', next_check_at = NULL, expires_at = NULL, detail = NULL
        WHERE customer_id = $1 AND domain = $2 AND state IN ('adding', 'pending', 'verified', 'lost')";
    const TAKE: &str = "DELETE FROM sender WHERE customer_id = $1 AND pattern = $2";
    let SenderPattern::Domain(domain) = pattern else { return Ok(false) };
    let (customer, domain) = (customer_id.as_str(), domain.to_ascii());
    let done = query(DENY).bind(customer).bind(&domain).execute(&mut *tx).await?;
    query(TAKE).bind(customer).bind(&domain).execute(tx).await?;
    Ok(done.rows_affected() > 0)
}

/// The operator allows a pattern: a denial of that domain is over.
pub(super) async fn pardon(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
    pattern: &SenderPattern,
) -> Result<(), StoreError> {
    const PARDON: &str = "DELETE FROM proof WHERE customer_id = $1 AND domain = $2 AND state = 'denied'";
    let SenderPattern::Domain(domain) = pattern else { return Ok(()) };
    query(PARDON).bind(customer_id.as_str()).bind(domain.to_ascii()).execute(tx).await?;
    Ok(())
}
