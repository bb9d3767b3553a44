//! Namespace, lease, scope and request ID of a request.

use std::str::FromStr;

use gantry_core::{Context, Error, Namespace, Result};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::layer::RequestId;
use crate::{scope, status};

/// Header that names the namespace.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";

/// Header that names the lease which holds what the request makes.
pub const LEASE_HEADER: &str = "containerd-lease";

/// Takes the context out of a request.
///
/// # Errors
/// `FailedPrecondition` without a namespace, as containerd answers;
/// `InvalidArgument` when the namespace is no identifier; `PermissionDenied` when it is beyond
/// the client's scope.
pub fn of<T>(request: &Request<T>) -> Result<Context, Status> {
    namespace(request.metadata())
        .and_then(|namespace| context(namespace, request))
        .map_err(status::to_wire)
}

/// Takes the context out of a request that may lack a namespace: it then
/// acts in `default`.
///
/// # Errors
/// `InvalidArgument` when there is a namespace, and it is no identifier; `PermissionDenied` when
/// it is beyond the client's scope.
pub fn or_default<T>(request: &Request<T>, default: &Namespace) -> Result<Context, Status> {
    if request.metadata().contains_key(NAMESPACE_HEADER) {
        return of(request);
    }
    context(default.clone(), request).map_err(status::to_wire)
}

fn namespace(metadata: &MetadataMap) -> Result<Namespace> {
    let name = text(metadata, NAMESPACE_HEADER)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::failed_precondition("namespace is required: failed precondition"))?;
    Namespace::new(name)
}

fn context<T>(namespace: Namespace, request: &Request<T>) -> Result<Context> {
    let (metadata, extensions) = (request.metadata(), request.extensions());
    let scope = scope::of(extensions).cloned();
    if let Some(scope) = &scope
        && scope.label.as_ref().is_some_and(|label| label.namespace != namespace)
    {
        return Err(scope::refuse(scope, format_args!("namespace {namespace}")));
    }
    let mut context = Context::new(namespace);
    context.lease = text(metadata, LEASE_HEADER).filter(|l| !l.is_empty()).map(str::to_owned);
    context.scope = scope;
    let id = extensions.get::<RequestId>();
    context.request_id = id.map(|id| id.0.to_string()).unwrap_or_default();
    Ok(context)
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Option<&'a str> {
    metadata.get(key).and_then(|value| value.to_str().ok())
}

/// Puts namespace and lease into every request of a client.
#[derive(Clone, Debug)]
pub struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Headers {
    /// Headers for a namespace.
    pub fn new(namespace: &Namespace) -> Self {
        // An identifier has nothing but letters, digits, dots, dashes and
        // underscores, which every header may hold.
        let namespace = MetadataValue::from_str(namespace.as_str())
            .unwrap_or_else(|_| MetadataValue::from_static(""));
        Self { namespace, lease: None }
    }

    /// The same with a lease.
    ///
    /// # Errors
    /// `InvalidArgument` when the lease can't stand in a header.
    pub fn with_lease(mut self, lease: &str) -> Result<Self> {
        let value = MetadataValue::from_str(lease).map_err(|_| {
            Error::invalid_argument(format!(
                "lease {lease:?} has characters that no header can hold: invalid argument"
            ))
        })?;
        self.lease = Some(value);
        Ok(self)
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(NAMESPACE_HEADER, self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert(LEASE_HEADER, lease.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_core::{LabelScope, Scope};

    use super::*;
    use crate::scope::Peer;

    fn request(headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        for (key, value) in headers {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn what_the_interceptor_writes_is_read() {
        let namespace = Namespace::new("moby").unwrap();
        let mut headers = Headers::new(&namespace).with_lease("l 1").unwrap();
        let mut request = headers.call(Request::new(())).unwrap();
        request.extensions_mut().insert(RequestId("r-1".into()));
        let context = of(&request).unwrap();
        assert_eq!(context.namespace, namespace);
        assert_eq!(context.lease.as_deref(), Some("l 1"));
        assert_eq!(context.request_id, "r-1");
    }

    #[test]
    fn a_missing_namespace_is_refused_in_containerds_words() {
        for headers in [&[][..], &[(NAMESPACE_HEADER, "")]] {
            let status = of(&request(headers)).unwrap_err();
            assert_eq!(status.code(), tonic::Code::FailedPrecondition);
            assert_eq!(status.message(), "namespace is required: failed precondition");
        }
    }

    #[test]
    fn a_strange_namespace_is_refused() {
        let status = of(&request(&[(NAMESPACE_HEADER, "a/b")])).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn the_default_stands_in_for_a_missing_namespace_only() {
        let default = Namespace::new("default").unwrap();
        assert_eq!(or_default(&request(&[]), &default).unwrap().namespace, default);
        let other = request(&[(NAMESPACE_HEADER, "moby")]);
        assert_eq!(or_default(&other, &default).unwrap().namespace.as_str(), "moby");
        assert!(or_default(&request(&[(NAMESPACE_HEADER, "/")]), &default).is_err());
    }

    #[test]
    fn a_client_that_goes_by_a_label_stays_in_its_namespace() {
        let own = Namespace::new("ci").unwrap();
        let label = LabelScope { key: "ci".into(), value: "true".into(), namespace: own.clone() };
        let (door, peer) = ("socket /s".to_owned(), "uid=1".to_owned());
        let scope = Arc::new(Scope { door, peer, read_only: false, label: Some(label) });
        let with = |headers: &[(&'static str, &str)]| {
            let mut request = request(headers);
            request.extensions_mut().insert(Peer { scope: Some(Arc::clone(&scope)) });
            or_default(&request, &Namespace::new("default").unwrap())
        };
        let context = with(&[(NAMESPACE_HEADER, "ci")]).unwrap();
        assert_eq!((context.namespace, context.scope), (own, Some(Arc::clone(&scope))));
        for headers in [&[][..], &[(NAMESPACE_HEADER, "moby")]] {
            assert_eq!(with(headers).unwrap_err().code(), tonic::Code::PermissionDenied);
        }
    }

    #[test]
    fn a_lease_with_control_characters_is_refused() {
        let headers = Headers::new(&Namespace::new("a").unwrap());
        assert!(headers.with_lease("a\nb").is_err());
    }
}
