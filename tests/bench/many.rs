//! What an engine makes of thousands of images: listing them, starting, memory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_core::{Digest, Namespace};
use gantry_grpc::MAX_MESSAGE;
use gantry_grpc::containerd::services::images::v1::ListImagesRequest;
use gantry_grpc::containerd::services::images::v1::images_client::ImagesClient;
use gantry_grpc::context::Headers;
use gantry_tests::{Containerd, Daemon, Options, endpoint, image, run_within};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::report::Report;
use crate::time;

/// Images in the store.
const IMAGES: usize = 5_000;
/// Runs of each command.
const ROUNDS: usize = 20;

/// Imports the images into gantryd and containerd, and measures.
pub(crate) fn measure(report: &mut Report) {
    let archive = archive();
    let tar = archive.path().join("images.tar");
    let mut daemon = Daemon::with(Options { in_service: true, ..Options::default() });
    let peer = Containerd::start();
    for mut ctr in [daemon.ctr_command(&[]), peer.ctr_command(&[])] {
        let import = ctr.args(["-n", "default", "images", "import", "--no-unpack"]).arg(&tar);
        run_within(import, Duration::from_secs(600)).ok();
    }
    let list = ["-n", "default", "images", "ls", "-q"];
    let count = daemon.ctr(&list).ok().lines().len();
    assert_eq!(count, IMAGES, "all images are there");
    let what = format!("list {IMAGES} images");
    let many = |command: &dyn Fn() -> Command| {
        (0..ROUNDS).map(|_| time(&mut command())).collect::<Vec<_>>()
    };
    report.add(&what, "gantry", many(&|| daemon.ctr_command(&list)), "ms");
    report.add(&what, "containerd", many(&|| peer.ctr_command(&list)), "ms");
    let what = format!("{what}, the call alone");
    report.add(&what, "gantry", calls(&daemon.address()), "ms");
    report.add(&what, "containerd", calls(&peer.address()), "ms");
    let own = many(&|| daemon.gantry_command(&["images", "-q"]));
    report.add(&format!("gantry images with {IMAGES} images"), "gantry", own, "ms");
    let start = || {
        daemon.stop();
        let begin = Instant::now();
        daemon.restart();
        begin.elapsed().as_secs_f64() * 1e3
    };
    let starts: Vec<f64> = std::iter::repeat_with(start).take(5).collect();
    report.add(&format!("start with {IMAGES} images"), "gantry", starts, "ms");
    time(&mut daemon.gantry_command(&["images", "-q"]));
    let what = format!("RSS of the daemon with {IMAGES} images");
    report.add(&what, "gantry", vec![rss(daemon.pid())], "MB");
    report.add(&what, "containerd", vec![rss(peer.pid())], "MB");
}

/// Milliseconds of the calls without the start of a client, and without reading the answer.
fn calls(address: &Path) -> Vec<f64> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let headers = Headers::new(&Namespace::new("default").expect("a name"));
        let channel = endpoint(address).connect().await.expect("it serves");
        let client = ImagesClient::with_interceptor(channel, headers);
        let mut client = client.max_decoding_message_size(MAX_MESSAGE);
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            client.list(ListImagesRequest::default()).await.expect("an answer");
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        times
    })
}

/// A process' resident memory in MB.
fn rss(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a figure");
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kb / 1024.0
}

/// An OCI archive of images that differ in their configuration only.
fn archive() -> TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    let layout = dir.path().join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("make a directory");
    let source = image("busybox");
    let read = |digest: &str| -> Value {
        let path = source.join("blobs").join(digest.replace(':', "/"));
        serde_json::from_slice(&fs::read(path).expect("a blob")).expect("JSON")
    };
    let index: Value =
        serde_json::from_slice(&fs::read(source.join("index.json")).expect("an index"))
            .expect("JSON");
    let manifest = read(index["manifests"][0]["digest"].as_str().expect("a digest"));
    let config = read(manifest["config"]["digest"].as_str().expect("a digest"));
    for layer in manifest["layers"].as_array().expect("layers") {
        let digest = layer["digest"].as_str().expect("a digest").replace(':', "/");
        fs::copy(source.join("blobs").join(&digest), layout.join("blobs").join(&digest))
            .expect("copy a layer");
    }
    let manifests: Vec<Value> = (0..IMAGES)
        .map(|n| {
            let mut config = config.clone();
            config["config"]["Labels"] = json!({"number": n.to_string()});
            let mut manifest = manifest.clone();
            let described = write(&blobs, &config);
            manifest["config"]["digest"] = described["digest"].clone();
            manifest["config"]["size"] = described["size"].clone();
            let mut described = write(&blobs, &manifest);
            described["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
            let name = format!("example.org/many/image{n}:1");
            described["annotations"] = json!({"io.containerd.image.name": name});
            described
        })
        .collect();
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs::write(layout.join("index.json"), index.to_string()).expect("write the index");
    fs::copy(source.join("oci-layout"), layout.join("oci-layout")).expect("copy the version");
    let tar = dir.path().join("images.tar");
    let mut command = Command::new("tar");
    command.arg("-C").arg(&layout).arg("-cf").arg(tar).arg(".");
    run_within(&mut command, Duration::from_secs(120)).ok();
    dir
}

/// Writes a blob; its digest and size.
fn write(blobs: &Path, content: &Value) -> Value {
    let text = content.to_string();
    let digest = Digest::of(text.as_bytes());
    let name = digest.to_string().replace("sha256:", "");
    fs::write(blobs.join(name), &text).expect("write a blob");
    json!({"digest": digest.to_string(), "size": text.len()})
}
