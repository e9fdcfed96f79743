//! Domains that customers prove by themselves, without the operator.

pub mod dns;
pub mod name;
