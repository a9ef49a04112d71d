//! Where keys are found, what they are called, what is said of them. All keys are made up.

use http::header::{AUTHORIZATION, HeaderName, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue, Method};

use super::*;
use crate::call::{ApiKey, Finding, KeyFacts};

const CHAT: &str = "/openai/v1/chat/completions";
const MESSAGES: &str = "/anthropic/v1/messages";
const GENERATE: &str = "/gemini/v1beta/models/g:generateContent";
const AZURE: &str = "/azure/res/openai/deployments/d/chat/completions";
const BEDROCK: &str = "/bedrock/us-east-1/model/m/converse";
const VERTEX: &str = "/vertex/global/v1/projects/proj-1/locations/global/publishers/google/models/g:generateContent";

fn read(method: Method, target: &str, headers: &[(&str, &[u8])]) -> KeyFacts {
    let local = ProviderOverride { price_as: Some(None), ..custom("my-vllm", "http://vllm:8000") };
    let moved = custom("mistral", "http://litellm:4000");
    let catalog = Catalog::build(&[local, moved]).expect("valid");
    let found = base(&catalog, method.clone(), target);
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        map.append(name, HeaderValue::from_bytes(value).expect("a value"));
    }
    read_key(&found, &method, &map, target, b"")
}

fn bearer(key: &str) -> Vec<u8> {
    format!("Bearer {key}").into_bytes()
}

fn fingerprint(family: &str, key: &str) -> String {
    ApiKey::new(key.as_bytes()).fingerprint(family, b"").to_string()
}

fn openai_key() -> String {
    format!("sk-proj-{}T3BlbkFJ{}", "aB3_".repeat(18), "Zy9-".repeat(18))
}

#[test]
fn places_and_fingerprints() {
    use KeyPlace as P;
    let key = "made-up-key-1";
    let aws = b"AWS4-HMAC-SHA256 Credential=AKIAMADEUPMADEUPMADE/20260101/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=00".as_slice();
    let presigned =
        format!("{BEDROCK}?X-Amz-Credential=AKIAMADEUPMADEUPMADE%2F20260101%2Fus-east-1%2Fbedrock%2Faws4_request");
    let query = format!("{GENERATE}?alt=sse&%6Bey=made%2Dup-key-1");
    let cases: Vec<(&str, &str, Vec<u8>, P, &str)> = vec![
        (CHAT, "authorization", bearer(key), P::Bearer, "openai"),
        (CHAT, "authorization", b"bearer made-up-key-1".to_vec(), P::Bearer, "openai"),
        // ":made-up-key-1" and "made-up-key-1:" in base64.
        (CHAT, "authorization", b"Basic Om1hZGUtdXAta2V5LTE=".to_vec(), P::Basic, "openai"),
        (CHAT, "authorization", b"Basic bWFkZS11cC1rZXktMTo=".to_vec(), P::Basic, "openai"),
        (CHAT, "authorization", b"made-up-key-1".to_vec(), P::RawAuthorization, "openai"),
        (CHAT, "authorization", b"Token made-up-key-1".to_vec(), P::RawAuthorization, "openai"),
        (
            CHAT,
            "sec-websocket-protocol",
            b"realtime, openai-insecure-api-key.made-up-key-1".to_vec(),
            P::WebSocketProtocol,
            "openai",
        ),
        (MESSAGES, "x-api-key", key.into(), P::XApiKey, "anthropic"),
        (AZURE, "api-key", key.into(), P::ApiKey, "azure"),
        (AZURE, "ocp-apim-subscription-key", key.into(), P::SubscriptionKey, "azure"),
        (GENERATE, "x-goog-api-key", key.into(), P::XGoogApiKey, "google"),
        (&query, "x-nothing", b"-".to_vec(), P::Query, "google"),
    ];
    for (target, name, value, place, family) in cases {
        let facts = read(Method::POST, target, &[(name, &value)]);
        assert_eq!(facts.place, Some(place), "{target} {name}");
        let seen = facts.fingerprint.expect("a key").to_string();
        assert_eq!(seen, fingerprint(family, key), "{target} {name}");
        assert!(!facts.short_lived, "{target} {name}");
    }
    let signed = read(Method::POST, BEDROCK, &[("authorization", aws)]);
    let from_query = read(Method::POST, &presigned, &[]);
    assert_eq!(signed.fingerprint.as_ref().expect("a key").as_str(), fingerprint("aws", "AKIAMADEUPMADEUPMADE"));
    assert_eq!(signed.fingerprint, from_query.fingerprint);
    assert_eq!((signed.place, from_query.place), (Some(P::SigV4), Some(P::PresignedQuery)));
    assert_eq!((signed.findings, from_query.findings), (vec![], vec![]));
}

#[test]
fn a_unique_prefix_names_the_family_and_salt_changes_the_rest() {
    let key = openai_key();
    let facts = read(Method::POST, MESSAGES, &[("x-api-key", key.as_bytes())]);
    assert_eq!(facts.fingerprint.expect("a key").as_str(), fingerprint("openai", &key));
    assert_eq!(facts.findings, [Finding::KeyWrongProvider]);
    assert_eq!(key_family(b" gsk_madeup"), Some("groq"));
    assert_eq!(key_family(b"sk-madeup"), None, "sk- alone is shared");
    let catalog = Catalog::embedded();
    let found = base(&catalog, Method::POST, CHAT);
    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Bearer made-up"))]);
    let one = read_key(&found, &Method::POST, &headers, CHAT, b"salt").fingerprint;
    assert_eq!(one, Some(ApiKey::new(b"made-up".as_slice()).fingerprint("openai", b"salt")));
    assert_ne!(one, read_key(&found, &Method::POST, &headers, CHAT, b"").fingerprint);
}

#[test]
fn the_provider_s_own_place_wins() {
    let facts = read(Method::POST, AZURE, &[("authorization", b"Bearer one"), ("api-key", b"two")]);
    assert_eq!(facts.fingerprint.expect("a key").as_str(), fingerprint("azure", "two"));
    let facts = read(Method::POST, MESSAGES, &[("x-api-key", b""), ("authorization", b"Bearer one")]);
    assert_eq!((facts.place, facts.findings), (Some(KeyPlace::Bearer), vec![]));
}

#[test]
fn short_lived_credentials_belong_to_their_account() {
    let vertex = read(Method::POST, VERTEX, &[("authorization", b"Bearer ya29.made-up-one")]);
    let later = read(Method::POST, VERTEX, &[("authorization", b"Bearer ya29.made-up-two")]);
    assert!(vertex.short_lived && vertex.account.as_deref() == Some("proj-1"));
    assert_eq!(vertex.fingerprint, later.fingerprint);
    assert_eq!(vertex.fingerprint.expect("an identity").as_str(), fingerprint("google-account", "proj-1"));
    let short = |target, name, value: &[u8]| read(Method::POST, target, &[(name, value)]).short_lived;
    // {"exp":1}, {"sub":"x"}, not JSON; each between a header and a signature.
    assert!(short(AZURE, "authorization", b"Bearer eyJhbGciOiJub25lIn0.eyJleHAiOjF9.c2ln"));
    assert!(!short(
        "/minimax/v1/chat/completions",
        "authorization",
        b"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2ln"
    ));
    assert!(short(AZURE, "authorization", b"Bearer eyJhbGciOiJub25lIn0.!!!.c2ln"));
    assert!(short(MESSAGES, "authorization", b"Bearer sk-ant-oat01-madeup"));
    assert!(short(CHAT, "authorization", b"Bearer ek_madeup"));
    assert!(short(BEDROCK, "authorization", b"AWS4-HMAC-SHA256 Credential=ASIAMADEUPMADEUPMADE/x"));
    let session: &[(&str, &[u8])] =
        &[("authorization", b"AWS4-HMAC-SHA256 Credential=AKIAMADEUPMADEUPMADE/x"), ("x-amz-security-token", b"t")];
    assert!(read(Method::POST, BEDROCK, session).short_lived);
    assert!(!short(BEDROCK, "authorization", b"AWS4-HMAC-SHA256 Credential=AKIAMADEUPMADEUPMADE/x"));
}

#[test]
fn accounts_and_organizations() {
    let facts = read(
        Method::POST,
        CHAT,
        &[("authorization", b"Bearer k"), ("openai-organization", b"org-madeup"), ("openai-project", b"my project")],
    );
    assert_eq!((facts.organization.as_deref(), facts.project), (Some("org-madeup"), None), "names are no ids");
    let facts = read(Method::POST, "/huggingface/v1/chat/completions", &[("x-hf-bill-to", b"acme")]);
    assert_eq!(facts.account.as_deref(), Some("acme"));
    // The worked example of the article that found the encoding; the id is long dead.
    let aws = read(Method::POST, BEDROCK, &[("authorization", b"AWS4-HMAC-SHA256 Credential=ASIAQNZGKIQY56JQ7WML/x")]);
    assert_eq!(aws.account.as_deref(), Some("029608264753"));
    let old = read(Method::POST, BEDROCK, &[("authorization", b"AWS4-HMAC-SHA256 Credential=AKIAIMADEUPMADEUPMAD/x")]);
    assert_eq!(old.account, None);
}

/// Each finding: requests that have it, requests that almost do. Whether others hold too does not matter here.
#[test]
fn findings_and_their_guards() {
    use Finding as F;
    type Call<'c> = (&'c str, &'c [(&'c str, &'c [u8])]);
    let key = openai_key();
    let good = bearer(&key);
    let auth = |value: &'static [u8]| [("authorization", value)];
    let cut = bearer(&key[..60]);
    let anthropic_key = format!("sk-ant-api03-{}AA", "a_B9".repeat(23) + "x");
    let anthropic_bearer = bearer(&anthropic_key);
    let google_key = format!("AIza{}", "aB3-_".repeat(7));
    let google_bearer = bearer(&google_key);
    let azure_key = b"Bearer 0123456789abcdef0123456789abcdef".as_slice();
    let hf = b"Bearer hf_madeupmadeupmadeupmadeupmadeupmade".as_slice();
    let vllm = "/my-vllm/v1/chat/completions";
    let moved = "/mistral/v1/chat/completions";
    let ollama = "/ollama/api/chat";
    let gemini_openai = "/gemini/v1beta/openai/chat/completions";
    let query = format!("{GENERATE}?key={google_key}");
    let live = format!(
        "/gemini/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent?key={google_key}"
    );
    let space_in_query = format!("{GENERATE}?key={google_key}%0A");
    let cases: &[(F, &[Call], &[Call])] = &[
        (
            F::KeyWhitespace,
            &[
                (CHAT, &auth(b"Bearer  sk-madeup")),
                (CHAT, &auth(b"Bearer sk-made up")),
                (CHAT, &auth(b"Bearer sk-made\tup")),
                (MESSAGES, &[("x-api-key", b"sk-ant-madeup ")]),
                (&space_in_query, &[]),
            ],
            &[(CHAT, &[("authorization", &good)]), (CHAT, &auth(b"Bearer <your key here>"))],
        ),
        (
            F::KeyHiddenUnicode,
            &[(CHAT, &auth("Bearer sk-made\u{200b}up".as_bytes())), (CHAT, &auth(b"Bearer sk-made\xffup"))],
            &[(CHAT, &[("authorization", &good)])],
        ),
        (
            F::KeyQuoted,
            &[
                (CHAT, &auth(b"Bearer \"sk-madeup\"")),
                (CHAT, &auth(b"Bearer 'sk-madeup'")),
                (CHAT, &auth(b"Bearer `sk-madeup`")),
                (CHAT, &auth("Bearer “sk-madeup”".as_bytes())),
            ],
            &[(CHAT, &auth(b"Bearer 'sk-madeup")), (CHAT, &auth(b"Bearer \"")), (CHAT, &auth(b"Bearer sk'made'up"))],
        ),
        (
            F::KeyEmpty,
            &[
                (CHAT, &auth(b"Bearer")),
                (CHAT, &auth(b"Bearer   ")),
                (MESSAGES, &[("x-api-key", b"")]),
                ("/gemini/v1beta/models/g:generateContent?key=", &[]),
            ],
            &[(ollama, &auth(b"Bearer")), (vllm, &auth(b"Bearer ")), (moved, &auth(b"Bearer ")), (CHAT, &[])],
        ),
        (
            F::KeyMissing,
            &[(CHAT, &[]), (GENERATE, &[])],
            &[
                (ollama, &[]),
                (vllm, &[]),
                (moved, &[]),
                ("/openai/v1/moderations", &[]),
                ("/openai/v1/no/such/path", &[]),
                (CHAT, &auth(b"Bearer")),
                (&query, &[]),
            ],
        ),
        (
            F::KeyLiteralNull,
            &[
                (CHAT, &auth(b"Bearer undefined")),
                (CHAT, &auth(b"Bearer None")),
                (CHAT, &auth(b"Bearer NULL")),
                (CHAT, &auth(b"Bearer [object Object]")),
                (MESSAGES, &[("x-api-key", b"nil")]),
            ],
            &[(CHAT, &auth(b"Bearer nullable")), (CHAT, &auth(b"Bearer sk-none")), (vllm, &auth(b"Bearer none"))],
        ),
        (
            F::KeyUnexpanded,
            &[
                (CHAT, &auth(b"Bearer ${OPENAI_API_KEY}")),
                (CHAT, &auth(b"Bearer $OPENAI_API_KEY")),
                (CHAT, &auth(b"Bearer $(OPENAI_API_KEY)")),
                (CHAT, &auth(b"Bearer %OPENAI_API_KEY%")),
                (CHAT, &auth(b"Bearer {{ openai_key }}")),
                (CHAT, &auth(b"Bearer ${{ secrets.OPENAI_KEY }}")),
                (CHAT, &auth(b"Bearer <your-key>")),
                (CHAT, &auth(b"Bearer process.env.OPENAI_API_KEY")),
                (CHAT, &auth(b"Bearer os.environ/OPENAI_API_KEY")),
            ],
            &[
                (CHAT, &auth(b"Bearer sk-$MADE_UP")),
                (CHAT, &auth(b"Bearer $made-up")),
                (CHAT, &auth(b"Bearer %MADE")),
                (CHAT, &auth(b"Bearer sk-process.env.X")),
            ],
        ),
        (
            F::KeyPlaceholder,
            &[
                (CHAT, &auth(b"Bearer YOUR_API_KEY")),
                (CHAT, &auth(b"Bearer your-openai-key-here")),
                (CHAT, &auth(b"Bearer sk-your-api-key")),
                (CHAT, &auth(b"Bearer changeme")),
                (CHAT, &auth(b"Bearer sk-...")),
                (CHAT, &auth(b"Bearer sk-xxxxxxxxxxxx")),
                (CHAT, &auth(b"Bearer sk-proj-0000000000")),
                (CHAT, &auth(b"Bearer sk-****abcd")),
                (CHAT, &auth(b"Bearer EMPTY")),
                (CHAT, &auth(b"Bearer ollama")),
                (MESSAGES, &[("x-api-key", b"dummy")]),
            ],
            &[
                (CHAT, &auth(b"Bearer sk-0000a1b2c3d4e5f60718293a4b5c6d7e")),
                (CHAT, &auth(b"Bearer sk-contest")),
                (CHAT, &auth(b"Bearer yourmadeup")),
                (ollama, &auth(b"Bearer ollama")),
                (vllm, &auth(b"Bearer EMPTY")),
                (vllm, &auth(b"Bearer dummy")),
                (CHAT, &[("authorization", &good)]),
            ],
        ),
        (
            F::KeyDoubleScheme,
            &[
                (CHAT, &auth(b"Bearer Bearer sk-madeup")),
                (CHAT, &auth(b"Bearer basic sk-madeup")),
                (CHAT, &auth(b"Bearer Authorization: sk-madeup")),
                (MESSAGES, &[("x-api-key", b"Bearer sk-ant-madeup")]),
            ],
            &[(CHAT, &auth(b"Bearer bearersk-madeup")), (CHAT, &[("authorization", &good)])],
        ),
        (
            F::KeyIsUrlOrProse,
            &[(CHAT, &auth(b"Bearer https://api.example.com")), (CHAT, &auth(b"Bearer ask the team lead"))],
            &[(CHAT, &auth(b"Bearer eyJ a b c://")), (CHAT, &auth(b"Bearer one blank"))],
        ),
        (
            F::KeyWrongProvider,
            &[
                (CHAT, &[("authorization", &anthropic_bearer)]),
                (CHAT, &auth(hf)),
                (MESSAGES, &[("authorization", &google_bearer)]),
                (AZURE, &[("authorization", &good)]),
                (CHAT, &auth(b"AWS4-HMAC-SHA256 Credential=AKIAMADEUPMADEUPMADE/x")),
                (VERTEX, &[("x-api-key", b"gsk_madeup")]),
            ],
            &[
                (CHAT, &[("authorization", &good)]),
                ("/deepseek/chat/completions", &auth(b"Bearer sk-0000a1b2c3d4e5f60718293a4b5c6d7e")),
                (vllm, &auth(hf)),
                (moved, &auth(hf)),
                (ollama, &auth(hf)),
                ("/portkey/v1/chat/completions", &auth(hf)),
                (VERTEX, &[("x-goog-api-key", google_key.as_bytes())]),
            ],
        ),
        (
            F::KeyWrongPlace,
            &[
                (MESSAGES, &[("x-api-key", b"sk-ant-oat01-madeup")]),
                (MESSAGES, &[("authorization", &anthropic_bearer)]),
                (GENERATE, &[("authorization", &google_bearer)]),
                (AZURE, &auth(azure_key)),
            ],
            &[
                ("/anthropic/v1/chat/completions", &[("authorization", &anthropic_bearer)]),
                (MESSAGES, &auth(b"Bearer sk-ant-oat01-madeup")),
                (gemini_openai, &[("authorization", &google_bearer)]),
                ("/azure/res/openai/v1/chat/completions", &auth(azure_key)),
                (AZURE, &auth(b"Bearer eyJhbGciOiJub25lIn0.eyJleHAiOjF9.c2ln")),
                ("/xai/v1/messages", &auth(b"Bearer xai-madeup")),
            ],
        ),
        (
            F::KeyTruncated,
            &[(CHAT, &[("authorization", &cut)]), (GENERATE, &[("x-goog-api-key", b"AIzaMadeUp")])],
            &[
                (CHAT, &[("authorization", &good)]),
                (CHAT, &auth(b"Bearer sk-proj-xxxxxxxx")),
                (CHAT, &auth(b"Bearer sk-short")),
                (MESSAGES, &[("x-api-key", b"sk-ant-oat01-short")]),
            ],
        ),
        (
            F::KeyInUrl,
            &[
                (&query, &[]),
                ("/openai/v1/models?api_key=made-up", &[]),
                ("/azure/res/openai/v1/models?subscription-key=made-up", &[]),
                ("/openai/v1/models?Access_Token=made-up", &[]),
            ],
            &[(&live, &[]), (GENERATE, &[]), ("/gemini/v1beta/models?key=", &[]), ("/openai/v1/models?monkey=x", &[])],
        ),
        (
            F::KeyInBrowser,
            &[
                (CHAT, &[("authorization", &good), ("origin", b"https://app.example")]),
                (MESSAGES, &[("x-api-key", b"sk-ant-madeup"), ("anthropic-dangerous-direct-browser-access", b"true")]),
                ("/openai/v1/realtime", &[("sec-websocket-protocol", b"openai-insecure-api-key.sk-madeup")]),
            ],
            &[
                (CHAT, &[("authorization", &good)]),
                (CHAT, &[("authorization", &good), ("origin", b"null")]),
                (CHAT, &[("authorization", &good), ("origin", b"file://")]),
                (CHAT, &[("authorization", &good), ("origin", b"chrome-extension://abc")]),
                (CHAT, &[("authorization", &good), ("origin", b"http://localhost:3000")]),
                (CHAT, &[("authorization", &good), ("origin", b"http://127.0.0.1:4141")]),
                (CHAT, &[("authorization", &good), ("origin", b"https://api.openai.com")]),
                (CHAT, &[("authorization", b"Bearer ek_madeup"), ("origin", b"https://app.example")]),
                ("/openai/v1/realtime", &[("sec-websocket-protocol", b"openai-insecure-api-key.ek_madeup")]),
            ],
        ),
        (
            F::AdminKeyOnDataPath,
            &[(CHAT, &auth(b"Bearer sk-admin-madeup")), (MESSAGES, &[("x-api-key", b"sk-ant-admin01-madeup")])],
            &[("/openai/v1/organization/costs", &auth(b"Bearer sk-admin-madeup")), (CHAT, &[("authorization", &good)])],
        ),
        (
            F::BothAuthHeaders,
            &[
                (MESSAGES, &[("x-api-key", b"sk-ant-one"), ("authorization", b"Bearer sk-ant-two")]),
                (&query, &[("x-goog-api-key", b"AIzaOther")]),
            ],
            &[
                (MESSAGES, &[("x-api-key", b"sk-ant-one"), ("authorization", b"Bearer sk-ant-one")]),
                (MESSAGES, &[("x-api-key", b"sk-ant-one"), ("authorization", b"Bearer ")]),
                (AZURE, &[("api-key", b"made-up"), ("ocp-apim-subscription-key", b"other")]),
            ],
        ),
    ];
    for (finding, yes, no) in cases {
        for (target, headers) in *yes {
            let seen = read(method_of(target), target, headers).findings;
            assert!(seen.contains(finding), "{finding} missing for {}: {seen:?}", show(target, headers));
        }
        for (target, headers) in *no {
            let seen = read(method_of(target), target, headers).findings;
            assert!(!seen.contains(finding), "{finding} wrongly for {}", show(target, headers));
        }
    }
    let covered = cases.len();
    let stateful =
        [F::OrgHeaderSet, F::StaleKey, F::OldKeyStillUsed, F::SharedKey, F::QuantisedBurst, F::RetryStorm, F::IdleKey];
    assert_eq!(covered + stateful.len(), F::ALL.len(), "a new finding needs a row");
}

fn method_of(target: &str) -> Method {
    if target.contains("/ws/") || target.contains("/models?") || target.ends_with("/realtime") {
        Method::GET
    } else {
        Method::POST
    }
}

fn show(target: &str, headers: &[(&str, &[u8])]) -> String {
    let text: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v))).collect();
    format!("{target} {text:?}")
}

#[test]
fn a_missing_key_is_no_finding_for_preflights() {
    assert_eq!(read(Method::OPTIONS, CHAT, &[]).findings, []);
    assert_eq!(read(Method::HEAD, "/openai/v1/realtime", &[]).findings, []);
    assert_eq!(read(Method::GET, "/openai/v1/realtime", &[]).findings, [Finding::KeyMissing]);
}

#[test]
fn clean_keys_have_no_findings() {
    let openai = bearer(&openai_key());
    let cases: &[(&str, &str, &[u8])] = &[
        (CHAT, "authorization", &openai),
        (CHAT, "authorization", b"Bearer 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"),
        ("/deepseek/chat/completions", "authorization", b"Bearer sk-0000a1b2c3d4e5f60718293a4b5c6d7e"),
        (AZURE, "api-key", b"0123456789abcdef0123456789abcdef"),
        ("/mistral/v1/chat/completions", "authorization", b"Bearer aB3dE5gH7jK9lM1nO3pQ5rS7tU9vW1xY"),
        (VERTEX, "authorization", b"Bearer ya29.made-up"),
        ("/github-copilot/chat/completions", "authorization", b"Bearer tid=madeup;exp=1;sku=x"),
        (
            "/zai/api/paas/v4/chat/completions",
            "authorization",
            b"Bearer 0123456789abcdef0123456789abcdef.aB3dE5gH7jK9lM1n",
        ),
    ];
    for (target, name, value) in cases {
        assert_eq!(read(Method::POST, target, &[(name, value)]).findings, [], "{target}");
    }
}

#[test]
fn hostile_headers_do_no_harm() {
    let catalog = Catalog::embedded();
    let long = vec![b'a'; 1 << 16];
    let values: Vec<Vec<u8>> = vec![
        vec![],
        b"Bearer".to_vec(),
        b" ".to_vec(),
        b"\t\t".to_vec(),
        vec![0xff; 300],
        "Bearer \u{201c}\u{201d}\u{2026}é".into(),
        "sk-\u{2026}".into(),
        b"Basic !!!".to_vec(),
        b"Basic".to_vec(),
        b"AWS4-HMAC-SHA256".to_vec(),
        b"AWS4-HMAC-SHA256 Credential=".to_vec(),
        b"AWS4-HMAC-SHA256 Credential=AKIA".to_vec(),
        b"AWS4-HMAC-SHA256 Credential=AKIA\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff/x".to_vec(),
        b"Bearer eyJ..".to_vec(),
        b"Bearer eyJ.eyJ.eyJ.eyJ".to_vec(),
        [b"Bearer ".as_slice(), &long].concat(),
        [b"Basic ".as_slice(), &long].concat(),
        [b"Bearer eyJ.".as_slice(), &long, b".x"].concat(),
        b"openai-insecure-api-key.".to_vec(),
        b",,,openai-insecure-api-key.,".to_vec(),
    ];
    let names = [AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, ORIGIN, HeaderName::from_static("x-api-key")];
    for target in
        [CHAT, MESSAGES, GENERATE, AZURE, BEDROCK, VERTEX, "/openai/?key=%ff%fe&&&=&key&api_key=%", "/openai?"]
    {
        let found = base(&catalog, Method::POST, target);
        for value in &values {
            let mut headers = HeaderMap::new();
            for name in &names {
                for _ in 0..6 {
                    headers.append(name.clone(), HeaderValue::from_bytes(value).expect("no line ends"));
                }
            }
            let facts = read_key(&found, &Method::POST, &headers, target, b"");
            assert!(facts.findings.len() <= Finding::ALL.len());
        }
    }
}

#[test]
fn nothing_shows_a_key() {
    let canary = "sk-proj-CANARYCANARYCANARY";
    let target =
        format!("/gemini/v1beta/models/g:generateContent?alt=sse&key={canary}&k%65y={canary}&token={canary}&sig=x");
    let catalog = Catalog::embedded();
    let found = base(&catalog, Method::POST, &target);
    let headers =
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {canary}")).expect("value"))]);
    let facts = read_key(&found, &Method::POST, &headers, &target, b"");
    assert!(facts.fingerprint.is_some());
    for text in [format!("{found:?}"), format!("{facts:?}"), redact_query(&target)] {
        assert!(!text.contains("CANARY"), "{text}");
    }
    assert_eq!(
        redact_query("/v1/x?alt=sse&key=k&%6Bey=k&Stream=true&flag&"),
        "/v1/x?alt=sse&key=REDACTED&%6Bey=REDACTED&Stream=true&flag&"
    );
    assert_eq!(redact_query(&format!("/a/{canary}/b")), "/a/REDACTED/b");
    assert_eq!(redact_query(&format!("/a?{canary}")), "/a?REDACTED");
    assert_eq!(redact_query("/v1/chat/completions"), "/v1/chat/completions");
}

#[test]
fn further_credentials_are_known_by_fingerprint_and_length() {
    let (first, second) = (&b"sk-ant-made-up-first"[..], &b"made-up-second-without-a-family"[..]);
    let bearer = [b"Bearer ", second].concat();
    let facts = read(Method::POST, MESSAGES, &[("x-api-key", first), ("authorization", &bearer)]);
    let second = (fingerprint("anthropic", "made-up-second-without-a-family").parse().unwrap(), second.len());
    assert_eq!(facts.others, [second]);
    assert_eq!(facts.fingerprint.unwrap().to_string(), fingerprint("anthropic", "sk-ant-made-up-first"));

    // An account stands for a token that will expire; the token is told from names all the same.
    let target = VERTEX;
    let facts = read(Method::POST, target, &[("authorization", b"Bearer ya29.made-up-token")]);
    assert!(facts.short_lived && facts.account.is_some(), "{facts:?}");
    assert_eq!(facts.others.len(), 1);
    assert_eq!(facts.others[0].1, "ya29.made-up-token".len());

    let many: Vec<_> = (0..20).map(|n| format!("key=made-up-{n}")).collect();
    let facts = read(Method::POST, &format!("{CHAT}?{}", many.join("&")), &[("authorization", b"Bearer sk-made-up")]);
    assert_eq!(facts.others.len(), KeyFacts::MAX_OTHERS);
}
