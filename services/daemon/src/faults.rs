//! Ends the daemon where a test wants it: the feature `failpoints`.
//!
//! `GANTRY_FAULT` names a point, `GANTRY_FAULT_PASS` at which of its passes the daemon is
//! killed (the first is 1); `GANTRY_FAULTS_PASSED` is a file that gets a line for each pass.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, raise};

/// Does what the environment asks for.
pub(crate) fn arm() -> Result<()> {
    if let Some(path) = std::env::var_os("GANTRY_FAULTS_PASSED") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.context("open the list of points")?;
        // One write each: lines don't mix.
        gantry_core::faults::observe(move |point| {
            drop((&file).write_all(format!("{point}\n").as_bytes()));
        });
    }
    let Ok(point) = std::env::var("GANTRY_FAULT") else { return Ok(()) };
    let pass = std::env::var("GANTRY_FAULT_PASS").map_or(Ok(1), |n| n.parse::<usize>());
    let left = AtomicUsize::new(pass.context("read GANTRY_FAULT_PASS")?);
    let passed = move || {
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Nothing is cleaned up, as when somebody kills it.
            let _ = raise(Signal::SIGKILL);
        }
    };
    fail::cfg_callback(point, passed).map_err(anyhow::Error::msg).context("arm a point")
}
