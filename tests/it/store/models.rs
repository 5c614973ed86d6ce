use model_asynch::{
    clock,
    model::{Model, ModelPatch, ModelSpec},
    secrets::Vault,
    store::{Page, Store, StoreError, models::ModelChanged},
    task::{ModelId, TenantId},
};

use crate::{
    backend_test,
    support::{backend::TestDb, raw::Raw},
};

const TENANT: TenantId = TenantId(7);
const OTHER: TenantId = TenantId(8);
const EVERYONE: TenantId = TenantId(0);
const ALL: Page = Page { offset: 0, limit: 100 };

async fn open(db: &TestDb) -> Store {
    Store::open(&db.config, Vault::default()).await.unwrap().0
}

fn patch(name: &str) -> ModelPatch {
    ModelPatch {
        model_name: Some(name.into()),
        base_url: Some("http://127.0.0.1:9000".into()),
        ..ModelPatch::default()
    }
}

fn spec(name: &str) -> ModelSpec {
    ModelSpec::create(&patch(name), TENANT).unwrap()
}

fn shared(name: &str) -> ModelSpec {
    ModelSpec::create(&ModelPatch { shared: Some(true), ..patch(name) }, EVERYONE).unwrap()
}

async fn create(store: &Store, tenant: TenantId, spec: &ModelSpec) -> ModelId {
    match store.create_model(tenant, "ann", spec).await.unwrap() {
        ModelChanged::Done(id) => id,
        other => panic!("{other:?}"),
    }
}

/// An update that nobody refuses.
async fn update(
    store: &Store,
    id: ModelId,
    change: impl FnOnce(&Model) -> ModelSpec + Send,
) -> Result<ModelChanged, StoreError> {
    let changed = store.update_model(TENANT, id, "bob", |model| Ok::<_, ()>(change(model))).await?;
    Ok(changed.unwrap())
}

async fn names(store: &Store, part: Option<&str>, page: Page) -> (Vec<String>, i64) {
    let listing = store.list_models(TENANT, part, page).await.unwrap();
    (listing.list.into_iter().map(|model| model.spec.model_name).collect(), listing.total)
}

backend_test!(a_model_is_read_back_as_it_was_written, async |db: &TestDb| {
    let store = open(db).await;
    let everything = ModelPatch {
        route: Some("/v1/tts?x=1".into()),
        http_method: Some("GET".into()),
        api_key: Some("Authorization:Bearer k,X-List:\"a, b\"".into()),
        enabled: Some(0),
        max_concurrency: Some(3),
        total_concurrency: Some(9),
        queue_limit: Some(0),
        timeout_seconds: Some(86_400),
        retry_times: Some(100),
        retry_queue_max_seconds: Some(i64::from(i32::MAX)),
        auto_clean_seconds: Some(60),
        remark: Some("日本語 'quoted' \\ 🙂".into()),
        shared: Some(true),
        ..patch("模型 one")
    };
    let spec = ModelSpec::create(&everything, EVERYONE).unwrap();
    let before = clock::now();
    let id = create(&store, EVERYONE, &spec).await;

    let model = store.model(EVERYONE, id).await.unwrap().unwrap();
    assert_eq!(model.spec, spec);
    assert_eq!((model.id, model.tenant), (id, EVERYONE));
    assert_eq!((model.creator.as_str(), model.updater.as_str()), ("ann", "ann"));
    assert!(before <= model.created_at && model.created_at <= clock::now());
    assert_eq!(model.created_at, model.updated_at);
});

backend_test!(a_name_is_unique_among_a_tenants_models_that_are_not_deleted, async |db: &TestDb| {
    let store = open(db).await;
    let id = create(&store, TENANT, &spec("tts")).await;
    assert_eq!(store.create_model(TENANT, "ann", &spec("tts")).await.unwrap(), ModelChanged::NameTaken);
    create(&store, TENANT, &spec("TTS")).await;
    create(&store, OTHER, &spec("tts")).await;

    assert_eq!(store.delete_model(TENANT, id, "ann").await.unwrap(), ModelChanged::Done(id));
    assert_ne!(create(&store, TENANT, &spec("tts")).await, id);
});

backend_test!(of_creators_of_one_name_at_once_exactly_one_succeeds, async |db: &TestDb| {
    let store = open(db).await;
    let wanted = spec("tts");
    let creators = (0..8).map(|_| store.create_model(TENANT, "ann", &wanted));
    let outcomes = futures::future::try_join_all(creators).await.unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, ModelChanged::Done(_))).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == ModelChanged::NameTaken).count(), 7);
});

backend_test!(an_update_changes_what_it_says_and_keeps_the_rest, async |db: &TestDb| {
    let store = open(db).await;
    let id = create(&store, TENANT, &spec("tts")).await;
    let old = store.model(TENANT, id).await.unwrap().unwrap();
    let changed = update(&store, id, |model| ModelSpec { enabled: false, retry_times: 3, ..model.spec.clone() });
    assert_eq!(changed.await.unwrap(), ModelChanged::Done(id));

    let new = store.model(TENANT, id).await.unwrap().unwrap();
    assert_eq!(new.spec, ModelSpec { enabled: false, retry_times: 3, ..old.spec });
    assert_eq!((new.creator.as_str(), new.updater.as_str()), ("ann", "bob"));
    assert_eq!(new.created_at, old.created_at);
    assert!(new.updated_at > old.updated_at);
});

backend_test!(an_update_that_is_refused_changes_nothing, async |db: &TestDb| {
    let store = open(db).await;
    create(&store, TENANT, &spec("taken")).await;
    let id = create(&store, TENANT, &spec("tts")).await;
    let before = store.model(TENANT, id).await.unwrap().unwrap();

    let refused = store.update_model(TENANT, id, "bob", |_| Err("no")).await.unwrap();
    assert_eq!(refused, Err("no"));
    let renamed = update(&store, id, |_| spec("taken")).await.unwrap();
    assert_eq!(renamed, ModelChanged::NameTaken);
    assert_eq!(store.model(TENANT, id).await.unwrap().unwrap(), before);

    let changed = update(&store, id, |_| spec("free")).await.unwrap();
    assert_eq!(changed, ModelChanged::Done(id), "a refusal leaves no transaction open");
});

backend_test!(updates_at_once_do_not_lose_each_others_changes, async |db: &TestDb| {
    let store = open(db).await;
    let id = create(&store, TENANT, &ModelSpec { queue_limit: 0, ..spec("tts") }).await;
    let updates = (0..10).map(|_| {
        update(&store, id, |model| ModelSpec { queue_limit: model.spec.queue_limit + 1, ..model.spec.clone() })
    });
    futures::future::try_join_all(updates).await.unwrap();
    assert_eq!(store.model(TENANT, id).await.unwrap().unwrap().spec.queue_limit, 10);
});

backend_test!(what_is_deleted_or_another_tenants_is_not_found, async |db: &TestDb| {
    let store = open(db).await;
    let foreign = create(&store, OTHER, &spec("tts")).await;
    let deleted = create(&store, TENANT, &spec("tts")).await;
    store.delete_model(TENANT, deleted, "ann").await.unwrap();

    for id in [foreign, deleted, ModelId(i64::MAX), ModelId(-1)] {
        assert_eq!(store.model(TENANT, id).await.unwrap(), None);
        assert_eq!(update(&store, id, |_| panic!("there is nothing to change")).await.unwrap(), ModelChanged::NotFound);
        assert_eq!(store.delete_model(TENANT, id, "ann").await.unwrap(), ModelChanged::NotFound);
    }
    assert!(store.model(OTHER, foreign).await.unwrap().is_some());
    assert_eq!(names(&store, None, ALL).await, (Vec::new(), 0));
});

backend_test!(a_name_means_the_tenants_own_model_first_and_then_a_shared_one, async |db: &TestDb| {
    let store = open(db).await;
    let common = create(&store, EVERYONE, &shared("tts")).await;
    create(&store, EVERYONE, &spec("private")).await;
    create(&store, OTHER, &spec("foreign")).await;
    let by_name = async |name: &str| store.model_by_name(TENANT, name).await.unwrap().map(|model| model.id);

    assert_eq!(by_name("tts").await, Some(common));
    let own = create(&store, TENANT, &spec("tts")).await;
    assert_eq!(by_name("tts").await, Some(own));
    store.delete_model(TENANT, own, "ann").await.unwrap();
    assert_eq!(by_name("tts").await, Some(common));
    for name in ["private", "foreign", "TTS", "", "t\0ts"] {
        assert_eq!(by_name(name).await, None, "{name:?}");
    }
    let private = store.model_by_name(EVERYONE, "private").await.unwrap();
    assert!(private.is_some(), "tenant 0 needs no sharing with itself");
});

backend_test!(models_by_id_are_of_any_tenant_and_not_deleted, async |db: &TestDb| {
    let store = open(db).await;
    let own = create(&store, TENANT, &spec("one")).await;
    let foreign = create(&store, OTHER, &spec("two")).await;
    let deleted = create(&store, TENANT, &spec("three")).await;
    store.delete_model(TENANT, deleted, "ann").await.unwrap();

    let found = store.models_by_id(&[deleted, foreign, own, own, ModelId(-1)]).await.unwrap();
    let mut ids: Vec<ModelId> = found.iter().map(|model| model.id).collect();
    ids.sort();
    assert_eq!(ids, [own, foreign]);
    assert!(store.models_by_id(&[]).await.unwrap().is_empty());
});

backend_test!(models_are_listed_newest_first_page_by_page, async |db: &TestDb| {
    let store = open(db).await;
    for name in ["a", "b", "c", "d", "e"] {
        create(&store, TENANT, &spec(name)).await;
    }
    create(&store, OTHER, &spec("foreign")).await;
    let page = |offset, limit| names(&store, None, Page { offset, limit });
    assert_eq!(page(0, 2).await, (vec!["e".into(), "d".into()], 5));
    assert_eq!(page(4, 2).await, (vec!["a".into()], 5));
    assert_eq!(page(6, 2).await, (vec![], 5));
});

backend_test!(a_filter_is_taken_to_the_letter, async |db: &TestDb| {
    let store = open(db).await;
    for name in ["plain", "100%", "snake_case", "back\\slash", "Plain", "模型"] {
        create(&store, TENANT, &spec(name)).await;
    }
    let found = async |part: &str| names(&store, Some(part), ALL).await.0;
    assert_eq!(found("lain").await, ["Plain", "plain"]);
    assert_eq!(found("p").await, ["plain"], "case counts");
    assert_eq!(found("%").await, ["100%"]);
    assert_eq!(found("_").await, ["snake_case"]);
    assert_eq!(found("\\").await, ["back\\slash"]);
    assert_eq!(found("型").await, ["模型"]);
    assert!(found("a%b").await.is_empty() && found("'").await.is_empty() && found("\0").await.is_empty());
    assert_eq!(names(&store, Some(""), ALL).await.1, 6);
});

backend_test!(keys_are_sealed_at_rest_and_need_the_same_key_again, async |db: &TestDb| {
    let (store, _committers) = Store::open(&db.config, Vault::new(&[7; 32])).await.unwrap();
    let patch = ModelPatch { api_key: Some("A:hunter22".into()), ..patch("tts") };
    let spec = ModelSpec::create(&patch, TENANT).unwrap();
    let id = create(&store, TENANT, &spec).await;
    assert_eq!(store.model(TENANT, id).await.unwrap().unwrap().spec, spec);
    update(&store, id, |model| ModelSpec { remark: "kept".into(), ..model.spec.clone() }).await.unwrap();
    assert_eq!(store.model(TENANT, id).await.unwrap().unwrap().spec.api_key, spec.api_key);
    let stored = Raw::connect(db).await.texts("SELECT api_key FROM asynch_models").await;
    assert!(stored[0].starts_with("sealed:") && !stored[0].contains("hunter22"), "{stored:?}");
    store.close().await;
    drop(store);

    let store = open(db).await;
    let StoreError::Broken(message) = store.model(TENANT, id).await.unwrap_err() else { panic!("not broken") };
    assert!(message.contains("secrets.key") && !message.contains("hunter22"), "{message}");
});
