//! How fast mail without attachments leaves through Resend's API once the queue is deep.
//!
//! Clients hand in mail as fast as they can while the sandbox's stand-in for Resend allows one
//! call a second. From the last 250 on it allows ten, and takes its time over each; the clock
//! runs from there until everything has left.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postmeter::sandbox::faults::{Fault, Misbehaviour};

use crate::args::{Args, Kind};
use crate::load::Load;
use crate::postmeter::Postmeter;
use crate::servers::Ground;
use crate::tls;

/// Messages a second that must leave.
const AIM: f64 = 900.0;
/// Clients that hand in.
const CONNECTIONS: usize = 64;
/// How long the queue may take to leave.
const PATIENCE: Duration = Duration::from_secs(600);

/// Each Postmeter among the targets; fails if one is too slow, or if its books do not add up.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let ground = Ground::new(args)?;
    for kind in args.postmeters() {
        one(kind, args, &ground).await?;
    }
    Ok(())
}

async fn one(kind: Kind, args: &Args, ground: &Ground) -> Result<()> {
    println!("{}:", kind.name());
    let postmeter = Postmeter::start(args, ground, &tls::connector()?, kind).await?;
    let resend = postmeter.resend().clone();
    resend
        .faults()
        .push(Fault::new(Misbehaviour::Late { delay_ms: args.resend_ms }).on("POST", "/emails").always());
    resend.behave(|manners| (manners.per_second, manners.events) = (1, false));
    let server = postmeter.server();
    let accepted = Load { connections: CONNECTIONS, round: 1 }.run(&server, args).await?;
    println!("accepted: {accepted}");
    let all = usize::try_from(server.accepted.load(Ordering::Relaxed))?;
    resend.behave(|manners| manners.per_second = 10);
    // What is allowed now is known with the next answer.
    let known = resend.calls() + 3;
    while resend.calls() < known {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (begin, left, calls) = (Instant::now(), resend.count(), resend.calls());
    while resend.count() < all {
        ensure!(begin.elapsed() < PATIENCE, "{} of {all} left in {PATIENCE:?}", resend.count());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let (queued, calls) = (all - left, resend.calls() - calls);
    let per_s = queued as f64 / seconds;
    println!("left from then on: {queued} in {calls} calls in {seconds:.1} s, {per_s:.0} messages/s");
    println!("{}", postmeter.stop_and_audit().await?);
    ensure!(per_s >= AIM, "{per_s:.0} messages/s left; {AIM} must");
    Ok(())
}
