use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{anyhow, bail};
use gantry_core::Timestamp;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::subscribe_request::Since;
use gantry_template::{Error, Missing, Options, Template};
use serde_json::{Value, json};

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS, coded};
use crate::human;
use crate::moment::moment;
use crate::table::plain;
use crate::zone;

/// A template that can't be understood, as Docker has it.
const MALFORMED: u8 = 64;
/// What Docker tells of, as `type` and in filters of the same names.
const KINDS: [&str; 5] = ["container", "image", "network", "volume", "daemon"];
/// These stand before the command.
const EXEC_CREATE: &str = "exec_create";
const EXEC_START: &str = "exec_start";
/// Docker's names of attributes, and ours.
const ATTRIBUTES: [(&str, &str); 3] =
    [("exitCode", "exit_code"), ("execID", "exec_id"), ("oldName", "old_name")];
/// The same of networks.
const OF_NETWORKS: [(&str, &str); 2] = [("container", "container_id"), ("type", "driver")];
/// The same of volumes.
const OF_VOLUMES: [(&str, &str); 1] = [("read/write", "read_write")];
/// Where events of images are Docker's, and not of their names' records.
const OF_IMAGES: &str = "/gantry/images/";
/// Docker's words for what happens to containers, and ours.
const ACTIONS: [(&str, &str); 24] = [
    ("create", "created"),
    ("start", "started"),
    ("die", "died"),
    ("pause", "paused"),
    ("unpause", "unpaused"),
    ("kill", "killed"),
    ("stop", "stopped"),
    ("restart", "restarted"),
    ("attach", "attached"),
    ("detach", "detached"),
    ("resize", "resized"),
    (EXEC_CREATE, "exec_created"),
    (EXEC_START, "exec_started"),
    ("exec_die", "exec_died"),
    ("exec_detach", "exec_detached"),
    ("export", "exported"),
    ("archive-path", "copied_from"),
    ("extract-to-dir", "copied_to"),
    ("prune", "pruned"),
    ("update", "updated"),
    ("rename", "renamed"),
    ("destroy", "removed"),
    ("health_status: healthy", "healthy"),
    ("health_status: unhealthy", "unhealthy"),
];

/// Examples, behind the options.
const HELP: &str = "\
Examples:
  gantry events                                     What happens from now on
  gantry events --since 1h --until 0s               What happened in the last hour
  gantry events --filter event=die --filter label=env=prod
  gantry events --format '{{.Action}} {{.Actor.Attributes.name}}'

Times are written as seconds since 1970, as 2026-01-31T12:00 (in the local zone
unless one stands behind it), or as 1h30m for so long ago.";

/// Show what happens to containers, images, networks and volumes
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Begin with what happened then
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    since: Option<Timestamp>,
    /// End with what happens then
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    until: Option<Timestamp>,
    /// Only those that match: type, event, container, image, volume, network, label (several)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Print each with a Go template, or 'json'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let filter = Filter::parse(&self.filter)?;
        let form = Form::parse(self.format.as_deref())?;
        // A template that no event could fill shows before the first one comes.
        form.show(&Message::default())?;
        let client = context.connect().await?;
        let request = self.request(&filter, Timestamp::from(SystemTime::now()));
        let mut events = client.answer(client.events().subscribe(request).await)?;
        while let Some(event) = client.taken(events.message().await)? {
            let message = Message::of(event);
            if filter.wants(&message) {
                context.printer.data(form.show(&message)?.as_bytes())?;
            }
        }
        Ok(SUCCESS)
    }

    fn request(&self, filter: &Filter, now: Timestamp) -> api::SubscribeRequest {
        let wire = gantry_grpc::convert::timestamp;
        // What ended before now begins with what is kept.
        let past = self.until.is_some_and(|until| until <= now);
        let since = self.since.or(past.then_some(Timestamp { seconds: 0, nanos: 1 }));
        api::SubscribeRequest {
            filters: filter.narrowed(),
            since: since.map(|since| Since::Time(wire(since))),
            until: self.until.map(wire),
            ..Default::default()
        }
    }
}

/// Docker's filters: those of one key are alternatives, but for labels.
#[derive(Debug, Default)]
struct Filter {
    by_key: BTreeMap<String, Vec<String>>,
}

impl Filter {
    fn parse(texts: &[String]) -> anyhow::Result<Self> {
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let Some((key, value)) = text.split_once('=') else {
                bail!("invalid argument {text:?} for \"-f, --filter\" flag: write NAME=VALUE")
            };
            let (key, value) = (key.trim().to_lowercase(), value.trim().to_owned());
            let known = ["type", "event", "label", "scope"];
            if !known.contains(&key.as_str()) && !KINDS.contains(&key.as_str()) {
                bail!(
                    "invalid filter '{key}': {}, {} are known",
                    known.join(", "),
                    KINDS.join(", ")
                );
            }
            by_key.entry(key).or_default().push(value);
        }
        Ok(Self { by_key })
    }

    fn of(&self, key: &str) -> &[String] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// What the daemon is asked for, in containerd's language: all that may match.
    fn narrowed(&self) -> Vec<String> {
        let kinds = match self.of("type") {
            [] => KINDS.map(str::to_owned).to_vec(),
            kinds => kinds.to_vec(),
        };
        let each = kinds.iter().flat_map(|kind| {
            let mut narrowed = format!("kind=={}", quoted(kind));
            if kind == "image" {
                narrowed.push_str(&format!(",topic~={}", beginning(OF_IMAGES)));
            }
            let kind = narrowed;
            match self.of("event") {
                [] => vec![kind],
                actions => {
                    let native = actions.iter().flat_map(|action| native(action));
                    native.map(|action| format!("{kind},action~={}", beginning(action))).collect()
                }
            }
        });
        each.collect()
    }

    fn wants(&self, message: &Message) -> bool {
        let any = |key: &str, is: &dyn Fn(&str) -> bool| {
            let values = self.of(key);
            values.is_empty() || values.iter().any(|value| is(value))
        };
        let named = |kind: &str| {
            let name = message.attributes.get("name").map_or("", String::as_str);
            any(kind, &|wanted| message.id.starts_with(wanted) || name.starts_with(wanted))
        };
        let acted = |wanted: &str| is(&message.action, wanted);
        let labelled = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => message.attributes.get(key).is_some_and(|found| found == value),
            None => message.attributes.contains_key(wanted),
        };
        any("type", &|kind| message.kind == kind)
            && any("event", &acted)
            && any("scope", &|scope| scope == "local")
            && ["container", "volume", "network", "daemon"].into_iter().all(named)
            && any("image", &|image| message.is_of_image(image))
            && self.of("label").iter().all(labelled)
    }
}

/// Gives attributes Docker's names.
fn rename(attributes: &mut BTreeMap<String, String>, names: &[(&str, &str)]) {
    for (docker, ours) in names {
        if let Some(value) = attributes.remove(*ours) {
            attributes.insert((*docker).to_owned(), value);
        }
    }
}

/// What is asked for, and our words for it if it happens to containers.
fn native(wanted: &str) -> Vec<&str> {
    let mut all = vec![wanted];
    for (docker, ours) in ACTIONS {
        if is(docker, wanted) || is(wanted, docker) {
            all.push(ours);
        }
    }
    all
}

/// Whether an action is what is wanted. What comes in several forms may be asked for by its
/// first word.
fn is(action: &str, wanted: &str) -> bool {
    let form = action.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(':'));
    action == wanted || form
}

/// A value of a filter.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// An expression for texts that begin so.
fn beginning(text: &str) -> String {
    let mut expression = String::from("^");
    for c in text.chars() {
        // These two mean something only behind a backslash.
        if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
            expression.push('\\');
        }
        expression.push(c);
    }
    quoted(&expression)
}

/// An event as Docker tells it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    time: Timestamp,
    kind: String,
    action: String,
    id: String,
    attributes: BTreeMap<String, String>,
}

impl Message {
    fn of(event: api::Event) -> Self {
        let api::Event { kind, action, id, mut attributes, .. } = event;
        let time = human::time(event.timestamp).unwrap_or_default();
        let mut message = Self { time, kind, action, id, attributes: BTreeMap::new() };
        match message.kind.as_str() {
            "container" => {
                rename(&mut attributes, &ATTRIBUTES);
                let known = ACTIONS.iter().find(|(_, ours)| *ours == message.action);
                if let Some((docker, _)) = known {
                    message.action = (*docker).to_owned();
                }
                if [EXEC_CREATE, EXEC_START].contains(&message.action.as_str()) {
                    let command = attributes.remove("command").unwrap_or_default();
                    message.action.push_str(&format!(": {command}"));
                }
            }
            "image" => {
                let name = attributes.remove("name").unwrap_or_default();
                let name = familiar(&name);
                let named = match message.action.as_str() {
                    // Docker tells of what was asked for.
                    "pull" => {
                        message.id = name.to_owned();
                        repository(name).to_owned()
                    }
                    "delete" => message.id.clone(),
                    _ => name.to_owned(),
                };
                if !named.is_empty() {
                    attributes.insert("name".to_owned(), named);
                }
            }
            "network" => rename(&mut attributes, &OF_NETWORKS),
            "volume" => rename(&mut attributes, &OF_VOLUMES),
            _ => {}
        }
        message.attributes = attributes;
        message
    }

    /// Whether it is about an image, or about a container that was made from it.
    fn is_of_image(&self, wanted: &str) -> bool {
        let key = if self.kind == "image" { "name" } else { "image" };
        let name = self.attributes.get(key).map_or("", String::as_str);
        [self.id.as_str(), name]
            .into_iter()
            .any(|text| text == wanted || repository(text) == wanted)
    }

    fn line(&self) -> String {
        let Self { time, kind, action, id, attributes } = self;
        let mut line = format!("{} {kind} {action} {id}", zone::rfc3339(*time));
        if !attributes.is_empty() {
            let all: Vec<_> =
                attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            line.push_str(&format!(" ({})", all.join(", ")));
        }
        // Labels of images come from elsewhere.
        plain(&line) + "\n"
    }

    /// With Docker's field names in JSON.
    fn json(&self) -> Value {
        let nanos = i64::try_from(self.time.unix_nanos()).unwrap_or(i64::MAX);
        json!({
            "status": self.action,
            "id": self.id,
            "from": self.attributes.get("image").map_or("", String::as_str),
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": self.attributes},
            "scope": "local",
            "time": self.time.seconds,
            "timeNano": nanos,
        })
    }
}

/// `docker.io/library/nginx:latest` → `nginx:latest`.
fn familiar(name: &str) -> &str {
    let Some(rest) = name.strip_prefix("docker.io/") else { return name };
    rest.strip_prefix("library/").unwrap_or(rest)
}

/// A reference without its tag and digest.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    let path = name.rfind('/').map_or(0, |at| at + 1);
    name[path..].find(':').map_or(name, |colon| &name[..path + colon])
}

/// How events are printed.
enum Form {
    Lines,
    Json,
    Template(Template),
}

impl Form {
    fn parse(format: Option<&str>) -> anyhow::Result<Self> {
        match format.unwrap_or_default() {
            "" => Ok(Self::Lines),
            "json" => Ok(Self::Json),
            text => {
                let parsed = Template::parse(&gantry_template::unescape(text));
                let refused = |error: Error| anyhow!("Error parsing format: {error}");
                parsed.map(Self::Template).map_err(refused).map_err(coded(MALFORMED))
            }
        }
    }

    fn show(&self, message: &Message) -> anyhow::Result<String> {
        let template = match self {
            Self::Lines => return Ok(message.line()),
            Self::Json => return Ok(format!("{}\n", message.json())),
            Self::Template(template) => template,
        };
        // Go's names of the fields that have others in JSON.
        let field = |value: &Value, name: &str, arguments: &[Value]| {
            let name = match name {
                "Status" => "status",
                "ID" => "id",
                "From" => "from",
                "Scope" => "scope",
                "Time" => "time",
                "TimeNano" => "timeNano",
                _ => return None,
            };
            let found = value.get(name).filter(|_| arguments.is_empty());
            found.cloned().map(Ok)
        };
        let options = Options {
            missing: Missing::Error,
            methods: Some(&field),
            // The attributes.
            maps: Some(&|map| map.values().all(Value::is_string).then(|| Value::from(""))),
            ..Options::default()
        };
        let text = template.render(&message.json(), &options);
        let failed = |error: Error| anyhow!("Error parsing format: {error}");
        text.map(|text| text + "\n").map_err(failed).map_err(coded(MALFORMED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn died() -> Message {
        let attributes = [
            ("name", "web"),
            ("image", "localhost:5000/nginx:1.27"),
            ("exit_code", "7"),
            ("env", "prod"),
        ];
        Message::of(api::Event {
            timestamp: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 120 }),
            kind: "container".to_owned(),
            action: "died".to_owned(),
            id: "4c01db0b339c".to_owned(),
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..Default::default()
        })
    }

    fn filter(texts: &[&str]) -> Filter {
        Filter::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn lines_are_dockers() {
        // In the zone of whoever runs the tests.
        let at = |seconds, nanos| zone::rfc3339(Timestamp { seconds, nanos });
        let line = "container die 4c01db0b339c (env=prod, exitCode=7, \
                    image=localhost:5000/nginx:1.27, name=web)\n";
        assert_eq!(died().line(), format!("{} {line}", at(1_700_000_000, 120)));
        for (action, name, line) in [
            ("pull", "docker.io/library/a:1", "pull a:1 (name=a)\n"),
            ("untag", "localhost:5000/a:1", "untag sha256:0a (name=localhost:5000/a:1)\n"),
            ("delete", "", "delete sha256:0a (name=sha256:0a)\n"),
        ] {
            let image = Message::of(api::Event {
                kind: "image".to_owned(),
                action: action.to_owned(),
                id: "sha256:0a".to_owned(),
                attributes: [("name".to_owned(), name.to_owned())].into(),
                ..Default::default()
            });
            assert_eq!(image.line(), format!("{} image {line}", at(0, 0)));
        }
        let volume = Message::of(api::Event {
            kind: "volume".to_owned(),
            action: "mount".to_owned(),
            id: "data".to_owned(),
            attributes: [("read_write".to_owned(), "true".to_owned())].into(),
            ..Default::default()
        });
        assert_eq!(volume.line(), format!("{} volume mount data (read/write=true)\n", at(0, 0)));
        let attributes = [("name", "app-net"), ("driver", "bridge"), ("container_id", "4c01")];
        let network = Message::of(api::Event {
            kind: "network".to_owned(),
            action: "connect".to_owned(),
            id: "9f2e".to_owned(),
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..Default::default()
        });
        let line = "network connect 9f2e (container=4c01, name=app-net, type=bridge)\n";
        assert_eq!(network.line(), format!("{} {line}", at(0, 0)));
        assert!(filter(&["type=network", "network=app"]).wants(&network));
    }

    #[test]
    fn filters_are_dockers() {
        for (texts, wanted) in [
            (&[][..], true),
            (&["type=container"], true),
            (&["type=image"], false),
            (&["type=image", "type=container"], true),
            (&["event=die"], true),
            (&["event=start"], false),
            (&["event=di"], false),
            (&["container=web"], true),
            (&["container=4c01"], true),
            (&["container=db"], false),
            (&["image=localhost:5000/nginx"], true),
            (&["image=localhost:5000/nginx:1.27"], true),
            (&["image=nginx"], false),
            (&["label=env"], true),
            (&["label=env=prod", "label=name=web"], true),
            (&["label=env=prod", "label=other"], false),
            (&["event=die", "container=db"], false),
            (&["volume=data"], false),
            (&["scope=swarm"], false),
        ] {
            assert_eq!(filter(texts).wants(&died()), wanted, "{texts:?}");
        }
        let health = |action: &str| {
            let kind = "container".to_owned();
            Message::of(api::Event { kind, action: action.to_owned(), ..Default::default() })
        };
        assert_eq!(health("unhealthy").action, "health_status: unhealthy");
        assert!(filter(&["event=health_status"]).wants(&health("healthy")));
        assert!(filter(&["event=health_status: healthy"]).wants(&health("healthy")));
        assert!(!filter(&["event=health_status: healthy"]).wants(&health("unhealthy")));
        let created = Message::of(api::Event {
            kind: "container".to_owned(),
            action: "exec_created".to_owned(),
            attributes: [("command", "sh -c ls"), ("exec_id", "e1")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            ..Default::default()
        });
        assert_eq!(created.action, "exec_create: sh -c ls");
        assert_eq!(created.attributes["execID"], "e1");
        assert!(filter(&["event=exec_create"]).wants(&created));
        assert!(filter(&["event=exec_create: sh -c ls"]).wants(&created));
        assert!(!filter(&["event=exec_start"]).wants(&created));
        for (ours, dockers) in [
            ("exported", "export"),
            ("copied_from", "archive-path"),
            ("copied_to", "extract-to-dir"),
            ("exec_detached", "exec_detach"),
            ("top", "top"),
        ] {
            let (kind, action) = ("container".to_owned(), ours.to_owned());
            let message = Message::of(api::Event { kind, action, ..Default::default() });
            assert!(filter(&[&format!("event={dockers}")]).wants(&message), "{message:?}");
        }
        for bad in ["nope=1", "event"] {
            assert!(Filter::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_daemon_is_asked_for_what_may_match() {
        let all = filter(&[]).narrowed();
        assert_eq!(all.len(), KINDS.len());
        assert_eq!(all[0], r#"kind=="container""#);
        let some = filter(&["type=container", "event=die"]).narrowed();
        let kind = r#"kind=="container",action~="#;
        assert_eq!(some, [format!("{kind}\"^die\""), format!("{kind}\"^died\"")]);
        let images = filter(&["type=image"]).narrowed();
        let topic = r#"topic~="^\\/gantry\\/images\\/""#;
        assert_eq!(images, [format!("kind==\"image\",{topic}")]);
        gantry_core::filter::Filters::parse(&images).unwrap();
        let health = filter(&["type=container", "event=health_status"]).narrowed();
        assert!(health.contains(&format!("{kind}\"^healthy\"")), "{health:?}");
        assert!(health.contains(&format!("{kind}\"^unhealthy\"")), "{health:?}");
        let exec = filter(&["type=container", "event=exec_start: ls"]).narrowed();
        assert!(exec.contains(&format!("{kind}\"^exec\\\\_started\"")), "{exec:?}");
        let odd = filter(&["event=a.b\"c\\d [x]^"]).narrowed();
        gantry_core::filter::Filters::parse(&odd).unwrap();
    }

    #[test]
    fn what_is_asked_for_begins_and_ends() {
        let now = Timestamp { seconds: 1000, nanos: 0 };
        let asked = |args: Args| {
            let request = args.request(&Filter::default(), now);
            (request.since.is_some(), request.until.map(|until| until.seconds))
        };
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        assert_eq!(asked(Args::default()), (false, None));
        assert_eq!(asked(Args { since: at(5), ..Args::default() }), (true, None));
        assert_eq!(asked(Args { until: at(2000), ..Args::default() }), (false, Some(2000)));
        assert_eq!(asked(Args { until: at(900), ..Args::default() }), (true, Some(900)));
    }

    #[test]
    fn templates_see_both_names_of_a_field() {
        let shown = |format: &str| Form::parse(Some(format)).unwrap().show(&died()).unwrap();
        assert_eq!(shown("{{.ID}} {{.Action}}"), "4c01db0b339c die\n");
        assert_eq!(
            shown("{{.Actor.Attributes.exitCode}} {{.TimeNano}}"),
            "7 1700000000000000120\n"
        );
        let json: Value = serde_json::from_str(&shown("{{json .}}")).unwrap();
        assert_eq!((&json["status"], &json["Actor"]["ID"]), (&json["Action"], &json["id"]));
        assert_eq!(shown("json"), shown("{{json .}}"));
        assert!(Form::parse(Some("{{")).is_err());
        assert!(Form::parse(Some("{{.Nope}}")).unwrap().show(&died()).is_err());
    }
}
