//! Containers that die while they are frozen.

use std::fs;

use crate::support::{Host, LIMIT, options, run};
use gantry_ttrpc::containerd::task::v3::PauseRequest;

/// Freezes behind the shim's back.
fn freeze(id: &str) {
    let below = format!("gantry-shim-test/{id}");
    let (v1, v2) = (
        format!("/sys/fs/cgroup/freezer/{below}/freezer.state"),
        format!("/sys/fs/cgroup/{below}/cgroup.freeze"),
    );
    if fs::exists(&v1).unwrap() { fs::write(v1, "FROZEN") } else { fs::write(v2, "1") }.unwrap();
}

#[test]
fn a_frozen_container_dies_of_sigkill() {
    for all in [false, true] {
        for by_hand in [false, true] {
            run(async {
                let (host, task) = Host::sleeper().await;
                if by_hand {
                    freeze(&host.id);
                } else {
                    let pause = PauseRequest { id: host.id.clone() };
                    task.pause(&pause, &options()).await.unwrap();
                }
                host.kill(&task, "", 9, all).await.unwrap();
                let end = tokio::time::timeout(LIMIT / 2, host.wait(&task, "")).await;
                assert_eq!(end, Ok(137), "all {all}, by hand {by_hand}");
                host.delete(&task, "").await.unwrap();
                host.shutdown(&task).await;
            });
        }
    }
}

#[test]
fn a_frozen_container_is_deleted_unstarted() {
    run(async {
        let mut host = Host::new(&["true"], false);
        let task = host.created("", false).await;
        freeze(&host.id);
        let deleted = tokio::time::timeout(LIMIT / 2, host.delete(&task, "")).await;
        assert_eq!(deleted.expect("it dies").unwrap().exit_status, 137);
        host.shutdown(&task).await;
    });
}
