//! Two processes on one database: a second server by mistake, and the commands,
//! which are meant to work while it runs and mail comes in.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::process::Said;
use crate::harness::smtp::Smtp;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

/// Does something while three clients send, and counts afterwards: what was
/// acknowledged arrived once, and cost a credit each.
fn while_mail_comes_in(meter: &mut Meter, act: impl FnOnce(&Meter)) {
    let (acknowledged, is_over) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Whatever `act` does, the clients are told that it is over.
        let over = Over(&is_over);
        for thread in 0..3 {
            let (meter, acknowledged, is_over) = (&*meter, &acknowledged, &is_over);
            scope.spawn(move || {
                let mut smtp = meter.signed_in();
                for nth in 0.. {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let subject = format!("t{thread}n{nth}");
                    let reply = smtp.deliver(&letter(&subject));
                    assert!(reply.starts_with("250 "), "{reply}");
                    acknowledged.lock().unwrap().insert(subject);
                }
            });
        }
        let count = || acknowledged.lock().unwrap().len();
        until("mail to come in", || (count() >= 10).then_some(()));
        let before = count();
        act(meter);
        until("mail to go on coming in", || (count() > before).then_some(()));
        drop(over);
    });
    meter.finish();
    let arrived: Vec<String> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    assert_eq!(arrived.len(), acknowledged.len());
    assert_eq!(arrived.into_iter().collect::<BTreeSet<_>>(), acknowledged);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), acknowledged.len() as u64);
}

/// Says that it is over, however that comes.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The sandbox on the data of this system.
fn sandbox(meter: &Meter) -> Said {
    let data = meter.directory().join("data");
    let mut sandbox = crate::harness::process::postmeter();
    sandbox.args(["sandbox", "--smtp", "127.0.0.1:0", "--smtps", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    sandbox.arg("--data-dir").arg(data).current_dir(meter.directory().path());
    if let Some(database) = meter.database() {
        sandbox.args(["--database-url", &database.url()]);
    }
    sandbox.output().unwrap().into()
}

fn refused(said: &Said, why: &str, what_to_do: &str) {
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.contains(why) && said.err.contains(what_to_do), "{said:?}");
    assert!(!said.err.contains("panicked"), "{said:?}");
}

#[test]
fn p2_p4_a_second_server_is_refused_and_disturbs_nobody() {
    let mut meter = Meter::resend().credits(100_000).start();
    while_mail_comes_in(&mut meter, |meter| {
        for _ in 0..3 {
            for said in [meter.run(&["serve"]), sandbox(meter)] {
                refused(&said, "another postmeter is running on ", "stop it, or use another data_dir");
            }
        }
    });
    // Nobody runs now; whose data it is stands in the database.
    refused(&sandbox(&meter), "was made by `postmeter serve`", "use another data_dir");
}

#[test]
fn p1_a_server_that_was_killed_leaves_no_lock_behind() {
    let mut meter = Meter::resend().start();
    assert!(meter.signed_in().deliver(&letter("before")).starts_with("250 "));
    meter.kill();
    meter.serve();
    assert!(meter.signed_in().deliver(&letter("after")).starts_with("250 "));
    meter.finish();
    assert_eq!(meter.resend_stand_in().count(), 2);
}

/// Every command that changes or reads something, about a customer of its own.
fn use_every_command(meter: &Meter, name: &str) {
    let json = |arguments: &[&str]| -> Value { serde_json::from_str(&meter.says(arguments)).unwrap() };
    meter.says(&["customer", "add", name, "--email", &format!("{name}@example.org")]);
    meter.says(&["sender", "allow", name, "example.org"]);
    assert_eq!(json(&["sender", "list", name, "--json"])[0]["pattern"], "example.org");
    let made = json(&["credential", "create", "--customer", name, "--json"]);
    let (username, secret) = (made["username"].as_str().unwrap(), made["secret"].as_str().unwrap());
    let signs_in = || Smtp::starttls(meter).auth_plain(username, secret);
    assert!(signs_in().starts_with("235 2.7.0 "), "a credential works at once");
    let listed = json(&["credential", "list", "--json"]);
    assert!(listed.as_array().unwrap().iter().any(|one| one["username"] == username), "{listed}");
    meter.says(&["customer", "suspend", name, "--reason", "not paid"]);
    assert_eq!(json(&["customer", "show", name, "--json"])["suspended_reason"], "not paid");
    meter.says(&["customer", "resume", name]);
    meter.says(&["credential", "revoke", username]);
    assert!(signs_in().starts_with("535 5.7.8 "), "and so does its end");
    meter.says(&["sender", "deny", name, "example.org"]);
    let listed = json(&["customer", "list", "--json"]);
    assert!(listed.as_array().unwrap().iter().any(|one| one["customer_id"] == name), "{listed}");
    meter.says(&["audit"]);
}

#[test]
fn p3_commands_work_side_by_side_while_mail_comes_in() {
    let mut meter = Meter::resend().credits(100_000).start();
    while_mail_comes_in(&mut meter, |meter| {
        std::thread::scope(|scope| {
            for thread in 0..2 {
                scope.spawn(move || {
                    for nth in 0..3 {
                        use_every_command(meter, &format!("cus_{thread}_{nth}"));
                    }
                });
            }
        });
    });
}
