//! What is stored of volumes.

use gantry_core::db::Table;
use gantry_core::volumes::{self, Options};
use gantry_core::{Labels, Timestamp};
use serde::{Deserialize, Serialize};

/// Volumes by name.
pub(crate) const VOLUMES: Table<Record> = Table::new(volumes::TABLE);

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) labels: Labels,
    pub(crate) options: Options,
    pub(crate) created_at: Timestamp,
    /// The volume that it is a snapshot of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot_of: Option<String>,
    pub(crate) state: State,
}

/// What is being done to a volume's directory. Written before that is begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Nothing but that it may have to be made.
    Ready,
    /// It gets what another volume holds; until it has that, the volume is not there.
    Copying,
    /// It goes; the volume is not there any more.
    Removing,
    /// It gets another name; until then it has this one.
    Renaming {
        /// The other name.
        to: String,
    },
}

impl Record {
    /// A new volume.
    pub(crate) fn new(labels: Labels, options: Options, state: State) -> Self {
        let created_at = Timestamp::now();
        Self { labels, options, created_at, snapshot_of: None, state }
    }

    /// Whether the volume is there.
    pub(crate) fn is_visible(&self) -> bool {
        match self.state {
            State::Ready | State::Renaming { .. } => true,
            State::Copying | State::Removing => false,
        }
    }
}
