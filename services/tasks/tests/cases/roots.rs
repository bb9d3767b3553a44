//! Root file systems that the host has to make a part of, and those that are made late.

use gantry_core::tasks::{CreateTask, Tasks};
use gantry_core::{Error, Labels, Mount, Result};
use tokio::sync::oneshot;

use crate::fixture::{self, Host, SHIM};

const CONTAINER: &str = "containerd.io/gc.bref.container";

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_task_left_is_made_anew() {
    let host = Host::new(1).await;
    let tasks = host.manager();
    let labels = |of: &str| Labels::from([(CONTAINER.to_owned(), of.to_owned())]);
    let create = async |id: &str| {
        host.container(id, &["true"], SHIM);
        let mut task = host.task(id);
        task.rootfs[0].kind = "host/bind".into();
        tasks.create(&host.ctx, task).await
    };
    let names = || host.mounts.0.lock().unwrap().clone();
    host.mounts.0.lock().unwrap().insert("c1".into(), labels("c1"));
    create("c1").await.unwrap();
    assert_eq!(names()["c1"], labels("c1"));
    tasks.delete(&host.ctx, "c1", "").await.unwrap();
    assert!(names().is_empty());

    for theirs in [labels("c3"), Labels::new()] {
        host.mounts.0.lock().unwrap().insert("c2".into(), theirs.clone());
        assert!(create("c2").await.unwrap_err().is_already_exists());
        assert_eq!(names()["c2"], theirs, "it is somebody else's");
        assert!(!host.bundle("c2").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_waits_for_its_root_file_system() {
    for warm in [0, 1] {
        let host = Host::new(warm).await;
        host.container("c1", &["true"], SHIM);
        for made in [true, false] {
            let (told, mounts) = oneshot::channel::<Result<Vec<Mount>>>();
            let (tasks, ctx) = (host.manager(), host.ctx.clone());
            let creating = tokio::spawn(async move {
                let task = CreateTask { container_id: "c1".into(), ..CreateTask::default() };
                let rootfs = async move { mounts.await.unwrap() };
                tasks.create_on(&ctx, task, Box::pin(rootfs)).await
            });
            let shim = host.bundle("c1").join("bootstrap.json");
            fixture::until("there is a shim", async || shim.exists()).await;
            assert!(!creating.is_finished());
            let mounts = match made {
                true => Ok(host.task("c1").rootfs),
                false => Err(Error::not_found("its layers are gone")),
            };
            told.send(mounts).unwrap();
            let created = creating.await.unwrap();
            let tasks = host.manager();
            if made {
                assert!(created.unwrap() > 1);
                tasks.delete(&host.ctx, "c1", "").await.unwrap();
            } else {
                assert_eq!(created.unwrap_err().to_string(), "its layers are gone");
                assert!(tasks.list(&host.ctx).await.unwrap().is_empty());
            }
            assert!(!host.bundle("c1").exists());
        }
    }
}
