//! `postmeter queue`: what waits to be sent, and the operator's decisions about it.
//!
//! It works beside a running server: a decision is a transaction on the database
//! that both share, and the server looks there for what is due twice a second.
//! What may have reached its recipients already is decided only by somebody who
//! was told so.

use std::time::Duration;

use anyhow::anyhow;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use super::print::{self, NOTHING, or_nothing};
use super::{Desk, Format, Place, Printout};
use crate::domain::decision::{Choice, NotNow};
use crate::domain::ids::{CustomerId, MessageId};
use crate::store::gate::Gate;
use crate::store::operator::{DecisionError, Order, QueueFilter, QueueMessage, Via, Waiting};

/// Longest error in a list, in characters; `show` tells all of it.
const SHORT: usize = 60;

/// `postmeter queue …`
#[derive(Debug, Args)]
pub struct QueueArgs {
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
    /// What to do.
    #[command(subcommand)]
    pub action: QueueAction,
}

/// What to do with the queue.
#[derive(Debug, Subcommand)]
pub enum QueueAction {
    /// List the messages that are not final, oldest first
    List {
        /// Only those with a part in this state
        #[arg(long, value_name = "STATE", value_enum)]
        state: Option<Waiting>,
        /// Only those of this customer
        #[arg(long, value_name = "ID")]
        customer: Option<CustomerId>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show one message with its parts, its recipients and what was decided about it
    Show {
        /// The message
        #[arg(value_name = "MESSAGE")]
        message_id: MessageId,
    },
    /// Send now what waits for its next attempt, or send again what is held
    #[command(group = ArgGroup::new("which").required(true).args(["message_id", "all"]))]
    Retry {
        /// The message
        #[arg(value_name = "MESSAGE")]
        message_id: Option<MessageId>,
        /// Every message that waits for its next attempt
        #[arg(long)]
        all: bool,
        /// With --all: those that are held, too
        #[arg(long, requires = "all", conflicts_with = "message_id")]
        held: bool,
        /// The risk of sending again what is held is known
        #[arg(long)]
        yes: bool,
    },
    /// Give a message up: it is not sent any more, and what was not sent is not paid
    Cancel {
        /// The message
        #[arg(value_name = "MESSAGE")]
        message_id: MessageId,
        /// The risk of giving up what is held, or may have been taken, is known
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(args: QueueArgs, place: &Place<'_>) -> anyhow::Result<Printout> {
    let QueueArgs { format, action } = args;
    let office = Office { desk: Desk::open(place).await?, place, format };
    match action {
        QueueAction::List { state, customer, limit } => {
            office.list(&QueueFilter { state, customer_id: customer, limit }).await
        }
        QueueAction::Show { message_id } => office.show(&message_id).await,
        QueueAction::Retry { message_id: Some(message_id), yes, .. } => {
            let message = office.decide(&message_id, Choice::Retry, yes).await?;
            office.retried(&message).await
        }
        QueueAction::Retry { message_id: None, held, yes, .. } => office.retry_all(held, yes).await,
        QueueAction::Cancel { message_id, yes } => {
            let message = office.decide(&message_id, Choice::Cancel, yes).await?;
            office.cancelled(&message)
        }
    }
}

struct Office<'a> {
    desk: Desk,
    place: &'a Place<'a>,
    format: Format,
}

impl Office<'_> {
    async fn list(&self, filter: &QueueFilter) -> anyhow::Result<Printout> {
        let messages = self.desk.store.queue(filter).await?;
        if self.format.json {
            return Printout::json(&messages);
        }
        let gates = self.gates().await?;
        if messages.is_empty() {
            let is_all = filter.state.is_none() && filter.customer_id.is_none();
            let text = if is_all { "the queue is empty\n" } else { "nothing in the queue is like that\n" };
            return Ok(Printout::text(format!("{text}{gates}")));
        }
        let rows: Vec<_> = messages.iter().map(row).collect();
        let head = ["MESSAGE", "CUSTOMER", "STATE", "ATTEMPTS", "DUE", "TO", "LAST ERROR"];
        let mut text = print::table(head, &rows);
        if u32::try_from(messages.len()).is_ok_and(|len| len == filter.limit) {
            text += &format!("the oldest {} are shown; --limit shows more\n", filter.limit);
        }
        Ok(Printout::text(text + &gates))
    }

    async fn show(&self, message_id: &MessageId) -> anyhow::Result<Printout> {
        let message = self.desk.store.queue_message(message_id).await?;
        let message = message.ok_or_else(|| self.no_message(message_id))?;
        if self.format.json {
            return Printout::json(&message);
        }
        let text = [summary(&message), parts(&message), recipients(&message), self.next_steps(&message)];
        Ok(Printout::text(text.concat() + &self.gates().await?))
    }

    /// What can be done with a message that waits.
    fn next_steps(&self, message: &QueueMessage) -> String {
        let id = &message.log.message_id;
        if message.log.parts.iter().all(|part| is_final(&part.state)) {
            return String::new();
        }
        print::next_steps(&self.desk.program, &[format!("queue retry {id}"), format!("queue cancel {id}")])
    }

    /// Carries a decision out. Who has not said that the risk is known is told it and asked.
    async fn decide(
        &self,
        message_id: &MessageId,
        choice: Choice,
        yes: bool,
    ) -> anyhow::Result<QueueMessage> {
        let decided = match self.desk.store.decide(message_id, &self.order(choice, yes)).await {
            Err(DecisionError::NotNow(_, NotNow::Unconfirmed)) => {
                let what = match choice {
                    Choice::Retry => "send it again",
                    Choice::Cancel => "give it up",
                };
                self.place.confirm(&format!("{message_id}: {}; {what}?", choice.risk()))?;
                self.desk.store.decide(message_id, &self.order(choice, true)).await
            }
            decided => decided,
        };
        decided.map_err(|error| match error {
            DecisionError::NoMessage(id) => self.no_message(&id),
            DecisionError::NotNow(_, why) => anyhow!(self.why_not(message_id, why)),
            DecisionError::Store(error) => error.into(),
        })
    }

    fn order(&self, choice: Choice, is_confirmed: bool) -> Order {
        let lifetime = Duration::from_secs(self.desk.config.queue.lifetime_h.saturating_mul(3600));
        Order { choice, is_confirmed, via: Via::Command, now: self.desk.clock.now(), lifetime }
    }

    fn no_message(&self, message_id: &MessageId) -> anyhow::Error {
        anyhow!("there is no message {message_id}; `{} queue list` shows what waits", self.desk.program)
    }

    fn why_not(&self, id: &MessageId, why: NotNow) -> String {
        let program = &self.desk.program;
        match why {
            NotNow::Final => {
                format!(
                    "nothing of {id} waits: it is final; `{program} queue show {id}` tells what became of it"
                )
            }
            NotNow::AttemptRunning => {
                format!("an attempt of {id} is under way and may end either way; try again when it has ended")
            }
            NotNow::OutcomeUnknown => format!(
                "the last attempt of {id} ended without an answer, so the upstream may have it; it is asked \
                 again by itself, and by `{program} queue retry {id}` at once; cancel when there is an answer, \
                 or when it is held"
            ),
            NotNow::Unconfirmed => format!("{id} may have left, and --yes was not said"),
        }
    }

    async fn retried(&self, message: &QueueMessage) -> anyhow::Result<Printout> {
        if self.format.json {
            return Printout::json(message);
        }
        let id = &message.log.message_id;
        let text = format!("{id} is due now: a running server sends it within a second\n");
        Ok(Printout::text(text + &self.gates().await?))
    }

    async fn retry_all(&self, held: bool, yes: bool) -> anyhow::Result<Printout> {
        if held && !yes {
            let count = self.desk.store.totals().await?.parts_held;
            if count > 0 {
                self.place.confirm(&format!(
                    "{count} parts are held. Of each: {}; send all of them again?",
                    Choice::Retry.risk()
                ))?;
            }
        }
        let order = self.order(Choice::Retry, held);
        let retried = self.desk.store.retry_all(held, &order).await?;
        let left = self.desk.store.totals().await?.parts_held;
        if self.format.json {
            return Printout::json(&json!({ "retried": retried, "parts_held": left }));
        }
        let mut text =
            format!("{retried} messages are due now: a running server sends them as fast as it can\n");
        if left > 0 {
            text += &format!(
                "{left} parts are held and stay so: `{} queue list --state held`\n",
                self.desk.program
            );
        }
        Ok(Printout::text(text + &self.gates().await?))
    }

    fn cancelled(&self, message: &QueueMessage) -> anyhow::Result<Printout> {
        if self.format.json {
            return Printout::json(message);
        }
        let log = &message.log;
        let text = match (log.captured, log.released) {
            (0, released) => format!("cancelled {}: {released} credits given back\n", log.message_id),
            (captured, released) => format!(
                "cancelled the rest of {}: {captured} credits paid for what left before, {released} given back\n",
                log.message_id
            ),
        };
        Ok(Printout::text(text))
    }

    /// Where an upstream takes nothing, nothing that is due is sent.
    async fn gates(&self) -> anyhow::Result<String> {
        let gates = self.desk.store.gates().await?;
        let line = |gate: &Gate| {
            let Gate { road, reason, since, try_again_at } = gate;
            let (road, reason) = (road.as_str(), print::plain(reason));
            format!(
                "the gate of {road} is closed since {since} ({reason}): what is due waits; tried at {try_again_at}\n"
            )
        };
        Ok(gates.iter().map(line).collect())
    }
}

fn is_final(state: &str) -> bool {
    matches!(state, "sent" | "failed")
}

/// The states of a message's parts that are not final, what needs the operator first.
fn states(message: &QueueMessage) -> String {
    let mut states: Vec<&str> = Vec::new();
    for waiting in Waiting::ALL {
        let mut parts = message.log.parts.iter().filter(|part| part.state == waiting.as_str());
        if let Some(first) = parts.next() {
            let is_unknown = waiting == Waiting::Queued && (first.unknown || parts.any(|part| part.unknown));
            states.push(if is_unknown { "queued (outcome unknown)" } else { waiting.as_str() });
        }
    }
    states.join(", ")
}

fn row(message: &QueueMessage) -> [String; 7] {
    let log = &message.log;
    let mut to = log.recipients.iter().filter(|recipient| !is_final(&recipient.state));
    let first = to.next().map_or(NOTHING, |recipient| recipient.address.as_str());
    let more = match to.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    [
        log.message_id.to_string(),
        log.customer_id.to_string(),
        states(message),
        message.attempts.to_string(),
        or_nothing(log.parts.iter().filter_map(|part| part.due_at).min()),
        format!("{first}{more}"),
        short(message.last_error.as_deref().unwrap_or(NOTHING)),
    ]
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

fn summary(message: &QueueMessage) -> String {
    let log = &message.log;
    let state = match states(message) {
        waiting if waiting.is_empty() => format!("{:?}", log.state).to_lowercase(),
        waiting => waiting,
    };
    let mut decided: Vec<String> = (message.decisions.iter())
        .map(|decision| {
            let held = if decision.held_parts > 0 { ", the risk was taken" } else { "" };
            let (choice, via) = (decision.choice.as_str(), decision.via.as_str());
            format!("{choice} at {} by {via}{held}", decision.decided_at)
        })
        .collect();
    if decided.is_empty() {
        decided.push(NOTHING.to_owned());
    }
    let (price, captured, released) = (log.price, log.captured, log.released);
    print::pairs(&[
        ("message", vec![log.message_id.to_string()]),
        ("customer", vec![log.customer_id.to_string()]),
        ("kind", vec![log.kind.clone()]),
        ("state", vec![state]),
        ("from", vec![log.from.clone()]),
        ("subject", vec![or_nothing(log.subject.as_deref())]),
        ("size", vec![format!("{} octets", log.size)]),
        ("credits", vec![format!("{price} (captured {captured}, released {released})")]),
        ("accepted", vec![log.accepted_at.to_string()]),
        ("expires", vec![log.expires_at.to_string()]),
        ("decided", decided),
    ])
}

fn parts(message: &QueueMessage) -> String {
    let rows: Vec<_> = (message.log.parts.iter().zip(0..))
        .map(|(part, number)| {
            let is_told = is_final(&part.state) || part.state == Waiting::Held.as_str();
            let unknown = if part.unknown && !is_told { " (outcome unknown)" } else { "" };
            [
                number.to_string(),
                part.road.clone(),
                format!("{}{unknown}", part.state),
                part.attempts.to_string(),
                or_nothing(part.due_at),
                or_nothing(part.upstream_id.as_deref()),
                or_nothing(part.last_error.as_deref()),
            ]
        })
        .collect();
    print::table(["PART", "ROAD", "STATE", "ATTEMPTS", "DUE", "UPSTREAM ID", "LAST ERROR"], &rows)
}

fn recipients(message: &QueueMessage) -> String {
    let rows: Vec<_> = (message.log.recipients.iter())
        .map(|recipient| {
            let (status, reply) = (recipient.status.as_deref(), recipient.reply.as_deref());
            let maybe = if recipient.maybe_taken { " (may have it)" } else { "" };
            [
                recipient.address.clone(),
                format!("{}{maybe}", recipient.state),
                or_nothing(status),
                or_nothing(reply),
            ]
        })
        .collect();
    print::table(["RECIPIENT", "STATE", "STATUS", "REPLY"], &rows)
}
