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
    /// The shares are of what was sent to in the window, and of this where that was less: a few
    /// who bounce prove nothing, and many do so whatever else was sent.
    pub min_recipients: u64,
    /// Fewer bounces than this prove nothing.
    pub min_bounced: u64,
    /// More bounces than this of ten thousand recipients are too many; of ten thousand: none are.
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
        let whole = sent.max(self.min_recipients);
        let too_many = |count: u64, least: u64, most: u64| {
            let is_above = u128::from(count) * u128::from(WHOLE) > u128::from(most) * u128::from(whole);
            count >= least && most < WHOLE && is_above
        };
        let days = self.window_days;
        if too_many(complained, self.min_complained, self.max_complained_per_10000) {
            let who = share(complained, sent);
            return Some(format!("paused because {who} called its mail spam within {days} days"));
        }
        if too_many(bounced, self.min_bounced, self.max_bounced_per_10000) {
            let who = share(bounced, sent);
            return Some(format!("paused because mail to {who} bounced within {days} days"));
        }
        None
    }
}

/// `40 of 988 recipients (4.04 %)`, rounded down. What was sent before the window may come back
/// within it, and then there is no share.
fn share(count: u64, of: u64) -> String {
    if count > of {
        return format!("{count} recipients");
    }
    let share = u128::from(count) * u128::from(WHOLE) / u128::from(of.max(1));
    format!("{count} of {of} recipients ({}.{:02} %)", share / 100, share % 100)
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
            ((0, 0, 0), false),
            ((199, 199, 199), true),
            ((10, 10, 0), true),
            ((30, 0, 2), false),
            ((30, 0, 3), true),
            ((200, 9, 0), false),
            ((200, 10, 0), true),
            ((1_000, 30, 0), false),
            ((1_000, 31, 0), true),
            ((200, 0, 2), false),
            ((200, 0, 3), true),
            ((5_000, 0, 3), false),
            ((4_999, 0, 3), true),
            ((u64::MAX, u64::MAX, 0), true),
            ((0, 10, 0), true),
        ];
        for ((sent, bounced, complained), is_paused) in table {
            let verdict = THRESHOLDS.verdict(Sums { sent, bounced, complained });
            assert_eq!(verdict.is_some(), is_paused, "{sent} {bounced} {complained}: {verdict:?}");
        }
    }

    #[test]
    fn who_sends_little_has_as_much_room_as_the_least_that_a_share_is_of() {
        let thresholds = Thresholds { min_recipients: 500, max_bounced_per_10000: 500, ..THRESHOLDS };
        for sent in [0, 30, 499, 500] {
            let is_paused = |bounced| thresholds.verdict(Sums { sent, bounced, complained: 0 }).is_some();
            assert_eq!((is_paused(25), is_paused(26)), (false, true), "{sent}");
        }
        assert!(thresholds.verdict(Sums { sent: 519, bounced: 26, complained: 0 }).is_some());
        assert_eq!(thresholds.verdict(Sums { sent: 520, bounced: 26, complained: 0 }), None);
        let never =
            Thresholds { max_bounced_per_10000: 10_000, max_complained_per_10000: 10_000, ..thresholds };
        assert_eq!(never.verdict(Sums { sent: 1, bounced: 9_000, complained: 9_000 }), None);
    }

    #[test]
    fn the_reason_says_how_much_of_what() {
        let said = |bounced, complained| THRESHOLDS.verdict(Sums { sent: 988, bounced, complained }).unwrap();
        assert_eq!(said(40, 0), "paused because mail to 40 of 988 recipients (4.04 %) bounced within 7 days");
        assert!(said(40, 9).contains("9 of 988 recipients (0.91 %) called its mail spam"));
        let said = |sent| THRESHOLDS.verdict(Sums { sent, bounced: 16, complained: 0 }).unwrap();
        assert_eq!(said(30), "paused because mail to 16 of 30 recipients (53.33 %) bounced within 7 days");
        assert_eq!(said(16), "paused because mail to 16 of 16 recipients (100.00 %) bounced within 7 days");
        assert_eq!(said(9), "paused because mail to 16 recipients bounced within 7 days");
    }
}
