//! Postmeter: a postage meter for SMTP.

pub mod app;
pub mod billing;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod domain;
pub mod handover;
pub mod http;
pub mod mime;
pub mod outbound;
pub mod random;
pub mod routing;
pub mod sandbox;
pub mod smtp;
pub mod store;
pub mod submission;
pub mod telemetry;
pub mod throttle;
pub mod tls;
pub mod upstream;
