use clap::ValueEnum;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::client::{Client, is_not_found};
use crate::exit::{FAILURE, Outcome, SUCCESS, describe};
use crate::{complete, json};

/// Show all that is known of containers and images, as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Look among these only
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// Containers and images, by name or ID
    #[arg(required = true, value_name = "OBJECT", add = ArgValueCandidates::new(complete::objects))]
    objects: Vec<String>,
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Container,
    Image,
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
        context.printer.line(json::array(&found))?;
        for error in &missed {
            context.printer.error(describe(error));
        }
        Ok(if missed.is_empty() { SUCCESS } else { FAILURE })
    }

    /// A container of this name, or else an image.
    async fn look_up(&self, client: &Client, object: &str) -> anyhow::Result<String> {
        if self.kind != Some(Kind::Image) {
            let request = api::InspectContainerRequest { container: object.to_owned() };
            match client.answer(client.containers().inspect(request).await) {
                Ok(answer) => return Ok(answer.json),
                Err(error) if self.kind.is_none() && is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let request = api::InspectImageRequest { image: object.to_owned() };
        match client.answer(client.images().inspect(request).await) {
            Ok(answer) => Ok(answer.json),
            Err(error) if self.kind.is_none() && is_not_found(&error) => {
                Err(anyhow::anyhow!("No such object: {object}"))
            }
            Err(error) => Err(error),
        }
    }
}
