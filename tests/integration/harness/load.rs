//! Clients that send one mail after another, over SMTP and HTTP, while something happens to
//! the server, and keep count of what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::smtp::Smtp;
use super::web::{request, try_ask};
use super::{CUSTOMER_ID, Meter, letter, until};

/// What clients were told, by the subjects of their mails.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// 250, or 200.
    pub(crate) acknowledged: BTreeSet<String>,
    /// 452 4.3.1, or 503: try again.
    pub(crate) refused: BTreeSet<String>,
    /// Whatever else that was, but for a connection that ended.
    strange: Vec<String>,
    /// The longest that a client waited for an answer.
    pub(crate) longest: Duration,
}

/// A load.
#[derive(Debug, Default)]
pub(crate) struct Load {
    told: Mutex<Told>,
    is_over: AtomicBool,
}

impl Load {
    /// Three clients of SMTP and one of HTTP, which go on while this acts.
    pub(crate) fn during(meter: &Meter, act: impl FnOnce(&Self)) -> Told {
        let load = Self::default();
        std::thread::scope(|scope| {
            let over = Over(&load);
            for nth in 0..3 {
                let (load, to) = (&load, meter.process().smtp);
                scope.spawn(move || load.smtp(meter, to, &format!("s{nth}")));
            }
            scope.spawn(|| load.http(meter, meter.process().http, "h"));
            act(&load);
            drop(over);
        });
        load.told.into_inner().unwrap()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// Waits until so many more were acknowledged over SMTP, and one over HTTP.
    pub(crate) fn until_acknowledged(&self, more: usize) {
        let count = |way: char| self.told().acknowledged.iter().filter(|name| name.starts_with(way)).count();
        let (smtp, http) = (count('s') + more, count('h') + 1);
        until("mail to be taken", || (count('s') >= smtp && count('h') >= http).then_some(()));
    }

    /// Waits until so many more were refused over SMTP, and one over HTTP.
    pub(crate) fn until_refused(&self, more: usize) {
        let count = |way: char| self.told().refused.iter().filter(|name| name.starts_with(way)).count();
        let (smtp, http) = (count('s') + more, count('h') + 1);
        until("mail to be refused", || (count('s') >= smtp && count('h') >= http).then_some(()));
    }

    fn note(&self, subject: String, answer: Answer, asked: Instant) {
        let mut told = self.told();
        told.longest = told.longest.max(asked.elapsed());
        match answer {
            Answer::Yes => drop(told.acknowledged.insert(subject)),
            Answer::Later => drop(told.refused.insert(subject)),
            Answer::Other(said) => told.strange.push(said),
        }
    }

    fn smtp(&self, meter: &Meter, to: SocketAddr, name: &str) {
        let mut session = None;
        let mut was_refused = false;
        for nth in 0.. {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let (subject, asked) = (format!("{name}n{nth}"), Instant::now());
            let reply = self.say(meter, to, &mut session, &letter(&subject));
            if reply.is_empty() || reply.starts_with("421 ") {
                session = None;
            }
            let answer = if reply.starts_with("250 ") {
                Answer::Yes
            } else if ["452 4.3.1 ", "421 4.7.0 Too many "].iter().any(|later| reply.starts_with(later)) {
                Answer::Later
            } else if reply.is_empty() && was_refused {
                // Refused once too often: the 421 was the reply to RSET.
                Answer::Later
            } else {
                Answer::Other(reply)
            };
            was_refused = matches!(answer, Answer::Later);
            self.note(subject, answer, asked);
        }
    }

    /// The last reply; a session that is not there is begun.
    fn say(&self, meter: &Meter, to: SocketAddr, session: &mut Option<Smtp>, letter: &[u8]) -> String {
        if session.is_none() {
            let mut smtp = Smtp::starttls_at(to, &meter.certificate());
            let reply = smtp.auth_plain(&meter.credential.username, &meter.credential.secret);
            if !reply.starts_with("235 ") {
                return reply;
            }
            *session = Some(smtp);
        }
        session.as_mut().unwrap().attempt(&["bob@example.net"], letter)
    }

    fn http(&self, meter: &Meter, to: SocketAddr, name: &str) {
        for nth in 0.. {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let (subject, asked) = (format!("{name}n{nth}"), Instant::now());
            let mail =
                json!({"from": "ann@example.com", "to": "bob@example.net", "subject": subject, "text": "t"});
            let asking = request(Method::POST, &format!("http://{to}/send"))
                .basic_auth(&meter.credential.username, Some(&meter.credential.secret))
                .json(&mail);
            let answer = match try_ask(asking) {
                Some(answer) if answer.status == 200 => Answer::Yes,
                Some(answer) if answer.status == 503 => Answer::Later,
                answer => Answer::Other(format!("{answer:?}")),
            };
            self.note(subject, answer, asked);
        }
    }
}

enum Answer {
    Yes,
    Later,
    Other(String),
}

/// Says that it is over, however that comes.
struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

impl Told {
    /// What was acknowledged left once and was paid for, what was refused did not leave, and nobody was
    /// told anything else.
    #[track_caller]
    pub(crate) fn holds(&self, meter: &Meter) {
        assert_eq!(self.strange, Vec::<String>::new());
        let mut arrived = BTreeMap::<String, u32>::new();
        for mail in meter.mails() {
            *arrived.entry(mail.email.subject.unwrap_or_default()).or_default() += 1;
        }
        let twice: Vec<_> = arrived.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "P4: {twice:?}");
        let arrived: BTreeSet<String> = arrived.into_keys().collect();
        let lost: Vec<_> = self.acknowledged.difference(&arrived).collect();
        assert!(lost.is_empty(), "P1: {lost:?}");
        let refused: Vec<_> = self.refused.intersection(&arrived).collect();
        assert!(refused.is_empty(), "refused and sent: {refused:?}");
        assert_eq!(meter.dodo().debited(CUSTOMER_ID), arrived.len() as u64, "P3");
    }
}
