//! A dialog as it stands in its file; `tests/dialogs/README.md` is the grammar.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use postmeter::sandbox::resend::Email;

use super::play::Door;
use crate::harness::meter::Credential;
use crate::harness::sink::SinkMail;

/// By which road the server's mail leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Road {
    Smtp,
    Resend,
}

/// How far the client has come when the dialog begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Start {
    /// A TCP connection, and nothing else.
    Raw,
    /// Nothing is said yet; under TLS where TLS comes first.
    Connected,
    /// Under TLS, after EHLO.
    Secured,
    /// After AUTH.
    SignedIn,
    /// After MAIL and one RCPT.
    Mail,
    /// After DATA.
    Data,
}

/// In which pieces the client's octets may arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrives {
    /// Each write as it stands.
    AsWritten,
    /// Octet by octet too.
    InPieces,
    /// All of the dialog in one write too.
    AtOnce,
}

/// One dialog.
#[derive(Debug)]
pub(super) struct Dialog {
    pub(super) name: String,
    pub(super) road: Road,
    pub(super) settings: BTreeSet<String>,
    pub(super) doors: Vec<Door>,
    pub(super) start: Start,
    pub(super) arrives: Arrives,
    pub(super) own_credential: bool,
    pub(super) steps: Vec<Step>,
    /// What comes to the upstream, in the order in which it is taken.
    pub(super) mails: Vec<Mail>,
}

/// What happens at one line of the file.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) line: usize,
    pub(super) act: Act,
}

#[derive(Debug)]
pub(super) enum Act {
    /// The client sends this in one write; escapes are not resolved yet.
    Send(Vec<String>),
    /// The server says this line.
    Line(String),
    /// The server says lines, of which the last is this.
    UpTo(String),
    /// The client makes a TLS handshake.
    Tls,
    /// The server closes and says nothing more; or nothing that is text of ours.
    Closed { silently: bool },
    /// The client goes away.
    HangUp,
    /// The operator runs a command.
    Operator(String),
}

/// A mail at the upstream.
#[derive(Debug)]
pub(super) struct Mail {
    line: usize,
    from: String,
    to: Vec<String>,
    /// Without our Received field; nothing: whatever it is.
    bytes: Option<Vec<u8>>,
}

impl Dialog {
    /// Reads a file.
    pub(super) fn read(home: &Path, path: &Path) -> Result<Self, String> {
        let name = path.strip_prefix(home).unwrap().display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        let mut dialog = Self {
            name: name.clone(),
            road: Road::Smtp,
            settings: BTreeSet::new(),
            doors: vec![Door::StartTls, Door::Tls],
            start: Start::SignedIn,
            arrives: Arrives::InPieces,
            own_credential: false,
            steps: Vec::new(),
            mails: Vec::new(),
        };
        if !text.starts_with("# Guards ") {
            return Err(format!("{name}:1: the first line says what it guards: # Guards …"));
        }
        let mut says_what_arrives = false;
        for (line, content) in (1..).zip(text.lines()) {
            says_what_arrives |= content.starts_with("upstream:");
            dialog.take(line, content).map_err(|fault| format!("{name}:{line}: {fault}"))?;
        }
        if !says_what_arrives {
            return Err(format!("{name}: it does not say what comes to the upstream"));
        }
        Ok(dialog)
    }

    fn take(&mut self, line: usize, content: &str) -> Result<(), String> {
        if content.is_empty() || content.starts_with('#') {
            return Ok(());
        }
        let (word, rest) = content.split_once(' ').unwrap_or((content, ""));
        match word {
            "C:" => self.send(line, format!("{rest}\\r\\n"))?,
            "C=" => self.send(line, rest.to_owned())?,
            "S:" => self.step(line, Act::Line(rest.to_owned())),
            "S" => {
                let (times, said) = rest.split_once(' ').ok_or("S xTIMES LINE")?;
                let times = times.strip_prefix('x').and_then(|times| times.parse().ok());
                for _ in 0..times.ok_or("S xTIMES LINE")? {
                    self.step(line, Act::Line(said.to_owned()));
                }
            }
            "S*" => self.step(line, Act::UpTo(rest.to_owned())),
            "operator:" => self.step(line, Act::Operator(rest.to_owned())),
            "upstream:" if rest != "nothing" => self.mails.push(Mail::announced(line, rest)?),
            "upstream:" if self.mails.is_empty() => {}
            "U:" => {
                let mail = self.mails.last_mut().ok_or("to which mail does it belong?")?;
                let octets = octets(&format!("{rest}\\r\\n"), &anybody())?;
                mail.bytes.get_or_insert_default().extend(octets);
            }
            _ => match content {
                "tls" => self.step(line, Act::Tls),
                "closed" => self.step(line, Act::Closed { silently: true }),
                "closed by TLS" => self.step(line, Act::Closed { silently: false }),
                "hang up" => self.step(line, Act::HangUp),
                _ if self.steps.is_empty() => self.heading(content)?,
                _ => return Err("what does it mean?".to_owned()),
            },
        }
        Ok(())
    }

    fn heading(&mut self, content: &str) -> Result<(), String> {
        let (name, value) = content.split_once(": ").ok_or("what does it mean?")?;
        match (name, value) {
            ("set", setting) => drop(self.settings.insert(setting.to_owned())),
            ("road", "resend") => self.road = Road::Resend,
            ("port", "starttls") => self.doors = vec![Door::StartTls],
            ("port", "tls") => self.doors = vec![Door::Tls],
            ("credential", "own") => self.own_credential = true,
            ("arrives", "as written") => self.arrives = Arrives::AsWritten,
            ("arrives", "at once too") => self.arrives = Arrives::AtOnce,
            ("start", "raw") => self.start = Start::Raw,
            ("start", "connected") => self.start = Start::Connected,
            ("start", "secured") => self.start = Start::Secured,
            ("start", "mail") => self.start = Start::Mail,
            ("start", "data") => self.start = Start::Data,
            _ => return Err("no such heading".to_owned()),
        }
        Ok(())
    }

    /// Lines that follow each other leave in one write.
    fn send(&mut self, line: usize, text: String) -> Result<(), String> {
        octets(&text, &anybody())?;
        match self.steps.last_mut() {
            Some(Step { act: Act::Send(texts), .. }) => texts.push(text),
            _ => self.step(line, Act::Send(vec![text])),
        }
        Ok(())
    }

    fn step(&mut self, line: usize, act: Act) {
        self.steps.push(Step { line, act });
    }
}

impl Mail {
    /// `ann@example.com -> bob@example.net, cid@example.net`
    fn announced(line: usize, text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("-> ").ok_or("upstream: nothing, or FROM -> TO, TO")?;
        let to = to.split(", ").map(str::to_owned).collect();
        Ok(Self { line, from: from.trim().to_owned(), to, bytes: None })
    }

    /// The line that announces it.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// What is not as announced.
    pub(super) fn unlike(&self, found: &SinkMail) -> Option<String> {
        if (&self.from, &self.to) != (&found.from, &found.to) {
            return Some(format!("it went from {:?} to {:?}", found.from, found.to));
        }
        let ends = found.bytes.windows(2).filter(|octets| octets == b"\r\n").count();
        let count = |octet| found.bytes.iter().filter(|found| **found == octet).count();
        if (count(b'\r'), count(b'\n'), count(0)) != (ends, ends, 0) {
            return Some("a bare CR, a bare LF or a NUL came to the upstream".to_owned());
        }
        let wanted = self.bytes.as_ref()?;
        let got = without_received(&found.bytes);
        (got != wanted).then(|| format!("the upstream got\n{}", got.escape_ascii()))
    }

    /// The same at Resend, where its lines are those of the text, and hidden recipients come last.
    pub(super) fn unlike_at_resend(&self, found: &Email) -> Option<String> {
        let to: Vec<_> = found.recipients().map(str::to_owned).collect();
        if (Some(&self.from), &self.to) != (found.from.as_ref(), &to) {
            return Some(format!("it went from {:?} to {to:?}", found.from));
        }
        let wanted = String::from_utf8_lossy(self.bytes.as_ref()?);
        let got = found.text.as_deref().unwrap_or_default();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        (lines(got) != lines(&wanted)).then(|| format!("Resend got\n{got}"))
    }
}

/// Cuts our Received field off, which stands in front: three lines.
fn without_received(bytes: &[u8]) -> &[u8] {
    let length: usize = bytes.split_inclusive(|octet| *octet == b'\n').take(3).map(<[u8]>::len).sum();
    &bytes[length..]
}

/// Whoever it is, for a first look at the escapes.
fn anybody() -> Credential {
    Credential { username: "username".to_owned(), secret: "secret".to_owned() }
}

/// Resolves the escapes of a client's line.
pub(super) fn octets(text: &str, credential: &Credential) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        out.extend_from_slice(before.as_bytes());
        let kind = escape.chars().next().ok_or("a lone \\ at the end")?;
        rest = &escape[kind.len_utf8()..];
        match kind {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            '0' => out.push(0),
            '\\' | ')' => out.push(kind as u8),
            'x' => {
                let digits = rest.get(..2).ok_or("\\x and two digits")?;
                out.push(u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?);
                rest = &rest[2..];
            }
            '(' => {
                let inner = bracketed(&mut rest)?;
                let (times, inner) = inner.split_once(' ').ok_or("\\(times text)")?;
                let times: usize = times.parse().map_err(|_| "\\(times text)")?;
                out.extend(octets(inner, credential)?.repeat(times));
            }
            'b' if rest.starts_with('(') => {
                rest = &rest[1..];
                let inner = bracketed(&mut rest)?;
                out.extend(STANDARD.encode(octets(inner, credential)?).into_bytes());
            }
            '<' => {
                let (name, after) = rest.split_once('>').ok_or("\\<name>")?;
                rest = after;
                out.extend_from_slice(match name {
                    "username" => credential.username.as_bytes(),
                    "secret" => credential.secret.as_bytes(),
                    _ => return Err(format!("nobody knows \\<{name}>")),
                });
            }
            other => return Err(format!("\\{other} is no escape")),
        }
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// What stands before the bracket that closes; `rest` goes on behind it.
fn bracketed<'a>(rest: &mut &'a str) -> Result<&'a str, String> {
    let whole = *rest;
    let mut depth = 0;
    let mut at = 0;
    while let Some(c) = whole[at..].chars().next() {
        match c {
            '\\' if whole[at..].starts_with("\\(") => {
                depth += 1;
                at += 1;
            }
            '\\' if whole[at..].starts_with("\\b(") => {
                depth += 1;
                at += 2;
            }
            '\\' => at += 1,
            ')' if depth == 0 => {
                *rest = &whole[at + 1..];
                return Ok(&whole[..at]);
            }
            ')' => depth -= 1,
            _ => {}
        }
        at += whole[at..].chars().next().map_or(1, char::len_utf8);
    }
    Err("a bracket is not closed".to_owned())
}

#[test]
fn escapes_are_the_octets_that_they_stand_for() {
    let table: [(&str, &[u8]); 7] = [
        (r"a\r\n\0\t\\\)b", b"a\r\n\0\t\\)b"),
        (r"\xfF\x00", b"\xff\0"),
        (r"\(3 a\r\n)z", b"a\r\na\r\na\r\nz"),
        (r"\(2 \))", b"))"),
        (r"\(2 x\(2 y)(z\))", b"xyy(z)xyy(z)"),
        (r"\b(\0\<username>\0\<secret>)", b"AHVzZXJuYW1lAHNlY3JldA=="),
        ("gr\u{fc}n", b"gr\xc3\xbcn"),
    ];
    for (text, wanted) in table {
        assert_eq!(octets(text, &anybody()).unwrap(), wanted, "{text}");
    }
    for text in [r"\", r"\q", r"\x1", r"\(x y)", r"\(2 y", r"\<nobody>"] {
        assert!(octets(text, &anybody()).is_err(), "{text}");
    }
}
