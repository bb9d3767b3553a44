//! Volumes as callers see them: with who has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_core::volumes::{ANONYMOUS, CopyKind, DRIVER, NewVolume, Volume};
use gantry_core::{Context, Error, Kind, Labels, Result, Timestamp};
use gantry_grpc::gantry::engine::v1::VolumeEvent;
use gantry_grpc::{any, convert};
use regex::Regex;
use serde_json::{Value, json};

use super::archive::is_unfinished;
use super::of_kind;
use crate::Engine;
use crate::filter::{given, has, invalid, label, split, truth};
use crate::images::Ready;
use crate::model::{MountKind, Settings};
use crate::options::Pull;

/// A volume in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSummary {
    /// The volume.
    pub volume: Volume,
    /// Bytes that it takes, when they were asked for.
    pub size: Option<u64>,
    /// How many containers have it.
    pub references: u32,
}

impl VolumeSummary {
    /// A JSON object with Docker's field names.
    pub fn json(&self) -> Value {
        let Self { volume, size, references } = self;
        // Docker knows seconds.
        let created_at = Timestamp { nanos: 0, ..volume.created_at };
        let mut json = json!({
            "CreatedAt": created_at.to_string(),
            "Driver": volume.driver(),
            "Labels": some(&volume.labels),
            "Mountpoint": volume.mountpoint.to_string_lossy(),
            "Name": volume.name,
            "Options": some(&volume.options),
            "Scope": "local",
        });
        if let Some(size) = size {
            json["UsageData"] = json!({"Size": size, "RefCount": references});
        }
        if let Some(from) = &volume.snapshot_of {
            json["Status"] = json!({"SnapshotOf": from});
        }
        json
    }
}

fn some(map: &Labels) -> Value {
    if map.is_empty() { Value::Null } else { json!(map) }
}

/// Which volumes are meant, as Docker's filters say: those of one key are alternatives, but for
/// labels.
#[derive(Clone, Debug, Default)]
pub struct VolumeFilter {
    dangling: Option<bool>,
    drivers: Vec<String>,
    names: Vec<Regex>,
    labels: Vec<(String, Option<String>)>,
    without: Vec<(String, Option<String>)>,
    /// Also those with names, of those that nobody has.
    all: bool,
}

impl VolumeFilter {
    /// Reads filters, `KEY=VALUE`, of a listing.
    ///
    /// # Errors
    /// `InvalidArgument` for what is none.
    pub fn listing(filters: &[String]) -> Result<Self> {
        Self::parse(filters, &["dangling", "driver", "name", "label", "label!"])
    }

    /// Reads filters of a removal.
    ///
    /// # Errors
    /// As above.
    pub fn prune(filters: &[String]) -> Result<Self> {
        Self::parse(filters, &["label", "label!", "all"])
    }

    fn parse(filters: &[String], known: &[&str]) -> Result<Self> {
        let mut parsed = Self::default();
        for filter in given(filters) {
            let (key, value) = split(filter)?;
            if !known.contains(&key.as_str()) {
                return Err(invalid(filter, &format!("{} are known", known.join(", "))));
            }
            match key.as_str() {
                "dangling" => parsed.dangling = Some(truth(value, filter)?),
                "all" => parsed.all = truth(value, filter)?,
                "driver" => parsed.drivers.push(value.to_owned()),
                "name" => {
                    let name = Regex::new(value);
                    parsed.names.push(name.map_err(|err| invalid(filter, &err.to_string()))?);
                }
                "label" => parsed.labels.push(label(value)),
                // All that is left.
                _ => parsed.without.push(label(value)),
            }
        }
        Ok(parsed)
    }

    fn matches(&self, volume: &Volume, references: u32) -> bool {
        let labelled = |wanted: &(String, Option<String>)| has(&volume.labels, wanted);
        self.dangling.is_none_or(|dangling| dangling == (references == 0))
            && (self.drivers.is_empty() || self.drivers.iter().any(|d| d == volume.driver()))
            && (self.names.is_empty() || self.names.iter().any(|n| n.is_match(&volume.name)))
            && self.labels.iter().all(labelled)
            && !self.without.iter().any(labelled)
    }
}

impl Engine {
    /// Makes a volume; one that is there as asked for is no error.
    ///
    /// # Errors
    /// `InvalidArgument`, `NotFound` for the driver; `AlreadyExists` with other options.
    pub async fn create_volume(&self, ctx: &Context, new: NewVolume) -> Result<VolumeSummary> {
        let (volume, newly) = self.parts.volumes.create(ctx, new).await?;
        if newly {
            self.tell_of_volume(ctx, "create", &volume.name, &volume.labels, "");
        }
        let references = self.references(ctx, Some(&volume.name)).await?;
        let references = references.get(&volume.name).map_or(0, Vec::len) as u32;
        Ok(VolumeSummary { volume, size: None, references })
    }

    /// Volumes by name.
    ///
    /// # Errors
    /// The store's.
    pub async fn volumes(
        &self,
        ctx: &Context,
        filter: &VolumeFilter,
        size: bool,
    ) -> Result<Vec<VolumeSummary>> {
        let volumes = self.parts.volumes.list(ctx).await?;
        let references = self.references(ctx, None).await?;
        let sizes = if size { self.parts.volumes.sizes(ctx).await? } else { BTreeMap::new() };
        // One whose archive is still arriving is nobody's yet.
        let whole = volumes.into_iter().filter(|volume| !is_unfinished(&volume.name));
        let shown = whole.filter_map(|volume| {
            let references = references.get(&volume.name).map_or(0, Vec::len) as u32;
            let size = sizes.get(&volume.name).copied();
            filter.matches(&volume, references).then_some(VolumeSummary {
                volume,
                size,
                references,
            })
        });
        Ok(shown.collect())
    }

    /// One volume.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn volume(&self, ctx: &Context, name: &str) -> Result<VolumeSummary> {
        let volume = self.parts.volumes.get(ctx, name).await;
        let volume = self.or_meant(ctx, name, volume).await?;
        let references = self.references(ctx, Some(name)).await?;
        let references = references.get(name).map_or(0, Vec::len) as u32;
        Ok(VolumeSummary { volume, size: None, references })
    }

    /// IDs of the containers that have volumes, by the volumes' names; of one volume or all.
    async fn references(
        &self,
        ctx: &Context,
        only: Option<&str>,
    ) -> Result<BTreeMap<String, Vec<String>>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (container, meta) in self.store.list(ctx).await? {
            for mount in of_kind(&meta.settings, MountKind::Volume) {
                if only.is_none_or(|only| only == mount.source) {
                    let users = found.entry(mount.source.clone()).or_default();
                    if users.last() != Some(&container.id) {
                        users.push(container.id.clone());
                    }
                }
            }
        }
        Ok(found)
    }

    /// Refuses what can't be done to a volume that containers have, but for one that leaves.
    async fn unused(
        &self,
        ctx: &Context,
        what: &str,
        name: &str,
        leaving: Option<&str>,
    ) -> Result<()> {
        let mut references = self.references(ctx, Some(name)).await?;
        let mut users = references.remove(name).unwrap_or_default();
        users.retain(|user| Some(user.as_str()) != leaving);
        if users.is_empty() {
            return Ok(());
        }
        let text = format!("{what} {name}: volume is in use - [{}]", users.join(", "));
        Err(Error::failed_precondition(text).about("volume", name))
    }

    /// Removes a volume that no container has. With `force` one that is not there is no error.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while a container has it.
    pub async fn remove_volume(&self, ctx: &Context, name: &str, force: bool) -> Result<()> {
        self.take_volume(ctx, name, force, None).await
    }

    /// [`Engine::remove_volume`], also when a container has it that leaves.
    pub(super) async fn take_volume(
        &self,
        ctx: &Context,
        name: &str,
        force: bool,
        leaving: Option<&str>,
    ) -> Result<()> {
        let held = self.volume_locks.lock((ctx.namespace.clone(), name.to_owned())).await;
        self.unused(ctx, "remove", name, leaving).await?;
        let labels = self.parts.volumes.get(ctx, name).await.map(|volume| volume.labels);
        let removed = self.parts.volumes.remove(ctx, name).await;
        drop(held);
        if removed.is_ok() {
            self.tell_of_volume(ctx, "destroy", name, &labels.unwrap_or_default(), "");
        }
        match removed {
            Err(err) if err.is_not_found() && force => Ok(()),
            other => self.or_meant(ctx, name, other).await,
        }
    }

    /// Removes the volumes that no container has: anonymous ones, or all. Answers with their
    /// names and how much they took.
    ///
    /// # Errors
    /// The store's. One that can't be removed is left out.
    pub async fn prune_volumes(
        &self,
        ctx: &Context,
        filter: &VolumeFilter,
    ) -> Result<(Vec<String>, u64)> {
        let sizes = self.parts.volumes.sizes(ctx).await?;
        let (mut removed, mut reclaimed) = (Vec::new(), 0);
        for summary in self.volumes(ctx, filter, false).await? {
            let anonymous = summary.volume.labels.contains_key(ANONYMOUS);
            if summary.references > 0 || !(anonymous || filter.all) {
                continue;
            }
            let name = summary.volume.name;
            match self.remove_volume(ctx, &name, false).await {
                Ok(()) => {
                    reclaimed += sizes.get(&name).copied().unwrap_or(0);
                    removed.push(name);
                }
                // A container has it by now, or somebody else removed it.
                Err(err) => tracing::info!(volume = name, error = %err, "leave a volume"),
            }
        }
        let pruned = VolumeEvent { reclaimed: Some(reclaimed), ..VolumeEvent::default() };
        self.tell_volume_event(ctx, "prune", &pruned);
        Ok((removed, reclaimed))
    }

    /// Gives a volume that no container has another name.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `InvalidArgument`; `FailedPrecondition` while it is used.
    pub async fn rename_volume(&self, ctx: &Context, name: &str, to: &str) -> Result<()> {
        let (first, second) = if name < to { (name, to) } else { (to, name) };
        let key = |name: &str| (ctx.namespace.clone(), name.to_owned());
        let _first = self.volume_locks.lock(key(first)).await;
        let _second = match first == second {
            true => None,
            false => Some(self.volume_locks.lock(key(second)).await),
        };
        self.unused(ctx, "rename", name, None).await?;
        let volume = self.parts.volumes.rename(ctx, name, to).await;
        let volume = self.or_meant(ctx, name, volume).await?;
        self.tell_of_volume(ctx, "rename", to, &volume.labels, name);
        Ok(())
    }

    /// Makes a volume with what another one holds. It is given up when its caller has `gone`.
    ///
    /// # Errors
    /// `NotFound` for the one that is there; `AlreadyExists`, `InvalidArgument`, `Cancelled`.
    pub async fn copy_volume(
        &self,
        ctx: &Context,
        from: &str,
        new: NewVolume,
        kind: CopyKind,
        gone: impl Future<Output = ()> + Send,
    ) -> Result<VolumeSummary> {
        let volume = tokio::select! {
            biased;
            volume = self.parts.volumes.copy(ctx, from, new, kind) => volume,
            () = gone => return Err(Error::new(Kind::Cancelled, "the caller went away")),
        };
        let volume = self.or_meant(ctx, from, volume).await?;
        self.tell_of_volume(ctx, "create", &volume.name, &volume.labels, "");
        Ok(VolumeSummary { volume, size: None, references: 0 })
    }

    /// Tells what became of a volume.
    pub(super) fn tell_of_volume(
        &self,
        ctx: &Context,
        action: &str,
        name: &str,
        labels: &Labels,
        renamed_from: &str,
    ) {
        let event = VolumeEvent {
            name: name.to_owned(),
            driver: DRIVER.to_owned(),
            labels: labels.clone(),
            renamed_from: renamed_from.to_owned(),
            ..VolumeEvent::default()
        };
        self.tell_volume_event(ctx, action, &event);
    }

    /// Tells that a container with volumes was started.
    pub(crate) fn tell_mounted(&self, ctx: &Context, id: &str, settings: &Settings) {
        for mount in of_kind(settings, MountKind::Volume) {
            let event = VolumeEvent {
                name: mount.source.clone(),
                driver: DRIVER.to_owned(),
                container_id: id.to_owned(),
                destination: mount.target.clone(),
                read_only: mount.read_only,
                propagation: mount.propagation.clone(),
                ..VolumeEvent::default()
            };
            self.tell_volume_event(ctx, "mount", &event);
        }
    }

    /// Tells that a container with volumes has ended.
    pub(crate) fn tell_unmounted(&self, ctx: &Context, id: &str, settings: &Settings) {
        for mount in of_kind(settings, MountKind::Volume) {
            let event = VolumeEvent {
                name: mount.source.clone(),
                driver: DRIVER.to_owned(),
                container_id: id.to_owned(),
                ..VolumeEvent::default()
            };
            self.tell_volume_event(ctx, "unmount", &event);
        }
    }

    fn tell_volume_event(&self, ctx: &Context, action: &str, event: &VolumeEvent) {
        let topic = format!("/gantry/volumes/{action}");
        self.parts.history.append(ctx, &topic, convert::from_any(any::pack(event)));
    }

    /// An image that is to be mounted: it has to be here.
    pub(super) async fn image_for_mount(&self, ctx: &Context, image: &str) -> Result<Arc<Ready>> {
        self.image_for(ctx, image, Pull::Never, None, None).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, labels: &[(&str, &str)]) -> Volume {
        Volume {
            name: name.into(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            options: BTreeMap::new(),
            created_at: Timestamp::default(),
            mountpoint: "/v".into(),
            snapshot_of: None,
        }
    }

    fn filter(texts: &[&str]) -> Result<VolumeFilter> {
        VolumeFilter::listing(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn filters() {
        let data = volume("pgdata", &[("env", "prod"), ("a", "")]);
        for (texts, references, wanted) in [
            (&["name=pg"][..], 0, true),
            (&["name=x", "name=data"], 0, true),
            (&["name=x"], 0, false),
            (&["name=^pg.*a$"], 0, true),
            (&["name=^data$"], 0, false),
            (&["dangling=true"], 0, true),
            (&["dangling=1"], 1, false),
            (&["dangling=false"], 1, true),
            (&["driver=local"], 0, true),
            (&["driver=nfs"], 0, false),
            (&["label=env"], 0, true),
            (&["label=env=prod", "label=a"], 0, true),
            (&["label=env=dev"], 0, false),
            (&["label!=env"], 0, false),
            (&[""], 0, true),
        ] {
            assert_eq!(filter(texts).unwrap().matches(&data, references), wanted, "{texts:?}");
        }
        for bad in ["nope=1", "name", "name=(", "dangling=maybe", "all=true"] {
            assert!(filter(&[bad]).is_err(), "{bad}");
        }
        assert!(VolumeFilter::prune(&["all=true".to_owned()]).unwrap().all);
    }

    #[test]
    fn dockers_names() {
        let summary = VolumeSummary { volume: volume("data", &[]), size: Some(7), references: 2 };
        let json = summary.json();
        assert_eq!((&json["Name"], &json["Driver"]), (&json!("data"), &json!("local")));
        assert_eq!((&json["Labels"], &json["Scope"]), (&Value::Null, &json!("local")));
        assert_eq!(json["UsageData"], json!({"Size": 7, "RefCount": 2}));
    }

    #[test]
    fn dockers_shape_in_dockers_order() {
        let created_at = Timestamp { seconds: 1_714_550_400, nanos: 5 };
        let volume = Volume { created_at, ..volume("data", &[]) };
        assert_eq!(
            VolumeSummary { volume, size: None, references: 2 }.json().to_string(),
            "{\"CreatedAt\":\"2024-05-01T08:00:00Z\",\"Driver\":\"local\",\"Labels\":null,\
             \"Mountpoint\":\"/v\",\"Name\":\"data\",\"Options\":null,\"Scope\":\"local\"}"
        );
    }
}
