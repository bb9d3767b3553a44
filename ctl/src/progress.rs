//! How far a pull is: bars on a terminal, lines elsewhere.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use gantry_grpc::gantry::engine::v1::PullProgress;
use gantry_grpc::gantry::engine::v1::pull_progress::{Done, Event, Layer, Phase};

use crate::human;
use crate::printer::{self, Printer};
use crate::session::terminal;
use crate::table::short_id;

/// Shortest time between two drawings.
const FRAME: Duration = Duration::from_millis(80);
/// Characters of a bar.
const BAR: usize = 30;

/// Tells on standard error how far a pull is.
#[derive(Debug)]
pub(crate) struct Progress {
    style: Style,
    layers: Vec<Layer>,
    /// Lines of the last drawing, which the next one replaces.
    drawn: usize,
    drawn_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Quiet,
    Lines,
    Bars,
}

impl Style {
    fn of(quiet: bool, terminal: bool, term: Option<&OsStr>) -> Self {
        match (quiet, terminal && !printer::is_dumb(term)) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Bars,
            (false, false) => Self::Lines,
        }
    }
}

impl Progress {
    /// For standard error as it is, or for nobody.
    pub(crate) fn new(quiet: bool) -> Self {
        let term = std::env::var_os("TERM");
        Self::with(Style::of(quiet, io::stderr().is_terminal(), term.as_deref()))
    }

    fn with(style: Style) -> Self {
        Self { style, layers: Vec::new(), drawn: 0, drawn_at: None }
    }

    /// Tells what the daemon told.
    pub(crate) fn update(&mut self, printer: &Printer, progress: PullProgress) {
        let text = progress.event.map(|event| self.text(event)).unwrap_or_default();
        if !text.is_empty() {
            // A terminal that can't be written on is no failure of the pull.
            let _ = printer.error_data(text.as_bytes());
        }
    }

    fn text(&mut self, event: Event) -> String {
        match event {
            _ if self.style == Style::Quiet => String::new(),
            Event::Resolved(resolved) => format!("Pulling {}\n", resolved.name),
            Event::Layer(layer) => self.layer(layer),
            Event::Done(done) => self.done(&done),
        }
    }

    fn layer(&mut self, layer: Layer) -> String {
        let known = self.layers.iter_mut().find(|known| known.digest == layer.digest);
        let moved = known.as_ref().is_none_or(|known| known.phase != layer.phase);
        let line = format!("{}: {}\n", short_id(&layer.digest), phase(&layer));
        match known {
            Some(known) => *known = layer,
            None => self.layers.push(layer),
        }
        let due = self.drawn_at.is_none_or(|at| at.elapsed() >= FRAME);
        match self.style {
            Style::Lines if moved => line,
            Style::Bars if moved || due => self.drawing(),
            _ => String::new(),
        }
    }

    fn done(&mut self, done: &Done) -> String {
        let last = self.style == Style::Bars && !self.layers.is_empty();
        let mut text = if last { self.drawing() } else { String::new() };
        let status = match done.up_to_date {
            true => "Image is up to date",
            false => "Downloaded newer image",
        };
        let _ = writeln!(text, "Digest: {}", done.digest);
        let _ = writeln!(text, "Status: {status} for {}", done.name);
        text
    }

    /// All layers over the last drawing, for one write.
    fn drawing(&mut self) -> String {
        let (columns, rows) = terminal::size().unwrap_or((80, 24));
        let lines = board(&self.layers, usize::from(columns), usize::from(rows));
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A\x1b[J", self.drawn);
        }
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = lines.len();
        self.drawn_at = Some(Instant::now());
        text
    }
}

/// A line for each layer; when there are more than rows, complete ones become
/// a number.
fn board(layers: &[Layer], columns: usize, rows: usize) -> Vec<String> {
    // The cursor stands in the line below.
    let room = rows.saturating_sub(1).max(2);
    let fit = |layer: &Layer| line(layer).chars().take(columns.max(1)).collect();
    if layers.len() <= room {
        return layers.iter().map(fit).collect();
    }
    let (complete, open): (Vec<&Layer>, Vec<&Layer>) =
        layers.iter().partition(|l| matches!(l.phase(), Phase::Complete | Phase::Exists));
    let head = format!("{} of {} layers complete", complete.len(), layers.len());
    let mut lines = vec![head.chars().take(columns.max(1)).collect()];
    // Those that move come before those that wait.
    let (waiting, moving): (Vec<&Layer>, Vec<&Layer>) =
        open.into_iter().partition(|l| l.phase() == Phase::Waiting);
    lines.extend(moving.into_iter().chain(waiting).take(room - 1).map(fit));
    lines
}

fn line(layer: &Layer) -> String {
    let mut line = format!("{}: {}", short_id(&layer.digest), phase(layer));
    let moves = matches!(layer.phase(), Phase::Downloading | Phase::Extracting);
    if moves && layer.total > 0 {
        let done = layer.done.min(layer.total);
        let (done, total) = (human::size(done), human::size(layer.total));
        let _ = write!(line, " [{}] {done}/{total}", bar(layer.done, layer.total));
    } else if moves && layer.done > 0 {
        let _ = write!(line, " {}", human::size(layer.done));
    }
    line
}

fn bar(done: u64, total: u64) -> String {
    let share = done as f64 / total.max(1) as f64;
    let filled = ((share * BAR as f64) as usize).min(BAR);
    let mut bar = "=".repeat(filled);
    if filled < BAR {
        bar.push('>');
        bar.push_str(&" ".repeat(BAR - filled - 1));
    }
    bar
}

fn phase(layer: &Layer) -> &'static str {
    match layer.phase() {
        Phase::Waiting => "Waiting",
        Phase::Downloading => "Downloading",
        Phase::Extracting => "Extracting",
        Phase::Exists => "Already exists",
        Phase::Complete => "Pull complete",
    }
}

#[cfg(test)]
mod tests {
    use gantry_grpc::gantry::engine::v1::pull_progress::Resolved;

    use super::*;

    fn layer(digit: char, phase: Phase, done: u64, total: u64) -> Layer {
        let digest = format!("sha256:{}", digit.to_string().repeat(64));
        Layer { digest, phase: phase.into(), done, total }
    }

    #[test]
    fn layers_show_how_far_they_are() {
        let half = layer('a', Phase::Downloading, 5_000_000, 10_000_000);
        assert_eq!(
            line(&half),
            "aaaaaaaaaaaa: Downloading [===============>              ] 5MB/10MB"
        );
        assert_eq!(line(&layer('b', Phase::Waiting, 0, 10)), "bbbbbbbbbbbb: Waiting");
        assert_eq!(line(&layer('c', Phase::Downloading, 10, 0)), "cccccccccccc: Downloading 10B");
        assert_eq!(bar(10, 10), "=".repeat(BAR));
        assert_eq!(bar(20, 10).len(), BAR);
    }

    #[test]
    fn a_board_fits_the_terminal() {
        let mut layers = vec![layer('0', Phase::Complete, 1, 1); 5];
        layers.push(layer('1', Phase::Waiting, 0, 1));
        layers.push(layer('2', Phase::Downloading, 0, 1));
        assert_eq!(board(&layers, 80, 24).len(), 7);
        let small = board(&layers, 16, 3);
        assert_eq!(small, ["5 of 7 layers co", "222222222222: Do"]);
    }

    #[test]
    fn bars_are_for_terminals_that_can_draw() {
        let style = |quiet, terminal, term| Style::of(quiet, terminal, Some(OsStr::new(term)));
        assert_eq!(style(false, true, "xterm"), Style::Bars);
        assert_eq!(style(false, false, "xterm"), Style::Lines);
        assert_eq!(style(false, true, "dumb"), Style::Lines);
        assert_eq!(style(true, true, "xterm"), Style::Quiet);
        assert_eq!(Style::of(false, true, None), Style::Bars);
    }

    /// All that a pull of one layer tells.
    fn told(style: Style) -> String {
        let mut progress = Progress::with(style);
        let resolved = Resolved { name: "docker.io/library/x:1".into(), digest: "d".into() };
        let mut text = progress.text(Event::Resolved(resolved));
        for (phase, done) in [
            (Phase::Waiting, 0),
            (Phase::Downloading, 1),
            (Phase::Downloading, 2),
            (Phase::Extracting, 2),
            (Phase::Complete, 2),
        ] {
            text += &progress.text(Event::Layer(layer('a', phase, done, 2)));
        }
        let name = "docker.io/library/x:1".to_owned();
        let done = Done { name, digest: "sha256:d".into(), up_to_date: false };
        text + &progress.text(Event::Done(done))
    }

    #[test]
    fn elsewhere_each_step_is_a_line() {
        let expected = "\
Pulling docker.io/library/x:1
aaaaaaaaaaaa: Waiting
aaaaaaaaaaaa: Downloading
aaaaaaaaaaaa: Extracting
aaaaaaaaaaaa: Pull complete
Digest: sha256:d
Status: Downloaded newer image for docker.io/library/x:1
";
        assert_eq!(told(Style::Lines), expected);
        assert_eq!(told(Style::Quiet), "");
        let bars = told(Style::Bars);
        assert!(bars.contains("\x1b[1A\x1b[J") && bars.contains("==============>"), "{bars:?}");
    }
}
