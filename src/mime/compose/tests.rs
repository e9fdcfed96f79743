use serde_json::json;

use super::*;
use crate::mime::entity::{Content, Entity};
use crate::mime::header::Header;
use crate::mime::inspect::inspect;

fn composed(request: Value) -> Result<(Vec<u8>, Envelope), String> {
    let composition: Composition = serde_json::from_value(request).map_err(|error| error.to_string())?;
    let from = NamedMailbox::parse("Shop <shop@x.example>").unwrap();
    composition.compose(Some(&from), 3).map_err(|error| error.to_string())
}

/// The structure of a message: `mixed(text/plain application/pdf)`.
fn structure(entity: &Entity<'_>) -> String {
    match &entity.content {
        Content::Leaf(_) => entity.media.essence(),
        Content::Parts(parts) => {
            let parts: Vec<String> = parts.iter().map(structure).collect();
            format!("{}({})", entity.media.subtype(), parts.join(" "))
        }
    }
}

#[test]
fn a_small_request_becomes_a_small_message() {
    let (bytes, envelope) =
        composed(json!({"to": "bob@y.example", "subject": "hi", "text": "line\nlast"})).unwrap();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "From: \"Shop\" <shop@x.example>\r\nTo: bob@y.example\r\nSubject: hi\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\nline\r\nlast\r\n"
    );
    assert_eq!(envelope.reverse_path().to_string(), "shop@x.example");
}

#[test]
fn p5_bcc_is_in_the_envelope_alone() {
    let request = json!({
        "from": "Ann <ann@x.example>", "to": ["Bob <bob@y.example>"], "cc": "c@y.example", "bcc": ["h@y.example"],
        "reply_to": ["r@x.example", "s@x.example"], "subject": "s", "text": "t"
    });
    let (bytes, envelope) = composed(request).unwrap();
    let recipients: Vec<String> = envelope.recipients().iter().map(ToString::to_string).collect();
    assert_eq!(recipients, ["bob@y.example", "c@y.example", "h@y.example"]);
    let written = String::from_utf8(bytes).unwrap();
    assert!(!written.contains("h@y.example"));
    assert!(written.contains(
        "From: \"Ann\" <ann@x.example>\r\nTo: \"Bob\" <bob@y.example>\r\nCc: c@y.example\r\n\
        Reply-To: r@x.example, s@x.example\r\n"
    ));
}

#[test]
fn bodies_and_files_are_laid_out_as_mail_readers_expect() {
    let pdf = json!({"filename": "a.pdf", "content": "JVBERg"});
    let logo = json!({"filename": "l.png", "content": "UE5H\r\n", "content_id": "logo"});
    let table = [
        (json!({"html": "<p>"}), "text/html"),
        (json!({"html": "<p>", "text": "t"}), "alternative(text/plain text/html)"),
        (json!({"text": "t", "attachments": [pdf]}), "mixed(text/plain application/pdf)"),
        (
            json!({"html": "<p>", "text": "t", "attachments": [pdf, logo]}),
            "mixed(alternative(text/plain related(text/html image/png)) application/pdf)",
        ),
        (json!({"text": "t", "attachments": [logo]}), "mixed(text/plain image/png)"),
    ];
    for (mut request, want) in table {
        request["to"] = json!("bob@y.example");
        request["subject"] = json!("s");
        let (bytes, _) = composed(request.clone()).unwrap();
        assert!(inspect(&bytes).is_ok());
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(structure(&Entity::parse(&header).unwrap()), want);
        assert_eq!(composed(request).unwrap().0, bytes, "the same request gives the same bytes");
    }
}

#[test]
fn what_was_asked_for_is_what_is_read() {
    let subject = "=?utf-8?q?literal?= Gr\u{fc}\u{df}e ".repeat(20);
    let text = format!("Gr\u{fc}\u{df}e\r\n.\nFrom here {}\n", "x".repeat(3000));
    let request = json!({
        "to": "\"Doe, Bob\" <bob@b\u{fc}cher.example>", "from": "J\u{fc}rgen <j@x.example>", "subject": subject.trim(),
        "text": text, "headers": {"X-Entity-Ref-ID": "17", "X-Long": "word ".repeat(400).trim(), "X-Uni": "\u{fc}"},
        "attachments": [{"filename": "../gr\u{fc}n \"1\".csv", "content": "/A0K", "content_type": "text/csv; charset=latin1"}]
    });
    let (bytes, _) = composed(request).unwrap();
    let written = String::from_utf8(bytes.clone()).unwrap();
    assert!(written.is_ascii() && written.split("\r\n").all(|line| line.len() <= 998));
    let header = Header::parse(&bytes).unwrap();
    let decoded = |name| header.first(name).unwrap().decoded();
    assert_eq!(decoded("Subject"), subject.trim());
    assert_eq!(decoded("X-Uni"), "\u{fc}");
    assert_eq!(decoded("X-Entity-Ref-ID"), "17");
    assert_eq!(decoded("X-Long"), "word ".repeat(400).trim());
    assert_eq!(decoded("To"), "\"Doe, Bob\" <bob@xn--bcher-kva.example>");
    let entity = Entity::parse(&header).unwrap();
    let Content::Parts(parts) = &entity.content else { panic!("no multipart") };
    assert_eq!(parts[0].text(&parts[0].decoded().unwrap()).unwrap().text, text.replace("\r\n", "\n"));
    assert_eq!(parts[1].decoded().unwrap().bytes.as_ref(), b"\xfc\r\n");
    assert_eq!(parts[1].filename.as_deref(), Some("gr\u{fc}n \"1\".csv"));
}

#[test]
fn a_wrong_request_is_told_which_field_is_wrong() {
    let table = [
        (json!({"to": null}), "to: is required"),
        (json!({"to": []}), "to: is required"),
        (json!({"to": 7}), "to: must be a string or a list"),
        (json!({"to": ["a@x.example", 7]}), "to: must be a string or a list"),
        (json!({"to": "nobody"}), "to: must be one address"),
        (json!({"to": "a@x.example\r\nBcc: b@x.example"}), "to: must be one address"),
        (json!({"to": "a@x.example, b@x.example"}), "to: must be one address"),
        (
            json!({"to": ["a@x.example", "b@x.example", "c@x.example", "d@x.example"]}),
            "to: at most 3 recipients",
        ),
        (json!({"from": ["a@x.example", "b@x.example"]}), "from: must be a string"),
        (json!({"subject": null}), "subject: is required"),
        (json!({"subject": "a\nBcc: b@x.example"}), "subject: must be one line"),
        (json!({"text": null}), "text: text or html is required"),
        (json!({"text": 7}), "text: must be a string"),
        (json!({"text": "\u{0}"}), "text: must not contain NUL"),
        (json!({"tex": "t"}), "tex: is not a field"),
        (json!({"headers": []}), "headers: must be an object"),
        (json!({"headers": {"X-A": 1}}), "headers.X-A: must be a string"),
        (json!({"headers": {"X-A": "a\r\nBcc: b@x.example"}}), "headers.X-A: must be one line"),
        (json!({"headers": {"X-A\r\nBcc": "b@x.example"}}), "headers.X-A??Bcc: is not the name"),
        (json!({"headers": {"X A": "b"}}), "headers.X A: is not the name"),
        (json!({"headers": {"bcc": "b"}}), "headers.bcc: is written by the relay"),
        (json!({"headers": {"resend-idempotency-key": "b"}}), "headers.resend-idempotency-key: is written"),
        (json!({"headers": {"X-A": "x".repeat(901)}}), "headers.X-A: has a word of more"),
        (json!({"attachments": {}}), "attachments: must be a list"),
        (json!({"attachments": [7]}), "attachments[0]: must be an object"),
        (json!({"attachments": [{"content": ""}]}), "attachments[0].filename: is required"),
        (json!({"attachments": [{"filename": "..", "content": ""}]}), "attachments[0].filename: must be"),
        (json!({"attachments": [{"filename": "a"}]}), "attachments[0].content: is required"),
        (
            json!({"attachments": [{"filename": "a", "content": "!"}]}),
            "attachments[0].content: must be Base64",
        ),
        (
            json!({"attachments": [{"filename": "a", "content": "", "path": "x"}]}),
            "attachments[0].path: is not a field",
        ),
        (
            json!({"attachments": [{"filename": "a", "content": "", "content_type": "pdf"}]}),
            "attachments[0].content_type: must be a media type",
        ),
        (
            json!({"attachments": [{"filename": "a", "content": "", "content_type": "multipart/mixed; boundary=b"}]}),
            "attachments[0].content_type: must not be multipart",
        ),
        (
            json!({"attachments": [{"filename": "a", "content": "", "content_id": "<a>"}]}),
            "attachments[0].content_id: must be 1 to 127",
        ),
    ];
    for (change, want) in table {
        let mut request = json!({"to": "bob@y.example", "subject": "s", "text": "t"});
        for (name, value) in change.as_object().unwrap() {
            request[name] = value.clone();
        }
        let error = composed(request).unwrap_err();
        assert!(error.starts_with(want), "{error} should begin with {want}");
    }
}

#[test]
fn a_sender_is_needed() {
    let composition: Composition =
        serde_json::from_value(json!({"to": "bob@y.example", "subject": "s", "text": "t"})).unwrap();
    assert!(composition.compose(None, 50).unwrap_err().to_string().starts_with("from: is required"));
}

#[test]
fn a_fingerprint_is_of_what_was_asked_for_and_not_of_how_it_was_written() {
    let fingerprint = |json: &str| serde_json::from_str::<Composition>(json).unwrap().fingerprint();
    let first = r#"{"to":["bob@y.example"],"subject":"Grüße","text":"t","headers":{"X-A":"1","X-B":"2"},
        "attachments":[{"filename":"a.txt","content":"aGk="}]}"#;
    let same = [
        r#"{"attachments":[{"content":"aGk","filename":"a.txt"}],"headers":{"X-B":"2","X-A":"1"},
            "subject":"Gr\u00fc\u00dfe","cc":[],"html":null,"text":"t","to":"bob@Y.example"}"#,
        first,
    ];
    for json in same {
        assert_eq!(fingerprint(json), fingerprint(first), "{json}");
    }
    let others = [
        first.replace("bob@", "cid@"),
        first.replace("\"bob@y.example\"", "\"bob@y.example\",\"cid@y.example\""),
        first.replace("\"to\"", "\"cc\":\"c@y.example\",\"to\""),
        first.replace("\"to\"", "\"from\":\"c@y.example\",\"to\""),
        first.replace("Grüße", "Grüsse"),
        first.replace("\"text\"", "\"html\""),
        first.replace("\"t\"", "\"u\""),
        first.replace("X-A", "X-C"),
        first.replace("\"1\"", "\"3\""),
        first.replace("a.txt", "b.txt"),
        first.replace("aGk=", "aGo="),
        first.replace("\"content\"", "\"content_id\":\"i\",\"content\""),
    ];
    for json in others {
        assert_ne!(fingerprint(&json), fingerprint(first), "{json}");
    }
}
