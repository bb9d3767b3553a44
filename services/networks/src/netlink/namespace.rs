//! Work in the network namespace of a process.

use std::fs::File;
use std::thread;

use gantry_core::{Error, Result};
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

/// Bytes of the stack of a thread that works elsewhere.
const STACK: usize = 256 << 10;

/// The network namespace of a process. While this is open it is there, whatever becomes of
/// the process.
///
/// # Errors
/// [`NotFound`](gantry_core::Kind::NotFound) when the process has ended.
pub(crate) fn namespace_of(pid: u32) -> Result<File> {
    File::open(format!("/proc/{pid}/ns/net"))
        .map_err(|err| Error::io(format!("open the network namespace of process {pid}"), err))
}

/// Does work in the network namespace of a process, by a thread that enters it and then ends:
/// no other thread of this process is ever there. The work goes on when the caller gives up.
///
/// Sockets stay in the namespace that they were made in, wherever they are used then; settings
/// below `/proc/sys/net` are those of the thread's.
///
/// # Errors
/// [`NotFound`](gantry_core::Kind::NotFound) when the process has ended; the work's own.
pub(crate) async fn in_namespace<T: Send + 'static>(
    pid: u32,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let namespace = namespace_of(pid)?;
    let (tell, told) = oneshot::channel();
    let work = move || {
        let entered = setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|err| {
            Error::io(format!("enter the network namespace of process {pid}"), err.into())
        });
        // Who asked may have given up.
        let _ = tell.send(entered.and_then(|()| work()));
    };
    thread::Builder::new()
        .name("netns".to_owned())
        .stack_size(STACK)
        .spawn(work)
        .map_err(|err| Error::io("start a thread for a network namespace", err))?;
    told.await.map_err(|_| Error::internal("the thread in a network namespace failed"))?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::testing::{Process, elsewhere};
    use super::*;

    fn own() -> u64 {
        std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
    }

    #[test]
    fn work_is_done_over_there() {
        elsewhere(|| {
            let process = Process::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let here = own();
            let there = runtime.block_on(in_namespace(process.id(), || Ok(own()))).unwrap();
            let wanted = namespace_of(process.id()).unwrap().metadata().unwrap().ino();
            assert_eq!(there, wanted);
            assert_ne!(there, here);
            assert_eq!(own(), here);
        });
    }

    #[test]
    fn a_failure_is_told() {
        elsewhere(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let process = Process::new();
            let failing = || -> Result<()> { Err(Error::unavailable("not today")) };
            let err = runtime.block_on(in_namespace(process.id(), failing)).unwrap_err();
            assert_eq!(err.to_string(), "not today");
            let pid = process.id();
            drop(process);
            let err = runtime.block_on(in_namespace(pid, || Ok(()))).unwrap_err();
            assert!(err.is_not_found(), "{err}");
        });
    }
}
