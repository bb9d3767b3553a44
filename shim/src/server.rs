//! The resident process: one thread that serves its sockets until it is told
//! to stop and has no containers.

use std::cell::RefCell;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use gantry_ttrpc::gantry::shim::v1::AdoptRequest;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::error::{self, Error};
use crate::launch::{self, Bound};
use crate::reaper::Reaper;
use crate::runtime::Runtime;
use crate::service::{Api, Service};

/// How long the last answers on the connection of a ready-made shim may take.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// Whose shim this is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// containerd's namespace.
    pub namespace: String,
    /// The container (or group) it was started for.
    pub id: String,
    /// That container's bundle.
    pub bundle: PathBuf,
    /// Where it listens, with the scheme; empty until it does.
    pub address: String,
    /// Where events go; empty for nowhere.
    pub ttrpc_address: String,
    /// Write debug messages.
    pub debug: bool,
}

impl Identity {
    /// What an Adopt request says.
    ///
    /// # Errors
    /// A name is empty or the bundle's path is not absolute.
    pub fn from_request(request: &AdoptRequest) -> Result<Self, Error> {
        if request.namespace.is_empty() || request.id.is_empty() {
            return Err(error::invalid("adopt: namespace and id are required"));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(error::invalid(format!(
                "adopt: bundle {:?} is not an absolute path",
                request.bundle
            )));
        }
        Ok(Self {
            namespace: request.namespace.clone(),
            id: request.id.clone(),
            bundle,
            address: String::new(),
            ttrpc_address: request.ttrpc_address.clone(),
            debug: request.debug,
        })
    }
}

/// Where the Adopt call leaves the socket for the loop that serves it.
#[derive(Debug, Clone, Default)]
pub struct Adoption(Rc<Handover>);

#[derive(Debug, Default)]
struct Handover {
    /// The bound socket and its path, until the loop takes them.
    socket: RefCell<Option<(UnixListener, PathBuf)>>,
    ready: Notify,
}

impl Adoption {
    /// Listens for `identity` next to the daemon's socket; gives the address.
    ///
    /// # Errors
    /// The bundle is not there, or the socket is taken or cannot be made.
    pub fn listen(&self, identity: &Identity, daemon: &str) -> Result<String, Error> {
        std::env::set_current_dir(&identity.bundle)
            .map_err(|e| error::io(format!("enter the bundle {}", identity.bundle.display()), e))?;
        let path = launch::socket_path(daemon, &identity.namespace, &identity.id, None);
        let Bound::New(listener) = launch::bind(&path)? else {
            return Err(error::exists(format!("shim for {} on {}", identity.id, path.display())));
        };
        let address = format!("unix://{}", path.display());
        let kept = launch::write_atomically(&identity.bundle.join("address"), address.as_bytes());
        if let Err(e) = kept {
            let _ = std::fs::remove_file(&path);
            return Err(e);
        }
        self.0.socket.replace(Some((listener, path)));
        self.0.ready.notify_one();
        Ok(address)
    }

    fn take(&self) -> Option<(UnixListener, PathBuf)> {
        self.0.socket.take()
    }

    async fn done(&self) -> (UnixListener, PathBuf) {
        loop {
            if let Some(listener) = self.take() {
                return listener;
            }
            self.0.ready.notified().await;
        }
    }
}

/// Serves `listener` as the shim of `identity`; returns when it is to exit.
///
/// # Errors
/// The process cannot be set up, or accepting fails for good.
pub fn cold(
    runtime: Runtime,
    listener: UnixListener,
    socket: &Path,
    identity: &Identity,
) -> Result<(), Error> {
    run(async {
        let service = set_up(runtime, Adoption::default())?;
        service.adopt(identity.clone())?;
        serve(&service, listener, socket).await
    })
}

/// Serves the connected socket `fd` as a ready-made shim, until it is adopted
/// or the socket closes; once adopted, goes on like any other.
///
/// # Errors
/// The process cannot be set up, or accepting fails for good.
pub fn warm(fd: RawFd) -> Result<(), Error> {
    let stream = inherited(fd)?;
    launch::detach()?;
    let runtime = Runtime::open()?;
    runtime.make_ready();
    run(async {
        let adoption = Adoption::default();
        let service = set_up(runtime, adoption.clone())?;
        let failed = |e| error::io("serve the inherited socket", e);
        stream.set_nonblocking(true).map_err(failed)?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(failed)?;
        let api = Api(service.clone());
        let servers = api.servers();
        let mut connection = pin!(gantry_ttrpc::serve_connection(stream, &servers));
        let (adopted, connected) = tokio::select! {
            biased;
            adopted = adoption.done() => (Some(adopted), true),
            // The daemon has left; perhaps it adopted as the last thing.
            _ = &mut connection => (adoption.take(), false),
        };
        let Some((listener, socket)) = adopted else { return Ok(()) };
        let first = async {
            if !connected {
                return;
            }
            tokio::select! {
                _ = &mut connection => {}
                () = service.stopped() => {
                    let _ = tokio::time::timeout(LAST_ANSWERS, &mut connection).await;
                }
            }
        };
        let (served, ()) = tokio::join!(serve(&service, listener, &socket), first);
        served
    })
}

/// Takes over a socket named on the command line, away from the numbers of the
/// standard streams, which are about to become `/dev/null`.
fn inherited(fd: RawFd) -> Result<UnixStream, Error> {
    // SAFETY: F_DUPFD_CLOEXEC has no memory arguments, and fails cleanly on a
    // number that is not open.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(error::io(
            format!("find the inherited socket {fd}"),
            std::io::Error::last_os_error(),
        ));
    }
    if fd > 2 {
        // SAFETY: the descriptor is open, as was just seen, and by the meaning
        // of the flag that named it it was passed for this process to own.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    // SAFETY: the copy is new and belongs to nobody else.
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(copy) }))
}

fn run<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| error::io("start the event loop", e))?;
    LocalSet::new().block_on(&runtime, future)
}

/// Takes over children and signals.
fn set_up(runtime: Runtime, adoption: Adoption) -> Result<Rc<Service>, Error> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| error::io("become the reaper of orphans", e))?;
    let failed = |e| error::io("catch signals", e);
    let reaper = Reaper::start().map_err(failed)?;
    let service = Rc::new(Service::new(runtime, reaper, adoption));
    // Caught rather than ignored: what is ignored stays so across exec, and a
    // container's program must find the defaults.
    for kind in [SignalKind::pipe(), SignalKind::hangup()] {
        let mut stream = signal(kind).map_err(failed)?;
        tokio::task::spawn_local(async move { while stream.recv().await.is_some() {} });
    }
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut stream = signal(kind).map_err(failed)?;
        let service = service.clone();
        tokio::task::spawn_local(async move {
            while stream.recv().await.is_some() {
                service.stop_if_empty();
            }
        });
    }
    Ok(service)
}

async fn serve(service: &Rc<Service>, listener: UnixListener, socket: &Path) -> Result<(), Error> {
    let failed = |e| error::io(format!("serve {}", socket.display()), e);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
    let api = Api(service.clone());
    let servers = api.servers();
    let stopped = async {
        service.stopped().await;
        // First the name goes: whoever comes now starts another shim.
        let _ = std::fs::remove_file(socket);
    };
    let served = gantry_ttrpc::serve(listener, servers, stopped).await;
    service.settle().await;
    served.map_err(failed)
}
