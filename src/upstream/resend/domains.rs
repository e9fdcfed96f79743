//! Resend's Domains API: domains that customers add to the operator's account
//! (resend.com/docs, "Domains"). It needs a key with full access.
//!
//! Records are handed on as they came, since no set of them is promised: two were
//! documented, and more may come. Mail goes first: a call here waits for a moment
//! that no mail wants, and only after a while takes its turn among them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::turns::Turn;
use super::{Resend, verdict};
use crate::outbound::{CallFailure, HttpAnswer};

/// How long a call lets mail go first.
const PATIENCE: Duration = Duration::from_secs(3);
/// The shortest pause between two looks for a free moment.
const PAUSE: Duration = Duration::from_millis(20);
/// Domains on a page of the list.
const PAGE: &str = "100";
/// Pages that are read at most: the largest plan has 1,000 domains, and more can be bought.
const MAX_PAGES: usize = 50;
/// Longest word of Resend's that is kept for a status.
const MAX_STATUS_CHARS: usize = 60;

/// Where Resend sends the mail of a domain from ("Create Domain", `region`); fixed when
/// the domain is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Region {
    /// North Virginia: Resend's own choice.
    #[serde(rename = "us-east-1")]
    UsEast1,
    /// Ireland.
    #[serde(rename = "eu-west-1")]
    EuWest1,
    /// São Paulo.
    #[serde(rename = "sa-east-1")]
    SaEast1,
    /// Tokyo.
    #[serde(rename = "ap-northeast-1")]
    ApNortheast1,
}

/// The body of `POST /domains`.
#[derive(Debug, Serialize)]
struct NewDomain<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
}

/// A domain of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredDomain {
    /// Resend's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `not_started`, `pending`, `verified`, …
    pub status: String,
    /// When it was added, if that could be read.
    pub created_at: Option<Timestamp>,
    /// What is to be published, as Resend wrote it; a list of domains has none.
    pub records: Vec<Value>,
    /// Whether it may send, as far as that is not for DNS to say.
    pub sending: bool,
}

/// What a domain's status comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Resend sends from it.
    Sends,
    /// Resend has given it up.
    Failed,
    /// Not yet, or not for the moment, or a word that is new.
    Waits,
}

/// Why something about a domain was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainFault {
    /// The key is wrong, or may only send.
    #[error("Resend's API key may not manage domains, which takes full access: {0}")]
    Key(String),
    /// The name is registered, in this account or in another one.
    #[error("the domain has been registered already: {0}")]
    Registered(String),
    /// Resend refuses it for another reason.
    #[error("Resend refused: {0}")]
    Refused(String),
    /// There is no such domain.
    #[error("Resend has no such domain")]
    NotThere,
    /// No answer, or none that counts: it may have been done.
    #[error("Resend does not answer as it should: {0}")]
    Unavailable(String),
}

impl Resend {
    /// The same client, which registers domains in that region.
    pub fn in_region(self, region: Option<Region>) -> Self {
        Self { region, ..self }
    }

    /// Registers a domain.
    pub async fn add_domain(&self, name: &str) -> Result<RegisteredDomain, DomainFault> {
        let new = NewDomain { name, region: self.region };
        self.about_domain(self.service.post(&["domains"]).json(&new)).await
    }

    /// Reads a domain with its records.
    pub async fn domain(&self, id: &str) -> Result<RegisteredDomain, DomainFault> {
        self.about_domain(self.service.get(&["domains", id])).await
    }

    /// Has Resend look for the records; its answer says nothing about them.
    pub async fn verify_domain(&self, id: &str) -> Result<(), DomainFault> {
        self.patient_call(self.service.post(&["domains", id, "verify"])).await.map(drop)
    }

    /// Removes a domain; one that is not there is as good as removed.
    pub async fn remove_domain(&self, id: &str) -> Result<(), DomainFault> {
        match self.patient_call(self.service.delete(&["domains", id])).await {
            Ok(_) | Err(DomainFault::NotThere) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Looks a name up among all domains of the account.
    pub async fn find_domain(&self, name: &str) -> Result<Option<RegisteredDomain>, DomainFault> {
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut request = self.service.get(&["domains"]).query(&[("limit", PAGE)]);
            if let Some(after) = &after {
                request = request.query(&[("after", after)]);
            }
            let answer = self.patient_call(request).await?;
            let page = Page::read(&answer.body).ok_or_else(|| unreadable(&answer))?;
            if let Some(found) = page.domains.iter().find(|domain| domain.name.eq_ignore_ascii_case(name)) {
                return Ok(Some(found.clone()));
            }
            after = match page.domains.last() {
                Some(last) if page.has_more => Some(last.id.clone()),
                _ => return Ok(None),
            };
        }
        Err(DomainFault::Unavailable("the list of domains has no end".to_owned()))
    }

    async fn about_domain(&self, request: reqwest::RequestBuilder) -> Result<RegisteredDomain, DomainFault> {
        let answer = self.patient_call(request).await?;
        let body = serde_json::from_slice(&answer.body).unwrap_or_default();
        RegisteredDomain::read(&body).ok_or_else(|| unreadable(&answer))
    }

    async fn patient_call(&self, request: reqwest::RequestBuilder) -> Result<HttpAnswer, DomainFault> {
        let turn = self.wait_for_spare_turn().await.map_err(|_| {
            DomainFault::Unavailable("no turn under Resend's rate limit came in time".to_owned())
        })?;
        turn.leave().await;
        let answer = self.call(request).await.map_err(|failure| match failure {
            CallFailure::NotSent(why) | CallFailure::Lost(why) => DomainFault::Unavailable(why),
        })?;
        match fault(&answer) {
            None => Ok(answer),
            Some(fault) => Err(fault),
        }
    }

    async fn wait_for_spare_turn(&self) -> Result<Turn, Duration> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.turns.spare() {
                Ok(turn) => return Ok(turn),
                Err(wait) if Instant::now() + wait < until => tokio::time::sleep(wait.max(PAUSE)).await,
                Err(_) => return self.turns.next().await,
            }
        }
    }
}

impl RegisteredDomain {
    /// Reads a domain, of an answer or of an event; `None`: it has no id or no name.
    pub fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let sending = value.pointer("/capabilities/sending").and_then(Value::as_str);
        Some(Self {
            id: text("id").filter(|id| !id.is_empty())?.to_owned(),
            name: text("name")?.to_owned(),
            status: text("status").unwrap_or_default().chars().take(MAX_STATUS_CHARS).collect(),
            created_at: text("created_at").and_then(|time| time.parse().ok()),
            records: value.get("records").and_then(Value::as_array).cloned().unwrap_or_default(),
            sending: sending != Some("disabled"),
        })
    }

    /// What its status comes to. `partially_…` is for the records to decide: those for
    /// receiving and tracking do not matter here.
    pub fn readiness(&self) -> Readiness {
        let status = self.status.trim().to_ascii_lowercase();
        let sends = match status.as_str() {
            "verified" => true,
            _ if status.starts_with("partially_") => allow_sending(&self.records),
            _ => false,
        };
        match status.as_str() {
            _ if sends && self.sending => Readiness::Sends,
            "failed" | "partially_failed" => Readiness::Failed,
            _ => Readiness::Waits,
        }
    }
}

/// Sending takes every DKIM record, and of those called SPF all of MX and TXT; where
/// they are CNAMEs one will do, since the other serves a fallback.
fn allow_sending(records: &[Value]) -> bool {
    let is = |record: &Value, field: &str, wanted: &str| {
        record.get(field).and_then(Value::as_str).is_some_and(|text| text.eq_ignore_ascii_case(wanted))
    };
    let verified = |record: &&Value| is(record, "status", "verified");
    let of = |kind: &str| records.iter().filter(|record| is(record, "record", kind)).collect::<Vec<_>>();
    let (dkim, spf) = (of("DKIM"), of("SPF"));
    let spf_will_do = if spf.iter().all(|record| is(record, "type", "CNAME")) {
        spf.iter().any(verified)
    } else {
        spf.iter().all(verified)
    };
    !dkim.is_empty() && dkim.iter().all(verified) && spf_will_do
}

/// The id of the domain that a webhook is about; `None`: it is about something else.
pub fn domain_of_event(body: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(body).ok()?;
    let kind = event.get("type")?.as_str()?;
    let id = event.pointer("/data/id")?.as_str()?;
    kind.starts_with("domain.").then(|| id.to_owned())
}

struct Page {
    domains: Vec<RegisteredDomain>,
    has_more: bool,
}

impl Page {
    fn read(body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let domains = body.get("data")?.as_array()?.iter().filter_map(RegisteredDomain::read).collect();
        Some(Self { domains, has_more: body.get("has_more").and_then(Value::as_bool).unwrap_or(false) })
    }
}

/// What is wrong with an answer; `None`: nothing.
fn fault(answer: &HttpAnswer) -> Option<DomainFault> {
    let said = verdict::said(answer);
    let registered = ["registered already", "already registered", "already exists"];
    Some(match answer.status {
        200..300 => return None,
        400 | 401 | 403 if verdict::is_about_the_key(answer) => DomainFault::Key(said),
        400 | 403 | 409 | 422 if registered.iter().any(|words| said.to_lowercase().contains(words)) => {
            DomainFault::Registered(said)
        }
        404 => DomainFault::NotThere,
        400 | 403 | 422 => DomainFault::Refused(said),
        _ => DomainFault::Unavailable(said),
    })
}

fn unreadable(answer: &HttpAnswer) -> DomainFault {
    DomainFault::Unavailable(format!("an answer that cannot be read: {}", verdict::said(answer)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::outbound::RateInfo;

    fn domain(status: &str, records: Value) -> RegisteredDomain {
        let value = json!({
            "id": "d-1", "name": "example.com", "status": status,
            "created_at": "2023-04-26 20:21:26.347412+00", "records": records,
        });
        RegisteredDomain::read(&value).unwrap()
    }

    fn record(kind: &str, of: &str, status: &str) -> Value {
        json!({ "record": of, "type": kind, "status": status, "name": "send", "ttl": "Auto", "value": "x" })
    }

    #[test]
    fn a_status_is_read_leniently_and_a_partial_one_by_its_records() {
        let (up, down) = ("verified", "pending");
        let dkim = |status| record("TXT", "DKIM", status);
        let classic = |mx, txt| [record("MX", "SPF", mx), record("TXT", "SPF", txt)];
        let aliases = |one, two| [record("CNAME", "SPF", one), record("CNAME", "SPF", two)];
        let with = |first: Value, rest: [Value; 2]| json!([first, rest[0], rest[1]]);
        let table = [
            ("verified", json!([]), Readiness::Sends),
            (" Verified", json!([]), Readiness::Sends),
            ("pending", with(dkim(up), classic(up, up)), Readiness::Waits),
            ("not_started", json!([]), Readiness::Waits),
            ("temporary_failure", with(dkim(up), classic(up, down)), Readiness::Waits),
            ("a word that is new", json!([]), Readiness::Waits),
            ("", json!([]), Readiness::Waits),
            ("failed", json!([]), Readiness::Failed),
            ("partially_verified", json!([]), Readiness::Waits),
            ("partially_verified", with(dkim(up), aliases(up, down)), Readiness::Sends),
            ("partially_verified", with(dkim(up), aliases(down, up)), Readiness::Sends),
            ("partially_verified", with(dkim(up), aliases(down, down)), Readiness::Waits),
            ("partially_verified", with(dkim(down), aliases(up, up)), Readiness::Waits),
            ("partially_verified", with(dkim(up), classic(up, up)), Readiness::Sends),
            ("partially_verified", with(dkim(up), classic(up, down)), Readiness::Waits),
            ("partially_failed", with(dkim(up), aliases(up, "failed")), Readiness::Sends),
            ("partially_failed", with(dkim("failed"), aliases(up, up)), Readiness::Failed),
        ];
        for (status, records, want) in table {
            assert_eq!(domain(status, records.clone()).readiness(), want, "{status} {records}");
        }
        let muted = json!({ "id": "d", "name": "x", "status": "verified", "capabilities": { "sending": "disabled" } });
        assert_eq!(RegisteredDomain::read(&muted).unwrap().readiness(), Readiness::Waits);
    }

    #[test]
    fn a_domain_is_read_as_it_came_or_not_at_all() {
        let records =
            json!([{ "name": "send", "ttl": "Auto", "priority": 10, "value": "\"p=x\"", "new": [1] }]);
        let read = domain("pending", records.clone());
        assert_eq!(Value::Array(read.records), records);
        assert_eq!(read.created_at, Some("2023-04-26T20:21:26.347412Z".parse().unwrap()));
        for bad in [json!({}), json!({ "id": "", "name": "x" }), json!({ "id": "d" }), json!([1])] {
            assert_eq!(RegisteredDomain::read(&bad), None, "{bad}");
        }
        let odd = json!({ "id": "d", "name": "x", "created_at": "yesterday", "records": "none" });
        assert_eq!(RegisteredDomain::read(&odd).unwrap().created_at, None);
    }

    #[test]
    fn a_refusal_says_whose_trouble_it_is() {
        let error = |name: &str, message: &str| json!({ "name": name, "message": message }).to_string();
        let table = [
            (401, error("restricted_api_key", "This API key is restricted to only send emails"), "key"),
            (400, error("validation_error", "API key is invalid"), "key"),
            (403, error("suspended_api_key", "suspended"), "key"),
            (403, error("validation_error", "The x domain has been registered already."), "registered"),
            (422, error("validation_error", "The domain already exists"), "registered"),
            (403, error("validation_error", "You have reached the limit of your plan"), "refused"),
            (422, error("validation_error", "Invalid domain name"), "refused"),
            (404, error("not_found", "Domain not found"), "not there"),
            (409, error("resource_locked", "busy"), "unavailable"),
            (429, error("rate_limit_exceeded", "slow down"), "unavailable"),
            (500, String::new(), "unavailable"),
            (502, "<html>".to_owned(), "unavailable"),
        ];
        for (status, body, want) in table {
            let answer = HttpAnswer { status, rate: RateInfo::default(), body: body.clone().into_bytes() };
            let got = match fault(&answer).unwrap() {
                DomainFault::Key(_) => "key",
                DomainFault::Registered(_) => "registered",
                DomainFault::Refused(_) => "refused",
                DomainFault::NotThere => "not there",
                DomainFault::Unavailable(_) => "unavailable",
            };
            assert_eq!(got, want, "{status} {body}");
        }
    }

    #[test]
    fn only_news_of_domains_names_one() {
        let event = |kind: &str| json!({ "type": kind, "data": { "id": "d-1" } }).to_string();
        assert_eq!(domain_of_event(event("domain.updated").as_bytes()), Some("d-1".to_owned()));
        for other in [event("email.sent"), "{".to_owned(), json!({ "type": "domain.updated" }).to_string()] {
            assert_eq!(domain_of_event(other.as_bytes()), None, "{other}");
        }
    }
}
