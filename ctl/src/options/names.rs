//! How a container finds others by name: name servers, search domains, lines of its hosts file.

use std::net::IpAddr;

/// Stands for the host's address.
const HOST_GATEWAY: &str = "host-gateway";
/// Characters of a domain.
const LONGEST: usize = 255;

/// The address of a name server.
///
/// # Errors
/// In Docker's words when it is none.
pub(super) fn server(text: &str) -> Result<String, String> {
    let address = text.trim().parse::<IpAddr>();
    let address = address.map(|address| address.to_canonical().to_string());
    address.map_err(|_| format!("IP address is not correctly formatted: {text}"))
}

/// A domain that names are looked up in; `.` for none.
///
/// # Errors
/// In Docker's words when it is none.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let domain = text.trim();
    if domain == "." {
        return Ok(domain.to_owned());
    }
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let is_label = |label: &str| {
        let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let has_letter = domain.bytes().any(|byte| byte.is_ascii_alphabetic());
    if has_letter && domain.len() < LONGEST && domain.split('.').all(is_label) {
        return Ok(domain.to_owned());
    }
    Err(format!("{text} is not a valid domain"))
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`, an address of IPv6 with or without brackets; told as the
/// former.
///
/// # Errors
/// In Docker's words when it is neither.
pub(super) fn host(text: &str) -> Result<String, String> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let Some((name, address)) = parts.filter(|(name, _)| !name.is_empty()) else {
        return Err(format!("bad format for add-host: {text:?}"));
    };
    if name.contains(char::is_whitespace) {
        return Err(format!("bad format for add-host: {text:?}"));
    }
    if address == HOST_GATEWAY {
        return Ok(format!("{name}:{address}"));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare.unwrap_or(address).parse::<IpAddr>() {
        Ok(address) => Ok(format!("{name}:{address}")),
        Err(_) => Err(format!("invalid IP address in add-host: {address:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_addresses() {
        assert_eq!(server(" 1.1.1.1 ").unwrap(), "1.1.1.1");
        assert_eq!(server("2606:4700::1111").unwrap(), "2606:4700::1111");
        for text in ["x", "", "010.1.1.1", "fe80::1%eth0"] {
            let said = format!("IP address is not correctly formatted: {text}");
            assert_eq!(server(text), Err(said));
        }
    }

    #[test]
    fn search_domains() {
        for (text, wanted) in
            [(".", "."), ("example.org", "example.org"), (" x ", "x"), ("a-1.b.", "a-1.b")]
        {
            assert_eq!(domain(text).unwrap(), wanted);
        }
        let long = format!("{}.x", "a".repeat(LONGEST));
        for text in ["", "*", "a b", "-x", "x..y", "x_y", "1.2", "..", &long] {
            assert_eq!(domain(text), Err(format!("{text} is not a valid domain")));
        }
    }

    #[test]
    fn lines_of_the_hosts_file() {
        for (text, wanted) in [
            ("db:10.0.0.1", "db:10.0.0.1"),
            ("db=10.0.0.1", "db:10.0.0.1"),
            ("db:::1", "db:::1"),
            ("db:[::1]", "db:::1"),
            ("db=[fd00::1]", "db:fd00::1"),
            ("host:host-gateway", "host:host-gateway"),
        ] {
            assert_eq!(host(text).unwrap(), wanted);
        }
        for text in ["", "x", ":1.2.3.4", "a b:1.2.3.4"] {
            assert_eq!(host(text), Err(format!("bad format for add-host: {text:?}")));
        }
        for (text, address) in [("x:", ""), ("x:y", "y"), ("x=y=z", "y=z"), ("x:[::1", "[::1")] {
            let said = format!("invalid IP address in add-host: {address:?}");
            assert_eq!(host(text), Err(said));
        }
    }
}
