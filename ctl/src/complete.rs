//! What shells complete: commands and options from the definition, names from
//! the daemon.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::CompletionCandidate;
use clap_complete::engine::{PathCompleter, ValueCompleter};
use clap_complete::env::CompleteEnv;
use gantry_core::Namespace;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli;
use crate::client::Client;
use crate::contexts::{Contexts, DEFAULT};

/// The variable by which a shell asks.
pub(crate) const VARIABLE: &str = "COMPLETE";

/// How long a user who pressed the tabulator waits for the daemon.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers a shell that asks for completions, and ends the process.
pub(crate) fn answer_shell() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(cli::definition).var(VARIABLE).complete();
    }
}

/// Names of all containers.
pub(crate) fn containers() -> Vec<CompletionCandidate> {
    named(true)
}

/// Names of containers that run.
pub(crate) fn running() -> Vec<CompletionCandidate> {
    named(false)
}

/// Names of images.
pub(crate) fn images() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let answer = client.images().list(api::ListImagesRequest::default()).await.ok()?;
        Some(answer.into_inner().images.into_iter().map(|i| shown(&i)).collect())
    })
}

/// Names of volumes.
pub(crate) fn volumes() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let request = api::ListVolumesRequest::default();
        let answer = client.volumes().list(request).await.ok()?;
        Some(answer.into_inner().volumes.into_iter().map(|volume| volume.name).collect())
    })
}

/// Names of volumes, or paths where something begins like one.
pub(crate) fn volumes_and_paths(current: &OsStr) -> Vec<CompletionCandidate> {
    let text = current.to_string_lossy();
    if text.starts_with(['/', '.', '~']) {
        return PathCompleter::any().complete(current);
    }
    let begins =
        |name: &CompletionCandidate| name.get_value().to_string_lossy().starts_with(&*text);
    volumes().into_iter().filter(begins).collect()
}

/// Names of containers with a colon, and paths here.
pub(crate) fn copied(current: &OsStr) -> Vec<CompletionCandidate> {
    let text = current.to_string_lossy();
    let mut all = PathCompleter::any().complete(current);
    if !text.starts_with(['/', '.', '~']) {
        let names = containers().into_iter().map(|name| {
            let mut name = name.get_value().to_owned();
            name.push(":");
            name
        });
        let begins = names.filter(|name| name.to_string_lossy().starts_with(&*text));
        all.extend(begins.map(CompletionCandidate::new));
    }
    all
}

/// Names of contexts.
pub(crate) fn contexts() -> Vec<CompletionCandidate> {
    let all = Contexts::of(cli::variable).and_then(|contexts| contexts.list());
    let all = all.unwrap_or_default().into_keys();
    all.chain([DEFAULT.to_owned()]).map(CompletionCandidate::new).collect()
}

/// Names of networks.
pub(crate) fn networks() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let request = api::ListNetworksRequest::default();
        let answer = client.networks().list(request).await.ok()?;
        Some(answer.into_inner().networks.into_iter().map(|network| network.name).collect())
    })
}

/// What a container can have for a network.
pub(crate) fn modes() -> Vec<CompletionCandidate> {
    let mut all = networks();
    for always in ["bridge", "host", "none", "container:"].map(CompletionCandidate::new) {
        if !all.contains(&always) {
            all.push(always);
        }
    }
    all
}

/// When containers are started again.
pub(crate) fn restart_policies() -> Vec<CompletionCandidate> {
    ["no", "always", "unless-stopped", "on-failure"].map(CompletionCandidate::new).into()
}

/// Names of the caller's variables.
pub(crate) fn variables() -> Vec<CompletionCandidate> {
    std::env::vars_os().map(|(name, _)| CompletionCandidate::new(name)).collect()
}

/// Names of containers, images, networks and volumes.
pub(crate) fn objects() -> Vec<CompletionCandidate> {
    let mut all = containers();
    all.extend(images());
    all.extend(networks());
    all.extend(volumes());
    all
}

/// An image's name as users write it.
fn shown(image: &api::Image) -> String {
    match image.tag.as_str() {
        "" => image.name.clone(),
        tag => format!("{}:{tag}", image.repository),
    }
}

fn named(all: bool) -> Vec<CompletionCandidate> {
    let request = api::ListContainersRequest { all, ..Default::default() };
    ask(async |client| {
        let answer = client.containers().list(request).await.ok()?;
        Some(answer.into_inner().containers.into_iter().map(|c| c.name).collect())
    })
}

/// Asks the daemon of the environment. Without an answer there is nothing to
/// complete.
fn ask(question: impl AsyncFnOnce(Client) -> Option<Vec<String>>) -> Vec<CompletionCandidate> {
    let answer = async {
        let target = cli::usual_target().ok()?;
        let namespace = cli::variable("GANTRY_NAMESPACE");
        let namespace = namespace.unwrap_or_else(|| cli::DEFAULT_NAMESPACE.to_owned());
        let namespace = Namespace::new(namespace).ok()?;
        question(Client::connect(&target, &namespace).await.ok()?).await
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let names = runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
    let names = names.ok().flatten().unwrap_or_default();
    names.into_iter().map(CompletionCandidate::new).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, complete};

    use super::*;

    /// What is offered for the last word.
    fn offered(line: &str) -> Vec<String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let last = words.len() - 1;
        let found = complete(&mut cli::definition(), words, last, None).unwrap();
        found.iter().map(|one| one.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn commands_and_options_are_offered() {
        for (line, wanted) in [
            ("gantry ", "stats"),
            ("gantry vol", "volume"),
            ("gantry volume ", "prune"),
            ("gantry network ", "connect"),
            ("gantry port ", "explain"),
            ("gantry container po", "port"),
            ("gantry container r", "restart"),
            ("gantry image ", "ls"),
            ("gantry system ", "df"),
            ("gantry run --health-", "--health-cmd"),
            ("gantry completion f", "fish"),
            ("gantry run --restart ", "unless-stopped"),
            ("gantry run --network ", "none"),
            ("gantry run --publish", "--publish-all"),
        ] {
            let offered = offered(line);
            assert!(offered.iter().any(|word| word == wanted), "{line}: {offered:?}");
        }
        assert!(!offered("gantry ").contains(&"man".to_owned()), "it is for packagers");
    }

    fn check(command: &clap::Command, path: &str) {
        for arg in command.get_arguments() {
            let first = arg.get_value_names().and_then(|names| names.first());
            let things = ["CONTAINER", "IMAGE", "NETWORK", "OBJECT", "VOLUME"];
            let thing = first.is_some_and(|name| things.contains(&name.as_str()));
            let known = arg.get::<ArgValueCandidates>().is_some()
                || arg.get::<ArgValueCompleter>().is_some();
            assert!(known || !thing, "{path}: {}", arg.get_id());
        }
        for sub in command.get_subcommands() {
            check(sub, &format!("{path} {}", sub.get_name()));
        }
    }

    #[test]
    fn names_of_things_are_looked_up() {
        check(&cli::definition(), "gantry");
    }
}
