//! Files in a folder, served by the service itself below `/file/`.

/// See the module.
#[derive(Clone)]
pub struct FsStorage {}
