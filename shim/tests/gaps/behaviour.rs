//! The gaps that are wrong behaviour.
