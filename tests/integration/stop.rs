//! SIGTERM: what is in hand is finished, everyone else is told, nothing is lost.

use std::io::{Read, Write};
use std::net::TcpStream;

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};

use crate::harness::smtp::Smtp;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

#[test]
fn p1_a_stop_finishes_the_message_in_hand_and_tells_the_others() {
    let mut meter = Meter::resend().start();
    let mut idle = meter.signed_in();
    let mut begun = meter.signed_in();
    assert!(begun.say("MAIL FROM:<ann@example.com>").starts_with("250 "));
    let mut fresh = Smtp::plain(meter.process().smtp);
    let mut busy = meter.signed_in();
    busy.begin("ann@example.com", &["bob@example.net"]);
    busy.send(b"From: ann@example.com\r\nSubject: half\r\n\r\nfirst half\r\n");
    // The server has seen the first half once it has answered somebody else since.
    assert!(idle.say("NOOP").starts_with("250 "));
    let process = meter.take_process();
    process.terminate();
    for waiting in [&mut idle, &mut fresh] {
        assert_eq!(waiting.reply(), "421 4.3.2 Shutting down, try again in a moment\r\n");
        assert_eq!(waiting.reply(), "");
    }
    assert!(begun.say("RCPT TO:<bob@example.net>").starts_with("250 "));
    assert!(begun.say("DATA").starts_with("354 "));
    for (finishing, rest) in [(&mut busy, b"second half\r\n".to_vec()), (&mut begun, letter("begun"))] {
        let reply = finishing.message(&rest);
        assert!(reply.starts_with("250 2.0.0 Queued as "), "{reply}");
        assert_eq!(finishing.reply(), "421 4.3.2 Shutting down, try again in a moment\r\n");
    }
    process.ends_well();
    meter.finish();
    assert_eq!(meter.resend_stand_in().count(), 2);
    let text = meter
        .mails()
        .into_iter()
        .find_map(|mail| mail.email.text.filter(|text| text.contains("half")))
        .unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), ["first half", "second half"]);
}

#[test]
fn p1_what_could_not_leave_before_a_stop_leaves_after_the_next_start() {
    let mut meter = Meter::resend().start();
    let faults = meter.resend_stand_in().faults().clone();
    faults.push(Fault::new(Reply::status(500)).on("POST", "/emails").always());
    let mut smtp = meter.signed_in();
    for nth in 0..5 {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
    }
    until("a first try of each", || (faults.struck() >= 5).then_some(()));
    meter.stop();
    faults.clear();
    meter.serve();
    meter.drain();
    assert_eq!(meter.resend_stand_in().count(), 5);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 5);
}

#[test]
fn a_stop_finishes_the_request_in_hand() {
    let mut meter = Meter::resend().start();
    let mut http = TcpStream::connect(meter.process().http).unwrap();
    let body = r#"{"from":"ann@example.com","to":"bob@example.net","subject":"s","text":"t"}"#;
    let (first, second) = body.split_at(20);
    let secret = &meter.credential.secret;
    let head = format!(
        "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    http.write_all(head.as_bytes()).unwrap();
    // The server asks for the body: the request is in hand.
    let mut go_on = [0; 25];
    http.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    http.write_all(first.as_bytes()).unwrap();
    let process = meter.take_process();
    process.signal("INT");
    until("the listener to close", || TcpStream::connect(process.http).is_err().then_some(()));
    http.write_all(second.as_bytes()).unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    process.ends_well();
    meter.finish();
    assert_eq!(meter.resend_stand_in().count(), 1);
}

#[test]
fn p3_a_stop_waits_for_the_answer_to_an_entry() {
    let mut meter = Meter::resend().start();
    let faults = meter.dodo().faults().clone();
    faults.push(Fault::new(Misbehaviour::Late { delay_ms: 1_000 }).on("POST", "/ledger-entries"));
    assert!(meter.signed_in().deliver(&letter("late")).starts_with("250 "));
    until("the entry to be on its way", || (faults.struck() == 1).then_some(()));
    meter.stop();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    assert_eq!(meter.number("SELECT count(*) FROM entry WHERE state = 'done'"), 1);
}

#[test]
fn p3_a_stop_does_not_wait_for_ever_for_an_upstream() {
    let mut meter = Meter::smtp().start();
    meter.sink().hang("DOT");
    assert!(meter.signed_in().deliver(&letter("held-up")).starts_with("250 "));
    until("the upstream to hold its answer back", || (meter.sink().unanswered() == 1).then_some(()));
    meter.stop();
    meter.sink().behave();
    meter.serve();
    meter.drain();
    assert_eq!(meter.sink().mails().len(), 1);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}
