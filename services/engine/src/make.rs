//! From what a caller asks for to a container that could be started.

use std::sync::Arc;

use gantry_core::containers::{Container, Runtime};
use gantry_core::db::{Durability, blocking};
use gantry_core::{Any, Context, Error, Kind, Labels, Mount, Platform, Result, architecture};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::Engine;
use crate::image_config::Runtime as ImageRuntime;
use crate::images::Ready;
use crate::live::Live;
use crate::logs::LogConfig;
use crate::model::{Flags, Meta, Network, Phase, Settings, State};
use crate::networks::Plan;
use crate::options::{ContainerOptions, Created, Pull, Size};
use crate::spec::{DEFAULT_PATH, check_user};
use crate::specification::Moment;
use crate::{checks, health, names, scope, signal};

/// SIGTERM.
const TERM: u32 = 15;
/// Digits of an ID that make a host name.
const SHORT_ID: usize = 12;

/// A container that has a record.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) container: Container,
    pub(crate) meta: Meta,
    pub(crate) live: Arc<Live>,
    pub(crate) warnings: Vec<String>,
}

impl Engine {
    /// Makes a container that is not started, or finds the one that the same request
    /// has made before. Whoever has `gone` before the image is here wants none.
    ///
    /// # Errors
    /// `InvalidArgument`, `NotFound` for the image or its platform, `AlreadyExists` for the name,
    /// `FailedPrecondition` for an idempotency key of another request, `Cancelled`.
    pub async fn create(
        &self,
        ctx: &Context,
        mut options: ContainerOptions,
        pull: Pull,
        platform: Option<Platform>,
        gone: impl Future<Output = ()> + Send,
    ) -> Result<Created> {
        scope::admit(ctx, &mut options)?;
        let _once = self.once(ctx, options.idempotency.as_ref()).await?;
        if let Some((container, _)) = self.repeated(ctx, options.idempotency.as_ref()).await? {
            let (id, warnings) = (container.id, Vec::new());
            return Ok(Created { id, warnings, existing: true });
        }
        let image = tokio::select! {
            image = self.image_for(ctx, &options.image, pull, platform, None) => image?,
            () = gone => return Err(Error::new(Kind::Cancelled, "the caller went away")),
        };
        let made = self.make(ctx, options, &image).await?;
        let busy = made.live.busy.lock().await;
        if let Err(err) = self.mark_created(ctx, &made, Phase::Created).await {
            self.undo(ctx, &made.container, &made.meta, &made.live).await;
            return Err(err);
        }
        drop(busy);
        Ok(Created { id: made.container.id, warnings: made.warnings, existing: false })
    }

    /// Makes it durable that a container is there, before anybody is told. One that is stored
    /// as being made is undone by a daemon that comes before it runs.
    pub(crate) async fn mark_created(
        &self,
        ctx: &Context,
        made: &Made,
        stored: Phase,
    ) -> Result<()> {
        let created = move |meta: &mut Meta| meta.state.phase = stored;
        let (id, action) = (&made.container.id, Some(Action::Created));
        self.store.update(ctx, id, Durability::Sync, action, created).await?;
        made.live.set(State { phase: Phase::Created, ..State::default() });
        Ok(())
    }

    /// Makes a container: its record first, then its file system and files.
    /// Nothing of it remains when that fails.
    async fn make(&self, ctx: &Context, options: ContainerOptions, image: &Ready) -> Result<Made> {
        let made = self.register(ctx, options, image, None).await?;
        if let Err(err) = self.furnish(ctx, &made, image).await {
            self.undo(ctx, &made.container, &made.meta, &made.live).await;
            return Err(err);
        }
        Ok(made)
    }

    /// Makes the record of a container, and nothing else of it.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub(crate) async fn register(
        &self,
        ctx: &Context,
        mut options: ContainerOptions,
        image: &Ready,
        size: Option<Size>,
    ) -> Result<Made> {
        // As names are shown.
        if let Some(name) = options.name.strip_prefix('/') {
            options.name = name.to_owned();
        }
        if !options.name.is_empty() {
            names::validate(&options.name)?;
        }
        let id = names::random_id();
        let (mut settings, mut warnings) = self.settle(ctx, &options, image, &id).await?;
        // Its volumes stay as they are until its record names them.
        let volumes = image.config.config.as_ref().and_then(|config| config.volumes.as_ref());
        let held = self.plan_mounts(ctx, &mut settings, volumes).await?;
        let which = (id.as_str(), self.parts.snapshotters.default.as_str());
        let (spec, _) = self.specification(ctx, which, &settings, size, Moment::Making).await?;
        let (mut container, meta) = self.records(options, settings, spec, image, &id);
        self.plan_views(ctx, &mut container, &meta.settings).await?;
        // The log of the store keeps the order of writes: if anything that
        // follows survives the machine, so does this record.
        let (container, meta) =
            self.store.create(ctx, container, meta, Durability::Buffered).await?;
        drop(held);
        let live = self.live.entry(ctx, &id);
        live.set(State { phase: Phase::Creating, ..State::default() });
        warnings.extend(mismatch(image));
        Ok(Made { container, meta, live, warnings })
    }

    /// Makes the file system, the files and the mounts of a container that has a record. Answers
    /// with what its root is mounted from. Who undoes the container takes away what there is of
    /// them when that fails.
    ///
    /// # Errors
    /// The snapshotter's, the system's.
    pub(crate) async fn furnish(
        &self,
        ctx: &Context,
        made: &Made,
        image: &Ready,
    ) -> Result<Vec<Mount>> {
        let Made { container, meta, .. } = made;
        let files = self.files(ctx, &container.id);
        let shelf = Arc::clone(&self.shelf);
        let written = async {
            let settings = meta.settings.clone();
            // In networks it gets them with its start, which may come first to know the host.
            let lines = match settings.is_attached() {
                true => Vec::new(),
                false => self.extra_lines(ctx, &settings).await?,
            };
            blocking(move || files.write(&shelf, &settings, &lines)).await
        };
        let (mounts, written) = tokio::join!(self.prepare(ctx, container, image), written);
        let mounts = written.and(mounts)?;
        self.make_mounts(ctx, container, meta, &mounts).await?;
        Ok(mounts)
    }

    /// What a container is to be like, looked through, and what a user should know of that.
    async fn settle(
        &self,
        ctx: &Context,
        options: &ContainerOptions,
        image: &Ready,
        id: &str,
    ) -> Result<(Settings, Vec<String>)> {
        let nothing = ImageRuntime::default();
        let runtime = image.config.config.as_ref().unwrap_or(&nothing);
        let mut plan = self.plan_networks(ctx, options, runtime).await?;
        let mut warnings = std::mem::take(&mut plan.warnings);
        let mut settings = settings(options, runtime, id, plan)?;
        let config = &self.parts.config;
        if settings.log_max_size == 0 {
            settings.log_max_size = config.log_max_size;
        }
        if settings.log_max_files == 0 {
            settings.log_max_files = config.log_max_files;
        }
        checks::of_caller(&options.labels)?;
        checks::restart(settings.restart, settings.auto_remove)?;
        checks::mounts(&settings.mounts)?;
        for mount in &mut settings.mounts {
            let place = gantry_core::paths::clean(&mount.target);
            mount.target = place.to_string_lossy().into_owned();
        }
        if settings.flags != Flags::default() {
            let (network, named) = (settings.network, !options.hostname.is_empty());
            warnings.extend(checks::flags(&mut settings.flags, network, named, &self.host)?);
        }
        self.name_others(ctx, &mut settings).await?;
        Ok((settings, warnings))
    }

    /// An image's labels, without those that would bring its containers within the scope of
    /// limited clients: that is for whoever makes a container to say.
    fn of_image(&self, labels: Labels) -> Labels {
        let mut labels = checks::of_image(labels);
        labels.retain(|key, _| !self.parts.config.scope_labels.contains(key));
        labels
    }

    /// What the store is to know of a container.
    fn records(
        &self,
        options: ContainerOptions,
        settings: Settings,
        spec: Any,
        image: &Ready,
        id: &str,
    ) -> (Container, Meta) {
        let image_labels = image.config.runtime().labels.unwrap_or_default();
        let labels: Labels =
            self.of_image(image_labels).into_iter().chain(options.labels).collect();
        let container = Container {
            id: id.to_owned(),
            labels: labels.clone(),
            image: image.unpacked.image.name.clone(),
            runtime: Runtime { name: self.parts.config.runtime.clone(), options: None },
            spec: Some(spec),
            snapshotter: self.parts.snapshotters.resolve("").to_owned(),
            snapshot_key: id.to_owned(),
            ..Container::default()
        };
        let meta = Meta {
            name: options.name,
            image: options.image,
            image_id: image.unpacked.config_digest.to_string(),
            labels,
            settings,
            idempotency: options.idempotency,
            ..Meta::default()
        };
        (container, meta)
    }

    async fn prepare(
        &self,
        ctx: &Context,
        container: &Container,
        image: &Ready,
    ) -> Result<Vec<Mount>> {
        let snapshotter = self.parts.snapshotters.get(&container.snapshotter)?;
        let parent = image.unpacked.chain_id.as_ref().map(|chain| chain.as_str());
        let key = &container.snapshot_key;
        let prepared =
            snapshotter.prepare_with(ctx, key, parent, Labels::new(), Durability::Buffered).await;
        match prepared {
            Err(err) if err.is_not_found() => {
                // Somebody took the image's layers away since they were unpacked.
                self.cache.forget(ctx, &image.unpacked.image.target.digest);
                let unpacked = &image.unpacked.image;
                let platform = image.platform.as_ref();
                self.parts.puller.unpack(ctx, unpacked, &container.snapshotter, platform).await?;
                snapshotter
                    .prepare_with(ctx, key, parent, Labels::new(), Durability::Buffered)
                    .await
            }
            other => other,
        }
    }
}

/// What a container is to be like: the caller's wishes over the image's.
///
/// # Errors
/// `InvalidArgument`, saying what is wrong.
fn settings(
    options: &ContainerOptions,
    image: &ImageRuntime,
    id: &str,
    plan: Plan,
) -> Result<Settings> {
    let (entrypoint, command) = arguments(options, image)?;
    let working_dir = first(&options.working_dir, image.working_dir.as_ref(), "/");
    if !working_dir.starts_with('/') {
        return Err(Error::invalid_argument(format!(
            "the working directory '{working_dir}' is invalid, it needs to be an absolute path"
        )));
    }
    let working_dir = gantry_core::paths::clean(&working_dir).to_string_lossy().into_owned();
    let flags = Flags {
        log_driver: options.log_driver.clone(),
        log_options: options.log_options.clone(),
        ..options.flags.clone()
    };
    let Plan { network, networking, shares, .. } = plan;
    let of_host = network == Network::Host || flags.namespaces.uts == "host";
    let shared = shares.as_ref().map(|(_, name)| name).filter(|name| !name.is_empty());
    let host_name = match (options.hostname.as_str(), shared) {
        ("", _) if of_host => crate::system::host_name(),
        ("", Some(shared)) => shared.clone(),
        ("", None) => id[..SHORT_ID].to_owned(),
        (name, _) => valid_host_name(name)?,
    };
    let user = first(&options.user, image.user.as_ref(), "");
    check_user(&user)?;
    let log = LogConfig::parse(&options.log_driver, &options.log_options)?;
    let mut settings = Settings {
        entrypoint,
        command,
        env: environment(options, image, &host_name),
        working_dir,
        user,
        tty: options.tty,
        open_stdin: options.open_stdin,
        hostname: host_name,
        network,
        networking,
        auto_remove: options.auto_remove,
        stop_signal: match options.stop_signal.as_str() {
            // An image that names a signal that nobody knows is stopped as others are.
            "" => image.stop_signal.as_deref().and_then(|s| signal::parse(s).ok()).unwrap_or(TERM),
            wish => signal::parse(wish)?,
        },
        log_max_size: log.max_size,
        log_max_files: log.max_files,
        restart: options.restart,
        stop_timeout: options.stop_timeout,
        after: options.after.clone(),
        mounts: options.mounts.clone(),
        volumes_from: options.volumes_from.clone(),
        health: health::merged(&options.health, image)?,
        flags,
    };
    if let Some((other, _)) = shares {
        settings.share_network(&other);
    }
    Ok(settings)
}

/// What Docker says of an image that is for another machine, when none was asked for.
fn mismatch(image: &Ready) -> Option<String> {
    let (own, wanted) = (architecture(), &image.config.architecture);
    (!image.unpacked.native && image.platform.is_none()).then(|| {
        format!(
            "The requested image's platform (linux/{wanted}) does not match the detected host \
             platform (linux/{own}) and no specific platform was requested"
        )
    })
}

fn first(wish: &str, image: Option<&String>, default: &str) -> String {
    let image = image.map(String::as_str).filter(|text| !text.is_empty());
    if wish.is_empty() { image.unwrap_or(default).to_owned() } else { wish.to_owned() }
}

/// Entrypoint and command. A new entrypoint makes the image's command void.
fn arguments(
    options: &ContainerOptions,
    image: &ImageRuntime,
) -> Result<(Vec<String>, Vec<String>)> {
    let (entrypoint, inherited) = match &options.entrypoint {
        Some(own) => (own.clone(), Vec::new()),
        None => {
            (image.entrypoint.clone().unwrap_or_default(), image.cmd.clone().unwrap_or_default())
        }
    };
    let command = if options.command.is_empty() { inherited } else { options.command.clone() };
    if entrypoint.is_empty() && command.is_empty() {
        return Err(Error::invalid_argument(
            "no command specified: the image has none, so name one behind the image",
        ));
    }
    Ok((entrypoint, command))
}

/// The complete environment, in Docker's order; later values replace earlier ones.
fn environment(options: &ContainerOptions, image: &ImageRuntime, host_name: &str) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={host_name}")];
    if options.tty {
        env.push("TERM=xterm".to_owned());
    }
    for entry in image.env.iter().flatten().chain(&options.env) {
        merge(&mut env, entry);
    }
    env
}

/// Sets `NAME=VALUE`, or removes `NAME`.
pub(crate) fn merge(env: &mut Vec<String>, entry: &str) {
    let name = entry.split('=').next().unwrap_or(entry);
    let is_it = |e: &String| e.split('=').next() == Some(name);
    match (env.iter().position(is_it), entry.contains('=')) {
        (Some(at), true) => env[at] = entry.to_owned(),
        (Some(at), false) => {
            env.remove(at);
        }
        (None, true) => env.push(entry.to_owned()),
        (None, false) => {}
    }
}

fn valid_host_name(name: &str) -> Result<String> {
    if checks::is_host_name(name) {
        return Ok(name.to_owned());
    }
    Err(Error::invalid_argument(format!("invalid hostname: {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef";

    /// Without networks.
    fn settings(options: &ContainerOptions, image: &ImageRuntime, id: &str) -> Result<Settings> {
        super::settings(options, image, id, Plan::default())
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn image() -> ImageRuntime {
        ImageRuntime {
            entrypoint: Some(strings(&["/entry"])),
            cmd: Some(strings(&["serve"])),
            env: Some(strings(&["PATH=/bin", "A=1"])),
            working_dir: Some("/srv".into()),
            user: Some("web".into()),
            stop_signal: Some("SIGQUIT".into()),
            ..ImageRuntime::default()
        }
    }

    #[test]
    fn the_images_ways() {
        let made = settings(&ContainerOptions::default(), &image(), ID).unwrap();
        assert_eq!(made.args().collect::<Vec<_>>(), ["/entry", "serve"]);
        assert_eq!(made.env, ["PATH=/bin", "HOSTNAME=0123456789ab", "A=1"]);
        assert_eq!((made.working_dir.as_str(), made.user.as_str()), ("/srv", "web"));
        assert_eq!((made.stop_signal, made.network), (3, Network::None));
    }

    #[test]
    fn working_directories_are_cleaned() {
        for (wish, made) in [("/tmp/../x", "/x"), ("/a/./b//c/", "/a/b/c"), ("/../..", "/")] {
            let options = ContainerOptions { working_dir: wish.into(), ..Default::default() };
            assert_eq!(settings(&options, &image(), ID).unwrap().working_dir, made);
        }
    }

    #[test]
    fn the_callers_wishes() {
        let options = ContainerOptions {
            command: strings(&["ls"]),
            env: strings(&["A=2", "PATH", "B=x=y"]),
            user: "2147483647:0".into(),
            working_dir: "/tmp".into(),
            hostname: "web-1".into(),
            tty: true,
            log_options: [("max-size".to_owned(), "2m".to_owned())].into(),
            ..ContainerOptions::default()
        };
        let made = settings(&options, &image(), ID).unwrap();
        assert_eq!(made.args().collect::<Vec<_>>(), ["/entry", "ls"]);
        assert_eq!(made.env, ["HOSTNAME=web-1", "TERM=xterm", "A=2", "B=x=y"]);
        assert_eq!((made.log_max_size, made.log_max_files), (2 << 20, 0));
        let options = ContainerOptions { entrypoint: Some(strings(&["sh"])), ..options };
        let made = settings(&options, &image(), ID).unwrap();
        assert_eq!(made.args().collect::<Vec<_>>(), ["sh", "ls"]);
    }

    #[test]
    fn a_new_entrypoint_voids_the_images_command() {
        let entrypoint = Some(strings(&["sh"]));
        let options = ContainerOptions { entrypoint, ..ContainerOptions::default() };
        let made = settings(&options, &image(), ID).unwrap();
        assert_eq!(made.args().collect::<Vec<_>>(), ["sh"]);
        let options = ContainerOptions { entrypoint: Some(vec![]), ..ContainerOptions::default() };
        assert!(settings(&options, &image(), ID).is_err());
    }

    #[test]
    fn the_hosts_name_with_the_hosts_names() {
        let mut options = ContainerOptions::default();
        options.flags.namespaces.uts = "host".into();
        let made = settings(&options, &image(), ID).unwrap();
        assert_eq!(made.hostname, crate::system::host_name());
    }

    #[test]
    fn networks_and_names() {
        let plan = |network, shares| Plan { network, shares, ..Plan::default() };
        let made =
            |plan| super::settings(&ContainerOptions::default(), &image(), ID, plan).unwrap();
        assert_eq!(made(plan(Network::Attached, None)).hostname, ID[..SHORT_ID]);
        assert_eq!(made(plan(Network::Host, None)).hostname, crate::system::host_name());
        let other = Some(("c1".to_owned(), "db".to_owned()));
        let shared = made(plan(Network::Container, other));
        assert_eq!((shared.hostname.as_str(), shared.network_of()), ("db", Some("c1")));
        assert!(shared.env.contains(&"HOSTNAME=db".to_owned()));
    }

    #[test]
    fn users_of_images_that_there_are_not() {
        for user in ["4294967296", "2147483648:0", "-1", "0:4294967295"] {
            let image = ImageRuntime { user: Some(user.into()), ..image() };
            let err = settings(&ContainerOptions::default(), &image, ID).unwrap_err();
            assert!(err.to_string().contains("must be in range"), "{user}: {err}");
        }
    }

    #[test]
    fn refusals() {
        let base = ContainerOptions { command: strings(&["x"]), ..ContainerOptions::default() };
        let log = |k: &str, v: &str| Labels::from([(k.to_owned(), v.to_owned())]);
        for bad in [
            ContainerOptions { working_dir: "tmp".into(), ..base.clone() },
            ContainerOptions { stop_signal: "SIGNOPE".into(), ..base.clone() },
            ContainerOptions { hostname: "a b".into(), ..base.clone() },
            ContainerOptions { user: "-1".into(), ..base.clone() },
            ContainerOptions { user: "0:2147483648".into(), ..base.clone() },
            ContainerOptions { user: "99999999999999999999".into(), ..base.clone() },
            ContainerOptions { log_options: log("max-size", "-1"), ..base.clone() },
            ContainerOptions { log_options: log("max-file", "0"), ..base.clone() },
            ContainerOptions { log_options: log("nope", "1"), ..base.clone() },
        ] {
            let err = settings(&bad, &ImageRuntime::default(), ID).unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument, "{err}");
        }
    }
}
