//! Messages in chunks (RFC 3030), from a client to an upstream.

use crate::harness::smtp::bdat;
use crate::harness::{Meter, letter, until};
use crate::header::{SOUND, without_received};

const TO_BOB: (&str, &[&str]) = ("ann@example.com", &["bob@example.net"]);

/// What the upstream got as its so-many-th mail.
fn relayed(meter: &Meter, nth: usize) -> Vec<u8> {
    without_received(&until("the mail", || meter.sink().mails().get(nth).cloned()).bytes)
}

#[test]
fn a_message_in_chunks_leaves_byte_for_byte_on_both_ports() {
    let meter = Meter::smtp().credits(100).start();
    let tails: [&[u8]; 5] = [
        b"\r\nplain\r\n",
        b"\r\n.\r\n..\r\n...three\r\n.leading\r\n.\r\nQUIT\r\nMAIL FROM:<x@example.com>\r\n",
        b"Subject: gr\xfc\xdfe\r\n\r\n\xc3\xa9\xe9\x80\xff\r\n",
        b"\r\n\r\n\r\n",
        b"",
    ];
    let mut taken = 0;
    for mut smtp in [meter.signed_in(), meter.signed_in_implicitly()] {
        for (tail, length) in tails.into_iter().zip([1_000, 1, 7, 64, 100]) {
            let message = [SOUND.as_bytes(), tail].concat();
            smtp.address(TO_BOB.0, TO_BOB.1);
            let mut wire = Vec::new();
            for chunk in message.chunks(length) {
                wire.extend_from_slice(&bdat(chunk, false));
            }
            wire.extend_from_slice(&bdat(b"", true));
            smtp.send(&wire);
            for chunk in message.chunks(length) {
                assert_eq!(smtp.reply(), format!("250 2.0.0 {} octets received\r\n", chunk.len()));
            }
            let reply = smtp.reply();
            assert!(reply.starts_with("250 2.0.0 Queued as "), "{reply}");
            let got = relayed(&meter, taken);
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&message));
            assert_eq!(got, message);
            taken += 1;
        }
    }
}

#[test]
fn a_whole_transaction_fits_in_one_write() {
    let meter = Meter::smtp().start();
    let mut smtp = meter.signed_in();
    let (first, second) = (letter("first"), letter("second"));
    let begin = b"MAIL FROM:<ann@example.com>\r\nRCPT TO:<bob@example.net>\r\n".as_slice();
    smtp.send(&[begin, &bdat(&first, true), begin, &bdat(&second, true), b"QUIT\r\n"].concat());
    let replies: Vec<_> = (0..7).map(|_| smtp.reply()[..9].to_owned()).collect();
    let message = ["250 2.1.0", "250 2.1.5", "250 2.0.0"];
    assert_eq!(replies, [&message[..], &message[..], &["221 2.0.0"]].concat());
    let mut mails = until("both mails", || Some(meter.sink().mails()).filter(|mails| mails.len() == 2));
    mails.sort_by_key(|mail| !mail.bytes.windows(5).any(|octets| octets == b"first"));
    assert_eq!(without_received(&mails[0].bytes), first);
    assert_eq!(without_received(&mails[1].bytes), second);
}

#[test]
fn p7_a_message_that_is_refused_in_the_middle_costs_nothing_and_leaves_the_session_clean() {
    let meter = Meter::smtp().set("smtp", "max_message_bytes = 65536").start();
    let mut smtp = meter.signed_in();
    let huge = vec![b'x'; 65_537];
    let table: [(&[u8], &str); 4] = [
        (
            b"From: ann@example.com\r\n\r\na\n.\nMAIL FROM:<x@example.com>\r\n",
            "554 5.6.0 Message holds an LF",
        ),
        (b"From: ann@example.com\r\n\r\na\rb\r\n", "554 5.6.0 Message holds a CR without LF"),
        (b"From: ann@example.com\r\n\r\na\0b\r\n", "554 5.6.0 Message holds a NUL"),
        (&huge, "552 5.3.4 Message is larger than 65536 octets"),
    ];
    for (chunk, wanted) in table {
        smtp.address(TO_BOB.0, TO_BOB.1);
        assert_eq!(smtp.chunk(b"X-First: 1\r\n", false), "250 2.0.0 12 octets received\r\n");
        for (chunk, is_last) in [(chunk, false), (b"QUIT\r\n".as_slice(), false), (b"QUIT\r\n", true)] {
            let reply = smtp.chunk(chunk, is_last);
            assert!(reply.starts_with(wanted), "{reply}");
        }
        assert_eq!(smtp.say("DATA"), "503 5.5.1 Send MAIL first\r\n");
    }
    assert_eq!(meter.credits()["held"], 0);
    let reply = smtp.deliver(&letter("sound"));
    assert!(reply.ends_with(", 9 email credits available\r\n"), "{reply}");
}

#[test]
fn p7_a_million_chunks_of_one_octet_are_one_message_on_both_ports() {
    const CHUNKS: usize = 1_000_000;
    /// So many are under way before the client listens: their replies fit into the sockets.
    const AT_ONCE: usize = 4_000;
    let meter = Meter::smtp().start();
    let message = [SOUND.as_bytes(), b"\r\n.\r\n", &b"QUIT\r\n".repeat(CHUNKS / 6)].concat();
    assert!(message.len() >= CHUNKS);
    std::thread::scope(|scope| {
        for mut smtp in [meter.signed_in(), meter.signed_in_implicitly()] {
            let message = &message;
            scope.spawn(move || {
                smtp.address(TO_BOB.0, TO_BOB.1);
                for octets in message.chunks(AT_ONCE) {
                    let wire: Vec<u8> = octets.chunks(1).flat_map(|octet| bdat(octet, false)).collect();
                    smtp.send(&wire);
                    for _ in octets {
                        assert_eq!(smtp.reply(), "250 2.0.0 1 octets received\r\n");
                    }
                }
                let reply = smtp.chunk(b"", true);
                assert!(reply.starts_with("250 2.0.0 Queued as "), "{reply}");
            });
        }
    });
    for nth in 0..2 {
        assert!(relayed(&meter, nth) == message, "other octets came");
    }
}
