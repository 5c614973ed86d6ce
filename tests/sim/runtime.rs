//! A tiny executor with virtual time. Which of the tasks that could go on goes on is decided by the
//! seed, and so is everything else: the same seed gives the same run, step by step.
//!
//! Every task belongs to a process. A process can be killed (its tasks are dropped where they stand)
//! and paused (its tasks stand still while timers and the others go on).

use std::{
    cell::{Cell, RefCell, RefMut},
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

/// Virtual time in microseconds.
pub type Micros = i64;

/// Events that a failing seed shows.
const TRACED: usize = 400;

/// Number of a process; 0 is the world itself, which is never killed or paused.
pub type ProcessId = u32;

/// The world's own process.
pub const WORLD: ProcessId = 0;

/// A handle to the executor; cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Rc<Inner>,
}

struct Inner {
    now: Cell<Micros>,
    /// What monotonic clocks start from: the product's own code reads `Instant`s.
    base: Instant,
    rng: RefCell<fastrand::Rng>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    ready: RefCell<Vec<u64>>,
    woken: Arc<Mutex<Vec<u64>>>,
    timers: RefCell<BinaryHeap<Reverse<(Micros, u64, TimerId)>>>,
    sleepers: RefCell<BTreeMap<TimerId, Waker>>,
    next_timer: Cell<TimerId>,
    paused: RefCell<HashSet<ProcessId>>,
    trace: RefCell<VecDeque<(Micros, String)>>,
    tracing: bool,
    steps: Cell<u64>,
}

type TimerId = u64;

struct Task {
    process: ProcessId,
    /// Taken out while it is polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Waker,
    queued: bool,
}

struct TaskWaker {
    task: u64,
    woken: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<TaskWaker>) {
        self.woken.lock().unwrap().push(self.task);
    }
}

impl Runtime {
    /// `tracing`: keep the last events in words. They cost most of the time, so a seed is run
    /// without and, when it fails, once more with them.
    pub fn new(seed: u64, tracing: bool) -> Runtime {
        let inner = Inner {
            // 2026-01-01: an ordinary moment, so that times look like times.
            now: Cell::new(1_767_225_600_000_000),
            base: model_asynch::clock::tick(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            ready: RefCell::default(),
            woken: Arc::default(),
            timers: RefCell::default(),
            sleepers: RefCell::default(),
            next_timer: Cell::new(0),
            paused: RefCell::default(),
            trace: RefCell::default(),
            tracing,
            steps: Cell::new(0),
        };
        Runtime { inner: Rc::new(inner) }
    }

    pub fn now(&self) -> Micros {
        self.inner.now.get()
    }

    /// A process's monotonic clock.
    pub fn tick(&self) -> Instant {
        self.inner.base + Duration::from_micros(self.now() as u64)
    }

    pub fn rng(&self) -> RefMut<'_, fastrand::Rng> {
        self.inner.rng.borrow_mut()
    }

    pub fn steps(&self) -> u64 {
        self.inner.steps.get()
    }

    /// True with that probability.
    pub fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.rng().f64() < probability
    }

    /// A moment between the two, most of them near the first.
    pub fn between(&self, least: Duration, most: Duration) -> Duration {
        let part = self.rng().f64();
        least + most.saturating_sub(least).mul_f64(part * part)
    }

    /// As `clock::jittered`.
    pub fn jittered(&self, base: Duration) -> Duration {
        base.mul_f64(0.5 + self.rng().f64())
    }

    /// Notes an event for the trace of a failing seed.
    pub fn note(&self, event: impl FnOnce() -> String) {
        if self.inner.tracing {
            let mut trace = self.inner.trace.borrow_mut();
            if trace.len() == TRACED {
                trace.pop_front();
            }
            trace.push_back((self.now(), event()));
        }
    }

    /// The last events.
    pub fn trace(&self) -> Trace {
        Trace(self.inner.trace.borrow().iter().cloned().collect())
    }

    pub fn spawn(&self, process: ProcessId, future: impl Future<Output = ()> + 'static) {
        let id = self.inner.next_task.get();
        self.inner.next_task.set(id + 1);
        let waker = Waker::from(Arc::new(TaskWaker { task: id, woken: self.inner.woken.clone() }));
        let task = Task { process, future: Some(Box::pin(future)), waker, queued: true };
        self.inner.tasks.borrow_mut().insert(id, task);
        self.inner.ready.borrow_mut().push(id);
    }

    /// Drops every task of a process where it stands.
    pub fn kill(&self, process: ProcessId) {
        let mut killed = Vec::new();
        self.inner.tasks.borrow_mut().retain(|_, task| {
            let keep = task.process != process;
            if !keep {
                killed.extend(task.future.take());
            }
            keep
        });
        self.inner.paused.borrow_mut().remove(&process);
        // Dropped here, where nothing is borrowed: what they drop may wake others.
        drop(killed);
    }

    /// Drops everything, so that nothing holds on to anything in a circle.
    pub fn clear(&self) {
        let tasks = self.inner.tasks.take();
        drop(tasks);
        let _sleepers = self.inner.sleepers.take();
    }

    pub fn pause(&self, process: ProcessId) {
        self.inner.paused.borrow_mut().insert(process);
    }

    pub fn resume(&self, process: ProcessId) {
        self.inner.paused.borrow_mut().remove(&process);
    }

    pub fn is_paused(&self, process: ProcessId) -> bool {
        self.inner.paused.borrow().contains(&process)
    }

    pub fn sleep(&self, time: Duration) -> Sleep {
        let at = self.now().saturating_add(time.as_micros() as Micros);
        Sleep { runtime: self.clone(), at, timer: None }
    }

    /// The outcome, or `None` where it does not come in time.
    pub async fn within<T>(&self, time: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut sleep = self.sleep(time);
        std::future::poll_fn(move |context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            Pin::new(&mut sleep).poll(context).map(|()| None)
        })
        .await
    }

    /// Lets one task go on, or the time go on to the next timer; false when there is nothing left.
    pub fn step(&self) -> bool {
        self.inner.steps.set(self.inner.steps.get() + 1);
        self.collect_woken();
        let Some(id) = self.pick() else { return self.advance() };
        let taken = self.inner.tasks.borrow_mut().get_mut(&id).map(|task| {
            task.queued = false;
            (task.future.take(), task.waker.clone())
        });
        let Some((Some(mut future), waker)) = taken else { return true };
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut done = None;
        {
            let mut tasks = self.inner.tasks.borrow_mut();
            match (polled, tasks.get_mut(&id)) {
                (Poll::Pending, Some(task)) => task.future = Some(future),
                (Poll::Ready(()), _) => {
                    done = tasks.remove(&id);
                    drop(tasks);
                    drop(future);
                }
                // It killed its own process.
                (Poll::Pending, None) => {
                    drop(tasks);
                    drop(future);
                }
            }
        }
        drop(done);
        true
    }

    fn collect_woken(&self) {
        let woken = std::mem::take(&mut *self.inner.woken.lock().unwrap());
        let mut tasks = self.inner.tasks.borrow_mut();
        let mut ready = self.inner.ready.borrow_mut();
        for id in woken {
            if let Some(task) = tasks.get_mut(&id).filter(|task| !task.queued) {
                task.queued = true;
                ready.push(id);
            }
        }
    }

    /// One of the tasks that can go on and may.
    fn pick(&self) -> Option<u64> {
        let tasks = self.inner.tasks.borrow();
        let paused = self.inner.paused.borrow();
        let mut ready = self.inner.ready.borrow_mut();
        ready.retain(|id| tasks.contains_key(id));
        if paused.is_empty() {
            let count = ready.len();
            return (count > 0).then(|| ready.swap_remove(self.rng().usize(..count)));
        }
        let may: Vec<usize> = (0..ready.len()).filter(|&n| !paused.contains(&tasks[&ready[n]].process)).collect();
        (!may.is_empty()).then(|| ready.swap_remove(may[self.rng().usize(..may.len())]))
    }

    fn advance(&self) -> bool {
        loop {
            let Some(Reverse((at, _, timer))) = self.inner.timers.borrow_mut().pop() else { return false };
            // One that was dropped is not there any more and does not move the clock.
            let Some(waker) = self.inner.sleepers.borrow_mut().remove(&timer) else { continue };
            self.inner.now.set(self.now().max(at));
            waker.wake();
            return true;
        }
    }
}

/// Ends when its time has come.
pub struct Sleep {
    runtime: Runtime,
    at: Micros,
    timer: Option<TimerId>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Sleep>, context: &mut Context<'_>) -> Poll<()> {
        let inner = self.runtime.inner.clone();
        if inner.now.get() >= self.at {
            return Poll::Ready(());
        }
        let at = self.at;
        let timer = *self.timer.get_or_insert_with(|| {
            let timer = inner.next_timer.get();
            inner.next_timer.set(timer + 1);
            // Timers of one moment go off in an order of the seed's.
            let order = inner.rng.borrow_mut().u64(..);
            inner.timers.borrow_mut().push(Reverse((at, order, timer)));
            timer
        });
        inner.sleepers.borrow_mut().insert(timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.runtime.inner.sleepers.borrow_mut().remove(&timer);
        }
    }
}

/// The end of a run in words.
pub struct Trace(Vec<(Micros, String)>);

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, event) in &self.0 {
            writeln!(f, "  {:>12.6}  {event}", (at - 1_767_225_600_000_000) as f64 / 1e6)?;
        }
        Ok(())
    }
}

/// A switch that is thrown once, as `CancellationToken`.
#[derive(Clone, Default)]
pub struct Switch {
    inner: Rc<(Cell<bool>, RefCell<Vec<Waker>>)>,
}

impl Switch {
    pub fn throw(&self) {
        self.inner.0.set(true);
        for waker in self.inner.1.take() {
            waker.wake();
        }
    }

    pub fn is_thrown(&self) -> bool {
        self.inner.0.get()
    }

    pub async fn thrown(&self) {
        std::future::poll_fn(|context| {
            if self.is_thrown() {
                return Poll::Ready(());
            }
            self.inner.1.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
