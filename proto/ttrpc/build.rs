//! Compiles the contracts that the shim needs, without protoc.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "build/services.rs"]
mod services;

/// Folders of `proto/` whose files are compiled here. The gRPC services and
/// the engine's API belong to the crate `gantry-grpc`.
const FOLDERS: [&str; 8] = [
    "containerd/types",
    "containerd/v1",
    "containerd/events",
    "containerd/runc",
    "containerd/runtime",
    "containerd/task",
    "containerd/services/events/ttrpc",
    "gantry/shim",
];

/// The same, outside of containerd's tree.
const MORE_FOLDERS: [&str; 3] = ["google/rpc", "io/containerd/cgroups", "runtimeoptions"];

/// Version 2 of the task service has the messages of version 3: code is
/// generated for one of them only.
const TASK_V2: &str = "containerd.task.v2";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from("..");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut files = Vec::new();
    for folder in FOLDERS.iter().chain(&MORE_FOLDERS) {
        let folder = root.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        collect(&folder, &mut files)?;
    }
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let mut set = compiler.file_descriptor_set();
    compiler.include_source_info(false);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    set.file.retain(|file| file.package() != TASK_V2);
    prost_build::Config::new()
        .enable_type_names()
        .btree_map(["."])
        .bytes(["."])
        .service_generator(Box::new(services::Generator))
        .compile_fds(set)?;
    Ok(())
}

/// Adds the `.proto` files of a folder and the folders in it.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder).map_err(|e| format!("read {}: {e}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
