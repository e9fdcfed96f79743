//! Parts that wait for a call to Resend, and who is in the next one. No sockets, no clock.
//!
//! Every customer has a line, and the next call takes from all of them in turn, as many as
//! it may carry: nobody waits for the whole of another's line. A part whose call was refused
//! because of one of its members leaves only with such as are under the same suspicion, so
//! that it draws in nobody else; and whoever is known for such mail ([`Apart`]) leaves only
//! with their own. Of two calls one is for those of whom nothing is known, so that bad mail,
//! however much of it there is, holds nobody else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use tokio::sync::OwnedSemaphorePermit;

use super::apart::Apart;
use super::leases::Lease;
use crate::domain::batch::MOST;
use crate::domain::ids::CustomerId;
use crate::handover::Room;
use crate::store::queue::LeasedPart;

/// Octets of the messages of one call, unless it has but one.
const MAX_OCTETS: usize = 4 << 20;
/// Parts that are put back at once.
const MOST_AT_ONCE: usize = 100;

/// A part that waits for a call, or is in one, with its lease and its room.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) part: LeasedPart,
    pub(super) lease: Lease,
    pub(super) room: Option<Room>,
    /// Its place among those that were read ahead.
    pub(super) ahead: Option<OwnedSemaphorePermit>,
}

/// What comes to wait.
#[derive(Debug)]
pub(super) enum Comer {
    /// Parts that no call has.
    Free(Vec<Member>),
    /// All members of a call that is made again, in their order.
    Call(Vec<Member>),
}

impl Comer {
    /// Whether nobody comes.
    pub(super) fn is_nobody(&self) -> bool {
        match self {
            Self::Free(members) | Self::Call(members) => members.is_empty(),
        }
    }

    /// Whoever comes.
    pub(super) fn into_members(self) -> Vec<Member> {
        match self {
            Self::Free(members) | Self::Call(members) => members,
        }
    }
}

/// Who leaves apart from those whom nobody has been refused with.
#[derive(Debug)]
enum Other {
    Suspect(Box<Member>),
    Call(Vec<Member>),
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Nobody has been refused with them.
    fresh: Lines,
    /// The others, and calls that are made again.
    others: VecDeque<Other>,
    /// Whether the last call was not for those of whom nothing is known.
    was_aside: bool,
    /// Whose such a call was; `None`: that of others who are not apart.
    last_aside: Option<CustomerId>,
}

impl Waiting {
    /// Adds them behind all others of their kind.
    pub(super) fn push(&mut self, comer: Comer) {
        match comer {
            Comer::Call(members) => self.others.push_back(Other::Call(members)),
            Comer::Free(members) => members.into_iter().for_each(|member| {
                if member.part.batch_max >= MOST {
                    self.fresh.push(member);
                } else {
                    self.others.push_back(Other::Suspect(Box::new(member)));
                }
            }),
        }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.by_customer.is_empty() && self.others.is_empty()
    }

    /// Who leaves with the next call; nobody, if nobody waits.
    pub(super) fn next_call(&mut self, apart: &Apart) -> Vec<Member> {
        let aside = self.aside(apart);
        let is_fresh = self.fresh.turns.iter().any(|customer| !apart.has(customer));
        self.was_aside = !aside.is_empty() && (!self.was_aside || !is_fresh);
        if !self.was_aside {
            return self.fresh.next_call(apart);
        }
        let later = (Bound::Excluded(&self.last_aside), Bound::Unbounded);
        self.last_aside = aside.range(later).next().or(aside.first()).cloned().flatten();
        let whose = self.last_aside.clone();
        let first = self.others.iter().position(|other| other.whose(apart) == whose.as_ref());
        match (first.and_then(|first| self.others.remove(first)), whose) {
            (Some(Other::Call(members)), _) => members,
            (Some(Other::Suspect(first)), whose) => self.with_others_like(*first, whose.as_ref(), apart),
            (None, Some(whose)) => self.fresh.call_of(&whose),
            (None, None) => Vec::new(),
        }
    }

    /// Of those who are apart as many of the last as are beyond `most` and fit a call, where
    /// they hold what others need to be read.
    pub(super) fn too_many(&mut self, apart: &Apart, most: usize) -> Vec<Member> {
        let lines = || self.fresh.by_customer.iter().filter(|(customer, _)| apart.has(customer));
        let count: usize = lines().map(|(_, line)| line.len()).sum();
        let longest = lines().max_by_key(|(_, line)| line.len()).map(|(customer, _)| customer.clone());
        let Some(line) = longest.and_then(|customer| self.fresh.by_customer.get_mut(&customer)) else {
            return Vec::new();
        };
        let beyond = count.saturating_sub(most).min(line.len().saturating_sub(1)).min(MOST_AT_ONCE);
        line.split_off(line.len() - beyond).into()
    }

    /// Everybody, in calls.
    pub(super) fn all(&mut self) -> impl Iterator<Item = Vec<Member>> {
        let apart = Apart::default();
        std::iter::from_fn(move || Some(self.next_call(&apart)).filter(|call| !call.is_empty()))
    }

    /// Who waits for the calls that are not for those of whom nothing is known: customers
    /// that are apart, and `None` for all others.
    fn aside(&self, apart: &Apart) -> BTreeSet<Option<CustomerId>> {
        let others = self.others.iter().map(|other| other.whose(apart).cloned());
        let fresh = self.fresh.turns.iter().filter(|customer| apart.has(customer));
        others.chain(fresh.map(|customer| Some(customer.clone()))).collect()
    }

    fn with_others_like(&mut self, first: Member, whose: Option<&CustomerId>, apart: &Apart) -> Vec<Member> {
        let most = first.part.batch_max;
        let mut call = Call::default();
        call.add(first);
        for other in std::mem::take(&mut self.others) {
            let is_like = other.whose(apart) == whose;
            match other {
                Other::Suspect(member)
                    if is_like && member.part.batch_max == most && call.has_room(&member, most) =>
                {
                    call.add(*member);
                }
                other => self.others.push_back(other),
            }
        }
        call.members
    }
}

impl Other {
    /// The customer, if they are apart. A call that is made again stays what it is.
    fn whose(&self, apart: &Apart) -> Option<&CustomerId> {
        match self {
            Self::Suspect(member) => Some(&member.part.customer_id).filter(|customer| apart.has(customer)),
            Self::Call(_) => None,
        }
    }
}

/// A line for every customer.
#[derive(Debug, Default)]
struct Lines {
    /// None is empty.
    by_customer: BTreeMap<CustomerId, VecDeque<Member>>,
    /// Each of them once, the next one first.
    turns: VecDeque<CustomerId>,
}

impl Lines {
    fn push(&mut self, member: Member) {
        let customer = &member.part.customer_id;
        if !self.by_customer.contains_key(customer) {
            self.turns.push_back(customer.clone());
        }
        self.by_customer.entry(customer.clone()).or_default().push_back(member);
    }

    /// A call with one of each in turn, without those who are apart.
    fn next_call(&mut self, apart: &Apart) -> Vec<Member> {
        let (mut call, mut passed) = (Call::default(), 0);
        while passed < self.turns.len()
            && let Some(customer) = self.turns.pop_front()
        {
            if apart.has(&customer) {
                self.turns.push_back(customer);
                passed += 1;
                continue;
            }
            let Some(member) = self.take(&customer, &call) else {
                self.turns.push_front(customer);
                break;
            };
            call.add(member);
            passed = 0;
            if self.by_customer.contains_key(&customer) {
                self.turns.push_back(customer);
            }
        }
        // Halves are of neighbours: a customer's mail comes together in them, or alone.
        call.members.sort_by(|one, other| one.part.customer_id.cmp(&other.part.customer_id));
        call.members
    }

    /// A call with one customer's.
    fn call_of(&mut self, customer: &CustomerId) -> Vec<Member> {
        let mut call = Call::default();
        while let Some(member) = self.take(customer, &call) {
            call.add(member);
        }
        if !self.by_customer.contains_key(customer) {
            self.turns.retain(|other| other != customer);
        }
        call.members
    }

    /// The first of a customer's line, if the call has room.
    fn take(&mut self, customer: &CustomerId, call: &Call) -> Option<Member> {
        let line = self.by_customer.get_mut(customer)?;
        let member = line.pop_front_if(|member| call.has_room(member, MOST));
        if line.is_empty() {
            self.by_customer.remove(customer);
        }
        member
    }
}

/// A call that gathers.
#[derive(Debug, Default)]
struct Call {
    members: Vec<Member>,
    octets: usize,
}

impl Call {
    fn has_room(&self, member: &Member, most: u32) -> bool {
        let is_fuller = u32::try_from(self.members.len()).is_ok_and(|count| count >= most);
        self.members.is_empty() || (!is_fuller && self.octets + member.part.bytes.len() <= MAX_OCTETS)
    }

    fn add(&mut self, mut member: Member) {
        // Somebody else may be read in its place.
        drop(member.ahead.take());
        self.octets += member.part.bytes.len();
        self.members.push(member);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use jiff::Timestamp;
    use tokio::time::Instant;

    use super::*;
    use crate::delivery::leases::Leases;
    use crate::domain::address::ReversePath;
    use crate::domain::batch::half;
    use crate::domain::ids::MessageId;
    use crate::domain::message::Road;
    use crate::store::accept::Kind;

    fn member(name: &str, batch_max: u32, octets: usize) -> Member {
        member_of("ann", name, batch_max, octets)
    }

    fn member_of(customer: &str, name: &str, batch_max: u32, octets: usize) -> Member {
        let part = LeasedPart {
            message_id: MessageId::parse(name).unwrap(),
            part_no: 0,
            customer_id: CustomerId::parse(customer).unwrap(),
            kind: Kind::Submission,
            road: Road::Resend,
            attempt: 1,
            key_no: 0,
            first_try_at: Timestamp::UNIX_EPOCH,
            unknown: false,
            request_hash: None,
            reverse_path: ReversePath::Null,
            recipients: Vec::new(),
            maybe_taken: Vec::new(),
            accepted_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
            batch_max,
            batch: None,
            bytes: Bytes::from(vec![0; octets]),
            dsn: Arc::default(),
        };
        let lease = Leases::new(false).hold(&part, Timestamp::MAX, Timestamp::UNIX_EPOCH);
        Member { part, lease, room: None, ahead: None }
    }

    fn free(name: &str, batch_max: u32) -> Comer {
        Comer::Free(vec![member(name, batch_max, 1)])
    }

    fn names(call: &[Member]) -> Vec<&str> {
        call.iter().map(|member| member.part.message_id.as_str()).collect()
    }

    #[test]
    fn those_who_waited_longest_leave_and_as_many_as_there_is_room_for() {
        let mut waiting = Waiting::default();
        assert!(waiting.next_call(&Apart::default()).is_empty());
        for nth in 0..250 {
            waiting.push(free(&format!("m{nth}"), MOST));
        }
        let calls: Vec<Vec<Member>> = waiting.all().collect();
        assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!((names(&calls[0])[0], names(&calls[2])[49]), ("m0", "m249"));
        assert!(waiting.is_empty());
        for nth in 0..3 {
            waiting.push(Comer::Free(vec![member(&format!("m{nth}"), MOST, MAX_OCTETS / 2)]));
        }
        waiting.push(Comer::Free(vec![member("large", MOST, 2 * MAX_OCTETS)]));
        let calls: Vec<Vec<Member>> = waiting.all().collect();
        let calls: Vec<_> = calls.iter().map(|call| names(call)).collect();
        assert_eq!(calls, [vec!["m0", "m1"], vec!["m2"], vec!["large"]]);
    }

    #[test]
    fn suspects_leave_among_themselves_and_with_every_other_call() {
        let mut waiting = Waiting::default();
        for (name, batch_max) in [("s1", 2), ("t1", 50), ("s2", 2), ("s3", 2), ("t2", 50)] {
            waiting.push(free(name, batch_max));
        }
        waiting.push(Comer::Call(vec![member("c1", MOST, 1), member("c2", 50, 1)]));
        for nth in 0..150 {
            waiting.push(free(&format!("m{nth}"), MOST));
        }
        let calls: Vec<Vec<Member>> = waiting.all().collect();
        let calls: Vec<_> = calls.iter().map(|call| names(call)).collect();
        let many = |calls: &[&str]| calls.len();
        assert_eq!(calls[0], ["s1", "s2"]);
        assert_eq!((calls[1][0], many(&calls[1])), ("m0", 100));
        assert_eq!(calls[2], ["t1", "t2"]);
        assert_eq!((calls[3][0], many(&calls[3])), ("m100", 50));
        assert_eq!(calls[4..], [vec!["s3"], vec!["c1", "c2"]]);
    }

    fn apart(customer: &str) -> Apart {
        let mut apart = Apart::default();
        apart.refused(&CustomerId::parse(customer).unwrap(), Instant::now());
        apart
    }

    fn push_of(waiting: &mut Waiting, customer: &str, count: usize, batch_max: u32) {
        let members = (0..count).map(|nth| member_of(customer, &format!("{customer}{nth}"), batch_max, 1));
        waiting.push(Comer::Free(members.collect()));
    }

    /// Whose mail is in a call, and how many of each.
    fn whose(call: &[Member]) -> Vec<(&str, usize)> {
        let of_one = call.chunk_by(|one, other| one.part.customer_id == other.part.customer_id);
        of_one.map(|few| (few[0].part.customer_id.as_str(), few.len())).collect()
    }

    #[test]
    fn customers_take_turns_however_much_one_has() {
        let mut waiting = Waiting::default();
        push_of(&mut waiting, "xeno", 1_000, MOST);
        push_of(&mut waiting, "ann", 10, MOST);
        push_of(&mut waiting, "bob", 60, MOST);
        let calls: Vec<_> = (0..3).map(|_| waiting.next_call(&Apart::default())).collect();
        assert_eq!(whose(&calls[0]), [("ann", 10), ("bob", 45), ("xeno", 45)]);
        assert_eq!(whose(&calls[1]), [("bob", 15), ("xeno", 85)]);
        assert_eq!(whose(&calls[2]), [("xeno", 100)]);
        assert_eq!((names(&calls[0])[0], names(&calls[2])[99]), ("ann0", "xeno229"));
    }

    #[test]
    fn who_is_apart_has_no_company_but_their_own() {
        let (mut waiting, apart) = (Waiting::default(), apart("xeno"));
        push_of(&mut waiting, "xeno", 150, MOST);
        push_of(&mut waiting, "ann", 150, MOST);
        push_of(&mut waiting, "xeno", 2, 2);
        push_of(&mut waiting, "ann", 1, 2);
        waiting.push(Comer::Call(vec![member("c1", MOST, 1), member_of("xeno", "c2", MOST, 1)]));
        let calls: Vec<_> = (0..7).map(|_| waiting.next_call(&apart)).collect();
        let calls: Vec<_> = calls.iter().map(|call| whose(call)).collect();
        assert_eq!(calls[..4], [vec![("xeno", 2)], vec![("ann", 100)], vec![("ann", 1)], vec![("ann", 50)]]);
        assert_eq!(calls[4..], [vec![("xeno", 100)], vec![("ann", 1), ("xeno", 1)], vec![("xeno", 50)]]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn who_is_apart_holds_only_so_much_of_what_is_read_ahead() {
        let (mut waiting, apart) = (Waiting::default(), apart("xeno"));
        push_of(&mut waiting, "ann", 700, MOST);
        push_of(&mut waiting, "xeno", 650, MOST);
        let calls = [(); 3].map(|()| waiting.too_many(&apart, 500));
        assert_eq!(calls.each_ref().map(Vec::len), [100, 50, 0]);
        assert_eq!((names(&calls[0])[0], names(&calls[1])[49]), ("xeno550", "xeno549"));
        assert!(waiting.too_many(&Apart::default(), 500).is_empty());
    }

    /// Two customers have a deep queue, and of one's every fiftieth mail is refused: how many
    /// calls there were when the last of the other's had left, how many of those with
    /// the other's were refused, and how many calls there were in all.
    fn calls_with_bad_mail(each: usize) -> (usize, usize, usize) {
        let (mut waiting, mut apart) = (Waiting::default(), Apart::default());
        for nth in 0..each {
            let bad = if nth % 50 == 7 { "bad" } else { "good" };
            let mail = |whose: &str, name: String| Comer::Free(vec![member_of(whose, &name, MOST, 1)]);
            waiting.push(mail("ann", format!("a{nth}")));
            waiting.push(mail("xeno", format!("{bad}{nth}")));
        }
        let (mut calls, mut last, mut refused) = (0, 0, 0);
        while !waiting.is_empty() {
            let mut call = waiting.next_call(&apart);
            calls += 1;
            let has_ann = call.iter().any(|member| member.part.customer_id.as_str() == "ann");
            let is_refused = call.iter().any(|member| member.part.message_id.as_str().starts_with("bad"));
            last = if has_ann && !is_refused { calls } else { last };
            refused += usize::from(has_ann && is_refused);
            if is_refused && !has_ann {
                apart.refused(&call[0].part.customer_id, Instant::now());
            }
            if is_refused && call.len() > 1 {
                let size = u32::try_from(call.len()).unwrap();
                for (no, member) in (0..).zip(&mut call) {
                    member.part.batch_max = half(size, no).batch_max;
                }
                waiting.push(Comer::Free(call));
            }
        }
        (last, refused, calls)
    }

    #[test]
    fn one_customers_bad_mail_does_not_slow_anothers() {
        let (last, refused, calls) = calls_with_bad_mail(2_000);
        // Twenty calls full of the other's mail, and every other one of somebody else's.
        assert!(last <= 45 && refused <= 2, "{last} {refused}");
        assert!(calls < 700, "{calls}");
    }
}
