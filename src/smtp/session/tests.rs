mod chunks;

use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, MessageId, Username};
use crate::domain::refusal::Refusal;
use crate::submission::{Accepted, Begun, SignedIn};

use super::super::data::{Body, Flaw as BodyFlaw};
use super::*;

fn rules() -> Rules {
    Rules {
        hostname: "mx.example".to_owned(),
        max_message_bytes: 1_000,
        max_recipients: 2,
        max_errors: 3,
        max_sign_in_failures: 2,
        max_idle_commands: 20,
        out_of_credit_reply: OutOfCreditReply::Temporary,
    }
}

fn signed_in() -> SignedIn {
    SignedIn {
        customer_id: CustomerId::parse("cus_1").unwrap(),
        username: Some(Username::parse("pm-1").unwrap()),
    }
}

/// The world as a test wants it.
struct World {
    sign_in: Result<(), Refusal>,
    begin: Result<(), Refusal>,
    check: Result<(), Refusal>,
    submit: Result<(), Refusal>,
    body: Body,
    /// Whether it was given up before its end.
    is_endless: bool,
    /// What chunks are made of, again and again.
    octets: Vec<u8>,
    /// Whether there is room to keep them.
    room: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            sign_in: Ok(()),
            begin: Ok(()),
            check: Ok(()),
            submit: Ok(()),
            body: Body::Whole(b"x\r\n".to_vec().into()),
            is_endless: false,
            octets: b"x\r\n".to_vec(),
            room: true,
        }
    }
}

/// A session together with what it has said and handed in.
struct Talk {
    rules: Rules,
    said: Vec<String>,
    /// How many recipients there would be with each that was checked.
    counted: Vec<usize>,
    submitted: Vec<Vec<u8>>,
    next: Next,
}

impl Talk {
    fn open(security: Security) -> Self {
        Self::open_by(rules(), security)
    }

    fn open_by(rules: Rules, security: Security) -> Self {
        let step = Session::open(security, &rules);
        let (said, counted, submitted) = (Vec::new(), Vec::new(), Vec::new());
        let mut talk = Self { rules, said, counted, submitted, next: Next::Close };
        talk.take(step, &World::default());
        talk
    }

    /// Plays the world until the client is to speak.
    fn take(&mut self, mut step: Step, world: &World) {
        loop {
            if let Some(reply) = step.reply {
                let mut out = Vec::new();
                reply.render(&mut out);
                self.said.push(String::from_utf8(out).unwrap());
            }
            step = match step.next {
                Next::Handshake(upgrading) => {
                    let reply = upgrading.offer();
                    Step::reply(reply, Next::Command(upgrading.secured()))
                }
                Next::SignIn(signing_in) => {
                    let answer = world.sign_in.clone().map(|()| (signed_in(), Credits::new(7)));
                    signing_in.answered(answer, &self.rules)
                }
                Next::Begin(beginning) => {
                    beginning.answered(world.begin.clone().map(|()| Begun::default()), &self.rules)
                }
                Next::Check(checking) => {
                    self.counted.push(checking.recipients());
                    checking.answered(world.check.clone().map(|()| None), &self.rules)
                }
                Next::Body(receiving) if world.is_endless => receiving.endless(),
                Next::Body(receiving) => receiving.ended(world.body.clone(), &self.rules),
                Next::Chunk(mut chunk) => {
                    while !chunk.is_complete() {
                        chunk.feed(&world.octets);
                    }
                    if let Some(kept) = chunk.kept().filter(|_| !world.room) {
                        kept.give_up();
                    }
                    chunk.arrived(&self.rules)
                }
                Next::Submit(submit) => {
                    self.submitted.push(submit.whole.head);
                    let accepted =
                        Accepted { message_id: MessageId::parse("m1").unwrap(), available: Credits::new(6) };
                    submit.submitting.answered(&world.submit.clone().map(|()| accepted), &self.rules)
                }
                // This client waits for every answer.
                next @ (Next::Command(_) | Next::Unpipelined(_) | Next::Response(_) | Next::Close) => {
                    self.next = next;
                    return;
                }
            };
        }
    }

    fn line(&mut self, line: &[u8], world: &World) {
        match std::mem::replace(&mut self.next, Next::Close) {
            Next::Command(session) => self.take(session.command(line, &self.rules), world),
            Next::Unpipelined(session) => self.take(session.unpipelined_command(line, &self.rules), world),
            Next::Response(authenticating) => self.take(authenticating.response(line, &self.rules), world),
            _ => {}
        }
    }

    fn last(&self) -> &str {
        self.said.last().unwrap()
    }
}

/// Plays lines and compares the head of each answer.
fn dialog(security: Security, world: &World, lines: &[(&str, &str)]) -> Talk {
    let mut talk = Talk::open(security);
    for (line, want) in lines {
        talk.line(line.as_bytes(), world);
        assert!(talk.last().starts_with(want), "{line}: {} instead of {want}", talk.last());
    }
    talk
}

/// What a client says, and how the answer begins.
type Line = (&'static str, &'static str);

const IN: (&str, &str) =
    ("AUTH PLAIN AHVzZXIAc2VjcmV0", "235 2.7.0 Authenticated, 7 email credits available\r\n");
const EHLO: (&str, &str) = ("EHLO c.example", "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n");
const MAIL: (&str, &str) = ("MAIL FROM:<a@b.example>", "250 2.1.0");
const RCPT: (&str, &str) = ("RCPT TO:<c@d.example>", "250 2.1.5");
const QUEUED: (&str, &str) = ("DATA", "250 2.0.0 Queued as m1, 6 email credits available\r\n");

#[test]
fn a_message_is_taken_after_starttls_and_auth() {
    let talk = dialog(
        Security::Plain,
        &World::default(),
        &[
            EHLO,
            ("STARTTLS", "220 2.0.0"),
            EHLO,
            IN,
            MAIL,
            RCPT,
            QUEUED,
            MAIL,
            RCPT,
            QUEUED,
            ("QUIT", "221 2.0.0"),
        ],
    );
    assert_eq!(talk.said[0], "220 mx.example ESMTP Postmeter\r\n");
    assert_eq!(talk.submitted.len(), 2);
    assert!(matches!(talk.next, Next::Close));
}

#[test]
fn ehlo_offers_auth_under_tls_and_starttls_before() {
    let plain = dialog(Security::Plain, &World::default(), &[EHLO]);
    assert!(plain.last().ends_with("250-LIMITS RCPTMAX=2\r\n250 STARTTLS\r\n"));
    assert!(!plain.last().contains("AUTH"));
    let tls = dialog(Security::Tls, &World::default(), &[EHLO]);
    assert!(tls.last().ends_with("250 AUTH PLAIN LOGIN\r\n"));
    assert!(!tls.last().contains("STARTTLS"));
}

#[test]
fn commands_out_of_turn_are_told_what_comes_first() {
    let world = World::default();
    let auth = "AUTH PLAIN AHVzZXIAc2VjcmV0";
    let mail = MAIL.0;
    dialog(Security::Plain, &world, &[(mail, "503 5.5.1"), (auth, "538 5.7.11"), ("DATA", "503 5.5.1")]);
    dialog(
        Security::Plain,
        &world,
        &[EHLO, (mail, "530 5.7.0"), (auth, "538 5.7.11"), (RCPT.0, "503 5.5.1")],
    );
    dialog(
        Security::Tls,
        &world,
        &[(auth, "503 5.5.1"), EHLO, (mail, "530 5.7.0"), ("STARTTLS", "503 5.5.1")],
    );
    dialog(
        Security::Tls,
        &world,
        &[EHLO, IN, (auth, "503 5.5.1"), (RCPT.0, "503 5.5.1"), ("DATA", "503 5.5.1")],
    );
    dialog(
        Security::Tls,
        &world,
        &[EHLO, IN, MAIL, (mail, "503 5.5.1"), (auth, "503 5.5.1"), ("DATA", "503 5.5.1")],
    );
    dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, ("RSET", "250 2.0.0"), ("DATA", "503 5.5.1")]);
    dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, EHLO, ("DATA", "503 5.5.1"), MAIL]);
    dialog(Security::Tls, &world, &[("STARTTLS", "503 5.5.1"), ("STARTTLS x", "501 5.5.4")]);
    dialog(Security::Tls, &world, &[EHLO, ("STARTTLS", "503 5.5.1"), IN]);
}

#[test]
fn starttls_forgets_everything() {
    let lines =
        [EHLO, ("STARTTLS", "220 2.0.0"), (MAIL.0, "503 5.5.1 Send EHLO first"), ("STARTTLS", "503 5.5.1")];
    dialog(Security::Plain, &World::default(), &lines);
}

#[test]
fn auth_in_every_way_and_its_failures() {
    let world = World::default();
    dialog(
        Security::Tls,
        &world,
        &[EHLO, ("AUTH PLAIN", "334 \r\n"), ("AHVzZXIAc2VjcmV0", "235 2.7.0"), MAIL],
    );
    let login = [
        EHLO,
        ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
        ("dXNlcg==", "334 UGFzc3dvcmQ6"),
        ("c2VjcmV0", "235 2.7.0"),
    ];
    dialog(Security::Tls, &world, &login);
    let failures = [
        EHLO,
        ("AUTH PLAIN", "334 "),
        ("*", "501 5.7.0"),
        ("AUTH PLAIN !", "501 5.5.2"),
        ("AUTH CRAM-MD5", "504 5.5.4"),
        ("AUTH", "421 4.7.0"),
    ];
    dialog(Security::Tls, &world, &failures);
    let stranger = World { sign_in: Err(Refusal::BadCredential), ..World::default() };
    dialog(Security::Tls, &stranger, &[EHLO, (IN.0, "535 5.7.8"), (MAIL.0, "530 5.7.0")]);
}

#[test]
fn limits_are_told_where_they_apply() {
    let world = World::default();
    let rcpt = |n: usize| ["RCPT TO:<1@d.example>", "RCPT TO:<2@d.example>", "RCPT TO:<3@d.example>"][n];
    let recipients = [
        EHLO,
        IN,
        MAIL,
        (rcpt(0), "250 2.1.5"),
        (rcpt(1), "250 2.1.5"),
        (rcpt(1), "250 2.1.5"),
        (rcpt(2), "452 4.5.3"),
        QUEUED,
    ];
    let talk = dialog(Security::Tls, &world, &recipients);
    assert_eq!(talk.counted, [1, 2, 2, 2], "whom it costs nothing to name is not counted");
    let sizes = [
        EHLO,
        IN,
        ("MAIL FROM:<a@b.example> SIZE=1001", "552 5.3.4"),
        ("MAIL FROM:<a@b.example> SIZE=99999999999999999999", "552 5.3.4"),
        ("DATA", "503 5.5.1"),
        ("MAIL FROM:<a@b.example> SIZE=1000 AUTH=<> BODY=8BITMIME", "250 2.1.0"),
    ];
    dialog(Security::Tls, &world, &sizes);
    let ascii = [
        EHLO,
        IN,
        ("MAIL FROM:<grüße@b.example>", "553 5.6.7"),
        MAIL,
        ("RCPT TO:<a@bücher.example>", "553 5.6.7"),
        ("RSET", "250"),
        ("MAIL FROM:<grüße@b.example> SMTPUTF8", "250 2.1.0"),
        ("RCPT TO:<a@bücher.example>", "250 2.1.5"),
    ];
    dialog(Security::Tls, &world, &ascii);
}

#[test]
fn p7_every_failed_message_leaves_a_clean_state() {
    let out_of_credit =
        Refusal::OutOfCredit { top_up_url: "https://t.example".to_owned(), shortfall: Credits::ZERO };
    let table = [
        (World { body: Body::Malformed(BodyFlaw::BareLf), ..World::default() }, "554 5.6.0"),
        (World { body: Body::TooLarge, ..World::default() }, "552 5.3.4"),
        (World { body: Body::NoRoom, ..World::default() }, "452 4.3.1"),
        (World { submit: Err(out_of_credit), ..World::default() }, "452 4.7.1"),
        (World { submit: Err(Refusal::StoreUnavailable), ..World::default() }, "452 4.3.1"),
    ];
    for (world, want) in table {
        dialog(Security::Tls, &world, &[EHLO, IN, MAIL, RCPT, ("DATA", want), ("DATA", "503 5.5.1"), MAIL]);
    }
    let refused = World { begin: Err(Refusal::BillingUnknown), ..World::default() };
    dialog(Security::Tls, &refused, &[EHLO, IN, (MAIL.0, "451 4.3.0"), (RCPT.0, "503"), ("DATA", "503")]);
    let nobody = World { check: Err(Refusal::Looping), ..World::default() };
    dialog(Security::Tls, &nobody, &[EHLO, IN, MAIL, (RCPT.0, "554"), ("DATA", "503 5.5.1 No valid")]);
}

#[test]
fn a_revoked_credential_signs_the_session_out() {
    let world = World { begin: Err(Refusal::BadCredential), ..World::default() };
    dialog(Security::Tls, &world, &[EHLO, IN, (MAIL.0, "535 5.7.8"), (MAIL.0, "530 5.7.0"), IN]);
}

#[test]
fn too_many_errors_end_the_session_and_a_message_makes_up_for_them() {
    let world = World::default();
    let talk =
        dialog(Security::Tls, &world, &[("X", "500 5.5.2"), ("X", "500"), ("X", "500"), ("X", "421 4.7.0")]);
    assert!(matches!(talk.next, Next::Close));
    let lines =
        [EHLO, IN, ("X", "500"), ("X", "500"), MAIL, RCPT, QUEUED, ("X", "500"), ("X", "500"), ("X", "500")];
    dialog(Security::Tls, &world, &lines);
}

#[test]
fn sign_ins_that_fail_again_and_again_end_the_session() {
    let stranger = World { sign_in: Err(Refusal::BadCredential), ..World::default() };
    let lines = [EHLO, (IN.0, "535 5.7.8"), EHLO, (IN.0, "535 5.7.8"), (IN.0, "421 4.7.0 Too many failed")];
    let talk = dialog(Security::Tls, &stranger, &lines);
    assert!(matches!(talk.next, Next::Close));
    let many = World { sign_in: Err(Refusal::TooManyFailures { retry_after_s: 9 }), ..World::default() };
    let told = "454 4.7.0 Too many failed sign-ins, try again in 9 seconds\r\n";
    dialog(Security::Tls, &many, &[EHLO, (IN.0, told), (MAIL.0, "530"), (IN.0, told), (IN.0, "421 4.7.0")]);
    let broken = World { sign_in: Err(Refusal::StoreUnavailable), ..World::default() };
    dialog(Security::Tls, &broken, &[EHLO, (IN.0, "452"), (IN.0, "452"), (IN.0, "452")]);
}

#[test]
fn a_session_too_many_of_a_customer_ends() {
    let full = World { sign_in: Err(Refusal::TooManySessions { limit: 5 }), ..World::default() };
    let told = "421 4.7.0 Too many sessions of this account, at most 5; close some or try later\r\n";
    let talk = dialog(Security::Tls, &full, &[EHLO, (IN.0, told)]);
    assert!(matches!(talk.next, Next::Close));
}

#[test]
fn commands_that_lead_nowhere_end_the_session_and_a_message_makes_up_for_them() {
    let world = World::default();
    let told = "421 4.7.0 Too many commands without a message";
    for idle in ["NOOP", "RSET", "VRFY x", "HELP", "HELO c", "EHLO c"] {
        let mut lines = vec![(idle, "2"); 20];
        lines.push((idle, told));
        let talk = dialog(Security::Tls, &world, &lines);
        assert!(matches!(talk.next, Next::Close));
    }
    let mut lines = vec![EHLO, IN];
    for _ in 0..9 {
        lines.extend([("MAIL FROM:<a@b.example>", "250"), ("RSET", "250")]);
    }
    dialog(Security::Tls, &world, &[&lines[..], &[("NOOP", "250"), ("NOOP", told)]].concat());
    let again = [&lines[..], &[MAIL, RCPT, QUEUED], &lines[2..]].concat();
    dialog(Security::Tls, &world, &again);
}

#[test]
fn recipients_that_lead_nowhere_end_the_session_and_a_message_makes_up_for_them() {
    let told = "421 4.7.0 Too many commands without a message";
    let full = World::default();
    let refusing = World { check: Err(Refusal::StoreUnavailable), ..World::default() };
    let others = [RCPT, ("RCPT TO:<2@d.example>", "250")];
    // What goes before, the recipient again and again, and whether that is refused by the world.
    let table: [(&World, &[Line], Line); 5] = [
        (&full, &others, ("RCPT TO:<3@d.example>", "452 4.5.3")),
        (&full, &others, RCPT),
        (&full, &[], ("RCPT TO:<not an address>", "501 5.1.3")),
        (&full, &[], ("RCPT TO:<a@bücher.example>", "553 5.6.7")),
        (&refusing, &[], (RCPT.0, "452 4.3.1")),
    ];
    for (world, before, again) in table {
        // EHLO and MAIL are two of the twenty.
        let lines = [&[EHLO, IN, MAIL], before, &[again; 18], &[(again.0, told)]].concat();
        let talk = dialog(Security::Tls, world, &lines);
        assert!(matches!(talk.next, Next::Close), "{}", again.0);
        if !before.is_empty() {
            let twice = [&[MAIL], before, &[again; 18], &[QUEUED]].concat();
            let lines = [&[EHLO, IN], &twice[..], &twice].concat();
            assert_eq!(dialog(Security::Tls, world, &lines).submitted.len(), 2, "{}", again.0);
        }
    }
}

#[test]
fn a_list_with_more_recipients_than_a_message_takes_is_sent_in_several() {
    let rules = Rules { max_recipients: 50, max_errors: 20, max_idle_commands: 1_000, ..rules() };
    let mut talk = Talk::open_by(rules, Security::Tls);
    let world = World::default();
    let mut left: Vec<usize> = (0..950).collect();
    for line in [EHLO.0, IN.0] {
        talk.line(line.as_bytes(), &world);
    }
    while !left.is_empty() {
        talk.line(MAIL.0.as_bytes(), &world);
        left.retain(|n| {
            talk.line(format!("RCPT TO:<{n}@d.example>").as_bytes(), &world);
            assert!(talk.last().starts_with("250 2.1.5 ") || talk.last().starts_with("452 4.5.3 "));
            talk.last().starts_with("452 ")
        });
        talk.line(b"DATA", &world);
        assert!(talk.last().starts_with("250 2.0.0 Queued"), "{}", talk.last());
    }
    assert_eq!(talk.submitted.len(), 19);
}

#[test]
fn other_protocols_are_turned_away_at_once() {
    let talk = dialog(Security::Plain, &World::default(), &[("GET / HTTP/1.1", "521 5.5.1")]);
    assert!(matches!(talk.next, Next::Close));
    let Next::Command(session) = Session::open(Security::Plain, &rules()).next else { panic!("no session") };
    let step = session.flawed(Flaw::TlsHello, &rules());
    assert!(step.reply.is_none() && matches!(step.next, Next::Close));
}

#[test]
fn small_commands_are_answered_in_every_stage() {
    let small = [
        ("NOOP", "250 2.0.0"),
        ("VRFY a", "252 2.5.0"),
        ("HELP", "214 2.0.0"),
        ("HELO c", "250 mx.example\r\n"),
    ];
    dialog(Security::Plain, &World::default(), &small);
    dialog(Security::Tls, &World::default(), &[&[EHLO, IN, MAIL], &small[..]].concat());
}
