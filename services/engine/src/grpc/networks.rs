use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use gantry_core::networks::{
    Attachment, ExplainedChain, Explanation, NewNetwork, NewSubnet, PortWish, Protocol, Published,
    Subnet,
};
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::networks_server::Networks as Service;
use gantry_grpc::status::to_detailed as to_wire;
use tonic::{Request, Response, Status};

use super::containers::finish;
use super::convert::{self, invalid};
use super::{Answer, Networks, context_of};
use crate::networks::{
    EndpointSummary, ExplainedPort, NetworkFilter, NetworkSummary, mac, parse_mac,
};
use crate::{ExposedPort, Summary};

fn protocol(wire: i32) -> Result<Protocol, Status> {
    match api::PortProtocol::try_from(wire) {
        Ok(api::PortProtocol::Unspecified | api::PortProtocol::Tcp) => Ok(Protocol::Tcp),
        Ok(api::PortProtocol::Udp) => Ok(Protocol::Udp),
        Ok(api::PortProtocol::Sctp) => Ok(Protocol::Sctp),
        Err(_) => Err(invalid(format!("unknown protocol of a port: {wire}"))),
    }
}

fn wire_protocol(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Tcp => api::PortProtocol::Tcp.into(),
        Protocol::Udp => api::PortProtocol::Udp.into(),
        Protocol::Sctp => api::PortProtocol::Sctp.into(),
    }
}

/// A port's number; 0 is one only where there may be none.
fn number(what: &str, wire: u32, may_be_none: bool) -> Result<u16, Status> {
    let number = u16::try_from(wire).ok().filter(|number| may_be_none || *number > 0);
    number.ok_or_else(|| invalid(format!("invalid {what} port: {wire}")))
}

/// An address; `None` when empty.
fn address<T: std::str::FromStr>(what: &str, text: &str) -> Result<Option<T>, Status> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if bare.is_empty() {
        return Ok(None);
    }
    bare.parse().map(Some).map_err(|_| invalid(format!("invalid {what}: {text}")))
}

/// A port that is to be published, or to be no more.
pub(super) fn port_wish(wire: api::PortSpec) -> Result<PortWish, Status> {
    let host_port = number("host", wire.host_port, true)?;
    let host_port_end = match wire.host_port_end {
        0 => host_port,
        last => number("host", last, true)?,
    };
    if host_port_end < host_port || host_port == 0 && host_port_end > 0 {
        return Err(invalid(format!("invalid range of host ports: {host_port}-{host_port_end}")));
    }
    Ok(PortWish {
        host_ip: address("IP address", &wire.host_ip)?,
        host_port,
        host_port_end,
        container_port: number("container", wire.container_port, false)?,
        protocol: protocol(wire.protocol)?,
    })
}

/// A network that a container is to have.
pub(super) fn attachment(wire: api::NetworkAttachment) -> Result<Attachment, Status> {
    let mac = match wire.mac_address.as_str() {
        "" => None,
        text => {
            let bad = || invalid(format!("invalid MAC address: {text}"));
            Some(parse_mac(text).ok_or_else(bad)?)
        }
    };
    let mut link_local = Vec::new();
    for text in &wire.link_local_addresses {
        link_local.extend(address::<IpAddr>("link-local IP address", text)?);
    }
    Ok(Attachment {
        network: wire.network,
        aliases: wire.aliases,
        ipv4: address("IPv4 address", &wire.ipv4_address)?,
        ipv6: address("IPv6 address", &wire.ipv6_address)?,
        mac,
        options: wire.driver_options,
        gateway_priority: wire.gateway_priority,
        link_local,
    })
}

fn shown_attachment(attachment: Attachment) -> api::NetworkAttachment {
    let text = |address: Option<String>| address.unwrap_or_default();
    api::NetworkAttachment {
        network: attachment.network,
        aliases: attachment.aliases,
        ipv4_address: text(attachment.ipv4.map(|ip| ip.to_string())),
        ipv6_address: text(attachment.ipv6.map(|ip| ip.to_string())),
        mac_address: text(attachment.mac.map(mac)),
        driver_options: attachment.options,
        gateway_priority: attachment.gateway_priority,
        link_local_addresses: attachment.link_local.iter().map(ToString::to_string).collect(),
    }
}

fn endpoint(summary: EndpointSummary) -> api::Endpoint {
    let EndpointSummary { endpoint, network, container, attachment } = summary;
    let text = |address: Option<String>| address.unwrap_or_default();
    api::Endpoint {
        network_id: endpoint.network,
        network,
        container_id: endpoint.container,
        container,
        mac_address: mac(endpoint.mac),
        ipv4_address: text(endpoint.ipv4.map(|net| net.to_string())),
        ipv6_address: text(endpoint.ipv6.map(|net| net.to_string())),
        ipv4_gateway: text(endpoint.ipv4_gateway.map(|ip| ip.to_string())),
        ipv6_gateway: text(endpoint.ipv6_gateway.map(|ip| ip.to_string())),
        attachment: Some(shown_attachment(attachment)),
        dns_names: endpoint.dns_names,
        interface: endpoint.interface,
        id: endpoint.id,
    }
}

fn network(summary: NetworkSummary) -> api::Network {
    let NetworkSummary { network, endpoints } = summary;
    api::Network {
        ipv4: network.ipv4().is_some(),
        ipv6: network.ipv6().is_some(),
        id: network.id,
        name: network.name,
        driver: network.driver.as_str().to_owned(),
        created_at: convert::set_time(network.created_at),
        labels: network.labels,
        options: network.options,
        internal: network.internal,
        subnets: network.subnets.into_iter().map(subnet).collect(),
        interface: network.interface,
        endpoints: endpoints.into_iter().map(endpoint).collect(),
        predefined: network.predefined,
    }
}

fn subnet(subnet: Subnet) -> api::Subnet {
    let reserved = subnet.reserved.into_iter();
    api::Subnet {
        subnet: subnet.subnet.to_string(),
        gateway: subnet.gateway.map(|ip| ip.to_string()).unwrap_or_default(),
        ip_range: subnet.ip_range.map(|net| net.to_string()).unwrap_or_default(),
        reserved: reserved.map(|(name, ip)| (name, ip.to_string())).collect(),
    }
}

fn new_network(wire: api::CreateNetworkRequest) -> Result<NewNetwork, Status> {
    let subnets = wire.subnets.into_iter().map(new_subnet);
    Ok(NewNetwork {
        name: wire.name,
        driver: wire.driver,
        labels: wire.labels,
        options: wire.options,
        internal: wire.internal,
        ipv4: wire.ipv4,
        ipv6: wire.ipv6,
        subnets: subnets.collect::<Result<_, _>>()?,
    })
}

fn new_subnet(wire: api::Subnet) -> Result<NewSubnet, Status> {
    let mut new = NewSubnet {
        subnet: address("subnet", &wire.subnet)?,
        gateway: address("gateway address", &wire.gateway)?,
        ip_range: address("IP range", &wire.ip_range)?,
        ..NewSubnet::default()
    };
    for (name, text) in wire.reserved {
        let bad = || invalid(format!("invalid auxiliary address: {name}={text}"));
        let address: IpAddr = text.parse().map_err(|_| bad())?;
        new.reserved.insert(name, address);
    }
    Ok(new)
}

fn port(port: Published) -> api::Port {
    api::Port {
        host_ip: port.host_ip.to_string(),
        host_port: port.host_port.into(),
        container_port: port.container_port.into(),
        protocol: wire_protocol(port.protocol),
    }
}

/// The ports of a container that runs: those that are published, then those that only are
/// there.
pub(super) fn ports(summary: &Summary) -> Vec<api::Port> {
    let Summary { settings, state, .. } = summary;
    if !settings.is_attached() || !state.phase.is_running() {
        return Vec::new();
    }
    let published = &state.connected.ports;
    let mut all: Vec<api::Port> = published.iter().cloned().map(port).collect();
    let is_published = |exposed: &&ExposedPort| {
        let same = |port: &Published| {
            (port.container_port, port.protocol) == (exposed.port, exposed.protocol)
        };
        published.iter().any(same)
    };
    let only = settings.networking.exposed.iter().filter(|exposed| !is_published(exposed));
    all.extend(only.map(|exposed| api::Port {
        container_port: exposed.port.into(),
        protocol: wire_protocol(exposed.protocol),
        ..api::Port::default()
    }));
    all
}

fn explained(explained: ExplainedPort) -> api::ExplainPortResponse {
    let ExplainedPort { explanation, names } = explained;
    let Explanation { published, chains, reachable, listener } = explanation;
    api::ExplainPortResponse {
        ports: published.into_iter().map(|(published, _)| port(published)).collect(),
        containers: names,
        chains: chains.into_iter().map(chain).collect(),
        reachable,
        listener,
    }
}

fn chain(chain: ExplainedChain) -> api::ExplainedChain {
    let ExplainedChain { family, table, chain, hook, priority, verdict, reason, remedy } = chain;
    api::ExplainedChain { family, table, chain, hook, priority, verdict, reason, remedy }
}

fn wishes(wire: Vec<api::PortSpec>) -> Result<Vec<PortWish>, Status> {
    wire.into_iter().map(port_wish).collect()
}

#[tonic::async_trait]
impl Service for Networks {
    async fn create(
        &self,
        request: Request<api::CreateNetworkRequest>,
    ) -> Answer<api::CreateNetworkResponse> {
        let ctx = context_of(&request)?;
        let new = new_network(request.into_inner())?;
        let engine = Arc::clone(&self.engine);
        let made = finish(async move { engine.create_network(&ctx, new).await }).await?;
        let (made, warnings) = made;
        let network = Some(network(made));
        Ok(Response::new(api::CreateNetworkResponse { network, warnings }))
    }

    async fn list(
        &self,
        request: Request<api::ListNetworksRequest>,
    ) -> Answer<api::ListNetworksResponse> {
        let ctx = context_of(&request)?;
        let filter = NetworkFilter::listing(&request.into_inner().filters).map_err(to_wire)?;
        let found = self.engine.networks(&ctx, &filter).await.map_err(to_wire)?;
        let networks = found.into_iter().map(network).collect();
        Ok(Response::new(api::ListNetworksResponse { networks }))
    }

    async fn inspect(
        &self,
        request: Request<api::InspectNetworkRequest>,
    ) -> Answer<api::InspectNetworkResponse> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().network;
        let found = self.engine.network(&ctx, &text).await.map_err(to_wire)?;
        let json = Bytes::from(found.json());
        let network = Some(network(found));
        Ok(Response::new(api::InspectNetworkResponse { network, json }))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveNetworkRequest>,
    ) -> Answer<api::RemoveNetworkResponse> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().network;
        let engine = Arc::clone(&self.engine);
        finish(async move { engine.remove_network(&ctx, &text).await }).await?;
        Ok(Response::new(api::RemoveNetworkResponse {}))
    }

    async fn prune(
        &self,
        request: Request<api::PruneNetworksRequest>,
    ) -> Answer<api::PruneNetworksResponse> {
        let ctx = context_of(&request)?;
        let filter = NetworkFilter::prune(&request.into_inner().filters).map_err(to_wire)?;
        let engine = Arc::clone(&self.engine);
        let networks = finish(async move { engine.prune_networks(&ctx, &filter).await }).await?;
        Ok(Response::new(api::PruneNetworksResponse { networks }))
    }

    async fn connect(
        &self,
        request: Request<api::ConnectNetworkRequest>,
    ) -> Answer<api::ConnectNetworkResponse> {
        let ctx = context_of(&request)?;
        let api::ConnectNetworkRequest { container, attachment: wish } = request.into_inner();
        let wish = wish.ok_or_else(|| invalid("the network is not named"))?;
        let wish = attachment(wish)?;
        let engine = Arc::clone(&self.engine);
        let connected =
            finish(async move { engine.connect_network(&ctx, &container, wish).await }).await?;
        let endpoint = connected.map(endpoint);
        Ok(Response::new(api::ConnectNetworkResponse { endpoint }))
    }

    async fn disconnect(
        &self,
        request: Request<api::DisconnectNetworkRequest>,
    ) -> Answer<api::DisconnectNetworkResponse> {
        let ctx = context_of(&request)?;
        let api::DisconnectNetworkRequest { container, network, force } = request.into_inner();
        let engine = Arc::clone(&self.engine);
        let left =
            async move { engine.disconnect_network(&ctx, &container, &network, force).await };
        finish(left).await?;
        Ok(Response::new(api::DisconnectNetworkResponse {}))
    }

    async fn publish(
        &self,
        request: Request<api::PublishPortsRequest>,
    ) -> Answer<api::PublishPortsResponse> {
        let ctx = context_of(&request)?;
        let api::PublishPortsRequest { container, ports } = request.into_inner();
        let wished = wishes(ports)?;
        let engine = Arc::clone(&self.engine);
        let published =
            finish(async move { engine.publish(&ctx, &container, wished).await }).await?;
        let ports = published.into_iter().map(port).collect();
        Ok(Response::new(api::PublishPortsResponse { ports }))
    }

    async fn unpublish(
        &self,
        request: Request<api::UnpublishPortsRequest>,
    ) -> Answer<api::UnpublishPortsResponse> {
        let ctx = context_of(&request)?;
        let api::UnpublishPortsRequest { container, ports } = request.into_inner();
        let specs = wishes(ports)?;
        let engine = Arc::clone(&self.engine);
        let gone = finish(async move { engine.unpublish(&ctx, &container, specs).await }).await?;
        let ports = gone.into_iter().map(port).collect();
        Ok(Response::new(api::UnpublishPortsResponse { ports }))
    }

    async fn explain(
        &self,
        request: Request<api::ExplainPortRequest>,
    ) -> Answer<api::ExplainPortResponse> {
        let ctx = context_of(&request)?;
        let api::ExplainPortRequest { port, protocol: wire, host_ip } = request.into_inner();
        let (port, protocol) = (number("host", port, false)?, protocol(wire)?);
        let host_ip = address("IP address", &host_ip)?;
        let found = self.engine.explain_port(&ctx, host_ip, port, protocol).await;
        let found = found.map_err(to_wire)?;
        Ok(Response::new(explained(found)))
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::containers::Container;

    use super::*;
    use crate::model::{Connected, Meta, Network, Phase, Settings, State};

    fn spec(host_port: u32, host_port_end: u32, container_port: u32) -> api::PortSpec {
        api::PortSpec { host_port, host_port_end, container_port, ..Default::default() }
    }

    #[test]
    fn ports_that_can_be() {
        let made = port_wish(spec(8080, 0, 80)).unwrap();
        assert_eq!((made.host_port, made.host_port_end, made.container_port), (8080, 8080, 80));
        assert_eq!(port_wish(spec(0, 0, 80)).unwrap().host_port_end, 0);
        assert_eq!(port_wish(spec(8000, 8010, 80)).unwrap().host_port_end, 8010);
        for bad in [spec(0, 0, 0), spec(70_000, 0, 80), spec(9, 8, 80), spec(0, 8, 80)] {
            assert!(port_wish(bad).is_err());
        }
        let at =
            |host_ip: &str| port_wish(api::PortSpec { host_ip: host_ip.into(), ..spec(1, 0, 2) });
        assert_eq!(at("[::1]").unwrap().host_ip, "::1".parse().ok());
        assert_eq!(at("").unwrap().host_ip, None);
        assert!(at("localhost").is_err());
        assert!(port_wish(api::PortSpec { protocol: 9, ..spec(1, 0, 2) }).is_err());
    }

    #[test]
    fn attachments() {
        let made = attachment(api::NetworkAttachment {
            network: "app".into(),
            ipv4_address: "172.18.0.9".into(),
            mac_address: "02:00:00:00:00:01".into(),
            link_local_addresses: vec!["169.254.1.1".into()],
            ..Default::default()
        })
        .unwrap();
        assert_eq!((made.ipv4, made.mac), (Some([172, 18, 0, 9].into()), Some([2, 0, 0, 0, 0, 1])));
        assert_eq!(made.link_local.len(), 1);
        let shown = shown_attachment(made);
        assert_eq!((shown.ipv4_address.as_str(), shown.ipv6_address.as_str()), ("172.18.0.9", ""));
        let bad = |change: fn(&mut api::NetworkAttachment)| {
            let mut wire = api::NetworkAttachment::default();
            change(&mut wire);
            assert!(attachment(wire).is_err());
        };
        bad(|a| a.ipv4_address = "::1".into());
        bad(|a| a.ipv6_address = "1.1.1.1".into());
        bad(|a| a.mac_address = "x".into());
        bad(|a| a.link_local_addresses = vec!["x".into()]);
    }

    #[test]
    fn subnets() {
        let wire = api::Subnet {
            subnet: "172.30.0.0/24".into(),
            reserved: [("nas".to_owned(), "172.30.0.5".to_owned())].into(),
            ..Default::default()
        };
        let made = new_subnet(wire.clone()).unwrap();
        assert_eq!((made.gateway, made.ip_range), (None, None));
        assert_eq!(made.reserved["nas"].to_string(), "172.30.0.5");
        for bad in ["172.30.0.0", "x", "172.30.0.0/33"] {
            let wire = api::Subnet { subnet: bad.into(), ..wire.clone() };
            assert!(new_subnet(wire).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_of_a_container() {
        let mut settings = Settings { network: Network::Attached, ..Settings::default() };
        settings.networking.exposed = ["80", "443"].map(|text| text.parse().unwrap()).to_vec();
        let bound = Published {
            host_ip: [0, 0, 0, 0].into(),
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let connected = Connected { endpoints: Vec::new(), ports: vec![bound] };
        let state =
            State { phase: Phase::Running, connected: connected.into(), ..State::default() };
        let meta = Meta { settings, ..Meta::default() };
        let summary = Summary::of(&Container::default(), meta, state);
        let shown: Vec<_> =
            ports(&summary).into_iter().map(|p| (p.host_port, p.container_port)).collect();
        assert_eq!(shown, [(8080, 80), (0, 443)]);
        let mut ended = summary;
        ended.state.phase = Phase::Exited;
        assert!(ports(&ended).is_empty());
    }
}
