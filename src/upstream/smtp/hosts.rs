//! Which of several hosts is asked first. Pure: no host is spoken to here.
//!
//! The order of `UPSTREAM_SMTP_URL` is preference. A host that did not take us is
//! passed over for a while, longer each time; when the while is over, one attempt
//! looks whether it is back, and the others go on as before. While all are down
//! every one of them is tried: the durable queue says how often.

use std::time::{Duration, Instant};

/// How long a host is passed over at first, and at most.
const FIRST_WAIT: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What is remembered of each host, in the order of preference.
#[derive(Debug)]
pub(super) struct Hosts(Vec<Option<Down>>);

#[derive(Debug, Clone, Copy)]
struct Down {
    until: Instant,
    wait: Duration,
}

impl Hosts {
    /// So many hosts, all thought to be there.
    pub(super) fn new(count: usize) -> Self {
        Self(vec![None; count])
    }

    /// All hosts, by number, in the order in which an attempt that begins now tries
    /// them: those that are up or due for a look, then those that are passed over.
    pub(super) fn order(&mut self, now: Instant) -> Vec<usize> {
        let (mut order, mut last) = (Vec::with_capacity(self.0.len()), Vec::new());
        for (number, host) in self.0.iter_mut().enumerate() {
            match host {
                Some(down) if now < down.until => last.push(number),
                // This attempt looks; whoever comes meanwhile passes it over.
                Some(down) => {
                    down.wait = down.wait.saturating_mul(2).min(LONGEST_WAIT);
                    down.until = later(now, down.wait);
                    order.push(number);
                }
                None => order.push(number),
            }
        }
        order.append(&mut last);
        order
    }

    /// It did not take us. Says whether that is news: what attempts that were under
    /// way together learn is learned once.
    pub(super) fn failed(&mut self, number: usize, now: Instant) -> bool {
        match self.0.get_mut(number) {
            Some(host @ None) => {
                *host = Some(Down { until: later(now, FIRST_WAIT), wait: FIRST_WAIT });
                true
            }
            _ => false,
        }
    }

    /// It did. Says whether that is news.
    pub(super) fn answered(&mut self, number: usize) -> bool {
        self.0.get_mut(number).is_some_and(|host| host.take().is_some())
    }
}

fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Order(&'static [usize]),
        Failed(usize, bool),
        Answered(usize, bool),
        After(u64),
    }

    use Step::{After, Answered, Failed, Order};

    #[test]
    fn the_preferred_host_is_tried_first_unless_it_is_known_to_be_down() {
        let table: [(&str, &[Step]); 6] = [
            ("all are up", &[Order(&[0, 1, 2]), Answered(0, false), Order(&[0, 1, 2])]),
            ("the first is down", &[Failed(0, true), Order(&[1, 2, 0]), After(14), Order(&[1, 2, 0])]),
            (
                "one attempt looks, the others do not",
                &[Failed(0, true), After(15), Order(&[0, 1, 2]), Order(&[1, 2, 0]), Order(&[1, 2, 0])],
            ),
            (
                "each look that fails doubles the wait",
                &[
                    Failed(0, true),
                    After(15),
                    Order(&[0, 1, 2]),
                    Failed(0, false),
                    After(29),
                    Order(&[1, 2, 0]),
                    After(1),
                    Order(&[0, 1, 2]),
                    After(59),
                    Order(&[1, 2, 0]),
                ],
            ),
            (
                "a look that succeeds ends it",
                &[Failed(0, true), After(15), Order(&[0, 1, 2]), Answered(0, true), Order(&[0, 1, 2])],
            ),
            (
                "all are down: all are tried, and that makes it no worse",
                &[
                    Failed(0, true),
                    Failed(1, true),
                    Failed(2, true),
                    Order(&[0, 1, 2]),
                    Failed(0, false),
                    Failed(1, false),
                    After(15),
                    Order(&[0, 1, 2]),
                ],
            ),
        ];
        for (name, steps) in table {
            let (mut hosts, mut now) = (Hosts::new(3), Instant::now());
            for (at, step) in steps.iter().enumerate() {
                match *step {
                    Order(want) => assert_eq!(hosts.order(now), want, "{name}, step {at}"),
                    Failed(number, news) => assert_eq!(hosts.failed(number, now), news, "{name}, step {at}"),
                    Answered(number, news) => assert_eq!(hosts.answered(number), news, "{name}, step {at}"),
                    After(seconds) => now += Duration::from_secs(seconds),
                }
            }
        }
    }

    #[test]
    fn no_host_is_passed_over_for_long() {
        let (mut hosts, mut now) = (Hosts::new(2), Instant::now());
        hosts.failed(0, now);
        for _ in 0..20 {
            now += LONGEST_WAIT;
            assert_eq!(hosts.order(now), [0, 1]);
        }
    }
}
