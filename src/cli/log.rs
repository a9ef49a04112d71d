//! Logs of the process: text on a terminal, JSON lines elsewhere, always on standard error.
//!
//! Whatever `RUST_LOG` or the configuration ask for, other crates' lines are only written from `warn` on: hyper, h2 and
//! rustls print headers, and with them keys, at `debug` and `trace`. Panics are logged without texts that were made at
//! run time, since those can hold request data.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

use crate::config::{LogFormat, LogSettings};

/// Installs the process's logger and its panic hook; later calls do nothing.
pub fn init(settings: &LogSettings) {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    install(settings, asked.as_deref());
}

/// As [`init`], for a process whose `RUST_LOG` is meant for another program.
pub fn init_without_variable(settings: &LogSettings) {
    install(settings, None);
}

fn install(settings: &LogSettings, asked: Option<&str>) {
    let (filter, problem) = filter(settings, asked);
    let json = match settings.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let layer = lines(json, super::colors(), filter, std::io::stderr);
    if registry().with(layer).try_init().is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map_or_else(String::new, ToString::to_string);
            tracing::error!(place, message = panic_text(panic.payload()), "panicked");
        }));
    }
    if let Some(problem) = problem {
        tracing::warn!(problem, "RUST_LOG is ignored");
    }
}

/// The text of a panic, if it was fixed when the program was built.
fn panic_text(payload: &(dyn std::any::Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(withheld: it may hold request data)")
}

/// What is asked for, and what is wrong with it.
fn filter(settings: &LogSettings, asked: Option<&str>) -> (EnvFilter, Option<String>) {
    let usual = || EnvFilter::new(settings.level.as_str());
    match asked.map(EnvFilter::try_new) {
        None => (usual(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (usual(), Some(error.to_string())),
    }
}

/// Lines in one of two forms, never more than [`is_allowed`].
fn lines<S, W>(json: bool, ansi: bool, filter: EnvFilter, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let filter = filter.and(filter_fn(is_allowed));
    if json {
        layer.json().flatten_event(true).with_current_span(false).with_span_list(false).with_filter(filter).boxed()
    } else {
        layer.with_ansi(ansi).with_filter(filter).boxed()
    }
}

/// Own lines at any level, other crates' from `warn` on.
fn is_allowed(metadata: &Metadata<'_>) -> bool {
    let own = metadata.target() == "keytally" || metadata.target().starts_with("keytally::");
    own || *metadata.level() <= LevelFilter::WARN
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::LogLevel;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(json: bool, asked: Option<&str>, level: LogLevel, work: impl FnOnce()) -> String {
        let sink = Sink::default();
        let settings = LogSettings { format: LogFormat::Auto, level };
        let out = sink.clone();
        let layer = lines(json, false, filter(&settings, asked).0, move || out.clone());
        tracing::subscriber::with_default(registry().with(layer), work);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn other_crates_cannot_be_made_to_tell() {
        for asked in ["trace", "hyper=trace,h2=trace,rustls=trace,keytally=trace", "[span]=trace"] {
            let text = written(false, Some(asked), LogLevel::Info, || {
                let span = tracing::trace_span!(target: "h2::codec", "span", header = "canary-0");
                let _inside = span.enter();
                tracing::trace!(target: "hyper::proto", "canary-1");
                tracing::debug!(target: "h2::codec", "canary-2");
                tracing::info!(target: "keytally_other", "canary-3");
                tracing::warn!(target: "hyper::client", "a warning");
                tracing::trace!(target: "keytally::tap", "own line");
            });
            assert!(!text.contains("canary"), "{asked}: {text}");
            if asked != "[span]=trace" {
                assert!(text.contains("a warning") && text.contains("own line"), "{asked}: {text}");
            }
        }
    }

    #[test]
    fn the_level_holds_until_rust_log_says_otherwise() {
        let work = || {
            tracing::info!(target: "keytally::app", "info line");
            tracing::debug!(target: "keytally::app", "debug line");
        };
        assert_eq!(written(false, None, LogLevel::Error, work), "");
        assert!(written(false, Some("keytally=debug"), LogLevel::Error, work).contains("debug line"));
        assert!(filter(&LogSettings { format: LogFormat::Auto, level: LogLevel::Info }, Some("a=b=c")).1.is_some());
    }

    #[test]
    fn json_lines_are_json() {
        let text = written(true, None, LogLevel::Info, || tracing::info!(target: "keytally", port = 1, "listening"));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["message"], &line["port"], &line["level"]), (&"listening".into(), &1.into(), &"INFO".into()));
    }

    #[test]
    fn texts_of_panics_made_at_run_time_are_withheld() {
        assert_eq!(panic_text(&"fixed"), "fixed");
        assert!(!panic_text(&format!("index into {}", "canary")).contains("canary"));
    }
}
