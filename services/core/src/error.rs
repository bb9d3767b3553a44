use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What class of failure an [`Error`] is; clients branch on it.
///
/// The kinds are those of containerd's `errdefs`, which are those of gRPC's
/// status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The named object does not exist.
    NotFound,
    /// An object of that name exists already.
    AlreadyExists,
    /// The request is malformed, whatever the state of the system.
    InvalidArgument,
    /// The system is not in the state that the request needs.
    FailedPrecondition,
    /// An offset or a size lies outside what exists.
    OutOfRange,
    /// A peer or a resource can't be used now; trying again may help.
    Unavailable,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// A concurrent operation won; trying again helps.
    Aborted,
    /// The caller went away or asked to stop.
    Cancelled,
    /// The caller may not do this.
    PermissionDenied,
    /// The caller did not say who it is, or was not believed.
    Unauthenticated,
    /// A quota, a disk or a bound is used up.
    ResourceExhausted,
    /// What was asked for does not exist in this implementation.
    Unimplemented,
    /// Stored data is damaged or lost.
    DataLoss,
    /// A defect of this program or an unexpected answer of the system.
    Internal,
}

impl Kind {
    /// Every kind, for tables and their tests.
    pub const ALL: [Kind; 15] = [
        Kind::NotFound,
        Kind::AlreadyExists,
        Kind::InvalidArgument,
        Kind::FailedPrecondition,
        Kind::OutOfRange,
        Kind::Unavailable,
        Kind::DeadlineExceeded,
        Kind::Aborted,
        Kind::Cancelled,
        Kind::PermissionDenied,
        Kind::Unauthenticated,
        Kind::ResourceExhausted,
        Kind::Unimplemented,
        Kind::DataLoss,
        Kind::Internal,
    ];

    /// The words that containerd's clients see behind a message.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::NotFound => "not found",
            Kind::AlreadyExists => "already exists",
            Kind::InvalidArgument => "invalid argument",
            Kind::FailedPrecondition => "failed precondition",
            Kind::OutOfRange => "out of range",
            Kind::Unavailable => "unavailable",
            Kind::DeadlineExceeded => "deadline exceeded",
            Kind::Aborted => "aborted",
            Kind::Cancelled => "cancelled",
            Kind::PermissionDenied => "permission denied",
            Kind::Unauthenticated => "unauthenticated",
            Kind::ResourceExhausted => "resource exhausted",
            Kind::Unimplemented => "not implemented",
            Kind::DataLoss => "data loss",
            Kind::Internal => "internal",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one error of the services: a [`Kind`] for programs, a message for
/// people, and the failure that caused it.
///
/// A message says what was tried, on what, and, where it helps, what to do
/// next. Sources are printed behind it, separated by colons.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    /// Kind and name of an object.
    subject: Option<Box<(String, String)>>,
    /// The name that was probably meant.
    meant: Option<Box<str>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Kind::$kind, message)
        })*
    };
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), subject: None, meant: None, source: None }
    }

    constructors! {
        /// A [`Kind::NotFound`]; by convention the message ends in `: not found`.
        not_found => NotFound,
        /// A [`Kind::AlreadyExists`]; by convention the message ends in `: already exists`.
        already_exists => AlreadyExists,
        /// A [`Kind::InvalidArgument`].
        invalid_argument => InvalidArgument,
        /// A [`Kind::FailedPrecondition`].
        failed_precondition => FailedPrecondition,
        /// A [`Kind::OutOfRange`].
        out_of_range => OutOfRange,
        /// A [`Kind::Unavailable`].
        unavailable => Unavailable,
        /// A [`Kind::Unimplemented`].
        unimplemented => Unimplemented,
        /// A [`Kind::ResourceExhausted`].
        resource_exhausted => ResourceExhausted,
        /// A [`Kind::PermissionDenied`].
        permission_denied => PermissionDenied,
        /// A [`Kind::DataLoss`].
        data_loss => DataLoss,
        /// A [`Kind::Internal`].
        internal => Internal,
    }

    /// An error about a failed system or file operation. The kind follows
    /// from the operating system's error.
    pub fn io(what: impl Into<String>, err: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match err.kind() {
            K::NotFound => Kind::NotFound,
            K::AlreadyExists => Kind::AlreadyExists,
            K::PermissionDenied => Kind::PermissionDenied,
            K::InvalidInput => Kind::InvalidArgument,
            K::StorageFull | K::QuotaExceeded | K::OutOfMemory => Kind::ResourceExhausted,
            K::TimedOut => Kind::DeadlineExceeded,
            K::ConnectionRefused | K::ConnectionReset | K::BrokenPipe => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(kind, what).with_source(err)
    }

    /// Keeps what caused this error.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts `what: ` in front of the message; kind and source stay.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Says for programs which object the error is about, such as the `container` `web`.
    #[must_use]
    pub fn about(mut self, object: impl Into<String>, name: impl Into<String>) -> Self {
        self.subject = Some(Box::new((object.into(), name.into())));
        self
    }

    /// Kind and name of the object that the error is about, where that is known.
    pub fn subject(&self) -> Option<(&str, &str)> {
        self.subject.as_deref().map(|(object, name)| (object.as_str(), name.as_str()))
    }

    /// Says for programs which name was probably meant. The message says it itself.
    #[must_use]
    pub fn meaning(mut self, name: impl Into<Box<str>>) -> Self {
        self.meant = Some(name.into());
        self
    }

    /// The name that was probably meant in place of one that does not exist, where that is
    /// known.
    pub fn meant(&self) -> Option<&str> {
        self.meant.as_deref()
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The class of failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether this is a [`Kind::NotFound`].
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// Whether this is a [`Kind::AlreadyExists`].
    pub fn is_already_exists(&self) -> bool {
        self.kind == Kind::AlreadyExists
    }

    /// A copy for another waiter of the same failure: the source becomes text.
    pub fn duplicate(&self) -> Self {
        let (subject, meant) = (self.subject.clone(), self.meant.clone());
        Self { subject, meant, ..Self::new(self.kind, self.to_string()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut said = self.message.clone();
        let mut next = self.source.as_deref().map(|e| e as &dyn std::error::Error);
        while let Some(err) = next {
            // Some errors have the same words as what caused them.
            let text = err.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            // Our own errors print their sources already.
            next = if err.is::<Error>() { None } else { err.source() };
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_walks_the_sources_once() {
        let inner = Error::io("open x", std::io::Error::from_raw_os_error(2));
        let outer = Error::internal("start").with_source(inner);
        assert_eq!(outer.to_string(), "start: open x: No such file or directory (os error 2)");
    }

    #[test]
    fn the_same_words_are_said_once() {
        let twice = Error::internal("reading a body").with_source("reading a body");
        assert_eq!(twice.to_string(), "reading a body");
    }

    #[test]
    fn io_errors_keep_their_class() {
        let full = Error::io("write", std::io::Error::from_raw_os_error(28));
        assert_eq!(full.kind(), Kind::ResourceExhausted);
    }
}
