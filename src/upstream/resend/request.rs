//! The request of one call, made from its part.
//!
//! A large one is made in its turn ([`Translating`]). Whoever hands a part in counts
//! its message; that leaves memory when the request is made, which takes its room. What
//! the request of a large message is larger than that stays of its turn.

use std::time::Duration;

use bytes::Bytes;

use crate::domain::digest::sha256_hex;
use crate::upstream::translate::{CannotCarry, Translatable};
use crate::upstream::translating::{AT_ONCE, NotTranslated, SMALL, Translating, Turn};
use crate::upstream::{Answer, Outcome, Outgoing, RecipientAnswer};

/// How long a part is put off that got no turn, which took two minutes already.
const TURN_RETRY: Duration = Duration::from_secs(30);

/// What is posted.
#[derive(Debug)]
pub struct Request {
    pub(super) json: Bytes,
    pub(super) idempotency_key: String,
    pub(super) recipients: usize,
    /// Held until the call has ended.
    _surplus: Option<Turn>,
}

impl Request {
    /// Makes the request of a part; waits for its turn where that is large.
    ///
    /// # Errors
    /// What became of the attempt without a call: refused, put off, or not to be repeated.
    pub async fn make(outgoing: Outgoing, translating: &Translating) -> Result<Self, Outcome> {
        let (octets, recipients) = (outgoing.bytes.len(), outgoing.recipients.len());
        let idempotency_key = outgoing.idempotency_key.clone();
        if octets <= SMALL {
            let json = if octets <= AT_ONCE {
                checked(outgoing)
            } else {
                translating.aside(|| checked(outgoing)).await.map_err(put_off)?
            };
            return Ok(Self { json: json?.into(), idempotency_key, recipients, _surplus: None });
        }
        let turn = translating.turn(octets).await.map_err(put_off)?;
        let (json, turn) = turn.run(move || checked(outgoing)).await.map_err(put_off)?;
        let json = json?;
        let surplus = turn.keep(json.len().saturating_sub(octets));
        Ok(Self { json: json.into(), idempotency_key, recipients, _surplus: Some(surplus) })
    }

    /// What it takes in memory.
    pub fn octets(&self) -> usize {
        self.json.len()
    }

    /// Makes the requests of small parts that leave together, each for itself, with the
    /// SHA-256 by which each is known when it is made again.
    ///
    /// # Errors
    /// Of each: what became of it without a call.
    pub async fn make_each(
        parts: Vec<Outgoing>,
        translating: &Translating,
    ) -> Vec<Result<(Self, String), Outcome>> {
        let (octets, count): (usize, _) = (parts.iter().map(|part| part.bytes.len()).sum(), parts.len());
        let make = || parts.into_iter().map(Self::small).collect();
        if octets <= AT_ONCE {
            return make();
        }
        let put_off = |reason| (0..count).map(|_| Err(put_off(reason))).collect();
        translating.aside(make).await.unwrap_or_else(put_off)
    }

    fn small(outgoing: Outgoing) -> Result<(Self, String), Outcome> {
        let (idempotency_key, recipients) = (outgoing.idempotency_key.clone(), outgoing.recipients.len());
        let json = checked(outgoing)?;
        let hash = sha256_hex(&json);
        Ok((Self { json: json.into(), idempotency_key, recipients, _surplus: None }, hash))
    }
}

#[cfg(test)]
impl Request {
    /// A request of these octets, to one.
    pub(super) fn of(json: &'static [u8]) -> Self {
        Self { json: Bytes::from_static(json), idempotency_key: String::new(), recipients: 1, _surplus: None }
    }
}

/// The request, which is the earlier one where one of them may have been taken.
fn checked(outgoing: Outgoing) -> Result<Vec<u8>, Outcome> {
    match (json_of(&outgoing), &outgoing.repeats) {
        (Ok(json), None) => Ok(json),
        (Ok(json), Some(hash)) if sha256_hex(&json) == *hash => Ok(json),
        (_, Some(_)) => Err(Outcome::Unrepeatable),
        (Err(cannot), None) => {
            let refused = RecipientAnswer::Refused(Answer::new(cannot.status, &cannot.what));
            let answers = vec![refused; outgoing.recipients.len()];
            Err(Outcome::Answered { upstream_id: None, answers, host: None })
        }
    }
}

/// The same part always makes the same bytes; the idempotency key relies on it.
pub(crate) fn json_of(outgoing: &Outgoing) -> Result<Vec<u8>, CannotCarry> {
    let message = Translatable::parse(&outgoing.bytes)?;
    Ok(message.email(&outgoing.recipients, &outgoing.part_id)?.to_json())
}

/// Nothing was sent. That others came first is not the part's fault, nor Resend's.
fn put_off(reason: NotTranslated) -> Outcome {
    let is_crowded = reason == NotTranslated::Crowded;
    Outcome::Transient {
        answer: Answer::new("4.3.0", &reason.to_string()),
        retry_after: is_crowded.then_some(TURN_RETRY),
        counts: !is_crowded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::address::{Mailbox, ReversePath};
    use crate::domain::ids::PartId;
    use crate::memory::GRAIN;

    const LARGE: usize = SMALL + GRAIN;
    /// Four times a large message.
    const TURN: usize = 4 * LARGE;

    /// A part whose message has so many octets.
    fn part(octets: usize, line: &str) -> Outgoing {
        let mut bytes = "From: a@x.example\r\nTo: b@y.example\r\nSubject: s\r\n\r\n".to_owned();
        while bytes.len() + line.len() <= octets {
            bytes.push_str(line);
        }
        bytes.push_str(&"x".repeat(octets - bytes.len()));
        Outgoing {
            part_id: PartId::parse("m1-0").unwrap(),
            idempotency_key: "m1-0-0".to_owned(),
            reverse_path: ReversePath::Null,
            recipients: vec![Mailbox::parse("b@y.example").unwrap()],
            repeats: None,
            bytes: bytes.into(),
            dsn: std::sync::Arc::default(),
            tenure: crate::upstream::tenure::Tenure::for_good(),
        }
    }

    #[tokio::test]
    async fn p7_many_large_requests_at_once_stay_within_the_budgets() {
        let translating = Translating::new(3 * TURN);
        // Most of its octets are two in JSON.
        let octets = [LARGE, SMALL + 1, LARGE];
        let parts = (0..30).map(|nth| part(octets[nth % 3], if nth % 2 == 0 { "\"\"\"\"" } else { "text " }));
        let making: Vec<_> = parts
            .map(|part| {
                let (translating, message) = (translating.clone(), part.bytes.len());
                tokio::spawn(async move {
                    let request = Request::make(part, &translating).await.unwrap();
                    // What its message counted for, and what it kept of its turn.
                    let kept = request._surplus.as_ref().map_or(0, Turn::octets);
                    assert!(request.json.len() <= message + kept, "{message} {kept}");
                    assert!(request.json.len() + GRAIN > kept, "and no more");
                    kept
                })
            })
            .collect();
        let mut kept = Vec::new();
        for request in making {
            kept.push(request.await.unwrap());
        }
        assert!(
            kept.iter().any(|kept| *kept > SMALL / 2) && kept.iter().any(|kept| *kept <= GRAIN),
            "{kept:?}"
        );
        assert!(translating.turn(3 * LARGE).await.is_ok(), "all of it came back");
    }

    #[tokio::test]
    async fn p7_a_small_mail_is_ready_while_a_large_one_waits_for_its_turn() {
        let translating = Translating::new(TURN);
        let turn = translating.turn(LARGE).await.unwrap();
        let mut large = Box::pin(Request::make(part(LARGE, "text "), &translating));
        let small = tokio::select! {
            biased;
            _ = &mut large => panic!("it had no turn"),
            small = Request::make(part(SMALL, "text "), &translating) => small.unwrap(),
        };
        assert!(small.json.len() > SMALL / 2);
        drop(turn);
        assert!(large.await.unwrap().json.len() > LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gets_no_turn_is_put_off_and_not_blamed() {
        let translating = Translating::new(TURN);
        let _turn = translating.turn(LARGE).await.unwrap();
        let hash = sha256_hex(&json_of(&part(LARGE, "text ")).unwrap());
        for repeats in [None, Some(hash)] {
            let part = Outgoing { repeats, ..part(LARGE, "text ") };
            let outcome = Request::make(part, &translating).await.unwrap_err();
            let Outcome::Transient { retry_after, counts, .. } = outcome else { panic!("{outcome:?}") };
            assert_eq!((retry_after, counts), (Some(TURN_RETRY), false));
        }
    }

    #[tokio::test]
    async fn p4_requests_that_leave_together_are_those_of_the_parts_alone() {
        let translating = Translating::new(0);
        for octets in [100, AT_ONCE] {
            let lost = Outgoing { repeats: Some(sha256_hex(b"another")), ..part(octets, "text ") };
            let parts = vec![part(octets, "text "), lost, part(octets, "\"\"")];
            let made = Request::make_each(parts, &translating).await;
            let alone = Request::make(part(octets, "text "), &translating).await.unwrap();
            let (first, hash) = made[0].as_ref().unwrap();
            assert_eq!((&first.json, hash), (&alone.json, &sha256_hex(&alone.json)));
            assert_eq!(made[1].as_ref().unwrap_err(), &Outcome::Unrepeatable);
            assert!(made[2].is_ok());
        }
    }

    #[tokio::test]
    async fn p4_a_request_is_repeated_as_it_was_or_not_at_all() {
        let translating = Translating::new(2 * TURN);
        for octets in [100, SMALL, LARGE] {
            let made = |repeats: Option<String>| {
                let part = Outgoing { repeats, ..part(octets, "text ") };
                let translating = translating.clone();
                async move { Request::make(part, &translating).await }
            };
            let first = made(None).await.unwrap();
            let again = made(Some(sha256_hex(&first.json))).await.unwrap();
            assert_eq!(again.json, first.json);
            assert_eq!(made(Some(sha256_hex(b"another"))).await.unwrap_err(), Outcome::Unrepeatable);
            // Nor is somebody refused who may have it.
            let unreadable =
                |repeats| Outgoing { repeats, bytes: Bytes::from(vec![b'x'; octets]), ..part(100, "text ") };
            let refused = Request::make(unreadable(None), &translating).await.unwrap_err();
            assert!(matches!(refused, Outcome::Answered { .. }), "{refused:?}");
            let held = Request::make(unreadable(Some("hash".to_owned())), &translating).await.unwrap_err();
            assert_eq!(held, Outcome::Unrepeatable);
        }
    }
}
