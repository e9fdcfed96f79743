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
    let table: [(&str, u16, &str, &str); 11] = [
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

#[tokio::test]
async fn a_key_whose_promise_is_not_kept_yet_is_refused() {
    let town = Town::new().await;
    let body = r#"{"to":"x@example.net","subject":"s","text":"t"}"#;
    let answer = town.call(with(send(body), "idempotency-key", "k1")).await;
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("Idempotency-Key: not supported yet"));
    assert!(town.store.messages(None, None, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_suspended_customer_is_told_why() {
    let town = Town::new().await;
    town.store.set_suspended(&customer("ann"), Some("spam <b>")).await.unwrap();
    let body = r#"{"to":"x@example.net","subject":"s","text":"t"}"#;
    let answer = town.call(send(body)).await;
    assert_eq!((answer.status, &answer.json()["code"]), (403, &Value::from("suspended")));
    assert!(answer.json()["error"].as_str().unwrap().contains("spam <b>"));
    assert_eq!(town.call(basic(get("/messages"), "ann")).await.status, 200, "they may still look");
}
