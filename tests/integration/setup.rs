//! From a key and a URL to a server that takes mail: `postmeter setup`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use postmeter::sandbox::dodo::Payer;
use postmeter::sandbox::faults::{Fault, Faults, Misbehaviour, Reply};
use postmeter::sandbox::{self, Settings, StandIns};
use postmeter::tls;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::directory::Directory;
use crate::harness::meter::BASE_URL;
use crate::harness::process::{Process, Said, postmeter};
use crate::harness::web::{ask, request};
use crate::harness::{RUNTIME, until};

/// What the file must say at the end.
const NAMES: [&str; 9] = [
    "DODO_PAYMENTS_ENVIRONMENT",
    "DODO_PAYMENTS_BASE_URL",
    "DODO_PAYMENTS_API_KEY",
    "BASE_URL",
    "DODO_WEBHOOK_KEY",
    "CREDIT_ENTITLEMENT_ID",
    "PLAN_PRODUCT_ID",
    "TOPUP_PRODUCT_ID",
    "POSTMETER_ADMIN_TOKEN",
];

/// An account at Dodo in which nothing was set up by us, a key of it, and a machine.
struct Account {
    stand_ins: StandIns,
    directory: Directory,
    environment: BTreeMap<&'static str, String>,
}

impl Account {
    fn new() -> Self {
        let stand_ins = RUNTIME.block_on(StandIns::start(Settings::default())).unwrap();
        // The test's own speed is not what Dodo's limit is for.
        stand_ins.dodo.behave(|behaviour| (behaviour.per_second, behaviour.per_minute) = (0, 0));
        let environment = BTreeMap::from([
            ("DODO_PAYMENTS_BASE_URL", stand_ins.dodo_url.clone()),
            ("DODO_PAYMENTS_API_KEY", sandbox::DODO_API_KEY.to_owned()),
        ]);
        Self { stand_ins, directory: Directory::new(), environment }
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.environment.insert(name, value.to_owned());
    }

    fn unset(&mut self, name: &str) {
        self.environment.remove(name);
    }

    fn faults(&self) -> &Faults {
        self.stand_ins.dodo.faults()
    }

    fn file(&self) -> PathBuf {
        self.directory.join("postmeter.env")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = postmeter();
        command.args(arguments).envs(&self.environment).current_dir(self.directory.path());
        command
    }

    fn run(&self, more: &[&str]) -> Said {
        let said: Said =
            self.command(&[&["setup", "--base-url", BASE_URL], more].concat()).output().unwrap().into();
        assert!(!said.err.contains("panicked"), "{said:?}");
        for secret in [sandbox::DODO_API_KEY, sandbox::WEBHOOK_SECRET] {
            assert!(!said.out.contains(secret) && !said.err.contains(secret), "P10: {said:?}");
        }
        said
    }

    /// A run that must end well; its answer.
    #[track_caller]
    fn sets_up(&self, more: &[&str]) -> Value {
        let said = self.run(&[&["--json"], more].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }

    /// A run that must not do anything but complain.
    #[track_caller]
    fn refuses(&self, more: &[&str], wanted: &str) {
        let before = (self.stock(), fs::read_to_string(self.file()).ok());
        let said = self.run(more);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
        assert!(said.err.contains(wanted), "{wanted}: {said:?}");
        assert_eq!((self.stock(), fs::read_to_string(self.file()).ok()), before, "{said:?}");
    }

    /// A list of Dodo's.
    fn list(&self, path: &str, items: &str) -> Vec<Value> {
        let asked = request(Method::GET, &format!("{}{path}", self.stand_ins.dodo_url));
        let answer = ask(asked.bearer_auth(sandbox::DODO_API_KEY)).json();
        answer[items].as_array().unwrap().clone()
    }

    /// How many entitlements, products and webhooks there are.
    fn stock(&self) -> [usize; 3] {
        [
            self.list("/credit-entitlements?page_size=100", "items").len(),
            self.list("/products?page_size=100", "items").len(),
            self.list("/webhooks", "data").len(),
        ]
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let asked = request(Method::POST, &format!("{}{path}", self.stand_ins.dodo_url)).json(body);
        let answer = ask(asked.bearer_auth(sandbox::DODO_API_KEY));
        assert!((200..300).contains(&answer.status), "{answer:?}");
        answer.json()
    }

    /// What the file says, as a shell reads it.
    fn environment(&self) -> BTreeMap<String, String> {
        let mut shell = Command::new("sh");
        let script = "set -a; . \"$0\"; env";
        let output = shell.env_clear().args(["-c", script]).arg(self.file()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect()
    }

    /// `check` and `serve` on this machine, in the environment that the file gives and no other.
    fn in_the_environment(&self, command: &str) -> Command {
        let (cert, key) = (self.directory.join("cert.pem"), self.directory.join("key.pem"));
        tls::ensure_development(&cert, &key).unwrap();
        let config = format!(
            "[smtp]\nhostname = \"smtp.example.com\"\nsubmission = [\"127.0.0.1:0\"]\n\
             submissions = [\"127.0.0.1:0\"]\ntls_cert = {cert:?}\ntls_key = {key:?}\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[notices]\nfrom = \"postmaster@example.com\"\n"
        );
        fs::write(self.directory.join("postmeter.toml"), config).unwrap();
        let mut made = postmeter();
        made.arg(command).envs(self.environment()).current_dir(self.directory.path());
        made
    }
}

/// What stands there before anything was set up: the stand-in's own.
const BEFORE: [usize; 3] = [1, 2, 0];
/// And after it.
const AFTER: [usize; 3] = [2, 4, 1];

#[test]
fn a_key_and_a_url_are_enough_for_check_and_serve() {
    let account = Account::new();
    let resend_url = &account.stand_ins.resend_url;
    // What a person wrote before stays.
    let by_hand =
        format!("# by hand\nRESEND_API_KEY='{}'\nRESEND_BASE_URL={resend_url}\n", sandbox::RESEND_API_KEY);
    fs::write(account.file(), &by_hand).unwrap();

    let dry = account.sets_up(&["--dry-run"]);
    assert_eq!((account.stock(), fs::read_to_string(account.file()).unwrap()), (BEFORE, by_hand.clone()));
    assert_eq!((&dry["dry_run"], &dry["items"][1]["state"]), (&json!(true), &json!("missing")));
    assert_eq!(dry["env_file"]["names"].as_array().unwrap().len(), NAMES.len(), "{dry}");

    let first = account.sets_up(&[]);
    assert_eq!(account.stock(), AFTER);
    assert_eq!(fs::metadata(account.file()).unwrap().permissions().mode() & 0o777, 0o600, "P10");
    let text = fs::read_to_string(account.file()).unwrap();
    assert!(text.starts_with(&by_hand), "{first}");
    let said = account.environment();
    for name in NAMES {
        assert!(!said[name].is_empty(), "{name}");
    }
    assert_eq!(said["DODO_PAYMENTS_ENVIRONMENT"], "test_mode");
    assert_eq!(said["DODO_WEBHOOK_KEY"], sandbox::WEBHOOK_SECRET);
    assert_eq!(said["POSTMETER_ADMIN_TOKEN"].len(), 64);
    let ids: Vec<&str> =
        first["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    let variables = ["CREDIT_ENTITLEMENT_ID", "PLAN_PRODUCT_ID", "TOPUP_PRODUCT_ID"];
    assert_eq!(variables.map(|name| said[name].as_str()), ids[..3]);

    let second = account.sets_up(&[]);
    assert_eq!(account.stock(), AFTER, "made once");
    assert!(second["items"].as_array().unwrap().iter().all(|item| item["state"] == "found"), "{second}");
    assert_eq!(
        (&second["env_file"]["state"], fs::read_to_string(account.file()).unwrap()),
        (&json!("unchanged"), text)
    );

    let check: Said = account.in_the_environment("check").output().unwrap().into();
    assert_eq!(check.code, Some(0), "{check:?}");
    assert_eq!(check.out.matches("grants 5000 credits").count(), 2, "{check:?}");
    let log = account.directory.join("log");
    let process = Process::start(account.in_the_environment("serve"), &log);
    {
        // The secret in the file is the one that Dodo signs with.
        let _in_runtime = RUNTIME.enter();
        account.stand_ins.dodo.deliver_webhooks_to(&format!("http://{}/webhooks/dodo", process.http));
    }
    let entry = json!({ "entry_type": "credit", "amount": "1" });
    account.post("/credit-entitlements/cde_sandbox/balances/cus_sandbox/ledger-entries", &entry);
    let asked = request(Method::GET, &format!("http://{}/metrics", process.http));
    until("the webhook to be believed", || {
        let metrics = ask(asked.try_clone().unwrap()).body;
        // Of a customer whom nobody knows here.
        let taken = "postmeter_webhooks_total{source=\"dodo\",result=\"ignored\"} 1";
        metrics.contains(taken).then_some(())
    });
    assert!(
        !process.log().contains(sandbox::DODO_API_KEY) && !process.log().contains(sandbox::WEBHOOK_SECRET),
        "P10"
    );
    process.stop();
}

#[test]
fn what_was_made_sells_credits_to_a_first_customer() {
    let mut account = Account::new();
    // The one ledger of the stand-in, named as a person names what they made by hand.
    account.set("CREDIT_ENTITLEMENT_ID", sandbox::ENTITLEMENT_ID);
    let made = account.sets_up(&[]);
    let states: Vec<&Value> = made["items"].as_array().unwrap().iter().map(|item| &item["state"]).collect();
    assert_eq!(states, ["found", "made", "made", "made"], "{made}");
    let resend = format!(
        "RESEND_API_KEY={}\nRESEND_BASE_URL={}\n",
        sandbox::RESEND_API_KEY,
        account.stand_ins.resend_url
    );
    fs::write(account.file(), fs::read_to_string(account.file()).unwrap() + &resend).unwrap();

    let process = Process::start(account.in_the_environment("serve"), &account.directory.join("log"));
    let dodo = &account.stand_ins.dodo;
    {
        let _in_runtime = RUNTIME.enter();
        dodo.deliver_webhooks_to(&format!("http://{}/webhooks/dodo", process.http));
    }
    let url = |path: &str| format!("http://{}{path}", process.http);
    let visitor = json!({ "email": "zoe@example.org", "name": "Zoe" });
    let checkout = ask(request(Method::POST, &url("/checkout/subscribe")).json(&visitor));
    assert_eq!(checkout.status, 200, "{checkout:?}");
    let checkout_url = checkout.json()["checkout_url"].as_str().unwrap().to_owned();
    let receipt = {
        let _in_runtime = RUNTIME.enter();
        dodo.pay(checkout_url.rsplit('/').next().unwrap(), &Payer::default()).unwrap()
    };
    let token = &account.environment()["POSTMETER_ADMIN_TOKEN"];
    let credits = request(Method::GET, &url(&format!("/credits/{}", receipt.customer_id))).bearer_auth(token);
    until("the customer of the webhook to have the plan's credits", || {
        let answer = ask(credits.try_clone().unwrap());
        (answer.status == 200 && answer.json()["available"] == 5_000).then_some(())
    });
    process.stop();
}

#[test]
fn what_is_made_is_what_was_asked_for() {
    let account = Account::new();
    let flags =
        ["--currency", "EUR", "--plan-price", "29.50", "--plan-emails", "20000", "--top-up-price", "12.00"];
    account.sets_up(&[&flags[..], &["--top-up-emails", "7000", "--top-up-days", "90"]].concat());
    let entitlement = &account.list("/credit-entitlements", "items")[0];
    let off = json!(false);
    assert_eq!((&entitlement["unit"], &entitlement["precision"]), (&json!("email"), &json!(0)));
    assert_eq!((&entitlement["overage_enabled"], &entitlement["rollover_enabled"]), (&off, &off));
    let product = |id: &str| {
        let asked = request(Method::GET, &format!("{}/products/{id}", account.stand_ins.dodo_url));
        ask(asked.bearer_auth(sandbox::DODO_API_KEY)).json()
    };
    let said = account.environment();
    let (plan, top_up) = (product(&said["PLAN_PRODUCT_ID"]), product(&said["TOPUP_PRODUCT_ID"]));
    assert_eq!((&plan["price"]["price"], &plan["price"]["currency"]), (&json!(2_950), &json!("EUR")));
    assert_eq!(plan["price"]["payment_frequency_interval"], "Month");
    assert_eq!((&plan["name"], &plan["is_recurring"]), (&json!("20,000 emails a month"), &json!(true)));
    assert_eq!((&top_up["price"]["price"], &top_up["is_recurring"]), (&json!(1_200), &off));
    for (product, credits, days) in [(&plan, "20000", 31), (&top_up, "7000", 90)] {
        let attached = &product["credit_entitlements"][0];
        assert_eq!(attached["credit_entitlement_id"], entitlement["id"]);
        assert_eq!(
            (&attached["credits_amount"], &attached["expires_after_days"]),
            (&json!(credits), &json!(days))
        );
        assert_eq!(attached["overage_enabled"], off);
    }
    let webhook = &account.list("/webhooks", "data")[0];
    assert_eq!(webhook["url"], format!("{BASE_URL}/webhooks/dodo"));
    for event in
        ["payment.succeeded", "subscription.renewed", "credit.added", "refund.succeeded", "dispute.opened"]
    {
        assert!(webhook["filter_types"].as_array().unwrap().contains(&json!(event)), "{event}");
    }
}

#[test]
fn a_run_that_breaks_off_anywhere_is_finished_by_the_next() {
    let posts = ["/credit-entitlements", "/products", "/webhooks"];
    // The first of the entitlements' is the question whether the key may write.
    let steps = [(posts[0], 1), (posts[1], 0), (posts[1], 1), (posts[2], 0)];
    for (path, skip) in steps {
        let failures: [Misbehaviour; 4] = [
            Reply::status(500).into(),
            Misbehaviour::AnswerAfter(Reply::status(500)),
            Misbehaviour::DropAfter,
            Reply::status(429).body(r#"{"code":"TOO_MANY_REQUESTS"}"#).into(),
        ];
        for failure in failures {
            let account = Account::new();
            account.faults().push(Fault::new(failure.clone()).on("POST", path).after(skip));
            let said = account.run(&[]);
            assert_eq!(said.code, Some(1), "{path} {failure:?}: {said:?}");
            assert!(said.err.contains("run `postmeter setup` again"), "{said:?}");
            assert!(!account.file().exists(), "not before all of it is there");
            account.sets_up(&[]);
            assert_eq!(account.stock(), AFTER, "made once: {path} {failure:?}");
        }
    }
}

#[test]
fn a_run_that_is_killed_is_finished_by_the_next() {
    let account = Account::new();
    account.faults().push(Fault::new(Misbehaviour::HangAfter).on("POST", "/products"));
    let mut command = account.command(&["setup", "--base-url", BASE_URL]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the plan to be made", || (account.stock()[1] == BEFORE[1] + 1).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let answer = account.sets_up(&[]);
    let states: Vec<&Value> = answer["items"].as_array().unwrap().iter().map(|item| &item["state"]).collect();
    assert_eq!(states, ["found", "found", "made", "made"]);
    assert_eq!(account.stock(), AFTER);
}

#[test]
fn what_is_found_and_differs_is_told_and_left_alone() {
    let account = Account::new();
    account.sets_up(&[]);
    let before = account.list("/products", "items");
    let said = account.run(&["--plan-price", "25.00", "--top-up-emails", "9000"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("it costs USD 19.00, not USD 25.00"), "{said:?}");
    assert!(said.out.contains("it grants 5000 credits, not 9000"), "{said:?}");
    assert_eq!((account.stock(), account.list("/products", "items")), (AFTER, before));

    // Made by hand, and named by its id.
    let price = json!({ "type": "one_time_price", "currency": "USD", "price": 100, "discount": 0, "purchasing_power_parity": false });
    let own = account.post("/products", &json!({ "name": "Mine", "tax_category": "saas", "price": price }));
    let mut other = Account::new();
    other.set("DODO_PAYMENTS_BASE_URL", &account.stand_ins.dodo_url);
    other.set("PLAN_PRODUCT_ID", own["product_id"].as_str().unwrap());
    let said = other.run(&["--json"]);
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (said.code, &answer["ok"], &answer["items"][1]["state"]),
        (Some(1), &json!(false), &json!("found"))
    );
    assert_eq!(answer["items"][1]["differences"].as_array().unwrap().len(), 3, "{answer}");
    assert_eq!(other.environment()["PLAN_PRODUCT_ID"], own["product_id"], "it is named all the same");
}

#[test]
fn many_products_of_others_hide_none_of_ours() {
    let account = Account::new();
    account.sets_up(&[]);
    let price = json!({ "type": "one_time_price", "currency": "USD", "price": 100, "discount": 0, "purchasing_power_parity": false });
    for n in 0..60 {
        let name = format!("Other {n}");
        account.post("/products", &json!({ "name": name, "tax_category": "saas", "price": price }));
        account.post("/webhooks", &json!({ "url": format!("https://{n}.example/hook") }));
    }
    let answer = account.sets_up(&[]);
    assert!(answer["items"].as_array().unwrap().iter().all(|item| item["state"] == "found"), "{answer}");
    let again = json!({ "name": "5,000 emails", "tax_category": "saas", "price": price, "metadata": { "postmeter": "top-up" } });
    account.post("/products", &again);
    fs::remove_file(account.file()).unwrap();
    account.refuses(&[], "several of what setup makes as the top-up");
}

#[test]
fn keys_that_will_not_do_are_told_before_anything_is_made() {
    let mut account = Account::new();
    account.set("DODO_PAYMENTS_API_KEY", sandbox::DODO_READ_ONLY_API_KEY);
    for flags in [&["--dry-run"][..], &[]] {
        account.refuses(flags, "may only read");
    }
    account.set("DODO_PAYMENTS_API_KEY", "dodo_test_wrong");
    account.refuses(&[], "refuses the API key");
    account.unset("DODO_PAYMENTS_API_KEY");
    account.refuses(&[], "DODO_PAYMENTS_API_KEY: is not set");
    account.set("DODO_PAYMENTS_API_KEY", sandbox::DODO_API_KEY);
    account.refuses(&["--plan-price", "19"], "in the form 19.00");
    account.set("PLAN_PRODUCT_ID", "pdt_gone");
    account.refuses(&[], "PLAN_PRODUCT_ID names pdt_gone, which Dodo does not know");
    account.unset("PLAN_PRODUCT_ID");
    // After the test's own look.
    account.faults().push(Fault::new(Reply::status(503)).on("GET", "/webhooks").after(1));
    account.refuses(&[], "Dodo does not answer");
    account.refuses(&["--env-file", "no/such/directory/env"], "cannot write no/such/directory/env");
    let plain: Said =
        account.command(&["setup", "--base-url", "http://meter.example"]).output().unwrap().into();
    assert!(plain.err.contains("https://"), "{plain:?}");
    assert_eq!((plain.code, account.stock()), (Some(1), BEFORE));
}

#[test]
fn live_mode_is_said_aloud_and_made_only_on_purpose() {
    let mut account = Account::new();
    account.set("DODO_PAYMENTS_ENVIRONMENT", "live_mode");
    account.refuses(&[], "LIVE MODE");
    let said = account.run(&["--yes"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("LIVE MODE at "), "{said:?}");
    assert!(
        said.out.contains("compliance@dodopayments.com") && said.out.contains("meter.example"),
        "{said:?}"
    );
    assert_eq!(account.environment()["DODO_PAYMENTS_ENVIRONMENT"], "live_mode");
    // The file remembers it, and nothing is left to make.
    account.unset("DODO_PAYMENTS_ENVIRONMENT");
    assert_eq!(account.sets_up(&[])["mode"], "live_mode");
}

#[test]
fn what_a_person_set_in_the_file_is_overwritten_only_on_purpose() {
    let account = Account::new();
    let mine = "BASE_URL=https://mine.example\nDODO_WEBHOOK_KEY=whsec_bWluZQ==\nPOSTMETER_ADMIN_TOKEN=chosen-by-a-person\n";
    fs::write(account.file(), mine).unwrap();
    account.refuses(&[], "BASE_URL in ");
    account.refuses(&["--dry-run"], "BASE_URL in ");
    fs::write(account.file(), mine.replace("mine.example", "meter.example")).unwrap();
    account.refuses(&[], "DODO_WEBHOOK_KEY in ");
    fs::write(account.file(), mine).unwrap();
    account.sets_up(&["--force"]);
    let said = account.environment();
    assert_eq!(
        (said["BASE_URL"].as_str(), said["DODO_WEBHOOK_KEY"].as_str()),
        (BASE_URL, sandbox::WEBHOOK_SECRET)
    );
    assert_eq!(said["POSTMETER_ADMIN_TOKEN"], "chosen-by-a-person");
}

#[test]
fn a_key_from_a_file_stays_in_its_file() {
    let mut account = Account::new();
    let key = account.directory.join("dodo.key");
    fs::write(&key, format!("{}\n", sandbox::DODO_API_KEY)).unwrap();
    account.unset("DODO_PAYMENTS_API_KEY");
    account.set("DODO_PAYMENTS_API_KEY_FILE", key.to_str().unwrap());
    account.sets_up(&[]);
    assert!(!fs::read_to_string(account.file()).unwrap().contains(sandbox::DODO_API_KEY), "P10");
    assert_eq!(account.environment()["DODO_PAYMENTS_API_KEY_FILE"], key.to_str().unwrap());
    // The file alone is enough for another run.
    account.unset("DODO_PAYMENTS_API_KEY_FILE");
    assert_eq!(account.sets_up(&[])["env_file"]["state"], "unchanged");
}
