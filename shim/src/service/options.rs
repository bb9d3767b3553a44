//! Options of the runtime: each one is honoured, or refused by its name.
//!
//! | option of `containerd.runc.v1.Options` | here |
//! | --- | --- |
//! | `no_pivot_root`, `no_new_keyring`, `io_uid`, `io_gid` | honoured |
//! | `systemd_cgroup` | honoured in how `cgroupsPath` is read, where systemd does not run |
//! | `shim_cgroup` | honoured: the shim moves there |
//! | `binary_name` | runc and its like, for which this shim stands; refused otherwise |
//! | `root` | goes with `binary_name`: where runc would keep what the bundle keeps here |
//! | `task_api_address`, `task_api_version` | the daemon's; refused when another shim is meant |
//! | `criu_image_path`, `criu_work_path` | refused: there is no CRIU |

use std::path::Path;

use gantry_ttrpc::any;
use gantry_ttrpc::containerd::runc::v1::Options;
use gantry_ttrpc::runtimeoptions::v1::Options as ConfigOptions;
use prost_types::Any;

use crate::error::{self, Error};
use crate::launch::strip_scheme;

/// OCI runtimes of which this shim does all that they do.
const STANDS_FOR: [&str; 3] = ["runc", "crun", "youki"];
/// The description of a pod, which the Kubernetes service hands on with a sandbox.
const POD: &str = "runtime.v1.PodSandboxConfig";

/// Reads the options of a container; `own` tells where this shim listens.
///
/// # Errors
/// `InvalidArgument` for options of another kind or that can't be decoded,
/// `Unimplemented` for one that can't be honoured.
pub(super) fn of_task(any: Option<&Any>, own: &str) -> Result<Options, Error> {
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
        return Ok(Options::default());
    };
    if any::is::<ConfigOptions>(any) {
        refuse_configuration(&any::unpack(any)?)?;
        return Ok(Options::default());
    }
    if !any::is::<Options>(any) {
        return Err(error::invalid(format!(
            "options of the type {:?} are of another runtime; this one takes \
             containerd.runc.v1.Options: invalid argument",
            any.type_url
        )));
    }
    let options: Options = any::unpack(any)?;
    check(&options, own)?;
    Ok(options)
}

/// Looks through options without a container.
///
/// # Errors
/// As above.
pub(crate) fn check_options(any: &Any) -> Result<(), Error> {
    of_task(Some(any), "").map(|_| ())
}

/// Looks through the options of a sandbox.
///
/// # Errors
/// As above.
pub(super) fn of_sandbox(any: Option<&Any>) -> Result<(), Error> {
    if any.is_some_and(|any| any::type_name(&any.type_url) == POD) {
        // Namespaces and limits are in the specifications of its containers as well.
        return Ok(());
    }
    of_task(any, "").map(|_| ())
}

fn refused(name: &str, value: &str, why: &str) -> Error {
    error::unimplemented(format!("option {name} {value:?}: {why}"))
}

fn check(options: &Options, own: &str) -> Result<(), Error> {
    let name = &options.binary_name;
    let base = Path::new(name).file_name().and_then(|base| base.to_str()).unwrap_or_default();
    if !name.is_empty() && !STANDS_FOR.contains(&base) {
        return Err(refused(
            "binary_name",
            name,
            "this shim runs containers itself, in place of runc; name the other runtime's own \
             shim as the runtime, or install containerd-shim-runc-v2",
        ));
    }
    let criu = [
        ("criu_image_path", &options.criu_image_path),
        ("criu_work_path", &options.criu_work_path),
    ];
    for (name, value) in criu {
        if !value.is_empty() {
            return Err(refused(name, value, "checkpoints need CRIU, which is not supported"));
        }
    }
    let there = &options.task_api_address;
    let path = there.split_once("+unix://").map_or(there.as_str(), |(_, path)| path);
    if !there.is_empty() && strip_scheme(path) != strip_scheme(own) {
        return Err(refused(
            "task_api_address",
            there,
            "the task was to be made there, by the daemon; this is another shim",
        ));
    }
    Ok(())
}

/// Options of runtimes with a file of configuration: there is none here.
fn refuse_configuration(options: &ConfigOptions) -> Result<(), Error> {
    let none = "this runtime has no configuration of its own; leave it out";
    if !options.config_path.is_empty() {
        return Err(refused("config_path", &options.config_path, none));
    }
    if !options.config_body.is_empty() {
        return Err(refused("config_body", "…", none));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const OWN: &str = "unix:///run/s/own";

    fn runc(change: impl FnOnce(&mut Options)) -> Result<Options, Error> {
        let mut options = Options::default();
        change(&mut options);
        of_task(Some(&any::pack(&options)), OWN)
    }

    #[test]
    fn what_is_honoured() {
        let options = runc(|o| {
            o.no_pivot_root = true;
            o.no_new_keyring = true;
            o.systemd_cgroup = true;
            o.io_uid = 7;
            o.io_gid = 8;
            o.shim_cgroup = "/x".into();
            o.binary_name = "/usr/sbin/runc".into();
            o.root = "/run/runc".into();
            o.task_api_address = "ttrpc+unix:///run/s/own".into();
            o.task_api_version = 3;
        });
        assert_eq!(options.unwrap().io_gid, 8);
        assert_eq!(of_task(None, OWN).unwrap(), Options::default());
        assert_eq!(of_task(Some(&Any::default()), OWN).unwrap(), Options::default());
    }

    #[test]
    fn what_is_not_is_named() {
        type Case = (&'static str, fn(&mut Options));
        let cases: [Case; 5] = [
            ("binary_name", |o| o.binary_name = "/usr/bin/runsc".into()),
            ("binary_name", |o| o.binary_name = "/".into()),
            ("criu_image_path", |o| o.criu_image_path = "/x".into()),
            ("criu_work_path", |o| o.criu_work_path = "/x".into()),
            ("task_api_address", |o| o.task_api_address = "unix:///run/s/other".into()),
        ];
        for (name, change) in cases {
            let err = runc(change).unwrap_err();
            assert_eq!(err.kind(), Kind::Unimplemented);
            assert!(err.to_string().contains(name), "{err}");
        }
    }

    #[test]
    fn options_of_other_runtimes() {
        let config = |config: ConfigOptions| of_task(Some(&any::pack(&config)), OWN);
        assert!(config(ConfigOptions { type_url: "x".into(), ..Default::default() }).is_ok());
        let path = ConfigOptions { config_path: "/etc/x.toml".into(), ..Default::default() };
        let err = config(path).unwrap_err().to_string();
        assert!(err.contains("config_path \"/etc/x.toml\""), "{err}");
        assert!(
            config(ConfigOptions { config_body: vec![1].into(), ..Default::default() }).is_err()
        );
        let other = Any { type_url: "io.containerd.runsc.v1.options".into(), value: vec![] };
        let err = of_task(Some(&other), OWN).unwrap_err();
        assert_eq!(err.kind(), Kind::InvalidArgument);
        assert!(err.to_string().contains("io.containerd.runsc.v1.options"), "{err}");
        let broken = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0xff] };
        assert_eq!(of_task(Some(&broken), OWN).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn a_sandbox_may_come_with_the_description_of_its_pod() {
        assert!(of_sandbox(Some(&Any { type_url: POD.into(), value: vec![0xff] })).is_ok());
        assert!(of_sandbox(Some(&Any { type_url: "x.Y".into(), value: vec![] })).is_err());
    }
}
