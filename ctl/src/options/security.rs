//! What a container may do, and which namespaces it shares.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use gantry_grpc::gantry::engine::v1 as api;

use crate::switches;

/// Options about security.
#[derive(Debug, Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct Security {
    /// Let it do all that the host's root may
    #[arg(long)]
    privileged: bool,
    /// Give it a capability: NET_ADMIN, or ALL (several)
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away (several)
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined (several)
    #[arg(long, value_name = "OPTION", value_parser = choice)]
    security_opt: Vec<Choice>,
    /// Further group of its user, by name or ID (several)
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Processes that it sees: host, container:NAME
    #[arg(long, value_name = "NAMESPACE", value_parser = pid)]
    pid: Option<String>,
    /// Shared memory that it sees: private, shareable, none, host, container:NAME
    #[arg(long, value_name = "NAMESPACE", value_parser = ipc)]
    ipc: Option<String>,
    /// Host name that it sees: host
    #[arg(long, value_name = "NAMESPACE", value_parser = uts)]
    uts: Option<String>,
    /// Users that it knows: host
    #[arg(long, value_name = "NAMESPACE", value_parser = userns)]
    userns: Option<String>,
    /// Cgroups that it sees: private, host
    #[arg(long, value_name = "NAMESPACE", value_parser = cgroupns)]
    cgroupns: Option<String>,
}

/// A choice of `--security-opt`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    NoNewPrivileges(bool),
    /// The usual profile, whatever was said before.
    UsualSeccomp,
    NoSeccomp,
    Seccomp(PathBuf),
    UnconfinedPaths,
    /// As it is anyway.
    Nothing,
}

impl Security {
    /// Adds them to what a container is made from.
    ///
    /// # Errors
    /// When a profile can't be read.
    pub(super) fn add_to(self, spec: &mut api::ContainerSpec) -> anyhow::Result<()> {
        let mut security = api::Security {
            privileged: self.privileged,
            cap_add: self.cap_add,
            cap_drop: self.cap_drop,
            ..Default::default()
        };
        for choice in &self.security_opt {
            match choice {
                Choice::NoNewPrivileges(value) => security.no_new_privileges = *value,
                Choice::UsualSeccomp => security.seccomp.clear(),
                Choice::NoSeccomp => security.seccomp = "unconfined".to_owned(),
                Choice::Seccomp(path) => security.seccomp = profile(path)?,
                Choice::UnconfinedPaths => security.unconfined_paths = true,
                Choice::Nothing => {}
            }
        }
        spec.security = Some(security);
        spec.groups = self.group_add;
        spec.namespaces = Some(api::Namespaces {
            pid: self.pid.unwrap_or_default(),
            ipc: self.ipc.unwrap_or_default(),
            uts: self.uts.unwrap_or_default(),
            user: self.userns.unwrap_or_default(),
            cgroup: self.cgroupns.unwrap_or_default(),
        });
        Ok(())
    }
}

/// The client's file: the daemon may be on another machine.
fn profile(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("opening seccomp profile ({}) failed", path.display()))
}

/// Reads `KEY[=VALUE]`, or `KEY:VALUE` as users wrote it once.
fn choice(text: &str) -> Result<Choice, String> {
    let invalid = || format!("invalid --security-opt: {text:?}");
    let (key, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
        Some((key, value)) => (key, value),
        None if text == "no-new-privileges" => (text, "true"),
        None => return Err(invalid()),
    };
    match (key, value) {
        (_, "") => Err(invalid()),
        ("no-new-privileges", value) => {
            switches::truth(value).map(Choice::NoNewPrivileges).map_err(|_| invalid())
        }
        ("seccomp", "builtin") => Ok(Choice::UsualSeccomp),
        ("seccomp", "unconfined") => Ok(Choice::NoSeccomp),
        ("seccomp", path) => Ok(Choice::Seccomp(path.into())),
        ("systempaths", "unconfined") => Ok(Choice::UnconfinedPaths),
        ("apparmor", "unconfined") | ("label", "disable") => Ok(Choice::Nothing),
        ("apparmor", _) => Err("profiles of AppArmor are not supported".to_owned()),
        ("label", _) => Err("labels of SELinux are not supported".to_owned()),
        _ => Err(format!("{}: no-new-privileges, seccomp and systempaths are known", invalid())),
    }
}

fn pid(text: &str) -> Result<String, String> {
    namespace(text, &["", "host"], true).ok_or_else(|| "--pid: invalid PID mode".to_owned())
}

fn ipc(text: &str) -> Result<String, String> {
    let known = ["", "none", "private", "shareable", "host"];
    namespace(text, &known, true).ok_or_else(|| format!("--ipc: invalid IPC mode: {text}"))
}

fn uts(text: &str) -> Result<String, String> {
    namespace(text, &["", "host"], false).ok_or_else(|| "--uts: invalid UTS mode".to_owned())
}

fn userns(text: &str) -> Result<String, String> {
    namespace(text, &["", "host"], false).ok_or_else(|| "--userns: invalid USER mode".to_owned())
}

fn cgroupns(text: &str) -> Result<String, String> {
    let known = ["", "private", "host"];
    namespace(text, &known, false).ok_or_else(|| "--cgroupns: invalid CGROUP mode".to_owned())
}

/// One of those that are known, or that of a container where it can be shared.
fn namespace(text: &str, known: &[&str], shared: bool) -> Option<String> {
    let container = text.strip_prefix("container:").filter(|name| !name.is_empty());
    (known.contains(&text) || shared && container.is_some()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn spec(line: &[&str]) -> anyhow::Result<api::ContainerSpec> {
        let command = Security::augment_args(clap::Command::new("x").no_binary_name(true));
        let matches = command.try_get_matches_from(line)?;
        let mut spec = api::ContainerSpec::default();
        Security::from_arg_matches(&matches)?.add_to(&mut spec)?;
        Ok(spec)
    }

    fn security(options: &[&str]) -> anyhow::Result<api::Security> {
        let line: Vec<_> = options.iter().flat_map(|option| ["--security-opt", *option]).collect();
        Ok(spec(&line)?.security.unwrap_or_default())
    }

    #[test]
    fn options_of_security() {
        for option in ["no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"] {
            assert!(security(&[option]).unwrap().no_new_privileges, "{option}");
        }
        let off = ["no-new-privileges", "no-new-privileges=false"];
        assert!(!security(&off).unwrap().no_new_privileges);
        assert_eq!(security(&["seccomp=unconfined"]).unwrap().seccomp, "unconfined");
        assert_eq!(security(&["seccomp=unconfined", "seccomp=builtin"]).unwrap().seccomp, "");
        assert!(security(&["systempaths=unconfined"]).unwrap().unconfined_paths);
        let nothing = ["apparmor=unconfined", "apparmor:unconfined", "label=disable"];
        assert_eq!(security(&nothing).unwrap(), api::Security::default());
    }

    #[test]
    fn a_profile_is_read_here() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile=1:2.json");
        std::fs::write(&path, "{\"defaultAction\": \"SCMP_ACT_ALLOW\"}").unwrap();
        let option = format!("seccomp={}", path.display());
        let made = security(&[&option]).unwrap();
        assert_eq!(made.seccomp, "{\"defaultAction\": \"SCMP_ACT_ALLOW\"}");
        let refused = security(&["seccomp=/no/such"]).unwrap_err();
        assert_eq!(refused.to_string(), "opening seccomp profile (/no/such) failed");
    }

    #[test]
    fn other_options_are_refused_by_name() {
        for (option, said) in [
            ("nope", "invalid --security-opt: \"nope\""),
            ("seccomp=", "invalid --security-opt: \"seccomp=\""),
            ("no-new-privileges=maybe", "invalid --security-opt: \"no-new-privileges=maybe\""),
            ("systempaths=x", "no-new-privileges, seccomp and systempaths are known"),
            ("apparmor=docker-default", "profiles of AppArmor are not supported"),
            ("label=type:svirt_t", "labels of SELinux are not supported"),
        ] {
            let error = security(&[option]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn namespaces() {
        let made = spec(&[
            "--pid=container:a",
            "--ipc",
            "shareable",
            "--uts=host",
            "--userns=host",
            "--cgroupns=private",
        ]);
        let made = made.unwrap().namespaces.unwrap();
        assert_eq!((made.pid.as_str(), made.ipc.as_str()), ("container:a", "shareable"));
        assert_eq!((made.uts.as_str(), made.user.as_str()), ("host", "host"));
        assert_eq!(made.cgroup, "private");
        for (flag, said) in [
            ("--pid=private", "--pid: invalid PID mode"),
            ("--pid=container:", "--pid: invalid PID mode"),
            ("--ipc=x", "--ipc: invalid IPC mode: x"),
            ("--uts=container:a", "--uts: invalid UTS mode"),
            ("--userns=keep-id", "--userns: invalid USER mode"),
            ("--cgroupns=x", "--cgroupns: invalid CGROUP mode"),
        ] {
            let error = spec(&[flag]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
