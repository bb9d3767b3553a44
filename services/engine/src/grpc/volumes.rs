use std::sync::Arc;

use futures::StreamExt;
use gantry_core::content::BlobStream;
use gantry_core::volumes::{CopyKind, NewVolume};
use gantry_core::{Error, Kind};
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::import_volume_request::Part;
use gantry_grpc::gantry::engine::v1::volumes_server::Volumes as Service;
use gantry_grpc::status::to_detailed as to_wire;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::containers::finish;
use super::{Answer, Answers, Volumes, context_of, convert, files};
use crate::mounts::{VolumeFilter, VolumeSummary};

pub(super) fn volume(summary: VolumeSummary) -> api::Volume {
    let VolumeSummary { volume, size, references } = summary;
    api::Volume {
        driver: volume.driver().to_owned(),
        anonymous: volume.is_anonymous(),
        name: volume.name,
        mountpoint: volume.mountpoint.to_string_lossy().into_owned(),
        created_at: convert::set_time(volume.created_at),
        labels: volume.labels,
        options: volume.options,
        snapshot_of: volume.snapshot_of.unwrap_or_default(),
        size,
        references,
    }
}

pub(super) fn new_volume(wire: api::CreateVolumeRequest) -> NewVolume {
    let api::CreateVolumeRequest { name, driver, options, labels } = wire;
    NewVolume { name, driver, labels, options }
}

/// A volume, and the archive behind it.
async fn taken(
    mut inbound: Streaming<api::ImportVolumeRequest>,
) -> Result<(NewVolume, BlobStream), Status> {
    let first = inbound.message().await?.and_then(|message| message.part);
    let Some(Part::Volume(volume)) = first else {
        return Err(convert::invalid("Import: the first message does not describe the volume"));
    };
    let archive = inbound.map(|message| match message {
        Ok(message) => match message.part {
            Some(Part::Data(data)) => Ok(data),
            _ => Err(Error::invalid_argument("Import: a message behind the first has no data")),
        },
        // The archive is not whole.
        Err(status) => Err(Error::new(Kind::Cancelled, "the caller went away").with_source(status)),
    });
    Ok((new_volume(volume), Box::pin(archive)))
}

#[tonic::async_trait]
impl Service for Volumes {
    type ExportStream = Answers<api::FileChunk>;

    async fn create(
        &self,
        request: Request<api::CreateVolumeRequest>,
    ) -> Answer<api::CreateVolumeResponse> {
        let ctx = context_of(&request)?;
        let new = new_volume(request.into_inner());
        let made = self.engine.create_volume(&ctx, new).await.map_err(to_wire)?;
        Ok(Response::new(api::CreateVolumeResponse { volume: Some(volume(made)) }))
    }

    async fn list(
        &self,
        request: Request<api::ListVolumesRequest>,
    ) -> Answer<api::ListVolumesResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        let filter = VolumeFilter::listing(&wire.filters).map_err(to_wire)?;
        let found = self.engine.volumes(&ctx, &filter, wire.size).await.map_err(to_wire)?;
        let volumes = found.into_iter().map(volume).collect();
        Ok(Response::new(api::ListVolumesResponse { volumes }))
    }

    async fn inspect(
        &self,
        request: Request<api::InspectVolumeRequest>,
    ) -> Answer<api::InspectVolumeResponse> {
        let ctx = context_of(&request)?;
        let name = request.into_inner().name;
        let summary = self.engine.volume(&ctx, &name).await.map_err(to_wire)?;
        let json = summary.json().to_string();
        Ok(Response::new(api::InspectVolumeResponse { volume: Some(volume(summary)), json }))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveVolumeRequest>,
    ) -> Answer<api::RemoveVolumeResponse> {
        let ctx = context_of(&request)?;
        let api::RemoveVolumeRequest { name, force } = request.into_inner();
        let engine = Arc::clone(&self.engine);
        finish(async move { engine.remove_volume(&ctx, &name, force).await }).await?;
        Ok(Response::new(api::RemoveVolumeResponse {}))
    }

    async fn prune(
        &self,
        request: Request<api::PruneVolumesRequest>,
    ) -> Answer<api::PruneVolumesResponse> {
        let ctx = context_of(&request)?;
        let filter = VolumeFilter::prune(&request.into_inner().filters).map_err(to_wire)?;
        let pruned = self.engine.prune_volumes(&ctx, &filter).await.map_err(to_wire)?;
        let (removed, reclaimed) = pruned;
        Ok(Response::new(api::PruneVolumesResponse { removed, reclaimed }))
    }

    async fn rename(
        &self,
        request: Request<api::RenameVolumeRequest>,
    ) -> Answer<api::RenameVolumeResponse> {
        let ctx = context_of(&request)?;
        let api::RenameVolumeRequest { name, new_name } = request.into_inner();
        let engine = Arc::clone(&self.engine);
        finish(async move { engine.rename_volume(&ctx, &name, &new_name).await }).await?;
        Ok(Response::new(api::RenameVolumeResponse {}))
    }

    async fn copy(
        &self,
        request: Request<api::CopyVolumeRequest>,
    ) -> Answer<api::CopyVolumeResponse> {
        let ctx = context_of(&request)?;
        let api::CopyVolumeRequest { source, name, labels, snapshot } = request.into_inner();
        let kind = if snapshot { CopyKind::Snapshot } else { CopyKind::Clone };
        let new = NewVolume { name, labels, ..NewVolume::default() };
        let engine = Arc::clone(&self.engine);
        // Goes with this call when its caller does.
        let (_caller, gone) = oneshot::channel::<()>();
        let gone = async move { drop(gone.await) };
        let copied = async move { engine.copy_volume(&ctx, &source, new, kind, gone).await };
        let made = finish(copied).await?;
        Ok(Response::new(api::CopyVolumeResponse { volume: Some(volume(made)) }))
    }

    async fn export(
        &self,
        request: Request<api::ExportVolumeRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let ctx = context_of(&request)?;
        let name = request.into_inner().name;
        let archive = self.engine.export_volume(&ctx, &name).await.map_err(to_wire)?;
        Ok(Response::new(files::chunks(archive)))
    }

    async fn import(
        &self,
        request: Request<Streaming<api::ImportVolumeRequest>>,
    ) -> Answer<api::ImportVolumeResponse> {
        let ctx = context_of(&request)?;
        let (new, archive) = taken(request.into_inner()).await?;
        let engine = Arc::clone(&self.engine);
        let made = async move { engine.import_volume(&ctx, new, archive).await };
        let made = finish(made).await?;
        Ok(Response::new(api::ImportVolumeResponse { volume: Some(volume(made)) }))
    }
}
