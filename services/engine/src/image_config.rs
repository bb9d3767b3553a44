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
    #[serde(default, rename = "os.version")]
    pub(crate) os_version: Option<String>,
    #[serde(default)]
    pub(crate) author: String,
    /// What its builder said of it, in Docker's own way.
    #[serde(default)]
    comment: Option<String>,
    /// What it said of the last step.
    #[serde(default, rename = "history", deserialize_with = "last_comment")]
    last_comment: Option<String>,
    /// Release of Docker that built it.
    #[serde(default)]
    pub(crate) docker_version: Option<String>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck: Option<Healthcheck>,
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub(crate) shell: Option<Vec<String>>,
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub(crate) on_build: Option<Vec<String>>,
}

/// Docker's own: how the health of containers is found out. Times are nanoseconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Healthcheck {
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub(crate) test: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retries: Option<i64>,
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

/// The comment of the last step of a history. Nothing else depends on histories: of what is
/// none, nothing is known.
fn last_comment<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<String>, D::Error> {
    let history = serde_json::Value::deserialize(from)?;
    let last = history.as_array().and_then(|steps| steps.last());
    Ok(last.and_then(|step| step["comment"].as_str()).map(str::to_owned))
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

    /// What its builder said of it; may be empty.
    pub(crate) fn comment(&self) -> &str {
        let own = self.comment.as_deref().filter(|comment| !comment.is_empty());
        own.or(self.last_comment.as_deref()).unwrap_or_default()
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
        let said = br#"{"history":[{"comment":"first"},{"comment":"buildkit"}],"comment":null}"#;
        assert_eq!(ImageConfig::parse(said).unwrap().comment(), "buildkit");
        for nothing in [&br#"{"history":[null]}"#[..], br#"{"history":null}"#, br#"{"history":{}}"#]
        {
            assert_eq!(ImageConfig::parse(nothing).unwrap().comment(), "");
        }
        let own = br#"{"comment":"mine","docker_version":"1","os.version":"10"}"#;
        let own = ImageConfig::parse(own).unwrap();
        assert_eq!(own.comment(), "mine");
        assert_eq!(
            (own.docker_version.as_deref(), own.os_version.as_deref()),
            (Some("1"), Some("10"))
        );
        let odd = br#"{"config":{"Labels":{"k":null},"Env":[null,"A=1"],"Cmd":["sh",null]}}"#;
        let odd = ImageConfig::parse(odd).unwrap().runtime();
        assert_eq!(odd.labels, Some([("k".to_owned(), String::new())].into()));
        assert_eq!(odd.env, Some(vec![String::new(), "A=1".to_owned()]));
        assert_eq!(odd.cmd, Some(vec!["sh".to_owned(), String::new()]));
        let config = ImageConfig::parse(br#"{"config":{"Entrypoint":"/bin/echo","Cmd":null}}"#);
        assert_eq!(config.unwrap().runtime().entrypoint, Some(vec!["/bin/echo".to_owned()]));
    }
}
