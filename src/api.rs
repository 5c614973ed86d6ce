//! The HTTP interface: a table of routes and the layers around them.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

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

/// Serves until `stop`, then lets requests under way end.
pub async fn serve(listener: TcpListener, state: ApiState, stop: CancellationToken) {
    let service = router(state).into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(async move { stop.cancelled().await }).await;
    if let Err(error) = served {
        error!(%error, "the http server failed");
    }
}

/// The description of the HTTP interface.
pub fn openapi() -> utoipa::openapi::OpenApi {
    todo!()
}
