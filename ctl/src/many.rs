//! One action on several targets: each is tried, and each failure is told.

use std::collections::BTreeMap;
use std::future::Future;

use tokio::task::JoinSet;

use crate::exit::{FAILURE, Outcome, SUCCESS, describe};
use crate::printer::{Closed, Printer};

/// Most targets that are acted on at a time.
const AT_ONCE: usize = 50;

/// Acts on all targets at once and prints the names in the order of the targets, as Docker does.
///
/// # Errors
/// Those of the output; failures of targets are told, and make the exit code 1.
pub(crate) async fn at_once<F>(
    printer: &Printer,
    targets: Vec<String>,
    action: impl Fn(String) -> F,
) -> Outcome
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    at_once_but(printer, targets, |_| false, action).await
}

/// As [`at_once`]; failures that are accepted are told, and change nothing.
///
/// # Errors
/// Those of the output.
pub(crate) async fn at_once_but<F>(
    printer: &Printer,
    targets: Vec<String>,
    accepted: impl Fn(&anyhow::Error) -> bool,
    action: impl Fn(String) -> F,
) -> Outcome
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut code = SUCCESS;
    let mut running = JoinSet::new();
    let mut waiting = targets.into_iter().enumerate();
    // What has ended before a target that stands in front of it.
    let mut ended = BTreeMap::new();
    let mut next = 0;
    loop {
        while running.len() < AT_ONCE
            && let Some((at, target)) = waiting.next()
        {
            let work = action(target.clone());
            running.spawn(async move { (at, target, work.await) });
        }
        let Some(finished) = running.join_next().await else { return Ok(code) };
        let (at, target, result) = finished?;
        ended.insert(at, (target, result));
        while let Some((target, result)) = ended.remove(&next) {
            next += 1;
            let fails = result.as_ref().err().is_some_and(|error| !accepted(error));
            tell(printer, &target, result)?;
            if fails {
                code = FAILURE;
            }
        }
    }
}

/// Acts on one target after the other and prints each name when it is done.
///
/// # Errors
/// Those of the output; failures of targets are told, and make the exit code 1.
pub(crate) async fn in_order<F>(
    printer: &Printer,
    targets: Vec<String>,
    action: impl Fn(String) -> F,
) -> Outcome
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut code = SUCCESS;
    for target in targets {
        let result = action(target.clone()).await;
        if result.is_err() {
            code = FAILURE;
        }
        tell(printer, &target, result)?;
    }
    Ok(code)
}

fn tell(printer: &Printer, target: &str, result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Ok(()) => printer.line(target),
        Err(error) if error.is::<Closed>() => Err(error),
        Err(error) => {
            printer.error(describe(&error));
            Ok(())
        }
    }
}
