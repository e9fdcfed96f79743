//! What this machine has: a certificate, free ports, a directory for the database.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;

use super::{Finding, Level};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::OpenError;
use crate::store::inspect::{Found, inspect};
use crate::store::server::{self, Inspected};
use crate::tls::{self, CertificateInfo, TlsError};

const CERTIFICATE: &str = "certificate";
const LISTENER: &str = "listener";
const DATABASE: &str = "database";

/// Who renews by themselves do it a month before the end; half of that is late.
const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Beyond this two clocks are not kept by the same time.
const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(2);

pub(super) fn certificate(config: &Config, now: Timestamp) -> Finding {
    let inspected = tls::inspect(&config.smtp.tls_cert, &config.smtp.tls_key);
    certificate_finding(inspected, &config.smtp.hostname, now)
}

pub(super) fn certificate_finding(
    inspected: Result<CertificateInfo, TlsError>,
    hostname: &str,
    now: Timestamp,
) -> Finding {
    let CertificateInfo { not_after, names } = match inspected {
        Ok(info) => info,
        Err(error) => return Finding::said(Level::Fail, CERTIFICATE, error),
    };
    let left = not_after.duration_since(now);
    let days = left.as_hours() / 24;
    if left.is_negative() {
        let hint = "renew it; a new one is taken up without a restart";
        return Finding::fail(CERTIFICATE, format!("it expired on {not_after}"), hint);
    }
    if !names.iter().any(|name| covers(name, hostname)) {
        let message = format!("it is for {}, not for smtp.hostname = {hostname:?}", names.join(", "));
        let hint = "clients will refuse it; get one for that name, or set smtp.hostname";
        return Finding::warn(CERTIFICATE, message, hint);
    }
    if left < EXPIRES_SOON {
        let hint = "renew it; a new one is taken up without a restart";
        return Finding::warn(CERTIFICATE, format!("it expires in {days} days, on {not_after}"), hint);
    }
    Finding::ok(CERTIFICATE, format!("it matches its key and is good for {days} days"))
}

/// Whether a name of a certificate covers a host: a `*` stands for one label (RFC 9525 §6.3).
fn covers(name: &str, hostname: &str) -> bool {
    if let Some(parent) = name.strip_prefix("*.") {
        return hostname.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent));
    }
    name.eq_ignore_ascii_case(hostname)
}

/// Binds every listener as `serve` would, all at once, and lets go.
pub(super) fn listeners(config: &Config) -> Vec<Finding> {
    let smtp = &config.smtp;
    let all = (smtp.submission.iter().map(|address| ("smtp.submission", address)))
        .chain(smtp.submissions.iter().map(|address| ("smtp.submissions", address)))
        .chain([("http.listen", &config.http.listen)])
        .chain(config.http.metrics_listen.iter().map(|address| ("http.metrics_listen", address)));
    let (bound, findings): (Vec<_>, Vec<_>) = all.map(|(key, address)| bind(key, *address)).unzip();
    // Only now: two of our own that exclude one another are a problem too.
    drop(bound);
    findings
}

fn bind(key: &str, address: SocketAddr) -> (Option<TcpListener>, Finding) {
    let error = match TcpListener::bind(address) {
        Ok(listener) => return (Some(listener), Finding::ok(LISTENER, format!("{address} ({key}) is free"))),
        Err(error) => error,
    };
    let hint = match error.kind() {
        ErrorKind::AddrInUse => {
            "another program listens there (perhaps Postmeter itself, if it runs already; `ss -ltnp` names \
             it): stop it, or choose another port"
        }
        ErrorKind::PermissionDenied => {
            "ports below 1024 need a right: CAP_NET_BIND_SERVICE, or AmbientCapabilities= of systemd"
        }
        ErrorKind::AddrNotAvailable => "this machine has no such address: use one that it has, or 0.0.0.0",
        _ => "choose another address",
    };
    (None, Finding::fail(LISTENER, format!("{address} ({key}) cannot be used, {error}"), hint))
}

/// Of a database that is ahead of us.
const BROUGHT_FURTHER: &str =
    "a newer version of Postmeter has brought it further, and this one may work on it";

pub(super) async fn database(config: &Config, clock: &Clock) -> Vec<Finding> {
    match &config.database_url {
        None => vec![file(&config.data_dir).await],
        Some(url) => {
            let before = clock.now();
            server_findings(server::inspect(url.secret().expose_secret()).await, (before, clock.now()))
        }
    }
}

/// What a server said of itself, between these two moments of our clock.
pub(super) fn server_findings(
    inspected: Result<Inspected, OpenError>,
    (before, after): (Timestamp, Timestamp),
) -> Vec<Finding> {
    let Inspected { database, server, found } = match inspected {
        Err(error) => return vec![Finding::said(Level::Fail, DATABASE, error)],
        Ok(inspected) => inspected,
    };
    let mut findings: Vec<_> =
        server.refusals().into_iter().map(|what| Finding::said(Level::Fail, DATABASE, what)).collect();
    let tls = if server.is_tls { "under verified TLS" } else { "in the clear" };
    let state = match found {
        Found::UpToDate => "it is up to date",
        Found::Older => "`postmeter serve` brings it up to date",
        Found::Ahead => BROUGHT_FURTHER,
        Found::Nothing => "it has no tables yet; `postmeter serve` makes them",
    };
    let version = &server.version;
    findings.push(Finding::ok(DATABASE, format!("{database}, PostgreSQL {version}, {tls}; {state}")));
    if let Some(now) = server.now() {
        let off = if now < before { before.duration_since(now) } else { now.duration_since(after) };
        if off > CLOCKS_APART {
            let message = format!("its clock and this machine's are {} seconds apart", off.as_secs());
            findings.push(Finding::warn(DATABASE, message, "let NTP keep both"));
        }
    }
    findings
}

pub(super) async fn file(data_dir: &Path) -> Finding {
    match inspect(data_dir).await {
        Err(error) => Finding::said(Level::Fail, DATABASE, error),
        Ok(Found::UpToDate) => Finding::ok(DATABASE, "it can be written and is up to date"),
        Ok(Found::Older) => {
            Finding::ok(DATABASE, "it can be written; `postmeter serve` brings it up to date")
        }
        Ok(Found::Ahead) => Finding::ok(DATABASE, format!("it can be written; {BROUGHT_FURTHER}")),
        Ok(Found::Nothing) => match can_be_made(data_dir) {
            Ok(()) => Finding::ok(
                DATABASE,
                format!("there is none yet; `postmeter serve` makes it in {}", data_dir.display()),
            ),
            Err(error) => Finding::fail(
                DATABASE,
                format!("it cannot be made in {}, {error}", data_dir.display()),
                "let the user who runs postmeter write there, or set data_dir",
            ),
        },
    }
}

/// Tries a file in the directory, or in the nearest one above it that exists.
fn can_be_made(data_dir: &Path) -> std::io::Result<()> {
    let above =
        data_dir.ancestors().map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    let Some(directory) = above.into_iter().find(|path| path.exists()) else {
        return Err(ErrorKind::NotFound.into());
    };
    let probe = directory.join(format!(".postmeter-check-{}", std::process::id()));
    std::fs::File::create_new(&probe)?;
    std::fs::remove_file(&probe)
}
