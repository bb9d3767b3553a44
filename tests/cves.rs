//! Ways out of containers that other engines have had, and ways to fool them: each is tried.

mod descriptors;
mod devices;
mod images;
mod mounts;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gantry_tests::{Daemon, Output, odd_image, run_within};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::Value;

/// What no container may read.
const SECRET: &str = "of the host";
/// What is bounded takes less.
const SOON: Duration = Duration::from_secs(30);

/// A daemon, and a directory of the host, with a file, that no container may see or change.
struct Prey {
    daemon: Daemon,
    image: String,
    host: PathBuf,
}

impl Prey {
    fn new() -> Self {
        let daemon = Daemon::start();
        let image = daemon.busybox();
        let host = daemon.scratch().join("host");
        fs::create_dir(&host).expect("make a directory");
        fs::write(host.join("secret"), SECRET).expect("write a file");
        Self { daemon, image, host }
    }

    /// The directory as text.
    fn place(&self) -> &str {
        self.host.to_str().expect("UTF-8")
    }

    fn command(&self, image: &str, flags: &[&str], words: &[&str]) -> Command {
        let line = [&["run", "--network", "none"][..], flags, &[image], words].concat();
        self.daemon.gantry_command(&line)
    }

    /// Runs words in a container with these flags, which goes with its end.
    fn run(&self, flags: &[&str], words: &[&str]) -> Output {
        self.run_of(&self.image, flags, words)
    }

    fn run_of(&self, image: &str, flags: &[&str], words: &[&str]) -> Output {
        let flags = [&["--rm"][..], flags].concat();
        run_within(&mut self.command(image, &flags, words), SOON)
    }

    /// Starts a detached container.
    #[track_caller]
    fn sleeper(&self, name: &str, flags: &[&str]) {
        let flags = [&["-d", "--name", name][..], flags].concat();
        run_within(&mut self.command(&self.image, &flags, &["sleep", "600"]), SOON).ok();
    }

    /// Runs words in a container that runs.
    fn exec(&self, flags: &[&str], name: &str, words: &[&str]) -> Output {
        let line = [&["exec"][..], flags, &[name], words].concat();
        run_within(&mut self.daemon.gantry_command(&line), SOON)
    }

    /// An image that means harm.
    fn odd(
        &self,
        name: &str,
        files: impl FnOnce(&Path),
        config: impl FnOnce(&mut Value),
    ) -> String {
        odd_image(&self.daemon, name, files, config)
    }

    /// A new volume's files on the host.
    fn volume(&self, name: &str) -> PathBuf {
        self.daemon.gantry(&["volume", "create", name]).ok();
        let inspect = ["volume", "inspect", "--format", "{{.Mountpoint}}", name];
        PathBuf::from(self.daemon.gantry(&inspect).ok().text())
    }

    /// Nothing of the host was changed, and nothing is left of any container.
    #[track_caller]
    fn assert_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(&self.host).expect("list").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(self.host.join("secret")).expect("read"), SECRET);
    }

    #[track_caller]
    fn assert_clean(&self) {
        self.assert_untouched();
        assert_eq!(self.daemon.gantry(&["ps", "-aq"]).ok().text(), "");
        self.daemon.assert_nothing_left();
    }
}

/// Exchanges two names again and again, until it is dropped.
struct Exchange {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exchange {
    fn begin(one: PathBuf, other: PathBuf) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let work = move || {
            while !told.load(Ordering::Relaxed) {
                // One of them may not be there yet.
                let _ = renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE);
            }
        };
        Self { over, thread: Some(thread::spawn(work)) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
