//! What an operator sees in the log and on the metrics page.

use std::io::Write;
use std::sync::Mutex;

use super::*;

/// A writer whose lines can be read afterwards.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, rust_log: Option<&str>, events: impl FnOnce()) -> String {
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = subscriber(format, filter(rust_log).unwrap(), move || writer.clone(), false);
    tracing::subscriber::with_default(subscriber, events);
    let bytes = sink.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn text_lines_carry_their_fields() {
    let log = logged(LogFormat::Text, None, || {
        tracing::info!(message_id = "m1", attempt = 2, "attempt");
    });
    assert!(log.contains(" INFO ") && log.contains("attempt message_id=\"m1\" attempt=2"), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
}

#[test]
fn text_from_outside_cannot_begin_a_line() {
    let log = logged(LogFormat::Text, None, || tracing::info!(helo = "x\r\nforged\u{1b}[2J", "hello"));
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
}

#[test]
fn json_lines_have_their_fields_at_the_top() {
    let log = logged(LogFormat::Json, None, || {
        tracing::info!(message_id = "m1", attempt = 2, "two\nlines");
        tracing::warn!("next");
    });
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["message_id"], "m1");
    assert_eq!(lines[0]["attempt"], 2);
    assert_eq!(lines[0]["message"], "two\nlines");
    assert_eq!(lines[1]["level"], "WARN");
}

#[test]
fn rust_log_adds_to_the_default_and_wins() {
    // Each event is of one target and one level.
    fn shows(rust_log: Option<&str>) -> Vec<&'static str> {
        let log = logged(LogFormat::Text, rust_log, || {
            tracing::debug!(target: "postmeter::smtp", "own-debug");
            tracing::info!(target: "postmeter::smtp", "own-info");
            tracing::info!(target: "hyper::proto", "hyper-info");
            tracing::warn!(target: "hyper::proto", "hyper-warn");
            tracing::debug!(target: "hyper::proto", "hyper-debug");
        });
        ["own-debug", "own-info", "hyper-debug", "hyper-info", "hyper-warn"]
            .into_iter()
            .filter(|event| log.contains(event))
            .collect()
    }
    let table: [(Option<&str>, &[&str]); 6] = [
        (None, &["own-info", "hyper-warn"]),
        (Some(" "), &["own-info", "hyper-warn"]),
        (Some("debug"), &["own-debug", "own-info", "hyper-warn"]),
        (Some("postmeter=debug"), &["own-debug", "own-info", "hyper-warn"]),
        (Some("hyper=debug"), &["own-info", "hyper-debug", "hyper-info", "hyper-warn"]),
        (Some("error"), &["hyper-warn"]),
    ];
    for (rust_log, want) in table {
        assert_eq!(shows(rust_log), want, "{rust_log:?}");
    }
}

#[test]
fn a_malformed_rust_log_is_named() {
    let error = filter(Some("postmeter=loud")).unwrap_err().to_string();
    assert!(error.starts_with("RUST_LOG is not a log filter"), "{error}");
}

#[test]
fn every_event_moves_its_own_series() {
    let metrics = Metrics::new();
    let connection = metrics.connection(Listener::Submission);
    let clone = metrics.clone();
    clone.sign_in(SignInResult::Refused);
    clone.message_accepted();
    clone.submission_refused(&Refusal::OutOfCredit {
        top_up_url: "https://example.com".to_owned(),
        shortfall: Credits::ZERO,
    });
    clone.set_parts(7, 2);
    clone.attempt(Road::Smtp, AttemptOutcome::Deferred);
    clone.late_sent();
    clone.set_gate_closed(Road::Resend, true);
    clone.set_domains(&[(ProofState::Pending, 3), (ProofState::Verified, 9)]);
    clone.set_domains(&[(ProofState::Verified, 2)]);
    clone.captured(Credits::new(3).unwrap());
    clone.set_credits(5, u64::MAX);
    clone.entry(EntryKind::Debit, EntryResult::Settled);
    clone.set_entries_doubtful(4);
    clone.set_ledger_drift(6);
    clone.dodo_call(DodoCall::PostEntry, DodoResult::Unanswered);
    clone.webhook(WebhookSource::Dodo, WebhookResult::Duplicate);
    clone.store_commit(Duration::from_millis(3), 12);
    clone.resend_call(100);
    clone.set_database_up(false);

    let page = metrics.encode();
    for line in [
        "postmeter_connections{listener=\"submission\"} 1",
        "postmeter_connections{listener=\"submissions\"} 0",
        "postmeter_sign_ins_total{result=\"refused\"} 1",
        "postmeter_sign_ins_total{result=\"accepted\"} 0",
        "postmeter_messages_accepted_total 1",
        "postmeter_submissions_refused_total{reason=\"out_of_credit\"} 1",
        "postmeter_parts_queued 7",
        "postmeter_parts_held 2",
        "postmeter_attempts_total{road=\"smtp\",outcome=\"deferred\"} 1",
        "postmeter_attempts_total{road=\"resend\",outcome=\"deferred\"} 0",
        "postmeter_late_sent_total 1",
        "postmeter_gate_closed{upstream=\"resend\"} 1",
        "postmeter_gate_closed{upstream=\"smtp\"} 0",
        "postmeter_domains{state=\"verified\"} 2",
        "postmeter_domains{state=\"pending\"} 0",
        "postmeter_credits_captured_total 3",
        "postmeter_credits_held 5",
        "postmeter_credits_owed 9223372036854775807",
        "postmeter_entries_total{kind=\"debit\",result=\"settled\"} 1",
        "postmeter_dodo_calls_total{call=\"post_entry\",result=\"unanswered\"} 1",
        "postmeter_entries_doubtful 4",
        "postmeter_ledger_drift 6",
        "postmeter_dodo_up 0",
        "postmeter_database_up 0",
        "postmeter_submissions_refused_total{reason=\"store_unavailable\"} 0",
        "postmeter_webhooks_total{source=\"dodo\",result=\"duplicate\"} 1",
        "postmeter_store_commit_seconds_sum 0.003",
        "postmeter_store_commit_seconds_bucket{le=\"0.004\"} 1",
        "postmeter_resend_call_size_sum 100.0",
        "postmeter_store_batch_size_sum 12.0",
        "postmeter_store_batch_size_count 1",
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));

    drop(connection);
    metrics.dodo_call(DodoCall::ReadBalance, DodoResult::Refused);
    let page = metrics.encode();
    assert!(page.contains("postmeter_connections{listener=\"submission\"} 0\n"), "{page}");
    assert!(page.contains("postmeter_dodo_up 1\n"), "{page}");
}

#[test]
fn every_series_is_explained() {
    let metrics = Metrics::default();
    metrics.submission_refused(&Refusal::Looping);
    let page = metrics.encode();
    let of = |word: &str| page.lines().filter(|line| line.starts_with(word)).count();
    assert_eq!((of("# TYPE postmeter_"), of("# HELP postmeter_")), (30, 30));
    assert!(page.contains("postmeter_database_up 1\n"), "{page}");
    assert!(page.contains("postmeter_dodo_up 1\n"), "Dodo is up until a call says otherwise: {page}");
}
