use std::time::SystemTime;

use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::format::{Columns, Field, Format, Row};
use crate::table::{or_none, short_id};
use crate::{complete, human};

/// Docker's fields.
pub(crate) const FIELDS: [Field; 11] = [
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
];
/// The usual ones.
const USUAL: [&str; 5] = ["Repository", "Tag", "ID", "CreatedSince", "Size"];
/// Those with digests.
const DIGESTS: [&str; 6] = ["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"];

/// List images
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Nothing more than without it: images have no hidden parts
    #[arg(short, long)]
    all: bool,
    /// Only those that match: KEY=VALUE, such as dangling=true or reference=nginx:* (several)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Show IDs in full
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    #[command(flatten)]
    format: Format,
    /// Only those of a repository, or one of its tags; * stands for any part of a name
    #[arg(value_name = "REPOSITORY[:TAG]", add = ArgValueCandidates::new(complete::images))]
    name: Option<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let mut filters = self.filter.clone();
        filters.extend(self.name.iter().map(|name| format!("reference={name}")));
        let request = api::ListImagesRequest { filters };
        let images = client.answer(client.images().list(request).await)?.images;
        for image in images.iter().filter(|image| !image.damage.is_empty()) {
            let (name, damage) = (&image.name, &image.damage);
            context.printer.warning(format_args!(
                "image {name} is damaged ({damage}): pull it again, or remove it"
            ));
        }
        let text = self.show(&images, SystemTime::now())?;
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }

    fn show(&self, images: &[api::Image], now: SystemTime) -> anyhow::Result<String> {
        if self.quiet && !self.format.is_given() {
            let ids = images.iter().map(|i| id(i, self.no_trunc)).filter(|id| !id.is_empty());
            return Ok(ids.map(|id| format!("{id}\n")).collect());
        }
        let usual: &[&str] = if self.digests { &DIGESTS } else { &USUAL };
        let rows: Vec<_> = images.iter().map(|image| row(image, self.no_trunc, now)).collect();
        self.format.rows(Columns { fields: &FIELDS, usual }, &rows)
    }
}

fn id(image: &api::Image, whole: bool) -> &str {
    if whole { &image.id } else { short_id(&image.id) }
}

/// An image's fields. What it shares with others, only a measurement tells.
pub(crate) fn row(image: &api::Image, whole: bool, now: SystemTime) -> Row {
    let created = human::time(image.created_at);
    let mut row = Row::default();
    row.set("ID", or_none(id(image, whole)));
    row.set("Repository", or_none(&image.repository));
    row.set("Tag", or_none(&image.tag));
    row.set("Digest", or_none(&image.digest));
    row.set("CreatedSince", human::ago(created, now));
    row.set("CreatedAt", human::stamp(created));
    row.set("Size", human::size(image.size));
    row.set("VirtualSize", human::size(image.size));
    for unknown in ["SharedSize", "UniqueSize", "Containers"] {
        row.set(unknown, "N/A");
    }
    row.set_labels(&image.labels);
    row
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn nginx() -> api::Image {
        api::Image {
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            name: "docker.io/library/nginx:latest".to_owned(),
            repository: "nginx".to_owned(),
            tag: "latest".to_owned(),
            digest: "sha256:ff".to_owned(),
            created_at: Some(prost_types::Timestamp { seconds: 1000, nanos: 0 }),
            size: 192_345_678,
            ..Default::default()
        }
    }

    fn shown(args: &Args, images: &[api::Image]) -> String {
        args.show(images, UNIX_EPOCH + Duration::from_secs(1000 + 14 * 86_400)).unwrap()
    }

    #[test]
    fn the_table_is_dockers() {
        let unnamed = api::Image { repository: String::new(), tag: String::new(), ..nginx() };
        let expected = "\
REPOSITORY   TAG       IMAGE ID       CREATED       SIZE
nginx        latest    0123456789ab   2 weeks ago   192MB
<none>       <none>    0123456789ab   2 weeks ago   192MB
";
        assert_eq!(shown(&Args::default(), &[nginx(), unnamed]), expected);
    }

    #[test]
    fn digests_ids_and_templates() {
        let digests = Args { digests: true, no_trunc: true, ..Args::default() };
        let table = shown(&digests, &[nginx()]);
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].starts_with("REPOSITORY   TAG       DIGEST      IMAGE ID"), "{table}");
        assert!(lines[1].contains("sha256:ff   sha256:0123456789abcdef"), "{table}");
        let quiet = Args { quiet: true, ..Args::default() };
        let damaged = api::Image { id: String::new(), ..nginx() };
        assert_eq!(shown(&quiet, &[nginx(), damaged]), "0123456789ab\n");
        let format = Format::of(Some("{{.Repository}}:{{.Tag}} {{.Containers}}".to_owned()));
        assert_eq!(shown(&Args { format, ..quiet }, &[nginx()]), "nginx:latest N/A\n");
    }
}
