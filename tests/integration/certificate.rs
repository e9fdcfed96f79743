//! A renewed certificate is taken up; a bad one is not.

use std::fs;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::harness::smtp::Smtp;
use crate::harness::{Meter, letter, until};

#[test]
fn a_certificate_that_was_renewed_on_disk_is_shown_without_a_restart() {
    let meter = Meter::resend().start();
    let mut before = meter.signed_in();
    let old = before.peer_certificate();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let both = meter.directory().join("both.pem");
    fs::write(&both, made.cert.pem()).unwrap();
    fs::write(meter.directory().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::copy(&both, meter.certificate()).unwrap();
    until("the new certificate to be taken up", || {
        meter.log().contains("new certificate in use").then_some(())
    });
    let new = CertificateDer::from_pem_file(&both).unwrap().to_vec();
    for mut smtp in [Smtp::starttls(&meter), Smtp::implicit(&meter)] {
        assert_eq!(smtp.peer_certificate(), new);
        assert!(smtp.say("NOOP").starts_with("250 "));
    }
    assert_ne!(new, old);
    assert!(before.deliver(&letter("before")).starts_with("250 "), "old connections go on");

    let says_it = || meter.log().matches("the old certificate stays in use").count();
    let said = says_it();
    fs::write(meter.certificate(), "nonsense").unwrap();
    until("the bad certificate to be reported", || (says_it() > said).then_some(()));
    let smtp = Smtp::starttls_at(meter.process().smtp, &both);
    assert_eq!(smtp.peer_certificate(), new, "the good one stays");
}
