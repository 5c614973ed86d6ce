//! Any S3-compatible store.

/// See the module.
#[derive(Clone)]
pub struct S3Storage {}
