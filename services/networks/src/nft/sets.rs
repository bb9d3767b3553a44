//! The sets and maps of the table.

use super::wire::{Field, SetDefinition};

/// All bridges.
pub(super) const BRIDGES: SetDefinition = set("bridges", &[Field::Interface]);
/// Bridges that nothing leaves.
pub(super) const INTERNAL: SetDefinition = set("internal", &[Field::Interface]);
/// Each bridge with itself, unless its containers are isolated.
pub(super) const SAME: SetDefinition = set("same", &[Field::Interface, Field::Interface]);
/// Bridges that are not isolated from each other.
pub(super) const OPEN: SetDefinition = set("open", &[Field::Interface]);
/// Interfaces from which containers of a bridge are reached.
pub(super) const TRUSTED: SetDefinition = set("trusted", &[Field::Interface, Field::Interface]);
/// Bridges whose containers are reached from everywhere.
pub(super) const DIRECT4: SetDefinition = set("direct4", &[Field::Interface]);
pub(super) const DIRECT6: SetDefinition = set("direct6", &[Field::Interface]);
/// Bridges to which packets are routed: no address is translated.
pub(super) const ROUTED4: SetDefinition = set("routed4", &[Field::Interface]);
pub(super) const ROUTED6: SetDefinition = set("routed6", &[Field::Interface]);
/// Ports of containers that are reached by the container's address.
pub(super) const REACH4: SetDefinition = set("reach4", &[Field::Ip, Field::Protocol, Field::Port]);
pub(super) const REACH6: SetDefinition = set("reach6", &[Field::Ip6, Field::Protocol, Field::Port]);
/// Subnets whose packets leave with the host's address.
pub(super) const MASQUERADED4: SetDefinition = intervals("masquerade4", &[Field::Ip]);
pub(super) const MASQUERADED6: SetDefinition = intervals("masquerade6", &[Field::Ip6]);
/// Subnets with their bridges.
pub(super) const OWN4: SetDefinition = intervals("own4", &[Field::Ip, Field::Interface]);
pub(super) const OWN6: SetDefinition = intervals("own6", &[Field::Ip6, Field::Interface]);
/// Ports of every address of the host.
pub(super) const PORTS4: SetDefinition =
    map("ports4", &[Field::Protocol, Field::Port], &[Field::Ip, Field::Port]);
pub(super) const PORTS6: SetDefinition =
    map("ports6", &[Field::Protocol, Field::Port], &[Field::Ip6, Field::Port]);
/// Ports of one address of the host.
pub(super) const PORTS4_AT: SetDefinition =
    map("ports4-at", &[Field::Ip, Field::Protocol, Field::Port], &[Field::Ip, Field::Port]);
pub(super) const PORTS6_AT: SetDefinition =
    map("ports6-at", &[Field::Ip6, Field::Protocol, Field::Port], &[Field::Ip6, Field::Port]);
/// All published ports, as a container's shim listens there: what is not translated comes to it.
pub(super) const RELAYED4: SetDefinition = set("relayed4", &[Field::Protocol, Field::Port]);
pub(super) const RELAYED6: SetDefinition = set("relayed6", &[Field::Protocol, Field::Port]);
pub(super) const RELAYED4_AT: SetDefinition =
    set("relayed4-at", &[Field::Ip, Field::Protocol, Field::Port]);
pub(super) const RELAYED6_AT: SetDefinition =
    set("relayed6-at", &[Field::Ip6, Field::Protocol, Field::Port]);

/// The sets and maps.
pub(super) const SETS: &[SetDefinition] = &[
    BRIDGES,
    INTERNAL,
    SAME,
    OPEN,
    TRUSTED,
    DIRECT4,
    DIRECT6,
    ROUTED4,
    ROUTED6,
    REACH4,
    REACH6,
    MASQUERADED4,
    MASQUERADED6,
    OWN4,
    OWN6,
    PORTS4,
    PORTS6,
    PORTS4_AT,
    PORTS6_AT,
    RELAYED4,
    RELAYED6,
    RELAYED4_AT,
    RELAYED6_AT,
];

const fn set(name: &'static str, key: &'static [Field]) -> SetDefinition {
    SetDefinition { name, key, data: &[], intervals: false }
}

const fn intervals(name: &'static str, key: &'static [Field]) -> SetDefinition {
    SetDefinition { name, key, data: &[], intervals: true }
}

const fn map(name: &'static str, key: &'static [Field], data: &'static [Field]) -> SetDefinition {
    SetDefinition { name, key, data, intervals: false }
}
