use std::fmt::Write as _;

use gantry_core::Timestamp;
use gantry_grpc::gantry::engine::v1 as api;
use serde_json::{Map, Value, json};

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::format::Format;
use crate::human;

/// Show how gantryd does
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print it with a Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let format = Format::of(self.format);
        if !format.is_given() {
            // Before the daemon is asked, so that it is there when the daemon is not.
            context.printer.data(client().as_bytes())?;
        }
        let client = context.connect().await?;
        let info = client.answer(client.system().info(api::InfoRequest {}).await)?;
        let text = match format.object(&object(&info))? {
            Some(text) => text,
            None => format!("\n{}", server(&info)),
        };
        context.printer.data(text.as_bytes())?;
        if !format.is_given() {
            for warning in &info.warnings {
                context.printer.warning(warning);
            }
        }
        Ok(SUCCESS)
    }
}

/// This program.
fn client() -> String {
    format!("Client:\n Version:    {}\n Debug Mode: false\n", env!("CARGO_PKG_VERSION"))
}

/// The daemon, as Docker shows it.
fn server(info: &api::InfoResponse) -> String {
    let count = |number: u64| number.to_string();
    let mut text = format!("Server:\n Containers: {}\n", info.containers);
    add(
        &mut text,
        2,
        &[
            ("Running", &count(info.running)),
            ("Paused", &count(info.paused)),
            ("Stopped", &count(info.stopped)),
        ],
    );
    add(
        &mut text,
        1,
        &[
            ("Images", &count(info.images)),
            ("Server Version", &info.version),
            ("Storage Driver", &info.snapshotter),
            ("Logging Driver", &info.log_driver),
            ("Cgroup Driver", &info.cgroup_driver),
            ("Cgroup Version", &info.cgroup_version),
        ],
    );
    text.push_str(" Plugins:\n");
    add(
        &mut text,
        2,
        &[
            ("Volume", &info.volume_drivers.join(" ")),
            ("Network", &info.network_drivers.join(" ")),
            ("Log", &info.log_drivers.join(" ")),
        ],
    );
    let runtimes = info.runtimes.join(" ");
    add(&mut text, 1, &[("Runtimes", &runtimes), ("Default Runtime", &info.runtime)]);
    text.push_str(" Security Options:\n");
    for option in &info.security_options {
        let (name, profile) = security(option);
        let _ = writeln!(text, "  {name}");
        add(&mut text, 3, &[("Profile", profile)]);
    }
    add(
        &mut text,
        1,
        &[
            ("Kernel Version", &info.kernel),
            ("Operating System", &info.os_name),
            ("OSType", &info.os_type),
            ("Architecture", &info.arch),
            ("CPUs", &info.cpus.to_string()),
            ("Total Memory", &human::memory(info.memory)),
            ("Name", &info.name),
            ("ID", &info.id),
            ("Root Dir", &info.root),
            ("State Dir", &info.state),
            ("Debug Mode", "false"),
            ("Experimental", "false"),
            ("Live Restore Enabled", "true"),
        ],
    );
    text
}

/// Adds lines, without those that have nothing to say.
fn add(text: &mut String, indent: usize, lines: &[(&str, &str)]) {
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "{:indent$}{name}: {value}", "");
    }
}

/// Name and profile of `name=seccomp,profile=builtin`.
fn security(option: &str) -> (&str, &str) {
    let value = |key: &str| option.split(',').find_map(|part| part.strip_prefix(key));
    (value("name=").unwrap_or(option), value("profile=").unwrap_or_default())
}

/// With Docker's field names.
fn object(info: &api::InfoResponse) -> Value {
    let has = |limit: &str| !info.missing_limits.iter().any(|missing| missing == limit);
    let runtimes: Map<String, Value> =
        info.runtimes.iter().map(|name| (name.clone(), json!({"path": name}))).collect();
    let time = human::time(info.time).unwrap_or_else(Timestamp::now);
    let first = json!({
        "ID": info.id,
        "Containers": info.containers,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.stopped,
        "Images": info.images,
        "Driver": info.snapshotter,
        "DriverStatus": [],
        "Plugins": {
            "Volume": info.volume_drivers,
            "Network": info.network_drivers,
            "Authorization": null,
            "Log": info.log_drivers,
        },
        "MemoryLimit": has("memory"),
        "SwapLimit": has("swap"),
        "CpuCfsPeriod": has("cpu"),
        "CpuCfsQuota": has("cpu"),
        "CPUShares": has("cpu"),
        "CPUSet": has("cpuset"),
        "PidsLimit": has("pids"),
        "OomKillDisable": info.cgroup_version == "1" && has("memory"),
        "IPv4Forwarding": info.ip_forwarding,
        "Debug": false,
        "SystemTime": time.to_string(),
        "LoggingDriver": info.log_driver,
        "CgroupDriver": info.cgroup_driver,
        "CgroupVersion": info.cgroup_version,
    });
    let second = json!({
        "KernelVersion": info.kernel,
        "OperatingSystem": info.os_name,
        "OSVersion": info.os_version,
        "OSType": info.os_type,
        "Architecture": info.arch,
        "NCPU": info.cpus,
        "MemTotal": info.memory,
        "DockerRootDir": info.root,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": info.name,
        "Labels": [],
        "ExperimentalBuild": false,
        "ServerVersion": info.version,
        "Runtimes": runtimes,
        "DefaultRuntime": info.runtime,
        "Swarm": {"LocalNodeState": "inactive"},
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "",
        "SecurityOptions": info.security_options,
        "Warnings": info.warnings,
        "ClientInfo": {"Debug": false, "Version": env!("CARGO_PKG_VERSION")},
    });
    let both = [first, second].into_iter().filter_map(|part| match part {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    Value::Object(both.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> api::InfoResponse {
        api::InfoResponse {
            containers: 3,
            running: 2,
            stopped: 1,
            images: 5,
            memory: 1 << 30,
            cpus: 2,
            version: "0.1.0".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            cgroup_driver: "cgroupfs".to_owned(),
            cgroup_version: "1".to_owned(),
            log_drivers: vec!["json-file".to_owned(), "local".to_owned()],
            runtimes: vec!["io.containerd.gantry.v2".to_owned()],
            security_options: vec![
                "name=seccomp,profile=builtin".to_owned(),
                "name=cgroupns".to_owned(),
            ],
            missing_limits: vec!["swap".to_owned()],
            ..Default::default()
        }
    }

    #[test]
    fn lines_are_dockers() {
        let text = server(&info());
        let begin = "\
Server:
 Containers: 3
  Running: 2
  Paused: 0
  Stopped: 1
 Images: 5
 Server Version: 0.1.0
 Storage Driver: overlayfs
 Cgroup Driver: cgroupfs
 Cgroup Version: 1
 Plugins:
  Log: json-file local
 Runtimes: io.containerd.gantry.v2
 Security Options:
  seccomp
   Profile: builtin
  cgroupns
 CPUs: 2
 Total Memory: 1GiB
";
        assert!(text.starts_with(begin), "{text}");
    }

    #[test]
    fn fields_are_dockers() {
        let object = object(&info());
        assert_eq!(object["ContainersRunning"], 2);
        assert_eq!((&object["MemoryLimit"], &object["SwapLimit"]), (&json!(true), &json!(false)));
        assert_eq!(object["Plugins"]["Log"], json!(["json-file", "local"]));
        assert!(object["Runtimes"]["io.containerd.gantry.v2"].is_object());
        let format = Format::of(Some("{{.Driver}} {{.NCPU}}".to_owned()));
        assert_eq!(format.object(&object).unwrap().as_deref(), Some("overlayfs 2\n"));
    }
}
