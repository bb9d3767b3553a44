//! Docker's short form of a mount: `[SOURCE:]TARGET[:OPTIONS]`.

use gantry_grpc::gantry::engine::v1 as api;

use super::{PROPAGATIONS, absolute};

/// Reads a mount. A source that begins with `/` or `.` is a path on the host, made when it is
/// not there; any other one is the name of a volume, and without one the volume has no name.
///
/// # Errors
/// In Docker's words when it is none.
pub(super) fn parse(text: &str) -> Result<api::Mount, String> {
    if text.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("invalid spec: {text}: empty section between colons"));
    }
    let (source, target, options) = match parts[..] {
        [target] => ("", target, None),
        // Options say something of what has a source.
        [_, options] if Options::read(options).is_some() => {
            return Err(format!("invalid volume specification: '{text}'"));
        }
        [source, target] => (source, target, None),
        [source, target, options] => (source, target, Some(options)),
        _ => return Err(format!("invalid spec: {text}: too many colons")),
    };
    let Options { read_only, no_copy, propagation } = match options {
        Some(options) => {
            Options::read(options).ok_or_else(|| format!("invalid mode: {options}"))?
        }
        None => Options::default(),
    };
    let is_path = source.starts_with(['/', '.']);
    let useless = match is_path {
        true => no_copy.then_some(("bind", "VolumeOptions")),
        false => propagation.as_ref().map(|_| ("volume", "BindOptions")),
    };
    if let Some((kind, field)) = useless {
        return Err(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": \
             field {field} must not be specified"
        ));
    }
    let kind = if is_path { api::MountKind::Bind } else { api::MountKind::Volume };
    Ok(api::Mount {
        kind: kind.into(),
        source: if is_path { absolute(source)? } else { source.to_owned() },
        target: target.to_owned(),
        read_only,
        propagation: propagation.unwrap_or_default(),
        create_source: is_path,
        no_copy,
        ..Default::default()
    })
}

/// What may stand behind the target.
#[derive(Debug, Default)]
struct Options {
    read_only: bool,
    no_copy: bool,
    propagation: Option<String>,
}

impl Options {
    /// Reads options between commas, one of a kind; `None` when they are none.
    fn read(text: &str) -> Option<Self> {
        let mut options = Self::default();
        let mut kinds = Vec::new();
        for option in text.split(',') {
            let kind = match option {
                "ro" | "rw" => {
                    options.read_only = option == "ro";
                    "access"
                }
                "nocopy" => {
                    options.no_copy = true;
                    "copy"
                }
                // Labels for SELinux, which does not hold containers here, so that they need none.
                "z" | "Z" => "label",
                // How fast the hosts of virtual machines see changes.
                "default" | "consistent" | "cached" | "delegated" => "consistency",
                _ if PROPAGATIONS.contains(&option) => {
                    options.propagation = Some(option.to_owned());
                    "propagation"
                }
                _ => return None,
            };
            if kinds.contains(&kind) {
                return None;
            }
            kinds.push(kind);
        }
        Some(options)
    }
}

#[cfg(test)]
mod tests {
    use gantry_grpc::gantry::engine::v1::MountKind::{Bind, Volume};

    use super::*;

    fn refused(text: &str) -> String {
        parse(text).unwrap_err()
    }

    #[test]
    fn sources_are_paths_and_names() {
        let here = std::env::current_dir().unwrap();
        let here = here.to_str().unwrap();
        let below = if here == "/" { "/x".to_owned() } else { format!("{here}/x") };
        for (text, kind, source) in [
            ("/data", Volume, ""),
            ("pg:/data", Volume, "pg"),
            ("foo/bar:/data", Volume, "foo/bar"),
            ("~/x:/data", Volume, "~/x"),
            ("/srv/../etc//x/:/data", Bind, "/etc/x"),
            ("./x:/data", Bind, below.as_str()),
            ("x/../y:/data", Volume, "x/../y"),
            (".:/data", Bind, here),
        ] {
            let mount = parse(text).unwrap();
            assert_eq!((mount.kind(), mount.source.as_str()), (kind, source), "{text}");
            assert_eq!((mount.target.as_str(), mount.read_only), ("/data", false), "{text}");
            assert_eq!(mount.create_source, kind == Bind, "{text}");
        }
        assert!(!parse("../x:/data").unwrap().source.contains(".."));
    }

    #[test]
    fn options_stand_behind_the_target() {
        let mount = parse("/a:/b:ro,z,rshared,cached").unwrap();
        assert!(mount.read_only && mount.propagation == "rshared");
        let mount = parse("v:/b:rw,nocopy").unwrap();
        assert!(!mount.read_only && mount.no_copy);
        for mode in ["nope", "ro,rw", "z,Z", "shared,slave", "ro,", "RO"] {
            assert_eq!(refused(&format!("/a:/b:{mode}")), format!("invalid mode: {mode}"));
        }
    }

    #[test]
    fn what_is_no_mount_is_refused_in_dockers_words() {
        for (text, said) in [
            ("", "invalid empty volume spec"),
            ("v:", "invalid spec: v:: empty section between colons"),
            (":/b", "invalid spec: :/b: empty section between colons"),
            ("/a:/b:ro:x", "invalid spec: /a:/b:ro:x: too many colons"),
            ("/a:ro", "invalid volume specification: '/a:ro'"),
            (
                "/a:/b:nocopy",
                "invalid volume specification: '/a:/b:nocopy': invalid mount config for type \
                 \"bind\": field VolumeOptions must not be specified",
            ),
            (
                "v:/b:shared",
                "invalid volume specification: 'v:/b:shared': invalid mount config for type \
                 \"volume\": field BindOptions must not be specified",
            ),
        ] {
            assert_eq!(refused(text), said);
        }
    }
}
