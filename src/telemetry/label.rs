//! What metrics and log lines can say in a label: every value is known beforehand,
//! and stands here once.

/// What a label can say: an enum, so that every value is known beforehand.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$value_doc])* $value,)+ }

        impl $name {
            pub(super) const ALL: &[Self] = &[$(Self::$value),+];

            /// The value in the metrics and the log.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }
    };
}

label! {
    /// A kind of listener.
    Listener {
        /// SMTP with STARTTLS.
        Submission = "submission",
        /// SMTP under implicit TLS.
        Submissions = "submissions",
        /// HTTP.
        Http = "http",
    }
}

label! {
    /// What became of a sign-in.
    SignInResult {
        /// The credential is good.
        Accepted = "accepted",
        /// Wrong username or secret, or a revoked credential.
        Refused = "refused",
        /// Too many had failed before: it was not looked at.
        Limited = "limited",
        /// It could not be checked.
        Unavailable = "unavailable",
    }
}

label! {
    /// What became of an attempt to send a part.
    AttemptOutcome {
        /// The upstream accepted it for at least one recipient.
        Accepted = "accepted",
        /// Refused for good for everyone.
        Refused = "refused",
        /// Not now.
        Deferred = "deferred",
        /// The upstream is closed to all of our mail.
        Closed = "closed",
        /// The answer was lost.
        Unknown = "unknown",
    }
}

label! {
    /// What an entry does to the balance at Dodo.
    EntryKind {
        /// Takes credits.
        Debit = "debit",
        /// Gives credits back.
        Credit = "credit",
    }
}

impl EntryKind {
    /// The kind of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

label! {
    /// What became of the credit for a message that bounced.
    RefundResult {
        /// Not every recipient is final yet.
        Waiting = "waiting",
        /// It was captured and is debited at Dodo: a credit is posted there.
        Due = "due",
        /// It was captured and never debited: the capture was taken back.
        Released = "released",
        /// Dodo has the credit.
        Credited = "credited",
        /// The customer's refunds of a day are used up.
        Capped = "capped",
        /// The grant that was spent has expired.
        Expired = "expired",
        /// Dodo refused the credit.
        Refused = "refused",
    }
}

impl RefundResult {
    /// The result of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|result| result.as_str() == text)
    }
}

label! {
    /// What became of a try to post an entry.
    EntryResult {
        /// It stands in Dodo's ledger.
        Settled = "settled",
        /// The answer was lost; the same entry is tried again.
        Unknown = "unknown",
        /// It surely does not stand there; what it covered is still owed.
        Void = "void",
        /// Whether it stands there cannot be told; it is still owed.
        Doubtful = "doubtful",
    }
}

label! {
    /// What Dodo is asked for.
    DodoCall {
        /// Posts an entry.
        PostEntry = "post_entry",
        /// Reads one customer's balance.
        ReadBalance = "read_balance",
        /// Reads the balances of many.
        ListBalances = "list_balances",
        /// Reads a customer's grants.
        ListGrants = "list_grants",
        /// Reads a customer's ledger.
        ReadLedger = "read_ledger",
        /// Makes a checkout.
        CreateCheckout = "create_checkout",
        /// Anything else: checkouts, payments, products, entitlements read.
        Other = "other",
    }
}

label! {
    /// What Dodo answered.
    DodoResult {
        /// 2xx.
        Ok = "ok",
        /// 4xx.
        Refused = "refused",
        /// 429.
        RateLimited = "rate_limited",
        /// 5xx.
        Failed = "failed",
        /// Nothing: a timeout, a lost connection.
        Unanswered = "unanswered",
    }
}

label! {
    /// Who sends a webhook.
    WebhookSource {
        /// Dodo Payments.
        Dodo = "dodo",
        /// Resend.
        Resend = "resend",
    }
}

label! {
    /// What became of a webhook.
    WebhookResult {
        /// Acted on.
        Accepted = "accepted",
        /// Seen before.
        Duplicate = "duplicate",
        /// An event that changes nothing here.
        Ignored = "ignored",
        /// No signature of ours, or too old.
        BadSignature = "bad_signature",
        /// Signed and unreadable.
        Malformed = "malformed",
        /// We could not act on it; it will be sent again.
        Failed = "failed",
    }
}
