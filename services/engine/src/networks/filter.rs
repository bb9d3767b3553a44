//! Docker's filters of networks.

use gantry_core::networks::Network;
use gantry_core::{Result, Timestamp};
use regex::Regex;

use crate::filter::{given, has, invalid, label, split, time, truth};

/// Which networks are meant: filters of one key are alternatives, but for labels.
#[derive(Clone, Debug, Default)]
pub struct NetworkFilter {
    /// Whether no container runs in it.
    pub(super) dangling: Option<bool>,
    drivers: Vec<String>,
    ids: Vec<String>,
    names: Vec<Regex>,
    scopes: Vec<String>,
    /// Those that are always there, or the others.
    predefined: Vec<bool>,
    labels: Vec<(String, Option<String>)>,
    without: Vec<(String, Option<String>)>,
    until: Option<Timestamp>,
}

impl NetworkFilter {
    /// Reads filters, `KEY=VALUE`, of a listing.
    ///
    /// # Errors
    /// `InvalidArgument` for what is none.
    pub fn listing(filters: &[String]) -> Result<Self> {
        let known = ["dangling", "driver", "id", "label", "label!", "name", "scope", "type"];
        Self::parse(filters, &known)
    }

    /// Reads filters of a removal.
    ///
    /// # Errors
    /// As above.
    pub fn prune(filters: &[String]) -> Result<Self> {
        Self::parse(filters, &["label", "label!", "until"])
    }

    fn parse(filters: &[String], known: &[&str]) -> Result<Self> {
        let mut parsed = Self::default();
        for filter in given(filters) {
            let (key, value) = split(filter)?;
            if !known.contains(&key.as_str()) {
                return Err(invalid(filter, &format!("{} are known", known.join(", "))));
            }
            match key.as_str() {
                "dangling" => parsed.dangling = Some(truth(value, filter)?),
                "driver" => parsed.drivers.push(value.to_owned()),
                "id" => parsed.ids.push(value.to_owned()),
                "name" => {
                    let name = Regex::new(value);
                    parsed.names.push(name.map_err(|err| invalid(filter, &err.to_string()))?);
                }
                "scope" => parsed.scopes.push(value.to_owned()),
                "type" => parsed.predefined.push(match value {
                    "builtin" => true,
                    "custom" => false,
                    _ => return Err(invalid(filter, "builtin and custom are known")),
                }),
                "until" => {
                    let bad = || invalid(filter, "a time is needed");
                    parsed.until = Some(time(value).ok_or_else(bad)?);
                }
                "label" => parsed.labels.push(label(value)),
                // All that is left.
                _ => parsed.without.push(label(value)),
            }
        }
        Ok(parsed)
    }

    /// Whether a network matches; `dangling` is the caller's to look at.
    pub(super) fn matches(&self, network: &Network) -> bool {
        let labelled = |wanted: &(String, Option<String>)| has(&network.labels, wanted);
        let any = |list: &[String], is: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|text| is(text))
        };
        any(&self.drivers, &|driver| driver == network.driver.as_str())
            && any(&self.ids, &|id| network.id.starts_with(id))
            && (self.names.is_empty() || self.names.iter().any(|n| n.is_match(&network.name)))
            && any(&self.scopes, &|scope| scope == "local")
            && (self.predefined.is_empty() || self.predefined.contains(&network.predefined))
            && self.labels.iter().all(labelled)
            && !self.without.iter().any(labelled)
            && self.until.is_none_or(|until| network.created_at < until)
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::networks::Driver;

    use super::*;
    use crate::networks::tests::network;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn each_key() {
        let app = network("app-net", Driver::Bridge);
        for (texts, wanted) in [
            (&["driver=bridge"][..], true),
            (&["driver=macvlan"], false),
            (&["id=app"], true),
            (&["id=x"], false),
            (&["name=net"], true),
            (&["name=^net"], false),
            (&["scope=local"], true),
            (&["scope=swarm"], false),
            (&["type=custom"], true),
            (&["type=builtin"], false),
            (&["type=builtin", "type=custom"], true),
            (&["label=env=prod"], true),
            (&["label=env=dev"], false),
            (&["label!=env"], false),
            (&["dangling=true"], true),
            (&[""], true),
        ] {
            let filter = NetworkFilter::listing(&owned(texts)).unwrap();
            assert_eq!(filter.matches(&app), wanted, "{texts:?}");
        }
        for bad in ["nope=1", "name", "name=(", "type=x", "dangling=maybe", "until=1"] {
            assert!(NetworkFilter::listing(&owned(&[bad])).is_err(), "{bad}");
        }
        let until = |text: &str| NetworkFilter::prune(&owned(&[text])).unwrap().matches(&app);
        assert!(until("until=101") && !until("until=100"));
        assert!(NetworkFilter::prune(&owned(&["name=x"])).is_err());
    }
}
