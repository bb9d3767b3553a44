//! The text of a `hosts.toml`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::{Capabilities, Host, Transport};

/// What else stands there is for other programs that read the same file.
#[derive(Deserialize)]
struct File {
    server: Option<String>,
    /// By URL. The places tell the order.
    #[serde(default)]
    host: HashMap<Spanned<String>, Entry>,
    #[serde(flatten)]
    own: Entry,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    capabilities: Vec<String>,
    ca: Option<toml::Value>,
    client: Option<toml::Value>,
    skip_verify: bool,
    header: BTreeMap<String, toml::Value>,
    override_path: bool,
    dial_timeout: Option<String>,
    proxy: Option<String>,
}

/// The hosts of a file in `directory`, which paths in it are relative to. `own` is
/// the registry itself, for a file that names no server.
pub(super) fn parse(text: &str, directory: &Path, own: Host) -> Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|err| err.to_string())?;
    let mut listed: Vec<_> = file.host.into_iter().collect();
    listed.sort_by_key(|(url, _)| url.span().start);
    let mut hosts = Vec::with_capacity(listed.len() + 1);
    for (url, entry) in listed {
        let host = entry.host(Some(url.get_ref()), directory, &own);
        hosts.push(host.map_err(|why| format!("host {:?}: {why}", url.get_ref()))?);
    }
    hosts.push(file.own.host(file.server.as_deref(), directory, &own)?);
    Ok(hosts)
}

impl Entry {
    fn host(self, url: Option<&str>, directory: &Path, own: &Host) -> Result<Host, String> {
        let url = url.filter(|url| !url.is_empty());
        let address = url.map(|url| address(url, self.override_path)).transpose()?;
        let capabilities = match self.capabilities.as_slice() {
            [] => Capabilities::ALL,
            listed => capabilities(listed)?,
        };
        let connect_timeout = self.dial_timeout.as_deref().map(duration).transpose()?;
        let transport = Transport {
            authorities: match &self.ca {
                None => Vec::new(),
                Some(value) => {
                    let paths = texts(value).ok_or("ca must be a path or a list of paths")?;
                    paths.into_iter().map(|path| directory.join(path)).collect()
                }
            },
            identity: self.client.as_ref().map(|v| identity(v, directory)).transpose()?.flatten(),
            skip_verify: self.skip_verify,
            connect_timeout,
            proxy: self.proxy.filter(|proxy| !proxy.is_empty()),
        };
        let headers = headers(&self.header)?;
        Ok(match address {
            None => Host { capabilities, headers, ..own.clone() }.with(transport),
            Some((plain, authority, path)) => {
                Host { plain, authority, path, capabilities, transport, headers, mirror_of: None }
            }
        })
    }
}

/// Whether HTTP is plain, name and port, and the beginning of the API.
fn address(url: &str, override_path: bool) -> Result<(bool, String, String), String> {
    let whole = match url.contains("://") {
        true => url.to_owned(),
        false => format!("https://{url}"),
    };
    let parsed = Url::parse(&whole).map_err(|err| format!("{url:?}: {err}"))?;
    let plain = match parsed.scheme() {
        "http" => true,
        "https" => false,
        other => return Err(format!("{url:?}: {other} is neither http nor https")),
    };
    let name = parsed.host_str().ok_or_else(|| format!("{url:?} names no host"))?;
    let authority = match parsed.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    let mut path = parsed.path().trim_end_matches('/').to_owned();
    if !override_path && !path.ends_with("/v2") {
        path += "/v2";
    }
    Ok((plain, authority, path))
}

fn capabilities(listed: &[String]) -> Result<Capabilities, String> {
    let mut all = Capabilities { pull: false, resolve: false, push: false };
    for name in listed {
        match name.to_ascii_lowercase().as_str() {
            "pull" => all.pull = true,
            "resolve" => all.resolve = true,
            "push" => all.push = true,
            // For referrers, which nothing here asks for.
            "referrers" => {}
            _ => return Err(format!("capability {name:?} is none of pull, resolve, push")),
        }
    }
    Ok(all)
}

/// A text, or a list of texts.
fn texts(value: &toml::Value) -> Option<Vec<&str>> {
    match value {
        toml::Value::String(text) => Some(vec![text]),
        toml::Value::Array(all) => all.iter().map(toml::Value::as_str).collect(),
        _ => None,
    }
}

/// The client's certificate: a path, or a list of paths and of pairs with a key.
fn identity(
    value: &toml::Value,
    directory: &Path,
) -> Result<Option<(PathBuf, Option<PathBuf>)>, String> {
    const FORM: &str = "client must be a path, or a list of paths or pairs of paths";
    let single = [value.clone()];
    let listed = value.as_array().map_or(&single[..], Vec::as_slice);
    let mut pairs = Vec::new();
    for entry in listed {
        let paths = texts(entry).ok_or(FORM)?;
        let key = |path: &str| (!path.is_empty()).then(|| directory.join(path));
        pairs.push(match (entry.is_array(), paths.as_slice()) {
            (false, [both]) => (directory.join(both), None),
            (true, [certificate, path]) => (directory.join(certificate), key(path)),
            _ => return Err(FORM.to_owned()),
        });
    }
    match pairs.len() {
        0 | 1 => Ok(pairs.pop()),
        _ => Err("client holds several certificates: one is supported".to_owned()),
    }
}

fn headers(listed: &BTreeMap<String, toml::Value>) -> Result<HeaderMap, String> {
    let mut all = HeaderMap::new();
    for (name, value) in listed {
        let bad = || format!("header {name:?} is not one");
        let values = texts(value).ok_or_else(bad)?;
        let name = HeaderName::try_from(name).map_err(|_| bad())?;
        for value in values {
            all.append(name.clone(), HeaderValue::from_str(value).map_err(|_| bad())?);
        }
    }
    Ok(all)
}

/// A time in Go's form: `30s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("dial_timeout {text:?} is not a time such as 30s");
    let mut left = text;
    let mut total = Duration::ZERO;
    while !left.is_empty() {
        let digits = left.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, rest) = left.split_at(digits);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        let more = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        total = total.checked_add(more).ok_or_else(bad)?;
        left = rest;
    }
    match total.is_zero() {
        true => Err(bad()),
        false => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        for bad in ["", "5", "s", "1y", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn client_certificates() {
        let dir = Path::new("/d");
        let parse = |text: &str| {
            let table: toml::Table = text.parse().unwrap();
            identity(&table["client"], dir)
        };
        let both = Some((PathBuf::from("/d/a"), None));
        assert_eq!(parse("client = \"a\""), Ok(both.clone()));
        assert_eq!(parse("client = [\"a\"]"), Ok(both.clone()));
        assert_eq!(parse("client = [[\"a\", \"\"]]"), Ok(both));
        let pair = Some((PathBuf::from("/d/a"), Some(PathBuf::from("/k"))));
        assert_eq!(parse("client = [[\"a\", \"/k\"]]"), Ok(pair));
        assert_eq!(parse("client = []"), Ok(None));
        for bad in ["1", "[[\"a\"]]", "[\"a\", \"b\"]", "[[1, 2]]"] {
            assert!(parse(&format!("client = {bad}")).is_err(), "{bad}");
        }
    }
}
