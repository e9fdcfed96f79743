//! Submissions that are retried under a key: one mail, one debit, one answer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::smtp::Smtp;
use crate::harness::wait::until_is;
use crate::harness::web::{Answer, ask, credit_added};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};

const KEY_REUSED: &str = "554 5.5.4 This idempotency key was used for another message\r\n";

/// A message under a key.
pub(crate) fn keyed(key: &str, message: &[u8]) -> Vec<u8> {
    [format!("X-Postmeter-Idempotency-Key: {key}\r\n").as_bytes(), message].concat()
}

/// A client's message of that number, under a key of its own.
fn numbered(client: usize, nth: usize) -> Vec<u8> {
    let name = format!("c{client}n{nth}");
    keyed(&name, &letter(&name))
}

fn request(text: &str) -> Value {
    json!({ "from": "ann@example.com", "to": "bob@example.net", "subject": "s", "text": text })
}

fn post(meter: &Meter, key: &str, message: &Value) -> Answer {
    ask(meter.as_customer(Method::POST, "/send").header("Idempotency-Key", key).json(message))
}

/// The id in `250 2.0.0 Queued as ID, …`.
#[track_caller]
fn queued(reply: &str) -> String {
    let id = reply.strip_prefix("250 2.0.0 Queued as ").and_then(|rest| rest.split(',').next());
    id.unwrap_or_else(|| panic!("{reply}")).to_owned()
}

/// One mail has left, and one credit was debited.
#[track_caller]
fn assert_once(meter: &Meter) {
    meter.drain();
    assert_eq!(meter.number("SELECT count(*) FROM message"), 1);
    assert_eq!(meter.mails().len() + meter.sink().mails().len(), 1, "P4");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1, "P3");
}

#[test]
fn p3_p4_a_retry_over_smtp_is_the_first_message_also_after_a_restart() {
    let mut meter = Meter::smtp().start();
    let mut smtp = meter.signed_in();
    let first = smtp.deliver(&keyed("order 17", &letter("once")));
    assert!(first.ends_with(", 9 email credits available\r\n"), "{first}");
    assert_eq!(smtp.deliver(&keyed("order 17", &letter("once"))), first);
    let other = meter.new_credential();
    let mut another = Smtp::implicit(&meter);
    assert!(another.auth_plain(&other.username, &other.secret).starts_with("235 "));
    assert_eq!(another.deliver(&keyed("order 17", &letter("once"))), first, "the key is the customer's");
    meter.drain();
    meter.stop();
    meter.serve();
    assert_eq!(meter.signed_in().deliver(&keyed("order 17", &letter("once"))), first);
    assert_once(&meter);
    let got = String::from_utf8(meter.sink().mails().remove(0).bytes).unwrap();
    assert!(got.ends_with(&String::from_utf8(letter("once")).unwrap()), "{got}");
    assert!(!got.contains("order 17") && !got.to_ascii_lowercase().contains("idempotency"), "{got}");
}

#[test]
fn p3_p4_a_client_that_was_not_answered_before_a_kill_retries_and_gets_the_first_id() {
    let mut meter = Meter::resend().start();
    let message = keyed("k", &letter("once"));
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net"]);
    smtp.send(&[&message[..], b".\r\n"].concat());
    until_is("the message to be accepted", 1, || meter.number("SELECT count(*) FROM message"));
    meter.kill();
    drop(smtp);
    meter.serve();
    let id = queued(&meter.signed_in().deliver(&message));
    assert_eq!(meter.read::<String>("SELECT message_id FROM message"), [id]);
    assert_once(&meter);
}

#[test]
fn p1_p3_p4_clients_that_retry_through_kills_have_each_message_sent_exactly_once() {
    const CLIENTS: usize = 6;
    let mut meter = Meter::resend().credits(10_000).start();
    // What each client sends next: it goes on only when it was acknowledged.
    let mut next = [0; CLIENTS];
    for round in 1..=3 {
        let sessions: Vec<Smtp> = (0..CLIENTS).map(|_| meter.signed_in()).collect();
        let process = meter.take_process();
        let acknowledged = AtomicUsize::new(0);
        let counts: Vec<usize> = std::thread::scope(|scope| {
            let clients: Vec<_> = sessions
                .into_iter()
                .enumerate()
                .map(|(client, mut smtp)| {
                    let (acknowledged, mut nth) = (&acknowledged, next[client]);
                    scope.spawn(move || {
                        while smtp.try_deliver(&numbered(client, nth)) {
                            acknowledged.fetch_add(1, Ordering::SeqCst);
                            nth += 1;
                        }
                        nth
                    })
                })
                .collect();
            until("some mail", || (acknowledged.load(Ordering::SeqCst) >= 30 * round).then_some(()));
            process.kill();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        next.copy_from_slice(&counts);
        meter.serve();
    }
    let mut smtp = meter.signed_in();
    for (client, nth) in next.into_iter().enumerate() {
        assert!(smtp.try_deliver(&numbered(client, nth)), "in the end everybody is acknowledged");
    }
    meter.drain();
    let sent: usize = next.iter().map(|nth| nth + 1).sum();
    let subjects: Vec<_> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    assert_eq!(subjects.len(), sent, "P4");
    assert_eq!(subjects.into_iter().collect::<BTreeSet<_>>().len(), sent, "P1");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), sent as u64, "P3");
}

#[test]
fn p3_p4_tries_at_the_same_time_are_one_message_with_one_answer() {
    // One credit: none of them may be refused for what its twin has taken.
    let meter = Meter::resend().credits(1).start();
    let mut sessions: Vec<Smtp> = (0..8).map(|_| meter.signed_in()).collect();
    for smtp in &mut sessions {
        smtp.begin("ann@example.com", &["bob@example.net"]);
    }
    let ids: BTreeSet<String> = std::thread::scope(|scope| {
        let senders: Vec<_> = sessions
            .iter_mut()
            .map(|smtp| scope.spawn(|| queued(&smtp.message(&keyed("k", &letter("once"))))))
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_once(&meter);
}

#[test]
fn p3_p4_requests_at_the_same_time_are_one_message_with_one_answer() {
    let meter = Meter::resend().credits(1).start();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let posts: Vec<_> = (0..8).map(|_| scope.spawn(|| post(&meter, "k", &request("once")))).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    let bodies: BTreeSet<&str> = answers.iter().map(|answer| answer.body.as_str()).collect();
    assert!(answers.iter().all(|answer| answer.status == 200) && bodies.len() == 1, "{answers:?}");
    assert_once(&meter);
}

#[test]
fn p3_p4_a_request_retried_after_a_kill_and_without_credit_gets_the_first_answer() {
    let mut meter = Meter::resend().credits(1).start();
    let first = post(&meter, "k", &request("once"));
    assert_eq!(first.status, 200, "{first:?}");
    meter.kill();
    meter.serve();
    assert_eq!(post(&meter, "k", &request("once")).json(), first.json());
    assert_once(&meter);
    post(&meter, "new", &request("once")).is_error(402, "out_of_credit");
    assert_eq!(post(&meter, "k", &request("once")).json(), first.json());
    assert_once(&meter);
}

#[test]
fn p3_a_refusal_does_not_outlive_the_top_up() {
    let meter = Meter::resend().credits(0).start();
    post(&meter, "k", &request("once")).is_error(402, "out_of_credit");
    post(&meter, "k", &request("once")).is_error(402, "out_of_credit");
    RUNTIME.block_on(async { meter.dodo().grant(CUSTOMER_ID, 1, None).unwrap() });
    assert_eq!(meter.webhook("msg_1", 0, &credit_added(CUSTOMER_ID)).status, 200);
    let answer = post(&meter, "k", &request("once"));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_once(&meter);
}

#[test]
fn p9_another_message_under_a_used_key_is_refused_and_costs_nothing() {
    let meter = Meter::smtp().start();
    let mut smtp = meter.signed_in();
    let id = queued(&smtp.deliver(&keyed("k", &letter("once"))));
    assert_eq!(smtp.deliver(&keyed("k", &letter("other"))), KEY_REUSED);
    smtp.begin("ann@example.com", &["cid@example.net"]);
    assert_eq!(smtp.message(&keyed("k", &letter("other"))), KEY_REUSED);
    smtp.begin("bob@example.com", &["bob@example.net"]);
    assert_eq!(smtp.message(&keyed("k", &letter("once"))), KEY_REUSED);
    post(&meter, "k", &request("once")).is_error(409, "idempotency_key_reused");
    let again = String::from_utf8(keyed("k", &letter("once"))).unwrap();
    let again = again.replace("10:00:00", "10:05:00").replace("<once@", "<twice@");
    assert_eq!(queued(&smtp.deliver(again.as_bytes())), id, "each try has a Date and Message-ID of its own");
    assert_once(&meter);

    assert_eq!(post(&meter, "web", &request("once")).status, 200);
    post(&meter, "web", &request("other")).is_error(409, "idempotency_key_reused");
    for message in [keyed("k", &keyed("k", &letter("two"))), keyed(&"k".repeat(257), &letter("long"))] {
        let reply = smtp.deliver(&message);
        assert_eq!(
            reply,
            "554 5.6.0 the X-Postmeter-Idempotency-Key header must be one value of 1 to 256 printable ASCII \
             characters\r\n"
        );
    }
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 2);
}

const OUT_OF_CREDIT: &str = "452 4.7.1 No email credits remaining, top up at https://meter.example\r\n";
const FIVE: [&str; 5] = ["a@example.net", "b@example.net", "c@example.net", "d@example.net", "e@example.net"];

/// Names recipients as a queueing client does, and sends to those that are taken; the
/// reply to the message, and those that were not taken.
fn send_to<'a>(smtp: &mut Smtp, to: &[&'a str], message: &[u8]) -> (String, Vec<&'a str>) {
    assert!(smtp.say("MAIL FROM:<ann@example.com>").starts_with("250 "));
    let mut left = Vec::new();
    for to in to {
        let reply = smtp.say(&format!("RCPT TO:<{to}>"));
        if reply == OUT_OF_CREDIT {
            left.push(*to);
        } else {
            assert!(reply.starts_with("250 "), "{reply}");
        }
    }
    assert!(smtp.say("DATA").starts_with("354 "));
    (smtp.message(message), left)
}

fn top_up(meter: &Meter, webhook_id: &str, credits: u64) {
    RUNTIME.block_on(async { meter.dodo().grant(CUSTOMER_ID, credits, None).unwrap() });
    assert_eq!(meter.webhook(webhook_id, 0, &credit_added(CUSTOMER_ID)).status, 200);
}

/// Who got mail by the SMTP upstream, mail by mail.
fn delivered(meter: &Meter) -> Vec<Vec<String>> {
    meter.drain();
    let mut to: Vec<_> = meter.sink().mails().into_iter().map(|mail| mail.to).collect();
    to.sort();
    to
}

#[test]
fn p2_p3_p4_recipients_that_were_refused_are_retried_under_the_same_key() {
    let mut meter = Meter::smtp().credits(3).set("billing", "unit = \"recipient\"").start();
    let message = keyed("k", &letter("five"));
    let (first, left) = send_to(&mut meter.signed_in(), &FIVE, &message);
    assert!(first.ends_with(", 0 email credits available\r\n"), "{first}");
    assert_eq!(left, ["d@example.net", "e@example.net"]);
    assert_eq!(meter.signed_in().say("MAIL FROM:<ann@example.com>"), OUT_OF_CREDIT);
    top_up(&meter, "msg_1", 2);
    // A relay on the way stamps each try.
    let stamped = [b"Received: from queue\r\n".as_slice(), &message].concat();
    let (second, left) = send_to(&mut meter.signed_in(), &left, &stamped);
    assert!(second.ends_with(", 0 email credits available\r\n"), "{second}");
    assert_eq!(left, Vec::<&str>::new());
    assert_ne!(queued(&first), queued(&second));
    assert_eq!(delivered(&meter), [FIVE[..3].to_vec(), FIVE[3..].to_vec()]);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 5);

    top_up(&meter, "msg_2", 5);
    for _ in 0..2 {
        for (to, answer) in [(&FIVE[..3], &first), (&FIVE[3..], &second), (&FIVE[..], &second)] {
            let (again, _) = send_to(&mut meter.signed_in(), to, &message);
            assert_eq!(queued(&again), queued(answer), "{to:?}");
            assert!(again.ends_with(", 5 email credits available\r\n"), "{again}");
        }
        meter.stop();
        meter.serve();
    }
    assert_eq!(delivered(&meter).len(), 2, "P4");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 5, "P3");
}

#[test]
fn p3_p4_a_retry_that_names_old_and_new_recipients_is_for_the_new_ones() {
    for (meter, price) in
        [(Meter::smtp().start(), 1), (Meter::smtp().set("billing", "unit = \"recipient\"").start(), 2)]
    {
        let message = keyed("k", &letter("some"));
        let mut smtp = meter.signed_in();
        let (first, _) = send_to(&mut smtp, &FIVE[..2], &message);
        let (second, _) = send_to(&mut smtp, &["b@EXAMPLE.net", "c@example.net", "d@example.net"], &message);
        assert_ne!(queued(&first), queued(&second));
        assert!(second.ends_with(&format!(", {} email credits available\r\n", 10 - 2 * price)), "{second}");
        assert_eq!(delivered(&meter), [FIVE[..2].to_vec(), FIVE[2..4].to_vec()]);
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), 2 * price);
    }
}

#[test]
fn p4_over_resend_each_recipient_under_a_key_gets_one_mail() {
    let mut meter = Meter::resend().set("billing", "unit = \"recipient\"").start();
    // d is in no header: a mail of its own.
    let text = "From: ann@example.com\r\nTo: a@example.net, b@example.net\r\nCc: c@example.net\r\nSubject: s\r\n\r\nx\r\n";
    let message = keyed("k", text.as_bytes());
    let (first, _) = send_to(&mut meter.signed_in(), &["b@example.net"], &message);
    meter.kill();
    meter.serve();
    let (second, _) = send_to(&mut meter.signed_in(), &FIVE[..4], &message);
    assert_ne!(queued(&first), queued(&second));
    meter.drain();
    let mails = meter.mails();
    let mut to: Vec<&str> = mails.iter().flat_map(|mail| mail.email.recipients()).collect();
    to.sort_unstable();
    assert_eq!(to, FIVE[..4]);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 4);
}

#[test]
fn p2_p3_p4_tries_at_the_same_time_for_different_recipients_serve_each_of_them_once() {
    let meter = Meter::smtp().credits(5).set("billing", "unit = \"recipient\"").start();
    let message = keyed("k", &letter("once"));
    let mut sessions: Vec<(usize, Smtp)> = (0..10).map(|nth| (nth, meter.signed_in())).collect();
    for (nth, smtp) in &mut sessions {
        let to = [FIVE[*nth % 5], FIVE[(*nth + 1) % 5], FIVE[(*nth + 3) % 5]];
        smtp.begin("ann@example.com", &to);
    }
    std::thread::scope(|scope| {
        for (_, smtp) in &mut sessions {
            scope.spawn(|| queued(&smtp.message(&message)));
        }
    });
    let mut served: Vec<String> = delivered(&meter).concat();
    served.sort();
    assert_eq!(served, FIVE);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 5);
}

#[test]
fn what_a_key_stands_for_is_forgotten_after_a_day() {
    const LIFE: &str = "SELECT k.expires_at - m.accepted_at FROM idempotency_key k
         JOIN idempotency_recipient USING (customer_id, key) JOIN message m USING (message_id)";
    let mut meter = Meter::resend().start();
    assert_eq!(post(&meter, "k", &request("once")).status, 200);
    meter.drain();
    assert_eq!(meter.number(LIFE), 24 * 60 * 60 * 1000);
    meter.stop();
    meter.tamper("UPDATE message SET accepted_at = accepted_at - 86400001");
    meter.tamper("UPDATE idempotency_key SET expires_at = expires_at - 86400001");
    meter.serve();
    until_is("keys that have expired", 0, || meter.number("SELECT count(*) FROM idempotency_key"));
    assert_eq!(post(&meter, "k", &request("another day")).status, 200);
    meter.drain();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 2);
}
