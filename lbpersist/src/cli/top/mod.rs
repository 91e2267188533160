//! `lbpersist top`: services and servers, and what each second brings them, in a terminal.

mod reading;
mod view;

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};

use self::{
    reading::{Reading, Rows},
    view::Screen,
};
use super::{
    arguments::{Output, Top},
    commands::{Failure, print},
    proxied,
};
use crate::{
    datapath::{maps::PinDirectory, report::Reader},
    network::View,
};

/// Lines that a page key scrolls.
const PAGE: usize = 10;

pub(super) fn execute(
    asked: &Top,
    pins: &PinDirectory,
    socket: &Path,
    output: Output,
) -> Result<(), Failure> {
    if output == Output::Json {
        return Err(Failure::Input(
            "`top` is for people; `lbpersist status -o json` has the counters".to_owned(),
        ));
    }
    let source = Source { pins, socket };
    if asked.once {
        return once(&source, asked.interval);
    }
    if !io::stdout().is_terminal() {
        return Err(Failure::Input(
            "`top` needs a terminal; with --once it prints one frame as text".to_owned(),
        ));
    }
    // What cannot be read at all is said before the terminal changes.
    let first = source.read()?;
    let mut terminal = ratatui::try_init().map_err(|error| terminal_failure(&error))?;
    let mut session = Session::new(source, asked.interval, first);
    let result = session.run(&mut terminal);
    ratatui::restore();
    result.map_err(|error| terminal_failure(&error))
}

fn terminal_failure(error: &io::Error) -> Failure {
    Failure::Work(format!("the terminal cannot be used: {error}"))
}

fn once(source: &Source<'_>, interval: Duration) -> Result<(), Failure> {
    let (before, at) = (source.read()?, Instant::now());
    std::thread::sleep(interval);
    let now = source.read()?;
    let mut rows = Rows::new(Some((&before, at.elapsed())), &now);
    rows.sort(reading::Sort::default());
    print(&view::text(&rows))
}

/// Where counters are read.
struct Source<'p> {
    pins: &'p PinDirectory,
    socket: &'p Path,
}

impl Source<'_> {
    /// Opens the maps anew, since services, pools and names may be others than before.
    fn read(&self) -> Result<Reading, Failure> {
        // The network is asked for interfaces only, which are not shown.
        let status = Reader::open(self.pins)?.status(&View::default())?;
        Ok(Reading { status, proxied: proxied::known(self.socket).unwrap_or_default() })
    }
}

/// What one look at the terminal lasts.
struct Session<'p> {
    source: Source<'p>,
    interval: Duration,
    last: (Reading, Instant),
    rows: Rows,
    screen: Screen,
}

impl<'p> Session<'p> {
    fn new(source: Source<'p>, interval: Duration, first: Reading) -> Self {
        let mut rows = Rows::new(None, &first);
        let screen = Screen::default();
        rows.sort(screen.sort);
        Self { source, interval, last: (first, Instant::now()), rows, screen }
    }

    /// Draws, reads and obeys until a key says that it is enough.
    fn run(&mut self, terminal: &mut DefaultTerminal) -> io::Result<()> {
        let mut due = Instant::now() + self.interval;
        loop {
            terminal.draw(|frame| {
                view::draw(frame, &self.rows, &mut self.screen, self.interval);
            })?;
            let was_paused = self.screen.is_paused;
            // A change of size is an event, too; the next frame is drawn for the size that is then.
            if event::poll(due.saturating_duration_since(Instant::now()))?
                && let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && self.obey(key) == Next::Quit
            {
                return Ok(());
            }
            if was_paused && !self.screen.is_paused {
                // Rates are of the time since, and not of the pause.
                self.read(|rows, _| rows);
                due = Instant::now() + self.interval;
            } else if Instant::now() >= due {
                if !self.screen.is_paused {
                    self.read(|_, rows| rows);
                }
                due = Instant::now() + self.interval;
            }
        }
    }

    /// Reads, and shows what `choose` makes of the rows that are shown and the new ones.
    fn read(&mut self, choose: fn(Rows, Rows) -> Rows) {
        match self.source.read() {
            Ok(now) => {
                let at = Instant::now();
                let rows = Rows::new(Some((&self.last.0, at - self.last.1)), &now);
                self.rows = choose(std::mem::take(&mut self.rows), rows);
                self.rows.sort(self.screen.sort);
                self.last = (now, at);
                self.screen.trouble = None;
            }
            Err(Failure::Input(why) | Failure::File(why) | Failure::Work(why)) => {
                self.screen.trouble = Some(why);
            }
        }
    }

    fn obey(&mut self, key: KeyEvent) -> Next {
        let screen = &mut self.screen;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Next::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Next::Quit;
            }
            KeyCode::Char('p') => screen.is_paused = !screen.is_paused,
            KeyCode::Char('s') => {
                screen.sort = screen.sort.next();
                self.rows.sort(screen.sort);
            }
            KeyCode::Char('?') => screen.shows_keys = !screen.shows_keys,
            KeyCode::Up => screen.scrolled = screen.scrolled.saturating_sub(1),
            // How far down there is something, the next frame knows.
            KeyCode::Down => screen.scrolled = screen.scrolled.saturating_add(1),
            KeyCode::PageUp => screen.scrolled = screen.scrolled.saturating_sub(PAGE),
            KeyCode::PageDown => screen.scrolled = screen.scrolled.saturating_add(PAGE),
            KeyCode::Home => screen.scrolled = 0,
            _ => {}
        }
        Next::Draw
    }
}

/// What follows a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Draw,
    Quit,
}

#[cfg(test)]
mod tests {
    use super::{
        reading::{Sort, tests::reading},
        *,
    };

    #[test]
    fn keys_do_what_the_line_of_keys_says() {
        let (pins, socket) = (PinDirectory::new("/nonexistent"), Path::new("/nonexistent"));
        let source = Source { pins: &pins, socket };
        let mut session = Session::new(source, Duration::from_secs(2), reading(1));
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for quits in [key(KeyCode::Char('q')), key(KeyCode::Esc), control_c] {
            assert_eq!(session.obey(quits), Next::Quit, "{quits:?}");
        }
        for code in ['c', 'p', 's', '?'].map(KeyCode::Char) {
            assert_eq!(session.obey(key(code)), Next::Draw);
        }
        let Screen { sort, is_paused, shows_keys, .. } = session.screen.clone();
        assert_eq!((sort, is_paused, shows_keys), (Sort::Packets, true, true));
        for (code, scrolled) in [
            (KeyCode::Up, 0),
            (KeyCode::Down, 1),
            (KeyCode::PageDown, PAGE + 1),
            (KeyCode::Up, PAGE),
            (KeyCode::PageUp, 0),
            (KeyCode::Down, 1),
            (KeyCode::Home, 0),
        ] {
            session.obey(key(code));
            assert_eq!(session.screen.scrolled, scrolled, "{code:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rows_stay() {
        let (pins, socket) = (PinDirectory::new("/nonexistent"), Path::new("/nonexistent"));
        let source = Source { pins: &pins, socket };
        let mut session = Session::new(source, Duration::from_secs(2), reading(1));
        session.read(|_, rows| rows);
        assert!(session.screen.trouble.is_some_and(|why| why.contains("/nonexistent")));
        assert_eq!(session.rows.services.len(), 2);
    }
}
