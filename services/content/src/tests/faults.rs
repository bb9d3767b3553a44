//! Full disks, lost files and crashes.

use std::fs;
use std::path::Path;

use gantry_core::content::Info;
use gantry_core::db::{Durability, write_blocking};
use gantry_core::{Timestamp, labels};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;

/// A file system of its own that fills up soon.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes},mode=0700");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(self.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_accepted() {
    let disk = SmallDisk::new(4 << 20);
    let host = Host::open(tempfile::tempdir().unwrap(), Some(disk.path().into()));
    let ctx = context("a");
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    let piece = Bytes::from(vec![7u8; 400 << 10]);
    let mut accepted = 0;
    let err = loop {
        match writer.write(piece.clone()).await {
            Ok(()) => accepted += piece.len() as u64,
            Err(err) => break err,
        }
        // Some of it is still in memory.
        assert!(accepted <= 6 << 20);
    };
    assert_eq!(err.kind(), Kind::ResourceExhausted, "{err}");
    assert_eq!(writer.status().offset, accepted);
    let before = Digest::of(&vec![7u8; accepted as usize]);
    assert_eq!(writer.digest(), before);
    // Room again: everything that was accepted becomes the blob.
    let bigger = Some("size=32m");
    let (none, flags) = (None::<&str>, MsFlags::MS_REMOUNT);
    mount(none, disk.path(), none, flags, bigger).unwrap();
    writer.write(Bytes::from_static(b"end")).await.unwrap();
    let digest = writer.commit(Some(accepted + 3), None, Labels::new()).await.unwrap();
    let content = host.get(&ctx, &digest).await;
    assert_eq!(content.len() as u64, accepted + 3);
    assert!(content.ends_with(b"\x07end"));
    drop((writer, host));
}

#[tokio::test]
async fn a_lost_file_is_told_and_healed_by_writing_it_again() {
    let host = Host::new();
    let ctx = context("a");
    let digest = host.put(&ctx, b"content").await;
    fs::remove_file(host.blob(&digest)).unwrap();
    let err = host.store.read(&ctx, &digest, 0, None).await.err().unwrap();
    assert_eq!(err.kind(), Kind::DataLoss);
    assert_eq!(host.kind_of_info(&ctx, &digest).await, Some(Kind::NotFound));
    let mut writer = host.store.writer(&ctx, "r", 0, Some(&digest)).await.unwrap();
    writer.write(Bytes::from_static(b"content")).await.unwrap();
    writer.commit(None, None, Labels::new()).await.unwrap();
    assert_eq!(host.get(&ctx, &digest).await, b"content");
}

#[tokio::test]
async fn a_shortened_file_is_told() {
    let host = Host::new();
    let ctx = context("a");
    let digest = host.put(&ctx, b"content").await;
    fs::write(host.blob(&digest), b"cont").unwrap();
    let err = host.store.read(&ctx, &digest, 0, None).await.err().unwrap();
    assert_eq!(err.kind(), Kind::DataLoss);
    assert!(err.to_string().contains("4 of 7 bytes"), "{err}");
    // It is written again, also without its length being known, and keeps its labels.
    let own = Labels::from([("mine".to_owned(), "x".to_owned())]);
    host.store.update(&ctx, &digest, own.clone(), LabelMask::All).await.unwrap();
    assert_eq!(host.kind_of_info(&ctx, &digest).await, Some(Kind::NotFound));
    let mut writer = host.store.writer(&ctx, "r", 0, Some(&digest)).await.unwrap();
    assert_eq!(writer.status().offset, 0);
    writer.write(Bytes::from_static(b"content")).await.unwrap();
    writer.commit(None, None, Labels::new()).await.unwrap();
    assert_eq!(host.get(&ctx, &digest).await, b"content");
    assert_eq!(host.store.info(&ctx, &digest).await.unwrap().labels, own);
}

#[tokio::test]
async fn deleting_while_reading_lets_the_reader_finish() {
    let host = Host::new();
    let ctx = context("a");
    let big = vec![1u8; 3 << 20];
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    writer.write(big.clone().into()).await.unwrap();
    let digest = writer.commit(None, None, Labels::new()).await.unwrap();
    let mut pieces = host.store.read(&ctx, &digest, 0, None).await.unwrap();
    let mut read = pieces.try_next().await.unwrap().unwrap().to_vec();
    host.store.delete(&ctx, &digest).await.unwrap();
    while let Some(piece) = pieces.try_next().await.unwrap() {
        assert!(piece.len() <= 1 << 20);
        read.extend_from_slice(&piece);
    }
    assert!(read == big);
}

#[tokio::test]
async fn opening_sweeps_what_a_crash_left() {
    let host = Host::new();
    let ctx = context("a");
    let kept = host.put(&ctx, b"kept").await;
    let stray = host.blob(&Digest::of(b"stray"));
    // Renamed, but not recorded.
    fs::write(&stray, b"stray").unwrap();
    fs::write(stray.with_file_name("no digest"), b"").unwrap();
    // An ingest whose status did not reach the disk, and one that lost its data to a blob.
    let ingests = host.store.shared_for_tests().layout.ingests().to_owned();
    let torn = ingests.join("torn");
    fs::create_dir(&torn).unwrap();
    fs::write(torn.join("status.json"), b"{\"names").unwrap();
    let mut writer = host.store.writer(&ctx, "committed", 0, None).await.unwrap();
    writer.write(Bytes::from_static(b"y")).await.unwrap();
    drop(writer);
    let committed = fs::read_dir(&ingests).unwrap().map(|e| e.unwrap().path());
    let committed = committed.filter(|path| *path != torn).max().unwrap();
    fs::remove_file(committed.join("data")).unwrap();

    let host = host.reopen();
    assert!(!stray.exists());
    assert_eq!(fs::read_dir(stray.parent().unwrap()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&ingests).unwrap().count(), 0);
    assert_eq!(host.get(&ctx, &kept).await, b"kept");
}

/// A record that can't be written puts the bytes back into the ingest.
#[tokio::test]
async fn a_failed_record_leaves_the_ingest() {
    let host = Host::new();
    let ctx = context("a");
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    let long = [("a".to_owned(), "x".repeat(5000))].into();
    assert!(labels::validate_all(&long).is_err());
    let err = writer.commit(None, None, long).await.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument);
    let leased = ctx.clone().with_lease("l");
    let leases = LeaseService::new(host.db.clone());
    leases.create(&ctx, Some("l"), Labels::new()).await.unwrap();
    drop(writer);
    let mut writer = host.store.writer(&leased, "r", 0, None).await.unwrap();
    leases.delete(&ctx, "l").await.unwrap();
    let err = writer.commit(None, None, Labels::new()).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
    assert_eq!(host.store.status(&ctx, "r").await.unwrap().offset, 1);
    assert!(!host.blob(&Digest::of(b"x")).exists());
    // The same writer goes on.
    writer.write(Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(writer.digest(), Digest::of(b"xy"));
}

/// A caller that gives up in the middle of a write leaves an ingest that
/// the next writer can go on with.
#[tokio::test]
async fn a_write_that_is_given_up_lets_the_reference_go() {
    let host = Host::new();
    let ctx = context("a");
    let mut writer = host.store.writer(&ctx, "r", 0, None).await.unwrap();
    // Polled once: the bytes are on their way on another thread.
    assert!(writer.write(vec![0; 8 << 20].into()).now_or_never().is_none());
    drop(writer);
    let writer = loop {
        match host.store.writer(&ctx, "r", 0, None).await {
            Ok(writer) => break writer,
            Err(err) => assert_eq!(err.kind(), Kind::Unavailable),
        }
    };
    assert_eq!(writer.status().offset, 8 << 20);
}

#[tokio::test]
async fn a_damaged_record_does_not_hide_others() {
    let host = Host::new();
    let ctx = context("a");
    let digest = host.put(&ctx, b"x").await;
    let other = Digest::of(b"other");
    write_blocking(&*host.db, Durability::Sync, &mut |tx| {
        tx.put(BLOBS.name(), "b", other.as_str(), b"no json")?;
        let info = Info {
            digest: other.clone(),
            size: 5,
            created_at: Timestamp::now(),
            updated_at: Timestamp::now(),
            labels: Labels::new(),
        };
        BLOBS.put(tx, "c", other.as_str(), &info)
    })
    .unwrap();
    let err = host.store.info(&context("b"), &other).await.unwrap_err();
    assert_eq!(err.kind(), Kind::DataLoss);
    assert_eq!(host.kind_of_info(&context("c"), &other).await, Some(Kind::NotFound));
    assert_eq!(host.get(&ctx, &digest).await, b"x");
}
