//! Conformance: every verb of the store, on both backends.

mod tasks;
