use crate::domain::address::Mailbox;

use jiff::Timestamp;

use super::*;
use crate::domain::caps::Span;
use crate::domain::suppression::{Cause, Why};

fn wire(reply: &Reply) -> String {
    let mut out = Vec::new();
    reply.render(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn p9_every_refusal_has_its_codes_and_its_reason() {
    let why = Why {
        cause: Cause::Bounce,
        detail: Some("no such user".to_owned()),
        added_at: Timestamp::UNIX_EPOCH,
    };
    let mailbox = Mailbox::parse("a@b.example").unwrap();
    let url = "https://meter.example/".to_owned();
    let not_allowed =
        |address: &str, may_prove| Refusal::SenderNotAllowed { address: address.to_owned(), may_prove };
    let table = [
        (Refusal::BadCredential, "535 5.7.8 "),
        (Refusal::Suspended { reason: "spam".into() }, "550 5.7.1 Account suspended: spam"),
        (not_allowed("x@y.example", false), "550 5.7.1 x@y.example is not a sender of this account\r\n"),
        (
            not_allowed("x@y.example", true),
            "550 5.7.1 x@y.example is not a sender of this account; to add its domain, POST /senders/domains\r\n",
        ),
        (not_allowed("", true), "550 5.7.1 The From header is not a sender of this account\r\n"),
        (
            Refusal::OutOfCredit { top_up_url: url.clone(), shortfall: Credits::ZERO },
            "452 4.7.1 No email credits remaining, top up at https://meter.example/",
        ),
        (
            Refusal::OutOfCredit { top_up_url: url.clone(), shortfall: Credits::ONE },
            "452 4.7.1 No email credits remaining, top up at https://meter.example/ (credits owed: 1, for mail \
             already sent, because credits expired or were spent elsewhere; the next top-up pays that first)",
        ),
        (Refusal::BillingUnknown, "451 4.3.0 "),
        (
            Refusal::Suppressed { recipient: mailbox.clone(), why },
            "550 5.1.1 a@b.example is on the suppression list of this account since 1970-01-01: mail to it bounced \
             (no such user); to send to it all the same, DELETE /suppressions/a@b.example",
        ),
        (Refusal::AddressNotCarried { address: mailbox }, "550 5.6.7 "),
        (Refusal::TooManyRecipients { limit: 50 }, "452 4.5.3 "),
        (Refusal::TooLarge { limit_bytes: 9 }, "552 5.3.4 Message is larger than 9 octets"),
        (
            Refusal::TooFast { retry_after_s: 3 },
            "450 4.7.0 This account sends too fast, try again in 3 seconds",
        ),
        (
            Refusal::Capped(Reached { limit: 9, span: Span::Minute, retry_after_s: 3 }),
            "450 4.7.0 The cap of this credential is reached: 9 messages a minute; try again in 3 seconds",
        ),
        (
            Refusal::Capped(Reached { limit: 1, span: Span::Day, retry_after_s: 3 }),
            "452 4.7.0 The cap of this credential is reached: 1 message a day; try again in 3 seconds",
        ),
        (
            Refusal::TooManyFailures { retry_after_s: 3 },
            "454 4.7.0 Too many failed sign-ins, try again in 3 seconds",
        ),
        (Refusal::TooManySessions { limit: 3 }, "421 4.7.0 Too many sessions of this account, at most 3; "),
        (
            Refusal::Unacceptable { status: "5.6.0", what: "No From header".into() },
            "554 5.6.0 No From header",
        ),
        (Refusal::Unacceptable { status: "5.7.1", what: "no .exe files".into() }, "554 5.7.1 no .exe files"),
        (Refusal::Looping, "554 5.4.6 "),
        (Refusal::KeyReused, "554 5.5.4 "),
        (Refusal::StoreUnavailable, "452 4.3.1 "),
    ];
    for (refusal, want) in table {
        let shown = wire(&Reply::refusal(&refusal, OutOfCreditReply::Temporary));
        assert!(shown.starts_with(want) && shown.ends_with("\r\n"), "{shown}");
    }
    let refusal = Refusal::OutOfCredit { top_up_url: url, shortfall: Credits::ZERO };
    assert!(wire(&Reply::refusal(&refusal, OutOfCreditReply::Permanent)).starts_with("550 5.7.1 No email"));
}

/// What is said of the session itself; refusals of [`Refusal`] stand in the table above.
#[test]
fn p9_what_was_promised_of_a_session_is_what_is_said() {
    let table = [
        (Reply::sign_in_first(true), "530 5.7.0 Authentication "),
        (Reply::sign_in_first(false), "530 5.7.0 Send STARTTLS, "),
        (Reply::encryption_required(), "538 5.7.11 "),
        (Reply::authentication_failed(sasl::Failure::OtherIdentity), "535 5.7.8 "),
        (Reply::too_many_recipients(50), "452 4.5.3 "),
        (Reply::too_large(9), "552 5.3.4 "),
        (Reply::no_room(), "452 4.3.1 "),
        (Reply::malformed_body(data::Flaw::BareCr), "554 5.6.0 "),
        (Reply::malformed_body(data::Flaw::BareLf), "554 5.6.0 "),
        (Reply::malformed_body(data::Flaw::Nul), "554 5.6.0 "),
        (Reply::not_http(), "521 5.5.1 "),
        (Reply::shutting_down(), "421 4.3.2 "),
        (Reply::idle(), "421 4.4.2 "),
        (Reply::too_slow(), "421 4.4.2 "),
        (Reply::too_many_errors(), "421 4.7.0 "),
        (Reply::too_many_idle_commands(), "421 4.7.0 "),
        (Reply::too_many_sign_in_failures(), "421 4.7.0 "),
        (Reply::too_many_connections(), "421 4.7.0 "),
        (Reply::endless_message(), "421 4.7.0 "),
    ];
    for (reply, want) in table {
        let shown = wire(&reply);
        assert!(shown.starts_with(want) && shown.len() > want.len() + 2, "{shown} instead of {want}");
    }
}

#[test]
fn credits_are_told_when_they_are_known() {
    let credits = Credits::new(4_231);
    assert_eq!(wire(&Reply::signed_in(credits)), "235 2.7.0 Authenticated, 4231 email credits available\r\n");
    assert_eq!(wire(&Reply::signed_in(None)), "235 2.7.0 Authenticated\r\n");
    let id = MessageId::parse("m1").unwrap();
    assert_eq!(wire(&Reply::queued(&id, None)), "250 2.0.0 Queued as m1\r\n");
    assert_eq!(
        wire(&Reply::queued(&id, Some(Credits::ZERO))),
        "250 2.0.0 Queued as m1, 0 email credits available\r\n"
    );
}

#[test]
fn p7_nothing_a_client_sends_can_forge_a_reply() {
    let refusal = Refusal::SenderNotAllowed { address: "a\r\n250 OK\0ü@b\u{7f}".into(), may_prove: false };
    let shown = wire(&Reply::refusal(&refusal, OutOfCreditReply::Temporary));
    assert_eq!(shown, "550 5.7.1 a??250 OK??@b? is not a sender of this account\r\n");
    let long =
        wire(&Reply::refusal(&Refusal::Suspended { reason: "x".repeat(9_000) }, OutOfCreditReply::Temporary));
    assert!(long.len() <= 512);
}

#[test]
fn replies_of_several_lines_are_joined_by_hyphens() {
    let reply = Reply::ehlo("mx.example", vec!["SIZE 9".into(), "SMTPUTF8".into()]);
    assert_eq!(wire(&reply), "250-mx.example\r\n250-SIZE 9\r\n250 SMTPUTF8\r\n");
    assert_eq!(wire(&Reply::challenge("")), "334 \r\n");
    assert_eq!(reply.to_string(), "250-mx.example\r\n250-SIZE 9\r\n250 SMTPUTF8");
}
