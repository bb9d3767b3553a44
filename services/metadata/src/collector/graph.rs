//! What keeps what, in one namespace.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use gantry_core::containers::CONTAINERS;
use gantry_core::content::BLOBS;
use gantry_core::db::Database;
use gantry_core::images::IMAGES;
use gantry_core::leases::{LEASE_RESOURCES, LEASES};
use gantry_core::sandboxes::SANDBOXES;
use gantry_core::{Error, Labels, Result, Timestamp, labels, mounts, snapshots};
use serde::Deserialize;

use super::gate::Row;

/// Prefix of a label that names what its object keeps.
const REFERENCE: &str = "containerd.io/gc.ref.";
/// Prefix of a label that names what keeps its object.
const BACK_REFERENCE: &str = "containerd.io/gc.bref.";
/// Label of leases that keep what they hold, but not what that refers to.
const FLAT: &str = "containerd.io/gc.flat";
/// So many seconds a mount stays of which nobody said what keeps it: longer than the
/// client that made it needs it, or lives.
const MOUNT_LIFE: i64 = 24 * 60 * 60;

/// An object. Snapshots are named as in their table: snapshotter, `\x01`, key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Node {
    Blob(String),
    Container(String),
    Image(String),
    Ingest(String),
    Lease(String),
    Mount(String),
    Sandbox(String),
    Snapshot(String),
}

impl Node {
    fn snapshot(snapshotter: &str, key: &str) -> Self {
        Self::Snapshot(format!("{snapshotter}\x01{key}"))
    }

    /// What a label's type, as it stands behind its prefix, and value mean.
    fn of_label(kind: &str, value: &str) -> Option<Self> {
        // What follows the type tells labels of one kind apart.
        let is = |name: &str| {
            kind.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
        };
        if let Some(rest) = kind.strip_prefix("snapshot.") {
            let snapshotter = rest.split('/').next().unwrap_or_default();
            return Some(Self::snapshot(snapshotter, value));
        }
        let value = value.to_owned();
        match () {
            () if is("content") => Some(Self::Blob(value)),
            () if is("image") => Some(Self::Image(value)),
            () if is("container") => Some(Self::Container(value)),
            () if is("mount") => Some(Self::Mount(value)),
            () if is("sandbox") => Some(Self::Sandbox(value)),
            () => None,
        }
    }

    /// What a lease's resource means.
    fn of_resource(kind: &str, id: &str) -> Option<Self> {
        match kind.split_once('/') {
            Some(("snapshots", snapshotter)) => Some(Self::snapshot(snapshotter, id)),
            Some(_) => None,
            None => match kind {
                "content" => Some(Self::Blob(id.to_owned())),
                "images" => Some(Self::Image(id.to_owned())),
                "ingests" => Some(Self::Ingest(id.to_owned())),
                mounts::RESOURCE => Some(Self::Mount(id.to_owned())),
                _ => None,
            },
        }
    }
}

/// How far a node is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    #[default]
    Unseen,
    /// It is kept, without what its labels name.
    Flat,
    Kept,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: usize,
    /// Made by a label: flat leases don't follow it.
    label: bool,
}

#[derive(Debug, Default)]
struct Vertex {
    exists: bool,
    mark: Mark,
    edges: Vec<Edge>,
}

/// Objects of a namespace and what they keep. Grows by rows, never shrinks: a
/// reference that was seen once keeps its object until the next collection.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    places: HashMap<Node, usize>,
    vertices: Vec<Vertex>,
    roots: Vec<(usize, Mark)>,
    /// Parents of snapshots.
    parents: HashMap<usize, usize>,
    /// Leases that keep flatly.
    flat: HashMap<String, bool>,
    /// When the next lease or image expires.
    next_expiry: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Labelled {
    labels: Labels,
}

#[derive(Deserialize)]
struct SnapshotRow {
    info: SnapshotInfo,
}

#[derive(Deserialize)]
struct SnapshotInfo {
    parent: Option<String>,
    labels: Labels,
}

#[derive(Deserialize)]
struct ImageRow {
    labels: Labels,
    target: TargetRow,
}

#[derive(Deserialize)]
struct TargetRow {
    digest: String,
}

#[derive(Deserialize)]
struct ContainerRow {
    labels: Labels,
    snapshotter: String,
    snapshot_key: String,
}

#[derive(Deserialize)]
struct MountRow {
    labels: Labels,
    created_at: Timestamp,
    lease: Option<String>,
}

#[derive(Deserialize)]
struct ResourceRow {
    #[serde(rename = "type")]
    kind: String,
    id: String,
}

fn decode<'a, T: Deserialize<'a>>(table: &str, key: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|err| {
        Error::data_loss(format!("record {key:?} in table {table} is damaged")).with_source(err)
    })
}

impl Graph {
    /// Reads a namespace.
    ///
    /// # Errors
    /// The store's; `DataLoss` for a record that can't be read, so that nothing is
    /// taken away by mistake.
    pub(crate) fn read(db: &dyn Database, namespace: &str, now: Timestamp) -> Result<Self> {
        let mut graph = Self::default();
        // Leases before what they hold.
        let tables = [
            LEASES.name(),
            LEASE_RESOURCES.name(),
            IMAGES.name(),
            CONTAINERS.name(),
            SANDBOXES.name(),
            snapshots::TABLE,
            mounts::TABLE,
            BLOBS.name(),
        ];
        for table in tables {
            db.scan(table, namespace, "", &mut |key, bytes| {
                graph.add(table, key, bytes, now)?;
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(graph)
    }

    /// Takes in rows that were written after [`Graph::read`] began. What they are
    /// about stays, whatever refers to it.
    ///
    /// # Errors
    /// As [`Graph::read`].
    pub(crate) fn catch_up<'a>(
        &mut self,
        db: &dyn Database,
        namespace: &str,
        rows: impl Iterator<Item = &'a Row>,
        now: Timestamp,
    ) -> Result<()> {
        for (table, _, key) in rows {
            let Some(bytes) = db.get(table, namespace, key)? else { continue };
            let at = self.add(table, key, &bytes, now)?;
            self.roots.push((at, Mark::Kept));
        }
        Ok(())
    }

    /// Adds an ingest; `recent` ones stay even when no lease holds them.
    pub(crate) fn add_ingest(&mut self, reference: &str, recent: bool) {
        let at = self.existing(Node::Ingest(reference.to_owned()));
        if recent {
            self.roots.push((at, Mark::Kept));
        }
    }

    fn place(&mut self, node: Node) -> usize {
        let next = self.vertices.len();
        let at = *self.places.entry(node).or_insert(next);
        if at == next {
            self.vertices.push(Vertex::default());
        }
        at
    }

    fn existing(&mut self, node: Node) -> usize {
        let at = self.place(node);
        self.vertices[at].exists = true;
        at
    }

    fn keep(&mut self, from: usize, to: Node, label: bool) -> usize {
        let to = self.place(to);
        self.vertices[from].edges.push(Edge { to, label });
        to
    }

    fn labels(&mut self, at: usize, labels: &Labels) {
        for (key, value) in labels {
            if let Some(kind) = key.strip_prefix(REFERENCE) {
                if let Some(node) = Node::of_label(kind, value) {
                    self.keep(at, node, true);
                }
            } else if let Some(kind) = key.strip_prefix(BACK_REFERENCE)
                && let Some(node) = Node::of_label(kind, value)
            {
                let from = self.place(node);
                self.vertices[from].edges.push(Edge { to: at, label: true });
            }
        }
    }

    /// Whether an object's time is over.
    fn expired(&mut self, labels: &Labels, now: Timestamp) -> bool {
        let Some(end) = labels.get(labels::GC_EXPIRE) else { return false };
        // A time that can't be read is no reason to take something away.
        let Some(end) = Timestamp::parse_rfc3339(end) else { return false };
        self.is_over(end, now)
    }

    /// Whether a time has come; if not, it is one to collect at.
    fn is_over(&mut self, end: Timestamp, now: Timestamp) -> bool {
        if end.unix_nanos() <= now.unix_nanos() {
            return true;
        }
        if self.next_expiry.is_none_or(|next| end.unix_nanos() < next.unix_nanos()) {
            self.next_expiry = Some(end);
        }
        false
    }

    /// Adds a row; returns the object that it is about.
    fn add(&mut self, table: &str, key: &str, bytes: &[u8], now: Timestamp) -> Result<usize> {
        let at = if table == LEASES.name() {
            let row: Labelled = decode(table, key, bytes)?;
            let at = self.existing(Node::Lease(key.to_owned()));
            let flat = row.labels.get(FLAT).is_some_and(|value| !value.is_empty());
            self.flat.insert(key.to_owned(), flat);
            if !self.expired(&row.labels, now) {
                self.roots.push((at, if flat { Mark::Flat } else { Mark::Kept }));
            }
            if !flat {
                self.labels(at, &row.labels);
            }
            at
        } else if table == LEASE_RESOURCES.name() {
            let row: ResourceRow = decode(table, key, bytes)?;
            let lease = key.split('\x01').next().unwrap_or_default();
            let from = self.place(Node::Lease(lease.to_owned()));
            match Node::of_resource(&row.kind, &row.id) {
                Some(node) => self.keep(from, node, false),
                None => from,
            }
        } else if table == IMAGES.name() {
            let row: ImageRow = decode(table, key, bytes)?;
            let at = self.existing(Node::Image(key.to_owned()));
            if !self.expired(&row.labels, now) {
                self.roots.push((at, Mark::Kept));
            }
            self.keep(at, Node::Blob(row.target.digest), false);
            self.labels(at, &row.labels);
            at
        } else if table == CONTAINERS.name() {
            let row: ContainerRow = decode(table, key, bytes)?;
            let at = self.existing(Node::Container(key.to_owned()));
            self.roots.push((at, Mark::Kept));
            if !row.snapshot_key.is_empty() {
                self.keep(at, Node::snapshot(&row.snapshotter, &row.snapshot_key), false);
            }
            self.labels(at, &row.labels);
            at
        } else if table == SANDBOXES.name() {
            let row: Labelled = decode(table, key, bytes)?;
            let at = self.existing(Node::Sandbox(key.to_owned()));
            self.roots.push((at, Mark::Kept));
            self.labels(at, &row.labels);
            at
        } else if table == snapshots::TABLE {
            let SnapshotRow { info } = decode(table, key, bytes)?;
            let at = self.existing(Node::Snapshot(key.to_owned()));
            if let Some(parent) = info.parent {
                let snapshotter = key.split('\x01').next().unwrap_or_default();
                let parent = self.keep(at, Node::snapshot(snapshotter, &parent), false);
                self.parents.insert(at, parent);
            }
            self.rooted(at, &info.labels);
            at
        } else if table == mounts::TABLE {
            let row: MountRow = decode(table, key, bytes)?;
            let at = self.existing(Node::Mount(key.to_owned()));
            let told =
                row.lease.is_some() || row.labels.keys().any(|key| key.starts_with(BACK_REFERENCE));
            let end = Timestamp {
                seconds: row.created_at.seconds.saturating_add(MOUNT_LIFE),
                ..row.created_at
            };
            if !told && !self.is_over(end, now) {
                self.roots.push((at, Mark::Kept));
            }
            self.rooted(at, &row.labels);
            at
        } else {
            let row: Labelled = decode(table, key, bytes)?;
            let at = self.existing(Node::Blob(key.to_owned()));
            self.rooted(at, &row.labels);
            at
        };
        Ok(at)
    }

    fn rooted(&mut self, at: usize, labels: &Labels) {
        if labels.get(labels::GC_ROOT).is_some_and(|value| !value.is_empty()) {
            self.roots.push((at, Mark::Kept));
        }
        self.labels(at, labels);
    }

    /// Marks what the roots keep. Called again, it goes on from new roots and edges.
    pub(crate) fn mark(&mut self) {
        // An edge that was added to a marked vertex is followed as well.
        let marked = self.vertices.iter().enumerate().filter(|(_, v)| v.mark > Mark::Unseen);
        let mut open: Vec<(usize, Mark)> = marked.map(|(at, v)| (at, v.mark)).collect();
        for (at, mark) in std::mem::take(&mut self.roots) {
            if self.vertices[at].mark < mark {
                self.vertices[at].mark = mark;
                open.push((at, mark));
            }
        }
        while let Some((at, mark)) = open.pop() {
            let edges = std::mem::take(&mut self.vertices[at].edges);
            for edge in &edges {
                if edge.label && mark == Mark::Flat {
                    continue;
                }
                let to = &mut self.vertices[edge.to];
                if to.mark < mark {
                    to.mark = mark;
                    open.push((edge.to, mark));
                }
            }
            self.vertices[at].edges = edges;
        }
    }

    /// What nothing keeps; of snapshots those that lie on others first.
    pub(crate) fn garbage(&self) -> Vec<Node> {
        let unmarked = |at: usize| {
            let vertex = &self.vertices[at];
            vertex.exists && vertex.mark == Mark::Unseen
        };
        let mut by_depth: BTreeMap<usize, Vec<Node>> = BTreeMap::new();
        for (node, at) in self.places.iter().filter(|(_, at)| unmarked(**at)) {
            let above = std::iter::successors(Some(*at), |at| self.parents.get(at).copied());
            // Nothing lies on itself, whatever a damaged record says.
            let depth = above.take(self.vertices.len()).count();
            by_depth.entry(depth).or_default().push(node.clone());
        }
        by_depth.into_values().rev().flatten().collect()
    }

    /// When something expires next.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.next_expiry
    }

    /// How many objects it has.
    pub(crate) fn len(&self) -> usize {
        self.vertices.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(rows: &[(&str, &str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (table, key, value) in rows {
            let now = Timestamp { seconds: 1_000, nanos: 0 };
            graph.add(table, key, value.as_bytes(), now).unwrap();
        }
        graph.mark();
        graph
    }

    fn blob(labels: &str) -> String {
        format!(r#"{{"digest":"sha256:x","labels":{{{labels}}}}}"#)
    }

    fn names(graph: &Graph) -> Vec<String> {
        let name = |node| match node {
            Node::Blob(n) | Node::Container(n) | Node::Image(n) | Node::Ingest(n) => n,
            Node::Lease(n) | Node::Mount(n) | Node::Sandbox(n) | Node::Snapshot(n) => n,
        };
        graph.garbage().into_iter().map(name).collect()
    }

    #[test]
    fn an_image_keeps_what_its_labels_name() {
        let graph = graph(&[
            ("images", "i", r#"{"labels":{},"target":{"digest":"manifest"}}"#),
            ("blobs", "manifest", &blob(r#""containerd.io/gc.ref.content.config":"config""#)),
            ("blobs", "config", &blob(r#""containerd.io/gc.ref.snapshot.overlayfs":"top""#)),
            ("snapshots", "overlayfs\x01top", r#"{"info":{"parent":"low","labels":{}}}"#),
            ("snapshots", "overlayfs\x01low", r#"{"info":{"parent":null,"labels":{}}}"#),
            ("snapshots", "native\x01top", r#"{"info":{"parent":null,"labels":{}}}"#),
            ("blobs", "other", &blob("")),
        ]);
        let mut left = names(&graph);
        left.sort();
        assert_eq!(left, ["native\x01top", "other"]);
    }

    #[test]
    fn those_on_top_go_first() {
        let graph = graph(&[
            ("snapshots", "o\x01a", r#"{"info":{"parent":null,"labels":{}}}"#),
            ("snapshots", "o\x01c", r#"{"info":{"parent":"b","labels":{}}}"#),
            ("snapshots", "o\x01b", r#"{"info":{"parent":"a","labels":{}}}"#),
        ]);
        assert_eq!(names(&graph), ["o\x01c", "o\x01b", "o\x01a"]);
    }

    #[test]
    fn flat_leases_keep_parents_but_follow_no_labels() {
        let rows = |flat: &str| {
            let lease = format!(r#"{{"id":"l","labels":{{{flat}}}}}"#);
            let graph = graph(&[
                ("leases", "l", &lease),
                ("lease-resources", "l\x01content\x01m", r#"{"type":"content","id":"m"}"#),
                ("lease-resources", "l\x01snapshots/o\x01c", r#"{"type":"snapshots/o","id":"c"}"#),
                ("snapshots", "o\x01a", r#"{"info":{"parent":null,"labels":{}}}"#),
                ("snapshots", "o\x01c", r#"{"info":{"parent":"a","labels":{}}}"#),
                ("blobs", "m", &blob(r#""containerd.io/gc.ref.content.0":"x""#)),
                ("blobs", "x", &blob("")),
            ]);
            names(&graph)
        };
        assert_eq!(rows(r#""containerd.io/gc.flat":"1""#), ["x"]);
        assert!(rows("").is_empty());
        assert_eq!(rows(r#""containerd.io/gc.expire":"1970-01-01T00:10:00Z""#).len(), 5);
        assert!(rows(r#""containerd.io/gc.expire":"1970-01-01T00:20:00Z""#).is_empty());
        assert!(rows(r#""containerd.io/gc.expire":"soon""#).is_empty());
    }

    #[test]
    fn back_references_and_roots() {
        let graph = graph(&[
            ("images", "i", r#"{"labels":{},"target":{"digest":"m"}}"#),
            ("blobs", "m", &blob("")),
            ("blobs", "extra", &blob(r#""containerd.io/gc.bref.content.m":"m""#)),
            ("blobs", "of-image", &blob(r#""containerd.io/gc.bref.image":"i""#)),
            ("blobs", "of-none", &blob(r#""containerd.io/gc.bref.image":"gone""#)),
            ("blobs", "root", &blob(r#""containerd.io/gc.root":"2020""#)),
            ("blobs", "unrooted", &blob(r#""containerd.io/gc.root":"""#)),
        ]);
        let mut left = names(&graph);
        left.sort();
        assert_eq!(left, ["of-none", "unrooted"]);
    }

    #[test]
    fn mounts_stay_with_what_keeps_them() {
        let mount = |labels: &str, lease: &str, seconds: i64| {
            format!(
                r#"{{"labels":{{{labels}}},"lease":{lease},
                     "created_at":{{"s":{seconds},"n":0}}}}"#
            )
        };
        let of = |container: &str| format!(r#""containerd.io/gc.bref.container":"{container}""#);
        let graph = graph(&[
            ("leases", "l", r#"{"id":"l","labels":{}}"#),
            ("lease-resources", "l\x01mounts\x01leased", r#"{"type":"mounts","id":"leased"}"#),
            ("containers", "c", r#"{"labels":{},"snapshotter":"","snapshot_key":""}"#),
            ("mounts", "leased", &mount("", r#""l""#, 0)),
            ("mounts", "unleased", &mount("", r#""gone""#, 999)),
            ("mounts", "of-container", &mount(&of("c"), "null", 0)),
            ("mounts", "of-none", &mount(&of("gone"), "null", 999)),
            ("mounts", "young", &mount("", "null", 999)),
            ("mounts", "old", &mount("", "null", 1_000 - MOUNT_LIFE)),
            ("mounts", "root", &mount(r#""containerd.io/gc.root":"1""#, "null", -MOUNT_LIFE)),
        ]);
        let mut left = names(&graph);
        left.sort();
        assert_eq!(left, ["of-none", "old", "unleased"]);
        assert_eq!(graph.next_expiry().map(|at| at.seconds), Some(999 + MOUNT_LIFE));
    }

    #[test]
    fn what_was_written_meanwhile_stays() {
        let mut graph = graph(&[("blobs", "a", &blob("")), ("blobs", "b", &blob(""))]);
        assert_eq!(names(&graph).len(), 2);
        let row = r#"{"type":"content","id":"b"}"#;
        let now = Timestamp { seconds: 1_000, nanos: 0 };
        let at = graph.add("lease-resources", "l\x01content\x01b", row.as_bytes(), now).unwrap();
        graph.roots.push((at, Mark::Kept));
        graph.mark();
        assert_eq!(names(&graph), ["a"]);
    }
}
