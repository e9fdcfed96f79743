//! Dodo's webhooks.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::domain::ids::{BatchId, MessageId};
use crate::domain::message::Road;
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
        (about("refund.failed", "cus_ann"), 200, "ignored"),
        (about("refund.succeeded", "cus_ann"), 200, "accepted"),
        (about("refund.succeeded", "cus_stranger"), 200, "ignored"),
        (about("dispute.won", "cus_ann"), 200, "ignored"),
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

fn refunded(refund_id: &str) -> String {
    format!(
        r#"{{"type":"refund.succeeded","data":{{"refund_id":"{refund_id}","payment_id":"pay_1","amount":1900,
        "currency":"USD","reason":"a\nb","customer":{{"customer_id":"cus_ann"}}}}}}"#
    )
}

const DISPUTED: &str = r#"{"type":"dispute.opened","data":{"dispute_id":"dp_1","payment_id":"pay_1",
    "amount":"1900","currency":"USD","dispute_stage":"dispute"}}"#;

#[tokio::test]
async fn a_payment_that_goes_back_raises_one_alert() {
    let town = Town::new().await;
    assert_eq!(town.hook("msg_1", &refunded("ref_1")).await.json()["result"], "accepted");
    assert_eq!(town.hook("msg_2", &refunded("ref_1")).await.json()["result"], "accepted", "told again");
    let alerts = town.store.alerts(None, 9).await.unwrap();
    assert_eq!(alerts.len(), 1);
    assert_eq!((alerts[0].words.as_str(), alerts[0].suspended), ("1900 USD, a b", false));
    assert_eq!(alerts[0].payment_id.as_deref(), Some("pay_1"));
    assert_eq!(town.hook("msg_3", &refunded("ref_2")).await.json()["result"], "accepted");
    assert_eq!(town.store.alerts(Some(&customer("ann")), 9).await.unwrap().len(), 2);
    let page = town.call(get("/metrics")).await.body;
    assert!(page.contains(r#"alerts_total{kind="refund"} 2"#), "{page}");
    assert_eq!(town.store.customer(&customer("ann")).await.unwrap().unwrap().suspended_reason, None);
}

#[tokio::test]
async fn a_dispute_suspends_where_it_should_whoever_it_is_about() {
    let paid: Given = (200, &[], r#"{"payment_id":"pay_1","customer":{"customer_id":"cus_ann"}}"#);
    let town = Town::with_dodo(&[(503, &[], ""), paid]).await;
    let answer = town.hook("msg_1", DISPUTED).await;
    assert_eq!(answer.status, 503, "who paid cannot be asked: Dodo tells it again");
    assert_eq!(town.hook("msg_1", DISPUTED).await.json()["result"], "accepted");
    let suspended = async || town.store.customer(&customer("ann")).await.unwrap().unwrap().suspended_reason;
    assert_eq!(suspended().await.as_deref(), Some("a payment is disputed"));
    town.store.resume(&customer("ann"), town.clock.now()).await.unwrap();
    assert_eq!(town.hook("msg_1", DISPUTED).await.json()["result"], "duplicate");
    assert_eq!(suspended().await, None);
    let stranger = DISPUTED.replace(r#""amount""#, r#""customer_id":"cus_stranger","amount""#);
    assert_eq!(town.hook("msg_2", &stranger).await.json()["result"], "ignored");
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

impl Town {
    /// Mails that left in one call at that time, whose outcome is unknown; it is due again in ten minutes.
    async fn left_together(&self, count: usize, at: Timestamp) -> (BatchId, Vec<MessageId>) {
        let mut mails = Vec::new();
        for _ in 0..count {
            mails.push(MessageId::parse(&self.waits(None).await).unwrap());
        }
        let candidate = |id: &MessageId| {
            let (message_id, request_hash) = (id.clone(), "0".repeat(64));
            Candidate { message_id, part_no: 0, attempt: 1, request_hash }
        };
        let members: Vec<_> = mails.iter().map(candidate).collect();
        let batch_id = BatchId::generate(at, random::octets());
        self.store.compose(&batch_id, &members, at).await.unwrap();
        let lost = |id: &MessageId| {
            let (message_id, news) = (id.clone(), self.retry(true).unwrap());
            Report { message_id, part_no: 0, attempt: 1, at, news, bounce: None, relayed: None }
        };
        self.store.report_all(mails.iter().map(lost).collect()).await.unwrap();
        (batch_id, mails)
    }

    /// Hears of Resend that a mail was delivered which it knows by that id.
    async fn delivered(&self, webhook_id: &str, of: &MessageId, email_id: &str) {
        let now = self.clock.now();
        let body = format!(
            r#"{{"type":"email.delivered","created_at":"{now}","data":{{"email_id":"{email_id}",
            "to":["x@example.net"],"tags":{{"postmeter":"{of}-0"}}}}}}"#
        );
        let answer = self.call(signed_by_resend(webhook_id, now, &body)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// State and upstream id of each.
    async fn stand(&self, mails: &[MessageId]) -> Vec<(String, Option<String>)> {
        let mut found = Vec::new();
        for id in mails {
            let part = self.store.message(id).await.unwrap().unwrap().parts.remove(0);
            found.push((part.state, part.upstream_id));
        }
        found
    }

    /// The calls that are due so many seconds from now.
    async fn due_in(&self, seconds: i64) -> Vec<BatchId> {
        let at = self.clock.now() + SignedDuration::from_secs(seconds);
        let due = self.store.due_together(at, &[Road::Resend], 10).await.unwrap();
        due.into_iter().filter_map(|due| due.batch_id).collect()
    }
}

#[tokio::test]
async fn p4_news_of_one_mail_has_its_call_made_again_soon_and_proves_no_other() {
    let town = Town::new().await;
    let now = town.clock.now();
    let (call, mails) = town.left_together(3, now).await;
    let (other, alone) = town.left_together(1, now).await;
    assert_eq!(town.due_in(300).await, []);
    town.delivered("msg_1", &mails[1], "e-1").await;
    let queued = |id: Option<&str>| ("queued".to_owned(), id.map(str::to_owned));
    let told = vec![queued(None), queued(Some("e-1")), queued(None)];
    assert_eq!((town.stand(&mails).await, town.due_in(10).await), (told, vec![call.clone()]));
    assert_eq!(town.due_in(0).await, [], "a hundred pieces of news have it made again once");
    town.delivered("msg_2", &mails[0], "e-0").await;
    let told = vec![queued(Some("e-0")), queued(Some("e-1")), queued(None)];
    assert_eq!((town.stand(&mails).await, town.due_in(10).await), (told, vec![call.clone()]));

    // Whoever is asked under the same key answers with all ids.
    let later = now + SignedDuration::from_secs(10);
    let leased = town.store.lease_batch(&call, later, later + SignedDuration::from_secs(30)).await.unwrap();
    assert_eq!(leased.len(), 3);
    town.delivered("msg_3", &mails[2], "e-2").await;
    let sending = |id: &str| ("sending".to_owned(), Some(id.to_owned()));
    assert_eq!(town.stand(&mails).await, [sending("e-0"), sending("e-1"), sending("e-2")]);

    town.delivered("msg_4", &alone[0], "e-3").await;
    assert_eq!(town.stand(&alone).await, [("sent".to_owned(), Some("e-3".to_owned()))]);
    assert!(!town.due_in(3_600).await.contains(&other));
    assert_eq!(town.store.audit().await.unwrap(), Vec::new());
    assert_eq!(town.store.totals().await.unwrap().owed, 1);
}

#[tokio::test]
async fn p3_news_of_one_mail_proves_all_of_a_call_that_cannot_be_made_again() {
    let town = Town::new().await;
    let now = town.clock.now();
    let (_, mut mails) = town.left_together(3, now - SignedDuration::from_hours(24)).await;
    mails.extend(town.left_together(1, now).await.1);
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
        town.delivered(&format!("msg_{nth}"), &mails[told], email_id).await;
        assert_eq!(town.stand(&mails).await, wants, "{nth}");
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
