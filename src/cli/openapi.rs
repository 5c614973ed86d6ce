//! `openapi`: print the description of the HTTP interface.

use anyhow::Context;

use crate::api;

pub(super) fn run() -> anyhow::Result<()> {
    let document = api::openapi().to_pretty_json().context("cannot write the document")?;
    super::print(&format!("{document}\n"))
}
