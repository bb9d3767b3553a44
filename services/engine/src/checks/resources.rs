//! Limits: their rules and what this host can't limit, as Docker's daemon has them.

use gantry_core::{Error, Result};

use crate::host::{Facts, numbers};
use crate::model::{DeviceLimit, DeviceLimitKind, Resources};

/// Least bytes of memory: below it nothing starts.
const LEAST_MEMORY: i64 = 6 << 20;
/// Least and most microseconds of a period of processors.
const PERIODS: std::ops::RangeInclusive<i64> = 1000..=1_000_000;
/// Least microseconds of it that may be used.
const LEAST_QUOTA: i64 = 1000;
/// Weights of input and output.
const WEIGHTS: std::ops::RangeInclusive<u64> = 10..=1000;
/// Least part of a processor, in billionths.
const LEAST_CPUS: i64 = 10_000_000;
/// A processor, in billionths.
const CPU: i64 = 1_000_000_000;

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid_argument(message)
}

/// Checks limits, takes out what this host can't limit, and fills in what follows from others.
/// Gives what a user should know, a line each.
///
/// `update`: they are for a container that is there.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check(resources: &mut Resources, facts: &Facts, update: bool) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    unset(resources, update);
    memory(resources, facts, update, &mut warnings)?;
    oom_and_pids(resources, facts, &mut warnings);
    cpus(resources, facts, &mut warnings)?;
    cpuset(resources, facts, &mut warnings)?;
    blkio(resources, facts, &mut warnings)?;
    Ok(warnings)
}

/// The limits of a container after an update, checked. Gives what a user should know as well.
///
/// # Errors
/// `InvalidArgument`, for what contradicts the limits that it has, too.
pub(crate) fn updated(
    before: &Resources,
    change: &Resources,
    facts: &Facts,
) -> Result<(Resources, Vec<String>)> {
    let mut change = change.clone();
    let mut warnings = check(&mut change, facts, true)?;
    conflicts(before, &change)?;
    let mut after = before.clone();
    let take = |to: &mut Option<i64>, from: Option<i64>| *to = from.or(*to);
    take(&mut after.memory, change.memory);
    take(&mut after.memory_swap, change.memory_swap);
    take(&mut after.memory_reservation, change.memory_reservation);
    take(&mut after.pids, change.pids);
    take(&mut after.nano_cpus, change.nano_cpus);
    take(&mut after.cpu_shares, change.cpu_shares);
    take(&mut after.cpu_quota, change.cpu_quota);
    take(&mut after.cpu_period, change.cpu_period);
    take(&mut after.cpu_rt_runtime, change.cpu_rt_runtime);
    take(&mut after.cpu_rt_period, change.cpu_rt_period);
    after.memory_swappiness = change.memory_swappiness.or(after.memory_swappiness);
    after.blkio_weight = change.blkio_weight.or(after.blkio_weight);
    after.oom_kill_disable = change.oom_kill_disable.or(after.oom_kill_disable);
    after.cpuset_cpus = change.cpuset_cpus.or(after.cpuset_cpus);
    after.cpuset_mems = change.cpuset_mems.or(after.cpuset_mems);
    for limit in change.device_limits {
        let place = after.device_limits.iter().position(|other| is_same(other, &limit));
        match place {
            Some(at) => after.device_limits[at] = limit,
            None => after.device_limits.push(limit),
        }
    }
    // Together they may break rules that each of them keeps.
    for warning in check(&mut after, facts, true)? {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    Ok((after, warnings))
}

fn is_same(one: &DeviceLimit, other: &DeviceLimit) -> bool {
    (one.kind, &one.path) == (other.kind, &other.path)
}

/// What was set in another way can't be changed in this one.
fn conflicts(before: &Resources, change: &Resources) -> Result<()> {
    let (cpus, period) = (change.nano_cpus.is_some(), change.cpu_period.is_some());
    let quota = change.cpu_quota.is_some();
    let had_cpus = before.nano_cpus.is_some();
    for (conflict, text) in [
        (
            cpus && before.cpu_period.is_some(),
            "Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            cpus && before.cpu_quota.is_some(),
            "Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (period && had_cpus, "CPU Period cannot be updated as NanoCPUs has already been set"),
        (quota && had_cpus, "CPU Quota cannot be updated as NanoCPUs has already been set"),
    ] {
        if conflict {
            return Err(invalid(format!("Conflicting options: {text}")));
        }
    }
    if let (Some(memory), None, Some(swap)) =
        (change.memory, change.memory_swap, before.memory_swap)
        && swap > 0
        && memory > swap
    {
        return Err(invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the \
             memoryswap at the same time",
        ));
    }
    Ok(())
}

/// Nothing and none are the same. No limit is -1, of processes where there may have been one.
fn unset(resources: &mut Resources, update: bool) {
    let zeroes = [
        &mut resources.memory,
        &mut resources.memory_swap,
        &mut resources.memory_reservation,
        &mut resources.nano_cpus,
        &mut resources.cpu_shares,
        &mut resources.cpu_quota,
        &mut resources.cpu_period,
        &mut resources.cpu_rt_runtime,
        &mut resources.cpu_rt_period,
    ];
    for value in zeroes {
        value.take_if(|value| *value == 0);
    }
    for value in [&mut resources.cpuset_cpus, &mut resources.cpuset_mems] {
        value.take_if(|value| value.is_empty());
    }
    resources.blkio_weight.take_if(|weight| *weight == 0);
    resources.memory_swap = resources.memory_swap.map(|swap| swap.max(-1));
    resources.pids = match resources.pids {
        Some(..=0) => update.then_some(-1),
        limit => limit,
    };
}

fn memory(
    resources: &mut Resources,
    facts: &Facts,
    update: bool,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let mut warn = |text: &str| warnings.push(text.to_owned());
    if resources.memory.is_some_and(|memory| memory < LEAST_MEMORY) {
        return Err(invalid("Minimum memory limit allowed is 6MB"));
    }
    if resources.memory.is_some() && !facts.memory {
        warn(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. \
             Limitation discarded.",
        );
        (resources.memory, resources.memory_swap) = (None, None);
    }
    if resources.memory.is_none() && resources.memory_swap.is_some_and(|s| s > 0) && !update {
        return Err(invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if !facts.swap {
        let asked = !update || resources.memory_swap.is_some();
        if resources.memory.is_some() && resources.memory_swap != Some(-1) && asked {
            warn(
                "Your kernel does not support swap limit capabilities or the cgroup is not \
                 mounted. Memory limited without swap.",
            );
        }
        resources.memory_swap = None;
    }
    match (resources.memory, resources.memory_swap) {
        (Some(memory), Some(swap)) if swap > 0 && swap < memory => {
            return Err(invalid(
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ));
        }
        // As much swap as memory, unless the caller says otherwise.
        (Some(memory), None) if !update && facts.swap => {
            resources.memory_swap = Some(memory.saturating_mul(2));
        }
        _ => {}
    }
    reclaim(resources, facts, warnings)
}

/// What the kernel takes back first.
fn reclaim(resources: &mut Resources, facts: &Facts, warnings: &mut Vec<String>) -> Result<()> {
    let mut warn = |text: &str| warnings.push(text.to_owned());
    if resources.memory_swappiness.is_some() && !facts.swappiness {
        warn(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not \
             mounted. Memory swappiness discarded.",
        );
        resources.memory_swappiness = None;
    }
    if let Some(swappiness) = resources.memory_swappiness.filter(|value| *value > 100) {
        return Err(invalid(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    if resources.memory_reservation.is_some() && !facts.reservation {
        warn(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not \
             mounted. Limitation discarded.",
        );
        resources.memory_reservation = None;
    }
    if let Some(reservation) = resources.memory_reservation {
        if reservation < LEAST_MEMORY {
            return Err(invalid("Minimum memory reservation allowed is 6MB"));
        }
        if resources.memory.is_some_and(|memory| memory < reservation) {
            return Err(invalid(
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ));
        }
    }
    Ok(())
}

fn oom_and_pids(resources: &mut Resources, facts: &Facts, warnings: &mut Vec<String>) {
    let mut warn = |text: &str| warnings.push(text.to_owned());
    if resources.oom_kill_disable.is_some() && !facts.oom_kill_disable {
        if resources.oom_kill_disable == Some(true) {
            warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.");
        }
        resources.oom_kill_disable = None;
    }
    if resources.oom_kill_disable == Some(true) && resources.memory.is_none() {
        warn(
            "OOM killer is disabled for the container, but no memory limit is set, this can \
             result in the system running out of resources.",
        );
    }
    if resources.pids.is_some() && !facts.pids {
        if resources.pids.is_some_and(|pids| pids > 0) {
            warn(
                "Your kernel does not support PIDs limit capabilities or the cgroup is not \
                 mounted. PIDs limit discarded.",
            );
        }
        resources.pids = None;
    }
}

fn cpus(resources: &mut Resources, facts: &Facts, warnings: &mut Vec<String>) -> Result<()> {
    let mut warn = |text: &str| warnings.push(text.to_owned());
    if let Some(cpus) = resources.nano_cpus {
        let both = |what: &str| {
            invalid(format!("Conflicting options: Nano CPUs and CPU {what} cannot both be set"))
        };
        if resources.cpu_period.is_some() {
            return Err(both("Period"));
        }
        if resources.cpu_quota.is_some() {
            return Err(both("Quota"));
        }
        if !facts.cpu_cfs {
            return Err(invalid(
                "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or \
                 the cgroup is not mounted",
            ));
        }
        let count = facts.count;
        let most = i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(CPU);
        if !(LEAST_CPUS..=most).contains(&cpus) {
            return Err(invalid(format!(
                "Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
            )));
        }
    }
    if let Some(shares) = resources.cpu_shares {
        if shares < 0 {
            return Err(invalid(format!(
                "invalid CPU shares ({shares}): value must be a positive integer"
            )));
        }
        if !facts.cpu_shares {
            warn(
                "Your kernel does not support CPU shares or the cgroup is not mounted. Shares \
                 discarded.",
            );
            resources.cpu_shares = None;
        }
    }
    if (resources.cpu_period.is_some() || resources.cpu_quota.is_some()) && !facts.cpu_cfs {
        warn("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.");
        (resources.cpu_period, resources.cpu_quota) = (None, None);
    }
    if resources.cpu_period.is_some_and(|period| !PERIODS.contains(&period)) {
        return Err(invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if resources.cpu_quota.is_some_and(|quota| (1..LEAST_QUOTA).contains(&quota)) {
        return Err(invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    let realtime = [resources.cpu_rt_period, resources.cpu_rt_runtime];
    if realtime.iter().any(Option::is_some) && !facts.cpu_realtime {
        return Err(invalid(
            "Your kernel does not support CPU real-time scheduling in cgroups: --cpu-rt-period \
             and --cpu-rt-runtime can not be set",
        ));
    }
    if realtime.into_iter().flatten().any(|value| value < 0) {
        return Err(invalid("CPU real-time period and runtime can not be negative"));
    }
    Ok(())
}

fn cpuset(resources: &mut Resources, facts: &Facts, warnings: &mut Vec<String>) -> Result<()> {
    let asked = resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some();
    if asked && !facts.cpuset {
        warnings.push(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
                .to_owned(),
        );
        (resources.cpuset_cpus, resources.cpuset_mems) = (None, None);
    }
    for (wish, there, short, long) in [
        (&resources.cpuset_cpus, &facts.cpus, "cpus", "CPUs"),
        (&resources.cpuset_mems, &facts.mems, "mems", "memory nodes"),
    ] {
        let Some(wish) = wish else { continue };
        let wanted = numbers(wish).filter(|set| !set.is_empty()).ok_or_else(|| {
            invalid(format!("Invalid value {wish} for cpuset {short}: it is no list like 0-2,4"))
        })?;
        if !wanted.is_subset(&numbers(there).unwrap_or_default()) {
            return Err(invalid(format!(
                "Requested {long} are not available - requested {wish}, available: {there}"
            )));
        }
    }
    Ok(())
}

fn blkio(resources: &mut Resources, facts: &Facts, warnings: &mut Vec<String>) -> Result<()> {
    let mut warn = |text: &str| {
        if !warnings.iter().any(|told| told == text) {
            warnings.push(text.to_owned());
        }
    };
    if resources.blkio_weight.is_some() && !facts.blkio_weight {
        warn(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight \
             discarded.",
        );
        resources.blkio_weight = None;
    }
    let outside = |weight: u64| !WEIGHTS.contains(&weight);
    if resources.blkio_weight.is_some_and(|weight| outside(weight.into())) {
        return Err(invalid("Range of blkio weight is from 10 to 1000"));
    }
    let mut kept = Vec::with_capacity(resources.device_limits.len());
    for limit in std::mem::take(&mut resources.device_limits) {
        let (supported, what) = match limit.kind {
            DeviceLimitKind::Weight => (facts.blkio_weight_device, "Block I/O weight_device"),
            DeviceLimitKind::ReadBps => (facts.blkio_throttle, "BPS Block I/O read limit"),
            DeviceLimitKind::WriteBps => (facts.blkio_throttle, "BPS Block I/O write limit"),
            DeviceLimitKind::ReadIops => (facts.blkio_throttle, "IOPS Block read limit"),
            DeviceLimitKind::WriteIops => (facts.blkio_throttle, "IOPS Block write limit"),
        };
        if limit.kind == DeviceLimitKind::Weight && outside(limit.rate) {
            return Err(invalid(format!("invalid weight for device: {}", limit.path)));
        }
        if !limit.path.starts_with('/') {
            return Err(invalid(format!("bad format for device path: {}", limit.path)));
        }
        if supported {
            kept.push(limit);
            continue;
        }
        warn(&format!(
            "Your kernel does not support {what} or the cgroup is not mounted. {what} discarded."
        ));
    }
    resources.device_limits = kept;
    Ok(())
}

#[cfg(test)]
mod tests;
