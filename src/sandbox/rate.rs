//! Request counting in fixed windows, as both services do it.
//!
//! Pure: the time is an argument.

/// A limit on the requests of a window that begins with its first request.
#[derive(Debug, Clone)]
pub(super) struct Window {
    length_ms: i64,
    began_ms: i64,
    used: u32,
}

/// What a window says about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether the request may pass.
    pub(super) allowed: bool,
    /// Requests allowed in a window.
    pub(super) limit: u32,
    /// Requests left in this one.
    pub(super) remaining: u32,
    /// Seconds until it ends, rounded up.
    pub(super) reset_s: i64,
}

impl Window {
    /// A window of so many milliseconds.
    pub(super) const fn new(length_ms: i64) -> Self {
        Self { length_ms, began_ms: i64::MIN, used: 0 }
    }

    /// Counts a request made at `now_ms`; a limit of 0 means no limit. A refused request does not count.
    pub(super) fn take(&mut self, now_ms: i64, limit: u32) -> Verdict {
        if now_ms.saturating_sub(self.began_ms) >= self.length_ms || now_ms < self.began_ms {
            self.began_ms = now_ms;
            self.used = 0;
        }
        let limit = if limit == 0 { u32::MAX } else { limit };
        let allowed = self.used < limit;
        if allowed {
            self.used += 1;
        }
        let left_ms = self.length_ms - (now_ms - self.began_ms);
        let reset_s = (left_ms + 999) / 1000;
        Verdict { allowed, limit, remaining: limit.saturating_sub(self.used), reset_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_refuses_what_exceeds_it_and_opens_again() {
        let mut window = Window::new(60_000);
        assert_eq!(window.take(5_000, 2), Verdict { allowed: true, limit: 2, remaining: 1, reset_s: 60 });
        assert_eq!(window.take(5_100, 2), Verdict { allowed: true, limit: 2, remaining: 0, reset_s: 60 });
        assert_eq!(window.take(64_500, 2), Verdict { allowed: false, limit: 2, remaining: 0, reset_s: 1 });
        assert!(window.take(65_000, 2).allowed);
    }

    #[test]
    fn no_limit_never_refuses() {
        let mut window = Window::new(1_000);
        assert!((0..10_000).all(|_| window.take(0, 0).allowed));
    }
}
