//! A session: a container's input and output on the caller's terminal, pipes
//! and signals.

mod end;
pub(crate) mod keys;
mod output;
pub(crate) mod signals;
mod stdin;
pub(crate) mod terminal;

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::session_input::Input;
use gantry_grpc::gantry::engine::v1::session_output::Output as Message;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

pub(crate) use self::end::{End, Finished};
use self::keys::{Keys, Matcher};
use self::output::{Output, Piece, Stream};
use self::signals::{Signals, Wanted};
use self::terminal::Raw;
use crate::client::{Client, Lost};
use crate::exit::{FAILURE, coded};
use crate::options::id_file::IdFile;
use crate::printer::Printer;
use crate::progress::Progress;

/// Inputs that wait for the connection; the terminal or pipe holds more.
const WAITING: usize = 8;

/// How long a client that goes waits for its session to end.
const GRACE: Duration = Duration::from_millis(500);

/// This many interrupts end the client when what runs does not end by them. Before it runs, one
/// is enough: none is taken until then.
const INTERRUPTS: u32 = 3;

/// How a session is carried.
#[derive(Debug)]
pub(crate) struct Options {
    /// Carry standard input.
    pub(crate) stdin: bool,
    /// The process has a terminal.
    pub(crate) tty: bool,
    /// Nothing is carried: the session ends when the process runs.
    pub(crate) detach: bool,
    /// Hand signals on.
    pub(crate) proxy: bool,
    /// Keys that leave the session.
    pub(crate) keys: Keys,
    /// The container to which signals can be sent beside the session.
    pub(crate) container: Option<String>,
    /// Show standard output.
    pub(crate) stdout: bool,
    /// Show standard error.
    pub(crate) stderr: bool,
    /// Don't show how an image is pulled.
    pub(crate) quiet: bool,
    /// Where the ID of a container that is made goes.
    pub(crate) id_file: Option<IdFile>,
}

impl Options {
    /// Of a session that shows all output and takes no input.
    pub(crate) fn new(tty: bool, keys: Keys) -> Self {
        Self {
            stdin: false,
            tty,
            detach: false,
            proxy: true,
            keys,
            container: None,
            stdout: true,
            stderr: true,
            quiet: false,
            id_file: None,
        }
    }

    /// Checks that what would be typed comes from a terminal.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.stdin && self.tty && !self.detach && !terminal::is_interactive() {
            return Err(coded(FAILURE)(anyhow!("the input device is not a TTY")));
        }
        Ok(())
    }

    /// The size to begin with.
    pub(crate) fn size(&self) -> Option<api::Resize> {
        if self.tty { terminal::resize() } else { None }
    }
}

/// Opens a session with its first message and carries it to its end.
///
/// # Errors
/// The daemon's, those of the terminal, and those of the output.
pub(crate) async fn carry(
    client: &Client,
    printer: &Printer,
    first: Input,
    options: Options,
) -> anyhow::Result<Finished> {
    let (input, inputs) = mpsc::channel(WAITING);
    let mut calls = client.containers();
    let stream = ReceiverStream::new(inputs);
    // Whoever attaches may tell another one first.
    let size = match &first {
        Input::Attach(request) => request.size,
        _ => options.size(),
    };
    let message = api::SessionInput { input: Some(first.clone()) };
    input.send(message).await.context("begin the session")?;
    let answers = match first {
        Input::Exec(_) => calls.exec(stream).await,
        Input::Attach(_) => calls.attach(stream).await,
        _ => calls.run(stream).await,
    };
    let mut session = Session {
        client,
        printer,
        answers: client.answer(answers)?,
        input,
        output: Output::default(),
        pending: None,
        progress: Progress::new(options.quiet),
        id: String::new(),
        name: options.container.clone().unwrap_or_default(),
        ran: false,
        size,
        live: Live::default(),
        interrupts: 0,
        options,
    };
    let end = session.drive().await;
    let Session { id, name, ran, live, .. } = session;
    let began = live.began;
    // From here on lines are lines again.
    drop(live);
    let end = end.inspect_err(|error| {
        if began && !name.is_empty() && error.is::<Lost>() {
            printer.note(format_args!("The container goes on; join it with: gantry attach {name}"));
        }
    })?;
    Ok(Finished { id, ran, end })
}

struct Session<'a> {
    client: &'a Client,
    printer: &'a Printer,
    options: Options,
    answers: Streaming<api::SessionOutput>,
    input: mpsc::Sender<api::SessionInput>,
    output: Output,
    /// Output that waits for room; nothing more is taken until it has some.
    pending: Option<Piece>,
    progress: Progress,
    id: String,
    name: String,
    /// The daemon has told that the process runs.
    ran: bool,
    /// The size that the daemon knows.
    size: Option<api::Resize>,
    live: Live,
    interrupts: u32,
}

/// What holds the caller's side while input and output flow.
#[derive(Default)]
struct Live {
    began: bool,
    raw: Option<Raw>,
    signals: Signals,
    leaves: Option<oneshot::Receiver<()>>,
}

impl Live {
    /// Waits until the user leaves.
    async fn left(leaves: &mut Option<oneshot::Receiver<()>>) {
        if let Some(receiver) = leaves {
            let left = receiver.await.is_ok();
            *leaves = None;
            if left {
                return;
            }
        }
        std::future::pending().await
    }
}

enum Event {
    Signal(Signal),
    Left,
    Room(mpsc::OwnedPermit<Piece>),
    Message(Option<Message>),
}

impl Session<'_> {
    /// Takes hold of the caller's side: terminal, signals, standard input.
    fn begin(&mut self) -> anyhow::Result<()> {
        let Options { stdin, tty, proxy, .. } = self.options;
        let typed = stdin && tty && terminal::is_interactive();
        self.live.began = true;
        // Before the terminal is raw, so that none of them leaves it so.
        self.live.signals = Signals::take(Wanted { proxy, terminal: typed, size: tty })?;
        if typed {
            self.live.raw = Some(Raw::enter()?);
        }
        if stdin {
            let keys = typed.then(|| Matcher::new(self.options.keys.clone()));
            self.live.leaves = Some(stdin::pump(self.input.clone(), keys)?);
        }
        self.resize();
        Ok(())
    }

    async fn drive(&mut self) -> anyhow::Result<End> {
        loop {
            let end = match self.event().await? {
                Event::Left => {
                    self.leave().await;
                    Some(End::Left)
                }
                Event::Signal(signal) => self.signal(signal).await,
                Event::Room(permit) => {
                    if let Some(piece) = self.pending.take() {
                        permit.send(piece);
                    }
                    None
                }
                Event::Message(Some(message)) => self.message(message)?,
                Event::Message(None) if self.options.detach => Some(End::Started),
                Event::Message(None) => bail!("gantryd ended the session before the process"),
            };
            match end {
                Some(End::Exited(exited)) => return self.finish(exited).await,
                Some(end) => return Ok(end),
                None => {}
            }
        }
    }

    async fn event(&mut self) -> anyhow::Result<Event> {
        let Live { signals, leaves, .. } = &mut self.live;
        let piece = self.pending.is_some();
        Ok(tokio::select! {
            biased;
            signal = signals.next() => Event::Signal(signal),
            () = Live::left(leaves) => Event::Left,
            permit = self.output.ready(piece) => Event::Room(permit?),
            message = self.answers.message(), if !piece => {
                let message = self.client.taken(message)?;
                Event::Message(message.map(|m| m.output).unwrap_or_default())
            }
        })
    }

    fn message(&mut self, message: Message) -> anyhow::Result<Option<End>> {
        match message {
            Message::Progress(progress) => self.progress.update(self.printer, progress),
            Message::Created(created) => {
                for warning in &created.warnings {
                    self.printer.warning(warning);
                }
                let Options { detach, stdout, stderr, .. } = self.options;
                if !(detach || stdout || stderr) {
                    // The only thing that is left to show.
                    self.printer.line(&created.id)?;
                }
                if let Some(file) = self.options.id_file.take() {
                    file.write(&created.id)?;
                }
                self.options.container.get_or_insert_with(|| created.id.clone());
                self.id = created.id;
                self.name = created.name;
            }
            Message::Started(_) => {
                self.ran = true;
                // Until here ctrl-c has ended this client, as it ends others.
                if !self.options.detach && !self.live.began {
                    self.begin()?;
                }
            }
            Message::Stdout(bytes) if self.options.stdout => {
                self.pending = Some((Stream::Stdout, bytes));
            }
            Message::Stderr(bytes) if self.options.stderr => {
                self.pending = Some((Stream::Stderr, bytes));
            }
            Message::Stdout(_) | Message::Stderr(_) => {}
            Message::Exited(exited) => return Ok(Some(End::Exited(exited))),
        }
        Ok(None)
    }

    /// Waits for what reads the output, though not against the user's will.
    async fn finish(&mut self, exited: api::SessionExited) -> anyhow::Result<End> {
        let signals = &mut self.live.signals;
        let ended = async {
            loop {
                let signal = signals.next().await;
                if signals::ends(signal) {
                    return signal;
                }
            }
        };
        tokio::select! {
            written = self.output.finish() => written.map(|()| End::Exited(exited)),
            signal = ended => Ok(End::Signalled(signal)),
        }
    }

    async fn signal(&mut self, signal: Signal) -> Option<End> {
        match signal {
            Signal::SIGWINCH => self.resize(),
            Signal::SIGCONT => {
                if let Some(raw) = &self.live.raw {
                    raw.again();
                }
                self.resize();
            }
            // No key does this to a raw terminal: it went away, or the client
            // is meant to.
            signal if self.live.raw.is_some() && signals::ends(signal) => {
                terminal::restore();
                if self.options.proxy {
                    self.forward(signal);
                    let _ = tokio::time::timeout(GRACE, self.until_exit()).await;
                }
                return Some(End::Signalled(signal));
            }
            signal => {
                if matches!(signal, Signal::SIGINT | Signal::SIGTERM) && self.is_given_up() {
                    return Some(End::Signalled(signal));
                }
                self.forward(signal);
            }
        }
        None
    }

    /// Counts an interrupt. Whether it is the last one for what does not end by them.
    fn is_given_up(&mut self) -> bool {
        self.interrupts += 1;
        let left = INTERRUPTS.saturating_sub(self.interrupts);
        match left {
            0 => self.printer.note("note: it does not end by signals and goes on"),
            1 => self.printer.note("note: it has not ended yet; once more leaves it running"),
            _ => {}
        }
        left == 0
    }

    /// Tells the daemon that the user leaves, which ends the session.
    async fn leave(&mut self) {
        self.send(Input::Detach(api::Detach {}));
        let _ = tokio::time::timeout(GRACE, self.until_exit()).await;
    }

    /// Reads on until the session or the process has ended; its output is lost.
    async fn until_exit(&mut self) {
        while let Ok(Some(message)) = self.answers.message().await {
            if let Some(Message::Exited(_)) = message.output {
                return;
            }
        }
    }

    /// Tells the daemon of a terminal that has another size now.
    fn resize(&mut self) {
        let size = terminal::resize().filter(|_| self.options.tty);
        if let Some(size) = size.filter(|size| Some(size) != self.size.as_ref()) {
            self.size = Some(size);
            self.send(Input::Resize(size));
        }
    }

    /// Hands a signal on. Standard input that nobody reads would hold it up
    /// in the session, so that it then goes its own way.
    fn forward(&self, signal: Signal) {
        let name = signal.as_str().to_owned();
        let container = self.options.container.clone().filter(|_| self.options.stdin);
        let Some(container) = container else { return self.send(Input::Signal(name)) };
        let client = self.client.clone();
        tokio::spawn(async move {
            // A container that has ended needs no signal.
            if let Ok(client) = client.again().await {
                let request = api::KillContainerRequest { container, signal: name };
                let _ = client.containers().kill(request).await;
            }
        });
    }

    /// Sends an input when there is room, in the order of the calls.
    fn send(&self, input: Input) {
        let session = self.input.clone();
        tokio::spawn(async move {
            // A session that has ended needs no input.
            let _ = session.send(api::SessionInput { input: Some(input) }).await;
        });
    }
}
