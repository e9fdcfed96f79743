//! A DNS server on loopback that says what a test tells it, in raw octets.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

/// What is there under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// These TXT records.
    Txt(Vec<String>),
    /// An alias of this name, where these TXT records are.
    Alias(&'static str, Vec<String>),
    /// The server cannot say.
    Failure,
    /// No answer at all.
    Silence,
}

/// The server; it ends with the test's process. What it was not told is not there.
#[derive(Debug, Clone)]
pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<HashMap<String, Answer>>>,
}

impl DnsServer {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = Self { address: socket.local_addr().unwrap(), zone: Arc::default() };
        let zone = Arc::clone(&server.zone);
        std::thread::spawn(move || {
            let mut query = [0; 2048];
            while let Ok((octets, from)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..octets], &zone.lock().unwrap()) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        server
    }

    /// The record by which a domain is proven reads so from now on.
    pub(crate) fn publish(&self, domain: &str, answer: Answer) {
        self.zone.lock().unwrap().insert(format!("_postmeter-challenge.{domain}"), answer);
    }

    /// The record is not there any more.
    pub(crate) fn withdraw(&self, domain: &str) {
        self.zone.lock().unwrap().remove(&format!("_postmeter-challenge.{domain}"));
    }
}

/// RFC 1035 §4.1: the header, the question as it came, the records.
fn answer(query: &[u8], zone: &HashMap<String, Answer>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    let question = &query[12..at + 5];
    let (mut code, mut records) = (0, Vec::new());
    match zone.get(&labels.join(".")) {
        None => code = 3,
        Some(Answer::Failure) => code = 2,
        Some(Answer::Silence) => return None,
        Some(Answer::Txt(values)) => values.iter().for_each(|value| records.push(txt(&[0xc0, 12], value))),
        Some(Answer::Alias(target, values)) => {
            records.push(record(&[0xc0, 12], 5, &name(target)));
            values.iter().for_each(|value| records.push(txt(&name(target), value)));
        }
    }
    let mut octets = query[..2].to_vec();
    octets.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    octets.extend(question);
    octets.extend(records.concat());
    Some(octets)
}

fn name(text: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    [text.split('.').map(label).collect::<Vec<_>>().concat(), vec![0]].concat()
}

fn txt(owner: &[u8], value: &str) -> Vec<u8> {
    record(owner, 16, &[&[value.len() as u8], value.as_bytes()].concat())
}

fn record(owner: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    [owner, &[0, kind, 0, 1, 0, 0, 0, 0, 0, data.len() as u8], data].concat()
}
