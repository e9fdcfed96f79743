//! The operator's view in a browser.

use super::*;
use crate::domain::alert::AlertKind;
use crate::store::alert::Alert;
use crate::store::report::News;

fn held() -> Option<News> {
    Some(News::Hold { reason: "the <b>key</b> is a day old".to_owned() })
}

impl Town {
    /// Signs in with the admin token and gives the cookie.
    async fn at_desk(&self) -> String {
        let answer = self.call(form_of("/operator/sign-in", &format!("token={ADMIN_TOKEN}"))).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/operator"), "{answer:?}");
        assert!(answer.header("set-cookie").contains("Path=/operator;"), "{answer:?}");
        answer.cookie()
    }

    async fn desk(&self, path: &str, cookie: &str) -> String {
        let answer = self.call(with(get(path), "cookie", cookie)).await;
        assert_eq!(answer.status, 200, "{path} {answer:?}");
        assert!(answer.header("content-type").starts_with("text/html"), "{path}");
        assert!(answer.body.len() < 50_000, "{path} has {} octets", answer.body.len());
        answer.body
    }

    async fn post(&self, path: &str, form: &str, cookie: &str) -> Answer {
        self.call(with(form_of(path, form), "cookie", cookie)).await
    }
}

#[tokio::test]
async fn the_operator_signs_in_looks_and_signs_out() {
    let town = Town::new().await;
    let form = town.call(get("/operator")).await;
    assert!(form.status == 200 && form.body.contains("name=\"token\""), "{form:?}");
    let wrong = town.call(form_of("/operator/sign-in", "token=wrong")).await;
    assert!(wrong.status == 401 && wrong.body.contains("not the operator"), "{wrong:?}");
    assert!(!wrong.headers.contains_key("set-cookie"));
    let cookie = town.at_desk().await;
    assert!(!cookie.contains(ADMIN_TOKEN), "P10");
    let page = town.desk("/operator", &cookie).await;
    assert!(page.contains("Settlement lag") && page.contains("Ledger drift"), "{page}");
    assert!(page.contains("The queue is empty.") && page.contains("Nothing asks for you"), "{page}");
    let out = town.post("/operator/sign-out", "", &cookie).await;
    assert!(out.status == 303 && out.header("set-cookie").contains("Max-Age=0"), "{out:?}");
}

#[tokio::test]
async fn nothing_is_shown_or_done_without_the_token() {
    let town = Town::new().await;
    let id = town.waits(held()).await;
    let customer = town.sign_in("ann").await;
    for cookie in ["", &customer, "__Secure-postmeter-operator=9999999999.00"] {
        for path in ["/operator/customers", "/operator/customers/cus_ann", "/operator/queue"] {
            let answer = town.call(with(get(path), "cookie", cookie)).await;
            assert_eq!((answer.status, answer.header("location")), (303, "/operator"), "{path} {cookie}");
        }
        for path in [
            "/operator/customers/cus_ann/suspend".to_owned(),
            "/operator/customers/cus_ann/resume".to_owned(),
            format!("/operator/queue/{id}/retry"),
            format!("/operator/queue/{id}/cancel"),
        ] {
            let answer = town.post(&path, "reason=x&confirm=true", cookie).await;
            assert_eq!((answer.status, answer.header("location")), (303, "/operator"), "{path} {cookie}");
        }
    }
    let bearer_is_none = town.call(bearer(get("/operator/queue"), ADMIN_TOKEN)).await;
    assert_eq!(bearer_is_none.status, 303, "a header is for programs");
    let message = town.store.queue_message(&id.parse().unwrap()).await.unwrap().unwrap();
    assert!(message.decisions.is_empty());
    assert_eq!(town.store.customer(&customer_id()).await.unwrap().unwrap().suspended_reason, None);
}

fn customer_id() -> CustomerId {
    customer("ann")
}

#[tokio::test]
async fn a_form_of_another_site_decides_nothing() {
    let town = Town::new().await;
    let (id, cookie) = (town.waits(held()).await, town.at_desk().await);
    for path in [
        "/operator/sign-in".to_owned(),
        "/operator/sign-out".to_owned(),
        "/operator/customers/cus_ann/suspend".to_owned(),
        format!("/operator/queue/{id}/retry"),
        format!("/operator/queue/{id}/cancel"),
    ] {
        for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
            let form = with(form_of(&path, "token=x&reason=x&confirm=true"), "cookie", &cookie);
            assert_eq!(town.call(with(form, name, value)).await.status, 403, "{path} {name}");
        }
    }
    let message = town.store.queue_message(&id.parse().unwrap()).await.unwrap().unwrap();
    assert!(message.decisions.is_empty());
    assert_eq!(town.store.customer(&customer_id()).await.unwrap().unwrap().suspended_reason, None);
}

#[tokio::test]
async fn wrong_tokens_are_put_off_like_every_other_sign_in() {
    let town = Town::new().await;
    let mut seen = Vec::new();
    for number in 0..200 {
        let answer = town.call(form_of("/operator/sign-in", &format!("token=wrong{number}"))).await;
        seen.push(answer.status);
        if answer.status == 429 {
            assert!(answer.body.contains("Too many failed sign-ins"), "{answer:?}");
            break;
        }
    }
    assert_eq!(seen.last(), Some(&429), "{seen:?}");
    assert!(seen.iter().all(|status| matches!(status, 401 | 429)), "{seen:?}");
}

#[tokio::test]
async fn p3_a_held_message_is_released_or_given_up_by_who_was_told_the_risk() {
    let town = Town::new().await;
    let cookie = town.at_desk().await;
    for (choice, risk, state) in
        [("retry", "they may get it twice", "queued"), ("cancel", "it is not billed", "failed")]
    {
        let id = town.waits(held()).await;
        let list = town.desk("/operator/queue", &cookie).await;
        assert!(list.contains(&id) && list.contains("Release"), "{list}");
        assert!(list.contains("&lt;b&gt;key&lt;/b&gt;") && !list.contains("<b>key"), "{list}");
        let path = format!("/operator/queue/{id}/{choice}");
        let asked = town.post(&path, "", &cookie).await;
        assert!(asked.status == 409 && asked.body.contains(risk), "{asked:?}");
        assert!(asked.body.contains("name=\"confirm\" value=\"true\""), "{asked:?}");
        let message = town.store.queue_message(&id.parse().unwrap()).await.unwrap().unwrap();
        assert!(message.decisions.is_empty(), "nothing is done before");
        let done = town.post(&path, "confirm=true", &cookie).await;
        assert_eq!(done.status, 303, "{done:?}");
        let page = town.desk(done.header("location"), &cookie).await;
        assert!(page.contains("role=\"status\"") && page.contains("by http"), "{page}");
        assert!(page.contains(&format!(">{state}<")), "{page}");
        let again = town.post(&path, "confirm=true", &cookie).await;
        let want = if choice == "cancel" { 409 } else { 303 };
        assert_eq!(again.status, want, "{again:?}");
    }
    let page = town.desk("/operator/queue?state=queued&customer_id=cus_bob", &cookie).await;
    assert!(page.contains("Nothing in the queue is like that"), "{page}");
    let bad = town.call(with(get("/operator/queue?customer_id=a%20b"), "cookie", &cookie)).await;
    assert!(bad.status == 422 && bad.body.contains("value=\"a b\""), "what was typed is kept: {bad:?}");
    assert_eq!(town.store.audit().await.unwrap(), []);
}

#[tokio::test]
async fn nobody_is_told_of_a_decision_that_was_not_made() {
    let town = Town::new().await;
    let (id, cookie) = (town.waits(held()).await, town.at_desk().await);
    let page = town.desk(&format!("/operator/queue/{id}?done=cancel"), &cookie).await;
    assert!(!page.contains("given up; what was not sent"), "{page}");
    for path in ["/operator/queue/none", "/operator/queue/a%20b", "/operator/customers/cus_no", "/operator/x"]
    {
        assert_eq!(town.call(with(get(path), "cookie", &cookie)).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_customer_is_found_suspended_with_a_reason_and_resumed() {
    let town = Town::new().await;
    let cookie = town.at_desk().await;
    let list = town.desk("/operator/customers", &cookie).await;
    assert!(list.contains("cus_ann") && list.contains("cus_bob") && list.contains("x@example.com"), "{list}");
    let found = town.desk("/operator/customers?q=CUS_A", &cookie).await;
    assert!(found.contains("/operator/customers/cus_ann\"") && !found.contains("/cus_bob\""), "{found}");
    let page = town.desk("/operator/customers/cus_ann", &cookie).await;
    assert!(page.contains("ann@example.com") && page.contains("<dd>30</dd>"), "{page}");

    let suspend = "/operator/customers/cus_ann/suspend";
    for typed in ["", "%20", "two%0Alines", &"x".repeat(201)] {
        let refused = town.post(suspend, &format!("reason={typed}"), &cookie).await;
        assert!(refused.status == 422 && refused.body.contains("A reason is needed"), "{typed} {refused:?}");
    }
    let kept = town.post(suspend, &format!("reason={}", "y".repeat(201)), &cookie).await;
    assert!(kept.body.contains(&"y".repeat(201)), "what was typed is kept");
    let done = town.post(suspend, "reason=%3Ci%3Espam", &cookie).await;
    assert_eq!((done.status, done.header("location")), (303, "/operator/customers/cus_ann"));
    let page = town.desk("/operator/customers/cus_ann", &cookie).await;
    assert!(page.contains("Suspended: &lt;i&gt;spam") && !page.contains("<i>spam"), "{page}");

    let mail = r#"{"to":"x@example.net","subject":"s","text":"hi"}"#;
    assert_eq!(town.call(basic(json_of("/send", mail), "ann")).await.status, 403);
    let overview = town.desk("/operator", &cookie).await;
    assert!(
        overview.contains("/operator/customers/cus_ann\"") && overview.contains("Refused lately"),
        "{overview}"
    );
    assert!(overview.contains("&lt;i&gt;spam"), "why, as the customer is told: {overview}");
    assert_eq!(town.post("/operator/customers/cus_ann/resume", "", &cookie).await.status, 303);
    assert_eq!(town.call(basic(json_of("/send", mail), "ann")).await.status, 200);
}

#[tokio::test]
async fn refunds_and_disputes_are_shown_and_escaped() {
    let town = Town::new().await;
    let cookie = town.at_desk().await;
    assert!(!town.desk("/operator", &cookie).await.contains("Refunds and disputes"));
    let alert = Alert {
        kind: AlertKind::Dispute,
        subject_id: "dp_1".to_owned(),
        customer_id: customer("ann"),
        payment_id: Some("pay_1".to_owned()),
        words: "1900 USD, <b>fraud".to_owned(),
        suspended: false,
        raised_at: town.clock.now(),
    };
    town.store.raise_alert(&alert, true).await.unwrap().unwrap();
    for path in ["/operator", "/operator/customers/cus_ann"] {
        let page = town.desk(path, &cookie).await;
        assert!(page.contains("dispute: 1900 USD, &lt;b&gt;fraud") && page.contains("pay_1"), "{page}");
        assert!(page.contains(">yes</td>") && !page.contains("<b>fraud"), "{page}");
    }
    let other = town.desk("/operator/customers/cus_bob", &cookie).await;
    assert!(!other.contains("Refunds and disputes"), "{other}");
}

#[tokio::test]
async fn without_a_token_there_is_no_operators_view() {
    let town = Town::new().await;
    let rooms = rooms(town.store.clone(), town.site.dodo.clone(), &town.clock);
    let site = Site::new(rooms, Settings { admin_token: None, ..settings() });
    let routes = router(site, None);
    let requests = [
        get("/operator"),
        get("/operator/queue"),
        get("/operator/customers/cus_ann"),
        form_of("/operator/sign-in", "token="),
        form_of("/operator/customers/cus_ann/suspend", "reason=x"),
    ];
    for request in requests {
        let path = request.uri().to_string();
        let mut request = with(request, "accept", "text/html");
        request.extensions_mut().insert(Peer("192.0.2.7:1".parse().unwrap()));
        let answer = routes.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), 404, "{path}");
    }
}
