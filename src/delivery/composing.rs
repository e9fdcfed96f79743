//! Memory for calls that are composed: what their requests take, whatever the messages
//! that they are made of. The messages themselves are counted by those who read them.

use crate::memory::{Memory, Share};
use crate::store::queue::LeasedPart;

/// All of it.
const BYTES: usize = 128 << 20;
/// An octet of a message is six of JSON at most, where it is a control character.
const FACTOR: usize = 6;
/// What JSON says of each recipient, and of each mail beside its text.
const RECIPIENT_BYTES: usize = 1 << 10;
const MAIL_BYTES: usize = 4 << 10;
/// The mails are in memory one by one, and as the array that is posted.
const COPIES: usize = 2;

/// The budget of all calls. Whoever waits for it has a place, and whoever has of it waits for
/// nothing but a turn and an answer.
#[derive(Debug)]
pub(super) struct Composing(Memory);

/// What a call has of it, until it has ended.
#[derive(Debug)]
pub(super) struct Room(Option<Share>);

impl Default for Composing {
    fn default() -> Self {
        Self(Memory::new(BYTES))
    }
}

impl Composing {
    /// Waits for all that the requests of these parts may take.
    pub(super) async fn room<'p>(&self, parts: impl Iterator<Item = &'p LeasedPart>) -> Room {
        Room(self.0.wait_for(most_of(parts)).await)
    }

    /// The same, if there is so much now.
    pub(super) fn room_at_once<'p>(&self, parts: impl Iterator<Item = &'p LeasedPart>) -> Option<Room> {
        let mut share = self.0.share();
        share.resize(most_of(parts)).then_some(Room(Some(share)))
    }
}

impl Room {
    /// Gives back what requests of so many octets each do not take.
    pub(super) fn keep(&mut self, requests: impl Iterator<Item = usize>) {
        let octets = COPIES.saturating_mul(requests.sum());
        if let Some(share) = &mut self.0 {
            // It had more.
            let _ = share.resize(octets);
        }
    }
}

fn most_of<'p>(parts: impl Iterator<Item = &'p LeasedPart>) -> usize {
    parts.map(|part| most(part.bytes.len(), part.recipients.len())).sum()
}

/// The most that the request of a part takes, in all its copies.
fn most(octets: usize, recipients: usize) -> usize {
    let json = octets.saturating_mul(FACTOR).saturating_add(recipients.saturating_mul(RECIPIENT_BYTES));
    json.saturating_add(MAIL_BYTES).saturating_mul(COPIES)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::address::{Mailbox, ReversePath};
    use crate::domain::ids::PartId;
    use crate::memory::GRAIN;
    use crate::upstream::Outgoing;
    use crate::upstream::resend::Request;
    use crate::upstream::translating::Translating;

    #[tokio::test]
    async fn p7_no_request_takes_more_than_its_call_has_waited_for() {
        let head = "From: a@x.example\r\nTo: b@y.example\r\nSubject: s\r\n";
        let long = format!("{}@{}.example", "l".repeat(64), "d".repeat(60));
        let hidden = (1..50).map(|nth| format!("{nth}{}", &long[2..]));
        let all: Vec<String> = std::iter::once("b@y.example".to_owned()).chain(hidden).collect();
        let table = [
            (
                "control characters",
                format!("{head}\r\n{}", "\u{1}".repeat(9_000)),
                vec!["b@y.example".to_owned()],
            ),
            ("quotes", format!("{head}\r\n{}", "\"".repeat(9_000)), vec!["b@y.example".to_owned()]),
            ("line ends", format!("{head}\r\n{}", "\r\n".repeat(4_000)), vec!["b@y.example".to_owned()]),
            ("nothing", format!("{head}\r\n"), vec!["b@y.example".to_owned()]),
            ("fifty recipients", format!("{head}\r\n"), all),
            (
                "a header of quotes",
                format!("{head}X-Odd: {}\r\n\r\nx", "\"\\".repeat(400)),
                vec!["b@y.example".to_owned()],
            ),
        ];
        let translating = Translating::new(1 << 20);
        for (what, message, to) in table {
            let (octets, recipients) = (message.len(), to.len());
            let outgoing = Outgoing {
                part_id: PartId::parse("m1-0").unwrap(),
                idempotency_key: "m1-0-0".to_owned(),
                reverse_path: ReversePath::Null,
                recipients: to.iter().map(|to| Mailbox::parse(to).unwrap()).collect(),
                repeats: None,
                bytes: message.into(),
                dsn: Arc::default(),
                tenure: crate::upstream::tenure::Tenure::for_good(),
            };
            let made = Request::make_each(vec![outgoing], &translating).await.pop().unwrap();
            let request = made.unwrap().0.octets();
            assert!(request * COPIES <= most(octets, recipients), "{what}: {request} of {octets}");
        }
    }

    #[tokio::test]
    async fn a_call_waits_for_room_and_keeps_what_it_takes() {
        let composing = Composing(Memory::new(10 * GRAIN));
        let mut room = Room(composing.0.wait_for(8 * GRAIN).await);
        let mut next = Box::pin(composing.0.wait_for(5 * GRAIN));
        for kept in [3, 2] {
            let is_there = tokio::select! {
                biased;
                _ = &mut next => true,
                () = std::future::ready(()) => false,
            };
            assert!(!is_there, "{kept}");
            room.keep([kept * GRAIN / 2, kept * GRAIN / 2].into_iter());
        }
        assert!(next.await.is_some());
    }
}
