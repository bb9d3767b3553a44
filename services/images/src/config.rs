//! How images are transferred.

use std::path::PathBuf;
use std::time::Duration;

use crate::reference::split_port;

/// Settings of a [`crate::RegistryPuller`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Registries (`host` or `host:port`) that are spoken to in plain HTTP.
    /// Loopback hosts are as well, on ports other than that of HTTPS, unless
    /// something about TLS is configured for them.
    pub plain_http: Vec<String>,
    /// Directory of Docker's `config.json`, which holds credentials; `None`
    /// for no credentials.
    pub docker_config: Option<PathBuf>,
    /// Directory of `hosts.toml` files by registry; `None` for none.
    pub hosts: Option<PathBuf>,
    /// Layers that are fetched and unpacked at the same time, per pull.
    pub concurrency: usize,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next bytes of a reply.
    pub read_timeout: Duration,
    /// Longest wait for a credential helper.
    pub helper_timeout: Duration,
    /// How often something that may pass is tried without getting any further.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles each time, up to ten seconds.
    pub backoff: Duration,
    /// Longest manifest, index or configuration in bytes.
    pub max_document: u64,
    /// Most layers of an image.
    pub max_layers: usize,
    /// How long an unfinished pull keeps what it fetched.
    pub keep_partial: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            docker_config: None,
            hosts: None,
            concurrency: 4,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            helper_timeout: Duration::from_secs(20),
            attempts: 5,
            backoff: Duration::from_millis(250),
            max_document: 8 << 20,
            max_layers: 500,
            keep_partial: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Config {
    /// Whether this registry is spoken to in plain HTTP.
    pub(crate) fn is_plain(&self, host: &str) -> bool {
        let (name, port) = split_port(host);
        let local = is_loopback(name) && !matches!(port, None | Some("443"));
        local || self.plain_http.iter().any(|h| h == host || h == name)
    }

    /// The wait before attempt number `attempt` (the first is 0).
    pub(crate) fn pause(&self, attempt: u32) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        doubled.min(MAX_PAUSE)
    }
}

/// Longest wait between attempts.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Whether a host without its port is this machine.
pub(crate) fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_http_is_plain() {
        let config =
            Config { plain_http: vec!["a.b:5000".into(), "c.d".into()], ..Config::default() };
        for host in ["localhost:80", "localhost:1", "127.0.0.1:1", "127.9.9.9:8", "[::1]:1"] {
            assert!(config.is_plain(host), "{host}");
        }
        assert!(config.is_plain("a.b:5000"));
        assert!(config.is_plain("c.d:1"));
        let others = ["a.b", "a.b:5001", "128.0.0.1:1", "localhost.evil.com:1", "[::2]:1"];
        for host in others.into_iter().chain(["localhost", "127.0.0.1:443", "[::1]"]) {
            assert!(!config.is_plain(host), "{host}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let config = Config::default();
        assert_eq!(config.pause(1), Duration::from_millis(250));
        assert_eq!(config.pause(3), Duration::from_secs(1));
        assert_eq!(config.pause(60), MAX_PAUSE);
    }
}
