//! Credentials from Docker's `config.json` and from credential helpers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use gantry_core::{Error, Result};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest configuration file or answer of a helper, in bytes.
const MAX_LENGTH: u64 = 1 << 20;
/// The key under which clients store the default registry.
const DEFAULT_KEY: &str = "https://index.docker.io/v1/";
/// The user name that marks a secret as an identity token.
const TOKEN_USER: &str = "<token>";

/// Who we are to a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Credentials {
    /// Nobody.
    Anonymous,
    /// User name and password.
    Basic(String, String),
    /// A token to be exchanged for access tokens.
    Identity(String),
    /// The value of the header `Authorization` itself.
    Header(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Basic(..) => "Basic(…)",
            Credentials::Identity(_) => "Identity(…)",
            Credentials::Header(_) => "Header(…)",
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    auths: BTreeMap<String, Auth>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    secret: String,
}

/// What Docker's configuration in `dir` knows of the registry `domain`.
///
/// # Errors
/// `FailedPrecondition`, naming the file or the helper that is broken.
pub(crate) async fn lookup(dir: &Path, domain: &str, limit: Duration) -> Result<Credentials> {
    let path = dir.join("config.json");
    let broken = |why: &dyn std::fmt::Display| {
        Error::failed_precondition(format!("credentials for {domain} from {path:?}: {why}"))
    };
    let file = match tokio::fs::File::open(&path).await {
        Ok(file) => file,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Credentials::Anonymous);
        }
        Err(err) => return Err(broken(&err)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH).read_to_end(&mut bytes).await.map_err(|err| broken(&err))?;
    let config: ConfigFile = serde_json::from_slice(&bytes).map_err(|err| broken(&err))?;

    let key = if domain == "docker.io" { DEFAULT_KEY } else { domain };
    let own = config.helpers.get(key).or_else(|| config.helpers.get(domain));
    let helper = own.or(Some(&config.store)).filter(|name| !name.is_empty());
    if let Some(name) = helper {
        let answer = tokio::time::timeout(limit, ask_helper(name, key)).await;
        let found = answer.map_err(|_| broken(&format!("docker-credential-{name} hangs")))??;
        if found != Credentials::Anonymous {
            return Ok(found);
        }
    }
    let entry = config.auths.get(key).or_else(|| {
        let same = |stored: &&String| host_of(stored) == host_of(key);
        config.auths.keys().find(same).and_then(|stored| config.auths.get(stored))
    });
    entry.map_or(Ok(Credentials::Anonymous), |auth| auth.credentials().map_err(|e| broken(&e)))
}

impl Auth {
    fn credentials(&self) -> Result<Credentials, String> {
        if !self.identitytoken.is_empty() {
            return Ok(Credentials::Identity(self.identitytoken.clone()));
        }
        if self.auth.is_empty() {
            let known = !self.username.is_empty();
            return Ok(if known {
                Credentials::Basic(self.username.clone(), self.password.clone())
            } else {
                Credentials::Anonymous
            });
        }
        let decoded = STANDARD
            .decode(&self.auth)
            .or_else(|_| STANDARD_NO_PAD.decode(&self.auth))
            .map_err(|err| format!("field auth is not base64: {err}"))?;
        let text = String::from_utf8(decoded).map_err(|_| "field auth is not UTF-8")?;
        let (user, password) = text.split_once(':').ok_or("field auth lacks a colon")?;
        Ok(Credentials::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

/// The host of a key, which may be a host or a URL.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

/// Runs `docker-credential-NAME get`.
async fn ask_helper(name: &str, key: &str) -> Result<Credentials> {
    let program = format!("docker-credential-{name}");
    let failed = |why: &dyn std::fmt::Display| {
        Error::failed_precondition(format!("credentials for {key} from {program}: {why}"))
    };
    if name.contains('/') {
        return Err(failed(&"the name of a helper holds no slash"));
    }
    let mut child = tokio::process::Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|err| failed(&err))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input answers all the same.
        let _ = stdin.write_all(key.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_LENGTH).read_to_end(&mut answer).await.map_err(|err| failed(&err))?;
    }
    let status = child.wait().await.map_err(|err| failed(&err))?;
    if !status.success() {
        // The protocol has no code for it; the words are part of it.
        let text = String::from_utf8_lossy(&answer);
        if text.contains("credentials not found") {
            return Ok(Credentials::Anonymous);
        }
        return Err(failed(&format!("{status}: {}", text.trim())));
    }
    let answer: HelperAnswer = serde_json::from_slice(&answer).map_err(|err| failed(&err))?;
    Ok(match answer.username.as_str() {
        TOKEN_USER => Credentials::Identity(answer.secret),
        _ => Credentials::Basic(answer.username, answer.secret),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn look(config: &str, domain: &str) -> Result<Credentials> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        lookup(dir.path(), domain, Duration::from_secs(5)).await
    }

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic(user.into(), password.into())
    }

    #[tokio::test]
    async fn stored_in_the_file() {
        let config = r#"{"auths": {
            "a.b:5000": {"auth": "dTpwOnE="},
            "https://index.docker.io/v1/": {"auth": "aHViOng"},
            "https://c.d/v2/": {"username": "n", "password": "m"},
            "e.f": {"identitytoken": "t", "auth": "dTpw"},
            "g.h": {}
        }, "other": [1]}"#;
        let table = [
            ("a.b:5000", basic("u", "p:q")),
            ("docker.io", basic("hub", "x")),
            ("c.d", basic("n", "m")),
            ("e.f", Credentials::Identity("t".into())),
            ("g.h", Credentials::Anonymous),
            ("a.b", Credentials::Anonymous),
        ];
        for (domain, expected) in table {
            assert_eq!(look(config, domain).await.unwrap(), expected, "{domain}");
        }
    }

    #[tokio::test]
    async fn no_file_is_nobody_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let found = lookup(dir.path(), "a.b", Duration::from_secs(5)).await.unwrap();
        assert_eq!(found, Credentials::Anonymous);
        let err = look("{", "a.b").await.unwrap_err();
        assert!(err.to_string().contains("config.json"), "{err}");
        assert!(look(r#"{"auths": {"a.b": {"auth": "%"}}}"#, "a.b").await.is_err());
    }

    #[tokio::test]
    async fn a_missing_helper_is_named() {
        let config = r#"{"credHelpers": {"a.b": "gantry-test-nowhere"}}"#;
        let err = look(config, "a.b").await.unwrap_err();
        assert!(err.to_string().contains("docker-credential-gantry-test-nowhere"), "{err}");
        assert_eq!(look(config, "c.d").await.unwrap(), Credentials::Anonymous);
        assert!(look(r#"{"credsStore": "../x"}"#, "a.b").await.is_err());
    }
}
