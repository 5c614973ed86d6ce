//! The cleaner.
