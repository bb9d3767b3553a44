use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::human;

/// Show how gantryd does
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let info = client.answer(client.system().info(api::InfoRequest {}).await)?;
        context.printer.data(show(&info).as_bytes())?;
        for warning in &info.warnings {
            context.printer.warning(warning);
        }
        Ok(SUCCESS)
    }
}

fn show(info: &api::InfoResponse) -> String {
    let api::InfoResponse { containers, running, paused, stopped, images, .. } = info;
    format!(
        "Containers: {containers}\n \
         Running: {running}\n \
         Paused: {paused}\n \
         Stopped: {stopped}\n\
         Images: {images}\n\
         Storage Driver: {}\n\
         Root Dir: {}\n\
         State Dir: {}\n\
         Cgroup Version: {}\n\
         Kernel Version: {}\n\
         Operating System: {}\n\
         Architecture: {}\n\
         CPUs: {}\n\
         Total Memory: {}\n\
         Name: {}\n",
        info.snapshotter,
        info.root,
        info.state,
        info.cgroup_version,
        info.kernel,
        info.os_name,
        info.arch,
        info.cpus,
        human::memory(info.memory),
        info.name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_indented_under_their_sum() {
        let info = api::InfoResponse {
            containers: 3,
            running: 2,
            stopped: 1,
            memory: 1 << 30,
            ..Default::default()
        };
        let text = show(&info);
        assert!(
            text.starts_with("Containers: 3\n Running: 2\n Paused: 0\n Stopped: 1\nImages: 0\n")
        );
        assert!(text.contains("Total Memory: 1GiB\n"));
    }
}
