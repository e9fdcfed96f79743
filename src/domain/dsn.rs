//! What a sender asks to be told about its mail (RFC 3461): RET and ENVID for the
//! message, NOTIFY and ORCPT for each recipient.
//!
//! ENVID and ORCPT are kept in the xtext in which they were said, so that the next server
//! hears the same; what they stand for is printable ASCII, or they are refused: nothing of
//! them can begin a line of its own in a report.

use std::collections::BTreeMap;
use std::fmt;

use super::address::{Mailbox, in_ascii};

/// Longest ENVID, in characters that it stands for (RFC 3461 §4.4).
pub const MAX_ENVELOPE_ID_CHARS: usize = 100;
/// Longest ORCPT as it is said on the wire, in octets (RFC 3461 §4.2).
pub const MAX_ORCPT_OCTETS: usize = 500;
/// Longest ORCPT as it is kept. One with characters beyond ASCII grows when they are
/// written in it; whatever fits a mailbox fits here, and this fits a line of a report.
const MAX_KEPT_ORCPT_OCTETS: usize = 900;

/// Why a text is no value of RET, ENVID, NOTIFY or ORCPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not as RFC 3461 §4 writes it")]
pub struct InvalidDsn;

/// RET: how much of the message comes back with a report of failure (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header.
    Headers,
}

/// ENVID: what the sender calls this transaction (RFC 3461 §4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeId(String);

/// NOTIFY: what the sender wants to be told of a recipient; nothing of it is NEVER (RFC 3461 §4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notify {
    success: bool,
    failure: bool,
    delay: bool,
}

/// ORCPT: whom the sender meant, of whatever type of address that is (RFC 3461 §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalRecipient {
    address_type: String,
    address: String,
}

/// What is asked about one recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecipientDsn {
    /// NOTIFY; unset: failure alone is told.
    pub notify: Option<Notify>,
    /// ORCPT.
    pub original: Option<OriginalRecipient>,
}

/// What is asked about a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dsn {
    ret: Option<Ret>,
    envelope_id: Option<EnvelopeId>,
    /// Those of whom anything is asked.
    recipients: BTreeMap<Mailbox, RecipientDsn>,
}

/// What is asked where nothing is.
static NOTHING: RecipientDsn = RecipientDsn { notify: None, original: None };

impl Ret {
    /// `FULL` or `HDRS`, in any case.
    pub fn parse(text: &str) -> Result<Self, InvalidDsn> {
        let all = [Self::Full, Self::Headers].into_iter();
        all.into_iter().find(|ret| ret.as_str().eq_ignore_ascii_case(text)).ok_or(InvalidDsn)
    }

    /// As it is said.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        }
    }
}

impl EnvelopeId {
    /// Accepts an xtext that stands for 1 to [`MAX_ENVELOPE_ID_CHARS`] characters.
    pub fn parse(xtext: &str) -> Result<Self, InvalidDsn> {
        let chars = decoded(xtext).map_or(0, |text| text.len());
        let is_sound = (1..=MAX_ENVELOPE_ID_CHARS).contains(&chars);
        if is_sound { Ok(Self(xtext.to_owned())) } else { Err(InvalidDsn) }
    }

    /// The xtext, as it was said.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it stands for: printable ASCII.
    pub fn decoded(&self) -> String {
        decoded(&self.0).unwrap_or_default()
    }

    /// Whether it may be said to the next server, which may count what it hears.
    pub fn fits_the_wire(&self) -> bool {
        self.0.len() <= MAX_ENVELOPE_ID_CHARS
    }
}

impl Notify {
    /// `NEVER`, or a list of the others, in any case.
    pub fn parse(text: &str) -> Result<Self, InvalidDsn> {
        let mut notify = Self::default();
        if text.eq_ignore_ascii_case("NEVER") {
            return Ok(notify);
        }
        // Empty elements of a list are none (RFC 822 §2.7), and a list has one element at least.
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let is = |own: &str| word.eq_ignore_ascii_case(own);
            match () {
                () if is("SUCCESS") => notify.success = true,
                () if is("FAILURE") => notify.failure = true,
                () if is("DELAY") => notify.delay = true,
                () => return Err(InvalidDsn),
            }
        }
        if notify == Self::default() { Err(InvalidDsn) } else { Ok(notify) }
    }

    /// What either asks for: NEVER asks for nothing.
    fn union(self, other: Self) -> Self {
        Self {
            success: self.success || other.success,
            failure: self.failure || other.failure,
            delay: self.delay || other.delay,
        }
    }
}

/// As it is said.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let words: Vec<&str> = words.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, w)| w).collect();
        f.write_str(if words.is_empty() { "NEVER" } else { "" })?;
        f.write_str(&words.join(","))
    }
}

impl OriginalRecipient {
    /// Accepts `addr-type;xtext`. Of type `utf-8` the address may hold characters beyond
    /// ASCII, which are written as `\x{…}` from here on, so that every server and every
    /// report can carry it (RFC 6533 §3).
    pub fn parse(text: &str) -> Result<Self, InvalidDsn> {
        let (address_type, address) = text.split_once(';').ok_or(InvalidDsn)?;
        let is_atom = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\".[]=+".contains(&b);
        if address_type.is_empty() || !address_type.bytes().all(is_atom) {
            return Err(InvalidDsn);
        }
        let is_utf8 = address_type.eq_ignore_ascii_case("utf-8");
        let address = if is_utf8 { in_ascii(address) } else { address.to_owned() };
        let kept = address_type.len() + 1 + address.len();
        let is_sound = decoded(&address).is_some() && (!is_utf8 || is_embedded(&address));
        if !is_sound || kept > MAX_KEPT_ORCPT_OCTETS {
            return Err(InvalidDsn);
        }
        Ok(Self { address_type: address_type.to_owned(), address })
    }

    /// The type of the address: `rfc822`.
    pub fn address_type(&self) -> &str {
        &self.address_type
    }

    /// What the xtext stands for: printable ASCII.
    pub fn decoded(&self) -> String {
        decoded(&self.address).unwrap_or_default()
    }

    /// The same with what `\x{…}` stands for beyond ASCII, as a server with SMTPUTF8 takes
    /// it (RFC 6533 §3); of another type it has none of that.
    pub fn in_utf8(&self) -> String {
        if !self.address_type.eq_ignore_ascii_case("utf-8") {
            return self.to_string();
        }
        let mut pieces = self.address.split("\\x{");
        let mut out = format!("{};{}", self.address_type, pieces.next().unwrap_or_default());
        for piece in pieces {
            let (digits, rest) = piece.split_once('}').unwrap_or((piece, ""));
            let point = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
            match point.filter(|c| !c.is_ascii()) {
                Some(c) => out.push(c),
                None => out.extend(["\\x{", digits, "}"]),
            }
            out.push_str(rest);
        }
        out
    }
}

/// As it is said.
impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.address_type, self.address)
    }
}

impl RecipientDsn {
    /// Whether the sender is told that it was handed on, where nobody else will tell.
    pub fn wants_success(&self) -> bool {
        self.notify.is_some_and(|notify| notify.success)
    }

    /// Whether the sender is told that it failed.
    pub fn wants_failure(&self) -> bool {
        self.notify.is_none_or(|notify| notify.failure)
    }

    /// The recipient was named again: whom was meant stays as it was said first, and the
    /// sender is told what either time asked for. To ask for nothing is to ask for failures.
    fn again(self, other: Self) -> Self {
        let failure = Notify { failure: true, ..Notify::default() };
        let notify = match (self.notify, other.notify) {
            (None, None) => None,
            (first, second) => Some(first.unwrap_or(failure).union(second.unwrap_or(failure))),
        };
        Self { notify, original: self.original.or(other.original) }
    }
}

impl Dsn {
    /// What is asked about the message, and nothing about its recipients yet.
    pub fn new(ret: Option<Ret>, envelope_id: Option<EnvelopeId>) -> Self {
        Self { ret, envelope_id, recipients: BTreeMap::new() }
    }

    /// RET; unset: as the server likes.
    pub fn ret(&self) -> Option<Ret> {
        self.ret
    }

    /// ENVID.
    pub fn envelope_id(&self) -> Option<&EnvelopeId> {
        self.envelope_id.as_ref()
    }

    /// Whether the success of anybody is to be told.
    pub fn asks_for_success(&self) -> bool {
        self.recipients.values().any(RecipientDsn::wants_success)
    }

    /// The same without what makes more mail of one: no success is told, and of the message
    /// its header alone comes back.
    pub fn for_a_stranger(&self) -> Self {
        let quiet = |asked: &RecipientDsn| RecipientDsn {
            notify: asked.notify.map(|notify| Notify { success: false, ..notify }),
            original: asked.original.clone(),
        };
        Self {
            ret: self.ret.map(|_| Ret::Headers),
            envelope_id: self.envelope_id.clone(),
            recipients: self.recipients.iter().map(|(to, asked)| (to.clone(), quiet(asked))).collect(),
        }
    }

    /// What is asked about a recipient of the envelope.
    pub fn of(&self, recipient: &Mailbox) -> &RecipientDsn {
        self.recipients.get(recipient).unwrap_or(&NOTHING)
    }

    /// This is asked about a recipient.
    pub fn ask(&mut self, recipient: &Mailbox, asked: RecipientDsn) {
        if asked != NOTHING {
            self.recipients.insert(recipient.clone(), asked);
        }
    }

    /// This is asked about a recipient who was named before.
    pub fn ask_again(&mut self, recipient: &Mailbox, asked: RecipientDsn) {
        let first = self.recipients.remove(recipient).unwrap_or_default();
        self.ask(recipient, first.again(asked));
    }
}

/// What an xtext stands for, if it is one and stands for printable ASCII (RFC 3461 §4).
fn decoded(xtext: &str) -> Option<String> {
    let digit = |c: char| c.to_digit(16).filter(|_| !c.is_ascii_lowercase());
    let mut text = String::with_capacity(xtext.len());
    let mut chars = xtext.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '+' => {
                let (high, low) = (digit(chars.next()?)?, digit(chars.next()?)?);
                char::from_u32(high * 16 + low)?
            }
            '=' | ' ' => return None,
            c => c,
        };
        text.push(Some(c).filter(|c| matches!(c, ' '..='~'))?);
    }
    Some(text)
}

/// Whether an address of type `utf-8` is in the ASCII form of RFC 6533 §3: of `\` there is
/// only `\x{…}`, of a character that is one, and `+` and `=` stand for nothing.
fn is_embedded(address: &str) -> bool {
    let is_point = |digits: &str| {
        let is_hex = digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        let point = u32::from_str_radix(digits, 16).ok().filter(|_| is_hex && digits.len() <= 6);
        point.and_then(char::from_u32).is_some_and(|c| !c.is_control())
    };
    let mut pieces = address.split('\\');
    let is_plain = !address.is_empty() && !address.contains(['+', '=']) && pieces.next().is_some();
    is_plain
        && pieces.all(|piece| {
            let point = piece.strip_prefix("x{").and_then(|rest| rest.split_once('}'));
            point.is_some_and(|(digits, _)| is_point(digits))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p7_an_xtext_stands_for_printable_ascii_or_is_none() {
        let table = [
            ("", Some("")),
            ("QQ314159", Some("QQ314159")),
            ("a+2Bb+3Dc", Some("a+b=c")),
            ("two+20words", Some("two words")),
            ("!~\"\\", Some("!~\"\\")),
            ("+7E+20", Some("~ ")),
            ("+", None),
            ("a+2", None),
            ("a+", None),
            ("a+2b", None),
            ("a+GG", None),
            ("a+ 1", None),
            ("a++2B", None),
            ("a=b", None),
            ("a b", None),
            ("a\tb", None),
            ("a\r\nb", None),
            ("\0", None),
            ("\u{7f}", None),
            ("gr\u{fc}n", None),
            ("+\u{664}1", None),
            ("a+0D+0AX-Evil:+20yes", None),
            ("+00", None),
            ("+09", None),
            ("+1F", None),
            ("+7F", None),
            ("+80", None),
            ("+FF", None),
        ];
        for (xtext, want) in table {
            assert_eq!(decoded(xtext).as_deref(), want, "{xtext:?}");
        }
    }

    #[test]
    fn envelope_ids_are_bounded_by_what_they_stand_for() {
        let (longest, longer) = ("+41".repeat(100), "A".repeat(101));
        let table = [
            ("QQ314159", Some("QQ314159")),
            ("a+20b", Some("a b")),
            (longest.as_str(), Some(&*"A".repeat(100))),
            ("", None),
            (longer.as_str(), None),
            ("+0A", None),
        ]
        .map(|(xtext, want)| (xtext, want.map(str::to_owned)));
        for (xtext, want) in table {
            let parsed = EnvelopeId::parse(xtext);
            assert_eq!(parsed.as_ref().ok().map(EnvelopeId::decoded), want, "{xtext}");
            assert!(parsed.is_ok_and(|id| id.as_str() == xtext) || want.is_none());
        }
        let fits = |xtext: &str| EnvelopeId::parse(xtext).unwrap().fits_the_wire();
        assert!(fits(&"A".repeat(100)) && !fits(&longest), "a server may count what it hears");
    }

    #[test]
    fn ret_and_notify_are_words() {
        let table = [("FULL", Some(Ret::Full)), ("hdrs", Some(Ret::Headers)), ("", None), ("BODY", None)];
        for (text, want) in table {
            assert_eq!(Ret::parse(text).ok(), want, "{text}");
        }
        let table = [
            ("NEVER", Some("NEVER")),
            ("never", Some("NEVER")),
            ("SUCCESS", Some("SUCCESS")),
            ("delay,Failure", Some("FAILURE,DELAY")),
            ("SUCCESS,FAILURE,DELAY", Some("SUCCESS,FAILURE,DELAY")),
            ("FAILURE,FAILURE", Some("FAILURE")),
            ("", None),
            ("NEVER,FAILURE", None),
            ("SUCCESS,NEVER", None),
            ("SUCCESS,", Some("SUCCESS")),
            (",SUCCESS,,FAILURE", Some("SUCCESS,FAILURE")),
            (",", None),
            ("SUCCESS FAILURE", None),
            ("ALWAYS", None),
        ];
        for (text, want) in table {
            let parsed = Notify::parse(text).ok().map(|notify| notify.to_string());
            assert_eq!(parsed.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn original_recipients_have_a_type_and_an_address() {
        let long = format!("rfc822;{}", "x".repeat(893));
        let longer = format!("{long}x");
        let umlauts = format!("utf-8;{}@y.example", "\u{fc}".repeat(32));
        let table = [
            ("rfc822;bob@y.example", Some(("rfc822", "bob@y.example"))),
            ("RFC822;bob+2B1@y.example", Some(("RFC822", "bob+1@y.example"))),
            ("x400;/S+3DBob;/", Some(("x400", "/S=Bob;/"))),
            ("utf-8;gr\\x{FC}n@y.example", Some(("utf-8", "gr\\x{FC}n@y.example"))),
            ("UTF-8;gr\u{fc}n@y.example", Some(("UTF-8", "gr\\x{FC}n@y.example"))),
            ("", None),
            ("rfc822", None),
            ("rfc822;", Some(("rfc822", ""))),
            ("rfc822;+20", Some(("rfc822", " "))),
            ("utf-8;", None),
            ("utf-8;bob+2B1@y.example", None),
            ("utf-8;bob\\x{2B}1@y.example", Some(("utf-8", "bob\\x{2B}1@y.example"))),
            ("utf-8;bob\\1@y.example", None),
            ("utf-8;bob\\x{}@y.example", None),
            ("utf-8;bob\\x{fc}@y.example", None),
            ("utf-8;bob\\x{D800}@y.example", None),
            ("utf-8;bob\\x{A}@y.example", None),
            ("utf-8;bob\\x{FC", None),
            (";bob@y.example", None),
            ("rfc 822;bob", None),
            ("rfc:822;bob", None),
            ("rfc=822;bob", None),
            ("r\u{fc};bob", None),
            ("rfc822;gr\u{fc}n@y.example", None),
            ("utf-8;bob\u{85}@y.example", None),
            ("rfc822;bob+0D+0ATo:+20eve", None),
            ("rfc822;bob@y.example=", None),
            (longer.as_str(), None),
        ];
        for (text, want) in table {
            let parsed = OriginalRecipient::parse(text).ok();
            let found = parsed.as_ref().map(|of| (of.address_type().to_owned(), of.decoded()));
            assert_eq!(found, want.map(|(of, address)| (of.to_owned(), address.to_owned())), "{text}");
            // As it is kept it is read again.
            assert!(parsed.is_none_or(|of| OriginalRecipient::parse(&of.to_string()) == Ok(of)), "{text}");
        }
        let table = [
            (umlauts.as_str(), umlauts.as_str()),
            ("utf-8;\\x{FC}a\\x{2B}b\\x{1F600}@y.example", "utf-8;\u{fc}a\\x{2B}b\u{1f600}@y.example"),
            ("x400;\\x{FC}", "x400;\\x{FC}"),
        ];
        for (text, want) in table {
            let original = OriginalRecipient::parse(text).unwrap();
            assert_eq!(original.in_utf8(), want);
            assert_eq!(OriginalRecipient::parse(want), Ok(original), "it is the same");
        }
    }

    #[test]
    fn a_recipient_who_is_named_again_is_told_of_as_either_time_asked() {
        let bob = Mailbox::parse("bob@y.example").unwrap();
        // NOTIFY the first and the second time, and what stands then.
        let table = [
            ("", "", ""),
            ("NEVER", "NEVER", "NEVER"),
            ("NEVER", "", "FAILURE"),
            ("", "SUCCESS", "SUCCESS,FAILURE"),
            ("NEVER", "DELAY", "DELAY"),
            ("SUCCESS,FAILURE", "NEVER", "SUCCESS,FAILURE"),
            ("SUCCESS", "FAILURE", "SUCCESS,FAILURE"),
        ];
        let asked = |notify: &str, original: &str| RecipientDsn {
            notify: Notify::parse(notify).ok(),
            original: OriginalRecipient::parse(original).ok(),
        };
        for (first, second, want) in table {
            let mut dsn = Dsn::default();
            dsn.ask(&bob, asked(first, ""));
            dsn.ask_again(&bob, asked(second, "rfc822;b"));
            dsn.ask_again(&bob, asked(second, "rfc822;c"));
            let stands = dsn.of(&bob);
            let notify = stands.notify.map(|notify| notify.to_string()).unwrap_or_default();
            assert_eq!(notify, want, "{first} and {second}");
            assert_eq!(stands.original, OriginalRecipient::parse("rfc822;b").ok());
            assert_eq!(stands.wants_failure(), want.is_empty() || want.contains("FAILURE"));
            assert_eq!(stands.wants_success(), want.contains("SUCCESS"));
        }
        let mut nothing = Dsn::default();
        nothing.ask(&bob, RecipientDsn::default());
        assert_eq!(nothing, Dsn::default());
    }
}
