//! The records of activations.

use gantry_core::db::{Table, Transaction};
use gantry_core::leases::{LEASE_RESOURCES, Resource, hold, resource_key};
use gantry_core::mounts::{Activate, Activation, ActiveMount, RESOURCE, TABLE};
use gantry_core::{Context, Error, Labels, Mount, Result, Timestamp, labels};
use serde::{Deserialize, Serialize};

/// Activations. Key: name.
pub(crate) const RECORDS: Table<Record> = Table::new(TABLE);
/// The next number, under an empty key.
const NUMBERS: Table<u64> = Table::new("mount-numbers");

/// Longest name, in bytes.
const MAX_NAME: usize = 4096;

/// How far an activation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Some of its mounts may be there: it is being made.
    Making,
    /// All of them are.
    Active,
    /// Some of them may be there: it is being taken away.
    Leaving,
}

/// What is stored of an activation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) labels: Labels,
    /// When it was asked for.
    pub(crate) created_at: Timestamp,
    /// The lease that was named when it was.
    pub(crate) lease: Option<String>,
    pub(crate) state: State,
    /// Its directory.
    pub(crate) number: u64,
    /// As asked for, to make it again.
    pub(crate) mounts: Vec<Mount>,
    pub(crate) temporary: bool,
    pub(crate) active: Vec<ActiveMount>,
    pub(crate) system: Vec<Mount>,
}

impl Record {
    /// As clients see it.
    pub(crate) fn activation(self, name: &str) -> Activation {
        let Self { labels, active, system, .. } = self;
        Activation { name: name.to_owned(), active, system, labels }
    }
}

/// Checks what a client wants to call an activation, and its labels.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn validate(name: &str, all: &Labels) -> Result<()> {
    let why = match name {
        "" => "it is empty",
        n if n.len() > MAX_NAME => "it is longer than 4096 bytes",
        n if n.contains(['\0', '\x01']) => "it holds a control character",
        _ => return labels::validate_all(all),
    };
    let shown: String = name.chars().take(64).collect();
    Err(Error::invalid_argument(format!("mount name {shown:?}: {why}: invalid argument")))
}

/// Writes down what is going to be made. Returns the record, or what has the name
/// without being whole.
///
/// # Errors
/// `AlreadyExists`; `NotFound` for the lease.
pub(crate) fn begin(
    tx: &mut dyn Transaction,
    ctx: &Context,
    name: &str,
    wanted: &Activate,
) -> Result<Result<Record, Record>> {
    let namespace = ctx.namespace.as_str();
    match RECORDS.lock(tx, namespace, name)? {
        Some(found) if found.state == State::Active => {
            return Err(Error::already_exists(format!("mount {name:?}: already exists")));
        }
        Some(stale) => return Ok(Err(stale)),
        None => {}
    }
    let number = NUMBERS.lock(tx, "", "")?.unwrap_or(1);
    NUMBERS.put(tx, "", "", &(number + 1))?;
    let record = Record {
        labels: wanted.labels.clone(),
        created_at: Timestamp::now(),
        lease: ctx.lease.clone(),
        state: State::Making,
        number,
        mounts: wanted.mounts.clone(),
        temporary: wanted.temporary,
        active: Vec::new(),
        system: Vec::new(),
    };
    RECORDS.put(tx, namespace, name, &record)?;
    hold(tx, ctx, RESOURCE, name)?;
    Ok(Ok(record))
}

/// Stores a record whose activation has gone on, if it is still there.
///
/// # Errors
/// `NotFound` when it was removed meanwhile.
pub(crate) fn replace(
    tx: &mut dyn Transaction,
    namespace: &str,
    name: &str,
    record: &Record,
) -> Result<()> {
    // Another activation may have the name by now.
    let same = |found: &Record| found.number == record.number;
    if RECORDS.lock(tx, namespace, name)?.as_ref().is_none_or(|found| !same(found)) {
        return Err(missing(name));
    }
    RECORDS.put(tx, namespace, name, record)
}

/// Removes a record; it is no error when it is another's by now.
///
/// # Errors
/// `NotFound` when there is none of the name.
pub(crate) fn remove(
    tx: &mut dyn Transaction,
    namespace: &str,
    name: &str,
    number: Option<u64>,
) -> Result<Record> {
    let found = RECORDS.lock(tx, namespace, name)?.ok_or_else(|| missing(name))?;
    if number.is_none_or(|number| number == found.number) {
        RECORDS.delete(tx, namespace, name)?;
        if let Some(lease) = &found.lease {
            let held = Resource { kind: RESOURCE.to_owned(), id: name.to_owned() };
            LEASE_RESOURCES.delete(tx, namespace, &resource_key(lease, &held))?;
        }
    }
    Ok(found)
}

pub(crate) fn missing(name: &str) -> Error {
    Error::not_found(format!("mount {name:?}: not found"))
}
