use super::*;
use crate::billing::dodo::catalog::Price;
use crate::billing::dodo::{ProductCredits, ProductInfo};

fn dollars(minor_units: i64) -> Price {
    Price { currency: "USD".to_owned(), minor_units }
}

fn goods() -> Goods {
    Goods { name: "5,000 emails".to_owned(), price: dollars(900), credits: 5_000, days: 30 }
}

fn offer() -> Offer {
    let credits = ProductCredits {
        entitlement_id: "cde_1".to_owned(),
        credits: Some(5_000),
        overage_enabled: false,
        expires_after_days: Some(30),
    };
    let info = ProductInfo {
        product_id: "pdt_1".to_owned(),
        name: "whatever it is called".to_owned(),
        is_recurring: Some(false),
        credits: vec![credits],
    };
    Offer { info, price: Some(dollars(900)), term: Some(Term::Once) }
}

fn endpoint(id: &str, url: &str, mark: Option<&str>) -> Endpoint {
    let mark = mark.map(str::to_owned);
    Endpoint { id: id.to_owned(), url: url.to_owned(), mark, events: Vec::new(), is_disabled: false }
}

#[test]
fn every_difference_of_a_product_is_told() {
    let told = |change: &dyn Fn(&mut Offer), entitlement_id| {
        let mut offer = offer();
        change(&mut offer);
        differences(&offer, Part::TopUp, &goods(), entitlement_id).join("; ")
    };
    let here = Some("cde_1");
    assert_eq!(told(&|_| (), here), "");
    assert_eq!(told(&|offer| offer.info.credits[0].expires_after_days = None, here), "");
    assert_eq!(told(&|offer| offer.price = Some(dollars(901)), here), "it costs USD 9.01, not USD 9.00");
    let euros =
        |offer: &mut Offer| offer.price = Some(Price { currency: "EUR".to_owned(), minor_units: 900 });
    assert_eq!(told(&euros, here), "it costs EUR 9.00, not USD 9.00");
    assert_eq!(told(&|offer| offer.price = None, here), "its price cannot be read, USD 9.00 was asked for");
    assert_eq!(told(&|offer| offer.term = Some(Term::Monthly), here), "it is not paid once");
    assert_eq!(
        told(&|offer| offer.info.credits[0].credits = Some(50), here),
        "it grants 50 credits, not 5000"
    );
    assert_eq!(
        told(&|offer| offer.info.credits[0].expires_after_days = Some(7), here),
        "its credits lapse after 7 days, not 30"
    );
    assert!(told(&|offer| offer.info.credits[0].overage_enabled = true, here).contains("allows overage"));
    for elsewhere in [None, Some("cde_2")] {
        assert_eq!(told(&|_| (), elsewhere), "it grants no credits of the credit entitlement");
    }
    let plan = differences(&offer(), Part::Plan, &goods(), here);
    assert_eq!(plan, ["it is not paid every month"]);
}

#[test]
fn a_webhook_is_found_by_its_url_whoever_made_it() {
    const URL: &str = "https://mail.example/webhooks/dodo";
    let (item, remarks) = find_webhook(vec![endpoint("ep_1", "https://other.example/x", None)], URL).unwrap();
    assert_eq!((item.id, item.name.as_str(), remarks.len()), (None, URL, 0));
    let all = vec![
        endpoint("ep_1", "https://old.example/webhooks/dodo", Some(ENDPOINT_MARK)),
        endpoint("ep_2", &format!("{URL}/"), None),
    ];
    let (item, remarks) = find_webhook(all, URL).unwrap();
    assert_eq!((item.id.as_deref(), item.is_made, item.differences.len()), (Some("ep_2"), false, 0));
    assert!(remarks[0].contains("ep_1") && remarks[0].contains("old.example"), "{remarks:?}");
    let twice = vec![endpoint("ep_1", URL, Some(ENDPOINT_MARK)), endpoint("ep_2", URL, None)];
    let error = find_webhook(twice, URL).unwrap_err().to_string();
    assert!(error.contains("ep_1, ep_2"), "each signs with its own secret: {error}");
}

#[test]
fn a_webhook_must_be_told_of_what_is_acted_on() {
    let mut found = endpoint("ep_1", "https://mail.example/webhooks/dodo", None);
    found.events = EVENTS.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(webhook_differences(&found), [""; 0]);
    found.events.retain(|name| name != "credit.added");
    found.events.retain(|name| name != "dispute.opened");
    found.events.push("payout.success".to_owned());
    found.is_disabled = true;
    let told = ["it is disabled", "it is not told of dispute.opened, credit.added"];
    assert_eq!(webhook_differences(&found), told, "what it is told of besides does no harm");
    found.events.clear();
    assert_eq!(webhook_differences(&found), ["it is disabled"], "one without a filter is told of everything");
}

#[test]
fn an_entitlement_must_not_allow_overage_or_count_fractions() {
    let told = |precision, overage_enabled| {
        let (id, name) = ("cde_1".to_owned(), ENTITLEMENT_NAME.to_owned());
        entitlement_differences(&EntitlementInfo { id, name, precision, overage_enabled }).len()
    };
    assert_eq!([told(Some(0), false), told(None, false), told(Some(2), true)], [0, 0, 2]);
}
