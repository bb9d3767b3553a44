//! Published ports of containers: added and taken away while they run, and explained.

use gantry_core::networks::{Explanation, PortWish, Protocol, Published};
use gantry_core::{Context, Error, Result};

use super::connect::Target;
use crate::Engine;
use crate::model::{Meta, Network, Networking};

/// What becomes of packets to a port, with names of the containers that have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExplainedPort {
    /// What becomes of them.
    pub explanation: Explanation,
    /// Name of the container of each published port, or its ID.
    pub names: Vec<String>,
}

/// Whether a published port is what a wish asks for.
fn grants(wish: &PortWish, port: &Published) -> bool {
    let last = wish.host_port_end.max(wish.host_port);
    wish.container_port == port.container_port
        && wish.protocol == port.protocol
        && (wish.host_port == 0 || (wish.host_port..=last).contains(&port.host_port))
        && wish.host_ip.is_none_or(|address| address == port.host_ip)
}

/// Wishes that no published port grants, and published ports that nobody wishes. The ports of one
/// number on several addresses are one.
pub(super) fn differences(
    wishes: &[PortWish],
    ports: &[Published],
) -> (Vec<PortWish>, Vec<Published>) {
    let mut left: Vec<&Published> = ports.iter().collect();
    let mut missing = Vec::new();
    // Those that leave a choice may have what others don't need.
    let mut ordered: Vec<&PortWish> = wishes.iter().collect();
    ordered.sort_by_key(|wish| match wish.host_port {
        0 => u32::MAX,
        first => u32::from(wish.host_port_end.saturating_sub(first)),
    });
    for wish in ordered {
        let found = left.iter().find(|port| grants(wish, port)).map(|port| port.host_port);
        match found {
            Some(number) => left.retain(|port| !(grants(wish, port) && port.host_port == number)),
            None => missing.push(wish.clone()),
        }
    }
    (missing, left.into_iter().cloned().collect())
}

/// Whether a published port is one of those that are to go.
fn is_meant(spec: &PortWish, port: &Published) -> bool {
    spec.container_port == port.container_port
        && spec.protocol == port.protocol
        && (spec.host_port == 0 || spec.host_port == port.host_port)
        && spec.host_ip.is_none_or(|address| address == port.host_ip)
}

/// Takes the wishes out of what is stored that ask for ports that are to go; others of the same
/// wish, on another address, are kept. Of a container that does not run none has gone.
fn take_wishes(
    networking: &mut Networking,
    specs: &[PortWish],
    gone: &[Published],
    kept: &[Published],
) {
    if networking.publish_all {
        // From here on one of them is not published: the others are named.
        networking.ports = networking.published();
        networking.publish_all = false;
    }
    if gone.is_empty() {
        networking.ports.retain(|wish| !specs.iter().any(|spec| is_wish(spec, wish)));
    }
    let mut numbers: Vec<(u16, u16, Protocol)> =
        gone.iter().map(|port| (port.host_port, port.container_port, port.protocol)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for (number, container_port, protocol) in numbers {
        let asks = |wish: &PortWish| {
            let any = |port: &Published| port.host_port == number && grants(wish, port);
            wish.container_port == container_port
                && wish.protocol == protocol
                && gone.iter().any(any)
        };
        let exact = |wish: &PortWish| wish.host_port != 0 && asks(wish);
        let ports = &mut networking.ports;
        let place = ports.iter().position(exact).or_else(|| ports.iter().position(asks));
        let Some(place) = place else { continue };
        let wish = ports.remove(place);
        let rest = kept.iter().filter(|port| port.host_port == number && grants(&wish, port));
        ports.extend(rest.map(|port| PortWish { host_ip: Some(port.host_ip), ..wish.clone() }));
    }
}

/// Whether a stored wish is one of those that are to go, of a container that does not run.
fn is_wish(spec: &PortWish, wish: &PortWish) -> bool {
    let last = wish.host_port_end.max(wish.host_port);
    spec.container_port == wish.container_port
        && spec.protocol == wish.protocol
        && (spec.host_port == 0 || (wish.host_port..=last).contains(&spec.host_port))
        && spec.host_ip.is_none_or(|address| wish.host_ip == Some(address))
}

/// Refuses containers whose ports nobody can publish.
fn publishable(meta: &Meta, text: &str) -> Result<()> {
    let why = match meta.settings.network {
        Network::Attached => return Ok(()),
        Network::Host => "it has the host's network: what it listens on is there already",
        Network::None => "it has no network",
        Network::Container => "it shares another container's network: publish that one's ports",
    };
    let said = format!("cannot publish ports of container {text}: {why}");
    Err(Error::failed_precondition(said).about("container", text))
}

fn shown(port: &PortWish) -> String {
    let container = format!("{}/{}", port.container_port, port.protocol.as_str());
    if port.host_port == 0 { container } else { format!("{}:{container}", port.host_port) }
}

impl Engine {
    /// Publishes ports of a container, at once when it runs. Answers with those that are new;
    /// nothing unless it runs.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a port that is in use, with who has it, or a
    /// container without a network of its own.
    pub async fn publish(
        &self,
        ctx: &Context,
        text: &str,
        ports: Vec<PortWish>,
    ) -> Result<Vec<Published>> {
        if ports.is_empty() {
            return Err(Error::invalid_argument("no ports are named"));
        }
        let found = self.find(ctx, text).await?;
        let busy = found.live.hold().await;
        let target = self.target(ctx, text, &found, "publish ports of").await?;
        publishable(&target.meta, text)?;
        let stored = &target.meta.settings.networking.ports;
        if let Some(twice) = ports.iter().find(|port| stored.contains(port) && port.host_port != 0)
        {
            let said = format!("port {} of container {text} is published already", shown(twice));
            return Err(Error::already_exists(said).about("container", text));
        }
        let more = ports.clone();
        self.store_networking(ctx, &target, move |n| n.ports.extend(more.iter().cloned())).await?;
        if !target.runs {
            return Ok(Vec::new());
        }
        let published = match self.publish_now(ctx, &target, &ports).await {
            Ok(published) => published,
            Err(err) => {
                let before = target.meta.settings.networking.ports.clone();
                self.undo_networking(ctx, &target, move |n| n.ports.clone_from(&before)).await;
                return Err(err);
            }
        };
        self.changed(ctx, &target).await;
        drop(busy);
        Ok(published)
    }

    async fn publish_now(
        &self,
        ctx: &Context,
        target: &Target,
        ports: &[PortWish],
    ) -> Result<Vec<Published>> {
        let id = target.container.id.as_str();
        let mut joined = self.parts.endpoints.publish(ctx, id, ports).await?;
        let published = std::mem::take(&mut joined.ports);
        if let Err(err) = self.took_effect(ctx, id, &target.meta, joined).await {
            if let Err(left) = self.parts.endpoints.unpublish(ctx, id, &published).await {
                tracing::warn!(id, error = %left, "take ports away that could not be published");
            }
            return Err(err);
        }
        Ok(published)
    }

    /// Takes published ports away: those with these ports of the container, and of the host
    /// where one is named. Connections that are open stay. Answers with those that were.
    ///
    /// # Errors
    /// `NotFound` for the container, or ports that are not published.
    pub async fn unpublish(
        &self,
        ctx: &Context,
        text: &str,
        specs: Vec<PortWish>,
    ) -> Result<Vec<Published>> {
        if specs.is_empty() {
            return Err(Error::invalid_argument("no ports are named"));
        }
        let found = self.find(ctx, text).await?;
        let busy = found.live.hold().await;
        let target = self.target(ctx, text, &found, "take ports from").await?;
        publishable(&target.meta, text)?;
        let id = target.container.id.as_str();
        let now = if target.runs { self.connected(ctx, id).ports } else { Vec::new() };
        let meant = |port: &Published| specs.iter().any(|spec| is_meant(spec, port));
        let (gone, kept): (Vec<_>, Vec<_>) = now.into_iter().partition(meant);
        let all = target.meta.settings.networking.published();
        for spec in &specs {
            let published = gone.iter().any(|port| is_meant(spec, port));
            if !published && !all.iter().any(|wish| is_wish(spec, wish)) {
                let said = format!("port {} of container {text} is not published", shown(spec));
                return Err(Error::not_found(said).about("container", text));
            }
        }
        let (named, ports) = (specs.clone(), gone.clone());
        let take = move |n: &mut Networking| take_wishes(n, &named, &ports, &kept);
        self.store_networking(ctx, &target, take).await?;
        if !target.runs {
            return Ok(Vec::new());
        }
        let joined = match self.parts.endpoints.unpublish(ctx, id, &gone).await {
            Ok(joined) => joined,
            Err(err) => {
                let before = target.meta.settings.networking.clone();
                self.undo_networking(ctx, &target, move |n| n.clone_from(&before)).await;
                return Err(err);
            }
        };
        // They are closed; that the shim does not let go of its sockets is no reason to have
        // them again.
        if let Err(err) = self.took_effect(ctx, id, &target.meta, joined).await {
            tracing::warn!(id, error = %err, "tell a shim which ports have gone");
        }
        self.changed(ctx, &target).await;
        drop(busy);
        Ok(gone)
    }

    /// What becomes of packets to a port of the host.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn explain_port(
        &self,
        ctx: &Context,
        port: u16,
        protocol: Protocol,
    ) -> Result<ExplainedPort> {
        let explanation = self.parts.endpoints.explain(port, protocol).await?;
        let known = self.store.names(ctx).await?;
        let name = |(_, id): &(Published, String)| known.get(id).unwrap_or(id).clone();
        let names = explanation.published.iter().map(name).collect();
        Ok(ExplainedPort { explanation, names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(host_port: u16, host_port_end: u16, container_port: u16) -> PortWish {
        PortWish { host_port, host_port_end, container_port, ..PortWish::default() }
    }

    fn published(host_ip: &str, host_port: u16, container_port: u16) -> Published {
        let host_ip = host_ip.parse().unwrap();
        Published { host_ip, host_port, container_port, protocol: Protocol::Tcp }
    }

    #[test]
    fn what_is_missing_and_what_is_beyond() {
        let both = [published("0.0.0.0", 8080, 80), published("::", 8080, 80)];
        assert_eq!(differences(&[wish(8080, 8080, 80)], &both), (vec![], vec![]));
        assert_eq!(differences(&[], &both).1.len(), 2);
        let wishes = [wish(0, 0, 80), wish(8080, 8080, 80)];
        assert_eq!(differences(&wishes, &both), (vec![wish(0, 0, 80)], vec![]));
        assert_eq!(differences(&[wish(8000, 8090, 80)], &both), (vec![], vec![]));
        let one = PortWish { host_ip: Some([127, 0, 0, 1].into()), ..wish(8080, 8080, 80) };
        assert_eq!(differences(std::slice::from_ref(&one), &both).0, [one]);
    }

    #[test]
    fn which_are_meant() {
        let port = published("0.0.0.0", 8080, 80);
        assert!(is_meant(&wish(0, 0, 80), &port) && is_meant(&wish(8080, 0, 80), &port));
        assert!(!is_meant(&wish(81, 0, 80), &port) && !is_meant(&wish(0, 0, 81), &port));
        let at = |address: &str| PortWish { host_ip: address.parse().ok(), ..wish(0, 0, 80) };
        assert!(is_meant(&at("0.0.0.0"), &port) && !is_meant(&at("127.0.0.1"), &port));
    }

    #[test]
    fn wishes_go_with_their_ports() {
        let mut networking = Networking {
            ports: vec![wish(0, 0, 80), wish(8080, 8080, 80), wish(9000, 9010, 90)],
            ..Networking::default()
        };
        let gone = [published("0.0.0.0", 8080, 80), published("::", 8080, 80)];
        take_wishes(&mut networking, &[], &gone, &[]);
        assert_eq!(networking.ports, [wish(0, 0, 80), wish(9000, 9010, 90)]);
        let (gone, kept) = ([published("::", 9004, 90)], [published("0.0.0.0", 9004, 90)]);
        take_wishes(&mut networking, &[], &gone, &kept);
        let rest = PortWish { host_ip: "0.0.0.0".parse().ok(), ..wish(9000, 9010, 90) };
        assert_eq!(networking.ports, [wish(0, 0, 80), rest.clone()]);
        take_wishes(&mut networking, &[wish(0, 0, 80)], &[], &[]);
        assert_eq!(networking.ports, [rest]);
    }

    #[test]
    fn one_of_all_exposed_ports_goes() {
        let exposed = ["80", "81"].map(|text| text.parse().unwrap()).to_vec();
        let mut networking = Networking { exposed, publish_all: true, ..Networking::default() };
        take_wishes(&mut networking, &[], &[published("0.0.0.0", 32768, 80)], &[]);
        assert_eq!((networking.publish_all, networking.ports), (false, vec![wish(0, 0, 81)]));
    }

    #[test]
    fn who_can_publish() {
        let mut meta = Meta::default();
        assert!(publishable(&meta, "web").is_err());
        meta.settings.network = Network::Attached;
        publishable(&meta, "web").unwrap();
    }
}
