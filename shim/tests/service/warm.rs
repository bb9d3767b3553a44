//! Ready-made shims.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use crate::support::{Host, LIMIT, SHIM, options};
use gantry_ttrpc::containerd::task::v3::*;
use gantry_ttrpc::gantry::shim::v1::{AdoptRequest, ShimClient};
use gantry_ttrpc::{Client, Code};

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// A ready-made shim and the connection to it.
fn warm(host: &Host) -> (Child, Client) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(SHIM);
    command
        .args(["-warm", "0"])
        .stdin(OwnedFd::from(theirs))
        .env("GANTRY_SECCOMP_CACHE", host.path("seccomp"));
    let child = command.spawn().unwrap();
    ours.set_nonblocking(true).unwrap();
    (child, Client::new(tokio::net::UnixStream::from_std(ours).unwrap()))
}

fn adopt(host: &Host) -> AdoptRequest {
    AdoptRequest {
        namespace: "test".into(),
        id: host.id.clone(),
        bundle: host.bundle.display().to_string(),
        ttrpc_address: host.events_path().display().to_string(),
        grpc_address: host.path("d.sock").display().to_string(),
        debug: false,
    }
}

/// Waits for a child of this test without blocking its event loop.
async fn ended(mut child: Child) {
    let wait = tokio::task::spawn_blocking(move || child.wait());
    tokio::time::timeout(LIMIT, wait).await.expect("the shim exits").unwrap().unwrap();
}

#[test]
fn it_leaves_with_a_daemon_that_did_not_need_it() {
    run(async {
        let host = Host::new(&["true"], false);
        let (child, client) = warm(&host);
        // It serves, and then it is left.
        let early = TaskClient::new(client.clone());
        let refused =
            early.create(&host.create_request("", "", "", false), &options()).await.unwrap_err();
        assert_eq!(refused.code, Code::FAILED_PRECONDITION);
        drop((early, client));
        ended(child).await;
    });
}

#[test]
fn once_adopted_it_outlives_the_connection() {
    run(async {
        let mut host = Host::new(&["sh", "-c", "exit 9"], false);
        let (child, client) = warm(&host);
        let shim = ShimClient::new(client.clone());
        let adopted = shim.adopt(&adopt(&host), &options()).await.unwrap();
        assert_eq!(adopted.pid, child.id());
        assert_eq!(
            shim.adopt(&adopt(&host), &options()).await.unwrap_err().code,
            Code::ALREADY_EXISTS
        );
        // The first connection is as good as any.
        let first = TaskClient::new(client.clone());
        first.create(&host.create_request("", "", "", false), &options()).await.unwrap();
        drop((first, shim, client));
        host.address = adopted.address;
        let task = host.connect().await;
        host.start(&task, "").await.unwrap();
        assert_eq!(host.wait(&task, "").await, 9);
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
        ended(child).await;
    });
}
