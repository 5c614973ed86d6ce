//! What tests share.
#![allow(dead_code, reason = "not every test uses everything")]

pub mod app;
pub mod backend;
pub mod collector;
pub mod consul;
pub mod eventually;
pub mod file_service;
pub mod model;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod redis;
pub mod s3;
pub mod smtp;
