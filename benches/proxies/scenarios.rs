//! What is measured. Each scenario runs all proxies in turn, `rounds` times, and quotes medians.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::Asked;
use crate::load::{Target, Window, closed, fixed, once_each, quantile};
use crate::process::Running;
use crate::proxies::{Proxy, Way, World};
use crate::report::{median, short, table};

/// Connections of the closed loop.
const CONNECTIONS: usize = 32;
const CHAT: &str = "chat/completions";

/// Figures of one window, by name.
type Figures = BTreeMap<&'static str, f64>;
/// The rounds of one proxy.
type Rounds = Vec<(Proxy, Vec<Figures>)>;

pub fn run(asked: &Asked) {
    let world = World::start();
    let runtime = crate::runtime();
    let wanted = |name: &str| asked.only.as_ref().is_none_or(|only| only.iter().any(|n| n == name));
    let time = Duration::from_secs(asked.seconds);
    println!("{}", machine());
    println!("{} rounds of {} s; medians; CPU is that of the proxy's process tree", asked.rounds, asked.seconds);
    let bench = Bench { asked, world: &world, runtime: &runtime };

    if wanted("plain") {
        let rounds = bench.rounds(
            Way::Plain,
            |_| true,
            |target, proxy| {
                let target = target.asking(CHAT, false);
                bench.cpu_window(proxy, closed(&target, CONNECTIONS, time), of_calls)
            },
        );
        show("Plain calls, closed loop of 32 connections (`plain`)", &rounds, &OF_CALLS);
    }
    if wanted("rate") {
        let rounds = bench.rounds(Way::Plain, Proxy::keeps_pace, |target, proxy| {
            let target = target.asking(CHAT, false);
            bench.cpu_window(proxy, fixed(&target, CONNECTIONS, 1000, time), |window, cpu| {
                Figures::from([
                    ("CPU µs/call", cpu.as_secs_f64() * 1e6 / window.calls as f64),
                    ("p50 ms", quantile(&window.latencies, 0.5)),
                    ("p99 ms", quantile(&window.latencies, 0.99)),
                    ("p99.9 ms", quantile(&window.latencies, 0.999)),
                    ("first byte p50 ms", quantile(&window.first_bytes, 0.5)),
                ])
            })
        });
        show(
            "1,000 plain calls a second (`rate`)",
            &rounds,
            &["p50 ms", "p99 ms", "p99.9 ms", "first byte p50 ms", "CPU µs/call"],
        );
    }
    for (name, streams, chunks, pause, title) in [
        ("streams", 500, 20 * asked.seconds, 50, "500 open streams, 20 events a second each (`streams`)"),
        ("many-streams", 5_000, 2 * asked.seconds, 500, "5,000 open streams, 2 events a second each (`many-streams`)"),
    ] {
        if !wanted(name) {
            continue;
        }
        let rounds = bench.rounds(Way::Plain, Proxy::keeps_pace, |target, proxy| {
            let path = format!("{CHAT}?kind=stream&chunks={chunks}&pause={pause}");
            let target = target.asking(&path, true);
            bench.stream_window(proxy, &target, streams, chunks, time)
        });
        show(
            title,
            &rounds,
            &[
                "CPU µs/event",
                "transit p50 ms",
                "transit p99 ms",
                "RSS idle MiB",
                "RSS peak MiB",
                "KiB/stream",
                "RSS after MiB",
            ],
        );
    }
    if wanted("large") {
        let rounds = bench.rounds(
            Way::Plain,
            |_| true,
            |target, proxy| {
                let target = target.asking("embeddings", false);
                bench.cpu_window(proxy, closed(&target, 8, time), |window, cpu| {
                    let megabytes = window.bytes as f64 / 1e6;
                    Figures::from([
                        ("CPU µs/MB", cpu.as_secs_f64() * 1e6 / megabytes),
                        ("MB/s", megabytes / window.seconds),
                        ("p50 ms", quantile(&window.latencies, 0.5)),
                    ])
                })
            },
        );
        show("Answers of 1 MB, closed loop of 8 connections (`large`)", &rounds, &["CPU µs/MB", "MB/s", "p50 ms"]);
    }
    for (name, way, title) in [
        ("tls", Way::TlsUpstream, "Plain calls, TLS to the provider (`tls`)"),
        ("intercept", Way::Intercept, "Plain calls through CONNECT, TLS opened by the proxy (`intercept`)"),
    ] {
        if !wanted(name) {
            continue;
        }
        let rounds = bench.rounds(
            way,
            |_| true,
            |target, proxy| {
                let target = target.asking(CHAT, false);
                bench.cpu_window(proxy, closed(&target, CONNECTIONS, time), of_calls)
            },
        );
        show(title, &rounds, &OF_CALLS);
    }
    if wanted("start") {
        let mut rows = vec![["", "start to first call ms", "RSS after it MiB"].map(str::to_owned).to_vec()];
        for proxy in bench.taking_part(Way::Plain).filter(|proxy| *proxy != Proxy::Direct) {
            let (times, sizes): (Vec<f64>, Vec<f64>) = (0..asked.rounds.max(5)).map(|_| bench.start_up(proxy)).unzip();
            rows.push(vec![proxy.name().to_owned(), short(median(times)), short(median(sizes))]);
        }
        table("From exec to the first answered call (`start`)", &rows);
    }
}

/// What a closed loop of calls is told by.
const OF_CALLS: [&str; 4] = ["CPU µs/call", "calls/s", "p50 ms", "p99 ms"];

fn of_calls(window: &Window, cpu: Duration) -> Figures {
    Figures::from([
        ("calls/s", window.calls as f64 / window.seconds),
        ("CPU µs/call", cpu.as_secs_f64() * 1e6 / window.calls as f64),
        ("p50 ms", quantile(&window.latencies, 0.5)),
        ("p99 ms", quantile(&window.latencies, 0.99)),
    ])
}

struct Bench<'a> {
    asked: &'a Asked,
    world: &'a World,
    runtime: &'a tokio::runtime::Runtime,
}

impl Bench<'_> {
    fn taking_part(&self, way: Way) -> impl Iterator<Item = Proxy> + '_ {
        Proxy::ALL.into_iter().filter(move |proxy| {
            let key = format!("{proxy:?}").to_ascii_lowercase();
            let asked_for = self.asked.proxies.as_ref().is_none_or(|only| only.contains(&key));
            asked_for && proxy.takes_part(way) && proxy.is_installed()
        })
    }

    /// Every proxy in turn, started anew each time, so that a slow minute of the machine meets all of them.
    fn rounds(
        &self,
        way: Way,
        who: impl Fn(Proxy) -> bool,
        measure: impl Fn(&Target, Option<&Running>) -> Option<Figures>,
    ) -> Rounds {
        let mut all: Rounds =
            self.taking_part(way).filter(|proxy| who(*proxy)).map(|proxy| (proxy, Vec::new())).collect();
        for _ in 0..self.asked.rounds {
            for (proxy, figures) in &mut all {
                let (running, target) = self.world.start_proxy(*proxy, way);
                let warm = target.asking(CHAT, false);
                self.runtime.block_on(closed(&warm, CONNECTIONS, Duration::from_millis(700)));
                match measure(&target, running.as_ref()) {
                    Some(seen) => figures.push(seen),
                    None => eprintln!("a window of {} with failed calls is thrown away", proxy.name()),
                }
            }
        }
        all
    }

    fn cpu_window(
        &self,
        proxy: Option<&Running>,
        load: impl Future<Output = Window>,
        figures: impl Fn(&Window, Duration) -> Figures,
    ) -> Option<Figures> {
        let cpu = || proxy.map_or(Duration::ZERO, Running::cpu);
        let before = cpu();
        let window = self.runtime.block_on(load);
        let used = cpu() - before;
        (window.failed == 0 && window.calls > 0).then(|| figures(&window, used))
    }

    fn stream_window(
        &self,
        proxy: Option<&Running>,
        target: &Target,
        streams: usize,
        chunks: u64,
        time: Duration,
    ) -> Option<Figures> {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let resident = || proxy.map_or(0, Running::resident);
        let idle = resident();
        let peak = std::sync::atomic::AtomicU64::new(0);
        let done = std::sync::atomic::AtomicBool::new(false);
        let figures = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    peak.fetch_max(resident(), std::sync::atomic::Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            let figures = self.cpu_window(proxy, once_each(target, streams, time), |window, cpu| {
                Figures::from([
                    ("CPU µs/event", cpu.as_secs_f64() * 1e6 / (window.calls * (chunks + 1)) as f64),
                    ("transit p50 ms", quantile(&window.transits, 0.5)),
                    ("transit p99 ms", quantile(&window.transits, 0.99)),
                ])
            });
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            figures
        });
        let mut figures = figures?;
        // What is given back is given back soon, or never.
        std::thread::sleep(Duration::from_secs(2));
        let peak = peak.into_inner();
        if proxy.is_some() {
            figures.insert("RSS idle MiB", mebibytes(idle));
            figures.insert("RSS peak MiB", mebibytes(peak));
            figures.insert("RSS after MiB", mebibytes(resident()));
            figures.insert("KiB/stream", peak.saturating_sub(idle) as f64 / 1024.0 / streams as f64);
        }
        Some(figures)
    }

    /// Milliseconds from exec to the first answered call, and resident memory after it.
    fn start_up(&self, proxy: Proxy) -> (f64, f64) {
        let started = Instant::now();
        let (running, target) = self.world.start_proxy(proxy, Way::Plain);
        let target = target.asking(CHAT, false);
        let window = self.runtime.block_on(once_each(&target, 1, Duration::from_secs(60)));
        let millis = started.elapsed().as_secs_f64() * 1e3;
        std::thread::sleep(Duration::from_millis(500));
        let resident = running.as_ref().map_or(0, Running::resident);
        (if window.calls == 1 { millis } else { f64::NAN }, resident as f64 / f64::from(1 << 20))
    }
}

/// One row a proxy, with the ratio of the first figure to the floor's.
fn show(title: &str, rounds: &Rounds, columns: &[&'static str]) {
    let value = |figures: &[Figures], column: &str| {
        median(figures.iter().filter_map(|round| round.get(column).copied()).collect())
    };
    let floor = rounds.iter().find(|(proxy, _)| *proxy == Proxy::Floor);
    let mut head = vec![String::new()];
    head.extend(columns.iter().map(|column| (*column).to_owned()));
    head.push(format!("{} × floor", columns[0]));
    let mut rows = vec![head];
    for (proxy, figures) in rounds {
        let mut row = vec![proxy.name().to_owned()];
        row.extend(columns.iter().map(|column| short(value(figures, column))));
        let ratio = floor.map_or(f64::NAN, |(_, floor)| value(figures, columns[0]) / value(floor, columns[0]));
        row.push(if *proxy == Proxy::Direct { "–".to_owned() } else { short(ratio) });
        rows.push(row);
    }
    table(title, &rows);
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores, {}; Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}
