//! Docker's filters of containers, `KEY=VALUE`: those of one key are alternatives, but for
//! labels, all of which have to match.

use std::ops::RangeInclusive;

use gantry_core::networks::Protocol;
use gantry_core::{Error, Labels, Result};
use regex::Regex;

use crate::Summary;
use crate::model::{MountKind, Phase, port_range};

/// What can be filtered by.
const KNOWN: &str = "ancestor, before, exited, expose, health, id, label, name, network, \
                     publish, since, status, volume";
/// States that can be asked for.
const STATES: [&str; 7] =
    ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
/// States of health that can be asked for.
const HEALTH: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

/// Ports of a protocol.
type Ports = (RangeInclusive<u16>, Protocol);

/// Which containers are meant.
#[derive(Clone, Debug, Default)]
pub struct ContainerFilter {
    ids: Vec<String>,
    names: Vec<Regex>,
    labels: Vec<(String, Option<String>)>,
    without: Vec<(String, Option<String>)>,
    exited: Vec<u32>,
    statuses: Vec<String>,
    health: Vec<String>,
    /// Images, as callers name them.
    pub(crate) ancestors: Vec<String>,
    volumes: Vec<String>,
    networks: Vec<String>,
    /// Ports of the host, and of the container.
    published: Vec<Ports>,
    exposed: Vec<Ports>,
    /// Containers, as callers name them, before or since which others were made.
    pub(crate) before: Vec<String>,
    pub(crate) since: Vec<String>,
    /// A time before which they were made, of a removal.
    until: Option<gantry_core::Timestamp>,
}

impl ContainerFilter {
    /// Reads filters of a listing.
    ///
    /// # Errors
    /// `InvalidArgument` for what is none.
    pub fn listing(filters: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for filter in given(filters) {
            let (key, value) = split(filter)?;
            parsed.add(&key, value, filter)?;
        }
        Ok(parsed)
    }

    /// Reads filters of a removal: `label`, `label!` and `until`, a time or how long ago.
    ///
    /// # Errors
    /// `InvalidArgument` for what is none.
    pub fn prune(filters: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for filter in given(filters) {
            let (key, value) = split(filter)?;
            match key.as_str() {
                "until" => {
                    let bad = || invalid(filter, "a time is needed");
                    parsed.until = Some(time(value).ok_or_else(bad)?);
                }
                "label" => parsed.labels.push(label(value)),
                "label!" => parsed.without.push(label(value)),
                _ => return Err(invalid(filter, "label, label! and until are known")),
            }
        }
        Ok(parsed)
    }

    fn add(&mut self, key: &str, value: &str, filter: &str) -> Result<()> {
        let one_of = |all: &[&str]| {
            all.contains(&value)
                .then(|| value.to_owned())
                .ok_or_else(|| invalid(filter, &format!("{} are known", all.join(", "))))
        };
        match key {
            "id" => self.ids.push(value.to_owned()),
            "name" => {
                let regex = Regex::new(value.strip_prefix('/').unwrap_or(value));
                self.names.push(regex.map_err(|err| invalid(filter, &err.to_string()))?);
            }
            "label" => self.labels.push(label(value)),
            "label!" => self.without.push(label(value)),
            "exited" => {
                let code = value.parse().map_err(|_| invalid(filter, "a number is needed"))?;
                self.exited.push(code);
            }
            "status" => self.statuses.push(one_of(&STATES)?),
            "health" => self.health.push(one_of(&HEALTH)?),
            "ancestor" => self.ancestors.push(value.to_owned()),
            "before" => self.before.push(value.to_owned()),
            "since" => self.since.push(value.to_owned()),
            "volume" => self.volumes.push(value.to_owned()),
            "network" => self.networks.push(value.to_owned()),
            "publish" | "expose" => {
                let bad = || invalid(filter, "a port is needed, 80, 80/udp or 8000-8010/tcp");
                let ports = port_range(value).ok_or_else(bad)?;
                let list = if key == "publish" { &mut self.published } else { &mut self.exposed };
                list.push(ports);
            }
            _ => return Err(invalid(filter, &format!("{KNOWN} are known"))),
        }
        Ok(())
    }

    /// Whether containers that do not run are asked for.
    pub(crate) fn wants_ended(&self) -> bool {
        !self.statuses.is_empty() || !self.exited.is_empty()
    }

    /// Whether a container matches; `before`, `since` and `ancestors` are the caller's to look
    /// at.
    pub(crate) fn matches(&self, container: &Summary) -> bool {
        let labelled = |wanted: &(String, Option<String>)| has(&container.labels, wanted);
        let any = |list: &[String], is: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|text| is(text))
        };
        let state = &container.state;
        let phase = state.phase;
        let ended = phase == Phase::Exited && !state.started_at.is_unset();
        self.has_ports(container)
            && any(&self.ids, &|id| container.id.starts_with(id))
            && (self.names.is_empty() || self.names.iter().any(|n| named(n, &container.name)))
            && self.labels.iter().all(labelled)
            && !self.without.iter().any(labelled)
            && (self.exited.is_empty() || ended && self.exited.contains(&state.exit_code))
            && any(&self.statuses, &|status| status == phase.as_str())
            && any(&self.health, &|health| health == container.state.health.as_str())
            && any(&self.volumes, &|volume| mounts(container, volume))
            && any(&self.networks, &|network| is_in(container, network))
            && self.until.is_none_or(|until| container.created_at < until)
    }

    /// Whether a container has one of the ports: as Docker's, only one that runs has any.
    fn has_ports(&self, container: &Summary) -> bool {
        if self.published.is_empty() && self.exposed.is_empty() {
            return true;
        }
        let is = |list: &[Ports], port: u16, protocol: Protocol| {
            list.iter().any(|(ports, of)| *of == protocol && ports.contains(&port))
        };
        let Summary { settings, state, .. } = container;
        let bound = state.connected.ports.iter();
        let mut exposed = settings.networking.exposed.iter();
        let runs = settings.is_attached() && state.phase.is_running();
        let mut bound = bound.filter(|_| runs);
        bound.any(|port| {
            is(&self.published, port.host_port, port.protocol)
                || is(&self.exposed, port.container_port, port.protocol)
        }) || runs && exposed.any(|port| is(&self.exposed, port.port, port.protocol))
    }
}

/// As Docker's, a name may be asked for with its slash.
fn named(wanted: &Regex, name: &str) -> bool {
    wanted.is_match(name) || wanted.is_match(&format!("/{name}"))
}

/// Whether a container is in a network, by its name or ID.
fn is_in(container: &Summary, wanted: &str) -> bool {
    let settings = &container.settings;
    let attached = settings.networking.attached.iter();
    let mut ids = attached.map(|attached| &attached.attachment.network);
    settings.network_names().iter().any(|name| name == wanted)
        || settings.is_attached() && ids.any(|id| id == wanted)
}

/// Whether a container has a volume, or something at a path.
fn mounts(container: &Summary, wanted: &str) -> bool {
    container.settings.mounts.iter().any(|mount| {
        mount.target == wanted
            || matches!(mount.kind, MountKind::Volume | MountKind::Bind) && mount.source == wanted
    })
}

/// Those that say something: as Docker's, an empty one counts for nothing.
pub(crate) fn given(filters: &[String]) -> impl Iterator<Item = &String> {
    filters.iter().filter(|filter| !filter.is_empty())
}

pub(crate) fn split(filter: &str) -> Result<(String, &str)> {
    if let Some(("label", value)) = filter.split_once("!=") {
        return Ok(("label!".to_owned(), value));
    }
    match filter.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_lowercase(), value.trim())),
        None => Err(invalid(filter, "write NAME=VALUE")),
    }
}

pub(crate) fn label(value: &str) -> (String, Option<String>) {
    match value.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (value.to_owned(), None),
    }
}

/// Whether there is a label of this key, and of this value if there is one.
pub(crate) fn has(labels: &Labels, (key, value): &(String, Option<String>)) -> bool {
    let found = labels.get(key);
    found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
}

/// What Go takes for true and false.
pub(crate) fn truth(value: &str, filter: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(filter, "true or false is needed")),
    }
}

pub(crate) fn time(text: &str) -> Option<gantry_core::Timestamp> {
    gantry_core::Timestamp::parse_moment(text, gantry_core::Timestamp::now())
}

pub(crate) fn invalid(filter: &str, why: &str) -> Error {
    Error::invalid_argument(format!("invalid filter '{filter}': {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Meta, MountSetting, Settings, State};
    use gantry_core::Timestamp;
    use gantry_core::containers::Container;

    fn web() -> Summary {
        let container = Container { id: "0123abc".into(), ..Container::default() };
        let mount = MountSetting {
            kind: MountKind::Volume,
            source: "data".into(),
            target: "/var/data".into(),
            ..MountSetting::default()
        };
        let meta = Meta {
            name: "web-1".into(),
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            settings: Settings { mounts: vec![mount], ..Settings::default() },
            ..Meta::default()
        };
        let state = State {
            phase: Phase::Exited,
            exit_code: 3,
            started_at: Timestamp { seconds: 5, nanos: 0 },
            ..State::default()
        };
        let mut summary = Summary::of(&container, meta, state);
        summary.created_at = Timestamp { seconds: 100, nanos: 0 };
        summary
    }

    #[test]
    fn each_key() {
        for (filters, wanted) in [
            (&["id=0123"][..], true),
            (&["id=99"], false),
            (&["name=web"], true),
            (&["name=^/web-1$"], true),
            (&["name=^eb"], false),
            (&["name=nope", "name=eb-"], true),
            (&["label=env"], true),
            (&["label=env=prod"], true),
            (&["label=env=prod", "label=x"], false),
            (&["label!=env"], false),
            (&["exited=3"], true),
            (&["exited=0"], false),
            (&["status=exited"], true),
            (&["status=running", "status=exited"], true),
            (&["status=running"], false),
            (&["health=none"], true),
            (&["health=healthy"], false),
            (&["volume=data"], true),
            (&["volume=/var/data"], true),
            (&["volume=other"], false),
            (&["network=none"], true),
            (&["publish=80"], false),
            (&[""], true),
            (&["", "name=^eb"], false),
        ] {
            let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
            let parsed = ContainerFilter::listing(&filters).unwrap();
            assert_eq!(parsed.matches(&web()), wanted, "{filters:?}");
        }
    }

    #[test]
    fn networks_and_ports() {
        use crate::model::{Attached, Connected, Network};
        use gantry_core::networks::{Attachment, Published};
        let mut web = web();
        let attachment = Attachment { network: "n1".into(), ..Attachment::default() };
        web.settings.network = Network::Attached;
        web.settings.networking.attached = vec![Attached { name: "app".into(), attachment }];
        web.settings.networking.exposed = vec!["443".parse().unwrap()];
        let port = Published {
            host_ip: [0, 0, 0, 0].into(),
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let connected = Connected { endpoints: Vec::new(), ports: vec![port] };
        web.state = State { phase: Phase::Running, connected: connected.into(), ..web.state };
        for (filter, wanted) in [
            ("network=app", true),
            ("network=n1", true),
            ("network=none", false),
            ("publish=8080", true),
            ("publish=8000-9000/tcp", true),
            ("publish=8080/udp", false),
            ("publish=80", false),
            ("publish=443", false),
            ("expose=80", true),
            ("expose=443/tcp", true),
            ("expose=8080", false),
        ] {
            let parsed = ContainerFilter::listing(&[filter.to_owned()]).unwrap();
            assert_eq!(parsed.matches(&web), wanted, "{filter}");
        }
        web.state.phase = Phase::Exited;
        let parsed = ContainerFilter::listing(&["expose=443".to_owned()]).unwrap();
        assert!(!parsed.matches(&web));
    }

    #[test]
    fn refusals() {
        let bad = ["nope=1", "name", "status=up", "health=fine", "exited=x", "name=(", "publish=x"];
        for bad in bad {
            assert!(ContainerFilter::listing(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(ContainerFilter::prune(&["name=x".to_owned()]).is_err());
    }

    #[test]
    fn times() {
        let until = |text: &str| {
            ContainerFilter::prune(&[format!("until={text}")]).map(|f| f.matches(&web()))
        };
        assert!(until("101").unwrap() && !until("100").unwrap());
        assert!(until("100.5").unwrap());
        assert!(until("1970-01-01T00:02:00Z").unwrap());
        assert!(until("soon").is_err());
    }
}
