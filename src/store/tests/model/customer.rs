//! What customers ask for: messages, alone or many at once, and again under the
//! same key when they do not know what became of them.

use std::time::Duration;

use jiff::Timestamp;

use super::Broken;
use super::law::law;
use super::sender::Sending;
use super::steps::{Letter, NAMES, Who};
use super::world::{World, pick};
use crate::config::{Config, UpstreamKind};
use crate::domain::address::ReversePath;
use crate::domain::credits::Unit;
use crate::domain::idempotency::{Fingerprinting, IdempotencyKey, KEY_LIFETIME, Keyed};
use crate::domain::ids::MessageId;
use crate::routing::Routing;
use crate::store::accept::{Acceptance, Accepted, Kind};
use crate::store::queue::LeasedPart;
use crate::store::tests::{id, mailbox, together};

/// What a customer asked for under a key, and when it was accepted as which message.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    who: Who,
    letter: Letter,
    accepted: Option<(MessageId, Timestamp)>,
}

impl World {
    pub(super) async fn accept(&mut self, who: Who, letter: Letter, at_once: bool) -> Result<(), Broken> {
        let mut acceptance = self.letter(who, letter, at_once);
        // Not everybody gives a key.
        let is_keyed = !self.serial.is_multiple_of(3);
        acceptance.keyed = is_keyed.then(|| keyed(self.truth.asked.len(), letter));
        let answer = self.submit(vec![acceptance.clone()]).await?.remove(0)?;
        let mut asked = Asked { who, letter, accepted: None };
        if let Accepted::Yes { available, .. } = answer {
            law!(available.is_some(), "P2: {letter:?} was accepted on no balance");
            asked.accepted = Some((acceptance.message_id.clone(), acceptance.accepted_at));
            self.truth.acknowledged.push((acceptance.message_id.clone(), who));
            if at_once {
                self.process.sending.extend(handed_over(acceptance).map(Sending::new));
            }
        }
        if is_keyed {
            self.truth.asked.push(asked);
        }
        Ok(())
    }

    /// A customer who does not know the answer asks again, twice at the same time;
    /// or means something else by the same key.
    pub(super) async fn again(&mut self, nth: u8, is_other: bool) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.truth.asked.len()) else { return Ok(()) };
        let nth = self.truth.asked.len() - 1 - nth;
        let Asked { who, letter, accepted } = self.truth.asked[nth].clone();
        let meant = if is_other { Letter::Three } else { letter };
        let is_other = meant != letter;
        let again = |world: &mut Self| Acceptance {
            keyed: Some(keyed(nth, meant)),
            ..world.letter(who, meant, false)
        };
        let asked = vec![again(self), again(self)];
        let now = self.clock.now();
        let before =
            accepted.filter(|(_, at)| Duration::try_from(now.duration_since(*at)).unwrap() < KEY_LIFETIME);
        let mut first = before.as_ref().map(|(message_id, _)| message_id.clone());
        let ids: Vec<_> = asked.iter().map(|acceptance| acceptance.message_id.clone()).collect();
        for (own, answer) in ids.into_iter().zip(self.submit(asked).await?) {
            let told = || format!("{letter:?} as {first:?}, again as {meant:?}, answered");
            match answer? {
                Accepted::Yes { .. } => {
                    law!(first.is_none(), "P3: {} as if it were new", told());
                    self.truth.acknowledged.push((own.clone(), who));
                    self.truth.asked[nth] = Asked { who, letter: meant, accepted: Some((own.clone(), now)) };
                    first = Some(own);
                }
                Accepted::Before { message_id, .. } => {
                    let is_right = before.is_none() || !is_other;
                    law!(first.as_ref() == Some(&message_id) && is_right, "P3: {} as {message_id}", told());
                }
                Accepted::KeyReused => law!(before.is_some() && is_other, "P3: {} as another", told()),
                _ => law!(first.is_none(), "P3: {} with a refusal", told()),
            }
        }
        Ok(())
    }

    /// Returns how many were accepted.
    pub(super) async fn rush(&mut self, who: Who, many: usize) -> Result<usize, Broken> {
        let asked: Vec<Acceptance> = (0..many).map(|_| self.letter(who, Letter::One, false)).collect();
        let ids: Vec<MessageId> = asked.iter().map(|acceptance| acceptance.message_id.clone()).collect();
        let mut taken = 0;
        for (message_id, answer) in ids.into_iter().zip(together(&self.process.store, asked).await) {
            if matches!(answer?, Accepted::Yes { .. }) {
                taken += 1;
                self.truth.acknowledged.push((message_id, who));
            }
        }
        Ok(taken)
    }

    fn letter(&mut self, who: Who, letter: Letter, at_once: bool) -> Acceptance {
        let now = self.clock.now();
        let message_id = MessageId::generate(now, self.entropy());
        let (to, unit): (&[&str], _) = match letter {
            Letter::One | Letter::Mailed => (&["a@y.example"], Unit::Message),
            Letter::Three | Letter::Hidden => (&["a@y.example", "b@y.example", "c@y.example"], Unit::Message),
            Letter::Each => (&["a@y.example", "b@y.example", "c@y.example"], Unit::Recipient),
            Letter::MailedEach => (&["a@y.example", "b@y.example"], Unit::Recipient),
        };
        let shown = if letter == Letter::Hidden { "nobody@y.example".to_owned() } else { to.join(", ") };
        let bytes = format!("From: app@x.example\r\nTo: {shown}\r\nSubject: Hello\r\n\r\nWorld\r\n");
        let is_mailed = matches!(letter, Letter::Mailed | Letter::MailedEach | Letter::Hidden);
        let mut config = Config::default();
        config.upstream.kind = if is_mailed { UpstreamKind::Resend } else { UpstreamKind::Smtp };
        let routing = Routing::new(&config);
        let recipients: Vec<_> = to.iter().map(|to| mailbox(to)).collect();
        Acceptance {
            customer_id: id(NAMES[who]),
            username: None,
            kind: Kind::Submission,
            reverse_path: ReversePath::parse("app@x.example").unwrap(),
            header_from: "app@x.example".to_owned(),
            subject: None,
            parts: routing.parts(&message_id, bytes.as_bytes(), &recipients).unwrap(),
            bytes: bytes.into(),
            unit,
            price: unit.price(recipients.len()).unwrap(),
            accepted_at: now,
            lifetime: routing.lifetime(),
            lease_until: at_once.then(|| now + Duration::from_secs(30)),
            keyed: None,
            message_id,
        }
    }
}

fn keyed(nth: usize, meant: Letter) -> Keyed {
    let key = IdempotencyKey::parse(&format!("key-{nth}")).unwrap();
    Keyed { key, fingerprint: Fingerprinting::of("model").rest([format!("{meant:?}").as_bytes()]) }
}

/// What submission hands over of a message that was leased in the insert.
fn handed_over(acceptance: Acceptance) -> impl Iterator<Item = LeasedPart> {
    let Acceptance {
        message_id, customer_id, kind, reverse_path, bytes, accepted_at, lifetime, parts, ..
    } = acceptance;
    (0..).zip(parts).map(move |(part_no, part)| LeasedPart {
        message_id: message_id.clone(),
        part_no,
        customer_id: customer_id.clone(),
        kind,
        road: part.road,
        attempt: 1,
        key_no: 0,
        first_try_at: accepted_at,
        unknown: false,
        request_hash: part.request_hash,
        reverse_path: reverse_path.clone(),
        recipients: part.recipients,
        accepted_at,
        expires_at: accepted_at + lifetime,
        bytes: bytes.clone(),
    })
}
