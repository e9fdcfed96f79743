//! What people see. Pure: values in, markup out, escaped by construction.
//!
//! One style sheet, one script that no page needs, nothing from elsewhere. What this
//! module must not know: how anything is found out or changed.

mod chart;
mod connect;
mod credentials;
mod customer;
mod layout;
mod messages;
pub(super) mod operator;
mod overview;
mod senders;
mod suppressions;
mod visitor;

pub(super) use connect::connect;
pub(super) use credentials::{Credentials, NewCredential, revoke};
pub(super) use customer::{Letter, send};
pub(super) use layout::{icon, response, script, style};
pub(super) use messages::{Log, message};
pub(super) use overview::Overview;
pub(super) use senders::{Senders, remove_sender};
pub(super) use suppressions::{NewSuppression, Suppressions};
pub(super) use visitor::{
    Typed, already_shown, error, first_credential, known, landing, landing_again, link_is_over, link_mailed,
    not_paid, other_browser, sign_in, thanks, to_payment, to_portal, use_link, waiting,
};
