use std::time::SystemTime;

use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::table::{self, or_none, short_id};
use crate::{complete, human};

/// List images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Show IDs in full
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Only those of a repository, or one of its tags
    #[arg(value_name = "REPOSITORY[:TAG]", add = ArgValueCandidates::new(complete::images))]
    name: Option<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let listed = client.answer(client.images().list(api::ListImagesRequest {}).await)?;
        let mut images = listed.images;
        images.retain(|image| self.name.as_ref().is_none_or(|name| is_meant(image, name)));
        for image in images.iter().filter(|image| !image.damage.is_empty()) {
            let (name, damage) = (&image.name, &image.damage);
            context.printer.warning(format_args!(
                "image {name} is damaged ({damage}): pull it again, or remove it"
            ));
        }
        let text = self.show(&images, SystemTime::now());
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }

    fn show(&self, images: &[api::Image], now: SystemTime) -> String {
        if self.quiet {
            let ids = images.iter().map(|i| self.id(i)).filter(|id| !id.is_empty());
            return ids.map(|id| format!("{id}\n")).collect();
        }
        let cells = |image: &api::Image| {
            let created = human::ago(human::time(image.created_at), now);
            let id = or_none(self.id(image));
            (or_none(&image.repository), or_none(&image.tag), id, created, human::size(image.size))
        };
        if self.digests {
            let row = |image: &api::Image| {
                let (repository, tag, id, created, size) = cells(image);
                [repository, tag, or_none(&image.digest), id, created, size]
            };
            let rows: Vec<_> = images.iter().map(row).collect();
            let headers = ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"];
            return table::render(headers, &rows);
        }
        let row = |image: &api::Image| {
            let (repository, tag, id, created, size) = cells(image);
            [repository, tag, id, created, size]
        };
        let rows: Vec<_> = images.iter().map(row).collect();
        table::render(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows)
    }

    fn id<'a>(&self, image: &'a api::Image) -> &'a str {
        if self.no_trunc { &image.id } else { short_id(&image.id) }
    }
}

/// Whether a name is the image's repository, or repository and tag.
fn is_meant(image: &api::Image, name: &str) -> bool {
    let rest = name.strip_prefix(image.repository.as_str());
    image.name == name
        || rest.is_some_and(|r| r.is_empty() || r.strip_prefix(':') == Some(image.tag.as_str()))
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

    fn args() -> Args {
        Args { quiet: false, no_trunc: false, digests: false, name: None }
    }

    #[test]
    fn the_table_is_dockers() {
        let by_digest = api::Image { tag: String::new(), ..nginx() };
        let now = UNIX_EPOCH + Duration::from_secs(1000 + 15 * 24 * 3600);
        let expected = "\
REPOSITORY   TAG       IMAGE ID       CREATED       SIZE
nginx        latest    0123456789ab   2 weeks ago   192MB
nginx        <none>    0123456789ab   2 weeks ago   192MB
";
        assert_eq!(args().show(&[nginx(), by_digest], now), expected);
        let digests = Args { digests: true, ..args() }.show(&[nginx()], now);
        assert!(digests.contains("latest    sha256:ff   0123456789ab"), "{digests}");
    }

    #[test]
    fn ids_alone() {
        let quiet = Args { quiet: true, ..args() };
        assert_eq!(quiet.show(&[nginx()], UNIX_EPOCH), "0123456789ab\n");
        let full = Args { quiet: true, no_trunc: true, ..args() };
        assert_eq!(full.show(&[nginx()], UNIX_EPOCH).len(), 72);
    }

    #[test]
    fn names_choose_images() {
        for name in ["nginx", "nginx:latest", "docker.io/library/nginx:latest"] {
            assert!(is_meant(&nginx(), name), "{name}");
        }
        for name in ["ngin", "nginx:1", "nginx-x", "nginx:"] {
            assert!(!is_meant(&nginx(), name), "{name}");
        }
    }
}
