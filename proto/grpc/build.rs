//! Compiles the gRPC contracts, without protoc.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `proto/` whose files are compiled here.
const FOLDERS: [&str; 2] = ["containerd/services", "gantry/engine"];

/// Packages whose code is in the crate `gantry-ttrpc`.
const SHARED: [&str; 6] = [
    "containerd.types",
    "containerd.v1.types",
    "containerd.events",
    "containerd.runc.v1",
    "containerd.services.events.ttrpc.v1",
    "google.rpc",
];

/// Messages that are long lists.
const LISTINGS: [&str; 1] = ["containerd.services.images.v1.ListImagesResponse"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from("..");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut files = Vec::new();
    for folder in FOLDERS {
        let folder = root.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        collect(&folder, &mut files)?;
    }
    println!("cargo::rerun-if-changed={}", root.join("containerd/types").display());
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let set = compiler.file_descriptor_set();
    compiler.include_source_info(false);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let mut config = prost_build::Config::new();
    config.enable_type_names().btree_map(["."]).bytes(["."]);
    let mut builder = tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // It would make a function `connect` for each client, which is a call of one.
        .build_transport(false);
    for package in SHARED {
        let module = package.replace('.', "::");
        builder = builder.extern_path(format!(".{package}"), format!("::gantry_ttrpc::{module}"));
    }
    for message in LISTINGS {
        builder = builder.extern_path(format!(".{message}"), "crate::listing::Listing");
    }
    builder.compile_fds_with_config(set, config)?;
    Ok(())
}

/// Adds the `.proto` files of a folder and the folders in it, but for the
/// service that is spoken over ttrpc.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder).map_err(|e| format!("read {}: {e}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("services/events/ttrpc") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
