//! The operator's queue over HTTP.

use axum::body::Body;
use axum::http::Request;

use super::*;
use crate::domain::ids::MessageId;
use crate::store::queue::DuePart;
use crate::store::report::{News, Recorded, Report};

fn post(path: &str, body: &str) -> Request<Body> {
    let request =
        if body.is_empty() { Request::post(path).body(Body::empty()).unwrap() } else { json_of(path, body) };
    bearer(request, ADMIN_TOKEN)
}

impl Town {
    /// A message of ann's, and what became of its first attempt.
    pub(super) async fn waits(&self, news: Option<News>) -> String {
        let body = r#"{"to":"x@example.net","subject":"s","text":"hi"}"#;
        let id =
            self.call(basic(json_of("/send", body), "ann")).await.json()["id"].as_str().unwrap().to_owned();
        let message_id = MessageId::parse(&id).unwrap();
        let (now, size) = (self.clock.now(), 0);
        let due = DuePart { message_id: message_id.clone(), part_no: 0, size, batch_max: 1, batch_id: None };
        self.store.lease(&due, now, now + Duration::from_secs(30)).await.unwrap().unwrap();
        if let Some(news) = news {
            let report =
                Report { message_id, part_no: 0, attempt: 1, at: now, news, bounce: None, relayed: None };
            assert!(matches!(self.store.report(report).await.unwrap(), Recorded::Applied { .. }));
        }
        id
    }

    pub(super) fn retry(&self, unknown: bool) -> Option<News> {
        let due = self.clock.now() + Duration::from_secs(600);
        Some(News::Retry {
            due,
            error: "451 later".to_owned(),
            unknown,
            maybe_taken: Vec::new(),
            counts: true,
            batch_max: None,
        })
    }
}

fn hold() -> Option<News> {
    Some(News::Hold { reason: "a day old".to_owned() })
}

#[tokio::test]
async fn only_the_operator_sees_and_decides_the_queue() {
    let town = Town::new().await;
    let id = town.waits(town.retry(false)).await;
    let requests = || {
        [
            get("/queue"),
            get(&format!("/queue/{id}")),
            json_of(&format!("/queue/{id}/retry"), "{}"),
            json_of(&format!("/queue/{id}/cancel"), "{}"),
        ]
    };
    for request in requests() {
        let answer = town.call(request).await;
        assert_eq!((answer.status, &answer.json()["code"]), (401, &Value::from("unauthorized")));
    }
    for request in requests() {
        let answer = town.call(basic(request, "ann")).await;
        assert_eq!((answer.status, &answer.json()["code"]), (403, &Value::from("operator_only")));
    }
    for request in requests() {
        let answer = town.call(bearer(request, ADMIN_TOKEN)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn the_queue_is_listed_by_state_and_customer() {
    let town = Town::new().await;
    let (queued, held) = (town.waits(town.retry(true)).await, town.waits(hold()).await);
    let sending = town.waits(None).await;
    for (query, want) in [
        ("", vec![&queued, &held, &sending]),
        ("?state=queued", vec![&queued]),
        ("?state=held&customer_id=cus_ann", vec![&held]),
        ("?state=sending&limit=1", vec![&sending]),
        ("?customer_id=cus_bob", vec![]),
    ] {
        let answer = town.call(bearer(get(&format!("/queue{query}")), ADMIN_TOKEN)).await.json();
        let ids: Vec<_> =
            answer.as_array().unwrap().iter().map(|one| one["message_id"].as_str().unwrap()).collect();
        let mut want = want;
        want.sort();
        assert_eq!(ids, want, "{query}");
    }
    for query in ["?state=sent", "?limit=0", "?limit=1001", "?customer_id=a%20b", "?stat=held"] {
        let answer = town.call(bearer(get(&format!("/queue{query}")), ADMIN_TOKEN)).await;
        assert_eq!((answer.status, &answer.json()["code"]), (422, &Value::from("invalid")), "{query}");
    }
    let shown = town.call(bearer(get(&format!("/queue/{queued}")), ADMIN_TOKEN)).await.json();
    assert_eq!((&shown["customer_id"], &shown["attempts"]), (&"cus_ann".into(), &1.into()), "{shown}");
    assert_eq!((&shown["last_error"], &shown["state"]), (&"451 later".into(), &"queued".into()), "{shown}");
    assert_eq!(
        (&shown["parts"][0]["unknown"], &shown["recipients"][0]["address"]),
        (&true.into(), &"x@example.net".into())
    );
    assert!(
        shown["parts"][0]["due_at"].is_string() && shown["decisions"] == serde_json::json!([]),
        "{shown}"
    );
}

#[tokio::test]
async fn p3_what_cannot_be_decided_now_is_refused_with_409_and_why() {
    let town = Town::new().await;
    let cancelled = town.waits(town.retry(false)).await;
    let answer = town.call(post(&format!("/queue/{cancelled}/cancel"), "")).await;
    assert_eq!((answer.status, &answer.json()["released"]), (200, &1.into()), "{answer:?}");
    let (sending, unknown) = (town.waits(None).await, town.waits(town.retry(true)).await);
    let held = town.waits(hold()).await;
    let table = [
        (&cancelled, "retry", "", "already_final"),
        (&cancelled, "cancel", r#"{"confirm":true}"#, "already_final"),
        (&sending, "retry", "", "attempt_running"),
        (&sending, "cancel", r#"{"confirm":true}"#, "attempt_running"),
        (&unknown, "cancel", r#"{"confirm":true}"#, "outcome_unknown"),
        (&held, "retry", "", "confirmation_needed"),
        (&held, "cancel", r#"{"confirm":false}"#, "confirmation_needed"),
    ];
    for (id, action, body, code) in table {
        let answer = town.call(post(&format!("/queue/{id}/{action}"), body)).await;
        assert_eq!((answer.status, &answer.json()["code"]), (409, &Value::from(code)), "{action} {answer:?}");
    }
    let told = town.call(post(&format!("/queue/{held}/retry"), "{}")).await.json();
    assert!(told["error"].as_str().unwrap().contains("they may get it twice"), "{told}");
    let told = town.call(post(&format!("/queue/{held}/cancel"), "{}")).await.json();
    assert!(told["error"].as_str().unwrap().contains("it is not billed"), "{told}");
    for (body, status, code) in [("{", 400, "not_json"), (r#"{"yes":true}"#, 422, "invalid")] {
        let answer = town.call(post(&format!("/queue/{held}/cancel"), body)).await;
        assert_eq!((answer.status, &answer.json()["code"]), (status, &Value::from(code)));
    }
    for id in ["nobody", "a%20b"] {
        assert_eq!(town.call(post(&format!("/queue/{id}/cancel"), "")).await.status, 404);
        assert_eq!(town.call(bearer(get(&format!("/queue/{id}")), ADMIN_TOKEN)).await.status, 404);
    }
    assert_eq!(town.store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_held_message_is_decided_by_who_takes_the_risk_and_it_is_kept() {
    let town = Town::new().await;
    for (action, state, released) in [("retry", "queued", 0), ("cancel", "failed", 1)] {
        let id = town.waits(hold()).await;
        let answer = town.call(post(&format!("/queue/{id}/{action}"), r#"{"confirm":true}"#)).await.json();
        assert_eq!((&answer["state"], &answer["released"]), (&state.into(), &released.into()), "{answer}");
        let decision = &answer["decisions"][0];
        assert_eq!((&decision["choice"], &decision["via"]), (&action.into(), &"http".into()), "{answer}");
        assert_eq!(decision["held_parts"], 1);
        assert!(decision["decided_at"].is_string());
    }
    let id = town.waits(town.retry(false)).await;
    let answer = town.call(post(&format!("/queue/{id}/retry"), "")).await.json();
    let due: jiff::Timestamp = answer["parts"][0]["due_at"].as_str().unwrap().parse().unwrap();
    assert!(due <= town.clock.now(), "{answer}");
    let log = town.call(basic(get(&format!("/messages/{id}")), "ann")).await.json();
    assert!(log.get("decisions").is_none(), "that is between the operator and the queue");
    assert_eq!(town.store.audit().await.unwrap(), []);
}
