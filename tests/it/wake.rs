//! Wake-ups between nodes.

use std::collections::HashMap;

use futures::StreamExt;
use model_asynch::{
    config,
    task::{Lane, ModelId, TenantId},
    wake::{Wake, WakeUp},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{
    eventually::{LIMIT, until},
    redis::RedisServer,
};

const CHANNEL: &str = "test:wake";

/// A bus with its loops going.
struct Node {
    wake: Wake,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Node {
    fn start(wake: &Wake) -> Node {
        let (wake, stop) = (wake.clone(), CancellationToken::new());
        let run = tokio::spawn({
            let (wake, stop) = (wake.clone(), stop.clone());
            async move { wake.run(stop).await }
        });
        Node { wake, stop, run }
    }

    /// One that the others reach from now on.
    async fn listening(server: &RedisServer) -> Node {
        let before = listeners(server).await;
        let node = Node::start(&open(server, true));
        heard_by(server, before + 1).await;
        node
    }

    async fn next(&self) -> Vec<WakeUp> {
        within(self.wake.next()).await
    }
}

fn open(server: &RedisServer, listens: bool) -> Wake {
    Wake::open(Some(&server.config()), listens).unwrap()
}

async fn within<T>(arrival: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, arrival).await.expect("it arrives")
}

fn wake_up(model: i64, rewind: bool) -> WakeUp {
    WakeUp { lane: Lane { model: ModelId(model), tenant: TenantId(7) }, rewind }
}

async fn listeners(server: &RedisServer) -> i64 {
    let subscribed: HashMap<String, i64> = server.command(&["PUBSUB", "NUMSUB", CHANNEL]).await;
    subscribed[CHANNEL]
}

async fn heard_by(server: &RedisServer, nodes: i64) {
    until("all nodes listen", async || listeners(server).await == nodes).await;
}

#[tokio::test]
async fn a_wake_up_reaches_the_other_nodes_with_the_rewind_that_anyone_asked_for() {
    let Some(server) = RedisServer::start().await else { return };
    let (one, other) = (Node::listening(&server).await, Node::listening(&server).await);
    let api = open(&server, false);
    api.send([wake_up(1, false)]);
    api.send([wake_up(1, true)]);
    let _api = Node::start(&api);
    for node in [&one, &other] {
        assert_eq!(node.next().await, [wake_up(1, true)]);
    }
}

#[tokio::test]
async fn a_node_hears_of_its_own_wake_ups_once_and_without_redis() {
    let Some(server) = RedisServer::start().await else { return };
    let (one, other) = (Node::listening(&server).await, Node::listening(&server).await);
    one.wake.send([wake_up(1, false)]);
    assert_eq!(one.next().await, [wake_up(1, false)]);
    assert_eq!(other.next().await, [wake_up(1, false)]);
    // What the other says later comes after the echo, had there been one.
    other.wake.send([wake_up(2, false)]);
    assert_eq!(one.next().await, [wake_up(2, false)]);
}

#[tokio::test]
async fn what_is_sent_in_the_meantime_travels_in_few_messages() {
    let Some(server) = RedisServer::start().await else { return };
    let mut ear = redis::Client::open(server.url()).unwrap().get_async_pubsub().await.unwrap();
    ear.subscribe(CHANNEL).await.unwrap();
    let mut messages = ear.into_on_message();
    let mut lanes_of_next = async || {
        let payload: String = within(messages.next()).await.unwrap().get_payload().unwrap();
        payload.split(',').count()
    };
    let wake = open(&server, false);
    for _ in 0..3 {
        wake.send((0..1200).map(|model| wake_up(model, false)));
    }
    let _node = Node::start(&wake);
    assert_eq!([lanes_of_next().await, lanes_of_next().await, lanes_of_next().await], [500, 500, 200]);
    wake.send([wake_up(1, false)]);
    assert_eq!(lanes_of_next().await, 1, "nothing came in between");
}

#[tokio::test]
async fn what_is_sent_before_the_stop_still_goes_out() {
    let Some(server) = RedisServer::start().await else { return };
    let node = Node::listening(&server).await;
    let wake = open(&server, false);
    let stop = CancellationToken::new();
    stop.cancel();
    wake.send([wake_up(1, false)]);
    wake.run(stop).await;
    assert_eq!(node.next().await, [wake_up(1, false)]);
}

#[tokio::test]
async fn the_bus_survives_a_restart_of_redis() {
    let Some(mut server) = RedisServer::start().await else { return };
    let (one, other) = (Node::listening(&server).await, Node::listening(&server).await);
    one.wake.send([wake_up(1, false)]);
    assert_eq!(other.next().await, [wake_up(1, false)]);
    server.kill();
    one.wake.send([wake_up(2, false)]);
    server.restart().await;
    heard_by(&server, 2).await;
    one.wake.send([wake_up(3, false)]);
    let mut heard = Vec::new();
    while !heard.contains(&wake_up(3, false)) {
        heard.extend(other.next().await);
    }
}

#[tokio::test]
async fn nonsense_on_the_channel_is_passed_over() {
    let Some(server) = RedisServer::start().await else { return };
    let node = Node::listening(&server).await;
    for message in ["", "x", "someone 1:2:3:4,,a:b", "someone 1:7"] {
        server.command::<()>(&["PUBLISH", CHANNEL, message]).await;
    }
    assert_eq!(node.next().await, [wake_up(1, false)]);
}

#[tokio::test]
async fn without_redis_a_process_wakes_itself_and_ends_when_told() {
    let wake = Wake::open(None, true).unwrap();
    let node = Node::start(&wake);
    wake.send([wake_up(1, true)]);
    assert_eq!(node.next().await, [wake_up(1, true)]);
    node.stop.cancel();
    node.run.await.unwrap();
}

#[test]
fn an_unreadable_url_is_refused_without_its_password() {
    let config = config::Redis { url: "http://user:secret@host".into(), key_prefix: String::new() };
    let error = Wake::open(Some(&config), true).err().unwrap();
    assert!(!error.contains("secret"), "{error}");
}
