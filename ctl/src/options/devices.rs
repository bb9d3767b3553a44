//! Devices of the host in a container.

use clap::{Args, ValueHint};
use gantry_grpc::gantry::engine::v1 as api;

use super::csv;

/// What `--gpus` asks for, as the Container Device Interface knows them.
const GPU: &str = "nvidia.com/gpu";

/// Options about devices.
#[derive(Debug, Args)]
#[command(next_help_heading = "Devices")]
pub(crate) struct Devices {
    /// Let it use a device: /dev/sda, /dev/sda:/dev/xvda:r, a CDI name (several)
    #[arg(
        long,
        value_name = "PATH[:TARGET]",
        value_parser = device,
        value_hint = ValueHint::AnyPath
    )]
    device: Vec<Wanted>,
    /// Let it use further devices by a rule of cgroups: 'c 13:* rwm' (several)
    #[arg(long, value_name = "RULE", value_parser = rule)]
    device_cgroup_rule: Vec<String>,
    /// Let it use what a CDI file describes (several)
    #[arg(long, value_name = "VENDOR/CLASS=NAME", value_parser = cdi)]
    cdi: Vec<String>,
    /// Let it use graphics processors by CDI: all, a number, or device=0
    #[arg(long, value_name = "GPUS", value_parser = gpus)]
    gpus: Vec<Gpus>,
}

/// A device, named in one of two ways.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    Path(api::Device),
    Cdi(String),
}

/// CDI names of graphics processors.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gpus(Vec<String>);

impl Devices {
    /// Adds them to what a container is made from.
    pub(super) fn add_to(self, spec: &mut api::ContainerSpec) {
        for device in self.device {
            match device {
                Wanted::Path(device) => spec.devices.push(device),
                Wanted::Cdi(name) => spec.cdi_devices.push(name),
            }
        }
        spec.cdi_devices.extend(self.cdi);
        spec.cdi_devices.extend(self.gpus.into_iter().flat_map(|gpus| gpus.0));
        spec.device_cgroup_rules = self.device_cgroup_rule;
    }
}

/// `PATH[:TARGET][:ACCESS]`, or a CDI name.
fn device(text: &str) -> Result<Wanted, String> {
    if is_cdi(text) {
        return Ok(Wanted::Cdi(text.to_owned()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, access) = match parts[..] {
        [host] => (host, "", ""),
        [host, access] if is_access(access) => (host, "", access),
        [host, container] => (host, container, ""),
        [host, container, access] if is_access(access) => (host, container, access),
        [_, _, access] => return Err(format!("bad mode specified: {access}")),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if host.is_empty() {
        return Err(format!("bad format for path: {text}"));
    }
    let seen = if container.is_empty() { host } else { container };
    if !seen.starts_with('/') {
        return Err(format!("{seen} is not an absolute path"));
    }
    Ok(Wanted::Path(api::Device {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        access: access.to_owned(),
    }))
}

/// Some of `r`, `w` and `m`, each once.
fn is_access(text: &str) -> bool {
    let once = |letter: char| text.matches(letter).count() <= 1;
    let known = text.chars().all(|letter| matches!(letter, 'r' | 'w' | 'm'));
    known && !text.is_empty() && ['r', 'w', 'm'].into_iter().all(once)
}

/// `TYPE MAJOR:MINOR ACCESS`.
fn rule(text: &str) -> Result<String, String> {
    let number = |text: &str| {
        text == "*" || !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts: Vec<&str> = text.split(' ').collect();
    let is_rule = match parts[..] {
        [kind, numbers, access] => {
            matches!(kind, "a" | "b" | "c")
                && numbers.split_once(':').is_some_and(|(a, b)| number(a) && number(b))
                && matches!(access.len(), 1..=3)
                && access.bytes().all(|byte| matches!(byte, b'r' | b'w' | b'm'))
        }
        _ => false,
    };
    match is_rule {
        true => Ok(text.to_owned()),
        false => Err(format!("invalid device cgroup format '{text}'")),
    }
}

/// A CDI name: `vendor.com/class=name`.
fn cdi(text: &str) -> Result<String, String> {
    match is_cdi(text) {
        true => Ok(text.to_owned()),
        false => Err("it is no CDI name: write VENDOR/CLASS=NAME, as nvidia.com/gpu=0".to_owned()),
    }
}

fn is_cdi(text: &str) -> bool {
    fn made_of(text: &str, others: &str, first: fn(&u8) -> bool) -> bool {
        let bytes = text.as_bytes();
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || others.as_bytes().contains(byte);
        bytes.first().is_some_and(first)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(fits)
    }
    let Some((kind, name)) = text.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    made_of(vendor, "_-.", u8::is_ascii_alphabetic)
        && made_of(class, "_-.", u8::is_ascii_alphabetic)
        && made_of(name, "_-.:", u8::is_ascii_alphanumeric)
}

/// `all`, a number, or fields between commas: `count`, `device`, `driver`, `capabilities`.
fn gpus(text: &str) -> Result<Gpus, String> {
    let (mut count, mut devices): (Option<i64>, Option<Vec<String>>) = (None, None);
    let mut seen: Vec<String> = Vec::new();
    for field in csv::fields(text)? {
        let (key, value) = field.split_once('=').unwrap_or(("count", field.as_str()));
        if seen.iter().any(|seen| seen == key) {
            return Err(format!("gpu request key '{key}' can be specified only once"));
        }
        seen.push(key.to_owned());
        match key {
            "count" => count = Some(counted(value)?),
            "device" => devices = Some(value.split(',').map(str::to_owned).collect()),
            "driver" if matches!(value, "" | "nvidia" | "cdi") => {}
            "driver" => {
                return Err(format!(
                    "driver '{value}' is not supported: use --device or --cdi VENDOR/CLASS=NAME"
                ));
            }
            // Whoever wrote the CDI file has chosen them.
            "capabilities" => {}
            "options" => return Err("options of drivers are not supported".to_owned()),
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    let named = |name: String| if is_cdi(&name) { name } else { format!("{GPU}={name}") };
    let names: Vec<String> = match (count, devices) {
        (Some(_), Some(_)) => {
            return Err("cannot set both count and device on device request".to_owned());
        }
        (None, Some(devices)) => devices.into_iter().map(named).collect(),
        (Some(-1), None) => vec![format!("{GPU}=all")],
        (count, None) => (0..count.unwrap_or(1)).map(|number| format!("{GPU}={number}")).collect(),
    };
    if let Some(name) = names.iter().find(|name| !is_cdi(name)) {
        return Err(format!("'{name}' is no CDI name"));
    }
    Ok(Gpus(names))
}

/// A number of processors; -1 for all.
fn counted(text: &str) -> Result<i64, String> {
    /// More than any machine has.
    const MOST: i64 = 1024;
    let invalid = |why: &str| {
        format!("invalid count ({text}): value must be either \"all\" or an integer: {why}")
    };
    match text.parse::<i64>() {
        _ if text == "all" => Ok(-1),
        Ok(number @ -1..=MOST) => Ok(number),
        Ok(_) => Err(invalid("value out of range")),
        Err(_) => Err(invalid("invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(host: &str, container: &str, access: &str) -> Result<Wanted, String> {
        let [host_path, container_path, access] = [host, container, access].map(str::to_owned);
        Ok(Wanted::Path(api::Device { host_path, container_path, access }))
    }

    #[test]
    fn devices_by_path() {
        assert_eq!(device("/dev/null"), path("/dev/null", "", ""));
        assert_eq!(device("/dev/null:rw"), path("/dev/null", "", "rw"));
        assert_eq!(device("/dev/null:/dev/x"), path("/dev/null", "/dev/x", ""));
        assert_eq!(device("/dev/null:/dev/x:r"), path("/dev/null", "/dev/x", "r"));
        for (text, said) in [
            ("dev/null", "dev/null is not an absolute path"),
            ("/dev/null:x", "x is not an absolute path"),
            ("/dev/null:/dev/x:rx", "bad mode specified: rx"),
            ("/dev/null:/dev/x:rr", "bad mode specified: rr"),
            ("/a:/b:r:w", "bad format for path: /a:/b:r:w"),
            ("", "bad format for path: "),
        ] {
            assert_eq!(device(text), Err(said.to_owned()));
        }
    }

    #[test]
    fn devices_by_cdi_name() {
        for name in ["nvidia.com/gpu=all", "v-1.org/my_class=a:0.1", "v/c=d"] {
            assert_eq!(device(name), Ok(Wanted::Cdi(name.to_owned())));
            assert_eq!(cdi(name).as_deref(), Ok(name));
        }
        for name in
            ["nvidia.com/gpu", "gpu=0", "1v/c=d", "v/c=", "v/c=-d", "v./c=d", "/c=d", "/dev/x=y"]
        {
            assert!(cdi(name).is_err(), "{name}");
        }
    }

    #[test]
    fn rules_of_cgroups() {
        for text in ["c 13:* rwm", "a *:* r", "b 8:0 mw"] {
            assert_eq!(rule(text).as_deref(), Ok(text));
        }
        for text in
            ["", "c 13:*", "d 1:1 r", "c 1 r", "c 1:x r", "c 1:1 rx", "c 1:1 rwmr", "c  1:1 r"]
        {
            assert_eq!(rule(text), Err(format!("invalid device cgroup format '{text}'")));
        }
    }

    #[test]
    fn graphics_processors_have_cdi_names() {
        let names = |text| gpus(text).map(|gpus| gpus.0.join(" "));
        for (text, wanted) in [
            ("all", "nvidia.com/gpu=all"),
            ("2", "nvidia.com/gpu=0 nvidia.com/gpu=1"),
            ("count=1,driver=nvidia", "nvidia.com/gpu=0"),
            ("driver=nvidia", "nvidia.com/gpu=0"),
            ("capabilities=compute,count=all", "nvidia.com/gpu=all"),
            ("\"device=0,GPU-1f2\"", "nvidia.com/gpu=0 nvidia.com/gpu=GPU-1f2"),
            ("device=amd.com/gpu=3", "amd.com/gpu=3"),
            ("0", ""),
        ] {
            assert_eq!(names(text).as_deref(), Ok(wanted), "{text}");
        }
        for (text, said) in [
            ("some", "invalid count (some): value must be either \"all\" or an integer"),
            ("99999999", "value out of range"),
            ("1,count=2", "gpu request key 'count' can be specified only once"),
            ("count=1,device=0", "cannot set both count and device"),
            ("driver=other", "driver 'other' is not supported"),
            ("options=a", "options of drivers are not supported"),
            ("a=b", "unexpected key 'a' in 'a=b'"),
            ("device=a b", "'nvidia.com/gpu=a b' is no CDI name"),
        ] {
            let error = names(text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn all_devices_come_together() {
        let mut spec = api::ContainerSpec::default();
        let devices = Devices {
            device: vec![device("/dev/null").unwrap(), device("a/b=1").unwrap()],
            device_cgroup_rule: vec!["c 1:1 r".to_owned()],
            cdi: vec!["a/b=2".to_owned()],
            gpus: vec![gpus("1").unwrap()],
        };
        devices.add_to(&mut spec);
        assert_eq!(spec.devices.len(), 1);
        assert_eq!(spec.cdi_devices, ["a/b=1", "a/b=2", "nvidia.com/gpu=0"]);
        assert_eq!(spec.device_cgroup_rules, ["c 1:1 r"]);
    }
}
