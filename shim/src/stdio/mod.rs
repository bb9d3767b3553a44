//! The standard streams of one process, on the shim's side.
//!
//! [`Streams::open`] opens everything a request names before the process is
//! made; [`Streams::connect`] starts copying once it exists. The process always
//! gets pipes (or a terminal) of its own, never the client's FIFOs: a client
//! that comes late, or leaves and comes back, is not noticed inside, and
//! deleting the process ends the client's streams even while a descendant of
//! the process still holds its end.

mod binary;
mod input;
mod owner;
mod pump;
mod uri;

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

pub use input::Input;
pub use owner::Owner;
pub use uri::{Binary, Output, Owned, Plan};

use crate::attach;
use crate::error::{self, Error};
use crate::log::{self, Stream};
use crate::report::Report;
use crate::runtime::Stdio;
use input::watched;
use pump::{Pump, Sink};

/// Time between two tries to write to a full disk.
const DISK_FULL_PAUSE: Duration = Duration::from_millis(250);

/// What a process's streams belong to, for logging programs and messages.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// containerd's namespace.
    pub namespace: String,
    /// The container's id.
    pub container: String,
    /// Who owns the pipes (`io_uid`, `io_gid`).
    pub owner: (u32, u32),
    /// Counts attached clients.
    pub tracker: TaskTracker,
    /// The shim's own messages.
    pub report: Report,
}

/// The shim's side of a process's standard streams.
#[derive(Debug)]
pub struct Streams {
    input: Arc<Input>,
    owner: Option<Arc<Owner>>,
    /// Write end of the client's stdin FIFO: while it is open, the client
    /// leaving is not the end of input. Closed by CloseIO.
    holder: Mutex<Option<File>>,
    exited: watch::Sender<bool>,
    /// What becomes a pump when the process exists; held for moments only.
    waiting: Mutex<Waiting>,
    /// Held for moments only.
    running: Mutex<Vec<Arc<Pump>>>,
    feeder: Mutex<Option<AbortHandle>>,
    /// The input comes from a client's FIFO.
    fed: bool,
    /// The client has ended the input.
    ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Read ends of the process's pipes.
    pipes: Vec<(OwnedFd, Destination)>,
    /// Where a terminal's output goes.
    terminal: Option<Destination>,
    /// The client's stdin FIFO.
    stdin: Option<Fifo>,
}

/// When a client's FIFOs are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// With all else.
    Now,
    /// When the process exists: a client that never starts it is not kept reading its
    /// output, and one that ends the input at once knows by then whom to tell.
    AtStart,
}

#[derive(Debug)]
enum Fifo {
    Opened(AsyncFd<OwnedFd>),
    Unopened(PathBuf),
}

#[derive(Debug)]
enum Destination {
    Opened(Sink),
    Unopened(PathBuf),
}

impl Destination {
    fn open(self) -> Result<Sink, Error> {
        match self {
            Self::Opened(sink) => Ok(sink),
            Self::Unopened(path) => open_fifo(&path),
        }
    }
}

impl Streams {
    /// Opens what `plan` names; gives the shim's side and the process's.
    ///
    /// # Errors
    /// Something cannot be opened; nothing is left open then.
    pub async fn open(
        plan: &Plan,
        around: &Surroundings,
        when: Open,
    ) -> Result<(Self, Stdio), Error> {
        let mut opening =
            Opening { around, when, child: [None, None, None], waiting: Waiting::default() };
        let mut holder = None;
        if let Some(path) = &plan.stdin {
            check_stdin(path)?;
            opening.waiting.stdin = Some(match when {
                Open::AtStart => Fifo::Unopened(path.clone()),
                Open::Now => {
                    let (reader, writer) = open_stdin(path)?;
                    holder = Some(writer);
                    Fifo::Opened(watched(reader)?)
                }
            });
        }
        let input = opening.input(plan)?;
        let owner = match &plan.stdout {
            Output::Owned(owned) => Some(opening.owner(owned, &input)?),
            _ => None,
        };
        opening.outputs(plan, owner.as_ref()).await?;
        let [stdin, stdout, stderr] = opening.child;
        let stdio =
            if plan.terminal { Stdio::Terminal } else { Stdio::Fds { stdin, stdout, stderr } };
        let streams = Self {
            fed: opening.waiting.stdin.is_some(),
            ended: AtomicBool::new(false),
            input,
            owner,
            holder: Mutex::new(holder),
            exited: watch::Sender::new(false),
            waiting: Mutex::new(opening.waiting),
            running: Mutex::new(Vec::new()),
            feeder: Mutex::new(None),
        };
        Ok((streams, stdio))
    }

    /// Starts copying; the process exists, `console` is its terminal's master.
    ///
    /// # Errors
    /// A descriptor cannot be watched.
    pub fn connect(&self, console: Option<OwnedFd>) -> Result<(), Error> {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        let mut running = lock(&self.running);
        for (fd, destination) in waiting.pipes {
            running.push(Arc::new(Pump::start(
                Arc::new(watched(fd)?),
                destination.open()?,
                false,
                self.exited.subscribe(),
            )));
        }
        if let Some(console) = console {
            let master = Arc::new(watched(console)?);
            self.input.set_terminal(master.clone());
            if let Some(destination) = waiting.terminal {
                let sink = destination.open()?;
                running.push(Arc::new(Pump::start(master, sink, true, self.exited.subscribe())));
            }
        }
        if let Some(stdin) = waiting.stdin {
            let stdin = match stdin {
                Fifo::Opened(reader) => reader,
                Fifo::Unopened(path) => {
                    let (reader, writer) = open_stdin(&path)?;
                    if !self.ended.load(Ordering::Relaxed) {
                        *lock(&self.holder) = Some(writer);
                    }
                    watched(reader)?
                }
            };
            let task = tokio::spawn(feed(stdin, self.input.clone()));
            *lock(&self.feeder) = Some(task.abort_handle());
        }
        Ok(())
    }

    /// Sets a terminal's window size.
    pub fn resize(&self, width: u16, height: u16) {
        self.input.resize(width, height);
    }

    /// Ends the input: of a FIFO once the client has also closed it, so that
    /// nothing written is lost; of an attached one at once.
    pub fn close_stdin(&self) {
        self.ended.store(true, Ordering::Relaxed);
        lock(&self.holder).take();
        if !self.fed {
            self.input.close();
        }
    }

    /// Whether the shim itself keeps the output: then all of it is taken
    /// before the exit is made known.
    pub fn stores(&self) -> bool {
        self.owner.is_some()
    }

    /// After the exit: waits until all output has arrived, `limit` at most.
    pub async fn drain(&self, limit: Duration) {
        self.exited.send_replace(true);
        if let Some(owner) = &self.owner {
            owner.release();
        }
        let pumps = lock(&self.running).clone();
        let all = async {
            for pump in &pumps {
                pump.drained().await;
            }
        };
        // Beyond the limit the rest follows later, as long as the process is
        // not deleted.
        let _ = tokio::time::timeout(limit, all).await;
    }

    /// Tells attached clients what the log misses, and the exit status.
    pub fn finish(&self, status: i32) {
        if let Some(owner) = &self.owner {
            owner.finish(status);
        }
    }

    /// Closes everything; clients reading a FIFO see its end.
    pub fn close(&self) {
        self.input.shut();
        lock(&self.holder).take();
        if let Some(feeder) = lock(&self.feeder).take() {
            feeder.abort();
        }
        lock(&self.running).clear();
        *lock(&self.waiting) = Waiting::default();
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is open so far.
struct Opening<'a> {
    around: &'a Surroundings,
    when: Open,
    child: [Option<OwnedFd>; 3],
    waiting: Waiting,
}

impl Opening<'_> {
    fn input(&mut self, plan: &Plan) -> Result<Arc<Input>, Error> {
        let wanted =
            plan.stdin.is_some() || matches!(&plan.stdout, Output::Owned(owned) if owned.stdin);
        Ok(Arc::new(if plan.terminal {
            Input::terminal()
        } else if wanted {
            let (theirs, ours) = self.pipe()?;
            self.child[0] = Some(theirs);
            Input::pipe(ours)?
        } else {
            Input::none()
        }))
    }

    fn owner(&mut self, owned: &Owned, input: &Arc<Input>) -> Result<Arc<Owner>, Error> {
        let log = owned.log.as_ref().map(log::Driver::open).transpose()?;
        let serve =
            |path: &PathBuf| attach::Server::bind(path, input.clone(), &self.around.tracker);
        let attach = owned.attach.as_ref().map(serve).transpose()?;
        Ok(Arc::new(Owner::new(log, attach, self.around.report.clone())))
    }

    async fn outputs(&mut self, plan: &Plan, owner: Option<&Arc<Owner>>) -> Result<(), Error> {
        if let Some(owner) = owner {
            let stream = |stream| Destination::Opened(Sink::Owner(owner.clone(), stream));
            if plan.terminal {
                self.waiting.terminal = Some(stream(Stream::Stdout));
                return Ok(());
            }
            self.copy(1, stream(Stream::Stdout))?;
            return self.copy(2, stream(Stream::Stderr));
        }
        if let Output::Binary(binary) = &plan.stdout {
            let [stdout, stderr] = binary::spawn(binary, self.around).await?;
            if plan.terminal {
                self.waiting.terminal = Some(Destination::Opened(Sink::Pipe(watched(stdout)?)));
                return Ok(());
            }
            self.child[1] = Some(stdout);
            self.child[2] = matches!(plan.stderr, Output::Binary(_)).then_some(stderr);
            return Ok(());
        }
        let stdout = self.destination(&plan.stdout)?;
        let stderr = match (&stdout, plan.stderr == plan.stdout) {
            (Some(Destination::Opened(Sink::File(file))), true) => {
                Some(Destination::Opened(Sink::File(file.clone())))
            }
            _ => self.destination(&plan.stderr)?,
        };
        if plan.terminal {
            // Without a sink nobody reads the terminal, and it would fill up.
            self.waiting.terminal = Some(match stdout {
                Some(destination) => destination,
                None => Destination::Opened(file(Path::new("/dev/null"))?),
            });
            return Ok(());
        }
        for (n, destination) in [(1, stdout), (2, stderr)] {
            if let Some(destination) = destination {
                self.copy(n, destination)?;
            }
        }
        Ok(())
    }

    fn destination(&self, output: &Output) -> Result<Option<Destination>, Error> {
        let sink = match output {
            Output::Path(path) if is_fifo(path) => match self.when {
                Open::AtStart => return Ok(Some(Destination::Unopened(path.clone()))),
                Open::Now => open_fifo(path)?,
            },
            Output::Path(path) => file(path)?,
            Output::File(path) => {
                if let Some(dir) = path.parent() {
                    fs::create_dir_all(dir)
                        .map_err(|e| error::io(format!("make {}", dir.display()), e))?;
                }
                file(path)?
            }
            Output::Null | Output::Binary(_) | Output::Owned(_) => return Ok(None),
        };
        Ok(Some(Destination::Opened(sink)))
    }

    /// Gives the process a pipe as stream `n`, copied to `destination`.
    fn copy(&mut self, n: usize, destination: Destination) -> Result<(), Error> {
        let (ours, theirs) = self.pipe()?;
        self.child[n] = Some(theirs);
        self.waiting.pipes.push((ours, destination));
        Ok(())
    }

    fn pipe(&self) -> Result<(OwnedFd, OwnedFd), Error> {
        const TRIED: &str = "make a pipe for a stream of the process";
        let (reader, writer) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| error::io(TRIED, e))?;
        let (uid, gid) = self.around.owner;
        if (uid, gid) != (0, 0) {
            std::os::unix::fs::fchown(&reader, Some(uid), Some(gid))
                .map_err(|e| error::io(TRIED, e))?;
        }
        Ok((reader, writer))
    }
}

/// A client's FIFO, open for reading as well: then the client may come later, and its
/// leaving breaks nothing.
fn open_fifo(path: &Path) -> Result<Sink, Error> {
    let open = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    let fifo = open.map_err(|e| error::io(format!("open the FIFO {}", path.display()), e))?;
    Ok(Sink::Pipe(watched(fifo.into())?))
}

fn file(path: &Path) -> Result<Sink, Error> {
    let open = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
    let file = open.map_err(|e| {
        error::io(format!("open {} for a stream of the process", path.display()), e)
    })?;
    Ok(Sink::File(Arc::new(file)))
}

fn check_stdin(path: &Path) -> Result<(), Error> {
    if is_fifo(path) {
        return Ok(());
    }
    match fs::metadata(path) {
        Err(e) => Err(error::io(format!("open the FIFO {} as stdin", path.display()), e)),
        Ok(_) => Err(error::invalid(format!("stdin {}: not a FIFO", path.display()))),
    }
}

/// The client's stdin, and its write end, too.
fn open_stdin(path: &Path) -> Result<(OwnedFd, File), Error> {
    let failed = |e| error::io(format!("open the FIFO {} as stdin", path.display()), e);
    // The reader first: a writer that does not wait needs one.
    let reader =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let writer =
        OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    Ok((reader.into(), writer))
}

fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo())
}

/// Copies the client's stdin into the process until the client has ended it.
async fn feed(source: AsyncFd<OwnedFd>, input: Arc<Input>) {
    loop {
        let Ok(mut ready) = source.readable().await else { break };
        let mut buffer = vec![0; 16 * 1024];
        match ready
            .try_io(|fd| nix::unistd::read(fd.get_ref(), &mut buffer).map_err(std::io::Error::from))
        {
            Ok(Ok(n)) if n > 0 => input.write(&buffer[..n]).await,
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(_) => break,
            Err(_would_block) => {}
        }
    }
    input.close();
}
