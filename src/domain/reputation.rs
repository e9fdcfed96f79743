//! When a customer's mail does harm to everybody else's: too much of it comes back,
//! or is called spam. Pure counting; the sums are the store's.

/// A share of which there are this many in the whole.
const WHOLE: u64 = 10_000;

/// Where a customer is paused (`[reputation]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// UTC days that count, today among them.
    pub window_days: u32,
    /// Fewer recipients than this in the window prove nothing.
    pub min_recipients: u64,
    /// Fewer bounces than this prove nothing.
    pub min_bounced: u64,
    /// More bounces than this of ten thousand recipients are too many.
    pub max_bounced_per_10000: u64,
    /// Fewer complaints than this prove nothing.
    pub min_complained: u64,
    /// More complaints than this of ten thousand recipients are too many.
    pub max_complained_per_10000: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            window_days: 7,
            min_recipients: 500,
            min_bounced: 10,
            // Resend asks for less than 4 % and less than 0.08 % of a whole account.
            max_bounced_per_10000: 300,
            min_complained: 3,
            max_complained_per_10000: 6,
        }
    }
}

/// What came of a customer's mail within the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Recipients that were sent to.
    pub sent: u64,
    /// Those whose server refused it for good.
    pub bounced: u64,
    /// Those who called it spam.
    pub complained: u64,
}

impl Thresholds {
    /// Why the customer has to be paused, if so; in words that the customer reads.
    pub fn verdict(&self, sums: Sums) -> Option<String> {
        let Sums { sent, bounced, complained } = sums;
        if sent < self.min_recipients {
            return None;
        }
        let too_many = |count: u64, least: u64, most: u64| {
            count >= least && u128::from(count) * u128::from(WHOLE) > u128::from(most) * u128::from(sent)
        };
        let days = self.window_days;
        if too_many(complained, self.min_complained, self.max_complained_per_10000) {
            let share = percent(complained, sent);
            return Some(format!(
                "paused because {complained} of {sent} recipients ({share} %) called its mail spam within {days} days"
            ));
        }
        if too_many(bounced, self.min_bounced, self.max_bounced_per_10000) {
            let share = percent(bounced, sent);
            return Some(format!(
                "paused because mail to {bounced} of {sent} recipients ({share} %) bounced within {days} days"
            ));
        }
        None
    }
}

/// Hundredths of a percent, rounded down: `4.05`.
fn percent(count: u64, of: u64) -> String {
    let share = u128::from(count) * u128::from(WHOLE) / u128::from(of.max(1));
    format!("{}.{:02}", share / 100, share % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds {
        window_days: 7,
        min_recipients: 200,
        min_bounced: 10,
        max_bounced_per_10000: 300,
        min_complained: 3,
        max_complained_per_10000: 6,
    };

    #[test]
    fn a_customer_is_paused_for_a_share_that_is_large_and_sure() {
        let table = [
            ((10, 1, 0), false),
            ((199, 199, 199), false),
            ((200, 9, 0), false),
            ((200, 10, 0), true),
            ((1_000, 30, 0), false),
            ((1_000, 31, 0), true),
            ((200, 0, 2), false),
            ((200, 0, 3), true),
            ((5_000, 0, 3), false),
            ((4_999, 0, 3), true),
            ((u64::MAX, u64::MAX, 0), true),
        ];
        for ((sent, bounced, complained), is_paused) in table {
            let verdict = THRESHOLDS.verdict(Sums { sent, bounced, complained });
            assert_eq!(verdict.is_some(), is_paused, "{sent} {bounced} {complained}: {verdict:?}");
        }
    }

    #[test]
    fn the_reason_says_how_much_of_what() {
        let said = |bounced, complained| THRESHOLDS.verdict(Sums { sent: 988, bounced, complained }).unwrap();
        assert_eq!(said(40, 0), "paused because mail to 40 of 988 recipients (4.04 %) bounced within 7 days");
        assert!(said(40, 9).contains("9 of 988 recipients (0.91 %) called its mail spam"));
    }
}
