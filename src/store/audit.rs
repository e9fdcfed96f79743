//! The audit: proof from the rows alone that messages, holds, captures and
//! settlements add up.
//!
//! Every check derives its truth from the finer rows (messages, captures,
//! entries) and never from the sum that it checks. Each is one statement that
//! returns the offenders; the whole audit sees one snapshot, so it is safe and
//! true on a running system. Rows that have left count by the sums that they left
//! behind: `closed` of the message and of the entry that a capture belonged to, and
//! the `closed_…` columns of the account for whole messages and entries.

mod checks;

use sha2::{Digest, Sha256};

use self::checks::{CHECKS, Check};
use super::spool::chunk_of;
use super::sql::{On, query_as, query_scalar};
use super::{Store, StoreError};
use crate::domain::digest::{hex, sha256_hex};

/// Something that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The table of the row.
    pub table: &'static str,
    /// Which row.
    pub row: String,
    /// What is wrong with it.
    pub problem: &'static str,
    /// By how many credits two sums disagree, where they are sums.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credits: Option<i64>,
}

/// Sums that disagree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drift {
    /// By how many credits, all together and whatever the direction; 0 is the proof.
    pub credits: i64,
    /// Where.
    pub findings: Vec<Finding>,
}

/// Offenders named at most for one check.
const SHOWN: usize = 20;

impl Store {
    /// Runs every check on one snapshot. An empty answer is the proof.
    pub async fn audit(&self) -> Result<Vec<Finding>, StoreError> {
        let mut tx = self.readers.begin().await?;
        tx.whole_tables().await?;
        findings(&mut On::from(&mut tx)).await
    }

    /// Runs the checks of sums alone, on one snapshot: cheap enough for now and then.
    pub async fn drift(&self) -> Result<Drift, StoreError> {
        let mut tx = self.readers.begin().await?;
        tx.whole_tables().await?;
        let mut drift = Drift::default();
        for check in CHECKS.iter().filter(|check| check.is_of_sums) {
            let offenders = check.offenders(&mut On::from(&mut tx)).await?;
            let credits = offenders.iter().filter_map(|offender| offender.credits);
            drift.credits = credits.fold(drift.credits, i64::saturating_add);
            drift.findings.extend(offenders.into_iter().take(SHOWN));
        }
        Ok(drift)
    }
}

/// Runs every check inside a transaction.
pub(super) async fn findings(tx: &mut On<'_>) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    for check in CHECKS {
        findings.extend(check.offenders(tx).await?.into_iter().take(SHOWN));
    }
    findings.extend(changed_bodies(tx).await?);
    Ok(findings)
}

/// Every check but that of the bodies' octets as one statement, for tests that
/// audit after every step: a line for each offender.
#[cfg(test)]
pub(super) static IN_ONE_STATEMENT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
    let one = |Check { table, problem, offenders, is_of_sums }: &Check| {
        let problem = problem.replace('\'', "''");
        let columns = if *is_of_sums { "'' AS offender, 0" } else { "'' AS offender" };
        format!(
            "SELECT '{table} ' || offender || ': {problem}'
             FROM (SELECT {columns} WHERE false UNION ALL SELECT * FROM ({offenders}) AS o) AS f"
        )
    };
    CHECKS.iter().map(one).collect::<Vec<_>>().join(" UNION ALL ")
});

impl Check {
    async fn offenders(&self, tx: &mut On<'_>) -> Result<Vec<Finding>, StoreError> {
        let found = |row, credits| Finding { table: self.table, row, problem: self.problem, credits };
        if self.is_of_sums {
            let rows: Vec<(String, Option<i64>)> = query_as(self.offenders).fetch_all(tx).await?;
            return Ok(rows.into_iter().map(|(row, credits)| found(row, credits)).collect());
        }
        let rows: Vec<String> = query_scalar(self.offenders).fetch_all(tx).await?;
        Ok(rows.into_iter().map(|row| found(row, None)).collect())
    }
}

/// Bodies whose octets are not those that were accepted.
async fn changed_bodies(tx: &mut On<'_>) -> Result<Vec<Finding>, StoreError> {
    /// Message, size, hash of its body; octets and hash of its spool.
    type Named = (String, i64, String, Option<i64>, Option<String>);
    const NAMES: &str = "
        SELECT m.message_id, m.size, m.body_sha256, s.octets, s.sha256
        FROM message m LEFT JOIN spool s ON s.message_id = m.message_id WHERE m.final_at IS NULL";
    const BODY: &str = "SELECT bytes FROM body WHERE message_id = $1 ORDER BY chunk_no";
    let mut findings = Vec::new();
    let names: Vec<Named> = query_as(NAMES).fetch_all(&mut *tx).await?;
    for (message_id, size, hash, octets, spool_hash) in names {
        let rows: Vec<Vec<u8>> = query_scalar(BODY).bind(&message_id).fetch_all(&mut *tx).await?;
        let bytes = rows.concat();
        let spooled = octets.unwrap_or(0);
        let other_size = i64::try_from(bytes.len()).is_ok_and(|len| len + spooled != size);
        let mut changed = Vec::new();
        if !rows.is_empty() && (other_size || sha256_hex(&bytes) != hash) {
            changed.push(("body", message_id.clone()));
        }
        if let Some(spool_hash) = spool_hash
            && hash_of_chunks(tx, &message_id).await? != (spooled, spool_hash)
        {
            changed.push(("chunk", message_id));
        }
        let problem = "its octets are not those that were accepted";
        findings.extend(changed.into_iter().map(|(table, row)| Finding {
            table,
            row,
            problem,
            credits: None,
        }));
    }
    Ok(findings)
}

/// Octets and hash of what a message has in its spool; one chunk in memory at a time.
async fn hash_of_chunks(tx: &mut On<'_>, message_id: &str) -> Result<(i64, String), StoreError> {
    let (mut hash, mut octets) = (Sha256::new(), 0);
    let mut chunk_no = 0;
    while let Some(chunk) = chunk_of(&mut *tx, message_id, chunk_no).await? {
        octets += i64::try_from(chunk.len()).unwrap_or(0);
        hash.update(&chunk);
        chunk_no += 1;
    }
    Ok((octets, hex(&hash.finalize())))
}
