//! `GET /openapi.json`: our HTTP API in OpenAPI 3.1, put together from the code.
//!
//! What is answered is described by the very types that are serialized; statuses, codes
//! and who may ask stand in one table (`routes`), since a handler does not say them.
//! Tests hold both against the program: every route is there, nothing else is, and no
//! answer has a status, a code or a field that the document does not name. Pages are not
//! in it: they are for people.

pub(super) mod codes;
mod operation;
mod routes;
mod shapes;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::routing::get;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Paths, ServerBuilder};

use super::{DOMAIN_BURST, DOMAIN_INTERVAL, SUBSCRIBE_BURST, SUBSCRIBE_INTERVAL, Shared};
use operation::{BASIC, BEARER};

/// The groups, in the order in which people read them.
const TAGS: [(&str, &str); 9] = [
    ("Sending", "One message, or a letter in the form of Resend's API."),
    ("Messages", "What became of them."),
    ("Credits", "What is left, and how to buy more."),
    ("Senders", "Whom a customer may send as, and the domains that they prove alone."),
    ("Suppressions", "Whom mail is not taken for."),
    ("Queue", "What waits, for the operator alone."),
    ("Webhooks", "News from Dodo and Resend, signed by them."),
    ("Health", "For supervisors, load balancers and Prometheus. Anyone may ask."),
    ("Description", "This document."),
];

/// The route. The text is made once.
pub(super) fn routes(base_url: &str) -> Router<Shared> {
    let text = document(base_url).to_json().unwrap_or_default();
    let text = axum::body::Bytes::from(text);
    let answer = async move || {
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // It holds no secret, and viewers on other sites may read it.
        let open = (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        ([json, open], text)
    };
    Router::new().route("/openapi.json", get(answer))
}

/// The document of a site that is reached at this URL.
pub fn document(base_url: &str) -> OpenApi {
    let mut paths = Paths::new();
    let mut components = ComponentsBuilder::new();
    for operation in routes::all() {
        let (path, method, described, schemas) = operation.into_parts();
        paths.add_path_operation(path, vec![method], described);
        components = components.schemas_from_iter(schemas);
    }
    let scheme = |scheme, text: &str| {
        SecurityScheme::Http(HttpBuilder::new().scheme(scheme).description(Some(text)).build())
    };
    let basic = scheme(HttpAuthScheme::Basic, "Username and secret of a credential.");
    let bearer = "The secret of a credential, or the operator's token (`POSTMETER_ADMIN_TOKEN`).";
    let bearer = scheme(HttpAuthScheme::Bearer, bearer);
    let components = components.security_scheme(BASIC, basic).security_scheme(BEARER, bearer);
    let tag = |(name, text): (&str, &str)| TagBuilder::new().name(name).description(Some(text)).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Postmeter")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(introduction()))
                .build(),
        )
        .servers(Some([ServerBuilder::new().url(base_url).build()]))
        .paths(paths)
        .components(Some(components.build()))
        .tags(Some(TAGS.map(tag)))
        .build()
}

/// What holds for all routes.
fn introduction() -> String {
    format!(
        "A postage meter for SMTP: mail that is paid for in advance, one credit a message.\n\n\
         **Signing in.** A customer signs in with a credential: HTTP Basic (username, secret), or \
         `Authorization: Bearer SECRET`. The operator sends the admin token as a bearer token, and names the customer \
         with `customer_id`. Nobody sees what belongs to another customer.\n\n\
         **Errors** are `{{\"error\": words, \"code\": a word for programs}}`; each response lists its codes. Below \
         `/emails` they have Resend's form. An unknown route answers 404 `not_found`, another method 405 \
         `method_not_allowed` with the header `Allow`.\n\n\
         **Trying again.** 429 and 503 carry `Retry-After` in seconds. Whoever sends an `Idempotency-Key` may send the \
         same request again until it is answered: nothing is sent twice. 402 is out of credit: buy more first.\n\n\
         **Rate limits.** Checkouts: {SUBSCRIBE_BURST} from one network at once, then one every {} s. Changes of \
         domains: {DOMAIN_BURST} of one customer at once, then one every {} s. Failed sign-ins are slowed down and then \
         refused for their username and their address.\n\n\
         Times are RFC 3339 in UTC. Fields may be added to answers; unknown fields of requests are refused.",
        SUBSCRIBE_INTERVAL.as_secs(),
        DOMAIN_INTERVAL.as_secs()
    )
}

#[cfg(test)]
pub(super) mod held;
#[cfg(test)]
use crate::sandbox::contract::schema;
#[cfg(test)]
mod tests;
