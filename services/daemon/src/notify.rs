//! Tells systemd how the daemon does (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager's socket, if there is one.
pub(crate) struct Notify(Option<SocketAddr>);

impl Notify {
    /// Takes the socket's name as `NOTIFY_SOCKET` had it.
    pub(crate) fn new(name: Option<&str>) -> Self {
        Self(name.and_then(|name| match name.strip_prefix('@') {
            Some(rest) => SocketAddr::from_abstract_name(rest).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        }))
    }

    /// Sends a state such as `READY=1`. A manager that does not listen is
    /// none of our business.
    pub(crate) fn send(&self, state: &str) {
        let Some(address) = &self.0 else { return };
        let sent = UnixDatagram::unbound().and_then(|s| s.send_to_addr(state.as_bytes(), address));
        if let Err(err) = sent {
            tracing::warn!(%err, state, "could not notify the service manager");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let manager = UnixDatagram::bind(&path).unwrap();
        Notify::new(path.to_str()).send("READY=1");
        let mut buf = [0; 32];
        let n = manager.recv(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"READY=1");
        Notify::new(None).send("READY=1");
    }
}
