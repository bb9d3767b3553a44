//! Containers and processes, from create to delete.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::support::{Attached, Host, LIMIT, event_server, fifo, options, process, run};
use gantry_ttrpc::containerd::events::TaskExit;
use gantry_ttrpc::containerd::task::v3::*;
use gantry_ttrpc::containerd::v1::types::Status as TaskStatus;
use gantry_ttrpc::{Code, any};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Cgroups of a container that are there.
pub(crate) fn cgroups_left(id: &str) -> Vec<std::path::PathBuf> {
    let roots = fs::read_dir("/sys/fs/cgroup").unwrap().map(|e| e.unwrap().path());
    roots.map(|r| r.join("gantry-shim-test").join(id)).filter(|p| p.exists()).collect()
}

/// Whether a process is there and not just waiting for its new parent.
fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

#[test]
fn a_container_from_create_to_shutdown() {
    run(async {
        let mut host = Host::new(&["sh", "-c", "echo out; echo err >&2; exit 3"], false);
        let task = host.created(&host.gantry_uri(""), false).await;
        let state = host.state(&task, "").await.unwrap();
        assert_eq!(state.status(), TaskStatus::Created);
        assert!(state.pid > 0 && Path::new(&format!("/proc/{}", state.pid)).exists());
        let again =
            task.create(&host.create_request("", "", "", false), &options()).await.unwrap_err();
        assert_eq!(again.code, Code::ALREADY_EXISTS);
        assert_eq!(host.start(&task, "").await.unwrap().pid, state.pid);
        assert_eq!(host.wait(&task, "").await, 3);
        // All output is there by the time of the answer.
        assert_eq!(
            (host.logged("stdout").as_str(), host.logged("stderr").as_str()),
            ("out\n", "err\n")
        );
        assert!(host.bundle.join("exits/init").exists());
        let state = host.state(&task, "").await.unwrap();
        assert_eq!((state.status(), state.exit_status), (TaskStatus::Stopped, 3));
        let late = host.kill(&task, "", 9, false).await.unwrap_err();
        assert_eq!(
            (late.code, late.message.as_str()),
            (Code::NOT_FOUND, "process already finished: not found")
        );
        let deleted = host.delete(&task, "").await.unwrap();
        assert_eq!((deleted.pid, deleted.exit_status), (state.pid, 3));
        assert_eq!(host.state(&task, "").await.unwrap_err().code, Code::NOT_FOUND);
        assert_eq!(cgroups_left(&host.id), [] as [&Path; 0]);
        host.shutdown(&task).await;
    });
}

#[test]
fn streams_that_were_left_out_can_be_written_to() {
    run(async {
        let script = "echo out && echo err >&2 && test -w /dev/stdin && exit 3";
        let mut host = Host::new(&["sh", "-c", script], false);
        let task = host.created("", false).await;
        host.start(&task, "").await.unwrap();
        assert_eq!(host.wait(&task, "").await, 3);
        // What it has used can be read until it is deleted.
        let request = StatsRequest { id: host.id.clone() };
        assert!(task.stats(&request, &options()).await.unwrap().stats.is_some());
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn a_running_container_is_not_deleted_and_dies_of_a_signal() {
    run(async {
        let (host, task) = Host::sleeper().await;
        assert_eq!(host.state(&task, "").await.unwrap().status(), TaskStatus::Running);
        assert_eq!(host.delete(&task, "").await.unwrap_err().code, Code::FAILED_PRECONDITION);
        assert_eq!(host.start(&task, "").await.unwrap_err().code, Code::FAILED_PRECONDITION);
        // Shutdown is ignored while there is a container.
        task.shutdown(&ShutdownRequest::default(), &options()).await.unwrap();
        let connect =
            task.connect(&ConnectRequest { id: host.id.clone() }, &options()).await.unwrap();
        assert_eq!(connect.shim_pid as i32, host.shim_pid());
        let (waited, killed) = tokio::join!(host.wait(&task, ""), host.kill(&task, "", 9, false));
        killed.unwrap();
        assert_eq!(waited, 137);
        assert_eq!(host.delete(&task, "").await.unwrap().exit_status, 137);
        host.shutdown(&task).await;
    });
}

#[test]
fn a_created_container_can_be_deleted_unstarted() {
    run(async {
        let mut host = Host::new(&["true"], false);
        let task = host.created("", false).await;
        assert_eq!(host.delete(&task, "").await.unwrap().exit_status, 137);
        assert_eq!(cgroups_left(&host.id), [] as [&Path; 0]);
        host.shutdown(&task).await;
    });
}

#[test]
fn exec_gives_output_codes_and_missing_commands() {
    run(async {
        let (host, task) = Host::sleeper().await;
        let log = format!("gantry://{}", host.path("c.log").display());
        let request = host.exec_request(
            "e1",
            &process(&["sh", "-c", "echo in $0; exit 5", "x"], false),
            &log,
        );
        task.exec(&request, &options()).await.unwrap();
        assert_eq!(task.exec(&request, &options()).await.unwrap_err().code, Code::ALREADY_EXISTS);
        assert_eq!(host.state(&task, "e1").await.unwrap().status(), TaskStatus::Created);
        host.start(&task, "e1").await.unwrap();
        assert_eq!(host.wait(&task, "e1").await, 5);
        assert_eq!(host.logged("stdout"), "in x\n");
        assert_eq!(host.delete(&task, "e1").await.unwrap().exit_status, 5);
        assert_eq!(host.state(&task, "e1").await.unwrap_err().code, Code::NOT_FOUND);
        for (id, command, status, text) in [
            ("e2", "nope", 127, "executable file not found in $PATH"),
            ("e3", "/etc/passwd", 126, "permission denied"),
        ] {
            task.exec(&host.exec_request(id, &process(&[command], false), ""), &options())
                .await
                .unwrap();
            let e = host.start(&task, id).await.unwrap_err();
            assert!(e.message.contains(text), "{}", e.message);
            assert_eq!(host.wait(&task, id).await, status);
            assert_eq!(host.delete(&task, id).await.unwrap().exit_status, status);
        }
        // Pids names those that were exec'd.
        task.exec(&host.exec_request("e4", &process(&["sleep", "1000"], false), ""), &options())
            .await
            .unwrap();
        let pid = host.start(&task, "e4").await.unwrap().pid;
        // The worker that made it leaves a moment later.
        let listed = async {
            loop {
                let pids = task
                    .pids(&PidsRequest { id: host.id.clone() }, &options())
                    .await
                    .unwrap()
                    .processes;
                assert!(pids.iter().any(|p| p.pid == pid && p.info.is_some()), "{pids:?}");
                if pids.len() == 2 {
                    return;
                }
            }
        };
        tokio::time::timeout(LIMIT, listed).await.expect("only init and the new process are left");
        // The end of init is the end of all.
        host.kill(&task, "", 9, false).await.unwrap();
        assert_eq!(host.wait(&task, "").await, 137);
        assert_eq!(host.wait(&task, "e4").await, 137);
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn a_missing_command_is_127_and_leaves_nothing() {
    run(async {
        let mut host = Host::new(&["nope"], false);
        let task = host.created(&host.gantry_uri(""), false).await;
        let e = host.start(&task, "").await.unwrap_err();
        assert!(
            e.message.contains("\"nope\": executable file not found in $PATH"),
            "{}",
            e.message
        );
        assert_eq!(host.wait(&task, "").await, 127);
        assert_eq!(host.delete(&task, "").await.unwrap().exit_status, 127);
        assert_eq!(cgroups_left(&host.id), [] as [&Path; 0]);
        host.shutdown(&task).await;
    });
}

#[test]
fn a_terminal_with_size_input_and_attach() {
    run(async {
        let script = "stty size; read line; stty size; echo got $line; exit 4";
        let mut host = Host::new(&["sh", "-c", script], true);
        let task = host.created(&host.gantry_uri("&stdin=1"), true).await;
        let resize = |width, height| ResizePtyRequest {
            id: host.id.clone(),
            width,
            height,
            ..Default::default()
        };
        task.resize_pty(&resize(100, 30), &options()).await.unwrap();
        let mut client = Attached::to(&host.path("a.sock")).await;
        host.start(&task, "").await.unwrap();
        client.until("30 100").await;
        client.send(4, &[0, 90, 0, 20]).await;
        client.send(0, b"hello\n").await;
        let (out, err, status) = client.rest().await;
        assert!(out.contains("20 90") && out.contains("got hello"), "{out}");
        assert_eq!((err.as_str(), status), ("", 4));
        assert!(host.logged("stdout").contains("got hello"));
        assert_eq!(Attached::to(&host.path("a.sock")).await.rest().await.2, 4);
        assert!(host.state(&task, "").await.unwrap().terminal);
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn attached_input_reaches_cat_and_its_end_ends_it() {
    run(async {
        let mut host = Host::new(&["cat"], false);
        let task = host.created(&host.gantry_uri("&stdin=1"), false).await;
        let mut first = Attached::to(&host.path("a.sock")).await;
        let mut second = Attached::to(&host.path("a.sock")).await;
        host.start(&task, "").await.unwrap();
        first.send(0, b"one\n").await;
        assert_eq!(first.until("one\n").await, "one\n");
        // Leaving is not the end of input.
        drop(first);
        second.send(0, b"two\n").await;
        second.send(3, b"").await;
        let (out, err, status) = second.rest().await;
        assert_eq!((out.as_str(), err.as_str(), status), ("one\ntwo\n", "", 0));
        assert_eq!(host.logged("stdout"), "one\ntwo\n");
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn a_user_can_open_its_streams_and_signals_have_their_defaults() {
    run(async {
        let (host, task) = Host::sleeper().await;
        let log = format!("gantry://{}", host.path("c.log").display());
        let script = "echo again >/proc/self/fd/1; grep SigIgn /proc/self/status; exit $?";
        let mut user = process(&["sh", "-c", script], false);
        user["user"] = serde_json::json!({"uid": 65534, "gid": 65534});
        task.exec(&host.exec_request("e", &user, &log), &options()).await.unwrap();
        host.start(&task, "e").await.unwrap();
        assert_eq!(host.wait(&task, "e").await, 0, "{}", host.logged("stderr"));
        assert_eq!(host.logged("stdout"), "again\nSigIgn:\t0000000000000000\n");
        host.kill(&task, "", 9, true).await.unwrap();
        host.wait(&task, "").await;
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

/// All that comes through a FIFO until its last writer leaves.
async fn to_end(reader: &mut tokio::net::unix::pipe::Receiver) -> String {
    let mut text = String::new();
    let read = tokio::time::timeout(LIMIT, reader.read_to_string(&mut text));
    read.await.expect("the FIFO ends").expect("read the FIFO");
    text
}

#[test]
fn fifos_of_a_client_that_comes_late() {
    run(async {
        let mut host = Host::new(&["cat"], false);
        let (stdin, stdout) = (fifo(&host.path("in")), fifo(&host.path("out")));
        let task = host.start_shim().await;
        task.create(&host.create_request(&stdin, &stdout, "", false), &options()).await.unwrap();
        host.start(&task, "").await.unwrap();
        fs::write(&stdin, "early\n").unwrap();
        // The first writer has left; a second goes on where it stopped.
        fs::write(&stdin, "late\n").unwrap();
        let mut reader = tokio::net::unix::pipe::OpenOptions::new().open_receiver(&stdout).unwrap();
        let close = CloseIoRequest { id: host.id.clone(), stdin: true, ..Default::default() };
        task.close_io(&close, &options()).await.unwrap();
        assert_eq!(to_end(&mut reader).await, "early\nlate\n");
        assert_eq!(host.wait(&task, "").await, 0);
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn an_execs_fifos_are_opened_at_its_start() {
    run(async {
        let (host, task) = Host::sleeper().await;
        let (stdin, stdout) = (fifo(&host.path("in")), fifo(&host.path("out")));
        let exec = host.exec_request("e", &process(&["cat"], false), &stdout);
        task.exec(&ExecProcessRequest { stdin: stdin.clone(), ..exec }, &options()).await.unwrap();
        let mut fifo = tokio::net::unix::pipe::OpenOptions::new();
        for path in [&stdin, &stdout] {
            let early = fifo.open_sender(path).unwrap_err();
            assert_eq!(early.raw_os_error(), Some(libc::ENXIO), "{path} is not open yet");
        }
        let mut reader = tokio::net::unix::pipe::OpenOptions::new().open_receiver(&stdout).unwrap();
        // One that keeps what it writes.
        let mut writer = fifo.read_write(true).open_sender(&stdin).unwrap();
        writer.write_all(b"all of it\n").await.unwrap();
        let (id, exec_id) = (host.id.clone(), "e".to_owned());
        task.close_io(&CloseIoRequest { id, exec_id, stdin: true }, &options()).await.unwrap();
        host.start(&task, "e").await.unwrap();
        drop(writer);
        assert_eq!(to_end(&mut reader).await, "all of it\n");
        assert_eq!(host.wait(&task, "e").await, 0);
        host.kill(&task, "", 9, true).await.unwrap();
        host.wait(&task, "").await;
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn files_and_logging_programs() {
    run(async {
        let mut host = Host::new(&["sh", "-c", "echo out; echo err >&2"], false);
        let file = format!("file://{}", host.path("sub/out.txt").display());
        let task = host.start_shim().await;
        task.create(&host.create_request("", &file, &file, false), &options()).await.unwrap();
        host.start(&task, "").await.unwrap();
        host.wait(&task, "").await;
        host.delete(&task, "").await.unwrap();
        let text = fs::read_to_string(host.path("sub/out.txt")).unwrap();
        assert!(text.contains("out\n") && text.contains("err\n") && text.len() == 8, "{text:?}");

        let logger = host.path("logger.sh");
        let script = format!(
            "#!/bin/sh\nexec >{}\necho $CONTAINER_NAMESPACE $1 $2\nexec 5>&-\ncat <&3; cat <&4; echo end",
            host.path("logged").display()
        );
        fs::write(&logger, script).unwrap();
        fs::set_permissions(&logger, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let uri = format!("binary://{}?tag=x", logger.display());
        task.create(&host.create_request("", &uri, &uri, false), &options()).await.unwrap();
        host.start(&task, "").await.unwrap();
        host.wait(&task, "").await;
        host.delete(&task, "").await.unwrap();
        let want = "test tag x\nout\nerr\nend\n";
        let written = async {
            while fs::read_to_string(host.path("logged")).unwrap() != want {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, written).await.expect("the program sees the end of its input");
        host.shutdown(&task).await;
    });
}

#[test]
fn much_output_is_complete_and_in_order() {
    run(async {
        let mut host = Host::new(&["seq", "200000"], false);
        let uri = host.gantry_uri("&max-size=1000000000");
        let task = host.created(&uri, false).await;
        let mut client = Attached::to(&host.path("a.sock")).await;
        host.start(&task, "").await.unwrap();
        let (out, _, status) = client.rest().await;
        let want: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
        assert!(out == want && status == 0, "{} bytes", out.len());
        assert!(host.logged("stdout") == want);
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn a_background_child_does_not_hold_an_exec_back() {
    run(async {
        let (host, task) = Host::sleeper().await;
        let log = format!("gantry://{}", host.path("c.log").display());
        let script = process(&["sh", "-c", "sleep 1000 & echo done"], false);
        task.exec(&host.exec_request("bg", &script, &log), &options()).await.unwrap();
        host.start(&task, "bg").await.unwrap();
        assert_eq!(host.wait(&task, "bg").await, 0);
        assert_eq!(host.logged("stdout"), "done\n");
        host.delete(&task, "bg").await.unwrap();
        host.kill(&task, "", 9, true).await.unwrap();
        host.wait(&task, "").await;
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn events_reach_a_daemon_that_comes_late() {
    run(async {
        let mut host = Host::new(&["true"], false);
        let task = host.created("", false).await;
        host.start(&task, "").await.unwrap();
        host.wait(&task, "").await;
        let mut events = event_server(&host.events_path());
        host.delete(&task, "").await.unwrap();
        for topic in ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"] {
            let event = tokio::time::timeout(LIMIT, events.recv())
                .await
                .expect("an event in time")
                .unwrap();
            assert_eq!((event.topic.as_str(), event.namespace.as_str()), (topic, "test"));
            if topic == "/tasks/exit" {
                let exit: TaskExit = any::unpack(&event.event.unwrap()).unwrap();
                assert_eq!(
                    (exit.container_id.as_str(), exit.id.as_str(), exit.exit_status),
                    (&*host.id, &*host.id, 0)
                );
            }
        }
        host.shutdown(&task).await;
    });
}

#[test]
fn pause_and_resume() {
    run(async {
        let (host, task) = Host::sleeper().await;
        task.pause(&PauseRequest { id: host.id.clone() }, &options()).await.unwrap();
        assert_eq!(host.state(&task, "").await.unwrap().status(), TaskStatus::Paused);
        task.resume(&ResumeRequest { id: host.id.clone() }, &options()).await.unwrap();
        assert_eq!(host.state(&task, "").await.unwrap().status(), TaskStatus::Running);
        let checkpoint = CheckpointTaskRequest { id: host.id.clone(), ..Default::default() };
        let e = task.checkpoint(&checkpoint, &options()).await.unwrap_err();
        assert!(e.code == Code::UNIMPLEMENTED && e.message.contains("CRIU"));
        host.kill(&task, "", 9, true).await.unwrap();
        host.wait(&task, "").await;
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}

#[test]
fn after_a_killed_shim_delete_cleans_up() {
    run(async {
        let mut host = Host::new(&["sleep", "1000"], false);
        let task = host.created("", false).await;
        let pid = host.start(&task, "").await.unwrap().pid;
        let shim = nix::unistd::Pid::from_raw(host.shim_pid());
        nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
        tokio::time::timeout(LIMIT, task.connection().closed()).await.unwrap();
        let output = host.run_shim(&["-bundle", host.bundle.to_str().unwrap(), "delete"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer = DeleteResponse::decode(output.stdout.as_slice()).unwrap();
        assert_eq!((answer.pid, answer.exit_status), (pid, 137));
        assert!(!runs(pid));
        assert!(!Path::new(host.address.strip_prefix("unix://").unwrap()).exists());
        assert_eq!(cgroups_left(&host.id), [] as [&Path; 0]);
        // And again: nothing is left to do.
        assert!(host.run_shim(&["delete"]).status.success());
    });
}

#[test]
fn a_second_start_joins_the_first() {
    run(async {
        let mut host = Host::new(&["true"], false);
        let task = host.start_shim().await;
        let again = host.run_shim(&["start"]);
        assert_eq!(String::from_utf8(again.stdout).unwrap(), host.address);
        host.shutdown(&task).await;
    });
}

#[test]
fn dialects_of_start() {
    run(async {
        let mut host = Host::new(&["true"], false);
        let output = host.shim(&["start"]).env("MAX_SHIM_VERSION", "2").output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&answer["version"], &answer["protocol"]), (&2.into(), &"ttrpc".into()));
        host.address = answer["address"].as_str().unwrap().to_owned();
        let task = host.connect().await;
        let v2 = TaskClient::with_service(task.connection().clone(), "containerd.task.v2.Task");
        let missing = StateRequest { id: "x".into(), ..Default::default() };
        assert_eq!(v2.state(&missing, &options()).await.unwrap_err().code, Code::NOT_FOUND);
        host.shutdown(&task).await;
        let info = host.shim(&["-info"]).stderr(Stdio::null()).output().unwrap();
        let info =
            gantry_ttrpc::containerd::types::RuntimeInfo::decode(info.stdout.as_slice()).unwrap();
        assert_eq!(info.name, "io.containerd.gantry.v2");
    });
}
