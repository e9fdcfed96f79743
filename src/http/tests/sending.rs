//! `POST /send`.

use super::*;

fn send(body: &str) -> Request<Body> {
    basic(json_of("/send", body), "ann")
}

#[tokio::test]
async fn a_message_is_taken_in_and_holds_a_credit() {
    let town = Town::new().await;
    let answer = town.call(send(r#"{"to":"x@example.net","subject":"Hello","text":"hi"}"#)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let message = town.call(basic(get(&format!("/messages/{id}")), "ann")).await.json();
    assert_eq!(message["from"], "ann@example.com", "the first address on the list");
    assert_eq!((&message["state"], &message["subject"]), (&"queued".into(), &"Hello".into()));
    assert_eq!((&message["debit"], &message["price"]), (&0.into(), &1.into()));
    assert!(message["attempts"].is_u64() && message["last_error"].is_null());
    let credits = town.call(basic(get("/credits/cus_ann"), "ann")).await.json();
    assert_eq!((&credits["available"], &credits["held"]), (&29.into(), &1.into()));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_with_its_reason() {
    let town = Town::new().await;
    let large = format!(r#"{{"to":"x@example.net","subject":"s","text":"{}"}}"#, "x".repeat(100_000));
    let larger = format!(r#"{{"to":"x@example.net","subject":"s","text":"{}"}}"#, "x".repeat(200_000));
    let many = format!(r#"{{"x":[{}0]}}"#, "0,".repeat(20_000));
    let table: [(&str, u16, &str, &str); 12] = [
        (&many, 422, "invalid", "20000 values"),
        ("{", 400, "not_json", "JSON"),
        ("[]", 422, "invalid", "map"),
        (r#"{"to":"x@example.net","text":"hi"}"#, 422, "invalid", "subject"),
        (r#"{"subject":"s","text":"hi"}"#, 422, "invalid", "to"),
        (r#"{"to":"nobody","subject":"s","text":"hi"}"#, 422, "invalid", "to"),
        (r#"{"to":"x@example.net","subject":"s","text":"hi","replyTo":"a@b.c"}"#, 422, "invalid", "replyTo"),
        (r#"{"to":["a@x.y","b@x.y","c@x.y","d@x.y"],"subject":"s","text":"t"}"#, 422, "invalid", "3"),
        (
            r#"{"from":"eve@example.com","to":"x@example.net","subject":"s","text":"t"}"#,
            403,
            "sender_not_allowed",
            "eve@example.com is not a sender",
        ),
        (r#"{"to":"grüße@example.net","subject":"s","text":"t"}"#, 422, "address_not_carried", "grüße"),
        (&larger, 413, "too_large", "octets"),
        (&large, 200, "", ""),
    ];
    for (body, status, code, words) in table {
        let answer = town.call(send(body)).await;
        let shown: String = body.chars().take(90).collect();
        assert_eq!(answer.status, status, "{shown} {}", answer.body);
        if status != 200 {
            assert_eq!(answer.json()["code"], code, "{shown}");
            let text = answer.json()["error"].as_str().unwrap().to_owned();
            assert!(text.contains(words), "{shown} {text}");
        }
    }
    let plain = with(send("{}"), "content-type", "text/plain");
    assert_eq!(town.call(plain).await.status, 415);
}

#[tokio::test]
async fn p2_the_last_credit_is_the_last_message_and_the_words_are_those_agreed() {
    let town = Town::new().await;
    let body = r#"{"to":"x@example.net","subject":"s","text":"t"}"#;
    for n in 0..30 {
        assert_eq!(town.call(send(body)).await.status, 200, "{n}");
    }
    let answer = town.call(send(body)).await;
    assert_eq!(answer.status, 402);
    assert_eq!(
        answer.body,
        r#"{"code":"out_of_credit","error":"No email credits remaining. Buy a top-up pack or upgrade your plan."}"#
    );
    let unknown = r#"{"from":"bob@example.com","to":"x@example.net","subject":"s","text":"t"}"#;
    let sender = SenderPattern::parse("example.com").unwrap();
    town.store.allow_sender(&customer("bob"), &sender, town.clock.now()).await.unwrap();
    let answer = town.call(basic(json_of("/send", unknown), "bob")).await;
    assert_eq!((answer.status, &answer.json()["code"]), (503, &Value::from("billing_unknown")));
}

/// `POST /send` under a key.
fn retried(body: &str, key: &str) -> Request<Body> {
    with(send(body), "idempotency-key", key)
}

const BODY: &str = r#"{"to":"x@example.net","subject":"s","text":"t"}"#;

/// What was accepted, notices aside.
async fn count(town: &Town) -> usize {
    let messages = town.store.messages(None, None, 99).await.unwrap();
    messages.iter().filter(|message| message.subject.as_deref() == Some("s")).count()
}

#[tokio::test]
async fn p3_a_retry_gets_the_first_answer_whatever_has_changed_since() {
    let town = Town::new().await;
    let first = town.call(retried(BODY, "k")).await;
    assert_eq!(first.status, 200, "{first:?}");
    let spaced = r#" { "text" : "t", "subject":"s", "to" : ["x@example.net"], "cc": null } "#;
    for body in [BODY, spaced] {
        let again = town.call(retried(body, "k")).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
    }
    for _ in 1..30 {
        assert_eq!(town.call(send(BODY)).await.status, 200);
    }
    assert_eq!(town.call(retried(BODY, "another")).await.status, 402);
    let sender = SenderPattern::parse("ann@example.com").unwrap();
    town.store.deny_sender(&customer("ann"), &sender).await.unwrap();
    town.store.suspend(&customer("ann"), "spam").await.unwrap();
    assert_eq!(town.call(retried(BODY, "k")).await.body, first.body, "it was accepted then, and is now");
    assert_eq!(count(&town).await, 30);
    let credits = town.call(basic(get("/credits/cus_ann"), "ann")).await.json();
    assert_eq!((&credits["available"], &credits["held"]), (&0.into(), &30.into()));
}

#[tokio::test]
async fn another_request_under_a_used_key_is_a_conflict() {
    let town = Town::new().await;
    assert_eq!(town.call(retried(BODY, "k")).await.status, 200);
    for body in [BODY.replace("\"t\"", "\"u\""), BODY.replace("x@", "y@")] {
        let answer = town.call(retried(&body, "k")).await;
        assert_eq!(answer.status, 409, "{answer:?}");
        assert_eq!(
            answer.body,
            r#"{"code":"idempotency_key_reused","error":"This idempotency key was used for another message. Use a new key for each message."}"#
        );
    }
    let sender = SenderPattern::parse("bob@example.com").unwrap();
    town.store.allow_sender(&customer("bob"), &sender, town.clock.now()).await.unwrap();
    let read = town.store.begin_balance_read(&customer("bob")).await.unwrap().unwrap();
    town.store.apply_balance(&read, 1, town.clock.now()).await.unwrap();
    let of_bob = with(basic(json_of("/send", BODY), "bob"), "idempotency-key", "k");
    assert_eq!(town.call(of_bob).await.status, 200, "a key is the customer's own");
}

#[tokio::test]
async fn p3_a_refusal_is_not_remembered() {
    let town = Town::new().await;
    let eve = BODY.replace("{", r#"{"from":"eve@example.com","#);
    assert_eq!(town.call(retried(&eve, "k")).await.status, 403);
    assert_eq!(town.call(retried("{", "k")).await.status, 400);
    assert_eq!(town.call(retried(&BODY.replace("x@example.net", "nobody"), "k")).await.status, 422);
    let read = town.store.begin_balance_read(&customer("ann")).await.unwrap().unwrap();
    town.store.apply_balance(&read, 0, town.clock.now()).await.unwrap();
    assert_eq!(town.call(retried(BODY, "k")).await.status, 402);
    let read = town.store.begin_balance_read(&customer("ann")).await.unwrap().unwrap();
    town.store.apply_balance(&read, 1, town.clock.now()).await.unwrap();
    assert_eq!(town.call(retried(BODY, "k")).await.status, 200, "the top-up landed");
}

#[tokio::test]
async fn p3_two_at_once_under_one_key_are_one_message_even_with_the_last_credit() {
    let town = Town::new().await;
    let read = town.store.begin_balance_read(&customer("ann")).await.unwrap().unwrap();
    town.store.apply_balance(&read, 1, town.clock.now()).await.unwrap();
    let (one, two, three) = tokio::join!(
        town.call(retried(BODY, "k")),
        town.call(retried(BODY, "k")),
        town.call(retried(BODY, "k"))
    );
    assert_eq!((one.status, &one.body), (200, &two.body));
    assert_eq!(one.body, three.body);
    assert_eq!(count(&town).await, 1);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let town = Town::new().await;
    let long = "k".repeat(257);
    for key in ["", " ", "gr\u{fc}n", long.as_str()] {
        let answer = town.call(retried(BODY, key)).await;
        assert_eq!(answer.status, 422, "{key}");
        let words = "The header Idempotency-Key must be one value of 1 to 256 printable ASCII characters.";
        assert_eq!(answer.json()["error"], words);
    }
    let mut twice = retried(BODY, "k");
    twice.headers_mut().append("idempotency-key", "k".parse().unwrap());
    assert_eq!(town.call(twice).await.status, 422);
    assert_eq!(count(&town).await, 0);
}

#[tokio::test]
async fn a_suspended_customer_is_told_why() {
    let town = Town::new().await;
    town.store.suspend(&customer("ann"), "spam <b>").await.unwrap();
    let body = r#"{"to":"x@example.net","subject":"s","text":"t"}"#;
    let answer = town.call(send(body)).await;
    assert_eq!((answer.status, &answer.json()["code"]), (403, &Value::from("suspended")));
    assert!(answer.json()["error"].as_str().unwrap().contains("spam <b>"));
    assert_eq!(town.call(basic(get("/messages"), "ann")).await.status, 200, "they may still look");
}
