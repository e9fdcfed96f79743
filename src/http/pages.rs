//! What people see. Pure: values in, markup out, escaped by construction.
//!
//! No script, no style but the one sheet, nothing from elsewhere. What this
//! module must not know: how anything is found out or changed.

mod customer;
mod layout;
mod visitor;

pub(super) use customer::{Letter, Overview, credentials, send};
pub(super) use layout::{icon, response, style};
pub(super) use visitor::{
    Typed, already_shown, error, first_credential, known, landing, landing_again, link_is_over, link_mailed,
    not_paid, other_browser, sign_in, thanks, to_payment, use_link, waiting,
};
