//! Senders on the page: the same calls as the routes for programs, under the same limits.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::Page;
use crate::domain::proof::ProofState;
use crate::domain::refusal::Refusal;
use crate::http::auth::Visitor;
use crate::http::body::{FormBody, QueryString};
use crate::http::error::HttpError;
use crate::http::pages::{self, Senders};
use crate::http::query::with_query;
use crate::http::senders::{DomainView, take_turn};
use crate::http::{Shared, Site};

/// Which domain.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    #[serde(default)]
    domain: String,
}

/// What happened just now.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct News {
    added: Option<String>,
    looked: Option<String>,
}

/// What stands on the page besides what there is.
#[derive(Debug, Default)]
struct Said<'a> {
    typed: &'a str,
    problem: Option<&'a str>,
    news: News,
}

/// `GET /account/senders`
pub(super) async fn list(
    visitor: Visitor,
    State(site): State<Shared>,
    news: Result<QueryString<News>, HttpError>,
) -> Page {
    let QueryString(news) = news?;
    let page = render(&site, &visitor, Said { news, ..Said::default() }).await?;
    Ok(pages::response(StatusCode::OK, &page))
}

/// `POST /account/senders`
pub(super) async fn add(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(form): FormBody<Which>,
) -> Page {
    let done = async {
        may_change(&site, &visitor)?;
        Ok::<_, HttpError>(site.proofs.add(&visitor.who.customer_id, form.domain.trim()).await?.0)
    };
    match done.await {
        Ok(proof) => Ok(told("added", proof.domain.to_string())),
        Err(error) => refused(&site, &visitor, &form.domain, &error).await,
    }
}

/// `POST /account/senders/verify`
pub(super) async fn verify(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(form): FormBody<Which>,
) -> Page {
    let done = async {
        may_change(&site, &visitor)?;
        Ok::<_, HttpError>(site.proofs.verify(&visitor.who.customer_id, &form.domain).await?)
    };
    match done.await {
        Ok(proof) => Ok(told("looked", proof.domain.to_string())),
        Err(error) => refused(&site, &visitor, "", &error).await,
    }
}

/// `GET /account/senders/remove?domain=`
pub(super) async fn ask(
    visitor: Visitor,
    State(site): State<Shared>,
    which: Result<QueryString<Which>, HttpError>,
) -> Page {
    let proof = site.proofs.find(&visitor.who.customer_id, &which?.0.domain).await?;
    Ok(pages::response(StatusCode::OK, &pages::remove_sender(&site.settings, &proof.into())))
}

/// `POST /account/senders/remove`
pub(super) async fn remove(
    visitor: Visitor,
    State(site): State<Shared>,
    FormBody(form): FormBody<Which>,
) -> Page {
    let customer_id = &visitor.who.customer_id;
    let done = async {
        take_turn(&site, customer_id)?;
        Ok::<_, HttpError>(site.proofs.remove(customer_id, &form.domain).await?)
    };
    match done.await {
        Ok(()) => Ok(Redirect::to("/account/senders").into_response()),
        Err(error) => refused(&site, &visitor, "", &error).await,
    }
}

/// What makes calls outside is not done too often, nor while suspended.
fn may_change(site: &Site, visitor: &Visitor) -> Result<(), HttpError> {
    if let Some(reason) = &visitor.standing.suspended_reason {
        return Err(Refusal::Suspended { reason: reason.clone() }.into());
    }
    take_turn(site, &visitor.who.customer_id)
}

fn told(what: &str, domain: String) -> Response {
    Redirect::to(&with_query("/account/senders", &[(what, domain)])).into_response()
}

async fn refused(site: &Site, visitor: &Visitor, typed: &str, error: &HttpError) -> Page {
    let text = error.text();
    let said = Said { typed, problem: Some(&text), ..Said::default() };
    Ok(error.as_page(&render(site, visitor, said).await?))
}

async fn render(site: &Site, visitor: &Visitor, said: Said<'_>) -> Result<maud::Markup, HttpError> {
    let customer_id = &visitor.who.customer_id;
    let lines = site.store.sender_lines(customer_id).await?;
    let proofs = site.store.proofs(customer_id).await?;
    let domains: Vec<DomainView> = proofs.into_iter().map(DomainView::from).collect();
    let news = news(&said.news, &domains);
    let page = Senders {
        lines: &lines,
        domains: &domains,
        may_add: site.proofs.is_on(),
        typed: said.typed,
        problem: said.problem,
        news: news.as_deref(),
    };
    Ok(page.render(&site.settings))
}

/// Anyone can write a link; only what is so is said.
fn news(news: &News, domains: &[DomainView]) -> Option<String> {
    let named = |name: &Option<String>| domains.iter().find(|of| name.as_deref() == Some(of.domain.as_str()));
    if let Some(domain) = named(&news.added) {
        let domain = &domain.domain;
        return Some(format!("{domain} is added. Publish its records, then have it verified."));
    }
    let domain = named(&news.looked)?;
    Some(match domain.state {
        ProofState::Verified => format!("{} is verified: you may send from it.", domain.domain),
        _ => format!(
            "{} was looked at, and its records are not found yet. It is looked at again by itself for a while.",
            domain.domain
        ),
    })
}
