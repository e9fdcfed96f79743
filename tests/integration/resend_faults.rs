//! Everything that Resend was seen or documented to answer instead of an id, and
//! its silences: each has one fate, and everything adds up after it.

use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use postmeter::sandbox::resend::Refusal;
use reqwest::Method;

use crate::harness::wait::until_is;
use crate::harness::web::ask;
use crate::harness::{CUSTOMER_ID, Meter, file_to_a_list, letter, until};

fn html(status: u16) -> Reply {
    Reply::status(status).header("content-type", "text/html").body("<html>nginx</html>")
}

fn upstream() -> Meter {
    let plan = Meter::resend().credits(1_000).set("upstream", "timeout_s = 1");
    plan.set("queue", "retry_max_s = 1").start()
}

/// A mail that meets these, one after the other; what became of it is final.
fn meets(meter: &Meter, subject: &str, faults: &[Misbehaviour]) {
    let stand_in = meter.resend_stand_in();
    for fault in faults {
        stand_in.faults().push(Fault::new(fault.clone()).on("POST", "/emails"));
    }
    let reply = meter.signed_in().deliver(&letter(subject));
    assert!(reply.starts_with("250 "), "{reply}");
    until(&format!("{subject} to meet {faults:?}"), || stand_in.faults().pending().is_empty().then_some(()));
    meter.drain();
}

/// How often the mail left, and its bounce.
fn arrivals(meter: &Meter, subject: &str) -> (usize, usize) {
    let count = |wanted: &str| {
        meter.mails().iter().filter(|mail| mail.email.subject.as_deref() == Some(wanted)).count()
    };
    (count(subject), count(&format!("Undelivered: {subject}")))
}

fn readyz(meter: &Meter) -> u16 {
    ask(meter.request(Method::GET, "/readyz")).status
}

/// Whether the metric says that Resend's gate is closed.
fn is_gate_shown(meter: &Meter) -> bool {
    let metrics = meter.get_as_operator("/metrics").body;
    metrics.contains("postmeter_gate_closed{upstream=\"resend\"} 1")
}

/// Each of these befalls a mail of its own, which is then sent once for one credit.
fn is_sent_once_after(name: &str, table: &[&[Misbehaviour]]) {
    // Most of this is waiting for the next attempt.
    std::thread::scope(|scope| {
        for few in table.chunks(3) {
            scope.spawn(move || few_are_sent_once_after(name, few));
        }
    });
}

fn few_are_sent_once_after(name: &str, table: &[&[Misbehaviour]]) {
    let mut meter = upstream();
    for (nth, faults) in table.iter().enumerate() {
        let subject = format!("{name}{nth}");
        meets(&meter, &subject, faults);
        assert_eq!(arrivals(&meter, &subject), (1, 0), "P4: {faults:?}");
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), nth as u64 + 1, "P3: {faults:?}");
    }
    assert_eq!(readyz(&meter), 200);
    assert_eq!(meter.number("SELECT sum(released) FROM message"), 0);
    meter.finish();
}

#[test]
fn p4_what_resend_puts_off_is_sent_once() {
    is_sent_once_after(
        "put-off",
        &[
            &[Refusal::rate_limited(1).into()],
            &[Reply::status(429)
                .header("ratelimit-reset", "1")
                .body(Refusal::rate_limited(1).reply().body)
                .into()],
            &[Reply::status(429).body("local_rate_limited").into()],
            &[
                Refusal::rate_limited(1).into(),
                Refusal::rate_limited(1).into(),
                Refusal::rate_limited(1).into(),
            ],
            &[Refusal::locked().into()],
            &[html(400).into()],
            &[html(403).into()],
            &[Misbehaviour::DropBefore],
        ],
    );
}

#[test]
fn p4_what_may_have_been_taken_is_asked_for_by_the_same_call() {
    let broken = || Misbehaviour::from(Refusal::application_error("Internal server error"));
    is_sent_once_after(
        "unknown",
        &[
            &[broken()],
            &[html(503).into(), html(502).into()],
            &[Reply::status(408).into()],
            &[Misbehaviour::DropAfter],
            &[Misbehaviour::Garble],
            &[Misbehaviour::AnswerAfter(html(200))],
            &[Misbehaviour::AnswerAfter(Refusal::application_error("too late").reply())],
            &[Misbehaviour::DropAfter, broken(), Misbehaviour::Garble],
            &[Refusal::concurrent().into()],
            &[Misbehaviour::DropAfter, Refusal::concurrent().into()],
        ],
    );
}

#[test]
fn p4_what_is_not_answered_in_time_is_asked_for_by_the_same_call() {
    is_sent_once_after(
        "silent",
        &[
            &[Misbehaviour::HangBefore],
            &[Misbehaviour::HangAfter],
            // It is still at work on the first call when the second comes: 409.
            &[Misbehaviour::Late { delay_ms: 3_000 }],
        ],
    );
}

#[test]
fn p4_a_refusal_of_the_account_says_nothing_about_the_call_before_it() {
    let unverified = || Misbehaviour::from(Refusal::unverified_domain("example.com"));
    is_sent_once_after(
        "doubtful",
        &[
            &[Misbehaviour::DropAfter, unverified(), unverified()],
            &[Misbehaviour::DropAfter, Refusal::rate_limited(1).into(), html(403).into()],
            &[Misbehaviour::DropAfter, Refusal::testing_only().into()],
        ],
    );
}

#[test]
fn p3_what_resend_refuses_comes_back_once_and_costs_nothing() {
    let table: [(Misbehaviour, &str); 9] = [
        (Refusal::validation("Invalid `to` field.").into(), "5.6.0"),
        (Refusal::missing("html").into(), "5.6.0"),
        (Refusal::attachment("Attachments exceed 40MB").into(), "5.3.4"),
        (Refusal::attachment("no content").into(), "5.6.0"),
        (Refusal::unverified_domain("example.com").into(), "5.7.1"),
        (Refusal::testing_only().into(), "5.7.1"),
        (Refusal::application_error("Duplicate header 'X-A'.").into(), "5.6.0"),
        (html(413).into(), "5.3.4"),
        (html(422).into(), "5.6.0"),
    ];
    let mut meter = upstream();
    for (nth, (fault, status)) in table.into_iter().enumerate() {
        let subject = format!("refused{nth}");
        meets(&meter, &subject, std::slice::from_ref(&fault));
        assert_eq!(arrivals(&meter, &subject), (0, 1), "{fault:?}");
        let bounce = meter.mails().pop().unwrap().email;
        assert_eq!(bounce.recipients().collect::<Vec<_>>(), ["ann@example.com"]);
        let text = bounce.text.unwrap();
        assert!(text.contains("<bob@example.net>"), "{fault:?}: {text}");
        let answered = meter
            .read::<String>("SELECT status FROM recipient WHERE state = 'failed' ORDER BY message_id DESC");
        assert_eq!(answered[0], status, "{fault:?}");
        assert_eq!(meter.number("SELECT sum(released) FROM message"), nth as i64 + 1, "{fault:?}");
    }
    assert_eq!(meter.credits()["available"], 1_000);
    assert_eq!(readyz(&meter), 200);
    meter.finish();
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
}

/// Mail waits behind the gate, unharmed and without growing old, and leaves when
/// the operator has mended it.
fn waits_behind_the_gate(fault: &Misbehaviour, (class, reason): (&str, &str)) {
    let mut meter = upstream();
    assert!(!is_gate_shown(&meter));
    let faults = meter.resend_stand_in().faults().clone();
    faults.push(Fault::new(fault.clone()).on("POST", "/emails").always());
    let mut smtp = meter.signed_in();
    assert!(smtp.deliver(&letter("first")).starts_with("250 "));
    until(&format!("readyz to tell of {fault:?}"), || (readyz(&meter) == 503).then_some(()));
    assert!(smtp.deliver(&letter("second")).starts_with("250 "), "mail is still taken in");
    until("both to wait", || {
        (meter.number("SELECT count(*) FROM part WHERE state = 'queued'") == 2).then_some(())
    });
    assert_eq!(faults.struck(), 1, "one call was enough");
    let told: String = meter.read("SELECT reason FROM gate").remove(0);
    assert!(told.contains(reason), "{told}");
    let ready = ask(meter.request(Method::GET, "/readyz"));
    assert_eq!(ready.json()["problems"][0]["reason"], class, "{ready:?}");
    assert!(!ready.body.contains(&told), "P9: anyone may ask, and is not told what was said: {ready:?}");
    assert!(is_gate_shown(&meter), "{fault:?}");
    meter.stop();
    faults.clear();
    // The gate has been closed for an hour, which the messages must not feel.
    meter.tamper("UPDATE gate SET since = since - 3600000");
    meter.tamper("UPDATE message SET accepted_at = accepted_at - 3600000, expires_at = accepted_at + 1000");
    meter.serve();
    meter.drain();
    assert_eq!((arrivals(&meter, "first"), arrivals(&meter, "second")), ((1, 0), (1, 0)), "{fault:?}");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 2);
    assert_eq!(readyz(&meter), 200);
    until_is("whether the gate is shown as closed", false, || is_gate_shown(&meter));
    assert_eq!(meter.number("SELECT sum(attempt) FROM part"), 2, "to be put off by a gate is no attempt");
    meter.finish();
}

#[test]
fn what_only_the_operator_can_mend_closes_the_gate_and_bounces_nothing() {
    let (key, day) = (("api_key", "API key"), ("daily_quota", "daily quota"));
    let (month, address) = (("monthly_quota", "monthly quota"), ("api_address", "address"));
    let table: [(Misbehaviour, (&str, &str)); 11] = [
        (Refusal::bad_key(400).into(), key),
        (Refusal::bad_key(401).into(), key),
        (Refusal::bad_key(403).into(), key),
        (Refusal::missing_key().into(), key),
        (Refusal::restricted_key().into(), key),
        (Refusal::inactive_key().into(), key),
        (Refusal::suspended_key().into(), key),
        (Refusal::no_permission().into(), key),
        (Refusal::daily_quota().into(), day),
        (Refusal::monthly_quota().into(), month),
        (Refusal::not_found("Route").into(), address),
    ];
    std::thread::scope(|scope| {
        for (fault, why) in &table {
            scope.spawn(move || waits_behind_the_gate(fault, *why));
        }
    });
}

#[test]
fn mail_waits_for_a_quota_that_is_really_spent() {
    let mut meter = upstream();
    meter.resend_stand_in().behave(|behaviour| behaviour.monthly_quota = Some(2));
    let mut smtp = meter.signed_in();
    for nth in 0..4 {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
        // Together they would be refused together.
        until_is("what is under way", 0, || {
            meter.number("SELECT count(*) FROM part WHERE state = 'sending'")
        });
    }
    until("readyz to tell", || (readyz(&meter) == 503).then_some(()));
    until("the quota to be used up and the others to wait", || {
        (meter.number("SELECT count(*) FROM part WHERE state = 'queued'") == 2).then_some(())
    });
    assert_eq!(meter.resend_stand_in().count(), 2);
    meter.stop();
    meter.resend_stand_in().behave(|behaviour| behaviour.monthly_quota = None);
    meter.serve();
    meter.finish();
    assert_eq!(meter.resend_stand_in().count(), 4);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 4);
}

#[test]
fn p4_a_key_that_came_with_other_bytes_is_held_for_the_operator() {
    let mut meter = upstream();
    let stand_in = meter.resend_stand_in();
    stand_in.faults().push(Fault::new(Misbehaviour::DropAfter).on("POST", "/emails"));
    stand_in.faults().push(Fault::new(Refusal::other_body()).on("POST", "/emails"));
    assert!(meter.signed_in().deliver(&letter("held")).starts_with("250 "));
    until("the part to be held", || {
        (meter.number("SELECT count(*) FROM part WHERE state = 'held'") == 1).then_some(())
    });
    let credits = meter.credits();
    assert_eq!((&credits["held"], &credits["owed"]), (&1.into(), &0.into()), "neither billed nor given back");
    assert_eq!(arrivals(&meter, "held"), (1, 0), "and not bounced: it was taken");
    assert!(meter.log().contains("a part is held"), "{}", meter.log());
    let held: String = meter.read("SELECT message_id FROM part WHERE state = 'held'").remove(0);
    meter.says(&["queue", "cancel", &held, "--yes"]);
    meter.finish();
    assert_eq!(arrivals(&meter, "held"), (1, 0));
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 0);
}

#[test]
fn p3_parts_of_one_message_have_fates_of_their_own() {
    let recipients = ["a@example.net", "b@example.net", "c@example.net", "d@example.net"];
    for (unit, debited) in [("message", 1), ("recipient", 2)] {
        let mut meter = Meter::resend().set("billing", &format!("unit = {unit:?}")).start();
        let faults: [Misbehaviour; 4] = [
            Refusal::validation("Invalid `to` field.").into(),
            Misbehaviour::DropAfter,
            Refusal::rate_limited(1).into(),
            Refusal::unverified_domain("example.com").into(),
        ];
        for fault in faults {
            meter.resend_stand_in().faults().push(Fault::new(fault).on("POST", "/emails"));
        }
        let mut smtp = meter.signed_in();
        smtp.begin("ann@example.com", &recipients);
        assert!(smtp.message(&file_to_a_list("parts")).starts_with("250 "));
        meter.drain();
        until("a bounce for each attempt that failed", || (arrivals(&meter, "parts").1 == 2).then_some(()));
        meter.finish();
        assert_eq!(arrivals(&meter, "parts"), (2, 2), "{unit}");
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), debited, "{unit}");
        let bounces = meter.mails().into_iter().filter_map(|mail| mail.email.text);
        let named: Vec<usize> =
            bounces.map(|text| text.matches("@example.net>").count()).filter(|n| *n > 0).collect();
        assert_eq!(named, [1, 1], "each names only who newly failed");
    }
}
