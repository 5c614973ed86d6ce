//! What the integration tests have already.

#[path = "../it/support/backend.rs"]
pub mod backend;
