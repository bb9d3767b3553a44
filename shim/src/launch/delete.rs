//! `delete`: tear down what a dead shim left, knowing only the bundle.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use gantry_ttrpc::containerd::task::v3::DeleteResponse;
use prost::Message;

use super::{Flags, start};
use crate::clock;
use crate::error::Error;
use crate::exits;
use crate::reaper::Exit;
use crate::runtime::Runtime;

/// Kills, unmounts and removes; gives the encoded answer. The exit status is
/// the one that the shim had recorded, else that of a killed process.
///
/// # Errors
/// Something could not be removed; a further try goes on where this stopped.
pub(super) fn run(flags: &Flags) -> Result<Vec<u8>, Error> {
    let bundle = start::bundle(flags)?;
    let recorded = exits::read(&bundle, "");
    let cleaned = Runtime::cleanup(&bundle, &flags.id)?;
    let exit = match recorded {
        Some(record) => record.exit(),
        None => Exit { status: cleaned.exit_status, at: clock::now() },
    };
    remove_socket(&bundle);
    let answer = DeleteResponse {
        pid: cleaned.pid,
        exit_status: exit.status,
        exited_at: Some(clock::timestamp(exit.at)),
    };
    Ok(answer.encode_to_vec())
}

/// Removes the socket of the bundle's shim unless a shim still answers there:
/// that of a group lives on.
fn remove_socket(bundle: &Path) {
    if let Ok(address) = fs::read_to_string(bundle.join("address"))
        && let path = super::strip_scheme(&address)
        && UnixStream::connect(path).is_err()
    {
        // Gone already is as good.
        let _ = fs::remove_file(path);
    }
}
