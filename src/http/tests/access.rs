//! Who may ask what, and how every refusal reads.

use axum::body::Body;
use axum::http::Request;

use super::*;

#[tokio::test]
async fn a_customer_sees_their_own_and_the_operator_sees_all() {
    let town = Town::new().await;
    let paths = ["/credits/cus_ann", "/messages", "/messages?customer_id=cus_ann", "/messages/none"];
    let table: [(&str, [u16; 4], &str); 13] = [
        ("", [401, 401, 401, 401], "unauthorized"),
        ("Basic YW5uOmFubi1zZWNyZXQ=", [200, 200, 200, 404], ""),
        ("basic YW5uOmFubi1zZWNyZXQ=", [200, 200, 200, 404], ""),
        ("Bearer ann-secret", [200, 200, 200, 404], ""),
        ("Bearer bob-secret", [403, 200, 403, 404], "forbidden"),
        ("Bearer the-admin-token", [200, 200, 200, 404], ""),
        ("Bearer the-admin-tokem", [401, 401, 401, 401], "unauthorized"),
        ("Bearer ", [401, 401, 401, 401], "unauthorized"),
        ("Basic YW5uOmJvYi1zZWNyZXQ=", [401, 401, 401, 401], "unauthorized"),
        ("Basic bm9ib2R5OmFubi1zZWNyZXQ=", [401, 401, 401, 401], "unauthorized"),
        ("Basic !!!", [401, 401, 401, 401], "unauthorized"),
        ("Basic YW5u", [401, 401, 401, 401], "unauthorized"),
        ("Digest x", [401, 401, 401, 401], "unauthorized"),
    ];
    for (authorization, wants, code) in table {
        for (path, want) in paths.iter().zip(wants) {
            let mut request = get(path);
            if !authorization.is_empty() {
                request = with(request, "authorization", authorization);
            }
            let answer = town.call(request).await;
            assert_eq!(answer.status, want, "{authorization} {path} {}", answer.body);
            let is_challenged = answer.header("www-authenticate").starts_with("Basic realm=");
            assert_eq!(is_challenged, want == 401, "{authorization} {path}");
            if matches!(want, 401 | 403) {
                assert_eq!(answer.json()["code"], code);
            }
        }
    }
}

#[tokio::test]
async fn a_revoked_credential_opens_nothing_and_reads_like_a_wrong_one() {
    let town = Town::new().await;
    let wrong = town.call(bearer(get("/messages"), "wrong")).await;
    let username = Username::parse("ann").unwrap();
    town.store.revoke_credential(&username, None, town.clock.now()).await.unwrap();
    for request in [basic(get("/messages"), "ann"), bearer(get("/messages"), "ann-secret")] {
        let answer = town.call(request).await;
        assert_eq!((answer.status, &answer.body), (401, &wrong.body));
    }
}

#[tokio::test]
async fn sign_ins_that_fail_again_and_again_are_put_off() {
    let town = Town::new().await;
    let wrong = || with(get("/messages"), "authorization", "Basic YW5uOndyb25n");
    for _ in 0..10 {
        assert_eq!(town.call(wrong()).await.status, 401);
    }
    let refused = town.call(wrong()).await;
    assert_eq!((refused.status, &refused.json()["code"]), (429, &Value::from("too_many_failures")));
    assert!((1..=60).contains(&refused.header("retry-after").parse::<u32>().unwrap()), "{refused:?}");
    assert_eq!(town.call(basic(get("/messages"), "ann")).await.status, 429, "it is not looked at");
    let form = || form_of("/sign-in", "username=ann&secret=ann-secret");
    let page = town.call(form()).await;
    assert!(page.status == 429 && page.body.contains("Too many failed sign-ins"), "{page:?}");
    // Others from there, and ann from elsewhere.
    assert_eq!(town.call(basic(get("/messages"), "bob")).await.status, 200);
    assert_eq!(town.call(bearer(get("/messages"), "ann-secret")).await.status, 200);
    assert_eq!(town.call_from("192.0.2.8:1", basic(get("/messages"), "ann")).await.status, 200);
}

#[tokio::test]
async fn tokens_are_guessed_at_from_an_address_only_so_often() {
    let town = Town::new().await;
    assert_eq!(town.call(bearer(get("/messages"), "ann-secret")).await.status, 200);
    for nth in 0..50 {
        assert_eq!(town.call(bearer(get("/messages"), &format!("guess{nth}"))).await.status, 401);
    }
    for (token, want) in [("guess", 429), (ADMIN_TOKEN, 429), ("ann-secret", 200)] {
        let status = town.call(bearer(get("/messages"), token)).await.status;
        assert_eq!(status, want, "{token}: who was right here before is looked at");
    }
    assert_eq!(town.call_from("192.0.2.8:1", bearer(get("/messages"), ADMIN_TOKEN)).await.status, 200);
}

#[tokio::test]
async fn visitors_behind_our_own_proxy_are_counted_one_by_one() {
    let town = Town::new().await;
    let proxy = "127.0.0.1:4711";
    let asked = |client: &str, token: &str| with(bearer(get("/messages"), token), "x-forwarded-for", client);
    for nth in 0..50 {
        let guess = format!("guess{nth}");
        assert_eq!(town.call_from(proxy, asked("198.51.100.1", &guess)).await.status, 401);
    }
    assert_eq!(town.call_from(proxy, asked("198.51.100.1", "ann-secret")).await.status, 429);
    assert_eq!(town.call_from(proxy, asked("198.51.100.2", "ann-secret")).await.status, 200);
    let forged = asked("198.51.100.2, 198.51.100.1", "ann-secret");
    assert_eq!(town.call_from(proxy, forged).await.status, 429, "only the last one is the proxy's word");
}

#[tokio::test]
async fn credits_are_told_to_the_last_one() {
    let town = Town::new().await;
    let answer = town.call(basic(get("/credits/cus_ann"), "ann")).await;
    let json = answer.json();
    assert!(json["as_of"].as_str().unwrap().ends_with('Z'), "{json}");
    for (name, want) in [("balance", 30), ("available", 30), ("held", 0), ("owed", 0)] {
        assert_eq!(json[name], want, "{name}");
    }
    let unknown = town.call(bearer(get("/credits/cus_bob"), ADMIN_TOKEN)).await.json();
    assert!(unknown["balance"].is_null() && unknown["available"].is_null() && unknown["as_of"].is_null());
    for (path, want) in [("/credits/cus_none", 404), ("/credits/a%20b", 404)] {
        assert_eq!(town.call(bearer(get(path), ADMIN_TOKEN)).await.status, want, "{path}");
        assert_eq!(town.call(basic(get(path), "ann")).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn p9_every_refusal_is_json_with_a_reason_and_a_code() {
    let town = Town::new().await;
    let post = |path: &str| Request::post(path).body(Body::empty()).unwrap();
    let big = "x".repeat(70_000);
    let table = [
        (get("/nowhere"), 404, "not_found"),
        (get("/send"), 405, "method_not_allowed"),
        (post("/readyz"), 405, "method_not_allowed"),
        (post("/metrics"), 405, "method_not_allowed"),
        (post("/checkout/subscribe"), 415, "unsupported_media_type"),
        (json_of("/checkout/subscribe", ""), 400, "not_json"),
        (json_of("/checkout/subscribe", "{\"email\":"), 400, "not_json"),
        (json_of("/checkout/subscribe", "[1]"), 422, "invalid"),
        (json_of("/checkout/subscribe", "{}"), 422, "invalid"),
        (json_of("/checkout/subscribe", r#"{"email":"a@b.example","nam":"x"}"#), 422, "invalid"),
        (json_of("/checkout/subscribe", r#"{"email":"nobody"}"#), 422, "invalid"),
        (json_of("/checkout/subscribe", r#"{"email":"a@b.example","name":"a\nb"}"#), 422, "invalid"),
        (json_of("/checkout/subscribe", &big), 413, "too_large"),
        (post("/checkout/topup"), 401, "unauthorized"),
        (bearer(post("/checkout/topup"), ADMIN_TOKEN), 422, "invalid"),
        (post("/send"), 401, "unauthorized"),
        (basic(get("/messages?limit=0"), "ann"), 422, "invalid"),
        (basic(get("/messages?limit=101"), "ann"), 422, "invalid"),
        (basic(get("/messages?limit=many"), "ann"), 422, "invalid"),
        (basic(get("/messages?before=%0A"), "ann"), 422, "invalid"),
        (basic(get("/messages?befor=1"), "ann"), 422, "invalid"),
        (basic(get("/messages?customer_id=%0A"), "ann"), 422, "invalid"),
    ];
    for (request, status, code) in table {
        let asked = format!("{} {}", request.method(), request.uri());
        let answer = town.call(request).await;
        let json = answer.json();
        assert_eq!((answer.status, json["code"].as_str()), (status, Some(code)), "{asked} {json}");
        assert!(json["error"].as_str().is_some_and(|text| text.len() > 10), "{asked} {json}");
        assert_eq!(json.as_object().unwrap().len(), 2, "{asked} {json}");
        assert_eq!(answer.headers.contains_key("allow"), status == 405, "{asked}");
    }
}

#[tokio::test]
async fn every_answer_forbids_scripts_frames_and_guesses() {
    let town = Town::new().await;
    let requests = [
        get("/"),
        get("/style.css"),
        get("/nowhere"),
        with(get("/nowhere"), "accept", "text/html,*/*"),
        get("/send"),
        get("/welcome?c=00"),
        get("/thanks"),
        get("/healthz"),
        get("/metrics"),
        get("/messages"),
        json_of("/checkout/subscribe", "{"),
        form_of("/sign-in", "username=x&secret=y"),
    ];
    for request in requests {
        let asked = request.uri().to_string();
        let answer = town.call(request).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'self';"), "{asked} {policy}");
        assert!(
            policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"),
            "{asked}"
        );
        assert!(!policy.contains("unsafe") && policy.contains("script-src 'self';"), "{asked}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{asked}");
        assert_eq!(answer.header("x-frame-options"), "DENY", "{asked}");
        assert!(!answer.header("referrer-policy").is_empty(), "{asked}");
        let cached = if asked == "/style.css" { "public, max-age=3600" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), cached, "{asked}");
        assert!(
            !answer.body.contains("<script>") && !answer.body.contains("http-equiv=\"Content"),
            "{asked}"
        );
    }
    let page = town.call(with(get("/nowhere"), "accept", "text/html")).await;
    assert!(page.header("content-type").starts_with("text/html") && page.status == 404);
}

#[tokio::test]
async fn health_says_what_is_wrong() {
    let town = Town::new().await;
    assert_eq!(town.call(get("/healthz")).await.status, 200);
    let ready = town.call(get("/readyz")).await;
    assert_eq!((ready.status, ready.json()), (200, serde_json::json!({"ready": true, "problems": []})));

    let call = crate::telemetry::DodoCall::Other;
    town.site.metrics.dodo_call(call, crate::telemetry::DodoResult::Unanswered);
    let ready = town.call(get("/readyz")).await;
    assert_eq!((ready.status, &ready.json()["problems"][0]["what"]), (200, &Value::from("dodo")), "P8");

    town.site.metrics.set_entries_doubtful(2);
    town.site.metrics.set_ledger_drift(3);
    let ready = town.call(get("/readyz")).await;
    let problems = ready.json()["problems"].clone();
    assert_eq!((ready.status, &problems[1]["entries"], &problems[2]["credits"]), (200, &2.into(), &3.into()));

    let now = town.clock.now();
    let gate = crate::store::gate::Gate {
        road: crate::domain::message::Road::Resend,
        reason: "Resend refused the API key: the key re_secret is bad".to_owned(),
        since: now,
        try_again_at: now,
    };
    town.store.close_gate(&gate).await.unwrap();
    let ready = town.call(get("/readyz")).await;
    assert_eq!((ready.status, &ready.json()["problems"][0]["upstream"]), (503, &Value::from("resend")));
    assert_eq!(ready.json()["problems"][0]["reason"], "api_key");
    assert!(!ready.body.contains("re_secret"), "its words are the operator's");

    let metrics = town.call(get("/metrics")).await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    assert!(metrics.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_log_is_read_page_by_page() {
    let town = Town::new().await;
    for n in 0..3 {
        let body = format!(r#"{{"to":"x@example.net","subject":"{n}","text":"hi"}}"#);
        let answer = town.call(basic(json_of("/send", &body), "ann")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let all = town.call(basic(get("/messages"), "ann")).await.json();
    assert_eq!(all.as_array().unwrap().len(), 3);
    let mut seen = Vec::new();
    let mut path = "/messages?limit=2".to_owned();
    while seen.len() < 3 {
        let page = town.call(basic(get(&path), "ann")).await.json();
        let page = page.as_array().unwrap().clone();
        assert!(!page.is_empty());
        path = format!("/messages?limit=2&before={}", page.last().unwrap()["message_id"].as_str().unwrap());
        seen.extend(page);
    }
    assert_eq!(Value::from(seen), all);
    assert_eq!(town.call(basic(get("/messages"), "bob")).await.json(), serde_json::json!([]));
    let everyone = town.call(bearer(get("/messages"), ADMIN_TOKEN)).await.json();
    assert_eq!(everyone, all);
    let id = all[0]["message_id"].as_str().unwrap();
    let other = town.call(basic(get(&format!("/messages/{id}")), "bob")).await;
    assert_eq!((other.status, &other.json()["code"]), (403, &Value::from("forbidden")));
}
