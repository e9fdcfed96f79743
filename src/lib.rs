//! Postmeter: a postage meter for SMTP.

pub mod billing;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod mime;
pub mod outbound;
pub mod store;
pub mod submission;
pub mod telemetry;
pub mod throttle;
pub mod upstream;
