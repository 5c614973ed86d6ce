//! Who sees what: tokens, tenants, permissions.

use model_asynch::{
    caller::Scopes,
    clock,
    secrets::Vault,
    store::Store,
    task::TenantId,
    token::{TokenHash, text_of},
};
use serde_json::json;

use super::Visitor;
use crate::{
    backend_test,
    support::{app::TestApp, backend::TestDb},
};

async fn token(db: &TestDb, tenant: i64, user: &str, scopes: &str) -> String {
    let store = Store::administer(&db.config, Vault::default()).await.unwrap();
    let text = text_of(&clock::secret().unwrap());
    let hash = TokenHash::of(&text).unwrap();
    store.create_token(hash, TenantId(tenant), user, Scopes::parse(scopes).unwrap(), None).await.unwrap();
    store.close().await;
    text
}

backend_test!(a_token_of_a_tenant_shows_that_tenant_and_nothing_else, async |db: &TestDb| {
    let app = TestApp::with(db, &[("auth.mode", "token")]).await;
    let own = token(db, 7, "ann", "task:write,task:read,model:write,stat:read").await;
    let other = token(db, 8, "bob", "task:write,task:read,model:write,stat:read").await;
    for (token, model) in [(&own, "of-seven"), (&other, "of-eight")] {
        let api = app.api.with_header("authorization", &format!("Bearer {token}"));
        api.create_model(model, "http://127.0.0.1:9", &json!({ "enabled": 0 })).await;
    }
    let Some(visitor) = Visitor::at(&app.api.url).await else { return };
    visitor.sees("Sign in with an access token").await;
    visitor.fills("Token", "ma_wrong").await;
    visitor.presses("Sign in").await;
    visitor.sees("The service does not accept this token").await;
    visitor.fills("Token", &own).await;
    visitor.presses("Sign in").await;
    visitor.sees("tenant 7").await;
    for view in ["Overview", "Models", "Lanes"] {
        visitor.presses(view).await;
        visitor.sees("of-seven").await;
        assert!(!visitor.reads().await.contains("of-eight"), "{view}");
    }
    assert!(!visitor.reads().await.contains("Tenants"));

    // The tab remembers, the browser does not.
    visitor.goes("#/models").await;
    visitor.driver.refresh().await.unwrap();
    visitor.sees("of-seven").await;
    assert_eq!(visitor.finds_out("return localStorage.getItem('token') ?? document.cookie").await, json!(""));
    visitor.presses("Sign out").await;
    visitor.sees("Sign in with an access token").await;
    visitor.leaves_after(&["401"]).await;
    app.stop().await;
});

backend_test!(what_a_token_does_not_allow_is_explained, async |db: &TestDb| {
    let app = TestApp::with(db, &[("auth.mode", "token")]).await;
    let reader = token(db, 7, "ann", "task:read").await;
    let Some(visitor) = Visitor::at(&app.api.url).await else { return };
    visitor.fills("Token", &reader).await;
    visitor.presses("Sign in").await;
    visitor.presses("Models").await;
    visitor.sees("You may not see or do this").await;
    visitor.sees("model:write").await;
    visitor.presses("Tasks").await;
    visitor.sees("No tasks yet").await;
    visitor.leaves_after(&["401", "403"]).await;
    app.stop().await;
});

backend_test!(an_admin_chooses_the_tenant_to_look_at, async |db: &TestDb| {
    let app = TestApp::start(db).await;
    app.api.as_tenant(7, "ann").create_model("of-seven", "http://127.0.0.1:9", &json!({})).await;
    app.api.create_model("of-zero", "http://127.0.0.1:9", &json!({})).await;
    let Some(visitor) = Visitor::at(&app.api.url).await else { return };
    visitor.sees("of-seven").await;
    visitor.sees("of-zero").await;
    visitor.presses("Models").await;
    visitor.sees("Shown are the things of your own tenant, 0.").await;
    visitor.fills("Tenant", "7\n").await;
    visitor.sees("of-seven").await;
    visitor.sees_no_more("of-zero").await;
    visitor.leaves().await;
    app.stop().await;
});

backend_test!(behind_a_gateway_the_page_says_how_it_is_reached, async |db: &TestDb| {
    let app = TestApp::with(db, &[("auth.mode", "gateway")]).await;
    let Some(visitor) = Visitor::at(&app.api.url).await else { return };
    visitor.sees("Open this page through that gateway.").await;
    visitor.leaves_after(&["401"]).await;
    app.stop().await;
});
