use std::time::SystemTime;

use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::{ContainerState as State, HealthStatus as Health};

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::format::{Columns, Field, Format, Row};
use crate::table::{self, ellipsis, quote, short_id};
use crate::{human, ports};

/// Characters of a command that are shown.
const COMMAND: usize = 20;
/// Characters of a mount that are shown.
const MOUNT: usize = 15;

/// Docker's fields.
pub(crate) const FIELDS: [Field; 14] = [
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];
/// The usual ones; the last one goes with `--size`.
const USUAL: [&str; 8] =
    ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names", "Size"];

/// List containers
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Those that do not run as well
    #[arg(short, long)]
    all: bool,
    /// Only those that match: KEY=VALUE, such as status=exited, label=env, network=app-net or publish=80
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// The so many that were made last, whatever they do
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = -1, allow_negative_numbers = true, hide_default_value = true)]
    last: i64,
    /// The one that was made last, whatever it does
    #[arg(short, long)]
    latest: bool,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Show how much they have written
    #[arg(short, long)]
    size: bool,
    /// Show IDs and commands in full
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    format: Format,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let last = if self.latest { 1 } else { u32::try_from(self.last).unwrap_or(0) };
        let request = api::ListContainersRequest {
            all: self.all,
            filters: self.filter.clone(),
            last,
            size: !self.quiet && (self.size || self.format.wants("Size")),
        };
        let listed = client.answer(client.containers().list(request).await)?;
        if self.quiet && self.format.is_given() {
            let said = "Ignoring custom format, because both --format and --quiet are set.";
            context.printer.warning(said);
        }
        let text = self.show(&listed.containers, SystemTime::now())?;
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }

    fn show(&self, containers: &[api::Container], now: SystemTime) -> anyhow::Result<String> {
        if self.quiet {
            return Ok(containers.iter().map(|c| format!("{}\n", self.id(c))).collect());
        }
        let rows: Vec<_> = containers.iter().map(|c| self.row(c, now)).collect();
        let usual = if self.size { &USUAL[..] } else { &USUAL[..USUAL.len() - 1] };
        self.format.rows(Columns { fields: &FIELDS, usual }, &rows)
    }

    pub(crate) fn row(&self, container: &api::Container, now: SystemTime) -> Row {
        let command = table::command_line(&container.command);
        let cut = |text: &str, width| match self.no_trunc {
            true => text.to_owned(),
            false => ellipsis(text, width),
        };
        let mounts: Vec<_> = container.mounts.iter().map(|m| cut(m, MOUNT)).collect();
        let volumes = container.mounts.iter().filter(|mount| !mount.starts_with('/'));
        let mut row = Row::default();
        row.set("ID", self.id(container));
        row.set("Names", container.name.as_str());
        row.set("Image", container.image.as_str());
        row.set("Command", quote(&cut(&command, COMMAND)));
        row.set("CreatedAt", human::stamp(human::time(container.created_at)));
        row.set("RunningFor", human::ago(human::time(container.created_at), now));
        row.set("Ports", ports::listed(&container.ports));
        row.set("State", state(container.state()));
        row.set("Status", status(container, now));
        row.set("Size", size(container));
        row.set("Mounts", mounts.join(","));
        row.set("LocalVolumes", volumes.count().to_string());
        row.set("Networks", container.network.as_str());
        row.set_labels(&container.labels);
        row
    }

    fn id<'a>(&self, container: &'a api::Container) -> &'a str {
        if self.no_trunc { &container.id } else { short_id(&container.id) }
    }
}

/// What it has written, and what it has in all.
fn size(container: &api::Container) -> String {
    let written = human::size(container.size_rw.unwrap_or_default());
    match container.size_root {
        Some(all) if all > 0 => format!("{written} (virtual {})", human::size(all)),
        _ => written,
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Restarting => "restarting",
        State::Exited => "exited",
        State::Dead => "dead",
    }
}

/// What a container does, and since when.
fn status(container: &api::Container, now: SystemTime) -> String {
    let up = || human::since(human::time(container.started_at).unwrap_or_default(), now);
    match container.state() {
        State::Running => match container.health() {
            Health::None => format!("Up {}", up()),
            Health::Starting => format!("Up {} (health: starting)", up()),
            Health::Healthy => format!("Up {} (healthy)", up()),
            Health::Unhealthy => format!("Up {} (unhealthy)", up()),
        },
        State::Paused => format!("Up {} (Paused)", up()),
        State::Exited => {
            let ended = human::ago(human::time(container.finished_at), now);
            format!("Exited ({}) {ended}", container.exit_code)
        }
        State::Restarting => {
            let ended = human::ago(human::time(container.finished_at), now);
            format!("Restarting ({}) {ended}", container.exit_code)
        }
        State::Created => "Created".to_owned(),
        State::Dead => "Dead".to_owned(),
        State::Unspecified => "Unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn exposed(container_port: u32) -> api::Port {
        let protocol = api::PortProtocol::Tcp.into();
        api::Port { container_port, protocol, ..Default::default() }
    }

    fn web() -> api::Container {
        api::Container {
            id: "4c01db0b339c".repeat(5) + "abcd",
            name: "web".to_owned(),
            image: "nginx:1.27".to_owned(),
            command: ["nginx", "-g", "daemon off;"].map(str::to_owned).to_vec(),
            created_at: at(1000),
            started_at: at(1010),
            state: State::Running.into(),
            ports: vec![
                api::Port { host_ip: "0.0.0.0".to_owned(), host_port: 8080, ..exposed(80) },
                exposed(443),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn the_table_is_dockers() {
        let args = Args::default();
        let exited = api::Container {
            name: "job".to_owned(),
            image: "busybox".to_owned(),
            command: vec!["true".to_owned()],
            state: State::Exited.into(),
            exit_code: 3,
            finished_at: at(1185),
            ports: vec![],
            ..web()
        };
        let now = UNIX_EPOCH + Duration::from_secs(1190);
        let text = args.show(&[web(), exited], now).unwrap();
        let expected = "\
CONTAINER ID   IMAGE        COMMAND                  CREATED         STATUS                     PORTS                           NAMES
4c01db0b339c   nginx:1.27   \"nginx -g 'daemon of…\"   3 minutes ago   Up 3 minutes               443/tcp, 0.0.0.0:8080->80/tcp   web
4c01db0b339c   busybox      \"true\"                   3 minutes ago   Exited (3) 5 seconds ago                                   job
";
        assert_eq!(text, expected);
    }

    #[test]
    fn ids_alone_in_short_and_in_full() {
        let now = UNIX_EPOCH;
        let quiet = Args { quiet: true, ..Args::default() };
        assert_eq!(quiet.show(&[web()], now).unwrap(), "4c01db0b339c\n");
        // Unlike in other listings a template does not count, as with Docker.
        let format = Format::of(Some("{{.Names}}".to_owned()));
        let both = Args { format, ..quiet.clone() };
        assert_eq!(both.show(&[web()], now).unwrap(), "4c01db0b339c\n");
        let full = Args { no_trunc: true, ..quiet }.show(&[web()], now).unwrap();
        assert_eq!(full.len(), 65);
    }

    #[test]
    fn every_state_has_a_status() {
        let now = UNIX_EPOCH + Duration::from_secs(1070);
        let of = |state: State| status(&api::Container { state: state.into(), ..web() }, now);
        assert_eq!(of(State::Running), "Up About a minute");
        assert_eq!(of(State::Paused), "Up About a minute (Paused)");
        assert_eq!(of(State::Created), "Created");
        assert_eq!(of(State::Exited), "Exited (0) N/A");
        assert_eq!(of(State::Dead), "Dead");
        assert_eq!(of(State::Restarting), "Restarting (0) N/A");
        let healthy = api::Container { health: Health::Healthy.into(), ..web() };
        assert_eq!(status(&healthy, now), "Up About a minute (healthy)");
    }
}
