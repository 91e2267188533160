//! How rows look: as lines of text, and as a frame of a terminal.

use std::time::Duration;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::Paragraph,
};

use super::reading::{Rates, Rows, Sort};
use crate::{breaks::share_text, cli::text::Table, config::format_duration};

const KEYS: &str = "q quit   p pause   s sort   up/down, page up/down scroll   ? this line";

/// What the keys have set.
#[derive(Clone, Debug, Default)]
pub(super) struct Screen {
    /// The order of rows.
    pub(super) sort: Sort,
    /// Whether nothing is read.
    pub(super) is_paused: bool,
    /// Whether the line of keys is shown.
    pub(super) shows_keys: bool,
    /// How many lines are above those that are seen.
    pub(super) scrolled: usize,
    /// Why there is nothing newer to show.
    pub(super) trouble: Option<String>,
}

/// How a line stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    Heads,
    /// Clients have lost their server, or may.
    Warning,
    /// A server gets nobody.
    Alarm,
}

/// The whole as plain text, with figures that programs can read.
pub(super) fn text(rows: &Rows) -> String {
    let mut text = String::new();
    for (line, _) in lines(rows, exact) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The whole as a frame. What was scrolled too far is brought back, whatever the terminal's size is now.
pub(super) fn draw(frame: &mut Frame<'_>, rows: &Rows, screen: &mut Screen, interval: Duration) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(0), Constraint::Length(1)])
            .areas::<3>(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let title = Line::styled(title(rows, screen, interval), bold);
    frame.render_widget(Paragraph::new(vec![title, Line::raw(total(rows))]), head);
    draw_body(frame, body, &lines(rows, scaled), screen);
    let (words, style) = match &screen.trouble {
        Some(trouble) => (trouble.as_str(), Style::new().fg(Color::Red)),
        None if screen.shows_keys => (KEYS, Style::new().add_modifier(Modifier::REVERSED)),
        None => ("? keys", Style::new().add_modifier(Modifier::DIM)),
    };
    frame.render_widget(Paragraph::new(Line::styled(words.to_owned(), style)), foot);
}

fn draw_body(frame: &mut Frame<'_>, area: Rect, lines: &[(String, Tone)], screen: &mut Screen) {
    let height = usize::from(area.height);
    screen.scrolled = screen.scrolled.min(lines.len().saturating_sub(height));
    let seen = lines.iter().skip(screen.scrolled).take(height);
    let seen: Vec<_> = seen.map(|(line, tone)| Line::styled(line.as_str(), style(*tone))).collect();
    frame.render_widget(Paragraph::new(seen), area);
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Heads => Style::new().add_modifier(Modifier::BOLD),
        Tone::Warning => Style::new().fg(Color::Yellow),
        Tone::Alarm => Style::new().fg(Color::Red),
    }
}

fn title(rows: &Rows, screen: &Screen, interval: Duration) -> String {
    let pause = if screen.is_paused { "   PAUSED" } else { "" };
    format!(
        "lbpersist top   every {}   by {}   {}, {}{pause}",
        format_duration(interval),
        screen.sort.name(),
        number_of(rows.services.len(), "service"),
        number_of(rows.servers.len(), "server"),
    )
}

fn number_of(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn total(rows: &Rows) -> String {
    let Rates { packets, bits, connections } = rows.total();
    let open: u64 = rows.servers.iter().map(|one| u64::from(one.open)).sum();
    format!(
        "{} packets/s   {} bits/s   {} connections/s   {open} open   {} entries made/s",
        rate(packets, scaled),
        rate(bits, scaled),
        rate(connections, scaled),
        rate(rows.entries_made, scaled)
    )
}

/// Everything below the title.
fn lines(rows: &Rows, figure: fn(f64) -> String) -> Vec<(String, Tone)> {
    let mut lines = services(rows, figure);
    lines.push((String::new(), Tone::Plain));
    lines.extend(servers(rows, figure));
    lines.push((String::new(), Tone::Plain));
    let mut verdicts = Table::new(["PACKETS", "A SECOND"]);
    for (reason, rate) in &rows.verdicts {
        verdicts.row([(*reason).to_owned(), figure(*rate)]);
    }
    lines.extend(toned(&verdicts.text("no packets in this time"), |_| Tone::Plain));
    lines
}

fn services(rows: &Rows, figure: fn(f64) -> String) -> Vec<(String, Tone)> {
    let mut table = Table::new([
        "VIRTUAL SERVICE",
        "PACKETS/S",
        "BITS/S",
        "CONNECTIONS/S",
        "OPEN",
        "SHARE KEPT",
        "BREAKS",
    ]);
    for row in &rows.services {
        let breaks: Vec<_> =
            row.breaks.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        table.row([
            row.name.clone(),
            rate(row.rates.packets, figure),
            rate(row.rates.bits, figure),
            rate(row.rates.connections, figure),
            row.open.map_or_else(|| "-".to_owned(), |open| open.to_string()),
            share_text(row.share_kept),
            if breaks.is_empty() { "0".to_owned() } else { breaks.join(", ") },
        ]);
    }
    toned(&table.text("no virtual services"), |row| {
        let has_breaks = rows.services.get(row).is_some_and(|one| !one.breaks.is_empty());
        if has_breaks { Tone::Warning } else { Tone::Plain }
    })
}

fn servers(rows: &Rows, figure: fn(f64) -> String) -> Vec<(String, Tone)> {
    let mut table =
        Table::new(["POOL", "SERVER", "STATE", "PACKETS/S", "BITS/S", "CONNECTIONS/S", "OPEN"]);
    for row in &rows.servers {
        table.row([
            row.pool.clone(),
            row.server.clone(),
            row.state.to_owned(),
            rate(row.rates.packets, figure),
            rate(row.rates.bits, figure),
            rate(row.rates.connections, figure),
            match row.max_connections {
                Some(limit) => format!("{} of {limit}", row.open),
                None => row.open.to_string(),
            },
        ]);
    }
    toned(&table.text("no servers"), |row| match rows.servers.get(row).map(|one| one.state) {
        Some("up") | None => Tone::Plain,
        Some("draining") => Tone::Warning,
        Some(_) => Tone::Alarm,
    })
}

/// The lines of a table: its heads, and its rows as `tone` says.
fn toned(table: &str, tone: impl Fn(usize) -> Tone) -> Vec<(String, Tone)> {
    let tones = std::iter::once(Tone::Heads).chain((0..).map(tone));
    table.lines().map(str::to_owned).zip(tones).collect()
}

fn rate(rate: Option<f64>, figure: fn(f64) -> String) -> String {
    rate.map_or_else(|| "-".to_owned(), figure)
}

fn exact(rate: f64) -> String {
    format!("{rate:.1}")
}

/// Short, by thousands.
fn scaled(rate: f64) -> String {
    let mut rest = rate;
    for unit in ["", "k", "M", "G"] {
        // What would be written as 1000.0 belongs to the next unit.
        if rest < 999.95 {
            return format!("{rest:.1}{unit}");
        }
        rest /= 1000.0;
    }
    format!("{rest:.1}T")
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

    use super::{super::reading::tests::reading, *};

    fn rows() -> Rows {
        Rows::new(Some((&reading(100), Duration::from_secs(2))), &reading(120))
    }

    fn drawn(width: u16, height: u16, rows: &Rows, screen: &mut Screen) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, rows, screen, Duration::from_secs(2))).unwrap();
        terminal.backend().buffer().clone()
    }

    fn shown(buffer: &Buffer) -> Vec<String> {
        let width = usize::from(buffer.area.width);
        let lines = buffer.content.chunks(width);
        let line = |cells: &[ratatui::buffer::Cell]| {
            cells
                .iter()
                .map(ratatui::buffer::Cell::symbol)
                .collect::<String>()
                .trim_end()
                .to_owned()
        };
        lines.map(line).collect()
    }

    #[test]
    fn a_frame_has_everything() {
        let buffer = drawn(110, 14, &rows(), &mut Screen::default());
        assert_eq!(
            shown(&buffer),
            [
                "lbpersist top   every 2s   by name   2 services, 1 server",
                "30.0 packets/s   27.2k bits/s   20.0 connections/s   3 open   10.0 entries made/s",
                "VIRTUAL SERVICE  PACKETS/S  BITS/S  CONNECTIONS/S  OPEN  SHARE KEPT  BREAKS",
                "web              30.0       24.0k   10.0           -     50.00%      down 2, flushed 1",
                "shop             -          3.2k    10.0           60    75.00%      down 1",
                "",
                "POOL  SERVER          STATE  PACKETS/S  BITS/S  CONNECTIONS/S  OPEN",
                "pool  10.0.0.11:8080  up     20.0       8.0k    10.0           3 of 10",
                "",
                "PACKETS    A SECOND",
                "forwarded  10.0",
                "",
                "",
                "? keys",
            ]
        );
        assert_eq!(buffer[(0, 3)].fg, Color::Yellow, "breaks stand out");
        assert_eq!(buffer[(0, 7)].fg, Color::Reset);
    }

    #[test]
    fn keys_pause_and_trouble_are_told() {
        let mut screen = Screen { is_paused: true, shows_keys: true, ..Screen::default() };
        let lines = shown(&drawn(110, 14, &rows(), &mut screen));
        assert!(lines[0].ends_with("PAUSED"), "{lines:?}");
        assert_eq!(lines[13], KEYS);
        screen.trouble = Some("nothing is pinned".to_owned());
        assert_eq!(shown(&drawn(110, 14, &rows(), &mut screen))[13], "nothing is pinned");
    }

    #[test]
    fn scrolling_ends_with_the_last_line_and_small_terminals_are_borne() {
        let mut screen = Screen { scrolled: 1000, ..Screen::default() };
        let lines = shown(&drawn(60, 6, &rows(), &mut screen));
        assert_eq!((lines[4].as_str(), screen.scrolled), ("forwarded  10.0", 6));
        drawn(60, 40, &rows(), &mut screen);
        assert_eq!(screen.scrolled, 0, "a larger terminal shows all");
        for (width, height) in [(1, 1), (0, 0), (3, 2), (200, 3)] {
            drawn(width, height, &rows(), &mut screen);
        }
    }

    #[test]
    fn servers_that_are_not_up_stand_out() {
        let mut rows = rows();
        for (state, color) in [("down", Color::Red), ("draining", Color::Yellow)] {
            rows.servers[0].state = state;
            assert_eq!(drawn(80, 20, &rows, &mut Screen::default())[(0, 7)].fg, color);
        }
    }

    #[test]
    fn as_text_figures_are_whole() {
        let text = text(&rows());
        assert!(text.contains("\nweb              30.0       24000.0  10.0 "), "{text}");
        let nothing = "no virtual services\n\nno servers\n\nno packets in this time\n";
        assert_eq!(super::text(&Rows::default()), nothing);
    }

    #[test]
    fn rates_are_scaled_by_thousands() {
        for (rate, expected) in [
            (0.0, "0.0"),
            (999.94, "999.9"),
            (999.96, "1.0k"),
            (1_250_000.0, "1.2M"),
            (9.99e9, "10.0G"),
            (5e15, "5000.0T"),
        ] {
            assert_eq!(scaled(rate), expected);
        }
    }
}
