//! How fast a large layer is unpacked; run by hand on an idle machine.

use std::time::Instant;

use bytes::Bytes;
use gantry_core::Applier;

use super::Fixture;
use crate::LayerApplier;

/// `GANTRY_LAYER=layer.tar.gz cargo test --release -p gantry-diff -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures; needs a layer in GANTRY_LAYER"]
async fn a_large_layer() {
    let path = std::env::var("GANTRY_LAYER").unwrap();
    let layer = Bytes::from(std::fs::read(path).unwrap());
    let f = Fixture::new();
    let pieces: Vec<_> = (0..layer.len())
        .step_by(1 << 20)
        .map(|at| Ok(layer.slice(at..layer.len().min(at + (1 << 20)))))
        .collect();
    let start = Instant::now();
    let stream = Box::pin(futures::stream::iter(pieces));
    let applied = LayerApplier::default().apply(stream, "layer", &f.bind()).await.unwrap();
    let unpacked = start.elapsed();
    let start = Instant::now();
    rustix::fs::syncfs(std::fs::File::open(f.root()).unwrap()).unwrap();
    let text = format!(
        "{} MiB in {unpacked:.2?}, to the disk in {:.2?} more\n",
        applied.size >> 20,
        start.elapsed()
    );
    std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).unwrap();
}
