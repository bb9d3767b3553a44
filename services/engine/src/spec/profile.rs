//! Seccomp profiles of callers, in Docker's form: rules with conditions on capabilities,
//! architectures and the kernel. What Docker's files have at null is as if it were not there.

use gantry_core::{Error, Result, go_arch};
use serde::{Deserialize, Serialize};

use super::seccomp::Machine;
use crate::model::UNCONFINED;

/// What stands for the default profile.
const DEFAULTS: [&str; 3] = ["", "default", "builtin"];
/// What can be done about a call.
const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
/// Comparisons of arguments.
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
/// Flags with which a filter is loaded.
const FLAGS: [&str; 3] =
    ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"];
/// Architectures that our shim makes filters for.
const ARCHITECTURES: [&str; 18] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];
/// A call has six arguments at most.
const ARGUMENTS: u32 = 6;

/// A profile.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: Option<String>,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<Architecture>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    syscalls: Option<Vec<Call>>,
}

/// An architecture, and those whose calls can be made on it as well.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Architecture {
    architecture: Option<String>,
    sub_architectures: Option<Vec<String>>,
}

/// What is done about some calls.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Call {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: Option<String>,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

/// When a rule counts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// A condition on an argument.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Argument {
    index: u32,
    value: u64,
    value_two: Option<u64>,
    op: String,
}

/// The section of a specification.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Section {
    default_action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    architectures: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<String>,
    syscalls: Vec<Rule>,
}

/// One rule of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Argument>,
}

fn bad(what: impl std::fmt::Display) -> Error {
    Error::invalid_argument(format!("Decoding seccomp profile failed: {what}"))
}

/// Whether a text stands for the default profile.
pub(super) fn is_default(text: &str) -> bool {
    DEFAULTS.contains(&text)
}

/// Refuses what is no profile.
///
/// # Errors
/// `InvalidArgument`, saying what is wrong.
pub(crate) fn check(text: &str) -> Result<()> {
    if is_default(text) || text == UNCONFINED {
        return Ok(());
    }
    let profile = Profile::parse(text)?;
    profile.check()
}

/// What a profile means on a machine; `None` for one that says nothing, which is no filter.
///
/// # Errors
/// As [`check`].
pub(super) fn section(text: &str, machine: Machine<'_>) -> Result<Option<Section>> {
    let profile = Profile::parse(text)?;
    profile.check()?;
    let syscalls = profile.syscalls.unwrap_or_default();
    let Some(default_action) = profile.default_action.filter(|action| !action.is_empty()) else {
        // Docker takes it for switched off as well.
        return Ok(None);
    };
    let mut architectures = profile.architectures.unwrap_or_default();
    let own = format!("SCMP_ARCH_{}", native(machine.arch));
    let map = profile.arch_map.unwrap_or_default();
    if let Some(found) = map.into_iter().find(|a| a.architecture.as_deref() == Some(own.as_str())) {
        architectures.push(own);
        architectures.extend(found.sub_architectures.unwrap_or_default());
    }
    let mut rules = Vec::with_capacity(syscalls.len());
    for call in syscalls {
        let included = match &call.includes {
            Some(condition) => condition.holds(machine)?,
            None => true,
        };
        let excluded = match &call.excludes {
            Some(condition) => condition.strikes(machine)?,
            None => false,
        };
        if included && !excluded {
            let names = call.name.into_iter().chain(call.names.into_iter().flatten());
            rules.push(Rule {
                names: names.filter(|name| !name.is_empty()).collect(),
                action: call.action.unwrap_or_default(),
                errno_ret: call.errno_ret,
                args: call.args.unwrap_or_default(),
            });
        }
    }
    Ok(Some(Section {
        default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures,
        flags: profile.flags.unwrap_or_default(),
        syscalls: rules,
    }))
}

/// Libseccomp's name for an architecture.
fn native(arch: &str) -> String {
    match arch {
        "powerpc64" => "PPC64LE".to_owned(),
        arch => arch.to_ascii_uppercase(),
    }
}

impl Profile {
    fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(bad)
    }

    fn check(&self) -> Result<()> {
        let architectures = self.architectures.as_deref().unwrap_or_default();
        let map = self.arch_map.as_deref().unwrap_or_default();
        if !architectures.is_empty() && !map.is_empty() {
            return Err(bad(
                "both 'architectures' and 'archMap' are specified in the seccomp profile, use \
                 either 'architectures' or 'archMap'",
            ));
        }
        let action = self.default_action.as_deref().filter(|action| !action.is_empty());
        match action {
            Some(action) => known(action, &ACTIONS, "action")?,
            None if self.syscalls.as_ref().is_some_and(|calls| !calls.is_empty()) => {
                return Err(bad("the profile has no defaultAction"));
            }
            None => {}
        }
        if self.listener_path.as_deref().is_some_and(|path| !path.is_empty()) {
            return Err(bad("listenerPath is not supported"));
        }
        let beside = map.iter().flat_map(|entry| entry.sub_architectures.iter().flatten());
        for arch in architectures.iter().chain(beside) {
            known(arch, &ARCHITECTURES, "architecture")?;
        }
        for flag in self.flags.iter().flatten() {
            known(flag, &FLAGS, "flag")?;
        }
        self.syscalls.iter().flatten().try_for_each(Call::check)
    }
}

fn known(text: &str, known: &[&str], what: &str) -> Result<()> {
    if known.contains(&text) {
        return Ok(());
    }
    Err(bad(format!("{what} {text:?} is not supported")))
}

impl Call {
    fn check(&self) -> Result<()> {
        let one = self.name.as_ref().is_some_and(|name| !name.is_empty());
        let several = self.names.as_ref().is_some_and(|names| !names.is_empty());
        if one && several {
            return Err(bad(
                "both 'name' and 'names' are specified in the seccomp profile, use either 'name' \
                 or 'names'",
            ));
        }
        known(self.action.as_deref().unwrap_or_default(), &ACTIONS, "action")?;
        for arg in self.args.iter().flatten() {
            known(&arg.op, &OPERATORS, "operator")?;
            if arg.index >= ARGUMENTS {
                return Err(bad(format!("system calls have no argument {}", arg.index)));
            }
        }
        for condition in [&self.includes, &self.excludes].into_iter().flatten() {
            condition.kernel()?;
        }
        Ok(())
    }
}

impl Condition {
    /// The least kernel.
    fn kernel(&self) -> Result<Option<(u32, u32)>> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let parsed = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        match parsed {
            Some(version) => Ok(Some(version)),
            None => Err(bad(format!("invalid kernel version: {text:?}, expected like 4.8"))),
        }
    }

    /// Whether all that it asks for is there.
    fn holds(&self, machine: Machine<'_>) -> Result<bool> {
        let (arches, caps) = (self.arches(), self.caps());
        Ok((arches.is_empty() || is_among(arches, machine))
            && caps.iter().all(|cap| machine.capabilities.contains(&cap.as_str()))
            && self.kernel()?.is_none_or(|least| machine.kernel >= least))
    }

    /// Whether any of what it names is there.
    fn strikes(&self, machine: Machine<'_>) -> Result<bool> {
        Ok(is_among(self.arches(), machine)
            || self.caps().iter().any(|cap| machine.capabilities.contains(&cap.as_str()))
            || self.kernel()?.is_some_and(|least| machine.kernel >= least))
    }

    fn arches(&self) -> &[String] {
        self.arches.as_deref().unwrap_or_default()
    }

    fn caps(&self) -> &[String] {
        self.caps.as_deref().unwrap_or_default()
    }
}

fn is_among(arches: &[String], machine: Machine<'_>) -> bool {
    let own = go_arch(machine.arch);
    arches.iter().any(|arch| arch == own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": null,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_S390X", "subArchitectures": null}
        ],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "",
             "includes": {}, "excludes": null},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW",
             "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"name": "clone3", "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
             "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW",
             "includes": {"arches": ["amd64"]}},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 40, "valueTwo": 0, "op": "SCMP_CMP_NE"}]}
        ]
    }"#;

    fn made(text: &str, capabilities: &[&str], kernel: (u32, u32)) -> Value {
        let machine = Machine { arch: "x86_64", kernel, capabilities };
        serde_json::to_value(section(text, machine).unwrap()).unwrap()
    }

    fn names(section: &Value) -> Vec<&str> {
        let rules = section["syscalls"].as_array().unwrap();
        rules.iter().map(|rule| rule["names"][0].as_str().unwrap()).collect()
    }

    #[test]
    fn conditions() {
        let plain = made(PROFILE, &[], (6, 1));
        assert_eq!(names(&plain), ["read", "clone3", "ptrace", "arch_prctl", "socket"]);
        assert_eq!(plain["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
        assert_eq!(plain["syscalls"][1]["errnoRet"], 38);
        assert_eq!(plain["syscalls"][4]["args"][0]["op"], "SCMP_CMP_NE");
        assert!(plain["syscalls"][0].get("args").is_none());
        let admin = made(PROFILE, &["CAP_SYS_ADMIN"], (4, 7));
        assert_eq!(names(&admin), ["read", "mount", "arch_prctl", "socket"]);
    }

    #[test]
    fn texts_that_stand_for_others() {
        for text in ["", "default", "builtin", "unconfined", "{}"] {
            check(text).unwrap();
        }
        assert_eq!(made("{}", &[], (6, 1)), Value::Null);
    }

    #[test]
    fn refusals() {
        let said = |text: &str| check(text).unwrap_err().to_string();
        assert!(said("{").starts_with("Decoding seccomp profile failed: EOF"));
        for (from, to, why) in [
            ("\"architectures\": null", "\"architectures\": [\"SCMP_ARCH_X86\"]", "either"),
            ("SCMP_ACT_ERRNO\", \"def", "SCMP_ACT_NOTIFY\", \"def", "SCMP_ACT_NOTIFY"),
            ("\"defaultAction\": \"SCMP_ACT_ERRNO\", ", "", "no defaultAction"),
            ("\"name\": \"clone3\"", "\"name\": \"a\", \"names\": [\"b\"]", "'names'"),
            ("SCMP_CMP_NE", "SCMP_CMP_XX", "operator"),
            ("\"index\": 0", "\"index\": 6", "no argument 6"),
            ("4.8", "4", "invalid kernel version"),
            ("SCMP_ARCH_X86\"]", "SCMP_ARCH_Z80\"]", "architecture"),
            ("\"syscalls\"", "\"flags\": [\"X\"], \"syscalls\"", "flag \"X\""),
            ("\"syscalls\"", "\"listenerPath\": \"/x\", \"syscalls\"", "listenerPath"),
        ] {
            let text = PROFILE.replace(from, to);
            assert_ne!(text, PROFILE);
            let said = said(&text);
            assert!(said.contains(why), "{why}: {said}");
        }
    }
}
