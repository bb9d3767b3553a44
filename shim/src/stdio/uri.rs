//! What the stdio strings of a request mean. Parsed whole before anything is
//! opened.
//!
//! | string | meaning |
//! | --- | --- |
//! | empty | `/dev/null` |
//! | `/path`, `fifo:///path` | a FIFO (or file) that the client made |
//! | `file:///path` | appended to (output only) |
//! | `binary:///path?key=value` | a logging program, with containerd's contract (output only) |
//! | `gantry:///log?max-size=&max-file=&attach=&stdin=1&network=`, see [`gantry_core::attach`] | the shim writes the log and serves attach and networks (stdout only, the others empty) |

use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_core::attach::{LogUri, SCHEME};

use crate::error::{self, Error};
use crate::log;

/// The three strings of a create or exec request, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One pseudo terminal instead of three streams.
    pub terminal: bool,
    /// Where input comes from.
    pub stdin: Option<PathBuf>,
    /// Where standard output goes.
    pub stdout: Output,
    /// Where standard error goes.
    pub stderr: Output,
}

/// Where one stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    Null,
    /// A FIFO (or file) of the client's.
    Path(PathBuf),
    /// A file to append to.
    File(PathBuf),
    /// A logging program.
    Binary(Binary),
    /// The shim's own log and attach socket.
    Owned(Owned),
}

/// A logging program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The program.
    pub path: PathBuf,
    /// `key value` pairs of the query, flattened.
    pub args: Vec<String>,
}

/// Output that the shim keeps itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The log; none keeps nothing.
    pub log: Option<log::Options>,
    /// The attach socket.
    pub attach: Option<PathBuf>,
    /// Whether the process has an input that attached clients write to.
    pub stdin: bool,
    /// The socket for the container's networks.
    pub network: Option<PathBuf>,
}

impl Plan {
    /// The socket for the container's networks.
    pub fn network(&self) -> Option<&Path> {
        match &self.stdout {
            Output::Owned(owned) => owned.network.as_deref(),
            _ => None,
        }
    }

    /// Parses the strings of a request.
    ///
    /// # Errors
    /// `InvalidArgument`: an unknown scheme, a relative path, a bad number, or a
    /// combination that has no meaning.
    pub fn parse(terminal: bool, stdin: &str, stdout: &str, stderr: &str) -> Result<Self, Error> {
        let stdin = match output("stdin", stdin)? {
            Output::Null => None,
            Output::Path(path) => Some(path),
            _ => {
                return Err(error::invalid(format!(
                    "stdin {stdin:?}: only a FIFO can be read from"
                )));
            }
        };
        let stdout = output("stdout", stdout)?;
        let stderr = match output("stderr", stderr)? {
            Output::Owned(_) => {
                return Err(error::invalid(
                    "stderr: gantry:// belongs into stdout and covers both",
                ));
            }
            _ if terminal => Output::Null,
            other => other,
        };
        if matches!(stdout, Output::Owned(_)) && (stdin.is_some() || stderr != Output::Null) {
            return Err(error::invalid("stdout: with gantry://, stdin and stderr must be empty"));
        }
        if matches!(stderr, Output::Binary(_)) && stderr != stdout {
            return Err(error::invalid(
                "stderr: a logging program takes both streams, so stdout must name it too",
            ));
        }
        Ok(Self { terminal, stdin, stdout, stderr })
    }
}

fn output(which: &str, text: &str) -> Result<Output, Error> {
    if text.is_empty() {
        return Ok(Output::Null);
    }
    if text.starts_with(SCHEME) {
        return owned(text).map(Output::Owned);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return absolute(which, text).map(Output::Path);
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = decode(path).map_err(|e| error::invalid(format!("{which} {text:?}: {e}")))?;
    let query = pairs(query).map_err(|e| error::invalid(format!("{which} {text:?}: {e}")))?;
    match scheme {
        "fifo" => absolute(which, &path).map(Output::Path),
        "file" => absolute(which, &path).map(Output::File),
        "binary" => {
            let args = query
                .into_iter()
                .flat_map(|(k, v)| if v.is_empty() { vec![k] } else { vec![k, v] })
                .collect();
            Ok(Output::Binary(Binary { path: absolute(which, &path)?, args }))
        }
        _ => Err(error::invalid(format!(
            "{which} {text:?}: unknown scheme, the shim knows fifo, file, binary and gantry"
        ))),
    }
}

fn owned(text: &str) -> Result<Owned, Error> {
    let uri = LogUri::parse(text)?.unwrap_or_default();
    let path = |p: &str| if p.is_empty() { Ok(None) } else { absolute("stdout", p).map(Some) };
    let log = match path(uri.log.trim_end_matches('/'))? {
        Some(path) => Some(options(path, &uri)?),
        None => None,
    };
    let (attach, network) = (path(&uri.attach)?, path(&uri.network)?);
    Ok(Owned { log, attach, stdin: uri.stdin, network })
}

/// What a log is opened with; 0 and nothing stand for the defaults.
fn options(path: PathBuf, uri: &LogUri) -> Result<log::Options, Error> {
    let driver: &str = if uri.driver.is_empty() { log::JSON_FILE } else { &uri.driver };
    if ![log::JSON_FILE, log::LOCAL].contains(&driver) {
        return Err(error::invalid(format!("stdout: log driver {driver:?} is unknown")));
    }
    let is_object = |text: &str| {
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
    };
    // They become part of each line.
    if !uri.attrs.is_empty() && (uri.attrs.contains('\n') || !is_object(&uri.attrs)) {
        return Err(error::invalid("stdout: attrs are not a JSON object on one line"));
    }
    let backlog = usize::try_from(uri.max_buffer).unwrap_or(usize::MAX);
    Ok(log::Options {
        driver: driver.to_owned(),
        path,
        max_size: if uri.max_size == 0 { log::DEFAULT_MAX_SIZE } else { uri.max_size },
        max_file: if uri.max_files == 0 { log::DEFAULT_MAX_FILE } else { uri.max_files },
        max_age: uri.max_age.map_or(log::DEFAULT_MAX_AGE, Duration::from_secs),
        compress: uri.compress,
        attrs: uri.attrs.clone(),
        backlog: if backlog == 0 { log::DEFAULT_BACKLOG } else { backlog },
        blocking: !uri.non_blocking,
    })
}

fn absolute(which: &str, path: &str) -> Result<PathBuf, Error> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(path.into());
    }
    Err(error::invalid(format!("{which}: {path:?} is not an absolute path")))
}

fn pairs(query: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut out = Vec::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        out.push((decode(&key.replace('+', " "))?, decode(&value.replace('+', " "))?));
    }
    Ok(out)
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String, &'static str> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit =
            || bytes.next().and_then(|d| char::from(d).to_digit(16)).ok_or("bad percent encoding");
        out.push((digit()? * 16 + digit()?) as u8);
    }
    String::from_utf8(out).map_err(|_| "not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerds_clients_pass() {
        let plan = Plan::parse(false, "/f/a-stdin", "/f/a-stdout", "fifo:///f/a-stderr").unwrap();
        assert_eq!(plan.stdin, Some("/f/a-stdin".into()));
        assert_eq!(plan.stdout, Output::Path("/f/a-stdout".into()));
        assert_eq!(plan.stderr, Output::Path("/f/a-stderr".into()));
        let plan =
            Plan::parse(false, "", "file:///var/log/a%20b", "file:///var/log/a%20b").unwrap();
        assert_eq!(plan.stdout, Output::File("/var/log/a b".into()));
        assert_eq!(plan.stdout, plan.stderr);
        let uri = "binary:///usr/bin/logger?tag=x+y&quiet=";
        let plan = Plan::parse(false, "", uri, uri).unwrap();
        let want = Binary {
            path: "/usr/bin/logger".into(),
            args: vec!["tag".into(), "x y".into(), "quiet".into()],
        };
        assert_eq!(plan.stdout, Output::Binary(want));
    }

    #[test]
    fn our_own() {
        let uri = "gantry:///l/c.log?max-size=100&max-file=2&attach=/a/c.sock&stdin=1";
        let Output::Owned(got) = Plan::parse(true, "", uri, "").unwrap().stdout else {
            panic!("not owned")
        };
        let log = log::Options {
            path: "/l/c.log".into(),
            max_size: 100,
            max_file: 2,
            ..log::Options::default()
        };
        let attach = Some("/a/c.sock".into());
        assert_eq!(got, Owned { log: Some(log), attach, stdin: true, network: None });
        for uri in ["gantry://?attach=/a", "gantry:///?attach=/a"] {
            let Output::Owned(got) = Plan::parse(true, "", uri, "").unwrap().stdout else {
                panic!("not owned")
            };
            let attach = Some("/a".into());
            assert_eq!(got, Owned { log: None, attach, stdin: false, network: None });
        }
    }

    #[test]
    fn all_that_can_be_said_of_a_log() {
        let uri = LogUri {
            log: "/l/c.log".into(),
            driver: "local".into(),
            max_age: Some(60),
            compress: true,
            attrs: r#"{"a":"b c"}"#.into(),
            non_blocking: true,
            max_buffer: 4096,
            network: "/n/c.sock".into(),
            ..LogUri::default()
        };
        let Output::Owned(got) = Plan::parse(false, "", &uri.format(), "").unwrap().stdout else {
            panic!("not owned")
        };
        let log = log::Options {
            driver: "local".into(),
            path: "/l/c.log".into(),
            max_age: Duration::from_secs(60),
            compress: true,
            attrs: r#"{"a":"b c"}"#.into(),
            backlog: 4096,
            blocking: false,
            ..log::Options::default()
        };
        let network = Some("/n/c.sock".into());
        assert_eq!(got, Owned { log: Some(log), attach: None, stdin: false, network });
    }

    #[test]
    fn refusals() {
        for (stdin, stdout, stderr) in [
            ("", "gantry:///l?driver=syslog", ""),
            ("", "gantry:///l?attrs=[]", ""),
            ("", "gantry:///l?attrs={}%0a", ""),
            ("", "relative", ""),
            ("", "http://x/y", ""),
            ("file:///x", "", ""),
            ("/in", "gantry:///l", ""),
            ("", "gantry:///l", "/err"),
            ("", "", "gantry:///l"),
            ("", "gantry:///l?max-size=10k", ""),
            ("", "gantry:///l?colour=1", ""),
            ("", "gantry:///l?attach=rel", ""),
            ("", "gantry:///l?network=rel", ""),
            ("", "/x", "binary:///y"),
            ("", "file:///%zz", ""),
        ] {
            assert!(
                Plan::parse(false, stdin, stdout, stderr).is_err(),
                "{stdin} {stdout} {stderr}"
            );
        }
    }
}
