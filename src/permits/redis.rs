//! Permits kept in Redis: `sem:{model}:tenant` is a sorted set of leases, changed only in Lua.

/// See the module.
#[derive(Clone)]
pub struct RedisPermits {}
