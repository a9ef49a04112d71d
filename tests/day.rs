//! The scripted day of trouble: real sidecars, a simulated provider, real Prometheus and Alertmanager with the shipped rules and
//! routes, and a webhook. An hour of the day takes a minute ([`scale`]); twelve days of history are there before it begins
//! ([`history`]); what goes wrong and when is in [`story`].
//!
//! One test, since the day takes minutes: every alert that should fire reaches the webhook in the time that its rule promises,
//! and no other does; every query of rules and dashboards is run, and the panels that should have data have it.
//! `KEYTALLY_DAY_HOLD=600 cargo nextest run -E 'test(day::)' --no-capture` keeps everything up for ten minutes more and says
//! where it is.

mod expected;
mod history;
mod panels;
pub mod scale;
pub mod stack;
mod story;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use keytally::demo::simulator::Simulator;
use tokio::sync::watch;

use crate::dashboards::pictures::{self, Clock};
use crate::support::{Sidecar, client, skip};
use scale::Scale;
use stack::Stack;
use story::{KEYS, KeyPlan, Outgoing, Provider, Trouble};

/// Seconds that making the history and starting everything may take before the day begins.
const SETUP: u64 = 45;

/// The day, over but still up.
pub struct Day {
    /// Prometheus, Alertmanager, webhook.
    pub stack: Stack,
    /// How times are divided.
    pub scale: Scale,
    /// Seconds since the epoch.
    pub started: f64,
    /// Likewise.
    pub ended: f64,
    _sidecars: Vec<Sidecar>,
    _providers: Vec<Simulator>,
}

impl Day {
    /// Runs it; `None` where Prometheus or Alertmanager are missing.
    pub async fn run() -> Option<Self> {
        for name in ["prometheus", "promtool", "prometheus-alertmanager"] {
            if crate::alerting::promql::program(name).is_none() {
                skip(name);
                return None;
            }
        }
        let setup = Instant::now();
        let scale = Scale { start: stack::now() as u64 + SETUP };
        let mut stack = Stack::start(scale).await;
        eprintln!("history made in {:?}", setup.elapsed());
        let mind = Arc::new(OnceLock::<Provider>::new());
        let mut providers = Vec::new();
        for _ in story::PROVIDERS {
            let mind = Arc::clone(&mind);
            let script = move |received| mind.get().expect("no call before the day begins").answer(&received);
            providers.push(Simulator::start(script).await.expect("a free port"));
        }
        let config = story::config(&providers.iter().map(Simulator::address).collect::<Vec<_>>());
        let first = Sidecar::start(&config);
        let mut second = Sidecar::start(&config);
        let mut third = Some(Sidecar::start(&config));
        let third_admin = third.as_ref().expect("it runs").admin;
        stack.targets(&[("app-1", first.admin), ("app-2", second.admin), ("app-3", third_admin)]);
        stack.watch(scale).await;
        let (began, started) = (Instant::now(), stack::now());
        assert!(mind.set(Provider::new(began)).is_ok(), "the day begins once");

        // The rotation happened before the day: the old key is refused; the new one, search-prod, works.
        make(first.proxy, story::call("openai", story::OLD, KEYS[0].model, false)).await;
        let (ways, way) = watch::channel([first.proxy, second.proxy]);
        let mut traffic = tokio::task::JoinSet::new();
        for plan in KEYS {
            traffic.spawn(usual(*plan, way.clone(), began));
        }
        traffic.spawn(odd(way.clone(), began));

        let at = |trouble| tokio::time::sleep_until((began + Duration::from_secs(story::onset(trouble))).into());
        at(Trouble::Restarts).await;
        for _ in 0..3 {
            // The new process before the old one is gone: a gap of five seconds would be five minutes of the day.
            let mut old = std::mem::replace(&mut second, Sidecar::start(&config));
            stack.targets(&[("app-1", first.admin), ("app-2", second.admin), ("app-3", third_admin)]);
            ways.send_replace([first.proxy, second.proxy]);
            old.stop();
            // Each start must be scraped, or it is one restart.
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        at(Trouble::BadConfig).await;
        std::fs::write(second.config_file(), "keys: nonsense\n").expect("written");
        at(Trouble::Gone).await;
        third.take();
        tokio::time::sleep_until((began + story::LENGTH).into()).await;
        traffic.shutdown().await;
        let ended = stack::now();
        Some(Self { stack, scale, started, ended, _sidecars: vec![first, second], _providers: providers })
    }
}

/// Calls of a key, evenly spaced, by both sidecars in turn.
async fn usual(plan: KeyPlan, way: watch::Receiver<[SocketAddr; 2]>, began: Instant) {
    let mut calls = tokio::task::JoinSet::new();
    let mut turn = 0;
    loop {
        let spike = plan.name == "batch-nightly" && story::there(Trouble::Spike, began.elapsed());
        let an_hour = plan.calls_an_hour * if spike { 20.0 } else { 1.0 };
        tokio::time::sleep(Duration::from_secs_f64(60.0 / an_hour)).await;
        turn += 1;
        let to = way.borrow()[turn % 2];
        calls.spawn(make(to, story::call(plan.provider, plan.name, plan.model, plan.stream)));
        while calls.try_join_next().is_some() {}
    }
}

/// What is no usual traffic.
async fn odd(way: watch::Receiver<[SocketAddr; 2]>, began: Instant) {
    let first = || way.borrow()[0];
    let until = |trouble| tokio::time::sleep_until((began + Duration::from_secs(story::onset(trouble))).into());
    until(Trouble::Stale).await;
    for _ in 0..4 {
        make(first(), story::call("openai", story::OLD, KEYS[0].model, false)).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    until(Trouble::Unpriced).await;
    for _ in 0..3 {
        make(first(), story::call("openai", "search-prod", story::UNPRICED, false)).await;
    }
    until(Trouble::Browser).await;
    let page = Outgoing { browser: true, ..story::call("openai", "search-prod", KEYS[0].model, false) };
    make(first(), page).await;
    while story::there(Trouble::Stranger, began.elapsed()) {
        make(first(), story::call("openai", "stranger", "gpt-4.1", false)).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// One call; what becomes of it is the sidecar's to tell. A sidecar that is restarting cannot be reached.
async fn make(to: SocketAddr, call: Outgoing) {
    let mut request = Request::post(&call.path)
        .header("authorization", format!("Bearer {}", call.key))
        .header("content-type", "application/json")
        .header("user-agent", "made-up-app/1.0");
    if call.browser {
        request = request.header("origin", "https://shop.example");
    }
    let request = request.body(Full::new(Bytes::from(call.body))).expect("a request");
    if tokio::net::TcpStream::connect(to).await.is_ok()
        && let Ok(answer) = client::open(to, request).await
    {
        let _ = answer.into_body().collect().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alerts_of_a_day_of_trouble_arrive_in_time_and_no_others() {
    let Some(day) = Day::run().await else { return };
    let mut problems = expected::check(&day).await;
    problems.extend(panels::check(&day).await);
    let clock = Clock { start: day.scale.start as f64, shows: scale::CLOCK_START as f64, speed: scale::SCALE as f64 };
    problems.extend(pictures::check(day.stack.prometheus, clock, day.ended).await);
    if let Some(seconds) = std::env::var("KEYTALLY_DAY_HOLD").ok().and_then(|text| text.parse().ok()) {
        eprintln!(
            "Prometheus http://{} Alertmanager http://{} for {seconds} s; the day was {} to {}",
            day.stack.prometheus, day.stack.alertmanager, day.started, day.ended
        );
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
