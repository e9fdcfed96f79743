//! Parts that wait for a call to Resend, and who is in the next one. No sockets, no clock.
//!
//! Whoever waited longest leaves, with as many of those behind as the call may carry. A
//! part whose call was refused because of one of its members leaves only with such as are
//! under the same suspicion, so that it draws in nobody else; and of two calls one is for
//! those that are under none, so that bad mail, however much of it there is, holds nobody.

use std::collections::VecDeque;

use tokio::sync::OwnedSemaphorePermit;

use super::leases::Lease;
use crate::domain::batch::MOST;
use crate::handover::Room;
use crate::store::queue::LeasedPart;

/// Octets of the messages of one call, unless it has but one.
const MAX_OCTETS: usize = 4 << 20;

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
    fresh: VecDeque<Member>,
    /// The others, and calls that are made again.
    others: VecDeque<Other>,
    /// Whether the last call was one of `others`.
    was_other: bool,
}

impl Waiting {
    /// Adds them behind all others of their kind.
    pub(super) fn push(&mut self, comer: Comer) {
        match comer {
            Comer::Call(members) => self.others.push_back(Other::Call(members)),
            Comer::Free(members) => members.into_iter().for_each(|member| {
                if member.part.batch_max >= MOST {
                    self.fresh.push_back(member);
                } else {
                    self.others.push_back(Other::Suspect(Box::new(member)));
                }
            }),
        }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.others.is_empty()
    }

    /// Who leaves with the next call; nobody, if nobody waits.
    pub(super) fn next_call(&mut self) -> Vec<Member> {
        self.was_other = !self.others.is_empty() && (!self.was_other || self.fresh.is_empty());
        if !self.was_other {
            let mut call = Call::default();
            while let Some(member) = self.fresh.pop_front_if(|member| call.has_room(member, MOST)) {
                call.add(member);
            }
            return call.members;
        }
        match self.others.pop_front() {
            None => Vec::new(),
            Some(Other::Call(members)) => members,
            Some(Other::Suspect(first)) => self.with_others_like(*first),
        }
    }

    /// Everybody, in calls.
    pub(super) fn all(&mut self) -> impl Iterator<Item = Vec<Member>> {
        std::iter::from_fn(|| Some(self.next_call()).filter(|call| !call.is_empty()))
    }

    fn with_others_like(&mut self, first: Member) -> Vec<Member> {
        let most = first.part.batch_max;
        let mut call = Call::default();
        call.add(first);
        for other in std::mem::take(&mut self.others) {
            match other {
                Other::Suspect(member) if member.part.batch_max == most && call.has_room(&member, most) => {
                    call.add(*member);
                }
                other => self.others.push_back(other),
            }
        }
        call.members
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

    use super::*;
    use crate::delivery::leases::Leases;
    use crate::domain::address::ReversePath;
    use crate::domain::ids::{CustomerId, MessageId};
    use crate::domain::message::Road;
    use crate::store::accept::Kind;

    fn member(name: &str, batch_max: u32, octets: usize) -> Member {
        let part = LeasedPart {
            message_id: MessageId::parse(name).unwrap(),
            part_no: 0,
            customer_id: CustomerId::parse("ann").unwrap(),
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
        let lease = Leases::default().hold(&part);
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
        assert!(waiting.next_call().is_empty());
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
}
