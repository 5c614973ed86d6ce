//! Who may do what (contract §2), and that no secret gets out.

mod leaks;
mod matrix;
mod provider;
mod rotation;
mod tokens;

use std::sync::atomic::{AtomicI64, Ordering};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use model_asynch::{
    caller::Scopes,
    clock,
    secrets::Vault,
    store::Store,
    task::TenantId,
    token::{TokenHash, TokenId, text_of},
};
use serde_json::{Value, json};

use crate::support::{app::Api, backend::TestDb};

/// What the identity provider and the service share.
const SHARED: &str = "shared-with-the-identity-provider";

/// A token of ours, made as the command line makes it.
async fn token(db: &TestDb, tenant: i64, user: &str, scopes: &str) -> (TokenId, String) {
    let store = Store::administer(&db.config, Vault::default()).await.unwrap();
    let text = text_of(&clock::secret().unwrap());
    let hash = TokenHash::of(&text).unwrap();
    let id = store.create_token(hash, TenantId(tenant), user, Scopes::parse(scopes).unwrap(), None).await.unwrap();
    store.close().await;
    (id, text)
}

/// A token of the identity provider.
fn jwt(tenant: i64, user: &str, scopes: &str) -> String {
    // No two are alike, so that none is known already.
    static COUNT: AtomicI64 = AtomicI64::new(0);
    let claims = json!({
        "tenantId": tenant.to_string(), "sub": user, "scope": scopes.replace(',', " "), "iss": "test", "aud": "asynch",
        "exp": clock::now().timestamp() + 600, "jti": COUNT.fetch_add(1, Ordering::Relaxed)
    });
    signed(&claims, SHARED)
}

fn signed(claims: &Value, secret: &str) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn bearing(api: &Api, token: &str) -> Api {
    api.with_header("authorization", &format!("Bearer {token}"))
}
