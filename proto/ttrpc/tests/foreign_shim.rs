//! Client and server against a shim that was written in Go: Debian's
//! `containerd-shim-runc-v2`, from the package containerd.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gantry_ttrpc::containerd::services::events::ttrpc::v1::{Events, EventsServer};
use gantry_ttrpc::containerd::task::v2::{
    ConnectRequest, ShutdownRequest, StateRequest, TaskClient,
};
use gantry_ttrpc::{CallOptions, Client, Code, serve};
use tokio::net::{UnixListener, UnixStream};

const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";

/// Where the shim sends its events; it does not run without.
struct Nothing;

impl Events for Nothing {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_failures_are_understood() {
    assert!(Path::new(SHIM).exists(), "{SHIM} is missing: install the package containerd");
    let id = format!("gantry-ttrpc-{}", std::process::id());
    let bundle = std::env::temp_dir().join(&id);
    std::fs::create_dir(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), r#"{"ociVersion":"1.0.2"}"#).unwrap();
    // Where it logs; opened for both directions, so that nobody waits.
    let log = bundle.join("log");
    assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
    let log = std::fs::File::options().read(true).write(true).open(log).unwrap();
    let address = bundle.join("events.sock").display().to_string();
    let listener = UnixListener::bind(&address).unwrap();
    tokio::spawn(serve(listener, EventsServer(Arc::new(Nothing)), std::future::pending()));
    let started = Command::new(SHIM)
        .args(["-namespace", "gantry-test", "-id", &id, "-address", &address])
        .args(["-publish-binary", "/bin/true", "start"])
        .env("TTRPC_ADDRESS", &address)
        .current_dir(&bundle)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&started.stdout).into_owned();
    let failed = String::from_utf8_lossy(&started.stderr).into_owned();
    let socket = said.trim().strip_prefix("unix://");
    let socket = socket.unwrap_or_else(|| panic!("the shim said {said:?} and {failed:?}"));

    let connection = Client::new(UnixStream::connect(socket).await.unwrap());
    let shim = TaskClient::with_service(connection.clone(), "containerd.task.v2.Task");
    let options = CallOptions::namespace("gantry-test").timeout(Duration::from_secs(20));
    let missing = StateRequest { id: "missing".into(), ..Default::default() };
    for _ in 0..3 {
        let status = shim.state(&missing, &options).await.unwrap_err();
        assert_eq!(status.code, Code::NOT_FOUND, "{status}");
    }
    let connected = shim.connect(&ConnectRequest { id: id.clone() }, &options).await.unwrap();
    assert_ne!(connected.shim_pid, 0);
    let other = TaskClient::with_service(connection.clone(), "no.such.Service");
    let status = other.state(&missing, &options).await.unwrap_err();
    assert_eq!(status.code, Code::UNIMPLEMENTED, "{status}");

    // The shim ends before it answers, or after it.
    let now = ShutdownRequest { id, now: true };
    if let Err(status) = shim.shutdown(&now, &options).await {
        assert_eq!(status.code, Code::UNAVAILABLE, "{status}");
    }
    connection.closed().await;
    drop(log);
    std::fs::remove_dir_all(&bundle).unwrap();
}
