//! The dialogs of `tests/dialogs`: transcripts that a person can read, held against the
//! running program on both ports. How one is written stands in `tests/dialogs/README.md`.
//!
//! Dialogs with the same settings share a server and run side by side, each from an
//! address of its own. What a dialog says of the upstream is looked at when all have
//! ended: every mail there belongs to a dialog that announced it, and the other way round.

mod play;
mod script;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::smtp::trusting;
use crate::harness::{CUSTOMER_ID, Meter};

use play::{Announced, Door, Play};
use script::{Arrives, Dialog, Road};

/// So many there are at least: none is lost unnoticed.
const DIALOGS: usize = 120;
/// Of each server's dialogs so many run at a time; they mostly wait.
const AT_A_TIME: usize = 24;
/// More than all of them together can spend.
const CREDITS: u64 = 100_000;

#[test]
fn every_dialog_goes_as_it_is_written() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
    let wanted = std::env::var("POSTMETER_DIALOG").unwrap_or_default();
    let mut dialogs: Vec<Dialog> =
        files(&home).iter().map(|path| Dialog::read(&home, path).unwrap_or_else(|e| panic!("{e}"))).collect();
    assert!(dialogs.len() >= DIALOGS, "{} dialogs are left of {DIALOGS}", dialogs.len());
    dialogs.retain(|dialog| dialog.name.contains(&wanted));
    let mut groups: BTreeMap<(Road, BTreeSet<String>), Vec<Dialog>> = BTreeMap::new();
    for dialog in dialogs {
        groups.entry((dialog.road, dialog.settings.clone())).or_default().push(dialog);
    }
    let faults: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = groups
            .iter()
            .map(|((road, settings), dialogs)| scope.spawn(move || hold(*road, settings, dialogs)))
            .collect();
        running.into_iter().flat_map(|group| group.join().expect("a server of the dialogs failed")).collect()
    });
    assert!(faults.is_empty(), "{} went otherwise:\n{}", faults.len(), faults.join("\n"));
}

/// All files below, in the order of their names.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "smtp") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Runs the dialogs of one server; what went otherwise.
fn hold(road: Road, settings: &BTreeSet<String>, dialogs: &[Dialog]) -> Vec<String> {
    let mut plan = match road {
        Road::Smtp => Meter::smtp(),
        Road::Resend => Meter::resend(),
    };
    for setting in settings {
        let (section, line) = setting.split_once('.').expect("section.key = value");
        let known = ["smtp", "billing", "senders"].into_iter().find(|known| *known == section);
        plan = plan.set(known.unwrap_or_else(|| panic!("no section {section}")), line);
    }
    let mut meter = plan.credits(CREDITS).start();
    let plays: Vec<Play<'_>> = dialogs.iter().flat_map(plays).collect();
    let config = trusting(&meter.certificate());
    let next = AtomicUsize::new(0);
    let (announced, faults) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(plays.len()) {
            scope.spawn(|| {
                while let Some(play) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match play.run(&meter, &config) {
                        Ok(mails) => announced.lock().unwrap().extend(mails),
                        Err(fault) => faults.lock().unwrap().push(fault),
                    }
                }
            });
        }
    });
    let (announced, mut faults) = (announced.into_inner().unwrap(), faults.into_inner().unwrap());
    if faults.is_empty() {
        meter.drain();
        match road {
            Road::Smtp => faults.extend(unlike_announced(&meter, announced)),
            Road::Resend => faults.extend(unlike_at_resend(&meter, announced)),
        }
        let spent = meter.number("SELECT count(*) FROM message WHERE kind = 'submission'");
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), u64::try_from(spent).unwrap());
        meter.finish();
    }
    faults
}

/// Every way in which one dialog is to be held.
fn plays(dialog: &Dialog) -> impl Iterator<Item = Play<'_>> {
    let ways: &[Arrives] = match dialog.arrives {
        Arrives::AsWritten => &[Arrives::AsWritten],
        Arrives::InPieces => &[Arrives::AsWritten, Arrives::InPieces],
        Arrives::AtOnce => &[Arrives::AsWritten, Arrives::InPieces, Arrives::AtOnce],
    };
    let doors = dialog.doors.iter().copied();
    doors.flat_map(move |door: Door| ways.iter().map(move |arrives| Play { dialog, door, arrives: *arrives }))
}

/// Compares what the upstream has with what the dialogs announced.
fn unlike_announced(meter: &Meter, announced: Vec<Announced<'_>>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut mails = meter.sink().mails();
    for Announced { place, message_id, mail } in announced {
        let of_it = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(&format!("\tid {message_id}; "));
        let Some(at) = mails.iter().position(|found| of_it(&found.bytes)) else {
            faults.push(format!("{place}: message {message_id} never came to the upstream"));
            continue;
        };
        faults.extend(mail.unlike(&mails.remove(at)).map(|fault| format!("{place}: {fault}")));
    }
    faults.extend(mails.iter().map(|mail| format!("nobody announced {mail:?}")));
    faults
}

/// The same where Resend is the upstream. All that is announced there fits in one call.
fn unlike_at_resend(meter: &Meter, announced: Vec<Announced<'_>>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut mails: Vec<_> = meter.mails().into_iter().map(|mail| mail.email).collect();
    for Announced { place, message_id, mail } in announced {
        let is_of_it = |tag: &str| tag.starts_with(&message_id);
        let Some(at) = mails.iter().position(|found| found.tag("postmeter").is_some_and(is_of_it)) else {
            faults.push(format!("{place}: message {message_id} never came to Resend"));
            continue;
        };
        faults.extend(mail.unlike_at_resend(&mails.remove(at)).map(|fault| format!("{place}: {fault}")));
    }
    faults.extend(mails.iter().map(|mail| format!("nobody announced {mail:?}")));
    faults
}
