//! Configuration files and environments, good and bad, as an operator meets them.

mod environment;

use std::collections::BTreeSet;

use super::*;

/// The problems of a file as the operator reads them.
fn complaints(text: &str) -> Vec<String> {
    match Config::parse(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
}

#[test]
fn the_example_shows_every_default() {
    assert_eq!(Config::parse(Config::EXAMPLE).unwrap(), Config::default());
    assert!(include_str!("../../README.md").contains(Config::EXAMPLE), "the README shows it as it is");
}

/// The keys that the example shows, with its commented lines too.
fn shown_keys() -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in Config::EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((name, _)) = line.trim_start_matches("# ").split_once(" = ") {
            keys.insert(format!("{section}{name}"));
        }
    }
    keys
}

/// The keys that serde knows, taken from its own complaint about one that it does not.
fn known_keys(section: &str) -> Vec<String> {
    let text = if section.is_empty() { "zz = 1".to_owned() } else { format!("[{section}]\nzz = 1") };
    let complaint = complaints(&text).remove(0);
    let (_, expected) = complaint.split_once("expected ").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_example_shows_every_key() {
    let mut known = BTreeSet::new();
    for key in known_keys("") {
        let is_section = Config::EXAMPLE.contains(&format!("\n[{key}]\n"));
        if is_section {
            known.extend(known_keys(&key).into_iter().map(|name| format!("{key}.{name}")));
        } else {
            known.insert(key);
        }
    }
    assert!(known.len() > 30);
    assert_eq!(shown_keys(), known);
}

#[test]
fn the_optional_lines_of_the_example_are_good_values() {
    let uncommented: String = (Config::EXAMPLE.lines())
        .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let config = Config::parse(&uncommented).unwrap();
    assert_eq!(config.notices_from().unwrap().to_string(), "Postmeter <postmaster@example.com>");
    assert!(config.http.metrics_listen.is_some() && config.billing.top_up_url.is_some());
}

fn assert_told(table: &[(&str, &str)]) {
    for (text, want) in table {
        let complaints = complaints(text);
        assert!(complaints.iter().any(|line| line.contains(want)), "{text}\n{complaints:#?}");
        assert!(complaints.iter().all(|line| !line.contains('\n')), "{complaints:#?}");
    }
}

#[test]
fn what_is_not_a_setting_is_told_with_line_and_key() {
    let table = [
        (
            "[smtp]\nhostnam = \"x\"",
            "line 2, column 1: smtp.hostnam: unknown field `hostnam`, expected one of",
        ),
        ("\n[smpt]\n", "line 2, column 2: smpt: unknown field `smpt`"),
        ("data_dir = \"a\"\ndata_dir = \"b\"", "line 2, column 1: "),
        ("data_dir = ", "line 1, column 12: "),
        ("[queue]\nretry_min_s = \"30\"", "line 2, column 15: queue.retry_min_s: invalid type"),
        ("[queue]\nretry_min_s = -1", "line 2, column 15: queue.retry_min_s: invalid value"),
        (
            "[smtp]\nsubmission = [\n  \"587\",\n]",
            "line 3, column 3: smtp.submission: invalid socket address",
        ),
        (
            "[smtp]\ntrusted_proxies = [\"10.0.0.0/99\"]",
            "line 2, column 19: smtp.trusted_proxies: \"10.0.0.0/99\" is not a network such as 10.0.0.0/8",
        ),
        (
            "[smtp]\ntrusted_proxies = [\"::1/128\", \"10.0.0.5/8\"]",
            "line 2, column 19: smtp.trusted_proxies: 10.0.0.5/8 names an address within 10.0.0.0/8",
        ),
        (
            "[http]\ntrusted_proxies = [\"10.0.0.1\"]",
            "line 2, column 19: http.trusted_proxies: \"10.0.0.1\" is",
        ),
        (
            "[billing]\nout_of_credit_reply = 500",
            "billing.out_of_credit_reply: out_of_credit_reply is 500; it can be",
        ),
        ("[upstream]\nkind = \"sendmail\"", "line 2, column 8: upstream.kind: unknown variant `sendmail`"),
        ("smtp = 1", "line 1, column 8: smtp: invalid type"),
        (
            "database_url = \"postgres://u:pw@h\"",
            "line 1, column 1: database_url: names no database; write it after the hosts",
        ),
    ];
    assert_told(&table);
}

#[test]
fn senseless_values_are_told_with_line_and_key() {
    let table = [
        ("data_dir = \"\"", "data_dir: is empty"),
        (
            "smtp.hostname = \"not a name\"",
            "line 1, column 6: smtp.hostname: \"not a name\" is not a domain name",
        ),
        ("[smtp]\nhostname = \"[192.0.2.1]\"", "line 2, column 1: smtp.hostname: "),
        ("[smtp]\nhostname = \"bücher.example\"", "smtp.hostname: "),
        ("[smtp]\nmax_message_bytes = 1000", "smtp.max_message_bytes: is 1000; must be at least 65536"),
        (
            "[billing]\nrefund_bounced = true\n[upstream]\nkind = \"smtp\"",
            "billing.refund_bounced: needs Resend",
        ),
        ("[smtp]\nmax_recipients = 0", "smtp.max_recipients: is 0; must be at least 1"),
        ("[smtp]\nmax_connections = 0", "smtp.max_connections: is 0"),
        ("[smtp]\nmax_connections_per_ip = 0", "smtp.max_connections_per_ip: is 0"),
        ("[smtp]\nhandshake_timeout_s = 0", "smtp.handshake_timeout_s: is 0"),
        ("[http]\nmax_connections = 0", "http.max_connections: is 0"),
        ("[http]\nmax_connections_per_ip = 0", "http.max_connections_per_ip: is 0"),
        ("[http]\nheader_timeout_s = 0", "http.header_timeout_s: is 0"),
        ("[smtp]\nidle_timeout_s = 0", "smtp.idle_timeout_s: is 0"),
        ("[smtp]\ndata_timeout_s = 0", "smtp.data_timeout_s: is 0"),
        ("[smtp]\nunauthenticated_timeout_s = 0", "smtp.unauthenticated_timeout_s: is 0"),
        ("[smtp]\nmax_errors = 0", "smtp.max_errors: is 0"),
        ("[smtp]\nmax_bytes_arriving = 1", "smtp.max_bytes_arriving: is 1; must be at least 1048576"),
        ("[smtp]\ntls_key = \"\"", "smtp.tls_key: is empty"),
        ("[smtp]\nsubmission = []\nsubmissions = []", "smtp.submission: is empty"),
        ("[smtp]\nsubmission = [\"0.0.0.0:465\"]", "smtp.submissions: 0.0.0.0:465 is listened on twice"),
        (
            "[http]\nmetrics_listen = \"0.0.0.0:3000\"",
            "http.metrics_listen: 0.0.0.0:3000 is listened on twice",
        ),
        (
            "[billing]\nbalance_max_age_s = 90000",
            "billing.balance_max_age_s: is 90000; must not be more than",
        ),
        ("[billing]\noutage_max_age_h = 0", "billing.outage_max_age_h: is 0"),
        (
            "[billing]\nlow_balance_credits = 10000000000",
            "billing.low_balance_credits: is 10000000000; must be",
        ),
        ("[billing]\ntop_up_url = \"example.com\"", "billing.top_up_url: is not a URL"),
    ];
    assert_told(&table);
}

#[test]
fn senseless_values_about_mail_that_leaves_are_told_with_line_and_key() {
    let table = [
        ("[senders]\nstarter_domain = \"a b\"", "senders.starter_domain: \"a b\" is not a domain"),
        (
            "[senders]\nproof = \"resend\"\n[upstream]\nkind = \"smtp\"",
            "senders.proof: is \"resend\", which needs",
        ),
        ("[senders]\nresend_region = \"mars-1\"", "senders.resend_region: unknown variant `mars-1`"),
        ("[senders]\nmax_domains = 0", "senders.max_domains: is 0"),
        ("[senders]\nmax_domains_per_day = 0", "senders.max_domains_per_day: is 0"),
        ("[senders]\npolicy = \"all\"", "senders.policy: unknown variant `all`"),
        ("[upstream]\nmax_concurrency = 1", "upstream.max_concurrency: is 1; must be at least 2"),
        (
            "[upstream]\nmax_bytes_translating = 9",
            "upstream.max_bytes_translating: is 9; the largest message",
        ),
        (
            "[upstream]\nmax_bytes_in_flight = 52428799",
            "upstream.max_bytes_in_flight: is 52428799; the largest message",
        ),
        ("[smtp]\nmax_bytes_spooled = 9", "smtp.max_bytes_spooled: is 9; the largest message"),
        (
            "[smtp]\nmax_bytes_spooled_per_customer = 9",
            "smtp.max_bytes_spooled_per_customer: is 9; the largest message",
        ),
        ("[billing]\ndodo_timeout_s = 0", "billing.dodo_timeout_s: is 0"),
        ("[upstream]\ntimeout_s = 0", "upstream.timeout_s: is 0"),
        ("[notices]\nfrom = \"Postmeter\"", "notices.from: \"Postmeter\" does not read"),
        (
            "[queue]\nretry_min_s = 20000",
            "queue.retry_min_s: is 20000; must not be more than retry_max_s (14400)",
        ),
        ("[queue]\nlifetime_h = 1000000", "queue.lifetime_h: is 1000000; must be at most 87600"),
        ("[reputation]\nwindow_days = 32", "reputation.window_days: is 32; must be at most 31"),
        ("[reputation]\nwindow_days = 0", "reputation.window_days: is 0; must be at least 1"),
        ("[reputation]\nmin_bounced = 0", "reputation.min_bounced: is 0; must be at least 1"),
        (
            "[reputation]\nmax_complained_per_10000 = 10001",
            "reputation.max_complained_per_10000: is 10001; must be at most 10000",
        ),
        ("[queue]\nkeep_log_days = 3651", "queue.keep_log_days: is 3651; must be at most 3650"),
        ("[queue]\nlease_s = 1", "queue.lease_s: is 1; must be at least 2"),
    ];
    assert_told(&table);
}

#[test]
fn connections_that_carry_nothing_are_told() {
    assert_told(&[
        (
            "upstream.max_messages_per_connection = 0",
            "upstream.max_messages_per_connection: is 0; must be at least 1",
        ),
        ("upstream.max_connection_age_s = 0", "upstream.max_connection_age_s: is 0"),
    ]);
}

#[test]
fn senseless_keys_are_told() {
    let key = |domain: &str, selector: &str, default: bool| {
        format!(
            "[[dkim]]\ndomain = {domain:?}\nselector = {selector:?}\nkey_file = \"k\"\ndefault = {default}\n"
        )
    };
    let two = |one: (&str, &str, bool), other: (&str, &str, bool)| {
        key(one.0, one.1, one.2) + &key(other.0, other.1, other.2)
    };
    let table = [
        ("[[dkim]]\ndomain = \"x.example\"\nselector = \"s\"\n".to_owned(), "dkim: missing field `key_file`"),
        (key("x.example", "s", false) + "key = 1\n", "line 6, column 1: dkim: unknown field `key`"),
        (key("not a name", "s", false), "line 1, column 3: dkim: \"not a name\" is not a domain name"),
        (key("x.example", "s 1", false), "dkim: \"s 1\" is not a selector"),
        (key("x.example", "b\u{fc}ro", false), "is not a selector"),
        (
            two(("x.example", "s", false), ("X.example", "S", false)),
            "dkim: S of X.example stands there twice",
        ),
        (two(("x.example", "s", true), ("y.example", "s", true)), "dkim: the default keys are of different"),
    ];
    let table: Vec<(&str, &str)> = table.iter().map(|(text, want)| (text.as_str(), *want)).collect();
    assert_told(&table);
    let sound = two(("x.example", "s1", true), ("x.example", "s2", true)) + &key("y.example", "s1", false);
    assert_eq!(Config::parse(&sound).unwrap().dkim.len(), 3);
}

#[test]
fn the_room_of_one_customer_holds_the_largest_request() {
    let sized =
        |each: usize| format!("[smtp]\nmax_message_bytes = 90000\nmax_bytes_arriving_per_customer = {each}");
    assert!(Config::parse(&sized(556_608)).is_ok());
    let want = "smtp.max_bytes_arriving_per_customer: is 556607; must be at least 556608, for one request";
    assert_told(&[(&sized(556_607), want)]);
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text = "colour = 1\n[smtp]\nmax_errors = 0\nmax_recipients = \"few\"\nsize = 3\n\
                [queue]\nlease_s = 0\n[resend]\nkey = 1\n";
    let complaints = complaints(text);
    let keys: Vec<_> = complaints.iter().map(|line| line.split(": ").nth(1).unwrap()).collect();
    let want = ["colour", "smtp.max_errors", "smtp.max_recipients", "smtp.size", "queue.lease_s", "resend"];
    assert_eq!(keys, want, "{complaints:#?}");
}

#[test]
fn p10_a_secret_in_the_wrong_place_is_not_repeated() {
    for text in [
        "RESEND_API_KEY = \"hunter2\"",
        "[billing]\ndodo_payments_api_key = \"hunter2\"",
        "database_url = \"postgres://me:hunter2@db/x?sslmode=prefer\"",
        "RESEND_API_KEY = hunter2",
        "[upstream]\nurl = \"smtps://me:hunter2@host\"",
    ] {
        let complaints = complaints(text).join("\n");
        assert!(!complaints.is_empty() && !complaints.contains("hunter2"), "{complaints}");
    }
    let complaints = complaints("[upstream]\nresend_api_key = \"x\"");
    assert!(complaints[0].ends_with("it comes from the environment, never from this file"), "{complaints:?}");
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let missing = std::path::Path::new("/nonexistent/postmeter.toml");
    let error = Config::load(Some(missing)).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration /nonexistent/postmeter.toml: "), "{error}");
}

#[test]
fn a_wrong_file_is_named_above_its_problems() {
    let dir = std::env::temp_dir().join(format!("postmeter-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("bad.toml");
    std::fs::write(&path, "[queue]\nlease_s = 0\nretry_max_s = 0\n").unwrap();
    let error = Config::load(Some(&path)).unwrap_err().to_string();
    std::fs::remove_dir_all(&dir).unwrap();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 4, "{error}");
    assert!(lines[0].contains(path.to_str().unwrap()) && lines[0].ends_with("is not valid:"), "{error}");
    assert_eq!(lines[1], "  queue.retry_min_s: is 30; must not be more than retry_max_s (0)");
    assert_eq!(lines[2], "  line 2, column 1: queue.lease_s: is 0; must be at least 2");
}

#[test]
fn notices_come_from_whom_the_file_says_or_from_postmaster() {
    let table = [
        ("", "Postmeter <postmaster@localhost>"),
        ("[smtp]\nhostname = \"smtp.example.com\"", "Postmeter <postmaster@smtp.example.com>"),
        ("[notices]\nfrom = \"Post Office <po@example.com>\"", "Post Office <po@example.com>"),
        ("[notices]\nfrom = '\"Office, Post\" <po@example.com>'", "\"Office, Post\" <po@example.com>"),
        ("[notices]\nfrom = \"po@example.com\"", "po@example.com"),
        ("[notices]\nfrom = \"<po@example.com>\"", "po@example.com"),
    ];
    for (text, want) in table {
        assert_eq!(Config::parse(text).unwrap().notices_from().unwrap().to_string(), want, "{text}");
    }
    for bad in ["", "A <b", "A <b> c", "A <b@c> <d@e>", "A \\\" <b@c.de>", "A\\r\\nBcc: x <b@c.de>"] {
        let complaints = complaints(&format!("[notices]\nfrom = \"{bad}\""));
        assert!(complaints.iter().any(|line| line.contains("notices.from")), "{bad:?} {complaints:?}");
    }
}

#[test]
fn the_http_side_trusts_the_proxies_of_smtp_unless_it_has_its_own() {
    let table = [
        ("", false),
        ("[smtp]\ntrusted_proxies = [\"10.0.0.0/8\"]", true),
        ("[smtp]\ntrusted_proxies = [\"10.0.0.0/8\"]\n[http]\ntrusted_proxies = []", false),
        ("[http]\ntrusted_proxies = [\"10.0.0.0/8\"]", true),
    ];
    for (text, want) in table {
        let config = Config::parse(text).unwrap();
        let trusted = config.http_trusted_proxies().iter().any(|it| it.contains([10, 1, 2, 3].into()));
        assert_eq!(trusted, want, "{text}");
    }
}

#[test]
fn doubtful_settings_are_warned_of() {
    const DKIM: &str = "dkim = [{ domain = \"x.example\", selector = \"s\", key_file = \"k\" }]";
    let table = [
        ("", "each recipient", true),
        ("billing.unit = \"recipient\"", "each recipient", false),
        ("smtp.max_recipients = 1", "each recipient", false),
        ("", "smtp.hostname", true),
        ("smtp.hostname = \"smtp.example.com\"", "smtp.hostname is", false),
        ("notices.from = \"a@example.com\"", "notices.from is not set", false),
        ("smtp.trusted_proxies = [\"0.0.0.0/0\"]", "trusted_proxies names every address", true),
        ("http.trusted_proxies = [\"::/0\"]", "trusted_proxies names every address", true),
        ("smtp.trusted_proxies = [\"10.0.0.0/8\"]", "trusted_proxies", false),
        ("upstream.allow_plaintext = true", "allow_plaintext does nothing", true),
        ("upstream.allow_plaintext = true\nupstream.kind = \"smtp\"", "allow_plaintext does nothing", false),
        ("upstream.kind = \"smtp\"\nupstream.fallback = \"smtp\"", "fallback does nothing", true),
        ("senders.resend_region = \"sa-east-1\"", "resend_region does nothing", true),
        ("senders.resend_region = \"us-east-1\"\nsenders.proof = \"resend\"", "resend_region does", false),
        ("dkim = []", "dkim does nothing", false),
        (DKIM, "dkim does nothing", true),
        (&format!("upstream.fallback = \"smtp\"\n{DKIM}"), "dkim does nothing", false),
        (&format!("upstream.fallback = \"resend-smtp\"\n{DKIM}"), "dkim does nothing", true),
    ];
    for (text, part, want) in table {
        let warnings = Config::parse(text).unwrap().warnings();
        assert_eq!(warnings.iter().any(|line| line.contains(part)), want, "{text} {warnings:?}");
    }
}
