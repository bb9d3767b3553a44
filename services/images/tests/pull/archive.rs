//! Images in archives.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use gantry_core::collector::Collector;
use gantry_core::images::Puller;
use gantry_core::{Digest, Kind, labels, media_type};
use gantry_grpc::any;
use gantry_grpc::containerd::types::transfer as types;
use serde_json::{Value, json};

use crate::client::{any_name, platform, store};
use crate::image::{Blob, Compression, Entry, Image, index, noise};
use crate::world::{World, eventually};

const NAME: &str = "example.org/app:1";

fn image(architecture: &str, seed: u64) -> Image {
    let tars: Vec<Vec<u8>> = (0..2)
        .map(|i| crate::image::tar(&[Entry::File("f", noise(seed + i, 200 << 10))]))
        .collect();
    Image::of_tars(Compression::Gzip, architecture, &tars)
}

/// An archive of these files, in this order; a text that begins with `->` is a link.
fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        if let Some(to) = bytes.strip_prefix(b"->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            let to = std::str::from_utf8(to).unwrap();
            archive.append_link(&mut header, path, to).unwrap();
        } else {
            header.set_size(bytes.len() as u64);
            // Paths as they are, also those that the builder would refuse.
            let name = &mut header.as_gnu_mut().unwrap().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, &bytes[..]).unwrap();
        }
    }
    archive.into_inner().unwrap()
}

fn blob_file(blob: &Blob) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", blob.digest().hex()), blob.bytes.clone())
}

fn text(name: &str, text: &Value) -> (String, Vec<u8>) {
    (name.to_owned(), text.to_string().into_bytes())
}

/// An OCI layout with one entry.
fn layout<'a>(blobs: impl Iterator<Item = &'a Blob>, target: &Blob, name: &str) -> Vec<u8> {
    let mut entry = target.json();
    entry["annotations"] = json!({ "io.containerd.image.name": name });
    let mut files: Vec<_> = blobs.map(blob_file).collect();
    files.push(text("index.json", &json!({ "schemaVersion": 2, "manifests": [entry] })));
    files.push(text("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" })));
    archive(&files)
}

/// Files of an archive.
fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.header().entry_type().is_file());
    files
        .map(|mut entry| {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
        })
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn assert_nothing_stays(world: &World) {
    assert_eq!(world.records().await, Vec::<String>::new());
    assert_eq!(world.ingests().await, Vec::<String>::new());
    assert_eq!(world.lease_count().await, 0);
    world.collector.collect().await.unwrap();
    assert_eq!(world.files().await.0, 0, "no blob stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_however_it_is_compressed() {
    let image = image("amd64", 1);
    let plain = layout(image.blobs(), &image.manifest, NAME);
    for bytes in [gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap(), plain.clone()] {
        let world = World::new().await;
        world.import(bytes, &store("")).await.unwrap();
        assert_eq!(world.records().await, [NAME]);
        // All is kept by the record, nothing by a lease.
        assert_eq!(world.lease_count().await, 0);
        world.collector.collect().await.unwrap();
        let record = world.images.get(&world.ctx, NAME).await.unwrap();
        let unpacked = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
        assert_eq!(unpacked.chain_id, Some(image.chain()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_made_as_is_asked() {
    let image = image("amd64", 1);
    let world = World::new().await;
    let bytes = layout(image.blobs(), &image.manifest, NAME);
    let mut to = store("whole");
    to.labels.insert("k".into(), "v".into());
    to.extra_references = vec![any_name("import")];
    to.extra_references[0].add_digest = true;
    world.import(bytes.clone(), &to).await.unwrap();
    let by_digest = format!("import@{}", image.manifest.digest());
    assert_eq!(world.records().await, [NAME, &by_digest, "whole"]);
    let record = world.images.get(&world.ctx, NAME).await.unwrap();
    assert_eq!(record.labels["k"], "v");
    let whole = world.images.get(&world.ctx, "whole").await.unwrap();
    assert_eq!(whole.target.media_type, media_type::OCI_INDEX);

    let other = World::new().await;
    let mut narrow = any_name("elsewhere.org");
    narrow.allow_overwrite = false;
    let to = types::ImageStore { extra_references: vec![narrow], ..store("") };
    let err = other.import(bytes, &to).await.unwrap_err();
    assert_eq!(err.to_string(), "no image name found: not found");
    assert_nothing_stays(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_of_an_index_are_selected() {
    let (amd64, arm64) = (image("amd64", 1), image("arm64", 7));
    let index = index(&[(&amd64, Some("amd64")), (&arm64, Some("arm64"))]);
    let bytes = layout(amd64.blobs().chain([&index]), &index, NAME);
    let world = World::new().await;
    let err = world.import(bytes.clone(), &store("")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound, "{err}");
    assert!(err.to_string().contains(arm64.manifest.digest().as_str()), "{err}");
    assert_nothing_stays(&world).await;
    let one = types::ImageStore { platforms: vec![platform("amd64")], ..store("") };
    world.import(bytes, &one).await.unwrap();
    let record = world.images.get(&world.ctx, NAME).await.unwrap();
    assert_eq!(record.target.digest, index.digest());
    world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
}

/// Files by their paths, in order.
type Files = Vec<(String, Vec<u8>)>;

/// What `docker save` wrote before it wrote layouts.
fn saved(legacy: bool) -> (Files, Vec<Vec<u8>>) {
    let tars: Vec<Vec<u8>> =
        (0..2).map(|i| crate::image::tar(&[Entry::File("f", vec![i as u8; 100 << 10])])).collect();
    let image = Image::of_tars(Compression::Plain, "amd64", &tars);
    let config = format!("{}.json", image.config.digest().hex());
    let mut files = vec![(config.clone(), image.config.bytes.clone())];
    let layers = match legacy {
        true => {
            files.push(("one/VERSION".into(), b"1.0".to_vec()));
            files.push(("one/layer.tar".into(), tars[0].clone()));
            files.push(("two/layer.tar".into(), tars[1].clone()));
            files.push(("three/layer.tar".into(), b"->../one/layer.tar".to_vec()));
            ["three/layer.tar".to_owned(), "two/layer.tar".to_owned()]
        }
        false => {
            files.extend(image.layers.iter().map(blob_file));
            [0, 1].map(|i: usize| blob_file(&image.layers[i]).0)
        }
    };
    let manifest =
        json!([{ "Config": config, "RepoTags": ["app:1", "x.org/b:2"], "Layers": layers }]);
    files.push(text("manifest.json", &manifest));
    (files, tars)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_saves() {
    for legacy in [true, false] {
        let (files, tars) = saved(legacy);
        let world = World::new().await;
        let to = types::ImageStore { extra_references: vec![any_name("import")], ..store("") };
        world.import(archive(&files), &to).await.unwrap();
        let names = ["docker.io/library/app:1", "x.org/b:2"];
        assert_eq!(world.records().await, names);
        let record = world.images.get(&world.ctx, names[0]).await.unwrap();
        assert_eq!(record.target.media_type, media_type::DOCKER_MANIFEST);
        world.collector.collect().await.unwrap();
        let unpacked = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
        let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
        assert_eq!(unpacked.chain_id, gantry_core::chain_id(&diff_ids).pop());
        assert_eq!(world.labels(&diff_ids[0]).await[labels::UNCOMPRESSED], diff_ids[0].as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_compressed_when_that_is_asked_for() {
    let (files, tars) = saved(true);
    let world = World::new().await;
    let how = types::ImageImportStream { force_compress: true, ..Default::default() };
    world.import_as(archive(&files), &store(""), how).await.unwrap();
    world.collector.collect().await.unwrap();
    for tar in &tars {
        let plain = world.content.info(&world.ctx, &Digest::of(tar)).await.unwrap_err();
        assert_eq!(plain.kind(), Kind::NotFound);
    }
    let record = world.images.get(&world.ctx, "x.org/b:2").await.unwrap();
    let unpacked = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
    assert!(unpacked.size < 20 << 10, "{} bytes", unpacked.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_lie_leave_nothing() {
    let image = image("amd64", 1);
    let digest = image.layers[0].digest();
    let layer = format!("blobs/sha256/{}", digest.hex());
    let good = files(&layout(image.blobs(), &image.manifest, NAME));
    let with = |path: &str, bytes: Option<&[u8]>| {
        let mut changed = good.clone();
        changed.remove(path);
        changed.extend(bytes.map(|bytes| (path.to_owned(), bytes.to_vec())));
        archive(&changed.into_iter().collect::<Vec<_>>())
    };
    let whole = archive(&good.clone().into_iter().collect::<Vec<_>>());
    let find = |bytes: &[u8]| whole.windows(64).position(|window| *window == bytes[..64]).unwrap();
    let (in_blob, in_document) = (find(&image.layers[0].bytes), find(&good["index.json"]));
    let (mut docker, _) = saved(true);
    docker.retain(|(path, _)| path != "one/layer.tar");
    let huge = vec![b' '; 9 << 20];
    let mut long_name = tar::Header::new_gnu();
    long_name.set_entry_type(tar::EntryType::GNULongName);
    long_name.set_size(huge.len() as u64);
    long_name.set_cksum();
    let long_name = [long_name.as_bytes().as_slice(), &huge].concat();
    let mut links = tar::Builder::new(Vec::new());
    for i in 0..3000 {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        let path = format!("{i}/{}", "x/".repeat(1500));
        links.append_link(&mut header, path, "y/".repeat(1500)).unwrap();
    }
    let table: [(Vec<u8>, Kind, &str); 15] = [
        (links.into_inner().unwrap(), Kind::ResourceExhausted, "names"),
        (long_name, Kind::ResourceExhausted, "too long"),
        (with(&layer, Some(b"other bytes")), Kind::DataLoss, "holds sha256"),
        (with(&layer, None), Kind::NotFound, digest.as_str()),
        (with("index.json", None), Kind::InvalidArgument, "no index.json"),
        (with("index.json", Some(b"{")), Kind::InvalidArgument, "malformed"),
        (with("index.json", Some(&huge)), Kind::ResourceExhausted, "longer"),
        (with("oci-layout", Some(b"{\"imageLayoutVersion\": \"2\"}")), Kind::Unimplemented, "2"),
        (with("../out", Some(b"x")), Kind::InvalidArgument, "../out"),
        (archive(&docker), Kind::InvalidArgument, "three/layer.tar"),
        (whole[..whole.len() / 2].to_vec(), Kind::InvalidArgument, "archive"),
        (whole[..in_blob + 1000].to_vec(), Kind::InvalidArgument, "ends early"),
        (whole[..in_document + 10].to_vec(), Kind::InvalidArgument, "ends early"),
        (b"nothing of the kind".repeat(100), Kind::InvalidArgument, "archive"),
        (Vec::new(), Kind::InvalidArgument, "empty"),
    ];
    for (i, (bytes, kind, words)) in table.into_iter().enumerate() {
        let world = World::new().await;
        let err = world.import(bytes, &store("")).await.unwrap_err();
        assert_eq!(err.kind(), kind, "{i}: {err}");
        assert!(err.to_string().contains(words), "{i}: {err}");
        assert_nothing_stays(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_can_be_imported() {
    let (amd64, arm64) = (image("amd64", 1), image("arm64", 7));
    let index = index(&[(&amd64, Some("amd64")), (&arm64, Some("arm64"))]);
    let world = World::new().await;
    for blob in amd64.blobs().chain(arm64.blobs()).chain([&index]) {
        world.store(blob).await;
    }
    world.name("docker.io/library/app:1", index.descriptor()).await;
    let all = types::ImageExportStream { all_platforms: true, ..Default::default() };
    let exported = world.export(&store("docker.io/library/app:1"), all).await.unwrap();
    let found = files(&exported);
    let own: Vec<&str> =
        found.keys().filter(|path| !path.starts_with("blobs/")).map(String::as_str).collect();
    assert_eq!(own, ["index.json", "manifest.json", "oci-layout"]);
    assert_eq!(found.len(), 3 + 9);
    let listed: Value = serde_json::from_slice(&found["index.json"]).unwrap();
    let entry = &listed["manifests"][0];
    assert_eq!(entry["digest"], index.digest().as_str());
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/library/app:1");
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1");
    let saved: Value = serde_json::from_slice(&found["manifest.json"]).unwrap();
    assert_eq!(saved[0]["RepoTags"], json!(["app:1"]));
    let host = if gantry_core::architecture() == "arm64" { &arm64 } else { &amd64 };
    assert_eq!(saved[0]["Config"], blob_file(&host.config).0);

    let other = World::new().await;
    other.import(exported, &store("")).await.unwrap();
    let record = other.images.get(&other.ctx, "docker.io/library/app:1").await.unwrap();
    assert_eq!(record.target.digest, index.digest());

    // One platform; the index is sent as it is.
    let how = types::ImageExportStream {
        platforms: vec![platform("arm64")],
        skip_compatibility_manifest: true,
        ..Default::default()
    };
    let found = files(&world.export(&store("docker.io/library/app:1"), how).await.unwrap());
    assert!(!found.contains_key("manifest.json"));
    assert!(found.contains_key(&blob_file(&arm64.layers[0]).0));
    assert!(!found.contains_key(&blob_file(&amd64.layers[0]).0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_not_exported() {
    let image = image("amd64", 1);
    let world = World::new().await;
    for blob in image.blobs().skip(1) {
        world.store(blob).await;
    }
    world.name("a", image.manifest.descriptor()).await;
    let err = world.export(&store("a"), Default::default()).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
    assert!(err.to_string().contains(image.layers[0].digest().as_str()), "{err}");
    let err = world.export(&store("b"), Default::default()).await.unwrap_err();
    assert_eq!(err.to_string(), "image \"b\": not found");
    let err = world.export(&store(""), Default::default()).await.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_are_left_out_when_that_is_asked_for() {
    let mut image = image("amd64", 1);
    image.layers[0].media_type = media_type::DOCKER_FOREIGN_LAYER;
    let image = Image::of_layers("amd64", image.layers, image.diff_ids);
    let world = World::new().await;
    for blob in image.blobs() {
        world.store(blob).await;
    }
    world.name("a", image.manifest.descriptor()).await;
    for skip in [false, true] {
        let how = types::ImageExportStream { skip_non_distributable: skip, ..Default::default() };
        let found = files(&world.export(&store("a"), how).await.unwrap());
        assert_eq!(found.contains_key(&blob_file(&image.layers[0]).0), !skip);
        assert!(found.contains_key(&blob_file(&image.layers[1]).0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_the_platform_is_left_out() {
    let (amd64, arm64) = (image("amd64", 1), image("arm64", 7));
    let other = index(&[(&arm64, Some("arm64"))]);
    let mut entries = [other.json(), amd64.manifest.json()];
    for (entry, name) in entries.iter_mut().zip(["x.org/other:1", NAME]) {
        entry["annotations"] = json!({ "io.containerd.image.name": name });
    }
    let all = amd64.blobs().chain(arm64.blobs()).chain([&other]);
    let mut files: Vec<_> = all.map(blob_file).collect();
    files.push(text("index.json", &json!({ "schemaVersion": 2, "manifests": entries })));
    files.push(text("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" })));
    let one = types::ImageStore { platforms: vec![platform("amd64")], ..store("") };
    let world = World::new().await;
    world.import(archive(&files), &one).await.unwrap();
    assert_eq!(world.records().await, [NAME]);

    let world = World::new().await;
    let bytes = layout(arm64.blobs().chain([&other]), &other, NAME);
    let err = world.import(bytes, &one).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound, "{err}");
    assert_nothing_stays(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_unpacked_gets_no_name() {
    let image = image(gantry_core::architecture(), 1);
    let world = World::new().await;
    let unpack = types::UnpackConfiguration { snapshotter: "nope".into(), platform: None };
    let to = types::ImageStore { unpacks: vec![unpack], ..store("") };
    let bytes = layout(image.blobs(), &image.manifest, NAME);
    let err = world.import(bytes, &to).await.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument, "{err}");
    assert_nothing_stays(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_given_up_holds_nothing() {
    let world = World::new().await;
    let (stream, _end) = world.stream();
    let from = types::ImageImportStream { stream, ..Default::default() };
    let (from, to) = (any::pack(&from), any::pack(&store("")));
    let leases = |count: usize| {
        let world = &world;
        async move { world.lease_count().await == count }
    };
    tokio::select! {
        done = world.transfer.transfer(&world.ctx, &from, &to, "") => panic!("{done:?}"),
        () = eventually("a lease", || leases(1)) => {}
    }
    eventually("no lease", || leases(0)).await;
}
