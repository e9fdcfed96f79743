//! A real Postfix upstream, which offers DSN: what is asked reaches it as RFC 3461 wants it,
//! and it tells the sender. Needs root and an installed Postfix; it is started for this
//! alone, with directories of its own. Root without a Postfix is a failure where tools are
//! required.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::client::{judged, missing};
use crate::harness::sink::SinkMail;
use crate::harness::{CUSTOMER_ID, Meter, letter, until};

/// The running Postfix; it ends with this.
struct Postfix {
    etc: PathBuf,
    port: u16,
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = Command::new("postfix").arg("-c").arg(&self.etc).arg("stop").output();
        let _ = std::fs::remove_dir_all(self.etc.parent().unwrap());
    }
}

/// What it runs beside its listener.
const SERVICES: &str = include_str!("../bench/postfix-services.cf");

impl Postfix {
    /// Hands everything on to `next`. `None`: this machine has none, or we may not start it.
    fn start(next: &str) -> Option<Self> {
        let id = Command::new("id").arg("-u").output().ok()?;
        let is_there = Command::new("postconf").args(["-h", "mail_version"]).output().is_ok();
        if id.stdout != b"0\n" {
            eprintln!("skipped: we are not root");
            return None;
        }
        if !is_there {
            missing("a Postfix");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let home = std::env::temp_dir().join(format!("postmeter-postfix-{port}"));
        let etc = home.join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        for directory in ["data", "queue"] {
            std::fs::create_dir(home.join(directory)).unwrap();
        }
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {home}/queue\ndata_directory = {home}/data\n\
             command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
             maillog_file = {home}/mail.log\nmaillog_file_prefixes = {home}\n\
             inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmyhostname = postfix.example\n\
             mydestination =\nlocal_recipient_maps =\nalias_maps =\nalias_database =\n\
             mynetworks = 127.0.0.0/8\nsmtpd_relay_restrictions = permit_mynetworks, reject\n\
             smtpd_recipient_restrictions = permit_mynetworks, reject\ndefault_transport = smtp:{next}\n",
            home = home.display()
        );
        std::fs::write(etc.join("main.cf"), main).unwrap();
        let listener = format!("127.0.0.1:{port} inet n - n - - smtpd\n");
        std::fs::write(etc.join("master.cf"), format!("{listener}{SERVICES}")).unwrap();
        let postfix = Self { etc, port };
        let chown = Command::new("chown").arg("postfix").arg(home.join("data")).output().unwrap();
        assert!(chown.status.success(), "{chown:?}");
        let started = Command::new("postfix").arg("-c").arg(&postfix.etc).arg("start").output().unwrap();
        assert!(started.status.success(), "{started:?}");
        Some(postfix)
    }
}

/// What came to the sender, as Python reads it.
fn report(meter: &Meter, action: &str) -> Option<Value> {
    let is_it = |mail: &SinkMail| {
        let text = String::from_utf8_lossy(&mail.bytes);
        mail.to == ["ann@example.com"] && text.contains(&format!("Action: {action}"))
    };
    let mail = until(action, || meter.sink().mails().into_iter().find(is_it));
    judged("read_bounce.py", &mail.bytes)
}

#[test]
fn a_postfix_upstream_tells_the_sender_what_it_asked_for() {
    let mut meter = Meter::smtp().prepare();
    let next = meter.sink().url().rsplit('@').next().unwrap().to_owned();
    let (host, port) = next.split_once(':').unwrap();
    let Some(postfix) = Postfix::start(&format!("[{host}]:{port}")) else { return meter.serve() };
    meter.set_environment("UPSTREAM_SMTP_URL", &format!("smtp://127.0.0.1:{}", postfix.port));
    meter.sink().reply("RCPT TO:<gone", "550 5.1.1 no such user here");
    meter.serve();
    let mut smtp = meter.signed_in();
    for line in [
        "MAIL FROM:<ann@example.com> RET=HDRS ENVID=QQ+2B1",
        "RCPT TO:<bob@example.net> NOTIFY=SUCCESS ORCPT=rfc822;Bob+2B1@example.net",
        "RCPT TO:<gone1@example.net> NOTIFY=FAILURE ORCPT=rfc822;Gone@example.net",
        "RCPT TO:<gone2@example.net> NOTIFY=NEVER",
    ] {
        let reply = smtp.say(line);
        assert!(reply.starts_with("250 "), "{reply}");
    }
    assert!(smtp.say("DATA").starts_with("354 "));
    assert!(smtp.message(&letter("postfix")).starts_with("250 "));
    meter.drain();
    assert_eq!(meter.number("SELECT count(*) FROM message"), 1, "Postfix reports, and we do not");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    for (action, address) in [("relayed", "Bob+1@example.net"), ("failed", "Gone@example.net")] {
        let Some(report) = report(&meter, action) else { return };
        let groups = report["groups"].as_array().unwrap();
        assert_eq!(groups[0]["Original-Envelope-Id"], "QQ+1", "{report}");
        assert_eq!(groups[0]["Reporting-MTA"], "dns; postfix.example", "{report}");
        assert_eq!((groups.len(), &groups[1]["Action"]), (2, &Value::from(action)), "{report}");
        let original = groups[1]["Original-Recipient"].as_str().unwrap();
        assert_eq!(original.replace("; ", ";"), format!("rfc822;{address}"), "{report}");
    }
    meter.finish();
}
