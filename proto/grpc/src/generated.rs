//! The generated code, in modules that follow the packages.

/// Makes a module of a package's generated code. Its comments are those of
/// the `.proto` files, written for readers of every language.
macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Version 1, the one in use.
            #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/", $file, ".v1.rs"));
            }
        }
    };
}

/// containerd's API.
pub mod containerd {
    pub use gantry_ttrpc::containerd::{events, runc, runtime, task, types, v1};

    /// The services of the daemon.
    pub mod services {
        package!(
            /// Records of containers.
            containers,
            "containerd.services.containers"
        );
        package!(
            /// Blobs and ingests.
            content,
            "containerd.services.content"
        );
        package!(
            /// Layers to files and back.
            diff,
            "containerd.services.diff"
        );
        package!(
            /// Records of images.
            images,
            "containerd.services.images"
        );
        package!(
            /// What the server is made of.
            introspection,
            "containerd.services.introspection"
        );
        package!(
            /// What keeps objects alive.
            leases,
            "containerd.services.leases"
        );
        package!(
            /// Mounts performed by the server.
            mounts,
            "containerd.services.mounts"
        );
        package!(
            /// What keeps clients apart.
            namespaces,
            "containerd.services.namespaces"
        );
        package!(
            /// Sandboxes.
            sandbox,
            "containerd.services.sandbox"
        );
        package!(
            /// Layered filesystems.
            snapshots,
            "containerd.services.snapshots"
        );
        package!(
            /// Streams beside other calls.
            streaming,
            "containerd.services.streaming"
        );
        package!(
            /// Running containers.
            tasks,
            "containerd.services.tasks"
        );
        package!(
            /// Moving images and files.
            transfer,
            "containerd.services.transfer"
        );
        package!(
            /// Version of the server.
            version,
            "containerd.services.version"
        );
        /// The stream of events.
        pub mod events {
            pub use gantry_ttrpc::containerd::services::events::ttrpc;

            /// Version 1, the one in use.
            #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.services.events.v1.rs"));
            }
        }
    }
}

/// Gantry's own contracts.
pub mod gantry {
    pub use gantry_ttrpc::gantry::shim;

    package!(
        /// Containers by name, with images, logs and terminals.
        engine,
        "gantry.engine"
    );
}
