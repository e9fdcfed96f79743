//! Who asks: a customer with a credential, or the operator with the admin token.
//!
//! A customer id in a path or a body is a question, never an answer: it must be
//! the caller's own, or the caller is the operator.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::error::{HttpError, PageError};
use super::listener::{Peer, Unknown};
use super::{Shared, Site};
use crate::domain::credential::Secret;
use crate::domain::ids::CustomerId;
use crate::domain::refusal::Refusal;
use crate::store::session::PageSession;
use crate::store::standing::Standing;
use crate::submission::SignedIn;

/// A customer who signed in with a credential in the header.
#[derive(Debug, Clone)]
pub(super) struct Customer(pub(super) SignedIn);

/// A customer or the operator.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// Has the admin token.
    Operator,
    /// Has a credential.
    Customer(SignedIn),
}

/// Whose things are asked for; only the operator must say so.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    pub(super) customer_id: Option<String>,
}

impl Caller {
    fn customer_id(&self) -> Option<&CustomerId> {
        match self {
            Self::Operator => None,
            Self::Customer(who) => Some(&who.customer_id),
        }
    }

    /// Whose things are asked for: the caller's own, or those of the customer that is
    /// named, if the caller may see them; `None`: the operator names nobody.
    pub(super) fn whose(&self, named: Option<&str>) -> Result<Option<CustomerId>, HttpError> {
        let named = named.map(CustomerId::parse).transpose();
        let named = named.map_err(|error| HttpError::Invalid(format!("customer_id: {error}.")))?;
        if let Some(named) = &named {
            self.may_see(named)?;
        }
        Ok(self.customer_id().cloned().or(named))
    }

    /// Whether the caller may see what belongs to this customer.
    pub(super) fn may_see(&self, customer_id: &CustomerId) -> Result<(), HttpError> {
        match self {
            Self::Operator => Ok(()),
            Self::Customer(who) if who.customer_id == *customer_id => Ok(()),
            Self::Customer(_) => Err(HttpError::NotYours),
        }
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, site: &Shared) -> Result<Self, HttpError> {
        let Peer(peer) = Peer::find(parts, site);
        let caller = match Presented::read(&parts.headers).ok_or(HttpError::NoCredential)? {
            Presented::Basic(username, secret) => {
                let (who, _) = site.submission.sign_in(peer.ip(), &username, &secret).await?;
                Self::Customer(who)
            }
            Presented::Bearer(token) => {
                let name = ("token", *token.hash().as_bytes());
                site.submission.guarded(peer.ip(), name, bearer(site, &token), Caller::customer_id).await?
            }
        };
        Unknown::is_known(&parts.extensions, caller.customer_id(), &site.seats);
        Ok(caller)
    }
}

impl FromRequestParts<Shared> for Customer {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, site: &Shared) -> Result<Self, HttpError> {
        match Caller::from_request_parts(parts, site).await? {
            Caller::Customer(who) => Ok(Self(who)),
            Caller::Operator => Err(HttpError::Invalid(
                "This is done by a customer, with a credential; the admin token only looks.".to_owned(),
            )),
        }
    }
}

/// The operator, with the admin token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operator;

impl FromRequestParts<Shared> for Operator {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, site: &Shared) -> Result<Self, HttpError> {
        match Caller::from_request_parts(parts, site).await? {
            Caller::Operator => Ok(Self),
            Caller::Customer(_) => Err(HttpError::OperatorOnly),
        }
    }
}

/// What stands in the `Authorization` header.
enum Presented {
    Basic(String, Secret),
    Bearer(Secret),
}

impl Presented {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(Secret::presented(rest.trim())));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        let (username, secret) = pair.split_once(':')?;
        Some(Self::Basic(username.to_owned(), Secret::presented(secret)))
    }
}

/// Whose token this is.
async fn bearer(site: &Site, token: &Secret) -> Result<Caller, Refusal> {
    if is_operator(site, token) {
        return Ok(Caller::Operator);
    }
    let username = site.store.username_of(&token.hash()).await.map_err(|error| {
        error.tell("a token could not be checked");
        Refusal::StoreUnavailable
    })?;
    let username = username.ok_or(Refusal::BadCredential)?;
    let (who, _) = site.submission.recognize(username.as_str(), token).await?;
    Ok(Caller::Customer(who))
}

/// Hashes are compared, so that not even the length of the token is told by the time it takes.
pub(super) fn is_operator(site: &Site, token: &Secret) -> bool {
    let Some(admin) = &site.settings.admin_token else { return false };
    let admin = Secret::presented(admin.expose_secret()).hash();
    admin.as_bytes().ct_eq(token.hash().as_bytes()).into()
}

/// A customer who is signed in on the page.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// Who it is.
    pub(super) who: SignedIn,
    /// What stands behind the credential, or the customer.
    pub(super) standing: Standing,
}

/// Why a page for customers is not shown.
pub(super) enum NoVisitor {
    /// Nobody is signed in: back to the start, which has the form.
    SignedOut,
    /// It could not be found out.
    Error(PageError),
}

impl IntoResponse for NoVisitor {
    fn into_response(self) -> Response {
        match self {
            Self::SignedOut => Redirect::to("/").into_response(),
            Self::Error(error) => error.into_response(),
        }
    }
}

impl Visitor {
    /// Whether this session may make and end credentials: one with caps was given so that little is
    /// lost with it, and who has it could otherwise make one without.
    pub(super) fn has_free_hand(&self) -> Result<(), HttpError> {
        const CAPPED: &str = "You are signed in with a credential that has caps: it can neither make nor revoke \
                              credentials. Sign in with another one, or by a mailed link.";
        if self.standing.tally.caps.is_some() { Err(HttpError::Conflict(CAPPED)) } else { Ok(()) }
    }

    /// Whether this is whoever reads the customer's mail. A credential is for sending: who has one
    /// need not be whoever pays, and a checkout tells nobody's address from a stranger's.
    pub(super) fn is_reader_of_mail(&self) -> Result<(), HttpError> {
        const BY_LINK: &str = "Invoices and payments are shown to whoever signed in by a mailed link: sign out, and \
                               ask for one.";
        if self.who.username.is_none() { Ok(()) } else { Err(HttpError::Conflict(BY_LINK)) }
    }

    /// Who is signed in by the cookie, if the session has not ended and its credential is still good.
    pub(super) async fn find(headers: &HeaderMap, site: &Site) -> Result<Option<Self>, HttpError> {
        let now = site.clock.now();
        let Some(session_hash) = site.sessions.find(headers, now) else { return Ok(None) };
        let Some(session) = site.store.session(&session_hash, now).await? else { return Ok(None) };
        let PageSession { customer_id, username } = session;
        let standing = match &username {
            Some(username) => site.store.standing(username).await?,
            None => site.store.standing_of(&customer_id).await?,
        };
        let standing =
            standing.filter(|standing| !standing.is_revoked && standing.customer_id == customer_id);
        Ok(standing.map(|standing| Self { who: SignedIn { customer_id, username }, standing }))
    }
}

impl FromRequestParts<Shared> for Visitor {
    type Rejection = NoVisitor;

    async fn from_request_parts(parts: &mut Parts, site: &Shared) -> Result<Self, NoVisitor> {
        match Self::find(&parts.headers, site).await {
            Ok(Some(visitor)) => {
                Unknown::is_known(&parts.extensions, Some(&visitor.who.customer_id), &site.seats);
                Ok(visitor)
            }
            Ok(None) => Err(NoVisitor::SignedOut),
            Err(error) => Err(NoVisitor::Error(error.into())),
        }
    }
}
