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
    pipes: Vec<(OwnedFd, Sink)>,
    /// Where a terminal's output goes.
    terminal: Option<Sink>,
    /// The client's stdin FIFO.
    stdin: Option<Fifo>,
}

/// When a client's stdin FIFO is opened: clients write to it from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// With all else.
    Now,
    /// When the process exists: an input that ends sooner is found ended by clients that
    /// don't know yet whom to tell.
    AtStart,
}

#[derive(Debug)]
enum Fifo {
    Opened(AsyncFd<OwnedFd>),
    Unopened(PathBuf),
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
            Opening { around, child: [None, None, None], waiting: Waiting::default() };
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
        for (fd, sink) in waiting.pipes {
            running.push(Arc::new(Pump::start(
                Arc::new(watched(fd)?),
                sink,
                false,
                self.exited.subscribe(),
            )));
        }
        if let Some(console) = console {
            let master = Arc::new(watched(console)?);
            self.input.set_terminal(master.clone());
            if let Some(sink) = waiting.terminal {
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
            if plan.terminal {
                self.waiting.terminal = Some(Sink::Owner(owner.clone(), Stream::Stdout));
                return Ok(());
            }
            self.copy(1, Sink::Owner(owner.clone(), Stream::Stdout))?;
            return self.copy(2, Sink::Owner(owner.clone(), Stream::Stderr));
        }
        if let Output::Binary(binary) = &plan.stdout {
            let [stdout, stderr] = binary::spawn(binary, self.around).await?;
            if plan.terminal {
                self.waiting.terminal = Some(Sink::Pipe(watched(stdout)?));
                return Ok(());
            }
            self.child[1] = Some(stdout);
            self.child[2] = matches!(plan.stderr, Output::Binary(_)).then_some(stderr);
            return Ok(());
        }
        let stdout = sink(&plan.stdout)?;
        let stderr = match (&stdout, plan.stderr == plan.stdout) {
            (Some(Sink::File(file)), true) => Some(Sink::File(file.clone())),
            _ => sink(&plan.stderr)?,
        };
        if plan.terminal {
            // Without a sink nobody reads the terminal, and it would fill up.
            self.waiting.terminal = Some(match stdout {
                Some(sink) => sink,
                None => Sink::File(Arc::new(open_output(Path::new("/dev/null"))?)),
            });
            return Ok(());
        }
        for (n, sink) in [(1, stdout), (2, stderr)] {
            if let Some(sink) = sink {
                self.copy(n, sink)?;
            }
        }
        Ok(())
    }

    /// Gives the process a pipe as stream `n`, copied to `sink`.
    fn copy(&mut self, n: usize, sink: Sink) -> Result<(), Error> {
        let (ours, theirs) = self.pipe()?;
        self.child[n] = Some(theirs);
        self.waiting.pipes.push((ours, sink));
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

fn sink(output: &Output) -> Result<Option<Sink>, Error> {
    match output {
        Output::Path(path) if is_fifo(path) => {
            // Open for reading as well, so that it can be opened before the
            // client and so that the client's leaving breaks nothing.
            let open =
                OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
            let fifo =
                open.map_err(|e| error::io(format!("open the FIFO {}", path.display()), e))?;
            Ok(Some(Sink::Pipe(watched(fifo.into())?)))
        }
        Output::Path(path) => Ok(Some(Sink::File(Arc::new(open_output(path)?)))),
        Output::File(path) => {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)
                    .map_err(|e| error::io(format!("make {}", dir.display()), e))?;
            }
            Ok(Some(Sink::File(Arc::new(open_output(path)?))))
        }
        Output::Null | Output::Binary(_) | Output::Owned(_) => Ok(None),
    }
}

fn open_output(path: &Path) -> Result<File, Error> {
    let open = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
    open.map_err(|e| error::io(format!("open {} for a stream of the process", path.display()), e))
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
