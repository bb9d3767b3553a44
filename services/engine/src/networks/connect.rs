//! Containers that are added to networks, and taken out of them, while they run or not.
//!
//! What is stored is changed first, so that the container is there again after its next start;
//! when the rest fails it is changed back.

use std::sync::Arc;

use gantry_core::containers::Container;
use gantry_core::db::Durability;
use gantry_core::networks::{Attachment, Driver, NONE, Network as Found};
use gantry_core::{Context, Error, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction;

use super::{Action, EndpointSummary, plan, start};
use crate::Engine;
use crate::lifecycle;
use crate::live::Live;
use crate::model::{Attached, Meta, Network, Networking, Phase};
use crate::store::no_such;

const SHARED: &str = "container sharing network namespace with another container or host cannot \
                      be connected to any other network";
const HOST: &str = "container cannot be disconnected from host network or connected to host \
                    network";
const PRIVATE: &str = "container cannot be connected to multiple networks with one of the networks \
                       in private (none) mode";

/// A container whose networks are changed, in the hands of whoever does that.
pub(super) struct Target {
    pub(super) container: Container,
    pub(super) meta: Meta,
    live: Arc<Live>,
    pub(super) runs: bool,
    pid: u32,
}

fn refused(why: &str, text: &str) -> Error {
    Error::failed_precondition(why).about("container", text)
}

impl Engine {
    /// Looks a container up again that the caller holds.
    pub(super) async fn target(
        &self,
        ctx: &Context,
        text: &str,
        found: &lifecycle::Found,
        what: &str,
    ) -> Result<Target> {
        let id = found.container.id.as_str();
        if found.meta.foreign {
            let said = format!("{what} container {text}: another client made it");
            return Err(refused(&said, text));
        }
        let Some((container, meta)) = self.store.get(ctx, id).await? else {
            return Err(no_such(text));
        };
        let state = self.live.state(&ctx.namespace, id).unwrap_or_else(|| meta.state.clone());
        if matches!(state.phase, Phase::Removing | Phase::Dead) {
            return Err(refused(&format!("container {id} is marked for removal"), text));
        }
        let (runs, pid) = (state.phase.is_running(), state.pid);
        Ok(Target { container, meta, live: Arc::clone(&found.live), runs, pid })
    }

    /// Stores another wish of a container for its networks. What becomes of one that runs is
    /// told later.
    pub(super) async fn store_networking(
        &self,
        ctx: &Context,
        target: &Target,
        change: impl Fn(&mut Networking) + Send + 'static,
    ) -> Result<()> {
        let action = (!target.runs).then_some(ContainerAction::Updated);
        let change = move |meta: &mut Meta| change(&mut meta.settings.networking);
        self.store.update(ctx, &target.container.id, Durability::Sync, action, change).await
    }

    /// Stores what it was before: the change failed.
    pub(super) async fn undo_networking(
        &self,
        ctx: &Context,
        target: &Target,
        change: impl Fn(&mut Networking) + Send + 'static,
    ) {
        let id = &target.container.id;
        if let Err(err) = self.store_networking(ctx, target, change).await {
            tracing::warn!(id, error = %err, "change networks of a container back");
        }
    }

    /// Tells of a container that runs whose networks or ports are others by now.
    pub(super) async fn changed(&self, ctx: &Context, target: &Target) {
        let (id, live) = (target.container.id.as_str(), &target.live);
        live.connect(self.connected(ctx, id));
        let action = Some(ContainerAction::Updated);
        self.record(ctx, id, live, Durability::Buffered, action).await;
    }

    /// Adds a container to a network, at once when it runs: then answers with where it is.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` when it is there; `FailedPrecondition` for a container or a
    /// network without addresses; `InvalidArgument`.
    pub async fn connect_network(
        &self,
        ctx: &Context,
        text: &str,
        wish: Attachment,
    ) -> Result<Option<EndpointSummary>> {
        let found = self.find(ctx, text).await?;
        let network = self.network_named(ctx, &wish.network).await?;
        let attached = plan::attached(&network, wish)?;
        let busy = found.live.hold().await;
        let target = self.target(ctx, text, &found, "connect").await?;
        connectable(&target.meta, &network, text)?;
        let (wanted, id) = (attached.clone(), target.container.id.as_str());
        self.store_networking(ctx, &target, move |n| n.attached.push(wanted.clone())).await?;
        if !target.runs {
            return Ok(None);
        }
        if let Err(err) = self.connect_now(ctx, &target, &attached).await {
            let gone = network.id.clone();
            let undo = move |n: &mut Networking| {
                n.attached.retain(|attached| attached.attachment.network != gone);
            };
            self.undo_networking(ctx, &target, undo).await;
            return Err(err);
        }
        self.changed(ctx, &target).await;
        self.tell_of_network(ctx, Action::Connect, &network, id);
        drop(busy);
        let mut there = self.connected(ctx, id).endpoints.into_iter();
        let endpoint = there.find(|endpoint| endpoint.network == network.id);
        Ok(endpoint.map(|endpoint| EndpointSummary {
            endpoint,
            network: network.name,
            container: target.meta.name,
            attachment: attached.attachment,
        }))
    }

    async fn connect_now(&self, ctx: &Context, target: &Target, attached: &Attached) -> Result<()> {
        let id = target.container.id.as_str();
        let mut meta = target.meta.clone();
        meta.settings.networking.attached.push(attached.clone());
        let member = start::member(id, &meta);
        let joined = self.parts.endpoints.connect(ctx, &member, target.pid).await?;
        let Err(err) = self.took_effect(ctx, id, &meta, joined).await else { return Ok(()) };
        let before = start::member(id, &target.meta);
        let network = attached.attachment.network.as_str();
        let left = self.parts.endpoints.disconnect(ctx, &before, network, target.pid).await;
        let left = match left {
            Ok(joined) => self.took_effect(ctx, id, &target.meta, joined).await,
            Err(left) => Err(left),
        };
        if let Err(left) = left {
            tracing::warn!(id, error = %left, "take a container out of a network again");
        }
        Err(err)
    }

    /// Takes a container out of a network, at once when it runs; when it does not, the network may
    /// be gone already. With `force` also when the container or the network is gone, or what there
    /// is of it can't be undone.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it is not there, or has the host's network.
    pub async fn disconnect_network(
        &self,
        ctx: &Context,
        text: &str,
        name: &str,
        force: bool,
    ) -> Result<()> {
        let network = self.network_named(ctx, name).await;
        let found = match self.find(ctx, text).await {
            Err(err) if err.is_not_found() && force => {
                return self.leave_behind(ctx, text, &network?, err).await;
            }
            other => other?,
        };
        let busy = found.live.hold().await;
        let target = self.target(ctx, text, &found, "disconnect").await?;
        let id = target.container.id.as_str();
        let networking = &target.meta.settings.networking;
        let is_called = |attached: &&Attached| attached.name == name;
        let left = networking.attached(name).or(networking.attached.iter().find(is_called));
        let network = match network {
            // Nothing has to be undone of one that does not run.
            Err(err) if err.is_not_found() && (force || left.is_some() && !target.runs) => None,
            other => Some(other?),
        };
        let wanted = network.as_ref().map_or(name, |network| network.id.as_str());
        match (target.meta.settings.network, &network) {
            (Network::Host, _) => return Err(refused(HOST, text)),
            (Network::None, Some(network)) if network.driver == Driver::Null => {
                // From here on it can be in others.
                return self.leave_none(ctx, &target).await;
            }
            _ => {}
        }
        // Another network may have the name of one that has gone.
        let Some(attached) = networking.attached(wanted).or(left).cloned() else {
            let shown = network.as_ref().map_or(name, |network| network.name.as_str());
            let said = format!("container {id} is not connected to network {shown}");
            return Err(refused(&said, text));
        };
        let gone = attached.attachment.network.clone();
        let take = move |n: &mut Networking| n.attached.retain(|a| a.attachment.network != gone);
        self.store_networking(ctx, &target, take).await?;
        if !target.runs {
            return Ok(());
        }
        match self.disconnect_now(ctx, &target, &attached).await {
            Err(err) if force => {
                tracing::warn!(id, error = %err, "take a container out of a network");
            }
            Err(err) => {
                let before = networking.attached.clone();
                self.undo_networking(ctx, &target, move |n| n.attached.clone_from(&before)).await;
                return Err(err);
            }
            Ok(()) => {}
        }
        self.changed(ctx, &target).await;
        if let Some(network) = network {
            self.tell_of_network(ctx, Action::Disconnect, &network, id);
        }
        drop(busy);
        Ok(())
    }

    async fn disconnect_now(
        &self,
        ctx: &Context,
        target: &Target,
        attached: &Attached,
    ) -> Result<()> {
        let id = target.container.id.as_str();
        let mut meta = target.meta.clone();
        let network = attached.attachment.network.as_str();
        meta.settings.networking.attached.retain(|other| other.attachment.network != network);
        let member = start::member(id, &meta);
        let joined = self.parts.endpoints.disconnect(ctx, &member, network, target.pid).await?;
        // It is out; that the shim does not let go of names or ports is no reason to have it back.
        if let Err(err) = self.took_effect(ctx, id, &meta, joined).await {
            tracing::warn!(id, error = %err, "tell a shim that its container has left a network");
        }
        Ok(())
    }

    /// Takes away what a container that is gone has left in a network.
    async fn leave_behind(
        &self,
        ctx: &Context,
        text: &str,
        network: &Found,
        err: Error,
    ) -> Result<()> {
        let left = self.parts.networks.endpoints(ctx, &network.id).await?;
        let is_it = |id: &str| !text.is_empty() && id.starts_with(text);
        let Some(endpoint) = left.into_iter().find(|endpoint| is_it(&endpoint.container)) else {
            return Err(err);
        };
        self.end_networks(ctx, &endpoint.container).await;
        Ok(())
    }

    /// A container without networks that does not run can have some at its next start.
    async fn leave_none(&self, ctx: &Context, target: &Target) -> Result<()> {
        if target.runs {
            return Err(refused(PRIVATE, &target.meta.name));
        }
        let change = |meta: &mut Meta| {
            meta.settings.network = Network::Attached;
            // As it was made.
            NONE.clone_into(&mut meta.settings.networking.mode);
        };
        let action = Some(ContainerAction::Updated);
        self.store.update(ctx, &target.container.id, Durability::Sync, action, change).await
    }
}

/// Refuses containers and networks that don't go together.
fn connectable(meta: &Meta, network: &Found, text: &str) -> Result<()> {
    let why = match (meta.settings.network, network.driver) {
        (Network::Container, _) | (Network::Host, Driver::Bridge | Driver::Macvlan) => SHARED,
        (_, Driver::Host) => HOST,
        (Network::None, _) | (_, Driver::Null) => PRIVATE,
        (Network::Attached, _) if meta.settings.networking.attached(&network.id).is_none() => {
            return Ok(());
        }
        _ => {
            return Err(Error::already_exists(format!(
                "endpoint with name {} already exists in network {}",
                meta.name, network.name
            ))
            .about("container", text));
        }
    };
    Err(refused(why, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::tests::network;

    #[test]
    fn who_can_be_connected() {
        let bridge = network("app", Driver::Bridge);
        let said = |how: Network, network: &Found| {
            let mut meta = Meta { name: "web".into(), ..Meta::default() };
            meta.settings.network = how;
            connectable(&meta, network, "web").map_err(|err| err.to_string())
        };
        assert_eq!(said(Network::Attached, &bridge), Ok(()));
        assert_eq!(said(Network::Container, &bridge), Err(SHARED.to_owned()));
        assert_eq!(said(Network::Host, &bridge), Err(SHARED.to_owned()));
        assert_eq!(said(Network::None, &bridge), Err(PRIVATE.to_owned()));
        let (host, none) = (network("host", Driver::Host), network("none", Driver::Null));
        assert_eq!(said(Network::Attached, &host), Err(HOST.to_owned()));
        assert_eq!(said(Network::Attached, &none), Err(PRIVATE.to_owned()));
        let mut meta = Meta::default();
        meta.settings.network = Network::Attached;
        meta.settings.networking.attached = vec![Attached {
            name: "app".into(),
            attachment: Attachment { network: bridge.id.clone(), ..Attachment::default() },
        }];
        let err = connectable(&meta, &bridge, "web").unwrap_err();
        assert!(err.is_already_exists(), "{err}");
    }
}
