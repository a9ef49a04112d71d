//! The built-in price book against the package that it was made from, and costs that no count of tokens gives.

use std::path::Path;
use std::process::Command;

use keytally::demo::simulator::{Answer, Simulator};
use serde_json::json;

use crate::support::client::post_json;
use crate::support::{Sidecar, skip, tool};

#[test]
fn the_price_book_is_what_its_package_makes_it() {
    let Some(python) = tool("venv/bin/python").filter(|_| tool("venv/bin/genai-prices").is_some()) else {
        return skip("the Python package genai-prices");
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/meter/price/renew.py");
    let checked = Command::new(python).arg(script).arg("--check").output().expect("runs");
    let said = format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(checked.status.success(), "{said}");
    assert!(said.starts_with("genai-prices "), "{said}");
}

#[tokio::test]
async fn pages_headers_and_what_has_no_price() {
    let provider = Simulator::start(|received| match received.head.uri.path() {
        "/v1/ocr" => {
            let pages = json!({"pages": [], "model": "mistral-ocr-2505", "usage_info": {"pages_processed": 3, "doc_size_bytes": 9}});
            Answer::new(200, "application/json", pages.to_string())
        }
        "/v1/video_generation" => Answer::new(200, "application/json", "{\"task_id\":\"made-up\"}"),
        path => {
            let chat = json!({"id": format!("chatcmpl-made-up-{path}"), "object": "chat.completion", "model": "our-own-name",
                "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}});
            let cost = if path.starts_with("/v1") { "None" } else { "3.9e-06" };
            Answer::new(200, "application/json", chat.to_string()).header("x-litellm-response-cost", cost)
        }
    });
    let provider = provider.await.expect("a free port");
    let at = provider.address();
    let sidecar = Sidecar::start(&format!(
        "providers: {{ mistral: {{ base_url: \"http://{at}\" }}, litellm: {{ base_url: \"http://{at}\" }}, \
         minimax: {{ base_url: \"http://{at}\" }} }}"
    ));
    let mut told = Vec::new();
    for target in
        ["/mistral/v1/ocr", "/litellm/chat/completions", "/litellm/v1/chat/completions", "/minimax/v1/video_generation"]
    {
        let answer = post_json(sidecar.proxy, target, "made-up-key", "{\"model\":\"a-model\"}").await;
        assert_eq!(answer.head.status, 200, "{target}");
        let call = sidecar.wait_for_records(told.len() + 1).await.pop().expect("its record");
        told.push((call["cost_usd"].clone(), call["unpriced_reason"].clone()));
    }
    assert_eq!(told[0], (json!("0.003"), json!(null)), "a dollar a thousand pages");
    assert_eq!(told[1], (json!("0.0000039"), json!(null)), "as LiteLLM says");
    assert_eq!(told[2], (json!(null), json!("unknown_provider")), "it does not know either");
    assert_eq!(told[3], (json!(null), json!("no_usage")), "a video is not free");
}
