//! haproxy in front of all three ports, as an operator would put it there: its
//! clients are the clients, and its health checks pass.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::client::missing;
use crate::harness::smtp::{Smtp, connect_from, trusting};
use crate::harness::web::ask;
use crate::harness::{Meter, RUNTIME, letter, until};

/// From here it connects to us.
pub(crate) const OWN: &str = "127.0.0.9";

/// A running haproxy.
pub(crate) struct Haproxy {
    child: Child,
    stats: PathBuf,
}

/// Where it listens.
pub(crate) struct Doors {
    /// In front of the STARTTLS port.
    pub(crate) submission: SocketAddr,
    /// In front of implicit TLS.
    pub(crate) submissions: SocketAddr,
    /// In front of HTTP, as an HTTP proxy that keeps connections open.
    pub(crate) http: SocketAddr,
}

/// Debian's is where only root looks.
pub(crate) fn program() -> Option<&'static str> {
    let is_there = |name: &&str| {
        let probed = Command::new(name).arg("-v").stdin(Stdio::null()).output();
        probed.is_ok_and(|output| output.status.success())
    };
    let found = ["haproxy", "/usr/sbin/haproxy"].into_iter().find(is_there);
    if found.is_none() {
        missing("haproxy");
    }
    found
}

impl Haproxy {
    /// With this configuration, behind what all of them have, in the directory.
    pub(crate) fn start(program: &str, directory: &Path, text: &str) -> Self {
        let stats = directory.join("haproxy.sock");
        let text = format!(
            "global\n  stats socket {}\n\
             defaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  source {OWN}\n{text}",
            stats.display()
        );
        let file = directory.join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let haproxy = Self { child: command.spawn().unwrap(), stats };
        until("haproxy to listen", || asked(&haproxy.stats, "show info").map(drop));
        haproxy
    }

    /// A column of what it says about a server, proxy by proxy.
    pub(crate) fn says(&self, column: &str, server: &str) -> Vec<String> {
        let answer = asked(&self.stats, "show stat").unwrap_or_default();
        let mut rows = answer.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let names = rows.next().unwrap();
        let at = names.iter().position(|name| *name == column).unwrap();
        rows.filter(|row| row.get(1) == Some(&server)).map(|row| row[at].to_owned()).collect()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn asked(stats: &Path, question: &str) -> Option<String> {
    let mut socket = UnixStream::connect(stats).ok()?;
    socket.write_all(format!("{question}\n").as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// On an address of this process alone, where nobody else takes a port in between.
pub(crate) fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let own = IpAddr::from([127, 100 + a % 100, b, c]);
    let listeners = [(); N].map(|()| TcpListener::bind((own, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// One server, with the PROXY protocol in both of its versions.
fn in_front_of(meter: &Meter, doors: &Doors) -> String {
    let process = meter.process();
    format!(
        "listen submission\n  mode tcp\n  bind {}\n  option smtpchk EHLO lb.example\n\
         \x20 server postmeter {} send-proxy-v2 check inter 200ms\n\
         listen submissions\n  mode tcp\n  bind {}\n\
         \x20 server postmeter {} send-proxy check inter 200ms\n\
         listen web\n  mode http\n  bind {}\n  option httpchk GET /healthz\n\
         \x20 server postmeter {} send-proxy-v2 check inter 200ms\n",
        doors.submission, process.smtp, doors.submissions, process.smtps, doors.http, process.http,
    )
}

#[test]
fn mail_through_haproxy_comes_from_its_clients() {
    let Some(program) = program() else { return };
    let trusted = format!("trusted_proxies = [\"{OWN}/32\"]");
    let plan = Meter::smtp().set("smtp", &trusted).set("smtp", "max_connections_per_ip = 1");
    let mut meter = plan.start();
    let [submission, submissions, http] = free_addresses();
    let doors = Doors { submission, submissions, http };
    let haproxy = Haproxy::start(program, meter.directory().path(), &in_front_of(&meter, &doors));
    let trusting = trusting(&meter.certificate());
    let client = |last: u8| IpAddr::from([127, 0, 1, last]);

    // Both at the same time, although there may be one of each address: they are two.
    let submission = Smtp::starttls_over(connect_from(client(1), doors.submission), trusting.clone());
    let submissions = Smtp::implicit_over(connect_from(client(2), doors.submissions), trusting);
    let (_, turned_away) = Smtp::open_over(connect_from(client(1), doors.submission));
    assert!(turned_away.starts_with("421 4.7.0 Too many connections"), "{turned_away}");
    for (nth, mut smtp) in [submission, submissions].into_iter().enumerate() {
        let reply = smtp.auth_plain(&meter.credential.username, &meter.credential.secret);
        assert!(reply.starts_with("235 "), "{reply}");
        assert!(smtp.deliver(&letter(&format!("haproxy-{nth}"))).starts_with("250 "));
    }
    for last in [3, 4] {
        let client = reqwest::Client::builder().no_proxy().local_address(client(last)).build().unwrap();
        let request = client.post(format!("http://{}/send", doors.http));
        let request = request.basic_auth(&meter.credential.username, Some(&meter.credential.secret));
        let body = serde_json::json!({
            "from": "ann@example.com", "to": "bob@example.net", "subject": format!("http-{last}"), "text": "t"
        });
        let _in_runtime = RUNTIME.enter();
        let answer = ask(request.json(&body));
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    meter.drain();
    let mut received: Vec<String> = (meter.sink().mails().iter())
        .map(|mail| String::from_utf8_lossy(&mail.bytes).lines().next().unwrap().to_owned())
        .collect();
    received.sort();
    let want = [
        "Received: from [127.0.1.3] ([127.0.1.3])",
        "Received: from [127.0.1.4] ([127.0.1.4])",
        "Received: from client.example ([127.0.1.1])",
        "Received: from client.example ([127.0.1.2])",
    ];
    assert_eq!(received, want);
    until("three health checks that pass", || {
        let checks = haproxy.says("check_status", "postmeter");
        (checks == ["L7OK", "L4OK", "L7OK"]).then_some(())
    });
    drop(haproxy);
    meter.finish();
    assert!(!meter.log().contains("must begin with a PROXY header"), "{}", meter.log());
}
