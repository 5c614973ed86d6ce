//! Permits kept in this process: the embedded default.

/// A counter per lane.
#[derive(Clone)]
pub struct InProcessPermits {}
