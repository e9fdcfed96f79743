//! What an upstream tells about mail that it took: news of a recipient, in any order.

/// Kinds of news, in the order of their rank: whatever is told later, the highest
/// stands. Who got the mail did so though it was put off before; a server that took
/// it may still send it back; and whoever complains has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// The upstream took it and will try.
    Sent,
    /// The recipient's server put it off; it is tried again.
    DeliveryDelayed,
    /// Something came back of which nobody knows that it failed: perhaps somebody is out of the office.
    SoftBounced,
    /// The recipient's server took it.
    Delivered,
    /// The upstream gave the whole call up after it had taken it.
    Failed,
    /// The upstream left the recipient out: the address is on its own list.
    Suppressed,
    /// It came back: the recipient's server will not have it, and it is not tried again.
    Bounced,
    /// The recipient called it spam.
    Complained,
}

impl EventKind {
    /// Every kind, from the lowest rank to the highest.
    pub const ALL: [Self; 8] = [
        Self::Sent,
        Self::DeliveryDelayed,
        Self::SoftBounced,
        Self::Delivered,
        Self::Failed,
        Self::Suppressed,
        Self::Bounced,
        Self::Complained,
    ];

    /// The name in the database, in answers and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::DeliveryDelayed => "delivery_delayed",
            Self::SoftBounced => "soft_bounced",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Suppressed => "suppressed",
            Self::Bounced => "bounced",
            Self::Complained => "complained",
        }
    }

    /// The kind of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether whoever it is about does not get the mail any more.
    pub const fn is_late_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Suppressed | Self::Bounced)
    }

    /// Whether anything follows from it but that it is shown.
    pub const fn has_consequences(self) -> bool {
        self.is_late_failure() || matches!(self, Self::Complained)
    }
}

/// What a failure is laid to; it decides what follows from it besides the report to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The address: another mail to it would fare no better, so that none is taken for it.
    Address,
    /// This mail, or the mailbox as it was: another mail may fare better, and nobody did harm.
    Mail,
    /// The server, its rules, the sender or the way: it counts, and the address may be good.
    Unclear,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rank_stands_whatever_came_later() {
        use EventKind::*;
        let table = [
            (vec![Sent, Delivered, DeliveryDelayed], Delivered),
            (vec![DeliveryDelayed, Sent], DeliveryDelayed),
            (vec![SoftBounced, Delivered], Delivered),
            (vec![Delivered, Complained, Sent], Complained),
            (vec![Bounced, Delivered], Bounced),
            (vec![Failed, Sent], Failed),
        ];
        for (told, stands) in table {
            assert_eq!(told.iter().copied().max(), Some(stands), "{told:?}");
        }
    }

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.as_str()), Some(kind));
        }
        assert!(EventKind::ALL.is_sorted());
        assert_eq!(EventKind::parse("teleported"), None);
    }
}
