//! Against Debian's docker-registry, filled by skopeo.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gantry_core::images::{LayerPhase, Progress, Puller};
use gantry_core::{Digest, Kind, Platform, labels, media_type};
use gantry_grpc::containerd::types::transfer as types;
use tempfile::TempDir;

use crate::client::{any_name, registry, store};
use crate::image::{Compression, Entry, Image, index, noise, write_layout};
use crate::world::{Reports, World, request};

/// A registry of one's own.
struct Registry {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{free}\n",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        let registry = Self { child, port: free, dir };
        let end = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", free)).is_err() {
            assert!(Instant::now() < end, "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn reference(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.port)
    }

    /// Copies the tag `latest` of an OCI layout here.
    fn push(&self, layout: &Path, name: &str, options: &[&str]) -> String {
        let reference = self.reference(name);
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .args(options)
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://{reference}"))
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        reference
    }

    /// Lines of the access log that have this in them.
    fn log(&self, part: &str) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        log.lines().filter(|line| line.contains(part) && line.contains("HTTP/1.1\"")).count()
    }
}

fn push_image(registry: &Registry, image: &Image, name: &str, options: &[&str]) -> String {
    let layout = tempfile::tempdir().unwrap();
    image.write_layout(layout.path());
    registry.push(layout.path(), name, options)
}

/// Three layers, of which the second replaces and deletes.
fn three_layers(compression: Compression) -> Image {
    Image::new(
        compression,
        &[
            vec![
                Entry::Dir("etc"),
                Entry::File("etc/a", b"1".to_vec()),
                Entry::File("etc/gone", b"1".to_vec()),
            ],
            vec![
                Entry::Dir("etc"),
                Entry::File("etc/a", b"2".to_vec()),
                Entry::Whiteout("etc/gone"),
            ],
            vec![Entry::File("big", noise(3, 3 << 20))],
        ],
    )
}

/// A file as the stack of directories shows it.
fn read(dirs: &[std::path::PathBuf], path: &str) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileTypeExt;
    for dir in dirs {
        match std::fs::symlink_metadata(dir.join(path)) {
            Ok(found) if found.file_type().is_char_device() => return None,
            Ok(_) => return Some(std::fs::read(dir.join(path)).unwrap()),
            Err(_) => {}
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_and_again() {
    let registry = Registry::start();
    let image = three_layers(Compression::Gzip);
    let reference = push_image(&registry, &image, "team/app:v1", &[]);
    let world = World::new().await;
    let reports = Reports::default();
    let record = world.pull_with(request(&reference), &reports).await.unwrap();

    assert_eq!(record.name, reference);
    assert_eq!(record.target, image.manifest.descriptor());
    assert_eq!(world.images.get(&world.ctx, &reference).await.unwrap(), record);
    assert_eq!(world.lease_count().await, 0);
    assert_eq!(world.ingests().await, Vec::<String>::new());

    let dirs = world.directories(image.chain().as_str()).await;
    assert_eq!(dirs.len(), 3);
    assert_eq!(read(&dirs, "etc/a").unwrap(), b"2");
    assert_eq!(read(&dirs, "etc/gone"), None);
    assert_eq!(read(&dirs, "big").unwrap(), noise(3, 3 << 20));
    assert_eq!(world.snapshots("overlayfs").await.len(), 3);
    check_labels(&world, &image).await;
    check_reports(&reports, &image, false);

    let before = registry.log("/blobs/");
    let reports = Reports::default();
    let again = world.pull_with(request(&reference), &reports).await.unwrap();
    assert_eq!(again, record);
    assert_eq!(registry.log("/blobs/"), before, "nothing is fetched twice");
    check_reports(&reports, &image, true);

    let began = Instant::now();
    let unpacked = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(100));
    assert_eq!(unpacked.chain_id, Some(image.chain()));
    assert_eq!(unpacked.config_digest, image.config.digest());
    assert_eq!(*unpacked.config, image.config.bytes);
    let size: usize = image.blobs().map(|blob| blob.bytes.len()).sum();
    assert_eq!(unpacked.size, size as u64);
}

async fn check_labels(world: &World, image: &Image) {
    let source = "containerd.io/distribution.source.localhost";
    let manifest = world.labels(&image.manifest.digest()).await;
    assert_eq!(manifest[source], "team/app");
    assert_eq!(manifest["containerd.io/gc.ref.content.config"], image.config.digest().as_str());
    for (i, layer) in image.layers.iter().enumerate() {
        let key = format!("containerd.io/gc.ref.content.l.{i}");
        assert_eq!(manifest[&key], layer.digest().as_str());
        let own = world.labels(&layer.digest()).await;
        assert_eq!(own[labels::UNCOMPRESSED], image.diff_ids[i].as_str());
        assert_eq!(own[source], "team/app");
    }
    let config = world.labels(&image.config.digest()).await;
    assert_eq!(config["containerd.io/gc.ref.snapshot.overlayfs"], image.chain().as_str());
    assert_eq!(config[source], "team/app");
}

fn check_reports(reports: &Reports, image: &Image, again: bool) {
    let all = reports.all();
    assert!(matches!(&all[0], Progress::Resolved { target, .. }
        if *target == image.manifest.descriptor()));
    assert!(
        matches!(all.last().unwrap(), Progress::Done { up_to_date, .. } if *up_to_date == again)
    );
    for blob in &image.layers {
        let of_layer: Vec<(LayerPhase, u64)> = all
            .iter()
            .filter_map(|p| match p {
                Progress::Layer { digest, phase, done, .. } if *digest == blob.digest() => {
                    Some((*phase, *done))
                }
                _ => None,
            })
            .collect();
        let last = if again { LayerPhase::Exists } else { LayerPhase::Complete };
        assert_eq!(of_layer.first().unwrap().0, LayerPhase::Waiting);
        assert_eq!(*of_layer.last().unwrap(), (last, blob.bytes.len() as u64));
        let began = of_layer.iter().any(|(phase, _)| *phase == LayerPhase::Downloading);
        assert_eq!(began, !again);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_for_this_machine_and_for_another() {
    let registry = Registry::start();
    let arm =
        Image::of_tars(Compression::Gzip, "arm64", &[crate::image::tar(&[Entry::Dir("arm")])]);
    let amd = three_layers(Compression::Plain);
    let both = index(&[(&arm, None), (&arm, Some("arm64")), (&amd, Some("amd64"))]);
    let layout = tempfile::tempdir().unwrap();
    write_layout(layout.path(), arm.blobs().chain(amd.blobs()), &both);
    let reference = registry.push(layout.path(), "multi", &["--all", "--preserve-digests"]);

    let world = World::new().await;
    let record = world.pull(&reference).await.unwrap();
    assert_eq!(record.name, format!("{reference}:latest"));
    assert_eq!(record.target, both.descriptor());
    assert_eq!(world.snapshots("overlayfs").await.len(), 3);
    let labels = world.labels(&both.digest()).await;
    assert_eq!(labels["containerd.io/gc.ref.content.m.2"], amd.manifest.digest().as_str());
    assert!(world.content.info(&world.ctx, &arm.manifest.digest()).await.is_err());

    // For another platform, in a namespace that has nothing else.
    let other = gantry_core::Context::new(gantry_core::Namespace::new("other").unwrap());
    let platform =
        Platform { architecture: "arm64".into(), os: "linux".into(), ..Default::default() };
    let wanted =
        gantry_core::images::PullRequest { platform: Some(platform), ..request(&reference) };
    let sink = Reports::default().sink();
    let record = world.puller.pull(&other, wanted, sink).await.unwrap();
    let unpacked = world.puller.unpack(&other, &record, "", None).await.unwrap();
    assert_eq!(unpacked.config_digest, arm.config.digest());

    let riscv =
        Platform { architecture: "riscv64".into(), os: "linux".into(), ..Default::default() };
    let wanted = gantry_core::images::PullRequest { platform: Some(riscv), ..request(&reference) };
    let err = world.pull_with(wanted, &Reports::default()).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
    assert!(err.to_string().contains("linux/arm64, linux/amd64"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_types_and_zstd() {
    let registry = Registry::start();
    let image = three_layers(Compression::Gzip);
    let docker = push_image(&registry, &image, "docker:1", &["--format", "v2s2"]);
    let zstd = push_image(&registry, &three_layers(Compression::Zstd), "zstd:1", &[]);
    let world = World::new().await;
    let record = world.pull(&docker).await.unwrap();
    assert_eq!(record.target.media_type, media_type::DOCKER_MANIFEST);
    let first = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
    assert_eq!(first.chain_id, Some(image.chain()));
    // The same files in other blobs are the same snapshots.
    let record = world.pull(&zstd).await.unwrap();
    let second = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
    assert_eq!(second.chain_id, first.chain_id);
    assert_ne!(second.manifest, first.manifest);
    assert_eq!(world.snapshots("overlayfs").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_digest() {
    let registry = Registry::start();
    let image = three_layers(Compression::Gzip);
    push_image(&registry, &image, "app:v1", &[]);
    let world = World::new().await;
    let digest = image.manifest.digest();
    let reference = registry.reference(&format!("app:ignored@{digest}"));
    let record = world.pull(&reference).await.unwrap();
    assert_eq!(record.name, registry.reference(&format!("app@{digest}")));

    let unknown = Digest::of(b"nothing");
    let err = world.pull(&registry.reference(&format!("app@{unknown}"))).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves() {
    let registry = Registry::start();
    let first = three_layers(Compression::Gzip);
    let reference = push_image(&registry, &first, "app:v1", &[]);
    let world = World::new().await;
    let before = world.pull(&reference).await.unwrap();
    let second = Image::new(Compression::Gzip, &[vec![Entry::File("new", b"x".to_vec())]]);
    push_image(&registry, &second, "app:v1", &[]);
    let reports = Reports::default();
    let after = world.pull_with(request(&reference), &reports).await.unwrap();
    assert_eq!(after.target, second.manifest.descriptor());
    assert_eq!(after.created_at, before.created_at);
    assert!(matches!(reports.all().last(), Some(Progress::Done { up_to_date: false, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_in_dockers_words() {
    let registry = Registry::start();
    let world = World::new().await;
    let reference = registry.reference("x:y");
    let err = world.pull(&reference).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
    assert_eq!(
        err.to_string(),
        format!("failed to resolve reference \"{reference}\": {reference}: not found")
    );
    world.assert_clean().await;
    assert_eq!(world.lease_count().await, 0);
}

/// Runs skopeo without a policy or certificates.
fn skopeo(from: &str, to: &str) {
    let output = Command::new("skopeo")
        .args(["copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"])
        .args([from, to])
        .output()
        .expect("skopeo is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_and_pulled_again() {
    let (from, to) = (Registry::start(), Registry::start());
    let image = three_layers(Compression::Zstd);
    let reference = push_image(&from, &image, "a/b:c", &[]);
    let world = World::new().await;
    world.pull(&reference).await.unwrap();
    let target = to.reference("d/e:f");
    world.move_images(&store(&reference), &registry(&target)).await.unwrap();
    assert_eq!(to.log("PUT /v2/d/e/blobs/uploads/"), 4);
    world.move_images(&store(&reference), &registry(&target)).await.unwrap();
    assert_eq!(to.log("PUT /v2/d/e/blobs/uploads/"), 4, "nothing is sent twice");
    world.move_images(&store(&reference), &registry(&to.reference("g:h"))).await.unwrap();
    assert_eq!(to.log("PUT /v2/g/blobs/uploads/"), 0, "blobs are taken over");
    let other = World::new().await;
    let pulled = other.pull(&to.reference("g:h")).await.unwrap();
    assert_eq!(pulled.target, image.manifest.descriptor());
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_skopeo_both_ways() {
    let image = three_layers(Compression::Gzip);
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    image.write_layout(&layout);
    let at = |name: &str| dir.path().join(name).display().to_string();
    let source = format!("oci:{}:latest", layout.display());
    for (kind, name) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        let world = World::new().await;
        skopeo(&source, &format!("{kind}:{}:example.org/app:1", at(name)));
        let bytes = std::fs::read(at(name)).unwrap();
        let to = types::ImageStore { extra_references: vec![any_name("import")], ..store("") };
        world.import(bytes, &to).await.unwrap();
        let name = &world.records().await[0];
        assert_eq!(name, "example.org/app:1");
        let record = world.images.get(&world.ctx, name).await.unwrap();
        let unpacked = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
        assert_eq!(unpacked.chain_id, Some(image.chain()));

        let exported = world.export(&store(name), Default::default()).await.unwrap();
        std::fs::write(at("ours.tar"), exported).unwrap();
        let back = dir.path().join(format!("back-{kind}"));
        skopeo(&format!("oci-archive:{}", at("ours.tar")), &format!("dir:{}", back.display()));
        if kind == "oci-archive" {
            skopeo(&format!("docker-archive:{}", at("ours.tar")), &format!("dir:{}", at("docker")));
        }
    }
}
