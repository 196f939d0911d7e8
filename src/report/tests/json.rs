//! The field names of the contract.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde_json::Value;

use super::samples;
use crate::report::*;

/// The names of the fields of the object at this place in the JSON.
#[track_caller]
fn check_fields(json: &Value, place: &str, fields: &str) {
    let object = json.pointer(place).and_then(Value::as_object);
    let object = object.unwrap_or_else(|| panic!("no object at {place}"));
    let found: BTreeSet<&str> = object.keys().map(String::as_str).collect();
    let expected: BTreeSet<&str> = fields.split(',').map(str::trim).collect();
    assert_eq!(found, expected, "at {place}");
}

/// A report in which every list has an element and every option a value.
fn full() -> Value {
    let mut report = samples::forced();
    let stuck = samples::stuck().cores.swap_remove(2);
    report.cores[0].stuck = stuck.stuck;
    report.stalls = vec![samples::stall()];
    serde_json::from_str(&report.to_json()).expect("valid JSON")
}

#[test]
fn the_fields_of_a_report_are_those_of_the_contract() {
    let json = full();
    check_fields(
        &json,
        "",
        "verdict, triggers, config, deadlines, elapsed_ms, suspended_ms, phases, cores, hooks, \
         stragglers, stalls, stalls_total, foreign_letters",
    );
    check_fields(&json, "/triggers/0", "kind, signal, pid, at_ms");
    check_fields(
        &json,
        "/stalls/0",
        "core, task, spawned_at, began_ms, lasted_ms, over, state, wchan",
    );
    check_fields(
        &json,
        "/config",
        "notice_ms, quiet_ms, timeout_ms, idle_grace_ms, linger_ms, stuck_after_ms, hooks_ms, \
         close_ms",
    );
    check_fields(&json, "/deadlines", "drain_ms, hooks_ms, hard_ms");
    check_fields(&json, "/phases/0", "name, start_ms, end_ms, ended_by");
    check_fields(
        &json,
        "/hooks/0",
        "name, outcome, error, start_ms, elapsed_ms",
    );
}

#[test]
fn the_fields_of_a_core_are_those_of_the_contract() {
    let json = full();
    let check =
        |place: &str, fields: &str| check_fields(&json, &format!("/cores/0{place}"), fields);
    check(
        "",
        "core, cpu, outcome, error, phases, turns, tasks, timers, listeners, connections, \
         open_connections, requests, bytes, ops, letters, buffers, hooks, stragglers, stuck",
    );
    check("/phases/0", "name, start_ms, end_ms, ended_by");
    check("/turns", "count, longest_ms, longest_cpu_ms, most_steps");
    check(
        "/tasks",
        "spawned, completed, cancelled, panicked, dropped, rejected, background_dropped",
    );
    check("/timers", "fired, cancelled");
    check(
        "/listeners/0",
        "addr, gate, no_gate, window_ms, drained, pauses, paused_by, policy",
    );
    check(
        "/listeners/0/policy",
        "cut, idle_grace_ms, spread_ms, linger_ms",
    );
    check(
        "/connections",
        "accepted_total, at_start, accepted, drained, closed_by_peer, closed_by_handler, aborted, \
         peer_reset, forced, abandoned",
    );
    check("/requests", "begun, answered");
    check("/bytes", "received, sent, unsent, unacked, aborted, late");
    check(
        "/ops",
        "submitted, completed, cancelled, leaked, waited, overflows",
    );
    check("/letters", "sent, handled, returned");
    check("/buffers", "total, lent, ran_out");
    check("/hooks/0", "name, outcome, error, start_ms, elapsed_ms");
    check("/stragglers/0", "kind, name, spawned_at, detail");
    check("/stuck", "task, spawned_at, since_ms, state, wchan");
}

#[track_caller]
fn check_word<T: serde::Serialize>(value: T, word: &str) {
    let json = serde_json::to_value(value).expect("a plain word");
    assert_eq!(json, Value::from(word));
}

#[test]
fn words_in_json_are_in_snake_case() {
    check_word(TriggerKind::Signal, "signal");
    check_word(TriggerKind::Api, "api");
    check_word(TriggerKind::Force, "force");
    check_word(TriggerKind::MainEnded, "main_ended");
    check_word(TriggerKind::MainFailed, "main_failed");
    check_word(TriggerKind::CoreFailed, "core_failed");
    check_word(Gate::None, "none");
    check_word(Gate::Bpf, "bpf");
    check_word(Gate::MinTtl, "min_ttl");
    check_word(NoGate::Shared, "shared");
    check_word(NoGate::Refused, "refused");
}

#[test]
fn words_in_json_are_the_words_of_the_text() {
    use Verdict::{Clean, Degraded, Failed, Forced, Stuck};
    for verdict in [Clean, Degraded, Forced, Failed, Stuck] {
        check_word(verdict, &verdict.to_string());
    }
    for outcome in [
        CoreOutcome::Finished,
        CoreOutcome::Failed,
        CoreOutcome::Stuck,
    ] {
        check_word(outcome, outcome.word());
    }
    for outcome in [
        HookOutcome::Ok,
        HookOutcome::Failed,
        HookOutcome::Panicked,
        HookOutcome::Overran,
    ] {
        check_word(outcome, outcome.word());
    }
}

#[test]
fn json_keeps_the_order_of_the_contract() {
    let json = samples::idle().to_json();
    let place = |field: &str| json.find(&format!("\"{field}\":")).expect(field);
    assert!(json.starts_with("{\"verdict\":\"clean\",\"triggers\":[{\"kind\":\"signal\""));
    assert!(place("triggers") < place("config"));
    assert!(place("config") < place("elapsed_ms"));
    assert!(place("suspended_ms") < place("cores"));
}

#[test]
fn times_have_at_most_three_decimals() {
    for (ns, json) in [
        (0, "0.0"),
        (499, "0.0"),
        (500, "0.001"),
        (1_234_567, "1.235"),
        (9_000_000_000, "9000.0"),
        (100_300_000_000_001, "100300000.0"),
        (u64::MAX, "18446744073709.55"),
    ] {
        let text = serde_json::to_string(&ms(ns)).expect("a number");
        assert_eq!(text, json, "{ns} ns");
    }
}

#[test]
fn an_instant_before_the_trigger_is_negative() {
    assert_eq!(ms_from(2_000_000, 500_000), -1.5);
    assert_eq!(ms_from(2_000_000, 3_250_000), 1.25);
    assert_eq!(ms_from(u64::MAX, u64::MAX), 0.0);
}
