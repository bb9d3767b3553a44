use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::{DAEMON, Outcome, SUCCESS, coded};
use crate::options::Container;

/// Make a container without starting it
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "gantry create [OPTIONS] IMAGE [COMMAND [ARG]...]"
)]
pub(crate) struct Args {
    #[command(flatten)]
    container: Container,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let (pull, platform) = (self.container.pull().into(), self.container.platform());
        let id_file = self.container.id_file()?;
        let spec = Some(self.container.into_spec().map_err(coded(DAEMON))?);
        let client = context.connect().await?;
        let request = api::CreateContainerRequest { spec, pull, platform, ..Default::default() };
        let created = client.answer(client.containers().create(request).await)?;
        for warning in &created.warnings {
            context.printer.warning(warning);
        }
        if let Some(file) = id_file {
            file.write(&created.id)?;
        }
        context.printer.line(&created.id)?;
        Ok(SUCCESS)
    }
}
