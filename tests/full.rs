//! A full disk: new work is refused with a plain word, and nothing is lost.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use gantry_tests::{Daemon, Options, Registry, leftovers};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// A small file system of the test's own, gone with it.
struct Disk(TempDir);

impl Disk {
    fn new(size: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("gantry-disk-").tempdir().expect("tempdir");
        let options = format!("size={size},mode=755");
        mount(Some("disk"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("mount a tmpfs");
        Self(dir)
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Takes what space there is.
    fn fill(&self) {
        let mut file =
            File::options().create(true).append(true).open(self.filler()).expect("a file");
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).expect("remove the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

fn files_below(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).map(|d| d.flatten().collect::<Vec<_>>());
    entries.unwrap_or_default().len()
}

#[test]
fn a_full_disk_refuses_new_work_and_loses_nothing() {
    let disk = Disk::new("96m");
    let root = disk.0.path().join("root");
    let mut daemon = Daemon::with(Options { root: Some(root.clone()), ..Options::default() });
    let image = daemon.busybox();
    let debian = Registry::shared().reference("debian:latest");
    let run = ["run", "--rm", "--network", "none", &image, "echo", "works"];
    assert_eq!(daemon.gantry(&run).ok().stdout, "works\n");
    let sleeper = ["run", "-d", "--name", "sleeper", "--network", "none", &image, "sleep", "600"];
    daemon.gantry(&sleeper).ok();

    // Too large an image: the space that it took is free again afterwards.
    let refused = daemon.gantry(&["pull", "-q", &debian]).exits(1);
    assert!(refused.stderr.contains("o space left on device"), "{}", refused.stderr);
    assert_eq!(daemon.gantry(&run).ok().stdout, "works\n");
    let ingests = root.join("io.containerd.content.v1.content/ingest");
    assert_eq!(files_below(&ingests), 0, "partial downloads are kept on a full disk");

    // A container that takes all: who looks on sees its output, and learns of the log.
    let script = "dd if=/dev/zero of=/big bs=1M 2>/dev/null; echo shown; exit 3";
    let took = ["run", "--rm", "--network", "none", &image, "sh", "-c", script];
    let took = daemon.gantry(&took).exits(3);
    assert_eq!(took.stdout, "shown\n");
    assert!(took.stderr.contains("the log cannot be written"), "{}", took.stderr);

    // Nothing at all left; removed snapshots give their space back bit by bit, it is taken too.
    let attempts = std::iter::repeat_with(|| {
        disk.fill();
        daemon.gantry(&run)
    });
    let refused = attempts.take(20).find(|run| run.code != 0).expect("a full disk");
    assert!(refused.stderr.contains("o space left on device"), "{}", refused.stderr);
    let ps = daemon.gantry(&["ps", "-q"]).ok();
    assert_eq!(ps.lines().len(), 1, "{}", ps.stdout);
    assert_eq!(daemon.gantry(&["exec", "sleeper", "echo", "fine"]).ok().stdout, "fine\n");

    // A daemon that is killed now comes back when there is room again.
    daemon.kill();
    disk.free();
    daemon.restart();
    assert_eq!(daemon.gantry(&["exec", "sleeper", "echo", "fine"]).ok().stdout, "fine\n");
    assert_eq!(daemon.gantry(&run).ok().stdout, "works\n");
    daemon.gantry(&["rm", "-f", "sleeper"]).ok();
    daemon.assert_nothing_left();
    assert_eq!(leftovers::active_snapshots(&daemon, "default"), Vec::<String>::new());
}
