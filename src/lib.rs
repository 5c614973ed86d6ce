//! model-asynch: an asynchronous middleware in front of model services.

pub mod api;
pub mod app;
pub mod caller;
pub mod catalog;
pub mod cleaner;
pub mod cli;
pub mod clock;
pub mod config;
pub mod logging;
pub mod model;
pub mod oplog;
pub mod periodic;
pub mod permits;
pub mod secrets;
pub mod spool;
pub mod stats;
pub mod storage;
pub mod store;
pub mod task;
pub mod wake;
pub mod worker;
