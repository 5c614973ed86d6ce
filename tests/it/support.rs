//! What tests share.

pub mod backend;
pub(crate) mod file_service;
pub(crate) mod s3;
