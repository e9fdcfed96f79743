//! Every no that an SMTP upstream can say, at every command, and its silence:
//! each has one fate, and everything adds up after it.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::harness::plan::Upstream;
use crate::harness::sink::{CLOSE, Security, SinkMail, TAKE_AND_CLOSE};
use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

/// What becomes of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It waits, is sent once, and costs a credit.
    Again,
    /// It comes back, and costs nothing.
    Bounce,
    /// It waits for the operator, and is sent then.
    Gate,
}

use Fate::{Again, Bounce, Gate};

/// What is answered in the place of what is usual.
const LATER: &str = "451 4.3.0 not now";
const LATER_AT_LENGTH: &str = "450-4.2.1 this server\r\n450-4.2.1 has much to say\r\n450 4.2.1 and not now";
const CLOSING: &str = "421 4.3.2 closing";
const NEVER: &str = "550 5.7.0 never";
const NEVER_AT_LENGTH: &str = "554-5.7.0 this server\r\n554-5.7.0 has much to say\r\n554 5.7.0 and never";
const SIGN_IN: &str = "530 5.7.0 sign in first";
const GARBAGE: &str = "HTTP/1.1 400 Bad Request";
const SILENCE: &str = "";

const TABLE: [(&str, &[(&str, Fate)]); 8] = [
    ("BANNER", &CONNECTING),
    ("EHLO", &CONNECTING),
    ("STARTTLS", &CONNECTING),
    ("AUTH", &CONNECTING),
    ("MAIL", &MAILING),
    ("RCPT", &MAILING),
    ("DATA", &MAILING),
    (
        "DOT",
        &[
            (LATER, Again),
            (LATER_AT_LENGTH, Again),
            (CLOSING, Again),
            (NEVER, Bounce),
            (NEVER_AT_LENGTH, Bounce),
            (SIGN_IN, Gate),
            (CLOSE, Again),
            (GARBAGE, Again),
        ],
    ),
];

/// Before a mail is spoken of, a no is for the operator.
const CONNECTING: [(&str, Fate); 9] = [
    (LATER, Again),
    (LATER_AT_LENGTH, Again),
    (CLOSING, Again),
    (NEVER, Gate),
    (NEVER_AT_LENGTH, Gate),
    (SIGN_IN, Gate),
    (CLOSE, Again),
    (GARBAGE, Again),
    (SILENCE, Again),
];

/// After that it is for the sender, unless it speaks of our signing in.
const MAILING: [(&str, Fate); 9] = [
    (LATER, Again),
    (LATER_AT_LENGTH, Again),
    (CLOSING, Again),
    (NEVER, Bounce),
    (NEVER_AT_LENGTH, Bounce),
    (SIGN_IN, Gate),
    (CLOSE, Again),
    (GARBAGE, Again),
    (SILENCE, Again),
];

fn upstream() -> Meter {
    Meter::with(Upstream::Smtp(Security::StartTls))
        .credits(1_000)
        .set("upstream", "timeout_s = 1")
        .set("queue", "retry_max_s = 1")
        .start()
}

/// Makes the upstream say this so often, on a connection of its own.
fn provoke(meter: &Meter, times: usize, command: &str, reply: &str) {
    // The connection that was kept ends, so that the new one is greeted.
    meter.sink().reply_times(1, "MAIL", CLOSE);
    meter.sink().reply_times(times, command, reply);
}

fn named<'a>(mails: &'a [SinkMail], subject: &str) -> Vec<&'a SinkMail> {
    let field = format!("Subject: {subject}\r\n");
    mails.iter().filter(|mail| String::from_utf8_lossy(&mail.bytes).contains(&field)).collect()
}

/// How often the mail arrived, and its bounce.
fn arrivals(meter: &Meter, subject: &str) -> (usize, usize) {
    let mails = meter.sink().mails();
    let bounce = named(&mails, &format!("Undelivered: {subject}")).len();
    (named(&mails, subject).iter().filter(|mail| !mail.from.is_empty()).count(), bounce)
}

fn readyz(meter: &Meter) -> u16 {
    ask(meter.request(Method::GET, "/readyz")).status
}

/// Each of these replies to a command, one mail after the other.
fn replies_have_their_fates(command: &str, replies: &[(&str, Fate)]) {
    let mut meter = upstream();
    assert!(meter.signed_in().deliver(&letter("first")).starts_with("250 "));
    meter.drain();
    let mut wanted = 1;
    for (nth, (reply, fate)) in replies.iter().enumerate().filter(|(_, (_, fate))| *fate != Gate) {
        let subject = format!("{command}{nth}");
        provoke(&meter, 1, command, reply);
        assert!(meter.signed_in().deliver(&letter(&subject)).starts_with("250 "));
        meter.drain();
        assert_eq!(meter.sink().pending(), 0, "{command} {reply:?} was said");
        let is_sent = *fate == Again;
        assert_eq!(arrivals(&meter, &subject), (is_sent.into(), (!is_sent).into()), "{command} {reply:?}");
        wanted += u64::from(is_sent);
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), wanted, "{command} {reply:?}");
    }
    assert_eq!(readyz(&meter), 200);
    let bounces = meter.number("SELECT count(*) FROM message WHERE kind = 'bounce'");
    assert_eq!(meter.number("SELECT sum(released) FROM message"), bounces);
    meter.finish();
}

/// Each of these replies to a command, until the operator has mended it.
fn replies_close_the_gate(command: &str, replies: &[(&str, Fate)]) {
    let mut meter = upstream();
    let mut wanted = 0;
    for (nth, (reply, _)) in replies.iter().enumerate().filter(|(_, (_, fate))| *fate == Gate) {
        let subject = format!("{command}{nth}");
        provoke(&meter, usize::MAX, command, reply);
        assert!(meter.signed_in().deliver(&letter(&subject)).starts_with("250 "));
        until(&format!("readyz to tell of {command} {reply:?}"), || (readyz(&meter) == 503).then_some(()));
        until("the part to wait", || {
            (meter.number("SELECT count(*) FROM part WHERE state = 'queued'") == 1).then_some(())
        });
        meter.stop();
        meter.sink().behave();
        meter.serve();
        meter.drain();
        assert_eq!(arrivals(&meter, &subject), (1, 0), "{command} {reply:?}");
        wanted += 1;
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), wanted, "{command} {reply:?}");
    }
    assert_eq!(meter.number("SELECT count(*) FROM message WHERE kind = 'bounce'"), 0, "nothing bounced");
    assert_eq!(readyz(&meter), 200);
}

/// Most of this is waiting for the next attempt.
fn at_every_command(test: fn(&str, &[(&str, Fate)])) {
    std::thread::scope(|scope| {
        for (command, replies) in TABLE {
            scope.spawn(move || test(command, replies));
        }
    });
}

#[test]
fn p3_p4_every_reply_at_every_command_has_one_fate() {
    at_every_command(replies_have_their_fates);
}

#[test]
fn what_only_the_operator_can_mend_closes_the_gate_at_every_command() {
    at_every_command(replies_close_the_gate);
}

#[test]
fn p3_a_mail_that_was_taken_before_the_connection_was_lost_is_sent_again_and_costs_one_credit() {
    let meter = upstream();
    meter.sink().reply_times(2, "DOT", TAKE_AND_CLOSE);
    assert!(meter.signed_in().deliver(&letter("thrice")).starts_with("250 "));
    meter.drain();
    assert_eq!(arrivals(&meter, "thrice"), (3, 0), "to lose mail would be worse");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

/// A mail whose answer is lost after it was taken, and that is put off from then on; its id.
fn lost_then_put_off(meter: &Meter, subject: &str) -> String {
    meter.sink().reply_times(1, "DOT", TAKE_AND_CLOSE);
    let reply = meter.signed_in().deliver(&letter(subject));
    let id = reply.strip_prefix("250 2.0.0 Queued as ").and_then(|rest| rest.split(',').next()).unwrap();
    until("the answer to be lost", || (meter.sink().pending() == 0).then_some(()));
    meter.sink().reply("MAIL", "450 4.2.0 come again");
    until("it to be put off", || {
        let part = meter.get_as_operator(&format!("/queue/{id}")).json()["parts"][0].clone();
        let is_put_off = part["last_error"].as_str().is_some_and(|error| error.contains("come again"));
        is_put_off.then_some(())
    });
    id.to_owned()
}

fn until_held(meter: &Meter, id: &str, reason: &str) {
    until("it to be held", || {
        let shown = meter.get_as_operator(&format!("/queue/{id}")).json();
        let is_held = shown["state"] == "held" && shown["recipients"][0]["maybe_taken"] == true;
        (is_held && shown["last_error"].as_str()?.contains(reason)).then_some(())
    });
}

#[test]
fn p3_a_mail_that_may_have_arrived_does_not_expire_but_is_held() {
    let meter = upstream();
    let id = lost_then_put_off(&meter, "perhaps");
    meter.tamper("UPDATE message SET expires_at = accepted_at + 1 WHERE final_at IS NULL");
    until_held(&meter, &id, "its lifetime is over, and the upstream may have taken it");
    assert_eq!((&meter.credits()["available"], &meter.credits()["held"]), (&999.into(), &1.into()));
    let cancel = format!("/queue/{id}/cancel");
    meter.post_as_operator(&cancel, &json!({})).is_error(409, "confirmation_needed");
    meter.sink().behave();
    assert_eq!(meter.post_as_operator(&cancel, &json!({ "confirm": true })).status, 200);
    meter.drain();
    assert_eq!(arrivals(&meter, "perhaps"), (1, 0), "nobody is told that it was undeliverable");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0, "the operator's decision");
    assert!(meter.log().contains("the operator decided"), "{}", meter.log());
}

#[test]
fn p3_a_mail_that_may_have_arrived_is_cancelled_only_by_who_takes_the_risk() {
    let meter = upstream();
    let id = lost_then_put_off(&meter, "perhaps");
    // An attempt may be under way at any moment.
    let said = until("it to wait", || {
        let said = meter.run(&["queue", "cancel", &id]);
        (!said.err.contains("is under way")).then_some(said)
    });
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.contains("it is not billed, even if they have it"), "{said:?}");
    until("it to be given up", || {
        (meter.run(&["queue", "cancel", &id, "--yes"]).code == Some(0)).then_some(())
    });
    meter.sink().behave();
    meter.drain();
    assert_eq!((arrivals(&meter, "perhaps"), meter.dodo().debited(CUSTOMER_ID)), ((1, 0), 0));
}

#[test]
fn p3_a_refusal_does_not_disprove_that_an_earlier_copy_arrived() {
    let meter = upstream();
    let id = lost_then_put_off(&meter, "perhaps");
    meter.sink().behave();
    meter.sink().reply("RCPT", "550 5.7.1 you sent this already");
    until_held(&meter, &id, "refused: 5.7.1");
    assert_eq!(meter.number("SELECT sum(released) FROM message"), 0);
    meter.sink().behave();
    meter.says(&["queue", "retry", &id, "--yes"]);
    meter.drain();
    assert_eq!(arrivals(&meter, "perhaps"), (2, 0));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1, "it was sent after all");
}

#[test]
fn p3_only_who_was_in_the_lost_copy_is_held() {
    let meter = upstream();
    // Gone is put off when the copy is lost, and refused afterwards; bob may have it.
    meter.sink().reply_times(1, "RCPT TO:<gone@", "450 4.2.1 busy");
    meter.sink().reply_times(1, "DOT", TAKE_AND_CLOSE);
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net", "gone@example.net"]);
    let reply = smtp.message(&letter("perhaps"));
    let id = reply.strip_prefix("250 2.0.0 Queued as ").and_then(|rest| rest.split(',').next()).unwrap();
    until("the answer to be lost", || (meter.sink().pending() == 0).then_some(()));
    meter.sink().reply_times(2, "RCPT", "550 5.1.1 no such user");
    until_held(&meter, id, "refused: 5.1.1");
    until("the bounce", || (arrivals(&meter, "perhaps") == (1, 1)).then_some(()));
    let mails = meter.sink().mails();
    let bounce = String::from_utf8_lossy(&named(&mails, "Undelivered: perhaps")[0].bytes).into_owned();
    assert!(bounce.contains("gone@example.net") && !bounce.contains("rfc822; bob@"), "{bounce}");
    meter.says(&["queue", "cancel", id, "--yes"]);
    meter.drain();
}

#[test]
fn p4_a_late_reply_is_waited_for_where_nobody_could_say_what_its_absence_means() {
    let meter = Meter::smtp().set("upstream", "timeout_s = 1").set("queue", "lease_s = 2").start();
    let late = Duration::from_millis(3_500);
    meter.sink().reply_late(late, "DOT", "250 2.0.0 queued at last");
    assert!(meter.signed_in().deliver(&letter("patience")).starts_with("250 "));
    meter.drain();
    assert_eq!(arrivals(&meter, "patience"), (1, 0), "not given up, and taken by nobody else meanwhile");
    // Before the final dot, whoever is too late is asked again.
    for command in ["MAIL", "RCPT", "DATA"] {
        meter.sink().reply_late(late, command, "250 2.0.0 too late");
        assert!(meter.signed_in().deliver(&letter(command)).starts_with("250 "));
        meter.drain();
        assert_eq!(arrivals(&meter, command), (1, 0), "{command}");
    }
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 4);
}

/// Ann's mail to four; what each recipient got, who bounced, and what it cost.
fn four_recipients(unit: &str, faults: &[(&str, &str)]) -> (Vec<String>, Vec<String>, u64) {
    let recipients = ["bob@example.net", "busy@example.net", "gone@example.net", "far@example.net"];
    let mut meter = Meter::smtp().set("billing", &format!("unit = {unit:?}")).start();
    for (command, reply) in faults {
        meter.sink().reply_times(1, command, reply);
    }
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &recipients);
    assert!(smtp.message(&letter("four")).starts_with("250 "));
    meter.finish();
    assert_eq!(meter.sink().pending(), 0);
    let mails = meter.sink().mails();
    let mut got: Vec<String> = Vec::new();
    for mail in mails.iter().filter(|mail| !mail.from.is_empty()) {
        got.extend(mail.to.iter().map(|to| to.split('@').next().unwrap().to_owned()));
    }
    got.sort();
    let bounced = mails.iter().filter(|mail| mail.from.is_empty()).map(|mail| {
        let text = String::from_utf8_lossy(&mail.bytes).into_owned();
        let names = text.lines().filter_map(|line| line.strip_prefix("Final-Recipient: rfc822; "));
        names.map(|name| name.split('@').next().unwrap()).collect::<Vec<_>>().join(" ")
    });
    (got, bounced.collect(), meter.dodo().debited(CUSTOMER_ID))
}

#[test]
fn p3_p4_each_recipient_has_a_fate_of_its_own() {
    let busy = ("RCPT TO:<busy@", "450 4.2.1 busy");
    let gone = ("RCPT TO:<gone@", "550 5.1.1 gone");
    let far = ("RCPT TO:<far@", "551-5.7.1 not\r\n551 5.7.1 here");
    // The faults; who got it, who bounced in which mail; credits by message and by recipient.
    let table: [(&[_], &str, &str, [u64; 2]); 7] = [
        (&[busy], "bob busy far gone", "", [1, 4]),
        (&[gone], "bob busy far", "gone", [1, 3]),
        (&[busy, gone, far], "bob busy", "gone far", [1, 2]),
        // What was refused before the rest was put off stays refused, and bounces once.
        (&[gone, ("DATA", "451 4.3.0 not now")], "bob busy far", "gone", [1, 3]),
        (&[gone, ("DOT", "451 4.3.0 not now")], "bob busy far", "gone", [1, 3]),
        // Nobody knows what became of the first call: everybody is asked for again.
        (&[gone, ("DOT", CLOSE)], "bob busy far gone", "", [1, 4]),
        (&[busy, ("DOT", "554 5.6.0 malformed")], "busy", "bob gone far", [1, 1]),
    ];
    for (faults, got, bounced, credits) in table {
        for (unit, credits) in ["message", "recipient"].into_iter().zip(credits) {
            let (took, bounces, debited) = four_recipients(unit, faults);
            assert_eq!(
                (took.join(" "), bounces.join(", ")),
                (got.to_owned(), bounced.to_owned()),
                "{faults:?}"
            );
            assert_eq!(debited, credits, "{unit} {faults:?}");
        }
    }
}

#[test]
fn p4_what_is_said_to_a_courtesy_changes_nothing() {
    let meter = upstream();
    let mut smtp = meter.signed_in();
    for (nth, reply) in [LATER, NEVER, CLOSING, CLOSE, GARBAGE].into_iter().enumerate() {
        // The part that is refused leaves a connection behind that has to be reset.
        meter.sink().reply_times(1, "RCPT", NEVER);
        meter.sink().reply_times(1, "RSET", reply);
        meter.sink().reply_times(1, "QUIT", reply);
        assert!(smtp.deliver(&letter(&format!("refused{nth}"))).starts_with("250 "));
        meter.drain();
        assert_eq!(arrivals(&meter, &format!("refused{nth}")), (0, 1), "RSET {reply:?}");
        assert!(smtp.deliver(&letter(&format!("next{nth}"))).starts_with("250 "));
        meter.drain();
        assert_eq!(arrivals(&meter, &format!("next{nth}")), (1, 0), "RSET {reply:?}");
    }
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 5);
}
