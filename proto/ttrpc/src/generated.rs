//! The generated code, in modules that follow the packages.

/// Makes a module of a package's generated code. Its comments are those of
/// the `.proto` files, written for readers of every language.
macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $file, ".rs"));
        }
    };
}

/// containerd's API.
pub mod containerd {
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
    /// Types that several services share.
    pub mod types {
        include!(concat!(env!("OUT_DIR"), "/containerd.types.rs"));
        package!(
            /// Sources, destinations and streams of transfers.
            transfer,
            "containerd.types.transfer"
        );
    }
    /// Version 1 of what is not a service.
    pub mod v1 {
        package!(
            /// States of processes.
            types,
            "containerd.v1.types"
        );
    }
    package!(
        /// The events that are published.
        events,
        "containerd.events"
    );
    /// Options of OCI runtimes.
    pub mod runc {
        package!(
            /// Version 1, the one in use.
            v1,
            "containerd.runc.v1"
        );
    }
    /// What shims serve.
    pub mod task {
        package!(
            /// Version 3 of the task service, which also answers as version 2.
            v3,
            "containerd.task.v3"
        );
        /// Version 2, which differs from version 3 by name only.
        pub mod v2 {
            pub use super::v3::*;
        }
    }
    /// Starting shims, and sandboxes in shims.
    pub mod runtime {
        /// What passes through the standard streams of `shim start`.
        pub mod bootstrap {
            package!(
                /// Version 1, the one in use.
                v1,
                "containerd.runtime.bootstrap.v1"
            );
        }
        /// Sandboxes in shims.
        pub mod sandbox {
            package!(
                /// Version 1, the one in use.
                v1,
                "containerd.runtime.sandbox.v1"
            );
        }
    }
    /// Services of the daemon that are spoken over ttrpc.
    pub mod services {
        /// Events.
        pub mod events {
            /// Events of shims.
            pub mod ttrpc {
                package!(
                    /// Version 1, the one in use.
                    v1,
                    "containerd.services.events.ttrpc.v1"
                );
            }
        }
    }
}

/// Gantry's own contracts.
pub mod gantry {
    /// What the daemon asks of its own shim beyond the task service.
    pub mod shim {
        package!(
            /// Version 1, the one in use.
            v1,
            "gantry.shim.v1"
        );
    }
}

/// Types of Google's that the contracts use.
pub mod google {
    package!(
        /// How a call ended.
        rpc,
        "google.rpc"
    );
}

/// Readings of cgroups.
pub mod io {
    /// See [`super::io`].
    pub mod containerd {
        /// Readings of cgroups, by version of the hierarchy.
        pub mod cgroups {
            package!(
                /// Version 1 hierarchies.
                v1,
                "io.containerd.cgroups.v1"
            );
            package!(
                /// The unified hierarchy.
                v2,
                "io.containerd.cgroups.v2"
            );
        }
    }
}

/// Options of runtimes with a configuration file of their own.
pub mod runtimeoptions {
    package!(
        /// Version 1, the one in use.
        v1,
        "runtimeoptions.v1"
    );
}
