//! The networks of this host, and containers in them.
//!
//! What a container has, addresses and ports, is in memory and in a record, which is written
//! before anything is done for it. Calls about one container wait for each other, and so do those
//! that make or remove one network's bridge; nobody else waits for anybody. What was begun goes on
//! when the caller goes away.

mod attach;
mod bridge;
mod change;
mod config;
mod create;
mod inner;
mod join;
mod leave;
mod memory;
mod options;
mod plan;
mod predefined;
mod publish;
mod records;
mod recover;
mod repair;
mod reserve;
mod resolver;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::db::Database;
use gantry_core::networks::{
    Endpoint, Endpoints, Explanation, Joined, Living, Member, NameFiles, Network, Networks,
    NewNetwork, PortWish, Protocol, Published, Recovered,
};
use gantry_core::{Context, Error, Result};

pub use config::NetworkConfig;
use inner::Inner;

use crate::addresses::Key;

/// The networks of this host.
pub struct LocalNetworks {
    inner: Arc<Inner>,
}

impl LocalNetworks {
    /// Reads what is stored. [`Endpoints::recover`] is to be called before anything else. It
    /// blocks.
    ///
    /// # Errors
    /// `InvalidArgument` for the configuration; the store's and the file system's.
    pub fn open(config: NetworkConfig, db: Arc<dyn Database>) -> Result<Self> {
        Ok(Self { inner: Arc::new(Inner::open(config, db)?) })
    }
}

/// Does this to its end, also when the caller goes away.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(work).await;
    done.map_err(|err| Error::internal("an operation on networks failed").with_source(err))?
}

fn key(ctx: &Context, container: &str) -> Key {
    (ctx.namespace.clone(), container.to_owned())
}

#[async_trait]
impl Networks for LocalNetworks {
    async fn create(&self, ctx: &Context, new: NewNetwork) -> Result<(Network, Vec<String>)> {
        let (inner, namespace) = (Arc::clone(&self.inner), ctx.namespace.clone());
        to_the_end(async move { inner.create(namespace, new).await }).await
    }

    async fn get(&self, ctx: &Context, text: &str) -> Result<Network> {
        let memory = self.inner.memory();
        memory.find(&ctx.namespace, text).map(|known| known.record.network.clone())
    }

    async fn list(&self, ctx: &Context) -> Result<Vec<Network>> {
        let memory = self.inner.memory();
        let known = memory.networks.values().filter(|known| known.is_for(&ctx.namespace));
        let mut all: Vec<_> = known.map(|known| known.record.network.clone()).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    async fn remove(&self, ctx: &Context, id: &str) -> Result<()> {
        let (inner, namespace, id) =
            (Arc::clone(&self.inner), ctx.namespace.clone(), id.to_owned());
        to_the_end(async move { inner.remove(namespace, &id).await }).await
    }

    async fn endpoints(&self, ctx: &Context, network: &str) -> Result<Vec<Endpoint>> {
        let memory = self.inner.memory();
        let known = memory.find(&ctx.namespace, network)?;
        let own = known.members.iter().filter(|(namespace, _)| *namespace == ctx.namespace);
        let joined = own.filter_map(|key| memory.members.get(key));
        let joined = joined.filter(|present| present.record.joined);
        let all = joined.flat_map(|present| &present.record.endpoints);
        Ok(all.filter(|endpoint| endpoint.network == known.id()).cloned().collect())
    }
}

#[async_trait]
impl Endpoints for LocalNetworks {
    async fn reserve(&self, ctx: &Context, member: &Member) -> Result<NameFiles> {
        let (inner, key, member) = (Arc::clone(&self.inner), key(ctx, &member.id), member.clone());
        to_the_end(async move { inner.reserve(key, member).await }).await
    }

    async fn join(&self, ctx: &Context, member: &Member, pid: u32) -> Result<Joined> {
        let (inner, key) = (Arc::clone(&self.inner), key(ctx, &member.id));
        to_the_end(async move { inner.join(key, pid).await }).await
    }

    async fn leave(&self, ctx: &Context, container: &str) -> Result<()> {
        let (inner, key) = (Arc::clone(&self.inner), key(ctx, container));
        to_the_end(async move { inner.leave(key).await }).await
    }

    async fn connect(&self, ctx: &Context, member: &Member, pid: u32) -> Result<Joined> {
        let (inner, key, member) = (Arc::clone(&self.inner), key(ctx, &member.id), member.clone());
        to_the_end(async move { inner.connect(key, member, pid).await }).await
    }

    async fn disconnect(
        &self,
        ctx: &Context,
        member: &Member,
        network: &str,
        pid: u32,
    ) -> Result<Joined> {
        let (inner, key) = (Arc::clone(&self.inner), key(ctx, &member.id));
        let network = network.to_owned();
        to_the_end(async move { inner.disconnect(key, &network, pid).await }).await
    }

    async fn publish(&self, ctx: &Context, container: &str, ports: &[PortWish]) -> Result<Joined> {
        let (inner, key, ports) = (Arc::clone(&self.inner), key(ctx, container), ports.to_vec());
        to_the_end(async move { inner.publish(key, ports).await }).await
    }

    async fn unpublish(
        &self,
        ctx: &Context,
        container: &str,
        ports: &[Published],
    ) -> Result<Joined> {
        let (inner, key, ports) = (Arc::clone(&self.inner), key(ctx, container), ports.to_vec());
        to_the_end(async move { inner.unpublish(key, ports).await }).await
    }

    fn of(&self, ctx: &Context, container: &str) -> (Vec<Endpoint>, Vec<Published>) {
        let memory = self.inner.memory();
        match memory.members.get(&key(ctx, container)) {
            Some(present) => (present.record.endpoints.clone(), present.record.ports.clone()),
            None => (Vec::new(), Vec::new()),
        }
    }

    async fn rename(&self, ctx: &Context, container: &str, name: &str) -> Result<()> {
        let (inner, key, name) = (Arc::clone(&self.inner), key(ctx, container), name.to_owned());
        to_the_end(async move { inner.rename(key, name).await }).await
    }

    async fn recover(&self, living: &[Living]) -> Result<Vec<Recovered>> {
        let (inner, living) = (Arc::clone(&self.inner), living.to_vec());
        to_the_end(async move { inner.recover(living).await }).await
    }

    async fn explain(
        &self,
        address: Option<IpAddr>,
        port: u16,
        protocol: Protocol,
    ) -> Result<Explanation> {
        self.inner.explain(address, port, protocol).await
    }
}
