//! Which device nodes a container may make and use.

use super::{Group, Hierarchy, Host, Kind, bpf};
use crate::runtime::sys;
use crate::runtime::types::Error;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::os::fd::{AsFd, OwnedFd};

/// Access bits, as BPF_DEVCG_ACC_*.
pub(crate) const MKNOD: u8 = 1;
pub(crate) const READ: u8 = 2;
pub(crate) const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// One rule; `None` stands for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) allow: bool,
    /// `b` or `c`; any is both.
    pub(crate) kind: Option<char>,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) access: u8,
}

/// What every container needs: the nodes that a runtime makes in /dev, and
/// making (not opening) any node.
const DEFAULTS: [(char, Option<u32>, Option<u32>, u8); 10] = [
    ('c', None, None, MKNOD),
    ('b', None, None, MKNOD),
    ('c', Some(1), Some(3), ALL),
    ('c', Some(1), Some(8), ALL),
    ('c', Some(1), Some(7), ALL),
    ('c', Some(5), Some(0), ALL),
    ('c', Some(1), Some(5), ALL),
    ('c', Some(1), Some(9), ALL),
    ('c', Some(136), None, ALL),
    ('c', Some(5), Some(2), ALL),
];

impl Rule {
    fn parse(r: &LinuxDeviceCgroup) -> Result<Self, Error> {
        let kind = match r.typ() {
            None | Some(LinuxDeviceType::A) => None,
            Some(LinuxDeviceType::B) => Some('b'),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some('c'),
            Some(LinuxDeviceType::P) => {
                return Err(Error::Invalid("a device rule of type p has no meaning".into()));
            }
        };
        let number = |n: Option<i64>| match n {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some).map_err(|_| {
                Error::Invalid(format!("device number {n} in a device rule is out of range"))
            }),
        };
        let mut access = 0;
        for c in r.access().as_deref().unwrap_or("rwm").chars() {
            access |= match c {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => return Err(Error::Invalid(format!("device access {c:?} is none of r, w, m"))),
            };
        }
        let (major, minor) = (number(r.major())?, number(r.minor())?);
        if kind.is_none() && (major.is_some() || minor.is_some()) {
            return Err(Error::Invalid("a device rule with numbers needs the type b or c".into()));
        }
        Ok(Self { allow: r.allow(), kind, major, minor, access })
    }

    fn is_for_all(&self) -> bool {
        self.kind.is_none() && self.access == ALL
    }

    /// As cgroup v1's devices.allow and devices.deny take it.
    fn v1(&self) -> String {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let mut access = String::new();
        for (bit, c) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if self.access & bit != 0 {
                access.push(c);
            }
        }
        match self.kind {
            Some(kind) => format!("{kind} {}:{} {access}", number(self.major), number(self.minor)),
            None => "a".to_owned(),
        }
    }
}

/// The spec's rules with the defaults put where they belong: behind the rule
/// that shuts everything, ahead of all that is said after it, so that a device
/// which the spec denies stays denied.
pub(crate) fn effective(spec: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, Error> {
    let mut rules = Vec::new();
    for rule in spec {
        let rule = Rule::parse(rule)?;
        match rule.kind {
            // Partial access for both types: v1 has no such rule, so it is said per type.
            None if rule.access != ALL => {
                rules.push(Rule { kind: Some('b'), ..rule });
                rules.push(Rule { kind: Some('c'), ..rule });
            }
            _ => rules.push(rule),
        }
    }
    let Some(last) = rules.iter().rposition(Rule::is_for_all) else {
        // Nothing is shut: nothing needs opening.
        return Ok(rules);
    };
    if !rules[last].allow {
        let defaults = DEFAULTS.iter().map(|&(kind, major, minor, access)| Rule {
            allow: true,
            kind: Some(kind),
            major,
            minor,
            access,
        });
        rules.splice(last + 1..last + 1, defaults);
    }
    Ok(rules)
}

/// The outcome of a list of rules: a default and the exceptions from it, with
/// the meaning that cgroup v1's kernel code gives them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) default_allow: bool,
    pub(crate) exceptions: Vec<Rule>,
}

impl Policy {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut policy = Self { default_allow: true, exceptions: Vec::new() };
        for rule in rules {
            policy.apply(rule);
        }
        policy
    }

    fn apply(&mut self, rule: &Rule) {
        if rule.is_for_all() {
            self.default_allow = rule.allow;
            self.exceptions.clear();
            return;
        }
        let same = |e: &Rule| (e.kind, e.major, e.minor) == (rule.kind, rule.major, rule.minor);
        let found = self.exceptions.iter().position(same);
        if rule.allow != self.default_allow {
            match found {
                Some(i) => self.exceptions[i].access |= rule.access,
                None => self.exceptions.push(*rule),
            }
        } else if let Some(i) = found {
            self.exceptions[i].access &= !rule.access;
            if self.exceptions[i].access == 0 {
                self.exceptions.remove(i);
            }
        }
    }
}

impl Host {
    /// Puts the device rules of a new container in force.
    pub(crate) fn restrict_devices(&self, group: &Group, rules: &[Rule]) -> Result<(), Error> {
        if rules.is_empty() {
            return Ok(());
        }
        if let Some(h) = self.with("devices").filter(|h| h.kind == Kind::Legacy) {
            return restrict_v1(h, group, rules);
        }
        let Some(h) = self.unified() else {
            return Err(Error::Unsupported(
                "device rules: this host has no devices cgroup controller".into(),
            ));
        };
        let what = |step: &str| format!("device rules of cgroup {}: {step}", group.path());
        let dir = h.open(group).map_err(|e| Error::io(what("open it"), e))?;
        let program = bpf::compile(&Policy::new(rules)).ok_or_else(|| {
            Error::Invalid("the device rules are too many for one program".into())
        })?;
        let program = bpf::load(&program).map_err(|e| Error::io(what("load the program"), e))?;
        bpf::attach(program.as_fd(), dir.as_fd())
            .map_err(|e| Error::io(what("attach the program"), e))
    }
}

/// Writes what the rules come to: the last that is for all, and the exceptions
/// from it. Without one the parent's rules stand, and every rule is written.
fn restrict_v1(h: &Hierarchy, group: &Group, rules: &[Rule]) -> Result<(), Error> {
    let rules = match rules.iter().rfind(|rule| rule.is_for_all()) {
        Some(all) => std::iter::once(*all).chain(Policy::new(rules).exceptions).collect(),
        None => rules.to_vec(),
    };
    let mut open: [Option<OwnedFd>; 2] = [None, None];
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        let value = rule.v1();
        let what =
            |e| Error::io(format!("write {value:?} to {file} of cgroup {}", group.path()), e);
        let open = &mut open[usize::from(rule.allow)];
        let fd = match open.take() {
            Some(fd) => fd,
            None => h.open_file(group, file).map_err(what)?,
        };
        sys::write(fd.as_fd(), value.as_bytes()).map_err(what)?;
        *open = Some(fd);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        allow: bool,
        kind: Option<char>,
        major: Option<u32>,
        minor: Option<u32>,
        access: u8,
    ) -> Rule {
        Rule { allow, kind, major, minor, access }
    }

    #[test]
    fn a_denied_device_stays_denied_among_the_defaults() {
        let spec: Vec<LinuxDeviceCgroup> = serde_json::from_str(
            r#"[{"allow":false,"access":"rwm"},{"allow":false,"type":"c","major":5,"minor":2,"access":"rwm"}]"#,
        )
        .unwrap_or_default();
        let rules = effective(&spec).unwrap_or_default();
        assert_eq!(rules.len(), 12);
        let policy = Policy::new(&rules);
        assert!(!policy.default_allow);
        assert!(!policy.exceptions.iter().any(|r| (r.major, r.minor) == (Some(5), Some(2))));
        assert!(policy.exceptions.contains(&rule(true, Some('c'), Some(1), Some(3), ALL)));
    }

    #[test]
    fn nothing_is_opened_where_nothing_is_shut() {
        let spec: Vec<LinuxDeviceCgroup> =
            serde_json::from_str(r#"[{"allow":true,"access":"rwm"}]"#).unwrap_or_default();
        assert_eq!(effective(&spec).unwrap_or_default(), vec![rule(true, None, None, None, ALL)]);
    }

    #[test]
    fn a_rule_without_type_but_with_numbers_is_refused() {
        let spec: Vec<LinuxDeviceCgroup> =
            serde_json::from_str(r#"[{"allow":true,"major":10,"access":"r"}]"#).unwrap_or_default();
        assert_eq!(spec.len(), 1);
        assert!(effective(&spec).is_err());
    }
}
