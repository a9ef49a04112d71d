//! Every recorded exchange with a provider, replayed through the real sidecar over real sockets: the bytes are the same on
//! both sides, the tokens are the provider's own, the spend is the reference's.
//!
//! What still differs is listed by cause in `corpus/differences.rs`, and in `docs/corpus-differences.md` for readers.
//! Skipped where the recordings are absent.

mod differences;
pub(crate) mod exchange;
mod replay;
mod usage;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use genai_prices::{Calculator, PriceRequest};
use serde_json::Value;

use crate::support::{self, Sidecar};
use differences::DIFFERENCES;
use exchange::Exchange;
use replay::{Passed, Replay};
use usage::Counts;

/// The built-in price book, by the library alone.
static BOOK: LazyLock<Calculator> =
    LazyLock::new(|| Calculator::from_json(include_str!("../src/meter/price/book.json")).expect("a price book"));

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Tokens against the provider's own.
    Tokens,
    /// Tokens against those of the reference library.
    Reference,
    /// Spend against what the provider states, else against the reference library.
    Spend,
    /// Model names, and whether it is a stream.
    Facts,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_exchange_passes_unchanged_and_is_metered_right() {
    let Some(shared) = support::shared() else {
        println!("skipped: no recordings; set KEYTALLY_SHARED");
        return;
    };
    let exchanges: Arc<[Exchange]> = exchange::read_all(&shared).into();
    assert!(exchanges.len() > 7000, "the whole corpus: {}", exchanges.len());
    let (passed, records) = replay_all(&exchanges).await;
    assert_eq!(passed.len(), exchanges.len());
    check_bytes(&exchanges, &passed);
    let mut findings = Findings::default();
    for (index, exchange) in exchanges.iter().enumerate() {
        let record = records.get(&replay::trace_id(index)).unwrap_or_else(|| panic!("no record of {}", exchange.id));
        findings.check(exchange, record);
    }
    assert_eq!(records.len(), exchanges.len(), "one record a call");
    findings.settle();
}

/// Sends everything; what passed is by index, records are by trace id.
async fn replay_all(exchanges: &Arc<[Exchange]>) -> (HashMap<usize, Passed>, HashMap<String, Value>) {
    let replay = Replay::start(Arc::clone(exchanges)).await;
    let config = config(exchanges, replay.address());
    let (mut passed, mut records) = (HashMap::new(), HashMap::new());
    for round in rounds(exchanges) {
        let mut sidecar = Sidecar::start(&config);
        passed.extend(replay.run(&sidecar, round).await);
        assert!(sidecar.stop().success(), "{}", sidecar.log());
        for record in sidecar.records() {
            let id = record["trace_id"].as_str().expect("a trace id").to_owned();
            assert!(records.insert(id, record).is_none(), "one record a call");
        }
    }
    (passed, records)
}

/// Providers whose base URL becomes the simulated provider.
fn config(exchanges: &[Exchange], provider: SocketAddr) -> String {
    let ids: BTreeSet<_> = exchanges.iter().map(|exchange| exchange.sidecar_provider().0).collect();
    let mut text = String::from("shutdown: { linger: 0s }\nproviders:\n");
    for id in ids {
        let more = match id {
            "my-server" => ", protocol: openai-chat, price_as: none",
            // The recorded calls went to the other of its two hosts, which has prices of its own.
            "zhipu" => ", price_as: zai",
            _ => "",
        };
        writeln!(text, "  {id}: {{ base_url: \"http://{provider}\"{more} }}").expect("a string takes it");
    }
    text
}

/// Which sidecar an exchange goes through. An answer that comes twice, by its id, was fetched again and is no spend; but
/// the ids of some recordings were replaced by one, and some were published twice. Those go through sidecars of their own.
fn rounds(exchanges: &[Exchange]) -> Vec<Vec<usize>> {
    let mut seen: HashMap<_, usize> = HashMap::new();
    let mut rounds: Vec<Vec<usize>> = vec![Vec::new()];
    for (index, exchange) in exchanges.iter().enumerate() {
        let body = exchange.response();
        let body = String::from_utf8_lossy(&body);
        let mut round = 0;
        if exchange.is_inference() && exchange.succeeded() {
            let counts = usage::normal_form(exchange.native());
            // Any id in the answer will do: too many rounds do no harm.
            for id in ids(&body) {
                let total = |field: &str| counts.get(field).copied();
                let key = (exchange.provider.clone(), id.to_owned(), total("input_tokens"), total("output_tokens"));
                let count = seen.entry(key).or_default();
                round = round.max(*count);
                *count += 1;
            }
        }
        if rounds.len() <= round {
            rounds.resize(round + 1, Vec::new());
        }
        rounds[round].push(index);
    }
    rounds
}

/// Ids in an answer, each once; those of its tool calls are not meant.
fn ids(body: &str) -> BTreeSet<&str> {
    ["\"id\":", "\"responseId\":", "\"response_id\":", "\"generation_id\":"]
        .into_iter()
        .flat_map(|name| body.split(name).skip(1))
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .filter(|id| id.len() >= 16 && !id.starts_with("toolu_") && !id.starts_with("call_"))
        .collect()
}

/// Nothing was changed on the way, and the way was a hard one.
fn check_bytes(exchanges: &[Exchange], passed: &HashMap<usize, Passed>) {
    let wrong: Vec<_> = passed.iter().filter(|(_, passed)| !passed.wrong.is_empty()).collect();
    let shown: Vec<_> = wrong.iter().take(20).map(|(i, passed)| (&exchanges[**i].id, &passed.wrong)).collect();
    assert!(wrong.is_empty(), "{} exchanges did not pass unchanged: {shown:#?}", wrong.len());
    let mut encodings = BTreeMap::<_, usize>::new();
    passed.values().for_each(|passed| *encodings.entry(passed.encoding).or_default() += 1);
    for encoding in ["identity", "gzip", "br", "zstd", "deflate"] {
        assert!(encodings[encoding] > 700, "{encodings:?}");
    }
    for side in [0, 1] {
        let cut = passed.values().filter(|passed| passed.pieces[side] > 1).count();
        assert!(cut > exchanges.len() * 3 / 4, "{cut} bodies were cut");
    }
}

/// Differences by kind and exchange.
#[derive(Default)]
struct Findings {
    found: BTreeMap<(Kind, String), String>,
    /// Whatever no table may excuse.
    wrong: Vec<String>,
    compared: BTreeMap<Kind, usize>,
    by_the_clock: usize,
    estimated: usize,
}

impl Findings {
    fn check(&mut self, exchange: &Exchange, record: &Value) {
        self.check_facts(exchange, record);
        self.check_outcome(exchange, record);
        let cost = record["cost_usd"].as_str().map(|cost| cost.parse::<f64>().expect("a decimal"));
        if cost.is_some() == record["unpriced_reason"].is_string() {
            self.wrong(exchange, "has both or neither of cost and reason");
        }
        if !exchange.is_inference() {
            // Counting, listing, storing, and fetching what was billed before.
            let reason = record["unpriced_reason"].as_str().unwrap_or_default();
            if cost.is_some() || record.get("usage").is_some() || record["usage_source"] != "none" {
                self.wrong(exchange, "is billed although it runs no model");
            }
            let repeats = exchange.succeeded() && !usage::normal_form(exchange.native()).is_empty();
            let right = if repeats { reason == "repeated_usage" } else { true };
            if !right || !matches!(reason, "repeated_usage" | "not_billed" | "free") {
                self.wrong(exchange, &format!("is unpriced as {reason}"));
            }
            return;
        }
        self.check_tokens(exchange, record);
        self.check_spend(exchange, record, cost);
    }

    fn wrong(&mut self, exchange: &Exchange, what: &str) {
        self.wrong.push(format!("{} {what}", exchange.id));
    }

    fn compare(&mut self, kind: Kind, exchange: &Exchange, same: bool, what: impl FnOnce() -> String) {
        *self.compared.entry(kind).or_default() += 1;
        if !same {
            let text = self.found.entry((kind, exchange.id.clone())).or_default();
            _ = write!(text, "{} ", what());
        }
    }

    fn check_facts(&mut self, exchange: &Exchange, record: &Value) {
        for (field, wanted) in
            [("provider", exchange.sidecar_provider().0), ("operation", exchange.operation()), ("way", "base_url")]
        {
            if record[field] != wanted {
                self.wrong(exchange, &format!("{field} {}, expected {wanted}", record[field]));
            }
        }
        if record["status"] != exchange.status {
            self.wrong(exchange, &format!("status {}", record["status"]));
        }
        let in_stream = exchange.error_code.as_deref().is_some_and(|code| code.starts_with("in-stream:"));
        let end = if in_stream { "error_event" } else { "complete" };
        if record["end"] != end {
            self.wrong(exchange, &format!("end {}, expected {end}", record["end"]));
        }
        let stream = exchange.stream || exchange.stream_requested == Some(true);
        self.compare(Kind::Facts, exchange, record["stream"] == stream, || format!("stream is not {stream}"));
        if !exchange.is_inference() {
            return;
        }
        let requested = exchange.model.request.as_deref().or(exchange.model.url.as_deref());
        let named = (exchange.target().to_owned(), exchange.request(), exchange.response());
        for (field, wanted) in [("request_model", requested), ("response_model", exchange.model.response.as_deref())] {
            let read = record[field].as_str();
            let same = match (wanted, read) {
                // Places where the recording's editors did not look: paths, forms, traces of agents.
                (None, Some(model)) if field == "request_model" => named.0.contains(model) || contains(&named.1, model),
                (None, Some(model)) => contains(&named.2, model),
                (wanted, read) => wanted == read,
            };
            self.compare(Kind::Facts, exchange, same, || format!("{field} {read:?}, expected {wanted:?}"));
        }
    }

    fn check_outcome(&mut self, exchange: &Exchange, record: &Value) {
        let outcome = record["outcome"].as_str().unwrap_or_default();
        let right = match (exchange.status, exchange.error_code.as_deref()) {
            (_, None) => outcome == if is_blocked(exchange) { "content_blocked" } else { "ok" },
            (200, Some("in-body:content_filter")) => outcome == "content_blocked",
            (200 | 400, Some(_)) => {
                matches!(outcome, "invalid_request" | "model_unavailable" | "input_too_large" | "auth_invalid")
            }
            (401, _) => matches!(outcome, "auth_missing" | "auth_invalid" | "auth_revoked"),
            (403, _) => {
                matches!(outcome, "auth_missing" | "auth_invalid" | "permission_denied" | "model_unavailable")
            }
            (404, _) => matches!(outcome, "model_unavailable" | "not_found"),
            (429, _) => outcome.starts_with("rate_limit_") || outcome == "provider_overloaded",
            (500, _) => matches!(outcome, "provider_error" | "input_too_large"),
            (501, _) => outcome == "not_found",
            _ => false,
        };
        if !right {
            self.wrong(exchange, &format!("{} {:?} is {outcome}", exchange.status, exchange.error_code));
        }
        if (record["fault"] == "none") != (outcome == "ok") {
            self.wrong(exchange, &format!("{outcome}: fault {}", record["fault"]));
        }
    }

    fn check_tokens(&mut self, exchange: &Exchange, record: &Value) {
        let (read, source) = (usage::recorded(record), record["usage_source"].as_str().unwrap_or_default());
        let native = exchange.native();
        if native.is_null() {
            // No count of the provider's: estimated from what passed, and marked so; or counted in other units.
            if !read.is_empty() && source != "estimated" {
                self.wrong(exchange, &format!("{source} tokens where the provider states none"));
            }
            if !exchange.succeeded() && !(200..300).contains(&exchange.status) && source != "none" {
                self.wrong(exchange, "usage of a refused call");
            }
            self.estimated += usize::from(source == "estimated");
            return;
        }
        for (unit, wanted) in usage::units(native) {
            if record["usage"][unit].as_u64().unwrap_or(0) != wanted {
                self.wrong(exchange, &format!("{unit} {}, expected {wanted}", record["usage"][unit]));
            }
        }
        let own = usage::normal_form(native);
        self.compare(Kind::Tokens, exchange, own == read, || differing(&own, &read));
        if own == read && !own.is_empty() && source != "reported" {
            self.wrong(exchange, &format!("the provider's own counts are called {source}"));
        }
        if let Some(reference) = usage::book_form(exchange.book()) {
            let known = |(field, _): &(&String, &u64)| usage::BOOK_FIELDS.contains(&field.as_str());
            let read = read.iter().filter(known).map(|(field, count)| (field.clone(), *count)).collect();
            self.compare(Kind::Reference, exchange, reference == read, || differing(&reference, &read));
        }
    }

    fn check_spend(&mut self, exchange: &Exchange, record: &Value, cost: Option<f64>) {
        let stated = exchange.native()["reported_cost_usd"].as_f64().or_else(|| stated_by_venice(exchange));
        let reference = exchange.book()["cost_usd"].as_f64();
        let (wanted, cost) = match (stated.or(reference), cost) {
            // An estimate has no reference.
            (None, Some(_)) if exchange.native().is_null() && record["usage_source"] == "estimated" => return,
            // No price in the reference's book: none here either, and a reason.
            (None, None) => return,
            (Some(wanted), Some(cost)) => (wanted, cost),
            (wanted, cost) => {
                self.compare(Kind::Spend, exchange, false, || format!("{cost:?}, expected {wanted:?}"));
                return;
            }
        };
        if is_same(cost, wanted) {
            return self.compare(Kind::Spend, exchange, true, String::new);
        }
        // Some models cost less at other hours: the reference is of one moment, the call of another.
        let time: jiff::Timestamp = record["time"].as_str().expect("a time").parse().expect("RFC 3339");
        let then = priced_at(exchange, "2026-11-23T12:00:00Z".parse().expect("RFC 3339"));
        if stated.is_none() && then.is_some_and(|then| is_same(then, wanted)) {
            let now = priced_at(exchange, time);
            if now != then && now.is_some_and(|now| is_same(cost, now)) {
                self.by_the_clock += 1;
                return self.compare(Kind::Spend, exchange, true, String::new);
            }
        }
        let fees = search_fees(exchange);
        let what = format!("{cost}, expected {wanted}");
        if fees > 0.0 && !is_same(cost, wanted + fees) {
            self.wrong(exchange, &format!("{what} and {fees} for searches"));
        }
        self.compare(Kind::Spend, exchange, false, || what);
    }

    /// Every difference has its place in the table, and every place in the table its difference.
    fn settle(mut self) {
        println!(
            "compared {:?}; {} priced by the clock, {} estimated",
            self.compared, self.by_the_clock, self.estimated
        );
        for difference in DIFFERENCES {
            for id in difference.ids.split_ascii_whitespace() {
                for kind in difference.kinds {
                    if self.found.remove(&(*kind, id.to_owned())).is_none() {
                        self.wrong.push(format!("{id} no longer differs in {kind:?}: {}", difference.cause));
                    }
                }
            }
        }
        let found: Vec<_> = self.found.iter().map(|((kind, id), what)| format!("{id} {kind:?}: {what}")).collect();
        assert!(found.is_empty(), "{} differences without a cause:\n{}", found.len(), found.join("\n"));
        assert!(self.wrong.is_empty(), "{} wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
        assert!(self.compared[&Kind::Tokens] > 6_400 && self.compared[&Kind::Spend] > 5_900, "{:?}", self.compared);
    }
}

fn is_same(cost: f64, wanted: f64) -> bool {
    (cost - wanted).abs() <= 1e-9 * wanted.abs()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn differing(wanted: &Counts, read: &Counts) -> String {
    let fields: BTreeSet<_> = wanted.keys().chain(read.keys()).collect();
    let differ = fields.into_iter().filter(|field| wanted.get(*field) != read.get(*field));
    let texts: Vec<_> =
        differ.map(|field| format!("{field} {:?}, expected {:?}", read.get(field), wanted.get(field))).collect();
    texts.join("; ")
}

/// The answer says itself that it was refused or changed for policy.
fn is_blocked(exchange: &Exchange) -> bool {
    let body = exchange.response();
    let mut text = String::from_utf8_lossy(&body).into_owned();
    // Bedrock's chunks carry their JSON in base64.
    for chunk in text.clone().split("{\"bytes\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        use base64::Engine;
        if let Ok(inner) = base64::engine::general_purpose::STANDARD.decode(chunk) {
            text.push_str(&String::from_utf8_lossy(&inner));
        }
    }
    let text: String = text.chars().filter(|char| !char.is_ascii_whitespace()).collect();
    let refuses = text.split("\"refusal\":\"").skip(1).any(|rest| !rest.starts_with('"'));
    let marks = [
        "finish_reason\":\"content_filter\"",
        "\"finishReason\":\"SAFETY\"",
        "Reason\":\"MODEL_ARMOR\"",
        "\"stopReason\":\"guardrail_intervened\"",
        "guardrailAction\":\"INTERVENED\"",
        "\"action\":\"INTERVENED\"",
        "\"stop_reason\":\"refusal\"",
    ];
    refuses || marks.iter().any(|mark| text.contains(mark))
}

/// Venice states what an answer cost beside its usage: `"cost":{"diem":…,"usd":…}`. The reference does not read that.
fn stated_by_venice(exchange: &Exchange) -> Option<f64> {
    let body = exchange.response();
    let text = std::str::from_utf8(&body).ok().filter(|_| exchange.provider == "venice")?;
    let cost = text.rsplit("\"cost\":{").next().filter(|rest| rest.len() < text.len())?;
    cost.split('}').next()?.split("\"usd\":").nth(1)?.parse().ok()
}

/// What the price library says of the reference's own counts at `time`.
fn priced_at(exchange: &Exchange, time: jiff::Timestamp) -> Option<f64> {
    let book = exchange.book();
    let mut counts = genai_prices::Usage::new();
    for (key, count) in book["usage"].as_object()? {
        counts.insert(key.as_str(), count.as_f64().unwrap_or(0.0));
    }
    // The extractor's is that of the format: DeepSeek answers in OpenAI's, too, and is in the book itself.
    let format = book["extractor"].as_str()?.split('/').next()?;
    [exchange.provider.as_str(), format].into_iter().find_map(|provider| {
        let request = PriceRequest::new(book["model"].as_str()?, &counts)
            .with_provider_id(provider)
            .with_timestamp(SystemTime::from(time));
        BOOK.calculate(&request).ok().map(|calculation| calculation.total_price)
    })
}

/// Dollars for the searches that OpenAI and Gemini ran on their side; the reference leaves them out.
///
/// OpenAI: 10 dollars per 1,000 web searches, 2.50 per 1,000 file searches. Gemini: 35 dollars per 1,000 prompts with a
/// search up to version 2.5, 14 per 1,000 searches from version 3 on (their price lists, as the price book has them).
fn search_fees(exchange: &Exchange) -> f64 {
    let shape = exchange.native()["shape"].as_str().unwrap_or_default();
    let newest = exchange.model.response.as_deref().is_some_and(|model| model.starts_with("gemini-3"));
    match shape {
        "openai_responses" => {
            let answer = last_document(exchange);
            let items = answer.pointer("/response/output").or(answer.get("output")).and_then(Value::as_array);
            let count =
                |wanted: &dyn Fn(&Value) -> bool| items.into_iter().flatten().filter(|i| wanted(i)).count() as f64;
            // Opening a page that was found, or looking into it, is no search.
            let web = count(&|item| {
                item["type"] == "web_search_call"
                    && item.pointer("/action/type").is_none_or(|action| action == "search")
            });
            web * 0.01 + count(&|item| item["type"] == "file_search_call") * 0.0025
        }
        "gemini" | "gemini_interactions" => {
            let body = exchange.response();
            let text = String::from_utf8_lossy(&body);
            let listed = exchange.native().pointer("/usage/grounding_tool_count/0/count").and_then(Value::as_u64);
            let queries = text.rsplit("\"webSearchQueries\":").next().filter(|rest| rest.len() < text.len());
            let queries =
                queries.and_then(|rest| rest.split(']').next()).map_or(0, |list| list.matches('"').count() / 2);
            let searches = listed.unwrap_or(queries as u64) as f64;
            if newest { searches * 0.014 } else { searches.min(1.0) * 0.035 }
        }
        _ => 0.0,
    }
}

/// The answer, or the last event of a stream that is JSON.
fn last_document(exchange: &Exchange) -> Value {
    let body = exchange.response();
    if let Ok(whole) = serde_json::from_slice(&body) {
        return whole;
    }
    let text = String::from_utf8_lossy(&body);
    let mut events = text.lines().rev().filter_map(|line| line.strip_prefix("data:"));
    events.find_map(|data| serde_json::from_str(data.trim()).ok()).unwrap_or_default()
}

#[test]
fn the_documentation_lists_the_same_differences() {
    let page = include_str!("../docs/corpus-differences.md");
    let mut lines: Vec<String> = Vec::new();
    let causes: Vec<_> = DIFFERENCES.chunk_by(|one, next| one.cause == next.cause).collect();
    for rows in causes {
        let kinds: BTreeSet<_> = rows.iter().flat_map(|row| row.kinds).collect();
        let kinds: Vec<_> = kinds.into_iter().map(|kind| format!("{kind:?}").to_lowercase()).collect();
        let ids: BTreeSet<_> = rows.iter().flat_map(|row| row.ids.split_ascii_whitespace()).collect();
        let names: Vec<_> = ids.iter().map(|id| format!("`{id}`")).collect();
        lines.push(format!("| {} | {} | {} | {} |", rows[0].cause, kinds.join(", "), ids.len(), names.join(" ")));
    }
    let (_, table) = page.split_once("| cause | in | exchanges | which |\n|---|---|---|---|\n").expect("the table");
    let written: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(written, lines, "write the table as:\n{}", lines.join("\n"));
}
