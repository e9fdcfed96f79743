//! Postmeter: a postage meter for SMTP.
//!
//! A relay that customers pay for in advance: one credit a message, bought through
//! Dodo Payments, sent out through Resend's API or an SMTP server, refused clearly
//! when the credits are gone. This page is for those who change it; the README is
//! for those who run it.
//!
//! # The way of a message
//!
//! ```text
//! smtp::listener → smtp::connection ⇄ smtp::session (pure)
//!                        │ envelope, bytes
//! http ──────────────────┤
//!                   submission      sender allowed? header sound? price? room?
//!                        │          a large body is written ahead in chunks: store::spool
//!                        │          mime::inspect, mime::trace, routing
//!                   store::accept   ONE transaction: hold + message + bytes        → 250
//!                        │
//!                    handover       in memory, bounded; else the database is read
//!                        │
//!                   delivery        lease → upstream → store::report: sent | retry | failed | held
//!                        │                └ upstream::resend (translate) | upstream::smtp
//!                 billing::settle   captured debits → one open entry per customer → Dodo
//! ```
//!
//! One direction, no room visited twice. A 250 leaves only after `store::accept`
//! returned, and that returns only after the commit was fsynced. A debit becomes
//! due in the same commit that records the mail as sent. What Dodo is asked to
//! debit has an id and an amount that were on disk before the call.
//!
//! # The rooms
//!
//! | room | owns | must not know |
//! |---|---|---|
//! | [`domain`] | addresses, envelopes, ids, credits, the life of a message; pure | anything outside itself |
//! | [`smtp`] | the SMTP server: framing, grammar, session (pure); sockets around them | SQL, HTTP, Dodo, upstreams |
//! | [`http`] | routes, pages, webhooks | SQL, SMTP, how mail leaves |
//! | [`submission`] | the use case that takes a message in | replies, SQL, wire formats |
//! | [`mime`] | header inspection, the stamp, our own mail; pure | envelopes' fate, the store |
//! | [`dkim`] | signatures for mail that leaves by SMTP: canonical form, keys and whose mail they sign | SMTP, the store, who sends |
//! | [`door`] | how connections come in: limits, who it is (PROXY protocol) | what is said on them |
//! | [`routing`] | which road a message takes, its parts | sockets, SQL |
//! | [`store`] | all SQL; every step in which mail and money move together | sockets, Dodo, Resend |
//! | [`allowance`] | the room of what is not accepted yet, for each and for all; who finds none is refused | what a message is |
//! | [`memory`] | the budgets for what is translated and delivered | what a message is |
//! | [`ration`] | calls to a service, counted for all nodes of a database | who calls, and why |
//! | [`handover`] | the short way from submission to delivery, bounded | what is in a message |
//! | [`delivery`] | leases, who leaves together, attempts, gates, bounces | submission, HTTP, Dodo |
//! | [`upstream`] | Resend and SMTP as roads; the translation (pure) | SQL, money, customers |
//! | [`billing`] | Dodo: balances, the call budget, entries, notices and mailed links | SMTP, SQL, upstreams |
//! | [`proof`] | domains that customers prove alone: who is asked, and what the answer gives | HTTP, SMTP, SQL |
//! | [`presence`] | that this process is there for the others on its database, and goes by its time | what they do |
//! | [`sweep`] | when orphans, expired keys and old rows leave; the store says which | anything but the store |
//! | [`outbound`] | the HTTP habits that both services' clients share | their paths and bodies |
//! | [`sandbox`] | stand-ins for both services, the inbox | nothing imports it but [`app`] |
//! | [`app`], [`cli`] | composition; commands | |
//! | [`config`], [`telemetry`], [`tls`], [`clock`], [`crash`], [`data_dir`], [`descriptors`], [`random`], [`throttle`], [`floor`], [`census`] | one thing each, as named | |
//!
//! Imports run downwards: `http` and `smtp` → `submission` → `billing` → `routing` →
//! `store`, `upstream`, `mime` → `domain` (and both to `door`, where connections come
//! in); `delivery` stands beside `submission` and takes from the same rooms (both
//! `delivery` and `billing` write mail of our own: bounces and notices). Traits stand
//! nowhere: rooms are concrete and handed in by [`app`]; the two services are reached
//! at base URLs, so that stand-ins are HTTP servers and the code that runs in tests is
//! the code that runs. The store is on SQLite, or on PostgreSQL where there is a
//! `database_url`. Where one journey to SQLite carries several statements (acceptances,
//! reports), they are separate statements of one text with `$N` parameters and JSON
//! rows; to PostgreSQL they go one by one.
//!
//! # Invariants
//!
//! Each stands where it is kept; here they are together.
//!
//! - **250 means safe.** `store::accept` holds credits, writes message, parts,
//!   recipients and bytes in one transaction; nobody is answered before its commit. On a
//!   PostgreSQL that says that it may forget a commit, nothing is served, whenever it is connected
//!   to ([`store::server`]).
//! - **A commit without an answer is found out, not guessed** (`store`'s `lane`): whoever is told
//!   250 is in it, and whoever is told 452 is not, or is withdrawn before the node writes anything
//!   else or leases anything, unless another node has taken it over by then. Who that is stands on the
//!   node's own disk before anybody is told 452, so that a kill changes nothing (`store`'s `unanswered`).
//!   Under an idempotency key it stays: that key's retry is told that it is accepted.
//! - **Memory does not grow with a message**: beyond 256 KiB a body is on disk before
//!   more of it is read, and what is kept counts against its customer's room and
//!   that of all ([`allowance`]); translations of large ones take turns
//!   ([`upstream::translating`]). The acceptance names what was written ahead, and finds
//!   it whole, or is none. What lies on disk and is no message's is limited in the same way.
//! - **Nobody's acceptance waits for a large body**: chunks come and go a few a commit,
//!   and what is sent is read beside the writer.
//! - **Small mail does not wait for large mail to leave**: either has its own room in the
//!   [`handover`], and large parts take half of the places at most. A customer's large
//!   messages are translated one after the other, and each only while there is credit.
//! - **No overdraft.** `available = balance − held − owed`; the hold is a
//!   compare-and-set on it inside that transaction, per customer and commit.
//! - **Under an idempotency key a recipient is accepted once:** that is written in
//!   the transaction that accepts and read in every one that decides about the key.
//!   Over SMTP a retry may be for fewer recipients or for others; whoever was not
//!   accepted makes a message of their own. A retry gets the first answer, and a
//!   refusal leaves no trace.
//! - **Whoever decides about a customer has their account's lock**, and read what they decide
//!   on after they got it; a part is locked before it is moved. All locks are taken in one
//!   order ([`store`]'s `lock`), so of several nodes none waits for one that waits for it.
//! - **The ledger line is the message row:** `price = captured + released + still held`.
//!   Captures are numbered per customer without a gap; an entry names a range of
//!   them; a unique index allows one open entry a customer.
//! - **An entry is posted under one key with one amount until Dodo says something
//!   definite, and as long as Dodo surely knows the key.** Only 2xx and 409 settle
//!   it; only a 400 that no unknown try went before voids it. After that it is
//!   doubtful: only Dodo's ledger, or the operator, decides it, whoever is first,
//!   and it is never posted again.
//! - **A refund is given once, and never outlives what was spent.** While the capture
//!   is in no entry it is taken back; after that a credit entry in the same lane gives
//!   it back. Off by default; at most one in twenty of a day's messages, but one at
//!   least, and what has left within the day counts. Only who surely bounced is refunded.
//! - **A balance read is applied only if no entry was opened, settled or voided
//!   since it began** (the account's `version`), and while an entry's outcome is
//!   unknown it may only raise what is available.
//! - **Every call to Dodo is drawn from one budget,** whose size is what Dodo's
//!   answers say; a third of it is for entries alone, and what a client waits for
//!   goes before what nobody waits for. `audit --dodo`, a command beside the server,
//!   keeps to two calls a second of its own.
//! - **`Sent` wins, everything else needs the current attempt** (the diagram is in
//!   [`domain::message`]). A lease, never a transaction, spans a network call.
//! - **Any of several processes on one database may be gone at any moment** ([`store::node`]).
//!   What one has in hand (a part, an entry) is nobody else's until its lease is over, by the
//!   database's time; after that only `Sent` and `settled` are believed of it, and it says no last word:
//!   before the final dot, a call or an entry's post it must be sure of its lease.
//! - **What another process should see to at once it is told, and nothing counts on that**
//!   ([`store::wake`]): whoever is told looks by themselves too, only less often. It is never told in a commit that
//!   mail waits for.
//! - **Programs of neighbouring versions work on one database at the same time** ([`store`]'s `level`).
//!   A migration only adds, and what is taken away goes a version after its last use, with a note of
//!   who may still work on what is left; tests hold each migration to that. No statement asks for all
//!   columns, whichever they are. What a program writes the one before it can read, and its audit
//!   finds nothing wrong with it: a new kind of row is known one version before it is written.
//! - **A call to Resend whose outcome is unknown is repeated only as the same call:**
//!   same key, same bytes (a hash fixed at acceptance, or when the call was composed), within the key's life; after
//!   that the part is held for the operator.
//! - **Who is in a call stands on disk before it is made** ([`domain::batch`]), where mail
//!   may have company: in which order, under which key. So whoever is in none was never
//!   tried; the end of a call is written down for all of its members in one commit; and
//!   while it is unknown none of them leaves it, alone or with others. Only a definite
//!   answer takes a call apart. News of a member is kept with it and has the call made again
//!   soon; should that end without a yes, whoever was told of was sent all the same.
//! - **Nobody waits for company, and nobody for bad mail**: who leaves is chosen when there
//!   are a place and a turn, from all customers in turn, as is who is read from the database
//!   (a part carries its customer for that); who was refused with others leaves
//!   only with such as were too, by every other call at most, and whoever is known for bad
//!   mail, or was in a call at which Resend failed, only with their own for a while.
//! - **Only the envelope decides who gets mail.** The translation writes recipients
//!   from the part alone; a header address outside it is never mailed.
//! - **What a road cannot carry is refused before the 250,** since the request is
//!   composed when the message is accepted; and every loss and change that is made
//!   to carry the rest is a note ([`upstream::translate`]), never silent.
//! - **Nobody is locked out by what others do**: a right secret is refused unchecked only
//!   for failures of its own username at its own address, or for those of an address
//!   from which it has not signed in lately ([`throttle::sign_in`]).
//! - **Hostile octets meet only pure code**: what parses has no socket, no clock and
//!   no store, and is bounded in every direction. What each such room promises is a
//!   function of its own in `tests/fuzz`, which the fuzz targets and `cargo test` share.
//! - **Of a message that is final no more is kept than its log shows**, but for the header
//!   of what left by Resend, which a later bounce returns (`store::header`): written in the
//!   commit that deletes the bytes, gone with the row.
//! - **Rows leave and their sums stay**: a capture leaves only with a settled entry,
//!   a message only when it is final and none of its captures is left; the audit
//!   proves what is left and what has left together.
//! - **A client's address is the socket's, or what a proxy named in the configuration
//!   says**; nobody else is asked, and such a proxy that says nothing is not served.
//! - **A domain that a customer proves is theirs by our table alone**: a claim is a row
//!   before anybody outside hears of it, what Resend's account had before is given to
//!   nobody, and the end of a proof takes the one line that it gave. Silence ends none.
//! - **What an upstream may have is given up by nobody but the operator**, who was told
//!   the risk; the decision is kept with the message ([`domain::decision`]). Over SMTP
//!   nothing that is said later (put off, refused, expired) disproves a copy that was lost
//!   after the final dot, so each recipient of it keeps the mark `maybe_taken` until it is
//!   sent. Whoever surely has none of it is bounced alone.
//! - **Of several SMTP hosts one at most gets a mail in an attempt**: the next is asked
//!   only while it is sure that nobody has it, which ends with the final dot.
//! - **News is kept once and ranked, never ordered**: an event is its kind, its own time
//!   and its words, and everything that follows from it (a bounce to the sender, a
//!   suppressed address, a pause, a refund) follows in the same transaction from what is
//!   new. Of a failure that is nobody's by name the sender is told once a part, and nobody is
//!   marked for it. Sums of what came back are kept with the steps that they count.
//! - **News is about the mail that carries a part's id on that part's own road**: by Resend's
//!   API in a tag, bound to the id that Resend gave; by its SMTP service in a field, bound to
//!   the recipients who are known to have that very mail; otherwise nothing follows from it.
//!   Clients can write neither: their fields of such names do not leave.
//! - **An address that a mail server calls nobody's** is suppressed and counted with the
//!   report of that answer ([`store`]'s `nobody`); the pause that may follow is judged in the
//!   transaction after it, and a crash between leaves it to whatever is counted next.
//! - **No address on a customer's suppression list is mailed or skipped silently**: the
//!   acceptance looks in its own transaction; RCPT looks before, where MAIL found a list.
//! - **Of what became of mail one tells its sender, and only what it asked for**, as far as
//!   we tell ([`domain::dsn`]): the upstream, where it was told what was asked (`Vouched`), or
//!   we, in the commit of the news, of success once a message ([`store::relayed`]); an SMTP
//!   server without DSN tells what it likes. What comes back of reports is counted to the
//!   customer, and a suppressed address gets none; nothing that a client says there can begin
//!   a line of a report.
//! - **A first credential is for the browser that began the checkout of a new customer**, which has
//!   the token of the address that it comes back to and a secret in a cookie; neither is enough. A
//!   payment makes whose it is known only out of the very session that was made for the token.
//! - **Whoever asks about an address learns nothing**: what is told of a mailed link, and when, does not
//!   depend on whether anybody has it. A link is used up by whoever deletes its row, with the session
//!   that it begins, and never by looking at it.
//! - **A customer is told of an occasion once**: the letter is in the commit that makes the occasion, or
//!   that marks it ([`store`]'s `told`).
//! - **Mail that left after it was given up is told**: in the log, in a metric and with
//!   the part. Nothing is billed for it, since the customer was told that it failed.
//! - **One retry loop**: the durable queue. Clients of the services do not retry.
//! - **Every task has an owner** ([`app`]'s two trackers) and hears a stop.
//! - **Deliberately absent**: statics with state, unsafe code, an open relay in any
//!   form, a second place that moves money, amounts taken from webhooks.
//!
//! # Crashes
//!
//! Every gap between two steps that outlive the process has a name in [`crash`]; in
//! debug builds a test can have the process killed there, and one does so at each.
//!
//! | killed | what is there after the restart |
//! |---|---|
//! | while a large message arrives (`chunk-committed`), or the remains of one that was given up or is final leave (`orphans-swept`) | chunks that no message names; they go when the node that wrote them starts again, or by their age |
//! | before the commit of an acceptance (`accept-written`) | nothing; the client got no 250 and keeps the mail |
//! | after it (`accept-committed`, `handed-over`) | the message, its hold and its leased part; the lease lapses at the start and the part is sent |
//! | while a part is being sent (`part-leased`, `batch-composed`, `attempt-begun`, `upstream-answered`, `gate-closed`, `gate-opened`, `report-written`, `leases-renewed`) | its outcome is unknown: Resend is asked again under the same key, by a call with the same parts; what was leased for a call that was never composed was not sent, and leaves with any; an SMTP server gets it again, and its recipients count as perhaps served until it takes it |
//! | after the report's commit (`capture-committed`, `retry-committed`, `bounce-committed`) | the capture, which the settler finds owed; the retry; the bounce or the report of success, with its lapsed or waiting part; what a large message leaves behind, as above |
//! | before a customer is judged by an address that is nobody's (`nobody-counted`) | the suppressed address, its bounce, and the sums with it; a pause that was due comes with the next address of that kind, late bounce or complaint, which has the same sums judged: it is put off by one of them, and nothing looks for it before |
//! | after a commit that failed (disk full, no sync) | nothing of it: it was written over before its senders were told 452 |
//! | after a commit that PostgreSQL did not answer, before it was found out what became of it | all of it or nothing: nobody was told 250; whoever was told 452 is withdrawn at the start, before anything is leased, and what nobody was told of is sent if it is there |
//! | while an entry is posted (`entry-opened`, `entry-answered`, `entry-try-noted`) | the open entry; it is posted again under its key, and what is said about the balance is not taken at its word |
//! | after an entry's end (`entry-settled`, `entry-voided`) | the sums without it; what is still owed is found by the settler |
//! | while an entry is in doubt (`entry-doubted`, `doubt-settled`, `doubt-voided`) | the doubt, which Dodo's ledger or the operator ends; or its end with who said so |
//! | when a late failure is told (`bounce-recorded`, `refunds-decided`) | the event, the bounce to the sender, the suppressed address, a pause with its notice, and what is given back: all in one commit; Resend tells it again, which changes nothing |
//! | while credit is given back (`refunds-due`, `credit-opened`) | refunds that are due, those never debited taken back; the open entry, posted again under its key |
//! | while a balance is read (`balance-read`, `balance-applied`) | the old balance or the new one; whoever would be refused has it read again |
//! | while news is taken in (`payment-recorded`, `webhook-acted`, `webhook-recorded`) | the customer, if it was made; Dodo delivers again what it was not answered for, and the balances of debtors are read at the start |
//! | while a checkout is begun (`checkout-created`) | a session that nobody was sent to |
//! | before a notice or a mailed link leaves (`notice-committed`) | the notice, in the queue |
//! | while a domain is claimed (`domain-claimed`, `domain-registered`) or withdrawn (`domain-withdrawn`) | the claim; the next call finds at Resend what it made, or makes it; what is withdrawn gives nothing, and Resend is told again |
//! | while old rows leave (`captures-left`, `messages-left`, `entries-left`, `marks-left`) | what had not left yet, and the sums of what had; the next round goes on |
//! | after the operator's decision about a message (`operator-decided`) | the decision and what it did; it is not repeated |
//! | between the ends of keys and of rows (`keys-swept`) | what the keys kept; it leaves with the next sweep |
//! | while it starts or stops (`leases-lapsed`, `entries-distrusted`, `front-stopped`) | the same as before: both are repeated harmlessly |

pub mod allowance;
pub mod app;
pub mod billing;
pub mod census;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash;
pub mod data_dir;
pub mod delivery;
pub mod descriptors;
pub mod dkim;
pub mod domain;
pub mod door;
pub mod floor;
pub mod handover;
pub mod http;
pub mod memory;
pub mod mime;
pub mod outbound;
pub mod presence;
pub mod proof;
pub mod random;
pub mod ration;
pub mod routing;
pub mod sandbox;
pub mod smtp;
pub mod store;
pub mod submission;
pub mod sweep;
pub mod telemetry;
pub mod throttle;
pub mod tls;
pub mod upstream;
