//! What the operator may decide about a message that is in the queue.
//!
//! Pure: from where its parts stand to the step of each, or to the reason why not
//! now. A part under way is left alone, since its attempt may end either way; one
//! whose last call ended without an answer and is made again to get it is not given
//! up before. A held part is decided, and one that may have been taken is given up,
//! only by somebody who was told the risk.

use jiff::Timestamp;

use super::message::{PartState, PartStep};

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// Send now what waits, and send again what is held.
    Retry,
    /// Give the message up.
    Cancel,
}

impl Choice {
    /// The name in the database and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
        }
    }

    /// The choice of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Retry, Self::Cancel].into_iter().find(|choice| choice.as_str() == text)
    }

    /// What may come of deciding a part that may have been taken, for whoever has to confirm it.
    pub const fn risk(self) -> &'static str {
        match self {
            Self::Retry => {
                "an earlier try of this message may have reached its recipients, and the upstream no longer \
                 knows it by its key: sent again under a new one, they may get it twice"
            }
            Self::Cancel => {
                "an earlier try of this message may have reached its recipients: given up, it is not billed, \
                 even if they have it"
            }
        }
    }
}

/// A part as a decision finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub state: PartState,
    /// Attempts made so far.
    pub attempt: u32,
    /// Whether its last attempt ended without an answer, and the same call again will tell.
    pub unknown: bool,
    /// Whether somebody may have it by an earlier attempt, and no later answer can tell.
    pub maybe_taken: bool,
    /// Whether some of its recipients have it.
    pub any_sent: bool,
}

impl Standing {
    /// Whether the choice needs somebody who knows its risk: a held part always; one
    /// that may have been taken when it is given up, since it is sent again anyway.
    pub fn has_risk(&self, choice: Choice) -> bool {
        let is_held = self.state == PartState::Held;
        is_held || (choice == Choice::Cancel && self.maybe_taken && !self.state.is_final())
    }
}

/// Why a decision is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// Every part is final.
    Final,
    /// An attempt is under way.
    AttemptRunning,
    /// The last attempt ended without an answer.
    OutcomeUnknown,
    /// A part is held or may have been taken, and the risk was not taken.
    Unconfirmed,
}

/// The step of each part, in their order; `None`: it stays as it is.
pub fn decide(
    choice: Choice,
    parts: &[Standing],
    is_confirmed: bool,
    now: Timestamp,
) -> Result<Vec<Option<PartStep>>, NotNow> {
    if parts.iter().all(|part| part.state.is_final()) {
        return Err(NotNow::Final);
    }
    if choice == Choice::Cancel {
        if parts.iter().any(|part| matches!(part.state, PartState::Sending { .. })) {
            return Err(NotNow::AttemptRunning);
        }
        if parts.iter().any(|part| part.unknown && matches!(part.state, PartState::Queued { .. })) {
            return Err(NotNow::OutcomeUnknown);
        }
    }
    if !is_confirmed && parts.iter().any(|part| part.has_risk(choice)) {
        return Err(NotNow::Unconfirmed);
    }
    let steps: Vec<_> = parts.iter().map(|part| step(choice, part, now)).collect();
    if steps.iter().all(Option::is_none) { Err(NotNow::AttemptRunning) } else { Ok(steps) }
}

fn step(choice: Choice, part: &Standing, now: Timestamp) -> Option<PartStep> {
    match (choice, &part.state) {
        // Given up for the others: who has it, has it.
        (Choice::Cancel, PartState::Queued { .. } | PartState::Held) if part.any_sent => Some(PartStep::Sent),
        (Choice::Cancel, PartState::Queued { .. } | PartState::Held) => Some(PartStep::Cancel),
        (Choice::Retry, PartState::Queued { .. }) => Some(PartStep::Hasten { now }),
        (Choice::Retry, PartState::Held) => Some(PartStep::Resume { now, attempt: part.attempt }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// `q` queued, `p` queued for the rest, `u` queued with an unknown outcome, `m` queued and maybe
    /// taken, `b` both, `s` sending, `S` sent, `F` failed, `h` held.
    fn parts(letters: &str) -> Vec<Standing> {
        let state = |letter| match letter {
            'q' | 'p' | 'u' | 'm' | 'b' => PartState::Queued { due: at(60), attempt: 2 },
            's' => PartState::Sending { lease: at(60), attempt: 2 },
            'S' => PartState::Sent,
            'F' => PartState::Failed,
            _ => PartState::Held,
        };
        let standing = |letter| Standing {
            state: state(letter),
            attempt: 2,
            unknown: matches!(letter, 'u' | 'b' | 'h'),
            // What is kept of one that was given up asks nobody any more.
            maybe_taken: matches!(letter, 'm' | 'b' | 'F'),
            any_sent: matches!(letter, 'p' | 'S'),
        };
        letters.chars().map(standing).collect()
    }

    /// `c` cancel, `e` the end of one that some have, `n` hasten, `r` resume, `-` nothing.
    fn letters(steps: &[Option<PartStep>]) -> String {
        let letter = |step: &Option<PartStep>| match step {
            Some(PartStep::Cancel) => 'c',
            Some(PartStep::Sent) => 'e',
            Some(PartStep::Hasten { .. }) => 'n',
            Some(PartStep::Resume { attempt: 2, .. }) => 'r',
            None => '-',
            other => panic!("{other:?} is no decision"),
        };
        steps.iter().map(letter).collect()
    }

    #[test]
    fn every_decision_about_every_kind_of_message() {
        use Choice::{Cancel, Retry};
        use NotNow::{AttemptRunning, Final, OutcomeUnknown, Unconfirmed};
        // Choice, parts; without and with the risk taken.
        type Told = Result<&'static str, NotNow>;
        let table: [(Choice, &str, Told, Told); 30] = [
            (Cancel, "q", Ok("c"), Ok("c")),
            (Cancel, "pF", Ok("e-"), Ok("e-")),
            (Cancel, "u", Err(OutcomeUnknown), Err(OutcomeUnknown)),
            (Cancel, "m", Err(Unconfirmed), Ok("c")),
            (Cancel, "b", Err(OutcomeUnknown), Err(OutcomeUnknown)),
            (Cancel, "qm", Err(Unconfirmed), Ok("cc")),
            (Cancel, "mF", Err(Unconfirmed), Ok("c-")),
            (Cancel, "s", Err(AttemptRunning), Err(AttemptRunning)),
            (Cancel, "h", Err(Unconfirmed), Ok("c")),
            (Cancel, "S", Err(Final), Err(Final)),
            (Cancel, "F", Err(Final), Err(Final)),
            (Cancel, "SF", Err(Final), Err(Final)),
            (Cancel, "SqF", Ok("-c-"), Ok("-c-")),
            (Cancel, "qs", Err(AttemptRunning), Err(AttemptRunning)),
            (Cancel, "hs", Err(AttemptRunning), Err(AttemptRunning)),
            (Cancel, "hu", Err(OutcomeUnknown), Err(OutcomeUnknown)),
            (Cancel, "qhS", Err(Unconfirmed), Ok("cc-")),
            (Retry, "q", Ok("n"), Ok("n")),
            (Retry, "p", Ok("n"), Ok("n")),
            (Retry, "u", Ok("n"), Ok("n")),
            (Retry, "m", Ok("n"), Ok("n")),
            (Retry, "hm", Err(Unconfirmed), Ok("rn")),
            (Retry, "s", Err(AttemptRunning), Err(AttemptRunning)),
            (Retry, "h", Err(Unconfirmed), Ok("r")),
            (Retry, "S", Err(Final), Err(Final)),
            (Retry, "FF", Err(Final), Err(Final)),
            (Retry, "Ss", Err(AttemptRunning), Err(AttemptRunning)),
            (Retry, "qs", Ok("n-"), Ok("n-")),
            (Retry, "hq", Err(Unconfirmed), Ok("rn")),
            (Retry, "hs", Err(Unconfirmed), Ok("r-")),
        ];
        for (choice, given, unconfirmed, confirmed) in table {
            for (is_confirmed, want) in [(false, unconfirmed), (true, confirmed)] {
                let parts = parts(given);
                let steps = decide(choice, &parts, is_confirmed, at(9));
                let told = steps.as_deref().map(letters).map_err(|refused| *refused);
                assert_eq!(told, want.map(str::to_owned), "{choice:?} {given} {is_confirmed}");
                for (part, step) in parts.iter().zip(steps.into_iter().flatten()) {
                    assert!(step.is_none_or(|step| part.state.after(step).is_some()), "{part:?} {step:?}");
                }
            }
        }
    }
}
