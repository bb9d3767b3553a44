//! Between the wire's messages and what is measured.

use std::time::Duration;

use gantry_grpc::convert::timestamp;
use gantry_grpc::gantry::engine::v1 as api;
use tonic::Status;

use super::convert;
use super::volumes::volume;
use crate::{
    ContainerSize, ContainerStats, DiskUsage, ImageUsage, PrunedImages, Stats, StatsRequest,
};

pub(super) fn stats_request(wire: api::StatsRequest) -> Result<StatsRequest, Status> {
    let interval = wire.interval.map(Duration::try_from).transpose();
    let interval = interval.map_err(|_| convert::invalid("the interval is negative"))?;
    let api::StatsRequest { containers, all, once, .. } = wire;
    Ok(StatsRequest { containers, all, once, interval })
}

pub(super) fn stats(stats: Stats) -> api::StatsResponse {
    api::StatsResponse {
        time: Some(timestamp(stats.time)),
        containers: stats.containers.into_iter().map(container_stats).collect(),
    }
}

fn container_stats(stats: ContainerStats) -> api::ContainerStats {
    let ((network_received, network_sent), (block_read, block_written)) =
        (stats.network, stats.block);
    api::ContainerStats {
        id: stats.id,
        name: stats.name,
        measured: stats.measured,
        cpu_nanos: stats.cpu_nanos,
        cpus: stats.cpus,
        memory: stats.memory,
        memory_limit: stats.memory_limit,
        network_received,
        network_sent,
        block_read,
        block_written,
        pids: stats.pids,
        running: stats.running,
    }
}

/// A container with what its files take, if that is known.
pub(super) fn sized(container: api::Container, size: Option<ContainerSize>) -> api::Container {
    api::Container {
        size_rw: size.map(|size| size.written),
        size_root: size.map(|size| size.whole),
        ..container
    }
}

/// The JSON object of a container with its sizes as Docker's fields.
pub(super) fn sized_json(json: String, size: ContainerSize) -> String {
    let ContainerSize { written, whole } = size;
    match json.strip_suffix('}') {
        Some(open) => format!("{open},\"SizeRw\":{written},\"SizeRootFs\":{whole}}}"),
        None => json,
    }
}

pub(super) fn disk_usage(usage: DiskUsage) -> api::DiskUsageResponse {
    let image = |usage: ImageUsage| api::ImageUsage {
        image: Some(convert::image(usage.image)),
        shared_size: usage.shared,
        unique_size: usage.unique,
        containers: usage.containers,
    };
    let containers = usage.containers.into_iter();
    api::DiskUsageResponse {
        images: usage.images.into_iter().map(image).collect(),
        layers_size: usage.layers_size,
        layers_reclaimable: usage.layers_reclaimable,
        containers: containers.map(|(c, size)| sized(convert::container(c), size)).collect(),
        volumes: usage.volumes.into_iter().map(volume).collect(),
    }
}

pub(super) fn pruned_images(pruned: PrunedImages) -> api::PruneImagesResponse {
    let PrunedImages { untagged, deleted, reclaimed } = pruned;
    api::PruneImagesResponse { untagged, deleted, reclaimed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stand_in_the_object() {
        let size = ContainerSize { written: 1, whole: 20 };
        let json = sized_json(r#"{"Id":"c1","Mounts":[]}"#.to_owned(), size);
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["SizeRw"], 1);
        assert_eq!(parsed["SizeRootFs"], 20);
        assert_eq!(parsed["Id"], "c1");
    }

    #[test]
    fn an_interval_is_not_negative() {
        let wire = |seconds| api::StatsRequest {
            interval: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(stats_request(wire(2)).unwrap().interval, Some(Duration::from_secs(2)));
        assert!(stats_request(wire(-2)).is_err());
    }
}
