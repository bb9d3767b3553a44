//! From a runtime's name to the shim's program.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gantry_core::{Any, Error, Result};

use crate::{TaskConfig, options};

/// The runtime that most clients ask for without thinking of it.
const USUAL: &str = "io.containerd.runc.v2";
/// Runtime names that Gantry's own shim serves.
const OWN: [&str; 2] = ["io.containerd.gantry.v2", USUAL];

/// A shim's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Absolute path.
    pub(crate) path: PathBuf,
    /// Gantry's own shim: it can be kept warm.
    pub(crate) own: bool,
}

impl Program {
    /// The program at this path.
    pub(crate) fn at(config: &TaskConfig, path: PathBuf) -> Self {
        let own = path == config.shim_path;
        Self { path, own }
    }
}

/// Finds the program for a runtime name: empty for the default, a name such
/// as `io.containerd.runc.v2`, or an absolute path.
///
/// # Errors
/// `InvalidArgument` for a name of another form, `FailedPrecondition` when
/// the program is not installed.
pub(crate) fn resolve(config: &TaskConfig, name: &str) -> Result<Program> {
    let dirs = search_path(config, std::env::var_os("PATH"));
    resolve_in(config, name, &dirs)
        .map_err(|err| err.context("failed to start shim: failed to resolve runtime path"))
}

/// The same for a task with these options. Who asks the usual runtime for one
/// certain program of runc's kind, by its path, gets the shim that executes it, where
/// that is installed; our own stands for runc elsewhere.
///
/// # Errors
/// As above; `InvalidArgument` for options that can't be decoded.
pub(crate) fn choose(config: &TaskConfig, name: &str, options: Option<&Any>) -> Result<Program> {
    let dirs = search_path(config, std::env::var_os("PATH"));
    choose_in(config, name, options, &dirs)
        .map_err(|err| err.context("failed to start shim: failed to resolve runtime path"))
}

fn choose_in(
    config: &TaskConfig,
    name: &str,
    options: Option<&Any>,
    dirs: &[PathBuf],
) -> Result<Program> {
    let mapped = config.runtimes.contains_key(name);
    if name == USUAL && !mapped && options::certain_runtime(options)?.is_some() {
        let binary = binary_name(USUAL).unwrap_or_default();
        let path = dirs.iter().map(|dir| dir.join(&binary)).find(|path| is_program(path));
        if let Some(path) = path {
            return Ok(Program::at(config, path));
        }
    }
    resolve_in(config, name, dirs)
}

fn resolve_in(config: &TaskConfig, name: &str, dirs: &[PathBuf]) -> Result<Program> {
    let path = if let Some(path) = config.runtimes.get(name) {
        path.clone()
    } else if name.is_empty() || OWN.contains(&name) {
        config.shim_path.clone()
    } else if name.starts_with('/') {
        PathBuf::from(name)
    } else {
        let binary = binary_name(name).ok_or_else(|| {
            Error::invalid_argument(format!(
                "invalid runtime name {name}, correct runtime name should be either format like \
                 `io.containerd.runc.v2` or a full path to the binary: invalid argument"
            ))
        })?;
        dirs.iter().map(|dir| dir.join(&binary)).find(|path| is_program(path)).ok_or_else(|| {
            Error::failed_precondition(format!(
                "runtime {name:?} binary not installed {binary:?}: file does not exist: unknown"
            ))
        })?
    };
    if !is_program(&path) {
        return Err(Error::failed_precondition(format!(
            "runtime {name:?} binary not installed {:?}: file does not exist: unknown",
            path.display().to_string()
        )));
    }
    Ok(Program::at(config, path))
}

/// `io.containerd.runc.v2` → `containerd-shim-runc-v2`: the last two of the
/// parts between the dots.
fn binary_name(runtime: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !runtime.bytes().all(allowed) {
        return None;
    }
    let mut parts = runtime.rsplit('.');
    let version = parts.next()?;
    let name = parts.next()?;
    let whole = !version.is_empty() && !name.is_empty();
    whole.then(|| format!("containerd-shim-{name}-{version}"))
}

/// Beside our own shim first, then as a shell would look.
fn search_path(config: &TaskConfig, path: Option<std::ffi::OsString>) -> Vec<PathBuf> {
    let beside = [&config.shim_path, &config.daemon_path];
    let beside = beside.into_iter().filter_map(|p| p.parent()).map(Path::to_path_buf);
    let listed: Vec<PathBuf> =
        path.as_deref().map(std::env::split_paths).into_iter().flatten().collect();
    beside.chain(listed).filter(|dir| dir.is_absolute()).collect()
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Kind;

    fn program(dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, b"").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn names_become_programs() {
        assert_eq!(binary_name("io.containerd.runsc.v1").unwrap(), "containerd-shim-runsc-v1");
        assert_eq!(binary_name("kata.v2").unwrap(), "containerd-shim-kata-v2");
        for bad in ["runc", "a/b.v1", ".v1", "io.containerd..v2x/"] {
            assert_eq!(binary_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn resolution() {
        let dir = tempfile::tempdir().unwrap();
        let own = program(dir.path(), "containerd-shim-gantry-v2");
        let other = program(dir.path(), "containerd-shim-runsc-v1");
        let mut config = TaskConfig { shim_path: own.clone(), ..TaskConfig::default() };
        let dirs = search_path(&config, None);
        for name in ["", "io.containerd.gantry.v2", "io.containerd.runc.v2"] {
            let found = resolve_in(&config, name, &dirs).unwrap();
            assert_eq!(found, Program { path: own.clone(), own: true }, "{name}");
        }
        let found = resolve_in(&config, "io.containerd.runsc.v1", &dirs).unwrap();
        assert_eq!(found, Program { path: other.clone(), own: false });
        let found = resolve_in(&config, other.to_str().unwrap(), &dirs).unwrap();
        assert!(!found.own);
        config.runtimes.insert("io.containerd.runc.v2".into(), other.clone());
        assert_eq!(resolve_in(&config, "io.containerd.runc.v2", &dirs).unwrap().path, other);
    }

    #[test]
    fn whoever_names_runc_by_its_path_gets_the_shim_that_executes_it() {
        use gantry_ttrpc::{any, containerd::runc::v1::Options, convert};
        let dir = tempfile::tempdir().unwrap();
        let own = program(dir.path(), "containerd-shim-gantry-v2");
        let mut config = TaskConfig { shim_path: own.clone(), ..TaskConfig::default() };
        let dirs = search_path(&config, None);
        let named = |name: &str| {
            let options = Options { binary_name: name.into(), ..Options::default() };
            Some(convert::from_any(any::pack(&options)))
        };
        let chosen = |config: &TaskConfig, runtime: &str, name: &str| {
            choose_in(config, runtime, named(name).as_ref(), &dirs).unwrap().path
        };
        assert_eq!(chosen(&config, USUAL, "/usr/sbin/runc"), own, "it is not installed");
        let runc = program(dir.path(), "containerd-shim-runc-v2");
        assert_eq!(chosen(&config, USUAL, "/usr/sbin/runc"), runc);
        assert_eq!(chosen(&config, USUAL, "runc"), own, "a name is said by habit");
        assert_eq!(chosen(&config, "io.containerd.gantry.v2", "/usr/sbin/runc"), own);
        config.runtimes.insert(USUAL.into(), own.clone());
        assert_eq!(chosen(&config, USUAL, "/usr/sbin/runc"), own, "the configuration says so");
    }

    #[test]
    fn refusals_name_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let own = program(dir.path(), "shim");
        let config = TaskConfig { shim_path: own, ..TaskConfig::default() };
        let err = resolve_in(&config, "io.containerd.nope.v1", &[]).unwrap_err();
        assert_eq!(err.kind(), Kind::FailedPrecondition);
        assert_eq!(
            err.to_string(),
            "runtime \"io.containerd.nope.v1\" binary not installed \
             \"containerd-shim-nope-v1\": file does not exist: unknown"
        );
        let err = resolve_in(&config, "nope", &[]).unwrap_err();
        assert_eq!(err.kind(), Kind::InvalidArgument);
        assert!(resolve_in(&config, "/no/such/shim", &[]).is_err());
    }
}
