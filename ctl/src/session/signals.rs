//! Signals of a session, taken as events.

use std::future::poll_fn;
use std::task::Poll;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// What is handed on to the container's process.
const PROXIED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// What ends a client whose terminal is raw.
const FATAL: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// Which signals a session takes; the others keep their effect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Those that are handed on.
    pub(crate) proxy: bool,
    /// Those that end a session on a raw terminal, or let it go on.
    pub(crate) terminal: bool,
    /// Those that tell of another size of the terminal.
    pub(crate) size: bool,
}

/// Whether a signal is meant to end what gets it.
pub(crate) fn ends(signal: Signal) -> bool {
    FATAL.contains(&signal)
}

/// The signals that arrive.
#[derive(Debug, Default)]
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Takes signals from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn take(wanted: Wanted) -> anyhow::Result<Self> {
        let mut signals = Vec::new();
        let mut take = |signal: Signal| -> anyhow::Result<()> {
            if !signals.iter().any(|(taken, _)| *taken == signal) {
                let arrivals = unix::signal(SignalKind::from_raw(signal as i32))
                    .with_context(|| format!("take the signal {signal}"))?;
                signals.push((signal, arrivals));
            }
            Ok(())
        };
        if wanted.size {
            take(Signal::SIGWINCH)?;
        }
        if wanted.terminal {
            take(Signal::SIGCONT)?;
        }
        let ignored = ignored();
        let proxied = PROXIED.iter().filter(|_| wanted.proxy);
        for signal in proxied.chain(FATAL.iter().filter(|_| wanted.terminal)) {
            // Who started us with a signal ignored (nohup does) means it.
            if ignored & (1 << (*signal as u32 - 1)) == 0 {
                take(*signal)?;
            }
        }
        Ok(Self(signals))
    }

    /// The next signal. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, arrivals) in &mut self.0 {
                if arrivals.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The signals that this process was told to ignore, a bit each.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse_ignored(&status)
}

fn parse_ignored(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_kernels_words() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        let mask = parse_ignored(status);
        assert_ne!(mask & (1 << (Signal::SIGHUP as u32 - 1)), 0);
        assert_ne!(mask & (1 << (Signal::SIGPIPE as u32 - 1)), 0);
        assert_eq!(mask & (1 << (Signal::SIGINT as u32 - 1)), 0);
        assert_eq!(parse_ignored(""), 0);
    }
}
