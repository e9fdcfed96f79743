//! Postmeter: a postage meter for SMTP.

pub mod clock;
pub mod config;
pub mod domain;
pub mod smtp;
pub mod submission;
pub mod tls;
