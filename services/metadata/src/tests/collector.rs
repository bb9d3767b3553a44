//! What marking costs; what it keeps is tested beside the graph and over real pulls.

use std::time::Instant;

use gantry_core::Timestamp;

use super::*;
use crate::collector::Graph;

/// `cargo test … -- --ignored --nocapture cost_of_marking`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "its result")]
fn cost_of_marking() {
    let host = Host::new();
    let digest = |n: u64| format!("sha256:{n:064x}");
    let images = 5_000;
    for image in 0..images {
        host.db
            .transact(Durability::Buffered, &mut |tx| {
                let first = image * 10;
                let mut put = |table: &str, key: &str, value: String| {
                    tx.put(table, "default", key, value.as_bytes())
                };
                let name = format!("registry.example/team/image:{image}");
                put("images", &name, format!(r#"{{"name":"{name}","labels":{{}},"target":{{"media_type":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":1}}}}"#, digest(first)))?;
                let refs: Vec<String> = (1..6)
                    .map(|n| format!(r#""containerd.io/gc.ref.content.l.{n}":"{}""#, digest(first + n)))
                    .collect();
                let blob = |n: u64, labels: &str| {
                    format!(r#"{{"digest":"{}","size":1,"created_at":{{"seconds":1,"nanos":1}},"updated_at":{{"seconds":1,"nanos":1}},"labels":{{{labels}}}}}"#, digest(n))
                };
                put("blobs", &digest(first), blob(first, &refs.join(",")))?;
                for n in 1..6 {
                    put("blobs", &digest(first + n), blob(first + n, r#""containerd.io/distribution.source.registry.example":"team/image""#))?;
                }
                for n in 0..4 {
                    let key = format!("overlayfs\x01{}", digest(first + n));
                    let parent = if n == 0 { "null".into() } else { format!("{:?}", digest(first + n - 1)) };
                    put("snapshots", &key, format!(r#"{{"info":{{"kind":"committed","name":"x","parent":{parent},"labels":{{}}}},"number":1,"below":[1,2,3]}}"#))?;
                }
                Ok(())
            })
            .unwrap();
    }
    for _ in 0..3 {
        let begin = Instant::now();
        let mut graph = Graph::read(&*host.db, "default", Timestamp::now()).unwrap();
        let read = begin.elapsed();
        graph.mark();
        let garbage = graph.garbage().len();
        println!(
            "{} objects: read {read:?}, all {:?}, {garbage} unreferenced",
            graph.len(),
            begin.elapsed()
        );
    }
}
