//! Calls to the services that do something: tasks, sandboxes, mounts, transfers.

use std::path::Path;

use gantry_core::Digest;
use gantry_grpc::any;
use gantry_grpc::containerd::services as s;
use gantry_grpc::containerd::types::{Descriptor, Envelope, Mount, Sandbox, transfer};
use prost::Message;
use prost_types::{Any, FieldMask};

use super::player::{BAD, NONE, Player, What};

impl Player {
    pub(super) async fn diff(&mut self, layer: &Descriptor, dir: &Path) {
        use s::diff::v1::*;
        let mounts = |from: &Path| {
            let options = vec!["rbind".to_owned(), "rw".to_owned()];
            let source = from.display().to_string();
            vec![Mount { r#type: "bind".into(), source, options, ..Default::default() }]
        };
        let apply = |diff: Descriptor, mounts: Vec<Mount>| ApplyRequest {
            diff: Some(diff),
            mounts,
            ..Default::default()
        };
        let absent = Descriptor { digest: Digest::of(b"absent").to_string(), ..layer.clone() };
        self.valid::<ApplyResponse>("Diff/Apply", apply(layer.clone(), mounts(dir))).await;
        self.wrong("Diff/Apply", What::Unknown, apply(absent, mounts(dir))).await;
        let diff = |from: &Path, media: &str| DiffRequest {
            right: mounts(from),
            media_type: media.into(),
            ..Default::default()
        };
        let tar = "application/vnd.oci.image.layer.v1.tar";
        self.valid::<DiffResponse>("Diff/Diff", diff(dir, tar)).await;
    }

    pub(super) async fn events(&mut self) {
        use s::events::v1::*;
        let event = || Some(any::pack(&s::images::v1::ImageDelete { name: "x".into() }));
        let publish = |topic: &str| PublishRequest { topic: topic.into(), event: event() };
        let forward = |topic: &str, namespace: &str| ForwardRequest {
            envelope: Some(Envelope {
                timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
                namespace: namespace.into(),
                topic: topic.into(),
                event: event(),
            }),
        };
        let namespace = self.namespace.clone();
        self.valid::<()>("Events/Publish", publish("/test/topic")).await;
        self.wrong("Events/Publish", What::Bad, publish("no topic")).await;
        self.valid::<()>("Events/Forward", forward("/test/topic", &namespace)).await;
        self.wrong("Events/Forward", What::Bad, forward("no topic", &namespace)).await;
        let subscribe = |filter: &str| SubscribeRequest { filters: vec![filter.into()] };
        self.valid_all("Events/Subscribe", vec![subscribe("topic==\"/none\"").encode_to_vec()])
            .await;
        self.wrong("Events/Subscribe", What::Bad, subscribe("topic==\"open")).await;
    }

    pub(super) async fn introspection(&mut self) {
        use s::introspection::v1::*;
        let plugins = |filter: &str| PluginsRequest { filters: vec![filter.into()] };
        self.valid::<PluginsResponse>("Introspection/Plugins", plugins("id==overlayfs")).await;
        self.wrong("Introspection/Plugins", What::Bad, plugins("id==\"open")).await;
        self.valid::<ServerResponse>("Introspection/Server", ()).await;
        let info = |id: &str| PluginInfoRequest {
            r#type: "io.containerd.snapshotter.v1".into(),
            id: id.into(),
            options: None,
        };
        self.valid::<PluginInfoResponse>("Introspection/PluginInfo", info("overlayfs")).await;
        self.wrong("Introspection/PluginInfo", What::Unknown, info(NONE)).await;
        self.valid::<s::version::v1::VersionResponse>("Version/Version", ()).await;
    }

    /// With a container that is there already.
    pub(super) async fn tasks(&mut self, id: &str) {
        use s::tasks::v1::*;
        let id = || id.to_owned();
        let mounts = s::snapshots::v1::MountsRequest { snapshotter: "overlayfs".into(), key: id() };
        let rootfs: s::snapshots::v1::MountsResponse = self.valid("Snapshots/Mounts", mounts).await;
        let create = |container_id: &str| CreateTaskRequest {
            container_id: container_id.into(),
            rootfs: rootfs.mounts.clone(),
            ..Default::default()
        };
        self.missing("Tasks/Create", create).await;
        self.valid::<CreateTaskResponse>("Tasks/Create", create(&id())).await;
        let start = |container_id: &str| StartRequest {
            container_id: container_id.into(),
            ..Default::default()
        };
        self.missing("Tasks/Start", start).await;
        self.valid::<StartResponse>("Tasks/Start", start(&id())).await;
        let get = |container_id: &str| GetRequest {
            container_id: container_id.into(),
            ..Default::default()
        };
        self.missing("Tasks/Get", get).await;
        self.valid::<GetResponse>("Tasks/Get", get(&id())).await;
        self.valid::<ListTasksResponse>("Tasks/List", ListTasksRequest::default()).await;
        let process = serde_json::json!({
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sleep", "60"],
            "env": ["PATH=/bin:/usr/bin"],
        });
        let exec = |container_id: &str| ExecProcessRequest {
            container_id: container_id.into(),
            exec_id: "e1".into(),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: process.to_string().into_bytes(),
            }),
            ..Default::default()
        };
        self.missing("Tasks/Exec", exec).await;
        self.valid::<()>("Tasks/Exec", exec(&id())).await;
        let nameless = ExecProcessRequest { exec_id: BAD.into(), ..exec(&id()) };
        self.wrong("Tasks/Exec", What::Bad, nameless).await;
        let second = StartRequest { container_id: id(), exec_id: "e1".into() };
        self.valid::<StartResponse>("Tasks/Start", second).await;
        let resize = |container_id: &str| ResizePtyRequest {
            container_id: container_id.into(),
            width: 80,
            height: 24,
            ..Default::default()
        };
        self.missing("Tasks/ResizePty", resize).await;
        let close = |container_id: &str| CloseIoRequest {
            container_id: container_id.into(),
            exec_id: "e1".into(),
            stdin: true,
        };
        self.missing("Tasks/CloseIO", close).await;
        self.valid::<()>("Tasks/CloseIO", close(&id())).await;
        self.running(&id()).await;
        self.ending(&id()).await;
    }

    pub(super) async fn running(&mut self, id: &str) {
        use s::tasks::v1::*;
        let pause = |id: &str| PauseTaskRequest { container_id: id.into() };
        let resume = |id: &str| ResumeTaskRequest { container_id: id.into() };
        let pids = |id: &str| ListPidsRequest { container_id: id.into() };
        let update = |id: &str| UpdateTaskRequest {
            container_id: id.into(),
            resources: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                value: br#"{"cpu":{"shares":512}}"#.to_vec(),
            }),
            ..Default::default()
        };
        let checkpoint =
            |id: &str| CheckpointTaskRequest { container_id: id.into(), ..Default::default() };
        let metrics = |filter: String| MetricsRequest { filters: vec![filter] };
        self.missing("Tasks/Pause", pause).await;
        self.valid::<()>("Tasks/Pause", pause(id)).await;
        self.missing("Tasks/Resume", resume).await;
        self.valid::<()>("Tasks/Resume", resume(id)).await;
        self.missing("Tasks/ListPids", pids).await;
        self.valid::<ListPidsResponse>("Tasks/ListPids", pids(id)).await;
        self.missing("Tasks/Update", update).await;
        self.valid::<()>("Tasks/Update", update(id)).await;
        self.missing("Tasks/Checkpoint", checkpoint).await;
        self.valid::<CheckpointTaskResponse>("Tasks/Checkpoint", checkpoint(id)).await;
        self.valid::<MetricsResponse>("Tasks/Metrics", metrics(format!("id=={id}"))).await;
        self.wrong("Tasks/Metrics", What::Bad, metrics("id==\"open".into())).await;
    }

    pub(super) async fn ending(&mut self, id: &str) {
        use s::tasks::v1::*;
        let kill = |container_id: &str| KillRequest {
            container_id: container_id.into(),
            signal: 9,
            ..Default::default()
        };
        let wait = |container_id: &str| WaitRequest {
            container_id: container_id.into(),
            ..Default::default()
        };
        let of_exec =
            |id: &str| DeleteProcessRequest { container_id: id.into(), exec_id: "e1".into() };
        let delete = |id: &str| DeleteTaskRequest { container_id: id.into() };
        self.missing("Tasks/Kill", kill).await;
        let second = KillRequest { exec_id: "e1".into(), ..kill(id) };
        self.valid::<()>("Tasks/Kill", second).await;
        self.missing("Tasks/Wait", wait).await;
        let second = WaitRequest { exec_id: "e1".into(), ..wait(id) };
        self.valid::<WaitResponse>("Tasks/Wait", second).await;
        self.missing("Tasks/DeleteProcess", of_exec).await;
        self.valid::<DeleteResponse>("Tasks/DeleteProcess", of_exec(id)).await;
        self.valid::<()>("Tasks/Kill", kill(id)).await;
        self.valid::<WaitResponse>("Tasks/Wait", wait(id)).await;
        self.missing("Tasks/Delete", delete).await;
        self.valid::<DeleteResponse>("Tasks/Delete", delete(id)).await;
    }

    pub(super) async fn sandboxes(&mut self) {
        use s::sandbox::v1::*;
        let runtime = Some(gantry_grpc::containerd::types::sandbox::Runtime {
            name: "io.containerd.runc.v2".into(),
            options: None,
        });
        let sandbox = |id: &str| {
            let sandbox_id = id.to_owned();
            Some(Sandbox { sandbox_id, runtime: runtime.clone(), ..Default::default() })
        };
        let create = |id: &str| StoreCreateRequest { sandbox: sandbox(id) };
        let update =
            |id: &str| StoreUpdateRequest { sandbox: sandbox(id), fields: vec!["labels.x".into()] };
        let get = |id: &str| StoreGetRequest { sandbox_id: id.into() };
        let delete = |id: &str| StoreDeleteRequest { sandbox_id: id.into() };
        self.valid::<StoreCreateResponse>("Store/Create", create("p1")).await;
        self.wrong("Store/Create", What::Bad, create(BAD)).await;
        self.valid::<StoreGetResponse>("Store/Get", get("p1")).await;
        self.valid::<StoreListResponse>("Store/List", StoreListRequest::default()).await;
        let filters = vec!["id==\"open".to_owned()];
        self.wrong("Store/List", What::Bad, StoreListRequest { filters }).await;
        self.valid::<StoreUpdateResponse>("Store/Update", update("p1")).await;
        self.wrong("Store/Get", What::Unknown, get(NONE)).await;
        self.wrong("Store/Update", What::Unknown, update(NONE)).await;
        self.wrong("Store/Delete", What::Unknown, delete(NONE)).await;
        self.controller(sandbox("p1")).await;
        self.valid::<StoreDeleteResponse>("Store/Delete", delete("p1")).await;
    }

    pub(super) async fn controller(&mut self, sandbox: Option<Sandbox>) {
        use s::sandbox::v1::*;
        macro_rules! request {
            ($request:ident) => {
                |id: &str| $request { sandbox_id: id.into(), ..Default::default() }
            };
        }
        let create = request!(ControllerCreateRequest);
        let start = request!(ControllerStartRequest);
        let platform = request!(ControllerPlatformRequest);
        let status = request!(ControllerStatusRequest);
        let metrics = request!(ControllerMetricsRequest);
        let update = |id: &str| ControllerUpdateRequest {
            sandbox_id: id.into(),
            sandbox: sandbox.clone(),
            fields: vec!["labels.x".into()],
            ..Default::default()
        };
        let stop = request!(ControllerStopRequest);
        let wait = request!(ControllerWaitRequest);
        let shutdown = request!(ControllerShutdownRequest);
        let first = ControllerCreateRequest { sandbox: sandbox.clone(), ..create("p1") };
        self.valid::<ControllerCreateResponse>("Controller/Create", first).await;
        let elsewhere = ControllerCreateRequest { sandboxer: NONE.into(), ..create("p2") };
        self.wrong("Controller/Create", What::Unknown, elsewhere).await;
        self.valid::<ControllerStartResponse>("Controller/Start", start("p1")).await;
        self.wrong("Controller/Start", What::Unknown, start(NONE)).await;
        self.valid::<ControllerPlatformResponse>("Controller/Platform", platform("p1")).await;
        self.wrong("Controller/Platform", What::Unknown, platform(NONE)).await;
        self.valid::<ControllerStatusResponse>("Controller/Status", status("p1")).await;
        self.wrong("Controller/Status", What::Unknown, status(NONE)).await;
        self.valid::<ControllerMetricsResponse>("Controller/Metrics", metrics("p1")).await;
        self.wrong("Controller/Metrics", What::Unknown, metrics(NONE)).await;
        self.valid::<ControllerUpdateResponse>("Controller/Update", update("p1")).await;
        self.wrong("Controller/Update", What::Unknown, update(NONE)).await;
        self.valid::<ControllerStopResponse>("Controller/Stop", stop("p1")).await;
        self.wrong("Controller/Stop", What::Unknown, stop(NONE)).await;
        self.valid::<ControllerWaitResponse>("Controller/Wait", wait("p1")).await;
        self.wrong("Controller/Wait", What::Unknown, wait(NONE)).await;
        self.wrong("Controller/Shutdown", What::Unknown, shutdown(NONE)).await;
        self.valid::<ControllerShutdownResponse>("Controller/Shutdown", shutdown("p1")).await;
    }

    pub(super) async fn mounts(&mut self, dir: &Path) {
        use s::mounts::v1::*;
        let activate = |name: &str| ActivateRequest {
            name: name.into(),
            mounts: vec![Mount {
                r#type: "bind".into(),
                source: dir.display().to_string(),
                options: vec!["rbind".into()],
                ..Default::default()
            }],
            // Otherwise it is for the client to mount.
            temporary: true,
            ..Default::default()
        };
        let deactivate = |name: &str| DeactivateRequest { name: name.into() };
        let info = |name: &str| InfoRequest { name: name.into() };
        self.valid::<ActivateResponse>("Mounts/Activate", activate("m1")).await;
        self.valid::<InfoResponse>("Mounts/Info", info("m1")).await;
        self.wrong("Mounts/Info", What::Unknown, info(NONE)).await;
        let known: InfoResponse = self.valid("Mounts/Info", info("m1")).await;
        let update = UpdateRequest {
            info: known.info,
            update_mask: Some(FieldMask { paths: vec!["labels.x".into()] }),
        };
        self.valid::<UpdateResponse>("Mounts/Update", update).await;
        self.valid::<ListMessage>("Mounts/List", ListRequest::default()).await;
        self.wrong("Mounts/Deactivate", What::Unknown, deactivate(NONE)).await;
        self.valid::<()>("Mounts/Deactivate", deactivate("m1")).await;
    }

    pub(super) async fn moving(&mut self, image: &str) {
        use s::streaming::v1::StreamInit;
        use s::transfer::v1::TransferRequest;
        let open = |id: &str| any::pack(&StreamInit { id: id.into() });
        self.valid_all("Streaming/Stream", vec![open("t1").encode_to_vec()]).await;
        self.wrong("Streaming/Stream", What::Bad, open("")).await;
        let store = |name: &str| {
            Some(any::pack(&transfer::ImageStore { name: name.into(), ..Default::default() }))
        };
        let tag = |from: &str, to: &str| TransferRequest {
            source: store(from),
            destination: store(to),
            options: None,
        };
        self.valid::<()>("Transfer/Transfer", tag(image, "example.org/t:1")).await;
        self.wrong("Transfer/Transfer", What::Unknown, tag(NONE, "example.org/t:2")).await;
    }
}
