//! Clients that are limited to containers with a label: what is there for them, and what
//! their containers can't have.
//!
//! Such a client must not get beyond its containers: what would give a container a part of the
//! host, or of another container, is refused. Every wish that there is stands here by its name, so
//! that a new one is not granted before somebody has looked at it.

use std::collections::HashSet;

use gantry_core::networks::NONE;
use gantry_core::{Context, LabelScope, Labels, Result, Scope};
use gantry_grpc::scope::refuse;

use crate::Engine;
use crate::model::{Flags, MountKind, MountSetting, Namespaces, Resources, Security};
use crate::options::{ContainerOptions, ExecRequest};

/// Whether a container with these labels is there for the client.
pub(crate) fn sees(ctx: &Context, labels: &Labels) -> bool {
    ctx.scope.as_ref().is_none_or(|scope| scope.covers(labels))
}

/// Refuses an object by the name that the client gave it, where that stands for a container with
/// these labels that is not the client's.
///
/// # Errors
/// `PermissionDenied`.
pub(crate) fn check(
    scope: Option<&Scope>,
    object: &str,
    text: &str,
    labels: &Labels,
) -> Result<()> {
    match scope {
        Some(scope) if !scope.covers(labels) => {
            Err(refuse(scope, format_args!("{object} {text}")).about(object, text))
        }
        _ => Ok(()),
    }
}

/// Lets a client make a container that is within its scope: gives it the label, and refuses
/// what reaches beyond the container.
///
/// # Errors
/// `PermissionDenied`.
pub(crate) fn admit(ctx: &Context, options: &mut ContainerOptions) -> Result<()> {
    let Some((scope, label)) = limited(ctx) else { return Ok(()) };
    if let Some(what) = beyond(options) {
        return Err(refuse(scope, format_args!("a container with {what}")));
    }
    // Others are on the usual one, and the host.
    if options.network.is_empty() && options.networks.is_empty() {
        NONE.clone_into(&mut options.network);
    }
    let LabelScope { key, value, .. } = label;
    let given = options.labels.entry(key.clone()).or_insert_with(|| value.clone());
    if *given != *value {
        return Err(refuse(scope, format_args!("a container with the label {key}={given}")));
    }
    Ok(())
}

/// Lets a client add a process to a container of its own.
///
/// # Errors
/// `PermissionDenied`.
pub(crate) fn admit_exec(ctx: &Context, request: &ExecRequest) -> Result<()> {
    match limited(ctx) {
        Some((scope, _)) if request.privileged => Err(refuse(scope, "a privileged process")),
        _ => Ok(()),
    }
}

/// Lets a client choose how ps(1) shows the processes of a container. These are told from the
/// host's by the word below `PID`: nothing before it may have blanks in it, or no title.
///
/// # Errors
/// `PermissionDenied`.
pub(crate) fn admit_columns(ctx: &Context, options: &[String], titles: &[String]) -> Result<()> {
    /// Letters that choose processes, or columns of which one word each is before the ID.
    const USUAL: &str = "-AFHLadefjluwxy";
    let Some(scope) = ctx.scope.as_deref() else { return Ok(()) };
    let usual = options.iter().all(|option| option.chars().all(|letter| USUAL.contains(letter)));
    let titled = !options.iter().any(|option| option.contains('='));
    let first = titled && titles.first().is_some_and(|title| title == "PID");
    if usual || first {
        return Ok(());
    }
    let what = "a list of processes with other columns before PID, or titles of one's own: allowed \
                are ps options such as -ef and aux, and lists that begin with pid (-o pid,args)";
    Err(refuse(scope, what))
}

/// Lets a client change limits of a container of its own.
///
/// # Errors
/// `PermissionDenied`.
pub(crate) fn admit_resources(ctx: &Context, resources: &Resources) -> Result<()> {
    let Some((scope, _)) = limited(ctx) else { return Ok(()) };
    match beyond_resources(resources) {
        Some(what) => Err(refuse(scope, format_args!("a container with {what}"))),
        None => Ok(()),
    }
}

fn limited(ctx: &Context) -> Option<(&Scope, &LabelScope)> {
    let scope = ctx.scope.as_deref()?;
    Some((scope, scope.label.as_ref()?))
}

impl Engine {
    /// Those of some containers that are there for the client.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn seen(&self, ctx: &Context, mut ids: Vec<String>) -> Result<Vec<String>> {
        if limited(ctx).is_some() {
            let all = self.store.list(ctx).await?.into_iter();
            let seen = all.filter(|(_, meta)| sees(ctx, &meta.labels));
            let seen: HashSet<String> = seen.map(|(container, _)| container.id).collect();
            ids.retain(|id| seen.contains(id));
        }
        Ok(ids)
    }
}

/// The first wish that reaches beyond the container.
fn beyond(options: &ContainerOptions) -> Option<String> {
    #[rustfmt::skip]
    let ContainerOptions {
        network, networks, ports, publish_all, mounts, volumes_from, flags,
        // Other containers are looked up within the scope.
        after: _,
        // These are the container's own.
        name: _, image: _, command: _, entrypoint: _, env: _, working_dir: _, user: _, tty: _,
        open_stdin: _, labels: _, hostname: _, auto_remove: _, stop_signal: _, log_driver: _,
        log_options: _, restart: _, health: _, stop_timeout: _, idempotency: _,
        // What it says of ports that nobody publishes, and its own files.
        expose: _, dns: _, dns_search: _, dns_options: _, extra_hosts: _,
    } = options;
    if let Some(what) = beyond_flags(flags) {
        return Some(what.to_owned());
    }
    let named = networks.iter().map(|attachment| &attachment.network);
    if let Some(network) = named.chain([network]).find(|name| !matches!(name.as_str(), "" | NONE)) {
        return Some(format!("the network {network:?}"));
    }
    if !ports.is_empty() || *publish_all {
        return Some("ports of the host".to_owned());
    }
    if let Some(other) = volumes_from.first() {
        return Some(format!("the mounts of another ({other})"));
    }
    mounts.iter().find_map(beyond_mount)
}

fn beyond_flags(flags: &Flags) -> Option<&'static str> {
    #[rustfmt::skip]
    let Flags {
        resources, security, namespaces, devices, device_cgroup_rules, cdi_devices, oom_score_adj,
        cgroup_parent,
        // These are the container's own. Only settings of its namespaces are taken for sysctls.
        domainname: _, init: _, ulimits: _, sysctls: _, groups: _, annotations: _, shm_size: _,
        log_driver: _, log_options: _,
    } = flags;
    let wishes = [
        (!devices.is_empty() || !cdi_devices.is_empty(), "devices of the host"),
        (!device_cgroup_rules.is_empty(), "device rules of its own"),
        (!cgroup_parent.is_empty(), "a parent cgroup of its own"),
        (oom_score_adj.is_some_and(|score| score < 0), "an OOM score below 0"),
    ];
    first(&wishes)
        .or_else(|| beyond_security(security))
        .or_else(|| beyond_namespaces(namespaces))
        .or_else(|| beyond_resources(resources))
}

fn beyond_security(security: &Security) -> Option<&'static str> {
    let Security {
        privileged,
        cap_add,
        seccomp,
        unconfined_paths,
        // These take something away.
        cap_drop: _,
        no_new_privileges: _,
        read_only: _,
    } = security;
    first(&[
        (*privileged, "all privileges"),
        (!cap_add.is_empty(), "added capabilities"),
        (!seccomp.is_empty(), "a seccomp profile of its own"),
        (*unconfined_paths, "unconfined system paths"),
    ])
}

fn beyond_namespaces(namespaces: &Namespaces) -> Option<&'static str> {
    // Networks are looked at where they are named.
    let Namespaces { pid, ipc, uts, user, cgroup, network: _ } = namespaces;
    let own = |mode: &str| matches!(mode, "" | "private");
    let own_ipc = matches!(ipc.as_str(), "" | "private" | "none" | "shareable");
    first(&[
        (!own(pid), "a pid namespace that is not its own"),
        (!own_ipc, "an ipc namespace that is not its own"),
        (!own(uts), "a uts namespace that is not its own"),
        (!own(user), "a user namespace that is not its own"),
        (!own(cgroup), "a cgroup namespace that is not its own"),
    ])
}

fn beyond_resources(resources: &Resources) -> Option<&'static str> {
    #[rustfmt::skip]
    let Resources {
        oom_kill_disable, device_limits, cpu_rt_runtime, cpu_rt_period,
        // Limits and weights of the container.
        memory: _, memory_swap: _, memory_reservation: _, memory_swappiness: _, pids: _,
        nano_cpus: _, cpu_shares: _, cpu_quota: _, cpu_period: _, cpuset_cpus: _, cpuset_mems: _,
        blkio_weight: _,
    } = resources;
    first(&[
        (*oom_kill_disable == Some(true), "the OOM killer disabled"),
        (!device_limits.is_empty(), "limits of devices of the host"),
        (cpu_rt_runtime.is_some() || cpu_rt_period.is_some(), "real-time scheduling"),
    ])
}

/// The first wish that was made.
fn first(wishes: &[(bool, &'static str)]) -> Option<&'static str> {
    wishes.iter().find(|(wished, _)| *wished).map(|(_, what)| *what)
}

fn beyond_mount(mount: &MountSetting) -> Option<String> {
    match mount.kind {
        MountKind::Bind => Some(format!("the host's {} mounted", mount.source)),
        MountKind::Volume if !mount.source.is_empty() => {
            Some(format!("the volume {}", mount.source))
        }
        // A volume's options can name a directory of the host.
        MountKind::Volume
            if !mount.volume_options.is_empty()
                || !matches!(mount.volume_driver.as_str(), "" | gantry_core::volumes::DRIVER) =>
        {
            Some("a volume with options of its driver".to_owned())
        }
        MountKind::Volume | MountKind::Tmpfs | MountKind::Image => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_core::networks::{Attachment, PortWish};
    use gantry_core::{Kind, Namespace};

    use super::*;
    use crate::model::DeviceSetting;

    fn limited() -> Context {
        let namespace = Namespace::new("default").unwrap();
        let label =
            LabelScope { key: "ci".into(), value: "true".into(), namespace: namespace.clone() };
        let (door, peer) = ("socket /s".to_owned(), "uid=1".to_owned());
        let scope = Scope { door, peer, read_only: false, label: Some(label) };
        Context { scope: Some(Arc::new(scope)), ..Context::new(namespace) }
    }

    fn refused(change: impl FnOnce(&mut ContainerOptions)) -> String {
        let mut options = ContainerOptions::default();
        change(&mut options);
        let free = Context::new(Namespace::new("default").unwrap());
        admit(&free, &mut options.clone()).unwrap();
        let err = admit(&limited(), &mut options).unwrap_err();
        assert_eq!(err.kind(), Kind::PermissionDenied);
        err.to_string()
    }

    #[test]
    fn what_it_makes_has_the_label() {
        let mut options = ContainerOptions::default();
        admit(&limited(), &mut options).unwrap();
        assert_eq!((options.labels["ci"].as_str(), options.network.as_str()), ("true", "none"));
        admit(&limited(), &mut options).unwrap();
        let other = |o: &mut ContainerOptions| {
            o.labels.insert("ci".into(), "false".into());
        };
        assert!(refused(other).contains("the label ci=false"));
    }

    #[test]
    fn what_reaches_beyond_a_container_is_refused() {
        type Wish = fn(&mut ContainerOptions);
        let mount = |kind, source: &str| MountSetting {
            kind,
            source: source.to_owned(),
            ..MountSetting::default()
        };
        let wishes: [(Wish, &str); 18] = [
            (|o| o.flags.security.privileged = true, "all privileges"),
            (|o| o.flags.security.cap_add = vec!["SYS_ADMIN".into()], "capabilities"),
            (|o| o.flags.security.seccomp = "unconfined".into(), "seccomp"),
            (|o| o.flags.security.unconfined_paths = true, "system paths"),
            (|o| o.flags.devices = vec![DeviceSetting::default()], "devices"),
            (|o| o.flags.cdi_devices = vec!["a.b/c=d".into()], "devices"),
            (|o| o.flags.namespaces.pid = "host".into(), "pid"),
            (|o| o.flags.namespaces.ipc = "container:db".into(), "ipc"),
            (|o| o.flags.namespaces.cgroup = "host".into(), "cgroup"),
            (|o| o.flags.cgroup_parent = "/".into(), "parent cgroup"),
            (|o| o.flags.oom_score_adj = Some(-1), "OOM"),
            (|o| o.flags.resources.oom_kill_disable = Some(true), "OOM"),
            (|o| o.network = "host".into(), "network"),
            (|o| o.network = "bridge".into(), "network"),
            (
                |o| {
                    o.networks = vec![Attachment { network: "app".into(), ..Attachment::default() }]
                },
                "app",
            ),
            (|o| o.ports = vec![PortWish::default()], "ports of the host"),
            (|o| o.publish_all = true, "ports of the host"),
            (|o| o.volumes_from = vec!["db".into()], "mounts of another"),
        ];
        for (wish, what) in wishes {
            let said = refused(wish);
            assert!(said.contains(what), "{said}");
        }
        let said = refused(|o| o.mounts = vec![mount(MountKind::Bind, "/etc")]);
        assert!(said.contains("the host's /etc"), "{said}");
        let said = refused(|o| o.mounts = vec![mount(MountKind::Volume, "pgdata")]);
        assert!(said.contains("the volume pgdata"), "{said}");
        let said = refused(|o| {
            let options = [("device".to_owned(), "/".to_owned())].into();
            let hidden = mount(MountKind::Volume, "");
            o.mounts = vec![MountSetting { volume_options: options, ..hidden }];
        });
        assert!(said.contains("options of its driver"), "{said}");
    }

    #[test]
    fn what_is_a_containers_own_is_granted() {
        let mount = |kind| MountSetting { kind, ..MountSetting::default() };
        let kinds = [MountKind::Volume, MountKind::Tmpfs, MountKind::Image];
        let security = Security { cap_drop: vec!["ALL".into()], ..Security::default() };
        let namespaces = Namespaces { ipc: "shareable".into(), ..Namespaces::default() };
        let mut options = ContainerOptions {
            network: "none".into(),
            mounts: kinds.map(mount).to_vec(),
            flags: Flags { security, namespaces, oom_score_adj: Some(500), ..Flags::default() },
            ..ContainerOptions::default()
        };
        admit(&limited(), &mut options).unwrap();
    }

    #[test]
    fn processes_and_limits() {
        let ctx = limited();
        let privileged = ExecRequest { privileged: true, ..ExecRequest::default() };
        assert!(admit_exec(&ctx, &privileged).is_err());
        admit_exec(&ctx, &ExecRequest::default()).unwrap();
        let memory = Resources { memory: Some(1 << 30), ..Resources::default() };
        admit_resources(&ctx, &memory).unwrap();
        let never = Resources { oom_kill_disable: Some(true), ..memory };
        assert!(admit_resources(&ctx, &never).is_err());
    }

    #[test]
    fn processes_of_the_host_are_not_shown_for_the_containers() {
        let admitted = |ctx: &Context, options: &str, titles: &str| {
            let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let said = admit_columns(ctx, &words(options), &words(titles));
            said.inspect_err(|err| assert_eq!(err.kind(), Kind::PermissionDenied)).is_ok()
        };
        let ctx = limited();
        admit_columns(&ctx, &[], &["UID".to_owned(), "PID".to_owned()]).unwrap();
        assert!(admitted(&ctx, "aux", "USER PID") && admitted(&ctx, "-ef", "UID PID"));
        assert!(admitted(&ctx, "-eo pid,args", "PID COMMAND"));
        // A word in another column of the host's process is taken for its ID.
        for (options, titles) in [
            ("-eo uid=,pid,args", "PID COMMAND"),
            ("-eo lstart,uid,gid,ppid,pid", "STARTED UID GID PPID PID"),
            ("-efZ", "LABEL UID PID"),
        ] {
            assert!(!admitted(&ctx, options, titles), "{options}");
            let free = Context { scope: None, ..ctx.clone() };
            assert!(admitted(&free, options, titles), "{options}");
        }
    }

    #[test]
    fn others_containers() {
        let ctx = limited();
        let own = Labels::from([("ci".to_owned(), "true".to_owned())]);
        assert!(sees(&ctx, &own) && !sees(&ctx, &Labels::new()));
        let check = |scope, labels: &Labels| check(scope, "container", "web", labels);
        check(ctx.scope.as_deref(), &own).unwrap();
        check(None, &Labels::new()).unwrap();
        let err = check(ctx.scope.as_deref(), &Labels::new()).unwrap_err();
        assert_eq!(
            (err.kind(), err.subject()),
            (Kind::PermissionDenied, Some(("container", "web")))
        );
        let key = super::check(ctx.scope.as_deref(), "idempotency key", "k", &Labels::new());
        assert!(key.unwrap_err().to_string().starts_with("idempotency key k is beyond"));
    }
}
