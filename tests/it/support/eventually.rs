//! Waiting for something that another task or process brings about: bounded, and on the level
//! (is it so now?), never on the edge.

use std::{fmt, time::Duration};

/// How long a test waits for anything.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Asks until there is an answer; panics with the last objection.
pub async fn eventually<T, E: fmt::Display>(what: &str, ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(LIMIT, what, ask).await
}

/// The same, for what takes longer.
pub async fn within<T, E: fmt::Display>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(objection) if tokio::time::Instant::now() > deadline => {
                panic!("waited {limit:?} in vain for {what}; last seen: {objection}");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Asks until it is so.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    eventually(what, async || if so().await { Ok(()) } else { Err("not yet") }).await;
}
