use serde_json::{Value, json};

use super::*;
use crate::domain::ids::MessageId;

const HEAD: &str = "From: Ann <ann@x.example>\r\nTo: bob@y.example\r\nSubject: s\r\n";

fn bob() -> Vec<Mailbox> {
    vec![Mailbox::parse("bob@y.example").unwrap()]
}

fn part_id() -> PartId {
    MessageId::parse("0199").unwrap().part(0)
}

fn translated(bytes: &[u8]) -> Result<Value, CannotCarry> {
    let json = Translatable::parse(bytes)?.email(&bob(), &part_id())?.to_json();
    Ok(serde_json::from_slice(&json).unwrap())
}

/// A message with this header after the usual one, and this body.
fn with(fields: &str, body: &str) -> Vec<u8> {
    format!("{HEAD}{fields}\r\n{body}").into_bytes()
}

/// A multipart of parts that are given with their headers.
fn multipart(subtype: &str, parts: &[&str]) -> String {
    let boundary = format!("b-{subtype}");
    let parts: String = parts.iter().map(|part| format!("--{boundary}\r\n{part}\r\n")).collect();
    format!("Content-Type: multipart/{subtype}; boundary={boundary}\r\n\r\n{parts}--{boundary}--")
}

fn message(entity: &str) -> Vec<u8> {
    format!("{HEAD}{entity}").into_bytes()
}

const TEXT: &str = "Content-Type: text/plain\r\n\r\nplain";
const HTML: &str = "Content-Type: text/html\r\n\r\n<p>rich</p>";
const PDF: &str =
    "Content-Type: application/pdf; name=a.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERg==";
const IMAGE: &str = "Content-Type: image/png\r\nContent-ID: <logo@x>\r\n\r\nPNG";
const FOOTER: &str = "\r\na < b";

#[test]
fn what_is_shown_is_shown_whole() {
    let pre = "<div style=\"white-space: pre-wrap\">";
    let html_and_image = multipart("related", &[HTML, IMAGE]);
    let alternative = multipart("alternative", &[TEXT, HTML]);
    let table: [(String, Value, Value, usize); 16] = [
        (TEXT.into(), Value::Null, json!("plain"), 0),
        (HTML.into(), json!("<p>rich</p>"), json!(""), 0),
        (alternative.clone(), json!("<p>rich</p>"), json!("plain"), 0),
        (multipart("mixed", &[&alternative, PDF]), json!("<p>rich</p>"), json!("plain"), 1),
        (multipart("alternative", &[TEXT, &html_and_image]), json!("<p>rich</p>"), json!("plain"), 1),
        (multipart("mixed", &[TEXT, PDF, TEXT]), Value::Null, json!("plain\nplain"), 1),
        (
            multipart("mixed", &[&alternative, FOOTER]),
            json!(format!("<p>rich</p>\n{pre}a &lt; b</div>")),
            json!("plain\na < b"),
            0,
        ),
        (multipart("mixed", &[TEXT, HTML]), json!(format!("{pre}plain</div>\n<p>rich</p>")), json!(""), 0),
        (multipart("mixed", &["\r\n \r\n", HTML, "\r\n"]), json!("<p>rich</p>"), json!(""), 0),
        (multipart("odd", &[TEXT]), Value::Null, json!("plain"), 0),
        (multipart("related", &[HTML, TEXT]), json!("<p>rich</p>"), json!(""), 1),
        (multipart("digest", &["\r\nSubject: a\r\n\r\nb"]), Value::Null, json!("(no text)"), 1),
        (PDF.into(), Value::Null, json!("(no text)"), 1),
        ("\r\n".into(), Value::Null, json!("(no text)"), 0),
        (
            multipart("mixed", &[TEXT, "Content-Disposition: attachment\r\n\r\nfile"]),
            Value::Null,
            json!("plain"),
            1,
        ),
        (
            multipart("alternative", &[TEXT, "Content-Type: text/calendar\r\n\r\nBEGIN"]),
            Value::Null,
            json!("plain"),
            1,
        ),
    ];
    for (entity, html, text, attachments) in table {
        let email = translated(&message(&entity)).unwrap();
        assert_eq!((&email["html"], &email["text"]), (&html, &text), "{entity}");
        assert_eq!(email["attachments"].as_array().map_or(0, Vec::len), attachments, "{entity}");
    }
}

fn attachment(part: &str) -> Value {
    let mut email = translated(&message(&multipart("mixed", &[TEXT, part]))).unwrap();
    email["attachments"][0].take()
}

#[test]
fn files_have_a_name_and_no_type_that_contradicts_it() {
    let table: [(&str, &str, Value); 13] = [
        ("application/pdf; name=a.pdf", "a.pdf", json!("application/pdf")),
        ("application/pdf", "attachment-1.pdf", json!("application/pdf")),
        ("image/jpeg", "attachment-1.jpg", json!("image/jpeg")),
        ("application/x-unheard-of", "attachment-1.bin", Value::Null),
        ("application/octet-stream; name=a.pdf", "a.pdf", Value::Null),
        ("text/csv; name=data.txt", "data.txt", Value::Null),
        ("application/x-foo; name=a.foo", "a.foo", json!("application/x-foo")),
        ("application/octet-stream; name=a.foo", "a.foo", Value::Null),
        ("application/x-foo; name=README", "README", json!("application/x-foo")),
        ("text/vcard; name=a.vcf", "a.vcf", Value::Null),
        ("message/rfc822", "attachment-1.eml", json!("message/rfc822")),
        ("application/pdf; name=\"=?utf-8?q?gr=C3=BCn?=.pdf\"", "gr\u{fc}n.pdf", json!("application/pdf")),
        ("text/plain; charset=iso-8859-1; name=a.txt", "a.txt", json!("text/plain")),
    ];
    for (content_type, filename, want) in table {
        let attachment = attachment(&format!("Content-Type: {content_type}\r\n\r\nx"));
        assert_eq!(attachment["filename"], filename, "{content_type}");
        assert_eq!(attachment["content_type"], want, "{content_type}");
        assert_eq!(attachment["content"], "eA==");
    }
}

#[test]
fn files_stay_exact_to_the_byte() {
    let part = "Content-Type: text/csv; charset=iso-8859-1; name=a.csv\r\nContent-Transfer-Encoding: base64\r\n\r\n/A0K";
    let latin = attachment(part);
    assert_eq!(
        (&latin["content"], &latin["content_type"]),
        (&json!("/A0K"), &json!("text/csv; charset=iso-8859-1"))
    );

    let nested = "Subject: inner\r\n\r\nhi\r\n.\r\n";
    let eml = attachment(&format!("Content-Type: message/rfc822\r\n\r\n{nested}"));
    use base64::Engine as _;
    let content = base64::engine::general_purpose::STANDARD.encode(nested);
    assert_eq!(eml["content"], content);
}

#[test]
fn calendars_are_sent_as_text() {
    let table = [
        ("text/calendar; method=REQUEST; charset=utf-8", "attachment-1.ics", "text/calendar; method=REQUEST"),
        ("text/calendar; name=meeting", "meeting.ics", "text/calendar"),
        ("text/calendar; method=\"A;b\"; name=a.txt", "a.txt.ics", "text/calendar"),
    ];
    for (content_type, filename, want) in table {
        let part =
            format!("Content-Type: {content_type}\r\nContent-Transfer-Encoding: base64\r\n\r\nQkVHSU4NCg==");
        let calendar = attachment(&part);
        assert_eq!(calendar["content"], "BEGIN\r\n");
        assert_eq!((&calendar["filename"], &calendar["content_type"]), (&json!(filename), &json!(want)));
    }
}

#[test]
fn pictures_are_inline_where_the_html_shows_them() {
    let long = format!("<{}@x>", "l".repeat(130));
    let table: [(&str, &str, Value, &str); 10] = [
        ("<logo@x>", "<img src=\"cid:logo@x\">", json!("logo@x"), "<img src=\"cid:logo@x\">"),
        ("<logo@x>", "<img src='CID:logo%40x'>", json!("logo@x"), "<img src='CID:logo%40x'>"),
        (
            "logo@x",
            "<p style=\"background:url(cid:logo@x)\">",
            json!("logo@x"),
            "<p style=\"background:url(cid:logo@x)\">",
        ),
        ("<logo@x>", "<img src=\"cid:logo@x2\">", Value::Null, "<img src=\"cid:logo@x2\">"),
        ("<logo@x>", "<p>acid:logo@x", Value::Null, "<p>acid:logo@x"),
        (
            &long,
            &format!("<img src=\"cid:{0}@x\"><img src=\"cid:{0}@x\">", "l".repeat(130)),
            json!("inline-1.postmeter"),
            "<img src=\"cid:inline-1.postmeter\"><img src=\"cid:inline-1.postmeter\">",
        ),
        ("<>", "<img src=\"cid:\">", Value::Null, "<img src=\"cid:\">"),
        ("<a&b@x>", "<img src=\"cid:a&amp;b@x\">", json!("a&b@x"), "<img src=\"cid:a&amp;b@x\">"),
        ("<logo@x>", "<img src=\"cid:logo&#64;x\">", json!("logo@x"), "<img src=\"cid:logo&#64;x\">"),
        (
            "<l o@x>",
            "<img src=\"cid:l%20o&commat;x\">",
            json!("inline-1.postmeter"),
            "<img src=\"cid:inline-1.postmeter\">",
        ),
    ];
    for (id, html, want, html_after) in table {
        let picture = format!("Content-Type: image/png\r\nContent-ID: {id}\r\n\r\nPNG");
        let html = format!("Content-Type: text/html\r\n\r\n{html}");
        let email = translated(&message(&multipart("related", &[&html, &picture]))).unwrap();
        assert_eq!(email["attachments"][0]["content_id"], want, "{id}");
        assert_eq!(email["html"], html_after);
        assert_eq!(email["attachments"][0]["filename"], "attachment-1.png");
    }
}

#[test]
fn each_group_shows_its_own_pictures() {
    let group = |html: &str, named: &str, octets: &str| {
        let picture = format!("Content-Type: image/png\r\n{named}\r\n\r\n{octets}");
        multipart("related", &[html, &picture]).replace("b-related", &format!("b-{octets}"))
    };
    let html = |base: &str, body: &str| format!("Content-Type: text/html\r\n{base}\r\n{body}");
    let at = "Content-Location: logo.png";
    let both = "Content-Location: logo.png\r\nContent-ID: <logo@x>";
    let based = |host: &str| format!("Content-Location: http://{host}/a.html\r\n");
    let of_host = |host: &str| format!("Content-Location: http://{host}/logo.png");
    let shows = |id: &str| format!("<img src=\"cid:{id}\">");
    let by_location = html("", "<img src=\"logo.png\">");
    let by_both = html("", "<img src=\"logo.png\"><img src=\"cid:logo@x\">");
    let table = [
        (
            [group(&by_location, at, "ONE"), group(&by_location, at, "TWO")],
            [shows("inline-1.postmeter"), shows("inline-2.postmeter")].join("\n"),
        ),
        (
            [group(&by_both, both, "ONE"), group(&by_both, both, "TWO")],
            [shows("logo@x").repeat(2), shows("inline-2.postmeter").repeat(2)].join("\n"),
        ),
        (
            ["one", "two"].map(|host| {
                group(&html(&based(host), "<img src=\"logo.png\">"), &of_host(host), &host.to_uppercase())
            }),
            [shows("inline-1.postmeter"), shows("inline-2.postmeter")].join("\n"),
        ),
        (
            [format!("Content-Type: image/png\r\n{at}\r\n\r\nONE"), group(&by_location, at, "TWO")],
            shows("inline-2.postmeter"),
        ),
    ];
    let mut table =
        table.map(|([first, second], want)| (multipart("mixed", &[&first, &second]), want)).to_vec();
    let picture = format!("Content-Type: image/png\r\n{at}\r\n\r\nTWO");
    let around = multipart("related", &[&by_location, &group(&by_location, at, "ONE"), &picture]);
    table.push((around, [shows("inline-2.postmeter"), shows("inline-1.postmeter")].join("\n")));
    for (mail, want) in table {
        let email = translated(&message(&mail)).unwrap();
        assert_eq!(email["html"], want, "{mail}");
        let files = email["attachments"].as_array().unwrap();
        let octets: Vec<_> = files.iter().map(|file| file["content"].as_str().unwrap()).collect();
        assert_eq!(octets, ["T05F", "VFdP"], "{mail}");
    }
}

#[test]
fn what_the_type_of_a_shown_text_says_beyond_how_it_is_read_is_noted() {
    let lost = |field: &str| {
        let message = Translatable::parse(&message(&format!("Content-Type: {field}\r\n\r\nx"))).unwrap();
        let notes = message.notes(&bob(), &[bob()]);
        let lost = notes.iter().filter_map(|note| match &note.change {
            Change::ParametersLost(names) => Some(names.clone()),
            _ => None,
        });
        lost.flatten().collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(lost("text/plain; charset=utf-8; format=flowed; delsp=yes; name=a.txt"), none);
    assert_eq!(lost("text/plain; charset=utf-8; reply-type=original; x-foo=bar"), ["reply-type", "x-foo"]);
    assert_eq!(lost("text/html; charset=utf-8; version=3.2"), ["version"]);
    let parts = "boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--";
    assert_eq!(lost(&format!("multipart/mixed; charset=utf-8; name=a; {parts}")), none);
    assert_eq!(lost(&format!("multipart/mixed; x-foo=bar; {parts}")), ["x-foo"]);
}

#[test]
fn octets_that_are_no_utf_8_are_noted_as_guessed_in_every_field_that_is_carried() {
    let mail = [&b"X-A: \xfc\r\nX-B: \xc3\xbc\r\nSender: \xfc@x\r\n"[..], &with("Subject: \u{fc}\r\n", "x")]
        .concat();
    let notes = Translatable::parse(&mail).unwrap().notes(&bob(), &[bob()]);
    let read_as = |note: &&Note| matches!(&note.change, Change::ReadAs(charset) if charset == "Windows-1252");
    let guessed: Vec<&Place> = notes.iter().filter(read_as).map(|note| &note.place).collect();
    assert_eq!(guessed, [&Place::Field("X-A".to_owned())]);
}

#[test]
fn p6_what_cannot_be_carried_is_refused_with_a_reason() {
    let exe = multipart("mixed", &[TEXT, "Content-Type: text/plain; name=\"a.EXE. \"\r\n\r\nx"]);
    let nested = multipart("mixed", &[&multipart("signed", &[TEXT, PDF]), FOOTER]);
    let large = format!("Content-Type: text/html\r\n\r\n{}", "x".repeat(MAX_EMAIL_BYTES));
    let table = [
        (message(&multipart("signed", &[TEXT, PDF])), "5.6.1"),
        (message(&multipart("encrypted", &[TEXT, PDF])), "5.6.1"),
        (message(&multipart("report", &[TEXT, TEXT])), "5.6.1"),
        (message(&nested), "5.6.1"),
        (with("Content-Type: application/pkcs7-mime; name=smime.p7m\r\n", "x"), "5.6.1"),
        (with("Content-Type: application/octet-stream; name=SMIME.P7M\r\n", "x"), "5.6.1"),
        (with("Content-Disposition: attachment; filename=smime.p7m\r\n", "x"), "5.6.1"),
        (with("Content-Type: application/pgp; format=text\r\n", "x"), "5.6.1"),
        (with("Content-Type: application/x-pgp-message\r\n", "x"), "5.6.1"),
        (with("Content-Type: application/pgp-keys\r\n", "x"), ""),
        (
            message(&multipart(
                "mixed",
                &[TEXT, "Content-Type: application/octet-stream; name=a.p7m\r\n\r\nx"],
            )),
            "",
        ),
        (message(&exe), "5.7.1"),
        (message(&large), "5.3.4"),
        (with("Content-Type: multipart/mixed; boundary=b\r\n", "no parts"), "5.6.0"),
        (with("Content-Transfer-Encoding: x-uuencode\r\n", "x"), "5.6.0"),
        (with("Content-Transfer-Encoding: base64\r\n", "\u{1}"), "5.6.0"),
        (with("Content-Type: text/plain; charset=x-odd\r\n", "\u{0}\u{fc}"), ""),
        (with("Reply-To: nobody\r\n", "x"), "5.6.0"),
        (with("Reply-To: gr\u{fc}n@x.example\r\n", "x"), "5.6.7"),
        (with("Reply-To: <\"a b\"@x.example>\r\n", "x"), "5.6.1"),
        (b"From: a@x.example, b@x.example\r\n\r\nx".to_vec(), "5.6.0"),
        (b"From: a@x.example\r\nFrom: a@x.example\r\n\r\nx".to_vec(), "5.6.0"),
        ("From: gr\u{fc}n@x.example\r\n\r\nx".into(), "5.6.7"),
        (b"Subject: s\r\n\r\nx".to_vec(), "5.6.0"),
        (b"nonsense\r\n\r\nx".to_vec(), "5.6.0"),
    ];
    for (bytes, status) in table {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        match translated(&bytes) {
            Ok(_) => assert_eq!(status, "", "{start}"),
            Err(refused) => {
                assert_eq!(refused.status, status, "{start}");
                assert!(refused.what.bytes().all(|b| matches!(b, b' '..=b'~')), "{}", refused.what);
            }
        }
    }
}

#[test]
fn p6_what_is_signed_in_clear_keeps_its_signature_or_is_refused() {
    let signed = |text: &str| {
        format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256\r\n\r\n{text}\r\n-----BEGIN PGP SIGNATURE-----\r\n\
             \r\nx\r\n-----END PGP SIGNATURE-----\r\n"
        )
    };
    let plain = |parameters: &str, text: &str| format!("Content-Type: text/plain{parameters}\r\n\r\n{text}");
    let not_ascii = "PGP-signed text that is not ASCII";
    let table = [
        ("", signed("hi"), None),
        ("; format=flowed", signed("hi"), None),
        ("; charset=utf-8", signed("gr\u{fc}n"), Some(not_ascii)),
        ("; charset=iso-2022-jp", signed("\u{1b}$BF|\u{1b}(B"), Some(not_ascii)),
        ("; format=flowed; delsp=YES", signed("hi"), Some("PGP-signed text in format=flowed with DelSp")),
        ("; format=flowed; delsp=yes", "hi".into(), None),
        ("; charset=utf-8", format!("gr\u{fc}n\r\n{}gr\u{fc}n", signed("hi")), None),
        ("; charset=utf-8", signed("hi") + &signed("gr\u{fc}n"), Some(not_ascii)),
        ("; charset=utf-8", signed("gr\u{fc}n").replace("-----BEGIN", "> -----BEGIN"), None),
    ];
    for (parameters, text, want) in table {
        let entity = multipart("mixed", &[TEXT, &plain(parameters, &text)]);
        match (translated(&message(&entity)), want) {
            (Ok(_), None) => {}
            (Err(refused), Some(want)) => {
                assert_eq!(refused.status, "5.6.1");
                assert!(refused.what.starts_with(&format!("{want} (part 2) ")), "{refused}");
            }
            (got, want) => panic!("{parameters} {text}: {got:?} is not {want:?}"),
        }
    }
    let file = plain("; charset=utf-8; name=a.txt", &signed("gr\u{fc}n"));
    assert!(translated(&message(&multipart("mixed", &[TEXT, &file]))).is_ok());
}

#[test]
fn a_version_for_particular_readers_is_left_out_where_others_see_html() {
    let amp = "Content-Type: text/x-amp-html\r\n\r\n<html amp4email></html>";
    let related = multipart("related", &[HTML, IMAGE]);
    let attached = "Content-Type: text/html; name=a.html\r\nContent-Disposition: attachment\r\n\r\n<p>x</p>";
    for (html, is_left_out) in [(HTML, true), (&related, true), (attached, false), ("\r\n", false)] {
        let bytes = message(&multipart("alternative", &[TEXT, amp, html]));
        let notes = Translatable::parse(&bytes).unwrap().notes;
        let is_noted = |change: &Change| {
            notes.iter().any(|note| note.change == *change && note.to_string().starts_with("part 2 "))
        };
        assert_eq!(is_noted(&Change::VersionLeftOut), is_left_out, "{notes:?}");
        assert_eq!(is_noted(&Change::VersionAsFile), !is_left_out, "{notes:?}");
    }
}

#[test]
fn what_is_only_called_a_calendar_stays_exact() {
    let table = [
        ("application/octet-stream; name=a.ics", "/wAB", "a.ics.bin", "/wAB"),
        ("application/ics; name=a.ics", "w7w=", "a.ics", "\u{fc}"),
        ("text/plain; charset=iso-8859-1; name=a.ics", "/A==", "a.ics", "\u{fc}"),
    ];
    for (content_type, octets, filename, content) in table {
        let part =
            format!("Content-Type: {content_type}\r\nContent-Transfer-Encoding: base64\r\n\r\n{octets}");
        let attachment = attachment(&part);
        assert_eq!((&attachment["filename"], &attachment["content"]), (&json!(filename), &json!(content)));
    }
}

#[test]
fn subjects_are_one_line_and_never_missing() {
    let table = [
        ("Subject: =?utf-8?q?a=0D=0AB=C3=BC?=\r\n", "a B\u{fc}"),
        ("Subject: a\r\n b\r\n", "a b"),
        ("Subject:\r\n", "(no subject)"),
        ("", "(no subject)"),
    ];
    for (field, want) in table {
        let bytes = format!("From: a@x.example\r\nTo: bob@y.example\r\n{field}\r\nx");
        assert_eq!(translated(bytes.as_bytes()).unwrap()["subject"], want, "{field}");
    }
}

#[test]
fn other_fields_go_along_once_each() {
    let fields = "Received: r\r\nReceived-SPF: r\r\nDate: d\r\nMessage-ID: <1@x>\r\nSender: s@x.example\r\n\
        MIME-Version: 1.0\r\nContent-Language: en\r\nDKIM-Signature: v=1\r\nARC-Seal: i=1\r\nResent-To: r@x.example\r\n\
        resend-idempotency-key: k\r\nX-SES-X: c\r\nX-Postmeter-X: p\r\nReturn-Path: <>\r\nBcc: h@x.example\r\n\
        In-Reply-To: <1@x>\r\nReferences: <1@x>\r\n\t<2@x>\r\nReferences: <3@x>\r\nX-Tag: a\r\nx-tag: b\r\nX-TAG : a, b\r\n\
        List-Unsubscribe: <https://x.example/u>\r\nX-Name: J\u{fc}rgen\r\nX-Encoded: =?utf-8?q?=C3=BC?=\r\nX-Empty:\r\n\
        Reply-To: \"R, R\" <r@b\u{fc}cher.example>, q@x.example\r\nAuto-Submitted: auto-generated\r\n";
    let email = translated(&with(fields, "x")).unwrap();
    assert_eq!(
        email["headers"],
        json!({
            "In-Reply-To": "<1@x>",
            "References": "<1@x>\t<2@x> <3@x>".replace('\t', " "),
            "X-Tag": "a, b",
            "List-Unsubscribe": "<https://x.example/u>",
            "X-Name": "=?utf-8?B?SsO8cmdlbg==?=",
            "X-Encoded": "=?utf-8?q?=C3=BC?=",
            "Auto-Submitted": "auto-generated",
        })
    );
    assert_eq!(email["reply_to"], json!(["\"R, R\" <r@xn--bcher-kva.example>", "q@x.example"]));
    assert_eq!(email["from"], "\"Ann\" <ann@x.example>");
    assert_eq!(email["tags"], json!([{"name": "postmeter", "value": "0199-0"}]));
}

#[test]
fn p4_the_same_message_gives_the_same_bytes() {
    let fields = "X-B: 1\r\nX-A: 2\r\n";
    let bytes = with(fields, "hi\r\n");
    let id = part_id();
    let write = || Translatable::parse(&bytes).unwrap().email(&bob(), &id).unwrap().to_json();
    let want = "{\"from\":\"\\\"Ann\\\" <ann@x.example>\",\"to\":[\"bob@y.example\"],\"subject\":\"s\",\"text\":\"hi\\n\",\
        \"headers\":{\"X-B\":\"1\",\"X-A\":\"2\"},\"tags\":[{\"name\":\"postmeter\",\"value\":\"0199-0\"}]}";
    assert_eq!(String::from_utf8(write()).unwrap(), want);
    assert_eq!(write(), write());
}

#[test]
fn a_report_of_our_own_can_be_carried_in_its_plain_shape() {
    use crate::domain::dsn::{Dsn, Ret};
    use crate::mime::Origin;
    use crate::mime::bounce::{About, Failure, Left, Shape, bounce};
    let from = NamedMailbox::parse("Postmeter <postmaster@example.com>").unwrap();
    let (message_id, bob) = (MessageId::parse("0200").unwrap(), bob());
    let now = jiff::Timestamp::UNIX_EPOCH;
    let origin = Origin { from: &from, hostname: "smtp.example.com", now, message_id: &message_id };
    let original = with("Message-ID: <1@x.example>\r\n", "hi");
    let left = Left::Message(&original);
    use base64::Engine as _;
    let content = base64::engine::general_purpose::STANDARD.encode(&original);
    let dsn = Dsn::new(Ret::parse("FULL").ok(), None);
    let about = About { sender: &bob[0], message_id: &message_id, accepted_at: now, left, dsn: &dsn };
    let failures = [Failure { recipient: &from.mailbox, status: "5.1.1", text: "no such user", host: None }];

    let email = translated(&bounce(&origin, &about, &failures, Shape::Plain)).unwrap();
    assert_eq!(email["to"], json!(["bob@y.example"]));
    assert_eq!(email["attachments"][0]["filename"], "delivery-status.txt");
    assert_eq!(email["attachments"][1]["filename"], "original-message.eml");
    assert_eq!(email["attachments"][1]["content"], content);
    assert_eq!(email["headers"]["In-Reply-To"], "<1@x.example>");
    let nothing = Dsn::default();
    let about = About { dsn: &nothing, ..about };
    let email = translated(&bounce(&origin, &about, &failures, Shape::Plain)).unwrap();
    assert_eq!(email["attachments"][1]["filename"], "original-headers.txt");
    assert_eq!(email["attachments"][1]["content_type"], "text/plain");
    assert!(translated(&bounce(&origin, &about, &failures, Shape::Report)).is_err());
}

#[test]
fn p7_references_without_end_cost_no_time() {
    let html = format!("Content-Type: text/html\r\n\r\n{}", "cid:".repeat(500_000));
    assert!(translated(&message(&multipart("related", &[&html, IMAGE]))).is_ok());
}

#[test]
fn p7_what_json_writes_longer_counts_as_it_is_written() {
    let text = |octets: usize, piece: &str| message(&format!("\r\n{}", piece.repeat(octets / piece.len())));
    let table = [(6_000_000, "\u{1}x", true), (12_000_000, "\u{1}", false), (12_000_000, "x", true)];
    for (octets, piece, is_carried) in table {
        assert_eq!(translated(&text(octets, piece)).is_ok(), is_carried, "{octets} {piece:?}");
    }
}

#[test]
fn p7_notes_take_no_more_than_they_say() {
    let field = |n: usize| format!("Content-Nothing-{n}: x\r\n");
    let fields: String = (0..900).map(field).collect();
    let long = format!("Content-Type: application/{}\r\n{fields}\r\nx", "y".repeat(15_000));
    let parts = vec![long.as_str(); 50];
    let message = Translatable::parse(&message(&multipart("mixed", &parts))).unwrap();
    let notes = message.notes(&bob(), &[bob()]);
    assert!((50 * 21..50 * 25).contains(&notes.len()), "{}", notes.len());
    assert!(notes.iter().all(|note| note.to_string().len() < 300));
    assert!(notes.iter().any(|note| note.to_string().contains("880 more of its fields are not carried")));
}

#[test]
fn p7_a_text_that_html_writes_longer_is_refused_before_it_takes_more_than_a_message_may() {
    let text = |octets: usize| format!("Content-Type: text/plain\r\n\r\n{}", "&".repeat(octets));
    let mixed = |octets: usize| translated(&message(&multipart("mixed", &[&text(octets), HTML])));
    assert!(mixed(1_000).is_ok());
    assert_eq!(mixed(10_000_000).unwrap_err().status, "5.3.4");
}
