//! What a container is to have: the wire's messages as the engine's settings. Whether it can
//! be had is the engine's to say.

use gantry_grpc::gantry::engine::v1 as api;
use tonic::Status;

use super::convert::invalid;
use super::networks;
use crate::health::{HealthAction, HealthConfig};
use crate::model::{
    Dependency, DeviceLimit, DeviceLimitKind, DeviceSetting, Flags, MountKind, MountSetting,
    Namespaces, Resources, RestartMode, RestartPolicy, Security, Ulimit,
};
use crate::options::ContainerOptions;

/// Everything that a container is made of, but for the key of the request.
pub(super) fn options(wire: Option<api::ContainerSpec>) -> Result<ContainerOptions, Status> {
    let mut spec = wire.ok_or_else(|| invalid("the container is not described"))?;
    let flags = flags(&mut spec)?;
    Ok(ContainerOptions {
        name: spec.name,
        image: spec.image,
        command: spec.command,
        entrypoint: spec.has_entrypoint.then_some(spec.entrypoint),
        env: spec.env,
        working_dir: spec.working_dir,
        user: spec.user,
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        labels: spec.labels,
        hostname: spec.hostname,
        network: spec.network,
        networks: spec.networks.into_iter().map(networks::attachment).collect::<Result<_, _>>()?,
        ports: spec.ports.into_iter().map(networks::port_wish).collect::<Result<_, _>>()?,
        expose: spec.expose,
        publish_all: spec.publish_all,
        dns: spec.dns,
        dns_search: spec.dns_search,
        dns_options: spec.dns_options,
        extra_hosts: spec.extra_hosts,
        auto_remove: spec.auto_remove,
        stop_signal: spec.stop_signal,
        log_driver: spec.log_driver,
        log_options: spec.log_options,
        mounts: spec.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        volumes_from: spec.volumes_from,
        restart: spec.restart.map(restart).transpose()?.unwrap_or_default(),
        health: spec.health.map(health).transpose()?.unwrap_or_default(),
        stop_timeout: spec.stop_timeout,
        after: spec.after.into_iter().map(dependency).collect(),
        flags,
        idempotency: None,
    })
}

/// Takes out what few containers have.
fn flags(spec: &mut api::ContainerSpec) -> Result<Flags, Status> {
    use std::mem::take;
    Ok(Flags {
        domainname: take(&mut spec.domainname),
        resources: spec.resources.take().map(resources).transpose()?.unwrap_or_default(),
        security: spec.security.take().map(security).unwrap_or_default(),
        namespaces: spec.namespaces.take().map(namespaces).unwrap_or_default(),
        init: spec.init,
        devices: take(&mut spec.devices).into_iter().map(device).collect(),
        device_cgroup_rules: take(&mut spec.device_cgroup_rules),
        cdi_devices: take(&mut spec.cdi_devices),
        ulimits: take(&mut spec.ulimits).into_iter().map(ulimit).collect(),
        sysctls: take(&mut spec.sysctls),
        groups: take(&mut spec.groups),
        annotations: take(&mut spec.annotations),
        shm_size: spec.shm_size,
        oom_score_adj: spec.oom_score_adj,
        cgroup_parent: take(&mut spec.cgroup_parent),
        ..Flags::default()
    })
}

/// Limits.
pub(super) fn resources(wire: api::Resources) -> Result<Resources, Status> {
    Ok(Resources {
        memory: wire.memory,
        memory_swap: wire.memory_swap,
        memory_reservation: wire.memory_reservation,
        memory_swappiness: wire.memory_swappiness,
        pids: wire.pids,
        nano_cpus: wire.nano_cpus,
        cpu_shares: wire.cpu_shares,
        cpu_quota: wire.cpu_quota,
        cpu_period: wire.cpu_period,
        cpuset_cpus: wire.cpuset_cpus,
        cpuset_mems: wire.cpuset_mems,
        blkio_weight: wire.blkio_weight,
        device_limits: wire.device_limits.into_iter().map(limit).collect::<Result<_, _>>()?,
        oom_kill_disable: wire.oom_kill_disable,
        cpu_rt_runtime: wire.cpu_rt_runtime,
        cpu_rt_period: wire.cpu_rt_period,
    })
}

fn limit(wire: api::DeviceLimit) -> Result<DeviceLimit, Status> {
    let kind = match wire.kind() {
        api::DeviceLimitKind::ReadBps => DeviceLimitKind::ReadBps,
        api::DeviceLimitKind::WriteBps => DeviceLimitKind::WriteBps,
        api::DeviceLimitKind::ReadIops => DeviceLimitKind::ReadIops,
        api::DeviceLimitKind::WriteIops => DeviceLimitKind::WriteIops,
        api::DeviceLimitKind::Weight => DeviceLimitKind::Weight,
        api::DeviceLimitKind::Unspecified => {
            return Err(invalid(format!("unknown kind of device limit {}", wire.kind)));
        }
    };
    Ok(DeviceLimit { kind, path: wire.path, rate: wire.rate })
}

/// When a container is started again.
pub(super) fn restart(wire: api::RestartPolicy) -> Result<RestartPolicy, Status> {
    let mode = match api::RestartMode::try_from(wire.mode) {
        Ok(api::RestartMode::No) => RestartMode::No,
        Ok(api::RestartMode::OnFailure) => RestartMode::OnFailure,
        Ok(api::RestartMode::Always) => RestartMode::Always,
        Ok(api::RestartMode::UnlessStopped) => RestartMode::UnlessStopped,
        Err(_) => {
            return Err(invalid(format!("invalid restart policy: unknown mode {}", wire.mode)));
        }
    };
    Ok(RestartPolicy { mode, maximum_retries: wire.maximum_retries })
}

fn health(wire: api::HealthCheck) -> Result<HealthConfig, Status> {
    let on_failure = match api::HealthAction::try_from(wire.on_failure) {
        Ok(api::HealthAction::None) => HealthAction::None,
        Ok(api::HealthAction::Restart) => HealthAction::Restart,
        Ok(api::HealthAction::Stop) => HealthAction::Stop,
        Ok(api::HealthAction::Kill) => HealthAction::Kill,
        Err(_) => {
            return Err(invalid(format!("unknown action on failed health: {}", wire.on_failure)));
        }
    };
    Ok(HealthConfig {
        test: wire.test,
        interval: nanos("Interval", wire.interval)?,
        timeout: nanos("Timeout", wire.timeout)?,
        start_period: nanos("StartPeriod", wire.start_period)?,
        start_interval: nanos("StartInterval", wire.start_interval)?,
        retries: wire.retries,
        on_failure,
        ..HealthConfig::default()
    })
}

/// Nanoseconds of a duration of a health check; 0 when it is unset.
fn nanos(name: &str, wire: Option<prost_types::Duration>) -> Result<u64, Status> {
    let Some(wire) = wire else { return Ok(0) };
    let seconds = u64::try_from(wire.seconds).ok().and_then(|s| s.checked_mul(1_000_000_000));
    let rest = u64::try_from(wire.nanos).ok();
    let all = seconds.zip(rest).and_then(|(seconds, rest)| seconds.checked_add(rest));
    all.ok_or_else(|| invalid(format!("{name} in Healthcheck cannot be less than 1ms")))
}

fn mount(wire: api::Mount) -> Result<MountSetting, Status> {
    let kind = match wire.kind() {
        api::MountKind::Bind => MountKind::Bind,
        api::MountKind::Volume => MountKind::Volume,
        api::MountKind::Tmpfs => MountKind::Tmpfs,
        api::MountKind::Image => MountKind::Image,
        api::MountKind::Unspecified => {
            return Err(invalid(format!("mount type unknown: {}", wire.kind)));
        }
    };
    Ok(MountSetting {
        kind,
        source: wire.source,
        target: wire.target,
        read_only: wire.read_only,
        propagation: wire.propagation,
        create_source: wire.create_source,
        non_recursive: wire.non_recursive,
        read_only_non_recursive: wire.read_only_non_recursive,
        read_only_force_recursive: wire.read_only_force_recursive,
        subpath: wire.subpath,
        no_copy: wire.no_copy,
        volume_labels: wire.volume_labels,
        volume_driver: wire.volume_driver,
        volume_options: wire.volume_options,
        tmpfs_size: wire.tmpfs_size,
        tmpfs_mode: wire.tmpfs_mode,
        tmpfs_options: wire.tmpfs_options,
        ..MountSetting::default()
    })
}

fn security(wire: api::Security) -> Security {
    Security {
        privileged: wire.privileged,
        cap_add: wire.cap_add,
        cap_drop: wire.cap_drop,
        no_new_privileges: wire.no_new_privileges,
        seccomp: wire.seccomp,
        unconfined_paths: wire.unconfined_paths,
        read_only: wire.read_only,
    }
}

fn namespaces(wire: api::Namespaces) -> Namespaces {
    let api::Namespaces { pid, ipc, uts, user, cgroup } = wire;
    Namespaces { pid, ipc, uts, user, cgroup, ..Namespaces::default() }
}

fn device(wire: api::Device) -> DeviceSetting {
    DeviceSetting {
        host_path: wire.host_path,
        container_path: wire.container_path,
        access: wire.access,
    }
}

fn ulimit(wire: api::Ulimit) -> Ulimit {
    Ulimit { name: wire.name, soft: wire.soft, hard: wire.hard }
}

fn dependency(wire: api::Dependency) -> Dependency {
    Dependency { container: wire.container, healthy: wire.healthy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut api::ContainerSpec)) -> Result<ContainerOptions, Status> {
        let mut spec = api::ContainerSpec::default();
        change(&mut spec);
        options(Some(spec))
    }

    #[test]
    fn what_is_unset_is_usual() {
        let options = spec(|_| {}).unwrap();
        assert_eq!(options.flags, Flags::default());
        assert_eq!(options.restart, RestartPolicy::default());
        assert_eq!(options.health, HealthConfig::default());
        assert!(super::options(None).is_err());
    }

    #[test]
    fn limits_and_policies() {
        let made = spec(|s| {
            let kind = api::DeviceLimitKind::WriteIops.into();
            let device_limits = vec![api::DeviceLimit { kind, path: "/dev/x".into(), rate: 3 }];
            s.resources = Some(api::Resources { device_limits, ..Default::default() });
            let mode = api::RestartMode::OnFailure.into();
            s.restart = Some(api::RestartPolicy { mode, maximum_retries: 2 });
            s.shm_size = 7;
        })
        .unwrap();
        assert_eq!(made.flags.resources.device_limits[0].kind, DeviceLimitKind::WriteIops);
        assert_eq!(made.restart.mode, RestartMode::OnFailure);
        assert_eq!(made.flags.shm_size, 7);
    }

    #[test]
    fn health_checks() {
        let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        let made = spec(|s| {
            s.health = Some(api::HealthCheck {
                test: vec!["CMD".into(), "x".into()],
                interval: duration(1, 5),
                on_failure: api::HealthAction::Stop.into(),
                ..Default::default()
            });
        });
        let made = made.unwrap().health;
        assert_eq!((made.interval, made.timeout), (1_000_000_005, 0));
        assert_eq!(made.on_failure, HealthAction::Stop);
        let negative = api::HealthCheck { timeout: duration(-1, 0), ..Default::default() };
        assert!(spec(|s| s.health = Some(negative)).is_err());
    }

    #[test]
    fn kinds_that_are_not_known() {
        assert!(spec(|s| s.mounts = vec![api::Mount::default()]).is_err());
        let limit = api::DeviceLimit::default();
        let resources = api::Resources { device_limits: vec![limit], ..Default::default() };
        assert!(spec(|s| s.resources = Some(resources)).is_err());
        let policy = api::RestartPolicy { mode: 99, maximum_retries: 0 };
        assert!(spec(|s| s.restart = Some(policy)).is_err());
    }
}
