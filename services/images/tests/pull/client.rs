//! A client of the transfer service: requests, and its ends of streams.

use std::sync::atomic::{AtomicU32, Ordering};

use gantry_core::Result;
use gantry_grpc::any;
use gantry_grpc::containerd::types as common;
use gantry_grpc::containerd::types::transfer as types;
use gantry_images::{Answers, ClientEnd};

use crate::world::World;

/// Bytes that a client sends at a time.
const PIECE: usize = 32 << 10;

pub(crate) fn store(name: &str) -> types::ImageStore {
    types::ImageStore { name: name.into(), ..Default::default() }
}

pub(crate) fn registry(reference: &str) -> types::OciRegistry {
    types::OciRegistry { reference: reference.into(), resolver: None }
}

pub(crate) fn platform(architecture: &str) -> common::Platform {
    common::Platform { os: "linux".into(), architecture: architecture.into(), ..Default::default() }
}

/// A prefix that takes whatever an archive says.
pub(crate) fn any_name(prefix: &str) -> types::ImageReference {
    types::ImageReference {
        name: prefix.into(),
        is_prefix: true,
        allow_overwrite: true,
        ..Default::default()
    }
}

impl World {
    /// Opens a stream of a new name.
    pub(crate) fn stream(&self) -> (String, ClientEnd) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("stream-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let end = self.streams.open(&self.ctx, &id).expect("a stream");
        (id, end)
    }

    pub(crate) async fn move_images<A, B>(&self, from: &A, to: &B) -> Result<Vec<types::Progress>>
    where
        A: prost::Name,
        B: prost::Name,
    {
        let (id, mut end) = self.stream();
        let (from, to) = (any::pack(from), any::pack(to));
        let listening = async {
            let mut heard = Vec::new();
            while let Some(message) = end.from.next().await {
                heard.push(any::unpack::<types::Progress>(&message).expect("progress"));
            }
            heard
        };
        let transfer = self.transfer.transfer(&self.ctx, &from, &to, &id);
        let (done, heard) = futures::future::join(transfer, listening).await;
        done.map(|()| heard)
    }

    /// Imports an archive as a client does that respects the window.
    pub(crate) async fn import(&self, archive: Vec<u8>, to: &types::ImageStore) -> Result<()> {
        self.import_as(archive, to, types::ImageImportStream::default()).await
    }

    pub(crate) async fn import_as(
        &self,
        archive: Vec<u8>,
        to: &types::ImageStore,
        how: types::ImageImportStream,
    ) -> Result<()> {
        let (stream, end) = self.stream();
        let sending = tokio::spawn(send(end, archive));
        let from = types::ImageImportStream { stream, ..how };
        let done = self.move_images(&from, to).await;
        sending.await.expect("the sender does not panic");
        done.map(drop)
    }

    /// Exports, and gives the archive.
    pub(crate) async fn export(
        &self,
        from: &types::ImageStore,
        how: types::ImageExportStream,
    ) -> Result<Vec<u8>> {
        let (stream, end) = self.stream();
        let receiving = tokio::spawn(receive(end));
        let to = types::ImageExportStream { stream, ..how };
        self.move_images(from, &to).await?;
        Ok(receiving.await.expect("the receiver does not panic"))
    }
}

async fn send(end: ClientEnd, archive: Vec<u8>) {
    let ClientEnd { to, from: mut answers } = end;
    let mut left = archive.as_slice();
    // Not before anybody reads, even if there is nothing to send.
    let Some(mut window) = update(&mut answers).await else { return };
    while !left.is_empty() {
        while window == 0 {
            let Some(more) = update(&mut answers).await else { return };
            window += more;
        }
        let (piece, rest) = left.split_at(left.len().min(PIECE).min(window));
        (left, window) = (rest, window - piece.len());
        let data = types::Data { data: piece.to_vec().into() };
        if to.send(any::pack(&data)).await.is_err() {
            return;
        }
    }
}

async fn update(answers: &mut Answers) -> Option<usize> {
    let update: types::WindowUpdate = any::unpack(&answers.next().await?).expect("an update");
    Some(usize::try_from(update.update).expect("more room"))
}

async fn receive(end: ClientEnd) -> Vec<u8> {
    let ClientEnd { to, from: mut answers } = end;
    let (mut all, mut window) = (Vec::new(), 0_i64);
    loop {
        if window < PIECE as i64 {
            let more = types::WindowUpdate { update: 2 * PIECE as i32 };
            // At the end nobody listens any more.
            if to.send(any::pack(&more)).await.is_ok() {
                window += 2 * PIECE as i64;
            }
        }
        let Some(message) = answers.next().await else { return all };
        let data: types::Data = any::unpack(&message).expect("data");
        window -= data.data.len() as i64;
        assert!(window >= 0 && data.data.len() <= PIECE, "the window is respected");
        all.extend_from_slice(&data.data);
    }
}
