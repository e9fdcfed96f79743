//! What may happen, and how often: the alphabet of the histories.
//!
//! A number in a step picks among those that it fits (calls that left, calls that
//! took effect, …), so that nearly every step of a random history means something.

use proptest::prelude::*;

use crate::domain::decision::Choice;

/// A customer, by number.
pub(super) type Who = usize;

/// The customers.
pub(super) const NAMES: [&str; 3] = ["ann", "bob", "eve"];

/// One step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// A message asks to be accepted; it is handed over, or waits in the database.
    Accept(Who, Letter, bool),
    /// The same is asked again under its key, twice at once and for whoever is named
    /// by these bits; or another under it. The last that was asked, or so many before it.
    Again(u8, bool, [u8; 2]),
    /// So many at once, in one commit.
    Rush(Who, u8),
    /// What is due is leased.
    Poll,
    /// A part leaves, from 128 on with whatever company there is; reaches the upstream; its
    /// answer comes, or not.
    SendLeaves(u8),
    SendTakesEffect(u8, Upstream),
    SendAnswered(u8, Fate),
    /// News of a mail that was sent, whose answer never came.
    LateNews(u8),
    /// An entry is opened or posted again; reaches Dodo; its answer comes, or not.
    EntryLeaves(Who),
    EntryTakesEffect(Who, Manner),
    EntryAnswered(Who, Fate),
    /// A call that was given up takes effect after all.
    WindBlows(u8),
    /// The same for a balance: for one customer, or with the list call for all.
    ReadLeaves(Who),
    ListLeaves,
    ReadTakesEffect(u8, Manner),
    ReadAnswered(u8, Fate),
    /// A customer's grants are read, because refunds are due; in the same three steps.
    GrantsLeave(Who),
    GrantsTakeEffect(Who, Manner),
    GrantsAnswered(Who, Fate),
    /// A mail that was taken bounces, for all who got it or for the first of them; the
    /// last that was accepted, or so many before it.
    Bounce(u8, bool),
    /// The operator decides about a message, told about the risk or not.
    Decide(u8, Choice, bool),
    /// What has been final for so many hours leaves the database.
    LeaveBehind(u8),
    /// A doubtful entry is looked for in Dodo's ledger, in the same three steps.
    LookLeaves(Who),
    LookTakesEffect(u8, Manner),
    LookAnswered(u8, Fate),
    /// Credits are bought, for good or for so many hours; and a webhook will say so.
    TopUp(Who, u8, Option<u8>),
    /// What is left of the credits expires.
    Expire(Who),
    /// A webhook comes, perhaps not for the first time.
    Webhook(u8),
    /// So many seconds pass.
    Wait(u32),
    /// The process dies, and another starts on what is on disk.
    Crash,
}

/// What a customer sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Letter {
    /// By SMTP, to one.
    One,
    /// By SMTP to three, a credit for all; a credit for each.
    Three,
    Each,
    /// By Resend, to one.
    Mailed,
    /// By Resend to two, a credit for each.
    MailedEach,
    /// By Resend to three who must not see each other: three parts, a credit for all.
    Hidden,
}

/// How an upstream takes a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Upstream {
    /// It accepts the mail.
    Takes,
    /// It refuses it for good.
    Refuses,
    /// Not now.
    Defers,
    /// Over SMTP, recipient by recipient: accepted, refused or deferred, in base three.
    Mixed(u8),
    /// It accepts the mail and says that it failed.
    Breaks,
    /// It fails before it did anything.
    Fails,
}

/// How Dodo takes a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Manner {
    /// As documented.
    Well,
    /// It does what was asked and answers 500; or does nothing and answers 500.
    Breaks,
    Fails,
    /// It does what was asked, and its answer cannot be read.
    Garbles,
    /// 429, 401, 403: nothing was done.
    Limits,
    BadKey,
    Forbids,
    /// No connection.
    Unreachable,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// It arrives.
    Arrives,
    /// It is lost, or too late; what has not taken effect yet still may.
    Lost,
    /// It arrives, and the database does not take what it means.
    Unwritten,
}

/// Most of it happens to one customer, so that steps of one road fall between those of another.
fn who() -> impl Strategy<Value = Who> + Clone {
    prop_oneof![8 => Just(0usize), 1 => Just(1), 1 => Just(2)]
}

fn letter() -> impl Strategy<Value = Letter> {
    prop_oneof![
        6 => Just(Letter::One),
        1 => Just(Letter::Three),
        2 => Just(Letter::Each),
        4 => Just(Letter::Mailed),
        1 => Just(Letter::MailedEach),
        1 => Just(Letter::Hidden),
    ]
}

fn upstream() -> impl Strategy<Value = Upstream> {
    prop_oneof![
        8 => Just(Upstream::Takes),
        1 => Just(Upstream::Refuses),
        1 => Just(Upstream::Defers),
        1 => (0..27u8).prop_map(Upstream::Mixed),
        1 => Just(Upstream::Breaks),
        1 => Just(Upstream::Fails),
    ]
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        14 => Just(Manner::Well),
        1 => Just(Manner::Breaks),
        1 => Just(Manner::Fails),
        1 => Just(Manner::Garbles),
        1 => Just(Manner::Limits),
        1 => Just(Manner::BadKey),
        1 => Just(Manner::Forbids),
        1 => Just(Manner::Unreachable),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![8 => Just(Fate::Arrives), 4 => Just(Fate::Lost), 1 => Just(Fate::Unwritten)]
}

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![Just(Choice::Retry), Just(Choice::Cancel)]
}

fn one_step() -> impl Strategy<Value = Step> {
    let nth = || any::<u8>();
    prop_oneof![
        6 => (who(), letter(), prop::bool::weighted(0.8)).prop_map(|(who, letter, now)| Step::Accept(who, letter, now)),
        1 => (who(), 2..9u8).prop_map(|(who, many)| Step::Rush(who, many)),
        2 => (nth(), prop::bool::weighted(0.2), [nth(), nth()])
            .prop_map(|(nth, is_other, whom)| Step::Again(nth, is_other, whom)),
        2 => Just(Step::Poll),
        5 => nth().prop_map(Step::SendLeaves),
        5 => (nth(), upstream()).prop_map(|(nth, how)| Step::SendTakesEffect(nth, how)),
        5 => (nth(), fate()).prop_map(|(nth, fate)| Step::SendAnswered(nth, fate)),
        1 => nth().prop_map(Step::LateNews),
        5 => who().prop_map(Step::EntryLeaves),
        5 => (who(), manner()).prop_map(|(who, how)| Step::EntryTakesEffect(who, how)),
        5 => (who(), fate()).prop_map(|(who, fate)| Step::EntryAnswered(who, fate)),
        2 => nth().prop_map(Step::WindBlows),
        3 => who().prop_map(Step::ReadLeaves),
        1 => Just(Step::ListLeaves),
        3 => (nth(), manner()).prop_map(|(nth, how)| Step::ReadTakesEffect(nth, how)),
        3 => (nth(), fate()).prop_map(|(nth, fate)| Step::ReadAnswered(nth, fate)),
        2 => (nth(), any::<bool>()).prop_map(|(nth, for_all)| Step::Bounce(nth, for_all)),
        2 => who().prop_map(Step::GrantsLeave),
        2 => (who(), manner()).prop_map(|(who, how)| Step::GrantsTakeEffect(who, how)),
        2 => (who(), fate()).prop_map(|(who, fate)| Step::GrantsAnswered(who, fate)),
        1 => (nth(), choice(), any::<bool>()).prop_map(|(nth, choice, knows)| Step::Decide(nth, choice, knows)),
        1 => prop_oneof![Just(0), Just(1), Just(30)].prop_map(Step::LeaveBehind),
        2 => who().prop_map(Step::LookLeaves),
        2 => (nth(), manner()).prop_map(|(nth, how)| Step::LookTakesEffect(nth, how)),
        2 => (nth(), fate()).prop_map(|(nth, fate)| Step::LookAnswered(nth, fate)),
        2 => (who(), 1..9u8, prop::option::weighted(0.2, 1..30u8))
            .prop_map(|(who, credits, hours)| Step::TopUp(who, credits, hours)),
        1 => who().prop_map(Step::Expire),
        2 => nth().prop_map(Step::Webhook),
        3 => prop_oneof![4 => Just(1u32), 4 => Just(40), 2 => Just(600), 1 => Just(18_000), 1 => Just(50_000)]
            .prop_map(Step::Wait),
        1 => Just(Step::Crash),
    ]
}

/// What usually follows on one another, so that histories get far; and how it goes
/// wrong at the worst moment.
fn phrase() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![
        20 => one_step().prop_map(|step| vec![step]),
        6 => sent(),
        4 => settled(),
        2 => read_at_once(),
        3 => read_late(),
        3 => settled_late(),
        2 => doubted(),
        2 => mailed_late(),
        3 => mailed_together(),
        3 => refunded(),
        1 => refused(),
        1 => left_behind(),
        1 => bought(),
    ]
}

/// A message is accepted and sent.
fn sent() -> impl Strategy<Value = Vec<Step>> {
    (who(), letter()).prop_map(|(who, letter)| sent_of(who, letter))
}

fn sent_of(who: Who, letter: Letter) -> Vec<Step> {
    vec![
        Step::Accept(who, letter, true),
        Step::SendLeaves(0),
        Step::SendTakesEffect(0, Upstream::Takes),
        Step::SendAnswered(0, Fate::Arrives),
    ]
}

/// What is owed is settled, or not.
fn settled() -> impl Strategy<Value = Vec<Step>> {
    (who(), manner(), fate()).prop_map(|(who, how, fate)| {
        vec![Step::EntryLeaves(who), Step::EntryTakesEffect(who, how), Step::EntryAnswered(who, fate)]
    })
}

/// An entry is applied, and its answer never comes: something happens, and it is posted again.
fn settled_late() -> impl Strategy<Value = Vec<Step>> {
    (who(), any::<bool>(), between(), manner(), fate()).prop_map(|(who, is_crash, meanwhile, how, fate)| {
        let end = if is_crash { Step::Crash } else { Step::EntryAnswered(who, Fate::Lost) };
        let mut steps = debit(who, Manner::Well, end);
        steps.extend(meanwhile);
        steps.extend([
            Step::EntryLeaves(who),
            Step::EntryTakesEffect(who, how),
            Step::EntryAnswered(who, fate),
        ]);
        steps
    })
}

/// An entry gets lost, before or after it took effect, and what is left expires or a
/// day passes: nobody can tell what became of it but the ledger.
fn doubted() -> impl Strategy<Value = Vec<Step>> {
    let lost = prop_oneof![
        1 => who().prop_map(|who| (who, debit(who, Manner::Well, Step::EntryAnswered(who, Fate::Lost)))),
        1 => who().prop_map(|who| (who, debit(who, Manner::Fails, Step::EntryAnswered(who, Fate::Arrives)))),
        2 => who().prop_map(|who| {
            let mut steps = debit(who, Manner::Well, Step::EntryAnswered(who, Fate::Lost));
            // It has left, and is on its way still.
            steps.retain(|step| !matches!(step, Step::EntryTakesEffect(..)));
            (who, steps)
        }),
    ];
    let wait = prop_oneof![3 => Just(1u32), 1 => Just(600), 1 => Just(40_000)];
    (lost, prop::bool::weighted(0.7), wait, between(), fate()).prop_map(
        |((who, mut steps), is_expired, wait, meanwhile, fate)| {
            if is_expired {
                steps.push(Step::Expire(who));
            }
            steps.extend([Step::Wait(wait), Step::Wait(wait), Step::Wait(wait)]);
            let posted = [Step::EntryLeaves(who), Step::EntryTakesEffect(who, Manner::Well)];
            steps.extend(posted.into_iter().chain([Step::EntryAnswered(who, Fate::Arrives)]));
            steps.extend([Step::LookLeaves(who), Step::LookTakesEffect(0, Manner::Well)]);
            steps.extend(meanwhile);
            steps.push(Step::LookAnswered(0, fate));
            steps
        },
    )
}

/// A message is sent, and an entry for it reaches Dodo.
fn debit(who: Who, how: Manner, end: Step) -> Vec<Step> {
    vec![
        Step::Accept(who, Letter::One, true),
        Step::SendLeaves(255),
        Step::SendTakesEffect(255, Upstream::Takes),
        Step::SendAnswered(255, Fate::Arrives),
        Step::EntryLeaves(who),
        Step::EntryTakesEffect(who, how),
        end,
    ]
}

/// A mail is taken, and its answer never comes: it is sent again, to the same upstream.
fn mailed_late() -> impl Strategy<Value = Vec<Step>> {
    (who(), letter(), any::<bool>(), upstream(), fate()).prop_map(|(who, letter, is_crash, how, fate)| {
        vec![
            Step::Accept(who, letter, true),
            Step::SendLeaves(0),
            Step::SendTakesEffect(0, Upstream::Takes),
            if is_crash { Step::Crash } else { Step::SendAnswered(0, Fate::Lost) },
            Step::Wait(40),
            Step::Poll,
            Step::SendLeaves(0),
            Step::SendTakesEffect(0, how),
            Step::SendAnswered(0, fate),
        ]
    })
}

/// Several mails leave in one call, which ends in some way, and then perhaps again.
fn mailed_together() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![3 => fate().prop_map(|fate| Step::SendAnswered(255, fate)), 1 => Just(Step::Crash)];
    (who(), 2..5usize, [upstream(), upstream()], end, between(), fate()).prop_map(
        |(who, count, [how, again], end, meanwhile, fate)| {
            let mut steps = vec![Step::Accept(who, Letter::Mailed, true); count];
            steps.extend([Step::SendLeaves(255), Step::SendTakesEffect(255, how), end]);
            steps.extend(meanwhile);
            steps.extend([Step::LateNews(0), Step::Wait(40), Step::Poll]);
            steps.extend([Step::SendLeaves(255), Step::SendTakesEffect(255, again)]);
            steps.push(Step::SendAnswered(255, fate));
            steps
        },
    )
}

/// What may last only so long is bought and spent, the message bounces, and its credit
/// is given back; something may happen before the grants are known, and after it.
fn refunded() -> impl Strategy<Value = Vec<Step>> {
    let hours = prop::option::weighted(0.7, 1..30u8);
    (who(), hours, between(), between(), manner(), fate()).prop_map(
        |(who, hours, before, after, how, fate)| {
            let mut steps = vec![Step::TopUp(who, 2, hours)];
            steps.extend(debit(who, Manner::Well, Step::EntryAnswered(who, Fate::Arrives)));
            steps.extend([Step::Bounce(0, true), Step::GrantsLeave(who)]);
            steps.push(Step::GrantsTakeEffect(who, Manner::Well));
            steps.extend(before);
            steps.push(Step::GrantsAnswered(who, Fate::Arrives));
            steps.extend(after);
            steps.extend([Step::EntryLeaves(who), Step::EntryTakesEffect(who, how)]);
            steps.push(Step::EntryAnswered(who, fate));
            steps
        },
    )
}

/// Nothing is left, and what is refused is asked again when there is.
fn refused() -> impl Strategy<Value = Vec<Step>> {
    (who(), between()).prop_map(|(who, meanwhile)| {
        let read = || balance_read(who, Vec::new(), Fate::Arrives);
        let mut steps = [vec![Step::Expire(who)], read(), meanwhile].concat();
        steps.extend([Step::Accept(who, Letter::One, true); 2]);
        steps.push(Step::TopUp(who, 9, None));
        steps.extend(read());
        steps.extend([Step::Again(0, false, [u8::MAX; 2]), Step::Again(1, false, [u8::MAX; 2])]);
        steps
    })
}

/// So much is sent in a day that more than one bounce is given back, and not all of
/// them; now and then they are taken back before they are debited.
pub(super) fn plenty(who: Who, is_debited: bool) -> Vec<Step> {
    let mut steps = vec![Step::TopUp(who, 60, None)];
    steps.extend(balance_read(who, Vec::new(), Fate::Arrives));
    for _ in 0..14 {
        steps.extend(sent_of(who, Letter::Each));
    }
    if is_debited {
        let debited = [Step::EntryLeaves(who), Step::EntryTakesEffect(who, Manner::Well)];
        steps.extend(debited.into_iter().chain([Step::EntryAnswered(who, Fate::Arrives)]));
    }
    steps.push(Step::Bounce(0, true));
    steps
}

/// A message is settled, perhaps it bounces, and then whatever may leaves.
fn left_behind() -> impl Strategy<Value = Vec<Step>> {
    (who(), prop::option::weighted(0.3, any::<u8>())).prop_map(|(who, bounced)| {
        let mut steps = debit(who, Manner::Well, Step::EntryAnswered(who, Fate::Arrives));
        steps.extend(bounced.map(|nth| Step::Bounce(nth, true)));
        steps.push(Step::LeaveBehind(0));
        steps
    })
}

/// What comes between the steps of a call.
fn between() -> BoxedStrategy<Vec<Step>> {
    let bought = (who(), 1..9u8).prop_map(|(who, credits)| vec![Step::TopUp(who, credits, None)]);
    let expired = who().prop_map(|who| vec![Step::Expire(who)]);
    let debited = who().prop_map(|who| debit(who, Manner::Well, Step::EntryAnswered(who, Fate::Arrives)));
    prop_oneof![bought, expired, debited, read_at_once(), one_step().prop_map(|step| vec![step])].boxed()
}

/// Credits are bought, and both ways to hear of it are taken.
fn bought() -> impl Strategy<Value = Vec<Step>> {
    (who(), 1..9u8, any::<u8>()).prop_map(|(who, credits, nth)| {
        let bought = Step::TopUp(who, credits, None);
        [vec![bought], balance_read(who, Vec::new(), Fate::Arrives), vec![Step::Webhook(nth)]].concat()
    })
}

fn read_at_once() -> impl Strategy<Value = Vec<Step>> {
    (who(), fate()).prop_map(|(who, fate)| balance_read(who, Vec::new(), fate))
}

/// A balance is read while something happens.
fn read_late() -> impl Strategy<Value = Vec<Step>> {
    (who(), between(), fate()).prop_map(|(who, meanwhile, fate)| balance_read(who, meanwhile, fate))
}

fn balance_read(who: Who, meanwhile: Vec<Step>, fate: Fate) -> Vec<Step> {
    let begin = vec![Step::ReadLeaves(who), Step::ReadTakesEffect(0, Manner::Well)];
    [begin, meanwhile, vec![Step::ReadAnswered(0, fate)]].concat()
}

/// A history: Dodo's manners, and what happens.
pub(super) fn history() -> impl Strategy<Value = (Manners, Vec<Step>)> {
    let steps = prop::collection::vec(phrase(), 1..40).prop_map(|phrases| phrases.concat());
    let plenty = (who(), any::<bool>()).prop_map(|(who, is_debited)| plenty(who, is_debited));
    let begun = prop::option::weighted(0.05, plenty).prop_map(Option::unwrap_or_default);
    (manners(), (begun, steps).prop_map(|(begun, steps)| [begun, steps].concat()))
}

/// What of Dodo's behaviour the documentation leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Manners {
    /// A repeated key is answered with the first answer, and not with 409.
    pub(super) repeats_first_answer: bool,
    /// The balance is looked at before the key.
    pub(super) balance_before_key: bool,
    /// Amounts are texts, and not numbers.
    pub(super) amounts_are_texts: bool,
    /// The ledger does not say what an entry was for.
    pub(super) hides_reasons: bool,
    /// The ledger calls our entries adjustments by hand.
    pub(super) adjusts_by_hand: bool,
}

fn manners() -> impl Strategy<Value = Manners> {
    let hides_reasons = prop::bool::weighted(0.2);
    (any::<[bool; 4]>(), hides_reasons).prop_map(|(any, hides_reasons)| {
        let [repeats_first_answer, balance_before_key, amounts_are_texts, adjusts_by_hand] = any;
        Manners {
            repeats_first_answer,
            balance_before_key,
            amounts_are_texts,
            hides_reasons,
            adjusts_by_hand,
        }
    })
}
