use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::complete;
use crate::exit::{Outcome, SUCCESS};
use crate::table::plain;

/// Narrowest column.
const NARROWEST: usize = 20;
/// Space between two columns.
const PADDING: usize = 3;

/// List the processes of a container
#[derive(Debug, clap::Args)]
#[command(
    after_help = "\
Examples:
  gantry top web                  As ps -ef shows them
  gantry top web -o pid,rss,args  As options of ps say",
    override_usage = "gantry top CONTAINER [OPTION OF PS]..."
)]
pub(crate) struct Args {
    /// Container, then options of ps
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_names = ["CONTAINER", "OPTION"],
        num_args = 1..,
        add = ArgValueCandidates::new(complete::running)
    )]
    command_line: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let mut words = self.command_line.into_iter();
        let container = words.next().unwrap_or_default();
        let request = api::TopRequest { container, ps_args: words.collect() };
        let answer = client.answer(client.containers().top(request).await)?;
        let rows = answer.processes.into_iter().map(|process| process.values);
        let lines: Vec<_> = [answer.titles].into_iter().chain(rows).collect();
        context.printer.data(show(&lines).as_bytes())?;
        Ok(SUCCESS)
    }
}

/// Sets lines in columns as Docker does. The last one is not padded.
fn show(lines: &[Vec<String>]) -> String {
    let cells = |line: &Vec<String>| -> Vec<String> { line.iter().map(|c| plain(c)).collect() };
    let lines: Vec<Vec<String>> = lines.iter().map(cells).collect();
    let mut widths = Vec::new();
    for line in &lines {
        widths.resize(widths.len().max(line.len()), NARROWEST);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count() + PADDING);
        }
    }
    let mut text = String::new();
    for line in lines {
        let last = line.len().saturating_sub(1);
        for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let width = if index < last { *width } else { 0 };
            text.push_str(&format!("{cell:<width$}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_dockers() {
        let lines = [["UID", "PID", "CMD"], ["root", "123456789012345678", "sleep 1"]];
        let lines = lines.map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(
            show(&lines),
            "UID                 PID                  CMD\n\
             root                123456789012345678   sleep 1\n"
        );
        assert_eq!(show(&[]), "");
    }
}
