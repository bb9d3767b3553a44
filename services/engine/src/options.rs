//! What callers hand to the engine, and what they get while a session lasts.

use bytes::Bytes;
use gantry_core::images::Progress;
use gantry_core::networks::{Attachment, PortWish};
use gantry_core::{Labels, Platform};
use tokio::sync::mpsc;

use crate::Idempotency;
use crate::health::HealthConfig;
use crate::model::{Dependency, Flags, MountSetting, RestartPolicy};

/// What a container is made from; texts as a user writes them, empty for the default.
#[derive(Clone, Debug, Default)]
pub struct ContainerOptions {
    /// Name; a random one when empty.
    pub name: String,
    /// Image reference or ID.
    pub image: String,
    /// Arguments; the image's when empty.
    pub command: Vec<String>,
    /// Replaces the image's entrypoint; an empty list clears it.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=VALUE`, over the image's environment; `NAME` alone removes one.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// `name|uid[:group|gid]`.
    pub user: String,
    /// A pseudo-terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub open_stdin: bool,
    /// Labels, over the image's.
    pub labels: Labels,
    /// Host name.
    pub hostname: String,
    /// In short for one of `networks` that is only named; `bridge` when there is neither.
    pub network: String,
    /// Its networks, each by its name or ID: `bridge`, `host`, `none`, `container:NAME`, others.
    pub networks: Vec<Attachment>,
    /// Ports of the host that lead to it.
    pub ports: Vec<PortWish>,
    /// Further ports that it has: `80`, `80/udp`, `8000-8010/tcp`.
    pub expose: Vec<String>,
    /// Publish all of these on free ports of the host.
    pub publish_all: bool,
    /// Addresses of name servers, for the host's.
    pub dns: Vec<String>,
    /// Domains that names are looked up in, for the host's; `.` for none.
    pub dns_search: Vec<String>,
    /// Options of resolv.conf(5).
    pub dns_options: Vec<String>,
    /// Lines of its hosts file, NAME:ADDRESS; `host-gateway` stands for the host.
    pub extra_hosts: Vec<String>,
    /// Remove the container when it has ended.
    pub auto_remove: bool,
    /// Signal for a stop.
    pub stop_signal: String,
    /// Log driver; `json-file` when empty.
    pub log_driver: String,
    /// Options of the log driver.
    pub log_options: Labels,
    /// What is mounted in it.
    pub mounts: Vec<MountSetting>,
    /// Containers whose mounts it has as well: NAME[:ro|:rw].
    pub volumes_from: Vec<String>,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// How its health is found out, over the image's ways.
    pub health: HealthConfig,
    /// Seconds until a stop kills it: ten when unset, never when negative.
    pub stop_timeout: Option<i32>,
    /// Containers that are to be there first when the daemon starts containers.
    pub after: Vec<Dependency>,
    /// What few containers have. Log driver and options are above.
    pub flags: Flags,
    /// Names the request, so that repeating it makes no second container.
    pub idempotency: Option<Idempotency>,
}

/// A container that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Created {
    /// Its ID.
    pub id: String,
    /// What a user should know, a line each.
    pub warnings: Vec<String>,
    /// An earlier request with the same idempotency key made it.
    pub existing: bool,
}

/// When an image is pulled before a container is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// When it is not here.
    #[default]
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// Asks for a container that runs.
#[derive(Clone, Debug, Default)]
pub struct RunRequest {
    /// The container.
    pub options: ContainerOptions,
    /// Leave it on its own once it runs.
    pub detach: bool,
    /// When to pull the image.
    pub pull: Pull,
    /// For which platform; this machine's when `None`.
    pub platform: Option<Platform>,
    /// Carry standard input.
    pub attach_stdin: bool,
    /// Size of the caller's terminal.
    pub size: Option<Size>,
}

/// Asks to join a container's first process.
#[derive(Clone, Debug, Default)]
pub struct AttachRequest {
    /// Container: name, ID or prefix.
    pub container: String,
    /// Carry standard input.
    pub stdin: bool,
    /// Size of the caller's terminal.
    pub size: Option<Size>,
    /// Start the container, once the session has joined it.
    pub start: bool,
}

/// Asks for a further process.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Container: name, ID or prefix.
    pub container: String,
    /// Command and arguments.
    pub command: Vec<String>,
    /// `NAME=VALUE`, over the container's environment.
    pub env: Vec<String>,
    /// Working directory; the container's when empty.
    pub working_dir: String,
    /// `name|uid[:group|gid]`; the container's when empty.
    pub user: String,
    /// A pseudo-terminal.
    pub tty: bool,
    /// Carry standard input.
    pub attach_stdin: bool,
    /// Leave it on its own once it runs.
    pub detach: bool,
    /// Size of the caller's terminal.
    pub size: Option<Size>,
    /// All capabilities that can be given.
    pub privileged: bool,
}

/// From the caller of a session.
#[derive(Clone, Debug)]
pub enum SessionInput {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// No more of them.
    StdinEnd,
    /// The terminal's size.
    Resize(Size),
    /// A signal for the process, as a user writes it.
    Signal(String),
    /// The user leaves: the last that is said.
    Detach,
}

/// To the caller of a session.
#[derive(Clone, Debug)]
pub enum SessionOutput {
    /// The image is being pulled.
    Progress(Progress),
    /// The container exists.
    Created {
        /// Its ID.
        id: String,
        /// Its name.
        name: String,
        /// What a user should know, a line each.
        warnings: Vec<String>,
        /// An earlier request with the same idempotency key made it.
        existing: bool,
    },
    /// The process runs.
    Started {
        /// Its ID on the host.
        pid: u32,
    },
    /// Bytes of standard output.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// The process has ended, or could not be run.
    Exited {
        /// Exit code.
        status: u32,
        /// Why it could not be run; empty otherwise.
        error: String,
    },
}

/// The two directions of a session. The output is bounded: a caller that does
/// not take it slows the process down. A caller who goes away leaves the
/// process running; one who goes before it runs wants none of it.
#[derive(Debug)]
pub struct Session {
    /// What the caller says; its end without [`SessionInput::StdinEnd`] means nothing.
    pub input: mpsc::Receiver<SessionInput>,
    /// What the caller is told.
    pub output: mpsc::Sender<SessionOutput>,
}

impl Session {
    /// Tells the caller. Whether there is one still.
    pub(crate) async fn tell(&self, message: SessionOutput) -> bool {
        self.output.send(message).await.is_ok()
    }
}
