//! Listings: newest first, filters taken literally.

use std::time::Duration;

use chrono::DateTime;
use model_asynch::{
    store::{
        Page, StoreError,
        tasks::{MOST_COUNTED, TaskFilter},
    },
    task::{
        Lane, TaskId, TaskKey, TenantId,
        lifecycle::{self, Place, Slot, State},
    },
};

use super::{Fixture, NewTask, ROOMY, Raw, TENANT, failure, new_task, succeeded};
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
    assert_eq!(list(&fixture, by_id(&ids[1].to_string().to_uppercase()), ALL).await, (vec![ids[1]], 1));
    assert_eq!(list(&fixture, by_id("%"), ALL).await.1, 0);
});

backend_test!(whoever_and_whatever_a_task_is_for_filters_too, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    for (creator, biz_name) in [("ann", "book"), ("ann", "books"), ("anna", "book")] {
        let task = NewTask { creator: creator.into(), biz_name: biz_name.into(), ..new_task(lane) };
        fixture.store.enqueue(task).await.unwrap();
    }
    let total = async |creator: Option<&str>, biz_name: Option<&str>| {
        let name = |name: Option<&str>| name.map(str::to_owned);
        let filter = TaskFilter { creator: name(creator), biz_name: name(biz_name), ..TaskFilter::default() };
        list(&fixture, filter, ALL).await.1
    };
    assert_eq!(total(Some("ann"), None).await, 2);
    assert_eq!(total(None, Some("book")).await, 2);
    assert_eq!(total(Some("ann"), Some("book")).await, 1);
    assert_eq!(total(Some("an"), None).await, 0, "the whole name counts");
});

backend_test!(a_span_of_time_filters_by_what_the_ids_say, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let at = |millis: i64| DateTime::from_timestamp_millis(millis).unwrap();
    let mut ids = Vec::new();
    for millis in [1000, 1001, 2000] {
        let id = TaskId(uuid::Uuid::from_u128((millis as u128) << 80 | 0x7000_8000 << 48 | millis as u128));
        fixture.store.enqueue(NewTask { key: TaskKey { tenant: TENANT, id }, ..new_task(lane) }).await.unwrap();
        ids.insert(0, id);
    }
    let within = async |from: Option<i64>, to: Option<i64>| {
        let filter = TaskFilter { created_from: from.map(at), created_to: to.map(at), ..TaskFilter::default() };
        list(&fixture, filter, ALL).await.0
    };
    assert_eq!(within(Some(1001), None).await, ids[..2]);
    assert_eq!(within(None, Some(1001)).await, ids[1..]);
    assert_eq!(within(Some(1001), Some(1001)).await, ids[1..2]);
    assert_eq!(within(Some(2001), None).await, []);
});

backend_test!(every_state_is_listed_whether_few_or_many_have_it, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let ids = fixture.queue(lane, 6).await;
    let tasks = fixture.claim(lane, 4).await.tasks;
    fixture.done(succeeded(&tasks[0])).await;
    fixture.done(lifecycle::failed(&tasks[1], "no".into(), None)).await;
    fixture.done(succeeded(&tasks[2])).await;
    fixture.store.pick_up(TENANT, &[ids[2]]).await.unwrap();
    let rest = Slot { delay: Duration::from_secs(60), place: Place::Tail };
    let resting = fixture.claim_one(lane).await;
    fixture.done(lifecycle::retried(&resting, &failure("slow"), rest, None)).await;
    // One of every state, the queued ones waiting and resting.
    let of = |state: State, at: &[usize]| (state, at.iter().map(|at| ids[*at]).collect::<Vec<_>>());
    let expected = [
        of(State::Queued, &[5, 4]),
        of(State::Running, &[3]),
        of(State::Succeeded, &[0]),
        of(State::Failed, &[1]),
        of(State::PickedUp, &[2]),
        of(State::Cancelled, &[]),
    ];
    let check = async || {
        for (state, ids) in &expected {
            let filter = TaskFilter { state: Some(*state), ..TaskFilter::default() };
            let page = Page { offset: 0, limit: 2 };
            let found = fixture.store.list_tasks(TENANT, &filter, page).await.unwrap();
            assert_eq!(found.list.iter().map(|task| task.key.id).collect::<Vec<_>>(), *ids, "{state:?}");
            assert!(found.total == ids.len() as i64 || found.total_is_at_least, "{state:?}: {}", found.total);
        }
    };
    check().await;
    // Older ones, more than are counted, of each state of which there may be many.
    for state in [0, 2, 4] {
        many(&fixture, lane, state).await;
    }
    let page = Page { offset: 0, limit: 1 };
    for state in [State::Queued, State::Succeeded, State::PickedUp] {
        let filter = TaskFilter { state: Some(state), ..TaskFilter::default() };
        let found = fixture.store.list_tasks(TENANT, &filter, page).await.unwrap();
        assert_eq!((found.total, found.total_is_at_least), (MOST_COUNTED, true), "{state:?}");
        let newest = &expected.iter().find(|(of, _)| *of == state).unwrap().1[0];
        assert_eq!(found.list[0].key.id, *newest, "{state:?}");
    }
    let far = Page { offset: 10_001, limit: 10 };
    let filter = TaskFilter { state: Some(State::Succeeded), ..TaskFilter::default() };
    let found = fixture.store.list_tasks(TENANT, &filter, far).await.unwrap();
    assert_eq!((found.list.len(), found.total, found.total_is_at_least), (1, 10_002, false), "the end is known");
});

/// One more of a state than are counted, older than everything else.
async fn many(fixture: &Fixture, lane: Lane, state: i16) {
    let insert = match &fixture.raw {
        Raw::Postgres(_) => format!(
            "INSERT INTO asynch_task (tenant_id, task_id, creator, model_id, model_name, state, finished_at, expire_at)
             SELECT 7, ('0000000{state}-' || substr(gen_random_uuid()::text, 10))::uuid, 'ann', {}, 'tts', {state},
                    CASE WHEN {state} > 0 THEN now() END, now() FROM generate_series(1, {})",
            lane.model,
            MOST_COUNTED + 1
        ),
        Raw::Sqlite(_) => format!(
            "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n <= {MOST_COUNTED})
             INSERT INTO asynch_task (tenant_id, task_id, creator, model_id, model_name, state, created_at, updated_at,
                                      enqueue_at, finished_at, expire_at)
             SELECT 7, printf('0000000{state}-0000-7000-8000-%012x', n), 'ann', {}, 'tts', {state}, 1, 1, 1,
                    CASE WHEN {state} > 0 THEN 1 END, 1 FROM s",
            lane.model
        ),
    };
    fixture.raw.run(&insert).await;
}

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
