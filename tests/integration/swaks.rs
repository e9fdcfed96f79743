//! swaks as a client that misbehaves.

use crate::harness::client::{FROM, Port, swaks};
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

const PORTS: [Port; 2] = [Port::StartTls, Port::Tls];

#[test]
fn whoever_hangs_up_before_the_end_leaves_nothing_behind() {
    let meter = Meter::smtp().start();
    let drops = [("--drop-after", "AUTH"), ("--drop-after", "DATA"), ("--drop-after-send", "RCPT")];
    std::thread::scope(|scope| {
        for port in PORTS {
            let meter = &meter;
            scope.spawn(move || {
                for (argument, stage) in drops {
                    let Some(said) = swaks(meter, port, &[argument, stage], &letter("dropped")) else {
                        return;
                    };
                    assert!(!said.out.contains("Queued as"), "{port:?}, {argument} {stage}: {}", said.out);
                }
            });
        }
    });
    // Whoever was let go is not in the way of another.
    assert!(meter.signed_in().deliver(&letter("sound")).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.sink().mails().len(), 1);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
}

#[test]
fn whoever_hangs_up_after_the_250_has_sent() {
    let meter = Meter::smtp().start();
    for (nth, port) in PORTS.into_iter().enumerate() {
        let Some(said) = swaks(&meter, port, &["--drop-after", "DOT"], &letter("heard")) else { return };
        assert!(said.out.contains("Queued as"), "{}", said.out);
        until("the mail", || (meter.sink().mails().len() == nth + 1).then_some(()));
    }
}

#[test]
fn p7_a_message_with_bare_lf_is_refused_and_not_mended() {
    let meter = Meter::smtp().start();
    let crlf = String::from_utf8(letter("raw")).unwrap();
    for port in PORTS {
        // swaks does not even add the end to what it is not to mend.
        let bare = crlf.replace("\r\n", "\n") + "\r\n.\r\n";
        let Some(said) = swaks(&meter, port, &["--no-data-fixup"], bare.as_bytes()) else { return };
        assert_eq!(said.code, Some(26), "{said:?}");
        assert!(said.out.contains("554 5.6.0 Message holds an LF without CR"), "{}", said.out);
    }
    assert_eq!(meter.credits()["held"], 0);
    meter.drain();
    assert_eq!(meter.sink().mails(), []);
}

#[test]
fn a_pipelining_client_is_answered_in_order() {
    let meter = Meter::smtp().start();
    for (nth, port) in PORTS.into_iter().enumerate() {
        let Some(said) = swaks(&meter, port, &["--pipeline"], &letter("piped")) else { return };
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.out.contains("Queued as"), "{}", said.out);
        let mail = until("the mail", || meter.sink().mails().get(nth).cloned());
        assert_eq!(mail.from, FROM);
    }
}
