//! The sandbox as a developer's tests use it: mail is waited for, read and deleted, and the
//! services misbehave when they are told to.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::database::Database;
use crate::harness::directory::Directory;
use crate::harness::process::Process;
use crate::harness::until;
use crate::harness::web::{Answer, ask, request};
use crate::sandbox::{audited, get, start};

struct Sandbox {
    process: Process,
    database: Option<Database>,
    directory: Directory,
}

impl Sandbox {
    fn start() -> Self {
        let (directory, database) = (Directory::new(), Database::new());
        let process = start(&directory, database.as_ref());
        // Whose balance was never read waits for Dodo, which some tests make slow.
        until("the balance", || get(&process, "/credits/cus_sandbox").json()["balance"].as_i64());
        Self { process, database, directory }
    }

    fn send(&self, to: &str, subject: &str) -> Answer {
        let mail = json!({ "from": "you@example.com", "to": to, "subject": subject, "text": "Hello." });
        self.ask(Method::POST, "/send", &mail)
    }

    fn ask(&self, method: Method, path: &str, body: &Value) -> Answer {
        let request = request(method, &format!("http://{}{path}", self.process.http));
        let request = request.basic_auth("sandbox", Some("sandbox-secret"));
        ask(request.header("content-type", "application/json").body(body.to_string()))
    }

    fn misbehave(&self, change: &Value) -> Value {
        let answer = self.ask(Method::POST, "/sandbox/misbehave", change);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The mails for that address, which are waited for.
    fn mails(&self, to: &str, wait_s: u32) -> Vec<Value> {
        let found = get(&self.process, &format!("/sandbox/messages?to={to}&wait_s={wait_s}")).json();
        found["messages"].as_array().unwrap().clone()
    }

    fn stop(self) {
        self.process.stop();
        audited(&self.directory, self.database.as_ref());
    }
}

#[test]
fn a_test_waits_for_its_mail_reads_it_and_clears_the_inbox() {
    let sandbox = Sandbox::start();
    assert_eq!(sandbox.send("bob@example.net", "<b>hi</b>").status, 200);
    let mails = sandbox.mails("bob@example.net", 20);
    assert_eq!((mails.len(), &mails[0]["subject"]), (1, &json!("<b>hi</b>")), "{mails:?}");
    let url = mails[0]["url"].as_str().unwrap();
    let page = get(&sandbox.process, url);
    assert!(page.body.contains("Hello.") && page.body.contains("&lt;b&gt;hi"), "{page:?}");
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let source = get(&sandbox.process, &format!("{url}/message.eml"));
    assert!(source.body.contains("Subject: <b>hi</b>\r\n"), "{source:?}");
    assert!(source.header("content-disposition").starts_with("attachment"), "{source:?}");
    let deleted = sandbox.ask(Method::DELETE, "/sandbox/messages", &json!({}));
    assert_eq!(deleted.json(), json!({ "deleted": 1 }));
    assert_eq!(sandbox.mails("bob@example.net", 0), Vec::<Value>::new());
    sandbox.stop();
}

#[test]
fn p2_out_of_credit_is_refused_and_credit_given_back_is_spent() {
    let sandbox = Sandbox::start();
    let state = sandbox.misbehave(&json!({ "credit": "none" }));
    assert_eq!(state["customers"][0]["balance"], 0, "{state}");
    let refused = until("the empty account", || {
        let answer = sandbox.send("bob@example.net", "unpaid");
        (answer.status != 200).then_some(answer)
    });
    refused.is_error(402, "out_of_credit");
    sandbox.misbehave(&json!({ "credit": "full" }));
    until("the credit", || (sandbox.send("carl@example.net", "paid").status == 200).then_some(()));
    assert_eq!(sandbox.mails("carl@example.net", 20).len(), 1);
    sandbox.stop();
}

#[test]
fn p3_mail_waits_while_resend_refuses_and_leaves_once_when_it_is_back_to_normal() {
    let sandbox = Sandbox::start();
    let state = sandbox.misbehave(&json!({ "resend": "429", "dodo": "slow" }));
    assert_eq!((&state["resend"], &state["dodo"]), (&json!("429"), &json!("slow")), "{state}");
    assert_eq!(sandbox.send("bob@example.net", "later").status, 200);
    let list = get(&sandbox.process, "/inbox").body;
    assert!(list.contains("Resend answers 429") && list.contains("Nothing here yet"), "{list}");
    let state = sandbox.misbehave(&json!({ "normal": true }));
    assert_eq!(state["is_normal"], true, "{state}");
    assert_eq!(sandbox.mails("bob@example.net", 50).len(), 1);
    sandbox.stop();
}

#[test]
fn an_address_that_bounces_on_demand_is_suppressed_for_its_sender() {
    let sandbox = Sandbox::start();
    sandbox.misbehave(&json!({ "bounce": "gone@example.net" }));
    assert_eq!(sandbox.send("gone@example.net", "to nobody").status, 200);
    until("the suppressed address", || {
        let list = get(&sandbox.process, "/suppressions").body;
        list.contains("gone@example.net").then_some(())
    });
    let bounce = sandbox.mails("you@example.com", 20);
    assert_eq!(bounce.len(), 1, "the sender is told: {bounce:?}");
    sandbox.stop();
}

#[test]
fn the_operators_view_of_the_sandbox_is_reached_by_the_token_that_is_printed() {
    let sandbox = Sandbox::start();
    let line = until("the printed line", || {
        let mut lines = sandbox.process.printed().into_iter();
        lines.find(|line| line.trim_start().starts_with("Operator"))
    });
    let token = line.rsplit(' ').next().unwrap();
    let base = format!("http://{}", sandbox.process.http);
    let form = request(Method::POST, &format!("{base}/operator/sign-in")).header("origin", &base);
    let form =
        form.header("content-type", "application/x-www-form-urlencoded").body(format!("token={token}"));
    let answer = ask(form);
    assert_eq!((answer.status, answer.header("location")), (303, "/operator"), "{answer:?}");
    let cookie = answer.header("set-cookie").split(';').next().unwrap();
    let page = ask(request(Method::GET, &format!("{base}/operator/customers")).header("cookie", cookie));
    assert!(page.status == 200 && page.body.contains("cus_sandbox"), "{page:?}");
    sandbox.stop();
}
