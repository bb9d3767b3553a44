//! What the daemon itself reads of a runtime's options; the rest is the shim's.

use gantry_core::{Any, Error, Result};
use gantry_ttrpc::containerd::runc::v1::Options;
use gantry_ttrpc::{any, convert};

use crate::dialect::Endpoint;

/// The options of runc and of what stands for it, or nothing for those of another runtime.
///
/// # Errors
/// `InvalidArgument` when they can't be decoded.
fn runc(options: Option<&Any>) -> Result<Option<Options>> {
    let Some(options) = options else { return Ok(None) };
    let options = convert::any(options.clone());
    if !any::is::<Options>(&options) {
        return Ok(None);
    }
    any::unpack(&options)
        .map(Some)
        .map_err(|err| Error::from(err).context("options of the runtime"))
}

/// The program by which a client asks for one certain OCI runtime: the path of
/// `binary_name`. A bare name such as `runc`, which some clients always send, says
/// no more than the runtime's own name does.
///
/// # Errors
/// `InvalidArgument` when the options can't be decoded.
pub(crate) fn certain_runtime(options: Option<&Any>) -> Result<Option<String>> {
    let options = runc(options)?;
    Ok(options.map(|o| o.binary_name).filter(|name| name.starts_with('/')))
}

/// The task service that runs already, in which a client wants its task.
///
/// # Errors
/// `InvalidArgument` when the options can't be decoded.
pub(crate) fn task_api(options: Option<&Any>) -> Result<Option<Endpoint>> {
    let options = runc(options)?.filter(|o| !o.task_api_address.is_empty());
    Ok(options.map(|o| Endpoint::named(o.task_api_version, &o.task_api_address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Kind;

    fn packed(options: &Options) -> Any {
        convert::from_any(any::pack(options))
    }

    #[test]
    fn a_path_asks_for_a_runtime_and_a_name_does_not() {
        let named = |name: &str| Options { binary_name: name.into(), ..Options::default() };
        let certain = |name: &str| certain_runtime(Some(&packed(&named(name)))).unwrap();
        assert_eq!(certain("/usr/sbin/runc").as_deref(), Some("/usr/sbin/runc"));
        assert_eq!(certain("runc"), None);
        assert_eq!(certain_runtime(None).unwrap(), None);
    }

    #[test]
    fn other_options_are_left_alone_and_broken_ones_are_refused() {
        let other = Any { type_url: "runtimeoptions.v1.Options".into(), value: vec![0xff] };
        assert_eq!(certain_runtime(Some(&other)).unwrap(), None);
        let broken = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0xff] };
        let err = task_api(Some(&broken)).unwrap_err();
        assert_eq!(err.kind(), Kind::InvalidArgument);
        let there = Options {
            task_api_address: "unix:///run/s".into(),
            task_api_version: 2,
            ..Options::default()
        };
        let endpoint = task_api(Some(&packed(&there))).unwrap();
        assert_eq!(endpoint, Some(Endpoint::ttrpc(2, "unix:///run/s")));
    }
}
