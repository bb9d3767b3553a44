//! What Docker's templates see of inspected objects where JSON has nothing.
//!
//! Fields that are left out while they say nothing are there for templates: `{{if .State.Health}}`
//! is false, and no error. Lists and maps that nobody has made print as empty ones, and have a
//! length; only as JSON they are `null`.

use gantry_template::Error;
use serde_json::{Map, Value};

/// What a field is that says nothing.
#[derive(Clone, Copy, Debug)]
enum Zero {
    Nothing,
    List,
    Map,
    Text,
    False,
}

/// For each kind of object a field that it always has, and those that it may lack.
static LACKS: [(&str, &[(&str, Zero)]); 9] = [
    // A container.
    ("HostConfig", &[("SizeRw", Zero::Nothing), ("SizeRootFs", Zero::Nothing)]),
    ("OOMKilled", &[("Health", Zero::Nothing)]),
    (
        "NetworkMode",
        &[
            ("After", Zero::List),
            ("Annotations", Zero::Map),
            ("Init", Zero::Nothing),
            ("Mounts", Zero::List),
            ("StorageOpt", Zero::Map),
            ("Sysctls", Zero::Map),
            ("Tmpfs", Zero::Map),
        ],
    ),
    // Of a container or an image.
    (
        "OnBuild",
        &[
            ("ArgsEscaped", Zero::False),
            ("ExposedPorts", Zero::Map),
            ("Healthcheck", Zero::Nothing),
            ("MacAddress", Zero::Text),
            ("NetworkDisabled", Zero::False),
            ("Shell", Zero::List),
            ("StopSignal", Zero::Text),
            ("StopTimeout", Zero::Nothing),
        ],
    ),
    // Something mounted.
    ("Destination", &[("Driver", Zero::Text), ("Name", Zero::Text)]),
    // An image.
    ("RepoTags", &[("Created", Zero::Text), ("OsVersion", Zero::Text), ("Variant", Zero::Text)]),
    // A volume.
    ("Mountpoint", &[("Status", Zero::Map), ("UsageData", Zero::Nothing)]),
    // A network, and its addresses.
    ("ConfigOnly", &[("Peers", Zero::List), ("Services", Zero::Map)]),
    (
        "Subnet",
        &[("AuxiliaryAddresses", Zero::Map), ("Gateway", Zero::Text), ("IPRange", Zero::Text)],
    ),
];

/// Fields that may be `null`, and are lists.
const LISTS: [&str; 21] = [
    "Aliases",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "MaskedPaths",
    "OnBuild",
    "ReadonlyPaths",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "SecurityOpt",
    "VolumesFrom",
];
/// Fields that may be `null`, and are maps.
const MAPS: [&str; 5] = ["Data", "DriverOpts", "Labels", "Options", "Volumes"];

/// An object as a template sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// It asks for JSON, in which lists and maps that nobody has made are `null`.
    json: bool,
}

impl Seen {
    /// By this template.
    pub(crate) fn by(template: &str) -> Self {
        Self { json: template.contains("json") }
    }

    fn value(self, zero: Zero) -> Value {
        match zero {
            Zero::List if !self.json => Value::Array(Vec::new()),
            Zero::Map if !self.json => Value::Object(Map::new()),
            Zero::Nothing | Zero::List | Zero::Map => Value::Null,
            Zero::Text => Value::from(""),
            Zero::False => Value::from(false),
        }
    }

    /// Puts empty lists and maps in the place of those that nobody has made.
    pub(crate) fn complete(self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    let name = name.as_str();
                    if !value.is_null() {
                        self.complete(value);
                    } else if LISTS.contains(&name) {
                        *value = self.value(Zero::List);
                    } else if MAPS.contains(&name) {
                        *value = self.value(Zero::Map);
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.complete(value)),
            _ => {}
        }
    }

    /// The value of a field that an object lacks.
    pub(crate) fn field(
        self,
        object: &Value,
        name: &str,
        arguments: &[Value],
    ) -> Option<Result<Value, Error>> {
        let object = object.as_object().filter(|_| arguments.is_empty())?;
        let of_kind = LACKS.iter().filter(|(has, _)| object.contains_key(*has));
        let mut lacks = of_kind.flat_map(|(_, lacks)| lacks.iter());
        let (_, zero) = lacks.find(|(own, _)| *own == name)?;
        Some(Ok(self.value(*zero)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_out_has_a_value() {
        let of = |template: &str, object: &Value, name: &str| {
            Seen::by(template).field(object, name, &[]).map(|found| found.unwrap())
        };
        let state = json!({"Status": "running", "OOMKilled": false});
        assert_eq!(of("", &state, "Health"), Some(Value::Null));
        assert_eq!(of("", &state, "StopSignal"), None);
        let config = json!({"OnBuild": null});
        assert_eq!(of("", &config, "StopSignal"), Some(json!("")));
        assert_eq!(of("", &config, "ArgsEscaped"), Some(json!(false)));
        assert_eq!(of("", &config, "ExposedPorts"), Some(json!({})));
        assert_eq!(of("{{json .ExposedPorts}}", &config, "ExposedPorts"), Some(Value::Null));
        assert!(Seen::by("").field(&state, "Health", &[json!(1)]).is_none());
        assert_eq!(of("", &json!("x"), "Health"), None);
        let subnet = json!({"Subnet": "10.9.0.0/24"});
        assert_eq!(of("", &subnet, "IPRange"), Some(json!("")));
        assert_eq!(of("", &subnet, "AuxiliaryAddresses"), Some(json!({})));
        // Labels have any keys.
        assert_eq!(of("", &json!({"Health": "a"}), "Init"), None);
    }

    #[test]
    fn what_nobody_has_made_is_empty() {
        let object = json!({
            "ExecIDs": null,
            "HostConfig": {"Binds": null, "PidsLimit": null},
            "Config": {"Labels": null, "Cmd": ["a"]},
        });
        let mut seen = object.clone();
        Seen::by("{{.ExecIDs}}").complete(&mut seen);
        let expected = json!({
            "ExecIDs": [],
            "HostConfig": {"Binds": [], "PidsLimit": null},
            "Config": {"Labels": {}, "Cmd": ["a"]},
        });
        assert_eq!(seen, expected);
        let mut seen = object.clone();
        Seen::by("{{json .ExecIDs}}").complete(&mut seen);
        assert_eq!(seen, object);
    }
}
