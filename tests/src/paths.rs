//! Where the built binaries and the cached images lie.

use std::path::{Path, PathBuf};

/// The directory with `gantryd`, `gantry` and the shim: that of the running test
/// binary's profile.
pub fn bin() -> PathBuf {
    let exe = std::env::current_exe().expect("a running program has a path");
    let dir = exe.parent().expect("a program lies in a directory");
    if dir.ends_with("deps") { dir.parent().expect("deps has a parent").into() } else { dir.into() }
}

/// The path of a built binary.
pub fn program(name: &str) -> PathBuf {
    let path = bin().join(name);
    assert!(path.exists(), "{} is not built: run `make build` first", path.display());
    path
}

/// Where images are kept between runs.
pub fn fixtures() -> PathBuf {
    let dir = bin().parent().expect("a profile lies in the target directory").join("fixtures");
    std::fs::create_dir_all(&dir).expect("make the directory of fixtures");
    dir
}

/// The checkout.
pub fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the checkout")
}
