use std::fs;
use std::path::Path;
use std::process::Command;

use gantry_core::Digest;
use serde_json::{Value, json};

use crate::{Daemon, Registry, image, run};

/// Pushes an image that no builder makes: `busybox` with a further layer of these files, and
/// with its runtime configuration changed. Its reference.
pub fn odd_image(
    daemon: &Daemon,
    name: &str,
    files: impl FnOnce(&Path),
    config: impl FnOnce(&mut Value),
) -> String {
    let dir = daemon.scratch().join(format!("image-{name}"));
    let (layout, root, layer) = (dir.join("layout"), dir.join("root"), dir.join("layer.tar"));
    fs::create_dir_all(&root).expect("make the directory of an image");
    run(Command::new("cp").arg("-a").arg(image("busybox")).arg(&layout)).ok();
    files(&root);
    if fs::read_dir(&root).expect("list the files of an image").next().is_some() {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).args(["--numeric-owner", "-cf"]).arg(&layer).arg(".");
        run(&mut tar).ok();
        let mut umoci = Command::new("umoci");
        umoci.args(["raw", "add-layer", "--image"]).arg(format!("{}:latest", layout.display()));
        run(umoci.arg(&layer)).ok();
    }
    configure(&layout, config);
    // References are in lower case, as the names of daemons are.
    let name = format!("{name}-{}:latest", daemon.name());
    Registry::shared().push_layout(&layout, &name);
    Registry::shared().reference(&name)
}

/// Changes how containers of a layout's image run.
fn configure(layout: &Path, change: impl FnOnce(&mut Value)) {
    let path = layout.join("index.json");
    let text = fs::read(&path).expect("read the index");
    let mut index: Value = serde_json::from_slice(&text).expect("the index is JSON");
    let manifests = index["manifests"].as_array_mut().expect("manifests");
    let tag = |m: &Value| m["annotations"]["org.opencontainers.image.ref.name"] == "latest";
    let manifest = manifests.iter_mut().find(|m| tag(m)).expect("one is tagged");
    replace(layout, manifest, |manifest| {
        replace(layout, &mut manifest["config"], |config| change(&mut config["config"]));
    });
    fs::write(&path, index.to_string()).expect("write the index");
}

/// Replaces the blob that a descriptor leads to.
fn replace(layout: &Path, descriptor: &mut Value, change: impl FnOnce(&mut Value)) {
    let blob =
        |digest: &str| layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let old = fs::read(blob(descriptor["digest"].as_str().expect("a digest"))).expect("a blob");
    let mut value: Value = serde_json::from_slice(&old).expect("the blob is JSON");
    change(&mut value);
    let new = serde_json::to_vec(&value).expect("it can be written");
    let digest = Digest::of(&new).to_string();
    fs::write(blob(&digest), &new).expect("write a blob");
    descriptor["digest"] = json!(digest);
    descriptor["size"] = json!(new.len());
}
