//! Two SMTP servers upstream, and the preferred one dies.

use crate::harness::sink::{CLOSE, Security, Sink, TAKE_AND_CLOSE};
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

/// A system with a second host behind its own.
pub(crate) fn two_hosts() -> (Meter, Sink) {
    let mut meter = Meter::smtp().set("upstream", "timeout_s = 5").credits(100).prepare();
    let second = Sink::start(Security::None, &meter.directory().join("second.pem"));
    let urls = format!("{}\n{}", meter.sink().url(), second.url());
    meter.set_environment("UPSTREAM_SMTP_URL", &urls);
    meter.serve();
    (meter, second)
}

/// Whatever it is told, and whoever connects.
pub(crate) fn dies(sink: &Sink) {
    sink.reply("", CLOSE);
}

#[test]
fn p3_when_the_preferred_host_dies_the_next_one_carries_the_mail() {
    let (mut meter, second) = two_hosts();
    let deliver = |meter: &Meter, subject: &str| {
        assert!(meter.signed_in().deliver(&letter(subject)).starts_with("250 "));
        meter.drain();
    };
    deliver(&meter, "one");
    assert_eq!((meter.sink().mails().len(), second.mails().len()), (1, 0));
    dies(meter.sink());
    for subject in ["two", "three", "four"] {
        deliver(&meter, subject);
    }
    assert_eq!((meter.sink().mails().len(), second.mails().len()), (1, 3));
    assert_eq!(meter.number("SELECT max(attempt) FROM part"), 1, "nobody had to wait for a retry");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 4);
    let log = meter.log();
    assert_eq!(log.matches("an upstream host is passed over").count(), 1, "{log}");
    assert_eq!(log.matches("this upstream host took the mail").count(), 4, "{log}");
    let said = meter.run(&["check"]).out;
    assert!(said.contains("warn smtp upstream") && said.contains("ok   smtp upstream"), "{said}");
    meter.finish();
}

#[test]
fn p4_a_host_that_dies_after_the_final_dot_leaves_a_doubt_and_the_next_attempt_goes_elsewhere() {
    let (mut meter, second) = two_hosts();
    meter.sink().reply_times(1, "DOT", TAKE_AND_CLOSE);
    assert!(meter.signed_in().deliver(&letter("perhaps")).starts_with("250 "));
    until("the answer to be lost", || (meter.sink().pending() == 0).then_some(()));
    dies(meter.sink());
    meter.drain();
    let copies = meter.sink().mails().len() + second.mails().len();
    assert!(copies == 2, "once at each, or twice at the first: {copies}");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    meter.finish();
}
