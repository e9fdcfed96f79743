mod hosts;
mod reuse;
mod server;

use bytes::Bytes;
use secrecy::SecretString;

use super::*;
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::ids::PartId;
use crate::upstream::RecipientAnswer;
use crate::upstream::tenure::Tenure;
use server::{Server, Tls};

const MESSAGE: &[u8] = b"Subject: hello\r\n\r\nbody\r\n";

fn part(recipients: &[&str], bytes: impl Into<Bytes>) -> Outgoing {
    Outgoing {
        part_id: PartId::parse("m-1").unwrap(),
        idempotency_key: "m-1".to_owned(),
        reverse_path: ReversePath::parse("a@x.example").unwrap(),
        recipients: recipients.iter().map(|to| Mailbox::parse(to).unwrap()).collect(),
        repeats: None,
        bytes: bytes.into(),
        dsn: Arc::default(),
        tenure: Tenure::for_good(),
    }
}

const REUSE: Reuse =
    Reuse { max_messages: 100, max_age: Duration::from_secs(300), max_idle: Duration::from_secs(60) };

fn client(url: &str) -> SmtpUpstream {
    client_of(url, REUSE, false)
}

fn reusing(url: &str, reuse: Reuse) -> SmtpUpstream {
    client_of(url, reuse, false)
}

fn client_of(url: &str, reuse: Reuse, is_resend: bool) -> SmtpUpstream {
    SmtpUpstream::new(&SmtpSettings {
        url: SecretString::from(url),
        allow_plaintext: true,
        hostname: "relay.example".to_owned(),
        timeout: Duration::from_secs(10),
        reuse,
        signer: Arc::default(),
        clock: Clock::system(),
        is_resend,
    })
    .unwrap()
}

#[tokio::test]
async fn p4_what_is_ours_no_more_gets_no_final_dot() {
    let server = Server::start(&[]).await;
    let (ours, lost) = (Tenure::for_good(), Tenure::for_good());
    lost.lost.cancel();
    for (tenure, arrived) in [(lost, 0), (ours, 1)] {
        let outgoing = Outgoing { tenure, ..part(&["b@y.example"], MESSAGE) };
        let outcome = client(&server.url()).send(&outgoing).await;
        assert_eq!(matches!(outcome, Outcome::Answered { .. }), arrived == 1, "{outcome:?}");
        assert_eq!(server.messages().len(), arrived);
    }
}

#[tokio::test]
async fn p4_resend_is_told_the_key_and_the_part_of_what_it_gets_over_smtp() {
    let server = Server::start(&[]).await;
    let client = client_of(&server.url(), REUSE, true);
    for recipients in [&["b@y.example", "c@y.example"][..], &["c@y.example", "b@y.example"], &["c@y.example"]]
    {
        assert_eq!(
            told(&client.send(&part(recipients, MESSAGE)).await),
            vec!["accepted"; recipients.len()].join(", ")
        );
    }
    let messages = server.messages();
    let keys: Vec<String> = messages
        .iter()
        .map(|message| {
            let text = String::from_utf8_lossy(message).into_owned();
            let (field, rest) = text.split_once("\r\n").unwrap();
            let rest = rest.strip_prefix("X-Postmeter-Part: m-1\r\n").unwrap();
            assert_eq!(rest.as_bytes(), MESSAGE);
            field.strip_prefix("Resend-Idempotency-Key: m-1-").unwrap().to_owned()
        })
        .collect();
    // A try for those who are left is another mail; the same one again is not.
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
}

/// An outcome in few words, for tables.
fn told(outcome: &Outcome) -> String {
    let one = |answer: &RecipientAnswer| match answer {
        RecipientAnswer::Accepted => "accepted".to_owned(),
        RecipientAnswer::Vouched => "vouched".to_owned(),
        RecipientAnswer::Refused(answer) => format!("refused {}", answer.status),
        RecipientAnswer::NoMailbox(answer) => format!("nobody {}", answer.status),
        RecipientAnswer::Deferred(answer) => format!("deferred {}", answer.status),
    };
    match outcome {
        Outcome::Answered { answers, .. } => answers.iter().map(one).collect::<Vec<_>>().join(", "),
        Outcome::Barred(answer) => format!("barred {}", answer.status),
        Outcome::Transient { answer, counts, .. } => format!("transient {} {counts}", answer.status),
        Outcome::Closed { .. } => "closed".to_owned(),
        Outcome::Unrepeatable => "unrepeatable".to_owned(),
        Outcome::Unknown { .. } => "unknown".to_owned(),
    }
}

#[tokio::test]
async fn every_recipient_has_an_answer_of_its_own() {
    let server = Server::start(&[
        ("RCPT TO:<gone@", "550 5.1.1 no such user"),
        ("RCPT TO:<full@", "452-4.2.2 mailbox\r\n452 4.2.2 full"),
        ("RCPT TO:<many@", "552 too many recipients"),
        ("RCPT TO:<rude@", "554 go away"),
    ])
    .await;
    let recipients = ["ok@y.example", "gone@y.example", "full@y.example", "many@y.example", "rude@y.example"];
    let outcome = client(&server.url()).send(&part(&recipients, MESSAGE)).await;
    assert_eq!(told(&outcome), "accepted, nobody 5.1.1, deferred 4.2.2, deferred 4.5.3, refused 5.0.0");
    let Outcome::Answered { upstream_id, answers, host } = outcome else { panic!() };
    assert_eq!(host.as_deref(), Some("127.0.0.1"));
    assert_eq!(upstream_id.as_deref(), Some("250 2.0.0 queued as 42"));
    assert_eq!(answers[2], RecipientAnswer::Deferred(Answer::new("4.2.2", "452 4.2.2 mailbox full")));
    assert_eq!(server.messages(), [MESSAGE]);
}

#[tokio::test]
async fn an_address_is_nobodys_only_where_a_refusal_of_it_says_so() {
    let table = [
        ("RCPT", "550 5.1.1 no such user", "nobody 5.1.1"),
        ("RCPT", "551 5.1.6 moved", "nobody 5.1.6"),
        ("RCPT", "556 5.1.10 null MX", "nobody 5.1.10"),
        ("RCPT", "550 5.1.1 unknown: mx.y.example said: 550 5.7.1 blocked", "refused 5.1.1"),
        ("RCPT", "550 5.1.1 unknown: 10.0.0.1 said: 550 5.1.1 who?", "nobody 5.1.1"),
        ("RCPT", "550 no such user", "refused 5.0.0"),
        ("RCPT", "550 5.7.1 relaying denied", "refused 5.7.1"),
        // A full mailbox is no crowded message: the server's class says that it is for good.
        ("RCPT", "552 5.2.2 full", "refused 5.2.2"),
        ("RCPT", "552 5.3.4 too big for this one", "refused 5.3.4"),
        ("RCPT", "552 5.1.1 no such user", "nobody 5.1.1"),
        ("RCPT", "552 5.5.3 too many", "deferred 4.5.3"),
        ("RCPT", "552 4.5.3 too many", "deferred 4.5.3"),
        ("RCPT", "552 too many", "deferred 4.5.3"),
        ("RCPT", "550 5.1.2 no such domain", "refused 5.1.2"),
        ("RCPT", "450 4.1.1 maybe tomorrow", "deferred 4.1.1"),
        ("MAIL", "550 5.1.1 we do not know you", "refused 5.1.1"),
        ("DOT", "550 5.1.1 one of them", "refused 5.1.1"),
    ];
    for (command, reply, want) in table {
        let server = Server::start(&[(command, reply)]).await;
        let outcome = client(&server.url()).send(&part(&["b@y.example"], MESSAGE)).await;
        assert_eq!(told(&outcome), want, "{command}: {reply}");
    }
}

#[tokio::test]
async fn every_reply_has_one_meaning() {
    let (yes, two) = ("accepted, accepted", ["b@y.example", "c@y.example"]);
    let refused = |status: &str| format!("refused {status}, refused {status}");
    let deferred = |status: &str| format!("deferred {status}, deferred {status}");
    let table = [
        ("GREETING", "554 no", "closed".to_owned()),
        ("GREETING", "421 4.3.2 busy", "transient 4.3.2 true".to_owned()),
        ("GREETING", "", "transient 4.4.2 true".to_owned()),
        ("GREETING", "HTTP/1.1 400 Bad Request", "transient 4.4.2 true".to_owned()),
        ("EHLO", "502 what", "closed".to_owned()),
        ("EHLO", "250-x\r\n250-    \r\n250 8BITMIME", yes.to_owned()),
        ("EHLO", "250", yes.to_owned()),
        ("EHLO", "250-x\r\n550 y", "transient 4.4.2 true".to_owned()),
        ("MAIL", "451 4.3.0 later", "transient 4.3.0 true".to_owned()),
        ("MAIL", "421 4.7.0 closing", "transient 4.7.0 true".to_owned()),
        ("MAIL", "550 5.7.1 not you", refused("5.7.1")),
        ("MAIL", "552 5.3.4 too big", refused("5.3.4")),
        ("MAIL", "530 5.7.0 sign in", "closed".to_owned()),
        ("MAIL", "", "transient 4.4.2 true".to_owned()),
        ("RCPT", "550 5.7.999 no", refused("5.7.999")),
        ("RCPT", "550 4.1.1 codes disagree", refused("5.0.0")),
        ("RCPT", "450 no enhanced code", deferred("4.0.0")),
        ("RCPT TO:<c@", "530 5.7.0 sign in", "closed".to_owned()),
        ("RCPT TO:<c@", "421 4.3.2 closing", "transient 4.3.2 true".to_owned()),
        ("RCPT TO:<c@", "", "transient 4.4.2 true".to_owned()),
        ("DATA", "451 4.3.0 later", deferred("4.3.0")),
        ("DATA", "554 5.5.1 no", refused("5.5.1")),
        ("DATA", "538 5.7.11 not without TLS", "closed".to_owned()),
        ("DATA", "250 strange", "transient 4.5.0 true".to_owned()),
        ("DATA", "", "transient 4.4.2 true".to_owned()),
        ("DOT", "250 2.0.0 ok", yes.to_owned()),
        ("DOT", "250 angenommen \u{fc}", yes.to_owned()),
        ("DOT", "452 4.3.1 disk full", deferred("4.3.1")),
        ("DOT", "421 4.3.2 closing", deferred("4.3.2")),
        ("DOT", "554 5.6.0 malformed", refused("5.6.0")),
        ("DOT", "530 5.7.0 sign in", "closed".to_owned()),
        ("DOT", "", "unknown".to_owned()),
        ("DOT", "garbage", "unknown".to_owned()),
        ("DOT", "354 go on", "unknown".to_owned()),
    ];
    for (command, reply, want) in table {
        let server = Server::start(&[(command, reply)]).await;
        let outcome = client(&server.url()).send(&part(&two, MESSAGE)).await;
        assert_eq!(told(&outcome), want, "{command} {reply}");
    }
}

#[tokio::test]
async fn a_message_arrives_byte_for_byte() {
    let mut long = b"Subject: long\r\n\r\n".to_vec();
    while long.len() < 200_000 {
        long.extend_from_slice(b".\r\n..dots\r\n\r\nplain\r\n");
    }
    let mut on_the_edge = vec![b'x'; 65_534];
    on_the_edge.extend_from_slice(b"\r\n.after a chunk\r\n");
    let mut split_end = vec![b'x'; 65_535];
    split_end.extend_from_slice(b"\r\n.\r\n");
    let messages = [
        MESSAGE.to_vec(),
        b"\r\n".to_vec(),
        b".\r\n".to_vec(),
        b"a: b\r\n\r\n.\r\n..\r\n\r\n\r\n".to_vec(),
        "a: b\r\n\r\ngr\u{fc}n \u{1f4ee}\r\n".as_bytes().to_vec(),
        b"a: b\r\n\r\nlatin \xe4\xff\r\n".to_vec(),
        long,
        on_the_edge,
        split_end,
    ];
    let server = Server::start(&[]).await;
    let upstream = client(&server.url());
    for message in &messages {
        assert_eq!(told(&upstream.send(&part(&["b@y.example"], message.clone())).await), "accepted");
    }
    assert_eq!(server.messages(), messages);
    assert_eq!(server.connections(), 1, "one connection carried them all");
}

#[tokio::test]
async fn a_refused_part_leaves_the_connection_clean_for_the_next() {
    let server = Server::start(&[("RCPT TO:<gone@", "550 5.1.1 no such user")]).await;
    let upstream = client(&server.url());
    assert_eq!(told(&upstream.send(&part(&["gone@y.example"], MESSAGE)).await), "nobody 5.1.1");
    assert_eq!(told(&upstream.send(&part(&["ok@y.example"], MESSAGE)).await), "accepted");
    assert_eq!(server.connections(), 1);
    let said = server.said();
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    assert_eq!(
        said,
        [
            "EHLO relay.example",
            "MAIL FROM:<a@x.example> SIZE=24",
            "RCPT TO:<gone@y.example>",
            "RSET",
            "MAIL FROM:<a@x.example> SIZE=24",
            "RCPT TO:<ok@y.example>",
            "DATA",
        ]
    );
}

#[tokio::test]
async fn p4_a_kept_connection_that_went_stale_is_replaced_without_sending_twice() {
    let server = Server::start(&[("AFTER MESSAGE", "")]).await;
    let upstream = client(&server.url());
    for _ in 0..2 {
        assert_eq!(told(&upstream.send(&part(&["b@y.example"], MESSAGE)).await), "accepted");
    }
    assert_eq!(server.messages().len(), 2);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn what_broke_before_the_final_dot_was_not_sent() {
    let server = Server::start(&[("BODY", "")]).await;
    let big = vec![b'x'; 16 << 20];
    let outcome = client(&server.url()).send(&part(&["b@y.example"], big)).await;
    assert_eq!(told(&outcome), "transient 4.4.2 true");
}

#[tokio::test]
async fn nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    drop(listener);
    let upstream = client(&url);
    assert_eq!(told(&upstream.send(&part(&["b@y.example"], MESSAGE)).await), "transient 4.4.1 true");
    assert!(upstream.check().await[0].found.as_ref().unwrap_err().contains("cannot connect"));
}

#[tokio::test]
async fn p10_credentials_open_the_door_and_are_never_shown() {
    let plain = "250-x\r\n250 AUTH PLAIN LOGIN";
    let table = [
        (plain, "AUTH", "235 2.7.0 ok", "accepted"),
        (plain, "AUTH", "535 5.7.8 wrong", "closed"),
        (plain, "AUTH", "454 4.7.0 later", "transient 4.7.0 true"),
        (plain, "AUTH", "", "transient 4.4.2 true"),
        ("250 x", "AUTH", "235 2.7.0 ok", "closed"),
        ("250-x\r\n250 AUTH GSSAPI", "AUTH", "235 2.7.0 ok", "closed"),
    ];
    for (ehlo, command, reply, want) in table {
        let server = Server::start(&[("EHLO", ehlo), (command, reply)]).await;
        let upstream = client(&server.url().replace("smtp://", "smtp://us%40er:hunter2@"));
        let outcome = upstream.send(&part(&["b@y.example"], MESSAGE)).await;
        assert_eq!(told(&outcome), want, "{ehlo} {reply}");
        assert_eq!(upstream.check().await[0].found.is_ok(), want == "accepted");
        let shown = format!("{upstream:?} {outcome:?} {:?}", upstream.check().await);
        assert!(!shown.contains("hunter2") && !shown.contains("us@er"), "{shown}");
        if want == "accepted" {
            let auth = "AUTH PLAIN AHVzQGVyAGh1bnRlcjI=";
            assert!(server.said().iter().any(|said| said == auth), "{:?}", server.said());
        }
    }
}

#[tokio::test]
async fn tls_is_spoken_to_a_certificate_that_is_trusted() {
    for tls in [Tls::Implicit, Tls::StartTls] {
        let server = Server::start_tls(tls, &[]).await;
        let upstream = client(&server.url());
        assert_eq!(told(&upstream.send(&part(&["b@y.example"], MESSAGE)).await), "accepted", "{tls:?}");
        assert_eq!(upstream.check().await[0].found, Ok(()));
        assert_eq!(server.messages(), [MESSAGE]);

        let (untrusting, _) =
            server.url().split_once("ca=").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let outcome =
            client(untrusting.trim_end_matches(['?', '&'])).send(&part(&["b@y.example"], MESSAGE)).await;
        assert_eq!(told(&outcome), "closed", "{tls:?}");
        assert_eq!(server.messages().len(), 1);
    }
}

#[tokio::test]
async fn nothing_is_sent_in_the_clear_where_tls_is_required() {
    let offered = "250-x\r\n250 STARTTLS";
    let table = [
        ("EHLO", "250-x\r\n250 8BITMIME", "closed"),
        ("STARTTLS", "454 4.7.0 not now", "transient 4.7.0 true"),
        ("STARTTLS", "502 no", "closed"),
        ("GREETING", "HTTP/1.1 400 Bad Request", "transient 4.4.2 true"),
        ("STARTTLS", "220 go\r\n250 injected", "closed"),
        ("STARTTLS", "", "transient 4.4.2 true"),
        ("STARTTLS", "220 go, but no TLS follows", "transient 4.4.1 true"),
    ];
    for (command, reply, want) in table {
        let server = Server::start(&[(command, reply), ("EHLO", offered)]).await;
        let outcome =
            client(&format!("{}?tls=required", server.url())).send(&part(&["b@y.example"], MESSAGE)).await;
        assert_eq!(told(&outcome), want, "{command} {reply}: {outcome:?}");
        assert!(server.said().iter().all(|said| !said.starts_with("MAIL")));
    }
}
