//! The simulator: several processes of the service, their database, Redis, storage, disks, models
//! and callers, in virtual time, with everything going wrong that the seed says.
//!
//! The decisions are the product's own code (`task::lifecycle`, `task::retry`, the store's
//! `admission`, `quota` and `tally`, `worker::lanes`, what a worker believes of its lease, the rules of
//! the watch, the breaker of `permits`); the loops around them are told once more as actors, because the real ones
//! are tied to sockets, and the database is a model, which `conformance` holds against the real ones.
//!
//! ```sh
//! cargo test --test sim                                            # some thousand seeds
//! MODEL_ASYNCH_SIM_SEEDS=100000 cargo test --test sim seeds        # as many as you like
//! MODEL_ASYNCH_SIM_SEED=42 cargo test --test sim seeds::all -- --nocapture   # one, with its trace
//! ```

#![allow(
    unreachable_pub,
    dead_code,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test binary exports nothing, shares its databases with others, and may panic"
)]

mod checks;
mod conformance;
mod faults;
mod flaw;
mod gate;
mod lease;
mod process;
mod run;
mod runtime;
mod seeds;
mod support;
mod table;
mod watch;
mod world;
