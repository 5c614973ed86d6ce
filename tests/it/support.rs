//! What tests share.

pub mod backend;
