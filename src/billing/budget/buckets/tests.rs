use super::*;

const TICK: Duration = Duration::from_millis(10);

fn spend(buckets: &mut Buckets, purpose: Purpose, now: Instant) -> usize {
    (0..10_000).take_while(|_| buckets.try_take(purpose, now).is_none()).count()
}

fn full() -> (Buckets, Instant) {
    let now = Instant::now();
    (Buckets::new(now), now)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Dodo's side: fixed windows of a minute, shared with a neighbour.
struct Account {
    limit: u32,
    used: u32,
    began: Instant,
    ours: u32,
    refused: u32,
    tells_reset: bool,
}

impl Account {
    fn new(limit: u32, now: Instant, tells_reset: bool) -> Self {
        Self { limit, used: 0, began: now, ours: 0, refused: 0, tells_reset }
    }

    fn take(&mut self, now: Instant) -> (bool, RateInfo) {
        if now.duration_since(self.began) >= MINUTE {
            (self.began, self.used) = (now, 0);
        }
        let is_allowed = self.used < self.limit;
        self.used += u32::from(is_allowed);
        let left = MINUTE - now.duration_since(self.began);
        let reset = Some(left.as_secs() + 1).filter(|_| self.tells_reset);
        let remaining = Some(self.limit - self.used);
        (is_allowed, RateInfo { limit: Some(self.limit), remaining, reset, retry_after: None })
    }

    fn ours(&mut self, buckets: &mut Buckets, now: Instant) {
        let (is_allowed, rate) = self.take(now);
        if is_allowed {
            self.ours += 1;
        } else {
            self.refused += 1;
        }
        buckets.learn(&rate, !is_allowed, now);
    }
}

/// Spends whatever may be spent for entries, tick by tick; a neighbour takes `neighbour` calls a second.
fn minutes(limit: u32, neighbour: u32, tells_reset: bool, minutes: u32) -> Account {
    let (mut buckets, start) = full();
    let mut account = Account::new(limit, start, tells_reset);
    for tick in 0..minutes * 6_000 {
        let now = start + TICK * tick;
        if tick % 100 < neighbour {
            account.take(now);
        }
        while buckets.try_take(Purpose::Entry, now).is_none() {
            account.ours(&mut buckets, now);
        }
    }
    account
}

#[test]
fn no_minute_has_more_calls_than_the_limit() {
    let (mut buckets, start) = full();
    let calls: usize = (0..6000)
        .map(|tick| start + TICK * tick)
        .map(|now| spend(&mut buckets, Purpose::Answer, now) + spend(&mut buckets, Purpose::Entry, now))
        .sum();
    assert!((230..=240).contains(&calls), "{calls}");
}

#[test]
fn alone_on_the_account_nearly_all_of_it_is_used_and_nothing_is_refused() {
    for tells_reset in [true, false] {
        for limit in [240, 1_000, 5_000] {
            let account = minutes(limit, 0, tells_reset, 3);
            assert_eq!(account.refused, 0, "{limit} {tells_reset}");
            let share = f64::from(account.ours) / f64::from(limit * 3);
            assert!(share > 0.8, "{limit} {tells_reset}: {share}");
        }
    }
}

#[test]
fn the_faster_the_others_are_the_slower_we_go() {
    for tells_reset in [true, false] {
        let alone = minutes(240, 0, tells_reset, 3);
        let half = minutes(240, 2, tells_reset, 3);
        let crowded = minutes(240, 3, tells_reset, 3);
        assert!(alone.ours > half.ours && half.ours > crowded.ours, "{tells_reset}");
        for account in [half, crowded] {
            assert!(account.refused <= 3 * 3, "{tells_reset}: {}", account.refused);
            assert!(account.ours > 60, "{tells_reset}: {}", account.ours);
        }
    }
}

#[test]
fn reads_leave_a_third_to_entries() {
    let (mut buckets, now) = full();
    spend(&mut buckets, Purpose::Answer, now);
    assert!(spend(&mut buckets, Purpose::Entry, now) >= 6);
}

#[test]
fn entries_leave_half_of_the_rest_to_answers() {
    let (mut buckets, now) = full();
    spend(&mut buckets, Purpose::Entry, now);
    assert!(spend(&mut buckets, Purpose::Answer, now) >= 6);
    assert_eq!(spend(&mut buckets, Purpose::Refresh, now), 0);
}

#[test]
fn a_client_is_answered_at_once_however_busy_entries_and_refreshes_are() {
    let (mut buckets, start) = full();
    let mut others = 0;
    for tick in 0..6_000 {
        let now = start + TICK * tick;
        others += spend(&mut buckets, Purpose::Refresh, now) + spend(&mut buckets, Purpose::Entry, now);
        if tick % 100 == 0 {
            assert_eq!(buckets.try_take(Purpose::Answer, now), None, "at {tick}");
        }
    }
    assert!((150..=180).contains(&others), "{others}");
}

#[test]
fn the_limit_is_learned_whichever_of_its_limits_dodo_tells() {
    let told = |limit, reset| RateInfo { limit: Some(limit), reset, ..RateInfo::default() };
    let table = [
        (told(1_000, None), 1_000.0),
        (told(1_000, Some(59)), 1_000.0),
        (told(30, Some(59)), 30.0),
        (told(30, Some(59_000)), 30.0),
        (told(30, None), 240.0),
        (told(0, Some(59)), 240.0),
        // The limits of a second.
        (told(40, None), 240.0),
        (told(40, Some(1)), 240.0),
        (told(100, Some(1)), 1_000.0),
        (told(500, Some(1)), 5_000.0),
        // A limit of a minute that looks like one of a second.
        (told(100, Some(59)), 100.0),
        (told(100, Some(59_000)), 100.0),
        (told(1_000, Some(1_795_000_000)), 1_000.0),
    ];
    for (rate, limit) in table {
        let (mut buckets, now) = full();
        buckets.learn(&rate, false, now);
        assert!((buckets.limit - limit).abs() < 0.5, "{rate:?}: {}", buckets.limit);
    }
    let (mut buckets, now) = full();
    buckets.learn(&told(100, Some(59)), false, now);
    buckets.learn(&told(100, Some(1)), false, now);
    assert!((buckets.limit - 100.0).abs() < 0.5, "the end of a minute makes no second of it");
}

#[test]
fn a_window_that_is_used_up_is_waited_for() {
    let (mut buckets, now) = full();
    let empty = RateInfo { limit: Some(240), remaining: Some(0), reset: Some(30), retry_after: None };
    buckets.learn(&empty, false, now);
    for purpose in [Purpose::Answer, Purpose::Entry, Purpose::Refresh] {
        assert_eq!(spend(&mut buckets, purpose, now + seconds(29)), 0, "{purpose:?}");
    }
    assert!(spend(&mut buckets, Purpose::Entry, now + seconds(32)) > 0);
}

#[test]
fn a_429_is_obeyed_and_without_a_word_about_the_wait_the_wait_grows() {
    let (mut buckets, now) = full();
    let limited = |retry_after: Option<u64>| RateInfo {
        retry_after: retry_after.map(Duration::from_secs),
        ..RateInfo::default()
    };
    buckets.learn(&limited(Some(7)), true, now);
    assert_eq!(buckets.try_take(Purpose::Answer, now), Some(seconds(7)));
    assert_eq!(buckets.try_take(Purpose::Answer, now + seconds(7)), None);

    let (mut buckets, mut now) = full();
    for wait in [2, 4, 8, 16, 32, 60, 60] {
        buckets.learn(&limited(None), true, now);
        assert_eq!(buckets.try_take(Purpose::Answer, now), Some(seconds(wait)));
        now += seconds(wait);
        assert_eq!(buckets.try_take(Purpose::Answer, now), None);
    }
    buckets.learn(&RateInfo::default(), false, now);
    buckets.learn(&limited(None), true, now);
    assert_eq!(buckets.try_take(Purpose::Answer, now), Some(seconds(2)));
    let by_reset = RateInfo { remaining: Some(0), reset: Some(11), ..RateInfo::default() };
    buckets.learn(&by_reset, true, now);
    assert_eq!(buckets.try_take(Purpose::Answer, now), Some(seconds(11)));
}

#[test]
fn while_dodo_is_away_single_calls_try_whether_it_is_back() {
    let (mut buckets, start) = full();
    for _ in 0..AWAY_AFTER {
        assert!(!buckets.is_away());
        assert!(!buckets.went(false, start));
    }
    assert!(buckets.is_away());
    let hour = 3_600 * 100;
    let probes = (0..hour)
        .map(|tick| start + TICK * tick)
        .filter(|now| buckets.try_take(Purpose::Entry, *now).is_none())
        .count();
    assert!((300..=400).contains(&probes), "an hour of it: {probes}");
    let now = start + seconds(3_600);
    assert!(spend(&mut buckets, Purpose::Answer, now) > 6, "who waits is no probe");
    assert!(buckets.went(true, now), "it is back");
    assert!(!buckets.is_away() && !buckets.went(true, now));
    // What had gathered does not leave all at once.
    let later = now + seconds(600);
    assert!(spend(&mut buckets, Purpose::Entry, later) <= 20);
}
