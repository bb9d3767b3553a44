use std::time::SystemTime;

use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::ContainerState as State;

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::human;
use crate::table::{self, ellipsis, quote, short_id};

/// Characters of a command that are shown.
const COMMAND: usize = 20;

/// List containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Those that do not run as well
    #[arg(short, long)]
    all: bool,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Show IDs and commands in full
    #[arg(long)]
    no_trunc: bool,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let request = api::ListContainersRequest { all: self.all };
        let listed = client.answer(client.containers().list(request).await)?;
        let text = self.show(&listed.containers, SystemTime::now());
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }

    fn show(&self, containers: &[api::Container], now: SystemTime) -> String {
        if self.quiet {
            return containers.iter().map(|c| format!("{}\n", self.id(c))).collect();
        }
        let rows: Vec<_> = containers.iter().map(|c| self.row(c, now)).collect();
        let headers = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
        table::render(headers, &rows)
    }

    fn row(&self, container: &api::Container, now: SystemTime) -> [String; 7] {
        let command = table::command_line(&container.command);
        [
            self.id(container).to_owned(),
            container.image.clone(),
            quote(&if self.no_trunc { command } else { ellipsis(&command, COMMAND) }),
            human::ago(human::time(container.created_at), now),
            status(container, now),
            String::new(),
            container.name.clone(),
        ]
    }

    fn id<'a>(&self, container: &'a api::Container) -> &'a str {
        if self.no_trunc { &container.id } else { short_id(&container.id) }
    }
}

/// What a container does, and since when.
fn status(container: &api::Container, now: SystemTime) -> String {
    let up = || human::since(human::time(container.started_at).unwrap_or_default(), now);
    match container.state() {
        State::Running => format!("Up {}", up()),
        State::Paused => format!("Up {} (Paused)", up()),
        State::Exited => {
            let ended = human::ago(human::time(container.finished_at), now);
            format!("Exited ({}) {ended}", container.exit_code)
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

    fn web() -> api::Container {
        api::Container {
            id: "4c01db0b339c".repeat(5) + "abcd",
            name: "web".to_owned(),
            image: "nginx:1.27".to_owned(),
            command: ["nginx", "-g", "daemon off;"].map(str::to_owned).to_vec(),
            created_at: at(1000),
            started_at: at(1010),
            state: State::Running.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_table_is_dockers() {
        let args = Args { all: true, quiet: false, no_trunc: false };
        let exited = api::Container {
            name: "job".to_owned(),
            image: "busybox".to_owned(),
            command: vec!["true".to_owned()],
            state: State::Exited.into(),
            exit_code: 3,
            finished_at: at(1185),
            ..web()
        };
        let now = UNIX_EPOCH + Duration::from_secs(1190);
        let text = args.show(&[web(), exited], now);
        let expected = "\
CONTAINER ID   IMAGE        COMMAND                  CREATED         STATUS                     PORTS     NAMES
4c01db0b339c   nginx:1.27   \"nginx -g 'daemon of…\"   3 minutes ago   Up 3 minutes                         web
4c01db0b339c   busybox      \"true\"                   3 minutes ago   Exited (3) 5 seconds ago             job
";
        assert_eq!(text, expected);
    }

    #[test]
    fn ids_alone_in_short_and_in_full() {
        let now = UNIX_EPOCH;
        let short = Args { all: false, quiet: true, no_trunc: false }.show(&[web()], now);
        assert_eq!(short, "4c01db0b339c\n");
        let full = Args { all: false, quiet: true, no_trunc: true }.show(&[web()], now);
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
    }
}
