//! `keytally demo`: a simulated provider, traffic through the sidecar, a live table; no account needed.
//!
//! The provider repeats recorded answers ([`recordings`]) as the script has it ([`story`], [`answers`]); the applications
//! ([`traffic`]) call it through the real sidecar, which the caller starts. What the table shows ([`view`], [`render`]) comes
//! from the sidecar's call records alone. Everything is on loopback. Cancelled: provider and traffic stop at once, the
//! cursor comes back; the sidecar is the caller's.

pub mod answers;
pub mod apart;
pub mod recordings;
pub mod render;
pub mod simulator;
pub mod story;
mod traffic;
pub mod view;

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::sync::mpsc;

use crate::call::{ApiKey, CallRecord};
use crate::meter::KeyEntry;
use crate::provider::ProviderOverride;

use crate::terminal::Screen;
use answers::Provider;
use simulator::Simulator;
use story::{ACTORS, Story};
use traffic::Traffic;
use view::View;

/// Providers that the demo stands in for.
pub const PROVIDERS: &[&str] = &[
    "openai",
    "anthropic",
    "gemini",
    "mistral",
    "cohere",
    "groq",
    "deepseek",
    "openrouter",
    "bedrock",
    "ollama",
    "xai",
];

/// Time between two pictures on a terminal.
const FRAME: Duration = Duration::from_millis(250);
/// Time between two lines elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// A problem is shown at least this long after its last failure.
const SHORTEST_WINDOW: Duration = Duration::from_secs(2);
/// Size of a terminal that does not tell.
const USUAL_SIZE: (usize, usize) = (100, 40);

/// How to run.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// End by itself after this long; `None`: on Ctrl-C.
    pub duration: Option<Duration>,
    /// Use color; `None`: on a terminal, unless `NO_COLOR` is set (no-color.org).
    pub color: Option<bool>,
    /// Length of one minute of the story.
    pub minute: Duration,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { duration: None, color: None, minute: Duration::from_secs(60) }
    }
}

/// What the sidecar must be started with.
#[derive(Debug)]
pub struct StartConfig {
    /// Every provider of [`PROVIDERS`] at its simulated address.
    pub providers: Vec<ProviderOverride>,
    /// The demo's keys.
    pub keys: Vec<KeyEntry>,
}

/// Looks up the text of a first fix.
pub type FixText = Box<dyn Fn(&str) -> Option<String> + Send>;

/// The running sidecar.
pub struct DemoSidecar {
    /// Where it takes calls.
    pub proxy: SocketAddr,
    /// Where it shows metrics and status.
    pub admin: SocketAddr,
    /// Every finished call.
    pub records: mpsc::Receiver<Arc<CallRecord>>,
    /// Text of a first fix by its id.
    pub fix: FixText,
    /// Drains and ends it.
    pub stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Runs the demo on standard output until Ctrl-C, SIGTERM or the end of `options.duration`.
///
/// # Errors
/// When a loopback port cannot be had, `start` fails, or the sidecar ends by itself. A closed output is a normal end.
pub async fn run<S, F>(options: DemoOptions, start: S) -> anyhow::Result<()>
where
    S: FnOnce(StartConfig) -> F,
    F: Future<Output = anyhow::Result<DemoSidecar>>,
{
    let terminal = io::stdout().is_terminal();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let color = options.color.unwrap_or(terminal && !no_color);
    run_on(options, start, Output { out: io::stdout(), terminal, color, drawn: None }).await
}

async fn run_on<S, F, W>(options: DemoOptions, start: S, mut output: Output<W>) -> anyhow::Result<()>
where
    S: FnOnce(StartConfig) -> F,
    F: Future<Output = anyhow::Result<DemoSidecar>>,
    W: Write,
{
    // Before anything is started, so that an early Ctrl-C ends it in good order.
    let mut interrupted = std::pin::pin!(interrupted());
    let story = Story { minute: options.minute };
    let started = Instant::now();
    let (simulators, providers) = simulated_providers(story, started, None).await?;
    let mut sidecar = start(StartConfig { providers, keys: key_entries() }).await?;
    let window = (story.minute / 3).max(SHORTEST_WINDOW);
    let mut view = View::new(sidecar.proxy, sidecar.admin, SystemTime::now(), story.at(started.elapsed()), window);
    let traffic = Traffic::start(format!("http://{}", sidecar.proxy), story, started);

    let ended = async {
        if output.write(&welcome(&view)).is_err() {
            return Ok(());
        }
        let mut tick = tokio::time::interval(if output.terminal { FRAME } else { LINE_EVERY });
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last_scene = None;
        let deadline = options.duration.map(|duration| tokio::time::Instant::now() + duration);
        let mut ends = std::pin::pin!(sleep_until(deadline));
        loop {
            tokio::select! {
                // Nothing is lost when another branch wins: receiving is cancel safe, ticks are kept.
                record = sidecar.records.recv() => {
                    let record = record.context("the sidecar ended by itself; its log says why")?;
                    let fix = record.first_fix.as_deref().and_then(|id| (sidecar.fix)(id));
                    view.elapsed = started.elapsed();
                    view.observe(&record, fix);
                }
                _ = tick.tick() => {
                    let elapsed = started.elapsed();
                    view.tick(elapsed, story.at(elapsed));
                    let new_scene = last_scene.replace(view.scene.now) != Some(view.scene.now);
                    if output.draw(&view, new_scene).is_err() {
                        return Ok(());
                    }
                }
                () = &mut ends => return Ok(()),
                () = &mut interrupted => return Ok(()),
            }
        }
    }
    .await;
    drop(traffic);
    output.finish(&view);
    sidecar.stop.await;
    // Last: a provider that vanished would be a network error in the sidecar's eyes.
    drop(simulators);
    ended
}

/// Starts one simulated provider each, on consecutive ports from `first` or on free ones, and says where it is.
async fn simulated_providers(
    story: Story,
    started: Instant,
    first: Option<u16>,
) -> anyhow::Result<(Vec<Simulator>, Vec<ProviderOverride>)> {
    let mut simulators = Vec::with_capacity(PROVIDERS.len());
    let mut overrides = Vec::with_capacity(PROVIDERS.len());
    for (id, offset) in PROVIDERS.iter().zip(0..) {
        let provider = Provider::new(id, story, started);
        let port = first.map_or(0, |first| first + offset);
        let simulator = Simulator::start_on(port, move |received| provider.answer(&received)).await.with_context(
            || match port {
                0 => "the simulated provider needs a free port on 127.0.0.1".to_owned(),
                port => format!("the simulated provider needs 127.0.0.1:{port}; what else listens there?"),
            },
        )?;
        let base_url = url::Url::parse(&format!("http://{}", simulator.address())).context("a loopback address")?;
        overrides.push(ProviderOverride {
            id: (*id).to_owned(),
            base_url: Some(base_url),
            // It stands for the real one in every respect, key findings included.
            hosts: vec![simulator.address().to_string()],
            ..ProviderOverride::default()
        });
        simulators.push(simulator);
    }
    Ok((simulators, overrides))
}

/// The demo's keys as config would name them.
fn key_entries() -> Vec<KeyEntry> {
    let entry = |actor: &'static story::Actor| {
        let key = ApiKey::new(story::made_up_key(actor)?);
        Some(KeyEntry {
            fingerprint: key.fingerprint(actor.family, b""),
            name: actor.name.into(),
            team: Some(actor.team.into()),
            env: Some(actor.env.into()),
            anomaly_ratio: 4.0,
            anomaly_min_usd_per_hour: 1.0,
            new_key_usd_per_hour: 10.0,
            budget_usd_day: None,
            budget_usd_month: None,
            pool: false,
        })
    };
    ACTORS.iter().filter_map(entry).collect()
}

/// What is printed once, above the table.
fn welcome(view: &View) -> String {
    let (proxy, admin) = (view.proxy, view.admin);
    format!(
        "keytally demo: applications of three teams call simulated providers (recorded answers) through keytally.\n\
         Nothing leaves this machine; every key is made up. Calls of your own show up in the table as well:\n\
         \n  curl http://{proxy}/openai/v1/chat/completions -H 'authorization: Bearer any-key' \\\n    \
           -H 'content-type: application/json' -d '{{\"model\":\"gpt-4o-mini\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'\n\
         \n  proxy    http://{proxy}/<provider>\n  metrics  http://{admin}/metrics\n  status   http://{admin}/status\n\n"
    )
}

/// Ctrl-C or, where there is one, SIGTERM.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Where the picture goes. On a terminal it is drawn over its predecessor; elsewhere lines are appended.
struct Output<W: Write> {
    out: W,
    terminal: bool,
    color: bool,
    /// Lines of the picture that stands there, and the terminal's size when it was drawn.
    drawn: Option<(usize, (usize, usize))>,
}

impl<W: Write> Output<W> {
    fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn draw(&mut self, view: &View, new_scene: bool) -> io::Result<()> {
        if !self.terminal {
            let scene = &view.scene;
            let script =
                if new_scene { format!("script minute {}: {}\n", scene.minute, scene.now.text) } else { String::new() };
            return self.write(&format!("{script}{}\n", render::summary_line(view)));
        }
        let size = terminal_size::terminal_size()
            .map_or(USUAL_SIZE, |(width, height)| (usize::from(width.0), usize::from(height.0)));
        // The last column stays free: some terminals wrap a full line. The last row is the cursor's.
        let screen = Screen { width: size.0.saturating_sub(1), height: size.1.saturating_sub(1), color: self.color };
        let picture = render::render(view, screen);
        // One synchronized update (mode 2026), where the terminal knows it: no flicker.
        let mut text = String::from("\x1b[?2026h");
        match self.drawn {
            None => text.push_str("\x1b[?25l"),
            Some((lines, before)) if before == size => text.push_str(&format!("\x1b[{lines}A\r")),
            // A resized terminal has rewrapped what stood there.
            Some(_) => text.push_str("\x1b[2J\x1b[H"),
        }
        for line in picture.lines() {
            text.push_str(line);
            text.push_str("\x1b[K\r\n");
        }
        text.push_str("\x1b[J\x1b[?2026l");
        self.drawn = Some((picture.lines().count(), size));
        self.write(&text)
    }

    fn finish(&mut self, view: &View) {
        let _ = self.write(&render::farewell(view));
    }
}

/// The cursor comes back whatever ended the demo.
impl<W: Write> Drop for Output<W> {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = self.write("\x1b[?25h");
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;

    use super::*;
    use crate::call::Outcome;

    /// In place of the sidecar: answers every call itself and reports it as failed.
    async fn stand_in(config: StartConfig) -> anyhow::Result<DemoSidecar> {
        assert_eq!(config.providers.len(), PROVIDERS.len());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let proxy = listener.local_addr()?;
        let (sender, records) = mpsc::channel(64);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                let service = service_fn(move |_| {
                    let sender = sender.clone();
                    async move {
                        let mut record = view::tests::record("laptop-ana", Outcome::AuthInvalid);
                        record.first_fix = Some("some-fix".into());
                        let _ = sender.send(Arc::new(record)).await;
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::<bytes::Bytes>::default()))
                    }
                });
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move { drop(served.await) });
            }
        });
        Ok(DemoSidecar {
            proxy,
            admin: proxy,
            records,
            fix: Box::new(|id| (id == "some-fix").then(|| "do the right thing".to_owned())),
            stop: Box::pin(async move { serving.abort() }),
        })
    }

    async fn shown(terminal: bool) -> String {
        let minute = Duration::from_millis(600);
        let options = DemoOptions { duration: Some(Duration::from_millis(1_400)), color: None, minute };
        let mut text = Vec::new();
        let output = Output { out: &mut text, terminal, color: terminal, drawn: None };
        run_on(options, stand_in, output).await.expect("it ends by itself");
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn into_a_pipe_goes_plain_text_a_line_at_a_time() {
        let text = shown(false).await;
        assert!(!text.contains('\x1b'), "{text}");
        assert!(text.contains("curl http://127.0.0.1:"), "{text}");
        assert!(text.contains("script minute 2: "), "{text}");
        assert!(text.contains("laptop-ana auth_invalid"), "{text}");
        assert!(text.contains("first fix: do the right thing"), "{text}");
        assert_eq!(text.lines().rev().take_while(|line| line.starts_with("keytally demo: ")).count(), 2, "{text}");
        for actor in ACTORS {
            let key = story::made_up_key(actor).unwrap_or_else(|| "madeup".to_owned());
            assert!(!text.contains(&key), "key of {}", actor.name);
        }
        assert!(!text.contains("madeup"));
    }

    #[tokio::test]
    async fn a_terminal_is_drawn_over_and_gets_its_cursor_back() {
        let text = shown(true).await;
        assert!(text.contains("\x1b[?25l") && text.ends_with("\x1b[?25h"), "{text}");
        assert!(text.matches("A\r").count() >= 3, "drawn over its predecessor: {text}");
    }

    #[tokio::test]
    async fn a_sidecar_that_does_not_start_is_an_error() {
        let failing = |_| async { Err(anyhow::anyhow!("127.0.0.1:4141: address in use")) };
        let output = Output { out: Vec::new(), terminal: false, color: false, drawn: None };
        let error = run_on(DemoOptions::default(), failing, output).await.expect_err("it cannot run");
        assert!(error.to_string().contains("address in use"));
    }

    #[test]
    fn every_actor_with_a_key_is_named() {
        let entries = key_entries();
        assert_eq!(entries.len(), ACTORS.iter().filter(|actor| actor.key_shape.is_some()).count());
        assert!(ACTORS.iter().all(|actor| PROVIDERS.contains(&actor.provider)));
        let own = entries.iter().find(|entry| &*entry.name == "batch-nightly").expect("it is an actor");
        assert!(own.fingerprint.as_str().starts_with("google:"));
    }
}
