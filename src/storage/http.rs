//! A file service that takes multipart POSTs, as the Go version used.

/// See the module.
#[derive(Clone)]
pub struct HttpStorage {}
