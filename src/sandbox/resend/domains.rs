//! Domains of the account: added, looked at, verified, removed.
//!
//! Verification is asynchronous, as it is at Resend: the call sets the domain to
//! pending, and what became of it is there a moment later, with a webhook.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Behaviour, Event, Refusal, ResendStandIn, lock};
use crate::domain::digest::sha256_hex;
use crate::sandbox::webhook::Parcel;

/// Domains on a page at most.
const MAX_PAGE: usize = 100;
/// Where mail can leave from.
const REGIONS: [&str; 4] = ["us-east-1", "eu-west-1", "sa-east-1", "ap-northeast-1"];

/// Which records a new domain is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainRecords {
    /// One set or the other, by the domain's name.
    #[default]
    Either,
    /// MX and TXT, as it was for years.
    Classic,
    /// Two CNAMEs in their place.
    Cname,
}

/// A domain of the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Resend's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `not_started`, `pending`, `verified`, …
    pub status: String,
    /// When it was added, in Unix milliseconds.
    pub created_at_ms: i64,
    /// Where its mail leaves from.
    #[serde(default = "default_region")]
    pub region: String,
    /// What is to be published.
    pub records: Vec<DomainRecord>,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

/// A record that is to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRecord {
    /// `SPF` or `DKIM`.
    pub record: String,
    /// Relative to the domain.
    pub name: String,
    /// `MX`, `TXT` or `CNAME`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Not a number.
    pub ttl: String,
    /// Its own status.
    pub status: String,
    /// Its value.
    pub value: String,
    /// Of an MX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
}

impl Domain {
    fn new((name, region): (&str, String), created_at_ms: i64, records: DomainRecords) -> Self {
        let id = uuid::Uuid::now_v7().to_string();
        let digest = sha256_hex(name.as_bytes());
        let is_classic = match records {
            DomainRecords::Classic => true,
            DomainRecords::Cname => false,
            DomainRecords::Either => digest.as_str() < "8",
        };
        let record = |record: &str, kind: &str, name: &str, value: String, priority| DomainRecord {
            record: record.to_owned(),
            name: name.to_owned(),
            kind: kind.to_owned(),
            ttl: "Auto".to_owned(),
            status: "not_started".to_owned(),
            value,
            priority,
        };
        let mx = format!("feedback-smtp.{region}.amazonses.com");
        let spf = "v=spf1 include:amazonses.com ~all".to_owned();
        // A key of its own each time: records that an earlier owner left prove nothing.
        let key = format!("p={}", sha256_hex(id.as_bytes()));
        let dkim = record("DKIM", "TXT", "resend._domainkey", key, None);
        let records = if is_classic {
            vec![record("SPF", "MX", "send", mx, Some(10)), record("SPF", "TXT", "send", spf, None), dkim]
        } else {
            let target = |nth: u8| format!("{}.r{nth}.resend.example", digest.get(..12).unwrap_or_default());
            vec![
                record("SPF", "CNAME", "send", target(1), None),
                record("SPF", "CNAME", "rsend", target(2), None),
                dkim,
            ]
        };
        Self { id, name: name.to_owned(), status: "not_started".to_owned(), created_at_ms, region, records }
    }

    /// One that the account's owner added and verified by hand.
    fn by_hand(index: usize, name: &str) -> Self {
        let id = format!("00000000-0000-4000-8000-{index:012}");
        let status = "verified".to_owned();
        Self {
            id,
            name: name.to_owned(),
            status,
            created_at_ms: 1_767_225_600_000,
            region: default_region(),
            records: Vec::new(),
        }
    }

    fn set(&mut self, status: &str) {
        self.status = status.to_owned();
        for record in &mut self.records {
            record.status = status.to_owned();
        }
    }

    fn can_send(&self) -> bool {
        matches!(self.status.as_str(), "verified" | "partially_verified")
    }

    /// As a list shows it.
    fn summary(&self) -> Value {
        let created_at = jiff::Timestamp::from_millisecond(self.created_at_ms).unwrap_or_default();
        json!({
            "id": self.id,
            "name": self.name,
            "status": self.status,
            // Not RFC 3339.
            "created_at": created_at.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string(),
            "region": self.region,
            "open_tracking": false,
            "click_tracking": false,
            "capabilities": { "sending": "enabled", "receiving": "disabled" },
        })
    }

    /// With its records; `quoted`: TXT values stand in quotation marks, which a GET does.
    fn whole(&self, quoted: bool) -> Map<String, Value> {
        let mut records = self.records.clone();
        for record in records.iter_mut().filter(|record| quoted && record.kind == "TXT") {
            record.value = format!("\"{}\"", record.value);
        }
        let mut whole = self.summary().as_object().cloned().unwrap_or_default();
        whole.insert("records".to_owned(), json!(records));
        whole
    }
}

impl ResendStandIn {
    /// The domain of that name, if it was added over the API.
    pub fn domain(&self, name: &str) -> Option<Domain> {
        lock(&self.0.kept).outbox.domains.iter().find(|domain| domain.name == name).cloned()
    }

    /// Gives a domain and its records this status, and tells it. `false`: there is none.
    pub fn settle_domain(&self, name: &str, status: &str) -> bool {
        let Some(mut domain) = self.domain(name) else { return false };
        domain.set(status);
        self.update_domain(domain)
    }

    /// Changes a domain, and tells it.
    pub fn update_domain(&self, domain: Domain) -> bool {
        let kept = lock(&self.0.kept).commit(Event::Domain(domain.clone())).is_ok();
        if kept && self.behaviour().events && self.0.courier.has_endpoint() {
            let now = self.0.clock.now().to_string();
            let mut data = domain.whole(false);
            if let Ok(created_at) = jiff::Timestamp::from_millisecond(domain.created_at_ms) {
                data.insert("created_at".to_owned(), json!(created_at.to_string()));
            }
            let event = "domain.updated".to_owned();
            let body = json!({ "type": event, "created_at": now, "data": data }).to_string();
            let webhook_id = format!("msg_{}", uuid::Uuid::now_v7().simple());
            self.send(vec![Parcel { webhook_id, event, body }]);
        }
        kept
    }

    /// Removes a domain, as somebody at Resend's page does.
    pub fn drop_domain(&self, name: &str) -> bool {
        let Some(domain) = self.domain(name) else { return false };
        lock(&self.0.kept).commit(Event::DomainRemoved(domain.id)).is_ok()
    }

    /// Domains that may stand in `from`; `None`: any.
    pub(super) fn sending_domains(&self, behaviour: &Behaviour) -> Option<Vec<String>> {
        let mut names = behaviour.verified_domains.clone()?;
        let kept = lock(&self.0.kept);
        names.extend(
            kept.outbox.domains.iter().filter(|domain| domain.can_send()).map(|one| one.name.clone()),
        );
        Some(names)
    }

    fn all_domains(&self) -> Vec<Domain> {
        let by_hand = self.behaviour().verified_domains.unwrap_or_else(|| vec!["example.com".to_owned()]);
        let mut all: Vec<_> =
            by_hand.iter().enumerate().map(|(index, name)| Domain::by_hand(index, name)).collect();
        all.extend(lock(&self.0.kept).outbox.domains.iter().cloned());
        all
    }

    fn find(&self, id: &str) -> Result<Domain, Refusal> {
        let found = self.all_domains().into_iter().find(|domain| domain.id == id);
        found.ok_or_else(|| Refusal::not_found("Domain"))
    }
}

/// The body of `POST /domains`; what else it may say is ignored.
#[derive(Debug, Deserialize)]
struct NewDomain {
    name: Option<String>,
    #[serde(default = "default_region")]
    region: String,
}

/// `POST /domains`
pub(super) async fn create(
    State(resend): State<ResendStandIn>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let new: NewDomain =
        serde_json::from_slice(&body).map_err(|error| Refusal::validation(error.to_string()))?;
    let name = new.name.ok_or_else(|| Refusal::missing("name"))?.to_ascii_lowercase();
    if !name.contains('.') || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
        return Err(Refusal::validation("The `name` field is not a valid domain."));
    }
    if !REGIONS.contains(&new.region.as_str()) {
        return Err(Refusal::validation("The `region` field is not a region."));
    }
    let behaviour = resend.behaviour();
    let all = resend.all_domains();
    if all.iter().any(|domain| domain.name == name) || behaviour.registered_elsewhere.contains(&name) {
        return Err(Refusal::registered(&name));
    }
    if behaviour.max_domains.is_some_and(|limit| all.len() >= limit) {
        return Err(Refusal::domain_limit());
    }
    let domain =
        Domain::new((&name, new.region), resend.0.clock.now().as_millisecond(), behaviour.domain_records);
    commit(&resend, Event::Domain(domain.clone()))?;
    Ok((StatusCode::CREATED, Json(Value::Object(domain.whole(false)))))
}

/// What of the list is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    limit: Option<usize>,
    after: Option<String>,
}

/// `GET /domains`
pub(super) async fn list(State(resend): State<ResendStandIn>, Query(listing): Query<Listing>) -> Json<Value> {
    let all = resend.all_domains();
    let place = |id: &String| all.iter().position(|domain| domain.id == *id);
    let skip = listing.after.as_ref().and_then(place).map_or(0, |index| index + 1);
    let limit = listing.limit.unwrap_or(20).clamp(1, MAX_PAGE);
    let data: Vec<Value> = all.iter().skip(skip).take(limit).map(Domain::summary).collect();
    Json(json!({ "object": "list", "has_more": all.len() > skip.saturating_add(limit), "data": data }))
}

/// `GET /domains/{id}`
pub(super) async fn retrieve(
    State(resend): State<ResendStandIn>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let mut whole = resend.find(&id)?.whole(true);
    whole.insert("object".to_owned(), json!("domain"));
    Ok(Json(Value::Object(whole)))
}

/// `POST /domains/{id}/verify`
pub(super) async fn verify(
    State(resend): State<ResendStandIn>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let mut domain = resend.find(&id)?;
    if resend.domain(&domain.name).is_none() {
        return Ok(Json(json!({ "object": "domain", "id": id })));
    }
    domain.set("pending");
    commit(&resend, Event::Domain(domain.clone()))?;
    let behaviour = resend.behaviour();
    if behaviour.domains_verify {
        let stand_in = resend.clone();
        resend.0.tasks.spawn(async move { stand_in.settle_domain(&domain.name, "verified") });
    }
    Ok(Json(json!({ "object": "domain", "id": id })))
}

/// `DELETE /domains/{id}`
pub(super) async fn remove(
    State(resend): State<ResendStandIn>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    resend.find(&id)?;
    commit(&resend, Event::DomainRemoved(id.clone()))?;
    Ok(Json(json!({ "object": "domain", "id": id, "deleted": true })))
}

fn commit(resend: &ResendStandIn, event: Event) -> Result<(), Refusal> {
    lock(&resend.0.kept).commit(event).map_err(|error| Refusal::application_error(error.to_string()))
}

#[cfg(test)]
mod tests {
    use reqwest::Method;

    use super::*;
    use crate::http::signature::HeaderNames;
    use crate::sandbox::contract::assert_resend;
    use crate::sandbox::tests::{answer, client, delivered, endpoint, resend, scratch, started};
    use crate::sandbox::{RESEND_SENDING_API_KEY, RESEND_WEBHOOK_SECRET, Settings, StandIns};

    async fn add(all: &StandIns, name: &str) -> (u16, Value) {
        answer(resend(all, Method::POST, "/domains").json(&json!({ "name": name }))).await
    }

    async fn get(all: &StandIns, id: &Value) -> (u16, Value) {
        answer(resend(all, Method::GET, &format!("/domains/{}", id.as_str().unwrap()))).await
    }

    #[tokio::test]
    async fn a_domain_is_added_verified_and_removed_in_the_documented_shapes() {
        let all = started().await;
        let (url, mut inbox) = endpoint(0).await;
        all.resend.deliver_webhooks_to(&url);
        all.resend.behave(|manners| manners.verified_domains = Some(vec!["example.com".to_owned()]));
        let (status, made) = add(&all, "Shop.example").await;
        assert_eq!(
            (status, &made["name"], &made["status"]),
            (201, &json!("shop.example"), &json!("not_started"))
        );
        assert_resend("CreateDomainResponse", &made);
        let mail = json!({ "from": "a@shop.example", "to": ["b@example.net"], "subject": "x", "text": "x" });
        let send = || answer(resend(&all, Method::POST, "/emails").json(&mail));
        assert_eq!(send().await.0, 403, "not verified yet");
        let path = format!("/domains/{}", made["id"].as_str().unwrap());
        let (status, asked) = answer(resend(&all, Method::POST, &format!("{path}/verify"))).await;
        assert_eq!((status, &asked["id"]), (200, &made["id"]));
        assert_resend("VerifyDomainResponse", &asked);
        let (_, event, told) = delivered(&mut inbox, HeaderNames::Svix, RESEND_WEBHOOK_SECRET).await;
        assert_eq!((event.as_str(), &told["data"]["status"]), ("domain.updated", &json!("verified")));
        assert_resend("DomainEventData", &{
            let mut data = told["data"].clone();
            for more in ["capabilities", "open_tracking", "click_tracking"] {
                data.as_object_mut().unwrap().remove(more);
            }
            data
        });
        let (_, read) = get(&all, &made["id"]).await;
        assert_resend("Domain", &read);
        for (record, as_made) in
            read["records"].as_array().unwrap().iter().zip(made["records"].as_array().unwrap())
        {
            assert_resend("DomainRecord", record);
            assert_eq!(record["status"], "verified");
            assert_eq!(record["value"].as_str().unwrap().trim_matches('"'), as_made["value"]);
        }
        assert_eq!(send().await.0, 200);
        let (status, gone) = answer(resend(&all, Method::DELETE, &path)).await;
        assert_eq!((status, &gone["deleted"]), (200, &json!(true)));
        assert_resend("DeleteDomainResponse", &gone);
        assert_eq!(get(&all, &made["id"]).await.0, 404);
        let again = add(&all, "shop.example").await.1;
        assert_ne!(again["records"][2]["value"], made["records"][2]["value"]);
        all.stop().await;
    }

    #[tokio::test]
    async fn a_name_is_registered_once_and_a_sending_key_may_do_none_of_it() {
        let all = started().await;
        all.resend.behave(|manners| {
            manners.registered_elsewhere = vec!["far.example".to_owned()];
            manners.max_domains = Some(3);
        });
        assert_eq!(add(&all, "one.example").await.0, 201);
        for taken in ["one.example", "example.com", "far.example"] {
            let (status, refused) = add(&all, taken).await;
            assert_eq!((status, &refused["name"]), (403, &json!("validation_error")), "{taken}");
            assert!(refused["message"].as_str().unwrap().contains("has been registered already"));
        }
        assert_eq!(add(&all, "two.example").await.0, 201);
        assert!(add(&all, "three.example").await.1["message"].as_str().unwrap().contains("limit"));
        assert_eq!(add(&all, "no name").await.0, 422);
        let elsewhere = json!({ "name": "four.example", "region": "mars-1" });
        assert_eq!(answer(resend(&all, Method::POST, "/domains").json(&elsewhere)).await.0, 422);
        let (_, page) = answer(resend(&all, Method::GET, "/domains?limit=2")).await;
        assert_eq!((&page["has_more"], page["data"].as_array().unwrap().len()), (&json!(true), 2));
        assert_resend("ListDomainsResponse", &page);
        assert_resend("ListDomainsItem", &page["data"][1]);
        let next = format!("/domains?after={}", page["data"][1]["id"].as_str().unwrap());
        let (_, rest) = answer(resend(&all, Method::GET, &next)).await;
        assert_eq!((&rest["data"][0]["name"], &rest["has_more"]), (&json!("two.example"), &json!(false)));
        let url = format!("{}/domains", all.resend_url);
        let request =
            client().post(url).bearer_auth(RESEND_SENDING_API_KEY).json(&json!({ "name": "x.example" }));
        let (status, refused) = answer(request).await;
        assert_eq!((status, &refused["name"]), (401, &json!("restricted_api_key")));
        all.stop().await;
    }

    #[tokio::test]
    async fn which_records_are_asked_for_can_be_said_and_domains_outlive_a_restart() {
        let settings = Settings { data_dir: Some(scratch("resend-domains")), ..Settings::default() };
        let all = StandIns::start(settings.clone()).await.unwrap();
        for (records, kinds) in [
            (DomainRecords::Classic, ["MX", "TXT", "TXT"]),
            (DomainRecords::Cname, ["CNAME", "CNAME", "TXT"]),
        ] {
            all.resend.behave(|manners| (manners.domain_records, manners.per_second) = (records, 0));
            let (_, made) = add(&all, &format!("{}.example", kinds[0].to_lowercase())).await;
            let got: Vec<_> =
                made["records"].as_array().unwrap().iter().map(|one| one["type"].clone()).collect();
            assert_eq!(got, kinds);
        }
        assert!(all.resend.settle_domain("mx.example", "partially_verified"));
        assert!(all.resend.drop_domain("cname.example"));
        assert!(!all.resend.settle_domain("cname.example", "verified"));
        let before = all.resend.domain("mx.example").unwrap();
        all.stop().await;
        let all = StandIns::start(settings).await.unwrap();
        assert_eq!(
            (all.resend.domain("mx.example"), all.resend.domain("cname.example")),
            (Some(before), None)
        );
        all.stop().await;
    }
}
