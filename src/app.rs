//! Builds every room once, joins them, keeps them in step with the configuration, and drains them on shutdown.
//!
//! Shutdown (SIGTERM, SIGINT): the proxy port stops accepting, calls in flight end within `shutdown.drain`, what waits for
//! export is sent, the admin port stays for `shutdown.linger`. SIGHUP reads the configuration and the certificate authority
//! again and reopens the call log.

mod settings;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin;
use crate::call::{CallFacts, CallRecord, Fingerprint, ForwardRefusal, HandshakeEnd, Unread};
use crate::config::{CallsSink, Config, ConfigHandle, KeyDefaults};
use crate::export::live::{Before, Live};
use crate::export::metrics::{Metrics, Side, Thresholds, Tunnel};
use crate::export::notices::{Notice, Notices};
use crate::export::{DropReason, Exports, Signal};
use crate::ledger::{Dimension, LedgerError, Query, Reader};
use crate::listen::room::Room;
use crate::listen::tunnel::Count;
use crate::listen::{self, Answer, Callers, DataThread, HttpServer, Inherited, ListenSettings, Phase};
use crate::meter::Meter;
use crate::provider::{Provider, read_limits};
use crate::proxy::{Proxy, Watch};
use crate::tap::{Sink, guarded};
pub(crate) use settings::{catalog, price_book};
use settings::{export_settings, ledger_settings, meter_config, metrics_config, snapshot};
pub use settings::{misfits, upstream_settings};

/// Longest wait for exporters at shutdown, once calls have ended.
const FLUSH: Duration = Duration::from_secs(5);

/// Longest wait of a record, not of its call, for the name of who calls. It is usually known before the call has ended.
const CALLER_WAIT: Duration = Duration::from_secs(1);

/// Shutdown waits no longer for records.
const GIVEN_UP: usize = 1 << (usize::BITS - 1);

/// A running sidecar.
pub struct App {
    /// The proxy port.
    pub proxy: SocketAddr,
    /// The same over TLS, if configured.
    pub proxy_tls: Option<SocketAddr>,
    /// Where redirected connections come in, if configured; the other family's loopback has the same port.
    pub redirect: Option<SocketAddr>,
    /// The admin port.
    pub admin: SocketAddr,
    rooms: Arc<Rooms>,
    spine: Arc<Proxy>,
    config: ConfigHandle,
    phase: watch::Sender<Phase>,
    stop_admin: watch::Sender<bool>,
    /// `None` once it has ended.
    proxy_task: Option<JoinHandle<()>>,
    admin_task: JoinHandle<()>,
    _calls: DataThread,
}

/// What a finished call is handed to.
struct Rooms {
    meter: Meter,
    metrics: Metrics,
    live: Arc<Live>,
    exports: Exports,
    /// For the log of a process that does nothing else than serve.
    notices: Option<Mutex<Notices>>,
    /// Calls handed over and not yet recorded; [`GIVEN_UP`] besides.
    settling: AtomicUsize,
    settled: Notify,
}

/// What the data plane tells besides its calls.
struct Watched(Metrics);

impl Watch for Watched {
    fn in_flight(&self, provider: &Arc<str>) -> Box<dyn Send> {
        Box::new(self.0.in_flight(provider))
    }

    fn unread(&self, why: Unread, provider: &str) -> Arc<dyn Count> {
        Arc::new(Passing(self.0.tunnel(why, provider)))
    }

    fn refused(&self, why: ForwardRefusal) {
        self.0.forward_refused(why);
    }

    fn handshake(&self, end: HandshakeEnd) {
        self.0.handshake(end);
    }
}

struct Passing(Tunnel);

impl Count for Passing {
    fn bytes(&self, up: u64, down: u64) {
        self.0.bytes(up, down);
    }
}

/// Turns facts into a record on a task of its own, so that the answer's last byte does not wait for it.
struct Settle {
    rooms: Arc<Rooms>,
    /// Held by the one call that loads what all need.
    loading: Arc<tokio::sync::Mutex<()>>,
}

impl Sink for Settle {
    fn finish(&self, mut facts: CallFacts, provider: Option<Arc<Provider>>, caller: Option<&Answer>) {
        let Some(settling) = Settling::new(Arc::clone(&self.rooms)) else { return };
        let loading = Arc::clone(&self.loading);
        let unknown = match caller.map(|caller| (caller, caller.now())) {
            Some((_, Some(known))) => {
                facts.caller = known;
                None
            }
            Some((caller, None)) => Some(caller.clone()),
            None => None,
        };
        tokio::spawn(async move {
            if let Some(caller) = unknown {
                facts.caller = tokio::time::timeout(CALLER_WAIT, caller.known()).await.ok().flatten();
            }
            if settling.rooms.meter.may_block(&facts) {
                let turn = loading.lock_owned().await;
                if settling.rooms.meter.may_block(&facts) {
                    tokio::task::spawn_blocking(move || {
                        let _turn = turn;
                        settling.settle(facts, provider.as_deref());
                    });
                    return;
                }
            }
            settling.settle(facts, provider.as_deref());
        });
    }
}

/// Counts a call as handed over until it is recorded; one that is dropped before has panicked and is counted as lost.
struct Settling {
    rooms: Arc<Rooms>,
    recorded: bool,
}

impl Settling {
    /// `None` when it is too late: the call is counted as lost.
    fn new(rooms: Arc<Rooms>) -> Option<Self> {
        if rooms.settling.fetch_add(1, Ordering::AcqRel) & GIVEN_UP != 0 {
            rooms.metrics.dropped(Signal::Metrics, DropReason::Shutdown, 1);
            return None;
        }
        Some(Self { rooms, recorded: false })
    }

    fn settle(mut self, facts: CallFacts, provider: Option<&Provider>) {
        self.recorded = guarded("meter", &[], || self.rooms.record(facts, provider)).is_some();
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let rooms = &self.rooms;
        if !self.recorded && !rooms.has_given_up() {
            rooms.metrics.dropped(Signal::Metrics, DropReason::Internal, 1);
        }
        if rooms.settling.fetch_sub(1, Ordering::AcqRel) == 1 {
            rooms.settled.notify_waiters();
        }
    }
}

impl Rooms {
    fn record(&self, facts: CallFacts, provider: Option<&Provider>) {
        let limits = match (provider, &facts.response) {
            (Some(provider), Some(response)) => {
                let error = facts.reply.error.as_ref().map(|error| String::from_utf8_lossy(&error.body));
                read_limits(&provider.limits, &response.headers, error.as_deref(), SystemTime::now())
            }
            _ => Default::default(),
        };
        let now = SystemTime::now();
        let record = self.meter.finish(facts, limits, now);
        if self.has_given_up() {
            return;
        }
        self.live.observe(&record, now);
        self.notice(&record);
        self.exports.record(record);
    }

    fn notice(&self, record: &CallRecord) {
        let Some(notices) =
            self.notices.as_ref().filter(|_| record.outcome.is_failure() || !record.findings.is_empty())
        else {
            return;
        };
        let mut notices = notices.lock().unwrap_or_else(PoisonError::into_inner);
        let due = notices.of(record, std::time::Instant::now(), |id| self.meter.fix(id, None));
        if !due.is_empty() {
            // Whoever reads the log may be slow.
            tokio::task::spawn_blocking(|| due.into_iter().for_each(Notice::tell));
        }
    }

    async fn all_settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.settling.load(Ordering::Acquire) == 0 {
                return;
            }
            settled.await;
        }
    }

    /// Waits no longer: calls that are not recorded are counted as lost, and come into nothing any more. Returns how many.
    fn give_up(&self) -> usize {
        let calls = self.settling.fetch_or(GIVEN_UP, Ordering::AcqRel);
        self.metrics.dropped(Signal::Metrics, DropReason::Shutdown, calls as u64);
        calls
    }

    fn has_given_up(&self) -> bool {
        self.settling.load(Ordering::Acquire) & GIVEN_UP != 0
    }
}

// === impl App ===

impl App {
    /// Binds both ports and starts every room.
    ///
    /// # Errors
    /// A port that cannot be bound, a certificate, price book or exporter setting that cannot be used.
    pub async fn start(config: ConfigHandle) -> anyhow::Result<Self> {
        Self::start_on(config, Inherited::default(), None).await
    }

    /// As [`App::start`], with sockets that are bound already, and with what is wrong with keys in the log.
    async fn start_on(
        config: ConfigHandle,
        mut sockets: Inherited,
        notices: Option<Mutex<Notices>>,
    ) -> anyhow::Result<Self> {
        let current = config.current();
        let listener = bind(&mut sockets, current.listen.proxy, "listen.proxy").await?;
        let admin_listener = bind(&mut sockets, current.listen.admin, "listen.admin").await?;
        let tls_listener = match current.listen.proxy_tls {
            Some(address) => Some(bind(&mut sockets, address, "listen.proxy_tls").await?),
            None => None,
        };
        let redirect_listeners = match current.listen.redirect {
            Some(address) => bind_both(&mut sockets, address).await?,
            None => Vec::new(),
        };
        sockets.all_taken()?;
        let (proxy, admin) = (listener.local_addr()?, admin_listener.local_addr()?);
        let proxy_tls = tls_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let redirects = redirect_listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
        let redirect = redirects.first().copied();
        let listeners: Arc<[SocketAddr]> = [proxy, admin].into_iter().chain(proxy_tls).chain(redirects).collect();

        let metrics = Metrics::new(metrics_config(&current));
        let meter = Meter::new(meter_config(&current)?);
        let observe = metrics.clone();
        let exports = Exports::start(
            &export_settings(&current),
            Box::new(move |record: &CallRecord, exported| observe.observe(record, exported)),
            Arc::new(metrics.clone()),
        )?;
        let live = Arc::new(Live::new(SystemTime::now()));
        let rooms = Arc::new(Rooms {
            meter,
            metrics,
            live,
            exports,
            notices,
            settling: AtomicUsize::new(0),
            settled: Notify::new(),
        });
        tell_metrics(&rooms, &current);
        seed_live_view(&rooms, &current);
        let status = config.status();
        rooms.metrics.config_reloaded(status.successful, status.last_success);

        let (phase, phases) = watch::channel(Phase::Serving);
        let pauses = rooms.metrics.clone();
        let room = Room::new(current.limits.connections as usize, move |reason| pauses.accept_paused(reason));
        rooms.metrics.connections_limit(room.most());
        let settings = ListenSettings {
            room: Arc::new(room),
            header_bytes: usize::try_from(current.limits.header_bytes).unwrap_or(usize::MAX),
            callers: current.listen.callers.then(Callers::start).flatten(),
        };
        let first = snapshot(&current, &rooms.metrics, &listeners)?;
        let sink = Arc::new(Settle { rooms: Arc::clone(&rooms), loading: Arc::default() });
        let watched = Arc::new(Watched(rooms.metrics.clone()));
        let server = Arc::new(HttpServer::new(&settings));
        let spine = Arc::new(Proxy::new(first, sink, watched, server, Arc::clone(&listeners)));
        follow_config(&config, &rooms, &spine, listeners);

        let calls = DataThread::start().context("cannot start the thread that serves calls")?;
        let connections = rooms.metrics.clone();
        let serving = Arc::clone(&spine);
        // Each thread waits for its own sockets.
        let moved = |listener: TcpListener| {
            let socket = listener.into_std()?;
            let _there = calls.handle().enter();
            TcpListener::from_std(socket)
        };
        let listener = moved(listener)?;
        let tls_listener = tls_listener.map(moved).transpose()?;
        let redirect_listeners = redirect_listeners.into_iter().map(moved).collect::<Result<Vec<_>, _>>()?;
        let proxy_task = calls.handle().spawn(async move {
            let opened = || connections.connection(Side::Client);
            let plain = listen::accept(listener, &settings, phases.clone(), opened, |stream, arrival| {
                Arc::clone(&serving).plain(stream, arrival)
            });
            let tls = async {
                let Some(listener) = tls_listener else { return };
                let face = |stream, arrival| Arc::clone(&serving).face(stream, arrival);
                listen::accept(listener, &settings, phases.clone(), opened, face).await;
            };
            let mut redirect_listeners = redirect_listeners.into_iter();
            let redirected = |listener: Option<TcpListener>| async {
                let Some(listener) = listener else { return };
                let take = |stream, arrival| Arc::clone(&serving).redirected(stream, arrival, settings.callers.clone());
                listen::accept(listener, &settings, phases.clone(), opened, take).await;
            };
            let (one, other) = (redirected(redirect_listeners.next()), redirected(redirect_listeners.next()));
            tokio::join!(plain, tls, one, other);
        });

        let (stop_admin, mut admin_stopped) = watch::channel(false);
        let source = Status {
            rooms: Arc::clone(&rooms),
            config: config.clone(),
            proxy,
            proxy_tls,
            redirect,
            admin,
            phase: phase.subscribe(),
        };
        let hosts = current.listen.admin_hosts.clone();
        let pages = admin::Admin::new(rooms.metrics.clone(), Arc::clone(&rooms.live), Arc::new(source), hosts);
        let admin_task = tokio::spawn(pages.serve(admin_listener, async move {
            let _ = admin_stopped.wait_for(|stop| *stop).await;
        }));
        let tls = proxy_tls.map(tracing::field::display);
        let redirected = redirect.map(tracing::field::display);
        tracing::info!(%proxy, proxy_tls = tls, redirect = redirected, %admin, version = env!("CARGO_PKG_VERSION"), "ready");
        Ok(Self {
            proxy,
            proxy_tls,
            redirect,
            admin,
            rooms,
            spine,
            config,
            phase,
            stop_admin,
            proxy_task: Some(proxy_task),
            admin_task,
            _calls: calls,
        })
    }

    /// Records of calls as they end; a reader that is slower than the calls misses some.
    pub fn records(&self, capacity: usize) -> mpsc::Receiver<Arc<CallRecord>> {
        self.rooms.exports.subscribe(capacity)
    }

    /// Ends in order; see the head of this file.
    pub async fn stop(self) {
        self.stop_within(FLUSH).await;
    }

    /// As [`App::stop`], where calls that have ended may take `settle` to become records.
    pub async fn stop_within(mut self, settle: Duration) {
        self.drain(settle).await;
        self.linger().await;
    }

    /// No more calls; those in flight end or are cut off, and everything that is known of them is exported.
    async fn drain(&mut self, settle: Duration) {
        let limit = self.config.current().shutdown.drain;
        self.phase.send_replace(Phase::Draining);
        tracing::info!("stopping");
        if let Some(mut task) = self.proxy_task.take()
            && tokio::time::timeout(limit, &mut task).await.is_err()
        {
            tracing::warn!(seconds = limit.as_secs_f64(), "calls still in flight after the drain time are cut off");
            self.phase.send_replace(Phase::CutOff);
            let _ = tokio::time::timeout(FLUSH, task).await;
        }
        if tokio::time::timeout(settle, self.rooms.all_settled()).await.is_err() {
            let calls = self.rooms.give_up();
            tracing::warn!(calls, "calls were not recorded in time and are lost");
        }
        let lost = self.rooms.exports.flush(FLUSH).await;
        if lost > 0 {
            tracing::warn!(lost, "telemetry was lost at shutdown");
        }
        self.rooms.metrics.release_birth_hold();
    }

    /// The admin port stays for a last scrape.
    async fn linger(self) {
        let linger = self.config.current().shutdown.linger;
        if !linger.is_zero() {
            tracing::info!(seconds = linger.as_secs_f64(), "metrics stay up for a last scrape");
            tokio::time::sleep(linger).await;
        }
        self.stop_admin.send_replace(true);
        let _ = self.admin_task.await;
        tracing::info!("stopped");
    }
}

/// Serves until SIGTERM or SIGINT, on the sockets that the service manager hands over, if it does.
///
/// # Errors
/// As [`App::start`]; a socket that was handed over and that no setting names.
pub fn serve(config: ConfigHandle) -> anyhow::Result<()> {
    let sockets = Inherited::from_env()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let served = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let app =
            App::start_on(config.clone(), sockets, Some(Mutex::new(Notices::new(std::time::Instant::now())))).await?;
        let _watch = config.watch().context("cannot watch the configuration file")?;
        loop {
            match signals.next().await {
                Asked::Stop => break,
                Asked::Reload => {
                    app.rooms.exports.reopen();
                    let config = config.clone();
                    let _ = tokio::task::spawn_blocking(move || config.reload(true)).await;
                    let intercept = Arc::clone(&app.spine.snapshot().intercept);
                    let _ = tokio::task::spawn_blocking(move || intercept.look_again()).await;
                }
            }
        }
        let mut app = app;
        // A second signal does not wait for anybody: what is dropped here are the calls still in flight.
        tokio::select! {
            () = app.drain(FLUSH) => {}
            () = signals.stop() => anyhow::bail!("stopped at once by a second signal; calls in flight were cut off"),
        }
        tokio::select! {
            () = app.linger() => {}
            () = signals.stop() => {}
        }
        Ok(())
    });
    // A name look-up that hangs must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    served
}

enum Asked {
    Stop,
    Reload,
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        while !matches!(self.next().await, Asked::Stop) {}
    }
}

/// The socket that was handed over for this address, else a new one.
async fn bind(sockets: &mut Inherited, address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    if let Some(socket) = sockets.take(address) {
        return TcpListener::from_std(socket).with_context(|| format!("{setting}: {address}: the socket handed over"));
    }
    TcpListener::bind(address).await.with_context(|| {
        format!("{setting}: cannot listen on {address}; is another sidecar running, or the port taken?")
    })
}

/// Both loopback addresses, the given one first: a firewall sends either family to its own. A machine without the other
/// family does without it.
async fn bind_both(sockets: &mut Inherited, address: SocketAddr) -> anyhow::Result<Vec<TcpListener>> {
    let first = bind(sockets, address, "listen.redirect").await?;
    let port = first.local_addr()?.port();
    let other: IpAddr = if address.is_ipv4() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let second = match sockets.take((other, port).into()) {
        Some(socket) => TcpListener::from_std(socket),
        None => TcpListener::bind((other, port)).await,
    };
    match second {
        Ok(second) => Ok(vec![first, second]),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Err(error).with_context(|| format!("listen.redirect: cannot listen on port {port} of {other} as well"))
        }
        Err(error) => {
            tracing::info!(%error, address = %other, "redirected connections of this family are not taken");
            Ok(vec![first])
        }
    }
}

/// Takes every later configuration over, and tells what became of each reload.
fn follow_config(config: &ConfigHandle, rooms: &Arc<Rooms>, spine: &Arc<Proxy>, listeners: Arc<[SocketAddr]>) {
    let mut reloads = config.subscribe_reloads();
    let metrics = rooms.metrics.clone();
    tokio::spawn(async move {
        while reloads.changed().await.is_ok() {
            let (successful, last_success) = {
                let status = reloads.borrow_and_update();
                (status.successful, status.last_success)
            };
            metrics.config_reloaded(successful, last_success);
        }
    });
    let mut changes = config.subscribe();
    let (rooms, spine) = (Arc::downgrade(rooms), Arc::downgrade(spine));
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let (Some(rooms), Some(spine)) = (rooms.upgrade(), spine.upgrade()) else { return };
            let current = changes.borrow_and_update().clone();
            match (snapshot(&current, &rooms.metrics, &listeners), meter_config(&current)) {
                (Ok(snapshot), Ok(meter)) => {
                    spine.swap(snapshot);
                    rooms.meter.reload(meter);
                    rooms.exports.change_traces(&export_settings(&current).traces);
                    if let Err(error) = rooms.exports.change_ledger(ledger_settings(&current)) {
                        tracing::error!(%error, "there is no ledger");
                    }
                    tell_metrics(&rooms, &current);
                }
                (Err(error), _) | (_, Err(error)) => {
                    rooms.metrics.config_reloaded(false, SystemTime::now());
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the new configuration cannot be used; the old one stays"
                    );
                }
            }
        }
    });
}

/// What today and this month had come to before this start, as far as the ledger knows; read beside everything else,
/// since a large ledger takes a moment.
fn seed_live_view(rooms: &Rooms, config: &Config) {
    let Some(ledger) = &config.ledger else { return };
    let (path, live) = (ledger.path.clone(), Arc::clone(&rooms.live));
    let names: Vec<_> =
        config.keys.iter().map(|key| (key.fingerprint.clone(), key.name.clone(), key.team.clone())).collect();
    tokio::task::spawn_blocking(move || {
        let read = || {
            let mut reader = Reader::open(&path)?;
            reader.name_keys(names);
            let (day, month) = Live::period_starts(live.started());
            let before = |since| {
                let query = Query { since: Some(since), until: Some(live.started()), ..Query::default() };
                let groups = reader.totals(&query, &[Dimension::Key, Dimension::Provider])?;
                let rows = groups.into_iter().filter_map(|group| match &group.values[..] {
                    [key, provider] => Some(Before {
                        key: key.to_string(),
                        named: key.parse::<Fingerprint>().is_err(),
                        provider: provider.clone(),
                        calls: group.totals.calls,
                        spend: group.totals.cost,
                    }),
                    _ => None,
                });
                Ok::<_, LedgerError>(rows.collect::<Vec<_>>())
            };
            let from = reader.extent()?.times.map_or(live.started(), |(oldest, _)| oldest);
            live.seed(&before(day)?, &before(month)?, from, live.started());
            Ok::<_, LedgerError>(())
        };
        if let Err(error) = read() {
            tracing::warn!(%error, "the status page shows spend since start only");
        }
    });
}

fn tell_metrics(rooms: &Rooms, config: &Config) {
    let KeyDefaults { anomaly_ratio, anomaly_min_usd_per_hour, new_key_usd_per_hour } = config.key_defaults;
    let others = Thresholds { anomaly_ratio, anomaly_min_usd_per_hour, new_key_usd_per_hour, ..Thresholds::default() };
    rooms.metrics.set_key_thresholds(&config.keys, others);
    if let Some(date) = rooms.meter.prices().timestamp() {
        rooms.metrics.price_book(date);
    }
}

// === status ===

struct Status {
    rooms: Arc<Rooms>,
    config: ConfigHandle,
    proxy: SocketAddr,
    proxy_tls: Option<SocketAddr>,
    redirect: Option<SocketAddr>,
    admin: SocketAddr,
    phase: watch::Receiver<Phase>,
}

impl admin::StatusSource for Status {
    fn ready(&self) -> Result<(), String> {
        if *self.phase.borrow() == Phase::Serving { Ok(()) } else { Err("stopping".to_owned()) }
    }

    fn fix(&self, id: &str, worked: Option<Duration>) -> Option<String> {
        self.rooms.meter.fix(id, worked)
    }

    fn status(&self) -> admin::RoomStatus {
        let status = self.config.status();
        let config = self.config.current();
        let exports = &self.rooms.exports;
        let exporter = |signal: Signal, target: String, problem: Option<String>| admin::ExporterStatus {
            name: signal.as_str().to_owned(),
            healthy: problem.is_none(),
            detail: Some(problem.unwrap_or(target)),
        };
        let mut exporters = Vec::new();
        if let Some(otlp) = &config.otlp {
            let host = otlp.endpoint.host_str().unwrap_or_default();
            exporters.push(exporter(Signal::Traces, format!("{} {host}", otlp.protocol), exports.traces_problem()));
        }
        if let Some(sink) = &config.calls {
            let target = match sink {
                CallsSink::Stdout => "-".to_owned(),
                CallsSink::File(path) => path.display().to_string(),
            };
            exporters.push(exporter(Signal::Logs, target, exports.log_problem()));
        }
        let ledger = exports.ledger_health();
        exporters.extend(ledger.map(|(path, problem)| exporter(Signal::Ledger, path.display().to_string(), problem)));
        admin::RoomStatus {
            config_path: self.config.path().map(|path| path.display().to_string()),
            config_error: (!status.successful).then(|| "the file on disk is not what runs; see the log".to_owned()),
            listeners: [
                ("proxy", Some(self.proxy)),
                ("proxy_tls", self.proxy_tls),
                ("redirect", self.redirect),
                ("admin", Some(self.admin)),
            ]
            .into_iter()
            .filter_map(|(name, address)| Some(admin::ListenerStatus { name: name.to_owned(), address: address? }))
            .collect(),
            exporters,
        }
    }
}
