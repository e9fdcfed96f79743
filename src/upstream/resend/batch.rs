//! One call for up to a hundred mails (resend.com/docs, "Send Batch Emails").
//!
//! Resend takes or refuses such a call as a whole, under one `Idempotency-Key`, and its
//! body is an array of what would be posted for each mail. Attachments have no place in it.

use std::time::Duration;

use bytes::Bytes;

use super::turns::Turn;
use super::{Request, Resend, no_answer, verdict};
use crate::upstream::{Answer, Outcome};

/// What became of a call for several mails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Together {
    /// Resend took all of them: its ids, in the order of the mails.
    Taken(Vec<String>),
    /// It took none, since something is wrong with one of them at least; nor has it taken
    /// this call before, since it knows the calls it took by their keys.
    Refused(Answer),
    /// It took none, since the account may not send one of them at least as things stand, or
    /// somebody on the way refused, who knows no keys; see [`Outcome::Barred`].
    Barred(Answer),
    /// It took none, since a quota has not so many left; fewer it may take.
    OverQuota {
        /// Which, in words.
        reason: String,
        /// When it may have.
        retry_after: Duration,
    },
    /// It answered that it failed, which may be the doing of one of them: `Unknown` for each.
    Failed(Outcome),
    /// The same for each: `Transient`, `Closed` or `Unknown`.
    Each(Outcome),
}

impl Resend {
    /// Makes one call for one mail, in a turn that was waited for.
    pub async fn send_alone(&self, turn: Turn, mail: Request, idempotency_key: &str) -> Outcome {
        self.post_in(turn, mail.json.clone(), idempotency_key, mail.recipients).await
    }

    /// Makes one call for several mails, in a turn that was waited for.
    pub async fn send_together(&self, turn: Turn, mails: Vec<Request>, idempotency_key: &str) -> Together {
        let count = mails.len();
        let json = array(mails);
        match self.call_with_key(turn, &["emails", "batch"], json, idempotency_key).await {
            Ok(answer) => verdict::of_together(&answer, count, self.clock.now()),
            Err(failure) => Together::Each(no_answer(failure)),
        }
    }
}

/// The same mails in the same order always make the same bytes.
fn array(mails: Vec<Request>) -> Bytes {
    let octets: usize = mails.iter().map(|mail| mail.json.len() + 1).sum();
    let mut json = Vec::with_capacity(octets + 1);
    json.push(b'[');
    for mail in mails {
        if json.len() > 1 {
            json.push(b',');
        }
        json.extend_from_slice(&mail.json);
    }
    json.push(b']');
    json.into()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::outbound::{CallFailure, HttpAnswer, RateInfo};

    #[test]
    fn resend_failed_where_it_says_so_and_not_where_it_says_nothing() {
        let answered = |status, body: &'static str| {
            let answer = HttpAnswer { status, body: body.into(), rate: RateInfo::default() };
            verdict::of_together(&answer, 2, Timestamp::UNIX_EPOCH)
        };
        let error = r#"{"name":"application_error","message":"Internal server error"}"#;
        let table = [
            (answered(500, error), true),
            (answered(503, "<html>"), true),
            (answered(409, r#"{"name":"concurrent_idempotent_requests","message":""}"#), false),
            (answered(200, r#"{"data":[]}"#), false),
            (answered(429, error), false),
            (Together::Each(no_answer(CallFailure::Lost("timeout".to_owned()))), false),
        ];
        for (together, want) in table {
            assert_eq!(matches!(together, Together::Failed(_)), want, "{together:?}");
        }
    }
}
