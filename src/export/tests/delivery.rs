//! From `record` to a collector: what arrives, and what is counted when it does not.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant as Clock;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use super::collector::{Answer, Collector, string};
use super::*;

struct Running {
    exports: Exports,
    counted: Arc<Counted>,
    /// Calls seen by the metrics, and of those with an exemplar.
    observed: Arc<(AtomicUsize, AtomicUsize)>,
}

fn start(traces: TraceSettings) -> Running {
    let counted = Arc::new(Counted::default());
    let observed = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let seen = observed.clone();
    let observe: Observe = Box::new(move |_, exemplar| {
        seen.0.fetch_add(1, Ordering::SeqCst);
        seen.1.fetch_add(usize::from(exemplar), Ordering::SeqCst);
    });
    let exports =
        Exports::start(&ExportSettings { traces, ..ExportSettings::default() }, observe, counted.clone()).unwrap();
    Running { exports, counted, observed }
}

fn to(address: &str) -> TraceSettings {
    let otlp = OtlpSettings { endpoint: Some(address.parse().unwrap()), ..OtlpSettings::default() };
    TraceSettings { otlp, delay: Duration::from_millis(20), ..TraceSettings::default() }
}

fn http(collector: &Collector) -> TraceSettings {
    to(&format!("http://{}/v1/traces", collector.address))
}

impl Running {
    fn record(&self, count: usize) {
        let record = Arc::new(full());
        for _ in 0..count {
            self.exports.record(record.clone());
        }
    }

    fn lost(&self, reason: DropReason) -> u64 {
        self.counted.get(Signal::Traces, reason)
    }
}

async fn arrives_whole(mut settings: TraceSettings, collector: &Collector, path: &str) {
    settings.otlp.headers = OtlpHeaders(vec![("x-made-up".to_owned(), "header".to_owned())]);
    settings.service_name = Some("llm-sidecar".to_owned());
    settings.resource = vec![("k8s.pod.name".to_owned(), "pod-1".to_owned())];
    let running = start(settings);
    running.exports.record(Arc::new(full()));
    running.exports.record(Arc::new(refused()));
    assert_eq!(running.exports.flush(Duration::from_secs(10)).await, 0);
    let spans = collector.spans();
    assert_eq!((spans.len(), running.counted.total(Signal::Traces)), (2, 0));
    let (good, bad) = (&spans[0], &spans[1]);
    assert_eq!(good.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(good.span_id, 0x1122_3344_5566_7788_u64.to_be_bytes());
    assert_eq!(good.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!((good.trace_state.as_str(), good.name.as_str()), ("vendor=opaque", "chat gpt-5"));
    assert_eq!((good.kind, good.flags), (SpanKind::Client as i32, 0x301), "sampled; has a remote parent");
    assert_eq!(good.start_time_unix_nano, 1_767_323_045_678_000_000);
    assert_eq!(good.end_time_unix_nano - good.start_time_unix_nano, 12_345_678_000);
    assert_eq!(string(&good.attributes, "keytally.call_id").as_deref(), Some("01942f6e5a2b7c3d8e4f5061728394a5"));
    assert_eq!(bad.parent_span_id, Vec::<u8>::new());
    assert_eq!(bad.status.as_ref().map(|status| status.code), Some(StatusCode::Error as i32));
    assert_eq!(bad.status.as_ref().map(|status| status.message.as_str()), Some(""));
    let received = collector.received.lock().unwrap();
    let (requested, headers) = &received.requests[0];
    assert_eq!((requested.as_str(), headers["x-made-up"].as_bytes()), (path, b"header".as_slice()));
    let of_resource = &received.batches[0].resource_spans[0];
    let resource = &of_resource.resource.as_ref().unwrap().attributes;
    let text = |name| string(resource, name);
    assert_eq!(text("service.name").as_deref(), Some("llm-sidecar"));
    assert_eq!(text("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(text("k8s.pod.name").as_deref(), Some("pod-1"));
    assert_eq!(text("telemetry.sdk.language").as_deref(), Some("rust"));
    assert_eq!(text("service.instance.id").map(|id| (id.len(), id.as_bytes()[14])), Some((36, b'4')));
    assert_eq!(of_resource.schema_url, "https://opentelemetry.io/schemas/1.41.0");
    assert_eq!(of_resource.scope_spans[0].scope.as_ref().unwrap().name, "keytally");
}

#[tokio::test]
async fn over_http() {
    let collector = Collector::start(Answer::Good).await;
    arrives_whole(http(&collector), &collector, "/v1/traces").await;
}

#[tokio::test]
async fn over_grpc() {
    let collector = Collector::start(Answer::Good).await;
    let mut settings = http(&collector);
    settings.otlp.protocol = OtlpProtocol::Grpc;
    arrives_whole(settings, &collector, "/opentelemetry.proto.collector.trace.v1.TraceService/Export").await;
}

#[tokio::test]
async fn compressed() {
    for protocol in [OtlpProtocol::HttpProtobuf, OtlpProtocol::Grpc] {
        let collector = Collector::start(Answer::Good).await;
        let mut settings = http(&collector);
        settings.otlp.protocol = protocol;
        settings.otlp.gzip = true;
        let running = start(settings);
        running.record(100);
        assert_eq!(running.exports.flush(Duration::from_secs(10)).await, 0);
        assert_eq!(collector.spans().len(), 100, "{protocol:?}");
    }
}

/// A collector with a certificate of its own authority; TLS is checked, in both protocols.
#[tokio::test]
async fn over_tls() {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, own.cert.pem()).unwrap();
    let server = || {
        let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![own.cert.der().clone()], key)
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    };
    for protocol in [OtlpProtocol::HttpProtobuf, OtlpProtocol::Grpc] {
        let collector = Collector::with_tls(server()).await;
        let mut settings = to(&format!("https://localhost:{}/v1/traces", collector.address.port()));
        settings.otlp.protocol = protocol;
        let mut unknown_authority = settings.clone();
        unknown_authority.otlp.timeout = Duration::from_secs(1);
        let distrusting = start(unknown_authority);
        distrusting.record(1);
        distrusting.exports.flush(Duration::from_secs(10)).await;
        assert_eq!((collector.spans().len(), distrusting.lost(DropReason::ExportFailed)), (0, 1), "{protocol:?}");
        settings.otlp.ca_file = Some(ca_file.clone());
        let running = start(settings);
        running.record(1);
        assert_eq!(running.exports.flush(Duration::from_secs(10)).await, 0);
        assert_eq!(collector.spans().len(), 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn what_is_not_sampled_is_neither_sent_nor_an_exemplar() {
    let collector = Collector::start(Answer::Good).await;
    let mut settings = http(&collector);
    settings.sampling.ratio = 0.0;
    let running = start(settings);
    let mut unsampled = full();
    unsampled.trace.parent_sampled = Some(false);
    for record in [full(), refused(), unsampled] {
        running.exports.record(Arc::new(record));
    }
    running.exports.flush(Duration::from_secs(10)).await;
    assert_eq!(collector.spans().len(), 2);
    assert_eq!((running.observed.0.load(Ordering::SeqCst), running.observed.1.load(Ordering::SeqCst)), (3, 2));
    assert_eq!(running.counted.total(Signal::Traces), 0, "sampling is no loss");
}

#[tokio::test]
async fn batches_are_bounded() {
    let collector = Collector::start(Answer::Good).await;
    let running = start(TraceSettings { max_batch: 64, delay: Duration::from_secs(60), ..http(&collector) });
    running.record(150);
    wait_until("two full batches", || collector.spans().len() == 128).await;
    assert_eq!(running.exports.flush(Duration::from_secs(10)).await, 0);
    let sizes: Vec<usize> = {
        let received = collector.received.lock().unwrap();
        received.batches.iter().map(|batch| batch.resource_spans[0].scope_spans[0].spans.len()).collect()
    };
    assert_eq!(sizes, [64, 64, 22], "the rest leaves at shutdown, before its delay");
}

#[tokio::test]
async fn every_loss_has_a_reason() {
    // Nobody listens on this port.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dead = Collector { address: nobody, ..Collector::start(Answer::Good).await };
    let cases = [
        (dead, 100),
        (Collector::start(Answer::Status(500)).await, 100),
        (Collector::start(Answer::Status(401)).await, 100),
        (Collector::start(Answer::Status(503)).await, 100),
        (Collector::start(Answer::Status(302)).await, 100),
        (Collector::start(Answer::Noise).await, 100),
        (Collector::start(Answer::Rejects(7)).await, 7),
        (Collector::start(Answer::Rejects(i64::MAX)).await, 100),
        (Collector::start(Answer::Rejects(-1)).await, 0),
        (Collector::start(Answer::Nonsense).await, 0),
    ];
    for (collector, lost) in cases {
        let answer = *collector.answer.lock().unwrap();
        let mut settings = http(&collector);
        settings.otlp.timeout = Duration::from_secs(2);
        let running = start(settings);
        let began = Clock::now();
        running.record(100);
        assert!(began.elapsed() < Duration::from_millis(500), "recording does not wait: {:?}", began.elapsed());
        running.exports.flush(Duration::from_secs(20)).await;
        assert_eq!(running.lost(DropReason::ExportFailed), lost, "{answer:?}");
        assert_eq!(running.counted.total(Signal::Traces), lost, "{answer:?}");
    }
}

#[tokio::test]
async fn grpc_losses_too() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dead = Collector { address: nobody, ..Collector::start(Answer::Good).await };
    for collector in [dead, Collector::start(Answer::Status(500)).await, Collector::start(Answer::Noise).await] {
        let mut settings = http(&collector);
        settings.otlp.protocol = OtlpProtocol::Grpc;
        settings.otlp.timeout = Duration::from_secs(2);
        let running = start(settings);
        running.record(10);
        running.exports.flush(Duration::from_secs(20)).await;
        assert_eq!(running.lost(DropReason::ExportFailed), 10, "{:?}", collector.answer.lock().unwrap());
    }
}

#[tokio::test]
async fn a_collector_that_restarts_costs_nothing() {
    for protocol in [OtlpProtocol::HttpProtobuf, OtlpProtocol::Grpc] {
        let address = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut settings = to(&format!("http://{address}/v1/traces"));
        settings.otlp.protocol = protocol;
        let running = start(settings);
        running.record(10);
        tokio::time::sleep(Duration::from_millis(600)).await;
        let collector = Collector::at(address).await;
        running.exports.flush(Duration::from_secs(15)).await;
        assert_eq!((collector.spans().len(), running.counted.total(Signal::Traces)), (10, 0), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_silent_collector_costs_its_batches_and_nothing_else() {
    let collector = Collector::start(Answer::Silent).await;
    let settings = TraceSettings {
        max_queue: 100,
        max_batch: 10,
        delay: Duration::ZERO,
        batch_timeout: Duration::from_millis(300),
        ..http(&collector)
    };
    let running = start(settings);
    let began = Clock::now();
    running.record(10);
    wait_until("the first batch is under way", || collector.received.lock().unwrap().requests.len() == 1).await;
    running.record(1_000);
    assert!(began.elapsed() < Duration::from_secs(2), "recording does not wait: {:?}", began.elapsed());
    assert_eq!(running.lost(DropReason::QueueFull), 900, "exactly the queue's capacity is kept");
    assert_eq!(running.observed.0.load(Ordering::SeqCst), 1_010, "the metrics saw all of them");
    assert_eq!(running.observed.1.load(Ordering::SeqCst), 110, "an exemplar only where there is a span");
    wait_until("batches time out", || running.lost(DropReason::ExportFailed) >= 20).await;
    *collector.answer.lock().unwrap() = Answer::Good;
    wait_until("it goes on by itself", || !collector.spans().is_empty()).await;
    running.exports.flush(Duration::from_secs(10)).await;
    let arrived = collector.spans().len() as u64;
    assert_eq!(arrived + running.counted.total(Signal::Traces), 1_010, "each call arrived or is counted");
}

#[tokio::test]
async fn shutdown_keeps_its_deadline() {
    let collector = Collector::start(Answer::Silent).await;
    let running = start(TraceSettings { max_batch: 10, ..http(&collector) });
    running.record(35);
    wait_until("a batch is under way", || collector.received.lock().unwrap().requests.len() == 1).await;
    let began = Clock::now();
    running.exports.flush(Duration::from_millis(400)).await;
    let took = began.elapsed();
    assert!((Duration::from_millis(350)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert_eq!(running.lost(DropReason::Shutdown), 35);
    running.record(1);
    assert_eq!(running.lost(DropReason::Shutdown), 36, "after shutdown nothing is taken");
    assert_eq!(running.counted.total(Signal::Traces), 36);
}

#[tokio::test]
async fn without_an_endpoint_there_is_nothing() {
    let running = start(TraceSettings::default());
    assert!(running.exports.traces.is_none() && running.exports.log.is_none());
    running.record(10);
    assert_eq!((running.observed.0.load(Ordering::SeqCst), running.observed.1.load(Ordering::SeqCst)), (10, 0));
    assert_eq!(running.exports.flush(Duration::ZERO).await, 0);
    assert_eq!(running.counted.total(Signal::Traces), 0);
}

#[tokio::test]
async fn settings_that_cannot_work_are_told() {
    let wrong = |change: fn(&mut OtlpSettings)| {
        let mut traces = to("https://127.0.0.1:1");
        change(&mut traces.otlp);
        ExportSettings { traces, ..ExportSettings::default() }.check().map_err(|error| error.to_string())
    };
    assert_eq!(wrong(|_| ()), Ok(()));
    let messages = [
        wrong(|otlp| otlp.endpoint = "ftp://127.0.0.1".parse().ok()),
        wrong(|otlp| otlp.endpoint = "http://user:made-up-secret@127.0.0.1".parse().ok()),
        wrong(|otlp| otlp.headers = OtlpHeaders(vec![("bad name".to_owned(), "made-up-secret".to_owned())])),
        wrong(|otlp| otlp.headers = OtlpHeaders(vec![("x".to_owned(), "made-up-secret\n".to_owned())])),
        wrong(|otlp| otlp.ca_file = Some("/does/not/exist.pem".into())),
        wrong(|otlp| otlp.ca_file = Some("/dev/null".into())),
        wrong(|otlp| otlp.client_key = Some("/dev/null".into())),
    ];
    let messages: BTreeSet<String> = messages.into_iter().map(|message| message.unwrap_err()).collect();
    assert_eq!(messages.len(), 7, "{messages:#?}");
    assert!(messages.iter().all(|message| !message.contains("made-up-secret")), "{messages:#?}");
}

#[tokio::test]
async fn live_views_miss_some_and_never_hold_anything_up() {
    let running = start(TraceSettings::default());
    let mut slow = running.exports.subscribe(3);
    let gone = running.exports.subscribe(3);
    drop(gone);
    running.record(10);
    let seen = std::iter::from_fn(|| slow.try_recv().ok()).count();
    assert_eq!(seen, 3);
    running.record(1);
    assert_eq!(slow.recv().await.map(|record| record.status), Some(Some(200)));
    let views: Vec<_> = (0..100).map(|_| running.exports.subscribe(1)).collect();
    assert_eq!(running.exports.subscribers.load().len(), MAX_SUBSCRIBERS);
    drop(views);
    running.exports.flush(Duration::ZERO).await;
    assert!(slow.recv().await.is_none(), "the view ends with the process");
}
