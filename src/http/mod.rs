//! The HTTP side: what arrives over the web.

pub mod signature;
