//! An S3-compatible store from the environment: `TEST_S3_ENDPOINT`, `TEST_S3_BUCKET`,
//! `TEST_S3_ACCESS_KEY`, `TEST_S3_SECRET_KEY`.

use std::time::Duration;

use model_asynch::config::S3;

use super::backend::server;

/// How to reach it; `None`, said aloud, where there is none.
pub(crate) fn store() -> Option<S3> {
    Some(S3 {
        endpoint: Some(server("TEST_S3_ENDPOINT")?.parse().unwrap()),
        region: "us-east-1".into(),
        bucket: server("TEST_S3_BUCKET")?,
        access_key: server("TEST_S3_ACCESS_KEY")?,
        secret_key: server("TEST_S3_SECRET_KEY")?,
        virtual_hosted: false,
        public_url: None,
        presign_for: Duration::from_secs(600),
    })
}
