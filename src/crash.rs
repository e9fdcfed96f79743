//! Crash points: where a test may have the process killed.
//!
//! Between two steps that outlive the process (a commit, a remote call) a crash
//! must lose nothing and double nothing. Each such gap has a name here; the code
//! passes it with [`crate::store::Store::pass`], and in a debug build the
//! environment may say at which passage the process kills itself:
//! `POSTMETER_CRASH_AT=accept-committed:3` is the third. In a release build there
//! is nothing of this: a [`CrashAt`] has no size, and passing costs nothing.
//!
//! Whoever adds a step that outlives the process adds its point, and the
//! integration tests demand a scenario for each. This module must not know what
//! the points lie between.

/// The environment variable that arms a point.
pub const VARIABLE: &str = "POSTMETER_CRASH_AT";

/// Declares the points with their names, so that none can be forgotten in [`CrashPoint::ALL`].
macro_rules! crash_points {
    ($($(#[$doc:meta])+ $point:ident = $name:literal,)+) => {
        /// A gap between two steps that outlive the process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum CrashPoint {
            $($(#[$doc])+ $point,)+
        }

        impl CrashPoint {
            /// Every point, in the order in which a message comes by.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

crash_points! {
    /// At the start: the leases of the earlier process have lapsed; nothing is sent yet.
    LeasesLapsed = "leases-lapsed",
    /// At the start: open entries are marked as of unknown outcome; none is posted yet.
    EntriesDistrusted = "entries-distrusted",
    /// Some of what was written ahead for messages that were never accepted, or that are final, is gone;
    /// more may be there.
    OrphansSwept = "orphans-swept",
    /// Chunks of large messages are committed; more of them is to come.
    ChunkCommitted = "chunk-committed",
    /// Acceptances are written, not committed.
    AcceptWritten = "accept-written",
    /// Acceptances are committed; nobody was told.
    AcceptCommitted = "accept-committed",
    /// An accepted message was handed to delivery; its client was not told.
    HandedOver = "handed-over",
    /// A part was leased from the database; no attempt was made.
    PartLeased = "part-leased",
    /// A call with several parts, or with one that might have had company, is on disk; it was not made.
    BatchComposed = "batch-composed",
    /// An attempt begins; the upstream was not called.
    AttemptBegun = "attempt-begun",
    /// The upstream has answered, or was lost; nothing of that is written down.
    UpstreamAnswered = "upstream-answered",
    /// An upstream's gate is closed in the database; the attempt that closed it is not written down.
    GateClosed = "gate-closed",
    /// A gate is open again; the attempt that opened it is not written down.
    GateOpened = "gate-opened",
    /// Reports of attempts are written, not committed.
    ReportWritten = "report-written",
    /// A capture is committed; the settler was not told.
    CaptureCommitted = "capture-committed",
    /// A part is committed to be tried again.
    RetryCommitted = "retry-committed",
    /// A failure is committed with its bounce; nobody sends the bounce yet.
    BounceCommitted = "bounce-committed",
    /// An address that nobody has is on the list, and counted; whether that is one too many was not judged.
    NobodyCounted = "nobody-counted",
    /// The leases of parts under way were renewed.
    LeasesRenewed = "leases-renewed",
    /// An entry is open; Dodo was not called.
    EntryOpened = "entry-opened",
    /// Dodo has answered an entry, or was lost; nothing of that is written down.
    EntryAnswered = "entry-answered",
    /// A try that did not settle an entry is written down.
    EntryTryNoted = "entry-try-noted",
    /// An entry is settled; what follows from that was not done.
    EntrySettled = "entry-settled",
    /// An entry is void; the balance was not read again.
    EntryVoided = "entry-voided",
    /// An entry is in doubt; Dodo's ledger was not searched for it.
    EntryDoubted = "entry-doubted",
    /// A doubtful entry is settled by Dodo's ledger; what follows from that was not done.
    DoubtSettled = "doubt-settled",
    /// A doubtful entry is void by Dodo's ledger; the balance was not read again.
    DoubtVoided = "doubt-voided",
    /// A bounce is committed, and what it gives back decided; the settler was not told.
    BounceRecorded = "bounce-recorded",
    /// A refund that waited is decided; the settler was not told.
    RefundsDecided = "refunds-decided",
    /// Of the refunds that are due those never debited are taken back; for the others nothing was done.
    RefundsDue = "refunds-due",
    /// A credit entry is open; Dodo was not called.
    CreditOpened = "credit-opened",
    /// Dodo has told a balance; it is not applied.
    BalanceRead = "balance-read",
    /// A balance is applied; whoever waits for it was not told.
    BalanceApplied = "balance-applied",
    /// A notice, or a mail with links to sign in, is committed; nobody sends it yet.
    NoticeCommitted = "notice-committed",
    /// Dodo has made a checkout session; its id is not kept.
    CheckoutCreated = "checkout-created",
    /// A payment has made its customer; the webhook that told of it is not kept as handled.
    PaymentRecorded = "payment-recorded",
    /// A webhook was acted upon; it is not kept as handled.
    WebhookActed = "webhook-acted",
    /// A webhook is kept as handled; Dodo was not answered, and the balance perhaps not read.
    WebhookRecorded = "webhook-recorded",
    /// A claim to a domain is committed; Resend was not told.
    DomainClaimed = "domain-claimed",
    /// Resend has registered a domain; its id is not kept.
    DomainRegistered = "domain-registered",
    /// A domain is withdrawn and gives nothing any more; Resend still has it.
    DomainWithdrawn = "domain-withdrawn",
    /// Some captures have left; their messages are still there.
    CapturesLeft = "captures-left",
    /// Some messages have left; others, and entries, are still there.
    MessagesLeft = "messages-left",
    /// Some entries have left.
    EntriesLeft = "entries-left",
    /// Some webhooks and checkouts have left.
    MarksLeft = "marks-left",
    /// The operator's decision about a message is committed; nobody was told.
    OperatorDecided = "operator-decided",
    /// Keys that have expired are gone; what they kept has not left.
    KeysSwept = "keys-swept",
    /// At a stop: the clients are gone; attempts and entries are under way.
    FrontStopped = "front-stopped",
}

/// What is wrong with the variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE}: `{0}` is no POINT:PASSAGE such as accept-committed:3")]
pub struct NoSuchPoint(String);

pub use build::CrashAt;

#[cfg(debug_assertions)]
mod build {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{CrashPoint, NoSuchPoint};

    /// At which passage of which point the process kills itself, if at any.
    #[derive(Debug, Clone, Default)]
    pub struct CrashAt(Option<Arc<Armed>>);

    #[derive(Debug)]
    struct Armed {
        point: CrashPoint,
        passages_left: AtomicU64,
    }

    impl CrashAt {
        /// Reads [`super::VARIABLE`]; `None`: no point is armed.
        ///
        /// # Errors
        /// A name that no point has, or a passage that is no number from 1.
        pub fn parse(text: Option<&str>) -> Result<Self, NoSuchPoint> {
            let Some(text) = text else { return Ok(Self::default()) };
            let armed = text.split_once(':').and_then(|(name, passage)| {
                let point = CrashPoint::ALL.iter().copied().find(|point| point.as_str() == name)?;
                let passage = passage.parse().ok().filter(|passage| *passage > 0)?;
                Some(Armed { point, passages_left: AtomicU64::new(passage) })
            });
            let armed = armed.ok_or_else(|| NoSuchPoint(text.to_owned()))?;
            Ok(Self(Some(Arc::new(armed))))
        }

        /// Passes a point, and does not return from the passage that was asked for.
        pub(crate) fn pass(&self, point: CrashPoint) {
            let Some(armed) = self.0.as_ref().filter(|armed| armed.point == point) else { return };
            if armed.passages_left.fetch_sub(1, Ordering::SeqCst) == 1 {
                tracing::warn!(point = point.as_str(), "crash point: killed");
                kill();
            }
        }
    }

    /// SIGKILL to oneself without unsafe code: exec ends every other thread at
    /// once, runs no destructor and closes what is open; what it starts in this
    /// process's place kills itself.
    fn kill() -> ! {
        let failed = Command::new("/bin/sh").args(["-c", "kill -KILL $$"]).exec();
        tracing::error!(error = %failed, "no shell to die by");
        std::process::abort()
    }
}

#[cfg(not(debug_assertions))]
mod build {
    use super::{CrashPoint, NoSuchPoint};

    /// Nothing: points exist in debug builds only.
    #[derive(Debug, Clone, Default)]
    pub struct CrashAt;

    impl CrashAt {
        /// Arms nothing, whatever the variable says.
        ///
        /// # Errors
        /// None.
        pub fn parse(_text: Option<&str>) -> Result<Self, NoSuchPoint> {
            Ok(Self)
        }

        /// Nothing happens.
        #[inline]
        pub(crate) fn pass(&self, _point: CrashPoint) {}
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn only_a_point_and_a_passage_are_understood() {
        for text in ["", "accept-committed", "accept-committed:0", "accept-committed:x", "nowhere:1"] {
            let said = CrashAt::parse(Some(text)).unwrap_err().to_string();
            assert!(said.contains(&format!("`{text}`")), "{said}");
        }
        for point in CrashPoint::ALL {
            assert!(CrashAt::parse(Some(&format!("{}:2", point.as_str()))).is_ok());
        }
    }

    #[test]
    fn the_table_of_crashes_names_every_point() {
        let table = include_str!("lib.rs");
        let names = CrashPoint::ALL.iter().map(|point| point.as_str());
        let missing: Vec<_> = names.filter(|name| !table.contains(&format!("`{name}`"))).collect();
        assert_eq!(missing, Vec::<&str>::new());
    }

    #[test]
    fn the_points_that_are_not_armed_are_passed() {
        let crash_at = CrashAt::parse(Some("gate-opened:2")).unwrap();
        CrashPoint::ALL.iter().for_each(|point| crash_at.pass(*point));
        CrashAt::default().pass(CrashPoint::GateOpened);
    }
}
