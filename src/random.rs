//! The only source of randomness. Pure code is handed what it needs from here.

/// So many octets from the operating system. Without them no id is unique and no
/// secret is one, so a system that has none is left at once.
pub fn octets<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    if let Err(error) = getrandom::fill(&mut octets) {
        tracing::error!(%error, "the operating system gives no randomness");
        std::process::abort();
    }
    octets
}
