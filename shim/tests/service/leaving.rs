//! Shims that are told to go, or that nobody learns of.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Host, LIMIT, fifo, options, run};
use crate::tasks::cgroups_left;
use gantry_ttrpc::containerd::task::v3::ShutdownRequest;
use gantry_ttrpc::{CallOptions, Code};

/// Processes on whose command line a text stands.
fn processes(text: &str) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").unwrap().map(|e| e.unwrap().path());
    let line = |path: &Path| fs::read(path.join("cmdline")).unwrap_or_default();
    all.filter(|p| String::from_utf8_lossy(&line(p)).contains(text)).collect()
}

#[test]
fn told_to_go_while_a_container_is_made() {
    for (line, made) in [("ok\n", true), ("no\n", false)] {
        run(async {
            let mut host = Host::new(&["sleep", "1000"], false);
            let gate = fifo(&host.path("gate"));
            let mut spec: serde_json::Value =
                serde_json::from_slice(&fs::read(host.bundle.join("config.json")).unwrap())
                    .unwrap();
            let script = format!("read line <{gate}; [ $line = ok ]");
            spec["hooks"] = serde_json::json!({
                "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
            });
            host.write_spec(&spec);
            let task = host.start_shim().await;
            let hasty = CallOptions::namespace("test").timeout(Duration::from_millis(200));
            let request = host.create_request("", "", "", false);
            let late = task.create(&request, &hasty).await.unwrap_err();
            assert_eq!(late.code, Code::DEADLINE_EXCEEDED);
            task.shutdown(&ShutdownRequest::default(), &options()).await.unwrap();
            assert_eq!(host.state(&task, "").await.unwrap_err().code, Code::NOT_FOUND);
            // Never waits for a reader, and is one itself.
            let mut gate = fs::File::options().read(true).write(true).open(&gate).unwrap();
            gate.write_all(line.as_bytes()).unwrap();
            let gone = tokio::time::timeout(LIMIT, task.connection().closed()).await;
            gone.unwrap_or_else(|_| panic!("the shim stays; made: {made}"));
            assert_eq!(cgroups_left(&host.id), [] as [&Path; 0]);
        });
    }
}

#[test]
fn one_that_nobody_can_be_told_of_ends() {
    for file in ["shim.pid", "address"] {
        let host = Host::new(&["true"], false);
        // In the way of what is to get this name.
        fs::create_dir(host.bundle.join(format!("{file}.tmp"))).unwrap();
        let output = host.run_shim(&["start"]);
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(file), "{said}");
        assert_eq!(processes(&host.id), [] as [PathBuf; 0]);
        assert_eq!(fs::read_dir(host.path("s")).unwrap().count(), 0);
    }
}
