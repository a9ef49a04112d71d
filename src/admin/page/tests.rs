//! The page as text: what is escaped, what stands where, and what the policy allows.

use std::sync::Arc;
use std::time::SystemTime;

use super::*;
use crate::admin::overview::overview;
use crate::admin::{ExporterStatus, RoomStatus, StatusSource};
use crate::call::{CallRecord, Fault, Finding, Money, Outcome};
use crate::export::live::Live;
use crate::export::metrics::{Metrics, MetricsConfig};
use crate::export::tests::bare;

/// Closes whatever it may stand in, and would run if it were let.
const HOSTILE: &str = "\"'></title></style></script><script>alert(1)</script><img src=x onerror=alert(2)>&lt;";

struct Rooms;

impl StatusSource for Rooms {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn fix(&self, id: &str, _: Option<std::time::Duration>) -> Option<String> {
        Some(format!("the fix of {id}"))
    }

    fn status(&self) -> RoomStatus {
        let detail = Some(format!("http {HOSTILE}"));
        RoomStatus {
            config_path: Some(HOSTILE.to_owned()),
            exporters: vec![ExporterStatus { name: HOSTILE.to_owned(), healthy: false, detail }],
            ..RoomStatus::default()
        }
    }
}

fn page(records: Vec<CallRecord>, filter: &Filter) -> String {
    let (metrics, live) = (Metrics::new(MetricsConfig::default()), Live::new(SystemTime::now()));
    for record in records {
        let record = Arc::new(record);
        metrics.observe(&record, false);
        live.observe(&record, SystemTime::now());
    }
    render(&overview(&metrics, &live, &Rooms, filter, SystemTime::now()), filter)
}

fn call(key: &str, outcome: Outcome) -> CallRecord {
    CallRecord {
        time: SystemTime::now(),
        key_name: Some(key.into()),
        outcome,
        fault: if outcome.is_failure() { Fault::Key } else { Fault::None },
        first_fix: Some("some_fix".into()).filter(|_| outcome.is_failure()),
        cost: Money::parse("0.25"),
        ..bare()
    }
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let record = CallRecord {
        key_name: Some(HOSTILE.into()),
        team: Some(HOSTILE.into()),
        env: Some(HOSTILE.into()),
        client: Some(HOSTILE.into()),
        account: Some(HOSTILE.into()),
        model_label: HOSTILE.into(),
        provider: HOSTILE.into(),
        response_model: Some(HOSTILE.to_owned()),
        error_code: Some(HOSTILE.to_owned()),
        first_fix: Some(HOSTILE.into()),
        findings: vec![Finding::KeyQuoted],
        ..call(HOSTILE, Outcome::AuthInvalid)
    };
    let hostile = Some(HOSTILE.to_owned());
    for filter in [
        Filter::default(),
        Filter { key: hostile.clone(), ..Filter::default() },
        Filter { key: hostile.clone(), outcome: hostile, ..Filter::default() },
    ] {
        let text = page(vec![record.clone()], &filter);
        let own = |tag: &str| text.matches(tag).count();
        assert_eq!((own("<script"), own("</script>"), own("<img"), own("</title>"), own("</style>")), (1, 1, 0, 1, 1));
        assert!(!text.contains("\"'>"), "{text}");
        assert!(text.contains("&lt;script&gt;alert(1)"), "it is shown as it came");
        // In links it is a value, not a name or another link.
        assert!(text.contains("key=%22%27%3E%3C%2Ftitle%3E"), "{text}");
    }
}

#[test]
fn the_most_urgent_comes_first_with_its_fix() {
    let text = page(vec![call("good", Outcome::Ok), call("bad", Outcome::AuthInvalid)], &Filter::default());
    let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(text.contains("<title>keytally: 1 key failing</title>"), "{text}");
    assert!(place("the fix of some_fix") < place("id=\"spend\""));
    let keys = place("id=\"keys\"");
    assert!(text[keys..].find("bad").unwrap() < text[keys..].find("good").unwrap());
    assert!(text.contains("$0.5000"), "the sum of today: {text}");
    let only = page(
        vec![call("good", Outcome::Ok), call("bad", Outcome::AuthInvalid)],
        &Filter { key: Some("good".into()), ..Filter::default() },
    );
    let calls = &only[only.find("id=\"calls\"").unwrap()..];
    assert!(!calls.contains(">bad<") && calls.contains(">good<"), "{calls}");
    let nobody = page(Vec::new(), &Filter { key: Some("nobody".into()), ..Filter::default() });
    assert!(nobody.contains("Not seen since"), "{nobody}");
}

/// The policy names the style and script that are on the page.
#[test]
fn the_policy_fits_the_page() {
    let text = page(Vec::new(), &Filter::default());
    for (open, close, directive) in [("<style>", "</style>", "style-src"), ("<script>", "</script>", "script-src")] {
        let body = text.split(open).nth(1).and_then(|rest| rest.split(close).next()).unwrap();
        let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(body));
        assert!(POLICY.contains(&format!("{directive} 'sha256-{hash}'")), "{directive}");
    }
    assert!(POLICY.starts_with("default-src 'none'; ") && !POLICY.contains("unsafe"), "{}", *POLICY);
    assert!(!text.contains(" style=") && !text.contains(" onclick"), "inline styles and handlers would be refused");
}
