//! The running program, seen from outside: the real binary, real clients, the
//! sandbox's stand-ins for Dodo and Resend, and a scripted SMTP server upstream.
//!
//! Every test ends in [`harness::Meter::finish`]: everything accepted has become
//! final and is settled, each message left once and was debited once, the program
//! ends with 0, no secret stands in its log, and `postmeter audit` agrees.

// In a test a panic is how it fails, and what it prints is for the person who reads it.
#![allow(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used
)]

mod account_pages;
mod alerts;
mod audit;
mod batch;
mod bounce;
mod by_recipient;
mod certificate;
mod chunking;
mod clients;
mod config;
mod corpus;
mod crash;
mod credit;
mod dashboard;
mod database_outage;
mod dialog;
mod dialogs;
mod disk;
mod dkim;
mod dodo_faults;
mod domains;
mod doubt;
mod drain;
mod dsn;
mod emails;
mod failover;
mod fallback;
mod gate;
mod guard;
mod haproxy;
mod harness;
mod header;
mod hosts;
mod idempotency;
mod inbox;
mod large;
mod log;
mod money;
mod moving;
mod news;
mod nodes;
mod nodes_clock;
mod nodes_webhooks;
mod notice;
mod notices;
mod operator_pages;
mod outage;
mod page;
mod postfix;
mod postgresql;
mod proxy;
mod queue;
mod recipients;
mod refund;
mod resend_faults;
mod resend_smtp;
mod retention;
mod retry;
mod rolling;
mod sandbox;
mod schema;
mod settlement;
mod setup;
mod sign_in_link;
mod slow;
mod smtp_faults;
mod stop;
mod subscribe;
mod swaks;
mod tls;
mod two;
mod web;
