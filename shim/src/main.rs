//! `containerd-shim-gantry-v2`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    gantry_shim::launch::main(std::env::args_os().skip(1))
}
