//! What a node remembers from claim to claim.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sqlx::PgConnection;
use tracing::error;

use crate::{
    model::Model,
    secrets::Vault,
    store::{
        StoreError,
        models::{model_columns, read_model},
        postgres::oldest::OldestCalls,
        row::Columns,
    },
    task::ModelId,
};

const READ_MODELS: &str = concat!(
    "SELECT ",
    model_columns!(),
    ", xmin::text::bigint AS version FROM asynch_models WHERE id = ANY($1) AND enabled = 1 AND deleted_at IS NULL"
);

/// Models that are remembered. Of a forgotten one the next claim makes more trips.
const MOST_MODELS: usize = 10_000;

/// What is remembered from claim to claim.
#[derive(Default)]
pub(super) struct Memory {
    /// Where a claim begins to count.
    pub(super) oldest: OldestCalls,
    /// With the version of the row that they were read from.
    models: HashMap<ModelId, (i64, Arc<Model>)>,
}

impl Memory {
    /// The version that is known of a model.
    pub(super) fn version(&self, model: ModelId) -> Option<i64> {
        self.models.get(&model).map(|(version, _)| *version)
    }

    /// The model, if it is known in that version.
    pub(super) fn model(&self, id: ModelId, version: i64) -> Option<Arc<Model>> {
        self.models.get(&id).filter(|(known, _)| *known == version).map(|(_, model)| Arc::clone(model))
    }

    /// Reads models that may be called. One whose row cannot be read is left out: that closes its own
    /// lanes, not the claim.
    pub(super) async fn read_models(
        &mut self,
        connection: &mut PgConnection,
        vault: &Vault,
        ids: BTreeSet<i64>,
    ) -> Result<Vec<Arc<Model>>, StoreError> {
        if self.models.len() + ids.len() > MOST_MODELS {
            self.models.clear();
        }
        let rows = sqlx::query(READ_MODELS).bind(Vec::from_iter(ids)).fetch_all(connection).await?;
        let mut read = Vec::with_capacity(rows.len());
        for row in &rows {
            match read_model(row, vault) {
                Ok(model) => {
                    let model = Arc::new(model);
                    self.models.insert(model.id, (row.big("version")?, Arc::clone(&model)));
                    read.push(model);
                }
                Err(error) => {
                    let model_id = row.big("id")?;
                    error!(model_id, %error, "a model cannot be read, its tasks wait");
                }
            }
        }
        Ok(read)
    }
}
