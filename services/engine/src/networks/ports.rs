//! Published ports of containers: added and taken away while they run, and explained.

use std::net::IpAddr;

use gantry_core::networks::{Explanation, PortWish, Protocol, Published};
use gantry_core::{Context, Error, Result};

use super::connect::Target;
use super::plan::distinct;
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

/// Whether a port that is open at the container's own address alone, where a network is routed,
/// is one that a wish asks for.
fn opens(wish: &PortWish, port: &Published) -> bool {
    port.host_port == 0
        && wish.container_port == port.container_port
        && wish.protocol == port.protocol
        && wish.host_ip.is_none_or(|address| address.is_ipv6() == port.host_ip.is_ipv6())
}

/// Whether such ports are all that a wish asks for.
fn is_open(wish: &PortWish, open: &[&Published]) -> bool {
    let mut kinds = [false, true]
        .into_iter()
        .filter(|v6| wish.host_ip.is_none_or(|address| address.is_ipv6() == *v6));
    kinds.all(|v6| open.iter().any(|port| port.host_ip.is_ipv6() == v6 && opens(wish, port)))
}

/// How much choice a wish leaves: of ports, then of addresses.
fn choice(wish: &PortWish) -> (u32, bool) {
    let ports = match wish.host_port {
        0 => u32::MAX,
        first => u32::from(wish.host_port_end.saturating_sub(first)),
    };
    (ports, wish.host_ip.is_none())
}

/// Wishes that no published port grants, and published ports that nobody wishes. The ports of one
/// number on several addresses are one; one that is open at the container's address alone is
/// for everybody who wishes it.
pub(super) fn differences(
    wishes: &[PortWish],
    ports: &[Published],
) -> (Vec<PortWish>, Vec<Published>) {
    let (open, mut left): (Vec<&Published>, Vec<&Published>) =
        ports.iter().partition(|port| port.host_port == 0);
    let mut missing = Vec::new();
    // Those that leave a choice may have what others don't need.
    let mut ordered: Vec<&PortWish> = wishes.iter().collect();
    ordered.sort_by_key(|wish| choice(wish));
    for wish in ordered {
        let found = left.iter().find(|port| grants(wish, port)).map(|port| port.host_port);
        match found {
            Some(number) => left.retain(|port| !(grants(wish, port) && port.host_port == number)),
            None if is_open(wish, &open) => {}
            None => missing.push(wish.clone()),
        }
    }
    left.extend(open.into_iter().filter(|port| !wishes.iter().any(|wish| opens(wish, port))));
    (missing, left.into_iter().cloned().collect())
}

/// Whether a published port is one of those that are to go. One that is open at the container's
/// address alone has no number: it is meant by each, and stays while others wish it.
fn is_meant(spec: &PortWish, port: &Published) -> bool {
    grants(spec, port) || opens(spec, port)
}

/// Whether a port of the host's is what a wish asks for.
fn is_granted<'a>(wish: &PortWish, mut ports: impl Iterator<Item = &'a Published>) -> bool {
    ports.any(|port| port.host_port != 0 && grants(wish, port))
}

/// Whether a stored wish that has no port of the host's is one of those that are to go.
fn is_wish(spec: &PortWish, wish: &PortWish) -> bool {
    let last = |wish: &PortWish| wish.host_port_end.max(wish.host_port);
    let meet = spec.host_port <= last(wish) && wish.host_port <= last(spec);
    spec.container_port == wish.container_port
        && spec.protocol == wish.protocol
        && (spec.host_port == 0 || meet)
        && spec.host_ip.is_none_or(|address| wish.host_ip == Some(address))
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
    let ports = &mut networking.ports;
    // Wishes for ports that are open alone, that wait for a network, or of a container that does
    // not run.
    ports.retain(|wish| {
        is_granted(wish, gone.iter().chain(kept)) || !specs.iter().any(|spec| is_wish(spec, wish))
    });
    let mut left: Vec<&Published> = gone.iter().filter(|port| port.host_port != 0).collect();
    while let Some(port) = left.pop() {
        let asks = ports.iter().enumerate().filter(|(_, wish)| grants(wish, port));
        let Some((place, _)) = asks.min_by_key(|(_, wish)| choice(wish)) else { continue };
        let wish = ports.remove(place);
        let is_its = |other: &Published| other.host_port == port.host_port && grants(&wish, other);
        left.retain(|other| !is_its(other));
        let rest = kept.iter().filter(|port| opens(&wish, port) || is_its(port));
        ports.extend(rest.map(|port| PortWish { host_ip: Some(port.host_ip), ..wish.clone() }));
    }
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
    match (port.host_port, port.host_port_end) {
        (0, _) => container,
        (first, last) if last > first => format!("{first}-{last}:{container}"),
        (first, _) => format!("{first}:{container}"),
    }
}

impl Engine {
    /// Publishes ports of a container, at once when it runs. Answers with those that are new;
    /// nothing unless it runs.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` for what it wishes already; `FailedPrecondition` for a port that
    /// is in use, with who has it, or a container without a network of its own.
    pub async fn publish(
        &self,
        ctx: &Context,
        text: &str,
        ports: Vec<PortWish>,
    ) -> Result<Vec<Published>> {
        if ports.is_empty() {
            return Err(Error::invalid_argument("no ports are named"));
        }
        let ports = distinct(&ports);
        let found = self.find(ctx, text).await?;
        let busy = found.live.hold().await;
        let target = self.target(ctx, text, &found, "publish ports of").await?;
        publishable(&target.meta, text)?;
        let stored = &target.meta.settings.networking.ports;
        if let Some(twice) = ports.iter().find(|port| stored.contains(port)) {
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
        let mut published = std::mem::take(&mut joined.ports);
        let Err(err) = self.took_effect(ctx, id, &target.meta, joined).await else {
            return Ok(published);
        };
        // Its shim may have taken some of them.
        let wishes = target.meta.settings.networking.published();
        published.retain(|port| !wishes.iter().any(|wish| opens(wish, port)));
        let left = match self.parts.endpoints.unpublish(ctx, id, &published).await {
            Ok(joined) => self.took_effect(ctx, id, &target.meta, joined).await,
            Err(left) => Err(left),
        };
        if let Err(left) = left {
            tracing::warn!(id, error = %left, "take ports away that could not be published");
        }
        Err(err)
    }

    /// Takes published ports away: those with these ports of the container, and of the host
    /// where one or a range is named. Connections that are open stay. Answers with those that
    /// were.
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
        let (mut gone, kept): (Vec<_>, Vec<_>) = now.into_iter().partition(meant);
        let before = target.meta.settings.networking.clone();
        let all = before.published();
        for spec in &specs {
            let published = is_granted(spec, gone.iter());
            let waits = |wish: &PortWish| {
                is_wish(spec, wish) && !is_granted(wish, gone.iter().chain(&kept))
            };
            if !published && !all.iter().any(waits) {
                let said = format!("port {} of container {text} is not published", shown(spec));
                return Err(Error::not_found(said).about("container", text));
            }
        }
        let mut after = before.clone();
        take_wishes(&mut after, &specs, &gone, &kept);
        let wishes = after.published();
        gone.retain(|port| !wishes.iter().any(|wish| opens(wish, port)));
        self.store_networking(ctx, &target, move |n| n.clone_from(&after)).await?;
        if !target.runs {
            return Ok(Vec::new());
        }
        let joined = match self.parts.endpoints.unpublish(ctx, id, &gone).await {
            Ok(joined) => joined,
            Err(err) => {
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

    /// What becomes of packets to a port of the host, at this address if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn explain_port(
        &self,
        ctx: &Context,
        address: Option<IpAddr>,
        port: u16,
        protocol: Protocol,
    ) -> Result<ExplainedPort> {
        let explanation = self.parts.endpoints.explain(address, port, protocol).await?;
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
    fn ports_of_routed_networks_are_for_all_who_wish_them() {
        let open = [published("0.0.0.0", 0, 80), published("::", 0, 80)];
        let wishes = [wish(8080, 8080, 80), wish(0, 0, 80)];
        assert_eq!(differences(&wishes, &open), (vec![], vec![]));
        assert_eq!(differences(&wishes[..1], &open), (vec![], vec![]));
        assert_eq!(differences(&[wish(8080, 8080, 81)], &open).1, open);
        let four = PortWish { host_ip: Some([127, 0, 0, 1].into()), ..wish(8080, 8080, 80) };
        let left = differences(&[four], &open);
        assert_eq!(left, (vec![], vec![published("::", 0, 80)]));
        // One kind is translated: of that a port of the host's is needed as well.
        let half = [published("0.0.0.0", 8080, 80), published("::", 0, 80)];
        let wishes = [wish(8080, 8080, 80), wish(8081, 8081, 80)];
        assert_eq!(differences(&wishes, &half), (vec![wishes[1].clone()], vec![]));
        assert!(is_meant(&wishes[0], &open[0]) && !is_meant(&wish(0, 0, 81), &open[0]));
        let both = Networking { ports: wishes.to_vec(), ..Networking::default() };
        for gone in [&open[..], &half[..]] {
            let mut networking = both.clone();
            take_wishes(&mut networking, &wishes[..1], gone, &[]);
            assert_eq!(networking.ports, wishes[1..]);
        }
        let mut networking = both;
        take_wishes(&mut networking, &wishes[..1], &half[..1], &half[1..]);
        let rest = PortWish { host_ip: "::".parse().ok(), ..wishes[0].clone() };
        assert_eq!(networking.ports, [wishes[1].clone(), rest]);
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
    fn wishes_of_several_addresses_go_together() {
        let at = |address: &str, number| PortWish {
            host_ip: address.parse().ok(),
            ..wish(number, number, 80)
        };
        let wishes = vec![at("127.0.0.1", 8080), at("::1", 8080)];
        let mut networking = Networking { ports: wishes, ..Networking::default() };
        let gone = [published("127.0.0.1", 8080, 80), published("::1", 8080, 80)];
        take_wishes(&mut networking, &[wish(8080, 8080, 80)], &gone, &[]);
        assert!(networking.ports.is_empty(), "{:?}", networking.ports);
        // Of free ports that goes which is for this address alone.
        networking.ports = vec![wish(0, 0, 80), at("127.0.0.1", 0)];
        let (any, one) = (published("0.0.0.0", 32768, 80), published("127.0.0.1", 32769, 80));
        take_wishes(&mut networking, &[], &[one], &[any]);
        assert_eq!(networking.ports, [wish(0, 0, 80)]);
    }

    #[test]
    fn a_range_means_what_was_got_of_it() {
        let (range, got) = (wish(8000, 8010, 80), [published("0.0.0.0", 8001, 80)]);
        let other = wish(8005, 8005, 80);
        assert!(is_meant(&range, &got[0]) && !is_meant(&other, &got[0]));
        let mut networking = Networking { ports: vec![range.clone()], ..Networking::default() };
        take_wishes(&mut networking, std::slice::from_ref(&other), &[], &got);
        assert_eq!(networking.ports, std::slice::from_ref(&range));
        take_wishes(&mut networking, std::slice::from_ref(&range), &got, &[]);
        assert!(networking.ports.is_empty(), "{:?}", networking.ports);
        // Of a container that does not run.
        assert!(is_wish(&other, &range) && is_wish(&wish(8010, 8020, 80), &range));
        assert!(!is_wish(&wish(8011, 8020, 80), &range) && !is_wish(&wish(8005, 8005, 81), &range));
        assert_eq!([&range, &other].map(shown), ["8000-8010:80/tcp", "8005:80/tcp"]);
    }

    #[test]
    fn ports_of_one_address_that_are_open_are_meant() {
        let local = PortWish { host_ip: Some([127, 0, 0, 1].into()), ..wish(8080, 8080, 80) };
        assert!(is_meant(&local, &published("0.0.0.0", 0, 80)));
        assert!(!is_meant(&local, &published("::", 0, 80)));
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
