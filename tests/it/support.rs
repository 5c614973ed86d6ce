//! What tests share.

pub mod backend;
pub(crate) mod raw;
