//! Permits: Redis as a model (the two Lua scripts in Rust) and a node's side of the gate as
//! `permits::redis` has it, with the product's own breaker.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Duration,
};

use model_asynch::{
    permits::{Ask, breaker::Breaker},
    task::{Lane, ModelId, TenantId},
};
use tokio::sync::{Mutex, Notify};

use crate::{
    process::Process,
    runtime::Micros,
    watch::Board,
    world::{Away, Sim},
};

/// Life of a permit; shorter than the real one, so that a run sees many of them expire.
pub const TTL: Duration = Duration::from_secs(9);

const TRIES: u32 = 3;

/// Redis: sets of leases, and the watchers' words.
#[derive(Default)]
pub struct Redis {
    sets: HashMap<Key, BTreeMap<Member, Micros>>,
    pub board: Board,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Lane(Lane),
    Model(ModelId),
    Tenant(TenantId),
}

/// Epoch and sequence number.
type Member = (u32, u64);

/// The sets that a member is in.
#[derive(Debug, Clone, Copy)]
struct Place {
    lane: Lane,
    in_total: bool,
    in_cap: bool,
}

impl Place {
    fn keys(self) -> impl Iterator<Item = Key> {
        let Lane { model, tenant } = self.lane;
        let total = self.in_total.then_some(Key::Model(model));
        [Some(Key::Lane(self.lane)), total, self.in_cap.then_some(Key::Tenant(tenant))].into_iter().flatten()
    }
}

impl Redis {
    /// Permits out in a lane; those that expired not.
    pub fn out(&self, lane: Lane, now: Micros) -> usize {
        self.count(Key::Lane(lane), now)
    }

    /// Permits out over all tenants.
    pub fn out_total(&self, model: ModelId, now: Micros) -> usize {
        self.count(Key::Model(model), now)
    }

    /// Permits out over all models.
    pub fn out_cap(&self, tenant: TenantId, now: Micros) -> usize {
        self.count(Key::Tenant(tenant), now)
    }

    pub fn flush(&mut self) {
        self.sets.clear();
        self.board = Board::default();
    }

    fn count(&self, key: Key, now: Micros) -> usize {
        self.sets.get(&key).map_or(0, |set| set.values().filter(|until| **until > now).count())
    }

    fn acquire(&mut self, place: Place, epoch: u32, first: u64, ask: &Ask, now: Micros) -> u64 {
        let mut room = u64::from(ask.want);
        let limits = [Some(ask.limit), ask.total, ask.cap].into_iter().flatten();
        for (key, limit) in place.keys().zip(limits) {
            let set = self.sets.entry(key).or_default();
            set.retain(|_, until| *until > now);
            room = room.min(u64::from(limit).saturating_sub(set.len() as u64));
        }
        for seq in first..first + room {
            self.add(place, (epoch, seq), now);
        }
        room
    }

    fn add(&mut self, place: Place, member: Member, now: Micros) {
        for key in place.keys() {
            self.sets.entry(key).or_default().insert(member, now + TTL.as_micros() as Micros);
        }
    }

    fn remove(&mut self, place: Place, member: Member) {
        for key in place.keys() {
            if let Some(set) = self.sets.get_mut(&key) {
                set.remove(&member);
            }
        }
    }
}

/// A node's side.
#[derive(Clone)]
pub struct Gate {
    inner: Rc<Inner>,
}

struct Inner {
    sim: Sim,
    epoch: u32,
    link: Mutex<()>,
    state: RefCell<State>,
    stirred: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    live: BTreeMap<u64, Place>,
    returned: Vec<(u64, Place)>,
    breaker: Breaker,
}

/// The right to have one call running.
pub struct Permit {
    gate: Gate,
    seq: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.inner.state.borrow_mut();
        if let Some(place) = state.live.remove(&self.seq) {
            state.returned.push((self.seq, place));
        }
        self.gate.inner.stirred.notify_one();
    }
}

impl Gate {
    pub fn new(sim: &Sim, epoch: u32) -> Gate {
        let (link, state) = (Mutex::new(()), RefCell::default());
        Gate { inner: Rc::new(Inner { sim: sim.clone(), epoch, link, state, stirred: Notify::new() }) }
    }

    pub async fn try_acquire(&self, process: &Rc<Process>, asks: &[Ask]) -> Vec<Vec<Permit>> {
        for _ in 0..TRIES {
            if self.is_open() {
                break;
            }
            match self.ask(process, asks).await {
                Ok(granted) => {
                    self.inner.state.borrow_mut().breaker.succeeded();
                    return granted;
                }
                Err(away) => self.failed(&away),
            }
        }
        self.unguarded(asks).unwrap_or_else(|| asks.iter().map(|_| Vec::new()).collect())
    }

    /// Renews and gives back for as long as the process lives.
    pub async fn run(&self, process: &Rc<Process>) {
        let rt = &self.inner.sim.rt;
        let mut renewal = rt.sleep(TTL / 3);
        loop {
            if self.is_open() {
                rt.sleep(Duration::from_secs(1)).await;
                self.recover(process).await;
                continue;
            }
            tokio::select! {
                biased;
                () = &mut renewal => {
                    self.renew(process).await;
                    renewal = rt.sleep(TTL / 3);
                }
                () = self.inner.stirred.notified() => {}
            }
            self.flush(process).await;
        }
    }

    fn is_open(&self) -> bool {
        self.inner.state.borrow().breaker.is_open()
    }

    fn failed(&self, away: &Away) {
        let dead = *away == Away::OutOfReach;
        if self.inner.state.borrow_mut().breaker.failed(self.inner.sim.rt.tick(), dead) {
            self.inner.stirred.notify_one();
        }
    }

    async fn ask(&self, process: &Rc<Process>, asks: &[Ask]) -> Result<Vec<Vec<Permit>>, Away> {
        let _link = self.inner.link.lock().await;
        if let Some(granted) = self.unguarded(asks) {
            return Ok(granted);
        }
        let epoch = self.inner.epoch;
        let returned = self.inner.state.borrow().returned.clone();
        let offers: Vec<(Ask, Place, u64)> = asks.iter().map(|ask| (*ask, place(ask), self.reserve(ask))).collect();
        let (back, wanted) = (returned.clone(), offers.clone());
        let answer = self.inner.sim.redis(process, move |redis, now| {
            for (seq, place) in back {
                redis.remove(place, (epoch, seq));
            }
            let acquire = |(ask, place, first): (Ask, Place, u64)| redis.acquire(place, epoch, first, &ask, now);
            wanted.into_iter().map(acquire).collect::<Vec<u64>>()
        });
        let granted = match answer.await {
            Ok(granted) => granted,
            Err(away) => {
                // It may have added them: they are given back in any case.
                let mut state = self.inner.state.borrow_mut();
                for (ask, place, first) in offers {
                    state.returned.extend((first..first + u64::from(ask.want)).map(|seq| (seq, place)));
                }
                return Err(away);
            }
        };
        let mut state = self.inner.state.borrow_mut();
        state.returned.drain(..returned.len());
        Ok(offers
            .into_iter()
            .zip(granted)
            .map(|((_, place, first), granted)| {
                state.live.extend((first..first + granted).map(|seq| (seq, place)));
                (first..first + granted).map(|seq| Permit { gate: self.clone(), seq }).collect()
            })
            .collect())
    }

    fn reserve(&self, ask: &Ask) -> u64 {
        let mut state = self.inner.state.borrow_mut();
        let first = state.next;
        state.next += u64::from(ask.want);
        first
    }

    /// Everything wanted, without asking; `None` while the breaker is closed.
    fn unguarded(&self, asks: &[Ask]) -> Option<Vec<Vec<Permit>>> {
        if !self.is_open() {
            return None;
        }
        let grant = |ask: &Ask| {
            let first = self.reserve(ask);
            let seqs = first..first + u64::from(ask.want);
            self.inner.state.borrow_mut().live.extend(seqs.clone().map(|seq| (seq, place(ask))));
            seqs.map(|seq| Permit { gate: self.clone(), seq }).collect()
        };
        Some(asks.iter().map(grant).collect())
    }

    async fn flush(&self, process: &Rc<Process>) {
        let _link = self.inner.link.lock().await;
        let returned = self.inner.state.borrow().returned.clone();
        if returned.is_empty() || self.is_open() {
            return;
        }
        let (count, epoch) = (returned.len(), self.inner.epoch);
        let told = self.inner.sim.redis(process, move |redis, _| {
            for (seq, place) in returned {
                redis.remove(place, (epoch, seq));
            }
        });
        match told.await {
            Ok(()) => drop(self.inner.state.borrow_mut().returned.drain(..count)),
            Err(away) => self.failed(&away),
        }
    }

    async fn renew(&self, process: &Rc<Process>) {
        let _link = self.inner.link.lock().await;
        if let Err(away) = self.register(process).await {
            self.failed(&away);
        }
    }

    async fn register(&self, process: &Rc<Process>) -> Result<(), Away> {
        let live: Vec<(u64, Place)> = self.inner.state.borrow().live.iter().map(|(seq, at)| (*seq, *at)).collect();
        let epoch = self.inner.epoch;
        let tell = move |redis: &mut Redis, now| {
            for (seq, place) in live {
                redis.add(place, (epoch, seq), now);
            }
        };
        self.inner.sim.redis(process, tell).await
    }

    /// Closes the breaker if Redis is back and knows every permit that is out.
    async fn recover(&self, process: &Rc<Process>) {
        let _link = self.inner.link.lock().await;
        loop {
            let known = self.inner.state.borrow().next;
            if self.register(process).await.is_err() {
                return;
            }
            let mut state = self.inner.state.borrow_mut();
            if state.live.range(known..).next().is_none() {
                state.breaker.close();
                self.inner.stirred.notify_one();
                return;
            }
        }
    }
}

fn place(ask: &Ask) -> Place {
    Place { lane: ask.lane, in_total: ask.total.is_some(), in_cap: ask.cap.is_some() }
}
