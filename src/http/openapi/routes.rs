//! The table of operations, in the order in which people read them.

use utoipa::openapi::HttpMethod::{self, Delete, Get, Post};
use utoipa::openapi::schema::ObjectBuilder;

use super::codes::{self as codes, Code};
use super::operation::Who::{Anyone, Caller, Customer, Operator};
use super::operation::{Described, Shape, Who, integer, object, string};
use super::shapes::{CheckoutAnswer, Health, NewEmail, NewMessage, NewSubscriber, Readiness, WebhookAnswer};
use crate::domain::idempotency::MAX_KEY_BYTES;
use crate::domain::message::MessageState;
use crate::http::credits::CreditsAnswer;
use crate::http::emails::{BatchAnswer, EmailView};
use crate::http::messages::{self, MessageView, StoryView};
use crate::http::queue::{self, Confirmation};
use crate::http::send::Sent;
use crate::http::senders::{DomainView, NewDomain, SenderView};
use crate::http::suppressions::{self, NewSuppression};
use crate::store::operator::{QueueMessage, Waiting};
use crate::store::suppression::Suppression;
use crate::telemetry::METRICS_CONTENT_TYPE;

/// All of them.
pub(super) fn all() -> Vec<Described> {
    [sending(), emails(), messages(), credits(), senders(), suppressions(), queue(), outside()]
        .into_iter()
        .flatten()
        .collect()
}

fn op(at: (HttpMethod, &'static str), named: (&str, &str), who: Who, summary: &str) -> Described {
    Described::new(at, named, who, summary)
}

impl Described {
    /// The key under which a request may be tried again.
    fn may_be_retried(self) -> Self {
        let key = string().min_length(Some(1)).max_length(Some(MAX_KEY_BYTES));
        self.header(
            "Idempotency-Key",
            "1 to 256 characters of printable ASCII. The same request under the same key gets the answer of the \
             first time, and nothing is sent twice; another request under it is refused.",
            key,
        )
    }

    /// A page of a list.
    fn limited(self, default: u32, most: u32) -> Self {
        let text = format!("How many, 1 to {most}; {default} unless said.");
        let limit = integer().minimum(Some(1)).maximum(Some(most));
        self.query("limit", &text, limit)
    }
}

fn sending() -> Vec<Described> {
    vec![
        op((Post, "/send"), ("Sending", "send"), Customer, "Send a message")
            .about("It costs a credit, held now and debited when the mail has left.")
            .may_be_retried()
            .takes(Shape::of::<NewMessage>(), true)
            .gives(200, "It is accepted, and safe.", Shape::of::<Sent>())
            .fails(codes::BODY)
            .fails(codes::MESSAGE),
    ]
}

fn emails() -> Vec<Described> {
    let validation = || -> ObjectBuilder { string().enum_values(Some(["strict", "permissive"])) };
    vec![
        op(
            (Post, "/emails"),
            ("Sending", "sendEmail"),
            Customer,
            "Send an email, in the form of Resend's API",
        )
        .about("For programs that were written for Resend: this base URL, and a secret as the API key.")
        .in_resends_form()
        .may_be_retried()
        .takes(Shape::of::<NewEmail>(), true)
        .gives(200, "It is accepted, and safe.", Shape::of::<Sent>())
        .fails(codes::AS_RESEND)
        .fails(codes::EMAIL),
        op(
            (Post, "/emails/batch"),
            ("Sending", "sendEmails"),
            Customer,
            "Send up to 100 emails, as Resend's API does",
        )
        .about("All or none, unless `x-batch-validation` is `permissive`.")
        .in_resends_form()
        .may_be_retried()
        .header("x-batch-validation", "What becomes of the others when one is wrong.", validation())
        .takes(Shape::list_of::<NewEmail>(), true)
        .gives(200, "They are accepted, and safe.", Shape::of::<BatchAnswer>())
        .fails(codes::AS_RESEND)
        .fails(codes::EMAIL),
        op(
            (Get, "/emails/{id}"),
            ("Sending", "showEmail"),
            Caller,
            "What became of an email, as Resend's API says it",
        )
        .in_resends_form()
        .path("id", "What sending it gave.")
        .gives(200, "The email, without its text, which is not kept.", Shape::of::<EmailView>())
        .fails(codes::AS_RESEND)
        .fails(&[codes::R_NOT_FOUND]),
    ]
}

fn messages() -> Vec<Described> {
    let states = MessageState::ALL.map(MessageState::as_str);
    vec![
        op((Get, "/messages"), ("Messages", "listMessages"), Caller, "The message log, newest first")
            .whose()
            .limited(messages::DEFAULT_LIMIT, messages::MAX_LIMIT)
            .query("before", "The last id of the page before this one.", string())
            .query("recipient", "Only those to such an address, or a part of one.", string())
            .query("subject", "Only those with this in their subject.", string())
            .query("state", "Only those that stand so.", string().enum_values(Some(states)))
            .query("id", "Only this one, or those whose id begins so.", string())
            .about("While more is to be looked at, the header `Link` says where to go on (`rel=\"next\"`).")
            .gives(
                200,
                "The log; of all customers where the operator names none.",
                Shape::list_of::<MessageView>(),
            )
            .fails(&[codes::FORBIDDEN, codes::INVALID]),
        op(
            (Get, "/messages/{message_id}"),
            ("Messages", "showMessage"),
            Caller,
            "One message with its whole story",
        )
        .path("message_id", "What sending it gave.")
        .gives(200, "The message, its events and its timeline.", Shape::of::<StoryView>())
        .fails(&[codes::FORBIDDEN, codes::NOT_FOUND]),
    ]
}

fn credits() -> Vec<Described> {
    vec![
        op((Get, "/credits/{customer_id}"), ("Credits", "showCredits"), Caller, "What a customer has left")
            .path("customer_id", "The customer; their own id, unless the operator asks.")
            .gives(200, "The credits, as they are known here.", Shape::of::<CreditsAnswer>())
            .fails(&[codes::FORBIDDEN, codes::NOT_FOUND]),
        op((Post, "/checkout/subscribe"), ("Credits", "subscribe"), Anyone, "Begin a checkout of the plan")
            .about("The page's own form is taken too, and answered with a page.")
            .takes(Shape::of::<NewSubscriber>(), true)
            .gives(200, "Where to pay.", Shape::of::<CheckoutAnswer>())
            .fails(codes::BODY)
            .fails(&[codes::TOO_FAST])
            .fails(codes::CHECKOUT),
        op((Post, "/checkout/topup"), ("Credits", "topUp"), Customer, "Begin a checkout of the top-up")
            .gives(200, "Where to pay.", Shape::of::<CheckoutAnswer>())
            .fails(&[codes::SUSPENDED, codes::INVALID])
            .fails(codes::CHECKOUT),
    ]
}

fn senders() -> Vec<Described> {
    let domain =
        |described: Described| described.path("domain", "The domain, such as `example.com`.").whose();
    vec![
        op((Get, "/senders"), ("Senders", "listSenders"), Caller, "Whom a customer may send as")
            .whose()
            .gives(200, "The list, with domains that are not proven yet.", Shape::list_of::<SenderView>())
            .fails(codes::DOMAIN),
        op(
            (Get, "/senders/domains"),
            ("Senders", "listDomains"),
            Caller,
            "The domains that a customer added",
        )
        .whose()
        .gives(200, "The domains.", Shape::list_of::<DomainView>())
        .fails(codes::DOMAIN),
        op((Post, "/senders/domains"), ("Senders", "addDomain"), Caller, "Add a domain")
            .whose()
            .takes(Shape::of::<NewDomain>(), true)
            .gives(200, "It was there already.", Shape::of::<DomainView>())
            .gives(201, "It is added: publish its records.", Shape::of::<DomainView>())
            .fails(codes::BODY)
            .fails(codes::DOMAIN)
            .fails(codes::DOMAIN_CHANGE),
        domain(op((Get, "/senders/domains/{domain}"), ("Senders", "showDomain"), Caller, "One domain"))
            .gives(200, "The domain, with what to publish.", Shape::of::<DomainView>())
            .fails(codes::DOMAIN),
        domain(op(
            (Delete, "/senders/domains/{domain}"),
            ("Senders", "removeDomain"),
            Caller,
            "Remove a domain",
        ))
        .gives_other(204, "It is removed, and gives nothing any more.", None)
        .fails(codes::DOMAIN)
        .fails(codes::DOMAIN_CHANGE),
        domain(op(
            (Post, "/senders/domains/{domain}/verify"),
            ("Senders", "verifyDomain"),
            Caller,
            "Look for the proof of a domain now",
        ))
        .gives(200, "Where it stands after the look.", Shape::of::<DomainView>())
        .fails(codes::DOMAIN)
        .fails(codes::DOMAIN_CHANGE),
    ]
}

fn suppressions() -> Vec<Described> {
    let refused: &[Code] = &[codes::FORBIDDEN, codes::INVALID];
    vec![
        op(
            (Get, "/suppressions"),
            ("Suppressions", "listSuppressions"),
            Caller,
            "Whom mail is not taken for",
        )
        .whose()
        .limited(suppressions::DEFAULT_LIMIT, suppressions::MAX_LIMIT)
        .query("after", "The last address of the page before this one.", string())
        .gives(200, "The list, by address.", Shape::list_of::<Suppression>())
        .fails(refused),
        op((Post, "/suppressions"), ("Suppressions", "addSuppression"), Caller, "Put an address on the list")
            .takes(Shape::of::<NewSuppression>(), true)
            .gives(200, "It was there already.", Shape::of::<Suppression>())
            .gives(201, "It is on the list.", Shape::of::<Suppression>())
            .fails(codes::BODY)
            .fails(refused)
            .fails(&[codes::NOT_FOUND]),
        op(
            (Delete, "/suppressions/{address}"),
            ("Suppressions", "removeSuppression"),
            Caller,
            "Take an address off the list",
        )
        .path("address", "The address.")
        .whose()
        .gives(200, "What was taken off.", Shape::of::<Suppression>())
        .fails(refused)
        .fails(&[codes::NOT_FOUND]),
    ]
}

fn queue() -> Vec<Described> {
    let id =
        |described: Described| described.path("message_id", "The message.").fails(&[codes::OPERATOR_ONLY]);
    let states = Waiting::ALL.map(Waiting::as_str);
    let decided = |described: Described, text: &str| {
        id(described)
            .takes(Shape::of::<Confirmation>(), false)
            .gives(200, text, Shape::of::<QueueMessage>())
            .fails(codes::BODY)
            .fails(codes::DECISION)
    };
    vec![
        op((Get, "/queue"), ("Queue", "listQueue"), Operator, "What waits, oldest first")
            .query("state", "Only messages with such parts.", string().enum_values(Some(states)))
            .query("customer_id", "Only this customer's.", string())
            .limited(queue::DEFAULT_LIMIT, queue::MAX_LIMIT)
            .gives(200, "The queue.", Shape::list_of::<QueueMessage>())
            .fails(&[codes::OPERATOR_ONLY, codes::INVALID]),
        id(op(
            (Get, "/queue/{message_id}"),
            ("Queue", "showQueued"),
            Operator,
            "One message, with all decisions",
        ))
        .gives(200, "The message.", Shape::of::<QueueMessage>())
        .fails(&[codes::NOT_FOUND]),
        decided(
            op((Post, "/queue/{message_id}/retry"), ("Queue", "retry"), Operator, "Send now, or again"),
            "What waited is due, and what was held is sent again.",
        ),
        decided(
            op((Post, "/queue/{message_id}/cancel"), ("Queue", "cancel"), Operator, "Give a message up"),
            "What waited is given up, and its sender is told.",
        ),
    ]
}

fn outside() -> Vec<Described> {
    let webhook = |described: Described, names: [&str; 3]| {
        described
            .about("Signed as Standard Webhooks say; each delivery is acted on once.")
            .signed_by(names)
            .takes_event()
            .gives(200, "It is known, and need not be told again.", Shape::of::<WebhookAnswer>())
            .fails(codes::WEBHOOK)
    };
    let standard = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let svix = ["svix-id", "svix-timestamp", "svix-signature"];
    vec![
        webhook(op((Post, "/webhooks/dodo"), ("Webhooks", "hearDodo"), Anyone, "News of Dodo"), standard)
            .fails(&[codes::PAYMENTS_UNAVAILABLE]),
        webhook(op((Post, "/webhooks/resend"), ("Webhooks", "hearResend"), Anyone, "News of Resend"), svix)
            .fails(&[codes::CONFLICT]),
        op((Get, "/healthz"), ("Health", "healthz"), Anyone, "Whether the process answers").gives(
            200,
            "It does.",
            Shape::of::<Health>(),
        ),
        op((Get, "/readyz"), ("Health", "readyz"), Anyone, "Whether mail is taken in and leaves")
            .gives(200, "It is ready.", Shape::of::<Readiness>())
            .gives(503, "It is not.", Shape::of::<Readiness>()),
        op((Get, "/metrics"), ("Health", "metrics"), Anyone, "Figures for Prometheus")
            .about("Here unless `http.metrics_listen` names another address.")
            .gives_other(200, "OpenMetrics.", Some((METRICS_CONTENT_TYPE, string()))),
        op((Get, "/openapi.json"), ("Description", "openapi"), Anyone, "This document").gives_other(
            200,
            "OpenAPI 3.1.",
            Some(("application/json", object())),
        ),
    ]
}
