//! What is mounted in a container, in the four forms that Docker has for it.

use std::collections::BTreeMap;

use gantry_core::Labels;
use gantry_core::volumes::DRIVER;

use crate::fields::Fields;
use crate::model::{MountKind, MountSetting, Settings};

/// Propagation of what is bound, unless its user says otherwise.
const PRIVATE: &str = "rprivate";
/// The mode of volumes with names that Docker shows where nobody wrote one.
const SHARED: &str = "z";

/// Where a volume is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The directory that containers see.
    pub(super) path: String,
    /// Nobody may write to it.
    pub(super) read_only: bool,
}

/// Volumes by name.
pub(super) type Places = BTreeMap<String, Place>;

/// How a caller wrote a mount: the shortest way in which it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `-v SOURCE:TARGET`.
    Bind,
    /// `-v TARGET`, or the image's.
    Volume,
    /// `--tmpfs`.
    Tmpfs,
    /// `--mount`.
    Mount,
    /// Another container's.
    Other,
}

fn form(mount: &MountSetting, settings: &Settings) -> Form {
    // What other containers had before is marked so.
    if !settings.volumes_from.is_empty() && mount.no_copy {
        return Form::Other;
    }
    let recursion =
        mount.non_recursive || mount.read_only_non_recursive || mount.read_only_force_recursive;
    let volume = mount.volume_driver.is_empty()
        && mount.volume_labels.is_empty()
        && mount.volume_options.is_empty()
        && mount.subpath.is_empty();
    let memory = mount.tmpfs_size == 0 && mount.tmpfs_mode.is_none() && !mount.read_only;
    match mount.kind {
        MountKind::Bind if mount.create_source && !recursion => Form::Bind,
        MountKind::Volume if volume && mount.anonymous => Form::Volume,
        MountKind::Volume if volume => Form::Bind,
        MountKind::Tmpfs if memory => Form::Tmpfs,
        _ => Form::Mount,
    }
}

fn written(settings: &Settings, wanted: Form) -> impl Iterator<Item = &MountSetting> {
    settings.mounts.iter().filter(move |mount| form(mount, settings) == wanted)
}

/// What stands behind the target of a bind.
fn mode(mount: &MountSetting) -> String {
    let mut words = Vec::new();
    if mount.read_only {
        words.push("ro");
    }
    if mount.no_copy && mount.kind == MountKind::Volume {
        words.push("nocopy");
    }
    if !mount.propagation.is_empty() {
        words.push(&mount.propagation);
    }
    words.join(",")
}

/// `HostConfig.Binds`.
pub(super) fn binds(settings: &Settings) -> Vec<String> {
    let bind = |mount: &MountSetting| {
        let mode = mode(mount);
        let colon = if mode.is_empty() { "" } else { ":" };
        format!("{}:{}{colon}{mode}", mount.source, mount.target)
    };
    written(settings, Form::Bind).map(bind).collect()
}

/// `HostConfig.Tmpfs`.
pub(super) fn tmpfs(settings: &Settings) -> Labels {
    let memory = written(settings, Form::Tmpfs);
    memory.map(|mount| (mount.target.clone(), mount.tmpfs_options.clone())).collect()
}

/// Targets of volumes without names.
pub(super) fn anonymous(settings: &Settings) -> impl Iterator<Item = &str> {
    written(settings, Form::Volume).map(|mount| mount.target.as_str())
}

/// `HostConfig.Mounts`.
pub(super) fn specs(settings: &Settings) -> Vec<Fields> {
    written(settings, Form::Mount).map(spec).collect()
}

fn spec(mount: &MountSetting) -> Fields {
    // An anonymous volume had no name when it was asked for.
    let source = if mount.anonymous { "" } else { mount.source.as_str() };
    let fields = Fields::default()
        .with("Type", mount.kind.as_str())
        .with_set("Source", source)
        .with("Target", &mount.target)
        .with_set("ReadOnly", mount.read_only);
    match mount.kind {
        MountKind::Bind => {
            let options = Fields::default()
                .with_set("Propagation", mount.propagation.as_str())
                .with_set("NonRecursive", mount.non_recursive)
                .with_set("CreateMountpoint", mount.create_source)
                .with_set("ReadOnlyNonRecursive", mount.read_only_non_recursive)
                .with_set("ReadOnlyForceRecursive", mount.read_only_force_recursive);
            fields.with_some("BindOptions", options.some())
        }
        MountKind::Volume => {
            let driver = Fields::default()
                .with_set("Name", mount.volume_driver.as_str())
                .with_set("Options", mount.volume_options.clone());
            let options = Fields::default()
                .with_set("NoCopy", mount.no_copy)
                .with_set("Labels", mount.volume_labels.clone())
                .with_set("Subpath", mount.subpath.as_str())
                .with_some("DriverConfig", driver.some());
            fields.with_some("VolumeOptions", options.some())
        }
        MountKind::Tmpfs => {
            let options = Fields::default()
                .with_set("SizeBytes", mount.tmpfs_size)
                .with_some("Mode", mount.tmpfs_mode);
            fields.with_some("TmpfsOptions", options.some())
        }
        MountKind::Image => {
            let options = Fields::default().with_set("Subpath", mount.subpath.as_str());
            fields.with_some("ImageOptions", options.some())
        }
    }
}

/// `Mounts`: all but memory that has no more than options.
pub(super) fn points(settings: &Settings, places: &Places) -> Vec<Fields> {
    let shown = settings.mounts.iter().filter(|mount| form(mount, settings) != Form::Tmpfs);
    shown.map(|mount| point(mount, places.get(&mount.source))).collect()
}

fn point(mount: &MountSetting, place: Option<&Place>) -> Fields {
    let fields = Fields::default().with("Type", mount.kind.as_str());
    let mode = mode(mount);
    let (fields, mode, writable) = match mount.kind {
        MountKind::Bind => (fields.with("Source", &mount.source), mode, true),
        MountKind::Volume => {
            let path = place.map_or("", |place| place.path.as_str());
            let mode = match mode.as_str() {
                "" if !mount.anonymous => SHARED.to_owned(),
                _ => mode,
            };
            let fields = fields.with("Name", &mount.source).with("Source", path);
            (fields, mode, !place.is_some_and(|place| place.read_only))
        }
        MountKind::Tmpfs => (fields.with("Source", ""), String::new(), true),
        MountKind::Image => {
            // What it is mounted from is nowhere on the host.
            let fields = fields.with("Name", &mount.source).with("Source", "");
            (fields, String::new(), false)
        }
    };
    let propagation = match mount.kind {
        MountKind::Bind if mount.propagation.is_empty() => PRIVATE,
        _ => mount.propagation.as_str(),
    };
    let driver = (mount.kind == MountKind::Volume).then_some(DRIVER);
    fields
        .with("Destination", &mount.target)
        .with_some("Driver", driver)
        .with("Mode", mode)
        .with("RW", writable && !mount.read_only)
        .with("Propagation", propagation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mounts: Vec<MountSetting>) -> Settings {
        Settings { mounts, ..Settings::default() }
    }

    fn mount(kind: MountKind, source: &str, target: &str) -> MountSetting {
        MountSetting {
            kind,
            source: source.into(),
            target: target.into(),
            ..MountSetting::default()
        }
    }

    fn texts(fields: &[Fields]) -> Vec<String> {
        fields.iter().map(ToString::to_string).collect()
    }

    fn bound(target: &str) -> MountSetting {
        MountSetting { create_source: true, ..mount(MountKind::Bind, "/host", target) }
    }

    #[test]
    fn binds_and_volumes_with_names() {
        let read_only =
            MountSetting { read_only: true, propagation: "rslave".into(), ..bound("/b") };
        let empty = MountSetting { no_copy: true, ..mount(MountKind::Volume, "data", "/c") };
        let settings = of(vec![bound("/a"), read_only, empty]);
        assert_eq!(binds(&settings), ["/host:/a", "/host:/b:ro,rslave", "data:/c:nocopy"]);
        assert!(specs(&settings).is_empty() && tmpfs(&settings).is_empty());
        let place = Place { path: "/v/data".into(), read_only: false };
        let places = Places::from([("data".to_owned(), place)]);
        assert_eq!(
            texts(&points(&settings, &places)),
            [
                r#"{"Type":"bind","Source":"/host","Destination":"/a","Mode":"","RW":true,"Propagation":"rprivate"}"#,
                r#"{"Type":"bind","Source":"/host","Destination":"/b","Mode":"ro,rslave","RW":false,"Propagation":"rslave"}"#,
                r#"{"Type":"volume","Name":"data","Source":"/v/data","Destination":"/c","Driver":"local","Mode":"nocopy","RW":true,"Propagation":""}"#,
            ]
        );
    }

    #[test]
    fn volumes_without_names_and_snapshots() {
        let anonymous_one =
            MountSetting { anonymous: true, ..mount(MountKind::Volume, "0123", "/data") };
        let settings = of(vec![anonymous_one, mount(MountKind::Volume, "snap", "/snap")]);
        assert_eq!(anonymous(&settings).collect::<Vec<_>>(), ["/data"]);
        assert_eq!(binds(&settings), ["snap:/snap"]);
        let place = Place { path: "/v/snap".into(), read_only: true };
        let points = texts(&points(&settings, &Places::from([("snap".to_owned(), place)])));
        assert!(points[0].contains(r#""Name":"0123","Source":"","#), "{}", points[0]);
        assert!(points[0].contains(r#""Mode":"","RW":true"#), "{}", points[0]);
        assert!(points[1].contains(r#""Mode":"z","RW":false"#), "{}", points[1]);
    }

    #[test]
    fn what_only_the_long_form_says() {
        let bind = MountSetting {
            read_only: true,
            non_recursive: true,
            ..mount(MountKind::Bind, "/host", "/a")
        };
        let volume = MountSetting {
            volume_options: [("type".to_owned(), "tmpfs".to_owned())].into(),
            subpath: "x".into(),
            ..mount(MountKind::Volume, "v1", "/b")
        };
        let memory = MountSetting {
            tmpfs_size: 4096,
            tmpfs_mode: Some(0o700),
            ..mount(MountKind::Tmpfs, "", "/c")
        };
        let image = mount(MountKind::Image, "busybox", "/d");
        let settings = of(vec![bind, volume, memory, image]);
        assert_eq!(
            texts(&specs(&settings)),
            [
                r#"{"Type":"bind","Source":"/host","Target":"/a","ReadOnly":true,"BindOptions":{"NonRecursive":true}}"#,
                r#"{"Type":"volume","Source":"v1","Target":"/b","VolumeOptions":{"Subpath":"x","DriverConfig":{"Options":{"type":"tmpfs"}}}}"#,
                r#"{"Type":"tmpfs","Target":"/c","TmpfsOptions":{"SizeBytes":4096,"Mode":448}}"#,
                r#"{"Type":"image","Source":"busybox","Target":"/d"}"#,
            ]
        );
        let points = texts(&points(&settings, &Places::new()));
        let memory = r#"{"Type":"tmpfs","Source":"","Destination":"/c","Mode":"","RW":true,"Propagation":""}"#;
        assert_eq!(points[2], memory);
        assert!(points[3].contains(r#""Name":"busybox""#) && points[3].contains(r#""RW":false"#));
    }

    #[test]
    fn memory_of_the_short_form_is_no_mount() {
        let memory = MountSetting {
            tmpfs_options: "size=64m".into(),
            ..mount(MountKind::Tmpfs, "", "/run")
        };
        let settings = of(vec![memory]);
        assert_eq!(tmpfs(&settings), [("/run".to_owned(), "size=64m".to_owned())].into());
        assert!(points(&settings, &Places::new()).is_empty() && specs(&settings).is_empty());
    }

    #[test]
    fn what_comes_from_others_is_mounted_but_was_not_asked_for() {
        let settings = Settings {
            volumes_from: vec!["other".into()],
            mounts: vec![MountSetting { no_copy: true, ..bound("/a") }, bound("/b")],
            ..Settings::default()
        };
        assert_eq!(binds(&settings), ["/host:/b"]);
        assert_eq!(points(&settings, &Places::new()).len(), 2);
    }
}
