//! `keytally top`: what a running sidecar does, live on a terminal.
//!
//! In: `/status/live` of its admin port, every `--interval`; keys and signals. Out: the screen, or with `--once` (and where
//! standard output is no terminal) one snapshot as text. Reads only. Texts of applications and providers are stripped of
//! what a terminal would act on. The terminal is given back as it was at every end: quit, signal, error, panic.
//!
//! Bounds: [`ANSWER_BYTES`] an answer, [`PATIENCE`] for it; an answer that fails leaves the last one on the screen, with
//! its age.

mod ask;
mod once;
mod screen;
mod table;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use super::{ConfigArgs, address, span};
use crate::admin::overview::Overview;
use table::{Table, View};

/// Largest answer that is read: hundreds of keys fit.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Keys typed and not yet handled.
const EVENTS: usize = 64;

/// Flags of `top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Admin address of the sidecar, instead of the configured one (variable: KEYTALLY_ADMIN)
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(super) admin: Option<SocketAddr>,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", value_parser = span, default_value = "2s")]
    interval: Duration,
    /// Print one snapshot as plain text and end; so it is when standard output is no terminal
    #[arg(long)]
    once: bool,
    /// Show only rows with this text in them; with `/` it can be changed
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// No colors (variable: NO_COLOR)
    #[arg(long)]
    no_color: bool,
}

/// What is on the screen, and what was asked of it.
#[derive(Debug)]
struct Top {
    admin: SocketAddr,
    color: bool,
    overview: Option<Box<Overview>>,
    /// When that came, and what has gone wrong since.
    came: Instant,
    error: Option<String>,
    paused: bool,
    view: View,
    /// Column by which each view is sorted, and whether the other way round.
    sort: [(usize, bool); View::ALL.len()],
    filter: String,
    /// The filter is being typed.
    typing: bool,
    selected: usize,
    /// Lines that the detail is scrolled by.
    scrolled: u16,
    /// A key and its provider.
    detail: Option<(String, String)>,
    help: bool,
}

/// What a key asks for beyond the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Refresh,
    Quit,
}

/// Shows it until told to stop.
pub(super) fn run(args: TopArgs, admin: SocketAddr) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let admin = super::health::reachable(admin);
    if args.once || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let overview = runtime.block_on(ask::overview(admin))?;
        let width = terminal_size::terminal_size().map_or(120, |(width, _)| usize::from(width.0).max(60));
        let exit = super::print(&once::text(admin, &overview, &args.filter, width));
        anyhow::ensure!(exit == super::Exit::Ok, "standard output cannot be written");
        return Ok(());
    }
    let no_color = args.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let top = Top::new(admin, !no_color, args.filter);
    // Restores the terminal in a panic as well.
    let mut terminal = ratatui::try_init().context("the terminal cannot be taken over")?;
    let shown = runtime.block_on(show(&mut terminal, top, args.interval.max(Duration::from_millis(100))));
    ratatui::restore();
    runtime.shutdown_background();
    shown
}

async fn show(terminal: &mut ratatui::DefaultTerminal, mut top: Top, interval: Duration) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let on = |kind| signal(kind).context("cannot listen for signals");
    let (mut terminate, mut interrupt, mut hang_up) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    let (sender, mut events) = mpsc::channel(EVENTS);
    // Reading keys blocks; the thread ends with the process, or when nobody listens any more.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (answers, mut answered) = mpsc::channel(1);
    let mut asking = false;
    loop {
        terminal.draw(|frame| screen::draw(frame, &top)).context("the terminal cannot be drawn on")?;
        // Nothing is lost when another branch wins: receiving and ticks are cancel safe, an answer waits in its channel.
        let refresh = tokio::select! {
            event = events.recv() => match event {
                Some(event) => match top.handle(&event) {
                    Asked::Quit => return Ok(()),
                    Asked::Refresh => true,
                    Asked::Nothing => false,
                },
                None => return Ok(()),
            },
            Some(answer) = answered.recv() => {
                asking = false;
                top.take(answer);
                false
            }
            _ = tick.tick() => !top.paused,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
        };
        if refresh && !asking {
            asking = true;
            let (answers, admin) = (answers.clone(), top.admin);
            tokio::spawn(async move {
                let _ = answers.send(ask::overview(admin).await).await;
            });
        }
    }
}

// === impl Top ===

impl Top {
    fn new(admin: SocketAddr, color: bool, filter: String) -> Self {
        Self {
            admin,
            color,
            overview: None,
            came: Instant::now(),
            error: None,
            paused: false,
            view: View::Keys,
            sort: View::ALL.map(|view| (view.usual_sort(), false)),
            filter,
            typing: false,
            selected: 0,
            scrolled: 0,
            detail: None,
            help: false,
        }
    }

    fn take(&mut self, answer: anyhow::Result<Overview>) {
        match answer {
            Ok(overview) => {
                self.overview = Some(Box::new(overview));
                self.came = Instant::now();
                self.error = None;
            }
            Err(error) => self.error = Some(format!("{error:#}")),
        }
    }

    /// The rows of the view, filtered and sorted.
    fn table(&self) -> Table {
        let mut table = self.overview.as_deref().map(|overview| Table::of(self.view, overview)).unwrap_or_default();
        let (column, reversed) = self.sort[self.view as usize];
        table.filter(&self.filter);
        table.sort(column, reversed);
        table
    }

    fn handle(&mut self, event: &Event) -> Asked {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key),
            _ => Asked::Nothing,
        }
    }

    fn key(&mut self, key: KeyEvent) -> Asked {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Asked::Quit;
        }
        if self.typing {
            match key.code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => (self.typing, self.filter) = (false, String::new()),
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(letter) if !control && self.filter.len() < 64 => self.filter.push(letter),
                _ => {}
            }
            self.selected = 0;
            return Asked::Nothing;
        }
        if self.help {
            self.help = false;
            return if key.code == KeyCode::Char('q') { Asked::Quit } else { Asked::Nothing };
        }
        match key.code {
            KeyCode::Char('q') => return Asked::Quit,
            KeyCode::Esc if self.detail.is_some() => self.detail = None,
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc => return Asked::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('p' | ' ') => {
                self.paused = !self.paused;
                if !self.paused {
                    return Asked::Refresh;
                }
            }
            KeyCode::Char('r') => return Asked::Refresh,
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(10),
            KeyCode::PageUp => self.step(-10),
            KeyCode::Home | KeyCode::Char('g') => (self.selected, self.scrolled) = (0, 0),
            KeyCode::End | KeyCode::Char('G') => self.step(i32::MAX),
            _ if self.detail.is_some() => {}
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(View::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='6') => self.show(View::ALL[digit as usize - '1' as usize]),
            KeyCode::Char('s') => {
                let columns = self.table().columns.len().max(1);
                let (column, reversed) = &mut self.sort[self.view as usize];
                (*column, *reversed) = ((*column + 1) % columns, false);
            }
            KeyCode::Char('S') => {
                let reversed = &mut self.sort[self.view as usize].1;
                *reversed = !*reversed;
            }
            KeyCode::Char('/' | 'f') => self.typing = true,
            KeyCode::Enter => {
                self.detail = self.table().rows.get(self.selected).and_then(|row| row.key.clone());
                self.scrolled = 0;
            }
            _ => {}
        }
        Asked::Nothing
    }

    fn step(&mut self, by: i32) {
        if self.detail.is_some() {
            // The screen knows how long the text is and stops at its end.
            self.scrolled =
                u16::try_from(i64::from(self.scrolled).saturating_add(by.into()).clamp(0, 500)).unwrap_or(0);
            return;
        }
        let last = self.table().rows.len().saturating_sub(1) as i64;
        self.selected = (self.selected as i64).saturating_add(by.into()).clamp(0, last) as usize;
    }

    fn turn(&mut self, by: usize) {
        self.show(View::ALL[(self.view as usize + by) % View::ALL.len()]);
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.selected = 0;
    }
}

#[cfg(test)]
mod tests;
