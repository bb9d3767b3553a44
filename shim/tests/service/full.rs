//! Output whose log lies on a full disk.

use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::support::{Attached, Host, LIMIT, run};

fn numbers(last: u32) -> String {
    (1..=last).map(|n| format!("{n}\n")).collect()
}

/// A full filesystem where a host's log lies.
struct Disk(std::path::PathBuf);

impl Disk {
    fn full(host: &Host) -> Self {
        let at = host.path("disk");
        fs::create_dir(&at).unwrap();
        let path = std::ffi::CString::new(at.to_str().unwrap()).unwrap();
        let options = c"size=48m".as_ptr().cast();
        // SAFETY: all texts end with NUL.
        let mounted =
            unsafe { libc::mount(c"disk".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, options) };
        assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
        let disk = Self(at);
        let mut filler = fs::File::create(disk.filler()).unwrap();
        let block = vec![0; 1 << 20];
        while filler.write_all(&block).is_ok() {}
        disk
    }

    fn filler(&self) -> std::path::PathBuf {
        self.0.join("filler")
    }

    fn uri(&self, host: &Host) -> String {
        let attach = host.path("a.sock");
        format!(
            "gantry://{}/c.log?max-size=1000000000&attach={}",
            self.0.display(),
            attach.display()
        )
    }

    /// What whole records in the log say of standard output.
    fn logged(&self) -> String {
        let text = fs::read_to_string(self.0.join("c.log")).unwrap_or_default();
        let records =
            text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        records
            .filter(|r| r["stream"] == "stdout")
            .map(|r| r["log"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = std::ffi::CString::new(self.0.to_str().unwrap()).unwrap();
        // SAFETY: the path ends with NUL.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn who_looks_on_sees_all_and_learns_of_the_loss() {
    // The second is more than what may wait for the disk.
    for last in [2000, 100_000] {
        run(async {
            let mut host = Host::new(&["seq", &last.to_string()], false);
            let uri = format!("gantry:///dev/full?attach={}", host.path("a.sock").display());
            let task = host.created(&uri, false).await;
            let mut client = Attached::to(&host.path("a.sock")).await;
            host.start(&task, "").await.unwrap();
            let (_, deleted) = tokio::join!(
                async {
                    let (out, err, status) = client.rest().await;
                    assert!(out == numbers(last) && status == 0, "{} bytes", out.len());
                    assert!(err.starts_with("gantry: the log cannot be written"), "{err}");
                    assert_eq!(err.lines().count(), 1, "{err}");
                },
                async {
                    host.wait(&task, "").await;
                    host.delete(&task, "").await
                }
            );
            deleted.unwrap();
            host.shutdown(&task).await;
        });
    }
}

#[test]
fn what_waits_for_the_disk_is_written_while_the_container_lives() {
    run(async {
        let mut host = Host::new(&["sh", "-c", "seq 2000; sleep 1000"], false);
        let disk = Disk::full(&host);
        let task = host.created(&disk.uri(&host), false).await;
        let mut client = Attached::to(&host.path("a.sock")).await;
        host.start(&task, "").await.unwrap();
        assert_eq!(client.until("\n2000\n").await, numbers(2000));
        assert_ne!(disk.logged(), numbers(2000));
        fs::remove_file(disk.filler()).unwrap();
        let written = async {
            while disk.logged() != numbers(2000) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, written).await.expect("the log is written");
        host.kill(&task, "", 9, false).await.unwrap();
        assert_eq!(client.rest().await, (String::new(), String::new(), 137));
        host.wait(&task, "").await;
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn with_nobody_looking_on_the_container_waits_and_nothing_is_lost() {
    run(async {
        let mut host = Host::new(&["seq", "100000"], false);
        let disk = Disk::full(&host);
        let task = host.created(&disk.uri(&host), false).await;
        host.start(&task, "").await.unwrap();
        let early = tokio::time::timeout(Duration::from_secs(1), host.wait(&task, "")).await;
        assert!(early.is_err(), "it ended with status {early:?}, and the log is not written");
        fs::remove_file(disk.filler()).unwrap();
        assert_eq!(host.wait(&task, "").await, 0);
        assert!(disk.logged() == numbers(100_000));
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}
