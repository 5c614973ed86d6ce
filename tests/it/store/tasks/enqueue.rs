//! New tasks: stored to the letter, exactly within `queueLimit`, each on its own.

use futures::future::join_all;
use model_asynch::{
    secrets::Vault,
    store::{StoreError, tasks::Enqueued},
    task::{Attempt, CallerHeaders, Lane, ModelId, lifecycle, lifecycle::State},
};

use super::{Fixture, Limits, NewTask, ROOMY, TENANT, eventually, failure, new_task, succeeded, want};
use crate::{backend_test, support::backend::TestDb};

const LIMITED: Limits = Limits { queue: 20, ..ROOMY };

backend_test!(a_task_is_stored_to_the_letter, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let payload = r#"{"b": 1.0,  "a": "\u0000 \ud83d\ude00", "a": 1e2}"#;
    let mut task = new_task(lane);
    task.biz_name = "news".into();
    task.input_ref = "s3://in/ü.txt".into();
    task.request_payload = Some(payload.into());
    task.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into();
    let key = task.key;
    assert_eq!(fixture.store.enqueue(task).await.unwrap(), Enqueued::Accepted);

    let seen = fixture.task(key).await;
    assert_eq!((seen.key, seen.state, seen.creator.as_str()), (key, State::Queued, "ann"));
    assert_eq!((seen.model_name.as_str(), seen.biz_name.as_str()), ("tts", "news"));
    assert_eq!((seen.input_ref.as_str(), seen.request_payload.as_deref()), ("s3://in/ü.txt", Some(payload)));
    assert_eq!(seen.created_at, seen.enqueue_at);
    assert_eq!((seen.started_at, seen.finished_at, seen.expire_at), (None, None, None));

    let run = fixture.claim_one(lane).await;
    assert_eq!(run.request_payload.as_deref(), Some(payload));
    assert_eq!((run.attempt, run.traceparent.len()), (Attempt(1), 55));
});

backend_test!(caller_headers_are_sealed_at_rest_and_come_back_with_the_claim, async |db: &TestDb| {
    let fixture = Fixture::with_vault(&db.config, Vault::new(&[7; 32])).await;
    let lane = fixture.lane(ROOMY).await;
    let headers = CallerHeaders { authorization: "Bearer secret".into(), user_info: "{}".into() };
    let task = NewTask { caller_headers: headers.clone(), ..new_task(lane) };
    fixture.store.enqueue(task).await.unwrap();
    assert!(!fixture.raw.text("SELECT caller_headers FROM asynch_task").await.contains("secret"));
    assert_eq!(fixture.claim_one(lane).await.caller_headers, headers);
});

backend_test!(a_lane_never_holds_more_than_its_limit, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(LIMITED).await;
    let other = fixture.lane(LIMITED).await;
    let second = fixture.second(db).await;
    let stores = [&fixture.store, &second];
    let asked = (0..120).map(|n| stores[n % 2].enqueue(new_task(if n % 3 == 0 { other } else { lane })));
    let verdicts: Vec<Enqueued> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    let count = |verdict: &Enqueued| verdicts.iter().filter(|seen| *seen == verdict).count();
    assert_eq!(count(&Enqueued::Accepted), 40);
    assert_eq!(count(&Enqueued::QueueFull { limit: 20 }), 80);
    assert_eq!(fixture.raw.number("SELECT count(*) FROM asynch_task").await, 40);
});

backend_test!(running_and_resting_tasks_fill_the_lane_too, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(Limits { queue: 3, ..ROOMY }).await;
    fixture.queue(lane, 3).await;
    let rest = lifecycle::Slot { delay: std::time::Duration::from_secs(60), place: lifecycle::Place::Tail };
    let tasks = fixture.claim(lane, 2).await.tasks;
    fixture.done(lifecycle::retried(&tasks[0], &failure("slow"), rest, None)).await;
    assert_eq!(fixture.store.enqueue(new_task(lane)).await.unwrap(), Enqueued::QueueFull { limit: 3 });
    // One queued, one running, one resting; a fresh count may not find fewer.
    fixture.raw.run("UPDATE asynch_lane_in SET counted_live = 100").await;
    assert_eq!(fixture.store.enqueue(new_task(lane)).await.unwrap(), Enqueued::QueueFull { limit: 3 });
});

backend_test!(a_full_lane_has_room_again_when_a_task_finishes, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(Limits { queue: 2, ..ROOMY }).await;
    fixture.queue(lane, 2).await;
    assert_eq!(fixture.store.enqueue(new_task(lane)).await.unwrap(), Enqueued::QueueFull { limit: 2 });
    let run = fixture.claim_one(lane).await;
    assert_eq!(fixture.store.enqueue(new_task(lane)).await.unwrap(), Enqueued::QueueFull { limit: 2 });
    fixture.done(succeeded(&run)).await;
    // An expensive count is not repeated at once, so a slow machine may need more than one try.
    eventually(async || (fixture.store.enqueue(new_task(lane)).await.unwrap() == Enqueued::Accepted).then_some(()))
        .await;
    assert_eq!(fixture.store.enqueue(new_task(lane)).await.unwrap(), Enqueued::QueueFull { limit: 2 });
});

backend_test!(a_model_that_takes_no_tasks_says_why, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    fixture.queue(lane, 1).await;
    fixture.raw.run("UPDATE asynch_models SET enabled = 0").await;
    assert_eq!(fixture.store.enqueue(new_task(lane)).await.unwrap(), Enqueued::ModelDisabled);
    fixture.delete_model(lane.model).await;
    assert_eq!(fixture.store.enqueue(new_task(lane)).await.unwrap(), Enqueued::ModelGone);
    let nowhere = Lane { model: ModelId(999), tenant: TENANT };
    assert_eq!(fixture.store.enqueue(new_task(nowhere)).await.unwrap(), Enqueued::ModelGone);
});

backend_test!(one_bad_request_does_not_fail_its_neighbours, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let taken = new_task(lane);
    fixture.store.enqueue(taken.clone()).await.unwrap();
    let (before, after) = (new_task(lane), new_task(lane));
    let keys = [before.key, after.key];
    let asked = [before, taken, after].map(|task| fixture.store.enqueue(task));
    let results = join_all(asked).await;
    assert!(matches!(results[0], Ok(Enqueued::Accepted)) && matches!(results[2], Ok(Enqueued::Accepted)));
    assert!(matches!(&results[1], Err(StoreError::Broken(_))));
    for key in keys {
        fixture.task(key).await;
    }
    assert_eq!(fixture.raw.number("SELECT entered FROM asynch_lane_in").await, 3);
});

backend_test!(what_was_handed_in_before_the_stop_is_committed, async |db: &TestDb| {
    let fixture = Fixture::open(db).await;
    let lane = fixture.lane(ROOMY).await;
    let mut asked = Box::pin(join_all((0..300).map(|_| fixture.store.enqueue(new_task(lane)))));
    assert!(futures::poll!(&mut asked).is_pending());
    fixture.stop.cancel();
    let accepted = asked.await.into_iter().filter(|result| matches!(result, Ok(Enqueued::Accepted))).count();
    fixture.committers.await.unwrap();
    assert!(accepted > 0);
    assert_eq!(fixture.raw.number("SELECT count(*) FROM asynch_task").await, accepted as i64);
    assert!(matches!(fixture.store.enqueue(new_task(lane)).await, Err(StoreError::Unavailable(_))));
    fixture.store.claim(fixture.node, &[want(lane, 1)]).await.unwrap();
});
