//! What credentials with caps have sent: counted in the transaction that accepts, by
//! whoever has their customer's account, so that no cap is ever exceeded, whichever servers take the
//! messages in. A credential without caps costs nothing: what is asked about it is asked anyway.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::sql::{Session, query};
use super::{StoreError, changed, json, stored};
use crate::domain::caps::{Caps, Reached, Tally};
use crate::domain::ids::Username;

/// The credentials of a batch of which there is more to say than that they are there.
#[derive(Debug, Default)]
pub(super) struct Special {
    revoked: BTreeSet<String>,
    tallies: BTreeMap<String, Tally>,
    taken: BTreeSet<String>,
}

impl Special {
    /// Takes in what stands about one: username, revocation, caps and counts, in this order.
    pub(super) fn read(&mut self, line: &str) -> Result<(), StoreError> {
        let mut words = line.split(' ');
        let username = words.next().unwrap_or_default().to_owned();
        let mut number = || match words.next().unwrap_or("-") {
            "-" => Ok(None),
            word => stored(word.parse::<i64>()).map(Some),
        };
        if number()?.is_some() {
            self.revoked.insert(username);
            return Ok(());
        }
        let tally = tally((number()?, number()?), (number()?, number()?, number()?))?;
        if tally.caps.is_some() {
            self.tallies.insert(username, tally);
        }
        Ok(())
    }

    pub(super) fn is_revoked(&self, username: &Username) -> bool {
        self.revoked.contains(username.as_str())
    }

    /// Whether one more may be sent with this credential.
    pub(super) fn check(&self, username: Option<&Username>, now: Timestamp) -> Result<(), Reached> {
        let tally = username.and_then(|username| self.tallies.get(username.as_str()));
        tally.map_or(Ok(()), |tally| tally.check(now))
    }

    /// Counts one that was accepted.
    pub(super) fn take(&mut self, username: Option<&Username>, now: Timestamp) {
        let Some(username) = username.map(Username::as_str) else { return };
        if let Some(tally) = self.tallies.get_mut(username)
            && tally.take(now).is_ok()
        {
            self.taken.insert(username.to_owned());
        }
    }

    /// Writes the counts that have changed; mostly there are none, and nothing is asked.
    pub(super) async fn write(&self, tx: &mut Session<'_>) -> Result<(), StoreError> {
        const WRITE: &str = "
            UPDATE credential SET counted_minute = t.minute, in_minute = t.in_minute, in_day = t.in_day
            FROM (SELECT value ->> 0 AS username, CAST(value ->> 1 AS BIGINT) AS minute,
                         CAST(value ->> 2 AS BIGINT) AS in_minute, CAST(value ->> 3 AS BIGINT) AS in_day
                  FROM json_each($1)) AS t
            WHERE credential.username = t.username";
        if self.taken.is_empty() {
            return Ok(());
        }
        let of = |username: &String| self.tallies.get(username).map(|tally| (username.clone(), *tally));
        let row =
            |(username, tally): (String, Tally)| (username, tally.minute, tally.in_minute, tally.in_day);
        let rows: Vec<_> = self.taken.iter().filter_map(of).map(row).collect();
        let done = query(WRITE).bind(json(&rows)?).execute(tx).await?;
        changed("what a credential has sent", done.rows_affected(), rows.len())
    }
}

/// Caps out of their columns: per day, per minute.
pub(super) fn caps(per_day: Option<i64>, per_minute: Option<i64>) -> Result<Caps, StoreError> {
    let cap = |cap: Option<i64>| stored(cap.map(u32::try_from).transpose());
    Ok(Caps { per_day: cap(per_day)?, per_minute: cap(per_minute)? })
}

/// The same with what was sent: the minute of the last message, how many in it and in its day.
pub(super) fn tally(
    (per_day, per_minute): (Option<i64>, Option<i64>),
    (minute, in_minute, in_day): (Option<i64>, Option<i64>, Option<i64>),
) -> Result<Tally, StoreError> {
    let count = |count: Option<i64>| stored(u32::try_from(count.unwrap_or_default()));
    let (in_minute, in_day) = (count(in_minute)?, count(in_day)?);
    let caps = caps(per_day, per_minute)?;
    Ok(Tally { caps, minute: minute.unwrap_or_default(), in_minute, in_day })
}
