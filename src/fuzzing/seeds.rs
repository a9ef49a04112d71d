//! Where inputs come from: recorded answers and errors, files of the documentation, and what is built here by hand.
//!
//! In: the fixtures of this repository; for `make fuzz` also the large collection of recordings, where that is present.
//! Out: inputs as [`super::Input`] reads them, the same each time.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use super::bodies::{CONTENT_TYPES, ENCODINGS, EXTENSIONS, REQUEST_TYPES, STATUSES};
use super::heads::{CATALOG, PATHS, PLACES, PREFIXES};
use super::meaning::{ENDS, MODELS, PROVIDERS};
use crate::call::Protocol;
use crate::protocol::corpus_tests;
use crate::protocol::random::Random;
use crate::tap::decompress::tests::pack;

/// Inputs of a target.
pub(super) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "answer" => answers().iter().map(Answer::seed).collect(),
        "event_stream" => event_streams(),
        "json" => documents(),
        "decompress" => encoded(),
        "request" => requests(),
        "websocket" => frames(),
        "inject" => streams(),
        "client_hello" => hellos(),
        "request_head" => request_heads(),
        "answer_head" => answer_heads(),
        "rules" => errors().iter().map(Failure::rules).collect(),
        "explain" => errors().iter().flat_map(Failure::pasted).collect(),
        "price" => usages(),
        "config" => configurations(),
        "file" => files(),
        "kernel" => kernel(),
        other => panic!("{other}: no seeds"),
    }
}

/// Further inputs from the large collection; none where it is absent.
pub(super) fn of_the_collection(target: &str) -> Vec<Vec<u8>> {
    static COLLECTION: LazyLock<Option<Vec<Value>>> = LazyLock::new(corpus_tests::corpus);
    if !["answer", "json", "inject", "request", "explain"].contains(&target) {
        return Vec::new();
    }
    let Some(exchanges) = &*COLLECTION else { return Vec::new() };
    // Of each kind the shortest: they meet the same code as the long ones.
    let mut kinds: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for exchange in exchanges {
        let text = |key: &str| exchange[key].as_str().unwrap_or_default();
        let bytes = |key: &str| match exchange[format!("{key}_base64")] == true {
            true => STANDARD.decode(text(key)).expect("base64"),
            false => text(key).as_bytes().to_vec(),
        };
        let protocol = corpus_tests::protocol(exchange);
        let status = exchange["status"].as_u64().unwrap_or(200) as u16;
        let kind = format!("{protocol} {} {}", text("provider"), text("stream_format"));
        let answer = || Answer {
            protocol,
            content_type: exchange["response_headers"]["content-type"].as_str().unwrap_or_default().to_owned(),
            status,
            body: bytes("response_body"),
        };
        let seed = match target {
            "answer" => answer().seed(),
            "json" if text("stream_format").is_empty() => answer().document(),
            "inject" if text("stream_format") == "sse" => [&[0, 7], &bytes("response_body")[..]].concat(),
            "request" => request(protocol, 0, 0, &bytes("request_body")),
            "explain" if status >= 400 => [&[0], &bytes("response_body")[..]].concat(),
            _ => continue,
        };
        if seed.len() <= 16 * 1024 {
            kinds.entry(kind).or_default().push(seed);
        }
    }
    let shortest = kinds.into_values().flat_map(|mut seeds| {
        seeds.sort_by_key(Vec::len);
        seeds.dedup();
        seeds.into_iter().take(12)
    });
    shortest.collect()
}

/// Where `wanted` stands in a list of choices.
fn place<T: PartialEq>(of: &[T], wanted: &T) -> u8 {
    of.iter().position(|one| one == wanted).unwrap_or(0) as u8
}

fn short(field: &[u8]) -> Vec<u8> {
    let field = &field[..field.len().min(255)];
    [&[field.len() as u8], field].concat()
}

fn long(field: &[u8]) -> Vec<u8> {
    let field = &field[..field.len().min(65_535)];
    [&(field.len() as u16).to_be_bytes(), field].concat()
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

// === recorded answers ===

struct Answer {
    protocol: Protocol,
    content_type: String,
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn seed(&self) -> Vec<u8> {
        let name = self.content_type.split(';').next().unwrap_or_default();
        let kind =
            CONTENT_TYPES.iter().position(|own| own.is_some_and(|own| own.starts_with(name)) && !name.is_empty());
        let kind = kind.unwrap_or(CONTENT_TYPES.len() - 1) as u8;
        let status = if self.status < 400 { 0 } else { place(&STATUSES, &self.status).max(1) };
        [&[place(Protocol::ALL, &self.protocol), kind, status, 0, 0, 7], &self.body[..]].concat()
    }

    fn document(&self) -> Vec<u8> {
        [&[3 + place(Protocol::ALL, &self.protocol), 0, 7], &self.body[..]].concat()
    }
}

fn answers() -> Vec<Answer> {
    let answer = |row: &Value| {
        let text = |field: &str| row[field].as_str().unwrap_or_default();
        let target = format!("/{}{}", text("provider"), text("path"));
        let protocol = CATALOG
            .recognize_base_url(&Method::POST, &target)
            .map_or(Protocol::BedrockConverse, |found| found.protocol);
        Answer {
            protocol,
            content_type: row["headers"]["content-type"].as_str().unwrap_or_default().to_owned(),
            status: row["status"].as_u64().unwrap_or(200) as u16,
            body: match row["body_base64"].as_str() {
                Some(text) => STANDARD.decode(text).expect("base64"),
                None => text("body").as_bytes().to_vec(),
            },
        }
    };
    let mut all: Vec<Answer> = rows(include_str!("../demo/recordings.jsonl")).iter().map(answer).collect();
    // Every third error, as an answer of the provider's protocol.
    all.extend(errors().iter().step_by(3).map(|error| Answer {
        protocol: match error.provider.as_str() {
            "anthropic" => Protocol::AnthropicMessages,
            "gemini" | "google" => Protocol::Gemini,
            "bedrock" => Protocol::BedrockConverse,
            "cohere" => Protocol::CohereV2,
            _ => Protocol::OpenaiChat,
        },
        content_type: if error.status < 400 { "text/event-stream".into() } else { "application/json".into() },
        status: error.status,
        body: error.body.clone(),
    }));
    all
}

fn documents() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        answers().iter().filter(|answer| answer.body.starts_with(b"{")).map(Answer::document).collect();
    let mut random = Random(11);
    for table in 0..3 {
        for _ in 0..40 {
            let document = random.json(4);
            all.push([&[table, 0, 7], &random.spell(&document)[..]].concat());
        }
    }
    all.push(
        [&[0, 0, 7], &br#"{"a":[1e999,-0,1E+2,0.5,18446744073709551615],"c":"\ud83d\ude00\ud800\u0000"}"#[..]].concat(),
    );
    all
}

fn event_streams() -> Vec<Vec<u8>> {
    let delta = json!({ "contentBlockIndex": 0, "delta": { "text": "made up" } }).to_string();
    let end =
        json!({ "usage": { "inputTokens": 12, "outputTokens": 3, "totalTokens": 15 }, "metrics": { "latencyMs": 1 } });
    let claude = json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": 3 },
        "amazon-bedrock-invocationMetrics": { "inputTokenCount": 12, "outputTokenCount": 3 } });
    let refused = json!({ "message": "Too many requests, please wait before trying again." }).to_string();
    let trace = json!({ "trace": { "trace": { "orchestrationTrace": { "modelInvocationOutput": { "metadata": {
        "usage": { "inputTokens": 5, "outputTokens": 6 } } } } } } });
    let of = |protocol: u8, messages: &[(u8, &str)]| {
        let mut seed = vec![protocol, 0, 0, 7];
        for (kind, payload) in messages {
            seed.push(*kind);
            seed.extend(long(payload.as_bytes()));
        }
        seed
    };
    vec![
        of(1, &[(2, &delta), (2, &delta), (3, r#"{"stopReason":"end_turn"}"#), (1, &end.to_string())]),
        of(0, &[(0, &claude.to_string()), (0, "{}")]),
        of(0, &[(0x80 / 9 * 9, &delta), (5, &refused)]),
        of(1, &[(2, &delta), (6, &refused)]),
        of(2, &[(4, &trace.to_string()), (0, r#"{"bytes":"bWFkZSB1cA=="}"#), (7, "")]),
        of(3, &[(8, ""), (0xff, "no frame")]),
    ]
}

fn encoded() -> Vec<Vec<u8>> {
    let answers = answers();
    let mut all = Vec::new();
    for (i, answer) in answers.iter().filter(|answer| answer.body.len() < 4000).enumerate().take(24) {
        let (encoding, packed) = match i % 8 {
            5 => (5, pack("br", &pack("gzip", &answer.body))),
            6 => (6, pack("zstd", &pack("br", &answer.body))),
            7 => (2, pack("raw", &answer.body)),
            plain => (plain, pack(ENCODINGS[plain], &answer.body)),
        };
        all.push([&[encoding as u8, 0, 7], &packed[..]].concat());
    }
    all.push([&[1, 0, 7], &[pack("gzip", b"one "), pack("gzip", b"two"), vec![0; 9]].concat()[..]].concat());
    all.push([&[3, 0, 7], &pack("br", &vec![b' '; 200_000])[..]].concat());
    all
}

fn request(protocol: Protocol, kind: u8, encoding: u8, body: &[u8]) -> Vec<u8> {
    [&[place(Protocol::ALL, &protocol), kind, encoding, 0, 7], body].concat()
}

fn requests() -> Vec<Vec<u8>> {
    let chat = json!({ "model": "gpt-4o-mini", "stream": true, "stream_options": { "include_usage": true }, "max_tokens": 64,
        "temperature": 0.2, "top_p": 1, "n": 2, "service_tier": "flex", "reasoning_effort": "low", "messages": [
            { "role": "system", "content": "made up" },
            { "role": "user", "content": [{ "type": "text", "text": "héllo" },
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } }] }] });
    let anthropic = json!({ "model": "claude-sonnet-4-5", "max_tokens": 1024.0, "system": [{ "type": "text", "text": "x" }],
        "messages": [{ "role": "user", "content": "made up" }], "tools": [{ "name": "t", "input_schema": {} }] });
    let gemini = json!({ "contents": [{ "role": "user", "parts": [{ "text": "made up" },
        { "inlineData": { "mimeType": "image/png", "data": "AAAA" } }] }],
        "generationConfig": { "maxOutputTokens": 5, "topP": 0.5, "thinkingConfig": { "thinkingLevel": "low" } } });
    let converse = json!({ "messages": [{ "role": "user", "content": [{ "text": "made up" }] }],
        "inferenceConfig": { "maxTokens": 9 } });
    let form = "--cut\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--cut\r\nContent-Disposition: \
                form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF--cut\r\n\r\n--cut\r\n\
                content-disposition: form-data; name=stream\r\n\r\ntrue\r\n--cut--\r\n";
    let mut all = vec![
        request(Protocol::OpenaiChat, 0, 0, chat.to_string().as_bytes()),
        request(Protocol::AnthropicMessages, 0, 0, anthropic.to_string().as_bytes()),
        request(Protocol::Gemini, 0, 0, gemini.to_string().as_bytes()),
        request(Protocol::BedrockConverse, 0, 0, converse.to_string().as_bytes()),
        request(Protocol::OpenaiAudio, 1, 0, form.as_bytes()),
        request(Protocol::OpenaiAudio, 2, 0, form.replace("--cut", "------a b").as_bytes()),
        request(Protocol::OpenaiEmbeddings, 5, 0, br#"{"model":"m","input":["a","b"]}"#),
        request(Protocol::OpenaiChat, 4, 0, b"text"),
        request(Protocol::OpenaiChat, 3, 0, b"--cut"),
    ];
    for (i, encoding) in ["gzip", "deflate", "br", "zstd"].iter().enumerate() {
        all.push(request(Protocol::OpenaiChat, 0, i as u8 + 1, &pack(encoding, chat.to_string().as_bytes())));
    }
    assert!(REQUEST_TYPES.len() == 6);
    all
}

fn frames() -> Vec<Vec<u8>> {
    let done = json!({ "type": "response.done", "response": { "id": "resp_made_up", "status": "completed", "usage": {
        "total_tokens": 20, "input_tokens": 12, "output_tokens": 8, "input_token_details": { "audio_tokens": 4 } } } });
    let done = done.to_string();
    let frame = |first: u8, payload: &[u8]| {
        let length = match payload.len() {
            short @ 0..=125 => vec![short as u8],
            long => [&[126], &(long as u16).to_be_bytes()[..]].concat(),
        };
        [&[first], &length[..], payload].concat()
    };
    let mut packer = flate2::Compress::new(flate2::Compression::fast(), false);
    let mut packed = || {
        let mut packed = Vec::with_capacity(1024);
        packer.compress_vec(done.as_bytes(), &mut packed, flate2::FlushCompress::Sync).expect("packed");
        packed.truncate(packed.len() - 4);
        packed
    };
    let (first, second) = done.as_bytes().split_at(40);
    let two = [frame(0xc1, &packed()), frame(0xc1, &packed())].concat();
    let seeds = [
        (0, frame(0x81, done.as_bytes())),
        (0, [frame(0x01, first), frame(0x89, b"ping"), frame(0x80, second), frame(0x88, &[3, 232])].concat()),
        (1, two.clone()),
        (2, two),
    ];
    assert!(EXTENSIONS.len() == 3);
    seeds.into_iter().map(|(extensions, wire)| [&[extensions, 0, 7], &wire[..]].concat()).collect()
}

fn streams() -> Vec<Vec<u8>> {
    let is_stream = |answer: &Answer| answer.content_type.starts_with("text/event-stream");
    let mut bodies: Vec<Vec<u8>> = answers().into_iter().filter(is_stream).map(|answer| answer.body).take(8).collect();
    bodies.push(
        b"data: {\"choices\":[]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\r\n\r\ndata: [DONE]\n\n"
            .to_vec(),
    );
    bodies.push(br#" {"model":"m","stream":true,"messages":[]}"#.to_vec());
    bodies.push(br#"{"stream":true}"#.to_vec());
    bodies.into_iter().map(|body| [&[0, 7], &body[..]].concat()).collect()
}

// === heads ===

fn hellos() -> Vec<Vec<u8>> {
    let hello = |name: &str, protocols: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]| {
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).expect("a server name");
        let mut connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("a connection");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("written");
        bytes
    };
    let whole = hello("api.openai.com", &["h2", "http/1.1"], rustls::DEFAULT_VERSIONS);
    let mut split = Vec::new();
    for part in whole[5..].chunks(100) {
        split.extend_from_slice(&[22, 3, 1]);
        split.extend(long(part));
    }
    vec![
        whole,
        split,
        hello("a.example", &[], &[&rustls::version::TLS12]),
        hello("127.0.0.1", &["http/1.1"], rustls::DEFAULT_VERSIONS),
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"CONNECT a:1 HTTP/1.1".to_vec(),
        b"SSH-2.0-OpenSSH_9.2".to_vec(),
    ]
}

fn request_heads() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let headers: [(&str, &str); 3] = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"),
        ("openai-organization", "org-madeup"),
    ];
    for (i, place) in PLACES.iter().enumerate() {
        for (j, prefix) in PREFIXES.iter().enumerate() {
            let (path, way) = ((i + j) % PATHS.len(), (i + j) % 3);
            let mut seed =
                vec![j as u8, (i * 16 + j) as u8, super::seeds::place(&PLACES, place), path as u8, way as u8];
            seed.extend(short(b"api.openai.com"));
            seed.extend(short(if i % 2 == 0 { b"" } else { b"?model=gpt%2d4o&alt=sse" }));
            let (name, value) = headers[(i + j) % 3];
            seed.push(1);
            seed.extend(short(name.as_bytes()));
            seed.extend(short(value.as_bytes()));
            seed.push((i + j) as u8 % 6);
            if (i + j) % 6 == 5 {
                seed.extend(short(b"a {key}, b"));
            }
            seed.push(1);
            seed.extend_from_slice(
                br#"{"error":{"code":"invalid_api_key","message":"Incorrect API key provided: {key}."}}"#,
            );
            assert!(prefix.len() < 20);
            all.push(seed);
        }
    }
    all
}

// === errors ===

struct Failure {
    provider: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn errors() -> Vec<Failure> {
    let files = [
        include_str!("../../tests/fixtures/errors/documented.jsonl"),
        include_str!("../../tests/fixtures/errors/extra.jsonl"),
        include_str!("../../tests/fixtures/errors/recorded.jsonl"),
        include_str!("../demo/errors.jsonl"),
    ];
    let failure = |row: Value| Failure {
        provider: row["provider"].as_str().unwrap_or_default().to_owned(),
        status: row["status"].as_u64().unwrap_or(200) as u16,
        headers: row["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        body: row["body"].as_str().unwrap_or_default().as_bytes().to_vec(),
    };
    files.iter().flat_map(|file| rows(file)).map(failure).collect()
}

impl Failure {
    fn rules(&self) -> Vec<u8> {
        let mut seed = vec![place(&PROVIDERS, &self.provider.as_str())];
        seed.extend(self.status.to_be_bytes());
        seed.push(place(&ENDS, &ENDS[usize::from(self.status < 400)]));
        // A rule of the user's now and then.
        let own = self.body.len() % 128 == 5;
        seed.push(if self.status < 400 { 2 } else { 0 } | if own { 128 } else { 0 });
        seed.push(self.headers.len().min(7) as u8);
        for (name, value) in self.headers.iter().take(7) {
            seed.extend(short(name.as_bytes()));
            seed.extend(short(value.as_bytes()));
        }
        seed.extend([short(b""), short(if own { b"quota (exceeded|reached)" } else { b"" })].concat());
        seed.extend_from_slice(&self.body);
        seed
    }

    fn head(&self) -> Vec<u8> {
        let index = CATALOG.providers().position(|provider| *provider.id == *self.provider).unwrap_or(0);
        let mut seed = vec![index as u8, 7, 6, 0, 0, 0, 0, 0, 0, 0];
        seed.push(self.headers.len().min(255) as u8);
        for (name, value) in self.headers.iter().take(255) {
            seed.extend(short(name.as_bytes()));
            seed.extend(short(value.as_bytes()));
        }
        seed.extend_from_slice(&self.body);
        seed
    }

    /// As people paste it: the body alone, with its head, inside an exception of an SDK.
    fn pasted(&self) -> Vec<Vec<u8>> {
        let body = String::from_utf8_lossy(&self.body);
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = match self.body.len() % 4 {
            0 => format!("HTTP/1.1 {} Made Up\r\n{headers}\r\n{body}", self.status),
            1 => format!(
                "Traceback (most recent call last):\n  File \"a.py\", line 1\nopenai.APIStatusError: Error code: {} - {}",
                self.status,
                body.replace('"', "'")
            ),
            2 => format!("< HTTP/2 {}\n< {}\n< \n{body}", self.status, headers.replace("\r\n", "\n< ")),
            _ => body.into_owned(),
        };
        vec![[&[0], text.as_bytes()].concat()]
    }
}

fn answer_heads() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = errors().iter().filter(|error| !error.headers.is_empty()).map(Failure::head).collect();
    for row in rows(include_str!("../demo/recordings.jsonl")).iter().step_by(4) {
        let headers = row["headers"].as_object().into_iter().flatten();
        let headers =
            headers.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        let provider = row["provider"].as_str().unwrap_or_default().to_owned();
        all.push(Failure { provider, status: 200, headers, body: Vec::new() }.head());
    }
    all
}

fn usages() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for model in 0..MODELS.len() as u8 {
        for counts in [&[0x03_u8, 0, 0][..], &[0xff, 0xff, 0xff], &[0x0f, 0, 0x70]] {
            let mut seed = vec![model, model % 6, if counts[0] == 3 { 0 } else { 8 }, 0xbe, 0xef];
            for scale in [1, 200] {
                seed.extend_from_slice(counts);
                seed.extend((0..19_u8).flat_map(|count| [1, scale, count.wrapping_mul(31)]));
            }
            all.push(seed);
        }
    }
    all
}

// === files ===

fn configurations() -> Vec<Vec<u8>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for page in ["configuration", "deploy", "ledger", "ways", "alerting"] {
        let text = std::fs::read_to_string(root.join(format!("docs/{page}.md"))).expect("a page of the documentation");
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        texts.extend(blocks.map(str::to_owned));
    }
    texts.push("a: &a [x, x]\nb: *a\nkeys: {? [a] : b}\n--- \n%YAML 1.2\n".into());
    let mut all: Vec<Vec<u8>> = texts.iter().map(|text| [&[0], text.as_bytes()].concat()).collect();
    let mut with_variables = vec![3, 3];
    with_variables.extend(short(b"authorization=made%20up,x=y"));
    with_variables.push(2);
    with_variables.extend(short(b"http://127.0.0.1:4317/v1"));
    with_variables.push(5);
    with_variables.extend(short(b"service.name=a,b=c"));
    with_variables.extend_from_slice(b"export:\n  otlp: {}\nfingerprint_salt: ${MADE_UP}\n");
    all.push(with_variables);
    all
}

fn files() -> Vec<Vec<u8>> {
    let book =
        br#"[{"id":"acme","name":"Acme","api_pattern":"acme","models":[{"id":"m","match":{"or":[{"starts_with":"m"},
        {"regex":"^m.*"}]},"prices":[{"constraint":{"start_date":"2026-01-01"},"prices":{"input_mtok":{"base":1,"tiers":
        [{"start":200000,"price":2}]},"output_mtok":3}},{"prices":{"input_mtok":1}}]}]}]"#;
    let dir = tempfile::tempdir().expect("a directory");
    let names = ["api.openai.com".to_owned()];
    let (authority, _) = crate::listen::ca::Authority::load_or_make(dir.path(), &names).expect("an authority");
    let key = std::fs::read(dir.path().join("ca-key.pem")).expect("its key");
    let mut certificate = vec![1];
    certificate.extend(long(authority.pem().as_bytes()));
    certificate.write_all(&key).expect("memory takes it");
    vec![[&[0], &book[..]].concat(), certificate]
}

fn kernel() -> Vec<Vec<u8>> {
    let ends = [0x1f, 0x90, 127, 0, 0, 1, 0, 80, 127, 0, 0, 1];
    let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: \
                 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 0 0\n";
    let mut found = vec![0; 16 + 72];
    found[0..4].copy_from_slice(&88_u32.to_ne_bytes());
    found[4..6].copy_from_slice(&20_u16.to_ne_bytes());
    found[80] = 7;
    let mut refused = vec![0; 20];
    refused[0..4].copy_from_slice(&20_u32.to_ne_bytes());
    refused[4..6].copy_from_slice(&2_u16.to_ne_bytes());
    let acknowledged = [&refused[..], &refused[..]].concat();
    refused[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
    [table.as_bytes(), &found, &refused, &acknowledged].map(|bytes| [&ends[..], bytes].concat()).to_vec()
}
