//! `gantry.engine.v1` over the engine.

mod containers;
pub(crate) mod convert;
mod files;
mod images;
mod look;
mod networks;
mod system;
mod volumes;
mod wishes;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use gantry_core::{Context, Namespace};
use gantry_grpc::context;
use gantry_grpc::status::{to_detailed as to_wire, with_details};
use tonic::{Request, Response, Status};

use crate::Engine;

/// Where a request acts that names no namespace.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A service over an engine.
macro_rules! service {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            engine: Arc<Engine>,
        }

        impl $name {
            /// Serves this engine.
            pub fn new(engine: Arc<Engine>) -> Self {
                Self { engine }
            }
        }
    };
}

service!(
    /// The service `gantry.engine.v1.Containers`.
    Containers
);
service!(
    /// The service `gantry.engine.v1.Images`.
    Images
);
service!(
    /// The service `gantry.engine.v1.Networks`.
    Networks
);
service!(
    /// The service `gantry.engine.v1.System`.
    System
);
service!(
    /// The service `gantry.engine.v1.Volumes`.
    Volumes
);

/// What an answer is.
type Answer<T> = Result<Response<T>, Status>;

/// Several answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn context_of<T>(request: &Request<T>) -> Result<Context, Status> {
    let default = Namespace::new(DEFAULT_NAMESPACE).map_err(to_wire)?;
    context::or_default(request, &default).map_err(with_details)
}
