//! Dodo's webhooks.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::domain::ids::{BatchId, MessageId};
use crate::random;
use crate::store::batch::Candidate;
use crate::store::report::Report;

fn signed(id: &str, at: Timestamp, body: &str) -> Request<Body> {
    let signature = signing_key(WEBHOOK_KEY).sign(id, at, body.as_bytes());
    let request = Request::post("/webhooks/dodo").header("content-type", "application/json");
    request
        .header("webhook-id", id)
        .header("webhook-timestamp", at.as_second().to_string())
        .header("webhook-signature", signature)
        .body(Body::from(body.to_owned()))
        .unwrap()
}

fn paid(customer_id: &str, product_id: &str, rest: &str) -> String {
    format!(
        r#"{{"type":"payment.succeeded","data":{{"payment_id":"pay_1","status":"succeeded",
        "customer":{{"customer_id":"{customer_id}","email":"new@example.org","name":"New"}},
        "product_cart":[{{"product_id":"{product_id}","quantity":1}}]{rest}}}}}"#
    )
}

impl Town {
    async fn hook(&self, id: &str, body: &str) -> Answer {
        self.call(signed(id, self.clock.now(), body)).await
    }

    async fn knows(&self, customer_id: &str) -> bool {
        self.store.customer(&CustomerId::parse(customer_id).unwrap()).await.unwrap().is_some()
    }
}

#[tokio::test]
async fn only_what_a_key_of_ours_signed_lately_is_believed() {
    let town = Town::new().await;
    let body = paid("cus_new", "pdt_plan", "");
    let now = town.clock.now();
    let old = now - SignedDuration::from_secs(301);
    let forged = with(signed("msg_1", now, &body), "webhook-signature", "v1,AAAA");
    let moved = with(signed("msg_1", now, &body), "webhook-id", "msg_2");
    let mut unsigned = signed("msg_1", now, &body);
    unsigned.headers_mut().remove("webhook-signature");
    for request in [forged, moved, unsigned, signed("msg_1", old, &body)] {
        let answer = town.call(request).await;
        assert_eq!((answer.status, &answer.json()["code"]), (401, &Value::from("bad_signature")));
        assert!(!answer.headers.contains_key("www-authenticate"));
    }
    assert!(!town.knows("cus_new").await);
    assert_eq!(town.hook("msg_1", &body).await.json()["result"], "accepted");
    assert!(town.knows("cus_new").await);
    let page = town.call(get("/metrics")).await.body;
    assert!(page.contains(r#"webhooks_total{source="dodo",result="bad_signature"} 4"#), "{page}");
}

#[tokio::test]
async fn a_delivery_is_acted_on_once() {
    let town = Town::new().await;
    let body = paid("cus_new", "pdt_topup", "");
    assert_eq!(town.hook("msg_1", &body).await.json()["result"], "accepted");
    let again = town.hook("msg_1", &body).await;
    assert_eq!((again.status, &again.json()["result"]), (200, &Value::from("duplicate")));
    assert_eq!(town.hook("msg_2", &body).await.json()["result"], "accepted");
    let senders = town.store.senders(&CustomerId::parse("cus_new").unwrap()).await.unwrap();
    assert_eq!(senders.iter().map(ToString::to_string).collect::<Vec<_>>(), ["cus_new@mail.example"]);
}

#[tokio::test]
async fn each_event_does_what_it_should_and_new_ones_do_no_harm() {
    let town = Town::new().await;
    let about = |event: &str, customer: &str| {
        format!(r#"{{"type":"{event}","data":{{"customer_id":"{customer}","amount":"1"}}}}"#)
    };
    let failed = paid("cus_x", "pdt_plan", "").replace(r#""status":"succeeded""#, r#""status":"failed""#);
    let card = paid("cus_x", "pdt_plan", r#","is_update_payment_method":true"#);
    let table = [
        (about("credit.added", "cus_ann"), 200, "accepted"),
        (about("credit.balance_low", "cus_ann"), 200, "accepted"),
        (about("payment.failed", "cus_ann"), 200, "accepted"),
        (about("subscription.renewed", "cus_ann"), 200, "accepted"),
        (about("credit.added", "cus_stranger"), 200, "ignored"),
        (about("refund.succeeded", "cus_ann"), 200, "ignored"),
        (about("something.new", "cus_ann"), 200, "ignored"),
        (r#"{"type":"something.new"}"#.to_owned(), 200, "ignored"),
        (paid("cus_shop", "pdt_something_else", ""), 200, "ignored"),
        (failed, 200, "ignored"),
        (card, 200, "ignored"),
        (paid("cus_ann", "pdt_something_else", ""), 200, "accepted"),
        ("{".to_owned(), 400, ""),
        ("[]".to_owned(), 400, ""),
        (r#"{"type":"payment.succeeded","data":{}}"#.to_owned(), 400, ""),
    ];
    for (n, (body, status, result)) in table.into_iter().enumerate() {
        let answer = town.hook(&format!("msg_{n}"), &body).await;
        assert_eq!(answer.status, status, "{body} {}", answer.body);
        if status == 200 {
            assert_eq!(answer.json()["result"], result, "{body}");
            assert_eq!(town.hook(&format!("msg_{n}"), &body).await.json()["result"], "duplicate");
        } else {
            assert_eq!(answer.json()["code"], "malformed_webhook", "{body}");
        }
    }
    assert!(!town.knows("cus_x").await && !town.knows("cus_shop").await && !town.knows("cus_stranger").await);
}

fn signed_by_resend(id: &str, at: Timestamp, body: &str) -> Request<Body> {
    let signature = signing_key(WEBHOOK_KEY).sign(id, at, body.as_bytes());
    let request = Request::post("/webhooks/resend").header("svix-id", id);
    let request = request.header("svix-timestamp", at.as_second().to_string());
    request.header("svix-signature", signature).body(Body::from(body.to_owned())).unwrap()
}

#[tokio::test]
async fn what_resend_tells_is_believed_when_it_is_signed_and_does_no_harm() {
    let town = Town::new().await;
    let now = town.clock.now();
    let about = |event: &str, tags: &str| {
        format!(r#"{{"type":"{event}","data":{{"email_id":"e","to":["x@y.example"],"tags":{tags}}}}}"#)
    };
    let table = [
        (about("email.bounced", r#"{"postmeter":"0190-0"}"#), 200, "ignored"),
        (about("email.delivered", r#"{"postmeter":"not ours at all"}"#), 200, "ignored"),
        (about("email.delivered", r#"{"postmeter":"x"}"#), 200, "ignored"),
        (about("email.sent", "null"), 200, "ignored"),
        (about("email.teleported", "{}"), 200, "ignored"),
        (r#"{"type":"contact.created"}"#.to_owned(), 200, "ignored"),
        ("{".to_owned(), 400, ""),
        ("{}".to_owned(), 400, ""),
    ];
    for (nth, (body, status, result)) in table.into_iter().enumerate() {
        let id = format!("msg_{nth}");
        let answer = town.call(signed_by_resend(&id, now, &body)).await;
        assert_eq!(answer.status, status, "{body} {}", answer.body);
        if status == 200 {
            assert_eq!(answer.json()["result"], result, "{body}");
            let again = town.call(signed_by_resend(&id, now, &body)).await;
            assert_eq!(again.json()["result"], "duplicate", "{body}");
        } else {
            assert_eq!(answer.json()["code"], "malformed_webhook", "{body}");
        }
    }
    let body = about("email.sent", "{}");
    let old = now - SignedDuration::from_secs(301);
    let forged = with(signed_by_resend("msg_x", now, &body), "svix-signature", "v1,AAAA");
    let dodos = {
        let mut request = signed("msg_x", now, &body);
        *request.uri_mut() = "/webhooks/resend".parse().unwrap();
        request
    };
    for request in [forged, dodos, signed_by_resend("msg_x", old, &body)] {
        let answer = town.call(request).await;
        assert_eq!((answer.status, &answer.json()["code"]), (401, &Value::from("bad_signature")));
    }
    let page = town.call(get("/metrics")).await.body;
    assert!(page.contains(r#"webhooks_total{source="resend",result="bad_signature"} 3"#), "{page}");
    assert!(page.contains(r#"webhooks_total{source="resend",result="ignored"} 6"#), "{page}");
}

#[tokio::test]
async fn p3_news_of_one_mail_proves_all_that_left_in_its_call() {
    let town = Town::new().await;
    let now = town.clock.now();
    let mut mails = Vec::new();
    for _ in 0..4 {
        mails.push(MessageId::parse(&town.waits(None).await).unwrap());
    }
    for call in [&mails[..3], &mails[3..]] {
        let candidate = |id: &MessageId| {
            let (message_id, request_hash) = (id.clone(), "0".repeat(64));
            Candidate { message_id, part_no: 0, attempt: 1, request_hash }
        };
        let members: Vec<_> = call.iter().map(candidate).collect();
        let batch_id = BatchId::generate(now, random::octets());
        town.store.compose(&batch_id, &members, now).await.unwrap();
        let lost = |id: &MessageId| {
            let (message_id, news) = (id.clone(), town.retry(true).unwrap());
            Report { message_id, part_no: 0, attempt: 1, at: now, news, bounce: None, relayed: None }
        };
        town.store.report_all(call.iter().map(lost).collect()).await.unwrap();
    }
    // Message and id of what Resend tells, and the state and id of each message then.
    let none = || ("queued".to_owned(), None);
    let sent = |id: &str| ("sent".to_owned(), Some(id.to_owned()).filter(|id| !id.is_empty()));
    let table = [
        (1, "e-1", [sent(""), sent("e-1"), sent(""), none()]),
        (0, "e-0", [sent("e-0"), sent("e-1"), sent(""), none()]),
        (0, "e-other", [sent("e-0"), sent("e-1"), sent(""), none()]),
        (1, "e-1", [sent("e-0"), sent("e-1"), sent(""), none()]),
        (3, "e-3", [sent("e-0"), sent("e-1"), sent(""), sent("e-3")]),
    ];
    for (nth, (told, email_id, wants)) in table.into_iter().enumerate() {
        let body = format!(
            r#"{{"type":"email.delivered","created_at":"{now}","data":{{"email_id":"{email_id}",
            "to":["x@example.net"],"tags":{{"postmeter":"{}-0"}}}}}}"#,
            mails[told]
        );
        let answer = town.call(signed_by_resend(&format!("msg_{nth}"), now, &body)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        for (id, want) in mails.iter().zip(wants) {
            let log = town.store.message(id).await.unwrap().unwrap();
            assert_eq!((log.parts[0].state.clone(), log.parts[0].upstream_id.clone()), want, "{nth} {id}");
        }
    }
    assert_eq!(town.store.audit().await.unwrap(), Vec::new());
    assert_eq!(town.store.totals().await.unwrap().owed, 4);
}

#[tokio::test]
async fn a_body_beyond_all_reason_is_not_read() {
    let town = Town::new().await;
    let answer = town.hook("msg_1", &"x".repeat((1 << 20) + 1)).await;
    assert_eq!((answer.status, &answer.json()["code"]), (413, &Value::from("too_large")));
}
