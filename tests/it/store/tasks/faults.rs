//! Faults: the connection breaks while a commit is under way, and its outcome is unknown.

use std::sync::{Arc, Mutex};

use model_asynch::{
    config::Database,
    store::StoreError,
    task::{Attempt, NodeId, lifecycle, lifecycle::State},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use super::{Fixture, ROOMY, call, stored, verdicts, want};
use crate::support::backend::{Kind, TestDb, on};

/// Lies between a store and Postgres. Once armed, it lets the next message with that word in it
/// through and breaks the connection before its answer gets back.
struct Cutter {
    word: Word,
}

type Word = Arc<Mutex<Option<&'static str>>>;

impl Cutter {
    /// The database seen through the cutter.
    async fn before(db: &TestDb) -> (Cutter, Database) {
        let Database::Postgres { url, max_connections } = &db.config else { unreachable!("this runs on Postgres") };
        let mut url = url::Url::parse(url).unwrap();
        let upstream = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let word = Word::default();
        let cut = Arc::clone(&word);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&upstream).await.unwrap();
                tokio::spawn(relay(client, server, Arc::clone(&cut)));
            }
        });
        (Cutter { word }, Database::Postgres { url: url.into(), max_connections: *max_connections })
    }

    fn arm(&self, word: &'static str) {
        *self.word.lock().unwrap() = Some(word);
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, word: Word) {
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                server.write_all(&asked[..length]).await.unwrap();
                let said = |word: &mut &str| asked[..length].windows(word.len()).any(|part| part == word.as_bytes());
                if word.lock().unwrap().take_if(said).is_some() {
                    let confirmation = server.read(&mut answered).await.unwrap();
                    assert!(confirmation > 0, "Postgres confirms the commit to us alone");
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_took_without_being_confirmed_can_be_told_and_given_back() {
    on(Kind::Postgres, async |db| {
        let (cutter, through) = Cutter::before(db).await;
        let fixture = Fixture { node: NodeId(Uuid::from_bytes(*b"sixteen letters.")), ..Fixture::on(&through).await };
        let lane = fixture.lane(ROOMY).await;
        fixture.queue(lane, 1).await;
        // The claim that makes a model known ends with a commit; the next one is a statement that commits
        // by itself, and is given the node.
        for (attempt, word) in [(1, "COMMIT"), (2, "sixteen letters.")] {
            cutter.arm(word);
            let claim = fixture.store.claim(fixture.node, &[want(lane, 1)]).await;
            assert!(matches!(claim, Err(StoreError::Unavailable(_))), "{claim:?}");
            assert_eq!(fixture.raw.number("SELECT state FROM asynch_task").await, 1, "it was committed all the same");
            let held = fixture.store.held_by(fixture.node).await.unwrap();
            assert_eq!((held.len(), held[0].attempt), (1, Attempt(attempt)));
            fixture.done(lifecycle::never_started(&held[0])).await;
            assert!(fixture.store.held_by(fixture.node).await.unwrap().is_empty());
        }
        let claim = fixture.claim(lane, 1).await;
        assert_eq!((claim.tasks.len(), claim.tasks[0].attempt), (1, Attempt(3)), "{:?}", verdicts(&claim));
        assert_eq!((claim.tasks[0].lost_attempts, claim.tasks[0].retry_count), (0, 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_that_is_not_confirmed_can_be_applied_again_and_counts_once() {
    on(Kind::Postgres, async |db| {
        let (cutter, through) = Cutter::before(db).await;
        let fixture = Fixture::on(&through).await;
        let task = fixture.running(fixture.lane(ROOMY).await).await;
        let success = lifecycle::succeeded(&task, stored(), call(true));
        // The statement that finishes a task commits by itself; this is in what it is given.
        cutter.arm("http://files/a.wav");
        let applied = fixture.store.apply(success.clone()).await;
        assert!(matches!(applied, Err(StoreError::Unavailable(_))), "{applied:?}");
        fixture.done(success).await;
        assert_eq!(fixture.task(task.key).await.state, State::Succeeded);
        assert_eq!(fixture.calls().await, [1, 1, 0, 5]);
    })
    .await;
}
