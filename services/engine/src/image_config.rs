//! Image configurations (OCI image spec, config.md), as far as containers need them.

use std::collections::BTreeMap;

use gantry_core::{Digest, Error, Labels, Result};
use serde::{Deserialize, Serialize};

/// A configuration.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) variant: String,
    #[serde(default)]
    pub(crate) author: String,
    #[serde(default)]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) config: Option<Runtime>,
    #[serde(default)]
    pub(crate) rootfs: RootFs,
}

/// How containers of the image run. Builders write `null` for what is empty.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Runtime {
    pub(crate) user: Option<String>,
    pub(crate) exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) volumes: Option<BTreeMap<String, serde_json::Value>>,
    pub(crate) working_dir: Option<String>,
    pub(crate) labels: Option<Labels>,
    pub(crate) stop_signal: Option<String>,
}

/// The layers.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses a configuration.
    ///
    /// # Errors
    /// `DataLoss` for what is none.
    pub(crate) fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json)
            .map_err(|err| Error::data_loss("read an image's configuration").with_source(err))
    }

    /// How containers run.
    pub(crate) fn runtime(&self) -> Runtime {
        self.config.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_gaps() {
        let config = ImageConfig::parse(br#"{"config":{"Env":null,"Cmd":["sh"]}}"#).unwrap();
        assert_eq!(config.runtime().cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(config.runtime().env, None);
        assert!(ImageConfig::parse(b"{}").unwrap().runtime().entrypoint.is_none());
        assert!(ImageConfig::parse(b"[").is_err());
    }
}
