//! What is a cause and what is not, without a sidecar.

use serde_json::json;

use super::*;

fn key(value: serde_json::Value) -> Key {
    serde_json::from_value(value).expect("a key as /status has it")
}

fn call(outcome: &str, fault: &str, findings: &[&str], time: &str) -> serde_json::Value {
    json!({ "time": time, "status": 400, "outcome": outcome, "fault": fault, "findings": findings, "fix": "a fix" })
}

fn report(key: &Key, rules: &Rules) -> Report {
    diagnose(Facts {
        seen: None,
        key: Some(key),
        live: None,
        provider: None,
        variables: None,
        trust: None,
        source: "a test".to_owned(),
        rules,
        probe: None,
        now: SystemTime::UNIX_EPOCH,
    })
}

fn cause(key: &Key) -> (Option<String>, Option<usize>) {
    let cause = report(key, &Rules::embedded()).cause;
    (cause.as_ref().map(|cause| cause.id.clone()), cause.map(|cause| cause.number))
}

fn failed(outcome: &str, fault: &str, findings: &[&str]) -> Key {
    let last = call(outcome, fault, findings, "2026-11-27T12:00:00.000Z");
    key(json!({ "key": "k", "provider": "openai", "calls": 3, "failures": 3, "last": last, "last_failure": last }))
}

#[test]
fn a_finding_is_the_cause_only_of_what_it_explains() {
    for (outcome, fault, findings, id, step) in [
        ("auth_invalid", "key", &["key_quoted"][..], "key_quoted", 2),
        ("auth_invalid", "key", &["retry_storm", "key_in_url", "key_quoted"], "key_quoted", 2),
        // The key was accepted, or the limit would not have been counted.
        ("rate_limit_tokens", "traffic", &["key_whitespace"], "rate_limit_tokens", 5),
        ("rate_limit_requests", "traffic", &["quantised_burst"], "quantised_burst", 6),
        ("rate_limit_tokens", "traffic", &["quantised_burst"], "rate_limit_tokens", 5),
        ("credit_exhausted", "account", &["retry_storm"], "credit_exhausted", 5),
        ("invalid_request", "client", &["retry_storm"], "retry_storm", 7),
        ("auth_invalid", "key", &["old_key_still_used"], "auth_invalid", 2),
        ("unknown_error", "unknown", &[], "unknown_error", 1),
    ] {
        assert_eq!(
            cause(&failed(outcome, fault, findings)),
            (Some(id.to_owned()), Some(step)),
            "{outcome} {findings:?}"
        );
    }
}

#[test]
fn steps_after_the_cause_are_not_needed() {
    let report = report(&failed("credit_exhausted", "account", &[]), &Rules::embedded());
    let statuses: Vec<_> = report.steps.iter().map(|step| step.status).collect();
    assert_eq!(statuses[0], Status::Warn);
    assert_eq!(statuses[4], Status::Fail);
    assert!(statuses[5..].iter().all(|status| *status == Status::Skip), "{statuses:?}");
    assert!(report.steps[1..4].iter().all(|step| step.status != Status::Fail));
}

#[test]
fn an_error_long_before_the_last_success_is_past() {
    let (error, good) = (
        call("auth_invalid", "key", &[], "2026-11-27T12:00:00.000Z"),
        call("ok", "none", &[], "2026-11-27T13:00:00.000Z"),
    );
    let with = |success: &str| {
        key(json!({ "key": "k", "provider": "openai", "last": good, "last_failure": error, "last_success": success }))
    };
    assert_eq!(cause(&with("2026-11-27T13:00:00.000Z")), (None, None));
    assert_eq!(cause(&with("2026-11-27T12:05:00.000Z")).0.as_deref(), Some("auth_invalid"));
}

#[test]
fn every_outcome_and_finding_lives_somewhere() {
    for outcome in Outcome::ALL {
        assert_eq!(of_outcome(*outcome).is_none(), *outcome == Outcome::Ok, "{outcome}");
    }
    let rules = Rules::embedded();
    for finding in Finding::ALL {
        assert!(of_finding(*finding) > Step::LastError);
        assert!(rules.fix(finding.as_str()).is_some(), "{finding}");
    }
}
