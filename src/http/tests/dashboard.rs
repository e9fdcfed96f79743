//! The overview, the way to the portal, and what an open page hears.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::HttpBody;

use super::*;
use crate::http::listener::Stopping;

/// Longer than any news takes.
const PATIENCE: Duration = Duration::from_secs(30);

async fn page(town: &Town, path: &str, cookie: &str) -> Answer {
    let answer = town.call(with(get(path), "cookie", cookie)).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    assert!(answer.body.len() < 50_000, "{path} has {} octets", answer.body.len());
    answer
}

#[tokio::test]
async fn every_page_of_a_customer_says_where_one_is_and_works_without_a_script() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    for (path, name) in [("/account", "Overview"), ("/account/send", "Send"), ("/account/connect", "Connect")]
    {
        let body = page(&town, path, &cookie).await.body;
        let current = format!("<a href=\"{path}\" aria-current=\"page\">");
        assert_eq!(body.matches("aria-current").count(), 1, "{path}");
        let (_, rest) = body.split_once(&current).unwrap_or_else(|| panic!("{path}: {body}"));
        assert!(rest.split_once("</a>").unwrap().0.ends_with(name), "{path}");
        assert!(
            body.contains("<a class=\"skip\" href=\"#content\">") && body.contains("action=\"/sign-out\"")
        );
        assert_eq!(body.matches("<script").count(), 1, "{path}");
        assert!(
            !body.contains(" style=") && !body.contains(" onclick="),
            "the policy would not let it: {path}"
        );
    }
    let overview = page(&town, "/account", &cookie).await.body;
    assert!(overview.contains("<noscript><meta http-equiv=\"refresh\" content=\"15; url=/account\">"));
    let script = town.call(get("/script.js")).await;
    assert!(script.header("content-type").starts_with("text/javascript") && script.body.len() < 4_096);
}

#[tokio::test]
async fn the_overview_says_when_credits_expire_whatever_shape_the_amounts_have() {
    const GRANTS: Given = (
        200,
        &[],
        r#"{"items": [
            {"remaining_amount": "20", "initial_amount": "20", "expires_at": "2099-05-06T07:08:09Z"},
            {"remaining_amount": 1500, "initial_amount": 2000, "expires_at": null},
            {"remaining_amount": 5.0, "initial_amount": 10, "expires_at": "2099-05-06T07:08:09.000Z"}
        ]}"#,
    );
    let town = Town::with_dodo(&[GRANTS]).await;
    let cookie = town.sign_in("ann").await;
    let first = page(&town, "/account", &cookie).await.body;
    assert!(first.contains("6 May 2099") && first.contains("<td class=\"number\">25</td>"), "{first}");
    assert!(first.contains("<td>Never</td><td class=\"number\">1,500</td>"), "{first}");
    assert!(page(&town, "/account", &cookie).await.body.contains("6 May 2099"));
    let asked = town.dodo.asked();
    assert_eq!(asked.len(), 1, "the answer is kept");
    assert_eq!(asked[0].uri, "/credit-entitlements/cde/balances/cus_ann/grants?page_size=100&status=active");
}

#[tokio::test]
async fn p8_the_overview_is_there_while_dodo_is_not() {
    let town = Town::with_dodo(&[(503, &[], ""), (200, &[], r#"{"items": []}"#)]).await;
    let cookie = town.sign_in("ann").await;
    for _ in 0..3 {
        let body = page(&town, "/account", &cookie).await.body;
        assert!(body.contains("has not said so yet") && body.contains("<dd>30</dd>"), "{body}");
    }
    assert_eq!(town.dodo.asked().len(), 1, "not at every look");
}

#[tokio::test]
async fn the_overview_warns_of_what_needs_somebody() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let calm = page(&town, "/account", &cookie).await.body;
    assert!(!calm.contains("class=\"alert\"") && !calm.contains("class=\"warn\""), "{calm}");
    let set = async |balance| {
        let read = town.store.begin_balance_read(&customer("ann")).await.unwrap().unwrap();
        town.store.apply_balance(&read, balance, town.clock.now()).await.unwrap();
        page(&town, "/account", &cookie).await.body
    };
    assert!(set(9).await.contains("Only 9 email credits are left"));
    assert!(set(0).await.contains("No email credits remaining"));
    town.store.suspend(&customer("ann"), "<b>spam").await.unwrap();
    let suspended = page(&town, "/account", &cookie).await.body;
    assert!(suspended.contains("suspended: &lt;b&gt;spam.") && !suspended.contains("<b>spam"), "{suspended}");
}

#[tokio::test]
async fn what_was_sent_is_shown_escaped_with_what_it_cost() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let letter = "from=&to=x%40example.net&subject=%3Cscript%3Ealert(1)%3C%2Fscript%3E%22&text=t";
    let sent = town.call(with(form_of("/account/send", letter), "cookie", &cookie)).await;
    assert_eq!(sent.status, 303, "{sent:?}");
    let body = page(&town, "/account", &cookie).await.body;
    assert!(body.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;</a>"), "{body}");
    assert!(!body.contains("<script>"), "{body}");
    assert!(body.contains("<strong>1</strong> credits for <strong>1</strong>"), "{body}");
    assert!(body.contains("has not been used for long enough to tell"), "{body}");
    let id = &town.store.messages(None, None, 1).await.unwrap()[0].message_id;
    assert!(body.contains(&format!("href=\"/account/messages/{id}\"")), "{body}");
    assert!(body.contains("<span class=\"badge queued\">queued</span>"), "{body}");
}

#[tokio::test]
async fn p10_the_settings_to_copy_hold_no_secret() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let body = page(&town, "/account/connect", &cookie).await.body;
    assert!(!body.contains("ann-secret") && body.matches("YOUR_SECRET").count() > 10);
    assert!(body.contains("smtp.meter.example") && body.contains("https://meter.example/send"), "{body}");
    assert!(body.contains("587") && body.contains("465") && body.contains("ann@example.com"));
    assert!(
        body.contains("<button class=\"second\" type=\"button\" hidden data-copy=\"swaks-text\""),
        "{body}"
    );
}

#[tokio::test]
async fn the_way_to_the_portal_leads_to_https_or_to_a_place_that_is_ours() {
    let links = [
        (r#"{"link": "https://portal.example/s?t=1&u=%22"}"#, true),
        (r#"{"link": "https://meter.example/sandbox/portal/cus_ann"}"#, true),
        (r#"{"link": "http://portal.example/s"}"#, false),
        (r#"{"link": "javascript:alert(1)"}"#, false),
        (r#"{"link": "//evil.example"}"#, false),
        (r#"{"link": 7}"#, false),
        (r"{}", false),
    ];
    for (answer, is_led) in links {
        let town = Town::with_dodo(&[(200, &[], answer)]).await;
        let cookie = town.by_mail("ann").await;
        let opened = town.call(with(form_of("/account/portal", ""), "cookie", &cookie)).await;
        assert_eq!(opened.status == 200, is_led, "{answer}: {opened:?}");
        let asked = &town.dodo.asked()[0];
        let want =
            "/customers/cus_ann/customer-portal/session?return_url=https%3A%2F%2Fmeter.example%2Faccount";
        assert_eq!((asked.method.as_str(), asked.uri.as_str()), ("POST", want));
        if is_led {
            let link = answer.split('"').nth(3).unwrap().replace('&', "&amp;");
            assert!(opened.body.contains(&format!("<a class=\"button\" href=\"{link}\"")), "{opened:?}");
        } else {
            assert!(opened.status == 404 || opened.status == 502, "{opened:?}");
            assert!(!opened.body.contains("evil") && !opened.body.contains("javascript:"), "{opened:?}");
        }
    }
    let town = Town::with_dodo(&[(503, &[], "")]).await;
    let cookie = town.sign_in("ann").await;
    let sender = town.call(with(form_of("/account/portal", ""), "cookie", &cookie)).await;
    assert!(sender.status == 409 && sender.body.contains("by a mailed link"), "{sender:?}");
    assert!(town.dodo.asked().is_empty());
    let cookie = town.by_mail("ann").await;
    let away = town.call(with(form_of("/account/portal", ""), "cookie", &cookie)).await;
    assert_eq!(away.status, 503, "{away:?}");
    let foreign = with(form_of("/account/portal", ""), "cookie", &cookie);
    let foreign = town.call(with(foreign, "origin", "https://evil.example")).await;
    assert_eq!(foreign.status, 403, "{foreign:?}");
    assert_eq!(town.call(form_of("/account/portal", "")).await.header("location"), "/");
}

/// An open page.
struct Open(Body);

impl Open {
    async fn listen(town: &Town, cookie: &str, stop: &CancellationToken) -> Self {
        let mut request = with(get("/account/live"), "cookie", cookie);
        request.extensions_mut().insert(Peer("192.0.2.7:1234".parse().unwrap()));
        request.extensions_mut().insert(Stopping(stop.clone()));
        let response = town.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self(response.into_body())
    }

    /// The next event with what it carries; `None`: there will be no more.
    async fn hears(&mut self) -> Option<(String, Value)> {
        tokio::time::timeout(PATIENCE, self.event()).await.expect("news in time")
    }

    async fn event(&mut self) -> Option<(String, Value)> {
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut self.0).poll_frame(cx)).await?;
            let text = String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let (Some(event), Some(data)) = (field("event: "), field("data: ")) {
                assert!(text.ends_with("\n\n"), "{text:?}");
                return Some((event, serde_json::from_str(&data).unwrap()));
            }
        }
    }
}

#[tokio::test]
async fn an_open_page_hears_of_credits_and_messages_and_of_its_end() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let mut open = Open::listen(&town, &cookie, &CancellationToken::new()).await;
    let (event, first) = open.hears().await.unwrap();
    assert_eq!((event.as_str(), &first["available"]), ("change", &30.into()), "{first}");
    assert_eq!(first["messages"], Value::Array(Vec::new()));

    let letter = "from=&to=x%40example.net&subject=s&text=t";
    town.call(with(form_of("/account/send", letter), "cookie", &cookie)).await;
    let (_, sent) = open.hears().await.unwrap();
    assert_eq!((&sent["available"], &sent["held"]), (&29.into(), &1.into()), "{sent}");
    assert_eq!(sent["messages"][0]["state"], "queued", "{sent}");

    // What happens to others is no news.
    let read = town.store.begin_balance_read(&customer("bob")).await.unwrap().unwrap();
    town.store.apply_balance(&read, 7, town.clock.now()).await.unwrap();
    town.store.suspend(&customer("ann"), "spam").await.unwrap();
    let (_, suspended) = open.hears().await.unwrap();
    assert_eq!(suspended["suspended"], true, "{suspended}");

    let name = Username::parse("ann").unwrap();
    town.store.revoke_credential(&name, None, town.clock.now()).await.unwrap();
    assert_eq!(open.hears().await.unwrap().0, "end", "a revoked credential hears nothing more");
    assert_eq!(open.hears().await, None);
    assert_eq!(town.call(with(get("/account/live"), "cookie", &cookie)).await.header("location"), "/");
}

#[tokio::test]
async fn a_stop_ends_open_pages_at_once() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let stop = CancellationToken::new();
    let mut open = Open::listen(&town, &cookie, &stop).await;
    assert_eq!(open.hears().await.unwrap().0, "change");
    stop.cancel();
    assert_eq!(open.hears().await, None);
}

#[tokio::test]
async fn so_many_pages_of_a_customer_hear_news_and_one_more_is_told_to_look_by_itself() {
    let town = Town::new().await;
    let (ann, bob) = (town.sign_in("ann").await, town.sign_in("bob").await);
    let stop = CancellationToken::new();
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(Open::listen(&town, &ann, &stop).await);
    }
    let full = town.call(with(get("/account/live"), "cookie", &ann));
    let full = tokio::time::timeout(PATIENCE, full).await.expect("an answer with an end");
    assert!(full.status == 429 && !full.header("retry-after").is_empty(), "{full:?}");
    Open::listen(&town, &bob, &stop).await;
    open.pop();
    Open::listen(&town, &ann, &stop).await;
}
