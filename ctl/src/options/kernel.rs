//! What the kernel holds a container to from its start on.

use anyhow::bail;
use clap::Args;
use gantry_grpc::gantry::engine::v1 as api;

/// Limits of processes that have a name.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Options that stay as they are while a container lives.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Kernel {
    /// How willingly it is swapped out: 0 to 100
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    memory_swappiness: Option<i64>,
    /// Don't kill its processes when it is short of memory
    #[arg(long)]
    oom_kill_disable: bool,
    /// How willingly the kernel kills it: -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// Limit of its processes: nofile=1024:2048 (several)
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    ulimit: Vec<api::Ulimit>,
    /// Setting of the kernel: net.core.somaxconn=1024
    #[arg(long, value_name = "NAME=VALUE", value_parser = sysctl)]
    sysctl: Vec<(String, String)>,
    /// Cgroup below which it gets its own
    #[arg(long, value_name = "CGROUP")]
    cgroup_parent: Option<String>,
}

impl Kernel {
    /// Adds them to what a container is made from.
    ///
    /// # Errors
    /// When a number is not within its limits.
    pub(super) fn add_to(self, spec: &mut api::ContainerSpec) -> anyhow::Result<()> {
        let swappiness = match self.memory_swappiness {
            None | Some(-1) => None,
            Some(percent) => match u32::try_from(percent) {
                Ok(percent @ 0..=100) => Some(percent),
                _ => bail!("invalid value: {percent}. Valid memory swappiness range is 0-100"),
            },
        };
        let resources = spec.resources.get_or_insert_default();
        resources.memory_swappiness = swappiness;
        resources.oom_kill_disable = self.oom_kill_disable.then_some(true);
        spec.oom_score_adj = self.oom_score_adj;
        // Of two with one name the last counts.
        for limit in self.ulimit {
            spec.ulimits.retain(|other| other.name != limit.name);
            spec.ulimits.push(limit);
        }
        spec.sysctls = self.sysctl.into_iter().collect();
        spec.cgroup_parent = self.cgroup_parent.unwrap_or_default();
        Ok(())
    }
}

/// `NAME=SOFT[:HARD]`; the hard limit is the soft one without a word.
fn ulimit(text: &str) -> Result<api::Ulimit, String> {
    let Some((name, limits)) = text.split_once('=') else {
        return Err(format!("invalid ulimit argument: {text}"));
    };
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let parts: Vec<&str> = limits.split(':').collect();
    let (soft, hard) = match parts[..] {
        [both] => (limit(both)?, limit(both)?),
        [soft, hard] => (limit(soft)?, limit(hard)?),
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, \
                 `soft[:hard]`"
            ));
        }
    };
    let above = "ulimit soft limit must be less than or equal to hard limit";
    match (soft, hard) {
        (_, -1) => {}
        (-1, _) => return Err(format!("{above}: soft: -1 (unlimited), hard: {hard}")),
        _ if soft > hard => return Err(format!("{above}: {soft} > {hard}")),
        _ => {}
    }
    Ok(api::Ulimit { name: name.to_owned(), soft, hard })
}

/// A number, or none: `-1`, `infinity`, `unlimited`.
fn limit(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        _ if matches!(text, "infinity" | "unlimited") => Ok(-1),
        Ok(limit @ -1..) => Ok(limit),
        _ => Err(format!("invalid limit '{text}': write a number, or -1 for none")),
    }
}

/// `NAME=VALUE`.
fn sysctl(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("sysctl '{text}' is not allowed")),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn spec(line: &[&str]) -> anyhow::Result<api::ContainerSpec> {
        let command = Kernel::augment_args(clap::Command::new("x").no_binary_name(true));
        let matches = command.try_get_matches_from(line)?;
        let mut spec = api::ContainerSpec::default();
        Kernel::from_arg_matches(&matches)?.add_to(&mut spec)?;
        Ok(spec)
    }

    #[test]
    fn what_was_asked_for_is_there() {
        let made = spec(&[
            "--memory-swappiness",
            "0",
            "--oom-kill-disable",
            "--oom-score-adj",
            "-500",
            "--ulimit=nofile=1",
            "--ulimit",
            "nofile=1024:2048",
            "--sysctl=net.core.somaxconn=1024",
        ]);
        let made = made.unwrap();
        let resources = made.resources.unwrap();
        assert_eq!(resources.memory_swappiness, Some(0));
        assert_eq!((resources.oom_kill_disable, made.oom_score_adj), (Some(true), Some(-500)));
        let wanted = api::Ulimit { name: "nofile".to_owned(), soft: 1024, hard: 2048 };
        assert_eq!(made.ulimits, [wanted]);
        assert_eq!(made.sysctls.get("net.core.somaxconn").map(String::as_str), Some("1024"));
        let usual = spec(&["--memory-swappiness=-1"]).unwrap();
        assert_eq!(usual.resources, Some(api::Resources::default()));
        let error = spec(&["--memory-swappiness=101"]).unwrap_err();
        let said = "invalid value: 101. Valid memory swappiness range is 0-100";
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn limits_of_processes() {
        let read = |text| ulimit(text).map(|limit| (limit.soft, limit.hard));
        for (text, wanted) in [
            ("nofile=512", (512, 512)),
            ("core=0:-1", (0, -1)),
            ("memlock=-1", (-1, -1)),
            ("nproc=5:infinity", (5, -1)),
        ] {
            assert_eq!(read(text), Ok(wanted), "{text}");
        }
        for (text, said) in [
            ("nofile", "invalid ulimit argument: nofile"),
            ("as=1", "invalid ulimit type: as"),
            ("nofile=1:2:3", "too many limit value arguments - 1:2:3, can only have up to two"),
            ("nofile=2:1", "must be less than or equal to hard limit: 2 > 1"),
            ("nofile=-1:1", "hard limit: soft: -1 (unlimited), hard: 1"),
            ("nofile=x", "invalid limit 'x'"),
            ("nofile=-2", "invalid limit '-2'"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn settings_have_names_and_values() {
        for text in ["", "=1", "net.core.somaxconn"] {
            assert_eq!(sysctl(text), Err(format!("sysctl '{text}' is not allowed")));
        }
    }
}
