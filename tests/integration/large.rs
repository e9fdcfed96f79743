//! Large messages: they leave byte for byte, fill no memory, and leave nothing behind.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::smtp::{Smtp, bdat};
use crate::harness::wait::until_is;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};
use crate::header::{SOUND, without_received};

const MIB: usize = 1 << 20;
const TO_BOB: (&str, &[&str]) = ("ann@example.com", &["bob@example.net"]);
const CHUNKS: &str = "SELECT count(*) FROM chunk";
const ROWS: &str = "SELECT (SELECT count(*) FROM spool) + (SELECT count(*) FROM chunk)";

/// A message of so many octets of text or a little more.
pub(crate) fn much(octets: usize) -> Vec<u8> {
    let mut message = [SOUND.as_bytes(), b"Subject: much\r\n\r\n"].concat();
    for nth in 0_usize.. {
        if message.len() >= octets {
            break;
        }
        // Dots where they must be stuffed, and lines of many lengths.
        let line = format!("{}{nth} {}\r\n", &"..."[nth % 4 % 3..], "x".repeat(nth % 900));
        message.extend_from_slice(line.as_bytes());
    }
    message
}

/// A file of so many octets.
fn file(octets: usize) -> Vec<u8> {
    (0..octets).map(|nth| (nth * 31 % 251) as u8).collect()
}

/// A message with a file.
fn with_file(octets: usize) -> Vec<u8> {
    let mut message = format!(
        "{SOUND}Subject: file\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b\r\nContent-Type: application/octet-stream\r\n\
         Content-Disposition: attachment; filename=file.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    );
    for line in STANDARD.encode(file(octets)).as_bytes().chunks(76) {
        message += std::str::from_utf8(line).unwrap();
        message += "\r\n";
    }
    message += "--b--\r\n";
    message.into_bytes()
}

/// The same message in chunks of that size; the last reply.
fn in_chunks(smtp: &mut Smtp, message: &[u8], size: usize) -> String {
    smtp.address(TO_BOB.0, TO_BOB.1);
    for chunk in message.chunks(size) {
        let reply = smtp.chunk(chunk, false);
        assert!(reply.starts_with("250 2.0.0 "), "{reply}");
    }
    smtp.chunk(b"", true)
}

fn is_taken(reply: &str) -> bool {
    reply.starts_with("250 2.0.0 Queued as ")
}

fn leaves_nothing(meter: &Meter) {
    until_is("what is left of large messages", 0, || meter.number(ROWS));
}

#[test]
fn a_large_message_leaves_byte_for_byte_over_smtp() {
    let meter = Meter::smtp().start();
    let message = much(20 * MIB);
    let mut smtp = meter.signed_in();
    let leaves = |nth: usize, wanted: &[u8]| {
        let got = until("the mail", || meter.sink().mails().get(nth).cloned());
        assert!(without_received(&got.bytes) == wanted, "{nth}: {} octets", got.bytes.len());
    };
    assert!(is_taken(&smtp.deliver(&message)));
    leaves(0, &message);
    assert!(is_taken(&in_chunks(&mut smtp, &message, 3 * MIB + 1)));
    leaves(1, &message);
    // Its last line has no end.
    let cut = &message[..much(MIB).len() - 2];
    assert!(is_taken(&in_chunks(&mut smtp, cut, 100_000)));
    leaves(2, &[cut, b"\r\n"].concat());
    leaves_nothing(&meter);
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 3);
}

#[test]
fn a_large_message_is_the_same_file_at_resend() {
    let meter = Meter::resend().start();
    let (octets, mut smtp) = (14 * MIB, meter.signed_in());
    assert!(is_taken(&smtp.deliver(&with_file(octets))));
    assert!(is_taken(&in_chunks(&mut smtp, &with_file(octets / 8), MIB)));
    let attachment = json!({ "filename": "file.bin", "content": STANDARD.encode(file(octets / 4)) });
    let mail = json!({ "from": "ann@example.com", "to": "bob@example.net", "subject": "file", "text": "t",
        "attachments": [attachment] });
    let answer = meter.post_send(&mail);
    assert_eq!(answer.status, 200, "{answer:?}");
    meter.drain();
    let mut got: Vec<Vec<u8>> = Vec::new();
    for mail in meter.mails() {
        let attachments = serde_json::to_value(&mail.email.attachments).unwrap();
        got.push(STANDARD.decode(attachments[0]["content"].as_str().unwrap()).unwrap());
    }
    got.sort_by_key(Vec::len);
    let wanted = [octets / 8, octets / 4, octets].map(file);
    assert!(got == wanted, "{:?}", got.iter().map(Vec::len).collect::<Vec<_>>());
    leaves_nothing(&meter);
}

/// A client of which a part of a message is on disk.
fn halfway(meter: &Meter) -> Smtp {
    let mut smtp = meter.signed_in();
    smtp.begin(TO_BOB.0, TO_BOB.1);
    smtp.send(&much(2 * MIB));
    until("some of it to be on disk", || (meter.number(CHUNKS) > 3).then_some(()));
    smtp
}

#[test]
fn p1_a_client_that_goes_away_in_the_middle_leaves_nothing() {
    let meter = Meter::smtp().start();
    drop(halfway(&meter));
    leaves_nothing(&meter);
    // In chunks, where it thinks better of it.
    let mut smtp = meter.signed_in();
    smtp.address(TO_BOB.0, TO_BOB.1);
    assert!(smtp.chunk(&much(2 * MIB), false).starts_with("250 "));
    assert!(meter.number(CHUNKS) > 3);
    assert!(smtp.say("RSET").starts_with("250 "));
    leaves_nothing(&meter);
    // What is refused at its very end.
    assert!(smtp.deliver(&[much(2 * MIB).as_slice(), b"\0\r\n"].concat()).starts_with("554 5.6.0 "));
    assert!(smtp.deliver(&much(2 * MIB)[SOUND.len()..]).starts_with("554 5.6.0 "), "no From");
    leaves_nothing(&meter);
    assert!(is_taken(&smtp.deliver(&letter("after"))));
}

#[test]
fn p1_a_kill_in_the_middle_leaves_nothing_after_the_start() {
    let mut meter = Meter::smtp().start();
    let _smtp = halfway(&meter);
    meter.kill();
    assert_eq!(meter.run(&["audit"]).code, Some(0), "what is to be swept is no drift");
    meter.serve();
    leaves_nothing(&meter);
    assert!(is_taken(&meter.signed_in().deliver(&much(MIB))));
}

#[test]
fn p1_large_messages_that_were_accepted_survive_a_kill() {
    let mut meter = Meter::smtp().start();
    meter.sink().hang("DOT");
    let message = much(2 * MIB);
    assert!(is_taken(&meter.signed_in().deliver(&message)));
    meter.kill();
    meter.sink().behave();
    meter.serve();
    meter.drain();
    let mails = meter.sink().mails();
    assert_eq!(mails.len(), 1);
    assert!(without_received(&mails[0].bytes) == message);
    leaves_nothing(&meter);
}

/// Sessions that each keep so many octets of a message; the last one found no room.
#[track_caller]
fn until_there_is_no_room(meter: &Meter, keeps: &[u8]) -> Vec<Smtp> {
    let mut holders = Vec::new();
    let reply = loop {
        let mut smtp = meter.signed_in();
        smtp.address(TO_BOB.0, TO_BOB.1);
        let reply = smtp.chunk(keeps, false);
        holders.push(smtp);
        if !reply.starts_with("250 ") {
            break reply;
        }
        assert!(holders.len() < 10, "there is no end to it");
    };
    assert!(holders.len() > 2);
    assert!(reply.starts_with("452 4.3.1 "), "{reply}");
    holders
}

#[test]
fn without_room_in_memory_a_message_is_refused_for_now_and_the_session_goes_on() {
    let meter = Meter::smtp().set("smtp", "max_bytes_arriving = 1048576").start();
    // Each keeps what is not yet a chunk.
    let keeps = [SOUND.as_bytes(), b"\r\n", &[b'x'; 250_000]].concat();
    let mut holders = until_there_is_no_room(&meter, &keeps);
    let mut refused = holders.pop().unwrap();
    assert!(refused.say("RSET").starts_with("250 "));
    let reply = refused.deliver(&much(MIB));
    assert!(reply.starts_with("452 4.3.1 "), "{reply}");
    let text = "x".repeat(400_000);
    let mail = json!({ "from": "ann@example.com", "to": "bob@example.net", "subject": "much", "text": text });
    let answer = meter.post_send(&mail);
    answer.is_error(503, "no_room");
    assert_eq!(answer.headers["retry-after"], "5");
    for mut holder in holders {
        assert!(holder.say("RSET").starts_with("250 "));
    }
    assert!(is_taken(&refused.deliver(&much(MIB))));
    assert_eq!(meter.post_send(&mail).status, 200);
    leaves_nothing(&meter);
}

#[test]
fn a_customer_whose_messages_arrive_fills_its_own_room_in_memory_and_nobody_elses() {
    let meter = Meter::smtp()
        .set("smtp", "max_message_bytes = 65536")
        .set("smtp", "max_bytes_arriving_per_customer = 458752")
        .set("senders", "policy = \"any\"")
        .start();
    let keeps = [SOUND.as_bytes(), b"\r\n", &[b'x'; 60_000]].concat();
    let holders = until_there_is_no_room(&meter, &keeps);
    let told = || meter.log().matches("smtp.max_bytes_arriving_per_customer").count();
    assert_eq!(told(), 1, "once a message");
    let text = "x".repeat(50_000);
    let mail = json!({ "from": "ann@example.com", "to": "bob@example.net", "subject": "much", "text": text });
    meter.post_send(&mail).is_error(503, "no_room");
    assert_eq!(told(), 2);
    let other = meter.new_customer("cus_other", 5);
    let mut smtp = Smtp::starttls(&meter);
    assert!(smtp.auth_plain(&other.username, &other.secret).starts_with("235 "));
    let message = [keeps.as_slice(), b"\r\n"].concat();
    assert!(is_taken(&smtp.deliver(&message)), "others have their own");
    for mut holder in holders {
        assert!(holder.say("RSET").starts_with("250 "));
    }
    assert_eq!(meter.post_send(&mail).status, 200);
    leaves_nothing(&meter);
}

#[test]
fn p7_many_large_messages_at_once_in_little_memory_end_in_250_or_452() {
    let meter = Meter::resend()
        .credits(100)
        .set("smtp", "max_bytes_arriving = 2097152")
        .set("smtp", "max_message_bytes = 2097152")
        .set("upstream", "max_bytes_translating = 2097152")
        .set("upstream", "max_bytes_in_flight = 4194304")
        .start();
    let message = with_file(MIB);
    let replies: Vec<String> = std::thread::scope(|scope| {
        let send = || meter.signed_in().deliver(&message);
        let clients: Vec<_> = (0..50).map(|_| scope.spawn(send)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let taken = replies.iter().filter(|reply| is_taken(reply)).count();
    let refused = replies.iter().filter(|reply| reply.starts_with("452 4.3.1 ")).count();
    assert_eq!((taken + refused, taken > 0), (50, true), "{replies:?}");
    meter.drain();
    assert_eq!(meter.mails().len(), taken);
    leaves_nothing(&meter);
}

#[test]
fn a_large_message_retried_under_its_key_is_the_same_and_leaves_nothing() {
    let meter = Meter::smtp().start();
    let keyed = |date: &str, message: &[u8]| {
        let fields = format!("X-Postmeter-Idempotency-Key: k\r\nX-Try: 1\r\nReceived: {date}\r\n");
        [fields.as_bytes(), message].concat()
    };
    let (message, mut smtp) = (much(MIB), meter.signed_in());
    let first = smtp.deliver(&keyed("now", &message));
    assert!(is_taken(&first));
    assert_eq!(smtp.deliver(&keyed("much, much later", &message)), first);
    let other = [message.as_slice(), b"more\r\n"].concat();
    assert!(smtp.deliver(&keyed("now", &other)).starts_with("554 5.5.4 "));
    meter.drain();
    assert_eq!(meter.sink().mails().len(), 1);
    leaves_nothing(&meter);
}

#[test]
fn a_customer_whose_mail_waits_for_its_end_fills_its_own_room_on_disk_and_nobody_elses() {
    let meter = Meter::smtp()
        .set("smtp", "max_message_bytes = 3145728")
        .set("smtp", "max_bytes_spooled_per_customer = 3145728")
        .set("senders", "policy = \"any\"")
        .start();
    let message = much(2 * MIB);
    let mut waits = meter.signed_in();
    waits.address(TO_BOB.0, TO_BOB.1);
    assert!(waits.chunk(&message, false).starts_with("250 "));
    let mut refused = meter.signed_in();
    assert!(refused.deliver(&message).starts_with("452 4.3.1 "), "its customer has no room for both");
    let told = || meter.log().matches("smtp.max_bytes_spooled_per_customer").count();
    assert_eq!(told(), 1, "once a message, not once a chunk");
    assert!(is_taken(&refused.deliver(&letter("small"))));
    let text = "x".repeat(2 * MIB);
    let mail = json!({ "from": "ann@example.com", "to": "bob@example.net", "subject": "much", "text": text });
    meter.post_send(&mail).is_error(503, "unavailable");
    assert_eq!(told(), 2);
    let other = meter.new_customer("cus_other", 5);
    let mut smtp = Smtp::starttls(&meter);
    assert!(smtp.auth_plain(&other.username, &other.secret).starts_with("235 "));
    assert!(is_taken(&smtp.deliver(&message)), "others have their own");
    // What was accepted takes none, and what was given up gives its room back.
    assert!(is_taken(&waits.chunk(b"", true)));
    until("the room of what was refused", || is_taken(&refused.deliver(&message)).then_some(()));
    meter.drain();
    leaves_nothing(&meter);
}

/// A wire that carries nothing but a chunk's beginning takes no room on disk.
#[test]
fn what_is_announced_and_not_sent_takes_no_room() {
    let meter = Meter::smtp().start();
    let mut smtp = meter.signed_in();
    smtp.address(TO_BOB.0, TO_BOB.1);
    let wire = bdat(&much(20 * MIB), true);
    smtp.send(&wire[..300_000]);
    until("what was sent to be on disk", || (meter.number(CHUNKS) == 1).then_some(()));
    drop(smtp);
    leaves_nothing(&meter);
}
