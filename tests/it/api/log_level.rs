//! What a node logs, changed while it runs.

use std::{fs, path::Path};

use serde_json::json;

use crate::{
    backend_test,
    support::{
        app::Node,
        backend::TestDb,
        eventually::{eventually, until},
    },
};

backend_test!(the_log_level_changes_while_the_service_runs, async |db: &TestDb| {
    let node = Node::start(db, &[("worker.enabled", "false")]).await;
    let detail = |log: &Path| fs::read_to_string(log).unwrap().matches("request answered").count();
    assert_eq!(node.api.get("/node/getLogLevel").await.data()["level"], "info");
    assert_eq!(detail(&node.log), 0);
    for level in ["loud", ""] {
        let refused = node.api.put("/node/updateLogLevel", &json!({ "level": level })).await;
        refused.refused(400, 51, "validation");
        assert_eq!(refused.body["error"]["field"], "level");
    }
    node.api.put("/node/updateLogLevel", &json!({ "level": "info,model_asynch::api=debug" })).await.data();
    assert_eq!(node.api.get("/node/getLogLevel").await.data()["level"], "info,model_asynch::api=debug");
    until("a line for a request", async || detail(&node.log) > 0).await;
    let ann = node.api.as_tenant(7, "ann");
    ann.get("/node/getLogLevel").await.refused(403, 62, "forbidden");
    ann.put("/node/updateLogLevel", &json!({ "level": "off" })).await.refused(403, 62, "forbidden");
    let logged = eventually("its row in the operation log", async || {
        let ask = json!({ "opType": "updateLogLevel", "success": 1 });
        let list = node.api.post("/opLog/listOpLog", &ask).await.data();
        if list["total"] == 1 { Ok(list["list"][0].clone()) } else { Err(list.to_string()) }
    })
    .await;
    assert_eq!(logged["requestPayload"]["level"], "info,model_asynch::api=debug");
});
