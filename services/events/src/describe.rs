//! What an event is about, for readers who don't decode its message.

use std::collections::BTreeMap;

use gantry_core::events::Envelope;
use gantry_core::filter::Filterable;
use gantry_core::tasks::PROBE;
use gantry_grpc::any;
use gantry_grpc::containerd::events as ev;
use gantry_grpc::containerd::services::images::v1 as images;
use gantry_grpc::convert;
use gantry_grpc::gantry::engine::v1 as engine;
use prost::Name;

/// An event with what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) namespace: String,
    pub(crate) topic: String,
    pub(crate) kind: String,
    pub(crate) action: String,
    pub(crate) id: String,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Filterable for Description {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["namespace"] => Some(self.namespace.clone()),
            ["topic"] => Some(self.topic.clone()),
            ["kind"] => Some(self.kind.clone()),
            ["action"] => Some(self.action.clone()),
            ["id"] => Some(self.id.clone()),
            ["attributes", rest @ ..] => self.attributes.get(&rest.join(".")).cloned(),
            _ => None,
        }
    }
}

/// Describes an event. Of one whose message is not known there is what its topic says.
pub(crate) fn describe(envelope: &Envelope) -> Description {
    let (kind, action) = words(&envelope.topic);
    let mut description = Description {
        namespace: envelope.namespace.clone(),
        topic: envelope.topic.clone(),
        kind,
        action,
        ..Description::default()
    };
    let event = convert::any(envelope.event.clone());
    if let Some((_, id, attributes)) = known(&event) {
        description.id = id;
        description.attributes = attributes;
    }
    description
}

/// Whether an event is about a process that only sees to a container's health.
pub(crate) fn is_of_probe(envelope: &Envelope) -> bool {
    if !envelope.topic.starts_with("/tasks/") {
        return false;
    }
    let event = convert::any(envelope.event.clone());
    let Some((_, container, attributes)) = known(&event) else { return false };
    let process = attributes.get("exec_id").or_else(|| attributes.get("id"));
    // A container's first process may have the container's own ID.
    process.is_some_and(|process| process.ends_with(PROBE) && *process != container)
}

/// An envelope as containerd's filters see it: with the fields of its message.
pub(crate) struct Open<'a>(pub(crate) &'a Envelope);

impl Filterable for Open<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        let ["event", field @ ..] = path else { return self.0.field(path) };
        let (name, id, attributes) = known(&convert::any(self.0.event.clone()))?;
        match field {
            [field] if *field == name => Some(id),
            ["labels", rest @ ..] => attributes.get(&rest.join(".")).cloned(),
            field => attributes.get(&field.join(".")).cloned(),
        }
    }
}

/// `/tasks/exit` is `exit` of a `task`.
fn words(topic: &str) -> (String, String) {
    let ours = topic.strip_prefix("/gantry");
    let topic = ours.unwrap_or(topic);
    let topic = topic.trim_start_matches('/');
    let (first, action) = topic.split_once('/').unwrap_or((topic, ""));
    let kind = match first {
        "containers" if ours.is_some() => "container",
        "containers" => "record",
        "volumes" if ours.is_some() => "volume",
        "networks" if ours.is_some() => "network",
        "tasks" => "task",
        "images" => "image",
        "namespaces" => "namespace",
        "sandboxes" => "sandbox",
        other => other,
    };
    (kind.to_owned(), action.to_owned())
}

/// The name of the ID's field, the ID, and the rest.
type Known = (&'static str, String, BTreeMap<String, String>);

/// What a message says of one type.
fn of<M: Name + Default>(event: &prost_types::Any, read: fn(M) -> Known) -> Option<Known> {
    if any::is::<M>(event) { any::unpack(event).ok().map(read) } else { None }
}

/// The ID, and the other fields under their names.
macro_rules! fields {
    ($type:ty, $id:ident $(, $field:ident)*) => {
        |event| of::<$type>(event, |message| {
            let attributes = [$((stringify!($field), message.$field.to_string())),*];
            (stringify!($id), message.$id, named(attributes))
        })
    };
}

/// The ID, and labels.
macro_rules! labels {
    ($type:ty, $id:ident) => {
        |event| of::<$type>(event, |message| (stringify!($id), message.$id, message.labels))
    };
}

/// A record of a container: its runtime's name is a field of a field.
fn created(message: ev::ContainerCreate) -> Known {
    let runtime = message.runtime.unwrap_or_default().name;
    let fields = [("image", message.image), ("runtime.name", runtime)];
    ("id", message.id, named(fields))
}

/// The same, changed: the labels are among its fields.
fn updated(message: ev::ContainerUpdate) -> Known {
    let fields = [("image", message.image), ("snapshot_key", message.snapshot_key)];
    let attributes = message.labels.into_iter().chain(named(fields)).collect();
    ("id", message.id, attributes)
}

/// Fields by their names, without empty ones.
fn named<const N: usize>(fields: [(&str, String); N]) -> BTreeMap<String, String> {
    let there = fields.into_iter().filter(|(_, value)| !value.is_empty());
    there.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn known(event: &prost_types::Any) -> Option<Known> {
    type Read = fn(&prost_types::Any) -> Option<Known>;
    const KNOWN: [Read; 31] = [
        |event| of(event, container),
        |event| of(event, image),
        |event| of(event, volume),
        |event| of(event, network),
        fields!(ev::TaskCreate, container_id, bundle, pid),
        fields!(ev::TaskStart, container_id, pid),
        fields!(ev::TaskExit, container_id, id, pid, exit_status),
        fields!(ev::TaskDelete, container_id, id, pid, exit_status),
        fields!(ev::TaskOom, container_id),
        fields!(ev::TaskExecAdded, container_id, exec_id),
        fields!(ev::TaskExecStarted, container_id, exec_id, pid),
        fields!(ev::TaskPaused, container_id),
        fields!(ev::TaskResumed, container_id),
        fields!(ev::TaskCheckpointed, container_id, checkpoint),
        |event| of(event, created),
        |event| of(event, updated),
        fields!(ev::ContainerDelete, id),
        fields!(ev::SnapshotPrepare, key, parent, snapshotter),
        fields!(ev::SnapshotCommit, key, name, snapshotter),
        fields!(ev::SnapshotRemove, key, snapshotter),
        fields!(ev::ContentCreate, digest, size),
        fields!(ev::ContentDelete, digest),
        labels!(ev::NamespaceCreate, name),
        labels!(ev::NamespaceUpdate, name),
        fields!(ev::NamespaceDelete, name),
        fields!(ev::SandboxCreate, sandbox_id),
        fields!(ev::SandboxStart, sandbox_id),
        fields!(ev::SandboxExit, sandbox_id, exit_status),
        labels!(images::ImageCreate, name),
        labels!(images::ImageUpdate, name),
        fields!(images::ImageDelete, name),
    ];
    KNOWN.iter().find_map(|read| read(event))
}

/// Docker's attributes of a container.
fn container(event: engine::ContainerEvent) -> Known {
    let container = event.container.unwrap_or_default();
    let mut attributes = container.labels;
    if event.action == i32::from(engine::ContainerAction::Died) {
        attributes.insert("exit_code".into(), container.exit_code.to_string());
    }
    let more = [("name", container.name), ("image", container.image), ("error", container.error)];
    let more = more.into_iter().filter(|(_, value)| !value.is_empty());
    attributes.extend(more.map(|(name, value)| (name.to_owned(), value)));
    attributes.extend(event.attributes);
    ("id", container.id, attributes)
}

/// Docker's attributes of an image.
fn image(event: engine::ImageEvent) -> Known {
    let mut attributes = event.labels;
    let reclaimed = event.reclaimed.map(|bytes| bytes.to_string()).unwrap_or_default();
    attributes.extend(named([("name", event.name), ("reclaimed", reclaimed)]));
    ("id", event.id, attributes)
}

/// Docker's attributes of a volume.
fn volume(event: engine::VolumeEvent) -> Known {
    let mut attributes = event.labels;
    if !event.destination.is_empty() {
        attributes.insert("read_write".into(), (!event.read_only).to_string());
        attributes.insert("propagation".into(), event.propagation);
    }
    let reclaimed = event.reclaimed.map(|bytes| bytes.to_string()).unwrap_or_default();
    let more = [
        ("driver", event.driver),
        ("renamed_from", event.renamed_from),
        ("container", event.container_id),
        ("destination", event.destination),
        ("reclaimed", reclaimed),
    ];
    attributes.extend(named(more));
    ("name", event.name, attributes)
}

/// Docker's attributes of a network.
fn network(event: engine::NetworkEvent) -> Known {
    let mut attributes = event.labels;
    let reclaimed = event.reclaimed.map(|bytes| bytes.to_string()).unwrap_or_default();
    let more = [
        ("name", event.name),
        ("type", event.driver),
        ("container", event.container_id),
        ("reclaimed", reclaimed),
    ];
    attributes.extend(named(more));
    ("id", event.id, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::filter::Filters;

    fn described<M: Name>(topic: &str, message: &M) -> Description {
        describe(&Envelope {
            namespace: "a".into(),
            topic: topic.into(),
            event: convert::from_any(any::pack(message)),
            ..Envelope::default()
        })
    }

    fn wanted(description: &Description, filter: &str) -> bool {
        Filters::parse(&[filter]).unwrap().matches(description)
    }

    #[test]
    fn containers() {
        let died = engine::ContainerEvent {
            action: engine::ContainerAction::Died.into(),
            container: Some(engine::Container {
                id: "c1".into(),
                name: "web".into(),
                image: "nginx".into(),
                exit_code: 3,
                labels: [("a.b/c".to_owned(), "x".to_owned())].into(),
                ..engine::Container::default()
            }),
            ..Default::default()
        };
        let found = described("/gantry/containers/died", &died);
        assert_eq!((found.kind.as_str(), found.action.as_str()), ("container", "died"));
        assert_eq!(found.id, "c1");
        for filter in [
            "kind==container,action==died",
            "id==c1",
            "attributes.name==web,attributes.exit_code==3",
            "attributes.image~=ng",
            "attributes.\"a.b/c\"==x",
            "namespace==a,topic==/gantry/containers/died",
        ] {
            assert!(wanted(&found, filter), "{filter}");
        }
        assert!(!wanted(&found, "attributes.error"));
        let action = engine::ContainerAction::ExecDied.into();
        let attributes = [("exec_id", "e"), ("exit_code", "1")];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let ended = engine::ContainerEvent { action, attributes, ..died };
        let ended = described("/gantry/containers/exec_died", &ended);
        assert!(wanted(&ended, "action==exec_died,attributes.exec_id==e"));
        assert!(wanted(&ended, "attributes.name==web,attributes.exit_code==1"));
        assert!(!wanted(&found, "kind==task"));
    }

    #[test]
    fn images_and_volumes() {
        let pulled = engine::ImageEvent {
            id: "sha256:1".into(),
            name: "docker.io/library/a:1".into(),
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            reclaimed: None,
        };
        let found = described("/gantry/images/pull", &pulled);
        assert_eq!((found.kind.as_str(), found.action.as_str()), ("image", "pull"));
        assert_eq!(found.id, "sha256:1");
        assert!(wanted(&found, "attributes.name==\"docker.io/library/a:1\",attributes.env==prod"));
        let pruned = engine::ImageEvent { reclaimed: Some(0), ..Default::default() };
        let found = described("/gantry/images/prune", &pruned);
        assert_eq!(found.attributes, [("reclaimed".to_owned(), "0".to_owned())].into());
        let mounted = engine::VolumeEvent {
            name: "data".into(),
            driver: "local".into(),
            container_id: "c1".into(),
            destination: "/srv".into(),
            ..Default::default()
        };
        let found = described("/gantry/volumes/mount", &mounted);
        assert_eq!((found.kind.as_str(), found.id.as_str()), ("volume", "data"));
        assert!(wanted(&found, "attributes.container==c1,attributes.read_write==true"));
        assert_eq!(found.attributes["propagation"], "");
    }

    #[test]
    fn networks() {
        let connected = engine::NetworkEvent {
            name: "app".into(),
            id: "n1".into(),
            driver: "bridge".into(),
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            container_id: "c1".into(),
            reclaimed: None,
        };
        let found = described("/gantry/networks/connect", &connected);
        assert_eq!((found.kind.as_str(), found.action.as_str()), ("network", "connect"));
        assert_eq!(found.id, "n1");
        let filter = "attributes.name==app,attributes.type==bridge,attributes.container==c1";
        assert!(wanted(&found, filter) && wanted(&found, "attributes.env==prod"));
    }

    #[test]
    fn containerds_own() {
        let exit = ev::TaskExit { container_id: "c1".into(), exit_status: 7, ..Default::default() };
        let found = described("/tasks/exit", &exit);
        assert_eq!((found.kind.as_str(), found.action.as_str()), ("task", "exit"));
        assert_eq!(found.id, "c1");
        assert_eq!(found.attributes["exit_status"], "7");
        assert!(!found.attributes.contains_key("id"), "it is empty");
        let deleted = described("/containers/delete", &ev::ContainerDelete { id: "c2".into() });
        assert_eq!((deleted.kind.as_str(), deleted.id.as_str()), ("record", "c2"));
    }

    #[test]
    fn filters_look_into_messages() {
        let exit = ev::TaskExit { container_id: "c1".into(), id: "e".into(), ..Default::default() };
        let labels = [("a.b".to_owned(), "x".to_owned())].into();
        let image = images::ImageCreate { name: "i".into(), labels };
        let matches = |event: prost_types::Any, filter: &str| {
            let event = convert::from_any(event);
            let envelope = Envelope { topic: "/x".into(), event, ..Envelope::default() };
            Filters::parse(&[filter]).unwrap().matches(&Open(&envelope))
        };
        for filter in ["event.container_id==c1", "event.id==e", "topic==/x,event.container_id"] {
            assert!(matches(any::pack(&exit), filter), "{filter}");
        }
        assert!(matches(any::pack(&image), "event.name==i,event.labels.\"a.b\"==x"));
        let runtime = Some(ev::container_create::Runtime { name: "r.v1".into(), options: None });
        let created = ev::ContainerCreate { id: "c".into(), image: "i".into(), runtime };
        assert!(matches(any::pack(&created), "event.runtime.name==r.v1,event.image==i"));
        let labels = [("k".to_owned(), "v".to_owned())].into();
        let updated = ev::ContainerUpdate { id: "c".into(), labels, ..Default::default() };
        assert!(matches(any::pack(&updated), "event.id==c,event.labels.k==v"));
        for filter in ["event.container_id==c2", "event.nope", "event"] {
            assert!(!matches(any::pack(&exit), filter), "{filter}");
        }
    }

    #[test]
    fn processes_that_see_to_health() {
        let is_of_probe = |topic: &str, event: prost_types::Any| {
            let event = convert::from_any(event);
            super::is_of_probe(&Envelope { topic: topic.into(), event, ..Envelope::default() })
        };
        for (container, process, wanted) in [
            ("c1", "e1-health", true),
            ("c1", "e1", false),
            ("c1", "", false),
            ("c1-health", "", false),
            ("c1-health", "c1-health", false),
            ("c1-health", "e1-health", true),
        ] {
            let (container_id, exec_id) = (container.to_owned(), process.to_owned());
            let exit = ev::TaskExit {
                container_id: container_id.clone(),
                id: exec_id.clone(),
                ..Default::default()
            };
            assert_eq!(is_of_probe("/tasks/exit", any::pack(&exit)), wanted, "{exit:?}");
            assert!(!is_of_probe("/x", any::pack(&exit)));
            let added = ev::TaskExecAdded { container_id: container_id.clone(), exec_id };
            if process != container {
                assert_eq!(is_of_probe("/tasks/exec-added", any::pack(&added)), wanted);
            }
            let start = ev::TaskStart { container_id, pid: 7 };
            assert!(!is_of_probe("/tasks/start", any::pack(&start)));
        }
    }

    #[test]
    fn strangers_are_described_by_their_topic() {
        let found = describe(&Envelope { topic: "/moby/health".into(), ..Envelope::default() });
        assert_eq!((found.kind.as_str(), found.action.as_str()), ("moby", "health"));
        let garbage = gantry_core::Any {
            type_url: "containerd.events.TaskExit".into(),
            value: vec![0xff; 7],
        };
        let envelope = Envelope { topic: "/x".into(), event: garbage, ..Envelope::default() };
        let found = describe(&envelope);
        assert_eq!((found.kind.as_str(), found.action.as_str(), found.id.as_str()), ("x", "", ""));
    }
}
