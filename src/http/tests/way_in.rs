//! From visitor to customer.

use super::*;

const CHECKOUT: Given =
    (200, &[], r#"{"session_id":"cks_1","checkout_url":"https://pay.example/session/cks_1?a=1&b=2"}"#);
const SUBSCRIBE: &str = r#"{"email":"new@example.org","name":"New <One>"}"#;

/// A browser that began a checkout.
struct Visitor {
    token: String,
    cookie: String,
}

impl Town {
    /// Begins a checkout, and gives what the browser comes back with.
    async fn subscribe(&self) -> Visitor {
        let answer = self.call(json_of("/checkout/subscribe", SUBSCRIBE)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["checkout_url"], "https://pay.example/session/cks_1?a=1&b=2");
        let asked = self.dodo.asked();
        let body: Value = serde_json::from_slice(&asked.last().unwrap().body).unwrap();
        let return_url = body["return_url"].as_str().unwrap();
        let token = return_url.strip_prefix("https://meter.example/welcome?c=").unwrap().to_owned();
        Visitor { token, cookie: answer.cookie() }
    }

    /// The news of a payment from a checkout session, with these words besides.
    async fn pay_for(&self, ids: (&str, &str), token: &str, rest: &str) {
        let hash = super::super::checkout::token_hash(&Secret::presented(token));
        let signature = self.site.settings.checkout_key.sign(&hash);
        self.pay_signed(ids, (&hash, &signature), rest).await;
    }

    async fn pay_signed(
        &self,
        (customer_id, session_id): (&str, &str),
        (hash, signature): (&str, &str),
        rest: &str,
    ) {
        let body = format!(
            r#"{{"type":"payment.succeeded","data":{{"status":"succeeded","checkout_session_id":"{session_id}",
            "customer":{{"customer_id":"{customer_id}"}},"metadata":{{"postmeter_checkout":"{hash}",
            "postmeter_signature":"{signature}"}},{rest}}}}}"#
        );
        let now = self.clock.now();
        let id = format!("msg_{customer_id}_{session_id}_{}", rest.len());
        let request = json_of("/webhooks/dodo", &body);
        let request = with(request, "webhook-id", &id);
        let request = with(request, "webhook-timestamp", &now.as_second().to_string());
        let signature = signing_key(WEBHOOK_KEY).sign(&id, now, body.as_bytes());
        let answer = self.call(with(request, "webhook-signature", &signature)).await;
        assert_eq!(answer.json()["result"], "accepted", "{answer:?}");
    }

    async fn pay(&self, customer_id: &str, session_id: &str, token: &str) {
        self.pay_for((customer_id, session_id), token, r#""subscription_id":"sub_1""#).await;
    }

    async fn welcome(&self, browser: &Visitor) -> Answer {
        let path = format!("/welcome?c={}&subscription_id=sub_1&status=active", browser.token);
        self.call(with(get(&path), "cookie", &browser.cookie)).await
    }
}

fn shown(page: &str, term: &str) -> String {
    let after = page.split(&format!("<dt>{term}</dt><dd><code>")).nth(1).unwrap();
    after.split("</code>").next().unwrap().to_owned()
}

#[tokio::test]
async fn a_new_customer_is_shown_a_working_credential_once() {
    let town = Town::with_dodo(&[CHECKOUT]).await;
    let browser = town.subscribe().await;
    let token = &browser.token;
    let asked: Value = serde_json::from_slice(&town.dodo.asked()[0].body).unwrap();
    assert_eq!(asked["product_cart"][0]["product_id"], "pdt_plan");
    assert_eq!(asked["customer"], serde_json::json!({"email": "new@example.org", "name": "New <One>"}));
    let hash = asked["metadata"]["postmeter_checkout"].as_str().unwrap();
    assert!(hash.len() == 64 && hash != token, "the database and Dodo know the hash alone");
    let signature = asked["metadata"]["postmeter_signature"].as_str().unwrap();
    assert!(signature.len() == 64 && signature != hash);

    let waiting = town.welcome(&browser).await;
    assert_eq!(waiting.status, 200);
    let again = format!("content=\"2; url=/welcome?c={token}&amp;n=1\"");
    assert!(waiting.body.contains(&again), "{}", waiting.body);

    town.pay("cus_new", "cks_1", token).await;
    let path = format!("/welcome?c={token}");
    let looks = |name, value| with(with(get(&path), "cookie", &browser.cookie), name, value);
    for (name, value) in [
        ("sec-purpose", "prefetch"),
        ("sec-purpose", "prefetch;prerender"),
        ("purpose", "prefetch"),
        ("x-purpose", "preview"),
        ("sec-fetch-dest", "image"),
        ("sec-fetch-dest", "iframe"),
    ] {
        let ahead = town.call(looks(name, value)).await;
        assert!(!ahead.body.contains("Secret") && ahead.status == 200, "{name}: {value}");
    }
    let head = Request::head(&path).header("cookie", &browser.cookie).body(Body::empty()).unwrap();
    assert_eq!(town.call(head).await.status, 200);

    let page = town.welcome(&browser).await;
    assert_eq!((page.status, page.header("cache-control")), (200, "no-store"));
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert!(page.body.contains("smtp.meter.example") && page.body.contains("cus_new@mail.example"));
    let (username, secret) = (shown(&page.body, "Username"), shown(&page.body, "Secret"));
    let pair = STANDARD.encode(format!("{username}:{secret}"));
    let own = with(get("/credits/cus_new"), "authorization", &format!("Basic {pair}"));
    assert_eq!(town.call(own).await.status, 200);
    let account = town.call(with(get("/account"), "cookie", &page.cookie())).await;
    assert!(account.status == 200 && account.body.contains("Account cus_new"), "signed in already");

    let later = town.welcome(&browser).await;
    assert!(later.body.contains("Already shown") && !later.body.contains(&secret));
    assert!(!later.headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn p10_the_return_url_alone_shows_nothing() {
    let town = Town::with_dodo(&[CHECKOUT, CHECKOUT]).await;
    let answer = town.call(json_of("/checkout/subscribe", SUBSCRIBE)).await;
    let set = answer.header("set-cookie");
    assert!(set.starts_with("__Host-postmeter-checkout-"), "{set}");
    assert!(set.ends_with("; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax; Secure"), "{set}");
    let browser = town.subscribe().await;
    assert!(!browser.cookie.contains(&browser.token), "neither says the other");
    let path = format!("/welcome?c={}&n=99", browser.token);
    let (name, value) = browser.cookie.split_once('=').unwrap();
    let others = [
        String::new(),
        answer.cookie(),
        format!("{name}={}", "0".repeat(64)),
        format!("{name}={}", browser.token),
        format!("__Host-postmeter-checkout-0000000000000000={value}"),
    ];
    for is_paid in [false, true] {
        if is_paid {
            town.pay("cus_new", "cks_1", &browser.token).await;
        }
        for other in &others {
            let page = town.call(with(get(&path), "cookie", other)).await;
            assert_eq!(page.status, 403, "{other}: {page:?}");
            assert!(
                page.body.contains("begun in another browser") && !page.body.contains("cus_new"),
                "{page:?}"
            );
            assert!(!page.headers.contains_key("set-cookie"));
        }
    }
    assert_eq!(town.dodo.asked().len(), 2, "nor is Dodo asked for it");
    assert!(town.welcome(&browser).await.body.contains("Write the secret down now"));
}

#[tokio::test]
async fn whoever_types_the_address_of_a_customer_is_shown_nothing_of_theirs() {
    let town = Town::with_dodo(&[CHECKOUT]).await;
    let browser = town.subscribe().await;
    town.pay("cus_ann", "cks_1", &browser.token).await;
    let page = town.welcome(&browser).await;
    assert!(page.body.contains("an account that exists already"), "{}", page.body);
    assert!(page.body.contains("href=\"/sign-in\""), "{}", page.body);
    assert!(!page.body.contains("cus_ann") && !page.body.contains("Secret"));
    assert!(!page.headers.contains_key("set-cookie"));
    assert_eq!(town.store.credentials(Some(&customer("ann"))).await.unwrap().len(), 1);
}

#[tokio::test]
async fn metadata_of_another_payment_link_claims_nothing() {
    let town = Town::with_dodo(&[CHECKOUT]).await;
    let browser = town.subscribe().await;
    town.pay("cus_victim", "cks_other", &browser.token).await;
    let page = town.welcome(&browser).await;
    assert!(page.body.contains("Waiting for the payment"), "{}", page.body);
    assert!(town.store.credentials(Some(&customer("victim"))).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_we_did_not_sign_or_what_is_for_something_else_claims_nothing() {
    let town = Town::with_dodo(&[CHECKOUT]).await;
    let browser = town.subscribe().await;
    let cart = |product: &str, quantity: u32| {
        format!(
            r#""product_cart":[{{"product_id":"{product}","quantity":{quantity}}}],"subscription_id":"sub_1""#
        )
    };
    let table = [
        ("cus_1", cart("pdt_topup", 1)),
        ("cus_2", cart("pdt_plan", 0)),
        ("cus_3", format!(r#""product_cart":[],"payment_id":"{}""#, "pay_1")),
    ];
    let known = |name: &str| CustomerId::parse(name).unwrap();
    town.store.add_customer(&known("cus_3"), None, None, town.clock.now()).await.unwrap();
    for (customer_id, rest) in table {
        town.pay_for((customer_id, "cks_1"), &browser.token, &rest).await;
        assert!(town.welcome(&browser).await.body.contains("Waiting"), "{rest}");
    }
    let hash = super::super::checkout::token_hash(&Secret::presented(&browser.token));
    let forged = Town::with_dodo(&[]).await.site.settings.checkout_key.sign(&hash);
    assert!(town.site.settings.checkout_key.has_signed(&hash, &forged), "one key for all servers of a shop");
    let others = super::super::CheckoutKey::new(&SecretString::from("another key"));
    for (customer_id, signature) in [("cus_5", ""), ("cus_6", "00"), ("cus_7", &others.sign(&hash))] {
        town.pay_signed((customer_id, "cks_1"), (&hash, signature), &cart("pdt_plan", 1)).await;
        assert!(town.welcome(&browser).await.body.contains("Waiting"), "{signature}");
    }
    town.pay_for(("cus_4", "cks_1"), &browser.token, &cart("pdt_plan", 1)).await;
    assert!(town.welcome(&browser).await.body.contains("Write the secret down now"));
}

const UNPAID: Given = (200, &[], r#"{"id":"cks_1","payment_id":null,"payment_status":null}"#);
const PAID: Given = (200, &[], r#"{"id":"cks_1","payment_id":"pay_1","payment_status":"succeeded"}"#);
const PAYMENT: Given = (
    200,
    &[],
    r#"{"payment_id":"pay_1","status":"succeeded","subscription_id":"sub_1","customer":{"customer_id":"cus_new"}}"#,
);

#[tokio::test]
async fn when_the_webhook_does_not_come_dodo_is_asked() {
    let town = Town::with_dodo(&[CHECKOUT, UNPAID, PAID, PAYMENT]).await;
    let browser = town.subscribe().await;
    let at = async |n: u32| {
        let request = get(&format!("/welcome?c={}&n={n}", browser.token));
        town.call(with(request, "cookie", &browser.cookie)).await.body
    };
    assert!(at(4).await.contains("Waiting"));
    assert_eq!(town.dodo.asked().len(), 1, "not yet");
    assert!(at(5).await.contains("Waiting") && at(6).await.contains("Waiting"));
    assert_eq!(town.dodo.asked().len(), 2, "not with every reload");
    town.clock.advance(Duration::from_secs(15));
    assert!(at(7).await.contains("Write the secret down now"));
    let asked: Vec<_> = town.dodo.asked().into_iter().map(|asked| asked.uri).collect();
    assert_eq!(asked, ["/checkouts", "/checkouts/cks_1", "/checkouts/cks_1", "/payments/pay_1"]);
}

#[tokio::test]
async fn when_neither_webhook_nor_browser_come_the_sweep_finds_the_payment() {
    let town = Town::with_dodo(&[CHECKOUT, UNPAID, PAID, PAYMENT]).await;
    let browser = town.subscribe().await;
    let round = async || super::super::lost::round(&town.site).await.unwrap();
    assert_eq!((round().await, town.dodo.asked().len()), (0, 1), "the webhook has its time");
    for (paid, asked) in [(0, 2), (1, 4)] {
        town.clock.advance(Duration::from_secs(15 * 60));
        assert_eq!((round().await, town.dodo.asked().len()), (paid, asked));
        assert_eq!((round().await, town.dodo.asked().len()), (0, asked), "once in a quarter of an hour");
    }
    town.clock.advance(Duration::from_secs(15 * 60));
    assert_eq!((round().await, town.dodo.asked().len()), (0, 4), "it is not pending any more");
    assert!(town.welcome(&browser).await.body.contains("Write the secret down now"));
}

#[tokio::test]
async fn a_page_does_not_wait_for_ever_nor_for_a_token_nobody_gave() {
    let town = Town::with_dodo(&[CHECKOUT]).await;
    let browser = town.subscribe().await;
    for path in ["/welcome", "/welcome?c=", "/welcome?c=%22%3E%3Cscript%3E"] {
        let answer = town.call(get(path)).await;
        assert!(answer.status == 404 && !answer.body.contains("<script>"), "{path}");
    }
    let failed = get(&format!("/welcome?c={}&payment_id=p&status=failed", browser.token));
    let failed = town.call(with(failed, "cookie", &browser.cookie)).await;
    assert!(failed.body.contains("did not go through"));
    for (path, want) in [("/thanks?status=succeeded", "Thank you"), ("/thanks?status=cancelled", "Not paid")]
    {
        let page = town.call(get(path)).await;
        assert!(page.body.contains(&format!("<h1>{want}</h1>")), "{path}");
    }
}

#[tokio::test]
async fn the_form_leads_to_the_payment_and_escapes_its_address() {
    let town = Town::with_dodo(&[CHECKOUT, CHECKOUT]).await;
    let page = town.call(form_of("/checkout/subscribe", "email=new%40example.org&name=New")).await;
    assert_eq!(page.status, 200, "{page:?}");
    let target = "https://pay.example/session/cks_1?a=1&amp;b=2";
    assert!(page.body.contains(&format!("content=\"0; url={target}\"")), "{}", page.body);
    assert!(page.header("set-cookie").starts_with("__Host-postmeter-checkout-"), "{page:?}");
    let wrong = town.call(form_of("/checkout/subscribe", "email=nobody%22%3E&name=New")).await;
    assert!(wrong.status == 422 && wrong.body.contains("name=\"email\""), "{wrong:?}");
    assert!(
        wrong.body.contains("value=\"nobody&quot;&gt;\"") && wrong.body.contains("value=\"New\""),
        "{wrong:?}"
    );
    let foreign = form_of("/checkout/subscribe", "email=new%40example.org&name=New");
    let foreign = town.call(with(foreign, "origin", "https://evil.example")).await;
    assert_eq!(foreign.status, 403);

    let cookie = town.sign_in("ann").await;
    let page = town.call(with(form_of("/account/top-up", ""), "cookie", &cookie)).await;
    assert!(page.status == 200 && page.body.contains(target), "{page:?}");
    let asked: Value = serde_json::from_slice(&town.dodo.asked()[1].body).unwrap();
    assert_eq!(asked["customer"]["customer_id"], "cus_ann");
    assert_eq!(asked["product_cart"][0]["product_id"], "pdt_topup");
}

#[tokio::test]
async fn a_checkout_that_dodo_does_not_start_says_whose_turn_it_is() {
    let table: [(Given, u16, &str); 5] = [
        ((503, &[], ""), 503, "payments_unavailable"),
        ((429, &[], "{}"), 503, "payments_unavailable"),
        ((401, &[], ""), 502, "checkout_refused"),
        ((422, &[], r#"{"code":"X","message":"secret words"}"#), 502, "checkout_refused"),
        ((200, &[], r#"{"session_id":"s","checkout_url":"javascript:alert(1)"}"#), 502, "checkout_refused"),
    ];
    for (given, status, code) in table {
        let town = Town::with_dodo(&[given]).await;
        let answer = town.call(basic(json_of("/checkout/topup", ""), "ann")).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{given:?}");
        assert!(!answer.body.contains("secret words"), "P9");
    }
}

#[tokio::test]
async fn one_visitor_cannot_begin_checkouts_without_end() {
    // Dodo's own limit is not what stops them.
    let checkout: Given = (CHECKOUT.0, &[("x-ratelimit-limit", "5000")], CHECKOUT.2);
    let town = Town::with_dodo(&[checkout; 20]).await;
    for _ in 0..20 {
        town.subscribe().await;
    }
    let answer = town.call(json_of("/checkout/subscribe", SUBSCRIBE)).await;
    assert_eq!((answer.status, &answer.json()["code"]), (429, &Value::from("too_fast")));
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(town.dodo.asked().len(), 20);
}
