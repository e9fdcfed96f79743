//! What every test stands on: a running Postmeter with its surroundings.

pub(crate) mod client;
pub(crate) mod contract;
pub(crate) mod database;
pub(crate) mod directory;
pub(crate) mod disk;
pub(crate) mod dns;
pub(crate) mod load;
pub(crate) mod meter;
pub(crate) mod plan;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod relay;
pub(crate) mod sink;
pub(crate) mod smtp;
pub(crate) mod wait;
pub(crate) mod web;

pub(crate) use meter::{CUSTOMER_ID, Meter};
pub(crate) use wait::until;

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};

/// Where stand-ins and sinks run; tests themselves are plain blocking code.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // A second time is a second test's luck, and as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

/// A plain letter from the customer to one friend.
pub(crate) fn letter(subject: &str) -> Vec<u8> {
    format!(
        "From: Ann <ann@example.com>\r\nTo: bob@example.net\r\nSubject: {subject}\r\n\
         Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{subject}@example.com>\r\n\r\nHello Bob.\r\n"
    )
    .into_bytes()
}

/// A letter with a file to a list: nobody of its envelope stands in it, so each is a part of
/// its own, and for the file each leaves in a call of its own.
pub(crate) fn file_to_a_list(subject: &str) -> Vec<u8> {
    format!(
        "From: ann@example.com\r\nTo: list@example.org\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/csv\r\nContent-Disposition: attachment; filename=a.csv\r\n\r\na,b\r\n"
    )
    .into_bytes()
}
