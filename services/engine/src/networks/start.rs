//! Containers in their networks: from a start to its end, and over restarts of the daemon.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::db::blocking;
use gantry_core::networks::{
    Driver, Endpoint, Handover, Joined, Living, Member, NameFiles, Recovered,
};
use gantry_core::{Context, Error, Kind, Result};

use super::Action;
use crate::Engine;
use crate::files::network_socket;
use crate::handover;
use crate::live::Live;
use crate::model::{Connected, Meta, Settings};
use crate::run::Start;

/// How long a start waits for what others had who have just ended.
const ENDING: Duration = Duration::from_secs(2);
/// How long each step may take that brings a container to its networks, at the daemon's start.
const STEP: Duration = Duration::from_secs(5);
/// How long the daemon's start waits for all of them.
const MOMENT: Duration = Duration::from_secs(1);

/// What a container is in its networks.
pub(super) fn member(id: &str, meta: &Meta) -> Member {
    let Settings { hostname, networking, .. } = &meta.settings;
    let attached = networking.attached.iter();
    Member {
        id: id.to_owned(),
        name: meta.name.clone(),
        hostname: hostname.clone(),
        attachments: attached.map(|attached| attached.attachment.clone()).collect(),
        ports: networking.published(),
        dns: networking.dns.clone(),
    }
}

/// Whether what was in use may be free in a moment.
fn may_pass(err: &Error) -> bool {
    matches!(err.kind(), Kind::FailedPrecondition | Kind::ResourceExhausted)
}

/// Says of a network that has gone what it was called, and how to do without it.
fn with_way_out(err: Error, meta: &Meta) -> Error {
    let gone = match err.subject() {
        Some(("network", id)) if err.is_not_found() => meta.settings.networking.attached(id),
        _ => None,
    };
    let Some(gone) = gone else { return err };
    let (network, container) = (&gone.name, &meta.name);
    // Another one that it is in may have the same name by now.
    let attached = &meta.settings.networking.attached;
    let called = attached.iter().filter(|other| other.name == *network).count();
    let which = if called == 1 { network } else { &gone.attachment.network };
    Error::not_found(format!(
        "network {network}, which container {container} is in, was removed: gantry network \
         disconnect -f {which} {container}"
    ))
    .about("network", network)
}

/// Does something that brings a container to its networks, but not for ever.
async fn in_time(id: &str, step: impl Future<Output = Result<()>>) {
    match tokio::time::timeout(STEP, step).await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => tracing::warn!(id, error = %err, "bring a container to its networks"),
        Err(_) => tracing::warn!(id, "bring a container to its networks: it takes too long"),
    }
}

/// Lines of hosts: what the caller wants, then the container's own addresses.
fn lines(mut extra: Vec<String>, settings: &Settings, files: &NameFiles) -> Vec<String> {
    let domain = settings.flags.domainname.as_str();
    let own = files.hosts.iter().map(|(address, names)| {
        if domain.is_empty() || *names != settings.hostname {
            format!("{address}\t{names}")
        } else {
            format!("{address}\t{names}.{domain} {names}")
        }
    });
    extra.extend(own);
    extra
}

impl Engine {
    /// Reserves addresses and ports for a container that is started, and writes the files by
    /// which it finds names.
    ///
    /// # Errors
    /// `FailedPrecondition` for what is in use; `NotFound` for a network that has gone.
    pub(crate) async fn reserve_networks(&self, start: &Start<'_>) -> Result<()> {
        let Start { ctx, container, meta, .. } = start;
        if !meta.settings.is_attached() {
            return Ok(());
        }
        let member = member(&container.id, meta);
        let reserved = match self.parts.endpoints.reserve(ctx, &member).await {
            Err(err) if may_pass(&err) => {
                self.wait_for_endings().await;
                self.parts.endpoints.reserve(ctx, &member).await
            }
            other => other,
        };
        let files = reserved.map_err(|err| with_way_out(err, meta))?;
        self.bring_files(ctx, &container.id, &meta.settings, files).await
    }

    /// Waits until containers that have ended have given back what they had.
    async fn wait_for_endings(&self) {
        let ending = self.live.ending();
        let all = async {
            for live in ending {
                live.wait_settled().await;
            }
        };
        // Who asks is told by the next attempt that it was too long.
        let _ = tokio::time::timeout(ENDING, all).await;
    }

    /// Writes the files by which a container finds names.
    pub(super) async fn bring_files(
        &self,
        ctx: &Context,
        id: &str,
        settings: &Settings,
        files: NameFiles,
    ) -> Result<()> {
        let lines = lines(self.extra_lines(ctx, settings).await?, settings, &files);
        let own = self.files(ctx, id);
        blocking(move || {
            own.bring_hosts(&lines)?;
            own.bring_resolv_conf(&files.resolv_conf)
        })
        .await
    }

    /// Puts a container whose process is prepared into its networks.
    ///
    /// # Errors
    /// The kernel's, the shim's. What there is by then goes with the task.
    pub(crate) async fn join_networks(
        &self,
        start: &Start<'_>,
        pid: u32,
    ) -> Result<Arc<Connected>> {
        let Start { ctx, container, meta, .. } = start;
        if !meta.settings.is_attached() {
            return Ok(Arc::default());
        }
        let member = member(&container.id, meta);
        let joined = self.parts.endpoints.join(ctx, &member, pid).await?;
        let Joined { endpoints, ports, handovers, files } = joined;
        self.hand_over(&container.id, handovers).await?;
        if let Some(files) = files {
            self.bring_files(ctx, &container.id, &meta.settings, files).await?;
        }
        Ok(Arc::new(Connected { endpoints, ports }))
    }

    /// Tells in which networks a container is that has been started.
    pub(crate) async fn tell_connected(&self, ctx: &Context, connected: &Connected) {
        for endpoint in &connected.endpoints {
            self.tell_of_endpoint(ctx, Action::Connect, endpoint).await;
        }
    }

    /// Gives a container's shim what it is to serve.
    pub(super) async fn hand_over(&self, id: &str, handovers: Vec<Handover>) -> Result<()> {
        if handovers.is_empty() {
            return Ok(());
        }
        let socket = network_socket(&self.parts.config.state, id);
        handover::hand_over(&socket, handovers).await
    }

    /// Takes a container whose process has ended out of its networks, and tells that.
    pub(crate) async fn end_networks(&self, ctx: &Context, id: &str) {
        let Connected { endpoints, .. } = self.connected(ctx, id);
        self.leave_networks(ctx, id).await;
        for endpoint in &endpoints {
            self.tell_of_endpoint(ctx, Action::Disconnect, endpoint).await;
        }
    }

    /// Takes a container without a process out of its networks. It may be in none.
    pub(crate) async fn leave_networks(&self, ctx: &Context, id: &str) {
        if let Err(err) = self.parts.endpoints.leave(ctx, id).await {
            tracing::warn!(id, error = %err, "take a container out of its networks");
        }
    }

    async fn tell_of_endpoint(&self, ctx: &Context, action: Action, endpoint: &Endpoint) {
        // One that has gone with the last that was in it is nobody's news.
        if let Ok(network) = self.parts.networks.get(ctx, &endpoint.network).await {
            self.tell_of_network(ctx, action, &network, &endpoint.container);
        }
    }

    /// Where a container is in its networks.
    pub(crate) fn connected(&self, ctx: &Context, id: &str) -> Connected {
        let (endpoints, ports) = self.parts.endpoints.of(ctx, id);
        Connected { endpoints, ports }
    }

    /// Brings networks and the containers that run together, after the daemon has started.
    /// Others are in none from then on. Answers with what [`Engine::settle_networks`] is to know
    /// of those that run.
    pub(crate) async fn recover_networks(&self, living: &[Living]) -> Vec<Recovered> {
        self.parts.endpoints.recover(living).await.unwrap_or_else(|err| {
            tracing::error!(error = %err, "networks of containers are not as they were");
            Vec::new()
        })
    }

    /// Brings a container that runs, and its shim, to what its networks say of it, and then to
    /// what is stored of it. When its shim does not answer at once, only those who want this
    /// container wait for that.
    pub(crate) async fn settle_networks(
        self: &Arc<Self>,
        ctx: &Context,
        id: &str,
        meta: &Meta,
        live: &Arc<Live>,
        recovered: Option<Recovered>,
    ) {
        let pid = live.now().run();
        if !meta.settings.is_attached() || pid == 0 {
            return;
        }
        // Taken here: whoever wants the container next finds it settled.
        let busy = Arc::clone(&live.busy).lock_owned().await;
        let (engine, ctx, id) = (Arc::clone(self), ctx.clone(), id.to_owned());
        let (meta, live) = (meta.clone(), Arc::clone(live));
        let settling = tokio::spawn(async move {
            engine.settle_one(&ctx, &id, &meta, pid, recovered).await;
            live.connect(engine.connected(&ctx, &id));
            drop(busy);
        });
        // It goes on by itself.
        let _ = tokio::time::timeout(MOMENT, settling).await;
    }

    /// Brings a container that runs to what is known of it, then to the networks and ports that
    /// are stored of it: the daemon may have ended between the two.
    async fn settle_one(
        &self,
        ctx: &Context,
        id: &str,
        meta: &Meta,
        pid: u32,
        recovered: Option<Recovered>,
    ) {
        if let Some(recovered) = recovered {
            in_time(id, self.bring_back(recovered)).await;
        }
        in_time(id, self.parts.endpoints.rename(ctx, id, &meta.name)).await;
        in_time(id, self.settle_attached(ctx, id, meta, pid)).await;
        in_time(id, self.settle_ports(ctx, id, meta)).await;
    }

    /// Brings a container that runs, and its shim, to what its networks say of it.
    async fn bring_back(&self, one: Recovered) -> Result<()> {
        let Recovered { namespace, container: id, relays, handovers, files } = one;
        let ctx = Context::new(namespace);
        let write = async {
            match self.store.get(&ctx, &id).await? {
                Some((_, meta)) => self.bring_files(&ctx, &id, &meta.settings, files).await,
                None => Ok(()),
            }
        };
        let written = write.await;
        let shim = network_socket(&self.parts.config.state, &id);
        let relayed = handover::bring_relays(&shim, &relays).await;
        let handed = handover::hand_over(&shim, handovers).await;
        written.and(relayed).and(handed)
    }

    async fn settle_attached(&self, ctx: &Context, id: &str, meta: &Meta, pid: u32) -> Result<()> {
        let Connected { endpoints, .. } = self.connected(ctx, id);
        let mut present = meta.clone();
        let networking = &meta.settings.networking;
        let is_there = |network: &str| endpoints.iter().any(|e| e.network == network);
        present.settings.networking.attached.retain(|a| is_there(&a.attachment.network));
        for endpoint in &endpoints {
            if networking.attached(&endpoint.network).is_none() {
                let member = member(id, &present);
                let left = self.parts.endpoints.disconnect(ctx, &member, &endpoint.network, pid);
                self.took_effect(ctx, id, meta, left.await?).await?;
            }
        }
        for attached in &networking.attached {
            if !is_there(&attached.attachment.network) {
                present.settings.networking.attached.push(attached.clone());
                let joined = self.parts.endpoints.connect(ctx, &member(id, &present), pid).await?;
                self.took_effect(ctx, id, meta, joined).await?;
            }
        }
        Ok(())
    }

    async fn settle_ports(&self, ctx: &Context, id: &str, meta: &Meta) -> Result<()> {
        let Connected { endpoints, ports } = self.connected(ctx, id);
        let wishes = meta.settings.networking.published();
        let (missing, beyond) = super::ports::differences(&wishes, &ports);
        let go = async {
            if beyond.is_empty() {
                return Ok(());
            }
            let joined = self.parts.endpoints.unpublish(ctx, id, &beyond).await?;
            self.took_effect(ctx, id, meta, joined).await
        };
        // They may be in the way of others.
        let gone = go.await;
        // Ports that lead nowhere wait for a network.
        if !missing.is_empty() && self.leads_out(ctx, &endpoints).await {
            let joined = self.parts.endpoints.publish(ctx, id, &missing).await?;
            self.took_effect(ctx, id, meta, joined).await?;
        }
        gone
    }

    /// Whether ports can be published from one of these places.
    async fn leads_out(&self, ctx: &Context, endpoints: &[Endpoint]) -> bool {
        for endpoint in endpoints {
            let network = self.parts.networks.get(ctx, &endpoint.network).await;
            if network.is_ok_and(|known| known.driver == Driver::Bridge && !known.internal) {
                return true;
            }
        }
        false
    }

    /// Does what follows a change of a container that runs.
    pub(super) async fn took_effect(
        &self,
        ctx: &Context,
        id: &str,
        meta: &Meta,
        joined: Joined,
    ) -> Result<()> {
        self.hand_over(id, joined.handovers).await?;
        match joined.files {
            Some(files) => self.bring_files(ctx, id, &meta.settings, files).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::networks::Attachment;

    use super::*;
    use crate::model::Attached;

    #[test]
    fn lines_of_hosts() {
        let files = NameFiles {
            resolv_conf: String::new(),
            hosts: vec![
                ([10, 0, 0, 2].into(), "web".to_owned()),
                ([10, 0, 0, 3].into(), "other".to_owned()),
            ],
        };
        let mut settings = Settings { hostname: "web".into(), ..Settings::default() };
        let made = lines(vec!["10.0.0.9\tdb".to_owned()], &settings, &files);
        assert_eq!(made, ["10.0.0.9\tdb", "10.0.0.2\tweb", "10.0.0.3\tother"]);
        settings.flags.domainname = "example.com".into();
        let made = lines(Vec::new(), &settings, &files);
        assert_eq!(made, ["10.0.0.2\tweb.example.com web", "10.0.0.3\tother"]);
    }

    #[test]
    fn networks_that_have_gone_are_named() {
        let mut meta = Meta { name: "gg".into(), ..Meta::default() };
        let attached = |id: &str| Attached {
            name: "gone".into(),
            attachment: Attachment { network: id.into(), ..Attachment::default() },
        };
        meta.settings.networking.attached = vec![attached("n1")];
        let said = |meta: &Meta, id: &str| {
            let err = Error::not_found(format!("network {id} not found")).about("network", id);
            with_way_out(err, meta).to_string()
        };
        assert_eq!(
            said(&meta, "n1"),
            "network gone, which container gg is in, was removed: gantry network disconnect -f \
             gone gg"
        );
        assert_eq!(said(&meta, "n2"), "network n2 not found");
        meta.settings.networking.attached.push(attached("n2"));
        assert!(said(&meta, "n1").ends_with("disconnect -f n1 gg"));
    }

    #[test]
    fn what_is_asked_for_again() {
        assert!(may_pass(&Error::failed_precondition("port 80 is in use")));
        assert!(!may_pass(&Error::not_found("network x")));
        assert!(!may_pass(&Error::invalid_argument("10.0.0.1")));
    }
}
