//! Several hosts: which of them gets a mail, and which never does.

use super::server::Server;
use super::*;

/// A part for one recipient, sent through two hosts of which the first says `reply` to `command`.
async fn first_says(command: &'static str, reply: &'static str) -> (String, usize, usize) {
    let (first, second) = (Server::start(&[(command, reply)]).await, Server::start(&[]).await);
    let upstream = client(&format!("{} {}", first.url(), second.url()));
    let outcome = told(&upstream.send(&part(&["b@y.example"], MESSAGE)).await);
    (outcome, first.messages().len(), second.messages().len())
}

#[tokio::test]
async fn the_next_host_is_asked_when_the_first_does_not_let_us_in() {
    let table = [
        ("GREETING", "421 4.3.2 busy"),
        ("GREETING", "554 go away"),
        ("GREETING", ""),
        ("EHLO", "451 4.3.0 later"),
        ("MAIL", "421 4.3.2 closing"),
        ("MAIL", ""),
        ("MAIL", "530 5.7.0 sign in"),
        ("RCPT", "421 4.3.2 closing"),
        ("DATA", ""),
    ];
    for (command, reply) in table {
        let want = ("accepted".to_owned(), 0, 1);
        assert_eq!(first_says(command, reply).await, want, "{command} {reply}");
    }
}

#[tokio::test]
async fn an_answer_is_an_answer_and_no_other_host_is_asked() {
    let table = [
        ("MAIL", "550 5.7.1 not you", "refused 5.7.1"),
        ("MAIL", "451 4.3.0 later", "transient 4.3.0 true"),
        ("RCPT", "550 5.1.1 no such user", "nobody 5.1.1"),
        ("RCPT", "450 4.2.0 greylisted", "deferred 4.2.0"),
        ("DATA", "554 5.6.0 no", "refused 5.6.0"),
    ];
    for (command, reply, want) in table {
        assert_eq!(first_says(command, reply).await, (want.to_owned(), 0, 0), "{command} {reply}");
    }
}

#[tokio::test]
async fn p4_after_a_final_dot_without_an_answer_no_other_host_gets_the_mail() {
    for reply in ["", "garbage", "354 go on"] {
        assert_eq!(first_says("DOT", reply).await, ("unknown".to_owned(), 1, 0), "{reply}");
    }
    // The dot of a small message leaves with it.
    assert_eq!(first_says("BODY", "").await, ("unknown".to_owned(), 0, 0));
    assert_eq!(first_says("DOT", "554 5.6.0 no").await, ("refused 5.6.0".to_owned(), 1, 0));
}

#[tokio::test]
async fn a_message_of_which_the_dot_did_not_leave_goes_to_the_next_host() {
    let (first, second) = (Server::start(&[("BODY", "")]).await, Server::start(&[]).await);
    let upstream = client(&format!("{} {}", first.url(), second.url()));
    let outcome = upstream.send(&part(&["b@y.example"], vec![b'x'; 16 << 20])).await;
    assert_eq!((told(&outcome).as_str(), second.messages().len()), ("accepted", 1));
}

#[tokio::test]
async fn a_host_that_is_down_is_passed_over_and_the_others_go_on() {
    let (first, second) = (Server::start(&[("GREETING", "421 busy")]).await, Server::start(&[]).await);
    let upstream = client(&format!("{}\n{}", first.url(), second.url()));
    for _ in 0..5 {
        assert_eq!(told(&upstream.send(&part(&["b@y.example"], MESSAGE)).await), "accepted");
    }
    assert_eq!((first.connections(), second.connections()), (1, 1));
    assert_eq!(second.messages().len(), 5);
}

#[tokio::test]
async fn the_gate_closes_only_if_every_host_is_the_operators_matter() {
    let table = [
        ("535 5.7.8 wrong", "535 5.7.8 wrong", "closed"),
        ("535 5.7.8 wrong", "454 4.7.0 later", "transient 4.7.0 true"),
        ("454 4.7.0 later", "535 5.7.8 wrong", "transient 4.7.0 true"),
        ("535 5.7.8 wrong", "235 2.7.0 ok", "accepted"),
    ];
    for (one, other, want) in table {
        let auth = ("EHLO", "250-x\r\n250 AUTH PLAIN");
        let (one, other) =
            (Server::start(&[auth, ("AUTH", one)]).await, Server::start(&[auth, ("AUTH", other)]).await);
        let urls = format!("{} {}", one.url(), other.url()).replace("smtp://", "smtp://user:hunter2@");
        let upstream = client(&urls);
        let outcome = upstream.send(&part(&["b@y.example"], MESSAGE)).await;
        assert_eq!(told(&outcome), want);
        assert!(!format!("{upstream:?} {outcome:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn each_host_is_checked() {
    let (first, second) = (Server::start(&[("GREETING", "554 no")]).await, Server::start(&[]).await);
    let checked = client(&format!("{} {}", first.url(), second.url())).check().await;
    assert!(checked[0].found.as_ref().is_err_and(|reason| reason.contains("554 no")), "{checked:?}");
    assert!(second.url().ends_with(&checked[1].host) && checked[1].found.is_ok(), "{checked:?}");
}

#[tokio::test]
async fn p6_a_mail_goes_to_the_host_that_can_carry_it() {
    const PLAIN: (&str, &str) = ("EHLO", "250 x");
    let eight_bit = "Subject: x\r\n\r\ngr\u{fc}n\r\n".as_bytes();
    let (ascii, both) = (&["b@y.example"][..], &["b@y.example", "\u{fc}@y.example"][..]);
    let down = ("GREETING", "421 4.3.2 busy");
    let table = [
        // What the preferred one cannot carry goes to the next, and ordinary mail to the first.
        (vec![PLAIN], vec![], ascii, MESSAGE, "accepted", (1, 0)),
        (vec![PLAIN], vec![], ascii, eight_bit, "accepted", (0, 1)),
        (vec![PLAIN], vec![], both, MESSAGE, "accepted, accepted", (0, 1)),
        // Nothing comes back because the better host is away.
        (vec![down], vec![PLAIN], ascii, eight_bit, "deferred 4.6.3", (0, 0)),
        (vec![down], vec![PLAIN], both, MESSAGE, "accepted, deferred 4.6.7", (0, 1)),
        (vec![PLAIN], vec![down], both, MESSAGE, "accepted, deferred 4.6.7", (1, 0)),
        // Nobody can.
        (vec![PLAIN], vec![PLAIN], ascii, eight_bit, "refused 5.6.3", (0, 0)),
        (vec![PLAIN], vec![PLAIN], both, MESSAGE, "accepted, refused 5.6.7", (1, 0)),
    ];
    for (first, second, to, message, want, got) in table {
        let (one, other) = (Server::start(&first).await, Server::start(&second).await);
        let upstream = client(&format!("{} {}", one.url(), other.url()));
        let outcome = upstream.send(&part(to, message)).await;
        assert_eq!(told(&outcome), want, "{first:?} {second:?} {to:?}");
        assert_eq!((one.messages().len(), other.messages().len()), got, "{first:?} {second:?} {to:?}");
    }
}
