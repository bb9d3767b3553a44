mod shown;

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap_complete::engine::ArgValueCandidates;
use gantry_core::{Error, Kind};
use gantry_grpc::gantry::engine::v1 as api;
use tonic::Streaming;

use crate::cli::Context;
use crate::client::{Client, Lost};
use crate::complete;
use crate::exit::{Outcome, SUCCESS};
use crate::moment::moment;
use crate::printer::Printer;
use shown::Shown;

/// Examples, behind the options.
const HELP: &str = "\
Examples:
  gantry logs web                 All that a container has said
  gantry logs -f -n 20 web        The last 20 lines, and what comes
  gantry logs -t web 2>/dev/null  Its standard output, with times
  gantry logs --since 10m web     What it has said in the last ten minutes
  gantry logs --since 2026-01-31T08:00 --until 2026-01-31T09:30 web

With -f it goes on where it was when the daemon has been away.";

/// A daemon that went away is waited for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to reach it; and so long lines wait for the end of one of the other stream.
const PAUSE: Duration = Duration::from_millis(200);

/// Show the output of a container
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Go on with output as it comes
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines: a number, or all
    #[arg(
        short = 'n',
        long,
        value_name = "LINES",
        default_value = "all",
        allow_negative_numbers = true
    )]
    tail: Tail,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Only lines since then: 2026-01-31T08:00:00, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only lines until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show labels and variables that are stored with the lines
    #[arg(long)]
    details: bool,
    /// Container, by name or ID
    #[arg(add = ArgValueCandidates::new(complete::containers))]
    container: String,
}

/// How many of the last lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tail(i64);

impl FromStr for Tail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<i64>() {
            _ if text == "all" => Ok(Self(-1)),
            Ok(lines) => Ok(Self(lines.max(-1))),
            Err(_) => Err("write a number, or all".to_owned()),
        }
    }
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let mut request = self.request()?;
        let mut shown = Shown::new(self.timestamps, self.details);
        let printer = context.printer;
        let mut client = context.connect().await?;
        // Since when nothing has come from the daemon.
        let mut silent = None;
        loop {
            let read = read(&client, &mut request, &mut shown, printer, &mut silent).await;
            shown.release();
            shown.flush(printer)?;
            let Err(error) = read else { return Ok(SUCCESS) };
            // What was shown could not be told from what was not.
            let unknown = request.cursor.is_empty() && !shown.is_new();
            if !self.follow || unknown || !is_lost(&error) {
                return Err(error);
            }
            let since = *silent.get_or_insert_with(Instant::now);
            client = again(&client, printer, since, error).await?;
        }
    }

    fn request(&self) -> anyhow::Result<api::LogsRequest> {
        let time = |option: &str, text: &Option<String>| {
            let time = text.as_deref().map(moment).transpose();
            let time = time.map_err(|why| anyhow!("invalid value for {option:?}: {why}"))?;
            anyhow::Ok(time.map(|t| prost_types::Timestamp { seconds: t.seconds, nanos: t.nanos }))
        };
        Ok(api::LogsRequest {
            container: self.container.clone(),
            follow: self.follow,
            tail: self.tail.0,
            since: time("since", &self.since)?,
            until: time("until", &self.until)?,
            details: self.details,
            cursor: String::new(),
            start_cursor: self.follow,
        })
    }
}

/// Shows a log from where it is to its end. The request goes along.
async fn read(
    client: &Client,
    request: &mut api::LogsRequest,
    shown: &mut Shown,
    printer: &Printer,
    silent: &mut Option<Instant>,
) -> anyhow::Result<()> {
    let mut entries = client.answer(client.containers().logs(request.clone()).await)?;
    while let Some(entry) = next(client, &mut entries, shown, printer).await? {
        *silent = None;
        if !entry.cursor.is_empty() {
            request.cursor.clone_from(&entry.cursor);
            request.start_cursor = false;
        }
        shown.add(&entry);
        if shown.is_full() {
            shown.flush(printer)?;
        }
    }
    Ok(())
}

/// The next entry; what came before is printed unless this one is there already.
async fn next(
    client: &Client,
    entries: &mut Streaming<api::LogEntry>,
    shown: &mut Shown,
    printer: &Printer,
) -> anyhow::Result<Option<api::LogEntry>> {
    tokio::select! {
        biased;
        entry = entries.message() => return client.taken(entry),
        () = std::future::ready(()) => {}
    }
    shown.flush(printer)?;
    if shown.holds() {
        if let Ok(entry) = tokio::time::timeout(PAUSE, entries.message()).await {
            return client.taken(entry);
        }
        shown.release();
        shown.flush(printer)?;
    }
    client.taken(entries.message().await)
}

/// Whether it is worth a try to go on.
fn is_lost(error: &anyhow::Error) -> bool {
    let unavailable = |error: &Error| error.kind() == Kind::Unavailable;
    error.is::<Lost>() || error.downcast_ref::<Error>().is_some_and(unavailable)
}

/// Waits for the same daemon to come back, and connects.
///
/// # Errors
/// It does not, in time.
async fn again(
    client: &Client,
    printer: &Printer,
    since: Instant,
    lost: anyhow::Error,
) -> anyhow::Result<Client> {
    let why = lost.downcast_ref::<Lost>().map(ToString::to_string);
    let why = why.unwrap_or_else(|| lost.to_string());
    printer.note(format_args!("gantry: {why}: waiting for it to come back"));
    while since.elapsed() < PATIENCE {
        tokio::time::sleep(PAUSE).await;
        if let Ok(client) = client.again().await {
            printer.note("gantry: connected again, the log goes on where it was");
            return Ok(client);
        }
    }
    Err(lost)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        let words = std::iter::once("logs").chain(line.iter().copied());
        Line::try_parse_from(words).unwrap().args
    }

    #[test]
    fn tails_are_numbers_or_all() {
        assert_eq!("all".parse(), Ok(Tail(-1)));
        assert_eq!("20".parse(), Ok(Tail(20)));
        assert_eq!("-5".parse(), Ok(Tail(-1)));
        assert!("x".parse::<Tail>().is_err());
        for line in [["-n", "3", "web"], ["--tail", "3", "web"], ["-n3", "--", "web"]] {
            assert_eq!(args(&line).tail, Tail(3));
        }
        assert_eq!(args(&["-n", "-1", "web"]).tail, Tail(-1));
    }

    #[test]
    fn times_are_sent() {
        let line = ["--since", "1136073845.5", "--until=10m", "--details", "web"];
        let request = args(&line).request().unwrap();
        let since = prost_types::Timestamp { seconds: 1_136_073_845, nanos: 500_000_000 };
        assert_eq!(request.since, Some(since));
        assert!(request.until.is_some_and(|until| until.seconds > since.seconds));
        assert!(request.details && !request.start_cursor && !request.follow);
        assert!(args(&["-f", "web"]).request().unwrap().start_cursor);
        let refused = args(&["--until", "yesterday", "web"]).request().unwrap_err().to_string();
        let words = "failed to parse value as time or duration: \"yesterday\"";
        assert_eq!(refused, format!("invalid value for \"until\": {words}"));
    }

    #[test]
    fn only_a_daemon_that_went_away_is_waited_for() {
        assert!(is_lost(&anyhow!(Error::unavailable("the daemon ends"))));
        assert!(!is_lost(&anyhow!(Error::not_found("No such container: x"))));
        assert!(!is_lost(&anyhow!("other")));
    }
}
