//! The command line, as containerd writes it for any shim.
//!
//! Flags are Go's: one dash or two, `-flag value` or `-flag=value`, and the
//! action comes last. An unknown flag is an error, since containerd only
//! passes flags that every shim knows.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::Environment;

/// What one invocation is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Start (or join) a shim and print its address.
    Start(Flags),
    /// Tear down what a dead shim left in its bundle.
    Delete(Flags),
    /// Say what this runtime is, as a `RuntimeInfo` message.
    Info,
    /// Print the version.
    Version,
    /// Print the usage.
    Help,
    /// Be a ready-made shim that waits on the inherited socket for its container.
    Warm(RawFd),
}

/// The flags of `start` and `delete`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Flags {
    /// `-namespace`.
    pub namespace: String,
    /// `-id`.
    pub id: String,
    /// `-address`: the daemon's gRPC socket.
    pub address: String,
    /// `-publish-binary`: accepted, events go over ttrpc.
    pub publish_binary: String,
    /// `-bundle`; the working directory when absent.
    pub bundle: Option<PathBuf>,
    /// `-debug`.
    pub debug: bool,
}

/// The text printed for `-h` and after a wrong command line.
pub const USAGE: &str = "usage: containerd-shim-gantry-v2 -namespace NS -id ID -address SOCKET \
[-publish-binary BIN] [-bundle DIR] [-debug] start|delete
       containerd-shim-gantry-v2 -info | -v | -warm FD";

/// Parses the arguments, without the program's name; `env` fills in for flags
/// that are absent.
///
/// # Errors
/// A text for the user: an unknown flag, a flag without its value, a missing
/// or unknown action.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: &Environment,
) -> Result<Command, String> {
    let mut flags = Flags {
        namespace: env.namespace.clone(),
        address: env.grpc_address.clone(),
        ..Flags::default()
    };
    let mut special = None;
    let mut action = None;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let arg = text(arg)?;
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            if let Some(first) = action.replace(arg.clone()) {
                return Err(format!("one action is expected, not {first:?} and {arg:?}"));
            }
            continue;
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        match name {
            "debug" => flags.debug = inline.as_deref().is_none_or(truthy),
            "info" => special = Some(Command::Info),
            "v" | "version" => special = Some(Command::Version),
            "h" | "help" => special = Some(Command::Help),
            "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket" | "warm" => {
                let value = match inline {
                    Some(value) => value,
                    None => {
                        text(args.next().ok_or_else(|| format!("flag -{name} needs a value"))?)?
                    }
                };
                match name {
                    "namespace" => flags.namespace = value,
                    "id" => flags.id = value,
                    "address" => flags.address = value,
                    "publish-binary" => flags.publish_binary = value,
                    "bundle" => flags.bundle = (!value.is_empty()).then(|| value.into()),
                    "warm" => special = Some(Command::Warm(descriptor(&value)?)),
                    // -socket belongs to containerd's own re-exec; ours forks.
                    _ => {}
                }
            }
            _ => return Err(format!("unknown flag -{name}")),
        }
    }
    if let Some(special) = special {
        return Ok(special);
    }
    let wrap = match action.as_deref() {
        Some("start") => Command::Start,
        Some("delete") => Command::Delete,
        Some(other) => return Err(format!("unknown action {other:?}")),
        None => return Err("an action is expected: start or delete".into()),
    };
    flags.check()?;
    Ok(wrap(flags))
}

impl Flags {
    fn check(&self) -> Result<(), String> {
        for (name, value) in [("namespace", &self.namespace), ("id", &self.id)] {
            if value.is_empty() {
                return Err(format!("flag -{name} is required"));
            }
            if value.contains(['/', '\0']) || value == "." || value == ".." {
                return Err(format!("flag -{name}: {value:?} is not a valid name"));
            }
        }
        Ok(())
    }
}

fn text(arg: OsString) -> Result<String, String> {
    String::from_utf8(arg.into_vec()).map_err(|e| format!("argument is not UTF-8: {e}"))
}

fn truthy(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn descriptor(value: &str) -> Result<RawFd, String> {
    match value.parse() {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(format!("flag -warm: {value:?} is not the number of an inherited socket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Command, String> {
        parse(line.split(' ').map(OsString::from), &Environment::default())
    }

    #[test]
    fn containerds_line() {
        let line =
            "-namespace default -address /run/c.sock -publish-binary /bin/c -id a.b -debug start";
        let Ok(Command::Start(flags)) = run(line) else { panic!("not a start") };
        let want = Flags {
            namespace: "default".into(),
            id: "a.b".into(),
            address: "/run/c.sock".into(),
            publish_binary: "/bin/c".into(),
            bundle: None,
            debug: true,
        };
        assert_eq!(flags, want);
    }

    #[test]
    fn two_dashes_and_equals() {
        let line = "--namespace=n --id=x --bundle=/b --debug=false delete";
        let Ok(Command::Delete(flags)) = run(line) else { panic!("not a delete") };
        assert_eq!(flags.bundle, Some("/b".into()));
        assert!(!flags.debug);
    }

    #[test]
    fn single_purpose_flags() {
        assert_eq!(run("-info"), Ok(Command::Info));
        assert_eq!(run("-v"), Ok(Command::Version));
        assert_eq!(run("-warm 3"), Ok(Command::Warm(3)));
        assert!(run("-warm x").is_err() && run("-warm -1").is_err());
    }

    #[test]
    fn refusals() {
        for line in [
            "-namespace n -id x",
            "-namespace n -id x stop",
            "-namespace n start",
            "-id x start",
            "-namespace n -id a/b start",
            "-namespace n -id .. start",
            "-namespace n -id x start delete",
            "-namespace n -id x -color start",
            "-namespace n start -id",
        ] {
            assert!(run(line).is_err(), "{line}");
        }
    }
}
