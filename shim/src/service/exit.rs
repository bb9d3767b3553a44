//! What happens when a process ends.

use std::rc::Rc;
use std::time::Duration;

use gantry_ttrpc::containerd::events::TaskExit;
use tokio::sync::oneshot;

use super::{Container, Process, Service};
use crate::clock;
use crate::exits::{self, Record};
use crate::reaper::Exit;

/// How long the exit may be held back by output that the shim itself keeps.
const OWN_OUTPUT: Duration = Duration::from_secs(10);
/// And by output for a client, which may have left.
const CLIENTS_OUTPUT: Duration = Duration::from_millis(250);
/// How long init's exit may be held back by those of its container.
const OTHERS: Duration = Duration::from_secs(10);

impl Service {
    /// Waits for the end of a process; then, in this order: its record in the
    /// bundle, its output in the log, the exit for who is attached, the event, the answer to Wait.
    pub(super) async fn follow_exit(
        self: Rc<Self>,
        container: Rc<Container>,
        process: Rc<Process>,
        exit: oneshot::Receiver<Exit>,
    ) {
        let Ok(exit) = exit.await else { return };
        if process.is_init() {
            // Its sockets in the container's network namespace would keep that.
            container.network.take();
        }
        // Create and start events come first.
        let _order = process.order.lock().await;
        let exit = process.judged(exit);
        self.record(&container, &process, exit);
        if process.is_init() {
            self.end_others(&container).await;
        }
        let limit = if process.streams.stores() { OWN_OUTPUT } else { CLIENTS_OUTPUT };
        process.streams.drain(limit).await;
        // Whoever is attached may be all that anybody waits for. A status has 8 bits, or is 128
        // plus a signal.
        process.streams.finish(exit.status as i32);
        let id = if process.is_init() { &container.id } else { &process.exec_id };
        self.event(
            "/tasks/exit",
            &TaskExit {
                container_id: container.id.clone(),
                id: id.clone(),
                pid: process.pid() as u32,
                exit_status: exit.status,
                exited_at: Some(clock::timestamp(exit.at)),
            },
        );
        process.set_exit(exit);
    }

    /// Stores an exit in the bundle.
    pub(super) fn record(&self, container: &Container, process: &Process, exit: Exit) {
        let record = Record::new(process.pid(), exit);
        if let Err(e) = exits::write(&container.bundle, &process.exec_id, &record) {
            self.report.warn(&format!("the exit of {} is only in memory: {e}", container.id));
        }
    }

    /// Init has ended: so do the others. The kernel sees to that in a pid
    /// namespace of the container's own; without one they are killed here.
    async fn end_others(&self, container: &Container) {
        if container.state.shares_pids()
            && self.runtime.pids(&container.state).is_ok_and(|pids| !pids.is_empty())
            && let Err(e) = self.runtime.kill_all(&container.state, libc::SIGKILL).await
        {
            self.report.warn(&format!("processes of {} may be left: {e}", container.id));
        }
        let others: Vec<_> = container.processes.borrow().values().cloned().collect();
        let ends = async {
            for process in others.iter().filter(|p| !p.is_init() && p.started()) {
                process.wait().await;
            }
        };
        let _ = tokio::time::timeout(OTHERS, ends).await;
    }
}
