//! Who stands where: recipients come from the envelope alone; To and Cc only say
//! in which field, and under which name, each of them is shown.

use std::collections::HashSet;

use super::note::{Change, Note};
use super::{CannotCarry, MAX_RECIPIENTS, written};
use crate::domain::address::Mailbox;
use crate::mime::address_list::{NamedMailbox, readable_addresses};
use crate::mime::header::Header;

/// The addresses of To and Cc. Being there gets nobody any mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    to: Vec<NamedMailbox>,
    cc: Vec<NamedMailbox>,
    /// What else stands there.
    notes: Vec<Note>,
}

impl Shown {
    pub(super) fn read(header: &Header<'_>) -> Self {
        let mut notes = Vec::new();
        let mut all = |name| {
            let mut list = Vec::new();
            for field in header.all(name) {
                let readable = readable_addresses(field.value());
                let others = readable.has_others.then_some(Change::NoAddress);
                let changes = readable.groups.into_iter().map(Change::GroupName).chain(others);
                notes.extend(changes.map(|change| Note::field(name, change)));
                list.extend(readable.list);
            }
            list
        };
        Self { to: all("To"), cc: all("Cc"), notes }
    }
}

/// The recipient fields of an email.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) to: Vec<String>,
    pub(super) cc: Vec<String>,
    pub(super) bcc: Vec<String>,
}

/// The recipients of an envelope, sorted by where they are shown.
struct Sorted<'r> {
    to: Vec<NamedMailbox>,
    cc: Vec<NamedMailbox>,
    hidden: Vec<&'r Mailbox>,
}

fn sort<'r>(shown: &Shown, recipients: &'r [Mailbox]) -> Sorted<'r> {
    let mut hidden: Vec<&Mailbox> = recipients.iter().collect();
    let mut take = |list: &[NamedMailbox]| {
        let mut taken = Vec::new();
        for named in list {
            let exact = hidden.iter().position(|mailbox| **mailbox == named.mailbox);
            let found = exact.or_else(|| hidden.iter().position(|mailbox| alike(mailbox, &named.mailbox)));
            if let Some(index) = found {
                // The envelope's writing of the address, the header's name.
                let mailbox = hidden.remove(index).clone();
                taken.push(NamedMailbox { name: named.name.clone(), mailbox });
            }
        }
        taken
    };
    let (to, cc) = (take(&shown.to), take(&shown.cc));
    Sorted { to, cc, hidden }
}

/// Whether a reader would take the two for the same address.
fn alike(a: &Mailbox, b: &Mailbox) -> bool {
    a.local().eq_ignore_ascii_case(b.local()) && a.domain().to_ascii() == b.domain().to_ascii()
}

/// What is equal of two addresses that are [`alike`].
fn as_read(mailbox: &Mailbox) -> (String, String) {
    (mailbox.local().to_ascii_lowercase(), mailbox.domain().to_ascii().to_string())
}

/// The parts of an envelope. Shown recipients come first, and the last part that
/// has some is filled up with hidden ones as Bcc; further hidden ones get a part
/// each, since `to` may not be empty and they must not see one another.
pub(super) fn parts(shown: &Shown, recipients: &[Mailbox]) -> Vec<Vec<Mailbox>> {
    let sorted = sort(shown, recipients);
    let visible = sorted.to.len() + sorted.cc.len();
    if visible > 0 && recipients.len() <= MAX_RECIPIENTS {
        return vec![recipients.to_vec()];
    }
    let visible: Vec<Mailbox> = sorted.to.into_iter().chain(sorted.cc).map(|named| named.mailbox).collect();
    let mut parts: Vec<Vec<Mailbox>> = visible.chunks(MAX_RECIPIENTS).map(<[_]>::to_vec).collect();
    let mut hidden = sorted.hidden.into_iter().cloned();
    if let Some(last) = parts.last_mut() {
        let room = MAX_RECIPIENTS.saturating_sub(last.len());
        last.extend(hidden.by_ref().take(room));
    }
    parts.extend(hidden.map(|mailbox| vec![mailbox]));
    parts
}

/// What recipients will not see of To and Cc, and where they stand instead.
pub(super) fn notes(shown: &Shown, recipients: &[Mailbox], parts: &[Vec<Mailbox>]) -> Vec<Note> {
    let mut notes = shown.notes.clone();
    let known: HashSet<_> = recipients.iter().map(as_read).collect();
    for (field, list) in [("To", &shown.to), ("Cc", &shown.cc)] {
        let others = list.iter().map(|named| &named.mailbox).filter(|other| !known.contains(&as_read(other)));
        let others: Vec<&Mailbox> = others.collect();
        if !others.is_empty() {
            notes.push(Note::not_shown(field, &others));
        }
    }
    let sorted = sort(shown, recipients);
    let changes = [
        (parts.len() > 1).then_some(Change::Split(parts.len())),
        (sorted.to.is_empty() && !sorted.cc.is_empty()).then_some(Change::CcAsTo),
    ];
    notes.extend(changes.into_iter().flatten().map(Note::message));
    let is_alone = |part: &&Vec<Mailbox>| match part.as_slice() {
        [one] => sorted.hidden.contains(&one),
        _ => false,
    };
    match parts.iter().filter(is_alone).count() {
        0 => {}
        alone => notes.push(Note::message(Change::HiddenInTo(alone))),
    }
    notes
}

/// The recipient fields for one part.
pub(super) fn place(shown: &Shown, recipients: &[Mailbox]) -> Result<Placed, CannotCarry> {
    let sorted = sort(shown, recipients);
    let hidden = sorted.hidden.into_iter().cloned().map(NamedMailbox::from).collect();
    // `to` may not be empty: a lone hidden recipient, or those of Cc, move up.
    let (to, cc, bcc) = match (sorted.to.is_empty(), sorted.cc.is_empty()) {
        (true, true) => (hidden, Vec::new(), Vec::new()),
        (true, false) => (sorted.cc, Vec::new(), hidden),
        (false, _) => (sorted.to, sorted.cc, hidden),
    };
    let nobody_is_exposed = visible_only_if_shown(shown, &to, recipients);
    if to.is_empty() || recipients.len() > MAX_RECIPIENTS || !nobody_is_exposed {
        return Err(CannotCarry::new("5.5.3", "these recipients cannot share one call to Resend"));
    }
    let all = |list: Vec<NamedMailbox>| list.iter().map(written).collect::<Result<Vec<_>, _>>();
    Ok(Placed { to: all(to)?, cc: all(cc)?, bcc: all(bcc)? })
}

/// Several recipients in `to` must all have been in the header.
fn visible_only_if_shown(shown: &Shown, to: &[NamedMailbox], recipients: &[Mailbox]) -> bool {
    let in_header = |named: &NamedMailbox| {
        shown.to.iter().chain(&shown.cc).any(|other| alike(&other.mailbox, &named.mailbox))
    };
    recipients.len() == 1 || to.iter().all(in_header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailboxes(list: &[&str]) -> Vec<Mailbox> {
        list.iter().map(|text| Mailbox::parse(text).unwrap()).collect()
    }

    fn shown(header: &str) -> Shown {
        Shown::read(&Header::parse(header.as_bytes()).unwrap())
    }

    fn numbered(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{prefix}{n}@x.example")).collect()
    }

    #[test]
    fn p5_only_the_envelope_decides_and_bcc_is_not_shown() {
        type Row<'a> = (&'a str, &'a [&'a str], [&'a [&'a str]; 3]);
        let table: [Row<'_>; 9] = [
            ("To: A <a@x.example>\r\n", &["a@x.example"], [&["\"A\" <a@x.example>"], &[], &[]]),
            (
                "To: a@x.example, not@y.example\r\nCc: C <c@x.example>\r\n",
                &["h@x.example", "c@x.example", "a@x.example"],
                [&["a@x.example"], &["\"C\" <c@x.example>"], &["h@x.example"]],
            ),
            (
                "Cc: c@x.example\r\n",
                &["c@x.example", "h@x.example"],
                [&["c@x.example"], &[], &["h@x.example"]],
            ),
            ("To: undisclosed-recipients:;\r\n", &["h@x.example"], [&["h@x.example"], &[], &[]]),
            ("Subject: s\r\n", &["h@x.example"], [&["h@x.example"], &[], &[]]),
            (
                "To: a@x.example, a@x.example\r\nCc: a@x.example\r\n",
                &["a@x.example"],
                [&["a@x.example"], &[], &[]],
            ),
            ("To: A <Ann@X.example>\r\n", &["ann@x.example"], [&["\"A\" <ann@x.example>"], &[], &[]]),
            (
                "To: us: a@x.example, B <b@x.example>;\r\n",
                &["b@x.example"],
                [&["\"B\" <b@x.example>"], &[], &[]],
            ),
            (
                "To: a@b\u{fc}cher.example\r\n",
                &["a@xn--bcher-kva.example"],
                [&["a@xn--bcher-kva.example"], &[], &[]],
            ),
        ];
        for (header, recipients, [to, cc, bcc]) in table {
            let recipients = mailboxes(recipients);
            let placed = place(&shown(header), &recipients).unwrap();
            assert_eq!((placed.to, placed.cc, placed.bcc), (own(to), own(cc), own(bcc)), "{header}");
            assert_eq!(parts(&shown(header), &recipients), [recipients]);
        }
    }

    fn own(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn p5_hidden_recipients_never_see_one_another() {
        let recipients = mailboxes(&["a@x.example", "b@x.example"]);
        let nobody = shown("To: list@y.example\r\n");
        assert_eq!(parts(&nobody, &recipients), [recipients[..1].to_vec(), recipients[1..].to_vec()]);
        assert!(place(&nobody, &recipients).is_err());
    }

    #[test]
    fn every_recipient_is_in_exactly_one_part_of_at_most_fifty() {
        for (visible, hidden, want) in
            [(50, 0, 1), (51, 0, 2), (1, 49, 1), (1, 50, 2), (60, 60, 22), (0, 3, 3)]
        {
            let to = numbered("t", visible);
            let all: Vec<String> = to.iter().cloned().chain(numbered("h", hidden)).collect();
            let recipients = mailboxes(&all.iter().map(String::as_str).collect::<Vec<_>>());
            let shown = shown(&format!("To: {}\r\n", to.join(",\r\n ")));
            let parts = parts(&shown, &recipients);
            assert_eq!(parts.len(), want, "{visible} {hidden}");
            let mut seen: Vec<&Mailbox> = parts.iter().flatten().collect();
            seen.sort();
            let mut wanted: Vec<&Mailbox> = recipients.iter().collect();
            wanted.sort();
            assert_eq!(seen, wanted);
            for part in &parts {
                assert!(part.len() <= MAX_RECIPIENTS);
                let placed = place(&shown, part).unwrap();
                assert!(placed.to.len() == 1 || placed.to.iter().all(|to| to.starts_with('t')));
            }
        }
    }

    #[test]
    fn an_address_that_resend_cannot_write_is_refused() {
        let refused = place(&shown("Subject: s\r\n"), &mailboxes(&["gr\u{fc}n@x.example"])).unwrap_err();
        assert_eq!(refused.status, "5.6.7");
        assert!(refused.what.is_ascii());
    }
}
