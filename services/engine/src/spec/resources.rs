//! Limits and devices of a specification.

use serde_json::{Map, Value, json};

use super::process::numbers;
use crate::host::Devices;
use crate::host::devices::{self, Node};
use crate::model::{DeviceLimitKind, Flags, Resources, Settings};

/// Microseconds of the period in which parts of processors are counted.
const PERIOD: i64 = 100_000;
/// A processor, in billionths.
const CPU: i64 = 1_000_000_000;

/// Nothing, then what every container may use. Making nodes of other devices
/// is allowed, opening them is not.
pub(super) fn usual_devices() -> Value {
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
        // Terminals of /dev/pts.
        json!({"allow": true, "type": "c", "major": 136, "access": "rwm"}),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(
            json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}),
        );
    }
    Value::Array(rules)
}

/// The section of a new container.
pub(super) fn section(usual: &Value, flags: &Flags, found: &Devices) -> Value {
    let mut section = limits(&flags.resources, &found.limited, false);
    section["devices"] = if flags.security.privileged {
        json!([{"allow": true, "access": "rwm"}])
    } else {
        let mut rules = usual.clone();
        if let Some(rules) = rules.as_array_mut() {
            rules.extend(found.nodes.iter().chain(&found.edits.nodes).filter_map(Node::rule));
            // They were looked at when the container was made.
            rules.extend(flags.device_cgroup_rules.iter().filter_map(|r| devices::rule(r).ok()));
        }
        rules
    };
    section
}

/// Device nodes beside those that every container has.
pub(super) fn nodes(settings: &Settings, found: &Devices) -> Vec<Value> {
    let mut all: Vec<Value> = found.nodes.iter().map(Node::device).collect();
    if found.edits.nodes.is_empty() {
        return all;
    }
    // What says nothing else is the container's user's.
    let (uid, gid) = numbers(&settings.user);
    let owned = |node: &Node| Node {
        uid: node.uid.or(uid.filter(|id| *id > 0)),
        gid: node.gid.or(gid.filter(|id| *id > 0)),
        ..node.clone()
    };
    all.extend(found.edits.nodes.iter().map(|node| owned(node).device()));
    all
}

/// Limits as `linux.resources` has them, without devices that may be used. `limited` are the
/// numbers of the devices that have limits, in their order.
///
/// `update`: for a container that runs, where what is unlimited is to be said.
pub(crate) fn limits(resources: &Resources, limited: &[(u64, u64)], update: bool) -> Value {
    let mut section = Map::new();
    if *resources == Resources::default() {
        return Value::Object(section);
    }
    let mut add = |name: &str, part: Map<String, Value>| {
        if !part.is_empty() {
            section.insert(name.to_owned(), Value::Object(part));
        }
    };
    add("memory", memory(resources, update));
    add("cpu", cpu(resources));
    add("blockIO", block_io(resources, limited));
    if let Some(pids) = resources.pids.filter(|pids| update || *pids > 0) {
        section.insert("pids".to_owned(), json!({"limit": pids}));
    }
    Value::Object(section)
}

/// What is set of these.
fn some<const N: usize>(parts: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let set = parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    set.collect()
}

fn memory(resources: &Resources, update: bool) -> Map<String, Value> {
    let swap = resources.memory_swap.filter(|swap| update || *swap > 0);
    some([
        ("limit", resources.memory.map(Value::from)),
        ("swap", swap.map(Value::from)),
        ("reservation", resources.memory_reservation.map(Value::from)),
        ("swappiness", resources.memory_swappiness.map(Value::from)),
        ("disableOOMKiller", resources.oom_kill_disable.filter(|on| *on).map(Value::from)),
    ])
}

fn cpu(resources: &Resources) -> Map<String, Value> {
    let part = resources.nano_cpus.map(|cpus| cpus / (CPU / PERIOD));
    let period = resources.nano_cpus.map(|_| PERIOD).or(resources.cpu_period);
    some([
        ("shares", resources.cpu_shares.map(Value::from)),
        ("quota", part.or(resources.cpu_quota).map(Value::from)),
        ("period", period.map(Value::from)),
        ("realtimeRuntime", resources.cpu_rt_runtime.map(Value::from)),
        ("realtimePeriod", resources.cpu_rt_period.map(Value::from)),
        ("cpus", resources.cpuset_cpus.as_deref().map(Value::from)),
        ("mems", resources.cpuset_mems.as_deref().map(Value::from)),
    ])
}

fn block_io(resources: &Resources, limited: &[(u64, u64)]) -> Map<String, Value> {
    let of_kind = |kind: DeviceLimitKind, what: &str| {
        let limits = resources.device_limits.iter().zip(limited);
        let all: Vec<Value> = limits
            .filter(|(limit, _)| limit.kind == kind)
            .map(
                |(limit, (major, minor))| json!({"major": major, "minor": minor, what: limit.rate}),
            )
            .collect();
        (!all.is_empty()).then_some(Value::Array(all))
    };
    some([
        ("weight", resources.blkio_weight.map(Value::from)),
        ("weightDevice", of_kind(DeviceLimitKind::Weight, "weight")),
        ("throttleReadBpsDevice", of_kind(DeviceLimitKind::ReadBps, "rate")),
        ("throttleWriteBpsDevice", of_kind(DeviceLimitKind::WriteBps, "rate")),
        ("throttleReadIOPSDevice", of_kind(DeviceLimitKind::ReadIops, "rate")),
        ("throttleWriteIOPSDevice", of_kind(DeviceLimitKind::WriteIops, "rate")),
    ])
}
