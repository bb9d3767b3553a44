//! Limits of processes (setrlimit(2)): their names, and whether they can be had here.

use std::fs;

use gantry_core::{Error, Result};
use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Value, json};

use super::capabilities::{Capabilities, SYS_RESOURCE};
use crate::model::Ulimit;

/// As users write them.
const NAMES: [(&str, Resource); 16] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// The most files that any process may have open.
const MOST_FILES: &str = "/proc/sys/fs/nr_open";

/// A limit as the kernel has it: the greatest number is none.
fn number(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

/// Refuses limits that are not known, contradict each other, or can't be set by this daemon.
///
/// # Errors
/// `InvalidArgument`; `FailedPrecondition` for what this host does not give.
pub(crate) fn check(ulimits: &[Ulimit]) -> Result<()> {
    for (n, ulimit) in ulimits.iter().enumerate() {
        let name = ulimit.name.as_str();
        let Some((_, resource)) = NAMES.iter().find(|known| known.0 == name) else {
            return Err(Error::invalid_argument(format!("invalid ulimit type: {name}")));
        };
        if ulimit.soft < -1 || ulimit.hard < -1 {
            return Err(Error::invalid_argument(format!(
                "ulimit {name}: a limit is a number, or -1 for none"
            )));
        }
        if number(ulimit.soft) > number(ulimit.hard) {
            return Err(Error::invalid_argument(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                ulimit.soft, ulimit.hard
            )));
        }
        if ulimits[..n].iter().any(|other| other.name == ulimit.name) {
            return Err(Error::invalid_argument(format!("ulimit {name} is given twice")));
        }
        reachable(ulimit, *resource)?;
    }
    Ok(())
}

/// Refuses a limit that setrlimit(2) would refuse, by what is in its way.
fn reachable(ulimit: &Ulimit, resource: Resource) -> Result<()> {
    let (name, hard) = (ulimit.name.as_str(), number(ulimit.hard));
    let shown = if ulimit.hard == -1 { "unlimited".to_owned() } else { hard.to_string() };
    if name == "nofile" {
        let most = fs::read_to_string(MOST_FILES).unwrap_or_default().trim().parse::<u64>();
        if let Some(most) = most.ok().filter(|most| hard > *most) {
            return Err(Error::failed_precondition(format!(
                "ulimit nofile: the hard limit {shown} is above what the kernel allows, {most} \
                 (fs.nr_open)"
            )));
        }
    }
    let Ok((_, own)) = getrlimit(resource) else { return Ok(()) };
    if hard > own && !Capabilities::own().has(SYS_RESOURCE) {
        return Err(Error::failed_precondition(format!(
            "ulimit {name}: the hard limit {shown} is above the daemon's own, {own}, and raising \
             it needs {SYS_RESOURCE}, which the daemon does not have on this host"
        )));
    }
    Ok(())
}

/// As `process.rlimits` of a specification has them.
pub(crate) fn rlimits(ulimits: &[Ulimit]) -> Value {
    let one = |ulimit: &Ulimit| {
        json!({
            "type": format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase()),
            "soft": number(ulimit.soft),
            "hard": number(ulimit.hard),
        })
    };
    Value::Array(ulimits.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulimit(name: &str, soft: i64, hard: i64) -> Ulimit {
        Ulimit { name: name.into(), soft, hard }
    }

    #[test]
    fn as_specifications_have_them() {
        let made = rlimits(&[ulimit("nofile", 64, 128), ulimit("core", -1, -1)]);
        assert_eq!(
            made,
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128},
                {"type": "RLIMIT_CORE", "soft": u64::MAX, "hard": u64::MAX},
            ])
        );
    }

    #[test]
    fn refusals() {
        check(&[ulimit("nofile", 64, 64), ulimit("core", 0, 0)]).unwrap();
        let said = |list: &[Ulimit]| check(list).unwrap_err().to_string();
        assert_eq!(said(&[ulimit("nope", 1, 1)]), "invalid ulimit type: nope");
        assert!(said(&[ulimit("nofile", 2, 1)]).ends_with("hard limit: 2 > 1"));
        assert!(said(&[ulimit("core", -1, 1)]).contains("soft limit must be less"));
        assert!(said(&[ulimit("core", -2, -1)]).contains("-1 for none"));
        let twice = [ulimit("core", 0, 0), ulimit("core", 0, 0)];
        assert_eq!(said(&twice), "ulimit core is given twice");
        assert!(said(&[ulimit("nofile", 1, -1)]).contains("unlimited is above"));
    }
}
