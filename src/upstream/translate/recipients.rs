//! Who stands where: recipients come from the envelope alone; To and Cc only say
//! in which field, and under which name, each of them is shown.

use std::collections::{HashMap, HashSet};

use super::note::{Change, Note};
use super::{CannotCarry, MAX_RECIPIENTS, written};
use crate::domain::address::Mailbox;
use crate::mime::address_list::{NamedMailbox, readable_addresses};
use crate::mime::header::Header;

/// The addresses of To and Cc. Being there gets nobody any mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    to: Vec<Address>,
    cc: Vec<Address>,
    /// What else stands there.
    notes: Vec<Note>,
}

/// An address of To or Cc. There may be as many as fit a header: what is compared of
/// them is made once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    named: NamedMailbox,
    as_read: AsRead,
}

/// What is equal of two addresses that a reader would take for the same: the local part
/// in lower case, and the domain in ASCII.
type AsRead = (String, String);

impl Shown {
    pub(super) fn read(header: &Header<'_>) -> Self {
        let mut notes = Vec::new();
        let mut all = |name| {
            let mut list = Vec::new();
            for field in header.all(name) {
                let readable = readable_addresses(field.value());
                let others = readable.has_others.then_some(Change::NoAddress);
                let comments = readable.has_comments.then_some(Change::CommentShown);
                let changes =
                    readable.groups.into_iter().map(Change::GroupName).chain(others).chain(comments);
                notes.extend(changes.map(|change| Note::field(name, change)));
                let address = |named: NamedMailbox| Address { as_read: as_read(&named.mailbox), named };
                list.extend(readable.list.into_iter().map(address));
            }
            list
        };
        Self { to: all("To"), cc: all("Cc"), notes }
    }
}

/// The recipient fields of an email.
#[derive(Debug, Default, PartialEq, Eq)]
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
    let mut hidden: Vec<Option<&Mailbox>> = recipients.iter().map(Some).collect();
    let mut places: HashMap<AsRead, Vec<usize>> = HashMap::new();
    for (place, recipient) in recipients.iter().enumerate() {
        places.entry(as_read(recipient)).or_default().push(place);
    }
    let mut take = |list: &[Address]| {
        let mut taken = Vec::new();
        for Address { named, as_read } in list {
            let Some(alike) = places.get_mut(as_read).filter(|alike| !alike.is_empty()) else { continue };
            // Who is written the same comes before who is read the same.
            let same = alike.iter().position(|place| recipients.get(*place) == Some(&named.mailbox));
            let place = alike.remove(same.unwrap_or(0));
            // The envelope's writing of the address, the header's name.
            if let Some(mailbox) = hidden.get_mut(place).and_then(Option::take) {
                taken.push(NamedMailbox { name: named.name.clone(), mailbox: mailbox.clone() });
            }
        }
        taken
    };
    let (to, cc) = (take(&shown.to), take(&shown.cc));
    Sorted { to, cc, hidden: hidden.into_iter().flatten().collect() }
}

fn as_read(mailbox: &Mailbox) -> AsRead {
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
        let others = list.iter().filter(|other| !known.contains(&other.as_read));
        let others: Vec<&Mailbox> = others.map(|other| &other.named.mailbox).collect();
        if !others.is_empty() {
            notes.push(Note::not_shown(field, &others));
        }
    }
    let sorted = sort(shown, recipients);
    notes.extend(other_names(shown, &sorted, &known));
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

/// Names of recipients who stand there more than once, under another name each time.
fn other_names(shown: &Shown, sorted: &Sorted<'_>, known: &HashSet<AsRead>) -> Vec<Note> {
    let is_told = |named: &NamedMailbox| named.name.clone().map(|name| (as_read(&named.mailbox), name));
    let mut told: HashSet<(AsRead, String)> =
        sorted.to.iter().chain(&sorted.cc).filter_map(is_told).collect();
    let mut notes = Vec::new();
    for (field, list) in [("To", &shown.to), ("Cc", &shown.cc)] {
        let mut names = Vec::new();
        for address in list.iter().filter(|address| known.contains(&address.as_read)) {
            let Some(name) = &address.named.name else { continue };
            if told.insert((address.as_read.clone(), name.clone())) {
                names.push(format!("{name:?}"));
            }
        }
        if !names.is_empty() {
            notes.push(Note::field(field, Change::OtherNames(names)));
        }
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
    if recipients.len() == 1 {
        return true;
    }
    let mut unseen: HashSet<AsRead> = to.iter().map(|named| as_read(&named.mailbox)).collect();
    for address in shown.to.iter().chain(&shown.cc) {
        unseen.remove(&address.as_read);
    }
    unseen.is_empty()
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
    fn p7_a_header_full_of_addresses_costs_no_time() {
        let domain = "b\u{fc}cher-b\u{fc}cher-b\u{fc}cher.example";
        let shown = shown(&format!("To: {}\r\n", format!("a@{domain},\r\n ").repeat(5_000)));
        let recipients: Vec<String> = (0..50).map(|n| format!("a@{n}{domain}")).collect();
        let recipients = mailboxes(&recipients.iter().map(String::as_str).collect::<Vec<_>>());
        let parts = parts(&shown, &recipients);
        assert_eq!(parts.len(), 50);
        assert!(parts.iter().all(|part| place(&shown, part).is_ok()));
    }

    #[test]
    fn an_address_that_resend_cannot_write_is_refused() {
        let table = [
            ("Subject: s\r\n", "gr\u{fc}n@x.example", "5.6.7"),
            ("To: \"a b\"@x.example\r\n", "\"a b\"@x.example", "5.6.1"),
            ("To: B <\"a b\"@x.example>\r\n", "\"a b\"@x.example", "5.6.1"),
        ];
        for (header, recipient, status) in table {
            let refused = place(&shown(header), &mailboxes(&[recipient])).unwrap_err();
            assert_eq!(refused.status, status, "{header}");
            assert!(refused.what.is_ascii());
        }
        assert!(place(&shown("To: \"a b\"@x.example\r\n"), &mailboxes(&["c@x.example"])).is_ok());
    }
}
