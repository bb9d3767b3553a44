//! What of an answer has to agree.

use std::collections::BTreeSet;

use gantry_tests::Output;
use serde_json::Value;

use super::table::{Differs, Wanted};

/// Objects whose keys are anything, and endpoints, which are those of networks.
const FREE: [&str; 11] = [
    "Config.ExposedPorts",
    "Config.Labels",
    "Config.Volumes",
    "GraphDriver.Data",
    "HostConfig.LogConfig.Config",
    "HostConfig.PortBindings",
    "HostConfig.Tmpfs",
    "Labels",
    "NetworkSettings.Networks",
    "NetworkSettings.Ports",
    "Options",
];

/// What of an answer has to be the same on both sides.
pub(super) type Shape = Vec<String>;

/// The shape of an answer; what is wrong with one that is none.
pub(super) fn shape(wanted: Wanted, output: &Output) -> Result<Shape, String> {
    let text = output.text();
    let good = |is: bool, what: &str| if is { Ok(Vec::new()) } else { Err(what.to_owned()) };
    let well = |shape: Result<Shape, String>| match output.code {
        0 => shape,
        code => Err(format!("it ended with {code}")),
    };
    match wanted {
        Wanted::Same => {
            Ok(vec![output.code.to_string(), output.stdout.clone(), output.stderr.clone()])
        }
        Wanted::Text(expected) | Wanted::Until(expected) => {
            well(good(text == expected, &format!("not {expected:?}")))
        }
        Wanted::Lines => {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            well(Ok(lines))
        }
        Wanted::Says(all) => {
            let missing: Vec<_> =
                all.iter().filter(|said| !output.stdout.contains(*said)).collect();
            well(good(missing.is_empty(), &format!("it lacks {missing:?}")))
        }
        Wanted::Table(columns) => well(table(&output.stdout, columns)),
        Wanted::Ids(digits) => {
            let is_id = |line: &str| {
                line.len() == digits && line.bytes().all(|digit| digit.is_ascii_hexdigit())
            };
            let other = text.lines().find(|line| !is_id(line));
            well(match other {
                Some(line) => Err(format!("no ID: {line:?}")),
                None => Ok(vec![text.lines().count().to_string()]),
            })
        }
        Wanted::Json => well(parsed(text).map(|value| vec![value.to_string()])),
        Wanted::Fields => well(parsed(text).map(|value| {
            let mut fields = BTreeSet::new();
            collect(&value[0], "", &mut fields);
            fields.into_iter().collect()
        })),
        Wanted::Stamped => well(unstamped(&output.stdout).and_then(|mut lines| {
            lines.extend(unstamped(&output.stderr)?);
            Ok(lines)
        })),
        Wanted::Refused(codes, words) => {
            let said = output.stderr.to_lowercase().contains(&words.to_lowercase());
            good(codes.contains(&output.code) && said, &format!("not refused with {words:?}"))
        }
        Wanted::Code(code) | Wanted::Typed { code, .. } => {
            good(output.code == code, &format!("it did not end with {code}"))
        }
    }
}

/// What both sides don't agree in.
pub(super) fn differences(
    ours: &[String],
    theirs: &[String],
    known: Option<Differs>,
) -> Option<String> {
    let (own, other): (&[&str], &[&str]) = match known {
        Some(Differs::Instead(..)) => return None,
        Some(Differs::Fields { ours, docker, .. }) => (ours, docker),
        None => (&[], &[]),
    };
    let without = |shape: &[String], known: &[&str]| -> Shape {
        let is = |field: &str, name: &&str| {
            field.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let rest = shape.iter().filter(|field| !known.iter().any(|name| is(field, name)));
        rest.cloned().collect()
    };
    let (left, right) = (without(ours, own), without(theirs, other));
    if left == right {
        return None;
    }
    let lacks = |one: &[String], other: &[String]| -> Vec<String> {
        other.iter().filter(|part| !one.contains(part)).cloned().collect()
    };
    Some(format!(
        "gantry lacks {:?}, docker lacks {:?}",
        lacks(&left, &right),
        lacks(&right, &left)
    ))
}

/// How many rows a table with these columns has.
fn table(text: &str, columns: &[&str]) -> Result<Shape, String> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    // Columns are at least two spaces apart.
    let found: Vec<_> = header.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    if found != columns {
        return Err(format!("columns {found:?}"));
    }
    Ok(vec![format!("{} rows", lines.count())])
}

fn parsed(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|err| format!("no JSON: {err}"))
}

/// Paths of all fields.
fn collect(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if !FREE.contains(&path.as_str()) {
                    collect(value, &path, fields);
                }
                fields.insert(path);
            }
        }
        Value::Array(list) => {
            list.iter().for_each(|value| collect(value, &format!("{path}[]"), fields));
        }
        _ => {}
    }
}

/// Lines without the times that they begin with.
fn unstamped(text: &str) -> Result<Shape, String> {
    let line = |line: &str| {
        let (stamp, rest) = line.split_once(' ').unwrap_or((line, ""));
        // Nine digits of a second, so that columns stay straight.
        let good = stamp.len() == "2006-01-02T15:04:05.000000000Z".len()
            && stamp.ends_with('Z')
            && stamp.as_bytes()[10] == b'T';
        if good { Ok(rest.to_owned()) } else { Err(format!("no time: {line:?}")) }
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(code: i32, stdout: &str, stderr: &str) -> Output {
        Output { code, stdout: stdout.to_owned(), stderr: stderr.to_owned() }
    }

    #[test]
    fn shapes() {
        let ps = "CONTAINER ID   IMAGE     CPU %\n0123           x         0.00%\n";
        let columns = Wanted::Table(&["CONTAINER ID", "IMAGE", "CPU %"]);
        assert_eq!(shape(columns, &output(0, ps, "")), Ok(vec!["1 rows".to_owned()]));
        assert!(shape(columns, &output(1, ps, "")).is_err());
        assert!(shape(Wanted::Table(&["IMAGE"]), &output(0, ps, "")).is_err());
        assert!(shape(Wanted::Ids(4), &output(0, "01ab\n", "")).is_ok());
        assert!(shape(Wanted::Ids(4), &output(0, "01abc\n", "")).is_err());
        let refused = Wanted::Refused(&[1], "no such");
        assert!(shape(refused, &output(1, "", "Error: No such thing")).is_ok());
        assert!(shape(refused, &output(2, "", "Error: No such thing")).is_err());
        let stamped = output(0, "2024-05-01T08:00:00.000000001Z a b\n", "");
        assert_eq!(shape(Wanted::Stamped, &stamped), Ok(vec!["a b".to_owned()]));
        assert!(shape(Wanted::Stamped, &output(0, "a b\n", "")).is_err());
        let json = [r#"{"b":1,"a":2}"#, r#"{ "a":2, "b":1 }"#];
        let [one, other] = json.map(|text| shape(Wanted::Json, &output(0, text, "")).unwrap());
        assert_eq!(one, other);
    }

    #[test]
    fn fields_are_paths_and_known_ones_may_differ() {
        let ours = r#"[{"Id":"x","Mounts":[{"Type":"bind"}],"Labels":{"a":"b"}}]"#;
        let theirs = r#"[{"Id":"x","Mounts":[{"Type":"bind"}],"Labels":null,"Old":{"A":1}}]"#;
        let [ours, theirs] =
            [ours, theirs].map(|text| shape(Wanted::Fields, &output(0, text, "")).unwrap());
        assert_eq!(ours, ["Id", "Labels", "Mounts", "Mounts[].Type"]);
        let told = differences(&ours, &theirs, None).unwrap();
        assert!(told.contains("\"Old\", \"Old.A\""), "{told}");
        let known = Differs::Fields { ours: &[], docker: &["Old"], why: "it is old" };
        assert_eq!(differences(&ours, &theirs, Some(known)), None);
    }
}
