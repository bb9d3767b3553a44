use gantry_core::architecture;
use gantry_grpc::gantry::engine::v1 as api;
use serde_json::{Value, json};

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::format::Format;

/// Show the versions of gantry and of gantryd
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print them with a Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// Version of the API that this client speaks.
const API: &str = "gantry.engine.v1";
/// Commit that this client was built from.
const REVISION: Option<&str> = option_env!("GANTRY_REVISION");

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let format = Format::of(self.format);
        if !format.is_given() {
            // Before the daemon is asked, so that it is there when the daemon is not.
            context.printer.data(own().as_bytes())?;
        }
        let daemon = match daemon(context).await {
            Ok(daemon) => daemon,
            Err(error) => {
                // What does not need it is told nevertheless.
                if let Ok(Some(text)) = format.object(&object(None)) {
                    context.printer.data(text.as_bytes())?;
                }
                return Err(error);
            }
        };
        let text = match format.object(&object(Some(&daemon)))? {
            Some(text) => text,
            None => format!("\n{}", server(&daemon)),
        };
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }
}

/// The daemon's own version.
async fn daemon(context: Context<'_>) -> anyhow::Result<api::VersionResponse> {
    let client = context.connect().await?;
    client.answer(client.system().version(api::VersionRequest {}).await)
}

fn own() -> String {
    let platform = format!("{}/{}", std::env::consts::OS, architecture());
    let lines: [(&str, &str); 4] = [
        ("Version", env!("CARGO_PKG_VERSION")),
        ("API version", API),
        ("Git commit", REVISION.unwrap_or_default()),
        ("OS/Arch", &platform),
    ];
    section("Client", 1, &lines)
}

fn server(daemon: &api::VersionResponse) -> String {
    let platform = format!("{}/{}", daemon.os, daemon.arch);
    let lines: [(&str, &str); 6] = [
        ("Version", &daemon.version),
        ("API version", &daemon.api_version),
        ("Git commit", &daemon.revision),
        ("OS/Arch", &platform),
        ("Kernel", &daemon.kernel),
        ("Experimental", "false"),
    ];
    format!("Server:\n{}", section(" Engine", 2, &lines))
}

/// Lines under a title, without those that have nothing to say.
fn section(title: &str, indent: usize, lines: &[(&str, &str)]) -> String {
    /// Where values begin.
    const COLUMN: usize = 20;
    let mut text = format!("{title}:\n");
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let name = format!("{:indent$}{name}:", "");
        text.push_str(&format!("{name:<COLUMN$}{value}\n"));
    }
    text
}

/// With Docker's field names; without a daemon there is no server.
fn object(daemon: Option<&api::VersionResponse>) -> Value {
    json!({
        "Client": {
            "Version": env!("CARGO_PKG_VERSION"),
            "ApiVersion": API,
            "APIVersion": API,
            "DefaultAPIVersion": API,
            "GitCommit": REVISION.unwrap_or_default(),
            "Os": std::env::consts::OS,
            "Arch": architecture(),
        },
        "Server": daemon.map(engine),
    })
}

fn engine(daemon: &api::VersionResponse) -> Value {
    let api::VersionResponse { version, revision, api_version, os, arch, kernel } = daemon;
    json!({
        "Platform": {"Name": "Gantry"},
        "Version": version,
        "ApiVersion": api_version,
        "APIVersion": api_version,
        "GitCommit": revision,
        "Os": os,
        "Arch": arch,
        "KernelVersion": kernel,
        "Components": [{"Name": "Engine", "Version": version}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon() -> api::VersionResponse {
        api::VersionResponse {
            version: "0.1.0".to_owned(),
            api_version: "1.0".to_owned(),
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            kernel: "6.1.0".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn lines_are_dockers() {
        let expected = "\
Server:
 Engine:
  Version:          0.1.0
  API version:      1.0
  OS/Arch:          linux/amd64
  Kernel:           6.1.0
  Experimental:     false
";
        assert_eq!(server(&daemon()), expected);
        assert!(own().starts_with("Client:\n Version:           "), "{}", own());
    }

    #[test]
    fn fields_are_dockers() {
        let format = Format::of(Some("{{.Server.Version}} {{.Server.Os}}".to_owned()));
        let shown = format.object(&object(Some(&daemon()))).unwrap();
        assert_eq!(shown.as_deref(), Some("0.1.0 linux\n"));
        assert!(format.object(&object(None)).is_err(), "there is no server");
        let own = Format::of(Some("{{.Client.Os}}".to_owned()));
        assert_eq!(own.object(&object(None)).unwrap().as_deref(), Some("linux\n"));
    }
}
