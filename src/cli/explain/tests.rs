//! Errors as people paste them, and what is told of them.

use std::sync::LazyLock;

use super::*;

const OPENAI: &str = r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;

static BUILT: LazyLock<(Catalog, Rules)> = LazyLock::new(|| (Catalog::embedded(), Rules::embedded()));

fn told(text: &str, known: &Known) -> Explanation {
    explain(text, known, &BUILT.0, &BUILT.1)
}

fn plain(text: &str) -> Explanation {
    told(text, &Known::default())
}

#[test]
fn bodies_heads_and_transcripts_are_the_same_answer() {
    let python = "Traceback (most recent call last):\n  File \"app.py\", line 3, in <module>\n    client.chat()\n  File \"openai/_base_client.py\", line 1, in request\n    raise self._make_status_error_from_response(err.response) from None\nopenai.RateLimitError: Error code: 429 - {'error': {'message': \"You exceeded your current quota, please check your plan and billing details.\", 'type': 'insufficient_quota', 'param': None, 'code': 'insufficient_quota'}}\n";
    let node = "RateLimitError: 429 You exceeded your current quota, please check your plan and billing details.\n    at APIError.generate (file:///app/node_modules/openai/core/error.mjs:71:20)\n    at process.processTicksAndRejections (node:internal/process/task_queues:105:5) {\n  status: 429,\n  headers: Headers { 'retry-after': '20', date: 'Fri' },\n  requestID: 'req_madeup',\n  error: {\n    message: 'You exceeded your current quota, please check ' +\n      'your plan and billing details.',\n    type: 'insufficient_quota',\n    param: null,\n    code: 'insufficient_quota'\n  },\n  code: 'insufficient_quota',\n  param: null,\n  type: 'insufficient_quota'\n}\n";
    let vercel = format!(
        "AI_APICallError: You exceeded your current quota\n  at x {{\n  cause: undefined,\n  url: 'https://api.openai.com/v1/responses',\n  requestBodyValues: {{ model: 'gpt-4o', input: [ [Object] ] }},\n  statusCode: 429,\n  responseHeaders: {{ 'content-type': 'application/json', 'x-request-id': 'req_madeup' }},\n  responseBody: '{OPENAI}',\n  isRetryable: true,\n  data: {{ error: {{ message: 'x' }} }},\n  [Symbol(vercel.ai.error)]: true\n}}"
    );
    let head = "HTTP/2 429 \ncontent-type: application/json\nx-request-id: req_madeup\n";
    for (text, status) in [
        (OPENAI.to_owned(), None),
        (format!("{head}\n{OPENAI}"), Some(429)),
        (format!("{}\r\n{OPENAI}\r\n", head.replace('\n', "\r\n")), Some(429)),
        (format!("HTTP/1.1 200 Connection established\r\n\r\n{head}\n{OPENAI}"), Some(429)),
        (format!("* Trying 1.2.3.4:443...\n> POST /v1/chat HTTP/2\n> authorization: Bearer sk-made-up\n>\n< HTTP/2 429\n< content-type: application/json\n<\n{OPENAI}\n* Connection #0 left intact"), Some(429)),
        (python.to_owned(), Some(429)),
        (node.to_owned(), Some(429)),
        (vercel, Some(429)),
        (format!("litellm.exceptions.RateLimitError: litellm.RateLimitError: RateLimitError: OpenAIException - {OPENAI}"), None),
        (format!("litellm.RateLimitError: AnthropicException - b'{OPENAI}'"), None),
        ("litellm.RateLimitError: RateLimitError: OpenAIException - You exceeded your current quota, please check your plan and billing details.".to_owned(), Some(429)),
        ("\u{1b}[31mopenai.RateLimitError: Error code: 429 - {'error': {'message': 'You exceeded your current quota', 'code': 'insufficient_quota'}}\u{1b}[0m".to_owned(), Some(429)),
        (format!("langchain run failed: Error code: 429 - {}", OPENAI.replace("null", "None").replace('"', "'")), Some(429)),
    ] {
        let told = plain(&text);
        let verdict = &told.explained.verdict;
        assert_eq!(verdict.outcome, Outcome::CreditExhausted, "{text}\n{}", told.text());
        assert_eq!(told.given.status, status, "{text}");
    }
    let told = plain(node);
    assert_eq!(
        (told.given.provider.as_deref(), told.given.retry_after),
        (Some("openai"), Some(Duration::from_secs(20)))
    );
    let text = plain(OPENAI).text();
    assert!(text.contains("or else     spend_limit_reached"), "both meanings are told:\n{text}");
    assert!(text.contains("monthly limit") && text.contains("insufficient_quota"), "{text}");
}

#[test]
fn what_sdks_print_is_read() {
    for (text, outcome, provider) in [
        (
            "anthropic.AuthenticationError: Error code: 401 - {'type': 'error', 'error': {'type': 'authentication_error', 'message': 'invalid x-api-key'}, 'request_id': 'req_011madeup'}",
            Outcome::AuthInvalid,
            Some("anthropic"),
        ),
        (
            "anthropic.BadRequestError: Error code: 400 - {'type': 'error', 'error': {'type': 'invalid_request_error', 'message': 'Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.'}}",
            Outcome::CreditExhausted,
            Some("anthropic"),
        ),
        (
            "google.genai.errors.ClientError: 400 INVALID_ARGUMENT. {'error': {'code': 400, 'message': 'API key not valid. Please pass a valid API key.', 'status': 'INVALID_ARGUMENT', 'details': [{'@type': 'type.googleapis.com/google.rpc.ErrorInfo', 'reason': 'API_KEY_INVALID', 'domain': 'googleapis.com'}]}}",
            Outcome::AuthInvalid,
            Some("gemini"),
        ),
        (
            "google.api_core.exceptions.ResourceExhausted: 429 Quota exceeded for quota metric 'Generate Content API requests per minute' and limit 'GenerateContent request limit per minute for a region' of service 'generativelanguage.googleapis.com'",
            Outcome::RateLimitRequests,
            Some("gemini"),
        ),
        (
            "mistralai.models.sdkerror.SDKError: API error occurred: Status 401\n{\"detail\":\"Unauthorized\"}",
            Outcome::AuthInvalid,
            Some("mistral"),
        ),
        (
            "cohere.errors.too_many_requests_error.TooManyRequestsError: headers: {'content-type': 'application/json'}, status_code: 429, body: {'message': 'You are using a Trial key, which is limited to 10 API calls / minute.'}",
            Outcome::RateLimitRequests,
            Some("cohere"),
        ),
        (
            "botocore.errorfactory.ThrottlingException: An error occurred (ThrottlingException) when calling the Converse operation (reached max retries: 4): Too many tokens, please wait before trying again.",
            Outcome::RateLimitTokens,
            Some("bedrock"),
        ),
        (
            "botocore.exceptions.ClientError: An error occurred (UnrecognizedClientException) when calling the InvokeModel operation: The security token included in the request is invalid.",
            Outcome::AuthInvalid,
            Some("bedrock"),
        ),
        (
            "groq.RateLimitError: Error code: 429 - {'error': {'message': 'Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_madeup` service tier `on_demand` on tokens per minute (TPM): Limit 12000, Used 11000, Requested 2000. Please try again in 5s. Need more tokens? https://console.groq.com/settings/billing', 'type': 'tokens', 'code': 'rate_limit_exceeded'}}",
            Outcome::RateLimitTokens,
            Some("groq"),
        ),
        (
            "ThrottlingException: Too many requests, please wait before trying again.\n    at de_ThrottlingExceptionRes (x.js:1) {\n  '$fault': 'client',\n  '$retryable': undefined,\n  '$metadata': {\n    httpStatusCode: 429,\n    requestId: 'madeup',\n    attempts: 3\n  }\n}",
            Outcome::RateLimitRequests,
            Some("bedrock"),
        ),
        (
            "litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: OpenAIException - This model's maximum context length is 8192 tokens. However, your messages resulted in 9034 tokens.",
            Outcome::InputTooLarge,
            Some("openai"),
        ),
        (
            "litellm.exceptions.AuthenticationError: litellm.AuthenticationError: AnthropicException - {\"type\":\"error\",\"error\":{\"type\":\"authentication_error\",\"message\":\"invalid x-api-key\"}}",
            Outcome::AuthInvalid,
            Some("anthropic"),
        ),
        (
            "openai.InternalServerError: <html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>",
            Outcome::GatewayError,
            Some("openai"),
        ),
        (
            "NotFoundError: 404 The model `gpt-9` does not exist or you do not have access to it.\n    at x {\n  status: 404,\n  error: { message: 'The model `gpt-9` does not exist or you do not have access to it.', type: 'invalid_request_error', param: null, code: 'model_not_found' }\n}",
            Outcome::ModelUnavailable,
            Some("openai"),
        ),
        (
            "[GoogleGenerativeAI Error]: Error fetching from https://generativelanguage.googleapis.com/v1beta/models/gemini-2.0-flash:generateContent: [503 Service Unavailable] The model is overloaded. Please try again later.",
            Outcome::ProviderOverloaded,
            Some("gemini"),
        ),
        (
            "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://api.openai.com/v1/models",
            Outcome::AuthInvalid,
            Some("openai"),
        ),
    ] {
        let told = plain(text);
        assert_eq!(told.explained.verdict.outcome, outcome, "{text}\n{}", told.text());
        assert_eq!(told.given.provider.as_deref(), provider, "{text}\n{}", told.text());
    }
}

#[test]
fn nobody_answered() {
    for (text, fix) in [
        (
            "TypeError: fetch failed\n    at node:internal {\n  [cause]: Error: getaddrinfo ENOTFOUND api.openai.com\n      at x {\n    errno: -3008,\n    code: 'ENOTFOUND',\n    syscall: 'getaddrinfo',\n    hostname: 'api.openai.com'\n  }\n}",
            "dns",
        ),
        (
            "httpx.ConnectError: [Errno -2] Name or service not known\n\nThe above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\nopenai.APIConnectionError: Connection error.",
            "dns",
        ),
        ("curl: (7) Failed to connect to api.openai.com port 443: Connection refused", "connect"),
        (
            "httpx.ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate in certificate chain (_ssl.c:1000)",
            "tls",
        ),
        ("openai.APITimeoutError: Request timed out.", "read_timeout"),
        ("Error: socket hang up\n    code: 'ECONNRESET'", "reset"),
        (
            "urllib3.exceptions.ProxyError: ('Unable to connect to proxy', OSError('Tunnel connection failed: 403 Forbidden'))",
            "upstream_proxy",
        ),
        ("openai.APIConnectionError: Connection error.", "connect"),
    ] {
        let told = plain(text);
        let verdict = &told.explained.verdict;
        assert_eq!((verdict.outcome, &*verdict.first_fix), (Outcome::NetworkError, fix), "{text}\n{}", told.text());
    }
    let told = plain(
        "httpx.RemoteProtocolError: peer closed connection without sending complete message body (incomplete chunked read)",
    );
    assert_eq!(told.explained.verdict.outcome, Outcome::StreamTruncated);
}

#[test]
fn ordinary_answers_are_no_errors() {
    for text in [
        r#"{"id":"x","choices":[{"message":{"content":"invalid api key"}}],"usage":{}}"#,
        "HTTP/1.1 200 OK\ncontent-type: application/json\n\n{\"content\":[{\"type\":\"text\",\"text\":\"rate limit\"}]}",
        "data: {\"choices\":[{\"delta\":{\"content\":\"error\"}}]}\n\ndata: [DONE]\n\n",
    ] {
        assert_eq!(plain(text).explained.verdict.outcome, Outcome::Ok, "{text}");
    }
}

#[test]
fn what_is_given_counts_more_than_what_is_read() {
    let known = Known { status: Some(503), ..Known::default() };
    assert_eq!(told("anything", &known).explained.verdict.outcome, Outcome::ProviderOverloaded);
    let headers = Some("HTTP/1.1 429 Too Many Requests\nx-ratelimit-remaining-tokens: 0\nretry-after: 7\n".to_owned());
    let told = told("{}", &Known { headers, ..Known::default() });
    assert_eq!(told.explained.verdict.outcome, Outcome::RateLimitTokens);
    assert_eq!(told.given.retry_after, Some(Duration::from_secs(7)));
    assert!(told.text().contains("header: x-ratelimit-remaining-tokens: 0"), "{}", told.text());
}

#[test]
fn pasted_secrets_are_not_repeated() {
    let key = "sk-proj-madeupMADEUP0123456789madeupMADEUP0123456789";
    let google = "AIzaMadeUpMadeUpMadeUpMadeUpMadeUpMade0";
    let aws = "AKIAMADEUPMADEUPMADE";
    for key in [key, google, aws] {
        for text in [
            format!(
                "{{\"error\":{{\"message\":\"Incorrect API key provided: {key}. You can find it\",\"code\":\"invalid_api_key\"}}}}"
            ),
            format!(
                "{{\"error\":{{\"message\":\"Permission denied: Consumer 'api_key:{key}' has been suspended.\",\"code\":403}}}}"
            ),
            format!(
                "openai.AuthenticationError: Error code: 401 - {{'error': {{'message': 'Incorrect API key provided: {key}', 'code': '{key}', 'type': '{key}'}}}}"
            ),
            format!("Incorrect API key {key}"),
            format!(
                "HTTP/1.1 401 Unauthorized\nwww-authenticate: Bearer {key}\nx-ratelimit-remaining-tokens: {key}\n\nkey {key} is wrong"
            ),
            format!(
                "curl -H 'Authorization: Bearer {key}' https://api.openai.com\n< HTTP/2 401\n< set-cookie: {key}\n<\n{{\"error\":{{\"message\":\"{key}\"}}}}"
            ),
            format!("{{\"error\":\"{{\\\"message\\\":\\\"Invalid API Key {key}\\\"}}\"}}"),
        ] {
            let told = plain(&text);
            for shown in [told.text(), told.json().to_string(), format!("{told:?}")] {
                let lower = shown.to_lowercase();
                assert!(!lower.contains(&key.to_lowercase()[4..16]), "{text}\n{shown}");
            }
        }
    }
}

/// No text may panic, hang or be slow.
#[test]
fn hostile_texts() {
    let mut texts = vec![
        String::new(),
        "\u{feff}".into(),
        "[".repeat(260_000),
        "{'a':".repeat(5_000),
        "Error code: 429 - ".repeat(1_000),
        "HTTP/1.1 429 x\n".repeat(2_000),
        "< HTTP/2 429\n".repeat(2_000),
        "a.b.c.d.".repeat(3_000),
        "data: {\n".repeat(3_000),
        "{\"error\":\"{\\\"error\\\":".repeat(1_000),
        "Traceback (most recent call last)\nFooError: ".repeat(500),
    ];
    texts.push(format!("{{\"status\":429,\"error\":{}1{}}}", "[".repeat(100), "]".repeat(100)));
    for text in &texts {
        let told = plain(text);
        assert!(told.text().len() < 8_000, "{}", told.text().len());
    }
    let text =
        "AI_APICallError: x {\n statusCode: 429,\n responseHeaders: { 'é': 'ü' },\n responseBody: '{\"error\":1}' }";
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        plain(&text[..end]);
    }
}

/// Found by fuzzing: a provider's words may hold what a terminal obeys.
#[test]
fn nothing_that_a_terminal_obeys_is_shown() {
    let bodies = [
        "{\"error\":{\"code\":\"rate\\u001b[2J\\u007f_limit\",\"type\":\"x\\u009b31m\",\"message\":\"slow \\u001b]0;title\\u0007 down\"}}",
        "\u{1b}[31mError: 429 Too Many Requests \u{202e}",
    ];
    for body in bodies {
        let known = Known { status: Some(429), ..Known::default() };
        let found = explain(body, &known, &Catalog::embedded(), &Rules::embedded());
        let shown = found.text();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n') && !shown.contains('\u{202e}'), "{shown:?}");
        let codes = [&found.explained.verdict.error_code, &found.explained.verdict.error_type];
        assert!(!codes.into_iter().flatten().any(|code| code.contains(char::is_control)), "{codes:?}");
    }
}
