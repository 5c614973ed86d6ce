//! Reading configuration from file and environment.
