//! The processes of a container, as ps(1) of the host shows them.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;

use gantry_core::{Context, Error, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;
use tokio::process::Command;

use crate::Engine;
use crate::lifecycle::running;
use crate::scope;

/// What ps(1) shows unless asked otherwise.
const USUAL: &str = "-ef";
/// How long it may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A table of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// Titles of the columns.
    pub titles: Vec<String>,
    /// The processes, a value for each title.
    pub rows: Vec<Vec<String>>,
}

impl Engine {
    /// Lists a container's processes with these options of ps(1).
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it does not run or the host has no ps(1);
    /// `InvalidArgument` for options that ps(1) refuses or that show no column `PID`;
    /// `PermissionDenied` for those by which a limited client could see other processes.
    pub async fn top(&self, ctx: &Context, text: &str, options: &[String]) -> Result<Processes> {
        if let Some(option) = options.iter().find(|option| pretends(option)) {
            let text = format!("specifying {option:?} is not allowed");
            return Err(Error::invalid_argument(text));
        }
        let found = running(self.find(ctx, text).await?, text, "list processes of")?;
        let tasks = &self.parts.tasks;
        let pids = tokio::time::timeout(LIMIT, tasks.pids(ctx, &found.container.id)).await;
        let pids = pids.map_err(|_| too_long(text, "its shim does not answer"))??;
        let pids: HashSet<u32> = pids.into_iter().map(|(pid, _)| pid).collect();
        let processes = select(&ps(text, options).await?, &pids)?;
        scope::admit_columns(ctx, options, &processes.titles)?;
        self.tell_of(ctx, Action::Top, &found, &[]);
        Ok(processes)
    }
}

/// Whether another column gets the header of process IDs: by its values, processes of the host
/// would be taken for the container's.
fn pretends(option: &str) -> bool {
    let mut words = option.split(|c: char| c.is_whitespace() || matches!(c, ',' | '='));
    let honest = matches!(option, "pid=PID" | "-opid=PID" | "opid=PID");
    option.contains('=') && !honest && words.any(|word| word == "PID")
}

fn too_long(text: &str, why: &str) -> Error {
    Error::new(
        gantry_core::Kind::DeadlineExceeded,
        format!("list processes of container {text}: {why}: try again"),
    )
}

async fn ps(text: &str, options: &[String]) -> Result<String> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg(USUAL);
    }
    command.args(options).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(err)) => {
            let text = "list processes: run ps (package procps) on the daemon's host";
            return Err(Error::failed_precondition(text).with_source(err));
        }
        Err(_) => return Err(too_long(text, "ps does not end")),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // It says nothing when it finds no process, as without `a` or `-e` and a terminal.
        let nothing = "no process is listed: allowed are such as -ef, aux and -eo pid,args";
        let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or(nothing);
        return Err(Error::invalid_argument(format!("ps {}: {said}", options.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The lines of these processes. The last column may have blanks in it.
fn select(table: &str, pids: &HashSet<u32>) -> Result<Processes> {
    let mut lines = table.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(Error::invalid_argument("Couldn't find PID field in ps output"));
    };
    let mut rows = Vec::new();
    for line in lines {
        let mut values: Vec<&str> = line.split_whitespace().collect();
        let pid = values.get(column).and_then(|pid| pid.parse().ok());
        if !pid.is_some_and(|pid| pids.contains(&pid)) {
            continue;
        }
        let rest = if values.len() > titles.len() {
            values.split_off(titles.len() - 1).join(" ")
        } else {
            String::new()
        };
        let mut row: Vec<String> = values.into_iter().map(str::to_owned).collect();
        if !rest.is_empty() {
            row.push(rest);
        }
        row.resize(titles.len(), String::new());
        rows.push(row);
    }
    Ok(Processes { titles, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_columns_are_not_taken_for_process_ids() {
        for honest in ["-ef", "pid,args", "pid=PID", "ppid=PARENT,pid", "pid=MYPID", "PID"] {
            assert!(!pretends(honest), "{honest}");
        }
        for bad in ["uid=PID", "-ouid=PID", "--format=uid=PID", "a=b,uid=PID", "uid=x PID"] {
            assert!(pretends(bad), "{bad}");
        }
    }

    #[test]
    fn lines_of_the_container() {
        let table = "UID  PID PPID CMD\nroot   7    1 sleep 10 x\nroot   8    1 other\nroot 9 1\n";
        let found = select(table, &HashSet::from([7, 9])).unwrap();
        assert_eq!(found.titles, ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(found.rows[0], ["root", "7", "1", "sleep 10 x"]);
        assert_eq!(found.rows[1], ["root", "9", "1", ""]);
        assert_eq!(found.rows.len(), 2);
        assert!(select("USER CMD\n", &HashSet::new()).is_err());
    }
}
