//! Real clients. One that this machine lacks is skipped by name, unless
//! `POSTMETER_REQUIRE_TOOLS=1`: then its absence is a failure.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport};
use serde_json::Value;

use super::Meter;
use super::meter::Credential;
use super::process::Said;

/// Which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// With STARTTLS.
    StartTls,
    /// With implicit TLS.
    Tls,
}

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Swaks,
    Curl,
    Msmtp,
    Smtplib,
    Nodemailer,
    Lettre,
}

/// Subject and text are not ASCII; the blind recipient stands in a Bcc field
/// wherever the client lets us write one.
pub(crate) const SUBJECT: &str = "Grüße";
pub(crate) const TEXT: &str = "Schöne Grüße.";
pub(crate) const FROM: &str = "ann@example.com";
pub(crate) const TO: &str = "bob@example.net";
pub(crate) const BCC: &str = "hidden@example.net";

/// Where and as whom the clients sign in.
struct Door {
    port: Port,
    number: String,
    certificate: PathBuf,
    credential: Credential,
}

impl Client {
    /// Sends the letter; what the client printed, with the server's last reply
    /// in it. `None`: this machine has no such client.
    pub(crate) fn send(self, meter: &Meter, port: Port) -> Option<String> {
        let door = Door::new(meter, port);
        match self {
            Self::Swaks => door.swaks(),
            Self::Curl => door.curl(meter),
            Self::Msmtp => door.msmtp(),
            Self::Smtplib => door.script("python3", &["--version"], "smtplib_send.py"),
            Self::Nodemailer => door.script("node", &["-e", "require('nodemailer')"], "nodemailer_send.js"),
            Self::Lettre => Some(door.lettre()),
        }
    }
}

/// Whether a program is there; says so if not.
pub(crate) fn has(program: &str, probe: &[&str]) -> bool {
    let probed = tool(program).args(probe).stdin(Stdio::null()).output();
    if probed.is_ok_and(|output| output.status.success()) {
        return true;
    }
    missing(&format!("{program} ({probe:?})"));
    false
}

/// Says what this machine lacks, and fails where nothing may be lacking.
#[track_caller]
pub(crate) fn missing(what: &str) {
    let needed = std::env::var_os("POSTMETER_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(!needed, "this machine lacks {what}, and POSTMETER_REQUIRE_TOOLS=1");
    eprintln!("skipped: this machine lacks {what}");
}

/// A program of this machine; for node with the places where `.ci/run` puts packages.
pub(crate) fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    if program == "node" && std::env::var_os("NODE_PATH").is_none() {
        command.env("NODE_PATH", packages());
    }
    command
}

/// Where there are several versions of a package, the greatest comes first.
fn packages() -> OsString {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let homes = cache.and_then(|cache| std::fs::read_dir(cache.join("postmeter-ci")).ok());
    let found = homes.into_iter().flatten().flatten().map(|home| home.path().join("node_modules"));
    let mut found: Vec<PathBuf> = found.collect();
    found.sort_by(|one, other| other.cmp(one));
    std::env::join_paths(found).unwrap_or_default()
}

/// What a script beside the clients prints that needs this package of node. `None`: this
/// machine lacks one of them.
pub(crate) fn node(package: &str, script: &str, arguments: &[&str], input: &[u8]) -> Option<String> {
    has("node", &["-e", &format!("require('{package}')")]).then(|| {
        let mut node = tool("node");
        node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script)).args(arguments);
        let said = said(&mut node, input);
        assert_eq!(said.code, Some(0), "{node:?}\n{}\n{}", said.out, said.err);
        said.out
    })
}

/// Runs a client with this on its stdin; it must succeed.
#[track_caller]
pub(crate) fn run(mut command: Command, input: &[u8]) -> String {
    let said = said(&mut command, input);
    assert_eq!(said.code, Some(0), "{command:?}\n{}\n{}", said.out, said.err);
    said.out + &said.err
}

/// What a script beside the clients says in JSON of what it reads. `None`: this machine
/// has no Python.
pub(crate) fn judged(script: &str, input: &[u8]) -> Option<Value> {
    has("python3", &["--version"]).then(|| {
        let mut python = tool("python3");
        python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script));
        serde_json::from_str(&run(python, input)).unwrap()
    })
}

/// Runs a client with this on its stdin, whatever becomes of it.
#[track_caller]
fn said(command: &mut Command, input: &[u8]) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    Said::from(child.wait_with_output().unwrap())
}

/// A letter to Bob by swaks with more arguments, whatever becomes of it. `None`: this
/// machine has no swaks.
pub(crate) fn swaks(meter: &Meter, port: Port, arguments: &[&str], letter: &[u8]) -> Option<Said> {
    has("swaks", &["--version"]).then(|| {
        let mut swaks = Door::new(meter, port).swaks_from_ann();
        swaks.args(["--to", TO, "--data", "-"]).args(arguments);
        said(&mut swaks, letter)
    })
}

/// A letter to Bob by msmtp, which must succeed, with more arguments; what was said.
/// `None`: this machine has no msmtp.
pub(crate) fn msmtp(meter: &Meter, port: Port, arguments: &[&str], letter: &[u8]) -> Option<String> {
    has("msmtp", &["--version"]).then(|| {
        let mut msmtp = Door::new(meter, port).msmtp_from_ann();
        msmtp.args(arguments).args(["--", TO]);
        run(msmtp, letter)
    })
}

/// The letter for clients that take a finished message.
fn raw() -> Vec<u8> {
    format!(
        "From: Ann <{FROM}>\nTo: {TO}\nBcc: {BCC}\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{TEXT}\n"
    )
    .into_bytes()
}

impl Door {
    fn new(meter: &Meter, port: Port) -> Self {
        let process = meter.process();
        let address = if port == Port::StartTls { process.smtp } else { process.smtps };
        let number = address.port().to_string();
        Self { port, number, certificate: meter.certificate(), credential: meter.credential.clone() }
    }

    fn swaks(&self) -> Option<String> {
        has("swaks", &["--version"]).then(|| {
            let mut swaks = self.swaks_from_ann();
            swaks.args(["--to", &format!("{TO},{BCC}"), "--data", "-"]);
            run(swaks, &raw())
        })
    }

    fn swaks_from_ann(&self) -> Command {
        let mut swaks = tool("swaks");
        let tls = if self.port == Port::StartTls { "--tls" } else { "--tls-on-connect" };
        swaks.args(["--server", "127.0.0.1", "--port", &self.number, tls, "--auth", "PLAIN"]);
        swaks.args(["--auth-user", &self.credential.username]);
        swaks.args(["--auth-password", &self.credential.secret, "--from", FROM]);
        swaks
    }

    fn curl(&self, meter: &Meter) -> Option<String> {
        has("curl", &["--version"]).then(|| {
            let file = meter.directory().join("letter");
            // curl sends a file as it is.
            std::fs::write(&file, String::from_utf8(raw()).unwrap().replace('\n', "\r\n")).unwrap();
            let mut curl = tool("curl");
            let scheme = if self.port == Port::StartTls { "smtp" } else { "smtps" };
            curl.args(["-sS", "-v", "--ssl-reqd", "--url", &format!("{scheme}://127.0.0.1:{}", self.number)]);
            curl.arg("--cacert").arg(&self.certificate);
            curl.args(["--user", &format!("{}:{}", self.credential.username, self.credential.secret)]);
            curl.args(["--mail-from", FROM, "--mail-rcpt", TO, "--mail-rcpt", BCC]);
            curl.arg("--upload-file").arg(file);
            run(curl, b"")
        })
    }

    fn msmtp(&self) -> Option<String> {
        has("msmtp", &["--version"]).then(|| {
            let mut msmtp = self.msmtp_from_ann();
            msmtp.args(["--remove-bcc-headers=off", "--", TO, BCC]);
            run(msmtp, &raw())
        })
    }

    fn msmtp_from_ann(&self) -> Command {
        let mut msmtp = tool("msmtp");
        let starttls = if self.port == Port::StartTls { "on" } else { "off" };
        msmtp.args(["--debug", "--host=127.0.0.1", &format!("--port={}", self.number)]);
        msmtp.args(["--tls=on", &format!("--tls-starttls={starttls}"), "--auth=plain"]);
        msmtp.arg(format!("--tls-trust-file={}", self.certificate.display()));
        msmtp.arg(format!("--user={}", self.credential.username));
        msmtp.arg(format!("--passwordeval=echo {}", self.credential.secret));
        msmtp.arg(format!("--from={FROM}"));
        msmtp
    }

    fn script(&self, program: &str, probe: &[&str], name: &str) -> Option<String> {
        has(program, probe).then(|| {
            let mut script = tool(program);
            script.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name));
            script.arg(if self.port == Port::StartTls { "starttls" } else { "tls" });
            script.arg(&self.number).arg(&self.certificate);
            script.args([&self.credential.username, &self.credential.secret]);
            script.args([FROM, TO, BCC, SUBJECT, TEXT]);
            run(script, b"")
        })
    }

    fn lettre(&self) -> String {
        let address = |text: &str| text.parse::<Mailbox>().unwrap();
        let message = Message::builder()
            .from(address(FROM))
            .to(address(TO))
            .bcc(address(BCC))
            .keep_bcc()
            .subject(SUBJECT)
            .header(ContentType::TEXT_PLAIN)
            .body(TEXT.to_owned())
            .unwrap();
        let certificate = std::fs::read(&self.certificate).unwrap();
        let parameters = TlsParameters::builder("localhost".to_owned())
            .add_root_certificate(Certificate::from_pem(&certificate).unwrap())
            .build()
            .unwrap();
        let tls =
            if self.port == Port::StartTls { Tls::Required(parameters) } else { Tls::Wrapper(parameters) };
        let transport = SmtpTransport::builder_dangerous("127.0.0.1")
            .port(self.number.parse().unwrap())
            .tls(tls)
            .credentials(Credentials::new(self.credential.username.clone(), self.credential.secret.clone()))
            .build();
        let response = transport.send(&message).unwrap();
        format!("{} {}", response.code(), response.message().collect::<Vec<_>>().join("\n"))
    }
}
