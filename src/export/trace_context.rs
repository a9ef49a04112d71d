//! Reads the caller's trace context from request headers and makes ids for new traces.
//!
//! W3C Trace Context (<https://www.w3.org/TR/trace-context-2/>, read 2026-09) and, by option, B3
//! (<https://github.com/openzipkin/b3-propagation>). Headers are only read: what goes on to the provider is not changed.
//! Malformed context starts a new trace and is marked; nothing here fails or keeps more than 512 bytes.

use http::HeaderMap;
use opentelemetry::trace::TraceState;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

use crate::call::TraceContext;

/// Longest `tracestate` that is kept, bytes: the least that the W3C recommendation asks to pass on.
const MAX_TRACE_STATE_BYTES: usize = 512;

/// Which formats are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// `traceparent` and `tracestate`.
    pub w3c: bool,
    /// `b3`, or the `x-b3-*` family, where no valid `traceparent` came.
    pub b3: bool,
}

impl Default for Propagation {
    fn default() -> Self {
        Self { w3c: true, b3: false }
    }
}

/// The span that a call with these request headers will be. Ids are always set.
pub fn read(headers: &HeaderMap, propagation: Propagation) -> TraceContext {
    let mut malformed = false;
    let mut parent = None;
    if propagation.w3c && headers.contains_key("traceparent") {
        parent = only(headers, "traceparent").and_then(traceparent);
        malformed = parent.is_none();
        if let Some(parent) = &mut parent {
            parent.trace_state = trace_state(headers);
        }
    }
    if propagation.b3 && parent.is_none() {
        match b3(headers) {
            Ok(found) => parent = found,
            Err(Malformed) => malformed = true,
        }
    }
    let parent = parent.unwrap_or_default();
    TraceContext {
        trace_id: if parent.trace_id == 0 { new_trace_id() } else { parent.trace_id },
        span_id: new_span_id(),
        parent_span_id: (parent.span_id != 0).then_some(parent.span_id),
        parent_sampled: parent.sampled,
        trace_state: parent.trace_state,
        malformed,
    }
}

/// Zero ids mean none.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parent {
    trace_id: u128,
    span_id: u64,
    sampled: Option<bool>,
    trace_state: Option<String>,
}

struct Malformed;

/// A random, non-zero trace id.
pub(super) fn new_trace_id() -> u128 {
    loop {
        let id = u128::from_be_bytes(RandomIdGenerator::default().new_trace_id().to_bytes());
        if id != 0 {
            return id;
        }
    }
}

/// A random, non-zero span id.
pub(super) fn new_span_id() -> u64 {
    loop {
        let id = u64::from_be_bytes(RandomIdGenerator::default().new_span_id().to_bytes());
        if id != 0 {
            return id;
        }
    }
}

/// The header's value if it came once, without white space around it.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?.map(|text| text.trim_matches([' ', '\t']))
}

/// `version "-" trace-id "-" parent-id "-" trace-flags`, lower-case hex, section 3.2. A higher version may be longer.
fn traceparent(text: &str) -> Option<Parent> {
    let (version, rest) = (text.get(..2)?, text.get(2..)?);
    let version = hex(version, 2)?;
    if version == 0xff || (version == 0 && rest.len() != 53) || rest.get(53..).is_some_and(|tail| !is_tail(tail)) {
        return None;
    }
    let mut parts = rest.get(..53)?.split('-');
    let _before_first_dash = parts.next().filter(|empty| empty.is_empty())?;
    let trace_id = hex(parts.next()?, 32).filter(|id| *id != 0)?;
    let span_id = hex(parts.next()?, 16).filter(|id| *id != 0)? as u64;
    let flags = hex(parts.next()?, 2)?;
    parts.next().is_none().then_some(Parent { trace_id, span_id, sampled: Some(flags & 1 == 1), trace_state: None })
}

fn is_tail(tail: &str) -> bool {
    tail.is_empty() || tail.starts_with('-')
}

/// Exactly `digits` lower-case hex digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(lower_hex)).then(|| u128::from_str_radix(text, 16).ok())?
}

/// All `tracestate` headers joined, section 3.3; members that do not fit are dropped from the end. `None` if malformed.
fn trace_state(headers: &HeaderMap) -> Option<String> {
    let mut joined = String::new();
    for value in headers.get_all("tracestate") {
        let text = value.to_str().ok()?;
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(text);
        if joined.len() > 64 * 1024 {
            return None;
        }
    }
    let mut state = joined.parse::<TraceState>().ok()?.header();
    while state.len() > MAX_TRACE_STATE_BYTES {
        state.truncate(state.rfind(',')?);
    }
    (!state.is_empty()).then_some(state)
}

/// `b3: {trace}-{span}[-{sampled}[-{parent}]]` or `b3: {sampled}`, else the `x-b3-*` headers.
fn b3(headers: &HeaderMap) -> Result<Option<Parent>, Malformed> {
    let value = |name| match headers.contains_key(name) {
        true => only(headers, name).map(Some).ok_or(Malformed),
        false => Ok(None),
    };
    let (trace, span, sampled) = if let Some(single) = value("b3")? {
        let mut parts = single.split('-');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (sampled, None, ..) => (None, None, sampled),
            (trace, span, sampled, parent, None) if parent.is_none_or(|id| hex(id, 16).is_some()) => {
                (trace, span, sampled)
            }
            _ => return Err(Malformed),
        }
    } else {
        let debug = value("x-b3-flags")?.filter(|flags| *flags == "1").map(|_| "d");
        (value("x-b3-traceid")?, value("x-b3-spanid")?, debug.or(value("x-b3-sampled")?))
    };
    let sampled = match sampled {
        None => None,
        Some("1" | "d" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        Some(_) => return Err(Malformed),
    };
    let (trace_id, span_id) = match (trace, span) {
        (None, None) if sampled.is_none() => return Ok(None),
        (None, None) => (0, 0),
        (Some(trace), Some(span)) => {
            let trace_id = hex(trace, 32).or_else(|| hex(trace, 16)).filter(|id| *id != 0).ok_or(Malformed)?;
            (trace_id, hex(span, 16).filter(|id| *id != 0).ok_or(Malformed)? as u64)
        }
        _ => return Err(Malformed),
    };
    Ok(Some(Parent { trace_id, span_id, sampled, trace_state: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN: u64 = 0xb7ad_6b71_6920_3331;
    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn w3c(list: &[(&'static str, &str)]) -> TraceContext {
        read(&headers(list), Propagation::default())
    }

    #[test]
    fn valid_parents() {
        for (text, sampled) in [
            (VALID.to_owned(), true),
            (VALID.replace("-01", "-00"), false),
            (VALID.replace("-01", "-03"), true),
            (VALID.replace("-01", "-02"), false),
            (format!(" \t{VALID} "), true),
            (VALID.replacen("00", "cc", 1), true),
            (format!("{}-what-the-future-brings", VALID.replacen("00", "01", 1)), true),
            (format!("{}-", VALID.replacen("00", "01", 1)), true),
        ] {
            let context = w3c(&[("traceparent", &text)]);
            assert_eq!(
                (context.trace_id, context.parent_span_id, context.parent_sampled, context.malformed),
                (TRACE, Some(SPAN), Some(sampled), false),
                "{text}"
            );
            assert!(context.span_id != 0 && context.span_id != SPAN);
        }
    }

    #[test]
    fn malformed_parents_start_a_new_trace() {
        let zero_trace = VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let zero_span = VALID.replace("b7ad6b7169203331", &"0".repeat(16));
        for text in [
            "",
            "00",
            "-",
            "00-",
            &VALID.replacen("00", "ff", 1),
            &VALID.to_uppercase(),
            &VALID.replacen("00", "0", 1),
            &format!("{VALID}-"),
            &format!("{VALID}-00"),
            &format!("{VALID}0"),
            &format!("{}.x", VALID.replacen("00", "01", 1)),
            &VALID[..54],
            &VALID.replace("-01", "-0x"),
            &VALID.replace("-01", "-+1"),
            &VALID.replace('-', "_"),
            &VALID.replace("8448", "84-8"),
            &VALID.replace("319c", "319g"),
            &zero_trace,
            &zero_span,
            &"é".repeat(40),
            &"0".repeat(4000),
        ] {
            let mut sent = HeaderMap::new();
            sent.insert("traceparent", http::HeaderValue::from_bytes(text.as_bytes()).unwrap());
            sent.insert("tracestate", "a=1".parse().unwrap());
            let context = read(&sent, Propagation::default());
            assert!(context.malformed, "{text}");
            assert_eq!((context.parent_span_id, context.parent_sampled, context.trace_state), (None, None, None));
            assert!(context.trace_id != 0 && context.trace_id != TRACE && context.span_id != 0);
        }
        let mut twice = headers(&[("traceparent", VALID)]);
        twice.append("traceparent", VALID.parse().unwrap());
        assert!(read(&twice, Propagation::default()).malformed);
    }

    #[test]
    fn no_parent_is_a_clean_root() {
        let (one, two) = (w3c(&[("tracestate", "a=1")]), w3c(&[]));
        assert!(!one.malformed && one.parent_span_id.is_none() && one.trace_state.is_none());
        assert_ne!(one.trace_id, two.trace_id);
        let off = read(&headers(&[("traceparent", VALID)]), Propagation { w3c: false, b3: false });
        assert!(off.parent_span_id.is_none() && !off.malformed);
    }

    #[test]
    fn tracestate_is_joined_checked_and_bounded() {
        let state = |values: &[&str]| {
            let mut sent = headers(&[("traceparent", VALID)]);
            for value in values {
                sent.append("tracestate", value.parse().unwrap());
            }
            let context = read(&sent, Propagation::default());
            assert_eq!(context.trace_id, TRACE, "a bad tracestate does not spoil its traceparent");
            context.trace_state
        };
        assert_eq!(state(&["foo=1,bar=2"]).as_deref(), Some("foo=1,bar=2"));
        assert_eq!(state(&["foo=1", "", " bar=2 ,\t"]).as_deref(), Some("foo=1,bar=2"));
        assert_eq!(state(&["tenant@vendor=a/b"]).as_deref(), Some("tenant@vendor=a/b"));
        for bad in ["foo", "FOO=1", "foo =1", "foo=a=b", ".=1"] {
            assert_eq!(state(&[bad]), None, "{bad}");
        }
        assert_eq!(state(&[""]), None);
        let long = (0..32).map(|n| format!("key{n}={}", "v".repeat(100))).collect::<Vec<_>>().join(",");
        let kept = state(&[&long]).unwrap();
        assert!(kept.len() <= MAX_TRACE_STATE_BYTES && long.starts_with(&kept) && kept.ends_with('v'), "{kept}");
        assert_eq!(state(&[&format!("k={}", "v".repeat(70_000))]), None);
    }

    #[test]
    fn b3_by_option_only() {
        let both = Propagation { w3c: true, b3: true };
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = "b7ad6b7169203331";
        let single = format!("{trace}-{span}-1-05e3ac9a4f6e3b90");
        assert!(w3c(&[("b3", &single)]).parent_span_id.is_none());
        for (list, sampled) in [
            (vec![("b3", single.as_str())], Some(true)),
            (vec![("b3", &single[..49])], None),
            (vec![("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-b3-sampled", "0")], Some(false)),
            (vec![("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-b3-flags", "1")], Some(true)),
            (vec![("b3", "0"), ("traceparent", VALID)], Some(true)),
        ] {
            let context = read(&headers(&list), both);
            assert_eq!((context.trace_id, context.parent_span_id), (TRACE, Some(SPAN)), "{list:?}");
            assert_eq!(context.parent_sampled, sampled, "{list:?}");
        }
        let short = read(&headers(&[("b3", "8448eb211c80319c-b7ad6b7169203331-d")]), both);
        assert_eq!(short.trace_id, 0x8448_eb21_1c80_319c);
        let deny = read(&headers(&[("b3", "0")]), both);
        assert_eq!((deny.parent_span_id, deny.parent_sampled, deny.malformed), (None, Some(false), false));
        for bad in ["x", "1-2", "", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-2"] {
            let context = read(&headers(&[("b3", bad)]), both);
            assert!(context.malformed && context.parent_span_id.is_none() && context.trace_id != 0, "{bad}");
        }
    }
}
