//! `POST /emails/batch`: up to a hundred emails in one request.
//!
//! Strict, which is how it is unless the client says otherwise, it is all or nothing: every
//! email is composed and looked at, senders, recipients, roads and the credit for all of
//! them, before the first is accepted. Each acceptance is a transaction of its own, so what
//! changes in between (another request takes the last credit, the database goes away) may
//! still leave a batch in part; then the answer says which ones were accepted. Permissive,
//! what can be accepted is, and the rest is listed.
//!
//! The batch's key makes one of each email's: a retry finds what was accepted of it before.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::{EmailError, is_about_everything, text};
use super::request::{Letter, Place, letter};
use super::{Found, reading};
use crate::domain::address::Mailbox;
use crate::domain::credits::Credits;
use crate::domain::digest::sha256_hex;
use crate::domain::idempotency::{Fingerprint, Fingerprinting, IdempotencyKey, Keyed};
use crate::domain::ids::MessageId;
use crate::domain::refusal::Refusal;
use crate::http::auth::Customer;
use crate::http::error::HttpError;
use crate::http::listener::Peer;
use crate::http::send::{self, Outgoing, Sent};
use crate::http::{Shared, Site};
use crate::submission::{SignedIn, Submitted};

/// Emails of a batch, at most.
const MAX_EMAILS: usize = 100;
/// How often, and after which waits, it is looked whether another try of a batch goes on.
const MOST_LOOKS: u32 = 20;
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The header field in which a client says what becomes of the others when one is wrong.
const VALIDATION: &str = "x-batch-validation";

/// What becomes of the others when one email is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing is sent.
    Strict,
    /// They are sent.
    Permissive,
}

/// One email on its way.
#[derive(Debug)]
enum Stage {
    /// It was read.
    Read(Box<Outgoing>),
    /// It would be accepted, as far as that can be known.
    Ready(Box<Submitted>),
    /// It is accepted, now or by an earlier try.
    Accepted(MessageId),
    /// It is not.
    Refused(HttpError),
}

/// The emails of a request, in their order.
struct Batch<'a> {
    site: &'a Site,
    who: &'a SignedIn,
    peer: SocketAddr,
    stages: Vec<Stage>,
    /// The keys of all emails that could be read, with their recipients.
    keyed: Vec<Option<(Keyed, Vec<Mailbox>)>>,
}

/// What was accepted of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct BatchAnswer {
    /// In the order of the request, without those that are refused.
    data: Vec<Sent>,
    /// Those that are refused, where the others are sent all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<BatchError>>,
}

/// An email of a batch that is refused.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct BatchError {
    /// Which one, from 0.
    index: usize,
    /// Why.
    message: String,
}

/// `POST /emails/batch`
pub(super) async fn send(
    State(site): State<Shared>,
    Found(Customer(who)): Found<Customer>,
    Peer(peer): Peer,
    headers: HeaderMap,
    raw: Body,
) -> Result<Json<BatchAnswer>, EmailError> {
    let mode = Mode::read(&headers)?;
    let key = send::idempotency_key(&headers)?;
    let (bytes, claim) = send::receive(&site, &who, &headers, raw).await?;
    let Value::Array(emails) = reading::read(&bytes)? else {
        return Err(HttpError::Invalid("The body must be a list of emails.".to_owned()).into());
    };
    drop(bytes);
    if !(1..=MAX_EMAILS).contains(&emails.len()) {
        return Err(HttpError::Invalid(format!("A batch has 1 to {MAX_EMAILS} emails.")).into());
    }
    let mut batch = Batch::read(&site, (&who, peer), emails, key.as_ref());
    batch.look().await?;
    let answer = match mode {
        Mode::Strict => batch.send_all_or_nothing().await,
        Mode::Permissive => batch.send_what_can_be_sent().await,
    };
    drop(claim);
    answer.map(Json)
}

impl Mode {
    fn read(headers: &HeaderMap) -> Result<Self, HttpError> {
        match headers.get(VALIDATION).map(|value| value.as_bytes()) {
            None | Some(b"strict") => Ok(Self::Strict),
            Some(b"permissive") => Ok(Self::Permissive),
            Some(_) => {
                Err(HttpError::Invalid(format!("The header {VALIDATION} is `strict` or `permissive`.")))
            }
        }
    }
}

impl<'a> Batch<'a> {
    fn read(
        site: &'a Site,
        (who, peer): (&'a SignedIn, SocketAddr),
        emails: Vec<Value>,
        key: Option<&IdempotencyKey>,
    ) -> Self {
        let read = |email| match letter(email, Place::InBatch) {
            Ok(Letter { composition, notes }) => {
                Stage::Read(Box::new(Outgoing { composition, keyed: None, notes }))
            }
            Err(field) => Stage::Refused(field.into()),
        };
        let mut stages: Vec<Stage> = emails.into_iter().map(read).collect();
        let whole = key.map(|key| (key, whole(&stages)));
        let mut keyed = Vec::with_capacity(stages.len());
        for (index, stage) in stages.iter_mut().enumerate() {
            let Stage::Read(outgoing) = stage else {
                keyed.push(None);
                continue;
            };
            outgoing.keyed = whole.as_ref().and_then(|(key, whole)| own_key(key, whole, index));
            keyed.push(outgoing.keyed.clone().map(|keyed| (keyed, outgoing.recipients())));
        }
        Self { site, who, peer, stages, keyed }
    }

    /// Finds what was accepted by an earlier try.
    async fn look(&mut self) -> Result<(), HttpError> {
        for (stage, keyed) in self.stages.iter_mut().zip(&self.keyed) {
            let Some((keyed, recipients)) = keyed else { continue };
            if matches!(stage, Stage::Accepted(_)) {
                continue;
            }
            if let Some(id) = send::earlier(self.site, self.who, Some(keyed), recipients).await? {
                *stage = Stage::Accepted(id);
            }
        }
        Ok(())
    }

    /// The same while another try is accepted, whose emails come one after the other.
    async fn look_on(&mut self) -> Result<(), HttpError> {
        for _ in 0..MOST_LOOKS {
            self.look().await?;
            if self.is_accepted() || self.accepted().next().is_none() {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn send_all_or_nothing(mut self) -> Result<BatchAnswer, EmailError> {
        if let Err(error) = self.check_all().await {
            // The last credits, or the last of a cap, may have gone to this very batch, tried twice at once.
            if error.is_used_up() {
                self.look_on().await?;
            }
            return if self.is_accepted() { Ok(self.answer()) } else { Err(self.in_part(error)) };
        }
        self.submit().await;
        let refused =
            self.stages.iter().enumerate().find_map(|(index, stage)| Some((index, stage.refused()?)));
        match refused {
            None => Ok(self.answer()),
            Some((index, error)) => Err(self.in_part(EmailError::OfBatch { index, error: error.clone() })),
        }
    }

    /// The error with what is accepted of the batch, now or by an earlier try.
    fn in_part(&self, error: EmailError) -> EmailError {
        let accepted: Vec<(usize, MessageId)> = self.accepted().collect();
        if accepted.is_empty() {
            return error;
        }
        EmailError::InPart { accepted, of: self.stages.len(), error: error.into_own() }
    }

    async fn send_what_can_be_sent(mut self) -> Result<BatchAnswer, EmailError> {
        for index in 0..self.stages.len() {
            self.prepare(index).await;
        }
        self.submit().await;
        let mut refused = self.stages.iter().filter_map(Stage::refused);
        if let Some(error) = refused.find(|error| is_about_everything(error))
            && self.accepted().next().is_none()
        {
            return Err(error.clone().into());
        }
        let errors = self
            .stages
            .iter()
            .enumerate()
            .filter_map(|(index, stage)| Some(BatchError { index, message: text(stage.refused()?) }));
        Ok(BatchAnswer { errors: Some(errors.collect()), ..self.answer() })
    }

    /// Whether every email would be accepted, and all of them together.
    async fn check_all(&mut self) -> Result<(), EmailError> {
        // Before anybody is asked.
        for (index, stage) in self.stages.iter().enumerate() {
            if let Some(error) = stage.refused() {
                return Err(EmailError::OfBatch { index, error: error.clone() });
            }
        }
        let (mut price, mut fresh) = (Some(Credits::ZERO), 0_usize);
        for index in 0..self.stages.len() {
            self.prepare(index).await;
            let checked = match self.stages.get(index) {
                Some(Stage::Refused(error)) => Err(error.clone()),
                Some(Stage::Ready(submitted)) => {
                    self.site.submission.check(self.who, submitted).await.map_err(HttpError::from)
                }
                _ => continue,
            };
            let own = checked.map_err(|error| EmailError::OfBatch { index, error })?;
            price = price.and_then(|price| price.checked_add(own));
            fresh += 1;
        }
        if fresh == 0 {
            return Ok(());
        }
        let price = price.ok_or(HttpError::Invalid("The batch costs more than anybody has.".to_owned()))?;
        self.site.submission.check_all(self.who, price, fresh).await.map_err(|refusal| match refusal {
            Refusal::OutOfCredit { .. } if fresh > 1 => {
                EmailError::NotCovered { emails: fresh, error: refusal.into() }
            }
            refusal => refusal.into(),
        })
    }

    /// Writes one email, and asks what can be asked before it is submitted.
    async fn prepare(&mut self, index: usize) {
        let Some(stage) = self.stages.get_mut(index) else { return };
        let Stage::Read(_) = stage else { return };
        let nothing = Stage::Refused(HttpError::NoRoom);
        let Stage::Read(outgoing) = std::mem::replace(stage, nothing) else { return };
        *stage = match send::ready(self.site, self.who, self.peer, *outgoing).await {
            Ok(submitted) => Stage::Ready(Box::new(submitted)),
            Err(error) => Stage::Refused(error),
        };
    }

    async fn submit(&mut self) {
        let (mut places, mut ready) = (Vec::new(), Vec::new());
        for stage in &mut self.stages {
            // Nobody sees what stands in the meantime.
            let unknown = || Stage::Refused(Refusal::StoreUnavailable.into());
            if let Stage::Ready(_) = stage
                && let Stage::Ready(submitted) = std::mem::replace(stage, unknown())
            {
                ready.push(*submitted);
                places.push(stage);
            }
        }
        let answers = self.site.submission.submit_all(self.who, ready).await;
        for (place, answer) in places.into_iter().zip(answers) {
            *place = match answer {
                Ok(accepted) => Stage::Accepted(accepted.message_id),
                Err(refusal) => Stage::Refused(refusal.into()),
            };
        }
    }

    fn accepted(&self) -> impl Iterator<Item = (usize, MessageId)> {
        let stages = self.stages.iter().enumerate();
        stages.filter_map(|(index, stage)| match stage {
            Stage::Accepted(id) => Some((index, id.clone())),
            _ => None,
        })
    }

    fn is_accepted(&self) -> bool {
        self.accepted().count() == self.stages.len()
    }

    /// The ids of what is accepted, in the order of the request.
    fn answer(&self) -> BatchAnswer {
        BatchAnswer { data: self.accepted().map(|(_, id)| Sent { id }).collect(), errors: None }
    }
}

impl Stage {
    fn refused(&self) -> Option<&HttpError> {
        match self {
            Self::Refused(error) => Some(error),
            _ => None,
        }
    }
}

/// What is meant by the batch as a whole; what cannot be read is one and the same.
fn whole(stages: &[Stage]) -> Fingerprint {
    let whole = Fingerprinting::of("POST /emails/batch");
    let field = |whole: Fingerprinting, stage: &Stage| match stage {
        Stage::Read(outgoing) => whole.field("email", outgoing.composition.fingerprint().as_str().as_bytes()),
        _ => whole.field("email", b""),
    };
    stages.iter().fold(whole, field).end()
}

/// The key of one email: no client's own can be the same by chance. What is meant by it is
/// the whole batch, so that another batch under the key is a conflict wherever it differs.
fn own_key(key: &IdempotencyKey, whole: &Fingerprint, index: usize) -> Option<Keyed> {
    let name = format!("emails/batch {} {index}", sha256_hex(key.as_str().as_bytes()));
    let fingerprint = Fingerprinting::of("an email of POST /emails/batch");
    let fingerprint = fingerprint.field("batch", whole.as_str().as_bytes());
    let fingerprint = fingerprint.field("index", index.to_string().as_bytes()).end();
    let key = IdempotencyKey::parse(&name).ok()?;
    Some(Keyed { key, fingerprint, served: Vec::new() })
}
