//! Image configurations (OCI image spec, config.md), as far as containers need them.

use std::collections::BTreeMap;

use gantry_core::{Digest, Error, Labels, Result};
use serde::{Deserialize, Deserializer, Serialize};

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
    #[serde(deserialize_with = "texts")]
    pub(crate) env: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) volumes: Option<BTreeMap<String, serde_json::Value>>,
    pub(crate) working_dir: Option<String>,
    #[serde(deserialize_with = "labels")]
    pub(crate) labels: Option<Labels>,
    pub(crate) stop_signal: Option<String>,
}

/// A list, or, from old builders, one word alone.
fn words<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        All(Vec<Option<String>>),
    }
    Ok(Option::<Words>::deserialize(from)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::All(words) => words.into_iter().map(Option::unwrap_or_default).collect(),
    }))
}

/// A list in which `null` stands for an empty text.
fn texts<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Vec<String>>, D::Error> {
    let texts = Option::<Vec<Option<String>>>::deserialize(from)?;
    Ok(texts.map(|texts| texts.into_iter().map(Option::unwrap_or_default).collect()))
}

/// Labels of which `null` stands for an empty text.
fn labels<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Labels>, D::Error> {
    let labels = Option::<BTreeMap<String, Option<String>>>::deserialize(from)?;
    let whole = |(key, value): (String, Option<String>)| (key, value.unwrap_or_default());
    Ok(labels.map(|labels| labels.into_iter().map(whole).collect()))
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
        let odd = br#"{"config":{"Labels":{"k":null},"Env":[null,"A=1"],"Cmd":["sh",null]}}"#;
        let odd = ImageConfig::parse(odd).unwrap().runtime();
        assert_eq!(odd.labels, Some([("k".to_owned(), String::new())].into()));
        assert_eq!(odd.env, Some(vec![String::new(), "A=1".to_owned()]));
        assert_eq!(odd.cmd, Some(vec!["sh".to_owned(), String::new()]));
        let config = ImageConfig::parse(br#"{"config":{"Entrypoint":"/bin/echo","Cmd":null}}"#);
        assert_eq!(config.unwrap().runtime().entrypoint, Some(vec!["/bin/echo".to_owned()]));
    }
}
