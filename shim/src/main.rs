//! `containerd-shim-gantry-v2`; everything is in the library.

use std::process::ExitCode;

use gantry_shim::{init, launch};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    match args.next() {
        // Bound into a container under another name.
        Some(program) if init::is_meant(&program) => init::main(args),
        _ => launch::main(args),
    }
}
