//! The sandbox service of one shim.

use std::time::Duration;

use gantry_ttrpc::containerd::runtime::sandbox::v1::*;
use gantry_ttrpc::containerd::task::v3::{ShutdownRequest, TaskClient};
use gantry_ttrpc::containerd::types::Mount;
use gantry_ttrpc::{Code, any};

use crate::support::{Host, LIMIT, options, run};

const ID: &str = "pod";

fn id() -> String {
    ID.to_owned()
}

fn client(task: &TaskClient) -> SandboxClient {
    SandboxClient::new(task.connection().clone())
}

async fn status(sandbox: &SandboxClient) -> SandboxStatusResponse {
    let request = SandboxStatusRequest { sandbox_id: id(), verbose: true };
    sandbox.sandbox_status(&request, &options()).await.unwrap()
}

#[test]
fn a_sandbox_ends_what_runs_in_it_and_then_the_shim() {
    run(async {
        let mut host = Host::new(&["sleep", "1000"], false);
        let task = host.start_shim().await;
        let sandbox = client(&task);
        let create = CreateSandboxRequest { sandbox_id: id(), ..CreateSandboxRequest::default() };
        let rooted = CreateSandboxRequest { rootfs: vec![Mount::default()], ..create.clone() };
        let refused = sandbox.create_sandbox(&rooted, &options()).await.unwrap_err();
        assert!(refused.code == Code::UNIMPLEMENTED && refused.message.contains("rootfs"));
        let ping = PingRequest { sandbox_id: id() };
        let early = sandbox.ping_sandbox(&ping, &options()).await.unwrap_err();
        assert_eq!(early.code, Code::NOT_FOUND);
        sandbox.create_sandbox(&create, &options()).await.unwrap();
        let again = sandbox.create_sandbox(&create, &options()).await.unwrap_err();
        assert_eq!(again.code, Code::ALREADY_EXISTS);
        assert_eq!(status(&sandbox).await.state, "SANDBOX_NOTREADY");
        let start = StartSandboxRequest { sandbox_id: id() };
        sandbox.start_sandbox(&start, &options()).await.unwrap();
        let twice = sandbox.start_sandbox(&start, &options()).await.unwrap_err();
        assert_eq!(twice.code, Code::FAILED_PRECONDITION);
        assert_eq!(status(&sandbox).await.state, "SANDBOX_READY");
        sandbox.ping_sandbox(&ping, &options()).await.unwrap();

        task.create(&host.create_request("", "", "", false), &options()).await.unwrap();
        host.start(&task, "").await.unwrap();
        assert_eq!(status(&sandbox).await.info["containers"], host.id);
        let measure = SandboxMetricsRequest { sandbox_id: id() };
        let metrics = sandbox.sandbox_metrics(&measure, &options()).await.unwrap().metrics.unwrap();
        assert!(metrics.data.unwrap().type_url.starts_with("io.containerd.cgroups.v"));

        let wait = WaitSandboxRequest { sandbox_id: id() };
        let (limit, patient) = (options(), options());
        // sh would not, but sleep as init takes no SIGTERM: it is killed after a second.
        let stop = StopSandboxRequest { sandbox_id: id(), timeout_secs: 1 };
        let (ended, stopped) = tokio::join!(
            sandbox.wait_sandbox(&wait, &limit),
            sandbox.stop_sandbox(&stop, &patient)
        );
        stopped.unwrap();
        assert_eq!(ended.unwrap().exit_status, 0);
        assert_eq!(host.wait(&task, "").await, 137);
        let over = status(&sandbox).await;
        assert_eq!(over.state, "SANDBOX_NOTREADY");
        assert!(over.exited_at.is_some());
        host.delete(&task, "").await.unwrap();
        let late = task.create(&host.create_request("", "", "", false), &options()).await;
        assert_eq!(late.unwrap_err().code, Code::FAILED_PRECONDITION);
        // What ends the shim of a task does not end this one.
        let request = ShutdownRequest { id: host.id.clone(), now: true };
        task.shutdown(&request, &options()).await.unwrap();
        sandbox.platform(&PlatformRequest { sandbox_id: id() }, &options()).await.unwrap();
        let down = ShutdownSandboxRequest { sandbox_id: id() };
        sandbox.shutdown_sandbox(&down, &options()).await.unwrap();
        tokio::time::timeout(LIMIT, task.connection().closed()).await.expect("the shim exits");
    });
}

#[test]
fn options_are_honoured_or_refused_by_name() {
    use gantry_ttrpc::containerd::runc::v1::Options;
    run(async {
        let mut host = Host::new(&["sleep", "1000"], false);
        let task = host.start_shim().await;
        for (name, bad) in [
            ("criu_work_path", Options { criu_work_path: "/x".into(), ..Options::default() }),
            (
                "no such cgroup",
                Options { shim_cgroup: "/gantry/none".into(), ..Options::default() },
            ),
        ] {
            let mut request = host.create_request("", "", "", false);
            request.options = Some(any::pack(&bad));
            let refused = task.create(&request, &options()).await.unwrap_err();
            assert!(refused.message.contains(name), "{refused:?}");
        }
        let mut request = host.create_request("", "", "", false);
        request.options = Some(any::pack(&Options {
            binary_name: "runc".into(),
            root: "/run/runc".into(),
            task_api_address: host.address.clone(),
            ..Options::default()
        }));
        // The container that it was started for may be gone, with its bundle.
        std::fs::remove_file(host.bundle.join("address")).unwrap();
        let pid = task.create(&request, &options()).await.unwrap().pid;
        // Written behind the answer.
        let (file, pid) = (host.bundle.join("init.pid"), pid.to_string());
        let written = async {
            while std::fs::read_to_string(&file).unwrap_or_default() != pid {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, written).await.expect("the first process");
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

/// One of the features that the shim tells: a tree that is read-only in all its mounts.
#[test]
fn a_recursively_read_only_tree_is_that_below_its_mounts_as_well() {
    run(async {
        for (option, code) in [("ro", 9), ("rro", 5)] {
            let mut host = Host::new(&[], false);
            let file = format!("/tree/shm/{}", host.id);
            let line = format!("echo x >{file} && exit 9; exit 5");
            let config = std::fs::read(host.bundle.join("config.json")).unwrap();
            let mut spec: serde_json::Value = serde_json::from_slice(&config).unwrap();
            spec["process"]["args"] = serde_json::json!(["sh", "-c", line]);
            spec["mounts"].as_array_mut().unwrap().push(serde_json::json!({
                "destination": "/tree", "type": "bind", "source": "/dev",
                "options": ["rbind", option],
            }));
            host.write_spec(&spec);
            let task = host.created("", false).await;
            host.start(&task, "").await.unwrap();
            let exit = host.wait(&task, "").await;
            let _ = std::fs::remove_file(format!("/dev/shm/{}", host.id));
            assert_eq!(exit, code, "{option}");
            host.delete(&task, "").await.unwrap();
            host.shutdown(&task).await;
        }
    });
}
