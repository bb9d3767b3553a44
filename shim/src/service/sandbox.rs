//! The sandbox that several containers of this shim belong to, when a daemon asks
//! for one. It has no process of its own: it is this shim, and what runs in it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use gantry_ttrpc::any;
use gantry_ttrpc::containerd::runtime::sandbox::v1::CreateSandboxRequest;
use gantry_ttrpc::containerd::types::Metric;
use gantry_ttrpc::io::containerd::cgroups::{v1, v2};
use prost_types::Any;
use tokio::sync::watch;

use super::{Container, Service, Slot, options};
use crate::clock;
use crate::error::{self, Error};
use crate::reaper::Exit;
use crate::runtime::Metrics;

/// How long containers may take to end once they were killed.
const LAST_BREATH: Duration = Duration::from_secs(10);

/// A sandbox, from CreateSandbox until the shim ends.
#[derive(Debug)]
pub(super) struct Sandbox {
    id: String,
    netns: String,
    annotations: BTreeMap<String, String>,
    started: Cell<Option<Duration>>,
    /// Takes no more containers.
    stopping: Cell<bool>,
    end: watch::Sender<Option<Exit>>,
}

impl Sandbox {
    /// When it was started.
    pub(super) fn started(&self) -> Option<Duration> {
        self.started.get()
    }

    /// How it ended.
    pub(super) fn exit(&self) -> Option<Exit> {
        *self.end.borrow()
    }

    /// Its state, in containerd's words.
    pub(super) fn state(&self) -> &'static str {
        let ready = self.started.get().is_some() && !self.stopping.get();
        if ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) -> Exit {
        let mut end = self.end.subscribe();
        loop {
            if let Some(exit) = *end.borrow_and_update() {
                return exit;
            }
            // The sender is in self.
            let _ = end.changed().await;
        }
    }

    /// Details by name.
    pub(super) fn info(&self, containers: &[Rc<Container>]) -> BTreeMap<String, String> {
        let ids: Vec<_> = containers.iter().map(|container| container.id.as_str()).collect();
        let mut info = BTreeMap::from([
            ("containers".to_owned(), ids.join(",")),
            ("shim_pid".to_owned(), std::process::id().to_string()),
        ]);
        if !self.netns.is_empty() {
            info.insert("netns_path".to_owned(), self.netns.clone());
        }
        info.extend(self.annotations.iter().map(|(k, v)| (format!("annotation.{k}"), v.clone())));
        info
    }
}

impl Service {
    /// The sandbox, which has this ID.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn sandbox(&self, id: &str) -> Result<Rc<Sandbox>, Error> {
        let sandbox = self.sandbox.borrow().clone().filter(|sandbox| sandbox.id == id);
        sandbox.ok_or_else(|| error::not_found(format!("sandbox {id:?}")))
    }

    /// Sets up the shim's sandbox.
    ///
    /// # Errors
    /// There is one already, or it asks for what a sandbox without a process can't have.
    pub(super) fn create_sandbox(&self, request: CreateSandboxRequest) -> Result<(), Error> {
        let id = request.sandbox_id;
        if id.is_empty() {
            return Err(error::invalid("create a sandbox: its id is empty"));
        }
        if !request.rootfs.is_empty() {
            return Err(error::unimplemented(format!(
                "sandbox {id}: rootfs: a sandbox of this runtime has no process and so no root \
                 file system"
            )));
        }
        options::of_sandbox(request.options.as_ref())?;
        self.adopted()?;
        if let Some(there) = &*self.sandbox.borrow() {
            return Err(error::exists(format!("sandbox {}", there.id)));
        }
        self.sandbox.replace(Some(Rc::new(Sandbox {
            id,
            netns: request.netns_path,
            annotations: request.annotations,
            started: Cell::new(None),
            stopping: Cell::new(false),
            end: watch::Sender::new(None),
        })));
        Ok(())
    }

    /// Lets it take containers; gives the moment.
    ///
    /// # Errors
    /// It was started before.
    pub(super) fn start_sandbox(&self, id: &str) -> Result<Duration, Error> {
        let sandbox = self.sandbox(id)?;
        if sandbox.started.get().is_some() || sandbox.stopping.get() {
            return Err(error::precondition(format!("sandbox {id} was started already")));
        }
        let now = clock::now();
        sandbox.started.set(Some(now));
        Ok(now)
    }

    /// Refuses a container when the sandbox takes none any more.
    pub(super) fn takes_containers(&self) -> Result<(), Error> {
        match &*self.sandbox.borrow() {
            Some(sandbox) if sandbox.stopping.get() => {
                Err(error::precondition(format!("sandbox {} has stopped", sandbox.id)))
            }
            _ => Ok(()),
        }
    }

    /// The containers that exist.
    pub(super) fn present(&self) -> Vec<Rc<Container>> {
        let ready = |slot: &Slot| match slot {
            Slot::Ready(container) => Some(container.clone()),
            Slot::Reserved => None,
        };
        self.containers.borrow().values().filter_map(ready).collect()
    }

    /// Ends the sandbox and what runs in it: with SIGTERM, and by force after so many
    /// seconds. The containers stay to be deleted.
    ///
    /// # Errors
    /// Something does not end.
    pub(super) async fn stop_sandbox(&self, id: &str, seconds: u32) -> Result<(), Error> {
        let sandbox = self.sandbox(id)?;
        sandbox.stopping.set(true);
        let containers = self.present();
        if seconds > 0 {
            for container in &containers {
                // One that is not started or has ended gets no signal.
                let _ = self.kill(&container.id, "", libc::SIGTERM as u32, false).await;
            }
            let patience = Duration::from_secs(seconds.into());
            let _ = tokio::time::timeout(patience, ends(&containers)).await;
        }
        for container in &containers {
            // One that has ended is no failure, and one that stays is found below.
            let _ = self.kill(&container.id, "", libc::SIGKILL as u32, true).await;
        }
        if tokio::time::timeout(LAST_BREATH, ends(&containers)).await.is_err() {
            return Err(Error::new(
                error::Kind::DeadlineExceeded,
                format!("sandbox {id}: its containers do not end: deadline exceeded"),
            ));
        }
        // The first stop is the end.
        sandbox.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(Exit { status: 0, at: clock::now() });
            }
            first
        });
        Ok(())
    }

    /// Ends the sandbox, and then the shim.
    ///
    /// # Errors
    /// As above.
    pub(super) async fn shut_down_sandbox(&self, id: &str) -> Result<(), Error> {
        self.stop_sandbox(id, 0).await?;
        self.stop.send_replace(true);
        Ok(())
    }

    /// What the containers in the sandbox use together; nothing while there are none.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn measure_sandbox(&self, id: &str) -> Result<Metric, Error> {
        self.sandbox(id)?;
        let mut total = Total::default();
        for container in self.present() {
            let runs = container.process("").is_ok_and(|init| init.exit().is_none());
            // One that has just been deleted uses nothing.
            if let Ok(metrics) = self.runtime.stats(&container.state, runs) {
                total.add(&metrics);
            }
        }
        let timestamp = Some(clock::timestamp(clock::now()));
        Ok(Metric { timestamp, id: id.to_owned(), data: total.message() })
    }
}

/// Answers when the first processes of all of them have ended.
async fn ends(containers: &[Rc<Container>]) {
    for container in containers {
        if let Ok(init) = container.process("") {
            init.wait().await;
        }
    }
}

/// Readings that can be added up.
#[derive(Debug, Default)]
struct Total {
    unified: Option<bool>,
    cpu: [u64; 3],
    memory: u64,
    pids: u64,
}

impl Total {
    fn add(&mut self, metrics: &Metrics) {
        let (cpu, memory, pids) = match metrics {
            Metrics::V1(m) => {
                let cpu = m.cpu.as_ref().and_then(|cpu| cpu.usage.as_ref());
                let memory = m.memory.as_ref().and_then(|memory| memory.usage.as_ref());
                (
                    cpu.map_or([0; 3], |cpu| [cpu.total, cpu.user, cpu.kernel]),
                    memory.map_or(0, |memory| memory.usage),
                    m.pids.as_ref().map_or(0, |pids| pids.current),
                )
            }
            Metrics::V2(m) => (
                m.cpu.as_ref().map_or([0; 3], |c| [c.usage_usec, c.user_usec, c.system_usec]),
                m.memory.as_ref().map_or(0, |memory| memory.usage),
                m.pids.as_ref().map_or(0, |pids| pids.current),
            ),
        };
        self.unified = Some(matches!(metrics, Metrics::V2(_)));
        for (sum, one) in self.cpu.iter_mut().zip(cpu) {
            *sum = sum.saturating_add(one);
        }
        self.memory = self.memory.saturating_add(memory);
        self.pids = self.pids.saturating_add(pids);
    }

    fn message(&self) -> Option<Any> {
        let [total, user, kernel] = self.cpu;
        let packed = if self.unified? {
            any::pack(&v2::Metrics {
                cpu: Some(v2::CpuStat {
                    usage_usec: total,
                    user_usec: user,
                    system_usec: kernel,
                    ..v2::CpuStat::default()
                }),
                memory: Some(v2::MemoryStat { usage: self.memory, ..v2::MemoryStat::default() }),
                pids: Some(v2::PidsStat { current: self.pids, limit: 0 }),
                ..v2::Metrics::default()
            })
        } else {
            let usage = v1::CpuUsage { total, user, kernel, ..v1::CpuUsage::default() };
            let memory = v1::MemoryEntry { usage: self.memory, ..v1::MemoryEntry::default() };
            any::pack(&v1::Metrics {
                cpu: Some(v1::CpuStat { usage: Some(usage), ..v1::CpuStat::default() }),
                memory: Some(v1::MemoryStat { usage: Some(memory), ..v1::MemoryStat::default() }),
                pids: Some(v1::PidsStat { current: self.pids, limit: 0 }),
                ..v1::Metrics::default()
            })
        };
        Some(packed)
    }
}
