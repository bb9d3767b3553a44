//! Specifications as they are right now: of what the host, volumes and other containers are at
//! the moment.

use gantry_core::containers::Container;
use gantry_core::db::blocking;
use gantry_core::{Any, Context, Result};

use crate::Engine;
use crate::files::ContainerFiles;
use crate::host::Devices;
use crate::model::Settings;
use crate::options::Size;
use crate::sharing::Shared;
use crate::spec::SpecInput;

/// What a specification is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The container's record: others need not run yet.
    Making,
    /// A start.
    Starting,
}

/// Whether the specification that is stored of a container is that of its start.
pub(crate) fn is_final(settings: &Settings) -> bool {
    settings.mounts.is_empty() && !settings.flags.can_change()
}

impl Engine {
    /// A container's specification; `id` comes with its snapshotter. It leads to other
    /// containers for as long as what comes with it lives.
    ///
    /// # Errors
    /// `InvalidArgument`, `FailedPrecondition` or `NotFound` for what is not there.
    pub(crate) async fn specification(
        &self,
        ctx: &Context,
        (id, snapshotter): (&str, &str),
        settings: &Settings,
        size: Option<Size>,
        moment: Moment,
    ) -> Result<(Any, Shared)> {
        let flags = &settings.flags;
        let devices = if flags.has_devices() {
            let (flags, cdi) = (flags.clone(), self.host.cdi());
            blocking(move || Devices::find(&flags, &cdi)).await?
        } else {
            Devices::default()
        };
        let mounts = match settings.mounts.is_empty() {
            true => Vec::new(),
            false => self.oci_mounts(ctx, (id, snapshotter), settings, moment).await?,
        };
        let shared = match moment {
            Moment::Making => Shared::default(),
            Moment::Starting => self.join(ctx, id, &flags.namespaces).await?,
        };
        let files = self.name_files(ctx, id, settings).await?;
        let spec = self.specs.build(&SpecInput {
            id,
            settings,
            files: &files,
            size,
            mounts: &mounts,
            devices: &devices,
            shared: &shared,
        })?;
        Ok((Any::spec(spec), shared))
    }

    /// A container's files, where those are another's by which names are found if it shares that
    /// one's network. A container that another client made has none.
    ///
    /// # Errors
    /// The daemon ends.
    pub(crate) async fn name_files(
        &self,
        ctx: &Context,
        id: &str,
        settings: &Settings,
    ) -> Result<ContainerFiles> {
        let own = self.files(ctx, id);
        let Some(other) = settings.network_of() else { return Ok(own) };
        let other = self.files(ctx, other);
        blocking(move || Ok(if other.hosts.exists() { own.sharing(other) } else { own })).await
    }

    /// A container's record for its start: with a specification of its own where the stored
    /// one may not be true any more. That leads to other containers for as long as what comes
    /// with it lives.
    ///
    /// # Errors
    /// As [`Engine::specification`].
    pub(crate) async fn record_to_start(
        &self,
        ctx: &Context,
        container: &Container,
        settings: &Settings,
    ) -> Result<(Box<Container>, Shared)> {
        let mut record = Box::new(container.clone());
        if is_final(settings) {
            return Ok((record, Shared::default()));
        }
        let which = (container.id.as_str(), container.snapshotter.as_str());
        let moment = Moment::Starting;
        let (spec, shared) = self.specification(ctx, which, settings, None, moment).await?;
        record.spec = Some(spec);
        Ok((record, shared))
    }
}
