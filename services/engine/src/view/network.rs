//! `NetworkSettings`: addresses and ports. Networks without them show what Docker shows then.

use serde_json::{Map, Value};

use crate::fields::Fields;
use crate::model::Network;

/// The object.
pub(super) fn fields(network: Network) -> Fields {
    let nothing = Map::<String, Value>::new();
    Fields::default()
        .with("Bridge", "")
        .with("SandboxID", "")
        .with("SandboxKey", "")
        .with("Ports", nothing)
        .with("HairpinMode", false)
        .with("LinkLocalIPv6Address", "")
        .with("LinkLocalIPv6PrefixLen", 0)
        .with("SecondaryIPAddresses", Value::Null)
        .with("SecondaryIPv6Addresses", Value::Null)
        .with("EndpointID", "")
        .with("Gateway", "")
        .with("GlobalIPv6Address", "")
        .with("GlobalIPv6PrefixLen", 0)
        .with("IPAddress", "")
        .with("IPPrefixLen", 0)
        .with("IPv6Gateway", "")
        .with("MacAddress", "")
        .with("Networks", Fields::default().with(network.as_str(), endpoint()))
}

fn endpoint() -> Fields {
    Fields::default()
        .with("IPAMConfig", Value::Null)
        .with("Links", Value::Null)
        .with("Aliases", Value::Null)
        .with("MacAddress", "")
        .with("DriverOpts", Value::Null)
        .with("GwPriority", 0)
        .with("NetworkID", "")
        .with("EndpointID", "")
        .with("Gateway", "")
        .with("IPAddress", "")
        .with("IPPrefixLen", 0)
        .with("IPv6Gateway", "")
        .with("GlobalIPv6Address", "")
        .with("GlobalIPv6PrefixLen", 0)
        .with("DNSNames", Value::Null)
}
