//! Webhooks about mails: what became of each after it was accepted. The addresses
//! at `resend.dev` that bounce, complain or are suppressed do so here too.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Mail, ResendStandIn};
use crate::sandbox::webhook::Parcel;

/// What can be told of a mail; over HTTP with `POST /_events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// It was accepted.
    Sent,
    /// A recipient's server took it.
    Delivered,
    /// A recipient's server refused it.
    Bounced {
        /// `Permanent`, `Transient` or `Undetermined`.
        kind: String,
        /// What the server said.
        said: String,
    },
    /// The recipient called it spam.
    Complained,
    /// The recipient is on the list of those who get nothing.
    Suppressed,
    /// A recipient's server put it off.
    DeliveryDelayed,
    /// It could not be sent after all.
    Failed {
        /// `reached_daily_quota`, for one.
        reason: String,
    },
    /// Something of this `type`, with nothing of its own to say.
    Other(String),
}

/// Something to be told, as it is asked for over HTTP.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Resend's id of the mail.
    pub(super) email_id: String,
    /// The recipients that it is about.
    pub(super) to: Vec<String>,
    /// What.
    pub(super) news: News,
}

impl News {
    /// A bounce for good.
    pub fn hard_bounce() -> Self {
        Self::Bounced { kind: "Permanent".to_owned(), said: "smtp; 550 5.1.1 user unknown".to_owned() }
    }

    /// What happens by itself to a mail for that address.
    fn of(address: &str) -> Vec<Self> {
        let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
        let local = local.split('+').next().unwrap_or_default();
        match (local, domain) {
            ("bounced", "resend.dev") => vec![Self::hard_bounce()],
            ("complained", "resend.dev") => vec![Self::Delivered, Self::Complained],
            ("suppressed", "resend.dev") => vec![Self::Suppressed],
            _ => vec![Self::Delivered],
        }
    }

    fn event(&self) -> &str {
        match self {
            Self::Sent => "email.sent",
            Self::Delivered => "email.delivered",
            Self::Bounced { .. } => "email.bounced",
            Self::Complained => "email.complained",
            Self::Suppressed => "email.suppressed",
            Self::DeliveryDelayed => "email.delivery_delayed",
            Self::Failed { .. } => "email.failed",
            Self::Other(event) => event,
        }
    }
}

impl ResendStandIn {
    /// Registers the webhook endpoint.
    pub fn deliver_webhooks_to(&self, endpoint: &str) {
        self.0.courier.deliver_to(endpoint);
    }

    /// Tells something of a mail about these of its recipients. Needs a runtime, and an endpoint.
    pub fn tell(&self, mail: &Mail, to: &[&str], news: &News) {
        self.send(vec![self.parcel(mail, to, news)]);
    }

    /// What happens by itself to mails that were accepted.
    pub(super) fn tell_of(&self, mails: &[Mail]) {
        if !self.behaviour().events || !self.0.courier.has_endpoint() {
            return;
        }
        for mail in mails.iter().filter(|mail| !mail.email.is_stuck()) {
            let all: Vec<&str> = mail.email.recipients().map(bare).collect();
            let mut parcels = vec![self.parcel(mail, &all, &News::Sent)];
            let bounces = self.bounces();
            for address in all {
                let news = if bounces(address) { vec![News::hard_bounce()] } else { News::of(address) };
                parcels.extend(news.iter().map(|news| self.parcel(mail, &[address], news)));
            }
            self.send(parcels);
        }
    }

    /// Which addresses of the next mail bounce, which is then behind.
    fn bounces(&self) -> impl Fn(&str) -> bool {
        let mut next = false;
        let mut bouncing = Vec::new();
        self.behave(|behaviour| {
            next = behaviour.bounce_next > 0;
            behaviour.bounce_next = behaviour.bounce_next.saturating_sub(1);
            bouncing.clone_from(&behaviour.bouncing);
        });
        move |address: &str| next || bouncing.iter().any(|known| known.eq_ignore_ascii_case(address))
    }

    fn parcel(&self, mail: &Mail, to: &[&str], news: &News) -> Parcel {
        let now = self.0.clock.now().to_string();
        let tags: Map<String, Value> = (mail.email.tags.iter().flatten())
            .map(|tag| (tag.name.clone(), Value::from(tag.value.clone())))
            .collect();
        let headers: Vec<Value> = (mail.email.headers.iter().flatten())
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let data = json!({
            "email_id": mail.id,
            "message_id": format!("<{}@email.example>", mail.id),
            "created_at": mail.at.to_string(),
            "from": mail.email.from,
            "to": to,
            "subject": mail.email.subject,
        });
        let mut data = data.as_object().cloned().unwrap_or_default();
        if !tags.is_empty() {
            data.insert("tags".to_owned(), tags.into());
        }
        if !headers.is_empty() {
            data.insert("headers".to_owned(), headers.into());
        }
        if let News::Bounced { kind, said } = news {
            let message = "The recipient's mail server refused the mail.";
            let bounce =
                json!({ "type": kind, "subType": "General", "message": message, "diagnosticCode": [said] });
            data.insert("bounce".to_owned(), bounce);
        }
        if *news == News::Suppressed {
            let suppressed = json!({ "type": "Suppressed", "reason": "previous_bounce", "message": "" });
            data.insert("suppressed".to_owned(), suppressed);
        }
        if let News::Failed { reason } = news {
            data.insert("failed".to_owned(), json!({ "reason": reason }));
        }
        let event = news.event().to_owned();
        let body = json!({ "type": event, "created_at": now, "data": data }).to_string();
        Parcel { webhook_id: format!("msg_{}", uuid::Uuid::now_v7().simple()), event, body }
    }

    /// One after the other; one that is not taken is tried again while the others go on.
    pub(super) fn send(&self, parcels: Vec<Parcel>) {
        let stand_in = self.clone();
        self.0.tasks.spawn(async move {
            let stopped = stand_in.0.tasks.stop.clone();
            let all = async {
                for parcel in parcels {
                    if stand_in.behaviour().duplicate_events {
                        stand_in.try_once(&parcel).await;
                    }
                    if !stand_in.try_once(&parcel).await {
                        stand_in.try_again_later(parcel);
                    }
                }
            };
            stopped.run_until_cancelled(all).await;
        });
    }

    fn try_again_later(&self, parcel: Parcel) {
        let stand_in = self.clone();
        self.0.tasks.spawn(async move {
            let stopped = stand_in.0.tasks.stop.clone();
            let tries = async {
                for wait_ms in stand_in.behaviour().event_retries_ms {
                    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                    if stand_in.try_once(&parcel).await {
                        return;
                    }
                }
            };
            stopped.run_until_cancelled(tries).await;
        });
    }

    async fn try_once(&self, parcel: &Parcel) -> bool {
        let tried = self.0.courier.post(parcel, self.0.clock.now()).await;
        if let Err(why) = &tried {
            tracing::warn!(webhook_id = %parcel.webhook_id, event = %parcel.event, %why, "a webhook was not taken");
        }
        tried.is_ok()
    }
}

/// The address of `Name <address>`.
fn bare(address: &str) -> &str {
    address.rsplit_once('<').map_or(address, |(_, rest)| rest.trim_end_matches('>')).trim()
}
