//! The process of a specification, and its user.

use gantry_core::{Error, Result};
use serde_json::{Value, json};

use super::SpecInput;
use super::places::INIT;
use crate::host::ulimits;
use crate::make::merge;

/// The section of a container's first process. `oom_score` is the usual one.
pub(super) fn process(
    input: &SpecInput<'_>,
    capabilities: &[&str],
    oom_score: Option<i32>,
) -> Value {
    let settings = input.settings;
    let flags = &settings.flags;
    let edits = &input.devices.edits;
    let mut args: Vec<&str> = Vec::new();
    if settings.has_init() {
        args.extend([INIT, "--"]);
    }
    args.extend(settings.args().map(String::as_str));
    let mut process = json!({
        "terminal": settings.tty,
        "user": user(&settings.user, &flags.groups, &edits.groups),
        "args": args,
        "env": settings.env,
        "cwd": settings.working_dir,
        "capabilities": sets(capabilities),
    });
    if !edits.env.is_empty() {
        let mut env = settings.env.clone();
        edits.env.iter().for_each(|entry| merge(&mut env, entry));
        process["env"] = json!(env);
    }
    if let Some(size) = input.size.filter(|_| settings.tty) {
        process["consoleSize"] = json!({"height": size.rows, "width": size.columns});
    }
    // Set to false it would mean that a filter is loaded too late to be allowed.
    if flags.security.no_new_privileges {
        process["noNewPrivileges"] = true.into();
    }
    if !flags.ulimits.is_empty() {
        process["rlimits"] = ulimits::rlimits(&flags.ulimits);
    }
    if let Some(score) = flags.oom_score_adj.or(oom_score) {
        process["oomScoreAdj"] = score.into();
    }
    process
}

/// The sets of capabilities: none is inheritable or ambient.
fn sets(capabilities: &[&str]) -> Value {
    json!({
        "bounding": capabilities,
        "effective": capabilities,
        "permitted": capabilities,
    })
}

/// Gives a further process all that can be given.
pub(crate) fn privileged(process: &mut Value, capabilities: &[&str]) {
    process["capabilities"] = sets(capabilities);
}

/// Refuses IDs of users and groups that the system has not. Names are the shim's to look up.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_user(user: &str) -> Result<()> {
    for id in user.splitn(2, ':') {
        let digits = id.strip_prefix(['-', '+']).unwrap_or(id);
        let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if numeric && !id.parse::<i32>().is_ok_and(|id| id >= 0) {
            return Err(Error::invalid_argument(format!(
                "user {user:?}: uids and gids must be in range 0-{}",
                i32::MAX
            )));
        }
    }
    Ok(())
}

/// The user as it was written: the shim looks it up in the container's own
/// files, with its further groups. Those that are numbers are told at once.
fn user(user: &str, groups: &[String], more: &[u32]) -> Value {
    let name = if user.is_empty() { "0" } else { user };
    let mut made = json!({"uid": 0, "gid": 0, "username": name});
    let numbers: Vec<u32> =
        groups.iter().filter_map(|group| number(group)).chain(more.iter().copied()).collect();
    if !numbers.is_empty() {
        made["additionalGids"] = json!(numbers);
    }
    made
}

/// Groups that are names.
pub(super) fn named(groups: &[String]) -> impl Iterator<Item = &str> {
    groups.iter().map(String::as_str).filter(|group| number(group).is_none())
}

/// The numbers of a user that is given by them.
pub(super) fn numbers(user: &str) -> (Option<u32>, Option<u32>) {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    (number(user), number(group))
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}
