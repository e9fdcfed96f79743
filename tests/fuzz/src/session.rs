//! A whole session: the framing, the bodies and the session itself, put together as a
//! connection does it, while a model of what a client may rely on watches. Nothing is
//! handed in without a sign-in, a sender and a recipient; each true end of a body hands in
//! one message at most, with exactly the octets that were sent; each command has one answer.

mod model;
mod wire;

use postmeter::config::OutOfCreditReply;
use postmeter::domain::credits::Credits;
use postmeter::domain::ids::{CustomerId, MessageId, Username};
use postmeter::domain::refusal::Refusal;
use postmeter::smtp::data::{Decoder, Fed};
use postmeter::smtp::line::{Expected, Flaw};
use postmeter::smtp::reply::Reply;
use postmeter::smtp::session::{Chunk, Next, Receiving, Rules, Security, Session, Step};
use postmeter::submission::{Accepted, Begun, SignedIn};

use model::Model;
use wire::{Line, Wire};

const MAX_MESSAGE_BYTES: usize = 200;
const MAX_RECIPIENTS: usize = 3;

/// Pieces, as they arrive, with a bar between them. The first one is what the world answers
/// to one question after the other: `n` no, `x` the credential is no longer good, else yes;
/// if it begins with `t`, the connection is under TLS from the start.
pub fn check(input: &[u8]) {
    let mut pieces = input.split(|octet| *octet == b'|');
    let world = pieces.next().unwrap_or_default();
    let is_secure = world.first() == Some(&b't');
    let rules = Rules {
        hostname: "mx.example".to_owned(),
        max_message_bytes: MAX_MESSAGE_BYTES,
        max_recipients: MAX_RECIPIENTS,
        max_errors: 8,
        max_sign_in_failures: 4,
        max_idle_commands: 20,
        out_of_credit_reply: OutOfCreditReply::Temporary,
    };
    let mut talk = Talk {
        rules: &rules,
        answers: world.iter().copied().cycle(),
        wire: Wire::new(pieces.collect()),
        model: Model::new(is_secure),
    };
    let mut step = Session::open(if is_secure { Security::Tls } else { Security::Plain }, &rules);
    while let Some(next) = talk.goes_on(step) {
        step = next;
    }
}

struct Talk<'a, A> {
    rules: &'a Rules,
    answers: A,
    wire: Wire<'a>,
    model: Model,
}

impl<A: Iterator<Item = u8>> Talk<'_, A> {
    /// Does what the session says; `None` when it is over or the client has said everything.
    fn goes_on(&mut self, step: Step) -> Option<Step> {
        if let Some(reply) = &step.reply {
            self.model.answered(sound_reply(reply));
        }
        let rules = self.rules;
        match step.next {
            Next::Close => {
                self.model.closed();
                None
            }
            Next::Unpipelined(_) if !self.wire.is_idle() => None,
            Next::Command(session) => self.command(session, Session::command, Session::flawed),
            Next::Unpipelined(session) => {
                self.command(session, Session::unpipelined_command, Session::unpipelined_flaw)
            }
            Next::Response(authenticating) => {
                self.model.challenged();
                match self.wire.line(Expected::SaslResponse)? {
                    Line::Sound(line) => Some(authenticating.response(&line, rules)),
                    Line::Flawed(flaw) => Some(authenticating.flawed(flaw, rules)),
                }
            }
            Next::Handshake(upgrading) if !self.wire.is_idle() => Some(upgrading.pipelined()),
            Next::Handshake(upgrading) => {
                self.model.secured(sound_reply(&upgrading.offer()));
                Some(Step { reply: None, next: Next::Command(upgrading.secured()) })
            }
            Next::SignIn(signing_in) => {
                let answer = self.answer().map(|()| (signed_in(), Credits::new(7)));
                self.model.signing_in(answer.is_ok());
                Some(signing_in.answered(answer, rules))
            }
            Next::Begin(beginning) => {
                let answer = self.answer();
                self.model.begins(beginning.reverse_path(), &answer);
                Some(beginning.answered(answer.map(|()| Begun::default()), rules))
            }
            Next::Check(checking) => {
                let answer = self.answer();
                assert!((1..=MAX_RECIPIENTS).contains(&checking.recipients()));
                self.model.named(checking.recipient(), answer.is_ok());
                Some(checking.answered(answer.map(|()| None), rules))
            }
            Next::Body(receiving) => self.body(receiving),
            Next::Chunk(chunk) => self.chunk(chunk),
            Next::Submit(submit) => {
                self.model.submitted(&submit.envelope, &submit.whole);
                let answer = self.answer().map(|()| Accepted {
                    message_id: MessageId::parse("m1").expect("an id"),
                    available: Credits::new(6),
                });
                self.model.decided(&answer);
                Some(submit.submitting.answered(&answer, rules))
            }
        }
    }

    fn command(
        &mut self,
        session: Session,
        sound: fn(Session, &[u8], &Rules) -> Step,
        flawed: fn(Session, Flaw, &Rules) -> Step,
    ) -> Option<Step> {
        self.model.settled(session.is_signed_in(), session.is_mid_message());
        match self.wire.line(Expected::Command)? {
            Line::Sound(line) => {
                self.model.says(&line);
                Some(sound(session, &line, self.rules))
            }
            Line::Flawed(flaw) => {
                self.model.says(b"");
                Some(flawed(session, flaw, self.rules))
            }
        }
    }

    fn body(&mut self, receiving: Receiving) -> Option<Step> {
        self.model.body_begins();
        let mut decoder = Decoder::new(MAX_MESSAGE_BYTES);
        let mut stream = Vec::new();
        loop {
            let piece = self.wire.take_all();
            let fed = decoder.feed(&piece);
            stream.extend_from_slice(&piece);
            if let Fed::End { consumed } = fed {
                let behind = piece.get(consumed..).expect("no more than there was");
                self.wire.give_back(behind);
                stream.truncate(stream.len() - behind.len());
                assert_eq!(super::data::end(&stream), Some(stream.len()), "{}", stream.escape_ascii());
                self.model.body_ended(super::data::body(&stream, MAX_MESSAGE_BYTES));
                return Some(receiving.ended(decoder.finish(), self.rules));
            }
            assert_eq!(super::data::end(&stream), None, "{}", stream.escape_ascii());
            if self.wire.arrives() {
                continue;
            }
            if !decoder.at_doubtful_end() {
                return None;
            }
            let step = receiving.ended_in_doubt(decoder.finish(), self.rules);
            assert!(matches!(step.next, Next::Close));
            return Some(step);
        }
    }

    fn chunk(&mut self, mut chunk: Chunk) -> Option<Step> {
        let is_part = chunk.kept().is_some();
        let mut octets = Vec::new();
        loop {
            let piece = self.wire.take_all();
            let used = chunk.feed(&piece);
            let (own, behind) = piece.split_at(used);
            octets.extend_from_slice(own);
            self.wire.give_back(behind);
            if chunk.is_complete() {
                break;
            }
            assert!(behind.is_empty(), "all that has come belongs to it");
            if !self.wire.arrives() {
                return None;
            }
        }
        self.model.chunk_arrived(&octets, is_part);
        Some(chunk.arrived(self.rules))
    }

    fn answer(&mut self) -> Result<(), Refusal> {
        match self.answers.next() {
            Some(b'n') => Err(Refusal::StoreUnavailable),
            Some(b'x') => Err(Refusal::BadCredential),
            _ => Ok(()),
        }
    }
}

fn signed_in() -> SignedIn {
    SignedIn {
        customer_id: CustomerId::parse("cus_1").expect("an id"),
        username: Some(Username::parse("pm-1").expect("a username")),
    }
}

/// The code of a reply whose every line is one (RFC 5321 §4.2, §4.5.3.1.5).
pub(super) fn sound_reply(reply: &Reply) -> u16 {
    let mut out = Vec::new();
    reply.render(&mut out);
    let text = String::from_utf8(out).expect("replies are ASCII");
    let lines: Vec<&str> = text.split_inclusive("\r\n").collect();
    let (last, code) = (lines.len() - 1, text.get(..3).expect("a code"));
    for (index, line) in lines.iter().enumerate() {
        let inside = line.strip_suffix("\r\n").expect("each line ends");
        assert!(inside.bytes().all(|octet| matches!(octet, b' '..=b'~')) && line.len() <= 512, "{line:?}");
        assert!(
            inside.starts_with(code) && inside[3..].starts_with(if index == last { ' ' } else { '-' }),
            "{text:?}"
        );
    }
    code.parse().ok().filter(|code| (200..600).contains(code)).expect("a code")
}
