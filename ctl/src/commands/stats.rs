use std::io::{self, IsTerminal};

use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::format::{Columns, Field, Format, Row};
use crate::session::terminal;
use crate::table::short_id;
use crate::{complete, human};

/// Docker's fields.
const FIELDS: [Field; 9] = [
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
/// The usual ones.
const USUAL: [&str; 8] =
    ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"];
/// What stands for what can't be measured.
const UNKNOWN: &str = "--";

/// Examples, behind the options.
const HELP: &str = "\
Examples:
  gantry stats                     What all containers use, every second
  gantry stats --no-stream web db  Once, of two of them
  gantry stats --format '{{.Name}} {{.CPUPerc}}'";

/// Show what containers use: processors, memory, networks, devices
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Those that do not run as well
    #[arg(short, long)]
    all: bool,
    /// Show it once, not again and again
    #[arg(long)]
    no_stream: bool,
    /// Show IDs in full
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    format: Format,
    /// Containers, by name or ID; all that run without it
    #[arg(value_name = "CONTAINER", add = ArgValueCandidates::new(complete::running))]
    containers: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        // Before anything is asked: a template that is wrong shows at once.
        self.show(&[])?;
        let client = context.connect().await?;
        let request = api::StatsRequest {
            containers: self.containers.clone(),
            all: self.all,
            once: self.no_stream,
            interval: None,
        };
        let mut answers = client.answer(client.containers().stats(request).await)?;
        let screen = !self.no_stream && io::stdout().is_terminal();
        if screen {
            context.printer.data(b"\x1b[2J")?;
        }
        while let Some(answer) = client.taken(answers.message().await)? {
            let text = self.show(&answer.containers)?;
            if screen {
                let rows = terminal::size().map_or(usize::MAX, |(_, rows)| rows.into());
                context.printer.data(redrawn(&text, rows).as_bytes())?;
            } else {
                context.printer.data(text.as_bytes())?;
            }
        }
        Ok(SUCCESS)
    }

    fn show(&self, containers: &[api::ContainerStats]) -> anyhow::Result<String> {
        let rows: Vec<_> = containers.iter().map(|container| self.row(container)).collect();
        self.format.rows(Columns { fields: &FIELDS, usual: &USUAL }, &rows)
    }

    fn row(&self, stats: &api::ContainerStats) -> Row {
        let id = if self.no_trunc { &stats.id } else { short_id(&stats.id) };
        let mut row = Row::default();
        row.set("Container", id);
        row.set("ID", id);
        row.set("Name", stats.name.as_str());
        // Of one that does not run it is known what it uses.
        if stats.running && !stats.measured {
            for name in ["CPUPerc", "MemPerc", "NetIO", "BlockIO", "PIDs"] {
                row.set(name, UNKNOWN);
            }
            row.set("MemUsage", format!("{UNKNOWN} / {UNKNOWN}"));
            return row;
        }
        let (memory, limit) = (stats.memory, stats.memory_limit);
        let pair = |a, b| format!("{} / {}", human::size(a), human::size(b));
        row.set("CPUPerc", percent(stats.cpus));
        row.set("MemUsage", format!("{} / {}", human::memory(memory), human::memory(limit)));
        row.set("MemPerc", percent(memory as f64 / limit.max(1) as f64));
        row.set("NetIO", pair(stats.network_received, stats.network_sent));
        row.set("BlockIO", pair(stats.block_read, stats.block_written));
        row.set("PIDs", stats.pids.to_string());
        row
    }
}

/// A share of 1 with two decimals: `12.34%`.
fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// The text over what the screen shows. Of more lines than fit on it, the last says how many
/// are left out.
fn redrawn(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // The cursor stands in the line below.
    let room = rows.saturating_sub(1).max(1);
    let shown = if lines.len() > room { room - 1 } else { lines.len() };
    let mut drawn = String::from("\x1b[H");
    for line in &lines[..shown] {
        drawn.push_str(line);
        drawn.push_str("\x1b[K\n");
    }
    if shown < lines.len() {
        drawn.push_str(&format!("… and {} more\x1b[K\n", lines.len() - shown));
    }
    drawn.push_str("\x1b[J");
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> api::ContainerStats {
        api::ContainerStats {
            id: "4c01db0b339c".repeat(5) + "abcd",
            name: "web".to_owned(),
            running: true,
            measured: true,
            cpu_nanos: 7,
            cpus: 1.234_56,
            memory: 12 << 20,
            memory_limit: 8_219_766_784,
            network_received: 1234,
            network_sent: 0,
            block_read: 12_345_678,
            block_written: 4096,
            pids: 3,
        }
    }

    #[test]
    fn the_table_is_dockers() {
        let stopped = api::ContainerStats {
            id: "1".repeat(64),
            name: "job".to_owned(),
            ..Default::default()
        };
        let odd = api::ContainerStats { running: true, ..stopped.clone() };
        let text = Args::default().show(&[web(), stopped, odd]).unwrap();
        let expected = "\
CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O       BLOCK I/O        PIDS
4c01db0b339c   web       123.46%   12MiB / 7.655GiB    0.15%     1.23kB / 0B   12.3MB / 4.1kB   3
111111111111   job       0.00%     0B / 0B             0.00%     0B / 0B       0B / 0B          0
111111111111   job       --        -- / --             --        --            --               --
";
        assert_eq!(text, expected);
    }

    #[test]
    fn ids_in_full_and_templates() {
        let format = Format::of(Some("{{.Container}} {{.CPUPerc}}".to_owned()));
        let args = Args { no_trunc: true, format, ..Args::default() };
        assert_eq!(args.show(&[web()]).unwrap(), format!("{} 123.46%\n", web().id));
        assert!(Args { format: Format::of(Some("{{".to_owned())), ..args }.show(&[]).is_err());
    }

    #[test]
    fn a_screen_is_not_filled_twice() {
        assert_eq!(redrawn("a\nb\n", 24), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(
            redrawn("a\nb\nc\nd\n", 4),
            "\x1b[Ha\x1b[K\nb\x1b[K\n… and 2 more\x1b[K\n\x1b[J"
        );
        assert!(redrawn("a\nb\n", 1).contains("and 2 more"));
        assert_eq!(redrawn("a\n", usize::MAX), "\x1b[Ha\x1b[K\n\x1b[J");
    }
}
