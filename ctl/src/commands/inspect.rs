use clap::ValueEnum;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::client::{Client, is_not_found, meant};
use crate::commands::network;
use crate::exit::Outcome;
use crate::format::Format;
use crate::{complete, zone};

/// Show all that is known of containers, images, networks and volumes, as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Look among these only
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// Print each with a Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Show how much containers have written
    #[arg(short, long)]
    size: bool,
    /// Containers, images, networks and volumes, by name or ID
    #[arg(required = true, value_name = "OBJECT", add = ArgValueCandidates::new(complete::objects))]
    objects: Vec<String>,
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let mut found = Vec::new();
        let mut missed = Vec::new();
        for object in &self.objects {
            match self.look_up(&client, object).await {
                Ok(json) => found.push(json),
                Err(error) => missed.push(error),
            }
        }
        Format::of(self.format).inspected(context.printer, &found, missed)
    }

    /// A container of this name, or else an image, a network, or a volume.
    async fn look_up(&self, client: &Client, object: &str) -> anyhow::Result<String> {
        let mut hint: Option<String> = None;
        for kind in [Kind::Container, Kind::Image, Kind::Network, Kind::Volume] {
            if self.kind.is_some_and(|only| only != kind) {
                continue;
            }
            match self.ask(client, kind, object).await {
                Err(error) if self.kind.is_none() && is_not_found(&error) => {
                    hint = hint.or_else(|| Some(format!(". Did you mean {}?", meant(&error)?)));
                }
                answer => return answer,
            }
        }
        Err(anyhow::anyhow!("No such object: {object}{}", hint.unwrap_or_default()))
    }

    async fn ask(&self, client: &Client, kind: Kind, object: &str) -> anyhow::Result<String> {
        let object = object.to_owned();
        Ok(match kind {
            Kind::Container => {
                let request = api::InspectContainerRequest { container: object, size: self.size };
                client.answer(client.containers().inspect(request).await)?.json
            }
            Kind::Image => {
                let request = api::InspectImageRequest { image: object };
                client.answer(client.images().inspect(request).await)?.json
            }
            Kind::Network => network::inspected(client, object).await?,
            Kind::Volume => {
                let request = api::InspectVolumeRequest { name: object };
                zone::localized(client.answer(client.volumes().inspect(request).await)?.json)
            }
        })
    }
}
