//! Every rpc of containerd's API: called validly, without a namespace, for what is not
//! there and with what can't be. Debian's containerd is asked the same, and its kinds of
//! errors count where it knows the rpc.

mod player;
mod records;
mod running;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gantry_core::Digest;
use gantry_grpc::containerd::services as s;
use gantry_grpc::containerd::types::Descriptor;
use gantry_tests::{Containerd, Daemon, Registry};
use prost::Message;
use tonic::Code;

use player::{Player, Seen, What, paths};

/// Answers that differ from those of Debian's containerd, and why.
const EXCEPTIONS: [(&str, What, Code, &str); 12] = [
    ("Tasks/Checkpoint", What::Valid, Code::Unimplemented, "it needs CRIU, which is not there"),
    ("Namespaces/Create", What::Nowhere, Code::Ok, WORK_IS_DONE),
    ("Namespaces/Update", What::Nowhere, Code::Ok, WORK_IS_DONE),
    ("Namespaces/Delete", What::Nowhere, Code::Ok, WORK_IS_DONE),
    ("Namespaces/Get", What::Bad, Code::InvalidArgument, NAMES_ARE_CHECKED),
    ("Namespaces/Update", What::Bad, Code::InvalidArgument, NAMES_ARE_CHECKED),
    ("Namespaces/Delete", What::Bad, Code::InvalidArgument, NAMES_ARE_CHECKED),
    ("Introspection/PluginInfo", What::Nowhere, Code::Ok, "it is of no namespace"),
    ("Snapshots/Cleanup", What::Nowhere, Code::Ok, "it is of all namespaces"),
    ("Snapshots/Cleanup", What::Bad, Code::InvalidArgument, "it is known here"),
    ("Controller/Status", What::Unknown, Code::Ok, "one that is gone is not ready"),
    ("Controller/Stop", What::Unknown, Code::Ok, "one that is gone has stopped"),
];
const WORK_IS_DONE: &str = "containerd only fails to publish the event of what it did";
const NAMES_ARE_CHECKED: &str = "no namespace can have such a name";

/// A server with an image and a container `c`.
async fn play(address: PathBuf, dir: &Path, ctr: impl Fn(&[&str]) -> String, name: &str) -> Seen {
    let image = Registry::shared().reference("busybox:latest");
    ctr(&["images", "pull", "--plain-http", &image]);
    ctr(&["containers", "create", &image, "c", "sleep", "60"]);
    let mut player = Player::connect(address, name).await;
    let get = s::images::v1::GetImageRequest { name: image.clone() };
    let answer = player.call("Images/Get", vec![get.encode_to_vec()], Some(name)).await;
    let answer =
        s::images::v1::GetImageResponse::decode(answer.expect("it was pulled")[0].as_slice());
    let target = answer.expect("an image").image.and_then(|i| i.target).expect("a target");
    let manifest = ctr(&["content", "get", &target.digest]);
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("a manifest");
    let layer = &manifest["layers"][0];
    let text = |key: &str| layer[key].as_str().expect("text").to_owned();
    let layer = Descriptor {
        media_type: text("mediaType"),
        digest: text("digest"),
        size: layer["size"].as_i64().expect("a size"),
        ..Default::default()
    };
    let blob: Digest = target.digest.parse().expect("a digest");
    player.namespaces().await;
    player.leases(&blob).await;
    player.content().await;
    player.images(&target).await;
    player.snapshots().await;
    player.diff(&layer, dir).await;
    player.events().await;
    player.introspection().await;
    player.containers().await;
    player.tasks("c").await;
    player.sandboxes().await;
    player.mounts(dir).await;
    player.moving(&image).await;
    ctr(&["containers", "rm", "c"]);
    player.seen
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_answers_as_containerd_does() {
    let daemon = Daemon::start();
    let peer = Containerd::start();
    let name = daemon.name();
    let dirs = [daemon.scratch(), peer.scratch()].map(|dir| dir.join("layer"));
    for dir in &dirs {
        std::fs::create_dir(dir).expect("make a directory");
    }
    let ours = |args: &[&str]| daemon.ctr(&[&["-n", name], args].concat()).ok().stdout;
    let ours = play(daemon.address(), &dirs[0], ours, name).await;
    let theirs = |args: &[&str]| peer.ctr(&[&["-n", name], args].concat()).ok().stdout;
    let theirs = play(peer.address(), &dirs[1], theirs, name).await;
    let called: BTreeSet<&String> = ours.keys().map(|(rpc, _)| rpc).collect();
    let all = paths();
    let never: Vec<_> = all.keys().filter(|rpc| !called.contains(rpc)).collect();
    let mut wrong: Vec<String> = never.iter().map(|rpc| format!("{rpc} is never called")).collect();
    for (key, answers) in &ours {
        for (n, (code, text)) in answers.iter().enumerate() {
            let (rpc, what) = key;
            let exception = EXCEPTIONS.iter().find(|(r, w, ..)| r == rpc && w == what);
            let peer = theirs.get(key).and_then(|answers| answers.get(n));
            // Older servers don't know all, and some answers are of no kind.
            let strange = |text: &str| {
                text.starts_with("unknown service") || text.starts_with("unknown method")
            };
            let known = peer.filter(|(code, text)| *code != Code::Unknown && !strange(text));
            let wanted = match (exception, known) {
                (Some((_, _, code, _)), _) => *code,
                // A valid call is answered, whatever an older server makes of it.
                (None, Some(_)) if *what == What::Valid => Code::Ok,
                (None, Some((code, _))) => *code,
                (None, None) => what.code(),
            };
            if *code != wanted {
                wrong.push(format!(
                    "{rpc}, {what:?} {n}: {code:?} {text:?} instead of {wanted:?} ({peer:?})"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    daemon.assert_nothing_left();
}
