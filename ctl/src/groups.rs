//! Docker's groups of commands: `gantry container ls` is `gantry ps`.
//!
//! A command is defined once, under its own name. A line that names it in a group is rewritten
//! before it is understood, which costs lines without groups nothing. Help, manual pages and
//! completions come from a definition in which the groups are complete.

use std::borrow::Cow;
use std::ffi::OsString;

use clap::Command;

/// A command in a group.
struct Member {
    group: &'static str,
    /// Its names there, the usual one first.
    names: &'static [&'static str],
    /// What it stands for: a command's own name, with options.
    words: &'static [&'static str],
}

const fn member(
    group: &'static str,
    names: &'static [&'static str],
    words: &'static [&'static str],
) -> Member {
    Member { group, names, words }
}

/// One whose name in a group is its own.
macro_rules! same {
    ($group:literal, $name:literal) => {
        member($group, &[$name], &[$name])
    };
}

/// All of them, but for those that are in a group alone. Those that are not there are passed over.
const MEMBERS: [Member; 31] = [
    same!("container", "attach"),
    same!("container", "cp"),
    same!("container", "create"),
    same!("container", "diff"),
    same!("container", "exec"),
    same!("container", "export"),
    member("container", &["inspect"], &["inspect", "--type=container"]),
    same!("container", "kill"),
    same!("container", "logs"),
    member("container", &["ls", "list", "ps"], &["ps"]),
    same!("container", "pause"),
    same!("container", "port"),
    same!("container", "rename"),
    same!("container", "restart"),
    member("container", &["rm", "remove"], &["rm"]),
    same!("container", "run"),
    same!("container", "start"),
    same!("container", "stats"),
    same!("container", "stop"),
    same!("container", "top"),
    same!("container", "unpause"),
    same!("container", "update"),
    same!("container", "wait"),
    same!("image", "history"),
    member("image", &["inspect"], &["inspect", "--type=image"]),
    member("image", &["ls", "list"], &["images"]),
    same!("image", "pull"),
    same!("image", "push"),
    member("image", &["rm", "remove"], &["rmi"]),
    same!("system", "events"),
    same!("system", "info"),
];

/// The line with the command itself in place of a group and a name in it. `global` defines the
/// options that may stand before a command.
pub(crate) fn rewritten(
    line: &[OsString],
    global: impl FnOnce() -> Command,
) -> Cow<'_, [OsString]> {
    rewrite(line, global).map_or(Cow::Borrowed(line), Cow::Owned)
}

fn rewrite(line: &[OsString], global: impl FnOnce() -> Command) -> Option<Vec<OsString>> {
    // Most lines are none of these.
    let is_group = |word: &OsString| MEMBERS.iter().any(|member| word == member.group);
    if !line.iter().any(is_group) {
        return None;
    }
    let (group, name) = words(line, &global())?;
    let is_it = |member: &&Member| {
        line[group] == *member.group && member.names.iter().any(|own| line[name] == **own)
    };
    let member = MEMBERS.iter().find(is_it)?;
    let mut all = line[..group].to_vec();
    all.extend(member.words.iter().map(OsString::from));
    all.extend_from_slice(&line[group + 1..name]);
    all.extend_from_slice(&line[name + 1..]);
    Some(all)
}

/// Where the first two words of a line are that belong to no option.
fn words(line: &[OsString], global: &Command) -> Option<(usize, usize)> {
    let mut first = None;
    let mut at = 1;
    while let Some(word) = line.get(at) {
        let word = word.to_str()?;
        match word.strip_prefix('-') {
            Some(option) if !option.is_empty() => at += 1 + usize::from(has_value(option, global)),
            _ => match first {
                None => {
                    first = Some(at);
                    at += 1;
                }
                Some(first) => return Some((first, at)),
            },
        }
    }
    None
}

/// Whether the word behind an option is its value.
fn has_value(option: &str, global: &Command) -> bool {
    let mut options = global.get_arguments().filter(|arg| arg.get_action().takes_values());
    match option.strip_prefix('-') {
        Some(long) => options.any(|arg| arg.get_long() == Some(long)),
        None => {
            let mut letters = option.chars();
            let letter = letters.next();
            letters.next().is_none() && options.any(|arg| arg.get_short() == letter)
        }
    }
}

/// Puts the commands of groups into them.
pub(crate) fn complete(command: Command) -> Command {
    MEMBERS.iter().fold(command, |command, member| {
        let own = command.find_subcommand(member.words[0]).cloned();
        let (Some(own), Some((name, aliases))) = (own, member.names.split_first()) else {
            return command;
        };
        if command.find_subcommand(member.group).is_none() {
            return command;
        }
        let own = own.name(*name).aliases(aliases.iter().copied()).display_order(0);
        command.mut_subcommand(member.group, |group| group.subcommand(own))
    })
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn global() -> Command {
        let address = Arg::new("address").long("address").global(true);
        let namespace = Arg::new("namespace").long("namespace").short('n').global(true);
        Command::new("gantry").arg(address).arg(namespace)
    }

    fn told(line: &str) -> String {
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let words = rewritten(&line, global);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn commands_in_groups_are_those_outside() {
        for (line, own) in [
            ("gantry container ls -a", "gantry ps -a"),
            ("gantry container list", "gantry ps"),
            ("gantry container run -it x container ls", "gantry run -it x container ls"),
            ("gantry image rm a b", "gantry rmi a b"),
            ("gantry image inspect x", "gantry inspect --type=image x"),
            ("gantry -n a --address b container ls", "gantry -n a --address b ps"),
            ("gantry --address=b container -n a ls", "gantry --address=b ps -n a"),
            ("gantry -na container ls", "gantry -na ps"),
            ("gantry system info", "gantry info"),
        ] {
            assert_eq!(told(line), own);
        }
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        for line in [
            "gantry",
            "gantry ps",
            "gantry container",
            "gantry container --help",
            "gantry container prune -f",
            "gantry container nope",
            "gantry image ps",
            "gantry exec container ls",
            "gantry -n container ls",
            "gantry system df",
            "gantry help container ls",
        ] {
            assert_eq!(told(line), line);
        }
    }

    #[test]
    fn groups_are_complete_for_help() {
        let ps = Command::new("ps").alias("list-them").about("List");
        let container = Command::new("container").subcommand(Command::new("prune"));
        let whole = complete(Command::new("gantry").subcommand(ps).subcommand(container));
        let group = whole.find_subcommand("container").unwrap();
        let names: Vec<_> = group.get_subcommands().map(Command::get_name).collect();
        assert_eq!(names, ["prune", "ls"]);
        let ls = group.find_subcommand("list").unwrap();
        assert_eq!(ls.get_about().map(ToString::to_string).as_deref(), Some("List"));
        whole.debug_assert();
    }
}
