//! What people see. Pure: values in, markup out, escaped by construction.
//!
//! One style sheet, one script that no page needs, nothing from elsewhere. What this
//! module must not know: how anything is found out or changed.

mod credentials;
mod customer;
mod layout;
pub(super) mod operator;
mod messages;
mod senders;
mod suppressions;
mod visitor;

pub(super) use credentials::{Credentials, NewCredential, revoke};
pub(super) use customer::{Letter, Overview, send};
pub(super) use layout::{icon, response, script, style};
pub(super) use messages::{Log, message};
pub(super) use senders::{Senders, remove_sender};
pub(super) use suppressions::{NewSuppression, Suppressions};
pub(super) use visitor::{
    Typed, already_shown, error, first_credential, known, landing, landing_again, link_is_over, link_mailed,
    not_paid, other_browser, sign_in, thanks, to_payment, use_link, waiting,
};
