//! When a container is started again, and after which others.

use gantry_grpc::gantry::engine::v1 as api;

/// Reads `no`, `always`, `unless-stopped` or `on-failure[:TIMES]`.
///
/// # Errors
/// In Docker's words when it is none of them.
pub(crate) fn policy(text: &str) -> Result<api::RestartPolicy, String> {
    let (name, times) = text.split_once(':').map_or((text, None), |(name, n)| (name, Some(n)));
    if name.is_empty() && times.is_some() {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    let times: i64 = match times.unwrap_or_default() {
        "" => 0,
        times => times.parse::<i64>().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    let mode = match name {
        "" | "no" => api::RestartMode::No,
        "always" => api::RestartMode::Always,
        "unless-stopped" => api::RestartMode::UnlessStopped,
        "on-failure" => api::RestartMode::OnFailure,
        _ => {
            return Err(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', \
                 'on-failure', or 'unless-stopped'"
            ));
        }
    };
    if times != 0 && mode != api::RestartMode::OnFailure {
        return Err("invalid restart policy: maximum retry count can only be used with \
                    'on-failure'"
            .to_owned());
    }
    let maximum_retries = u32::try_from(times).map_err(|_| match times {
        ..0 => "invalid restart policy: maximum retry count cannot be negative".to_owned(),
        _ => format!("invalid restart policy: maximum retry count {times} is too large"),
    })?;
    Ok(api::RestartPolicy { mode: mode.into(), maximum_retries })
}

/// Reads `CONTAINER[:healthy]`.
///
/// # Errors
/// When it says something else.
pub(super) fn dependency(text: &str) -> Result<api::Dependency, String> {
    let (container, healthy) = match text.split_once(':') {
        None => (text, false),
        Some((container, "healthy")) => (container, true),
        Some((_, other)) => {
            return Err(format!("unknown condition '{other}': write CONTAINER[:healthy]"));
        }
    };
    if container.is_empty() {
        return Err("the container is missing: write CONTAINER[:healthy]".to_owned());
    }
    Ok(api::Dependency { container: container.to_owned(), healthy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        for (text, mode, maximum_retries) in [
            ("", api::RestartMode::No, 0),
            ("no", api::RestartMode::No, 0),
            ("always", api::RestartMode::Always, 0),
            ("always:0", api::RestartMode::Always, 0),
            ("unless-stopped", api::RestartMode::UnlessStopped, 0),
            ("on-failure", api::RestartMode::OnFailure, 0),
            ("on-failure:", api::RestartMode::OnFailure, 0),
            ("on-failure:5", api::RestartMode::OnFailure, 5),
        ] {
            let wanted = api::RestartPolicy { mode: mode.into(), maximum_retries };
            assert_eq!(policy(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn other_policies_are_refused_in_dockers_words() {
        for (text, said) in [
            (":3", "no policy provided before colon"),
            ("on-failure:x", "maximum retry count must be an integer"),
            ("on-failure:1:2", "maximum retry count must be an integer"),
            ("on-failure:-1", "maximum retry count cannot be negative"),
            ("on-failure:4294967296", "is too large"),
            ("always:3", "maximum retry count can only be used with 'on-failure'"),
            ("sometimes", "unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure'"),
        ] {
            let error = policy(text).unwrap_err();
            assert!(error.contains(said) && error.starts_with("invalid restart policy"), "{error}");
        }
    }

    #[test]
    fn dependencies() {
        let read = |text| dependency(text).map(|after| (after.container, after.healthy));
        assert_eq!(read("db"), Ok(("db".to_owned(), false)));
        assert_eq!(read("db:healthy"), Ok(("db".to_owned(), true)));
        assert!(read("db:well").unwrap_err().contains("unknown condition 'well'"));
        assert!(read(":healthy").is_err() && read("").is_err());
    }
}
