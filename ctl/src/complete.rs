//! What shells complete: commands and options from the definition, names from
//! the daemon.

use std::time::Duration;

use clap_complete::CompletionCandidate;
use clap_complete::env::CompleteEnv;
use gantry_core::Namespace;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli;
use crate::client::{Address, Client};

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
        let answer = client.images().list(api::ListImagesRequest {}).await.ok()?;
        Some(answer.into_inner().images.into_iter().map(|i| shown(&i)).collect())
    })
}

/// Names of containers and images.
pub(crate) fn objects() -> Vec<CompletionCandidate> {
    let mut all = containers();
    all.extend(images());
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
    ask(async |client| {
        let answer = client.containers().list(api::ListContainersRequest { all }).await.ok()?;
        Some(answer.into_inner().containers.into_iter().map(|c| c.name).collect())
    })
}

/// Asks the daemon of the environment. Without an answer there is nothing to
/// complete.
fn ask(question: impl AsyncFnOnce(Client) -> Option<Vec<String>>) -> Vec<CompletionCandidate> {
    let answer = async {
        let address: Address = variable("GANTRY_ADDRESS", cli::DEFAULT_ADDRESS).parse().ok()?;
        let namespace =
            Namespace::new(variable("GANTRY_NAMESPACE", cli::DEFAULT_NAMESPACE)).ok()?;
        question(Client::connect(&address, &namespace).await.ok()?).await
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let names = runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
    let names = names.ok().flatten().unwrap_or_default();
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}
