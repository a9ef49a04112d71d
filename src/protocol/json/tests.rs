//! The pruner against its reference, cut everywhere, and on what is not JSON.

use std::sync::Arc;

use serde_json::{Value, json};

use super::paths::Paths;
use super::reference::prune_value;
use super::*;
use crate::call::TextSample;
use crate::protocol::random::Random;

const fn interest(path: &'static str, take: Take) -> Interest {
    Interest { path, take }
}

fn pruner(interests: &[Interest]) -> Pruner {
    Pruner::with_paths(Arc::new(Paths::compile(interests)), MAX_STRING)
}

fn run<'a>(pruner: &mut Pruner, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Pruned, TextSample) {
    let mut sample = TextSample::default();
    for piece in pieces {
        let taken = pruner.feed(piece, &mut sample);
        assert!(taken == piece.len() || pruner.is_complete() || pruner.has_failed());
    }
    (pruner.take(), sample)
}

fn whole(interests: &[Interest], text: &str) -> Pruned {
    run(&mut pruner(interests), [text.as_bytes()]).0
}

#[test]
fn keeps_what_the_reference_keeps_however_it_is_cut() {
    let paths =
        ["a", "b", "c", "*", "a.b", "a.*", "*.a", "a.*.b", "*.*", "b.*.c", "c.a", "*.b.*", "a.b.c", "a.*.*.a", ""];
    let takes = [Take::Keep, Take::Text, Take::DeepText, Take::Presence];
    let mut random = Random(1);
    let mut not_empty = 0;
    for round in 0..6000 {
        let table: Vec<Interest> = (0..random.below(6))
            .map(|_| {
                let path = *random.pick(&paths.each_ref());
                interest(path, if path.is_empty() { Take::Keep } else { takes[random.below(4)] })
            })
            .collect();
        let document = random.json(5);
        let mut expected_text = TextSample::default();
        let expected = prune_value(&document, &table, &mut expected_text);
        let bytes = random.spell(&document);
        let pieces = random.cut(&bytes);
        let (pruned, text) = run(&mut pruner(&table), pieces);
        assert_eq!(pruned.value, expected, "round {round}, {table:?} on {document}");
        assert!(pruned.complete && pruned.unreadable.is_none(), "round {round}: {pruned:?}");
        assert_eq!(text.kept(), expected_text.kept(), "round {round}, {table:?} on {document}");
        assert_eq!(text.total_bytes(), expected_text.total_bytes(), "round {round}");
        not_empty += usize::from(!pruned.value.is_null() && pruned.value != json!({}));
    }
    assert!(not_empty > 1500, "the documents hardly meet the tables: {not_empty}");
}

#[test]
fn a_chat_answer_cut_at_every_byte() {
    static TABLE: [Interest; 6] = [
        interest("id", Take::Keep),
        interest("usage", Take::Keep),
        interest("choices.*.message.content", Take::Text),
        interest("choices.*.message.tool_calls", Take::Presence),
        interest("choices.*.finish_reason", Take::Keep),
        interest("error", Take::Keep),
    ];
    let text = r#"{"id":"x-1","error":null,"object":"chat","choices":[{"index":0,"message":{"role":"assistant","content":
        "caf\u00e9 \ud83d\ude00 \"q\"","tool_calls":[{"id":"t"}]},"logprobs":null,"finish_reason":"stop"}],
        "usage":{"prompt_tokens":12,"details":{"cached":[1,2.5e3,true]}}} "#;
    let expected = json!({"id":"x-1","error":null,"choices":[{"message":{"content":14,"tool_calls":true},
        "finish_reason":"stop"}],"usage":{"prompt_tokens":12,"details":{"cached":[1,2.5e3,true]}}});
    let mut pruner = Pruner::new(&TABLE);
    for at in 0..=text.len() {
        let (first, second) = text.as_bytes().split_at(at);
        let (pruned, sample) = run(&mut pruner, [first, second]);
        assert_eq!(pruned.value, expected, "cut at {at}");
        assert!(pruned.complete);
        assert_eq!(sample.kept(), "café 😀 \"q\"", "cut at {at}");
    }
}

#[test]
fn stops_behind_the_document() {
    let mut pruner = pruner(&[interest("a", Take::Keep)]);
    let bytes = b" {\"a\":1}\n{\"a\":2}";
    let taken = pruner.feed(bytes, &mut NoText);
    assert_eq!(taken, 8);
    assert!(pruner.is_complete());
    assert_eq!(pruner.take().value, json!({"a":1}));
    assert!(!pruner.has_started());
    assert_eq!(pruner.feed(&bytes[8..], &mut NoText), 8);
    assert_eq!(pruner.take().value, json!({"a":2}));
}

#[test]
fn of_a_broken_document_whole_members_stay() {
    let table = [interest("usage", Take::Keep), interest("id", Take::Keep), interest("n", Take::Keep)];
    for (text, failed) in [
        (r#"{"id":"x","usage":{"prompt_tokens":12,"completion_tok"#, false),
        (r#"{"id":"x","n":12"#, false),
        (r#"{"id":"x","usage":{"a":1]}"#, true),
        (r#"{"id":"x" "n":1}"#, true),
        (r#"{"id":"x","n":}"#, true),
        (r#"{"id":"x";"n":1}"#, true),
    ] {
        let pruned = whole(&table, text);
        assert_eq!(pruned.value, json!({"id":"x"}), "{text}");
        assert!(!pruned.complete);
        assert_eq!(pruned.unreadable, failed.then_some(Unreadable::DecodeError), "{text}");
    }
    assert!(whole(&table, "<html>").unreadable.is_some());
    assert!(!whole(&table, "  ").complete);
}

#[test]
fn lenient_where_it_is_harmless() {
    let table = [interest("n", Take::Keep), interest("s", Take::Keep), interest("t", Take::Text)];
    let keep = |text: &str| whole(&table, text).value;
    assert_eq!(keep(r#"{"x":[1,2,],"n":1,}"#), json!({"n":1}));
    assert_eq!(keep(r#"{"n":NaN,"s":-Infinity}"#), json!({"n":null,"s":null}));
    assert_eq!(keep(r#"{"n":1e999,"s":01}"#), json!({"n":null,"s":null}));
    assert_eq!(keep(r#"{"s":"\q\ud800x\udc00\u12G4"}"#), json!({"s":"q\u{FFFD}x\u{FFFD}\u{FFFD}G4"}));
    assert_eq!(keep("{\"s\":\"a\nb\"}"), json!({"s":"a\nb"}));
    let bytes = b"{\"s\":\"\xff\xe2\x82A\xf0\x80\",\"\xff\":1,\"n\":2}";
    let expected = json!({"s":"\u{FFFD}\u{FFFD}A\u{FFFD}\u{FFFD}","n":2});
    for at in 0..bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(run(&mut pruner(&table), [first, second]).0.value, expected, "cut at {at}");
    }
}

#[test]
fn what_is_skipped_nests_without_end() {
    let table = [interest("a", Take::Keep), interest("d", Take::DeepText), interest("n", Take::Keep)];
    let deep = "[{\"k\":".repeat(10_000) + "\"x\"" + &"}]".repeat(10_000);
    let pruned = whole(&table, &format!("{{\"skip\":{deep},\"n\":1}}"));
    assert_eq!(pruned.value, json!({"n":1}));
    assert_eq!(pruned.unreadable, None);
    for key in ["a", "d"] {
        let mut pruner = pruner(&table);
        let text = format!("{{\"{key}\":{deep},\"n\":1}}");
        pruner.feed(text.as_bytes(), &mut NoText);
        assert!(pruner.is_complete());
        let pruned = pruner.take();
        assert_eq!(serde_json::Value::from(&pruned.value)["n"], 1);
        assert_eq!(pruned.unreadable, Some(Unreadable::EventLimit), "{key} is deeper than is kept");
    }
}

#[test]
fn the_kept_part_is_bounded_and_usage_still_fits() {
    let table = [interest("list", Take::Keep), interest("usage", Take::Keep), interest("o", Take::Keep)];
    let list = format!("[{}0]", "{\"index\":123456},".repeat(100_000));
    let pruned = whole(&table, &format!("{{\"list\":{list},\"usage\":{{\"total_tokens\":7}}}}"));
    assert_eq!(pruned.unreadable, Some(Unreadable::EventLimit));
    assert!(pruned.complete);
    assert_eq!(serde_json::Value::from(&pruned.value)["usage"], json!({"total_tokens":7}));
    assert!(
        serde_json::Value::from(&pruned.value).to_string().len() < MAX_KEPT,
        "{}",
        serde_json::Value::from(&pruned.value).to_string().len()
    );
    let mut pruner = pruner(&table);
    let object: String = (0..10_000).map(|i| format!("\"{i}\":\"{}\",", "v".repeat(5000))).collect();
    run(&mut pruner, [format!("{{\"o\":{{{object}").as_bytes()]);
    let capacity = pruner.stack.capacity() * size_of::<Frame>() + pruner.text.capacity() + pruner.scalar.capacity();
    assert!(capacity < 64 * 1024, "{capacity} bytes of buffers stay");
}

#[test]
fn long_strings_are_cut_at_a_character() {
    let table = [interest("s", Take::Keep), interest("t", Take::Text)];
    let long = "é".repeat(10_000);
    let text = format!("{{\"s\":\"x{long}\",\"t\":\"{long}\",\"{long}\":1}}");
    let expected = json!({"s": format!("x{}", "é".repeat(511)), "t": 20_000});
    let mut random = Random(7);
    for _ in 0..20 {
        let (pruned, sample) = run(&mut pruner(&table), random.cut(text.as_bytes()));
        assert_eq!(pruned.value, expected);
        assert_eq!((sample.total_bytes(), sample.kept().len()), (20_000, TextSample::CAPACITY));
    }
}

#[test]
fn deeper_paths_decide_below_keep_and_deep_text() {
    let table = [
        interest("item", Take::Keep),
        interest("item.content.*.text", Take::Text),
        interest("messages", Take::DeepText),
        interest("messages.*.role", Take::Presence),
        interest("calls", Take::Presence),
        interest("calls.*.arguments", Take::Text),
    ];
    let mut pruner = pruner(&table);
    let text = r#"{"item":{"id":"i","content":[{"type":"t","text":"hello"}]},"calls":[],
        "messages":[{"role":"user","content":[{"text":"how"},"now",5,null]}]}"#;
    let (pruned, sample) = run(&mut pruner, [text.as_bytes()]);
    assert_eq!(pruned.value, json!({"item":{"id":"i","content":[{"type":"t","text":5}]},"calls":true,"messages":6}));
    assert_eq!(sample.kept(), "hellohownow");
    let (pruned, _) = run(&mut pruner, [r#"{"calls":[{"arguments":"{}"}]}"#.as_bytes()]);
    assert_eq!(pruned.value, json!({"calls":[{"arguments":2}]}));
}

#[test]
fn images_are_not_text() {
    let table = [interest("m", Take::DeepText)];
    let blob = "aB3+".repeat(100_000);
    let wrapped = blob.as_bytes()[..4000].chunks(76).map(|l| str::from_utf8(l).unwrap()).collect::<Vec<_>>();
    let text = format!(
        r#"{{"m":[{{"image":"{blob}"}},{{"url":"data:image/png;base64,AAAA"}},{{"w":"{}"}},{{"t":"data: yes, text"}}]}}"#,
        wrapped.join("\\r\\n")
    );
    let (pruned, sample) = run(&mut pruner(&table), [text.as_bytes()]);
    assert_eq!(sample.kept(), "data: yes, text");
    assert_eq!(pruned.value, json!({"m":15}));
}

#[test]
fn every_beginning_and_every_changed_byte_is_survived() {
    let text = r#"{"a":{"b":["x\u00e9\ud83d\ude00",{"c":-1.5e3}],"c":null},"b":[true,false,"\\"],"t":"tail"}"#;
    let table = [interest("a", Take::Keep), interest("b.*", Take::Text), interest("t", Take::DeepText)];
    let mut pruner = pruner(&table);
    for at in 0..text.len() {
        run(&mut pruner, [&text.as_bytes()[..at]]);
        for byte in [b'"', b'\\', b'{', b'}', b'[', b']', b',', b':', b' ', b'u', b'0', 0, 0xff, 0xe2] {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = byte;
            let (pruned, _) = run(&mut pruner, [&changed[..]]);
            let cut = changed.len() / 2;
            let again = run(&mut pruner, [&changed[..cut], &changed[cut..]]).0;
            assert_eq!(pruned, again, "byte {at} = {byte}");
            if let Ok(value) = serde_json::from_slice::<Value>(&changed) {
                assert_eq!(pruned.value, prune_value(&value, &table, &mut TextSample::default()), "byte {at} = {byte}");
            }
        }
    }
}

#[test]
fn an_error_document_is_kept_whole() {
    let text = format!(r#"{{"type":"error","message":"{}","x":[1,{{}}]}}"#, "m".repeat(3000));
    let mut pruner = Pruner::keep_all();
    let (pruned, _) = run(&mut pruner, [text.as_bytes()]);
    assert_eq!(pruned.value, serde_json::from_str::<Value>(&text).unwrap());
    assert_eq!(run(&mut pruner, [&b"\"plain\""[..]]).0.value, json!("plain"));
}

#[test]
fn tables_are_compiled_once() {
    static TABLE: [Interest; 1] = [interest("x.y", Take::Keep)];
    assert!(Arc::ptr_eq(&Paths::of(&TABLE), &Paths::of(&TABLE)));
}

#[test]
fn elements_keep_their_places_within_bounds() {
    let table = [interest("list.*.n", Take::Keep), interest("empty.x", Take::Keep), interest("list.*.o.p", Take::Keep)];
    let pruned = whole(&table, r#"{"empty":{},"list":[{},5,{"n":1},{"o":{}},[{"n":1}],{"n":2},{"x":1}]}"#);
    assert_eq!(pruned.value, json!({"empty":{},"list":[null,null,{"n":1},null,null,{"n":2}]}));
    let pruned = whole(&table, &format!(r#"{{"list":[{}{{"n":1}}]}}"#, "{},".repeat(100_000)));
    assert_eq!(serde_json::Value::from(&pruned.value)["list"].as_array().map(Vec::len), Some(MAX_PLACES + 1));
    assert_eq!(pruned.unreadable, None);
}
