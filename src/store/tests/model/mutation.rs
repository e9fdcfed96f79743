//! Mistakes that the process could make. A model that does not see them is worth
//! nothing, so each of them is made, and has to be found.

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutation {
    /// A balance read that an entry or another read overtook is applied.
    AppliesOvertakenReads,
    /// A read lowers the balance while the outcome of an entry is unknown.
    LowersWhileUnknown,
    /// A balance is read while an entry is on its way for the first time.
    ReadsDuringFirstCall,
    /// The balance that comes with the answer to a repeated entry is believed.
    TrustsRepeatedAnswers,
    /// An entry whose outcome is unknown is given up, and another one opened.
    NewKeyAfterUnknown,
    /// An entry that was refused after an unknown try is given up.
    VoidsWhatIsDoubtful,
    /// An entry whose outcome is unknown is taken for settled.
    TakesUnknownForDone,
    /// After a restart an entry that is open is taken for one that never left.
    TrustsOpenEntries,
    /// A mail whose answer was lost is taken for refused, and its hold released.
    TakesUnansweredForRefused,
    /// A mail whose answer was lost over SMTP is taken for sent to nobody by the next definite answer.
    ForgetsWhoMayHaveIt,
    /// A mail whose answer was lost is sent again under another key.
    NewMailKeyAfterUnknown,
    /// A call is made before it stands on disk who is in it.
    DoesNotCompose,
    /// News of one mail proves none of those that left in its call.
    ProvesOneAlone,
    /// A part of a call without an answer is taken out of it, and the call made with another.
    TakesCallsApart,
    /// An entry is posted again when Dodo may have forgotten its key.
    PostsForgottenKeys,
    /// An entry that is not in the ledger is given up while a call for it may be under way.
    TrustsEarlyLooks,
    /// A credit whose answer was lost is given up, and given again under another key.
    GivesRefundsTwice,
    /// What is given back lasts for ever, whatever was spent.
    OutlivesTheGrant,
    /// Everything that bounces is given back.
    IgnoresTheCap,
    /// A key stands for the refusal that its first submission got.
    RemembersRefusals,
    /// What a key stands for is looked up before the transaction that takes it.
    ReadsKeysTooEarly,
    /// Rows leave, and their sums with them.
    ForgetsSums,
    /// A message leaves although its captures are not settled.
    LeavesUnsettled,
    /// The credits that a webhook speaks of are added to the balance.
    CountsWebhooks,
}
