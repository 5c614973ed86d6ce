//! What happens to a task (contract §5), through the public interface, on both stores.

mod call;
mod clean;
mod limits;
mod retry;
mod upload;
mod wire;
