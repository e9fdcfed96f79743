//! What `check` says of every state of the world that it knows.

use std::net::TcpListener;
use std::path::PathBuf;

use serde_json::Value;

use super::dodo::{Role, entitlement, key, product};
use super::machine::certificate_finding;
use super::*;
use crate::billing::dodo::{
    DodoError, EntitlementInfo, KeyRights, LIVE_HOST, ProductCredits, ProductInfo, TEST_HOST,
};
use crate::cli::tests::Office;
use crate::config::ProofBy;
use crate::dkim::KeySetting;
use crate::outbound::stand_in::StandIn;
use crate::store::{Maker, Store, StoreSettings};
use crate::telemetry::Metrics;
use crate::tls::{CertificateInfo, TlsError};
use crate::upstream::resend as api;
use crate::upstream::smtp::HostChecked;

/// Each finding as `LEVEL message; hint`, for tables.
fn told(findings: &[Finding]) -> String {
    findings.iter().map(Finding::line).collect()
}

fn levels(findings: &[Finding]) -> Vec<Level> {
    findings.iter().map(|finding| finding.level).collect()
}

#[test]
fn a_certificate_is_judged_by_its_time_its_key_and_its_name() {
    let mismatch = || TlsError::Mismatch { cert: PathBuf::from("c.pem"), key: PathBuf::from("k.pem") };
    let until = |days: &str, name: &str| {
        Ok(CertificateInfo {
            not_after: format!("{days}T10:00:00Z").parse().unwrap(),
            names: vec![name.to_owned()],
        })
    };
    let now = "2026-11-22T10:00:00Z".parse().unwrap();
    for (inspected, level, said) in [
        (until("2027-02-01", "smtp.example.com"), Level::Ok, "good for 71 days"),
        (until("2027-02-01", "*.EXAMPLE.com"), Level::Ok, "good for"),
        (until("2027-02-01", "*.com"), Level::Warn, "it is for *.com, not for smtp.hostname"),
        (until("2026-12-06", "smtp.example.com"), Level::Ok, "good for 14 days"),
        (until("2026-12-05", "smtp.example.com"), Level::Warn, "expires in 13 days"),
        (until("2026-11-21", "smtp.example.com"), Level::Fail, "expired on 2026-11-21"),
        (Err(mismatch()), Level::Fail, "does not belong to the certificate"),
    ] {
        let finding = certificate_finding(inspected, "smtp.example.com", now);
        assert_eq!(finding.level, level, "{}", finding.line());
        assert!(finding.line().contains(said), "{}", finding.line());
    }
}

#[test]
fn a_key_of_dodo_is_judged_by_what_it_may_do() {
    let unavailable = DodoError::Unavailable { reason: "connection refused".to_owned() };
    for (rights, level, said) in [
        (Ok(KeyRights::Writes), Level::Ok, "reads and writes"),
        (Ok(KeyRights::ReadsOnly), Level::Fail, "make a key with write access"),
        (Ok(KeyRights::OtherHost(LIVE_HOST)), Level::Fail, "DODO_PAYMENTS_ENVIRONMENT=live_mode"),
        (Ok(KeyRights::Bad), Level::Fail, "in test mode into DODO_PAYMENTS_API_KEY"),
        (Err(unavailable), Level::Fail, "connection refused"),
        (Err(DodoError::RateLimited { retry_after: None }), Level::Fail, "wait a minute"),
    ] {
        let finding = key(rights, TEST_HOST);
        assert_eq!(finding.level, level, "{}", finding.line());
        assert!(finding.line().contains(said), "{}", finding.line());
    }
}

fn not_found() -> DodoError {
    DodoError::NotFound { message: "nothing".to_owned() }
}

#[test]
fn an_entitlement_must_be_there_and_should_not_allow_overage() {
    let info = |overage_enabled, places| {
        let (id, name) = ("ce_1".to_owned(), "Email".to_owned());
        Ok(EntitlementInfo { id, name, precision: Some(places), overage_enabled })
    };
    for (answer, wanted, said) in [
        (info(false, 0), vec![Level::Ok], "ce_1 (Email)"),
        (info(true, 0), vec![Level::Ok, Level::Warn], "allows overage"),
        (info(false, 2), vec![Level::Ok, Level::Warn], "fractions"),
        (Err(not_found()), vec![Level::Fail], "into CREDIT_ENTITLEMENT_ID"),
    ] {
        let findings = entitlement(answer, "ce_1");
        assert_eq!(levels(&findings), wanted);
        assert!(told(&findings).contains(said), "{}", told(&findings));
    }
}

#[test]
fn a_product_must_be_there_and_should_grant_the_credits() {
    let info = |recurring, of: &str, overage_enabled| {
        let (entitlement_id, credits, expires_after_days) = (of.to_owned(), Some(5000), None);
        let credits = ProductCredits { entitlement_id, credits, overage_enabled, expires_after_days };
        let (product_id, name) = ("pdt_1".to_owned(), "Plan".to_owned());
        Ok(ProductInfo { product_id, name, is_recurring: Some(recurring), credits: vec![credits] })
    };
    for (role, answer, wanted, said) in [
        (Role::Plan, info(true, "ce_1", false), vec![Level::Ok], "grants 5000 credits"),
        (Role::Topup, info(false, "ce_1", false), vec![Level::Ok], "TOPUP_PRODUCT_ID pdt_1"),
        (Role::Plan, info(true, "ce_2", false), vec![Level::Warn], "grants no credits of ce_1"),
        (Role::Plan, info(true, "ce_1", true), vec![Level::Ok, Level::Warn], "pdt_1 allows overage"),
        (Role::Plan, info(false, "ce_1", false), vec![Level::Ok, Level::Warn], "is no subscription"),
        (Role::Topup, info(true, "ce_1", false), vec![Level::Ok, Level::Warn], "is a subscription"),
        (Role::Topup, Err(not_found()), vec![Level::Fail], "into TOPUP_PRODUCT_ID"),
    ] {
        let findings = product(role, "pdt_1", answer, "ce_1");
        assert_eq!(levels(&findings), wanted, "{}", told(&findings));
        assert!(told(&findings).contains(said), "{}", told(&findings));
    }
}

#[test]
fn resend_must_take_the_key_and_know_our_domain() {
    let domain = |status: &str| {
        let (name, status) = ("Example.com".to_owned(), status.to_owned());
        Ok(api::KeyRights::Full(vec![api::SendingDomain { name, status }]))
    };
    let own = [("notices.from", "example.com".to_owned())];
    for (answer, wanted, said) in [
        (domain("verified"), vec![Level::Ok, Level::Ok], "is verified"),
        (domain("partially_verified"), vec![Level::Ok, Level::Ok], "is partially_verified"),
        (domain("pending"), vec![Level::Ok, Level::Fail], "its state is pending"),
        (Ok(api::KeyRights::Full(Vec::new())), vec![Level::Ok, Level::Fail], "not a domain of this account"),
        (Ok(api::KeyRights::SendingOnly), vec![Level::Ok], "example.com is verified could not be seen"),
        (Err(api::ResendUnusable::BadKey("revoked".to_owned())), vec![Level::Fail], "RESEND_API_KEY"),
        (Err(api::ResendUnusable::Unavailable("timeout".to_owned())), vec![Level::Fail], "timeout"),
    ] {
        let findings = resend::judge(answer, &own);
        assert_eq!(levels(&findings), wanted, "{}", told(&findings));
        assert!(told(&findings).contains(said), "{}", told(&findings));
    }
}

#[test]
fn a_key_that_may_only_send_is_too_little_where_customers_add_domains() {
    let answers = [(Ok(api::KeyRights::SendingOnly), true), (Ok(api::KeyRights::Full(Vec::new())), false)];
    for (answer, is_too_little) in answers {
        let mut config = Config::default();
        assert_eq!(resend::cannot_manage(&config, &answer), None);
        config.senders.proof = ProofBy::Resend;
        let found = resend::cannot_manage(&config, &answer).map(|finding| finding.level);
        assert_eq!(found, is_too_little.then_some(Level::Fail));
    }
}

#[test]
fn an_smtp_host_that_is_away_is_a_failure_only_if_no_other_is_there() {
    let host = |found: Result<(), &str>| HostChecked {
        host: "mail.example:465".to_owned(),
        found: found.map_err(str::to_owned),
    };
    let away = || host(Err("cannot connect"));
    for (hosts, wanted) in [
        (vec![host(Ok(()))], vec![Level::Ok]),
        (vec![away()], vec![Level::Fail]),
        (vec![away(), host(Ok(()))], vec![Level::Warn, Level::Ok]),
        (vec![away(), away()], vec![Level::Fail, Level::Fail]),
    ] {
        let findings = smtp::judged(&hosts, "look");
        assert_eq!(levels(&findings), wanted, "{}", told(&findings));
        assert!(told(&findings).contains("mail.example:465"), "{}", told(&findings));
    }
}

#[test]
fn a_key_is_shown_as_the_record_to_publish_or_as_no_key() {
    let key = |file: &str| KeySetting {
        domain: "example.com".to_owned(),
        selector: "s1".to_owned(),
        key_file: format!("{}/src/dkim/tests/{file}", env!("CARGO_MANIFEST_DIR")).into(),
        default: false,
    };
    let findings = dkim::findings(&[key("ed25519.pem"), key("none.pem"), key("rsa-1024.pem")]);
    assert_eq!(levels(&findings), [Level::Ok, Level::Fail, Level::Fail], "{}", told(&findings));
    let record = "publish TXT s1._domainkey.example.com \"v=DKIM1; k=ed25519; p=";
    assert!(told(&findings).contains(record), "{}", told(&findings));
}

/// Answers as the two services give them to a sound set-up.
async fn services() -> (StandIn, StandIn) {
    const ENTITLEMENT: &str = r#"{"id":"ce_1","name":"Email","precision":0,"overage_enabled":true}"#;
    const PLAN: &str = r#"{"product_id":"pdt_1","name":"Plan","is_recurring":true,
        "credit_entitlements":[{"credit_entitlement_id":"ce_1","credits_amount":"5000","overage_enabled":false}]}"#;
    let dodo = StandIn::start(&[
        (200, &[], ENTITLEMENT),
        (404, &[], r#"{"code":"NOT_FOUND","message":"no such customer"}"#),
        (200, &[], ENTITLEMENT),
        (200, &[], PLAN),
        (404, &[], r#"{"code":"NOT_FOUND","message":"no such product"}"#),
    ]);
    let resend = StandIn::start(&[(
        200,
        &[],
        r#"{"object":"list","has_more":false,"data":[{"name":"example.com","status":"verified"}]}"#,
    )]);
    tokio::join!(dodo, resend)
}

#[tokio::test]
async fn everything_is_checked_even_after_a_problem_and_nothing_is_made() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    let office = Office::new(&format!(
        "nonsense = 1\n[smtp]\nsubmission = [\"{port}\"]\nsubmissions = []\ntls_cert = \"none.pem\"\n\
         [http]\nlisten = \"127.0.0.1:0\"\n[notices]\nfrom = \"a@example.com\"\n"
    ));
    let (dodo, resend) = services().await;
    let environment = |name: &str| {
        let value = match name {
            "DODO_PAYMENTS_API_KEY" => "sk_dodo_hidden",
            "DODO_PAYMENTS_BASE_URL" => dodo.base_url.as_str(),
            "CREDIT_ENTITLEMENT_ID" => "ce_1",
            "PLAN_PRODUCT_ID" => "pdt_1",
            "TOPUP_PRODUCT_ID" => "pdt_2",
            "RESEND_API_KEY" => "re_hidden",
            "RESEND_BASE_URL" => resend.base_url.as_str(),
            _ => return None,
        };
        Some(value.to_owned())
    };
    let printout = office.run_with("check", &environment).await.unwrap();
    assert!(!printout.is_success);
    for line in [
        "FAIL configuration ",
        "warn configuration billing.unit is \"message\"",
        "FAIL environment   DODO_WEBHOOK_KEY is not set; set it, or name a file that holds it in DODO_WEBHOOK_KEY_FILE\n",
        "FAIL certificate   cannot read none.pem",
        &format!("FAIL listener      {port} (smtp.submission) cannot be used"),
        "ok   listener      127.0.0.1:0 (http.listen)",
        "ok   database      there is none yet",
        "ok   dodo          the key reads and writes",
        "warn dodo          the credit entitlement ce_1 allows overage",
        "ok   dodo          PLAN_PRODUCT_ID pdt_1 (Plan) grants 5000 credits",
        "FAIL dodo          there is no product pdt_2",
        "ok   resend        example.com (notices.from) is verified",
    ] {
        assert!(printout.text.contains(line), "{line} in\n{}", printout.text);
    }
    assert!(!printout.text.contains("hidden"), "P10: {}", printout.text);
    assert!(!office.directory.join("data").exists(), "checking must not make a database");
    // Reading was asked for, and the one write is for nobody.
    assert_eq!(dodo.asked().iter().filter(|asked| asked.method == "POST").count(), 1);
}

#[test]
fn a_file_that_is_no_toml_is_one_problem() {
    let office = Office::new("[smtp");
    let (config, invalid) = Config::load_readable(Some(&office.config_path));
    let findings = settings(&config, invalid);
    assert_eq!(levels(&findings), [Level::Fail]);
    assert!(told(&findings).contains("line 2"), "{}", told(&findings));

    let (config, invalid) = Config::load_readable(Some(&office.directory.join("none.toml")));
    assert!(told(&settings(&config, invalid)).contains("with --config"));
}

#[tokio::test]
async fn programs_get_every_finding_as_an_object() {
    let office = Office::new("[smtp]\nsubmission = [\"127.0.0.1:0\"]\n[upstream]\nkind = \"smtp\"\n");
    let printout = office.run_with("check --json", &|_| None).await.unwrap();
    assert!(!printout.is_success);
    let findings: Value = serde_json::from_str(&printout.text).unwrap();
    let first = serde_json::json!({
        "level": "ok", "subject": "configuration", "message": "every key and value is sound", "hint": null,
    });
    assert_eq!(findings[0], first);
    let subjects: Vec<&str> =
        findings.as_array().unwrap().iter().filter_map(|finding| finding["subject"].as_str()).collect();
    assert!(subjects.contains(&"smtp upstream") && !subjects.contains(&"resend"), "{subjects:?}");
}

#[tokio::test]
async fn a_database_of_the_sandbox_is_not_for_serve() {
    let office = Office::new("");
    let data_dir = office.directory.join("data");
    let settings = StoreSettings {
        data_dir: data_dir.clone(),
        database_url: None,
        maker: Maker::Sandbox,
        low_balance_credits: 0,
        min_free_bytes: 0,
    };
    drop(Store::open(&settings, Metrics::new()).await.unwrap());
    let finding = machine::file(&data_dir).await;
    assert_eq!(finding.level, Level::Fail);
    assert!(finding.line().contains("use another data_dir"), "{}", finding.line());

    // A file where the directory should be.
    let finding = machine::file(&office.config_path).await;
    assert_eq!(finding.level, Level::Fail, "{}", finding.line());
}
