//! Which lines of a log are wanted: those of a time. A line is wanted or not as a whole, by the
//! time of its beginning.

use std::fmt;

use gantry_core::Timestamp;

use super::LogEntry;

/// What lines of the two streams are in the middle of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Within {
    /// Whether a line of standard output, or of standard error, has begun, and is shown then.
    lines: [Option<bool>; 2],
}

impl Within {
    /// Notes a record of a stream that is shown or not, and whether its line goes on.
    pub(crate) fn set(&mut self, stderr: bool, shown: bool, goes_on: bool) {
        self.lines[usize::from(stderr)] = goes_on.then_some(shown);
    }

    /// Reads what was written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let line = |digit: u8| match digit {
            0 => Some(None),
            1 => Some(Some(true)),
            2 => Some(Some(false)),
            _ => None,
        };
        let number = text.parse::<u8>().ok().filter(|_| text.len() == 1)?;
        Some(Self { lines: [line(number % 3)?, line(number / 3)?] })
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |line: Option<bool>| line.map_or(0, |shown| if shown { 1 } else { 2 });
        write!(f, "{}", digit(self.lines[0]) + 3 * digit(self.lines[1]))
    }
}

/// What is to be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is wanted.
    Show,
    /// It is not.
    Hide,
    /// Neither it nor what follows is.
    End,
}

/// The wanted time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    within: Within,
}

impl Window {
    /// Lines from `since` to `until`, both included, where lines were begun before.
    pub(crate) fn new(since: Option<Timestamp>, until: Option<Timestamp>, within: Within) -> Self {
        Self { since, until, within }
    }

    /// Lines that have begun and not ended, as of the last entry.
    pub(crate) fn within(&self) -> Within {
        self.within
    }

    /// Judges the next entry.
    pub(crate) fn judge(&mut self, entry: &LogEntry) -> Verdict {
        if entry.gap {
            // Nobody knows what has ended in it.
            self.within = Within::default();
            return Verdict::Show;
        }
        let shown = match self.within.lines[usize::from(entry.stderr)] {
            Some(shown) => shown,
            None if self.until.is_some_and(|until| entry.time > until) => return Verdict::End,
            None => self.since.is_none_or(|since| entry.time >= since),
        };
        self.within.set(entry.stderr, shown, entry.partial);
        if shown { Verdict::Show } else { Verdict::Hide }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seconds: i64, stderr: bool, partial: bool) -> LogEntry {
        let time = Timestamp { seconds, nanos: 0 };
        LogEntry { time, stderr, partial, ..LogEntry::default() }
    }

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn lines_are_judged_by_their_beginnings() {
        use Verdict::{End, Hide, Show};
        let mut window = Window::new(at(10), at(20), Within::default());
        for (entry, verdict) in [
            (entry(9, false, false), Hide),
            (entry(9, false, true), Hide),
            (entry(10, true, true), Show),
            // Parts of lines that have begun.
            (entry(11, false, false), Hide),
            (entry(12, false, false), Show),
            (entry(21, true, false), Show),
            (entry(20, true, false), Show),
            (entry(21, true, false), End),
        ] {
            assert_eq!(window.judge(&entry), verdict, "{entry:?}");
        }
        let mut all = Window::default();
        assert_eq!(all.judge(&entry(0, false, false)), Show);
    }

    #[test]
    fn a_gap_ends_all_lines() {
        let mut window = Window::new(at(10), None, Within::default());
        assert_eq!(window.judge(&entry(9, false, true)), Verdict::Hide);
        let gap = LogEntry { gap: true, ..LogEntry::default() };
        assert_eq!(window.judge(&gap), Verdict::Show);
        assert_eq!(window.judge(&entry(11, false, false)), Verdict::Show);
    }

    #[test]
    fn what_lines_are_within_survives_as_text() {
        let states = [None, Some(true), Some(false)];
        for stdout in states {
            for stderr in states {
                let within = Within { lines: [stdout, stderr] };
                assert_eq!(Within::parse(&within.to_string()), Some(within));
            }
        }
        for bad in ["", "9", "00", "+1", "x"] {
            assert_eq!(Within::parse(bad), None, "{bad}");
        }
    }
}
