//! What is stored beside a container's output because it was asked for: labels, variables, and
//! a tag, as Docker's json-file has them.

use gantry_core::{Error, Labels, Result};

use super::options::regex;

/// The most bytes of them: with json-file they are in each line.
const MOST: usize = 64 * 1024;
/// First characters of an ID.
const SHORT: usize = 12;

/// What is known of a container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) image: &'a str,
    pub(crate) image_id: &'a str,
    /// Entrypoint and command, with spaces between.
    pub(crate) command: &'a str,
    pub(crate) labels: &'a Labels,
    pub(crate) env: &'a [String],
}

/// A JSON object of what the options ask for; empty when there is nothing.
///
/// # Errors
/// `InvalidArgument` when an option is not as it was when the container was made, or all of it
/// is too much.
pub(crate) fn attributes(options: &Labels, about: &About<'_>) -> Result<String> {
    // The usual case.
    if options.is_empty() {
        return Ok(String::new());
    }
    let mut found = Labels::new();
    let variables = variables(about.env);
    for (which, values) in [("labels", about.labels), ("env", &variables)] {
        if let Some(names) = options.get(which) {
            for name in names.split(',') {
                let value = values.get_key_value(name);
                found.extend(value.map(|(name, value)| (name.clone(), value.clone())));
            }
        }
        let key = format!("{which}-regex");
        if let Some(wanted) = options.get(&key).filter(|wanted| !wanted.is_empty()) {
            let wanted = regex(&key, wanted)?;
            let matching = values.iter().filter(|(name, _)| wanted.is_match(name));
            found.extend(matching.map(|(name, value)| (name.clone(), value.clone())));
        }
    }
    let tag = options.get("tag").map(|tag| expand(tag, |field| value(field, about))).transpose()?;
    found.extend(tag.filter(|tag| !tag.is_empty()).map(|tag| ("tag".to_owned(), tag)));
    if found.is_empty() {
        return Ok(String::new());
    }
    let json = serde_json::to_string(&found)
        .map_err(|err| Error::internal("encode the attributes of a log").with_source(err))?;
    if json.len() > MOST {
        return Err(Error::invalid_argument(format!(
            "the labels and variables that the log of container {} is to have take {} bytes, \
             {MOST} is the most: name fewer with --log-opt labels, env, labels-regex or env-regex",
            about.name,
            json.len()
        )));
    }
    Ok(json)
}

/// Whether a tag can be made.
///
/// # Errors
/// `InvalidArgument`, naming what is not known.
pub(crate) fn check_tag(template: &str) -> Result<()> {
    let (labels, env): (Labels, [String; 0]) = (Labels::new(), []);
    let about = About {
        id: "",
        name: "",
        image: "",
        image_id: "",
        command: "",
        labels: &labels,
        env: &env,
    };
    expand(template, |field| value(field, &about)).map(drop)
}

fn variables(env: &[String]) -> Labels {
    let pairs = env.iter().filter_map(|entry| entry.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Puts values in place of `{{.Field}}`.
fn expand(template: &str, value: impl Fn(&str) -> Option<String>) -> Result<String> {
    let bad = |what: &str| {
        Error::invalid_argument(format!(
            "invalid value for log-opt tag: {template:?}: {what}: use {{{{.ID}}}}, \
             {{{{.FullID}}}}, {{{{.Name}}}}, {{{{.ImageID}}}}, {{{{.ImageFullID}}}}, \
             {{{{.ImageName}}}}, {{{{.Command}}}} or {{{{.DaemonName}}}}"
        ))
    };
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        let (field, after) = behind.split_once("}}").ok_or_else(|| bad("unclosed action"))?;
        let name = field.trim_matches([' ', '-']);
        let value = name.strip_prefix('.').and_then(&value);
        out += before;
        out += &value.ok_or_else(|| bad(&format!("{{{{{field}}}}} is not known")))?;
        rest = after;
    }
    Ok(out + rest)
}

/// The value of a field, as Docker has it.
fn value(field: &str, about: &About<'_>) -> Option<String> {
    let short = |id: &str| id.chars().take(SHORT).collect();
    Some(match field {
        "ID" => short(about.id),
        "FullID" | "ContainerID" => about.id.to_owned(),
        "Name" => about.name.to_owned(),
        "ContainerName" => format!("/{}", about.name),
        "ImageID" => short(about.image_id),
        "ImageFullID" | "ContainerImageID" => about.image_id.to_owned(),
        "ImageName" | "ContainerImageName" => about.image.to_owned(),
        "Command" => about.command.to_owned(),
        "DaemonName" => "gantry".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn of(options: &[(&str, &str)]) -> String {
        let env = ["PATH=/bin", "A=1", "AB=x=y", "ODD"].map(str::to_owned);
        let about = About {
            id: "0123456789abcdef",
            name: "web",
            image: "nginx:1",
            image_id: "sha256:0123456789",
            command: "nginx -g x",
            labels: &labels(&[("tier", "front"), ("team", "a\"b"), ("x.y", "")]),
            env: &env,
        };
        attributes(&labels(options), &about).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_found() {
        assert_eq!(of(&[("max-size", "1m")]), "");
        assert_eq!(of(&[("labels", "nope,tier"), ("env", "")]), r#"{"tier":"front"}"#);
        assert_eq!(
            of(&[("labels-regex", "^t"), ("env-regex", "^A")]),
            r#"{"A":"1","AB":"x=y","team":"a\"b","tier":"front"}"#
        );
        assert_eq!(of(&[("env", "A,ODD,PATH")]), r#"{"A":"1","PATH":"/bin"}"#);
        assert_eq!(of(&[("labels", "x.y")]), r#"{"x.y":""}"#);
        let tag = "{{.Name}}/{{ .ID }}/{{.ImageName}}/{{.ImageID}}";
        assert_eq!(of(&[("tag", tag)]), r#"{"tag":"web/0123456789ab/nginx:1/sha256:01234"}"#);
        assert_eq!(of(&[("tag", "")]), "");
        assert_eq!(of(&[("tag", "plain")]), r#"{"tag":"plain"}"#);
    }

    #[test]
    fn what_no_tag_has_is_refused() {
        assert!(check_tag("a {{.FullID}} b").is_ok());
        for bad in ["{{.Nope}}", "{{Name}}", "{{.Name", "{{json .}}", "{{}}"] {
            let said = check_tag(bad).unwrap_err().to_string();
            assert!(said.contains("log-opt tag") && said.contains("{{.Name}}"), "{said}");
        }
    }

    #[test]
    fn too_much_is_refused() {
        let all = labels(&[("big", &"x".repeat(MOST))]);
        let about = About {
            id: "",
            name: "web",
            image: "",
            image_id: "",
            command: "",
            labels: &all,
            env: &[],
        };
        let refused = attributes(&labels(&[("labels", "big")]), &about).unwrap_err();
        assert!(refused.to_string().contains("container web"), "{refused}");
    }
}
