//! The composition root: builds the parts from the configuration, starts them, serves, and stops
//! them in order. The only place that spawns long-lived tasks, and it joins all of them.

use std::net::SocketAddr;

use crate::config::Config;

/// A running service.
pub struct App {
    #[expect(dead_code)]
    inner: (),
}

impl App {
    /// Builds and starts everything; the listener is bound when this returns.
    ///
    /// # Errors
    /// The first part that could not be built, in words.
    pub async fn start(_config: Config) -> anyhow::Result<App> {
        todo!()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// Returns when a part has ended on its own, which is a bug or a lost listener; never otherwise.
    pub async fn failed(&mut self) -> String {
        todo!()
    }

    /// Stops in order: not ready, no more claims, no more requests, grace for running calls, hand
    /// back, flush, close.
    pub async fn stop(self) {
        todo!()
    }
}
