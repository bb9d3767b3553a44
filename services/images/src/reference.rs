//! References to images as users write them.

use std::fmt;

use gantry_core::{Digest, Error, Labels, Result, labels};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where the default domain's registry API is served.
const DEFAULT_API_HOST: &str = "registry-1.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Longest path of a repository, in bytes.
const MAX_PATH: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG: usize = 128;

/// A full reference: a repository in a registry, and one thing in it.
///
/// What users write is completed as Docker does it: no domain means
/// `docker.io`, one path component there means `library/…`, no tag means
/// `latest`. A tag next to a digest is kept for pushes alone, since the digest decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    target: Target,
    /// The tag next to a digest.
    tag: Option<String>,
}

/// What a [`Reference`] names within its repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Whatever the tag points at now.
    Tag(String),
    /// Exactly this content.
    Digest(Digest),
}

impl Reference {
    /// Parses and completes a reference.
    ///
    /// # Errors
    /// `InvalidArgument`, in the words that Docker uses.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() == 64
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(Error::invalid_argument(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(parse_digest(text, digest)?)),
            None => (text, None),
        };
        let (domain, rest) = split_domain(named);
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let path = complete_path(domain, path);
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(Error::invalid_argument(format!(
                "invalid reference format: repository name ({path}) must be lowercase"
            )));
        }
        if !is_domain(domain) || !path.split('/').all(is_component) {
            return Err(malformed(text));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(malformed(text));
        }
        if path.len() > MAX_PATH {
            return Err(Error::invalid_argument(format!(
                "repository name must not be more than {MAX_PATH} characters"
            )));
        }
        let (target, tag) = match digest {
            Some(digest) => (Target::Digest(digest), tag.map(str::to_owned)),
            None => (Target::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()), None),
        };
        Ok(Self { domain: domain.to_owned(), path, target, tag })
    }

    /// The registry as it stands in the full reference, with its port:
    /// `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The host (and port) that serves the registry's API.
    pub fn api_host(&self) -> &str {
        if self.domain == DEFAULT_DOMAIN { DEFAULT_API_HOST } else { &self.domain }
    }

    /// The domain without its port.
    pub fn hostname(&self) -> &str {
        split_port(&self.domain).0
    }

    /// The repository within the registry: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag or digest.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Tag or digest as the registry's API takes it.
    pub fn target_text(&self) -> &str {
        match &self.target {
            Target::Tag(tag) => tag,
            Target::Digest(digest) => digest.as_str(),
        }
    }

    /// What names an image of this digest once it is pushed: the tag, also next to the
    /// same digest, or else its digest.
    pub(crate) fn pushed<'a>(&'a self, digest: &'a Digest) -> &'a str {
        match (&self.target, &self.tag) {
            (Target::Tag(tag), _) => tag,
            (Target::Digest(named), Some(tag)) if named == digest => tag,
            (Target::Digest(_), _) => digest.as_str(),
        }
    }

    /// The label of content that names this repository as one that has it, next to
    /// those that the content's labels name already.
    pub(crate) fn source_label(&self, present: &Labels) -> Option<(String, String)> {
        let key = format!("{}{}", labels::DISTRIBUTION_SOURCE, self.hostname());
        let mut all: Vec<&str> =
            present.get(&key).map(|v| v.split(',').collect()).unwrap_or_default();
        all.push(self.path());
        all.sort_unstable();
        all.dedup();
        let value = all.join(",");
        // Too many repositories: those that are known will do.
        labels::validate(&key, &value).ok().map(|()| (key, value))
    }

    /// The short form that users know: what can be left out is left out.
    /// A tag is always shown.
    pub fn familiar(&self) -> String {
        let path = match self.domain.as_str() {
            DEFAULT_DOMAIN => match self.path.strip_prefix(OFFICIAL) {
                Some(name) if !name.contains('/') => name.to_owned(),
                _ => self.path.clone(),
            },
            domain => format!("{domain}/{}", self.path),
        };
        format!("{path}{}", self.target)
    }
}

/// The full form: `docker.io/library/nginx:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.target)
    }
}

/// With the separator in front.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tag(tag) => write!(f, ":{tag}"),
            Target::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

/// The short form of an image's name; the name itself when it is not a reference.
pub fn familiar_name(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |r| r.familiar())
}

fn malformed(text: &str) -> Error {
    Error::invalid_argument(format!("invalid reference format: {text:?}"))
}

fn parse_digest(text: &str, digest: &str) -> Result<Digest> {
    let Some((algorithm, hex)) = digest.split_once(':') else { return Err(malformed(text)) };
    let known = match algorithm {
        "sha256" => 64,
        "sha512" => 128,
        _ if algorithm.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) => {
            return Err(Error::invalid_argument("unsupported digest algorithm"));
        }
        _ => return Err(malformed(text)),
    };
    if hex.len() != known && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::invalid_argument("invalid checksum digest length"));
    }
    Digest::parse(digest).map_err(|_| malformed(text))
}

/// The domain, and what follows it. The first component is a domain when it
/// looks like one: a dot, a port, `localhost`, or capitals, which paths lack.
fn split_domain(named: &str) -> (&str, &str) {
    let Some((first, rest)) = named.split_once('/') else { return (DEFAULT_DOMAIN, named) };
    match first {
        LEGACY_DOMAIN => (DEFAULT_DOMAIN, rest),
        "localhost" => (first, rest),
        _ if first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase()) => {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, named),
    }
}

fn complete_path(domain: &str, path: &str) -> String {
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        format!("{OFFICIAL}{path}")
    } else {
        path.to_owned()
    }
}

/// Host and port; an IPv6 address keeps its brackets.
pub(crate) fn split_port(domain: &str) -> (&str, Option<&str>) {
    let host_end = domain.rfind(']').map_or(0, |i| i + 1);
    match domain[host_end..].rfind(':') {
        Some(colon) => (&domain[..host_end + colon], Some(&domain[host_end + colon + 1..])),
        None => (domain, None),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = split_port(domain);
    if port.is_some_and(|p| p.parse::<u16>().is_err() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        let bytes = label.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    })
}

/// Runs of lower-case letters and digits, joined by one dot, one or two
/// underscores, or any number of dashes.
fn is_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|b| word(*b)) || !bytes.last().is_some_and(|b| word(*b)) {
        return false;
    }
    let joints = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    joints
        .filter(|joint| !joint.is_empty())
        .all(|joint| matches!(joint, "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_users_write_is_completed() {
        let table = [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
            ("library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("org/app", "docker.io/org/app:latest", "org/app:latest"),
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
            ("LOCAL/x", "LOCAL/x:latest", "LOCAL/x:latest"),
            ("test.com:5000", "docker.io/library/test.com:5000", "test.com:5000"),
            ("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080", "foo/foo_bar.com:8080"),
            ("ghcr.io/org/app:v1.2.3", "ghcr.io/org/app:v1.2.3", "ghcr.io/org/app:v1.2.3"),
            ("[::1]:5000/x:y", "[::1]:5000/x:y", "[::1]:5000/x:y"),
            ("[2001:db8::1]/x", "[2001:db8::1]/x:latest", "[2001:db8::1]/x:latest"),
            ("a__b/c--d/e.f:T_a.g-1", "docker.io/a__b/c--d/e.f:T_a.g-1", "a__b/c--d/e.f:T_a.g-1"),
        ];
        for (text, full, short) in table {
            let reference = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), short, "{text}");
            assert_eq!(Reference::parse(full).unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn a_digest_decides() {
        for text in [format!("nginx@{D}"), format!("nginx:1@{D}"), format!("docker.io/nginx@{D}")] {
            let reference = Reference::parse(&text).unwrap();
            assert_eq!(reference.to_string(), format!("docker.io/library/nginx@{D}"));
            assert_eq!(reference.familiar(), format!("nginx@{D}"));
            assert_eq!(reference.target(), &Target::Digest(Digest::parse(D).unwrap()));
        }
    }

    #[test]
    fn what_names_a_pushed_image() {
        let (own, other) = (Digest::parse(D).unwrap(), Digest::of(b"other"));
        for (text, digest, expected) in [
            ("a:t".to_owned(), &other, "t"),
            (format!("a:t@{D}"), &own, "t"),
            (format!("a@{D}"), &own, D),
            (format!("a:t@{D}"), &other, other.as_str()),
        ] {
            assert_eq!(Reference::parse(&text).unwrap().pushed(digest), expected, "{text}");
        }
    }

    #[test]
    fn hosts() {
        let hosts = |text: &str| {
            let r = Reference::parse(text).unwrap();
            (r.domain().to_owned(), r.api_host().to_owned(), r.hostname().to_owned())
        };
        let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(hosts("nginx"), own("docker.io", "registry-1.docker.io", "docker.io"));
        assert_eq!(hosts("localhost:5/x"), own("localhost:5", "localhost:5", "localhost"));
        assert_eq!(hosts("[::1]:5/x"), own("[::1]:5", "[::1]:5", "[::1]"));
        assert_eq!(hosts("[::1]/x"), own("[::1]", "[::1]", "[::1]"));
    }

    #[test]
    fn mistakes_in_dockers_words() {
        let table = [
            (
                "Nginx",
                "invalid reference format: repository name (library/Nginx) must be lowercase",
            ),
            (
                "ghcr.io/Org/x",
                "invalid reference format: repository name (Org/x) must be lowercase",
            ),
            ("", "invalid reference format"),
            (":tag", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("/a", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a..b/c", "invalid reference format"),
            ("a.-b", "invalid reference format"),
            ("äpfel", "invalid reference format"),
            ("host.com:x/a", "invalid reference format"),
            ("[::1/a", "invalid reference format"),
            ("[xyz]:1/a", "invalid reference format"),
            ("a@sha256:abc", "invalid reference format"),
            ("a@b@c", "invalid reference format"),
            ("https://host.com/a", "invalid reference format"),
            ("a@md5:0123456789abcdef0123456789abcdef", "unsupported digest algorithm"),
            ("a@sha256:0123456789abcdef0123456789abcdef", "invalid checksum digest length"),
        ];
        for (text, words) in table {
            let err = Reference::parse(text).expect_err(text);
            assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument, "{text}");
            assert!(err.to_string().starts_with(words), "{text}: {err}");
        }
        let id = &D["sha256:".len()..];
        assert_eq!(
            Reference::parse(id).unwrap_err().to_string(),
            format!("invalid repository name ({id}), cannot specify 64-byte hexadecimal strings")
        );
    }

    #[test]
    fn lengths_are_bounded() {
        let longest = format!("a.b/{}:{}", "x".repeat(255), "t".repeat(128));
        assert!(Reference::parse(&longest).is_ok());
        let err = Reference::parse(&format!("a.b/{}", "x".repeat(256))).unwrap_err();
        assert_eq!(err.to_string(), "repository name must not be more than 255 characters");
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }
}
