//! Mistakes of the operator: each is named, all at once, and nothing is lost.

use std::fs;

use postmeter::sandbox;
use postmeter::store::DATABASE_FILE;

use crate::harness::database::is_about_the_file;
use crate::harness::process::Said;
use crate::harness::{CUSTOMER_ID, Meter, letter};

fn refused(said: &Said) -> &str {
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(!said.err.contains("panicked"), "{said:?}");
    &said.err
}

#[test]
fn p9_unknown_keys_and_bad_values_are_all_named_at_once() {
    let mut meter = Meter::resend().prepare();
    let path = meter.directory().join("postmeter.toml");
    let good = fs::read_to_string(&path).unwrap();
    let bad =
        good.replace("[queue]", "[queue]\nretry_max_s = 0").replace("[smtp]", "[smtp]\nhostnme = \"x\"");
    fs::write(&path, format!("dat_dir = \"x\"\n{bad}")).unwrap();
    let said = meter.run(&["serve"]);
    let error = refused(&said);
    for wanted in ["line 1, column 1: dat_dir: ", "smtp.hostnme: unknown field", "queue.retry_max_s: is 0"] {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    fs::write(&path, good).unwrap();
    meter.finish();
}

#[test]
fn p9_everything_missing_in_the_environment_is_listed_at_once() {
    let mut meter = Meter::resend().prepare();
    let full = meter.environment();
    meter.unset_environment();
    let said = meter.run(&["serve"]);
    let error = refused(&said);
    let needed = [
        "DODO_PAYMENTS_API_KEY",
        "DODO_WEBHOOK_KEY",
        "CREDIT_ENTITLEMENT_ID",
        "PLAN_PRODUCT_ID",
        "TOPUP_PRODUCT_ID",
        "RESEND_API_KEY",
        "BASE_URL",
    ];
    for name in needed {
        assert!(error.contains(name), "{name}: {error}");
    }
    assert!(!error.contains("UPSTREAM_SMTP_URL"), "what is not used is not asked for: {error}");
    for (name, value) in full {
        meter.set_environment(name, &value);
    }
    let key = meter.directory().join("key.txt");
    fs::write(&key, format!("{}\n", sandbox::RESEND_API_KEY)).unwrap();
    meter.remove_environment("RESEND_API_KEY");
    meter.set_environment("RESEND_API_KEY_FILE", key.to_str().unwrap());
    meter.serve();
    assert!(meter.signed_in().deliver(&letter("key-from-a-file")).starts_with("250 "));
}

#[test]
fn a_newer_versions_database_is_served_unless_it_says_that_it_is_not_for_us() {
    let mut meter = Meter::resend().prepare();
    meter.tamper(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
         SELECT 9999, 'from the future', installed_on, success, checksum, 0 FROM _sqlx_migrations LIMIT 1",
    );
    let said = meter.run(&["check"]);
    assert!(said.out.contains("a newer version of Postmeter has brought it further"), "{said:?}");
    meter.serve();
    assert!(meter.signed_in().deliver(&letter("ahead")).starts_with("250 "));
    meter.drain();
    meter.stop();
    meter.tamper("INSERT INTO meta (key, value) VALUES ('oldest_level', '9999 7.0.0')");
    for command in [["serve"].as_slice(), &["customer", "list"]] {
        let said = meter.run(command);
        assert!(refused(&said).contains("newer version of Postmeter"), "{said:?}");
        assert!(refused(&said).contains("it is for 7.0.0 and newer"), "{said:?}");
    }
    let said = meter.run(&["check"]);
    assert!(said.code == Some(1) && said.out.contains("it is for 7.0.0 and newer"), "{said:?}");
    meter.tamper("DELETE FROM meta WHERE key = 'oldest_level'");
    meter.tamper("DELETE FROM _sqlx_migrations WHERE version = 9999");
    meter.finish();
}

#[test]
fn the_sandboxs_database_is_not_served() {
    let mut meter = Meter::resend().start();
    meter.stop();
    meter.tamper("UPDATE meta SET value = 'sandbox' WHERE key = 'made_by'");
    let said = meter.run(&["serve"]);
    assert!(refused(&said).contains("postmeter sandbox"), "{said:?}");
    meter.tamper("UPDATE meta SET value = 'serve' WHERE key = 'made_by'");
}

#[test]
fn a_taken_port_and_a_bad_certificate_are_named() {
    let meter = Meter::resend().start();
    let taken = meter.process().http.to_string();
    let other = Meter::resend().prepare();
    let path = other.directory().join("postmeter.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("listen = \"127.0.0.1:0\"", &format!("listen = {taken:?}"))).unwrap();
    let said = other.run(&["serve"]);
    assert!(refused(&said).contains(&taken), "{said:?}");
    fs::write(&path, &text).unwrap();
    let good = fs::read(other.certificate()).unwrap();
    fs::write(other.certificate(), "nonsense").unwrap();
    let said = other.run(&["serve"]);
    assert!(refused(&said).contains("cert.pem"), "{said:?}");
    fs::write(other.certificate(), good).unwrap();
}

#[test]
fn p9_commands_about_unknown_things_say_so() {
    let meter = Meter::resend().start();
    let table: [(&[&str], &str); 8] = [
        (&["credential", "create", "--customer", "cus_nobody"], "no customer cus_nobody"),
        (&["customer", "show", "cus_nobody"], "no customer cus_nobody"),
        (&["customer", "suspend", "cus_nobody", "--reason", "r"], "no customer cus_nobody"),
        (&["customer", "add", CUSTOMER_ID], "is there already"),
        (&["sender", "allow", "cus_nobody", "example.com"], "no customer cus_nobody"),
        (&["sender", "list", "cus_nobody"], "no customer cus_nobody"),
        (&["sender", "deny", CUSTOMER_ID, "example.org"], "not a sender"),
        (&["credential", "revoke", "nobody"], "no credential nobody"),
    ];
    for (command, wanted) in table {
        let said = meter.run(command);
        assert!(refused(&said).contains(wanted), "{command:?}: {said:?}");
    }
    let usage = meter.run(&["sender", "allow", CUSTOMER_ID, "not a domain"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
}

#[test]
fn commands_without_a_database_say_where_they_looked() {
    if is_about_the_file("a directory without a database") {
        return;
    }
    let meter = Meter::resend().prepare();
    let data = meter.directory().join("data");
    let away = meter.directory().join("away");
    fs::rename(&data, &away).unwrap();
    let said = meter.run(&["audit"]);
    assert!(refused(&said).contains(data.to_str().unwrap()), "{said:?}");
    assert!(!data.join(DATABASE_FILE).exists(), "nothing is made for a question");
    fs::rename(away, data).unwrap();
}

#[test]
fn check_says_what_is_well_and_what_is_not() {
    let mut meter = Meter::resend().prepare();
    let said = meter.run(&["check"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let table = [
        ("DODO_PAYMENTS_API_KEY", "dodo_wrong"),
        ("DODO_PAYMENTS_API_KEY", sandbox::DODO_READ_ONLY_API_KEY),
        ("CREDIT_ENTITLEMENT_ID", "cde_unknown"),
        ("PLAN_PRODUCT_ID", "pdt_unknown"),
        ("RESEND_API_KEY", "re_wrong"),
    ];
    let right = meter.environment();
    for (name, wrong) in table {
        meter.set_environment(name, wrong);
        let said = meter.run(&["check"]);
        assert_eq!(said.code, Some(1), "{name}={wrong}: {said:?}");
        let failed: Vec<_> = said.out.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert_eq!(failed.len(), 1, "{name}={wrong}: {said:?}");
        assert!(!said.out.contains("dodo_wrong") && !said.out.contains("re_wrong"), "P10: {said:?}");
        meter.set_environment(name, &right[name]);
    }
    meter.finish();
}
