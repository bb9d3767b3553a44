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
//! | `live` | what containers do right now |
//! | `options`, `session` | what callers hand in, and how a session's streams flow |
//! | `make`, `run`, `lifecycle`, `exec` | what can be done with a container |
//! | `idempotency` | requests that are repeated |
//! | `watch`, `recover` | ends of containers, and of daemons |
//! | `changes`, `follow` | what is told of containers, also of those that other clients made |
//! | `spec`, `files`, `image_config` | from an image to an OCI specification |
//! | `attach`, `logs` | output: as it comes, and as it was recorded |
//! | `images`, `system`, `view` | what can be seen |
//! | `grpc` | `gantry.engine.v1` |
//!
//! Architecture invariant: the record of a container is written before
//! anything else of it exists, and goes after everything else is gone.
//! Whatever [`Engine::recover`] finds is therefore reachable from a record.
#![forbid(unsafe_code)]

mod attach;
mod changes;
mod engine;
mod exec;
mod files;
mod follow;
pub mod grpc;
mod idempotency;
mod image_config;
mod images;
mod lifecycle;
mod live;
mod logs;
mod make;
mod model;
mod names;
mod options;
mod recover;
mod run;
mod session;
mod signal;
mod spec;
mod store;
mod system;
mod view;
mod watch;

pub use changes::{Change, Changes};
pub use engine::{Engine, EngineConfig, EngineParts};
pub use idempotency::Idempotency;
pub use images::{ImageSummary, Removed};
pub use logs::LogEntry;
pub use model::{EXTENSION, NAME_LABEL, Network, Phase, Settings, State};
pub use options::{
    ContainerOptions, Created, ExecRequest, Pull, RunRequest, Session, SessionInput, SessionOutput,
    Size,
};
pub use system::{Info, Version};
pub use view::Summary;
