//! The first thing anyone runs: one command, one pasted line, one mail, one credit.

use std::path::Path;
use std::process::Command;

use reqwest::Method;

use crate::harness::client::{has, run};
use crate::harness::database::Database;
use crate::harness::directory::Directory;
use crate::harness::process::{Process, Said, postmeter};
use crate::harness::until;
use crate::harness::wait::until_is;
use crate::harness::web::{Answer, ask, request};

pub(crate) fn start(directory: &Directory, database: Option<&Database>) -> Process {
    let mut command = postmeter();
    command.args(["sandbox", "--data-dir", "data"]).current_dir(directory.path());
    command.args(["--smtp", "127.0.0.1:0", "--smtps", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    if let Some(database) = database {
        command.args(["--database-url", &database.url()]);
    }
    Process::start(command, &directory.join("log"))
}

/// The line to paste that begins so.
fn printed(process: &Process, program: &str) -> String {
    until("the line to paste", || {
        let lines = process.printed();
        lines
            .into_iter()
            .find(|line| line.trim_start().starts_with(program))
            .map(|line| line.trim().to_owned())
    })
}

fn paste(line: &str, directory: &Path) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(directory);
    run(shell, b"")
}

pub(crate) fn get(process: &Process, path: &str) -> Answer {
    let request = request(Method::GET, &format!("http://{}{path}", process.http));
    ask(request.basic_auth("sandbox", Some("sandbox-secret")))
}

/// Balance, held, owed.
fn credits(process: &Process) -> [i64; 3] {
    let credits = get(process, "/credits/cus_sandbox").json();
    ["balance", "held", "owed"].map(|name| credits[name].as_i64().unwrap_or(-1))
}

pub(crate) fn audited(directory: &Directory, database: Option<&Database>) {
    std::fs::write(directory.join("postmeter.toml"), "data_dir = \"data\"\n").unwrap();
    let mut audit = postmeter();
    audit.arg("audit").current_dir(directory.path());
    if let Some(database) = database {
        audit.env("DATABASE_URL", database.url());
    }
    let output = audit.output().unwrap();
    let said = Said::from(output);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn the_pasted_line_sends_a_mail_that_can_be_read_and_costs_a_credit() {
    if !has("swaks", &["--version"]) || !has("curl", &["--version"]) {
        return;
    }
    let (directory, database) = (Directory::new(), Database::new());
    let process = start(&directory, database.as_ref());
    assert!(directory.join("certs").is_dir(), "the development certificate");
    let said = paste(&printed(&process, "swaks"), directory.path());
    assert!(said.contains("Authenticated"), "{said}");
    assert!(said.contains("2.0.0 Queued as ") && said.contains(", 4999 email credits available"), "{said}");
    let inbox = until("the mail in the inbox", || {
        let page = get(&process, "/inbox");
        page.body.contains(">Hello<").then_some(page)
    });
    assert_eq!(inbox.status, 200);
    assert!(inbox.body.contains("you@example.com") && inbox.body.contains("friend@example.net"));
    let mail = inbox.body.split("href=\"/inbox/").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let mail = get(&process, &format!("/inbox/{mail}"));
    assert!(mail.body.contains("Sent over SMTP."), "{mail:?}");
    until_is("balance, held and owed", [4_999, 0, 0], || credits(&process));
    process.stop();
    audited(&directory, database.as_ref());

    let process = start(&directory, database.as_ref());
    assert!(get(&process, "/inbox").body.contains(">Hello<"), "the inbox is remembered");
    assert_eq!(credits(&process), [4_999, 0, 0], "and the balance");
    let said = paste(&printed(&process, "curl -sS -u sandbox:sandbox-secret -H"), directory.path());
    assert!(said.contains("\"id\":\""), "{said}");
    until_is("balance, held and owed", [4_998, 0, 0], || credits(&process));
    assert!(get(&process, "/inbox").body.matches(">Hello<").count() == 2);
    process.stop();
    audited(&directory, database.as_ref());
}

#[test]
fn a_visitor_can_buy_on_the_local_checkout_page() {
    let (directory, database) = (Directory::new(), Database::new());
    let process = start(&directory, database.as_ref());
    let base = format!("http://{}", process.http);
    let topup = request(Method::POST, &format!("{base}/checkout/topup"));
    let topup = ask(topup.basic_auth("sandbox", Some("sandbox-secret")));
    let url = topup.json()["checkout_url"].as_str().unwrap().to_owned();
    assert!(url.starts_with(&base), "{url}");
    let page = ask(request(Method::GET, &url));
    assert!(page.body.contains("Pay $"), "{page:?}");
    let paid = ask(request(Method::POST, &url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body("email=&name="));
    assert_eq!(paid.status, 303, "{paid:?}");
    assert!(paid.header("location").starts_with(&format!("{base}/thanks?")), "{paid:?}");
    until("the credits", || (credits(&process)[0] > 5_000).then_some(()));
    process.stop();
    audited(&directory, database.as_ref());
}
