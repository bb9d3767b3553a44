//! Networks as the played daemon has them.

use std::sync::mpsc;

use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::networks_server::Networks;
use tonic::{Request, Response, Status};

use super::id;

/// What came about networks and ports.
#[derive(Debug)]
pub(crate) enum Asked {
    Create(api::CreateNetworkRequest),
    List(api::ListNetworksRequest),
    Prune(api::PruneNetworksRequest),
    Connect(api::ConnectNetworkRequest),
    Disconnect(api::DisconnectNetworkRequest),
    Publish(api::PublishPortsRequest),
    Unpublish(api::UnpublishPortsRequest),
}

/// Plays networks: those whose names begin with `no-` are not there.
pub(super) struct Player {
    pub(super) asked: mpsc::Sender<Asked>,
}

impl Player {
    /// Nobody may be interested.
    fn tell(&self, asked: Asked) {
        let _ = self.asked.send(asked);
    }
}

/// Ports of every container.
pub(super) fn ports() -> Vec<api::Port> {
    let port = |host_ip: &str, host_port, container_port| api::Port {
        host_ip: host_ip.to_owned(),
        host_port,
        container_port,
        protocol: api::PortProtocol::Tcp.into(),
    };
    vec![port("::", 8080, 80), port("0.0.0.0", 8080, 80), port("", 0, 443)]
}

fn network(name: &str) -> api::Network {
    api::Network {
        id: id(),
        name: name.to_owned(),
        driver: "bridge".to_owned(),
        ipv4: true,
        ..Default::default()
    }
}

fn found(name: &str) -> Result<(), Status> {
    match name.starts_with("no-") {
        true => Err(Status::not_found(format!("network {name} not found"))),
        false => Ok(()),
    }
}

/// Ports as they are once they are published.
fn published(specs: &[api::PortSpec]) -> Vec<api::Port> {
    let each = specs.iter().map(|spec| api::Port {
        host_ip: "0.0.0.0".to_owned(),
        host_port: if spec.host_port == 0 { 32768 } else { spec.host_port },
        container_port: spec.container_port,
        protocol: spec.protocol,
    });
    each.collect()
}

#[tonic::async_trait]
impl Networks for Player {
    async fn create(
        &self,
        request: Request<api::CreateNetworkRequest>,
    ) -> Result<Response<api::CreateNetworkResponse>, Status> {
        let request = request.into_inner();
        let network = Some(network(&request.name));
        self.tell(Asked::Create(request));
        let warnings = vec!["IPv6 is off here".to_owned()];
        Ok(Response::new(api::CreateNetworkResponse { network, warnings }))
    }

    async fn list(
        &self,
        request: Request<api::ListNetworksRequest>,
    ) -> Result<Response<api::ListNetworksResponse>, Status> {
        self.tell(Asked::List(request.into_inner()));
        let networks = ["net10", "net9", "bridge"].map(network).into();
        Ok(Response::new(api::ListNetworksResponse { networks }))
    }

    async fn inspect(
        &self,
        request: Request<api::InspectNetworkRequest>,
    ) -> Result<Response<api::InspectNetworkResponse>, Status> {
        let name = request.into_inner().network;
        found(&name)?;
        let json = format!("{{\"Name\":\"{name}\",\"Options\":null}}").into();
        Ok(Response::new(api::InspectNetworkResponse { network: Some(network(&name)), json }))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveNetworkRequest>,
    ) -> Result<Response<api::RemoveNetworkResponse>, Status> {
        found(&request.into_inner().network)?;
        Ok(Response::new(api::RemoveNetworkResponse {}))
    }

    async fn prune(
        &self,
        request: Request<api::PruneNetworksRequest>,
    ) -> Result<Response<api::PruneNetworksResponse>, Status> {
        self.tell(Asked::Prune(request.into_inner()));
        let networks = ["a", "b"].map(str::to_owned).into();
        Ok(Response::new(api::PruneNetworksResponse { networks }))
    }

    async fn connect(
        &self,
        request: Request<api::ConnectNetworkRequest>,
    ) -> Result<Response<api::ConnectNetworkResponse>, Status> {
        let request = request.into_inner();
        found(request.attachment.as_ref().map_or("", |attachment| attachment.network.as_str()))?;
        self.tell(Asked::Connect(request));
        Ok(Response::new(api::ConnectNetworkResponse::default()))
    }

    async fn disconnect(
        &self,
        request: Request<api::DisconnectNetworkRequest>,
    ) -> Result<Response<api::DisconnectNetworkResponse>, Status> {
        self.tell(Asked::Disconnect(request.into_inner()));
        Ok(Response::new(api::DisconnectNetworkResponse {}))
    }

    async fn publish(
        &self,
        request: Request<api::PublishPortsRequest>,
    ) -> Result<Response<api::PublishPortsResponse>, Status> {
        let request = request.into_inner();
        let ports = published(&request.ports);
        self.tell(Asked::Publish(request));
        Ok(Response::new(api::PublishPortsResponse { ports }))
    }

    async fn unpublish(
        &self,
        request: Request<api::UnpublishPortsRequest>,
    ) -> Result<Response<api::UnpublishPortsResponse>, Status> {
        let request = request.into_inner();
        let ports = published(&request.ports);
        self.tell(Asked::Unpublish(request));
        Ok(Response::new(api::UnpublishPortsResponse { ports }))
    }

    async fn explain(
        &self,
        request: Request<api::ExplainPortRequest>,
    ) -> Result<Response<api::ExplainPortResponse>, Status> {
        let request = request.into_inner();
        let listener = format!("own{} (pid 7)", request.port);
        let answer = api::ExplainPortResponse { listener, reachable: true, ..Default::default() };
        Ok(Response::new(answer))
    }
}
