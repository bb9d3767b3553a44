//! Mounts as the OCI runtime specification has them.

use gantry_core::db::blocking;
use gantry_core::{Context, Error, Mount, Result};
use serde_json::{Value, json};

use super::{of_kind, propagation, view_key};
use crate::Engine;
use crate::model::{MountKind, MountSetting, Settings};
use crate::specification::Moment;

/// What memory is mounted with unless the caller says otherwise, as Docker does.
const TMPFS: [&str; 3] = ["noexec", "nosuid", "nodev"];
/// Option of our shim: a path below the source, resolved when it is mounted.
const SUBPATH: &str = "gantry.subpath=";
/// From this release on the kernel can make mounts below a bind read-only as well.
const RECURSIVE: (u32, u32) = (5, 12);

impl Engine {
    /// What a container whose file system is this snapshotter's has mounted, the upper places
    /// first.
    ///
    /// # Errors
    /// `NotFound` for the view of an image that is gone when it is started; `InvalidArgument`
    /// for a mount that needs a newer kernel; `FailedPrecondition` for one that is to share
    /// mounts with the host, which does not share any there.
    pub(crate) async fn oci_mounts(
        &self,
        ctx: &Context,
        (id, snapshotter): (&str, &str),
        settings: &Settings,
        moment: Moment,
    ) -> Result<Vec<Value>> {
        let sharing = of_kind(settings, MountKind::Bind).filter(|m| propagation::takes_part(m));
        let sharing: Vec<MountSetting> = sharing.cloned().collect();
        if !sharing.is_empty() {
            blocking(move || propagation::check(&sharing)).await?;
        }
        let mut all = Vec::with_capacity(settings.mounts.len());
        for (number, mount) in settings.mounts.iter().enumerate() {
            let value = match mount.kind {
                MountKind::Bind => bind(mount, &mount.source, mount.read_only)?,
                MountKind::Tmpfs => tmpfs(mount),
                MountKind::Volume => self.volume_mount(ctx, mount).await?,
                MountKind::Image => {
                    let key = view_key(id, number);
                    self.view_mount(ctx, snapshotter, &key, mount, moment).await?
                }
            };
            all.push((depth(&mount.target), value));
        }
        // Stable: places of the same depth stay in the caller's order.
        all.sort_by_key(|(depth, _)| *depth);
        Ok(all.into_iter().map(|(_, value)| value).filter(|value| !value.is_null()).collect())
    }

    async fn volume_mount(&self, ctx: &Context, mount: &MountSetting) -> Result<Value> {
        let name = mount.source.as_str();
        match self.parts.volumes.get(ctx, name).await {
            Ok(volume) => match volume.device_mount()? {
                Some(device) => Ok(plain(mount, device)),
                None => {
                    let source = volume.mountpoint.to_string_lossy();
                    bind(mount, &source, mount.read_only || volume.is_read_only())
                }
            },
            // It is made behind the container's record.
            Err(err) if err.is_not_found() => {
                let source = self.parts.volumes.place(ctx, name);
                bind(mount, &source.to_string_lossy(), mount.read_only)
            }
            Err(err) => Err(err),
        }
    }

    async fn view_mount(
        &self,
        ctx: &Context,
        snapshotter: &str,
        key: &str,
        mount: &MountSetting,
        moment: Moment,
    ) -> Result<Value> {
        let snapshotter = self.parts.snapshotters.get(snapshotter)?;
        let mounts = match snapshotter.mounts(ctx, key).await {
            Ok(mounts) => mounts,
            // It is made behind the container's record.
            Err(err) if err.is_not_found() && moment == Moment::Making => return Ok(Value::Null),
            Err(err) => return Err(err),
        };
        match <[Mount; 1]>::try_from(mounts) {
            Ok([view]) => Ok(plain(mount, view)),
            Err(_) => Err(Error::unimplemented(format!(
                "mount image {}: the snapshotter needs several mounts for it",
                mount.source
            ))),
        }
    }
}

fn depth(target: &str) -> usize {
    gantry_core::paths::clean(target).components().count()
}

/// Something that is no directory of the host's.
fn plain(mount: &MountSetting, what: Mount) -> Value {
    let mut options = what.options;
    if (mount.read_only || mount.kind == MountKind::Image) && !options.iter().any(|o| o == "ro") {
        options.push("ro".to_owned());
    }
    below(mount, &mut options);
    json!({
        "destination": mount.target,
        "type": what.kind,
        "source": what.source,
        "options": options,
    })
}

/// Has the shim mount a path below the source.
fn below(mount: &MountSetting, options: &mut Vec<String>) {
    if !mount.subpath.is_empty() {
        options.push(format!("{SUBPATH}{}", mount.subpath));
    }
}

fn bind(mount: &MountSetting, source: &str, read_only: bool) -> Result<Value> {
    let mut options = vec![if mount.non_recursive { "bind" } else { "rbind" }.to_owned()];
    if read_only {
        options.push(read_only_option(mount)?.to_owned());
    }
    let propagation = mount.propagation.as_str();
    options.push(if propagation.is_empty() { "rprivate" } else { propagation }.to_owned());
    below(mount, &mut options);
    Ok(json!({
        "destination": mount.target,
        "type": "bind",
        "source": source,
        "options": options,
    }))
}

/// Read-only with all that is mounted below it, where the kernel can.
fn read_only_option(mount: &MountSetting) -> Result<&'static str> {
    let able = crate::spec::kernel_version() >= RECURSIVE;
    if mount.read_only_force_recursive && !able {
        return Err(Error::invalid_argument(format!(
            "mount {}: read-only mounts below it need Linux 5.12 or newer",
            mount.target
        )));
    }
    let alone = mount.read_only_non_recursive || mount.non_recursive || !able;
    Ok(if alone { "ro" } else { "rro" })
}

fn tmpfs(mount: &MountSetting) -> Value {
    let mut options: Vec<String> = TMPFS.iter().map(|o| (*o).to_owned()).collect();
    if mount.read_only {
        options.push("ro".to_owned());
    }
    if mount.tmpfs_size > 0 {
        options.push(format!("size={}", mount.tmpfs_size));
    }
    if let Some(mode) = mount.tmpfs_mode {
        options.push(format!("mode={mode:o}"));
    }
    for option in mount.tmpfs_options.split(',').filter(|o| !o.is_empty()) {
        merge(&mut options, option);
    }
    options.push("rprivate".to_owned());
    json!({
        "destination": mount.target,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": options,
    })
}

/// Adds an option, over what says the same or the opposite.
fn merge(options: &mut Vec<String>, option: &str) {
    let name = |o: &str| {
        let key = o.split('=').next().unwrap_or(o);
        match key {
            "rw" => "ro".to_owned(),
            key => key.strip_prefix("no").unwrap_or(key).to_owned(),
        }
    };
    let wanted = name(option);
    options.retain(|o| name(o) != wanted);
    options.push(option.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(value: &Value) -> Vec<&str> {
        value["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect()
    }

    #[test]
    fn binds() {
        let mount = MountSetting { target: "/in".into(), ..MountSetting::default() };
        let made = bind(&mount, "/host", false).unwrap();
        assert_eq!((&made["source"], &made["destination"]), (&json!("/host"), &json!("/in")));
        assert_eq!(options(&made), ["rbind", "rprivate"]);
        let made = bind(&mount, "/host", true).unwrap();
        assert_eq!(options(&made), ["rbind", "rro", "rprivate"]);
        let mount = MountSetting {
            propagation: "rslave".into(),
            read_only_non_recursive: true,
            non_recursive: true,
            subpath: "a/b".into(),
            ..mount
        };
        let made = bind(&mount, "/host", true).unwrap();
        assert_eq!(options(&made), ["bind", "ro", "rslave", "gantry.subpath=a/b"]);
    }

    #[test]
    fn memory() {
        let mount = MountSetting { target: "/tmp".into(), ..MountSetting::default() };
        assert_eq!(options(&tmpfs(&mount)), ["noexec", "nosuid", "nodev", "rprivate"]);
        let mount = MountSetting {
            tmpfs_size: 4096,
            tmpfs_mode: Some(0o700),
            tmpfs_options: "exec,size=64k,uid=7".into(),
            ..mount
        };
        assert_eq!(
            options(&tmpfs(&mount)),
            ["nosuid", "nodev", "mode=700", "exec", "size=64k", "uid=7", "rprivate"]
        );
    }

    #[test]
    fn upper_places_come_first() {
        assert!(depth("/a") < depth("/a/b") && depth("/a/b/") == depth("/c//d"));
    }
}
