//! Limits on whoever comes: failed sign-ins, sessions, messages a second.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpStream};

use reqwest::Method;

use crate::harness::smtp::Smtp;
use crate::harness::web::ask;
use crate::harness::{Meter, letter, until};

const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

#[test]
fn failed_sign_ins_are_counted_over_smtp_and_http_together_and_lock_out_nobody_elsewhere() {
    let meter = Meter::resend()
        .set("limits", "sign_in_failures = 3")
        .set("limits", "sign_in_max_delay_s = 1")
        .start();
    let (username, secret) = (meter.credential.username.clone(), meter.credential.secret.clone());
    let get = || meter.request(Method::GET, "/messages");
    let mut smtp = Smtp::starttls(&meter);
    for _ in 0..2 {
        let reply = smtp.auth_plain(&username, "wrong");
        assert_eq!(reply, "535 5.7.8 Authentication failed, check username and secret\r\n");
    }
    ask(get().basic_auth(&username, Some("wrong"))).is_error(401, "unauthorized");
    let reply = Smtp::implicit(&meter).auth_plain(&username, &secret);
    assert!(reply.starts_with("454 4.7.0 Too many failed sign-ins, try again in "), "{reply}");
    let refused = ask(get().basic_auth(&username, Some(&secret)));
    refused.is_error(429, "too_many_failures");
    assert!((1..=60).contains(&refused.header("retry-after").parse::<u32>().unwrap()), "{refused:?}");

    let mut elsewhere = Smtp::implicit_from(&meter, ELSEWHERE);
    assert!(elsewhere.auth_plain(&username, &secret).starts_with("235 2.7.0 "));
    assert!(elsewhere.deliver(&letter("elsewhere")).starts_with("250 2.0.0 "));
    let visitor = get().header("x-forwarded-for", "192.0.2.1").basic_auth(&username, Some(&secret));
    assert_eq!(ask(visitor).status, 200, "the proxy on this machine says who asks");
}

#[test]
fn a_connection_ends_after_some_failed_sign_ins_and_others_do_not_wait_for_it() {
    let meter =
        Meter::resend().set("smtp", "max_sign_in_failures = 2").set("limits", "sign_in_failures = 4").start();
    let mut smtp = Smtp::starttls(&meter);
    for name in ["nobody", &meter.credential.username] {
        assert!(smtp.auth_plain(name, "wrong").starts_with("535 5.7.8 "));
    }
    // 2.8 seconds; meanwhile:
    let waiting = std::thread::spawn(move || (smtp.auth_plain("nobody", "wrong"), smtp.reply()));
    assert!(meter.signed_in().deliver(&letter("meanwhile")).starts_with("250 2.0.0 "));
    let (reply, end) = waiting.join().unwrap();
    let told = "421 4.7.0 Too many failed sign-ins, check username and secret; closing the connection\r\n";
    assert_eq!((reply.as_str(), end.as_str()), (told, ""));
}

#[test]
fn a_customer_has_so_many_sessions_and_no_more() {
    let meter = Meter::resend().set("smtp", "max_sessions_per_customer = 2").start();
    let (username, secret) = (&meter.credential.username, &meter.credential.secret);
    let mut first = meter.signed_in();
    let _second = meter.signed_in();
    let mut third = Smtp::implicit(&meter);
    let told = "421 4.7.0 Too many sessions of this account, at most 2; close some or try later\r\n";
    assert_eq!((third.auth_plain(username, secret).as_str(), third.reply().as_str()), (told, ""));
    let mut other = Smtp::implicit(&meter);
    assert!(other.auth_plain("nobody", "wrong").starts_with("535 "), "strangers take none");
    assert!(first.say("QUIT").starts_with("221 "));
    until("the place of the session that ended", || {
        Smtp::implicit(&meter).auth_plain(username, secret).starts_with("235 ").then_some(())
    });
}

#[test]
fn a_customer_sends_so_many_messages_a_second_over_smtp_and_http_together() {
    let meter =
        Meter::resend().set("limits", "messages_per_s = 1").set("limits", "messages_burst = 2").start();
    let send = |subject: &str| {
        meter.post_send(&serde_json::json!({
            "from": "ann@example.com", "to": "bob@example.net", "subject": subject, "text": "t"
        }))
    };
    let mut smtp = meter.signed_in();
    let too_fast = until("a MAIL that comes too fast", || {
        smtp.say("RSET");
        let reply = smtp.say("MAIL FROM:<ann@example.com>");
        (!reply.starts_with("250 ")).then_some(reply)
    });
    assert_eq!(too_fast, "450 4.7.0 This account sends too fast, try again in 1 seconds\r\n");
    let refused = until("a request that comes too fast", || Some(send("fast")).filter(|a| a.status != 200));
    refused.is_error(429, "too_fast");
    assert_eq!(refused.header("retry-after"), "1");
    until("a second later", || smtp.try_deliver(&letter("later")).then_some(()));
    until("a second later", || (send("later").status == 200).then_some(()));
}

#[test]
fn on_the_port_with_tls_one_connection_too_many_is_closed_without_a_word_in_the_clear() {
    let meter = Meter::resend().set("smtp", "max_connections_per_ip = 1").start();
    let first = Smtp::implicit(&meter);
    let mut said = Vec::new();
    // A reset is as good an end as any.
    let _ = TcpStream::connect(meter.process().smtps).unwrap().read_to_end(&mut said);
    assert_eq!(said, b"");
    assert!(Smtp::implicit_from(&meter, ELSEWHERE).say("NOOP").starts_with("250 "));
    drop(first);
}

#[test]
fn a_message_that_drips_is_told_why_it_ends() {
    let meter =
        Meter::resend().set("smtp", "min_bytes_per_s = 100000").set("smtp", "min_bytes_grace_s = 1").start();
    let mut smtp = meter.signed_in();
    smtp.begin("ann@example.com", &["bob@example.net"]);
    smtp.send(b"From: ann@example.com\r\n");
    assert!(smtp.reply().starts_with("421 4.4.2 Message arrives too slowly, "));
    assert_eq!(smtp.reply(), "");
    assert!(meter.signed_in().deliver(&letter("brisk")).starts_with("250 2.0.0 "));
}
