//! Networks of containers: the catalogue of them, and what becomes of containers in them.
//!
//! | module | what it does |
//! | --- | --- |
//! | `plan` | looks through what a container is to have |
//! | `start` | reserves, joins and leaves with a container's life, and after the daemon's |
//! | `connect`, `ports` | networks and ports of a container that is there |
//! | `filter`, `shown` | which networks are meant, and how they are shown |

mod connect;
mod filter;
mod plan;
mod ports;
mod shown;
mod start;

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_core::networks::{Attachment, Endpoint, Network, NewNetwork};
use gantry_core::{Context, Kind, Result};
use gantry_grpc::gantry::engine::v1::NetworkEvent;
use gantry_grpc::{any, convert};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::{Engine, names};

pub use filter::NetworkFilter;
pub(crate) use plan::Plan;
pub use ports::ExplainedPort;
pub(crate) use shown::{mac, parse_mac};

/// How long a network that is to go waits for containers that have ended.
const LEAVING: Duration = Duration::from_secs(1);
/// Between two looks at them.
const STEP: Duration = Duration::from_millis(5);

/// What is done with a network, as events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Create,
    Destroy,
    Connect,
    Disconnect,
    Prune,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Destroy => "destroy",
            Self::Connect => "connect",
            Self::Disconnect => "disconnect",
            Self::Prune => "prune",
        }
    }
}

/// A network, with the containers that run in it where these were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSummary {
    /// The network.
    pub network: Network,
    /// Who is in it.
    pub endpoints: Vec<EndpointSummary>,
}

/// A container in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSummary {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Name of the network.
    pub network: String,
    /// Name of the container, or its ID.
    pub container: String,
    /// What it asked for.
    pub attachment: Attachment,
}

impl Engine {
    /// Makes a network. Answers with what a user should know as well.
    ///
    /// # Errors
    /// `InvalidArgument`, `AlreadyExists`; `FailedPrecondition` for addresses that are in use.
    pub async fn create_network(
        &self,
        ctx: &Context,
        new: NewNetwork,
    ) -> Result<(NetworkSummary, Vec<String>)> {
        let (network, warnings) = self.parts.networks.create(ctx, new).await?;
        self.tell_of_network(ctx, Action::Create, &network, "");
        Ok((NetworkSummary { network, endpoints: Vec::new() }, warnings))
    }

    /// Networks by name, without who is in them.
    ///
    /// # Errors
    /// The store's.
    pub async fn networks(
        &self,
        ctx: &Context,
        filter: &NetworkFilter,
    ) -> Result<Vec<NetworkSummary>> {
        let mut found = Vec::new();
        for network in self.parts.networks.list(ctx).await? {
            if !filter.matches(&network) {
                continue;
            }
            if let Some(dangling) = filter.dangling {
                let used = self.parts.networks.endpoints(ctx, &network.id).await?;
                if dangling != (used.is_empty() && !network.predefined) {
                    continue;
                }
            }
            found.push(NetworkSummary { network, endpoints: Vec::new() });
        }
        Ok(found)
    }

    /// One network, with who is in it.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` when several IDs begin so.
    pub async fn network(&self, ctx: &Context, text: &str) -> Result<NetworkSummary> {
        let network = self.network_named(ctx, text).await?;
        let mut endpoints = Vec::new();
        for endpoint in self.parts.networks.endpoints(ctx, &network.id).await? {
            let record = self.store.get(ctx, &endpoint.container).await?;
            let (container, attachment) = match record {
                Some((_, meta)) => {
                    let attached = meta.settings.networking.attached(&network.id);
                    let attachment = attached.map(|attached| attached.attachment.clone());
                    (meta.name, attachment.unwrap_or_default())
                }
                // It is on its way out, or another namespace's.
                None => (endpoint.container.clone(), Attachment::default()),
            };
            let network = network.name.clone();
            endpoints.push(EndpointSummary { endpoint, network, container, attachment });
        }
        Ok(NetworkSummary { network, endpoints })
    }

    /// Removes a network that no container runs in.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while one does, or when it is always there.
    pub async fn remove_network(&self, ctx: &Context, text: &str) -> Result<()> {
        let network = self.network_named(ctx, text).await?;
        self.remove_left(ctx, &network).await?;
        self.tell_of_network(ctx, Action::Destroy, &network, "");
        Ok(())
    }

    /// Removes a network, once those have left who are about to.
    async fn remove_left(&self, ctx: &Context, network: &Network) -> Result<()> {
        let mut waited = Duration::ZERO;
        while let Err(err) = self.parts.networks.remove(ctx, &network.id).await {
            let used = err.kind() == Kind::FailedPrecondition && !network.predefined;
            let wait = used && waited < LEAVING && self.are_leaving(ctx, &network.id).await;
            if !wait {
                return Err(err);
            }
            tokio::time::sleep(STEP).await;
            waited += STEP;
        }
        Ok(())
    }

    /// Whether nobody runs any more of those who are in a network, or the last has left by now:
    /// who waited for the end of a container hears of it a moment before it has left.
    async fn are_leaving(&self, ctx: &Context, network: &str) -> bool {
        let endpoints = self.parts.networks.endpoints(ctx, network).await.unwrap_or_default();
        let left = |endpoint: &Endpoint| {
            let live = self.live.get(&ctx.namespace, &endpoint.container);
            live.is_none_or(|live| !live.now().runs() || has_ended(live.now().run()))
        };
        endpoints.iter().all(left)
    }

    /// Removes the networks that no container has, whether or not it runs. Answers with their
    /// names.
    ///
    /// # Errors
    /// The store's. One that can't be removed is left out.
    pub async fn prune_networks(
        &self,
        ctx: &Context,
        filter: &NetworkFilter,
    ) -> Result<Vec<String>> {
        let mut used = BTreeSet::new();
        for (_, meta) in self.store.list(ctx).await? {
            let attached = meta.settings.networking.attached.into_iter();
            used.extend(attached.map(|attached| attached.attachment.network));
        }
        let mut removed = Vec::new();
        for network in self.parts.networks.list(ctx).await? {
            if network.predefined || used.contains(&network.id) || !filter.matches(&network) {
                continue;
            }
            match self.remove_left(ctx, &network).await {
                Ok(()) => {
                    self.tell_of_network(ctx, Action::Destroy, &network, "");
                    removed.push(network.name);
                }
                // A container is in it by now, or somebody else removed it.
                Err(err) => {
                    tracing::info!(network = network.name, error = %err, "leave a network");
                }
            }
        }
        let pruned = NetworkEvent { reclaimed: Some(0), ..NetworkEvent::default() };
        self.tell_network_event(ctx, Action::Prune, &pruned);
        Ok(removed)
    }

    /// Finds a network; when there is none, says which one was probably meant.
    async fn network_named(&self, ctx: &Context, text: &str) -> Result<Network> {
        let err = match self.parts.networks.get(ctx, text).await {
            Err(err) if err.is_not_found() => err,
            other => return other,
        };
        let all = self.parts.networks.list(ctx).await?;
        Err(names::suggest(err, text, all.iter().map(|network| network.name.as_str())))
    }

    /// Tells what became of a network, or of a container in it.
    fn tell_of_network(&self, ctx: &Context, action: Action, network: &Network, container: &str) {
        let event = NetworkEvent {
            name: network.name.clone(),
            id: network.id.clone(),
            driver: network.driver.as_str().to_owned(),
            labels: network.labels.clone(),
            container_id: container.to_owned(),
            reclaimed: None,
        };
        self.tell_network_event(ctx, action, &event);
    }

    fn tell_network_event(&self, ctx: &Context, action: Action, event: &NetworkEvent) {
        let topic = format!("/gantry/networks/{}", action.as_str());
        self.parts.history.append(ctx, &topic, convert::from_any(any::pack(event)));
    }
}

/// Whether there is no such process any more: a shim collects its container's before it tells
/// anybody of the end.
fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).map(Pid::from_raw);
    pid.is_some_and(|pid| kill(pid, None) == Err(Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use gantry_core::Timestamp;
    use gantry_core::networks::{Driver, Subnet};

    use super::*;

    /// A network to look at.
    pub(super) fn network(name: &str, driver: Driver) -> Network {
        Network {
            id: format!("{name}-id"),
            name: name.to_owned(),
            driver,
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            options: Default::default(),
            internal: false,
            subnets: vec![Subnet {
                subnet: "172.18.0.0/24".parse().unwrap(),
                gateway: Some("172.18.0.1".parse().unwrap()),
                ip_range: None,
                reserved: Default::default(),
            }],
            created_at: Timestamp { seconds: 100, nanos: 0 },
            interface: String::new(),
            predefined: matches!(driver, Driver::Host | Driver::Null),
        }
    }

    #[test]
    fn a_process_ends_when_it_is_collected() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        assert!(!has_ended(std::process::id()) && !has_ended(pid));
        child.wait().unwrap();
        assert!(has_ended(pid));
        assert!(!has_ended(0), "none is known");
    }

    #[test]
    fn words_of_events() {
        let all =
            [Action::Create, Action::Destroy, Action::Connect, Action::Disconnect, Action::Prune];
        let words = all.map(Action::as_str).join(" ");
        assert_eq!(words, "create destroy connect disconnect prune");
    }
}
