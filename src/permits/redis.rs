//! Permits kept in Redis: `sem:{model}:tenant` is a sorted set of leases, added to only in Lua.
//!
//! A member is this process' epoch and a sequence number, its score the expiry on Redis' clock. The
//! braces are a hash tag: the sets of a model's lanes and of the model itself share a cluster slot. The
//! set of a tenant that is limited over all models, `sem:tenant:{tenant}`, cannot share one with all of
//! them, so such limits want a Redis that is no cluster.
//!
//! This node's side knows every permit that is out, whether or not Redis could be told of it. That
//! is what makes the gate heal: all of them are added again three times in a permit's life, and all
//! at once before a breaker closes. Calls to Redis go out one after the other, so that a permit
//! dropped while a renewal is under way is taken out after that renewal, never before it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{AsyncConnectionConfig, FromRedisValue, Pipeline, Script, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock, config,
    permits::{Ask, breaker::Breaker},
    task::Lane,
};

/// Longest wait for any answer of Redis, connecting included. Redis that is slower than this holds
/// up the dispatcher for longer than a poll would.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Tries of one errand before it is left to the next occasion; as many failures open the breaker.
const TRIES: u32 = 3;

/// Time between looks whether Redis is back.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long `run` waits at the end for permits that are still out; later ones expire.
const DRAIN_FOR: Duration = Duration::from_secs(5);

/// Members renewed or given back in one round trip, so that no script holds Redis up for long.
const BATCH: usize = 500;

/// Members waiting to be given back while Redis is away. More than this are left to expire: the
/// first ones are those Redis knows of, later ones were granted without it.
const MAX_RETURNED: usize = 20_000;

/// The gate of one node; cheap to clone.
#[derive(Clone)]
pub struct RedisPermits {
    gate: Arc<Gate>,
}

/// One permit; dropping it hands its member to the run loop, or to the next ask.
pub(super) struct RedisPermit {
    gate: Arc<Gate>,
    seq: u64,
}

struct Gate {
    keys: Keys,
    /// Held for one round trip at a time. Whoever reads `state` to tell Redis of it does so while
    /// holding this.
    link: tokio::sync::Mutex<Link>,
    state: Mutex<State>,
    /// A permit came back, or the breaker opened: the run loop should look.
    stirred: Notify,
}

/// How this node's members are written.
struct Keys {
    prefix: String,
    /// Fresh per process, so that a restarted node never renews what its predecessor held.
    epoch: String,
    ttl: Duration,
}

struct State {
    /// Sequence number of the next member; never used twice.
    next: u64,
    /// Every permit that is out, with or without Redis knowing.
    live: BTreeMap<u64, Place>,
    /// Given back, but Redis was not told yet.
    returned: VecDeque<(u64, Place)>,
    breaker: Breaker,
}

/// The sets that a member is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    lane: Lane,
    /// In the model's set too, because the model has a `totalConcurrency`.
    in_total: bool,
    /// In the tenant's set too, because the tenant has a limit over all models.
    in_cap: bool,
}

/// Members that Redis may or may not have added. Given back when dropped, so that neither an error
/// nor a caller that stops waiting leaves members behind that nobody holds.
struct Offer<'a> {
    gate: &'a Arc<Gate>,
    place: Place,
    seqs: Range<u64>,
}

/// The connection, made when first needed and again after every error.
struct Link {
    client: redis::Client,
    acquire: Script,
    renew: Script,
    connection: Option<MultiplexedConnection>,
}

/// Why Redis did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// It cannot be connected to, or does not answer in time: asking again would only take longer.
    #[error("redis is out of reach: {0}")]
    OutOfReach(String),
    /// It answered with an error, or the connection broke: asking again may help.
    #[error("redis failed: {0}")]
    Failed(String),
}

impl RedisPermits {
    pub(super) fn open(config: &config::Redis, ttl: Duration) -> Result<RedisPermits, String> {
        let client = redis::Client::open(config.url.as_str())
            .map_err(|error| format!("cannot be read, it should look like redis://host:6379/0: {error}"))?;
        let link = Link {
            client,
            acquire: Script::new(include_str!("acquire.lua")),
            renew: Script::new(include_str!("renew.lua")),
            connection: None,
        };
        let keys = Keys { prefix: config.key_prefix.clone(), epoch: clock::token(), ttl };
        let state = State { next: 0, live: BTreeMap::new(), returned: VecDeque::new(), breaker: Breaker::default() };
        let (link, state) = (tokio::sync::Mutex::new(link), Mutex::new(state));
        Ok(RedisPermits { gate: Arc::new(Gate { keys, link, state, stirred: Notify::new() }) })
    }

    pub(super) async fn try_acquire(&self, asks: &[Ask]) -> Vec<Vec<RedisPermit>> {
        if asks.is_empty() {
            return Vec::new();
        }
        if let Some(granted) = self.gate.insist(|| self.ask(asks)).await {
            return granted;
        }
        let nothing = || asks.iter().map(|_| Vec::new()).collect();
        self.gate.grant_unguarded(asks).unwrap_or_else(nothing)
    }

    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut renewals = every(self.gate.keys.ttl / 3);
        let mut probes = every(PROBE_EVERY);
        loop {
            let open = self.gate.is_open();
            tokio::select! {
                () = stop.cancelled() => break,
                _ = probes.tick(), if open => self.recover().await,
                _ = renewals.tick(), if !open => {
                    self.renew().await;
                    self.flush().await;
                }
                () = self.gate.stirred.notified() => self.flush().await,
            }
        }
        // Whatever is not back by then expires by itself.
        timeout(DRAIN_FOR, self.drain()).await.ok();
    }

    pub(super) fn held(&self) -> usize {
        self.gate.state().live.len()
    }

    pub(super) fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    pub(super) async fn ping(&self) -> Result<(), String> {
        let sign_of_life = async { self.gate.link.lock().await.query::<()>(redis::pipe().cmd("PING")).await };
        // Longer than one call, because one of the gate's own may be under way.
        match timeout(CALL_TIMEOUT * 2, sign_of_life).await {
            Ok(answer) => answer.map_err(|trouble| trouble.to_string()),
            Err(_) => Err(Trouble::silent().to_string()),
        }
    }

    /// Asks Redis. What was given back before goes out in the same round trip, ahead of the asks.
    async fn ask(&self, asks: &[Ask]) -> Result<Vec<Vec<RedisPermit>>, Trouble> {
        let gate = &self.gate;
        let mut link = gate.link.lock().await;
        if let Some(granted) = gate.grant_unguarded(asks) {
            // The breaker opened while this ask waited for its turn.
            return Ok(granted);
        }
        let mut calls = redis::pipe();
        let returned: Vec<(u64, Place)> = gate.state().returned.iter().copied().collect();
        gate.keys.add_returns(&mut calls, &returned);
        let offers: Vec<Offer<'_>> = asks.iter().map(|ask| gate.offer(ask)).collect();
        for (offer, ask) in offers.iter().zip(asks) {
            gate.keys.add_ask(&mut calls, &link.acquire, offer, ask);
        }
        let granted: Vec<u64> = link.query(&calls).await?;
        gate.state().returned.drain(..returned.len());
        Ok(offers.into_iter().zip(granted).map(|(offer, granted)| offer.accept(granted)).collect())
    }

    /// Tells Redis what was given back.
    async fn flush(&self) {
        self.gate.insist(|| self.gate.give_all_back()).await;
    }

    /// Adds every permit that is out again, whatever Redis knows.
    async fn renew(&self) {
        self.gate.insist(|| self.gate.register_all()).await;
    }

    /// Closes the breaker if Redis is back, but not before it knows every permit that is out.
    async fn recover(&self) {
        let gate = &self.gate;
        let mut link = gate.link.lock().await;
        if link.query::<()>(&gate.keys.probe()).await.is_err() {
            return;
        }
        let mut from = 0;
        while !gate.close_unless_more(from) {
            match gate.register(&mut link, from).await {
                Ok(Some(next)) => from = next,
                // Dropped in the meantime: the next look finds nothing either, and closes.
                Ok(None) => {}
                Err(_) => return,
            }
        }
        info!("redis is back: it keeps the limits again");
        // What came back during the outage is still to be told.
        gate.stirred.notify_one();
    }

    /// Gives back until nothing is out any more.
    async fn drain(&self) {
        loop {
            self.flush().await;
            {
                let state = self.gate.state();
                if state.live.is_empty() && (state.returned.is_empty() || state.breaker.is_open()) {
                    return;
                }
            }
            self.gate.stirred.notified().await;
        }
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change to the state is complete before anything could panic: poison means nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.state().breaker.is_open()
    }

    /// Runs an errand until it works, the breaker opens, or its tries are used up.
    async fn insist<T, F: Future<Output = Result<T, Trouble>>>(&self, errand: impl Fn() -> F) -> Option<T> {
        for _ in 0..TRIES {
            if self.is_open() {
                return None;
            }
            match errand().await {
                Ok(done) => {
                    self.state().breaker.succeeded();
                    return Some(done);
                }
                Err(trouble) => self.failed(&trouble),
            }
        }
        None
    }

    fn failed(&self, trouble: &Trouble) {
        let dead = matches!(trouble, Trouble::OutOfReach(_));
        if self.state().breaker.failed(clock::tick(), dead) {
            warn!(error = %trouble, "redis is gone: until it is back, the database alone keeps the limits");
            self.stirred.notify_one();
        }
    }

    /// Sequence numbers for what is asked.
    fn offer(self: &Arc<Gate>, ask: &Ask) -> Offer<'_> {
        let seqs = self.state().reserve(ask);
        Offer { gate: self, place: Place::of(ask), seqs }
    }

    /// Everything wanted, without asking; `None` while the breaker is closed. The permits are
    /// registered before it closes, which is why looking and granting are one step.
    fn grant_unguarded(self: &Arc<Gate>, asks: &[Ask]) -> Option<Vec<Vec<RedisPermit>>> {
        let mut state = self.state();
        if !state.breaker.is_open() {
            return None;
        }
        let grant = |ask: &Ask| {
            let seqs = state.reserve(ask);
            self.grant(&mut state, Place::of(ask), seqs)
        };
        Some(asks.iter().map(grant).collect())
    }

    fn grant(self: &Arc<Gate>, state: &mut State, place: Place, seqs: Range<u64>) -> Vec<RedisPermit> {
        state.live.extend(seqs.clone().map(|seq| (seq, place)));
        seqs.map(|seq| RedisPermit { gate: Arc::clone(self), seq }).collect()
    }

    /// Takes one permit out of the living. Nothing happens to one that is not there.
    fn drop_permit(&self, seq: u64) {
        let mut state = self.state();
        if let Some(place) = state.live.remove(&seq) {
            state.give_back(seq, place);
        }
        drop(state);
        self.stirred.notify_one();
    }

    async fn give_all_back(&self) -> Result<(), Trouble> {
        loop {
            let mut link = self.link.lock().await;
            let returned: Vec<(u64, Place)> = self.state().returned.iter().take(BATCH).copied().collect();
            if returned.is_empty() {
                return Ok(());
            }
            let mut calls = redis::pipe();
            self.keys.add_returns(&mut calls, &returned);
            link.query::<()>(&calls).await?;
            self.state().returned.drain(..returned.len());
        }
    }

    async fn register_all(&self) -> Result<(), Trouble> {
        let mut from = 0;
        loop {
            // The lock is let go between batches, so that asks get their turn.
            let mut link = self.link.lock().await;
            match self.register(&mut link, from).await? {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Adds one batch of the living again, from that sequence number on, and says where the next
    /// batch begins; `None` when there was nothing to add.
    async fn register(&self, link: &mut Link, from: u64) -> Result<Option<u64>, Trouble> {
        let batch: Vec<(u64, Place)> =
            self.state().live.range(from..).take(BATCH).map(|(seq, place)| (*seq, *place)).collect();
        let Some((last, _)) = batch.last() else { return Ok(None) };
        let mut calls = redis::pipe();
        self.keys.add_renewals(&mut calls, &link.renew, &batch);
        link.query::<()>(&calls).await?;
        Ok(Some(last + 1))
    }

    /// Closes the breaker unless a permit was granted that Redis was not told of. One step with
    /// looking, so that no grant falls between the two.
    fn close_unless_more(&self, from: u64) -> bool {
        let mut state = self.state();
        if state.live.range(from..).next().is_some() {
            return false;
        }
        state.breaker.close();
        true
    }
}

impl Place {
    fn of(ask: &Ask) -> Place {
        Place { lane: ask.lane, in_total: ask.total.is_some(), in_cap: ask.cap.is_some() }
    }
}

impl State {
    fn reserve(&mut self, ask: &Ask) -> Range<u64> {
        let first = self.next;
        self.next += u64::from(ask.want.min(ask.limit));
        first..self.next
    }

    fn give_back(&mut self, seq: u64, place: Place) {
        if self.returned.len() < MAX_RETURNED {
            self.returned.push_back((seq, place));
        }
    }
}

impl Offer<'_> {
    /// The first so many become permits; Redis did not add the others.
    fn accept(mut self, granted: u64) -> Vec<RedisPermit> {
        let seqs = std::mem::take(&mut self.seqs);
        let end = seqs.start.saturating_add(granted).min(seqs.end);
        self.gate.grant(&mut self.gate.state(), self.place, seqs.start..end)
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        if self.seqs.is_empty() {
            return;
        }
        let mut state = self.gate.state();
        for seq in self.seqs.clone() {
            state.give_back(seq, self.place);
        }
        drop(state);
        self.gate.stirred.notify_one();
    }
}

impl Drop for RedisPermit {
    fn drop(&mut self) {
        self.gate.drop_permit(self.seq);
    }
}

impl fmt::Debug for RedisPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisPermit({}:{})", self.gate.keys.epoch, self.seq)
    }
}

impl Keys {
    /// The lane's set, and the model's and the tenant's where they count.
    fn of(&self, place: Place) -> Vec<String> {
        let Lane { model, tenant } = place.lane;
        let total = format!("{}sem:{{{model}}}", self.prefix);
        let mut keys = vec![format!("{total}:{tenant}")];
        if place.in_total {
            keys.push(total);
        }
        if place.in_cap {
            keys.push(format!("{}sem:tenant:{{{tenant}}}", self.prefix));
        }
        keys
    }

    fn ttl_ms(&self) -> u64 {
        u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX)
    }

    fn add_ask(&self, calls: &mut Pipeline, script: &Script, offer: &Offer<'_>, ask: &Ask) {
        let keys = self.of(offer.place);
        calls.cmd("EVALSHA").arg(script.get_hash()).arg(keys.len()).arg(keys);
        calls.arg(self.ttl_ms()).arg(&self.epoch).arg(offer.seqs.start).arg(offer.seqs.end - offer.seqs.start);
        calls.arg(ask.limit).arg(ask.total).arg(ask.cap);
    }

    fn add_renewals(&self, calls: &mut Pipeline, script: &Script, batch: &[(u64, Place)]) {
        for (place, seqs) in by_place(batch) {
            let keys = self.of(place);
            calls.cmd("EVALSHA").arg(script.get_hash()).arg(keys.len()).arg(keys);
            calls.arg(self.ttl_ms()).arg(&self.epoch).arg(seqs).ignore();
        }
    }

    fn add_returns(&self, calls: &mut Pipeline, batch: &[(u64, Place)]) {
        for (place, seqs) in by_place(batch) {
            let members: Vec<String> = seqs.iter().map(|seq| format!("{}:{seq}", self.epoch)).collect();
            for key in self.of(place) {
                calls.cmd("ZREM").arg(key).arg(&members).ignore();
            }
        }
    }

    /// A write, because Redis that is full or a mere replica answers a PING just as well.
    fn probe(&self) -> Pipeline {
        let mut calls = redis::pipe();
        calls.cmd("SET").arg(format!("{}sem:probe", self.prefix)).arg(&self.epoch).arg("PX").arg(1000);
        calls
    }
}

impl Link {
    /// One round trip, within [`CALL_TIMEOUT`]. Any error costs the connection: the next one goes to
    /// where the name points then, and loads the scripts anew.
    async fn query<T: FromRedisValue>(&mut self, calls: &Pipeline) -> Result<T, Trouble> {
        let answer = match timeout(CALL_TIMEOUT, self.query_unbounded(calls)).await {
            Ok(answer) => answer,
            Err(_) => Err(Trouble::silent()),
        };
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    async fn query_unbounded<T: FromRedisValue>(&mut self, calls: &Pipeline) -> Result<T, Trouble> {
        let mut connection = match self.connection.clone() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|error| Trouble::OutOfReach(error.to_string()))?,
        };
        calls.query_async(&mut connection).await.map_err(|error| Trouble::Failed(error.to_string()))
    }

    async fn connect(&mut self) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        self.acquire.load_async(&mut connection).await?;
        self.renew.load_async(&mut connection).await?;
        Ok(self.connection.insert(connection).clone())
    }
}

impl Trouble {
    fn silent() -> Trouble {
        Trouble::OutOfReach(format!("no answer within {CALL_TIMEOUT:?}"))
    }
}

fn by_place(batch: &[(u64, Place)]) -> HashMap<Place, Vec<u64>> {
    let mut places: HashMap<Place, Vec<u64>> = HashMap::new();
    for (seq, place) in batch {
        places.entry(*place).or_default().push(*seq);
    }
    places
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period.max(Duration::from_millis(10)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
