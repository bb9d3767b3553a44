//! What is mounted in containers.

use std::borrow::Cow;
use std::path::Path;

use gantry_core::paths::clean;
use serde_json::{Value, json};

use super::SpecInput;
use crate::model::{Flags, Settings, other_container};

/// Where our first process is in a container.
pub(super) const INIT: &str = "/sbin/docker-init";

/// Places that a caller's mount takes with all that is usual below.
const WHOLE: [&str; 2] = ["/dev", "/sys"];
/// Memory that processes share.
const SHM: &str = "/dev/shm";
/// Options of every mount of it.
const SHM_OPTIONS: [&str; 3] = ["nosuid", "noexec", "nodev"];
/// Option of our shim: the source is in the mount namespace that this file stands for.
const NAMESPACE: &str = "gantry.namespace=";

/// File systems of the kernel that every container has.
pub(super) fn usual() -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(SHM, "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
    ]
}

/// All mounts of a container, upper places before those below them.
pub(super) fn mounts<'a>(
    usual: &'a [Value],
    init: &Path,
    input: &SpecInput<'a>,
) -> Vec<Cow<'a, Value>> {
    let settings = input.settings;
    let extra = &input.devices.edits.mounts;
    let asked: Vec<&Value> = input
        .mounts
        .iter()
        .filter(|mount| !mount.is_null())
        .filter(|mount| !extra.iter().any(|other| is_same(other, mount)))
        .chain(extra)
        .collect();
    let mut all: Vec<Cow<'a, Value>> =
        usual.iter().filter_map(|mount| fitting(mount, input)).collect();
    let mut own: Vec<Cow<'a, Value>> = files(input).into_iter().map(Cow::Owned).collect();
    if settings.has_init() {
        let options = &["bind", "ro", "nosuid", "nodev"];
        own.push(Cow::Owned(bind(init, INIT, options)));
    }
    if !asked.is_empty() {
        let given = |target: &str| asked.iter().any(|mount| target_of(mount) == Path::new(target));
        // What would lie below goes with them.
        let whole: Vec<&str> = WHOLE.into_iter().filter(|target| given(target)).collect();
        let replaced = |mount: &Value| {
            let target = mount["destination"].as_str().unwrap_or_default();
            given(target) || whole.iter().any(|top| Path::new(target).starts_with(top))
        };
        all.retain(|mount| !replaced(mount));
        own.retain(|mount| !replaced(mount));
        own.extend(asked.into_iter().map(Cow::Borrowed));
        // Stable: places of the same depth stay in their order.
        own.sort_by_key(|mount| target_of(mount).components().count());
    }
    all.append(&mut own);
    all
}

/// A usual mount as this container is to have it, if it is.
fn fitting<'a>(mount: &'a Value, input: &SpecInput<'a>) -> Option<Cow<'a, Value>> {
    let flags = &input.settings.flags;
    match mount["destination"].as_str() {
        Some(SHM) => shm(mount, flags, input),
        Some("/sys" | "/sys/fs/cgroup") if flags.security.privileged => {
            let mut writable = mount.clone();
            if let Some(options) = writable["options"].as_array_mut() {
                options.retain(|option| option != "ro");
            }
            Some(Cow::Owned(writable))
        }
        _ => Some(Cow::Borrowed(mount)),
    }
}

/// Shared memory goes with the ipc namespace.
fn shm<'a>(mount: &'a Value, flags: &Flags, input: &SpecInput<'_>) -> Option<Cow<'a, Value>> {
    let host = || {
        let mut options = vec!["bind".to_owned(), "rprivate".to_owned()];
        options.extend(SHM_OPTIONS.map(str::to_owned));
        options
    };
    let bound = |options: Vec<String>| {
        Some(Cow::Owned(json!({
            "destination": SHM,
            "type": "bind",
            "source": SHM,
            "options": options,
        })))
    };
    match flags.namespaces.ipc.as_str() {
        "none" => None,
        "host" => bound(host()),
        mode if other_container(mode).is_some() => {
            let mut options = host();
            options.push(format!("{NAMESPACE}{}", input.shared.path("mnt")));
            bound(options)
        }
        _ if flags.shm_size > 0 => {
            let mut sized = mount.clone();
            sized["options"] = SHM_OPTIONS
                .iter()
                .map(|option| (*option).to_owned())
                .chain(["mode=1777".to_owned(), format!("size={}", flags.shm_size)])
                .collect();
            Some(Cow::Owned(sized))
        }
        _ => Some(Cow::Borrowed(mount)),
    }
}

/// The container's own files.
fn files(input: &SpecInput<'_>) -> Vec<Value> {
    let options: &[&str] = if is_read_only(input.settings) {
        &["rbind", "rprivate", "ro"]
    } else {
        &["rbind", "rprivate"]
    };
    let one = |(from, to): (std::path::PathBuf, &'static str)| bind(&from, to, options);
    input.files.binds().into_iter().map(one).collect()
}

fn is_read_only(settings: &Settings) -> bool {
    settings.flags.security.read_only
}

fn bind(source: &Path, target: &str, options: &[&str]) -> Value {
    json!({
        "destination": target,
        "type": "bind",
        "source": source,
        "options": options,
    })
}

fn target_of(mount: &Value) -> std::path::PathBuf {
    clean(mount["destination"].as_str().unwrap_or_default())
}

fn is_same(one: &Value, other: &Value) -> bool {
    target_of(one) == target_of(other)
}
