use super::*;
use crate::domain::dsn::{EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Ret};
use crate::mime::address_list::NamedMailbox;
use crate::mime::entity::{Content, Entity};
use crate::mime::header::header_length;
use crate::mime::inspect::inspect;
use crate::mime::returned::MAX_RETURNED_BYTES;

fn written(original: &[u8], shape: Shape) -> Vec<u8> {
    of(Left::Message(original), shape)
}

fn of(left: Left<'_>, shape: Shape) -> Vec<u8> {
    asking(&Dsn::default(), left, shape)
}

fn asking(dsn: &Dsn, left: Left<'_>, shape: Shape) -> Vec<u8> {
    let from = NamedMailbox::parse("Postmeter <postmaster@example.com>").unwrap();
    let mailbox = |text| Mailbox::parse(text).unwrap();
    let (id, original_id) = (MessageId::parse("0200").unwrap(), MessageId::parse("0199").unwrap());
    let now = Timestamp::from_second(1_781_000_000).unwrap();
    let origin = Origin { from: &from, hostname: "smtp.example.com", now, message_id: &id };
    let (sender, bob) = (mailbox("ann@x.example"), mailbox("bob@b\u{fc}cher.example"));
    let about = About { sender: &sender, message_id: &original_id, accepted_at: now, left, dsn };
    let unknown = mailbox("gr\u{fc}n@y.example");
    let host = Some("mx.y.example");
    let failures = [
        Failure { recipient: &bob, status: "5.1.1", text: "550 no such\r\nX-Evil: user \u{fc}", host },
        Failure { recipient: &unknown, status: "5.6.7", text: "not carried", host },
    ];
    match dsn.of(&bob).wants_success() {
        true => {
            let taker = Taker { host: "::1".to_owned(), reply: "250 2.0.0 queued\u{1b} as 42".to_owned() };
            let bob = HandedOn { recipient: bob.clone(), by: Some(taker) };
            let unknown = HandedOn { recipient: unknown.clone(), by: None };
            relayed(&origin, &about, &[&bob, &unknown], shape)
        }
        false => bounce(&origin, &about, &failures, shape),
    }
}

const ORIGINAL: &[u8] = "Received: from app.example\r\n\tby smtp.example.com; now\r\nFrom: ann@x.example\r\n\
    Message-ID: <1@x.example>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-Raw: \u{fc}\r\n\r\nsecret body\r\n"
    .as_bytes();

fn leaves(bytes: &[u8]) -> Vec<(String, String)> {
    let header = Header::parse(bytes).unwrap();
    let entity = Entity::parse(&header).unwrap();
    let Content::Parts(parts) = &entity.content else { panic!("no multipart") };
    let text = |part: &Entity<'_>| part.text(&part.decoded().unwrap()).unwrap().text;
    parts.iter().map(|part| (part.media.essence(), text(part))).collect()
}

#[test]
fn a_sender_is_told_who_did_not_get_it_and_why() {
    let bytes = written(ORIGINAL, Shape::Report);
    let report = leaves(&bytes);
    let kinds: Vec<&str> = report.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
    assert!(report[0].1.contains(
        "<bob@b\u{fc}cher.example>\n    This address does not exist, or takes no mail any more.\n    \
         What to do: check it for typing errors, or ask the recipient for another one.\n    \
         What was said: 5.1.1 550 no such X-Evil: user \u{fc}\n"
    ));
    assert!(report[0].1.contains("Subject: Gr\u{fc}\u{df}e\n    From: ann@x.example\n    Accepted: "));
    assert_eq!(
        report[1].1,
        "Reporting-MTA: dns; smtp.example.com\nArrival-Date: Tue, 9 Jun 2026 10:13:20 +0000\n\
         X-Postmeter-Message-Id: 0199\n\n\
         Final-Recipient: rfc822; bob@xn--bcher-kva.example\nAction: failed\nStatus: 5.1.1\n\
         Remote-MTA: dns; mx.y.example\nDiagnostic-Code: smtp; 550 no such X-Evil: user ?\n\n\
         Final-Recipient: utf-8; gr\\x{FC}n@y.example\nAction: failed\nStatus: 5.6.7\n\
         Diagnostic-Code: x-postmeter; not carried\n"
    );
    assert!(
        report[2].1.starts_with("Received: from app.example\n\tby")
            && report[2].1.ends_with("X-Raw: \u{fc}\n")
    );

    let inspection = inspect(&bytes).unwrap();
    assert!(inspection.has_date && inspection.has_message_id);
    assert_eq!(inspection.subject.as_deref(), Some("Undelivered: Gr\u{fc}\u{df}e"));
    let header = Header::parse(&bytes).unwrap();
    let value = |name| header.first(name).unwrap().unfolded();
    assert_eq!(value("To"), "ann@x.example");
    assert_eq!(value("Auto-Submitted"), "auto-replied");
    assert_eq!((value("In-Reply-To"), value("References")), ("<1@x.example>".into(), "<1@x.example>".into()));
    assert!(value("Content-Type").starts_with("multipart/report; report-type=delivery-status; boundary="));
}

#[test]
fn the_same_report_travels_over_a_road_that_writes_messages_anew() {
    let bytes = written(ORIGINAL, Shape::Plain);
    let (report, plain) = (leaves(&written(ORIGINAL, Shape::Report)), leaves(&bytes));
    assert!(plain.iter().all(|(kind, _)| kind == "text/plain"));
    let texts = |parts: Vec<(String, String)>| parts.into_iter().map(|(_, text)| text.replace('\u{fc}', "?"));
    assert!(texts(report).eq(texts(plain)));
    assert!(!String::from_utf8_lossy(&bytes).contains("secret body"));
}

#[test]
fn what_came_back_late_is_told_with_what_is_left() {
    let left = Left::Log { from: "ann@x.example", subject: Some("Gr\u{fc}\u{df}e"), header: None };
    for (shape, kinds) in [
        (Shape::Report, ["text/plain", "message/delivery-status"]),
        (Shape::Plain, ["text/plain", "text/plain"]),
    ] {
        let bytes = of(left, shape);
        let report = leaves(&bytes);
        let found: Vec<&str> = report.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(found, kinds);
        assert!(report[0].1.contains("came back later"), "{}", report[0].1);
        assert!(report[0].1.contains("Subject: Gr\u{fc}\u{df}e\n    From: ann@x.example\n"));
        assert!(report[0].1.contains("is not kept after it was sent"), "{}", report[0].1);
        assert!(inspect(&bytes).unwrap().subject.unwrap().starts_with("Undelivered: Gr"));
    }
}

#[test]
fn what_came_back_late_returns_the_header_that_is_kept_as_any_bounce_does() {
    let header = ORIGINAL.get(..header_length(ORIGINAL).unwrap() - 2);
    let left = Left::Log { from: "log@x.example", subject: Some("logged"), header };
    for (shape, dsn) in
        [(Shape::Report, Dsn::default()), (Shape::Plain, Dsn::default()), (Shape::Report, asked("FULL", ""))]
    {
        let bytes = asking(&dsn, left, shape);
        let (late, early) = (leaves(&bytes), leaves(&written(ORIGINAL, shape)));
        assert_eq!((late.len(), &late[2]), (3, &early[2]));
        assert!(late[0].1.contains("came back later"), "{}", late[0].1);
        assert!(late[0].1.contains("Subject: Gr\u{fc}\u{df}e\n    From: ann@x.example\n"), "{}", late[0].1);
        assert!(late[0].1.ends_with("and the header of your message.\n"), "{}", late[0].1);
        let header = Header::parse(&bytes).unwrap();
        for name in ["In-Reply-To", "References"] {
            assert_eq!(header.first(name).unwrap().unfolded(), "<1@x.example>");
        }
    }
    // Of a long one only its first fields are kept.
    let left = Left::Log { from: "log@x.example", subject: Some("logged"), header: Some(b"Received: x\r\n") };
    let bytes = of(left, Shape::Report);
    let report = leaves(&bytes);
    assert!(report[0].1.contains("Subject: logged\n    From: log@x.example\n"), "{}", report[0].1);
    assert_eq!(report[2].1, "Received: x\n");
    assert!(Header::parse(&bytes).unwrap().first("In-Reply-To").is_none());
}

#[test]
fn that_it_did_not_reach_somebody_claims_nothing_of_anybody() {
    let header = ORIGINAL.get(..header_length(ORIGINAL).unwrap() - 2);
    let (subject, from) = (Some("Gr\u{fc}\u{df}e"), "ann@x.example");
    for (header, kinds) in [(header, &["text/plain", "text/plain"][..]), (None, &[])] {
        let bytes = somebody(Left::Log { from, subject, header });
        let parsed = Header::parse(&bytes).unwrap();
        let value = |name| parsed.first(name).map(|field| field.unfolded());
        let entity = Entity::parse(&parsed).unwrap();
        let words = match kinds {
            [] => entity.text(&entity.decoded().unwrap()).unwrap().text,
            kinds => {
                let parts = leaves(&bytes);
                assert_eq!(parts.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), kinds);
                assert!(parts[1].1.starts_with("Received: from app.example\n"), "{}", parts[1].1);
                assert_eq!(value("In-Reply-To").as_deref(), Some("<1@x.example>"));
                parts[0].1.clone()
            }
        };
        assert_eq!(entity.media.essence(), if kinds.is_empty() { "text/plain" } else { "multipart/mixed" });
        for said in [
            "at least one of the recipients below",
            "    Subject: Gr\u{fc}\u{df}e\n    From: ann@x.example\n",
            "<bob@b\u{fc}cher.example>\n<gr\u{fc}n@y.example>\n    You were told of this one already.\n",
            "What was said: 550 no such X-Evil: user\n",
        ] {
            assert!(words.contains(said), "{said}: {words}");
        }
        for claim in ["Action:", "Final-Recipient:", "delivery-status"] {
            assert!(!String::from_utf8_lossy(&bytes).contains(claim), "{claim}");
        }
        let subject = inspect(&bytes).unwrap().subject.unwrap();
        assert_eq!(subject, "Undelivered to somebody: Gr\u{fc}\u{df}e");
        assert_eq!(value("Auto-Submitted").as_deref(), Some("auto-replied"));
    }
}

fn somebody(left: Left<'_>) -> Vec<u8> {
    let from = NamedMailbox::parse("Postmeter <postmaster@example.com>").unwrap();
    let (id, original_id) = (MessageId::parse("0200").unwrap(), MessageId::parse("0199").unwrap());
    let now = Timestamp::from_second(1_781_000_000).unwrap();
    let origin = Origin { from: &from, hostname: "smtp.example.com", now, message_id: &id };
    let (sender, dsn) = (Mailbox::parse("ann@x.example").unwrap(), Dsn::default());
    let about = About { sender: &sender, message_id: &original_id, accepted_at: now, left, dsn: &dsn };
    let perhaps = |(to, has_failed)| PerhapsFailed { recipient: Mailbox::parse(to).unwrap(), has_failed };
    let perhaps = [("bob@b\u{fc}cher.example", false), ("gr\u{fc}n@y.example", true)].map(perhaps);
    somebody_failed(&origin, &about, &perhaps, ("5.1.1", "550 no such\r\nX-Evil: user"))
}

/// With a name for the message, and Bob meant by another address.
fn asked(ret: &str, notify: &str) -> Dsn {
    let mut dsn = Dsn::new(Ret::parse(ret).ok(), EnvelopeId::parse("QQ+2B1+20x").ok());
    let asked = RecipientDsn {
        notify: Notify::parse(notify).ok(),
        original: OriginalRecipient::parse("utf-8;bob@b\u{fc}cher.example").ok(),
    };
    dsn.ask(&Mailbox::parse("bob@b\u{fc}cher.example").unwrap(), asked);
    dsn
}

#[test]
fn a_report_has_the_senders_own_names() {
    let bytes = asking(&asked("", ""), Left::Message(ORIGINAL), Shape::Report);
    let status = leaves(&bytes).remove(1).1;
    assert!(status.starts_with("Original-Envelope-Id: QQ+1 x\nReporting-MTA: "), "{status}");
    let group = "\n\nOriginal-Recipient: utf-8; bob@b\\x{FC}cher.example\n\
        Final-Recipient: rfc822; bob@xn--bcher-kva.example\nAction: failed\n";
    assert!(status.contains(group), "{status}");
    assert!(status.contains("\n\nFinal-Recipient: utf-8; gr"), "{status}");
}

#[test]
fn whoever_asked_is_told_that_it_was_handed_on() {
    for (left, shape, parts) in [
        (Left::Message(ORIGINAL), Shape::Report, 3),
        (Left::Log { from: "", subject: Some("Gr\u{fc}\u{df}e"), header: None }, Shape::Report, 2),
    ] {
        let bytes = asking(&asked("FULL", "SUCCESS"), left, shape);
        let report = leaves(&bytes);
        assert_eq!(report.len(), parts);
        assert!(report[0].1.contains("handed on"), "{}", report[0].1);
        assert!(report[0].1.contains("\n<bob@b\u{fc}cher.example>\n"), "{}", report[0].1);
        let group = "Final-Recipient: rfc822; bob@xn--bcher-kva.example\nAction: relayed\nStatus: 2.0.0\n\
            Remote-MTA: dns; [IPv6:::1]\nDiagnostic-Code: smtp; 250 2.0.0 queued  as 42\n\n";
        assert!(report[1].1.contains(group), "{}", report[1].1);
        assert!(report[1].1.ends_with("Action: relayed\nStatus: 2.0.0\n"), "{}", report[1].1);
        assert_eq!(inspect(&bytes).unwrap().subject.as_deref(), Some("Sent: Gr\u{fc}\u{df}e"));
        assert!(!String::from_utf8_lossy(&bytes).contains("secret body"), "only failures return it");
    }
}

#[test]
fn that_it_was_handed_on_is_one_text_over_a_road_that_writes_messages_anew() {
    let bytes = asking(&asked("FULL", "SUCCESS"), Left::Message(ORIGINAL), Shape::Plain);
    let header = Header::parse(&bytes).unwrap();
    let entity = Entity::parse(&header).unwrap();
    assert_eq!(
        (entity.media.essence().as_str(), header.first("Content-Disposition").is_none()),
        ("text/plain", true)
    );
    let said = entity.text(&entity.decoded().unwrap()).unwrap().text;
    assert!(said.contains("\n<bob@b\u{fc}cher.example>\n"), "{said}");
    let programs =
        "The same for programs:\n\nOriginal-Envelope-Id: QQ+1 x\nReporting-MTA: dns; smtp.example.com\n";
    assert!(said.contains(programs), "{said}");
    assert!(said.contains("Action: relayed\nStatus: 2.0.0\n"), "{said}");
    let route = crate::routing::Routing::new(&crate::config::Config::default());
    let to = [Mailbox::parse("ann@x.example").unwrap()];
    let parts = route.parts(&MessageId::parse("0200").unwrap(), &bytes, &to).unwrap();
    assert_eq!(parts[0].batch_max, crate::domain::batch::MOST, "many of them share a call");
}

#[test]
fn all_of_the_message_comes_back_where_that_was_asked_for() {
    let seven = b"Subject: s\r\nFrom: a@x.example\r\n\r\n.\r\nsecret body\r\n".as_slice();
    let long = [seven, "x".repeat(999).as_bytes(), b"\r\n"].concat();
    let large = [seven, "line\r\n".repeat(MAX_RETURNED_BYTES / 6).as_bytes()].concat();
    let header = seven.get(..header_length(seven).unwrap()).unwrap();
    let (whole, headers) = ("message/rfc822", "text/rfc822-headers");
    let file = "application/octet-stream";
    // The message, what was asked for, and what comes back last in a report and in a plain one.
    let table = [
        (seven, "FULL", whole, file),
        (seven, "HDRS", headers, "text/plain"),
        (seven, "", headers, "text/plain"),
        (ORIGINAL, "FULL", headers, file),
        (long.as_slice(), "FULL", headers, file),
        (large.as_slice(), "FULL", headers, "text/plain"),
        (header, "FULL", headers, "text/plain"),
    ];
    for (original, ret, report, plain) in table {
        for (shape, want) in [(Shape::Report, report), (Shape::Plain, plain)] {
            let bytes = asking(&asked(ret, ""), Left::Message(original), shape);
            assert!(bytes.is_ascii() && bytes.split(|b| *b == b'\n').all(|line| line.len() <= 999));
            let parsed = mail_parser::MessageParser::default().parse(&bytes).unwrap();
            let part = parsed.parts.last().unwrap();
            let kind = part.headers.iter().find_map(|field| field.value.as_content_type()).unwrap();
            let found = format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default());
            assert_eq!(found, want, "{ret} {shape:?}");
            let is_whole = |part: &mail_parser::MessagePart<'_>| part.contents() == original;
            let is_attached = parsed.parts.iter().any(is_whole);
            assert_eq!(is_attached, plain == file, "{ret} {shape:?}");
            if want == whole {
                assert!(bytes.windows(original.len()).any(|window| window == original));
            }
        }
    }
}

#[test]
fn a_diagnostic_code_says_whose_words_they_are() {
    let table = [
        ("550 5.1.1 no such user", "smtp; 550 5.1.1 no such user"),
        ("550-5.1.1 no", "smtp; 550-5.1.1 no"),
        ("Permanent General: smtp; 550 5.1.1 no", "smtp; 550 5.1.1 no"),
        (
            "422 validation_error: Invalid `to` field.",
            "x-postmeter; 422 validation_error: Invalid `to` field.",
        ),
        ("not carried", "x-postmeter; not carried"),
        ("55", "x-postmeter; 55"),
        ("", "x-postmeter; "),
    ];
    for (text, wanted) in table {
        assert_eq!(diagnostic_code(text), wanted);
    }
}

#[test]
fn an_unreadable_or_huge_original_is_no_obstacle() {
    let huge = format!("X: {}\r\n{}\r\n", "y".repeat(60), format!("X: {}\r\n", "z".repeat(900)).repeat(100));
    for original in [&b""[..], b"no header", huge.as_bytes()] {
        let bytes = written(original, Shape::Report);
        assert!(bytes.len() < MAX_RETURNED_HEADER_BYTES + 4096);
        let parts = leaves(&bytes).len();
        assert_eq!(parts, if original.starts_with(b"X") { 3 } else { 2 });
    }
}

#[test]
fn every_line_fits_the_wire() {
    let long = format!("Subject: {}\r\nX-Long: {}\r\n\r\n", "s ".repeat(600), "x".repeat(5000));
    for shape in [Shape::Report, Shape::Plain] {
        let bytes = written(long.as_bytes(), shape);
        let written = String::from_utf8(bytes).unwrap();
        assert!(written.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])));
    }
}
