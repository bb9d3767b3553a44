//! The records of one snapshotter.

use std::collections::{BTreeMap, BTreeSet};

use gantry_core::db::{Database, Table, Transaction};
use gantry_core::leases::{LEASE_RESOURCES, Resource, hold, resource_key};
use gantry_core::snapshots::{Info, Kind, Usage};
use gantry_core::{Context, Error, LabelMask, Labels, Namespace, Result, Timestamp, labels};
use serde::{Deserialize, Serialize};

/// Snapshots of all snapshotters. Key: snapshotter, `\x01`, name.
const RECORDS: Table<Record> = Table::new("snapshots");
/// Who has whom as parent. Key: snapshotter, `\x01`, parent, `\x01`, child. A
/// row is written and read only while the parent's record is locked.
const CHILDREN: Table<()> = Table::new("snapshot-children");

/// Longest key or name, in bytes.
const MAX_NAME: usize = 4096;

/// What is stored of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What clients see.
    pub(crate) info: Info,
    /// Its directory.
    pub(crate) number: u64,
    /// Directories of what lies below, the nearest first. It never changes:
    /// nothing is removed while something lies on it.
    pub(crate) below: Vec<u64>,
    /// As measured at commit.
    pub(crate) usage: Usage,
    /// Where a snapshot lies whose files another program keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backing: Option<Backing>,
}

/// What a snapshot is to the program that keeps its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backing {
    /// Its key or name there.
    pub(crate) name: String,
    /// A commit that may have been done there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) committing: Option<Committing>,
}

impl Backing {
    pub(crate) fn new(name: String) -> Self {
        Self { name, committing: None }
    }
}

/// A commit that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committing {
    /// The name that it gets there.
    pub(crate) backing: String,
    /// The name that it gets here.
    pub(crate) name: String,
    /// Its parent here.
    pub(crate) parent: Option<String>,
    /// Its labels here.
    pub(crate) labels: Labels,
    /// Whether there is a record of the name whose files are lost: it gets these.
    #[serde(default)]
    pub(crate) restores: bool,
}

impl Record {
    /// A new view or active snapshot.
    pub(crate) fn new(
        kind: Kind,
        key: &str,
        number: u64,
        parent: Option<&Record>,
        labels: Labels,
    ) -> Self {
        let now = Timestamp::now();
        let info = Info {
            kind,
            name: key.to_owned(),
            parent: parent.map(|p| p.info.name.clone()),
            created_at: now,
            updated_at: now,
            labels,
        };
        Self { info, number, below: below(parent), usage: Usage::default(), backing: None }
    }
}

/// The directories below a snapshot with this parent.
pub(crate) fn below(parent: Option<&Record>) -> Vec<u64> {
    parent
        .map(|p| std::iter::once(p.number).chain(p.below.iter().copied()).collect())
        .unwrap_or_default()
}

/// What a commit changes.
pub(crate) struct Commit<'a> {
    pub(crate) key: &'a str,
    pub(crate) name: &'a str,
    /// The parent given at commit, or that of the active snapshot.
    pub(crate) parent: Option<&'a str>,
    pub(crate) labels: &'a Labels,
    pub(crate) usage: Usage,
    /// For one that another program keeps.
    pub(crate) backing: Option<Backing>,
}

/// Reads and writes records of one snapshotter.
#[derive(Clone, Copy)]
pub(crate) struct Store<'a> {
    pub(crate) snapshotter: &'a str,
}

impl Store<'_> {
    fn row(self, name: &str) -> String {
        format!("{}\x01{name}", self.snapshotter)
    }

    fn child_row(self, parent: &str, child: &str) -> String {
        format!("{}\x01{parent}\x01{child}", self.snapshotter)
    }

    fn resource(self, name: &str) -> Resource {
        Resource { kind: format!("snapshots/{}", self.snapshotter), id: name.to_owned() }
    }

    /// One record, `NotFound` when there is none.
    pub(crate) fn get(self, db: &dyn Database, ns: &Namespace, name: &str) -> Result<Record> {
        RECORDS.get(db, ns.as_str(), &self.row(name))?.ok_or_else(|| missing(name))
    }

    /// All records of a namespace, by name.
    pub(crate) fn list(self, db: &dyn Database, ns: &str) -> Result<Vec<Record>> {
        let rows = RECORDS.list_prefix(db, ns, &self.row(""))?;
        Ok(rows.into_iter().map(|(_, record)| record).collect())
    }

    /// All records of all namespaces.
    pub(crate) fn everything(self, db: &dyn Database) -> Result<Vec<Record>> {
        let mut all = Vec::new();
        for namespace in db.namespaces(RECORDS.name())? {
            all.append(&mut self.list(db, &namespace)?);
        }
        Ok(all)
    }

    /// Locks records, always in the same order, so that nobody waits in a circle.
    fn lock(
        self,
        tx: &mut dyn Transaction,
        ns: &Namespace,
        names: &[&str],
    ) -> Result<BTreeMap<String, Record>> {
        let names: BTreeSet<&str> = names.iter().copied().collect();
        let mut found = BTreeMap::new();
        for name in names {
            if let Some(record) = RECORDS.lock(tx, ns.as_str(), &self.row(name))? {
                found.insert(name.to_owned(), record);
            }
        }
        Ok(found)
    }

    fn put(self, tx: &mut dyn Transaction, ctx: &Context, record: &Record) -> Result<()> {
        let (ns, info) = (ctx.namespace.as_str(), &record.info);
        RECORDS.put(tx, ns, &self.row(&info.name), record)?;
        if let Some(parent) = &info.parent {
            CHILDREN.put(tx, ns, &self.child_row(parent, &info.name), &())?;
        }
        Ok(())
    }

    fn delete(self, tx: &mut dyn Transaction, ctx: &Context, record: &Record) -> Result<()> {
        let (ns, info) = (ctx.namespace.as_str(), &record.info);
        RECORDS.delete(tx, ns, &self.row(&info.name))?;
        if let Some(parent) = &info.parent {
            CHILDREN.delete(tx, ns, &self.child_row(parent, &info.name))?;
        }
        Ok(())
    }

    fn hold(self, tx: &mut dyn Transaction, ctx: &Context, name: &str) -> Result<()> {
        let resource = self.resource(name);
        hold(tx, ctx, &resource.kind, &resource.id)
    }

    /// Stores a new record, if its parent is still as it was.
    pub(crate) fn insert(
        self,
        tx: &mut dyn Transaction,
        ctx: &Context,
        record: &Record,
    ) -> Result<()> {
        let key = record.info.name.as_str();
        let parent = record.info.parent.as_deref();
        let names: Vec<&str> = std::iter::once(key).chain(parent).collect();
        let found = self.lock(tx, &ctx.namespace, &names)?;
        if found.contains_key(key) {
            return Err(taken(key));
        }
        if let Some(parent) = parent {
            let now = found.get(parent).ok_or_else(|| {
                Error::not_found(format!("parent snapshot {parent} does not exist: not found"))
            })?;
            if record.below.first() != Some(&now.number) {
                return Err(Error::new(
                    gantry_core::Kind::Aborted,
                    format!("parent snapshot {parent} was replaced meanwhile: try again"),
                ));
            }
        }
        self.put(tx, ctx, record)?;
        self.hold(tx, ctx, key)
    }

    /// Holds a snapshot that is there by the request's lease, and says that it is.
    pub(crate) fn refuse(
        self,
        tx: &mut dyn Transaction,
        ctx: &Context,
        name: &str,
    ) -> Result<Option<Record>> {
        let found = self.lock(tx, &ctx.namespace, &[name])?.remove(name);
        if found.is_some() {
            self.hold(tx, ctx, name)?;
        }
        Ok(found)
    }

    /// Turns an active record into a committed one.
    pub(crate) fn commit(
        self,
        tx: &mut dyn Transaction,
        ctx: &Context,
        commit: &Commit<'_>,
    ) -> Result<()> {
        let names: Vec<&str> = [commit.key, commit.name].into_iter().chain(commit.parent).collect();
        let found = self.lock(tx, &ctx.namespace, &names)?;
        if found.contains_key(commit.name) {
            return Err(taken(commit.name));
        }
        let active = found.get(commit.key).ok_or_else(|| missing(commit.key))?;
        require_active(active)?;
        let parent = match commit.parent {
            None => None,
            Some(name) => Some(committed(found.get(name).ok_or_else(|| missing(name))?)?),
        };
        let mut record =
            Record::new(Kind::Committed, commit.name, active.number, parent, commit.labels.clone());
        record.usage = commit.usage;
        record.backing.clone_from(&commit.backing);
        self.delete(tx, ctx, active)?;
        self.put(tx, ctx, &record)?;
        if let Some(lease) = &ctx.lease {
            let former = resource_key(lease, &self.resource(commit.key));
            LEASE_RESOURCES.delete(tx, ctx.namespace.as_str(), &former)?;
        }
        self.hold(tx, ctx, commit.name)
    }

    /// Writes down where an active snapshot lies, or is going to.
    pub(crate) fn back(
        self,
        tx: &mut dyn Transaction,
        ctx: &Context,
        name: &str,
        backing: &Backing,
    ) -> Result<()> {
        let mut found = self.lock(tx, &ctx.namespace, &[name])?;
        let mut record = found.remove(name).ok_or_else(|| missing(name))?;
        record.backing = Some(backing.clone());
        RECORDS.put(tx, ctx.namespace.as_str(), &self.row(name), &record)
    }

    /// Deletes a record that nothing lies on.
    pub(crate) fn remove(
        self,
        tx: &mut dyn Transaction,
        ctx: &Context,
        name: &str,
    ) -> Result<Record> {
        let mut found = self.lock(tx, &ctx.namespace, &[name])?;
        let record = found.remove(name).ok_or_else(|| missing(name))?;
        let children = CHILDREN.list_in(tx, ctx.namespace.as_str(), &self.child_row(name, ""))?;
        if let Some((row, ())) = children.first() {
            let child = row.rsplit('\x01').next().unwrap_or(row);
            return Err(Error::failed_precondition(format!(
                "cannot remove snapshot {name}: snapshot {child} lies on it: failed precondition"
            )));
        }
        self.delete(tx, ctx, &record)?;
        Ok(record)
    }

    /// Changes labels.
    pub(crate) fn update(
        self,
        tx: &mut dyn Transaction,
        ctx: &Context,
        name: &str,
        new: &Labels,
        mask: &LabelMask,
    ) -> Result<Info> {
        let mut found = self.lock(tx, &ctx.namespace, &[name])?;
        let mut record = found.remove(name).ok_or_else(|| missing(name))?;
        mask.apply(&mut record.info.labels, new);
        labels::validate_all(&record.info.labels)?;
        record.info.updated_at = Timestamp::now();
        RECORDS.put(tx, ctx.namespace.as_str(), &self.row(name), &record)?;
        Ok(record.info)
    }
}

/// Checks a key or a name that a client chose.
pub(crate) fn validate_name(name: &str) -> Result<()> {
    let why = match name {
        "" => "it is empty",
        n if n.len() > MAX_NAME => "it is longer than 4096 bytes",
        n if n.contains(['\0', '\x01']) => "it holds a control character",
        _ => return Ok(()),
    };
    let shown: String = name.chars().take(64).collect();
    Err(Error::invalid_argument(format!("snapshot name {shown:?}: {why}: invalid argument")))
}

/// The record itself, if it may be a parent.
pub(crate) fn committed(record: &Record) -> Result<&Record> {
    match record.info.kind {
        Kind::Committed => Ok(record),
        Kind::View | Kind::Active => Err(Error::invalid_argument(format!(
            "parent {:?} is not committed snapshot: invalid argument",
            record.info.name
        ))),
    }
}

/// Refuses a snapshot that can't be committed.
pub(crate) fn require_active(record: &Record) -> Result<()> {
    if record.info.kind == Kind::Active {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "snapshot {} is not active: failed precondition",
        record.info.name
    )))
}

/// What a client is told that wants to mount a committed snapshot.
pub(crate) fn no_mounts(key: &str) -> Error {
    Error::failed_precondition(format!(
        "snapshot {key} is committed and has no mounts: prepare or view one on it: \
         failed precondition"
    ))
}

pub(crate) fn wrong_parent(key: &str, given: &str, own: Option<&str>) -> Error {
    Error::failed_precondition(match own {
        Some(own) => {
            format!("snapshot {key} was prepared on {own}, not on {given}: failed precondition")
        }
        None => format!(
            "snapshot {key} was prepared without a parent and can't be put on {given} any more: \
             prepare it on its parent: failed precondition"
        ),
    })
}

/// What a client is told that wants to make what is there already, so that it need not.
pub(crate) fn target_exists(target: &str) -> Error {
    Error::already_exists(format!("target snapshot {target:?}: already exists"))
}

pub(crate) fn taken(name: &str) -> Error {
    Error::already_exists(format!("snapshot {name:?}: already exists"))
}

pub(crate) fn missing(name: &str) -> Error {
    Error::not_found(format!("snapshot {name} does not exist: not found"))
}
