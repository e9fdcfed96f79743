//! Postmeter: a postage meter for SMTP.

pub mod clock;
pub mod config;
pub mod domain;
pub mod sandbox;
pub mod submission;
