//! Why an upstream takes nothing from us, as it may be told to anybody.
//!
//! The reason of a closed gate is the operator's: it quotes what the upstream said. It begins
//! with words of ours for its kind, and the kind alone is told where no one signs in.

/// A kind of reason for a closed gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closure {
    /// Resend refuses the API key.
    ApiKey,
    /// Resend's quota of the day is spent.
    DailyQuota,
    /// Resend's quota of the month is spent.
    MonthlyQuota,
    /// What answers at Resend's address is not Resend's API.
    ApiAddress,
    /// The SMTP server refuses our credentials, wants some, or knows no way to take them.
    SmtpSignIn,
    /// There is no TLS with the SMTP server, or its certificate is not its own.
    SmtpTls,
    /// The SMTP server sends us away.
    SmtpRefused,
    /// What waits is for an upstream that is not in the configuration any more.
    NotConfigured,
    /// Anything else.
    Other,
}

impl Closure {
    const ALL: [Self; 9] = [
        Self::ApiKey,
        Self::DailyQuota,
        Self::MonthlyQuota,
        Self::ApiAddress,
        Self::SmtpSignIn,
        Self::SmtpTls,
        Self::SmtpRefused,
        Self::NotConfigured,
        Self::Other,
    ];

    /// The kind of a reason that was made with [`Self::because`].
    pub fn of(reason: &str) -> Self {
        Self::ALL.into_iter().find(|kind| reason.starts_with(kind.words())).unwrap_or(Self::Other)
    }

    /// The reason in words, for the operator.
    pub fn because(self, details: &str) -> String {
        format!("{}: {details}", self.words())
    }

    /// The name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::DailyQuota => "daily_quota",
            Self::MonthlyQuota => "monthly_quota",
            Self::ApiAddress => "api_address",
            Self::SmtpSignIn => "smtp_sign_in",
            Self::SmtpTls => "smtp_tls",
            Self::SmtpRefused => "smtp_refused",
            Self::NotConfigured => "not_configured",
            Self::Other => "other",
        }
    }

    /// What its reasons begin with.
    pub const fn words(self) -> &'static str {
        match self {
            Self::ApiKey => "Resend refused the API key",
            Self::DailyQuota => "Resend's daily quota is spent",
            Self::MonthlyQuota => "Resend's monthly quota is spent",
            Self::ApiAddress => "Resend's address is wrong",
            Self::SmtpSignIn => "no sign-in at the upstream",
            Self::SmtpTls => "no TLS with the upstream",
            Self::SmtpRefused => "the upstream does not want us",
            Self::NotConfigured => "the upstream is no longer configured",
            Self::Other => "the upstream takes nothing from us",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_its_kind_by_how_it_begins_and_not_by_what_it_quotes() {
        for kind in Closure::ALL {
            assert_eq!(Closure::of(&kind.because("401 no, Resend's daily quota is spent")), kind);
        }
        assert_eq!(Closure::of("401 Resend refused the API key"), Closure::Other);
    }
}
