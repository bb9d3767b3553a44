//! Ports as `-p` and `--expose` write them.

use std::net::IpAddr;

use gantry_grpc::gantry::engine::v1 as api;

use super::csv;

/// What one `-p` asks for: a port, or each one of a range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ports(pub(crate) Vec<api::PortSpec>);

/// The parts of a wish, as they are written.
#[derive(Debug, Default)]
struct Parts<'a> {
    address: &'a str,
    host: &'a str,
    container: &'a str,
    protocol: &'a str,
}

/// Reads `[IP:][HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTOCOL]`, or fields between commas:
/// `target=80,published=8080,protocol=udp`.
///
/// # Errors
/// In Docker's words when it is neither.
pub(crate) fn publish(text: &str) -> Result<Ports, String> {
    if text.contains('=') {
        return fields(text);
    }
    let mut words = text.rsplitn(3, ':');
    let mut word = || words.next().unwrap_or_default();
    let (last, host, address) = (word(), word(), word());
    let (container, protocol) = last.split_once('/').unwrap_or((last, ""));
    Parts { address, host, container, protocol }.read(text)
}

fn fields(text: &str) -> Result<Ports, String> {
    let all = csv::fields(text)?;
    let mut parts = Parts::default();
    for field in &all {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!(
                "invalid publish opts format (should be name=value but got '{field}')"
            ));
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "target" => parts.container = value,
            "published" => parts.host = value,
            "protocol" => parts.protocol = value,
            "host_ip" => parts.address = value,
            // Without a cluster both are the same.
            "mode" if matches!(value, "host" | "ingress") => {}
            "mode" => return Err(format!("invalid mode {value}: write host or ingress")),
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    parts.read(text)
}

impl Parts<'_> {
    fn read(&self, text: &str) -> Result<Ports, String> {
        let Self { address, host, container, protocol } = *self;
        if container.is_empty() {
            return Err(format!("no port specified: {text}<empty>"));
        }
        let protocol = self::protocol(protocol)?;
        let host_ip = self::address(address)?;
        let (first, last) =
            range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
        let taken = match host {
            "" | "0" => None,
            host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
        };
        // One port of the container takes any of a range of the host.
        let alone = first == last;
        let count = taken.map_or(0, |(begin, end)| end - begin);
        let is_zero = host == "0" && !alone;
        if is_zero || taken.is_some() && !alone && count != last - first {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
        let each = (first..=last).map(|port| {
            let (host_port, host_port_end) = match taken {
                None => (0, 0),
                Some((begin, end)) if alone && end > begin => (begin, end),
                Some((begin, _)) => (begin + (port - first), 0),
            };
            api::PortSpec {
                host_ip: host_ip.clone(),
                host_port: host_port.into(),
                host_port_end: host_port_end.into(),
                container_port: port.into(),
                protocol: protocol.into(),
            }
        });
        Ok(Ports(each.collect()))
    }
}

/// Reads `PORT[-PORT][/PROTOCOL]`, and tells it with its protocol.
///
/// # Errors
/// In Docker's words when it is none.
pub(super) fn expose(text: &str) -> Result<String, String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, ""));
    let protocol = name(self::protocol(protocol)?);
    match range(ports) {
        Some((first, last)) if first == last => Ok(format!("{first}/{protocol}")),
        Some((first, last)) => Ok(format!("{first}-{last}/{protocol}")),
        None => Err(format!("invalid range format for --expose: {text}")),
    }
}

/// Reads `PORT[/PROTOCOL]`.
///
/// # Errors
/// In Docker's words when it is none.
pub(crate) fn one(text: &str) -> Result<(u16, api::PortProtocol), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, ""));
    let port = number(port).ok_or_else(|| format!("invalid port ({port})"))?;
    Ok((port, self::protocol(protocol)?))
}

/// What a protocol is called.
pub(crate) fn name(protocol: api::PortProtocol) -> &'static str {
    match protocol {
        api::PortProtocol::Unspecified | api::PortProtocol::Tcp => "tcp",
        api::PortProtocol::Udp => "udp",
        api::PortProtocol::Sctp => "sctp",
    }
}

fn protocol(text: &str) -> Result<api::PortProtocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "" | "tcp" => Ok(api::PortProtocol::Tcp),
        "udp" => Ok(api::PortProtocol::Udp),
        "sctp" => Ok(api::PortProtocol::Sctp),
        other => Err(format!("invalid proto: {other}")),
    }
}

/// An address, one of IPv6 with or without its brackets.
fn address(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical().to_string()),
        Err(_) if text.is_empty() => Ok(String::new()),
        Err(_) => Err(format!("invalid IP address: {bare}")),
    }
}

/// `PORT` or `FIRST-LAST`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

/// A port. That a number may have a sign is none of its business.
fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address, ports of the host, port of the container, protocol.
    type Told = (String, u32, u32, u32, &'static str);

    fn told(text: &str) -> Vec<Told> {
        let ports = publish(text).unwrap().0;
        let each = ports.into_iter().map(|port| {
            let protocol = name(port.protocol());
            (port.host_ip, port.host_port, port.host_port_end, port.container_port, protocol)
        });
        each.collect()
    }

    #[test]
    fn ports_as_docker_takes_them() {
        for (text, ip, host, end, container, protocol) in [
            ("80", "", 0, 0, 80, "tcp"),
            (":80", "", 0, 0, 80, "tcp"),
            ("0:80", "", 0, 0, 80, "tcp"),
            ("8080:80", "", 8080, 0, 80, "tcp"),
            ("53:53/udp", "", 53, 0, 53, "udp"),
            ("80/SCTP", "", 0, 0, 80, "sctp"),
            ("80/", "", 0, 0, 80, "tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1", 8080, 0, 80, "tcp"),
            ("127.0.0.1::80", "127.0.0.1", 0, 0, 80, "tcp"),
            ("[::1]:8080:80", "::1", 8080, 0, 80, "tcp"),
            ("::1:8080:80", "::1", 8080, 0, 80, "tcp"),
            ("[::ffff:1.2.3.4]::80", "1.2.3.4", 0, 0, 80, "tcp"),
            ("8000-8010:80", "", 8000, 8010, 80, "tcp"),
            ("8000-8000:80", "", 8000, 0, 80, "tcp"),
            ("target=80", "", 0, 0, 80, "tcp"),
            ("target=53,published=5353,protocol=udp,mode=host", "", 5353, 0, 53, "udp"),
            ("target=80,published=8000-8002,host_ip=::1", "::1", 8000, 8002, 80, "tcp"),
        ] {
            assert_eq!(told(text), [(ip.to_owned(), host, end, container, protocol)], "{text}");
        }
    }

    #[test]
    fn ranges_are_one_by_one() {
        let each = |text: &str| -> Vec<(u32, u32)> {
            told(text).into_iter().map(|(_, host, _, container, _)| (host, container)).collect()
        };
        assert_eq!(each("80-82"), [(0, 80), (0, 81), (0, 82)]);
        assert_eq!(each("8000-8001:80-81/udp"), [(8000, 80), (8001, 81)]);
        assert_eq!(each("65534-65535:1-2"), [(65534, 1), (65535, 2)]);
    }

    #[test]
    fn other_ports_are_refused_in_dockers_words() {
        for (text, said) in [
            ("", "no port specified: <empty>"),
            ("80:", "no port specified: 80:<empty>"),
            ("/tcp", "no port specified: /tcp<empty>"),
            ("published=80", "no port specified: published=80<empty>"),
            ("x", "invalid containerPort: x"),
            ("0", "invalid containerPort: 0"),
            ("65536", "invalid containerPort: 65536"),
            ("+80", "invalid containerPort: +80"),
            ("80-79", "invalid containerPort: 80-79"),
            ("x:80", "invalid hostPort: x"),
            ("1.2.3.4:80", "invalid hostPort: 1.2.3.4"),
            ("0-5:80", "invalid hostPort: 0-5"),
            ("80/foo", "invalid proto: foo"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("010.0.0.1:80:80", "invalid IP address: 010.0.0.1"),
            ("[fe80::1%eth0]:80:80", "invalid IP address: fe80::1%eth0"),
            ("80:80:80:80", "invalid IP address: 80:80"),
            (
                "8000-8001:80-82",
                "invalid ranges specified for container and host Ports: 80-82 and 8000-8001",
            ),
            ("0:80-82", "invalid ranges specified for container and host Ports: 80-82 and 0"),
            ("target=80,foo=1", "invalid field key foo"),
            (
                "target=80,short",
                "invalid publish opts format (should be name=value but got 'short')",
            ),
        ] {
            assert_eq!(publish(text).unwrap_err(), said, "{text}");
        }
        assert!(publish("target=80,mode=x").unwrap_err().starts_with("invalid mode x"));
    }

    #[test]
    fn exposed_ports() {
        for (text, wanted) in [("80", "80/tcp"), ("53/UDP", "53/udp"), ("80-82/", "80-82/tcp")] {
            assert_eq!(expose(text).unwrap(), wanted);
        }
        for (text, said) in [
            ("80:80", "invalid port format for --expose: 80:80"),
            ("", "invalid range format for --expose: "),
            ("82-80", "invalid range format for --expose: 82-80"),
            ("0", "invalid range format for --expose: 0"),
            ("80/foo", "invalid proto: foo"),
        ] {
            assert_eq!(expose(text).unwrap_err(), said, "{text}");
        }
    }

    #[test]
    fn one_port() {
        assert_eq!(one("80"), Ok((80, api::PortProtocol::Tcp)));
        assert_eq!(one("53/udp"), Ok((53, api::PortProtocol::Udp)));
        assert_eq!(one("x"), Err("invalid port (x)".to_owned()));
        assert_eq!(one("0"), Err("invalid port (0)".to_owned()));
        assert_eq!(one("80/x"), Err("invalid proto: x".to_owned()));
    }
}
