use std::time::SystemTime;

use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::ContainerState as State;
use serde_json::{Value, json};

use super::{images, ps};
use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::format::{Columns, Field, Format, Row};
use crate::human;

/// Docker's fields, and its usual ones.
const FIELDS: [Field; 5] = [
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const USUAL: [&str; 5] = ["Type", "TotalCount", "Active", "Size", "Reclaimable"];
/// Those of the tables with details.
const IMAGES: [&str; 8] =
    ["Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"];
const CONTAINERS: [&str; 8] =
    ["ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"];
const VOLUMES: [Field; 3] = [("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")];
const CACHE: [Field; 7] = [
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
    ("Shared", "SHARED"),
];

/// Show what takes how much of the disk
///
/// The size of images is that of their layers, unpacked and packed, each counted once, however
/// many images share it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Show each image, container and volume
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    format: Format,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let usage = client.system().disk_usage(api::DiskUsageRequest {}).await;
        let usage = client.answer(usage)?;
        let text = match self.verbose {
            true => self.details(usage, SystemTime::now())?,
            false => self.format.rows(columns(), &sums(&usage))?,
        };
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }

    fn details(&self, usage: api::DiskUsageResponse, now: SystemTime) -> anyhow::Result<String> {
        let images: Vec<_> = usage.images.iter().filter_map(|i| image(i, now)).collect();
        let list = ps::Args::default();
        let containers = usage.containers.into_iter();
        // What they have in all is no matter here.
        let containers = containers.map(|c| api::Container { size_root: None, ..c });
        let containers: Vec<_> = containers.map(|c| list.row(&c, now)).collect();
        let volumes: Vec<_> = usage.volumes.iter().map(volume).collect();
        if self.format.is_given() {
            let values = |rows: Vec<Row>| rows.into_iter().map(Row::into_value).collect::<Value>();
            let all = json!({
                "Images": values(images),
                "Containers": values(containers),
                "Volumes": values(volumes),
                "BuildCache": [],
            });
            return Ok(self.format.unescaped().object(&all)?.unwrap_or_default());
        }
        let table = |fields: &[Field], usual: &[&str], rows: &[Row]| {
            Format::default().rows(Columns { fields, usual }, rows)
        };
        let names = |fields: &[Field]| fields.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        Ok(format!(
            "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space \
             usage:\n\n{}\nBuild cache usage: {}\n\n{}",
            table(&images::FIELDS, &IMAGES, &images)?,
            table(&ps::FIELDS, &CONTAINERS, &containers)?,
            table(&VOLUMES, &names(&VOLUMES), &volumes)?,
            human::space(0),
            table(&CACHE, &names(&CACHE), &[])?,
        ))
    }
}

fn columns() -> Columns<'static> {
    Columns { fields: &FIELDS, usual: &USUAL }
}

/// The lines of the table.
fn sums(usage: &api::DiskUsageResponse) -> Vec<Row> {
    let used = usage.images.iter().filter(|image| image.containers > 0).count();
    let lives = |container: &&api::Container| {
        matches!(container.state(), State::Running | State::Paused | State::Restarting)
    };
    let held = |volume: &&api::Volume| volume.references > 0;
    let (containers, volumes) = (&usage.containers, &usage.volumes);
    let (written, needed) = (written(containers), written(containers.iter().filter(lives)));
    let (taken, kept) = (taken(volumes), taken(volumes.iter().filter(held)));
    vec![
        sum("Images", (usage.images.len(), used), (usage.layers_size, usage.layers_reclaimable)),
        sum(
            "Containers",
            (containers.len(), containers.iter().filter(lives).count()),
            (written, written - needed),
        ),
        sum(
            "Local Volumes",
            (volumes.len(), volumes.iter().filter(held).count()),
            (taken, taken - kept),
        ),
        // There are no builds.
        sum("Build Cache", (0, 0), (0, 0)),
    ]
}

fn written<'a>(containers: impl IntoIterator<Item = &'a api::Container>) -> u64 {
    containers.into_iter().map(|container| container.size_rw.unwrap_or(0)).sum()
}

fn taken<'a>(volumes: impl IntoIterator<Item = &'a api::Volume>) -> u64 {
    volumes.into_iter().map(|volume| volume.size.unwrap_or(0)).sum()
}

fn sum(kind: &str, (count, active): (usize, usize), (size, reclaimable): (u64, u64)) -> Row {
    let mut row = Row::default();
    row.set("Type", kind);
    row.set("TotalCount", count.to_string());
    row.set("Active", active.to_string());
    row.set("Size", human::space(size));
    let share = u128::from(reclaimable) * 100;
    row.set(
        "Reclaimable",
        match share.checked_div(u128::from(size)) {
            Some(percent) => format!("{} ({percent}%)", human::space(reclaimable)),
            None => human::space(reclaimable),
        },
    );
    row
}

fn image(usage: &api::ImageUsage, now: SystemTime) -> Option<Row> {
    let mut row = images::row(usage.image.as_ref()?, false, now);
    let (shared, unique) = (usage.shared_size, usage.unique_size);
    row.set("Size", human::size(shared.saturating_add(unique)));
    row.set("VirtualSize", human::size(shared.saturating_add(unique)));
    row.set("SharedSize", human::space(shared));
    row.set("UniqueSize", human::space(unique));
    row.set("Containers", usage.containers.to_string());
    Some(row)
}

fn volume(volume: &api::Volume) -> Row {
    let mut row = Row::default();
    row.set("Name", volume.name.as_str());
    row.set("Links", volume.references.to_string());
    row.set("Size", volume.size.map_or_else(|| "N/A".to_owned(), human::size));
    row.set_labels(&volume.labels);
    row
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn usage() -> api::DiskUsageResponse {
        let image = api::Image {
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            repository: "nginx".to_owned(),
            tag: "1.27".to_owned(),
            created_at: Some(prost_types::Timestamp { seconds: 1000, nanos: 0 }),
            ..Default::default()
        };
        let container = |name: &str, state: State, size| api::Container {
            id: "4c01db0b339c".repeat(5) + "abcd",
            name: name.to_owned(),
            image: "nginx:1.27".to_owned(),
            command: vec!["nginx".to_owned()],
            created_at: Some(prost_types::Timestamp { seconds: 1000, nanos: 0 }),
            state: state.into(),
            size_rw: Some(size),
            size_root: Some(999),
            mounts: vec!["data".to_owned()],
            ..Default::default()
        };
        let volume = |name: &str, references, size| api::Volume {
            name: name.to_owned(),
            references,
            size: Some(size),
            ..Default::default()
        };
        api::DiskUsageResponse {
            images: vec![api::ImageUsage {
                image: Some(image),
                shared_size: 1_000_000,
                unique_size: 500_000,
                containers: 2,
            }],
            layers_size: 12_345_678,
            layers_reclaimable: 0,
            containers: vec![
                container("web", State::Running, 4096),
                container("job", State::Created, 12_288),
            ],
            volumes: vec![volume("data", 2, 1_000_000), volume("old", 0, 3_000_000)],
        }
    }

    #[test]
    fn the_table_is_dockers() {
        let text = Format::default().rows(columns(), &sums(&usage())).unwrap();
        let expected = "\
TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE
Images          1         1         12.35MB   0B (0%)
Containers      2         1         16.38kB   12.29kB (75%)
Local Volumes   2         1         4MB       3MB (75%)
Build Cache     0         0         0B        0B
";
        assert_eq!(text, expected);
    }

    #[test]
    fn details_are_dockers() {
        let now = UNIX_EPOCH + Duration::from_secs(1000 + 180);
        let text = Args::default().details(usage(), now).unwrap();
        let expected = "\
Images space usage:

REPOSITORY   TAG       IMAGE ID       CREATED         SIZE      SHARED SIZE   UNIQUE SIZE   CONTAINERS
nginx        1.27      0123456789ab   3 minutes ago   1.5MB     1MB           500kB         2

Containers space usage:

CONTAINER ID   IMAGE        COMMAND   LOCAL VOLUMES   SIZE      CREATED         STATUS";
        assert!(text.starts_with(expected), "{text}");
        for line in [
            "\nLocal Volumes space usage:\n\nVOLUME NAME   LINKS     SIZE\ndata          2         1MB\n",
            "\nBuild cache usage: 0B\n\nCACHE ID   CACHE TYPE   SIZE      CREATED   LAST USED   USAGE     SHARED\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let json = Args { format: Format::of(Some("json".to_owned())), verbose: true };
        let json: Value = serde_json::from_str(&json.details(usage(), now).unwrap()).unwrap();
        assert_eq!(json["Images"][0]["UniqueSize"], "500kB");
        assert_eq!(json["Containers"][1]["Size"], "12.3kB");
        assert_eq!(json["Volumes"][1]["Links"], "0");
    }
}
