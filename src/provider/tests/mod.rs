//! Tests of the room as a whole: recognition by base URL and by host, overrides, recorded traffic, keys, limits.

mod keys;
mod limits;
mod recorded;

use http::Method;

use super::*;
use crate::call::KeyPlace;

fn base(catalog: &Catalog, method: Method, target: &str) -> Match {
    catalog.recognize_base_url(&method, target).unwrap_or_else(|e| panic!("{target}: {e}"))
}

fn upstream(found: &Match) -> String {
    format!("{}://{}:{}{}", found.scheme, found.host, found.port, found.path_and_query)
}

fn custom(id: &str, url: &str) -> ProviderOverride {
    ProviderOverride { id: id.into(), base_url: Some(url.parse().expect("a URL")), ..ProviderOverride::default() }
}

#[test]
fn base_url_targets() {
    let catalog = Catalog::embedded();
    let cases = [
        ("/openai/v1/chat/completions", "openai", "chat", "https://api.openai.com:443/v1/chat/completions"),
        // Bytes stay as they are, query and odd encodings included.
        ("/openai/v1/files/a%2Fb?x=%20&y", "openai", "files", "https://api.openai.com:443/v1/files/a%2Fb?x=%20&y"),
        ("/openai//v1/embeddings/", "openai", "embeddings", "https://api.openai.com:443//v1/embeddings/"),
        ("/openai", "openai", "other", "https://api.openai.com:443/"),
        ("/openai?a=b", "openai", "other", "https://api.openai.com:443/?a=b"),
        // An SDK whose base URL lacks the version.
        ("/anthropic/messages", "anthropic", "messages", "https://api.anthropic.com:443/v1/messages"),
        (
            "/anthropic/v1/messages?beta=true",
            "anthropic",
            "messages",
            "https://api.anthropic.com:443/v1/messages?beta=true",
        ),
        ("/openai/responses", "openai", "responses", "https://api.openai.com:443/v1/responses"),
        ("/groq/chat/completions", "groq", "chat", "https://api.groq.com:443/openai/v1/chat/completions"),
        (
            "/azure/my-res/openai/deployments/d/chat/completions?api-version=1",
            "azure_openai",
            "chat",
            "https://my-res.openai.azure.com:443/openai/deployments/d/chat/completions?api-version=1",
        ),
        (
            "/azure-foundry/my-res/anthropic/v1/messages",
            "azure_openai",
            "messages",
            "https://my-res.services.ai.azure.com:443/anthropic/v1/messages",
        ),
        (
            "/bedrock/us-east-1/model/a.b-v1%3A0/converse",
            "bedrock",
            "chat",
            "https://bedrock-runtime.us-east-1.amazonaws.com:443/model/a.b-v1%3A0/converse",
        ),
        (
            "/vertex/us-central1/v1/projects/p/locations/us-central1/publishers/google/models/m:generateContent",
            "vertex",
            "generate_content",
            "https://us-central1-aiplatform.googleapis.com:443/v1/projects/p/locations/us-central1/publishers/google/models/m:generateContent",
        ),
        (
            "/vertex/global/v1/publishers/google/models/m:generateContent",
            "vertex",
            "generate_content",
            "https://aiplatform.googleapis.com:443/v1/publishers/google/models/m:generateContent",
        ),
        ("/zai/api/paas/v4/chat/completions", "zhipu", "chat", "https://api.z.ai:443/api/paas/v4/chat/completions"),
        ("/ollama/api/chat", "ollama", "chat", "http://localhost:11434/api/chat"),
        (
            "/gemini/v1beta/models/g:streamGenerateContent?alt=sse&key=k",
            "gemini",
            "generate_content",
            "https://generativelanguage.googleapis.com:443/v1beta/models/g:streamGenerateContent?alt=sse&key=k",
        ),
    ];
    for (target, id, operation, up) in cases {
        let found = base(&catalog, Method::POST, target);
        assert_eq!((&*found.provider.id, found.operation.as_str()), (id, operation), "{target}");
        assert_eq!(upstream(&found), up, "{target}");
    }
}

#[test]
fn what_the_url_tells() {
    let catalog = Catalog::embedded();
    let azure = base(&catalog, Method::POST, "/azure/my-res/openai/deployments/my%20gpt/chat/completions");
    assert_eq!(azure.url_model.as_deref(), Some("my gpt"));
    assert_eq!(azure.account.as_deref(), Some("my-res.openai.azure.com"));
    let bedrock = base(
        &catalog,
        Method::POST,
        "/bedrock/us-east-1/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.x-v1%3A0/converse-stream",
    );
    assert_eq!(
        bedrock.url_model.as_deref(),
        Some("arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.x-v1:0")
    );
    assert_eq!((bedrock.account.as_deref(), bedrock.stream), (Some("123456789012"), Some(true)));
    let vertex = base(
        &catalog,
        Method::POST,
        "/vertex/eu/v1/projects/p-1/locations/eu/publishers/anthropic/models/claude@1:streamRawPredict",
    );
    assert_eq!(&*vertex.host, "aiplatform.eu.rep.googleapis.com");
    assert_eq!((vertex.account.as_deref(), vertex.url_model.as_deref()), (Some("p-1"), Some("claude@1")));
    assert_eq!((vertex.protocol, vertex.stream), (Protocol::AnthropicMessages, Some(true)));
    let get = base(&catalog, Method::GET, "/openai/v1/responses/resp_1");
    assert_eq!((get.repeats_usage, get.billed, get.protocol), (true, false, Protocol::OpenaiResponses));
    let batch = base(&catalog, Method::GET, "/anthropic/v1/messages/batches/b_1/results");
    assert_eq!((batch.operation, batch.repeats_usage, batch.billed), (Operation::Batch, true, false));
    let realtime = base(&catalog, Method::GET, "/openai/v1/realtime?model=gpt-realtime");
    assert_eq!((realtime.operation, realtime.url_model.as_deref()), (Operation::Realtime, Some("gpt-realtime")));
    let long = base(&catalog, Method::POST, &format!("/gemini/v1/models/{}:generateContent", "ä".repeat(500)));
    assert!(long.url_model.is_some_and(|model| model.len() <= 256));
    let hf = base(&catalog, Method::POST, "/huggingface/together/v1/chat/completions");
    assert_eq!(hf.price_as.as_deref(), Some("huggingface_together"));
    let zai = base(&catalog, Method::POST, "/zai/api/paas/v4/chat/completions");
    let zhipu = base(&catalog, Method::POST, "/zhipu/api/paas/v4/chat/completions");
    assert_eq!((zai.price_as.as_deref(), zhipu.price_as.as_deref()), (Some("zai"), Some("zhipuai")));
}

#[test]
fn operations_beyond_chat() {
    use Operation as O;
    let catalog = Catalog::embedded();
    let cases = [
        ("POST", "/openai/v1/responses/input_tokens", O::CountTokens, false),
        ("POST", "/openai/v1/completions", O::TextCompletion, true),
        ("POST", "/openai/v1/images/edits", O::Image, true),
        ("POST", "/openai/v1/audio/speech", O::Speech, true),
        ("POST", "/openai/v1/audio/translations", O::Transcription, true),
        ("POST", "/openai/v1/moderations", O::Moderation, false),
        ("POST", "/openai/v1/batches", O::Batch, false),
        ("GET", "/openai/v1/files/file-1/content", O::Files, false),
        ("GET", "/openai/v1/models/gpt", O::Models, false),
        ("POST", "/openai/v1/realtime/client_secrets", O::Realtime, false),
        ("POST", "/anthropic/v1/messages/count_tokens", O::CountTokens, false),
        ("POST", "/anthropic/v1/complete", O::TextCompletion, true),
        ("POST", "/gemini/v1beta/models/g:embedContent", O::Embeddings, true),
        ("POST", "/gemini/v1beta/models/imagen-4:predict", O::Image, true),
        ("POST", "/gemini/v1beta/models/g:countTokens", O::CountTokens, false),
        (
            "GET",
            "/gemini/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
            O::Realtime,
            true,
        ),
        ("POST", "/bedrock/eu-west-1/model/amazon.titan-embed-text-v2%3A0/invoke", O::Embeddings, true),
        ("POST", "/bedrock/eu-west-1/model/cohere.rerank-v3/invoke", O::Rerank, true),
        ("POST", "/bedrock/eu-west-1/openai/v1/chat/completions", O::Chat, true),
        ("POST", "/cohere/v2/rerank", O::Rerank, true),
        ("POST", "/cohere/compatibility/v1/chat/completions", O::Chat, true),
        ("POST", "/dashscope-intl/compatible-mode/v1/chat/completions", O::Chat, true),
        ("POST", "/dashscope/api/v1/services/aigc/text-generation/generation", O::Chat, true),
        ("POST", "/deepseek/anthropic/v1/messages", O::Messages, true),
        ("POST", "/minimax/v1/text/chatcompletion_v2", O::Chat, true),
        ("POST", "/fireworks/inference/v1/messages", O::Messages, true),
        ("POST", "/github-models/orgs/acme/inference/chat/completions", O::Chat, true),
        ("POST", "/openai/v1/no/such/thing", O::Other, false),
        ("POST", "/openai/v1/vector_stores", O::Other, false),
        ("OPTIONS", "/openai/v1/chat/completions", O::Other, false),
    ];
    for (method, target, operation, billed) in cases {
        let found = base(&catalog, method.parse().expect("method"), target);
        assert_eq!((found.operation, found.billed), (operation, billed), "{method} {target}");
    }
    assert_eq!(base(&catalog, Method::POST, "/openai/v1/no/such/thing").protocol, Protocol::Opaque);
}

#[test]
fn not_recognized_says_what_to_do() {
    let catalog = Catalog::embedded();
    let message = |target: &str| {
        let refused = catalog.recognize_base_url(&Method::POST, target).expect_err(target);
        let body: serde_json::Value = serde_json::from_slice(&refused.body()).expect("JSON");
        let known = body["error"]["known_prefixes"].as_array().expect("a list").clone();
        assert!(known.contains(&"openai".into()) && known.contains(&"azure".into()), "{known:?}");
        assert_eq!(body["error"]["message"], refused.message.as_str());
        refused.message
    };
    assert!(message("/v1/chat/completions").contains("/openai/v1"));
    assert!(message("/opanai/v1/chat/completions").contains("\"opanai\""));
    assert!(message("/").contains("names no provider"));
    assert!(message("").contains("names no provider"));
    assert!(message("no-slash").contains("names no provider"));
    // What looks like a key, or holds one in the query, is not repeated.
    assert!(!message("/sk-ant-madeup/v1?key=AIzaMadeUp").contains("madeup"));
    assert!(!message("/x?key=AIzaMadeUp").contains("AIza"));
    assert!(!message(&format!("/{}/v1", "s".repeat(40))).contains("sss"));
    for target in [
        "/azure",
        "/azure/openai/deployments/d/chat/completions",
        "/bedrock/model/m/converse",
        "/bedrock/evil.example%2F/model/m/converse",
        "/bedrock/evil.example/model/m/converse",
        "/bedrock/@x/model/m/converse",
        "/vertex/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
    ] {
        assert!(message(target).contains("next part of the path"), "{target}");
    }
}

#[test]
fn a_server_in_three_lines() {
    let vllm = ProviderOverride {
        protocol: Some(Protocol::OpenaiChat),
        price_as: Some(None),
        ..custom("my-vllm", "http://vllm:8000")
    };
    let versioned = custom("versioned", "https://llm.corp.example/team/v1/");
    let catalog = Catalog::build(&[vllm, versioned]).expect("valid");
    let found = base(&catalog, Method::POST, "/my-vllm/v1/chat/completions");
    assert_eq!(upstream(&found), "http://vllm:8000/v1/chat/completions");
    assert_eq!((found.operation, found.protocol, found.provider.local), (Operation::Chat, Protocol::OpenaiChat, true));
    assert_eq!(found.price_as, None);
    // A version in base_url, in the application's base URL, or in both, is sent once.
    for target in ["/versioned/v1/chat/completions", "/versioned/chat/completions"] {
        let found = base(&catalog, Method::POST, target);
        assert_eq!(upstream(&found), "https://llm.corp.example:443/team/v1/chat/completions");
        assert_eq!((found.operation, found.provider.local), (Operation::Chat, false));
    }
    let found = base(&catalog, Method::POST, "/versioned/v1/messages");
    assert_eq!(found.protocol, Protocol::AnthropicMessages);
    let by_host =
        catalog.recognize_host("LLM.corp.example.", 443, &Method::POST, "/team/v1/embeddings").expect("known");
    assert_eq!((&*by_host.provider.id, by_host.operation), ("versioned", Operation::Embeddings));
    assert_eq!(by_host.path_and_query, "/team/v1/embeddings");
}

#[test]
fn catalogued_providers_can_be_changed() {
    let openai = ProviderOverride { prefix: Some("oai".into()), ..custom("openai", "https://api.openai.com") };
    let anthropic =
        ProviderOverride { price_as: Some(Some("openrouter".into())), ..custom("anthropic", "http://gw:1/v1") };
    let mine = ProviderOverride {
        prefix: Some("openai".into()),
        auth: Some(vec![KeyPlace::ApiKey]),
        hosts: vec!["*.corp.example".into(), "localhost:7000".into()],
        protocol: Some(Protocol::AnthropicMessages),
        ca_file: Some("/tmp/ca.pem".into()),
        ..custom("mine", "https://one.example")
    };
    let catalog = Catalog::build(&[openai, anthropic, mine]).expect("valid");
    assert_eq!(&*base(&catalog, Method::POST, "/oai/v1/responses").provider.id, "openai");
    assert!(catalog.provider("openai").is_some_and(|p| p.cloud), "the same host again is still the cloud");
    let moved = |hosts: &[&str]| {
        let base_url = url::Url::parse("http://127.0.0.1:9999").ok();
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let openai = ProviderOverride { id: "openai".into(), base_url, hosts, ..ProviderOverride::default() };
        Catalog::build(&[openai]).expect("valid").provider("openai").is_some_and(|p| p.cloud)
    };
    assert!(!moved(&[]) && !moved(&["127.0.0.1:9998"]), "a stand-in may take any key");
    assert!(moved(&["127.0.0.1:9999"]), "config says that this host is the provider");
    let found = base(&catalog, Method::POST, "/anthropic/messages");
    assert_eq!((upstream(&found), found.price_as.as_deref()), ("http://gw:1/v1/messages".into(), Some("openrouter")));
    assert!(!found.provider.cloud);
    let found = base(&catalog, Method::POST, "/openai/v1/messages");
    assert_eq!((&*found.provider.id, found.protocol), ("mine", Protocol::AnthropicMessages));
    assert_eq!(found.provider.auth, [KeyPlace::ApiKey]);
    assert_eq!(found.provider.ca_file.as_deref(), Some(std::path::Path::new("/tmp/ca.pem")));
    let host = |host, port| catalog.recognize_host(host, port, &Method::GET, "/").map(|m| m.provider.id.to_string());
    assert_eq!(host("a.corp.example", 443).as_deref(), Some("mine"));
    assert_eq!(host("127.0.0.1", 7000).as_deref(), Some("mine"));
    assert_eq!(host("127.0.0.1", 7001), None);
    assert_eq!(host("api.anthropic.com", 443).as_deref(), Some("anthropic"));
    assert_eq!(host("api.openai.com.evil.example", 443), None);
}

#[test]
fn every_wrong_override_is_reported() {
    let with = |id: &str| ProviderOverride { id: id.into(), ..ProviderOverride::default() };
    let overrides = [
        with("Not An Id"),
        with("no-such-provider"),
        custom("ftp", "ftp://x.example"),
        custom("user", "https://me:secret@x.example"),
        custom("query", "https://x.example/?a=b"),
        ProviderOverride { prefix: Some("a/b".into()), ..with("groq") },
        ProviderOverride { prefix: Some("anthropic".into()), ..with("mistral") },
        ProviderOverride { hosts: vec!["*".into(), "api.groq.com".into()], ..with("cohere") },
        ProviderOverride { auth: Some(vec![]), price_as: Some(Some(String::new())), ..with("xai") },
        with("xai"),
    ];
    let errors = Catalog::build(&overrides).expect_err("all wrong");
    let seen: Vec<_> = errors.iter().map(|e| (e.index, e.field)).collect();
    for expected in [
        (0, "id"),
        (1, "base_url"),
        (2, "base_url"),
        (3, "base_url"),
        (4, "base_url"),
        (5, "prefix"),
        (6, "prefix"),
        (7, "hosts"),
        (8, "auth"),
        (8, "price_as"),
        (9, "id"),
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {errors:?}");
    }
    assert_eq!(seen.iter().filter(|(index, _)| *index == 7).count(), 2, "both hosts: {errors:?}");
    assert!(errors.iter().all(|e| !e.to_string().contains("secret")), "{errors:?}");
}

#[test]
fn hostile_targets_do_no_harm() {
    let catalog = Catalog::embedded();
    let seeds =
        ["/openai", "/azure/r", "/bedrock/us-east-1/model/", "/gemini/v1beta/models/", "/", "", "//", "?", "/%", "*"];
    let tails = [
        "",
        "/",
        "//////",
        "/%00",
        "/%ff%fe",
        "/%2e%2e/..",
        "/../../etc",
        ":generateContent",
        "/é\u{202e}",
        "?&&=&key",
        "?=%",
        "/{model}",
        "/**",
        "/models/:",
        "/model//converse",
        "#x",
        "/a?b?c=d",
    ];
    let long = "/x".repeat(100_000);
    for seed in seeds {
        for tail in tails.iter().copied().chain([long.as_str()]) {
            for method in [Method::GET, Method::POST, Method::from_bytes(b"X!").expect("a token")] {
                let target = format!("{seed}{tail}");
                if let Ok(found) = catalog.recognize_base_url(&method, &target) {
                    assert!(
                        found.path_and_query.starts_with(['/', '?', ':', '#', '%']) || found.path_and_query.is_ascii()
                    );
                    assert!(!found.host.contains(['/', '@', '%', '?', '#']), "{target}: {}", found.host);
                    let _ = format!("{found:?}");
                }
                let by_host = catalog.recognize_host("api.openai.com", 443, &method, &target);
                assert!(by_host.is_some_and(|found| found.path_and_query == target), "the path goes as it came");
                let _ = redact_query(&target);
            }
        }
    }
    for host in
        ["", ".", "..", "[::1]", "*", "a..b", "ä.example", "api.openai.com\0", "%61pi.openai.com", &"a.".repeat(5000)]
    {
        let _ = catalog.recognize_host(host, 0, &Method::GET, "/");
    }
    assert!(catalog.recognize_host("evil-api.openai.com.", 443, &Method::GET, "/").is_none());
}

#[test]
fn recognition_is_fast_enough_for_every_call() {
    let catalog = Catalog::embedded();
    let started = std::time::Instant::now();
    for _ in 0..2_000 {
        std::hint::black_box(base(&catalog, Method::POST, "/openai/v1/no/such/thing"));
    }
    // A generous ceiling for an unoptimised build: it catches a regex compiled, or a table built, on every call.
    let each = started.elapsed() / 2_000;
    assert!(each < std::time::Duration::from_micros(500), "{each:?} a call");
}
