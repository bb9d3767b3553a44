//! Between the wire's messages and files of containers.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use gantry_core::content::BlobStream;
use gantry_core::{Error, FileChange, FileChangeKind, Kind};
use gantry_grpc::convert::timestamp;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::copy_from_response::Part as Sent;
use gantry_grpc::gantry::engine::v1::copy_to_request::Part as Taken;
use gantry_grpc::status::to_detailed as to_wire;
use tonic::{Status, Streaming};

use super::{Answers, convert};
use crate::{CopyFrom, CopyTo, PathStat};

pub(super) fn path_stat(stat: PathStat) -> api::PathStat {
    api::PathStat {
        name: stat.name,
        path: stat.path,
        size: stat.size,
        mode: stat.mode,
        modified_at: Some(timestamp(stat.modified_at)),
        link_target: stat.link_target,
        directory: stat.directory,
    }
}

pub(super) fn copy_from(wire: api::CopyFromRequest) -> CopyFrom {
    let api::CopyFromRequest { container, path, follow_link, sparse } = wire;
    CopyFrom { container, path, follow_link, sparse }
}

/// What is sent, then the archive.
pub(super) fn sent(stat: PathStat, archive: BlobStream) -> Answers<api::CopyFromResponse> {
    let answer = |part| api::CopyFromResponse { part: Some(part) };
    let first = answer(Sent::Stat(path_stat(stat)));
    let rest = pieces(archive).map(move |piece| piece.map(|data| answer(Sent::Data(data))));
    Box::pin(futures::stream::iter([Ok(first)]).chain(rest))
}

pub(super) fn chunks(archive: BlobStream) -> Answers<api::FileChunk> {
    Box::pin(pieces(archive).map(|piece| piece.map(|data| api::FileChunk { data })))
}

fn pieces(archive: BlobStream) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    archive.map(|piece| piece.map_err(to_wire))
}

/// Where an archive is to go, and the archive behind it.
pub(super) async fn taken(
    mut inbound: Streaming<api::CopyToRequest>,
) -> Result<(CopyTo, BlobStream), Status> {
    let first = inbound.message().await?.and_then(|message| message.part);
    let Some(Taken::Target(target)) = first else {
        return Err(convert::invalid("CopyTo: the first message does not say where to"));
    };
    let api::CopyToTarget { container, path, keep_owner, no_overwrite_dir_non_dir } = target;
    let no_overwrite = no_overwrite_dir_non_dir;
    let target = CopyTo { container, path, keep_owner, no_overwrite };
    let archive = inbound.map(|message| match message {
        Ok(message) => match message.part {
            Some(Taken::Data(data)) => Ok(data),
            _ => Err(Error::invalid_argument("CopyTo: a message behind the first has no data")),
        },
        // The archive is not whole.
        Err(status) => Err(Error::new(Kind::Cancelled, "the caller went away").with_source(status)),
    });
    Ok((target, Box::pin(archive)))
}

pub(super) fn changes(changes: Vec<FileChange>) -> api::FileChangesResponse {
    let change = |change: FileChange| {
        let kind = match change.kind {
            FileChangeKind::Modified => api::FileChangeKind::Modified,
            FileChangeKind::Added => api::FileChangeKind::Added,
            FileChangeKind::Deleted => api::FileChangeKind::Deleted,
        };
        let path = String::from_utf8_lossy(&change.path).into_owned();
        api::FileChange { kind: kind.into(), path }
    };
    api::FileChangesResponse { changes: changes.into_iter().map(change).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_archive_follows_what_it_is() {
        let stat = PathStat { name: "f".into(), size: 3, ..PathStat::default() };
        let archive = [Ok(Bytes::from("abc")), Err(Error::data_loss("gone"))];
        let archive: BlobStream = Box::pin(futures::stream::iter(archive));
        let all: Vec<_> = sent(stat, archive).collect().await;
        let part = |n: usize| all[n].as_ref().unwrap().part.clone().unwrap();
        assert!(matches!(part(0), Sent::Stat(stat) if stat.name == "f" && stat.size == 3));
        assert!(matches!(part(1), Sent::Data(data) if data == "abc"));
        assert_eq!(all[2].as_ref().unwrap_err().code(), tonic::Code::DataLoss);
    }

    #[test]
    fn changes_have_their_kinds() {
        let change = |kind, path: &str| FileChange { kind, path: path.into() };
        let wire = changes(vec![
            change(FileChangeKind::Added, "/a"),
            change(FileChangeKind::Deleted, "/d"),
        ]);
        assert_eq!(wire.changes[0].kind(), api::FileChangeKind::Added);
        assert_eq!((wire.changes[1].kind, wire.changes[1].path.as_str()), (3, "/d"));
    }
}
