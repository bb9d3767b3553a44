//! Docker's containers over the other services: names, images by reference or
//! ID, output that is recorded and can be attached to, exit codes, removal.
//!
//! An [`Engine`] knows nothing that is not stored: a container is containerd's
//! record, with the label `io.gantry.name` and an extension [`EXTENSION`] that
//! holds the rest as JSON, so `ctr containers ls` and `gantry ps` show the
//! same. What a container does right now is kept in memory beside it and written
//! behind.
//!
//! | module | what it does |
//! | --- | --- |
//! | `model`, `store` | what is stored, and the transactions over it |
//! | `live`, `turns` | what containers do right now, and what is wanted of them |
//! | `options`, `session` | what callers hand in, and how a session's streams flow |
//! | `make`, `mounts`, `run`, `lifecycle`, `control`, `remove`, `exec`, `execs` | what can be done with a container |
//! | `networks`, `handover` | networks, and containers in them; what their shims keep |
//! | `copy` | files of containers: copied both ways, compared, exported |
//! | `restart` | what becomes of containers that have ended |
//! | `health` | whether containers do what they are for |
//! | `checks`, `host`, `sharing` | whether wishes can be granted: by their rules, by this machine, by other containers |
//! | `idempotency` | requests that are repeated |
//! | `scope` | clients that are limited to some containers |
//! | `watch`, `recover` | ends of containers, and of daemons |
//! | `changes`, `follow` | what is told of containers, also of those that other clients made |
//! | `spec`, `specification`, `files`, `image_config` | from an image to an OCI specification |
//! | `attach`, `logs` | output: as it comes, and as it was recorded |
//! | `images`, `system`, `view`, `fields` | what can be seen |
//! | `stats`, `usage` | what containers use, and what takes the disk |
//! | `grpc` | `gantry.engine.v1` |
//!
//! Architecture invariant: the record of a container is written before
//! anything else of it exists, and goes after everything else is gone.
//! Whatever [`Engine::recover`] finds is therefore reachable from a record.
#![forbid(unsafe_code)]

mod attach;
mod changes;
mod checks;
mod control;
mod copy;
mod engine;
mod exec;
mod execs;
mod fields;
mod files;
mod filter;
mod follow;
pub mod grpc;
mod handover;
mod health;
mod host;
mod idempotency;
mod image_config;
mod images;
mod lifecycle;
mod live;
mod logs;
mod make;
mod model;
mod mounts;
mod names;
mod networks;
mod options;
mod recover;
mod remove;
mod restart;
mod rootfs;
mod run;
mod scope;
mod session;
mod sharing;
mod signal;
mod spec;
mod specification;
mod stats;
mod store;
mod system;
mod top;
mod turns;
mod update;
mod usage;
mod view;
mod watch;

pub use changes::{Change, Changes};
pub use copy::{CopyFrom, CopyTo, PathStat};
pub use engine::{Engine, EngineConfig, EngineParts};
pub use filter::ContainerFilter;
pub use health::{HealthAction, HealthConfig, HealthStatus};
pub use idempotency::Idempotency;
pub use images::{ImageFilter, ImageSummary, PrunedImages, Removed};
pub use lifecycle::Until;
pub use logs::{LogCursor, LogEntry, LogOptions};
pub use model::{
    Attached, Connected, Dependency, DeviceLimit, DeviceLimitKind, DeviceSetting, EXTENSION,
    ExposedPort, Flags, MountKind, MountSetting, NAME_LABEL, Namespaces, Network, Networking,
    Phase, Resources, RestartMode, RestartPolicy, Security, Settings, State, Ulimit,
};
pub use mounts::{VolumeFilter, VolumeSummary};
pub use networks::{EndpointSummary, ExplainedPort, NetworkFilter, NetworkSummary};
pub use options::{
    ContainerOptions, Created, ExecRequest, Pull, RunRequest, Session, SessionInput, SessionOutput,
    Size,
};
pub use stats::{ContainerStats, Stats, StatsRequest, StatsStream};
pub use system::{Info, Machine, Version};
pub use top::Processes;
pub use update::Update;
pub use usage::{ContainerSize, DiskUsage, ImageUsage};
pub use view::{Listing, Summary};
