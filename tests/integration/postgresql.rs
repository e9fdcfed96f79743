//! The way to PostgreSQL: what is verified, what is refused, which host is taken.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use postmeter::domain::ids::CustomerId;
use postmeter::store::{Maker, Store, StoreSettings};
use postmeter::telemetry::Metrics;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::harness::client::missing;
use crate::harness::directory::Directory;
use crate::harness::postgres::{Cluster, USER, is_root, succeed};
use crate::harness::process::{ON_TESTS, Said, postmeter};
use crate::harness::wait::within;
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};
use crate::nodes::{LEFT, PATIENCE};

/// A cluster that listens, with a database `mail`, and its port.
fn listening() -> Option<(Cluster, u16)> {
    // Asked for and given back: whoever takes it before the cluster does is unlucky.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cluster = Cluster::listening(port, "127.0.0.1");
    if cluster.is_none() {
        missing("PostgreSQL");
    }
    let cluster = cluster?;
    cluster.create("mail");
    Some((cluster, port))
}

/// Runs a command with this database.
fn run(directory: &Directory, url: &str, arguments: &[&str]) -> Said {
    let mut command = postmeter();
    command.args(arguments).current_dir(directory.path()).env("DATABASE_URL", url).env_remove(ON_TESTS);
    command.output().unwrap().into()
}

/// A customer is added over this URL, and is there.
#[track_caller]
fn works(directory: &Directory, url: &str, customer: &str) {
    let added = run(directory, url, &["customer", "add", customer]);
    assert_eq!(added.code, Some(0), "{added:?}");
    let listed = run(directory, url, &["customer", "list"]);
    assert!(listed.code == Some(0) && listed.out.contains(customer), "{listed:?}");
}

#[track_caller]
fn refused(directory: &Directory, url: &str, why: &str) {
    let said = run(directory, url, &["customer", "add", "cus_refused"]);
    assert!(said.code == Some(1) && said.err.contains(why), "{why}: {said:?}");
    assert!(!said.err.contains("hunter2"), "P10: {said:?}");
}

/// The certificate of an authority that signed one for `localhost`, which the cluster shows now.
fn with_tls(cluster: &Cluster, directory: &Directory) -> PathBuf {
    with_tls_by(&authority(), cluster, directory)
}

fn with_tls_by(
    authority: &CertifiedIssuer<'_, KeyPair>,
    cluster: &Cluster,
    directory: &Directory,
) -> PathBuf {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, authority);
    let path = directory.join("ca.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    put(cluster, "server.crt", certificate.unwrap().pem().as_bytes());
    put(cluster, "server.key", key.serialize_pem().as_bytes());
    cluster.read("postgres", "ALTER SYSTEM SET ssl = on");
    cluster.read("postgres", "SELECT pg_reload_conf()");
    until("TLS", || (cluster.read("postgres", "SHOW ssl") == ["on"]).then_some(()));
    path
}

/// Puts a file among the cluster's own, for its user alone.
fn put(cluster: &Cluster, name: &str, octets: &[u8]) {
    let path = cluster.home.join("data").join(name);
    std::fs::write(&path, octets).unwrap();
    succeed(Command::new("chmod").arg("600").arg(&path));
    if is_root() {
        succeed(Command::new("chown").arg(USER).arg(&path));
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[test]
fn only_a_server_that_is_verified_down_to_its_name_gets_the_password() {
    let Some((cluster, port)) = listening() else { return };
    let directory = Directory::new();
    let url = |host: &str, rest: &str| format!("postgres://postmeter:hunter2@{host}:{port}/mail?{rest}");
    refused(&directory, &url("localhost", "sslmode=verify-full"), "server does not support TLS");
    let ca = with_tls(&cluster, &directory);
    let by = |ca: &Path| format!("sslrootcert={}", ca.display());
    works(&directory, &url("localhost", &by(&ca)), "cus_verified");
    let checked = run(&directory, &url("localhost", &by(&ca)), &["check"]);
    assert!(checked.out.contains("under verified TLS; it is up to date"), "{checked:?}");
    assert!(checked.out.contains("fsync is off") && checked.code == Some(1), "{checked:?}");

    let other = directory.join("other.pem");
    std::fs::write(&other, authority().pem()).unwrap();
    refused(&directory, &url("localhost", &by(&other)), "invalid peer certificate: ");
    refused(&directory, &url("localhost", "sslmode=verify-full"), "invalid peer certificate: UnknownIssuer");
    // The certificate is for another name.
    refused(
        &directory,
        &url("127.0.0.1", &by(&ca)),
        "invalid peer certificate: certificate not valid for name",
    );
    refused(&directory, &url("localhost", &by(&directory.join("none.pem"))), "none.pem: No such file");
    refused(&directory, &url("localhost", "sslmode=prefer"), "has another sslmode");

    works(&directory, &url("localhost", "sslmode=disable"), "cus_plain");
    // What is said about loopback is the client's word; the server may have its own.
    put(&cluster, "pg_hba.conf", b"local all all trust\nhostssl all all all trust\n");
    cluster.read("postgres", "SELECT pg_reload_conf()");
    refused(&directory, &url("localhost", ""), "no encryption");
    works(&directory, &url("localhost", &by(&ca)), "cus_again");
}

/// What a client shows who is that user: where its certificate and its key are.
fn client(authority: &CertifiedIssuer<'_, KeyPair>, user: &str, directory: &Directory) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, user);
    let certificate = params.signed_by(&key, authority).unwrap();
    let paths = ["crt", "key"].map(|kind| directory.join(&format!("{user}.{kind}")));
    std::fs::write(&paths[0], certificate.pem()).unwrap();
    std::fs::write(&paths[1], key.serialize_pem()).unwrap();
    format!("sslcert={}&sslkey={}", paths[0].display(), paths[1].display())
}

/// A mail comes in, leaves and is paid for, and all connections to the database are under TLS, of
/// whomever the certificate names.
fn serves_under_tls(cluster: &Cluster, url: &str, named: &str) {
    const CONNECTIONS: &str = "
        SELECT DISTINCT ssl, coalesce(client_dn, '') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name = 'postmeter'";
    let mut meter = Meter::resend().prepare_at(url);
    meter.serve();
    assert!(meter.signed_in().deliver(&letter("under TLS")).starts_with("250 "));
    let left = || cluster.read("mail", LEFT).join("");
    let is_done = within(PATIENCE, || (left() == "0").then_some(()));
    assert!(is_done.is_some(), "neither final nor settled: {}", left());
    assert_eq!(cluster.read("mail", CONNECTIONS), [format!("t|{named}")]);
    assert_eq!(meter.mails().len(), 1);
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), 1);
    assert!(!meter.log().contains("hunter2"), "P10");
    meter.end();
}

#[test]
fn p1_p3_p10_a_server_works_over_verified_tls() {
    let Some((cluster, port)) = listening() else { return };
    let directory = Directory::new();
    let ca = with_tls(&cluster, &directory);
    let url = format!("postgres://postmeter:hunter2@localhost:{port}/mail?sslrootcert={}", ca.display());
    serves_under_tls(&cluster, &url, "");
}

#[test]
fn p1_p3_a_server_signs_in_to_the_database_with_a_certificate() {
    let Some((cluster, port)) = listening() else { return };
    let (directory, authority) = (Directory::new(), authority());
    let ca = with_tls_by(&authority, &cluster, &directory);
    put(&cluster, "root.crt", authority.pem().as_bytes());
    put(&cluster, "pg_hba.conf", b"local all all trust\nhostssl all all all cert\n");
    cluster.read("postgres", "ALTER SYSTEM SET ssl_ca_file = 'root.crt'");
    cluster.read("postgres", "SELECT pg_reload_conf()");
    until("the authority to be known", || {
        (cluster.read("postgres", "SHOW ssl_ca_file") == ["root.crt"]).then_some(())
    });
    let url = format!("postgres://postmeter@localhost:{port}/mail?sslrootcert={}", ca.display());
    refused(&directory, &url, "connection requires a valid client certificate");
    let somebody = client(&authority, "somebody", &directory);
    refused(&directory, &format!("{url}&{somebody}"), "certificate authentication failed for user");
    let own = client(&authority, "postmeter", &directory);
    serves_under_tls(&cluster, &format!("{url}&{own}"), "/CN=postmeter");
}

#[test]
fn the_first_host_that_takes_writes_is_taken() {
    let Some(((reading, first), (writing, second))) = listening().zip(listening()) else { return };
    let directory = Directory::new();
    reading.read("postgres", "ALTER DATABASE mail SET default_transaction_read_only = on");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = |ports: &[u16]| {
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("postgres://postmeter:hunter2@{}/mail", hosts.join(","))
    };
    works(&directory, &url(&[closed, first, second]), "cus_second");
    assert_eq!(writing.read("mail", "SELECT customer_id FROM customer"), ["cus_second"]);
    refused(&directory, &url(&[closed, first]), &format!("127.0.0.1:{first} takes no writes"));
    let checked = run(&directory, &url(&[first, second]), &["check"]);
    assert!(
        checked.out.contains(&format!("postgres://127.0.0.1:{first},127.0.0.1:{second}/mail")),
        "{checked:?}"
    );
}

#[test]
fn p8_new_connections_go_to_the_host_that_takes_writes_now() {
    let Some(((one, first), (other, second))) = listening().zip(listening()) else { return };
    let directory = Directory::new();
    works(&directory, &format!("postgres://postmeter@127.0.0.1:{second}/mail"), "cus_before");
    let url = format!("postgres://postmeter@127.0.0.1:{first},127.0.0.1:{second}/mail");
    let settings = StoreSettings {
        data_dir: directory.path().to_owned(),
        database_url: Some(url.into()),
        maker: Maker::Command,
        low_balance_credits: 0,
        min_free_bytes: 0,
    };
    let store = RUNTIME.block_on(Store::open(&settings, Metrics::new())).unwrap();
    let add = |id: &str| {
        let customer = CustomerId::parse(id).unwrap();
        RUNTIME.block_on(store.add_customer(&customer, None, None, jiff::Timestamp::UNIX_EPOCH))
    };
    add("cus_one").unwrap();
    assert_eq!(one.read("mail", "SELECT customer_id FROM customer"), ["cus_one"]);
    drop(one);
    until("the other host", || add("cus_other").ok());
    let there = other.read("mail", "SELECT customer_id FROM customer ORDER BY customer_id");
    assert_eq!(there, ["cus_before", "cus_other"]);
    let _in_runtime = RUNTIME.enter();
    drop(store);
}

#[test]
fn what_cannot_be_served_on_is_refused_and_a_question_makes_no_tables() {
    let Some((cluster, port)) = listening() else { return };
    let directory = Directory::new();
    let url = format!("postgres://postmeter:hunter2@127.0.0.1:{port}/mail");
    let said = run(&directory, &url, &["audit"]);
    assert!(
        said.code == Some(1) && said.err.contains("there is no database of ours at database_url"),
        "{said:?}"
    );
    let checked = run(&directory, &url, &["check"]);
    assert!(checked.out.contains("it has no tables yet"), "{checked:?}");
    assert_eq!(cluster.read("mail", "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), ["0"]);
    refused(&directory, &url.replace("/mail", "/nowhere"), "database \"nowhere\" does not exist");
    refused(&directory, &url.replace("postgres:", "mysql:"), "must begin with postgres://");

    // This cluster does not wait for its disk, and nothing tells the server that it is one of tests.
    let meter = Meter::resend().prepare();
    let mut serve = meter.command(&["serve"]);
    let said = Said::from(serve.env("DATABASE_URL", &url).env_remove(ON_TESTS).output().unwrap());
    assert!(said.code == Some(1) && said.err.contains("fsync is off"), "{said:?}");
}
