//! Recorded output: what is recorded where, and how it is read, across rotations.

mod attributes;
mod changes;
mod cursor;
mod entry;
mod files;
mod options;
mod place;
mod reader;
mod tail;
mod window;

use std::path::PathBuf;
use std::time::Duration;

use gantry_core::attach::LogUri;
use gantry_core::containers::Container;
use gantry_core::db::blocking;
use gantry_core::{Context, Error, Labels, Result, Timestamp};
use tokio::sync::mpsc;

use crate::Engine;
use crate::files::ContainerFiles;
use crate::lifecycle::Found;
use crate::model::{Meta, Settings};

pub use cursor::LogCursor;
pub use entry::LogEntry;
pub(crate) use options::LogConfig;

use attributes::About;
use changes::Changes;
use options::LogDriver;
use place::Form;
use reader::{Begin, Reader};
use window::{Verdict, Window};

/// Should a change go unnoticed, the file is looked at this often.
const PATROL: Duration = Duration::from_secs(2);
/// While the caller is slow, rotated files are looked for this often.
const KEEP_UP: Duration = Duration::from_millis(100);
/// Where the driver `local` writes, below a container's directory.
const LOCAL: &str = "local-logs/container.log";

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Output as it comes as well, until the container has ended.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Only lines that were begun at this time or later.
    pub since: Option<Timestamp>,
    /// Only lines that were begun at this time or earlier.
    pub until: Option<Timestamp>,
    /// Tell what is stored beside the lines.
    pub details: bool,
    /// Go on behind this entry; `tail` does not count then.
    pub cursor: Option<LogCursor>,
    /// Tell first, in an entry without data, where reading begins.
    pub start_cursor: bool,
}

impl LogOptions {
    fn begin(&self) -> Begin {
        match (self.cursor, self.tail) {
            (Some(cursor), _) => Begin::Behind(cursor),
            (None, Some(lines)) => Begin::Last(lines),
            (None, None) => Begin::Oldest(self.since),
        }
    }
}

/// Where a container's output is recorded; `None` when it is not.
fn path_of(files: ContainerFiles, driver: LogDriver) -> Option<PathBuf> {
    match driver {
        LogDriver::JsonFile => Some(files.log),
        LogDriver::Local => Some(files.directory.join(LOCAL)),
        LogDriver::None => None,
    }
}

/// The options of a container's log as they are shown: as they were asked for, and the daemon's
/// defaults.
pub(crate) fn shown(settings: &Settings) -> Labels {
    let mut options = settings.flags.log_options.clone();
    if settings.flags.log_driver() == LogDriver::None.name() {
        return options;
    }
    let defaults =
        [("max-size", settings.log_max_size), ("max-file", settings.log_max_files.into())];
    for (key, value) in defaults.into_iter().filter(|(_, value)| *value > 0) {
        options.entry(key.to_owned()).or_insert_with(|| value.to_string());
    }
    options
}

impl Engine {
    /// What a container's shim is told of recording its output.
    ///
    /// # Errors
    /// `InvalidArgument` when it can't be recorded as it was asked for.
    pub(crate) fn log_uri(
        &self,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
    ) -> Result<LogUri> {
        let settings = &meta.settings;
        let options = &settings.flags.log_options;
        let config = LogConfig::parse(settings.flags.log_driver(), options)?;
        let Some(log) = path_of(self.files(ctx, &container.id), config.driver) else {
            return Ok(LogUri::default());
        };
        let words: Vec<&str> = settings.args().map(String::as_str).collect();
        let about = About {
            id: &container.id,
            name: &meta.name,
            image: &meta.image,
            image_id: &meta.image_id,
            command: &words.join(" "),
            labels: &meta.labels,
            env: &settings.env,
        };
        Ok(LogUri {
            log: log.display().to_string(),
            driver: config.driver.name().to_owned(),
            max_size: settings.log_max_size,
            max_files: settings.log_max_files,
            max_age: config.max_age.or(self.parts.config.log_max_age),
            compress: config.compress,
            attrs: attributes::attributes(options, &about)?,
            non_blocking: config.non_blocking,
            max_buffer: config.max_buffer,
            ..LogUri::default()
        })
    }

    /// Sends recorded output, oldest first. With `follow`, output is sent as it is recorded, until
    /// the container has ended.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a container whose output is not
    /// recorded here; `Unimplemented` for one whose output is not recorded at all;
    /// `InvalidArgument` for a cursor of another container; the system's.
    pub async fn logs(
        &self,
        ctx: &Context,
        text: &str,
        wanted: LogOptions,
        output: mpsc::Sender<LogEntry>,
    ) -> Result<()> {
        let found = self.find(ctx, text).await?;
        let (path, form) = self.readable(ctx, &found, text)?;
        let mut now = found.live.subscribe();
        let follow = wanted.follow && found.state.phase.is_running();
        let mut sending = Sending::new(&found.container.id, &wanted, follow, output)?;
        let changes = if follow { Some(Changes::of(&path)?) } else { None };
        let begin = wanted.begin();
        let mut reader = blocking(move || Reader::open(path, form, begin, changes)).await?;
        if wanted.start_cursor {
            match sending.start(reader, wanted.cursor).await? {
                Some(back) => reader = back,
                None => return Ok(()),
            }
        }
        let mut ended = !follow;
        loop {
            let (back, entries) = blocking(move || {
                let entries = reader.batch()?;
                Ok((reader, entries))
            })
            .await?;
            reader = back;
            if !entries.is_empty() {
                match sending.send(reader, entries).await? {
                    Some(back) => reader = back,
                    None => return Ok(()),
                }
                continue;
            }
            let Some(changes) = reader.changes.as_mut().filter(|_| !ended) else { return Ok(()) };
            tokio::select! {
                changed = changes.next() => changed?,
                // Once the task is gone, its shim has written all. One more look.
                _ = now.wait_for(|now| !now.watched) => ended = true,
                () = passed(wanted.until) => ended = true,
                () = sending.output.closed() => return Ok(()),
                () = tokio::time::sleep(PATROL) => {}
            }
        }
    }

    /// Where a container's output can be read, and in which form it is.
    fn readable(&self, ctx: &Context, found: &Found, text: &str) -> Result<(PathBuf, Form)> {
        if found.meta.foreign {
            return Err(Error::failed_precondition(format!(
                "logs of container {text}: another client made it and holds its output"
            ))
            .about("container", text));
        }
        let driver = LogDriver::of(found.meta.settings.flags.log_driver())?;
        let path = path_of(self.files(ctx, &found.container.id), driver);
        path.zip(Form::of(driver)).ok_or_else(|| {
            Error::unimplemented("configured logging driver does not support reading")
                .about("container", text)
        })
    }
}

/// Returns a moment after a time, when what was said until then is recorded.
async fn passed(until: Option<Timestamp>) {
    let Some(until) = until else { return std::future::pending().await };
    let left = until.unix_nanos() - Timestamp::now().unix_nanos();
    let left = Duration::from_nanos(u64::try_from(left.max(0)).unwrap_or(u64::MAX));
    tokio::time::sleep(left.saturating_add(KEEP_UP)).await;
}

/// Hands entries to a caller who may be slow.
struct Sending {
    output: mpsc::Sender<LogEntry>,
    container: u64,
    window: Window,
    details: bool,
    follow: bool,
}

impl Sending {
    fn new(
        id: &str,
        wanted: &LogOptions,
        follow: bool,
        output: mpsc::Sender<LogEntry>,
    ) -> Result<Self> {
        let container = LogCursor::container(id);
        if wanted.cursor.is_some_and(|cursor| cursor.container != container) {
            return Err(Error::invalid_argument("the cursor is of another container's log"));
        }
        let within = wanted.cursor.unwrap_or_default().within;
        let window = Window::new(wanted.since, wanted.until, within);
        Ok(Self { output, container, window, details: wanted.details, follow })
    }

    /// Tells where reading begins; gives the reader back unless the caller has left.
    async fn start(&self, mut reader: Reader, cursor: Option<LogCursor>) -> Result<Option<Reader>> {
        let (reader, begin) = blocking(move || {
            let begin = reader.cursor()?;
            Ok((reader, begin))
        })
        .await?;
        let begin = LogCursor { container: self.container, ..begin };
        let entry = LogEntry { cursor: cursor.unwrap_or(begin), ..LogEntry::default() };
        Ok(self.output.send(entry).await.is_ok().then_some(reader))
    }

    /// Hands over what is wanted of some entries; gives the reader back unless the caller has
    /// left, or nothing of what follows is wanted.
    async fn send(&mut self, mut reader: Reader, entries: Vec<LogEntry>) -> Result<Option<Reader>> {
        for mut entry in entries {
            match self.window.judge(&entry) {
                Verdict::Show => {}
                Verdict::Hide => continue,
                Verdict::End => return Ok(None),
            }
            entry.cursor.container = self.container;
            entry.cursor.within = self.window.within();
            if !self.details {
                entry.attributes = None;
            }
            let permit = loop {
                tokio::select! {
                    biased;
                    permit = self.output.reserve() => break permit,
                    () = tokio::time::sleep(KEEP_UP), if self.follow => {}
                }
                reader = blocking(move || reader.keep_up().map(|()| reader)).await?;
            };
            let Ok(permit) = permit else { return Ok(None) };
            permit.send(entry);
        }
        // Where nothing is shown, nothing else tells.
        Ok((!self.output.is_closed()).then_some(reader))
    }
}
