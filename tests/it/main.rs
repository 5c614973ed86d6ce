//! One test binary. Servers come from the environment (`tests/run.sh` starts them).
#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod store;
mod support;
