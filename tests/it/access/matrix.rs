//! Every route × mode × scope × tenant. The routes and the scopes that they take are read from the
//! service's own document, which a test of the crate holds against its table of routes.

use reqwest::Method;
use serde_json::{Value, json};

use super::{SHARED, bearing, jwt, token};
use crate::{
    backend_test,
    support::{
        app::{Answer, Api, TestApp},
        backend::TestDb,
        model::FakeModel,
    },
};

const OWN: i64 = 7;
const OTHER: i64 = 8;

/// Routes that show an admin who names no tenant those of all.
const SHOWN_TO_ADMINS: [&str; 5] =
    ["/stat/listModelStat", "/stat/listSeries", "/stat/getOverview", "/stat/listLane", "/tenant/listTenant"];

/// Routes that cannot be asked for what is another tenant's.
const OF_NO_TENANT: [&str; 4] = ["/stat/getOverview", "/caller/getCaller", "/node/getHealth", "/node/listNode"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Anonymous,
    Gateway,
    Token,
    Jwt,
}

/// A route of the document.
#[derive(Debug)]
struct Route {
    method: Method,
    path: String,
    /// False: anyone may call it.
    known: bool,
    /// What a known caller must have been given, if anything.
    scope: Option<String>,
}

/// What one tenant has.
struct Things {
    tenant: i64,
    model: String,
    task: String,
}

impl Things {
    /// A word that is in everything of this tenant and nowhere else.
    fn mark(tenant: i64) -> String {
        format!("mark-of-{tenant}")
    }

    async fn made(api: &Api, tenant: i64, model: &FakeModel) -> Things {
        let name = Things::mark(tenant);
        let id = api.create_model(&name, &model.url, &json!({})).await;
        let task = api.create_task(&name, &json!({ "text": name })).await;
        api.until(&task, &[2]).await;
        Things { tenant, model: id, task }
    }
}

async fn caller(db: &TestDb, api: &Api, mode: Mode, tenant: i64, scopes: &str) -> Api {
    let user = Things::mark(tenant);
    match mode {
        Mode::Anonymous | Mode::Gateway => {
            let info = json!({ "tenantId": tenant, "userName": user, "admin": scopes.contains("admin") });
            api.with_header("x-user-info", &info.to_string())
        }
        Mode::Token => bearing(api, &token(db, tenant, &user, scopes).await.1),
        Mode::Jwt => bearing(api, &jwt(tenant, &user, scopes)),
    }
}

async fn routes(api: &Api) -> Vec<Route> {
    let document = api.get("/openapi.json").await.body;
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scopes = &operation["security"][0]["token"];
            let (known, scope) = (scopes.is_array(), scopes[0].as_str().map(str::to_owned));
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            routes.push(Route { method, path: path.clone(), known, scope });
        }
    }
    assert!(routes.len() >= 22 && routes.iter().filter(|route| route.known).count() >= 18, "{routes:?}");
    routes
}

/// A request that is fine but for who sends it, and the status it then has.
fn request(route: &Route, things: &Things, count: usize) -> (String, Value, u16) {
    let name = Things::mark(things.tenant);
    match (route.method.as_str(), route.path.as_str()) {
        ("POST", "/task/createTask") => (String::new(), json!({ "modelName": name }), 200),
        ("GET", "/task/getTaskResult") => (format!("taskId={}", things.task), Value::Null, 200),
        ("POST", "/task/listAttempt") => (String::new(), json!({ "taskId": things.task }), 200),
        ("POST", "/task/getTaskBatch") => (String::new(), json!({ "taskIds": [things.task] }), 200),
        ("POST", "/model/createModel") => {
            (String::new(), json!({ "modelName": format!("{name}-{count}"), "baseUrl": "http://m" }), 200)
        }
        ("PUT", "/model/updateModel") => (String::new(), json!({ "id": things.model, "remark": name }), 200),
        // Nothing is deleted that later cells need.
        ("POST", "/model/deleteModel") => (String::new(), json!({ "id": "999999" }), 404),
        ("DELETE", "/model/deleteModel") => ("id=999999".to_owned(), Value::Null, 404),
        ("GET", "/node/getLogLevel") => (String::new(), Value::Null, 200),
        // The tests' own process does not log.
        ("PUT", "/node/updateLogLevel") => (String::new(), json!({ "level": "info" }), 409),
        ("GET", "/model/getModel") => (format!("id={}", things.model), Value::Null, 200),
        (
            "POST",
            "/task/listTask" | "/model/listModel" | "/stat/listModelStat" | "/stat/listSeries" | "/opLog/listOpLog",
        ) => (String::new(), json!({}), 200),
        // As it is for all, so that nobody is held up.
        ("POST", "/tenant/updateTenant") => (String::new(), json!({ "requestsPerSecond": null }), 200),
        ("GET", "/tenant/getTenant") => (String::new(), Value::Null, 200),
        ("POST", "/tenant/listTenant" | "/maintenance/listJob" | "/maintenance/listRun" | "/monitor/listAlert") => {
            (String::new(), json!({}), 200)
        }
        ("POST", "/maintenance/runJob") => (String::new(), json!({ "job": "nothing" }), 404),
        ("POST", "/stat/getOverview" | "/stat/listLane" | "/node/listNode") => (String::new(), json!({}), 200),
        ("GET", "/caller/getCaller" | "/node/getHealth") => (String::new(), Value::Null, 200),
        other => panic!("{other:?} is a new route: say here what a good request to it is"),
    }
}

async fn send(api: &Api, route: &Route, query: &str, body: &Value) -> Answer {
    let path = if query.is_empty() { route.path.clone() } else { format!("{}?{query}", route.path) };
    let request = api.request(route.method.clone(), &path);
    api.send(if body.is_null() { request } else { request.json(body) }).await
}

fn scope_sets(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Anonymous | Mode::Gateway => &["all", "all,admin"],
        Mode::Token | Mode::Jwt => &[
            "task:write",
            "task:read",
            "model:write",
            "stat:read",
            "task:write,task:read,model:write,stat:read",
            "admin",
            "stat:read,admin",
        ],
    }
}

async fn every_cell(db: &TestDb, mode: Mode) {
    let settings: &[(&str, &str)] = match mode {
        Mode::Anonymous => &[],
        Mode::Gateway => &[("auth.mode", "gateway")],
        Mode::Token => &[("auth.mode", "token")],
        Mode::Jwt => &[
            ("auth.mode", "jwt"),
            ("auth.jwt.secret", SHARED),
            ("auth.jwt.issuer", "test"),
            ("auth.jwt.audience", "asynch"),
        ],
    };
    let app = TestApp::with(db, settings).await;
    let model = FakeModel::echo().await;
    let every = "task:write,task:read,model:write,stat:read";
    let mut things = Vec::new();
    for tenant in [OWN, OTHER] {
        things.push(Things::made(&caller(db, &app.api, mode, tenant, every).await, tenant, &model).await);
    }
    let (own, other) = (&things[0], &things[1]);
    let routes = routes(&app.api).await;
    let mut count = 0;
    for scopes in scope_sets(mode) {
        let api = caller(db, &app.api, mode, OWN, scopes).await;
        let is_admin = scopes.contains("admin");
        for route in &routes {
            if !route.known {
                continue;
            }
            let given =
                |scope: &String| scopes.split(',').any(|given| given == scope || given == "all" && scope != "admin");
            let may = is_admin || route.scope.as_ref().is_none_or(given);
            for named in [None, Some(OWN), Some(OTHER)] {
                count += 1;
                let cell = format!("{mode:?} {scopes} {} {} naming {named:?}", route.method, route.path);
                let acting = if named == Some(OTHER) { other } else { own };
                let (mut query, body, good) = request(route, acting, count);
                if let Some(tenant) = named {
                    query = format!("{query}{}tenantId={tenant}", if query.is_empty() { "" } else { "&" });
                }
                let answer = send(&api, route, &query, &body).await;
                if !may {
                    let scope = route.scope.as_ref().unwrap();
                    answer.refused(403, 62, "forbidden");
                    assert!(
                        answer.body["message"].as_str().unwrap().contains(scope.as_str()),
                        "{cell}: {}",
                        answer.body
                    );
                    let challenge = answer.headers["www-authenticate"].to_str().unwrap();
                    assert!(challenge.contains("insufficient_scope") && challenge.contains(scope.as_str()), "{cell}");
                } else if acting.tenant == OTHER && !is_admin {
                    answer.refused(403, 62, "forbidden");
                    assert_eq!(answer.body["error"]["field"], "tenantId", "{cell}");
                } else {
                    assert_eq!(answer.status, good, "{cell}: {}", answer.body);
                    let sees_all = is_admin && named.is_none() && SHOWN_TO_ADMINS.contains(&route.path.as_str());
                    if !sees_all {
                        is_of(&answer, route, acting, &cell);
                    }
                }
            }
        }
    }
    assert_eq!(count, scope_sets(mode).len() * 3 * routes.iter().filter(|route| route.known).count());
    the_other_tenants_things_are_not_there(&caller(db, &app.api, mode, OWN, every).await, &routes, own, other).await;
    strangers_are_refused(&app.api, mode, &routes, own).await;
    app.stop().await;
}

/// Whatever the answer shows belongs to the tenant that the caller acts for.
fn is_of(answer: &Answer, route: &Route, acting: &Things, cell: &str) {
    let data = &answer.body["data"];
    for row in data["list"].as_array().or(data["models"].as_array()).unwrap_or(&vec![data.clone()]) {
        if let Some(tenant) = row.get("tenantId") {
            assert_eq!(tenant, &json!(acting.tenant.to_string()), "{cell}: {row}");
        }
    }
    // The operation log repeats what this tenant's callers wrote, and an admin leaves its own name.
    if route.path != "/opLog/listOpLog" && acting.tenant == OWN {
        assert!(!answer.body.to_string().contains(&Things::mark(OTHER)), "{cell}: {}", answer.body);
    }
}

/// By id and by name, with every scope.
async fn the_other_tenants_things_are_not_there(api: &Api, routes: &[Route], own: &Things, other: &Things) {
    for route in routes.iter().filter(|route| route.known && !OF_NO_TENANT.contains(&route.path.as_str())) {
        let (query, body, _) = match route.path.as_str() {
            "/model/deleteModel" if route.method == Method::DELETE => (format!("id={}", other.model), Value::Null, 0),
            "/model/deleteModel" => (String::new(), json!({ "id": other.model }), 0),
            "/task/listTask" => (String::new(), json!({ "taskId": other.task }), 0),
            "/model/listModel" | "/stat/listModelStat" | "/stat/listLane" | "/stat/listSeries" | "/opLog/listOpLog" => {
                (String::new(), json!({ "modelName": Things::mark(other.tenant) }), 0)
            }
            // What they show is the caller's own, or nobody's.
            "/model/createModel"
            | "/tenant/getTenant"
            | "/tenant/listTenant"
            | "/maintenance/listJob"
            | "/node/getLogLevel"
            | "/node/updateLogLevel" => continue,
            _ => request(route, other, 0),
        };
        let answer = send(api, route, &query, &body).await;
        match route.path.as_str() {
            "/task/getTaskBatch" => assert_eq!(answer.data()["missing"], json!([other.task])),
            "/stat/listSeries" => assert_eq!(answer.data()["sum"]["created"], 0),
            "/tenant/updateTenant" | "/maintenance/runJob" | "/maintenance/listRun" => {
                answer.refused(403, 62, "forbidden");
            }
            path if path.contains("/list") && path != "/task/listAttempt" => {
                assert_eq!(answer.data()["total"], 0, "{path}")
            }
            _ => drop(answer.refused(404, 65, "not_found")),
        }
    }
    let file = api.task(&own.task).await["ossFile"].as_str().unwrap().to_owned();
    let folder = file.rsplit_once('/').unwrap().0;
    for path in [folder.to_owned(), format!("{folder}/"), file.replace(&format!("/{OWN}/"), &format!("/{OTHER}/"))] {
        assert_eq!(reqwest::get(&path).await.unwrap().status().as_u16(), 404, "{path}");
    }
}

/// Open routes stay open to them.
async fn strangers_are_refused(api: &Api, mode: Mode, routes: &[Route], own: &Things) {
    let foreign = jwt(OWN, "x", "admin");
    let forged = [
        ("x-user-info", "{}".to_owned()),
        ("authorization", "Bearer ma_AAAA".to_owned()),
        ("authorization", format!("Bearer {foreign}x")),
        ("authorization", "Basic YTpi".to_owned()),
    ];
    for route in routes {
        if !route.known {
            let path = route.path.replace("{key}", "nothing");
            let status = api.send(api.request(route.method.clone(), &path)).await.status;
            // The metrics tell of all tenants; their handler asks for an admin.
            let expected: &[u16] = if path == "/metrics" && mode != Mode::Anonymous { &[401] } else { &[200, 404] };
            assert!(expected.contains(&status), "{path}: {status}");
            continue;
        }
        let (query, body, _) = request(route, own, 0);
        for (name, value) in &forged {
            // Anonymous callers are believed, unless what they say cannot be read.
            if mode == Mode::Anonymous && *name != "x-user-info" {
                continue;
            }
            let answer = send(&api.with_header(name, value), route, &query, &body).await;
            answer.refused(401, 61, "unauthenticated");
            let scheme = if matches!(mode, Mode::Token | Mode::Jwt) { "Bearer " } else { "X-User-Info " };
            assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with(scheme), "{mode:?} {name}");
        }
    }
}

backend_test!(every_route_asks_for_its_scope_and_tenant_of_anonymous_callers, async |db: &TestDb| {
    every_cell(db, Mode::Anonymous).await;
});

backend_test!(every_route_asks_for_its_scope_and_tenant_behind_a_gateway, async |db: &TestDb| {
    every_cell(db, Mode::Gateway).await;
});

backend_test!(every_route_asks_for_its_scope_and_tenant_of_tokens, async |db: &TestDb| {
    every_cell(db, Mode::Token).await;
});

backend_test!(every_route_asks_for_its_scope_and_tenant_of_an_identity_provider, async |db: &TestDb| {
    every_cell(db, Mode::Jwt).await;
});
