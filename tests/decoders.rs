//! Every format's decoder reads the same from a recorded answer however it is cut, and however it is compressed.
//!
//! Answers that the demo replays are always there; formats that it does not speak are taken from the recordings of all
//! providers where those are present.

use std::collections::BTreeMap;
use std::io::Write;

use http::Method;
use keytally::call::{Protocol, Reply};
use keytally::protocol::{Decoder, ReplyHint, family};
use keytally::provider::{Catalog, ProviderOverride};
use keytally::tap::Decompressor;

use crate::corpus::exchange;
use crate::support::{self, recorded};

/// Protocol and framing.
type Format = (&'static str, Option<String>);

/// Distance of the cuts in a long body: longer than a line's beginning, shorter than an event.
const EVERY: usize = 64;

/// A recorded answer.
struct Fixture {
    name: String,
    protocol: Protocol,
    status: u16,
    content_type: Option<String>,
    body: Vec<u8>,
}

impl Fixture {
    fn read<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Reply {
        let hint = self.hint();
        let mut decoder = Decoder::new(family(self.protocol), hint);
        for piece in pieces {
            decoder.feed(piece);
        }
        decoder.finish(true)
    }

    fn read_encoded<'a>(&self, encoding: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Reply {
        let mut decoder = Decoder::new(family(self.protocol), self.hint());
        let mut unpack = Decompressor::new(Some(encoding));
        for piece in pieces {
            unpack.feed(piece, &mut |plain| {
                decoder.feed(plain);
            });
        }
        assert_eq!(unpack.unreadable(), None, "{} {encoding}", self.name);
        decoder.finish(true)
    }

    fn hint(&self) -> ReplyHint<'_> {
        ReplyHint { status: self.status, content_type: self.content_type.as_deref(), protocol: self.protocol }
    }

    /// Cut at every byte, and fed byte by byte. A long body is cut at many places at a time: one by one takes the square.
    fn cut_everywhere(&self, expected: &Reply) {
        let body = &self.body[..];
        if body.len() <= 1500 {
            for at in 0..=body.len() {
                assert_eq!(self.read([&body[..at], &body[at..]]), *expected, "{} cut at {at}", self.name);
            }
        } else {
            for first in 0..EVERY {
                let pieces = std::iter::once(&body[..first]).chain(body[first..].chunks(EVERY));
                assert_eq!(self.read(pieces), *expected, "{} cut at {first} and on", self.name);
            }
        }
        assert_eq!(self.read(body.chunks(1)), *expected, "{} byte by byte", self.name);
    }

    /// Packed in each of the four encodings, as a whole and event by event, whole and cut.
    fn compressed(&self, expected: &Reply) {
        for encoding in ["gzip", "br", "zstd", "deflate"] {
            for flushing in [false, true] {
                let packed = pack(encoding, &self.body, flushing);
                let name = format!("{} {encoding} flushing {flushing}", self.name);
                assert_eq!(self.read_encoded(encoding, [&packed[..]]), *expected, "{name}");
                assert_eq!(self.read_encoded(encoding, packed.chunks(1)), *expected, "{name} byte by byte");
                for at in (0..packed.len()).step_by(packed.len() / 12 + 1) {
                    let cut = [&packed[..at], &packed[at..]];
                    assert_eq!(self.read_encoded(encoding, cut), *expected, "{name} cut at {at}");
                }
            }
        }
    }
}

/// `flushing`: after every line, as servers do with streams.
fn pack(encoding: &str, body: &[u8], flushing: bool) -> Vec<u8> {
    fn write(out: &mut impl Write, body: &[u8], flushing: bool) {
        let lines: Vec<&[u8]> =
            if flushing { body.split_inclusive(|byte| *byte == b'\n').collect() } else { vec![body] };
        for line in lines {
            out.write_all(line).expect("memory takes it");
            out.flush().expect("memory takes it");
        }
    }
    let level = flate2::Compression::fast();
    match encoding {
        "gzip" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            write(&mut out, body, flushing);
            out.finish().expect("memory takes it")
        }
        "deflate" => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), level);
            write(&mut out, body, flushing);
            out.finish().expect("memory takes it")
        }
        "zstd" => {
            let mut out = zstd::stream::Encoder::new(Vec::new(), 1).expect("memory");
            write(&mut out, body, flushing);
            out.finish().expect("memory takes it")
        }
        "br" => {
            let mut out = brotli::CompressorWriter::new(Vec::new(), 4096, 1, 16);
            write(&mut out, body, flushing);
            out.into_inner()
        }
        other => panic!("{other}: no such encoding"),
    }
}

/// Providers whose base URL has a parameter get a plain one.
fn catalog() -> Catalog {
    let plain = |id: &str| ProviderOverride {
        id: id.into(),
        base_url: Some("http://127.0.0.1:9".parse().expect("a URL")),
        ..ProviderOverride::default()
    };
    Catalog::build(&["azure_openai", "bedrock", "bedrock_mantle", "sagemaker", "vertex", "watsonx"].map(plain))
        .expect("valid")
}

fn protocol(catalog: &Catalog, method: &Method, target: &str) -> Protocol {
    catalog.recognize_base_url(method, target).expect("a known prefix").protocol
}

/// What the demo replays.
fn of_the_demo() -> Vec<Fixture> {
    let catalog = catalog();
    let text = |row: &serde_json::Value, field: &str| row[field].as_str().expect("text").to_owned();
    let fixture = |row: serde_json::Value| Fixture {
        name: format!("{} {} {}", text(&row, "provider"), text(&row, "operation"), text(&row, "case")),
        protocol: protocol(&catalog, &Method::POST, &format!("/{}{}", text(&row, "provider"), text(&row, "path"))),
        status: row["status"].as_u64().expect("a status") as u16,
        content_type: row["headers"]["content-type"].as_str().map(str::to_owned),
        body: recorded::body(&row),
    };
    recorded::all().into_iter().map(fixture).collect()
}

#[test]
fn recorded_answers_read_the_same_however_cut_and_compressed() {
    let fixtures = of_the_demo();
    assert!(fixtures.len() >= 39);
    for fixture in &fixtures {
        let expected = fixture.read([&fixture.body[..]]);
        let what = &fixture.name;
        assert!(expected.usage.as_ref().is_some_and(|usage| usage.input_tokens.is_some()), "{what}: no usage");
        assert!(expected.terminal && expected.unreadable.is_none() && expected.error.is_none(), "{what}");
        let streamed = what.ends_with("stream");
        assert_eq!(expected.stream, streamed, "{what}");
        fixture.cut_everywhere(&expected);
        fixture.compressed(&expected);
    }
    let protocols: BTreeMap<&str, usize> = fixtures.iter().fold(BTreeMap::new(), |mut counts, fixture| {
        *counts.entry(fixture.protocol.as_str()).or_default() += 1;
        counts
    });
    for protocol in [
        "openai-chat",
        "openai-responses",
        "openai-embeddings",
        "anthropic-messages",
        "gemini",
        "bedrock-converse",
        "cohere-v2",
        "ollama",
    ] {
        assert!(protocols.contains_key(protocol), "{protocol}: {protocols:?}");
    }
}

/// Of every format and framing the two shortest answers, those that state usage first.
#[test]
fn answers_of_every_format_read_the_same_however_cut_and_compressed() {
    let Some(shared) = support::shared() else {
        println!("skipped: no recordings; set KEYTALLY_SHARED");
        return;
    };
    let catalog = catalog();
    let mut shortest: BTreeMap<Format, Vec<(bool, Fixture)>> = BTreeMap::new();
    for exchange in exchange::read_all(&shared) {
        let provider = exchange.sidecar_provider().1;
        if !exchange.is_inference() || !exchange.succeeded() || provider == "my-server" {
            continue;
        }
        let method = exchange.method.parse().expect("a method");
        let fixture = Fixture {
            name: exchange.id.clone(),
            protocol: protocol(&catalog, &method, &format!("/{provider}{}", exchange.target())),
            status: exchange.status,
            content_type: exchange.response_headers.get("content-type").and_then(|t| t.as_str()).map(str::to_owned),
            body: exchange.response().to_vec(),
        };
        let key = (fixture.protocol.as_str(), exchange.stream_format.clone());
        let kept = shortest.entry(key).or_default();
        kept.push((exchange.native().is_null(), fixture));
        kept.sort_by_key(|(bare, fixture)| (*bare, fixture.body.len()));
        kept.truncate(2);
    }
    let formats: Vec<_> =
        shortest.keys().map(|(name, framing)| (*name, framing.as_deref().unwrap_or("whole"))).collect();
    println!("{formats:?}");
    for wanted in [
        ("anthropic-messages", "sse"),
        ("bedrock-agent", "aws-eventstream"),
        ("bedrock-converse", "aws-eventstream"),
        ("bedrock-invoke", "aws-eventstream"),
        ("bedrock-invoke", "whole"),
        ("cohere-v1", "ndjson"),
        ("cohere-v2", "sse"),
        ("gemini", "json-array"),
        ("gemini", "sse"),
        ("gemini-interactions", "sse"),
        ("ollama", "ndjson"),
        ("openai-audio", "whole"),
        ("openai-chat", "sse"),
        ("openai-completions", "sse"),
        ("openai-embeddings", "whole"),
        ("openai-images", "whole"),
        ("openai-responses", "sse"),
        ("vertex-predict", "whole"),
        ("watsonx", "sse"),
    ] {
        assert!(formats.contains(&wanted), "{wanted:?} is missing in {formats:?}");
    }
    for (_, fixture) in shortest.values().flatten() {
        let expected = fixture.read([&fixture.body[..]]);
        assert!(expected.unreadable.is_none() && expected.error.is_none(), "{}", fixture.name);
        fixture.cut_everywhere(&expected);
        fixture.compressed(&expected);
    }
}
