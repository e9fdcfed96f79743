mod by_smtp;

use std::sync::Arc;

use jiff::Timestamp;

use super::batch::Together;
use super::*;
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::ids::PartId;
use crate::domain::message::Road;
use crate::outbound::RateInfo;
use crate::outbound::stand_in::{Given, StandIn};
use crate::upstream::translating::Translating;
use crate::upstream::{Outgoing, RecipientAnswer, Upstreams};

const KEY: &str = "re_very_secret";
const ACCEPTED: Given = (200, &[], r#"{"id":"49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}"#);

async fn client(answers: &[Given]) -> (Resend, StandIn) {
    let stand_in = StandIn::start(answers).await;
    let settings = ResendSettings {
        base_url: stand_in.base_url.clone(),
        api_key: SecretString::from(KEY),
        timeout: Duration::from_secs(5),
        clock: Clock::system(),
    };
    (Resend::new(&settings).unwrap(), stand_in)
}

fn answer(status: u16, body: &str, rate: RateInfo) -> HttpAnswer {
    HttpAnswer { status, rate, body: body.as_bytes().to_vec() }
}

/// An outcome in few words, for tables.
fn told(outcome: &Outcome) -> String {
    let seconds = |wait: &Option<Duration>| wait.map_or("-".to_owned(), |wait| wait.as_secs().to_string());
    match outcome {
        Outcome::Answered { upstream_id, answers, .. } => {
            assert_eq!(answers.len(), 2, "one answer a recipient");
            assert_eq!(answers[0], answers[1]);
            match &answers[0] {
                RecipientAnswer::Vouched => "vouched".to_owned(),
                RecipientAnswer::Accepted => format!("accepted {}", upstream_id.as_deref().unwrap_or("-")),
                RecipientAnswer::Refused(answer) => format!("refused {}", answer.status),
                RecipientAnswer::NoMailbox(answer) => format!("nobody {}", answer.status),
                RecipientAnswer::Deferred(answer) => format!("deferred {}", answer.status),
            }
        }
        Outcome::Barred(answer) => format!("barred {}", answer.status),
        Outcome::Transient { answer, retry_after, counts } => {
            format!("transient {} {} counts={counts}", answer.status, seconds(retry_after))
        }
        Outcome::Closed { retry_after, .. } => format!("closed {}", retry_after.as_secs()),
        Outcome::Unrepeatable => "unrepeatable".to_owned(),
        Outcome::Unknown { retry_after, .. } => format!("unknown {}", seconds(retry_after)),
    }
}

fn error(name: &str, message: &str) -> String {
    serde_json::json!({ "statusCode": 0, "name": name, "message": message }).to_string()
}

#[test]
fn every_answer_of_resend_has_one_meaning() {
    let table = [
        (200, r#"{"id":"abc"}"#.to_owned(), "accepted abc"),
        (201, r#"{"id":"abc"}"#.to_owned(), "accepted abc"),
        (200, "{}".to_owned(), "accepted -"),
        (200, "<html>hotel wifi</html>".to_owned(), "unknown -"),
        (200, r#"{"id":"ab"#.to_owned(), "unknown -"),
        (302, String::new(), "closed 300"),
        // a field is wrong
        (400, error("validation_error", "Invalid `to` field"), "refused 5.6.0"),
        (403, error("validation_error", "Invalid `x` field"), "refused 5.6.0"),
        (422, error("validation_error", "Invalid `x` field"), "refused 5.6.0"),
        (403, error("validation_error", "The x.example domain is not verified. Please"), "barred 5.7.1"),
        (403, error("validation_error", "You can only send testing emails to"), "barred 5.7.1"),
        // … and words of the mail's own do not close the gate
        (400, error("validation_error", "Invalid `from`: \"API key is invalid\" <1010@x>"), "refused 5.6.0"),
        (403, error("validation_error", "Invalid `to` field: 1010@x.example"), "refused 5.6.0"),
        (422, error("invalid_attachment", "bad name"), "refused 5.6.0"),
        (422, error("invalid_attachment", "Attachments exceed 40MB"), "refused 5.3.4"),
        (422, error("invalid_parameter", ""), "refused 5.6.0"),
        (422, error("missing_required_field", "Missing `html` or `text` field."), "refused 5.6.0"),
        (422, error("missing_required_parameter", ""), "refused 5.6.0"),
        (422, error("invalid_from_address", ""), "refused 5.1.7"),
        (403, error("invalid_to_address", ""), "refused 5.1.3"),
        (422, "not json".to_owned(), "refused 5.6.0"),
        (413, "<html>413</html>".to_owned(), "refused 5.3.4"),
        // the operator must act; nothing bounces
        (400, error("validation_error", "API key is invalid"), "closed 300"),
        (401, error("validation_error", "API key is invalid"), "closed 300"),
        (401, error("missing_api_key", "Missing API Key"), "closed 300"),
        (401, error("restricted_api_key", "restricted to only send"), "closed 300"),
        (401, String::new(), "closed 300"),
        (403, error("restricted_api_key", "not active"), "closed 300"),
        (403, error("suspended_api_key", ""), "closed 300"),
        (403, error("invalid_permission", ""), "closed 300"),
        (403, error("invalid_api_key", ""), "closed 300"),
        (403, "error code: 1010".to_owned(), "closed 300"),
        (404, error("not_found", ""), "closed 300"),
        (405, error("method_not_allowed", ""), "closed 300"),
        (404, "<html>".to_owned(), "closed 300"),
        (429, error("daily_quota_exceeded", ""), "closed 3600"),
        (429, error("monthly_quota_exceeded", ""), "closed 3600"),
        // not the customer's fault, or somebody in front: tried again
        (400, error("invalid_idempotency_key", ""), "transient 4.3.0 - counts=true"),
        (400, "<html>Bad Request</html>".to_owned(), "transient 4.3.0 - counts=true"),
        (403, "<html>blocked</html>".to_owned(), "transient 4.3.0 - counts=true"),
        (403, error("a_new_name", ""), "transient 4.3.0 - counts=true"),
        (400, error("a_new_name", ""), "refused 5.6.0"),
        (451, error("security_error", ""), "transient 4.3.0 - counts=true"),
        (409, error("resource_locked", ""), "transient 4.3.0 - counts=true"),
        (429, error("rate_limit_exceeded", ""), "transient 4.4.5 1 counts=false"),
        (429, "local_rate_limited".to_owned(), "transient 4.4.5 1 counts=false"),
        // may have been accepted: the same call again
        (409, error("concurrent_idempotent_requests", ""), "unknown 5"),
        (409, error("invalid_idempotent_request", ""), "unknown -"),
        (409, "conflict".to_owned(), "unknown 5"),
        (408, String::new(), "unknown -"),
        (500, error("application_error", "unexpected"), "unknown -"),
        (500, error("application_error", "Duplicate header found: X"), "refused 5.6.0"),
        (502, "<html>bad gateway</html>".to_owned(), "unknown -"),
        (503, error("service_unavailable", ""), "unknown -"),
        (504, error("gateway_timeout", ""), "unknown -"),
    ];
    let noon: Timestamp = "2026-09-01T12:00:00Z".parse().unwrap();
    for (status, body, want) in table {
        let outcome = verdict::of(&answer(status, &body, RateInfo::default()), 2, noon);
        assert_eq!(told(&outcome), want, "{status} {body}");
    }
}

#[test]
fn a_batch_is_taken_or_refused_as_a_whole() {
    let taken = r#"{"data":[{"id":"a"},{"id":"b"}]}"#.to_owned();
    let table = [
        (200, taken.clone(), "taken a b"),
        (201, taken, "taken a b"),
        // Whose id is whose cannot be told.
        (200, r#"{"data":[{"id":"a"}]}"#.to_owned(), "unknown -"),
        (200, r#"{"data":[{"id":"a"},{"id":"b"},{"id":"c"}]}"#.to_owned(), "unknown -"),
        (200, r#"{"data":[{"id":"a"},{}]}"#.to_owned(), "unknown -"),
        (200, r#"{"data":[{"id":"a"},{"id":""}]}"#.to_owned(), "unknown -"),
        (200, r#"{"id":"a"}"#.to_owned(), "unknown -"),
        (200, r#"{"data":[{"id":"a"},{"#.to_owned(), "unknown -"),
        (422, error("validation_error", "Invalid `to` field"), "refused 5.6.0"),
        (422, error("invalid_attachment", ""), "refused 5.6.0"),
        (422, "<html>422</html>".to_owned(), "barred 5.6.0"),
        (413, "<html>413</html>".to_owned(), "barred 5.3.4"),
        (500, error("application_error", "Duplicate header found: X"), "barred 5.6.0"),
        (403, error("validation_error", "The x.example domain is not verified. Please"), "barred 5.7.1"),
        (401, error("validation_error", "API key is invalid"), "closed 300"),
        (429, error("daily_quota_exceeded", ""), "over quota 3600"),
        (429, error("rate_limit_exceeded", ""), "transient 4.4.5 1 counts=false"),
        (409, error("concurrent_idempotent_requests", ""), "unknown 5"),
        (409, error("invalid_idempotent_request", ""), "unknown -"),
        (500, error("application_error", "unexpected"), "unknown -"),
        (503, String::new(), "unknown -"),
    ];
    let noon: Timestamp = "2026-09-01T12:00:00Z".parse().unwrap();
    for (status, body, want) in table {
        let together = match verdict::of_together(&answer(status, &body, RateInfo::default()), 2, noon) {
            Together::Taken(ids) => format!("taken {}", ids.join(" ")),
            Together::Refused(answer) => format!("refused {}", answer.status),
            Together::Barred(answer) => format!("barred {}", answer.status),
            Together::OverQuota { retry_after, .. } => format!("over quota {}", retry_after.as_secs()),
            Together::Failed(outcome) | Together::Each(outcome) => told(&outcome),
        };
        assert_eq!(together, want, "{status} {body}");
    }
}

#[tokio::test]
async fn p4_mails_that_leave_together_are_one_array_in_their_order_under_one_key() {
    const TAKEN: Given = (200, &[], r#"{"data":[{"id":"a"},{"id":"b"}]}"#);
    let (resend, stand_in) = client(&[(503, &[], ""), TAKEN]).await;
    let mails = || ["{\"n\": 1}", "{\"n\":2}"].map(|json| Request::of(json.as_bytes())).into();
    let turn = resend.turn().await.unwrap();
    let lost = resend.send_together(turn, mails(), "b_1").await;
    assert!(matches!(lost, Together::Failed(Outcome::Unknown { .. })), "{lost:?}");
    let turn = resend.turn().await.unwrap();
    let taken = resend.send_together(turn, mails(), "b_1").await;
    assert_eq!(taken, Together::Taken(vec!["a".to_owned(), "b".to_owned()]));
    for asked in stand_in.asked() {
        assert_eq!((asked.method.as_str(), asked.uri.as_str()), ("POST", "/emails/batch"));
        assert_eq!(asked.header("idempotency-key"), Some("b_1"));
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(asked.body, "[{\"n\": 1},{\"n\":2}]");
    }
}

#[test]
fn a_wait_that_resend_asks_for_is_handed_on() {
    let asked = RateInfo { reset: Some(3), retry_after: Some(Duration::from_secs(7)), ..RateInfo::default() };
    let reset = RateInfo { retry_after: None, ..asked };
    let table = [
        (429, error("rate_limit_exceeded", ""), asked, "transient 4.4.5 7 counts=false"),
        (429, error("rate_limit_exceeded", ""), reset, "transient 4.4.5 3 counts=false"),
        (503, String::new(), asked, "unknown 7"),
        (409, error("concurrent_idempotent_requests", ""), asked, "unknown 7"),
        // A header that speaks of the second's window says nothing about the day's.
        (429, error("daily_quota_exceeded", ""), asked, "closed 1"),
    ];
    let late: Timestamp = "2026-09-01T23:59:59Z".parse().unwrap();
    for (status, body, rate, want) in table {
        assert_eq!(told(&verdict::of(&answer(status, &body, rate), 2, late)), want, "{status} {body}");
    }
}

#[test]
fn a_key_with_other_bytes_is_named_so_that_it_can_be_held() {
    let body = error(KEY_USED_FOR_OTHER_BYTES, "");
    let outcome = verdict::of(&answer(409, &body, RateInfo::default()), 2, Timestamp::UNIX_EPOCH);
    let Outcome::Unknown { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with(KEY_USED_FOR_OTHER_BYTES), "{reason}");
}

#[test]
fn check_tells_a_sending_key_from_a_bad_one() {
    let domain =
        |name: &str, status: &str| SendingDomain { name: name.to_owned(), status: status.to_owned() };
    let table = [
        (
            200,
            r#"{"object":"list","data":[{"id":"1","name":"a.example","status":"verified"},
                {"id":"2","name":"b.example"},{"id":"3"}]}"#
                .to_owned(),
            Ok(KeyRights::Full(vec![domain("a.example", "verified"), domain("b.example", "")])),
        ),
        (401, error("restricted_api_key", "only send"), Ok(KeyRights::SendingOnly)),
        (400, error("validation_error", "API key is invalid"), Err("bad")),
        (401, error("validation_error", "API key is invalid"), Err("bad")),
        (403, error("suspended_api_key", ""), Err("bad")),
        (403, "<html>".to_owned(), Err("unavailable")),
        (200, "<html>".to_owned(), Err("unavailable")),
        (404, String::new(), Err("unavailable")),
        (503, String::new(), Err("unavailable")),
    ];
    for (status, body, want) in table {
        let checked = verdict::of_check(&answer(status, &body, RateInfo::default()));
        let told = checked.map_err(|unusable| match unusable {
            ResendUnusable::BadKey(_) => "bad",
            ResendUnusable::Unavailable(_) => "unavailable",
        });
        assert_eq!(told, want, "{status} {body}");
    }
}

#[tokio::test]
async fn p4_a_second_try_carries_the_same_key_and_the_same_bytes() {
    let (resend, stand_in) = client(&[(500, &[], ""), ACCEPTED]).await;
    let json = Bytes::from_static(b"{\"from\":\"a@x.example\",  \"text\":\"\\u00fc\"}");
    let first = resend.post(json.clone(), "part-1", 2).await;
    assert_eq!(told(&first), "unknown -");
    let second = resend.post(json.clone(), "part-1", 2).await;
    assert_eq!(told(&second), "accepted 49a3999c-0ce1-4ea6-ab68-afcd6dc2e794");
    let asked = stand_in.asked();
    assert_eq!(asked.len(), 2);
    for asked in &asked {
        assert_eq!(asked.body, json);
        assert_eq!((asked.method.as_str(), asked.uri.as_str()), ("POST", "/emails"));
        assert_eq!(asked.header("idempotency-key"), Some("part-1"));
        assert_eq!(asked.header("authorization"), Some("Bearer re_very_secret"));
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(asked.header("user-agent"), Some(concat!("postmeter/", env!("CARGO_PKG_VERSION"))));
    }
}

#[tokio::test]
async fn after_a_429_the_next_call_waits_in_the_queue() {
    let (resend, stand_in) = client(&[(429, &[("retry-after", "60")], "slow down")]).await;
    let limited = resend.post(Bytes::new(), "part-1", 2).await;
    assert_eq!(told(&limited), "transient 4.4.5 60 counts=false");
    let next = resend.post(Bytes::new(), "part-2", 2).await;
    assert!(matches!(next, Outcome::Transient { counts: false, retry_after: Some(_), .. }), "{next:?}");
    assert_eq!(stand_in.asked().len(), 1, "the second call was not made");

    // Nor is anything translated for one: this message cannot be.
    let translating = Translating::new(1 << 20);
    let upstreams = Upstreams { resend: Some(resend), smtp: None, translating };
    let outgoing = Outgoing {
        part_id: PartId::parse("m1-0").unwrap(),
        idempotency_key: "m1-0-0".to_owned(),
        reverse_path: ReversePath::Null,
        recipients: vec![Mailbox::parse("b@y.example").unwrap()],
        repeats: None,
        bytes: Bytes::from_static(
            b"From: a@x.example\r\nContent-Type: multipart/signed; boundary=b\r\n\r\nx\r\n",
        ),
        dsn: Arc::default(),
        tenure: crate::upstream::tenure::Tenure::for_good(),
    };
    let put_off = upstreams.prepare(Road::Resend, outgoing).await.map(drop);
    assert_eq!(told(&put_off.unwrap_err()).split(' ').next(), Some("transient"));
}

#[tokio::test]
async fn nothing_left_when_resend_cannot_be_reached() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let settings = ResendSettings {
        base_url,
        api_key: SecretString::from(KEY),
        timeout: Duration::from_secs(5),
        clock: Clock::system(),
    };
    let resend = Resend::new(&settings).unwrap();
    let outcome = resend.post(Bytes::new(), "part-1", 2).await;
    assert_eq!(told(&outcome), "transient 4.4.1 - counts=true");
    assert!(matches!(resend.check().await, Err(ResendUnusable::Unavailable(_))));
}

#[tokio::test]
async fn p10_the_key_is_in_no_debug_and_no_outcome() {
    let (resend, stand_in) = client(&[(401, &[], ""), (200, &[], r#"{"data":[]}"#), (401, &[], "no")]).await;
    let refused = resend.post(Bytes::new(), "part-1", 2).await;
    assert_eq!(resend.check().await, Ok(KeyRights::Full(Vec::new())));
    let unusable = resend.check().await.unwrap_err();
    assert_eq!(stand_in.asked()[1].uri, "/domains?limit=100");
    for text in [format!("{resend:?}"), format!("{refused:?}"), unusable.to_string()] {
        assert!(!text.contains("very_secret"), "{text}");
    }
}
