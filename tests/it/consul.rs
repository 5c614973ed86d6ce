//! Consul: how a node is found through it, and how it finds models and the file service.

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{Node, TestApp, free_address},
        backend::{Kind, TestDb, on},
        consul::Agent,
        eventually::{eventually, until},
        file_service::FileService,
        model::{FakeModel, Reply},
        proxy::Proxy,
    },
};

/// Waits until so many instances of the service are listed, and returns them.
async fn listed(agent: &Agent, service: &str, passing: bool, count: usize) -> Vec<Value> {
    eventually(&format!("{count} instances of {service} at the {} agent", agent.kind), async || {
        let found = agent.instances(service, passing).await;
        if found.len() == count { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await
}

fn answering(text: &'static str) -> impl Future<Output = FakeModel> {
    FakeModel::always(Reply::Body("text/plain", text.into()))
}

backend_test!(a_node_is_listed_from_its_start_to_the_beginning_of_its_end, async |db: &TestDb| {
    for agent in Agent::all().await {
        let settings = [("consul.address", agent.url.as_str()), ("consul.serviceName", "asynch")];
        let mut node = Node::start(db, &[settings.as_slice(), &[("server.shutdownGrace", "2s")]].concat()).await;
        let service = listed(&agent, "asynch", true, 1).await.remove(0);
        assert_eq!(format!("http://{}:{}", service["Address"].as_str().unwrap(), service["Port"]), node.api.url);

        agent.forget(service["ID"].as_str().unwrap()).await;
        listed(&agent, "asynch", false, 1).await;

        // A call that outlasts the grace keeps nobody coming.
        let model = FakeModel::always(Reply::Hang).await;
        node.api.create_model(agent.kind, &model.url, &json!({})).await;
        node.api.create_task(agent.kind, &Value::Null).await;
        until("the call", async || model.running() == 1).await;
        node.signal("TERM");
        listed(&agent, "asynch", false, 0).await;
        assert_eq!(node.exit_code().await, Some(0));
        assert!(agent.instances("asynch", false).await.is_empty());
    }
});

backend_test!(a_service_is_called_at_its_healthy_instances_in_turn, async |db: &TestDb| {
    for agent in Agent::all().await {
        let (one, other, sick) = (answering("ok").await, answering("ok").await, answering("ok").await);
        agent.instance("tts", "tts-1", &one.url, true).await;
        agent.instance("tts", "tts-2", &other.url, true).await;
        agent.instance("tts", "tts-3", &sick.url, false).await;
        listed(&agent, "tts", true, 2).await;
        // The node reaches the agent over a cable of its own, to be cut.
        let cable = Proxy::to(agent.url.replace("http://", "")).await;
        let app = TestApp::with(db, &[("consul.address", &format!("http://{}", cable.address))]).await;
        let fields = json!({ "route": "/speak?fast=1", "retryTimes": 100 });
        app.api.create_model(agent.kind, "consul://tts/v1", &fields).await;
        let run = async |count: usize| {
            for _ in 0..count {
                let id = app.api.create_task(agent.kind, &Value::Null).await;
                app.api.until(&id, &[2]).await;
            }
        };
        run(4).await;
        assert_eq!((one.calls().len(), other.calls().len(), sick.calls().len()), (2, 2, 0));
        assert_eq!(one.calls()[0].target, "/v1/speak?fast=1");

        cable.cut();
        run(4).await;
        assert_eq!(one.calls().len() + other.calls().len(), 8, "by what was known, while the agent is away");
        cable.mend();

        for id in ["tts-1", "tts-2"] {
            agent.verdict(id, false).await;
        }
        listed(&agent, "tts", true, 0).await;
        let id = eventually("the news to arrive", async || {
            let id = app.api.create_task(agent.kind, &Value::Null).await;
            let task = eventually("the end of a try", async || {
                let task = app.api.task(&id).await;
                if task["state"] == 2 || task["retryCount"] != 0 { Ok(task) } else { Err(task.to_string()) }
            })
            .await;
            if task["state"] == 2 { Err("it succeeded") } else { Ok(id) }
        })
        .await;
        assert_eq!(app.api.task(&id).await["errorMsg"], "no healthy instance of tts");
        agent.verdict("tts-3", true).await;
        app.api.until(&id, &[2]).await;
        assert_eq!(sick.calls().len(), 1);
        app.stop().await;
    }
});

backend_test!(results_are_stored_at_a_file_service_found_through_consul, async |db: &TestDb| {
    for agent in Agent::all().await {
        let files = FileService::start().await;
        agent.instance("files", "files-1", files.url().as_str(), true).await;
        listed(&agent, "files", true, 1).await;
        let url = format!("consul://files{}", files.url().path());
        let settings = [("consul.address", agent.url.as_str()), ("oss.kind", "http"), ("oss.url", url.as_str())];
        let app = TestApp::with(db, &settings).await;
        let model = answering("result").await;
        app.api.create_model(agent.kind, &model.url, &json!({})).await;
        let id = app.api.create_task(agent.kind, &Value::Null).await;
        let done = app.api.until(&id, &[2]).await;
        assert_eq!(app.api.fetch(done["ossFile"].as_str().unwrap()).await, b"result");
        assert_eq!(app.api.get("/readyz").await.status, 200);
        app.stop().await;
    }
});

backend_test!(a_service_is_only_called_where_models_may_be, async |db: &TestDb| {
    for agent in Agent::all().await {
        let model = answering("ok").await;
        agent.instance("inside", "inside-1", &model.url, true).await;
        listed(&agent, "inside", true, 1).await;
        let open = [("consul.address", agent.url.as_str()), ("egress.allow", "127.0.0.0/8")];
        let app = TestApp::with(db, &open).await;
        app.api.create_model(agent.kind, "consul://inside", &json!({ "retryTimes": 5 })).await;
        // One without an instance yet may get some.
        app.api.create_model(&format!("{}-later", agent.kind), "consul+https://later/v1", &json!({})).await;
        for url in ["consul://inside:80/", "consul:///path", "consul://user@inside/", "consul:inside"] {
            let body = json!({ "modelName": "wrong", "baseUrl": url });
            let refused = app.api.post("/model/createModel", &body).await;
            assert_eq!(refused.refused(400, 51, "validation").body["error"]["field"], "baseUrl", "{url}");
        }
        app.stop().await;

        let shut = [("consul.address", agent.url.as_str()), ("egress.allow", ""), ("egress.otherwise", "public")];
        let app = TestApp::with(db, &shut).await;
        let body = json!({ "modelName": "other", "baseUrl": "consul://inside" });
        let refused = app.api.post("/model/createModel", &body).await;
        assert!(refused.refused(400, 51, "validation").body["message"].as_str().unwrap().contains("egress.allow"));
        let id = app.api.create_task(agent.kind, &Value::Null).await;
        let failed = app.api.until(&id, &[3]).await;
        assert!(failed["errorMsg"].as_str().unwrap().contains("egress.allow"), "{failed}");
        assert!(model.calls().is_empty());
        app.stop().await;
    }
});

backend_test!(without_consul_a_service_is_refused_with_what_to_do, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    let id = app.api.create_model("m", "http://127.0.0.1:9", &json!({})).await;
    let create = app.api.post("/model/createModel", &json!({ "modelName": "s", "baseUrl": "consul://tts" })).await;
    let update = app.api.put("/model/updateModel", &json!({ "id": id, "baseUrl": "consul://tts" })).await;
    for refused in [create, update] {
        let body = &refused.refused(400, 51, "validation").body;
        assert!(body["message"].as_str().unwrap().contains("consul.address"), "{body}");
        assert_eq!(body["error"]["field"], "baseUrl");
    }
    app.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_away_stops_nobody_and_is_logged_once() {
    on(Kind::Sqlite, async |db: &TestDb| {
        let address = free_address();
        let mut node = Node::start(db, &[("consul.address", &format!("http://{address}"))]).await;
        let model = answering("ok").await;
        node.api.create_model("m", &model.url, &json!({})).await;
        let id = node.api.create_task("m", &Value::Null).await;
        node.api.until(&id, &[2]).await;
        let log = async || std::fs::read_to_string(&node.log).unwrap();
        until("the trouble to be logged", async || log().await.contains("cannot register with Consul")).await;
        let agent = Agent::in_process(&address).await;
        listed(&agent, "model-asynch", true, 1).await;
        assert_eq!(log().await.matches("cannot register with Consul").count(), 1);
        node.signal("TERM");
        assert_eq!(node.exit_code().await, Some(0));
        assert!(agent.instances("model-asynch", false).await.is_empty());
    })
    .await;
}
