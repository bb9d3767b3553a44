//! Docker's long form of a mount: fields between commas.

use gantry_grpc::gantry::engine::v1 as api;

use super::{PROPAGATIONS, absolute};
use crate::options::csv;
use crate::units;

/// What options of one kind of mount begin with.
const FAMILIES: [&str; 4] = ["bind", "volume", "image", "tmpfs"];

/// Reads a mount; a volume unless a field says something else.
///
/// # Errors
/// In Docker's words when it is none.
pub(super) fn parse(text: &str) -> Result<api::Mount, String> {
    let mut draft =
        Draft { kind: "volume".to_owned(), families: Vec::new(), mount: api::Mount::default() };
    for field in csv::fields(text)? {
        draft.set(&field)?;
    }
    draft.finish()
}

/// A mount, field by field.
#[derive(Debug)]
struct Draft {
    kind: String,
    /// Those of which there are options.
    families: Vec<&'static str>,
    mount: api::Mount,
}

impl Draft {
    fn set(&mut self, field: &str) -> Result<(), String> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        let key = key.to_ascii_lowercase();
        let family = FAMILIES
            .iter()
            .find(|family| key.strip_prefix(**family).is_some_and(|rest| rest.starts_with('-')));
        self.families.extend(family);
        let mount = &mut self.mount;
        let switch = match key.as_str() {
            "readonly" | "ro" => &mut mount.read_only,
            "volume-nocopy" => &mut mount.no_copy,
            "bind-nonrecursive" => &mut mount.non_recursive,
            "bind-create-src" => &mut mount.create_source,
            _ => {
                let value = value
                    .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
                return self.set_value(&key, value, field);
            }
        };
        *switch = truth(&key, value)?;
        Ok(())
    }

    fn set_value(&mut self, key: &str, value: &str, field: &str) -> Result<(), String> {
        let invalid = || format!("invalid value for {key}: {value}");
        let mount = &mut self.mount;
        match key {
            "type" => self.kind = value.to_ascii_lowercase(),
            "source" | "src" => mount.source = value.to_owned(),
            "target" | "dst" | "destination" => mount.target = value.to_owned(),
            // How fast the hosts of virtual machines see changes.
            "consistency" => {}
            "bind-propagation" => {
                mount.propagation = value.to_ascii_lowercase();
                if !PROPAGATIONS.contains(&mount.propagation.as_str()) {
                    return Err(format!(
                        "invalid mount config for type \"bind\": invalid propagation mode: {value}"
                    ));
                }
            }
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => mount.non_recursive = true,
                "writable" => mount.read_only_non_recursive = true,
                "readonly" => mount.read_only_force_recursive = true,
                _ => {
                    return Err(format!(
                        "{} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
                        invalid()
                    ));
                }
            },
            "volume-subpath" | "image-subpath" => mount.subpath = value.to_owned(),
            "volume-label" => mount.volume_labels.extend(pair(value)),
            "volume-driver" => mount.volume_driver = value.to_owned(),
            "volume-opt" => mount.volume_options.extend(pair(value)),
            "tmpfs-size" => mount.tmpfs_size = units::size(value).map_err(|_| invalid())?,
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                mount.tmpfs_mode = Some(mode.ok_or_else(invalid)?);
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
        Ok(())
    }

    fn finish(self) -> Result<api::Mount, String> {
        let Self { kind, families, mut mount } = self;
        let config = |what: &str| Err(format!("invalid mount config for type \"{kind}\": {what}"));
        let wire = match kind.as_str() {
            "" => return Err("type is required".to_owned()),
            "bind" => api::MountKind::Bind,
            "volume" => api::MountKind::Volume,
            "tmpfs" => api::MountKind::Tmpfs,
            "image" => api::MountKind::Image,
            _ => return config("mount type unknown"),
        };
        if mount.target.is_empty() {
            return Err("target is required".to_owned());
        }
        if let Some(other) = families.iter().find(|family| **family != kind) {
            return Err(format!("cannot mix '{other}-*' options with mount type '{kind}'"));
        }
        check_recursion(&mount)?;
        match (wire, mount.source.is_empty()) {
            (api::MountKind::Bind | api::MountKind::Image, true) => {
                return config("field Source must not be empty");
            }
            (api::MountKind::Tmpfs, false) => return config("field Source must not be specified"),
            (api::MountKind::Volume, true) if mount.read_only => {
                return config("must not set ReadOnly mode when using anonymous volumes");
            }
            _ => {}
        }
        if wire == api::MountKind::Bind && mount.source.starts_with('.') {
            mount.source = absolute(&mount.source)?;
        }
        mount.kind = wire.into();
        Ok(mount)
    }
}

/// What bind-recursive needs beside it.
fn check_recursion(mount: &api::Mount) -> Result<(), String> {
    let needs = |option: &str, other: &str| {
        Err(format!(
            "option 'bind-recursive={option}' requires '{other}' to be specified in conjunction"
        ))
    };
    match mount.read_only {
        false if mount.read_only_non_recursive => needs("writable", "readonly"),
        false if mount.read_only_force_recursive => needs("readonly", "readonly"),
        true if mount.read_only_force_recursive && mount.propagation != "rprivate" => {
            needs("readonly", "bind-propagation=rprivate")
        }
        _ => Ok(()),
    }
}

/// The value of a switch, which needs none.
fn truth(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "true") => Ok(true),
        Some("0" | "false") => Ok(false),
        Some(value) => Err(format!(
            "invalid value for '{key}': invalid boolean value ({value:?}): must be one of \
             \"true\", \"1\", \"false\", or \"0\" (default \"true\")"
        )),
    }
}

/// `KEY[=VALUE]`; nothing without a key.
fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).unwrap_err()
    }

    #[test]
    fn each_kind_has_its_options() {
        let mount = parse("type=bind,src=/a,dst=/b,ro,bind-recursive=writable").unwrap();
        assert_eq!(mount.kind(), api::MountKind::Bind);
        assert_eq!((mount.source.as_str(), mount.target.as_str()), ("/a", "/b"));
        assert!(mount.read_only && mount.read_only_non_recursive && !mount.create_source);
        let mount =
            parse("type=bind,source=/a,target=/b,bind-propagation=RSlave,bind-nonrecursive=1")
                .unwrap();
        assert!(mount.propagation == "rslave" && mount.non_recursive && !mount.read_only);
        assert!(parse("type=bind,src=/a,dst=/b,bind-create-src").unwrap().create_source);
        assert!(parse("type=bind,src=/a,dst=/b,readonly=false,bind-recursive=disabled").is_ok());

        let mount = parse(
            "source=v,destination=/b,volume-nocopy,volume-subpath=x/y,volume-label=a=1,\
             volume-label=b,volume-driver=local,\"volume-opt=o=size=1m,uid=1\",volume-opt=type=tmpfs",
        )
        .unwrap();
        assert_eq!((mount.kind(), mount.subpath.as_str()), (api::MountKind::Volume, "x/y"));
        assert!(mount.no_copy && mount.volume_driver == "local");
        assert_eq!(mount.volume_labels.get("a").map(String::as_str), Some("1"));
        assert_eq!(mount.volume_labels.get("b").map(String::as_str), Some(""));
        assert_eq!(mount.volume_options.get("o").map(String::as_str), Some("size=1m,uid=1"));

        let mount = parse("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap();
        assert_eq!((mount.kind(), mount.tmpfs_size), (api::MountKind::Tmpfs, 1 << 20));
        assert_eq!(mount.tmpfs_mode, Some(0o1770));
        let mount = parse("type=image,source=nginx,target=/n,image-subpath=etc").unwrap();
        assert_eq!((mount.kind(), mount.subpath.as_str()), (api::MountKind::Image, "etc"));
    }

    #[test]
    fn relative_paths_are_the_callers() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(parse("type=bind,src=.,dst=/b").unwrap().source, here.to_str().unwrap());
        assert_eq!(parse("type=bind,src=a,dst=/b").unwrap().source, "a");
    }

    #[test]
    fn what_is_no_mount_is_refused_in_dockers_words() {
        let invalid = "invalid mount config for type";
        for (text, said) in [
            ("", "invalid field '' must be a key=value pair".to_owned()),
            ("type=bind,nope", "invalid field 'nope' must be a key=value pair".to_owned()),
            ("type=bind,a=b", "unexpected key 'a' in 'a=b'".to_owned()),
            ("type=,dst=/b", "type is required".to_owned()),
            ("type=volume,src=v", "target is required".to_owned()),
            ("type=npipe,src=a,dst=/b", format!("{invalid} \"npipe\": mount type unknown")),
            ("type=bind,dst=/b", format!("{invalid} \"bind\": field Source must not be empty")),
            (
                "type=tmpfs,src=x,dst=/b",
                format!("{invalid} \"tmpfs\": field Source must not be specified"),
            ),
            (
                "dst=/b,ro",
                format!("{invalid} \"volume\": must not set ReadOnly mode when using anonymous volumes"),
            ),
            (
                "type=bind,src=/a,dst=/b,volume-nocopy",
                "cannot mix 'volume-*' options with mount type 'bind'".to_owned(),
            ),
            (
                "src=v,dst=/b,tmpfs-size=1k",
                "cannot mix 'tmpfs-*' options with mount type 'volume'".to_owned(),
            ),
            ("dst=/b,tmpfs-size=x", "invalid value for tmpfs-size: x".to_owned()),
            ("dst=/b,tmpfs-mode=9", "invalid value for tmpfs-mode: 9".to_owned()),
            (
                "dst=/b,ro=yes",
                "invalid value for 'ro': invalid boolean value (\"yes\"): must be one of \
                 \"true\", \"1\", \"false\", or \"0\" (default \"true\")"
                    .to_owned(),
            ),
            (
                "dst=/b,bind-recursive=x",
                "invalid value for bind-recursive: x (must be \"enabled\", \"disabled\", \
                 \"writable\", or \"readonly\")"
                    .to_owned(),
            ),
            (
                "type=bind,src=/a,dst=/b,bind-recursive=readonly",
                "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction"
                    .to_owned(),
            ),
            (
                "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly",
                "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be \
                 specified in conjunction"
                    .to_owned(),
            ),
        ] {
            assert_eq!(refused(text), said, "{text}");
        }
        let said = refused("type=bind,src=/a,dst=/b,bind-propagation=x");
        assert!(said.ends_with("invalid propagation mode: x"), "{said}");
    }
}
