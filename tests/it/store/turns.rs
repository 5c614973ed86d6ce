use std::{future::pending, time::Duration};

use model_asynch::{
    clock,
    secrets::Vault,
    store::Store,
    turn::{Held, Turn},
};

use crate::{
    backend_test,
    support::{backend::TestDb, eventually::until},
};

const LONG: Duration = Duration::from_secs(60);

/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(600);

async fn open(db: &TestDb) -> Store {
    Store::open(&db.config, Vault::default()).await.unwrap().0
}

backend_test!(a_turn_is_had_by_one_at_a_time, async |db: &TestDb| {
    let store = open(db).await;
    let takers = (0..8).map(|_| Turn::take(&store, "monitor"));
    let taken = futures::future::try_join_all(takers).await.unwrap();
    let mut taken: Vec<Turn> = taken.into_iter().flatten().collect();
    assert_eq!(taken.len(), 1);
    assert!(Turn::take(&store, "retention").await.unwrap().is_some(), "another duty is another turn");
    taken.remove(0).give_back().await;
    assert!(Turn::take(&store, "monitor").await.unwrap().is_some());
});

backend_test!(a_turn_is_kept_for_as_long_as_the_work_takes, async |db: &TestDb| {
    let store = open(db).await;
    let mut turn = Turn::take_for(&store, "monitor", SHORT).await.unwrap().unwrap();
    let outlast = async {
        tokio::time::sleep(SHORT * 3).await;
        Turn::take(&store, "monitor").await.unwrap().is_some()
    };
    assert_eq!(turn.during(outlast).await, Held::Throughout(false), "somebody else took it meanwhile");
});

backend_test!(the_turn_of_one_who_died_is_taken_when_it_has_run_out, async |db: &TestDb| {
    let store = open(db).await;
    drop(Turn::take_for(&store, "monitor", SHORT).await.unwrap().unwrap());
    assert!(Turn::take(&store, "monitor").await.unwrap().is_none());
    until("the turn to run out", async || Turn::take(&store, "monitor").await.unwrap().is_some()).await;
});

backend_test!(work_is_dropped_when_another_has_the_turn, async |db: &TestDb| {
    let store = open(db).await;
    let mut late = Turn::take_for(&store, "monitor", SHORT).await.unwrap().unwrap();
    until("the turn to run out", async || Turn::take(&store, "monitor").await.unwrap().is_some()).await;
    assert_eq!(late.during(pending::<()>()).await, Held::Lost);
});

backend_test!(work_is_dropped_when_the_turn_cannot_be_renewed_any_more, async |db: &TestDb| {
    let store = open(db).await;
    let mut turn = Turn::take_for(&store, "monitor", SHORT).await.unwrap().unwrap();
    store.close().await;
    let began = clock::tick();
    assert_eq!(turn.during(pending::<()>()).await, Held::Lost);
    assert!(began.elapsed() < SHORT, "it would have run out by then");
});

backend_test!(a_turn_is_given_back_by_its_holder_alone, async |db: &TestDb| {
    let store = open(db).await;
    let (one, other) = (clock::node_id(), clock::node_id());
    assert!(store.take_turn("monitor", one, LONG).await.unwrap());
    assert!(store.take_turn("monitor", one, LONG).await.unwrap(), "the answer to the first try may have been lost");
    assert!(!store.take_turn("monitor", other, LONG).await.unwrap());
    assert!(!store.keep_turn("monitor", other, LONG).await.unwrap());
    store.give_turn_back("monitor", other).await.unwrap();
    assert!(store.keep_turn("monitor", one, LONG).await.unwrap());
    store.give_turn_back("monitor", one).await.unwrap();
    assert!(!store.keep_turn("monitor", one, LONG).await.unwrap());
    assert!(store.take_turn("monitor", other, LONG).await.unwrap());
});
