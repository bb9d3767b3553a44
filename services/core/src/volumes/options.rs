//! What the options of a volume mean.

use super::Options;
use crate::{Error, Mount, Result};

/// Words of mount(8) that fit any mount.
const FLAGS: [&str; 20] = [
    "async",
    "atime",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nosuid",
    "nosymfollow",
    "relatime",
    "ro",
    "rw",
    "strictatime",
    "suid",
    "sync",
];

/// Words for bind mounts alone.
const BIND: [&str; 8] =
    ["bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Words for tmpfs alone, each with a value.
const TMPFS: [&str; 8] = ["size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "huge", "mpol"];

/// Options that need others.
const NEEDS: [(&str, &[&str]); 3] =
    [("device", &["type"]), ("type", &["device"]), ("o", &["device", "type"])];

/// What a volume with these options stands for: a tmpfs (`type=tmpfs`, `device=tmpfs`), or a
/// directory of the host (`type=none` with `bind` or `rbind` in `o`, or `type=bind`); `None`
/// when there are none. The mount has no target.
///
/// # Errors
/// `InvalidArgument`, naming what is not supported, in Docker's words where it has some.
pub fn device_mount(options: &Options) -> Result<Option<Mount>> {
    let refuse = |why: String| Err(Error::invalid_argument(why));
    let known = |key: &str| NEEDS.iter().any(|(name, _)| *name == key);
    if let Some(unknown) = options.keys().find(|key| !known(key.as_str())) {
        return refuse(format!("invalid option: {unknown:?}"));
    }
    for (name, needed) in NEEDS {
        let missing = |other: &&&str| !options.contains_key(**other);
        if options.contains_key(name)
            && let Some(missing) = needed.iter().find(missing)
        {
            return refuse(format!("missing required option: {missing:?}"));
        }
    }
    let value = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let words: Vec<&str> = value("o").split(',').filter(|word| !word.is_empty()).collect();
    match value("type") {
        "" if options.is_empty() => Ok(None),
        "tmpfs" => tmpfs(value("device"), &words).map(Some),
        kind @ ("none" | "bind") => bind(kind, value("device"), &words).map(Some),
        other => {
            refuse(format!("volumes of type {other:?} are not supported: use tmpfs, none or bind"))
        }
    }
}

fn tmpfs(device: &str, words: &[&str]) -> Result<Mount> {
    check(words, |word| {
        word.split_once('=').is_some_and(|(key, value)| TMPFS.contains(&key) && !value.is_empty())
    })?;
    Ok(mount("tmpfs", device, words.iter().copied()))
}

fn bind(kind: &str, device: &str, words: &[&str]) -> Result<Mount> {
    check(words, |word| BIND.contains(&word))?;
    if !device.starts_with('/') {
        return Err(Error::invalid_argument(format!(
            "device {device:?} of a volume of type {kind} is no absolute path"
        )));
    }
    let bound = words.iter().any(|word| matches!(*word, "bind" | "rbind"));
    if !bound && kind == "none" {
        return Err(Error::invalid_argument(
            "a volume of type none needs \"bind\" or \"rbind\" in its option \"o\"",
        ));
    }
    let implied = (!bound).then_some("rbind");
    Ok(mount("bind", device, implied.into_iter().chain(words.iter().copied())))
}

fn check(words: &[&str], own: impl Fn(&str) -> bool) -> Result<()> {
    match words.iter().find(|word| !FLAGS.contains(word) && !own(word)) {
        Some(word) => Err(Error::invalid_argument(format!(
            "{word:?} in option \"o\" of a volume is not supported"
        ))),
        None => Ok(()),
    }
}

fn mount<'a>(kind: &str, source: &str, options: impl Iterator<Item = &'a str>) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[(&str, &str)]) -> Result<Option<Mount>, String> {
        let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        device_mount(&options.collect()).map_err(|err| err.to_string())
    }

    #[test]
    fn what_options_stand_for() {
        assert_eq!(parsed(&[]), Ok(None));
        let tmpfs = parsed(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=100m,uid=1000")]);
        let tmpfs = tmpfs.unwrap().unwrap();
        assert_eq!((tmpfs.kind.as_str(), tmpfs.source.as_str()), ("tmpfs", "tmpfs"));
        assert_eq!(tmpfs.options, ["size=100m", "uid=1000"]);
        let bind = parsed(&[("type", "none"), ("device", "/srv"), ("o", "bind,ro")]);
        let bind = bind.unwrap().unwrap();
        assert_eq!((bind.kind.as_str(), bind.source.as_str()), ("bind", "/srv"));
        assert_eq!(bind.options, ["bind", "ro"]);
        let bind = parsed(&[("type", "bind"), ("device", "/srv")]).unwrap().unwrap();
        assert_eq!(bind.options, ["rbind"]);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (options, why) in [
            (vec![("size", "1g")], "invalid option: \"size\""),
            (vec![("type", "tmpfs")], "missing required option: \"device\""),
            (vec![("device", "/a")], "missing required option: \"type\""),
            (vec![("o", "ro")], "missing required option: \"device\""),
            (
                vec![("type", "nfs"), ("device", ":/a"), ("o", "addr=host")],
                "volumes of type \"nfs\" are not supported: use tmpfs, none or bind",
            ),
            (
                vec![("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,bind")],
                "\"bind\" in option \"o\" of a volume is not supported",
            ),
            (
                vec![("type", "none"), ("device", "/a"), ("o", "bind,size=1")],
                "\"size=1\" in option \"o\" of a volume is not supported",
            ),
            (
                vec![("type", "none"), ("device", "a"), ("o", "bind")],
                "device \"a\" of a volume of type none is no absolute path",
            ),
            (
                vec![("type", "none"), ("device", "/a"), ("o", "ro")],
                "a volume of type none needs \"bind\" or \"rbind\" in its option \"o\"",
            ),
        ] {
            assert_eq!(parsed(&options), Err(why.to_owned()));
        }
    }
}
