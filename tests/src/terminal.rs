use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};

use crate::processes::{Owned, own};

/// A command on a pseudo-terminal, driven as a person would.
pub struct Terminal {
    master: File,
    slave: OwnedFd,
    child: Owned,
    seen: String,
}

impl Terminal {
    /// Starts a command on a terminal of 80 columns and 24 rows.
    pub fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("open a pseudo-terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("share the terminal"));
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: signal, setsid and ioctl are async-signal-safe, and nothing else
        // is called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Tests may run where it is ignored, which terminals do not.
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = own(&mut command).expect("the command starts");
        Self { master: pty.master.into(), slave: pty.slave, child, seen: String::new() }
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("type");
    }

    /// Waits until the output since the last call holds `text`, and returns what led up to
    /// it, `text` included.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(Instant::now() < end, "waited for {text:?}, saw {:?}", self.seen);
            self.read_some();
        }
    }

    fn read_some(&mut self) {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(100u8)).unwrap_or(0) == 0 {
            return;
        }
        let mut buffer = [0; 4096];
        if let Ok(n) = self.master.read(&mut buffer) {
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }

    /// Takes in what has been printed.
    pub fn poll(&mut self) {
        self.read_some();
    }

    /// Waits for the end and returns the exit code.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(code) = self.child.wait_within(Duration::from_millis(20)) {
                self.read_some();
                return code;
            }
            assert!(Instant::now() < end, "the command does not end, saw {:?}", self.seen);
            self.read_some();
        }
    }

    /// What was printed and not yet expected.
    pub fn rest(&self) -> &str {
        &self.seen
    }

    /// The terminal's local modes, to see whether they were restored.
    pub fn modes(&self) -> nix::sys::termios::LocalFlags {
        nix::sys::termios::tcgetattr(&self.slave).expect("read the terminal's modes").local_flags
    }

    /// Sets the size, as when a window changes.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open and the structure lives over the call.
        unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    }

    /// The command's process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}
