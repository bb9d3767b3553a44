//! A repository at the hosts that serve it, tried one after the other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use gantry_core::{Descriptor, Error, Hasher, Result};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::config::Config;
use crate::credentials::Credentials;
use crate::hosts::{self, Host, Operation};
use crate::reference::{Reference, Target};
use crate::registry::{Purpose, Registries, Resolved, Secrets, Session};

/// How a request wants its registry to be reached.
#[derive(Clone, Default)]
pub(crate) struct Access {
    /// Who we are; by Docker's configuration when `None`.
    pub(crate) secrets: Option<Secrets>,
    /// Whether to speak plain HTTP where no file says how; as configured when `None`.
    pub(crate) plain: Option<bool>,
    /// Directory of `hosts.toml` files; the configured one when `None`.
    pub(crate) directory: Option<PathBuf>,
    /// Added to each request to the registry itself.
    pub(crate) headers: HeaderMap,
}

/// A repository that content comes from or goes to.
pub(crate) struct Remote {
    /// By host, in the order in which they are tried.
    sessions: Vec<Session>,
    pub(crate) reference: Reference,
}

/// Headers as a request names them.
///
/// # Errors
/// `InvalidArgument` for one that is none.
pub(crate) fn headers(listed: BTreeMap<String, String>) -> Result<HeaderMap> {
    let mut all = HeaderMap::new();
    for (name, value) in listed {
        let bad = || Error::invalid_argument(format!("header {name:?}: invalid argument"));
        let key = HeaderName::try_from(&name).map_err(|err| bad().with_source(err))?;
        let value = HeaderValue::try_from(value).map_err(|err| bad().with_source(err))?;
        all.append(key, value);
    }
    Ok(all)
}

impl Remote {
    /// The hosts of a registry that may be used for `operation`.
    ///
    /// # Errors
    /// `FailedPrecondition` for a broken configuration, or one that leaves no host.
    pub(crate) async fn open(
        registries: &Registries,
        config: &Config,
        reference: Reference,
        access: &Access,
        operation: Operation,
        sources: &[String],
    ) -> Result<Self> {
        let directory = access.directory.as_deref().or(config.hosts.as_deref());
        let found = hosts::find(directory, &reference, config, access.plain).await?;
        let purpose = Purpose {
            repository: reference.path(),
            pushing: operation == Operation::Push,
            sources,
        };
        // Who may only say what a name points at is of use to a pull as well.
        let wanted =
            |host: &Host| host.can(operation) || (!purpose.pushing && host.can(Operation::Resolve));
        let mut sessions = Vec::new();
        for mut host in found.into_iter().filter(wanted) {
            // As with who we are: what a request gives is not for mirrors.
            if host.mirror_of.is_none() {
                host.headers.extend(access.headers.clone());
            }
            let secrets = secrets(&host, &reference, access, config);
            sessions.push(registries.session(host, &purpose, secrets).await?);
        }
        let remote = Self { sessions, reference };
        match remote.sessions.is_empty() {
            true => Err(remote.unable(operation)),
            false => Ok(remote),
        }
    }

    /// What the reference points at now.
    pub(crate) async fn resolve(&self) -> Result<Resolved> {
        let wanted = match self.reference.target() {
            // A digest proves itself, whoever answers.
            Target::Digest(digest) => Some(digest),
            Target::Tag(_) => None,
        };
        let operation = if wanted.is_some() { Operation::Pull } else { Operation::Resolve };
        let mut failed = self.unable(operation);
        for session in self.sessions(operation) {
            failed = match session.resolve(self.reference.target_text()).await {
                Ok(resolved) => match wanted.filter(|wanted| **wanted != resolved.target.digest) {
                    None => return Ok(resolved),
                    Some(wanted) => Error::data_loss(format!(
                        "registry {} answers with {} for {wanted}",
                        session.host(),
                        resolved.target.digest
                    )),
                },
                Err(err) => err,
            };
            skip(session, &failed);
        }
        Err(failed)
    }

    /// The bytes of a manifest or index, from the first host that has the right ones.
    pub(crate) async fn manifest(&self, target: &Descriptor) -> Result<Bytes> {
        let mut failed = self.unable(Operation::Pull);
        for session in self.sessions(Operation::Pull) {
            let sent = session.manifest(&target.digest).await;
            match sent.and_then(|bytes| verified(target, bytes)) {
                Ok(bytes) => return Ok(bytes),
                Err(err) => failed = err,
            }
            skip(session, &failed);
        }
        Err(failed)
    }

    /// The bytes of a small blob, from the first host that has the right ones.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Bytes> {
        let mut failed = self.unable(Operation::Pull);
        for session in self.sessions(Operation::Pull) {
            let sent = session.small_blob(blob).await;
            match sent.and_then(|bytes| verified(blob, bytes)) {
                Ok(bytes) => return Ok(bytes),
                Err(err) => failed = err,
            }
            skip(session, &failed);
        }
        Err(failed)
    }

    /// The hosts that may be used for this.
    pub(crate) fn sessions(&self, operation: Operation) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter(move |session| session.can(operation))
    }

    /// The host that has the last word.
    pub(crate) fn host(&self) -> &str {
        self.sessions.last().map_or_else(|| self.reference.api_host(), Session::host)
    }

    /// No host may be used for this.
    pub(crate) fn unable(&self, operation: Operation) -> Error {
        Error::failed_precondition(format!(
            "no host is configured to {} at registry {}: see its hosts.toml",
            operation.verb(),
            self.reference.domain()
        ))
    }
}

/// Says why the next host is tried. When there is none, this one, which is the
/// registry itself, has said why.
pub(crate) fn skip(session: &Session, why: &Error) {
    tracing::debug!(host = session.host(), error = %why, "the next host is tried, if there is one");
}

/// A document's bytes, if they are the ones that are meant.
///
/// # Errors
/// `DataLoss`.
pub(crate) fn verified(target: &Descriptor, bytes: Bytes) -> Result<Bytes> {
    let mut hasher = Hasher::new(target.digest.algorithm());
    hasher.update(&bytes);
    let found = hasher.finish();
    if found == target.digest && bytes.len() as u64 == target.size {
        return Ok(bytes);
    }
    Err(Error::data_loss(format!(
        "content does not match its digest: {} bytes of {} were promised, {} of {found} came",
        target.size,
        target.digest,
        bytes.len()
    )))
}

/// Who we are to a host. What a request gives is for the registry that it names,
/// not for its mirrors.
fn secrets(host: &Host, reference: &Reference, access: &Access, config: &Config) -> Secrets {
    match &access.secrets {
        Some(Secrets::Given(_)) if host.mirror_of.is_some() => {}
        Some(secrets) => return secrets.clone(),
        None => {}
    }
    let name = match &host.mirror_of {
        None => reference.domain().to_owned(),
        Some(_) => host.authority.clone(),
    };
    match &config.docker_config {
        None => Secrets::Given(Credentials::Anonymous),
        Some(directory) => Secrets::Docker {
            directory: directory.clone(),
            name,
            helper_timeout: config.helper_timeout,
        },
    }
}
