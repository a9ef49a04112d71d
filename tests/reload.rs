//! Settings and files that change while calls go on: the next calls see them, without a restart.

use std::time::Duration;

use keytally::demo::simulator::{Answer, Received, Simulator};

use crate::support::collector::{Collector, Span};
use crate::support::wire::{Authority, serve_tls};
use crate::support::{Sidecar, post_json};

const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;
const ANSWER: &str = r#"{"id":"1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
const KEY: &str = "sk-made-up-key-for-tests";
const CHAT: &str = "/openai/v1/chat/completions";

async fn provider() -> Simulator {
    Simulator::start(|_| Answer::new(200, "application/json", ANSWER)).await.expect("a free port")
}

fn at(provider: &Simulator, more: &str) -> String {
    format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nmetrics: {{ birth_hold: 0s }}\n{more}",
        provider.address()
    )
}

/// Writes another text in place of a part of the configuration.
fn edit(sidecar: &Sidecar, old: &str, new: &str) {
    let text = std::fs::read_to_string(sidecar.config_file()).unwrap();
    assert!(text.contains(old), "{text}");
    std::fs::write(sidecar.config_file(), text.replace(old, new)).unwrap();
}

async fn wait_until(sidecar: &Sidecar, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "waited too long: {what}; log:\n{}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn key_defaults_hold_for_keys_that_are_not_named() {
    let provider = provider().await;
    let defaults = "key_defaults: { anomaly_ratio: 4, anomaly_min_usd_per_hour: 2, new_key_usd_per_hour: 50 }";
    let sidecar = Sidecar::start(&at(&provider, defaults));
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    let print = sidecar.wait_for_records(1).await[0]["key"].as_str().expect("a fingerprint").to_owned();
    let thresholds = async || {
        let samples = sidecar.metrics().await;
        ["keytally_key_anomaly_ratio", "keytally_key_anomaly_min_usd_per_hour", "keytally_key_new_key_usd_per_hour"]
            .map(|name| samples.sum(name, &[("key", &print)]).expect("a threshold of the key"))
    };
    assert_eq!(thresholds().await, [4.0, 2.0, 50.0]);
    edit(&sidecar, "new_key_usd_per_hour: 50", "new_key_usd_per_hour: 60");
    wait_until(&sidecar, "the new threshold", async || thresholds().await == [4.0, 2.0, 60.0]).await;
}

/// A price book in which a token of input costs this many dollars.
fn book(dollars: u64) -> String {
    format!(
        r#"[{{"id":"openai","name":"OpenAI","api_pattern":"https://api\\.openai\\.com","models":[{{"id":"gpt-4o-mini","match":{{"equals":"gpt-4o-mini"}},"prices":{{"input_mtok":{dollars}000000,"output_mtok":0}}}}]}}]"#
    )
}

/// Waits until a call costs this much for each token of input.
async fn wait_for_cost(sidecar: &Sidecar, dollars: u64) {
    wait_until(sidecar, &format!("{dollars} dollars a token"), async || {
        let before = sidecar.records().len();
        post_json(sidecar.proxy, CHAT, KEY, ASK).await;
        let record = sidecar.wait_for_records(before + 1).await.remove(before);
        record["cost_usd"].as_str() == Some(&(9 * dollars).to_string())
    })
    .await;
}

async fn wait_for_verdict(sidecar: &Sidecar, good: f64) {
    wait_until(sidecar, "the verdict on the configuration", async || {
        sidecar.metrics().await.sum("keytally_config_last_reload_successful", &[]) == Some(good)
    })
    .await;
}

#[tokio::test]
async fn the_price_book_is_watched() {
    let provider = provider().await;
    let dir = tempfile::tempdir().unwrap();
    let (path, late) = (dir.path().join("book.json"), dir.path().join("late.json"));
    std::fs::write(&path, book(1)).unwrap();
    let sidecar = Sidecar::start(&at(&provider, &format!("prices: {{ book: \"{}\" }}\n", path.display())));
    wait_for_cost(&sidecar, 1).await;
    std::fs::write(&path, book(2)).unwrap();
    wait_for_cost(&sidecar, 2).await;
    let beside = dir.path().join("new.json");
    std::fs::write(&beside, book(3)).unwrap();
    std::fs::rename(&beside, &path).unwrap();
    wait_for_cost(&sidecar, 3).await;

    // A bad one changes nothing, and the one before makes it right.
    std::fs::write(&path, "no book").unwrap();
    wait_for_verdict(&sidecar, 0.0).await;
    wait_for_cost(&sidecar, 3).await;
    std::fs::write(&path, book(3)).unwrap();
    wait_for_verdict(&sidecar, 1.0).await;

    // One that is named before it is there is taken up when it comes.
    edit(&sidecar, "book.json", "late.json");
    wait_for_verdict(&sidecar, 0.0).await;
    std::fs::write(&late, book(4)).unwrap();
    wait_for_cost(&sidecar, 4).await;
    wait_for_verdict(&sidecar, 1.0).await;
    std::fs::write(&late, book(5)).unwrap();
    wait_for_cost(&sidecar, 5).await;
}

/// As Kubernetes mounts a ConfigMap: the book is a link through `..data`, which is renamed over to another directory.
#[tokio::test]
async fn a_price_book_whose_directory_is_swapped_is_another() {
    let provider = provider().await;
    let mount = tempfile::tempdir().unwrap();
    let version = |name: &str, dollars| {
        std::fs::create_dir(mount.path().join(name)).unwrap();
        std::fs::write(mount.path().join(name).join("book.json"), book(dollars)).unwrap();
        let link = mount.path().join("..data_tmp");
        std::os::unix::fs::symlink(name, &link).unwrap();
        std::fs::rename(link, mount.path().join("..data")).unwrap();
    };
    version("..2026_01", 1);
    let path = mount.path().join("book.json");
    std::os::unix::fs::symlink("..data/book.json", &path).unwrap();
    let sidecar = Sidecar::start(&at(&provider, &format!("prices: {{ book: \"{}\" }}\n", path.display())));
    wait_for_cost(&sidecar, 1).await;
    version("..2026_02", 2);
    std::fs::remove_dir_all(mount.path().join("..2026_01")).unwrap();
    wait_for_cost(&sidecar, 2).await;
}

#[tokio::test]
async fn certificate_files_are_read_again() {
    let (first, second) = (Authority::new(), Authority::new());
    let port =
        async |authority: &Authority| serve_tls(authority.acceptor("localhost", &["http/1.1"], false)).await.port();
    let ports = [port(&first).await, port(&second).await];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let named = format!("ca_file: \"{}\"", path.display());
    for (of_provider, of_all) in [(&*named, ""), ("", &*named)] {
        std::fs::write(&path, &first.pem).unwrap();
        let providers: Vec<_> = ["one", "two"]
            .iter()
            .zip(ports)
            .map(|(id, port)| {
                let comma = if of_provider.is_empty() { "" } else { ", " };
                format!("{id}: {{ protocol: openai-chat, base_url: \"https://localhost:{port}\"{comma}{of_provider} }}")
            })
            .collect();
        let sidecar = Sidecar::start(&format!("providers: {{ {} }}\nupstream: {{ {of_all} }}\n", providers.join(", ")));
        let statuses = async || {
            let mut statuses = Vec::new();
            for id in ["one", "two"] {
                let answer = post_json(sidecar.proxy, &format!("/{id}/v1/chat/completions"), KEY, ASK).await;
                statuses.push(answer.head.status.as_u16());
            }
            statuses
        };
        assert_eq!(statuses().await, [200, 502]);
        std::fs::write(&path, &second.pem).unwrap();
        sidecar.signal("HUP");
        wait_until(&sidecar, "the other authority", async || statuses().await == [502, 200]).await;
        std::fs::write(&path, format!("{}{}", first.pem, second.pem)).unwrap();
        wait_until(&sidecar, "both authorities, without a signal", async || statuses().await == [200, 200]).await;
    }
}

/// Answers with an error when the path says so.
async fn moody_provider() -> Simulator {
    let answer = |received: Received| match received.head.uri.query() {
        Some("refused") => {
            Answer::new(400, "application/json", r#"{"error":{"message":"no","type":"invalid_request_error"}}"#)
        }
        _ => Answer::new(200, "application/json", ANSWER),
    };
    Simulator::start(answer).await.expect("a free port")
}

fn traced(provider: &Simulator, collector: &Collector, trace: &str) -> Sidecar {
    let endpoint = format!("http://{}", collector.address);
    Sidecar::start_with(&at(provider, &format!("trace: {{ {trace} }}\n")), |command| {
        command.env("OTEL_BSP_SCHEDULE_DELAY", "20").env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    })
}

/// Makes a call, and another that fails and so has a span whatever is sampled; with that span those of the first are there.
async fn spans_of_a_call(sidecar: &Sidecar, collector: &Collector) -> Vec<Span> {
    let mut ids = Vec::new();
    for query in ["", "?refused"] {
        let before = sidecar.records().len();
        post_json(sidecar.proxy, &format!("{CHAT}{query}"), KEY, ASK).await;
        let record = sidecar.wait_for_records(before + 1).await.remove(before);
        ids.push(record["call_id"].as_str().expect("an id").to_owned());
    }
    let of = |id: &str| -> Vec<Span> {
        collector.spans().into_iter().filter(|span| span.attributes["keytally.call_id"] == id).collect()
    };
    wait_until(sidecar, "the span of a failure", async || !of(&ids[1]).is_empty()).await;
    of(&ids[0])
}

#[tokio::test]
async fn what_spans_are_made_follows_a_reload() {
    let (provider, collector) = (moody_provider().await, Collector::start().await);
    let sidecar = traced(&provider, &collector, "sample: 0");
    let spans = async || spans_of_a_call(&sidecar, &collector).await;
    let usage = |span: &Span| span.attributes.keys().any(|name| name.starts_with("gen_ai.usage."));
    assert!(spans().await.is_empty());
    edit(&sidecar, "sample: 0", "sample: 1");
    wait_until(&sidecar, "a span", async || spans().await.iter().any(usage)).await;
    edit(&sidecar, "sample: 1", "sample: 1, profile: errors_and_cost, server_span: true");
    wait_until(&sidecar, "two spans without usage", async || {
        let spans = spans().await;
        spans.len() == 2 && !spans.iter().any(usage)
    })
    .await;
    edit(&sidecar, "sample: 1", "sample: 0");
    wait_until(&sidecar, "no span", async || spans().await.is_empty()).await;
}

#[tokio::test]
async fn spans_begin_and_end_with_the_profile() {
    let (provider, collector) = (moody_provider().await, Collector::start().await);
    let mut sidecar = traced(&provider, &collector, "profile: off");
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    sidecar.wait_for_records(1).await;
    edit(&sidecar, "profile: off", "profile: full");
    wait_until(&sidecar, "a span", async || {
        post_json(sidecar.proxy, CHAT, KEY, ASK).await;
        !collector.spans().is_empty()
    })
    .await;
    // The other setting shows when the file is in use.
    edit(&sidecar, "profile: full }", "profile: off }\nkey_defaults: { anomaly_ratio: 7 }");
    wait_until(&sidecar, "the changed file", async || {
        sidecar.metrics().await.sum("keytally_key_anomaly_ratio", &[]) == Some(7.0)
    })
    .await;
    let before = sidecar.records().len();
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    let without = sidecar.wait_for_records(before + 1).await[before]["call_id"].clone();
    // What waits is sent before the process ends.
    assert!(sidecar.stop().success());
    assert!(collector.spans().iter().all(|span| span.attributes["keytally.call_id"] != without));
}
