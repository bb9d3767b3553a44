use anyhow::bail;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::pull_progress::Event;

use crate::cli::Context;
use crate::complete;
use crate::exit::{Outcome, SUCCESS};
use crate::progress::Progress;

/// Fetch an image from its registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gantry pull nginx                     docker.io/library/nginx:latest
  gantry pull ghcr.io/org/app:v1.2.3    From another registry
  gantry pull --platform linux/arm64 debian@sha256:...

The full name of the image goes to standard output, the progress to standard
error.")]
pub(crate) struct Args {
    /// Print the name only
    #[arg(short, long)]
    quiet: bool,
    /// Platform of the image; this machine's without it
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Name of the image
    #[arg(add = ArgValueCandidates::new(complete::images))]
    image: String,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let request = api::PullImageRequest {
            reference: self.image,
            platform: self.platform.unwrap_or_default(),
            ..Default::default()
        };
        let mut answers = client.answer(client.images().pull(request).await)?;
        let mut progress = Progress::new(self.quiet);
        let mut name = None;
        while let Some(answer) = client.taken(answers.message().await)? {
            if let Some(Event::Done(done)) = &answer.event {
                name = Some(done.name.clone());
            }
            progress.update(context.printer, answer);
        }
        let Some(name) = name else {
            bail!("gantryd ended the pull before the image was complete")
        };
        context.printer.line(name)?;
        Ok(SUCCESS)
    }
}
