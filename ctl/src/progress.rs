//! How far a pull is: bars on a terminal, lines elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use gantry_grpc::gantry::engine::v1::PullProgress;
use gantry_grpc::gantry::engine::v1::pull_progress::{Done, Event, Layer, Phase};

use crate::human;
use crate::printer::Printer;
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

impl Progress {
    /// For standard error as it is, or for nobody.
    pub(crate) fn new(quiet: bool) -> Self {
        let style = match quiet {
            true => Style::Quiet,
            false if io::stderr().is_terminal() => Style::Bars,
            false => Style::Lines,
        };
        Self { style, layers: Vec::new(), drawn: 0, drawn_at: None }
    }

    /// Tells what the daemon told.
    pub(crate) fn update(&mut self, printer: &Printer, progress: PullProgress) {
        match progress.event {
            Some(Event::Resolved(resolved)) if self.style != Style::Quiet => {
                printer.note(format_args!("Pulling {}", resolved.name));
            }
            Some(Event::Layer(layer)) => self.layer(printer, layer),
            Some(Event::Done(done)) => self.done(printer, &done),
            _ => {}
        }
    }

    fn layer(&mut self, printer: &Printer, layer: Layer) {
        let known = self.layers.iter_mut().find(|known| known.digest == layer.digest);
        let moved = known.as_ref().is_none_or(|known| known.phase != layer.phase);
        if moved && self.style == Style::Lines {
            printer.note(format_args!("{}: {}", short_id(&layer.digest), phase(&layer)));
        }
        match known {
            Some(known) => *known = layer,
            None => self.layers.push(layer),
        }
        let due = self.drawn_at.is_none_or(|at| at.elapsed() >= FRAME);
        if self.style == Style::Bars && (moved || due) {
            self.draw(printer);
        }
    }

    fn done(&mut self, printer: &Printer, done: &Done) {
        if self.style == Style::Quiet {
            return;
        }
        if self.style == Style::Bars && !self.layers.is_empty() {
            self.draw(printer);
        }
        let status = match done.up_to_date {
            true => "Image is up to date",
            false => "Downloaded newer image",
        };
        printer.note(format_args!("Digest: {}", done.digest));
        printer.note(format_args!("Status: {status} for {}", done.name));
    }

    /// Draws all layers over the last drawing, in one write.
    fn draw(&mut self, printer: &Printer) {
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
        // A terminal that can't be drawn on is no failure of the pull.
        let _ = printer.error_data(text.as_bytes());
        self.drawn = lines.len();
        self.drawn_at = Some(Instant::now());
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
}
