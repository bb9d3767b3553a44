//! Which hosts serve a registry: `hosts.toml` files in a directory by registry.
//!
//! The form is containerd's. `DIR/HOST_PORT_/hosts.toml`, `DIR/HOST:PORT/hosts.toml`
//! or else `DIR/_default/hosts.toml` lists mirrors, which are tried in the order of
//! the file, and the server, which comes last. A directory without that file may
//! hold certificates as Docker takes them: `*.crt` of authorities, pairs of `*.cert`
//! and `*.key` of ours. The files are read for each transfer.

mod file;

use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_core::{Error, Result};
use reqwest::header::HeaderMap;

use crate::config::{Config, is_loopback};
use crate::reference::{Reference, split_port};

/// The directory for registries that have none of their own.
const DEFAULT: &str = "_default";
const FILE: &str = "hosts.toml";
/// Longest file in bytes.
const MAX_LENGTH: u64 = 1 << 20;
/// Most hosts of a registry.
const MAX_HOSTS: usize = 64;

/// What is done with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Fetching what has a digest.
    Pull,
    /// Asking what a name points at, which takes trust.
    Resolve,
    /// Storing.
    Push,
}

impl Operation {
    /// Its name in files.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Operation::Pull => "pull",
            Operation::Resolve => "resolve",
            Operation::Push => "push",
        }
    }
}

/// What a host may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) pull: bool,
    pub(crate) resolve: bool,
    pub(crate) push: bool,
}

impl Capabilities {
    const ALL: Self = Self { pull: true, resolve: true, push: true };
}

/// How connections to a host are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transport {
    /// Files of authorities that are trusted beside the system's.
    pub(crate) authorities: Vec<PathBuf>,
    /// Our certificate, and its key when that is in another file.
    pub(crate) identity: Option<(PathBuf, Option<PathBuf>)>,
    /// Whether any certificate will do.
    pub(crate) skip_verify: bool,
    /// Longest wait for a connection.
    pub(crate) connect_timeout: Option<Duration>,
    /// The proxy on the way.
    pub(crate) proxy: Option<String>,
}

impl Transport {
    /// Whether it says something about TLS.
    fn has_tls(&self) -> bool {
        !self.authorities.is_empty() || self.identity.is_some() || self.skip_verify
    }
}

/// A host that serves a registry's API.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Name and port.
    pub(crate) authority: String,
    /// Whether it is spoken to in plain HTTP.
    pub(crate) plain: bool,
    /// Where the API begins: `/v2`.
    pub(crate) path: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) transport: Transport,
    /// Added to each request.
    pub(crate) headers: HeaderMap,
    /// The registry that it stands in for, which it is told in the parameter `ns`.
    pub(crate) mirror_of: Option<String>,
}

impl Host {
    /// Whether it may be used for this.
    pub(crate) fn can(&self, operation: Operation) -> bool {
        match operation {
            Operation::Pull => self.capabilities.pull,
            Operation::Resolve => self.capabilities.resolve,
            Operation::Push => self.capabilities.push,
        }
    }

    /// Whether it is the registry of this name itself, however its port is written.
    fn serves(&self, domain: &str) -> bool {
        let usual = if self.plain { "80" } else { "443" };
        let parts = |name| {
            let (host, port): (&str, _) = split_port(name);
            (host.to_ascii_lowercase(), port.unwrap_or(usual).to_owned())
        };
        let hub = (self.authority.as_str(), domain) == ("registry-1.docker.io", "docker.io");
        hub || parts(&self.authority) == parts(domain)
    }

    /// The same, as a file says that connections are made. Who configures TLS wants it.
    fn with(self, mut transport: Transport) -> Self {
        let has_tls = transport.has_tls();
        if !has_tls {
            transport.skip_verify = self.transport.skip_verify;
        }
        Self { plain: self.plain && !has_tls, transport, ..self }
    }

    /// The registry itself, where nothing is configured.
    fn of(reference: &Reference, config: &Config, plain: Option<bool>) -> Self {
        let authority = reference.api_host().to_owned();
        let is_plain = plain.unwrap_or_else(|| config.is_plain(&authority));
        // Nobody gives this machine a certificate that others trust.
        let skip_verify = plain.is_none() && !is_plain && is_loopback(split_port(&authority).0);
        Self {
            plain: is_plain,
            authority,
            path: "/v2".to_owned(),
            capabilities: Capabilities::ALL,
            transport: Transport { skip_verify, ..Transport::default() },
            headers: HeaderMap::new(),
            mirror_of: None,
        }
    }
}

/// The hosts that serve the registry of `reference`, in the order in which they are
/// tried. `plain` says how to speak to the registry itself where no file does.
///
/// # Errors
/// `FailedPrecondition`, naming the file that is broken.
pub(crate) async fn find(
    directory: Option<&Path>,
    reference: &Reference,
    config: &Config,
    plain: Option<bool>,
) -> Result<Vec<Host>> {
    let own = Host::of(reference, config, plain);
    let Some(root) = directory else { return Ok(vec![own]) };
    for name in directories(reference.domain()) {
        let directory = root.join(name);
        match tokio::fs::metadata(&directory).await {
            Ok(found) if found.is_dir() => return load(&directory, own, reference.domain()).await,
            Ok(_) => {}
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(broken(&directory, &err)),
        }
    }
    Ok(vec![own])
}

/// Names of the directory for a registry, best first. Without the colon for file
/// systems that can't have one.
fn directories(domain: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let (host, Some(port)) = crate::reference::split_port(domain) {
        names.push(format!("{host}_{port}_"));
    }
    names.push(domain.to_owned());
    names.push(DEFAULT.to_owned());
    names
}

async fn load(directory: &Path, own: Host, domain: &str) -> Result<Vec<Host>> {
    let path = directory.join(FILE);
    let text = match tokio::fs::metadata(&path).await {
        Ok(found) if found.len() > MAX_LENGTH => {
            return Err(broken(&path, &format!("it is longer than {MAX_LENGTH} bytes")));
        }
        Ok(_) => tokio::fs::read_to_string(&path).await.map_err(|err| broken(&path, &err))?,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(err) => return Err(broken(&path, &err)),
    };
    if text.trim().is_empty() {
        let transport = certificates(directory).await?;
        return Ok(vec![own.with(transport)]);
    }
    let mut hosts = file::parse(&text, directory, own).map_err(|why| broken(&path, &why))?;
    if hosts.len() > MAX_HOSTS {
        return Err(broken(&path, &format!("it lists more than {MAX_HOSTS} hosts")));
    }
    for host in &mut hosts {
        host.mirror_of = (!host.serves(domain)).then(|| domain.to_owned());
    }
    Ok(hosts)
}

/// Certificates as Docker takes them.
async fn certificates(directory: &Path) -> Result<Transport> {
    let mut entries =
        tokio::fs::read_dir(directory).await.map_err(|err| broken(directory, &err))?;
    let mut files = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(|err| broken(directory, &err))? {
        files.push(entry.path());
    }
    files.sort();
    let with = |extension: &'static str| {
        files.iter().filter(move |file| file.extension().is_some_and(|e| e == extension))
    };
    let mut transport =
        Transport { authorities: with("crt").cloned().collect(), ..Transport::default() };
    let mut own = with("cert");
    if let Some(certificate) = own.next() {
        let key = certificate.with_extension("key");
        if !files.contains(&key) {
            return Err(broken(certificate, &format!("its key {key:?} is missing")));
        }
        transport.identity = Some((certificate.clone(), Some(key)));
    }
    match own.next() {
        Some(second) => Err(broken(second, &"one client certificate is supported")),
        None => Ok(transport),
    }
}

/// An error in the configuration of a registry.
pub(crate) fn broken(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::failed_precondition(format!("configuration of a registry, {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn find_in(directory: &Path, reference: &str, plain: Option<bool>) -> Result<Vec<Host>> {
        let reference = Reference::parse(reference).unwrap();
        find(Some(directory), &reference, &Config::default(), plain).await
    }

    fn write(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn shown(hosts: &[Host]) -> Vec<String> {
        let scheme = |h: &Host| if h.plain { "http" } else { "https" };
        hosts.iter().map(|h| format!("{}://{}{}", scheme(h), h.authority, h.path)).collect()
    }

    #[tokio::test]
    async fn mirrors_come_in_order_and_the_server_last() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"
            [host."http://z.example:5000"]
            capabilities = ["pull"]
            [host."a.example/prefix"]
            [host."https://m.example/api"]
            override_path = true
            skip_verify = true
            [host."https://m.example/api".header]
            x-a = ["1", "2"]
            x-b = "3"
        "#;
        write(dir.path(), "r.example_5000_/hosts.toml", text);
        write(dir.path(), "_default/hosts.toml", "server = \"https://all.example\"\n");
        let hosts = find_in(dir.path(), "r.example:5000/a:b", None).await.unwrap();
        let expected = [
            "http://z.example:5000/v2",
            "https://a.example/prefix/v2",
            "https://m.example/api",
            "https://r.example:5000/v2",
        ];
        assert_eq!(shown(&hosts), expected);
        assert!(hosts[0].can(Operation::Pull) && !hosts[0].can(Operation::Resolve));
        assert!(hosts[1].can(Operation::Push));
        assert_eq!(hosts[0].mirror_of.as_deref(), Some("r.example:5000"));
        assert_eq!(hosts[2].headers.get_all("x-a").iter().count(), 2);
        assert!(hosts[2].transport.skip_verify);
        assert!(hosts[3].mirror_of.is_none() && hosts[3].headers.is_empty());

        let others = find_in(dir.path(), "other.example/a", None).await.unwrap();
        assert_eq!(shown(&others), ["https://all.example/v2"]);
        assert_eq!(others[0].mirror_of.as_deref(), Some("other.example"));
    }

    #[tokio::test]
    async fn a_port_may_be_written_or_not() {
        let dir = tempfile::tempdir().unwrap();
        for (registry, server, itself) in [
            ("r.example:443", "https://r.example:443", true),
            ("r.example:443", "https://r.example", true),
            ("r.example", "https://r.example:443", true),
            ("r.example:80", "http://r.example", true),
            ("r.example:80", "https://r.example", false),
            ("r.example:443", "http://r.example", false),
            ("r.example:5000", "https://r.example", false),
        ] {
            let text = format!("server = \"{server}\"\n");
            write(dir.path(), &format!("{registry}/hosts.toml"), &text);
            let hosts = find_in(dir.path(), &format!("{registry}/x"), None).await.unwrap();
            assert_eq!(hosts[0].mirror_of.is_none(), itself, "{registry} at {server}");
        }
    }

    #[tokio::test]
    async fn without_a_file_it_is_the_registry_itself() {
        let dir = tempfile::tempdir().unwrap();
        for (reference, plain, expected) in [
            ("nginx", None, "https://registry-1.docker.io/v2"),
            ("localhost:5/a", None, "http://localhost:5/v2"),
            ("localhost:5/a", Some(false), "https://localhost:5/v2"),
            ("localhost/a", None, "https://localhost/v2"),
            ("127.0.0.1:443/a", None, "https://127.0.0.1:443/v2"),
            ("r.example/a", Some(true), "http://r.example/v2"),
        ] {
            let hosts = find_in(dir.path(), reference, plain).await.unwrap();
            assert_eq!(shown(&hosts), [expected], "{reference}");
            assert!(hosts[0].mirror_of.is_none());
            let trusted = matches!(reference, "localhost/a" | "127.0.0.1:443/a");
            assert_eq!(hosts[0].transport.skip_verify, trusted, "{reference}");
        }
    }

    #[tokio::test]
    async fn who_configures_tls_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "127.0.0.1:6/ca.crt", "x");
        for (registry, text, expected) in [
            ("localhost:1", "skip_verify = true", "https://localhost:1/v2"),
            ("localhost:2", "ca = \"a.crt\"", "https://localhost:2/v2"),
            ("localhost:3", "client = \"a.pem\"", "https://localhost:3/v2"),
            ("localhost:4", "dial_timeout = \"1s\"", "http://localhost:4/v2"),
            (
                "localhost:5",
                "server = \"http://localhost:5\"\nskip_verify = true",
                "http://localhost:5/v2",
            ),
            ("127.0.0.1:6", "", "https://127.0.0.1:6/v2"),
        ] {
            write(dir.path(), &format!("{registry}/hosts.toml"), text);
            let hosts = find_in(dir.path(), &format!("{registry}/a"), None).await.unwrap();
            assert_eq!(shown(&hosts), [expected], "{text}");
        }
        write(dir.path(), "localhost/hosts.toml", "dial_timeout = \"1s\"");
        let hosts = find_in(dir.path(), "localhost/a", None).await.unwrap();
        assert!(hosts[0].transport.skip_verify, "{hosts:?}");
    }

    #[tokio::test]
    async fn names_and_certificates_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["ca.crt", "me.cert", "me.key", "note"] {
            write(dir.path(), &format!("r.example:5/{file}"), "x");
        }
        let hosts = find_in(dir.path(), "r.example:5/a", None).await.unwrap();
        let at = |file: &str| dir.path().join("r.example:5").join(file);
        assert_eq!(hosts[0].transport.authorities, [at("ca.crt")]);
        assert_eq!(hosts[0].transport.identity, Some((at("me.cert"), Some(at("me.key")))));
        std::fs::remove_file(at("me.key")).unwrap();
        let err = find_in(dir.path(), "r.example:5/a", None).await.unwrap_err();
        assert!(err.to_string().contains("me.cert"), "{err}");
    }

    #[tokio::test]
    async fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let name = "r.example/hosts.toml";
        for (text, words) in [
            ("server = ", "hosts.toml"),
            ("capabilities = [\"fly\"]", "fly"),
            ("server = \"ftp://x\"", "ftp"),
            ("ca = 1", "ca"),
            ("client = [[\"a\"]]", "client"),
            ("dial_timeout = \"soon\"", "soon"),
            ("[header]\n\"a b\" = \"c\"", "a b"),
            ("[host.\"https://\"]", "https://"),
        ] {
            write(dir.path(), name, text);
            let err = find_in(dir.path(), "r.example/a", None).await.unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::FailedPrecondition);
            let shown = err.to_string();
            assert!(shown.contains(words) && shown.contains(name), "{text}: {shown}");
        }
    }
}
