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
    /// `None`: anyone may call it.
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
            let scope = operation["security"][0]["token"][0].as_str().map(str::to_owned);
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            routes.push(Route { method, path: path.clone(), scope });
        }
    }
    assert!(routes.len() >= 16 && routes.iter().filter(|route| route.scope.is_some()).count() >= 12, "{routes:?}");
    routes
}

/// A request that is fine but for who sends it, and the status it then has.
fn request(route: &Route, things: &Things, count: usize) -> (String, Value, u16) {
    let name = Things::mark(things.tenant);
    match (route.method.as_str(), route.path.as_str()) {
        ("POST", "/task/createTask") => (String::new(), json!({ "modelName": name }), 200),
        ("GET", "/task/getTaskResult") => (format!("taskId={}", things.task), Value::Null, 200),
        ("POST", "/task/getTaskBatch") => (String::new(), json!({ "taskIds": [things.task] }), 200),
        ("POST", "/model/createModel") => {
            (String::new(), json!({ "modelName": format!("{name}-{count}"), "baseUrl": "http://m" }), 200)
        }
        ("PUT", "/model/updateModel") => (String::new(), json!({ "id": things.model, "remark": name }), 200),
        // Nothing is deleted that later cells need.
        ("POST", "/model/deleteModel") => (String::new(), json!({ "id": "999999" }), 404),
        ("DELETE", "/model/deleteModel") => ("id=999999".to_owned(), Value::Null, 404),
        ("GET", "/model/getModel") => (format!("id={}", things.model), Value::Null, 200),
        (
            "POST",
            "/task/listTask" | "/model/listModel" | "/stat/listModelStat" | "/opLog/listOpLog" | "/monitor/listAlert",
        ) => (String::new(), json!({}), 200),
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
            let Some(scope) = &route.scope else { continue };
            let may = is_admin || *scopes == "all" || scopes.split(',').any(|given| given == scope);
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
                    let sees_all = is_admin && named.is_none() && route.path == "/stat/listModelStat";
                    if !sees_all {
                        is_of(&answer, route, acting, &cell);
                    }
                }
            }
        }
    }
    assert_eq!(count, scope_sets(mode).len() * 3 * routes.iter().filter(|route| route.scope.is_some()).count());
    the_other_tenants_things_are_not_there(&caller(db, &app.api, mode, OWN, every).await, &routes, own, other).await;
    strangers_are_refused(&app.api, mode, &routes, own).await;
    app.stop().await;
}

/// Whatever the answer shows belongs to the tenant that the caller acts for.
fn is_of(answer: &Answer, route: &Route, acting: &Things, cell: &str) {
    let data = &answer.body["data"];
    for row in data["list"].as_array().unwrap_or(&vec![data.clone()]) {
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
    for route in routes.iter().filter(|route| route.scope.is_some()) {
        let (query, body, _) = match route.path.as_str() {
            "/model/deleteModel" if route.method == Method::DELETE => (format!("id={}", other.model), Value::Null, 0),
            "/model/deleteModel" => (String::new(), json!({ "id": other.model }), 0),
            "/task/listTask" => (String::new(), json!({ "taskId": other.task }), 0),
            "/model/listModel" | "/stat/listModelStat" | "/opLog/listOpLog" => {
                (String::new(), json!({ "modelName": Things::mark(other.tenant) }), 0)
            }
            "/model/createModel" => continue,
            _ => request(route, other, 0),
        };
        let answer = send(api, route, &query, &body).await;
        match route.path.as_str() {
            "/task/getTaskBatch" => assert_eq!(answer.data()["missing"], json!([other.task])),
            path if path.contains("/list") => assert_eq!(answer.data()["total"], 0, "{path}"),
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
        if route.scope.is_none() {
            let path = route.path.replace("{key}", "nothing");
            let status = api.send(api.request(route.method.clone(), &path)).await.status;
            assert!([200, 404].contains(&status), "{path}: {status}");
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
