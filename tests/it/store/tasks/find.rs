//! Listings: newest first, filters taken literally.

use model_asynch::{
    store::{Page, StoreError, tasks::TaskFilter},
    task::{TaskId, TaskKey, TenantId, lifecycle::State},
};

use super::{Fixture, NewTask, ROOMY, Raw, TENANT, new_task, succeeded};
use crate::{backend_test, support::backend::TestDb};

const ALL: Page = Page { offset: 0, limit: 100 };

async fn list(fixture: &Fixture, filter: TaskFilter, page: Page) -> (Vec<TaskId>, i64) {
    let listing = fixture.store.list_tasks(TENANT, &filter, page).await.unwrap();
    (listing.list.iter().map(|task| task.key.id).collect(), listing.total)
}

async fn named(fixture: &Fixture, part: &str) -> i64 {
    list(fixture, TaskFilter { model_name: Some(part.into()), ..TaskFilter::default() }, ALL).await.1
}

backend_test!(tasks_are_listed_newest_first_page_by_page, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let mut ids = fixture.queue(lane, 5).await;
    ids.reverse();
    assert_eq!(list(&fixture, TaskFilter::default(), ALL).await, (ids.clone(), 5));
    let page = Page { offset: 2, limit: 2 };
    assert_eq!(list(&fixture, TaskFilter::default(), page).await, (ids[2..4].to_vec(), 5));
    let other = fixture.store.list_tasks(TenantId(8), &TaskFilter::default(), ALL).await.unwrap();
    assert_eq!((other.list.len(), other.total), (0, 0));
});

backend_test!(names_match_literally_and_with_their_case, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    for name in ["tts", "TTS_v2", "100% wav", r"a\b", "ttsXv2"] {
        let task = NewTask { model_name: name.into(), ..new_task(lane) };
        fixture.store.enqueue(task).await.unwrap();
    }
    for (part, found) in [("tts", 2), ("TTS", 1), ("_", 1), ("%", 1), (r"\", 1), ("S_v", 1), ("wave", 0), ("", 5)] {
        assert_eq!(named(&fixture, part).await, found, "{part:?}");
    }
});

backend_test!(states_and_parts_of_ids_filter_too, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let ids = fixture.queue(lane, 3).await;
    let task = fixture.claim_one(lane).await;
    fixture.done(succeeded(&task)).await;
    let state = |state| TaskFilter { state: Some(state), ..TaskFilter::default() };
    assert_eq!(list(&fixture, state(State::Succeeded), ALL).await, (vec![ids[0]], 1));
    assert_eq!(list(&fixture, state(State::Queued), ALL).await, (vec![ids[2], ids[1]], 2));
    let part = ids[1].to_string()[20..].to_uppercase();
    let by_id = |part: &str| TaskFilter { task_id: Some(part.into()), ..TaskFilter::default() };
    assert_eq!(list(&fixture, by_id(&part), ALL).await, (vec![ids[1]], 1));
    assert_eq!(list(&fixture, by_id("%"), ALL).await.1, 0);
});

backend_test!(a_task_is_found_by_its_own_tenant_only, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let id = fixture.queue(fixture.lane(ROOMY).await, 1).await[0];
    fixture.task(TaskKey { tenant: TENANT, id }).await;
    assert!(fixture.store.task(TaskKey { tenant: TenantId(8), id }).await.unwrap().is_none());
});

backend_test!(a_row_of_a_later_version_is_an_error_and_not_a_guess, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let id = fixture.queue(fixture.lane(ROOMY).await, 1).await[0];
    let past_the_check = match &fixture.raw {
        Raw::Postgres(_) => {
            "ALTER TABLE asynch_task DROP CONSTRAINT ck_asynch_task_state; UPDATE asynch_task SET state = 9, finished_at = now()"
        }
        Raw::Sqlite(_) => {
            "PRAGMA ignore_check_constraints = 1; UPDATE asynch_task SET state = 9; PRAGMA ignore_check_constraints = 0"
        }
    };
    fixture.raw.run(past_the_check).await;
    let read = fixture.store.task(TaskKey { tenant: TENANT, id }).await;
    assert!(matches!(read, Err(StoreError::Broken(_))), "{read:?}");
});
