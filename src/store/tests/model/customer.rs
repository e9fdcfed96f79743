//! What customers ask for: messages, alone or many at once, and again under the
//! same key when they do not know what became of them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Broken;
use super::law::law;
use super::sender::Sending;
use super::steps::{Letter, NAMES, Who};
use super::world::{World, pick};
use crate::config::{Config, UpstreamKind};
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::credits::Unit;
use crate::domain::idempotency::{Fingerprinting, IdempotencyKey, KEY_LIFETIME, Keyed, Meaning};
use crate::domain::ids::MessageId;
use crate::routing::Routing;
use crate::store::accept::{Acceptance, Accepted, Kind};
use crate::store::idempotency::Earlier;
use crate::store::queue::LeasedPart;
use crate::store::tests::{id, mailbox, together};

/// Others who may be named when a message is tried again.
const OTHERS: [&str; 2] = ["d@y.example", "e@y.example"];

/// What a customer asked for under a key, and which messages were accepted for whom.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    who: Who,
    letter: Letter,
    accepted: Vec<(MessageId, Timestamp, Vec<Mailbox>)>,
}

impl Asked {
    /// What the key stands for now.
    fn live(&self, now: Timestamp) -> &[(MessageId, Timestamp, Vec<Mailbox>)] {
        let age = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap();
        let is_live = self.accepted.last().is_some_and(|(_, at, _)| age(*at) < KEY_LIFETIME);
        if is_live { &self.accepted } else { &[] }
    }

    /// What whoever asks for `meant` to these has to hear of it.
    fn meaning(&self, meant: Letter, to: &[Mailbox], now: Timestamp) -> Meaning {
        let live = self.live(now);
        if !live.is_empty() && meant != self.letter {
            return Meaning::Other;
        }
        let has_it = |recipient: &&Mailbox| live.iter().any(|(_, _, served)| served.contains(recipient));
        let served: Vec<_> = to.iter().filter(has_it).cloned().collect();
        let last = live.iter().rfind(|(_, _, by)| by.iter().any(|recipient| to.contains(recipient)));
        match last {
            Some((message_id, _, _)) if served.len() == to.len() => Meaning::All(message_id.clone()),
            _ => Meaning::Rest(served),
        }
    }
}

impl World {
    pub(super) async fn accept(&mut self, who: Who, letter: Letter, at_once: bool) -> Result<(), Broken> {
        let mut acceptance = self.letter(who, letter, at_once);
        // Not everybody gives a key.
        let is_keyed = !self.serial.is_multiple_of(3);
        acceptance.keyed = is_keyed.then(|| keyed(self.truth.asked.len(), letter));
        let answer = self.submit(vec![acceptance.clone()]).await?.remove(0)?;
        let mut asked = Asked { who, letter, accepted: Vec::new() };
        if let Accepted::Yes { available, .. } = answer {
            law!(available.is_some(), "P2: {letter:?} was accepted on no balance");
            asked.accepted.push((
                acceptance.message_id.clone(),
                acceptance.accepted_at,
                mailboxes(to(letter)),
            ));
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

    /// A customer who does not know the answer asks again, twice at the same time and
    /// perhaps for others (`whom`, a bit for each); or means something else by the same
    /// key. Each try looks first who is left, and looks again when it was overtaken.
    pub(super) async fn again(&mut self, nth: u8, is_other: bool, whom: [u8; 2]) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.truth.asked.len()) else { return Ok(()) };
        let nth = self.truth.asked.len() - 1 - nth;
        let letter = self.truth.asked[nth].letter;
        let meant = if is_other { Letter::Three } else { letter };
        let mut tries: Vec<Vec<Mailbox>> = whom.map(|whom| some_of(meant, whom)).into();
        for _ in 0..=whom.len() {
            let mut asking = Vec::new();
            for to in tries.drain(..) {
                if let Some(acceptance) = self.look(nth, meant, &to).await? {
                    asking.push((to, acceptance));
                }
            }
            let asked = asking.iter().map(|(_, acceptance)| acceptance.clone()).collect();
            for ((to, own), answer) in asking.into_iter().zip(self.submit(asked).await?) {
                if self.answered_again(nth, meant, (&to, own), answer?)? {
                    tries.push(to);
                }
            }
        }
        law!(tries.is_empty(), "P3: {meant:?} is overtaken without end");
        Ok(())
    }

    /// What is left to ask for, if anything.
    async fn look(
        &mut self,
        nth: usize,
        meant: Letter,
        to: &[Mailbox],
    ) -> Result<Option<Acceptance>, Broken> {
        let (asked, now) = (self.truth.asked[nth].clone(), self.clock.now());
        let keyed = keyed(nth, meant);
        let found = self.process.store.earlier(&id(NAMES[asked.who]), &keyed, to, now).await?;
        let told = format!("{asked:?}, again as {meant:?} to {to:?}, is found to be {found:?}");
        let served = match (found, asked.meaning(meant, to, now)) {
            (Earlier::Other, Meaning::Other) => return Ok(None),
            (Earlier::Same { message_id, .. }, Meaning::All(first)) if message_id == first => {
                return Ok(None);
            }
            (Earlier::Rest { served }, Meaning::Rest(want)) if served == want => served,
            _ => return Err(Broken(format!("P3: {told}"))),
        };
        let left: Vec<_> = to.iter().filter(|to| !served.contains(to)).cloned().collect();
        let keyed = Some(Keyed { served, ..keyed });
        Ok(Some(Acceptance { keyed, ..self.letter_to(asked.who, meant, &left, false) }))
    }

    /// Returns whether it was overtaken.
    fn answered_again(
        &mut self,
        nth: usize,
        meant: Letter,
        (to, own): (&[Mailbox], Acceptance),
        answer: Accepted,
    ) -> Result<bool, Broken> {
        let now = self.clock.now();
        let asked = &mut self.truth.asked[nth];
        let told = format!("{asked:?}, again as {meant:?} to {to:?}, answered {answer:?}");
        let served = &own.keyed.as_ref().unwrap().served;
        let is_right = match (asked.meaning(meant, to, now), &answer) {
            (Meaning::Other, answer) => *answer == Accepted::KeyReused,
            (Meaning::All(first), answer) => {
                matches!(answer, Accepted::Before { message_id, .. } if *message_id == first)
            }
            (Meaning::Rest(rest), Accepted::Overtaken) => rest != *served,
            (Meaning::Rest(rest), answer) => {
                rest == *served && !matches!(answer, Accepted::Before { .. } | Accepted::KeyReused)
            }
        };
        law!(is_right, "P3: {told}");
        if matches!(answer, Accepted::Yes { .. }) {
            let left = own.parts.iter().flat_map(|part| part.recipients.clone()).collect();
            if asked.live(now).is_empty() {
                (asked.letter, asked.accepted) = (meant, Vec::new());
            }
            asked.accepted.push((own.message_id.clone(), now, left));
            let who = asked.who;
            self.truth.acknowledged.push((own.message_id, who));
        }
        Ok(answer == Accepted::Overtaken)
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
        self.letter_to(who, letter, &mailboxes(to(letter)), at_once)
    }

    fn letter_to(&mut self, who: Who, letter: Letter, recipients: &[Mailbox], at_once: bool) -> Acceptance {
        let now = self.clock.now();
        let message_id = MessageId::generate(now, self.entropy());
        let unit = match letter {
            Letter::One | Letter::Mailed | Letter::Three | Letter::Hidden => Unit::Message,
            Letter::Each | Letter::MailedEach => Unit::Recipient,
        };
        let shown =
            if letter == Letter::Hidden { "nobody@y.example".to_owned() } else { to(letter).join(", ") };
        let bytes = format!("From: app@x.example\r\nTo: {shown}\r\nSubject: Hello\r\n\r\nWorld\r\n");
        let is_mailed = matches!(letter, Letter::Mailed | Letter::MailedEach | Letter::Hidden);
        let mut config = Config::default();
        config.upstream.kind = if is_mailed { UpstreamKind::Resend } else { UpstreamKind::Smtp };
        let routing = Routing::new(&config);
        Acceptance {
            customer_id: id(NAMES[who]),
            username: None,
            kind: Kind::Submission,
            reverse_path: ReversePath::parse("app@x.example").unwrap(),
            header_from: "app@x.example".to_owned(),
            subject: None,
            parts: routing.parts(&message_id, bytes.as_bytes(), recipients).unwrap(),
            bytes: bytes.into(),
            spooled: None,
            unit,
            price: unit.price(recipients.len()).unwrap(),
            accepted_at: now,
            lifetime: routing.lifetime(),
            lease_until: at_once.then(|| now + Duration::from_secs(30)),
            keyed: None,
            notes: Vec::new(),
            dsn: Arc::default(),
            message_id,
        }
    }
}

fn keyed(nth: usize, meant: Letter) -> Keyed {
    let key = IdempotencyKey::parse(&format!("key-{nth}")).unwrap();
    let fingerprint = Fingerprinting::of("model").field("meant", format!("{meant:?}").as_bytes()).end();
    Keyed { key, fingerprint, served: Vec::new() }
}

/// Whom a letter is for.
fn to(letter: Letter) -> &'static [&'static str] {
    match letter {
        Letter::One | Letter::Mailed => &["a@y.example"],
        Letter::Three | Letter::Hidden | Letter::Each => &["a@y.example", "b@y.example", "c@y.example"],
        Letter::MailedEach => &["a@y.example", "b@y.example"],
    }
}

fn mailboxes(to: &[&str]) -> Vec<Mailbox> {
    to.iter().map(|to| mailbox(to)).collect()
}

/// Those of a letter and of the others whose bits are set; where none is, the first.
fn some_of(letter: Letter, whom: u8) -> Vec<Mailbox> {
    let everybody = [to(letter), &OTHERS].concat();
    let is_named = |nth: &usize| whom >> nth & 1 == 1;
    let named = (0..everybody.len()).filter(is_named).map(|nth| everybody[nth]);
    let named: Vec<_> = named.collect();
    mailboxes(if named.is_empty() { &everybody[..1] } else { &named })
}

/// What submission hands over of a message that was leased in the insert.
fn handed_over(acceptance: Acceptance) -> impl Iterator<Item = LeasedPart> {
    let Acceptance {
        message_id,
        customer_id,
        kind,
        reverse_path,
        bytes,
        accepted_at,
        lifetime,
        parts,
        dsn,
        ..
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
        maybe_taken: Vec::new(),
        accepted_at,
        expires_at: accepted_at + lifetime,
        batch_max: part.batch_max,
        batch: None,
        bytes: bytes.clone(),
        dsn: Arc::clone(&dsn),
    })
}
