//! Limits of what a container uses, which `update` changes while it runs.

use clap::{Args, ValueHint};
use gantry_grpc::gantry::engine::v1 as api;

use crate::units;

/// Path of a device, and its limit.
type DeviceRate = (String, u64);

/// Options about limits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Memory: 512m, 2g
    #[arg(short, long, value_name = "BYTES", value_parser = units::bytes)]
    memory: Option<i64>,
    /// Memory and swap together; -1 for no limit of swap
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = units::bytes_or_all,
        allow_negative_numbers = true
    )]
    memory_swap: Option<i64>,
    /// Memory that it may keep when the machine is short
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    memory_reservation: Option<i64>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Processors: 1.5
    #[arg(
        long,
        value_name = "NUMBER",
        value_parser = units::processors,
        allow_negative_numbers = true
    )]
    cpus: Option<i64>,
    /// Weight for processors; 1024 is usual
    #[arg(short = 'c', long, value_name = "WEIGHT", allow_negative_numbers = true)]
    cpu_shares: Option<i64>,
    /// Microseconds of a period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Length of a period
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_period: Option<i64>,
    /// Microseconds of a period for real-time scheduling
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// Length of a period of real-time scheduling
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_rt_period: Option<i64>,
    /// Processors that it may use: 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that it may use: 0-1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Weight for disks: 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// The same for one device (several)
    #[arg(
        long,
        value_name = "DEVICE:WEIGHT",
        value_parser = device_weight,
        value_hint = ValueHint::AnyPath
    )]
    blkio_weight_device: Vec<DeviceRate>,
    /// Bytes read from a device in a second (several)
    #[arg(
        long,
        value_name = "DEVICE:BYTES",
        value_parser = device_bytes,
        value_hint = ValueHint::AnyPath
    )]
    device_read_bps: Vec<DeviceRate>,
    /// Bytes written to a device in a second (several)
    #[arg(
        long,
        value_name = "DEVICE:BYTES",
        value_parser = device_bytes,
        value_hint = ValueHint::AnyPath
    )]
    device_write_bps: Vec<DeviceRate>,
    /// Reads from a device in a second (several)
    #[arg(
        long,
        value_name = "DEVICE:NUMBER",
        value_parser = device_count,
        value_hint = ValueHint::AnyPath
    )]
    device_read_iops: Vec<DeviceRate>,
    /// Writes to a device in a second (several)
    #[arg(
        long,
        value_name = "DEVICE:NUMBER",
        value_parser = device_count,
        value_hint = ValueHint::AnyPath
    )]
    device_write_iops: Vec<DeviceRate>,
}

impl Limits {
    /// Whether any of them is given, even as 0.
    pub(crate) fn is_given(&self) -> bool {
        let numbers = [
            self.memory,
            self.memory_swap,
            self.memory_reservation,
            self.pids_limit,
            self.cpus,
            self.cpu_shares,
            self.cpu_quota,
            self.cpu_period,
            self.cpu_rt_runtime,
            self.cpu_rt_period,
        ];
        let rates = [
            &self.blkio_weight_device,
            &self.device_read_bps,
            &self.device_write_bps,
            &self.device_read_iops,
            &self.device_write_iops,
        ];
        numbers.iter().any(Option::is_some)
            || self.cpuset_cpus.is_some()
            || self.cpuset_mems.is_some()
            || self.blkio_weight.is_some()
            || rates.iter().any(|rates| !rates.is_empty())
    }

    /// The limits; 0 is none, as it is for Docker.
    pub(crate) fn into_resources(self) -> api::Resources {
        use api::DeviceLimitKind as Kind;
        let set = |value: Option<i64>| value.filter(|value| *value != 0);
        let named = |list: Option<String>| list.filter(|list| !list.is_empty());
        let devices = [
            (Kind::Weight, self.blkio_weight_device),
            (Kind::ReadBps, self.device_read_bps),
            (Kind::WriteBps, self.device_write_bps),
            (Kind::ReadIops, self.device_read_iops),
            (Kind::WriteIops, self.device_write_iops),
        ];
        let device_limits = devices.into_iter().flat_map(|(kind, rates)| {
            let limit = move |(path, rate)| api::DeviceLimit { kind: kind.into(), path, rate };
            rates.into_iter().map(limit)
        });
        api::Resources {
            memory: set(self.memory),
            memory_swap: set(self.memory_swap),
            memory_reservation: set(self.memory_reservation),
            pids: set(self.pids_limit),
            nano_cpus: set(self.cpus),
            cpu_shares: set(self.cpu_shares),
            cpu_quota: set(self.cpu_quota),
            cpu_period: set(self.cpu_period),
            cpuset_cpus: named(self.cpuset_cpus),
            cpuset_mems: named(self.cpuset_mems),
            blkio_weight: self.blkio_weight.filter(|weight| *weight != 0).map(u32::from),
            device_limits: device_limits.collect(),
            cpu_rt_runtime: set(self.cpu_rt_runtime),
            cpu_rt_period: set(self.cpu_rt_period),
            ..Default::default()
        }
    }
}

/// A device of the host, and what stands behind its colon.
fn device(text: &str) -> Result<(String, &str), String> {
    match text.split_once(':') {
        Some((path, rate)) if path.starts_with("/dev/") => Ok((path.to_owned(), rate)),
        None | Some(("", _)) => Err(format!("bad format: {text}")),
        Some(_) => Err(format!("bad format for device path: {text}")),
    }
}

fn device_weight(text: &str) -> Result<DeviceRate, String> {
    let (path, weight) = device(text)?;
    let weight = weight.parse::<u16>().ok().filter(|weight| matches!(*weight, 0 | 10..=1000));
    let weight = weight.ok_or_else(|| format!("invalid weight for device: {text}"))?;
    Ok((path, weight.into()))
}

fn device_bytes(text: &str) -> Result<DeviceRate, String> {
    let (path, rate) = device(text)?;
    let rate = units::size(rate).map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is \
             <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional \
             and can be kb, mb, or gb"
        )
    })?;
    Ok((path, rate))
}

fn device_count(text: &str) -> Result<DeviceRate, String> {
    let (path, rate) = device(text)?;
    let rate = rate.parse::<u64>().map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. \
             Number must be a positive integer"
        )
    })?;
    Ok((path, rate))
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn limits(line: &[&str]) -> Result<Limits, clap::Error> {
        let command = Limits::augment_args(clap::Command::new("x").no_binary_name(true));
        Limits::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    fn resources(line: &[&str]) -> Result<api::Resources, clap::Error> {
        Ok(limits(line)?.into_resources())
    }

    #[test]
    fn limits_become_resources() {
        let made = resources(&[
            "-m",
            "64m",
            "--memory-swap",
            "-1",
            "--pids-limit=-1",
            "--cpus",
            "0.25",
            "-c",
            "512",
            "--cpuset-cpus=0-1",
            "--blkio-weight",
            "300",
            "--device-read-bps",
            "/dev/null:1m",
            "--device-write-iops=/dev/zero:7",
            "--blkio-weight-device=/dev/null:10",
        ])
        .unwrap();
        assert_eq!(
            (made.memory, made.memory_swap, made.pids),
            (Some(64 << 20), Some(-1), Some(-1))
        );
        assert_eq!((made.nano_cpus, made.cpu_shares), (Some(250_000_000), Some(512)));
        assert_eq!((made.cpuset_cpus.as_deref(), made.blkio_weight), (Some("0-1"), Some(300)));
        let limits: Vec<_> =
            made.device_limits.iter().map(|l| (l.kind(), l.path.as_str(), l.rate)).collect();
        let wanted = [
            (api::DeviceLimitKind::Weight, "/dev/null", 10),
            (api::DeviceLimitKind::ReadBps, "/dev/null", 1 << 20),
            (api::DeviceLimitKind::WriteIops, "/dev/zero", 7),
        ];
        assert_eq!(limits, wanted);
    }

    #[test]
    fn zero_is_no_limit() {
        let made = resources(&["-m", "0", "--cpus=0", "--pids-limit=0", "--blkio-weight=0"]);
        assert_eq!(made.unwrap(), api::Resources::default());
        assert_eq!(resources(&[]).unwrap(), api::Resources::default());
        assert!(limits(&["--pids-limit=0"]).unwrap().is_given());
        assert!(limits(&["--device-read-bps", "/dev/x:0"]).unwrap().is_given());
        assert!(!limits(&[]).unwrap().is_given());
    }

    #[test]
    fn malformed_limits_are_refused_in_dockers_words() {
        for (line, said) in [
            (["-m", "lots"], "invalid size: 'lots'"),
            (["--cpus", "0.0000000001"], "value is too precise"),
            (["--cpus", "many"], "failed to parse many as a rational number"),
            (["--device-read-bps", "x:1"], "bad format for device path: x:1"),
            (["--device-read-bps", ":1"], "bad format: :1"),
            (["--device-read-bps", "/dev/x"], "bad format: /dev/x"),
            (["--device-write-bps", "/dev/x:1z"], "invalid rate for device: /dev/x:1z. The"),
            (["--device-read-iops", "/dev/x:-1"], "<device-path>:<number>. Number must be"),
            (["--blkio-weight-device", "/dev/x:5"], "invalid weight for device: /dev/x:5"),
        ] {
            let error = resources(&line).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
