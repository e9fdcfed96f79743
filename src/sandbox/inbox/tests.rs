//! The inbox and misbehaviour, as a browser and a test see them.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::sandbox::tests::{answer, dodo, resend, scratch, started};
use crate::sandbox::{CREDITS, CUSTOMER_ID, Settings, StandIns};
use reqwest::Method;

#[derive(Debug)]
struct Answer {
    status: u16,
    /// Names and values, one a line.
    fields: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.fields.lines().any(|line| line.starts_with(&format!("{name}: ")) && line.contains(value))
    }
}

async fn call(pages: &Router, request: Request<Body>) -> Answer {
    let response = pages.clone().oneshot(request).await.unwrap();
    let shown = |value: &header::HeaderValue| value.to_str().unwrap().to_owned();
    let fields: Vec<_> =
        response.headers().iter().map(|(name, value)| format!("{name}: {}", shown(value))).collect();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answer { status, fields: fields.join("\n"), body: String::from_utf8_lossy(&body).into_owned() }
}

async fn get(pages: &Router, path: &str) -> Answer {
    call(pages, Request::get(path).header("accept", "text/html").body(Body::empty()).unwrap()).await
}

async fn delete(pages: &Router, path: &str) -> Answer {
    call(pages, Request::delete(path).body(Body::empty()).unwrap()).await
}

fn form(path: &str, body: &str) -> Request<Body> {
    let form = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
    form.header("host", "localhost:3000").body(Body::from(body.to_owned())).unwrap()
}

async fn misbehave(pages: &Router, change: &Value) -> Answer {
    let request = Request::post("/sandbox/misbehave").header("content-type", "application/json");
    call(pages, request.body(Body::from(change.to_string())).unwrap()).await
}

async fn send(all: &StandIns, email: Value) -> String {
    let mut whole = json!({ "from": "Ann <ann@example.com>", "to": ["bob@example.net"], "subject": "Hi", "text": "Hello" });
    whole.as_object_mut().unwrap().extend(email.as_object().unwrap().clone());
    let (status, sent) = answer(resend(all, Method::POST, "/emails").json(&whole)).await;
    assert_eq!(status, 200, "{sent}");
    sent["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn nothing_of_a_mail_runs_on_any_page() {
    let all = started().await;
    let pages = all.pages();
    let id = send(
        &all,
        json!({
            "from": "\"<script>alert(0)</script>\" <a@example.com>", "to": ["\"<img src=x>\" <b@example.com>"],
            "subject": "<script>alert(1)</script>",
            "text": "</pre><img src=x onerror=alert(1)>",
            "html": "<script>alert(1)</script><img src=\"cid:pic\"><base href=\"https://evil.example/\">",
            "headers": { "X-Evil": "\"><script>" },
            "tags": [{ "name": "a", "value": "b" }],
            "attachments": [
                { "filename": "p.png", "content": "QUJD", "content_id": "pic" },
                { "filename": "../<img src=x>\"\r\n.html", "content": "QQ==", "content_type": "text/html" },
            ],
        }),
    )
    .await;
    let views = ["html", "text", "files", "headers", "source", "resend"];
    let views = views.map(|view| format!("/inbox/{id}?view={view}"));
    let lists = ["/inbox", "/inbox?q=%3Cscript%3E", "/inbox/live"].map(str::to_owned);
    for path in views.iter().chain(&lists) {
        let page = get(&pages, path).await;
        assert_eq!(page.status, 200, "{path}");
        let body = page.body.replace("<script src=\"/inbox/live.js\" defer></script>", "");
        assert!(!body.contains("<script") && !body.contains("<img"), "{path} {body}");
        assert!(!body.contains("onerror=alert") || body.contains("&lt;img src=x onerror"), "{path} {body}");
        if path != "/inbox/live" {
            assert!(page.has("content-security-policy", "default-src 'none'"), "{page:?}");
            assert!(page.has("content-security-policy", "frame-ancestors 'none'"), "{page:?}");
            assert!(!page.fields.contains("unsafe-inline"), "{page:?}");
        }
        assert!(page.body.len() < 50_000, "{path}");
    }
    let page = get(&pages, &format!("/inbox/{id}")).await;
    let frame = "<iframe sandbox=\"allow-popups allow-popups-to-escape-sandbox\"";
    assert!(page.body.contains(frame), "{page:?}");
    all.stop().await;
}

#[tokio::test]
async fn html_opened_by_itself_has_no_rights_and_fetches_nothing_unasked() {
    let all = started().await;
    let pages = all.pages();
    let html = "<script>alert(1)</script><img src=\"cid:pic\"><img src=\"https://track.example/p.png\">";
    let files = json!([{ "filename": "p.png", "content": "QUJD", "content_id": "pic" },
                       { "filename": "e.svg", "content": "QUJD", "content_id": "svg" }]);
    let id = send(&all, json!({ "html": html, "attachments": files })).await;
    let raw = get(&pages, &format!("/inbox/{id}/html")).await;
    let policy = "content-security-policy";
    assert!(
        raw.has(policy, "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'"),
        "{raw:?}"
    );
    assert!(raw.has(policy, "img-src data:") && !raw.fields.contains("https:"), "{raw:?}");
    assert!(!raw.fields.contains("allow-scripts") && !raw.fields.contains("allow-same-origin"), "{raw:?}");
    assert!(raw.has(policy, "frame-ancestors 'self'") && raw.has(policy, "base-uri 'none'"), "{raw:?}");
    assert!(raw.body.contains("src=\"data:image/png;base64,QUJD\""), "{raw:?}");
    let page = get(&pages, &format!("/inbox/{id}?view=html")).await;
    assert!(page.body.contains("which are not fetched") && !page.body.contains("/html?images=1"), "{page:?}");
    let page = get(&pages, &format!("/inbox/{id}?view=html&images=1")).await;
    assert!(page.body.contains(&format!("src=\"/inbox/{id}/html?images=1\"")), "{page:?}");
    let raw = get(&pages, &format!("/inbox/{id}/html?images=1")).await;
    assert!(
        raw.has(policy, "img-src data: http: https:") && raw.has("referrer-policy", "no-referrer"),
        "{raw:?}"
    );
    assert!(raw.has(policy, "sandbox allow-popups"), "{raw:?}");
    all.stop().await;
}

#[tokio::test]
async fn attachments_and_the_source_are_saved_under_safe_names_and_never_shown() {
    let all = started().await;
    let pages = all.pages();
    let files = json!([
        { "filename": "a\"\r\n.txt", "content": "QQ==" },
        { "filename": "../../evil.html", "content": "PHNjcmlwdD4=" },
        { "filename": "größe.pdf", "content": "QQ==" },
    ]);
    let id =
        send(&all, json!({ "attachments": files, "cc": ["carl@example.net"], "bcc": ["dan@example.net"] }))
            .await;
    let names = [
        "attachment; filename=\"a_.txt\"; filename*=UTF-8''a%22.txt",
        "attachment; filename=\"evil.html\"; filename*=UTF-8''evil.html",
        "attachment; filename=\"gr__e.pdf\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.pdf",
    ];
    for (n, name) in names.iter().enumerate() {
        let file = get(&pages, &format!("/inbox/{id}/attachments/{n}")).await;
        assert_eq!(file.status, 200);
        assert!(file.has("content-disposition", name), "{file:?}");
        assert!(file.has("content-type", "application/octet-stream"), "{file:?}");
        assert!(file.has("x-content-type-options", "nosniff"), "{file:?}");
        assert!(file.has("content-security-policy", "sandbox"), "{file:?}");
    }
    let source = get(&pages, &format!("/inbox/{id}/message.eml")).await;
    assert!(source.has("content-disposition", &format!("filename=\"{id}.eml\"")), "{source:?}");
    for line in
        ["From: \"Ann\" <ann@example.com>\r\n", "Cc: carl@example.net\r\n", "Subject: Hi\r\n", "Hello"]
    {
        assert!(source.body.contains(line), "{line} {source:?}");
    }
    assert!(!source.body.contains("dan@example.net"), "Bcc is hidden: {source:?}");
    for path in ["/inbox/none", "/inbox/none/html", "/inbox/none/message.eml"] {
        assert_eq!(get(&pages, path).await.status, 404, "{path}");
    }
    assert_eq!(get(&pages, &format!("/inbox/{id}/attachments/9")).await.status, 404);
    all.stop().await;
}

#[tokio::test]
async fn the_list_is_paged_searched_and_marks_what_nobody_has_opened() {
    let all = started().await;
    let pages = all.pages();
    let mut last = String::new();
    for n in 0..51 {
        last = send(&all, json!({ "subject": format!("number {n}."), "text": format!("word{n}x") })).await;
    }
    let first = get(&pages, "/inbox").await.body;
    assert!(first.contains("number 50.") && !first.contains("number 0.") && first.contains("/inbox?page=1"));
    assert!(first.contains("51 mails") && first.contains("51 unread"), "{first}");
    let second = get(&pages, "/inbox?page=1").await.body;
    assert!(second.contains("number 0.") && second.contains("/inbox?page=0") && !second.contains("page=2"));
    let found = get(&pages, "/inbox?q=subject:%22number+7.%22+word7x").await.body;
    assert!(found.contains("1 of 51 mails") && found.contains("number 7."), "{found}");
    assert!(
        found.contains("value=\"subject:&quot;number 7.&quot; word7x\""),
        "what was typed is kept: {found}"
    );
    let none = get(&pages, "/inbox?q=nothing").await.body;
    assert!(none.contains("No mail like that"), "{none}");
    get(&pages, &format!("/inbox/{last}")).await;
    assert!(get(&pages, "/inbox").await.body.contains("50 unread"));
    all.stop().await;
}

#[tokio::test]
async fn the_page_is_told_of_a_mail_that_comes() {
    let all = started().await;
    let pages = all.pages();
    let list = get(&pages, "/inbox").await.body;
    let revision = list.split("data-revision=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let waiting = {
        let (pages, path) = (pages.clone(), format!("/inbox/live?after={revision}"));
        tokio::spawn(async move { get(&pages, &path).await })
    };
    send(&all, json!({ "subject": "news" })).await;
    let told = waiting.await.unwrap();
    assert!(told.status == 200 && told.body.contains(">news<"), "{told:?}");
    assert!(!told.has("x-inbox-revision", &format!(" {revision}")), "{told:?}");
    let waiting = tokio::spawn(async move { get(&pages, "/inbox/live?after=1").await });
    let stop = tokio_util::sync::CancellationToken::new();
    all.answer_at(stop.clone());
    stop.cancel();
    assert!(matches!(waiting.await.unwrap().status, 200 | 204), "a stop waits for nobody");
    all.stop().await;
}

#[tokio::test]
async fn a_test_finds_reads_waits_for_and_deletes_mail() {
    let all = started().await;
    let pages = all.pages();
    let file = json!([{ "filename": "a.txt", "content": "QUJD" }]);
    let first = send(&all, json!({ "subject": "One", "to": ["bob@example.net"], "attachments": file })).await;
    let second =
        send(&all, json!({ "subject": "Two", "to": ["carl@example.net"], "bcc": ["dan@example.net"] })).await;
    let ids = async |query: &str| {
        let found = get(&pages, &format!("/sandbox/messages{query}")).await.json();
        let ids = found["messages"].as_array().unwrap().iter();
        ids.map(|mail| mail["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("").await, [second.clone(), first.clone()], "newest first");
    for (query, want) in [
        ("?to=BOB@example.net", vec![&first]),
        ("?to=dan@example.net", vec![&second]),
        ("?from=ann&subject=two", vec![&second]),
        ("?text=hello&limit=1", vec![&second]),
        ("?q=to:carl", vec![&second]),
        ("?to=nobody", vec![]),
    ] {
        assert_eq!(ids(query).await.iter().collect::<Vec<_>>(), want, "{query}");
    }
    let mail = get(&pages, &format!("/sandbox/messages/{first}")).await.json();
    assert_eq!((&mail["subject"], &mail["text"]), (&json!("One"), &json!("Hello")), "{mail}");
    assert_eq!(mail["attachments"][0]["octets"], 3);
    assert_eq!(mail["sent_to_resend"]["to"], json!(["bob@example.net"]), "{mail}");
    let file = get(&pages, mail["attachments"][0]["url"].as_str().unwrap()).await;
    assert_eq!(file.body, "ABC");

    let waiting = {
        let pages = pages.clone();
        tokio::spawn(async move { get(&pages, "/sandbox/messages?to=eve&wait_s=30").await.json() })
    };
    send(&all, json!({ "to": ["other@example.net"] })).await;
    let third = send(&all, json!({ "to": ["eve@example.net"] })).await;
    assert_eq!(waiting.await.unwrap()["messages"][0]["id"], json!(third));

    for query in ["limit=0", "limit=501", "wait_s=61", "wait_s=-1", "too=x"] {
        let refused = get(&pages, &format!("/sandbox/messages?{query}")).await;
        assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("invalid")), "{query}");
    }
    assert_eq!(delete(&pages, "/sandbox/messages?to=eve").await.json(), json!({ "deleted": 1 }));
    assert_eq!(delete(&pages, &format!("/sandbox/messages/{first}")).await.status, 204);
    assert_eq!(delete(&pages, &format!("/sandbox/messages/{first}")).await.status, 404);
    assert_eq!(get(&pages, &format!("/sandbox/messages/{first}")).await.status, 404);
    assert_eq!(delete(&pages, "/sandbox/messages").await.json(), json!({ "deleted": 2 }));
    assert_eq!(ids("").await, Vec::<String>::new());
    all.stop().await;
}

#[tokio::test]
async fn what_was_deleted_stays_so_after_a_restart() {
    let dir = scratch("inbox");
    let settings = || Settings { data_dir: Some(dir.clone()), ..Settings::default() };
    let all = StandIns::start(settings()).await.unwrap();
    let (gone, kept) = (send(&all, json!({})).await, send(&all, json!({ "subject": "kept" })).await);
    assert_eq!(delete(&all.pages(), &format!("/sandbox/messages/{gone}")).await.status, 204);
    all.stop().await;
    let all = StandIns::start(settings()).await.unwrap();
    let found = get(&all.pages(), "/sandbox/messages").await.json();
    assert_eq!((&found["total"], &found["messages"][0]["id"]), (&json!(1), &json!(kept)), "{found}");
    assert_eq!(found["unread"], 0, "what was there at the start is not news");
    let mail = get(&all.pages(), &format!("/sandbox/messages/{kept}")).await.json();
    assert_eq!(mail["subject"], "kept", "its body is still found");
    all.stop().await;
}

#[tokio::test]
async fn forms_of_other_sites_change_nothing() {
    let all = started().await;
    let pages = all.pages();
    let id = send(&all, json!({})).await;
    let one = format!("/inbox/{id}/delete");
    let forms = [("/inbox/delete", ""), ("/sandbox/misbehave", "dodo=down"), (one.as_str(), "")];
    for (path, body) in forms {
        for (name, value) in
            [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("origin", "null")]
        {
            let mut request = form(path, body);
            request.headers_mut().insert(name, value.parse().unwrap());
            assert_eq!(call(&pages, request).await.status, 403, "{path} {name} {value}");
        }
    }
    let mut request = Request::delete("/sandbox/messages").body(Body::empty()).unwrap();
    request.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    assert_eq!(call(&pages, request).await.status, 403);
    assert_eq!(all.resend.count(), 1);
    assert!(all.dodo.faults().pending().is_empty());
    let mut own = form("/inbox/delete", "q=subject%3AHi");
    own.headers_mut().insert("origin", "http://localhost:3000".parse().unwrap());
    assert_eq!(call(&pages, own).await.status, 303);
    assert_eq!(all.resend.count(), 0);
    all.stop().await;
}

#[tokio::test]
async fn services_misbehave_on_demand_and_are_back_to_normal() {
    let all = started().await;
    let pages = all.pages();
    let sent = async || {
        let mail = json!({ "from": "a@example.com", "to": "b@example.net", "subject": "s", "text": "t" });
        let request = resend(&all, Method::POST, "/emails").json(&mail);
        request.send().await.ok().map(|answer| answer.status().as_u16())
    };
    let asked = async || {
        let request = dodo(&all, Method::GET, "/customers");
        request.send().await.ok().map(|answer| answer.status().as_u16())
    };
    for (resend, want) in [("429", Some(429)), ("500", Some(500)), ("down", None), ("normal", Some(200))] {
        let state = misbehave(&pages, &json!({ "resend": resend })).await.json();
        assert_eq!((&state["resend"], sent().await), (&json!(resend), want), "{state}");
    }
    let own_fault =
        crate::sandbox::faults::Fault::new(crate::sandbox::faults::Misbehaviour::Garble).on("POST", "/x");
    all.dodo.faults().push(own_fault);
    let state = misbehave(&pages, &json!({ "dodo": "down", "resend": "500", "bounce": "bob@example.net" }))
        .await
        .json();
    assert_eq!((&state["dodo"], asked().await), (&json!("down"), None), "{state}");
    assert_eq!(
        (&state["bounce"], &state["is_normal"]),
        (&json!(["bob@example.net"]), &json!(false)),
        "{state}"
    );
    let list = get(&pages, "/inbox").await.body;
    assert!(list.contains("Dodo is down. Resend answers 500. Mail to bob@example.net bounces."), "{list}");
    let page = get(&pages, "/sandbox/misbehave").await.body;
    assert!(
        page.contains("name=\"dodo\" value=\"down\" checked") && page.contains("Back to normal"),
        "{page}"
    );
    let mut normal = form("/sandbox/misbehave", "normal=true");
    normal.headers_mut().insert("origin", "http://localhost:3000".parse().unwrap());
    assert_eq!(call(&pages, normal).await.status, 303);
    let state = call(&pages, Request::get("/sandbox/misbehave").body(Body::empty()).unwrap()).await.json();
    assert_eq!((&state["is_normal"], &state["bounce"]), (&json!(true), &json!([])), "{state}");
    assert_eq!((sent().await, asked().await), (Some(200), Some(200)));
    assert_eq!(all.dodo.faults().pending().len(), 1, "faults that were set elsewhere stay");
    all.stop().await;
}

#[tokio::test]
async fn credit_is_taken_and_given_back_on_demand() {
    let all = started().await;
    let pages = all.pages();
    let state = misbehave(&pages, &json!({ "credit": "none" })).await.json();
    assert_eq!(
        (all.dodo.balance(CUSTOMER_ID), &state["customers"][0]["balance"]),
        (Some(0), &json!(0)),
        "{state}"
    );
    for _ in 0..2 {
        misbehave(&pages, &json!({ "credit": "full" })).await;
        assert_eq!(all.dodo.balance(CUSTOMER_ID), Some(CREDITS));
    }
    let taken = call(&pages, form("/sandbox/misbehave", "customer_id=cus_sandbox&credit=none")).await;
    assert_eq!((taken.status, all.dodo.balance(CUSTOMER_ID)), (303, Some(0)));
    for wrong in [
        json!({ "credit": "some" }),
        json!({ "dodo": "x" }),
        json!({ "bounce": "bob" }),
        json!({ "customer_id": "no", "credit": "none" }),
        json!({ "docs": 1 }),
    ] {
        let refused = misbehave(&pages, &wrong).await;
        assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("invalid")), "{wrong}");
    }
    let refused = call(&pages, form("/sandbox/misbehave", "bounce=%3Cscript%3E")).await;
    assert!(refused.status == 422 && refused.body.contains("role=\"alert\""), "{refused:?}");
    all.stop().await;
}
