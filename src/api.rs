//! The HTTP interface: a table of routes and the layers around them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    catalog::Catalog, config::Config, oplog::OpLogger, permits::Permits, storage::Storage, store::Store, wake::Wake,
};

/// What handlers need; cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// The configuration.
    pub config: Arc<Config>,
    /// The durable memory.
    pub store: Store,
    /// Models by name.
    pub catalog: Catalog,
    /// Tells workers about new tasks.
    pub wake: Wake,
    /// Fresh URLs of results; sign of life.
    pub storage: Storage,
    /// Sign of life.
    pub permits: Permits,
    /// The operation log.
    pub oplog: OpLogger,
    /// Set when the service begins to stop: not ready any more.
    pub stopping: CancellationToken,
}

/// Every route, with its layers.
pub fn router(_state: ApiState) -> axum::Router {
    todo!()
}

/// The description of the HTTP interface.
pub fn openapi() -> utoipa::openapi::OpenApi {
    todo!()
}
