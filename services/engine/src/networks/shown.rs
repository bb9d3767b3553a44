//! Networks as Docker shows them.

use gantry_core::networks::{Driver, Network, Subnet};
use serde_json::{Map, Value, json};

use super::{EndpointSummary, NetworkSummary};
use crate::fields::Fields;

/// `02:42:ac:11:00:02`.
pub(crate) fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads an address of that form, or with `-`.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut address = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut address {
        let part = parts.next().filter(|part| part.len() == 2)?;
        // A sign is no digit.
        let digits = part.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = Some(part).filter(|_| digits).and_then(|p| u8::from_str_radix(p, 16).ok())?;
    }
    parts.next().is_none().then_some(address)
}

impl NetworkSummary {
    /// A JSON object with Docker's field names.
    pub fn json(&self) -> String {
        let Network { id, name, driver, options, labels, .. } = &self.network;
        let addressed = matches!(driver, Driver::Bridge | Driver::Macvlan);
        let configs: Vec<Fields> = self.network.subnets.iter().map(config).collect();
        let options_of_ipam =
            if self.network.predefined { Value::Null } else { Value::Object(Map::new()) };
        let ipam = Fields::default()
            .with("Driver", "default")
            .with("Options", options_of_ipam)
            .with("Config", addressed.then_some(configs));
        Fields::default()
            .with("Name", name)
            .with("Id", id)
            .with("Created", self.network.created_at.to_string())
            .with("Scope", "local")
            .with("Driver", driver.as_str())
            .with("EnableIPv4", !addressed || self.network.ipv4().is_some())
            .with("EnableIPv6", self.network.ipv6().is_some())
            .with("IPAM", ipam)
            .with("Internal", self.network.internal)
            .with("Attachable", false)
            .with("Ingress", false)
            .with("ConfigFrom", Fields::default().with("Network", ""))
            .with("ConfigOnly", false)
            .with("Containers", containers(&self.endpoints))
            .with("Options", options)
            .with("Labels", labels)
            .to_string()
    }
}

fn config(subnet: &Subnet) -> Fields {
    let text = |value: Option<String>| value.unwrap_or_default();
    Fields::default()
        .with("Subnet", subnet.subnet.to_string())
        .with_set("IPRange", text(subnet.ip_range.map(|range| range.to_string())))
        .with_set("Gateway", text(subnet.gateway.map(|gateway| gateway.to_string())))
        .with_set("AuxiliaryAddresses", subnet.reserved.clone())
}

fn containers(endpoints: &[EndpointSummary]) -> Map<String, Value> {
    let shown = endpoints.iter().map(|summary| {
        let EndpointSummary { endpoint, container, .. } = summary;
        let text = |value: Option<String>| value.unwrap_or_default();
        let fields = json!({
            "Name": container,
            "EndpointID": endpoint.id,
            "MacAddress": mac(endpoint.mac),
            "IPv4Address": text(endpoint.ipv4.map(|address| address.to_string())),
            "IPv6Address": text(endpoint.ipv6.map(|address| address.to_string())),
        });
        (endpoint.container.clone(), fields)
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use gantry_core::networks::{Attachment, Endpoint};

    use super::*;
    use crate::networks::tests::network;

    #[test]
    fn addresses_of_interfaces() {
        let address = [2, 0x42, 0xac, 0x11, 0, 2];
        assert_eq!(mac(address), "02:42:ac:11:00:02");
        assert_eq!(parse_mac("02:42:AC:11:00:02"), Some(address));
        assert_eq!(parse_mac("02-42-ac-11-00-02"), Some(address));
        for bad in
            ["", "02:42:ac:11:00", "02:42:ac:11:00:02:01", "02:42:ac:11:00:zz", "+2:42:ac:11:00:02"]
        {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn dockers_shape() {
        let endpoint = Endpoint {
            id: "e1".into(),
            network: "app-id".into(),
            container: "c1".into(),
            interface: "eth0".into(),
            host_interface: "veth1".into(),
            mac: [2, 0x42, 0xac, 0x12, 0, 2],
            ipv4: Some("172.18.0.2/24".parse().unwrap()),
            ipv6: None,
            ipv4_gateway: None,
            ipv6_gateway: None,
            dns_names: Vec::new(),
        };
        let inside = EndpointSummary {
            endpoint,
            network: "app".into(),
            container: "web".into(),
            attachment: Attachment::default(),
        };
        let app = network("app", Driver::Bridge);
        let json = NetworkSummary { network: app, endpoints: vec![inside] }.json();
        let shown: Value = serde_json::from_str(&json).unwrap();
        assert!(json.starts_with(r#"{"Name":"app","Id":"app-id","Created":"1970-"#), "{json}");
        let config = &shown["IPAM"]["Config"][0];
        assert_eq!(config, &json!({"Subnet": "172.18.0.0/24", "Gateway": "172.18.0.1"}));
        assert!(shown["IPAM"]["Options"].is_object());
        assert_eq!((&shown["EnableIPv4"], &shown["EnableIPv6"]), (&json!(true), &json!(false)));
        let web = &shown["Containers"]["c1"];
        assert_eq!((&web["Name"], &web["IPv4Address"]), (&json!("web"), &json!("172.18.0.2/24")));
        assert_eq!(web["MacAddress"], "02:42:ac:12:00:02");
        let host = NetworkSummary { network: network("host", Driver::Host), endpoints: vec![] };
        let shown: Value = serde_json::from_str(&host.json()).unwrap();
        assert!(shown["IPAM"]["Config"].is_null() && shown["EnableIPv4"] == true);
    }
}
