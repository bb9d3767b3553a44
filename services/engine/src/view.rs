//! Containers as they are listed and inspected.

mod config;
mod host_config;
mod mounts;
mod network;
mod object;

use std::collections::HashMap;

use gantry_core::containers::Container;
use gantry_core::history::Cursor;
use gantry_core::{Context, Labels, Result, Timestamp};

use crate::lifecycle::current;
use crate::model::{Meta, Phase, Settings, State};
use crate::{ContainerFilter, Engine, scope};

/// Which containers are asked for.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Those that do not run as well.
    pub all: bool,
    /// Those that match.
    pub filter: ContainerFilter,
    /// The so many that were made last, whatever they do; no limit when 0.
    pub last: usize,
}

/// A container in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// 64 hex digits, unless another client made it.
    pub id: String,
    /// Name.
    pub name: String,
    /// Image as it was named.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_id: String,
    /// Labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Timestamp,
    /// How it was asked to be.
    pub settings: Settings,
    /// What it does.
    pub state: State,
}

impl Summary {
    /// Puts together what is known of a container.
    pub(crate) fn of(container: &Container, meta: Meta, state: State) -> Self {
        Self {
            id: container.id.clone(),
            name: meta.name,
            image: meta.image,
            image_id: meta.image_id,
            labels: meta.labels,
            created_at: container.created_at,
            settings: meta.settings,
            state,
        }
    }
}

impl Engine {
    /// [`Engine::select`] with the position in the history as of which it is true: every
    /// change that is told behind it is not in the list yet, or shows there already.
    /// `None` while events can't be stored. An image's name that stands for another one by
    /// now, or for none, gives way to its short ID.
    ///
    /// # Errors
    /// The store's.
    pub async fn list_at(
        &self,
        ctx: &Context,
        which: &Listing,
    ) -> Result<(Vec<Summary>, Option<Cursor>)> {
        // First: a change is made before it is told.
        let cursor = self.parts.history.cursor().await;
        if let Err(err) = &cursor {
            tracing::warn!(error = %err, "list containers without a cursor");
        }
        let mut found = self.select(ctx, which).await?;
        self.show_images(ctx, &mut found).await;
        Ok((found, cursor.ok()))
    }

    /// The containers that are meant, newest first.
    ///
    /// # Errors
    /// The store's; `NotFound` for a container or image in a filter.
    pub async fn select(&self, ctx: &Context, which: &Listing) -> Result<Vec<Summary>> {
        let Listing { all, filter, last } = which;
        let every = *all || *last > 0 || filter.wants_ended();
        let mut found = self.list(ctx, every).await?;
        for (names, newer) in [(&filter.before, false), (&filter.since, true)] {
            for name in names {
                let other = self.find(ctx, name).await?.container.created_at;
                found.retain(|c| if newer { c.created_at > other } else { c.created_at < other });
            }
        }
        if !filter.ancestors.is_empty() {
            let ancestors = self.ancestors(ctx, &filter.ancestors).await?;
            found
                .retain(|c| ancestors.contains(&c.image_id) || filter.ancestors.contains(&c.image));
        }
        found.retain(|container| filter.matches(container));
        if *last > 0 {
            found.truncate(*last);
        }
        Ok(found)
    }

    /// IDs of the images that are named. One that is not here has no containers.
    async fn ancestors(&self, ctx: &Context, names: &[String]) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for name in names {
            match self.inspect_image(ctx, name).await {
                Ok((image, _)) => ids.extend(image.id.map(|id| id.to_string())),
                Err(err) if err.is_not_found() => {}
                Err(err) => return Err(err),
            }
        }
        Ok(ids)
    }

    /// Containers, newest first: those that run, or all. Never waits for a shim.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, ctx: &Context, all: bool) -> Result<Vec<Summary>> {
        let tasks = self.parts.tasks.list(ctx).await?;
        let tasks: HashMap<_, _> =
            tasks.iter().map(|task| (task.container_id.as_str(), task)).collect();
        let mut found = Vec::new();
        for (container, meta) in self.store.list(ctx).await? {
            if !scope::sees(ctx, &meta.labels) {
                continue;
            }
            let task = tasks.get(container.id.as_str()).copied();
            let known = self.live.state(&ctx.namespace, &container.id);
            let stored = meta.state.phase;
            let state = current(&meta, known, task);
            // Nobody was told of one that is being made: what is stored says first that it is.
            let unmade = state.phase == Phase::Creating && stored == Phase::Creating;
            if !unmade && (all || state.phase.is_active()) {
                found.push(Summary::of(&container, meta, state));
            }
        }
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    /// One container, with all that is known of it as JSON with Docker's field names. Never
    /// waits for a shim.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` when several IDs begin so.
    pub async fn inspect(&self, ctx: &Context, text: &str) -> Result<(Summary, String)> {
        let found = self.find(ctx, text).await?;
        let execs = found.live.execs.ids();
        let summary = Summary::of(&found.container, found.meta, found.state);
        let object = self.object(ctx, &summary, &found.container, execs).await;
        let json = object.fields().to_string();
        Ok((summary, json))
    }
}
