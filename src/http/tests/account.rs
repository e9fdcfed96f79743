//! The page of a customer who signed in.

use super::*;

fn as_visitor(request: Request<Body>, cookie: &str) -> Request<Body> {
    with(request, "cookie", cookie)
}

#[tokio::test]
async fn a_customer_signs_in_looks_and_signs_out() {
    let town = Town::new().await;
    let wrong = town.call(form_of("/sign-in", "username=ann&secret=wrong")).await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.body.contains("Wrong username or secret") && !wrong.headers.contains_key("set-cookie"));
    assert!(wrong.header("www-authenticate").starts_with("Bearer"), "no dialog of the browser");

    let cookie = town.sign_in("ann").await;
    assert!(!cookie.contains("ann-secret"), "P10");
    let page = town.call(as_visitor(get("/account"), &cookie)).await;
    assert!(page.status == 200 && page.body.contains("Account cus_ann") && page.body.contains("<dd>30</dd>"));
    assert_eq!(town.call(as_visitor(get("/"), &cookie)).await.header("location"), "/account");

    let out = town.call(as_visitor(form_of("/sign-out", ""), &cookie)).await;
    assert!(out.status == 303 && out.header("set-cookie").contains("Max-Age=0"), "{out:?}");
}

#[tokio::test]
async fn pages_for_customers_lead_visitors_to_the_start() {
    let town = Town::new().await;
    let forms = [
        "/account/send",
        "/account/credentials",
        "/account/credentials/revoke",
        "/account/top-up",
        "/account/portal",
    ];
    let forms = forms.map(|path| form_of(path, "to=x&subject=s&text=t&username=ann"));
    let pages =
        ["/account", "/account/send", "/account/credentials", "/account/connect", "/account/live"].map(get);
    for request in forms.into_iter().chain(pages) {
        let asked = format!("{} {}", request.method(), request.uri());
        let answer = town.call(request).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{asked}");
    }
}

#[tokio::test]
async fn a_form_of_another_site_does_nothing() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        let form = as_visitor(form_of("/account/credentials", "label=x"), &cookie);
        let answer = town.call(with(form, name, value)).await;
        assert_eq!(answer.status, 403, "{name}");
    }
    assert_eq!(town.store.credentials(Some(&customer("ann"))).await.unwrap().len(), 1);
}

#[tokio::test]
async fn credentials_are_made_and_revoked_and_a_revoked_one_is_signed_out() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let page = town.call(as_visitor(form_of("/account/credentials", "label=%3Ci%3Eapp"), &cookie)).await;
    assert!(page.body.contains("&lt;i&gt;app") && !page.body.contains("<i>app"), "{}", page.body);
    let secret = page.body.split("<dt>Secret</dt><dd><code>").nth(1).unwrap().split('<').next().unwrap();
    assert_eq!(town.call(bearer(get("/credits/cus_ann"), secret)).await.status, 200);
    let later = town.call(as_visitor(get("/account/credentials"), &cookie)).await;
    assert!(!later.body.contains(secret), "P10");

    let revoke =
        |name: &str| as_visitor(form_of("/account/credentials/revoke", &format!("username={name}")), &cookie);
    assert_eq!(town.call(revoke("bob")).await.status, 404, "not theirs");
    assert_eq!(town.call(bearer(get("/messages"), "bob-secret")).await.status, 200);
    assert_eq!(town.call(revoke("ann")).await.status, 303);
    assert_eq!(town.call(as_visitor(get("/account"), &cookie)).await.header("location"), "/");
    assert_eq!(town.call(basic(get("/messages"), "ann")).await.status, 401);
    assert_eq!(town.call(bearer(get("/messages"), secret)).await.status, 200, "the new one stays");
}

#[tokio::test]
async fn a_letter_is_sent_and_what_is_refused_comes_back_as_it_was_typed() {
    let town = Town::new().await;
    let cookie = town.sign_in("ann").await;
    let form = as_visitor(get("/account/send"), &cookie);
    assert!(town.call(form).await.body.contains("value=\"ann@example.com\""));

    let letter = "from=&to=x%40example.net%2C+y%40example.net&subject=%3Cb%3EHi&text=one%0D%0Atwo";
    let sent = town.call(as_visitor(form_of("/account/send", letter), &cookie)).await;
    assert_eq!(sent.status, 303, "{sent:?}");
    let page = town.call(as_visitor(get(sent.header("location")), &cookie)).await;
    assert!(page.body.contains("Accepted as"), "{}", page.body);
    let lie = format!("/account?sent={}", "0".repeat(32));
    assert!(!town.call(as_visitor(get(&lie), &cookie)).await.body.contains("Accepted as"));
    assert!(page.body.contains("&lt;b&gt;Hi") && !page.body.contains("<b>Hi"), "{}", page.body);
    assert!(page.body.contains("x@example.net and 1 more") && page.body.contains("<dd>29</dd>"));

    let letter = "from=eve%40example.com&to=x%40example.net&subject=s&text=%3C%2Ftextarea%3E%3Cscript%3E";
    let refused = town.call(as_visitor(form_of("/account/send", letter), &cookie)).await;
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("eve@example.com is not a sender of this account"));
    assert!(refused.body.contains("&lt;/textarea&gt;&lt;script&gt;") && !refused.body.contains("<script>"));
    assert_eq!(town.store.messages(None, None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_forged_cookie_signs_nobody_in() {
    let town = Town::new().await;
    let other = Town::new().await;
    for cookie in ["__Host-postmeter=9999999999.00.ann".to_owned(), other.sign_in("ann").await] {
        let answer = town.call(as_visitor(get("/account"), &cookie)).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/"));
    }
}
