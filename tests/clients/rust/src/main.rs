//! An image and a container through the crate `containerd-client`: SOCKET IMAGE CGROUP

use std::error::Error;

use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteTaskRequest, GetContainerRequest, GetImageRequest, KillRequest, ReadContentRequest,
    StartRequest, TransferRequest, WaitRequest,
};
use containerd_client::tonic::{Code, Request};
use containerd_client::types::Platform;
use containerd_client::types::transfer::{
    ImageStore, OciRegistry, RegistryResolver, UnpackConfiguration,
};
use containerd_client::{Client, to_any, with_namespace};
use prost_types::Any;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const NAMESPACE: &str = "rust";
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// Pulls and unpacks an image under its own name.
async fn pull(client: &Client, image: &str) -> Result<()> {
    let resolver = RegistryResolver { default_scheme: "http".into(), ..Default::default() };
    let source = OciRegistry { reference: image.into(), resolver: Some(resolver) };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform =
        Platform { os: "linux".into(), architecture: architecture.into(), ..Default::default() };
    let unpack = UnpackConfiguration {
        platform: Some(platform),
        snapshotter: "overlayfs".into(),
        ..Default::default()
    };
    let store = ImageStore { name: image.into(), unpacks: vec![unpack], ..Default::default() };
    let request = TransferRequest {
        source: Some(to_any(&source)),
        destination: Some(to_any(&store)),
        options: None,
    };
    client.transfer().transfer(with_namespace!(request, NAMESPACE)).await?;
    Ok(())
}

/// A JSON document of the content store.
async fn blob(client: &Client, digest: &str) -> Result<Value> {
    let request = ReadContentRequest { digest: digest.into(), ..Default::default() };
    let mut pieces = client.content().read(with_namespace!(request, NAMESPACE)).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await? {
        bytes.extend(piece.data);
    }
    Ok(serde_json::from_slice(&bytes)?)
}

/// The key of the snapshot that holds the image's files.
async fn top_layer(client: &Client, image: &str) -> Result<String> {
    let request = GetImageRequest { name: image.into() };
    let answer = client.images().get(with_namespace!(request, NAMESPACE)).await?.into_inner();
    let target = answer.image.and_then(|image| image.target).ok_or("an image has a target")?;
    let mut document = blob(client, &target.digest).await?;
    if let Some(digest) = document["manifests"][0]["digest"].as_str() {
        document = blob(client, &digest.to_owned()).await?;
    }
    let config = document["config"]["digest"].as_str().ok_or("a manifest has a config")?;
    let config = blob(client, config).await?;
    let mut chain = String::new();
    for layer in config["rootfs"]["diff_ids"].as_array().ok_or("a config has layers")? {
        let layer = layer.as_str().ok_or("a layer is a digest")?;
        chain = if chain.is_empty() {
            layer.to_owned()
        } else {
            let sum = Sha256::digest(format!("{chain} {layer}"));
            let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("sha256:{hex}")
        };
    }
    Ok(chain)
}

/// As little as a container needs.
fn spec(cgroup: &str, args: &[&str]) -> Any {
    let namespaces = ["pid", "ipc", "uts", "mount", "network"];
    let json = json!({
        "ociVersion": "1.0.2",
        "process": {
            "cwd": "/",
            "args": args,
            "env": ["PATH=/usr/bin:/bin"],
            "user": {"uid": 0, "gid": 0},
        },
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces.map(|name| json!({"type": name})),
        },
    });
    Any { type_url: SPEC.into(), value: json.to_string().into_bytes() }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, image, cgroup] = &args[..] else { return Err("SOCKET IMAGE CGROUP".into()) };
    let client = Client::from_path(socket).await?;
    pull(&client, image).await?;
    println!("pulled");
    let (snapshotter, id) = ("overlayfs".to_owned(), "c1".to_owned());
    let request = PrepareSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: id.clone(),
        parent: top_layer(&client, image).await?,
        ..Default::default()
    };
    let mut snapshots = client.snapshots();
    let rootfs = snapshots.prepare(with_namespace!(request, NAMESPACE)).await?.into_inner().mounts;
    let container = Container {
        id: id.clone(),
        image: image.clone(),
        runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: None }),
        spec: Some(spec(&format!("{cgroup}/{id}"), &["sleep", "600"])),
        snapshotter: snapshotter.clone(),
        snapshot_key: id.clone(),
        ..Default::default()
    };
    let request = CreateContainerRequest { container: Some(container) };
    client.containers().create(with_namespace!(request, NAMESPACE)).await?;

    let mut tasks = client.tasks();
    let container_id = id.clone();
    let request = CreateTaskRequest { container_id: id.clone(), rootfs, ..Default::default() };
    tasks.create(with_namespace!(request, NAMESPACE)).await?;
    let request = StartRequest { container_id: id.clone(), ..Default::default() };
    let pid = tasks.start(with_namespace!(request, NAMESPACE)).await?.into_inner().pid;
    println!("started {}", pid > 0);
    let request = KillRequest { container_id: id.clone(), signal: 9, ..Default::default() };
    tasks.kill(with_namespace!(request, NAMESPACE)).await?;
    let request = WaitRequest { container_id: id.clone(), ..Default::default() };
    let status = tasks.wait(with_namespace!(request, NAMESPACE)).await?.into_inner().exit_status;
    println!("exit {status}");
    tasks.delete(with_namespace!(DeleteTaskRequest { container_id }, NAMESPACE)).await?;
    let request = DeleteContainerRequest { id: id.clone() };
    client.containers().delete(with_namespace!(request, NAMESPACE)).await?;
    let request = RemoveSnapshotRequest { snapshotter, key: id.clone() };
    snapshots.remove(with_namespace!(request, NAMESPACE)).await?;
    let gone =
        client.containers().get(with_namespace!(GetContainerRequest { id }, NAMESPACE)).await;
    println!("gone {}", gone.is_err_and(|status| status.code() == Code::NotFound));
    Ok(())
}
