//! Stages 3 and 5: watches bodies as they pass. A tap hands every frame on as it came, waits for nothing, stores only
//! what it needs, and ends in exactly one call to [`Sink::finish`], whoever ends the call and however.

mod answer_body;
pub mod decompress;
pub mod inject;
pub mod request;
mod request_body;
mod websocket;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use answer_body::AnswerBody;
pub use decompress::Decompressor;
pub use request::RequestTap;
pub use request_body::{Broken, ContinueGate, RequestBody, read_whole};
#[cfg(any(test, fuzzing))]
pub(crate) use websocket::Frames;
pub use websocket::tunnel;

use crate::call::{CallFacts, End, GeneratedError, Reply, RequestFacts, ResponseFacts};
use crate::listen::{Answer, Answering, ClientState};
use crate::provider::Provider;

/// The error of a tapped body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Takes the facts of a call that has ended. Must return at once: it is called on the data path.
pub trait Sink: Send + Sync {
    /// Called exactly once a call. `caller` is who calls, if that is being looked up.
    fn finish(&self, facts: CallFacts, provider: Option<Arc<Provider>>, caller: Option<&Answer>);
}

/// One call underway: what its request tap, its answer tap and the proxy write to.
pub struct OpenCall {
    started: Instant,
    sink: Arc<dyn Sink>,
    provider: Option<Arc<Provider>>,
    client: Arc<ClientState>,
    /// Milliseconds after `started` when a part of the request last passed.
    last_sent_millis: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// Taken by whoever ends the call.
    facts: Option<CallFacts>,
    request: Option<RequestTap>,
    /// The request's body came whole; the connection waits for the answer.
    answering: Option<Answering>,
    /// The application broke its request off.
    request_failed: bool,
    /// Whatever must live as long as the call.
    _guard: Box<dyn Send>,
}

impl OpenCall {
    /// Opens a call whose request head has been read at `started`.
    pub fn new(
        facts: CallFacts,
        started: Instant,
        request: Option<RequestTap>,
        provider: Option<Arc<Provider>>,
        client: Arc<ClientState>,
        sink: Arc<dyn Sink>,
        guard: Box<dyn Send>,
    ) -> Arc<Self> {
        let state = State { facts: Some(facts), request, answering: None, request_failed: false, _guard: guard };
        Arc::new(Self {
            started,
            sink,
            provider,
            client,
            last_sent_millis: AtomicU64::new(0),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the request head had been read.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// When a part of the request last passed.
    pub fn last_sent(&self) -> Instant {
        self.started + Duration::from_millis(self.last_sent_millis.load(Ordering::Relaxed))
    }

    /// How a call ends that is dropped in the middle: by the application, or as `otherwise` by the sidecar's shutdown.
    fn dropped(&self, otherwise: End) -> End {
        if self.client.is_cut_off() { otherwise } else { End::ClientCancelled }
    }

    fn request_data(&self, data: &[u8]) {
        self.last_sent_millis.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        let mut state = self.state();
        if let Some(facts) = &mut state.facts {
            facts.request.bytes += data.len() as u64;
        }
        let State { request, .. } = &mut *state;
        if let Some(tap) = request
            && guarded("request", data, || tap.feed(data)).is_none()
        {
            *request = None;
        }
    }

    /// The request has been received whole.
    pub fn request_complete(&self, client: &Arc<ClientState>) {
        let mut state = self.state();
        state.answering = Some(client.answering());
        // What reads it is not needed while the answer streams.
        let State { facts, request, .. } = &mut *state;
        if let Some(facts) = facts {
            read_request(facts, request.take());
        }
    }

    fn request_failed(&self) {
        self.state().request_failed = true;
    }

    /// The application broke its request off before it was whole.
    pub fn has_request_failed(&self) -> bool {
        self.state().request_failed
    }

    /// Notes the answer's head.
    pub fn head(&self, response: ResponseFacts, connect: Option<Duration>) {
        let elapsed = self.elapsed();
        if let Some(facts) = &mut self.state().facts {
            facts.response = Some(response);
            facts.timing.head = Some(elapsed);
            facts.timing.connect = connect;
        }
    }

    /// Time that the request spent in the sidecar before it was handed to the upstream client.
    pub fn handed_over(&self) {
        let elapsed = self.elapsed();
        if let Some(facts) = &mut self.state().facts {
            facts.timing.overhead_request = elapsed;
        }
    }

    /// Ends the call; further ends are ignored. `settle` may add to the facts what the caller alone knows.
    pub fn finish(&self, end: End, reply: Reply, settle: impl FnOnce(&mut CallFacts)) {
        let (mut facts, request) = {
            let mut state = self.state();
            let Some(facts) = state.facts.take() else { return };
            (facts, state.request.take())
        };
        read_request(&mut facts, request);
        facts.end = end;
        let repeats_usage = facts.reply.repeats_usage || reply.repeats_usage;
        facts.reply = Reply { repeats_usage, ..reply };
        facts.timing.total = self.elapsed();
        settle(&mut facts);
        self.sink.finish(facts, self.provider.clone(), self.client.caller());
    }

    /// Ends the call without an answer from the provider.
    pub fn fail(&self, end: End, why: GeneratedError, status: Option<u16>) {
        self.finish(end, Reply::default(), |facts| {
            facts.generated = Some(why);
            if let Some(status) = status {
                facts.response.get_or_insert_default().status = status;
            }
        });
    }

    /// The answer (or the connection) is done with: the application's end of input may be told again.
    fn release(&self) {
        self.state().answering = None;
    }
}

/// Runs what reads foreign bytes or what was read of them; `None` if that panicked (which the panic hook has told), so that
/// the bytes pass on.
///
/// In builds with debug assertions the variable `KEYTALLY_TEST_PANIC` names a `stage` that panics with the bytes it was
/// given in its message: tests see that the call goes on and that the message tells nothing of them.
pub(crate) fn guarded<T>(stage: &str, bytes: &[u8], work: impl FnOnce() -> T) -> Option<T> {
    let run = || {
        #[cfg(debug_assertions)]
        if !stage.is_empty() && std::env::var("KEYTALLY_TEST_PANIC").is_ok_and(|asked| asked == stage) {
            panic!("{stage}: {}", String::from_utf8_lossy(bytes));
        }
        work()
    };
    let _ = (stage, bytes);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).ok()
}

/// Takes over what `tap` has read, if there is one that has not told yet.
fn read_request(facts: &mut CallFacts, tap: Option<RequestTap>) {
    if let Some(read) = tap.and_then(|tap| guarded("", &[], || tap.finish())) {
        merge_request(&mut facts.request, read);
    }
}

/// Adds what the body said to what head and connection said.
fn merge_request(head: &mut RequestFacts, body: RequestFacts) {
    let RequestFacts { method, url_model, url, bytes, sdk_retry_count, user_agent, stream, hash, .. } =
        std::mem::take(head);
    *head = RequestFacts {
        method,
        url_model,
        url,
        bytes,
        sdk_retry_count,
        user_agent,
        stream: body.stream.or(stream),
        // The head's part of the hash is method and target.
        hash: hash ^ body.hash,
        ..body
    };
}

/// Ends the call as cancelled unless it is disarmed: lives while the answer's head is awaited.
pub struct CancelGuard(Option<Arc<OpenCall>>);

impl CancelGuard {
    /// Arms it.
    pub fn new(call: Arc<OpenCall>) -> Self {
        Self(Some(call))
    }

    /// The head has come, or the call has been ended otherwise.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call.finish(call.dropped(End::NoAnswer), Reply::default(), |_| ());
            call.release();
        }
    }
}
