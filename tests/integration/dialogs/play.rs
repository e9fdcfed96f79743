//! One dialog, held once: on one port, its octets in pieces of one kind.

use std::sync::Arc;

use rustls::ClientConfig;

use super::script::{Act, Arrives, Dialog, Mail, Start, Step, octets};
use super::wire::{Farewell, Wire};
use crate::harness::Meter;
use crate::harness::meter::Credential;

/// What longer writes are cut into where short ones come octet by octet.
const PIECE: usize = 997;
/// Shorter writes come octet by octet.
const SHORT: usize = 8 << 10;

/// A port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    StartTls,
    Tls,
}

/// A dialog and the way in which it is held.
pub(super) struct Play<'a> {
    pub(super) dialog: &'a Dialog,
    pub(super) door: Door,
    pub(super) arrives: Arrives,
}

/// A message that was taken and must come to the upstream.
pub(super) struct Announced<'a> {
    pub(super) place: String,
    pub(super) message_id: String,
    pub(super) mail: &'a Mail,
}

/// What one run knows.
struct Visit<'a> {
    meter: &'a Meter,
    config: &'a Arc<ClientConfig>,
    credential: Credential,
    wire: Wire,
    taken: Vec<String>,
}

impl<'a> Play<'a> {
    /// Holds it; what it announces, or where it went otherwise.
    pub(super) fn run(
        &self,
        meter: &Meter,
        config: &Arc<ClientConfig>,
    ) -> Result<Vec<Announced<'a>>, String> {
        let Dialog { start, steps, mails, own_credential, .. } = self.dialog;
        let credential = if *own_credential { meter.new_credential() } else { meter.credential.clone() };
        let process = meter.process();
        let address = if self.door == Door::StartTls { process.smtp } else { process.smtps };
        let wire = Wire::connect(address);
        let mut visit = Visit { meter, config, credential, wire, taken: Vec::new() };
        visit.begin(self.door, *start).map_err(|fault| self.fault(1, &fault))?;
        if self.arrives == Arrives::AtOnce {
            let all = steps.iter().filter_map(|step| visit.writes(step)).collect::<Vec<_>>().concat();
            visit.wire.send(&all, all.len());
        }
        for step in steps {
            self.go(&mut visit, step).map_err(|fault| self.fault(step.line, &fault))?;
        }
        if !visit.wire.is_gone() {
            let last = steps.last().map_or(1, |step| step.line);
            visit.ends().map_err(|fault| self.fault(last, &format!("at the QUIT behind it: {fault}")))?;
        }
        if visit.taken.len() != mails.len() {
            let fault = format!("{} messages were taken, {} announced", visit.taken.len(), mails.len());
            return Err(self.fault(1, &fault));
        }
        let announced = visit.taken.into_iter().zip(mails);
        let place = |mail: &Mail| self.fault(mail.line(), "");
        Ok(announced.map(|(message_id, mail)| Announced { place: place(mail), message_id, mail }).collect())
    }

    fn go(&self, visit: &mut Visit<'_>, step: &Step) -> Result<(), String> {
        match &step.act {
            Act::Send(_) => {
                let octets = visit.writes(step).unwrap_or_default();
                match self.arrives {
                    Arrives::AsWritten => visit.wire.send(&octets, octets.len()),
                    Arrives::InPieces if octets.len() <= SHORT => visit.wire.send(&octets, 1),
                    Arrives::InPieces => visit.wire.send(&octets, PIECE),
                    Arrives::AtOnce => {}
                }
                Ok(())
            }
            Act::Line(wanted) => visit.hears(wanted),
            Act::UpTo(wanted) => visit.hears_up_to(wanted),
            Act::Tls => visit.wire.secure(visit.config),
            Act::Closed { silently: true } => visit.closes(),
            Act::Closed { silently: false } => {
                // However: a handshake that failed may leave something unread behind.
                let (rest, _) = visit.wire.rest()?;
                if rest.contains("220") { Err(format!("it was to close, and said {rest:?}")) } else { Ok(()) }
            }
            Act::HangUp => {
                visit.wire.hang_up();
                Ok(())
            }
            Act::Operator(command) => {
                let username = visit.credential.username.clone();
                let words: Vec<_> = command
                    .split(' ')
                    .map(|word| if word == r"\<username>" { username.as_str() } else { word })
                    .collect();
                let said = visit.meter.run(&words);
                if said.code == Some(0) { Ok(()) } else { Err(format!("{said:?}")) }
            }
        }
    }

    fn fault(&self, line: usize, fault: &str) -> String {
        format!("tests/dialogs/{}:{line} ({:?}, {:?}): {fault}", self.dialog.name, self.door, self.arrives)
    }
}

impl Visit<'_> {
    /// Goes on until the dialog's own lines begin.
    fn begin(&mut self, door: Door, start: Start) -> Result<(), String> {
        if start == Start::Raw {
            return Ok(());
        }
        if door == Door::Tls {
            self.wire.secure(self.config)?;
        }
        if start == Start::Connected {
            return Ok(());
        }
        self.hears("220 smtp.example.com …")?;
        if door == Door::StartTls {
            self.says("EHLO client.example", "250 STARTTLS")?;
            self.says("STARTTLS", "220 2.0.0 …")?;
            self.wire.secure(self.config)?;
        }
        self.says("EHLO client.example", "250 AUTH PLAIN LOGIN")?;
        if start >= Start::SignedIn {
            self.says(r"AUTH PLAIN \b(\0\<username>\0\<secret>)", "235 2.7.0 …")?;
        }
        if start >= Start::Mail {
            self.says("MAIL FROM:<ann@example.com>", "250 2.1.0 …")?;
            self.says("RCPT TO:<bob@example.net>", "250 2.1.5 …")?;
        }
        if start >= Start::Data {
            self.says("DATA", "354 …")?;
        }
        Ok(())
    }

    fn says(&mut self, line: &str, reply: &str) -> Result<(), String> {
        let line = octets(&format!("{line}\\r\\n"), &self.credential)?;
        self.wire.send(&line, line.len());
        self.hears_up_to(reply)
    }

    /// What the client sends at this step.
    fn writes(&self, step: &Step) -> Option<Vec<u8>> {
        let Act::Send(texts) = &step.act else { return None };
        let octets = |text: &String| octets(text, &self.credential).expect("it was read before");
        Some(texts.iter().flat_map(octets).collect())
    }

    fn hears(&mut self, wanted: &str) -> Result<(), String> {
        let line = self.line(wanted)?;
        if is(&line, wanted) { Ok(()) } else { Err(format!("it said {line:?} instead of {wanted:?}")) }
    }

    fn hears_up_to(&mut self, wanted: &str) -> Result<(), String> {
        loop {
            let line = self.line(wanted)?;
            if is(&line, wanted) {
                return Ok(());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Err(format!("it ended with {line:?} instead of {wanted:?}"));
            }
        }
    }

    /// The server goes away as it should, without another word.
    fn closes(&mut self) -> Result<(), String> {
        match self.wire.rest()? {
            (rest, Farewell::Close) if rest.is_empty() => Ok(()),
            (rest, farewell) => Err(format!("it was to close, and said {rest:?} before {farewell:?}")),
        }
    }

    /// Where the dialog leaves it open: nothing more is said than the reply to a QUIT.
    fn ends(&mut self) -> Result<(), String> {
        self.wire.send(b"QUIT\r\n", usize::MAX);
        self.hears("221 2.0.0 Bye")?;
        self.closes()
    }

    fn line(&mut self, wanted: &str) -> Result<String, String> {
        let line = self.wire.line()?.map_err(|farewell| format!("{farewell:?} instead of {wanted:?}"))?;
        if let Some(queued) = line.strip_prefix("250 2.0.0 Queued as ") {
            self.taken.push(queued.split(',').next().unwrap_or_default().to_owned());
        }
        Ok(line)
    }
}

/// `…` at the end stands for anything.
fn is(line: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('…') {
        Some(beginning) => line.starts_with(beginning),
        None => line == wanted,
    }
}
