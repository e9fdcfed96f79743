//! Environments, with a table in the place of the process's own.

use std::collections::HashMap;

use secrecy::ExposeSecret;

use crate::config::{Config, MissingEnv, Secrets};

/// Variables that differ from [`COMPLETE`], and their values.
type Changes<'a> = &'a [(&'a str, &'a str)];

const COMPLETE: [(&str, &str); 7] = [
    ("DODO_PAYMENTS_API_KEY", "dodo_test_hunter2"),
    ("DODO_WEBHOOK_KEY", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
    ("CREDIT_ENTITLEMENT_ID", "cde_1"),
    ("PLAN_PRODUCT_ID", "pdt_plan"),
    ("TOPUP_PRODUCT_ID", "pdt_topup"),
    ("BASE_URL", "https://Mail.example.com/"),
    ("RESEND_API_KEY", "re_hunter2"),
];

fn lookup(changes: Changes<'_>) -> impl Fn(&str) -> Option<String> {
    let table: HashMap<String, String> =
        COMPLETE.iter().chain(changes).map(|(name, value)| (name.to_string(), value.to_string())).collect();
    move |name| table.get(name).cloned()
}

fn read(config: &str, changes: Changes<'_>) -> Result<Secrets, MissingEnv> {
    Secrets::from_env(&Config::parse(config).unwrap(), lookup(changes))
}

fn problems(config: &str, changes: Changes<'_>) -> Vec<String> {
    read(config, changes).err().map(|error| error.problems).unwrap_or_default()
}

fn exposed(secrets: &[secrecy::SecretString]) -> Vec<&str> {
    secrets.iter().map(ExposeSecret::expose_secret).collect()
}

#[test]
fn a_complete_environment_is_read() {
    let secrets = read("", &[("DODO_PAYMENTS_API_KEY", " dodo_test_hunter2\n")]).unwrap();
    assert_eq!(secrets.dodo_api_key.expose_secret(), "dodo_test_hunter2");
    assert_eq!(exposed(&secrets.dodo_webhook_keys), ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]);
    assert_eq!(secrets.credit_entitlement_id, "cde_1");
    assert_eq!(secrets.plan_product_id, "pdt_plan");
    assert_eq!(secrets.topup_product_id, "pdt_topup");
    assert_eq!(secrets.base_url, "https://mail.example.com");
    assert_eq!(secrets.resend_api_key.unwrap().expose_secret(), "re_hunter2");
    assert_eq!(secrets.dodo_base_url, "https://test.dodopayments.com");
    assert_eq!(secrets.resend_base_url, "https://api.resend.com");
    assert!(secrets.resend_webhook_secrets.is_empty());
    assert!(secrets.admin_token.is_none() && secrets.upstream_smtp_url.is_none());
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let config = Config::parse("upstream.fallback = \"smtp\"").unwrap();
    let env = |name: &str| (name == "PORT").then(|| "http".to_owned());
    let error = Secrets::from_env(&config, env).unwrap_err();
    let mut names: Vec<_> = error.problems.iter().map(|line| line.split(": ").next().unwrap()).collect();
    names.sort_unstable();
    let want = [
        "BASE_URL",
        "CREDIT_ENTITLEMENT_ID",
        "DODO_PAYMENTS_API_KEY",
        "DODO_WEBHOOK_KEY",
        "PLAN_PRODUCT_ID",
        "PORT",
        "RESEND_API_KEY",
        "TOPUP_PRODUCT_ID",
        "UPSTREAM_SMTP_URL",
    ];
    assert_eq!(names, want);
    assert_eq!(error.to_string().lines().count(), want.len() + 1);
}

#[test]
fn what_the_upstream_does_not_need_may_be_missing() {
    let smtp_only = "upstream.kind = \"smtp\"";
    let table = [
        ("", "RESEND_API_KEY", true),
        (smtp_only, "RESEND_API_KEY", false),
        ("", "UPSTREAM_SMTP_URL", false),
        (smtp_only, "UPSTREAM_SMTP_URL", true),
        ("upstream.fallback = \"smtp\"", "UPSTREAM_SMTP_URL", true),
        ("", "RESEND_WEBHOOK_SECRET", false),
        ("billing.refund_bounced = true", "RESEND_WEBHOOK_SECRET", true),
    ];
    for (config, name, required) in table {
        let problems = problems(config, &[("RESEND_API_KEY", "")]);
        let line = format!("{name}: is not set");
        assert_eq!(problems.contains(&line), required, "{config} {name} {problems:?}");
    }
}

#[test]
fn resends_smtp_service_takes_the_same_key() {
    let config = "upstream.fallback = \"resend-smtp\"";
    let url = |variables: &[(&'static str, &'static str)]| {
        let secrets = read(config, variables).unwrap();
        secrets.upstream_smtp_url.unwrap().expose_secret().to_owned()
    };
    assert_eq!(url(&[("RESEND_API_KEY", "re_k/y")]), "smtps://resend:re_k%2Fy@smtp.resend.com:465");
    let other = [("RESEND_API_KEY", "re_k"), ("RESEND_SMTP_URL", "smtp://127.0.0.1:2500?tls=required")];
    assert_eq!(url(&other), "smtp://resend:re_k@127.0.0.1:2500?tls=required");
    let wrong = problems(config, &[("RESEND_SMTP_URL", "http://hunter2")]);
    assert!(wrong.len() == 1 && wrong[0].starts_with("RESEND_SMTP_URL: "), "{wrong:?}");
}

#[test]
fn p10_malformed_values_are_named_and_never_repeated() {
    let table = [
        ("DODO_PAYMENTS_API_KEY", "dodo hunter2"),
        ("DODO_PAYMENTS_API_KEY", "dodo\u{e9}hunter2"),
        ("DODO_WEBHOOK_KEY", "whsec_hunter2!"),
        ("DODO_WEBHOOK_KEY", ","),
        ("DODO_WEBHOOK_KEY", "whsec_,hunter2!"),
        ("DODO_PAYMENTS_ENVIRONMENT", "hunter2"),
        ("DODO_PAYMENTS_BASE_URL", "ftp://hunter2"),
        ("CREDIT_ENTITLEMENT_ID", "../hunter2"),
        ("PLAN_PRODUCT_ID", "hunter2 x"),
        ("TOPUP_PRODUCT_ID", "hunter2?x"),
        ("BASE_URL", "hunter2"),
        ("BASE_URL", "https://me:hunter2@mail.example.com"),
        ("BASE_URL", "https://mail.example.com/?hunter2"),
        ("RESEND_API_KEY", "re hunter2"),
        ("RESEND_BASE_URL", "//hunter2"),
        ("RESEND_WEBHOOK_SECRET", "hunter2 hunter2"),
        ("PORT", "hunter2"),
        ("PORT", "65536"),
        ("POSTMETER_ADMIN_TOKEN", "hunter2 hunter2 hunter2"),
        ("UPSTREAM_SMTP_URL", "hunter2"),
        ("UPSTREAM_SMTP_URL", "http://me:hunter2@smtp.example.com"),
        ("UPSTREAM_SMTP_URL", "smtps://me:hunter2@"),
        ("UPSTREAM_SMTP_URL", "smtps://me:hunter2@smtp.example.com?tls=maybe"),
        ("UPSTREAM_SMTP_URL", "smtps://me:hunter2@smtp.example.com?tls=required&x=1"),
    ];
    for (name, value) in table {
        let problems = problems(
            "upstream.fallback = \"smtp\"",
            &[("UPSTREAM_SMTP_URL", "smtps://smtp.example.com"), (name, value)],
        );
        assert_eq!(problems.len(), 1, "{name}={value} {problems:?}");
        assert!(problems[0].starts_with(&format!("{name}: ")), "{problems:?}");
        assert!(!problems[0].contains("hunter2"), "{problems:?}");
    }
}

#[test]
fn p10_debug_shows_no_secret() {
    let secrets = read(
        "",
        &[
            ("POSTMETER_ADMIN_TOKEN", "hunter2hunter2hunter2"),
            ("UPSTREAM_SMTP_URL", "smtps://me:hunter2@smtp.example.com"),
            ("RESEND_WEBHOOK_SECRET", "whsec_hunter2hunter2aa"),
        ],
    );
    let shown = format!("{:?}", secrets.unwrap());
    assert!(!shown.contains("hunter2") && !shown.contains("C2FVs"), "{shown}");
}

#[test]
fn dodo_is_reached_where_the_environment_says() {
    let table: [(Changes<'_>, &str); 5] = [
        (&[], "https://test.dodopayments.com"),
        (&[("DODO_PAYMENTS_ENVIRONMENT", "test_mode")], "https://test.dodopayments.com"),
        (&[("DODO_PAYMENTS_ENVIRONMENT", "live_mode")], "https://live.dodopayments.com"),
        (&[("DODO_PAYMENTS_BASE_URL", "http://127.0.0.1:9/")], "http://127.0.0.1:9"),
        (
            &[("DODO_PAYMENTS_ENVIRONMENT", "live_mode"), ("DODO_PAYMENTS_BASE_URL", "http://[::1]:9/dodo")],
            "http://[::1]:9/dodo",
        ),
    ];
    for (changes, want) in table {
        assert_eq!(read("", changes).unwrap().dodo_base_url, want, "{changes:?}");
    }
}

#[test]
fn signing_keys_may_be_several_while_they_rotate() {
    let secrets = read(
        "",
        &[
            ("DODO_WEBHOOK_KEY", "whsec_b2xkIGtleQ==, bmV3IGtleQ"),
            ("RESEND_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ],
    )
    .unwrap();
    assert_eq!(exposed(&secrets.dodo_webhook_keys), ["whsec_b2xkIGtleQ==", "bmV3IGtleQ"]);
    assert_eq!(exposed(&secrets.resend_webhook_secrets), ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]);
}

#[test]
fn mail_leaves_this_machine_under_tls_only() {
    let table = [
        ("smtps://u:p@smtp.example.com:465", false, true),
        ("smtp://u:p@smtp.example.com:587?tls=required", false, true),
        ("smtp://smtp.example.com:587", false, true),
        ("smtp://smtp.example.com:587?tls=opportunistic", false, false),
        ("smtp://smtp.example.com:587", true, false),
        ("smtp://smtp.example.com:587?tls=required", true, true),
        ("smtp://127.0.0.1:2526", true, true),
        ("smtp://[::1]:2526", true, true),
        ("smtp://localhost:2526", true, true),
        ("smtp://127.0.0.1.example.com:2526", true, false),
    ];
    for (url, allow_plaintext, sound) in table {
        let config = format!("[upstream]\nkind = \"smtp\"\nallow_plaintext = {allow_plaintext}");
        let problems = problems(&config, &[("UPSTREAM_SMTP_URL", url)]);
        assert_eq!(problems.is_empty(), sound, "{url} {allow_plaintext} {problems:?}");
    }
}

#[test]
fn any_variable_may_come_from_a_file() {
    let dir = std::env::temp_dir().join(format!("postmeter-secrets-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (full, empty) = (file("key", "re_from_file\n"), file("empty", " \n"));
    let none = dir.join("none").to_str().unwrap().to_owned();
    let by_file = |path: &str| read("", &[("RESEND_API_KEY", ""), ("RESEND_API_KEY_FILE", path)]);

    assert_eq!(by_file(&full).unwrap().resend_api_key.unwrap().expose_secret(), "re_from_file");
    let of = |result: Result<Secrets, MissingEnv>| result.unwrap_err().problems.join("\n");
    assert!(
        of(by_file(&empty)).starts_with("RESEND_API_KEY: the file ")
            && of(by_file(&empty)).ends_with("is empty")
    );
    assert!(of(by_file(&none)).contains(&none));
    let both = read("", &[("RESEND_API_KEY_FILE", &full)]);
    assert_eq!(of(both), "RESEND_API_KEY: RESEND_API_KEY_FILE is set too; keep one of the two");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn port_replaces_only_the_port() {
    let mut config = Config::parse("http.listen = \"127.0.0.1:3000\"").unwrap();
    config.apply_port(|_| None).unwrap();
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:3000");
    config.apply_port(lookup(&[("PORT", "8080")])).unwrap();
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    let error = config.apply_port(lookup(&[("PORT", "-1")])).unwrap_err();
    assert_eq!(error.problems, ["PORT: is not a port from 0 to 65535"]);
}

#[test]
fn p10_the_database_of_the_environment_goes_before_that_of_the_file_and_is_not_shown() {
    let url =
        |config: &Config| config.database_url.as_ref().map(|url| url.secret().expose_secret().to_owned());
    let mut config = Config::parse("database_url = \"postgres://u@db.example/file\"").unwrap();
    config.apply_database_url(|_| None).unwrap();
    assert_eq!(url(&config).unwrap(), "postgres://u@db.example/file");
    let named = [("DATABASE_URL", "postgres://u:hunter2@db.example/environment")];
    config.apply_database_url(lookup(&named)).unwrap();
    assert_eq!(url(&config).unwrap(), named[0].1);
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");

    let wrong = [("DATABASE_URL", "postgres://u:hunter2@db.example/x?sslmode=require")];
    let problem = config.apply_database_url(lookup(&wrong)).unwrap_err().problems.join("\n");
    assert!(
        problem.starts_with("DATABASE_URL: has another sslmode") && !problem.contains("hunter2"),
        "{problem}"
    );
    let told = read("", &wrong).unwrap_err().problems.join("\n");
    assert_eq!(told, problem);
}

#[test]
fn doubtful_environments_are_warned_of() {
    let table: [(Changes<'_>, &str, bool); 6] = [
        (&[], "POSTMETER_ADMIN_TOKEN is not set", true),
        (&[("POSTMETER_ADMIN_TOKEN", "short")], "short enough to guess", true),
        (&[("POSTMETER_ADMIN_TOKEN", "0123456789abcdef")], "POSTMETER_ADMIN_TOKEN", false),
        (&[("BASE_URL", "http://mail.example.com")], "unencrypted", true),
        (&[("BASE_URL", "http://127.0.0.1:3000")], "unencrypted", false),
        (&[], "unencrypted", false),
    ];
    for (changes, part, want) in table {
        let warnings = read("", changes).unwrap().warnings();
        assert_eq!(warnings.iter().any(|line| line.contains(part)), want, "{changes:?} {warnings:?}");
    }
}
