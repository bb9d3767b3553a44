use gantry_core::architecture;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};

/// Show the versions of gantry and of gantryd
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Version of the API that this client speaks.
const API: &str = "gantry.engine.v1";

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let own = section(
            "Client",
            &[
                ("Version", env!("CARGO_PKG_VERSION")),
                ("API version", API),
                ("Git commit", option_env!("GANTRY_REVISION").unwrap_or_default()),
                ("OS/Arch", &format!("{}/{}", std::env::consts::OS, architecture())),
            ],
        );
        // Before the daemon is asked, so that it is there when the daemon is not.
        context.printer.data(own.as_bytes())?;
        let client = context.connect().await?;
        let daemon = client.answer(client.system().version(api::VersionRequest {}).await)?;
        let text = section(
            "Server",
            &[
                ("Version", &daemon.version),
                ("API version", &daemon.api_version),
                ("Git commit", &daemon.revision),
                ("OS/Arch", &format!("{}/{}", daemon.os, daemon.arch)),
                ("Kernel", &daemon.kernel),
            ],
        );
        context.printer.data(format!("\n{text}").as_bytes())?;
        Ok(SUCCESS)
    }
}

/// Lines under a title, without those that have nothing to say.
fn section(title: &str, lines: &[(&str, &str)]) -> String {
    let mut text = format!("{title}:\n");
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!(" {:<13}{value}\n", format!("{name}:")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_a_value_are_left_out() {
        let text = section("Client", &[("Version", "1"), ("Git commit", "")]);
        assert_eq!(text, "Client:\n Version:     1\n");
    }
}
