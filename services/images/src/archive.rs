//! Images in archives: OCI layouts and what `docker save` writes.

mod docker;
mod entries;
pub(crate) mod export;
pub(crate) mod import;

/// The file that marks an OCI layout.
const LAYOUT: &str = "oci-layout";
/// The only version of OCI layouts.
const VERSION: &str = "1.0.0";
/// What an OCI layout holds.
const INDEX: &str = "index.json";
/// What an archive of Docker holds.
const MANIFEST: &str = "manifest.json";
