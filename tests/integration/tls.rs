//! TLS as whoever connects finds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::HandshakeKind;

use crate::harness::Meter;
use crate::harness::client::has;
use crate::harness::smtp::{Smtp, trusting};

/// What testssl.sh waits for answers that never come, in seconds: a server that is a
/// process on this machine answers at once, or not at all.
const WAITS: [(&str, &str); 7] = [
    ("MAX_WAITSOCK", "3"),
    ("CCS_MAX_WAITSOCK", "2"),
    ("HEARTBLEED_MAX_WAITSOCK", "2"),
    ("HEADER_MAXSLEEP", "1"),
    ("STARTTLS_SLEEP", "5"),
    ("USLEEP_SND", "0.01"),
    ("USLEEP_REC", "0.02"),
];

#[test]
fn testssl_finds_nothing_of_medium_severity_or_worse() {
    if !has("testssl", &["--help"]) {
        return;
    }
    let mut meter = Meter::smtp().prepare();
    let root = certify(&meter);
    meter.serve();
    let (smtp, smtps) = (meter.process().smtp.to_string(), meter.process().smtps.to_string());
    let starttls = ["--starttls", "smtp", smtp.as_str()];
    let looks: [(&str, &[&str]); 2] = [("starttls", &starttls), ("tls", &[&smtps])];
    let meter = &meter;
    let root = &root;
    std::thread::scope(|scope| {
        for (name, to) in looks {
            scope.spawn(move || {
                let report = meter.directory().join(&format!("testssl-{name}.json"));
                look(&report, root, to);
            });
        }
    });
}

/// Protocols, ciphers and their order, what the server is set up with, and the known attacks.
fn look(report: &Path, root: &Path, to: &[&str]) {
    let mut testssl = Command::new("testssl");
    testssl.args(["--protocols", "--server-defaults", "--vulnerable"]);
    testssl.args(["--std", "--fs", "--server-preference"]);
    testssl.args(["--warnings", "off", "--nodns", "none", "--color", "0", "--quiet"]);
    testssl.arg("--add-ca").arg(root).arg("--jsonfile").arg(report).args(to);
    let said = testssl.envs(WAITS).stdin(Stdio::null()).output().unwrap();
    let found = fs::read_to_string(report).unwrap_or_else(|error| panic!("{to:?}: {error}, {said:?}"));
    let found: Vec<serde_json::Value> = serde_json::from_str(&found).unwrap();
    let said_of = |id: &str| {
        let of_it = found.iter().find(|finding| finding["id"] == id);
        of_it.unwrap_or_else(|| panic!("{to:?}: it did not look at {id}: {found:#?}"))["finding"].to_string()
    };
    for old in ["SSLv2", "SSLv3", "TLS1", "TLS1_1"] {
        assert!(said_of(old).contains("not offered"), "{to:?}: {old}");
    }
    for offered in ["TLS1_2", "TLS1_3"] {
        assert!(said_of(offered).starts_with("\"offered"), "{to:?}: {offered}");
    }
    for weak in ["NULL", "aNULL", "EXPORT", "LOW", "3DES_IDEA", "AVERAGE"] {
        assert_eq!(said_of(&format!("cipherlist_{weak}")), "\"not offered\"", "{to:?}: {weak}");
    }
    assert_eq!(said_of("cipherlist_STRONG"), "\"offered\"", "{to:?}");
    assert_eq!(said_of("cipher_order"), "\"server\"", "{to:?}");
    said_of("heartbleed");
    said_of("cert_chain_of_trust");
    let bad = |finding: &&serde_json::Value| {
        ["MEDIUM", "HIGH", "CRITICAL", "FATAL"].into_iter().any(|severity| finding["severity"] == severity)
    };
    let bad: Vec<_> = found.iter().filter(bad).collect();
    assert!(bad.is_empty(), "{to:?}: {bad:#?}");
}

/// Puts a certificate there such as an authority would issue; returns the authority's own.
fn certify(meter: &Meter) -> PathBuf {
    let day = |days: i64| {
        let date = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date() + days.days();
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "Authority of the tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (authority.not_before, authority.not_after) = (day(-1), day(3650));
    let authority_key = KeyPair::generate().unwrap();
    let root = meter.directory().join("root.pem");
    fs::write(&root, authority.self_signed(&authority_key).unwrap().pem()).unwrap();

    let mut ours = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    ours.distinguished_name.push(DnType::CommonName, "localhost");
    ours.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    ours.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    ours.crl_distribution_points =
        vec![CrlDistributionPoint { uris: vec!["http://crl.example/tests.crl".to_owned()] }];
    ours.use_authority_key_identifier_extension = true;
    (ours.not_before, ours.not_after) = (day(-1), day(80));
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(authority, authority_key);
    fs::write(meter.certificate(), ours.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(meter.directory().join("key.pem"), key.serialize_pem()).unwrap();
    root
}

#[test]
fn a_session_ticket_of_one_port_is_worth_nothing_at_the_other() {
    let meter = Meter::smtp().start();
    let config = trusting(&meter.certificate());
    let begun = |implicit: bool| {
        let process = meter.process();
        let smtp = match implicit {
            true => Smtp::implicit_as(process.smtps, Arc::clone(&config)),
            false => Smtp::starttls_as(process.smtp, Arc::clone(&config)),
        };
        smtp.handshake()
    };
    let (full, resumed) = (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed));
    assert_eq!(begun(false), full);
    assert_eq!(begun(false), resumed, "the same port knows its own");
    assert_eq!(begun(true), full, "the other does not");
    assert_eq!(begun(true), resumed);
    assert_eq!(begun(false), full);
}
