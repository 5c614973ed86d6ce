//! What came of it, judged from outside: the models' record of calls, the files that storage holds,
//! and the service's answers. Nothing here looks into the database.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    clients::{LANES, Ledger, SHARED_TOTAL, Task},
    model::{Call, End, Payload, by_task},
    node,
    schedule::SCENARIOS,
    world::{Fault, LEASE, What, World},
};

/// A caller that hangs up is noticed a moment later than it lets the next call go.
const HANG_UP: Duration = Duration::from_millis(500);

/// A paused node keeps its lease for at least this long: it was renewed a sixth of the lease ago at
/// most.
const HELD_IN_PAUSE: Duration = Duration::from_millis(LEASE * 1000 / 2);

/// The outcome of one scenario.
#[derive(Debug, Default, Clone)]
pub struct Row {
    pub tasks: usize,
    pub faults: usize,
    pub lost: usize,
    pub twice: usize,
    pub unexplained: usize,
    pub over_limit: usize,
    pub stuck: usize,
    pub recovery: Duration,
}

/// The outcome of all, and what was wrong in words.
pub struct Verdict {
    pub rows: Vec<Row>,
    pub wrong: Vec<String>,
    pub calls: usize,
    pub stalls: usize,
    /// Kill points at which a node died.
    pub points: BTreeSet<String>,
}

struct Judge<'a> {
    world: &'a World,
    calls: &'a [Call],
    faults: Vec<Fault>,
    /// Who made a call, by task and attempt.
    callers: HashMap<(String, u32), usize>,
    accepted: HashMap<String, Task>,
    verdict: Verdict,
}

/// Judges the run. `listed` is every task as listTask shows it at the end.
pub fn judge(world: &World, ledger: &Ledger, listed: &[Value]) -> Verdict {
    let calls = world.models.calls();
    let faults = world.faults.lock().unwrap().clone();
    let verdict = Verdict {
        rows: vec![Row::default(); SCENARIOS.len()],
        wrong: world.trouble.lock().unwrap().clone(),
        calls: calls.len(),
        points: faults
            .iter()
            .filter_map(|fault| fault.detail.split_once(':'))
            .map(|(name, _)| name.to_owned())
            .collect(),
        stalls: faults.iter().filter(|fault| fault.what == What::Stall).count(),
    };
    let callers = node::callers(world.logs(), world.incarnations());
    let accepted = ledger.accepted.lock().unwrap().clone();
    let mut judge = Judge { world, calls: &calls, faults, callers, accepted, verdict };
    judge.unknown_callers();
    judge.tasks();
    judge.strangers(ledger, listed);
    judge.repeated_calls();
    judge.limits();
    judge.recovery();
    judge.verdict
}

impl Judge<'_> {
    fn wrong(&mut self, what: String) {
        self.verdict.wrong.push(what);
    }

    /// Without the caller of a call nothing could be said about its lease.
    fn unknown_callers(&mut self) {
        let calls = self.calls;
        for Call { task, attempt, .. } in calls {
            if !self.callers.contains_key(&(task.clone(), *attempt)) {
                self.wrong(format!("UNEXPLAINED: no node's log has the call of {task} attempt {attempt}"));
            }
        }
    }

    /// Every accepted task has the end that its model gave it, and its file is what the model sent.
    fn tasks(&mut self) {
        let calls = self.calls;
        let by_task = by_task(calls);
        for (id, task) in self.accepted.clone() {
            self.verdict.rows[task.scenario].tasks += 1;
            let Some((state, _)) = task.done else {
                self.verdict.rows[task.scenario].stuck += 1;
                self.wrong(format!("STUCK: {id} of lane {} never ended", task.lane));
                continue;
            };
            let calls = by_task.get(id.as_str()).map_or(&[][..], Vec::as_slice);
            if let Err(why) = self.well_ended(&task, state, calls) {
                self.verdict.rows[task.scenario].lost += 1;
                self.wrong(format!("LOST: {id} of lane {} ended in state {state}: {why}", task.lane));
            }
        }
        for fault in &self.faults {
            self.verdict.rows[fault.scenario].faults += 1;
        }
        let lost = self.verdict.wrong.iter().filter(|wrong| wrong.starts_with("LOST: getTaskBatch")).count();
        self.verdict.rows[0].lost += lost;
    }

    fn well_ended(&self, task: &Task, state: i64, calls: &[&Call]) -> Result<(), String> {
        match (task.refuse, state) {
            (true, 3) => return Ok(()),
            (false, 2 | 4) => {}
            _ => return Err("not the end that its model gave it".to_owned()),
        }
        let stored = self.world.files.at(&task.file).ok_or("its file is not in storage")?;
        let winner = calls.iter().find(|call| format!("{} {}", call.task, call.attempt) == stored.label);
        let sent = winner.and_then(|call| call.sent).ok_or("its file is of no attempt that the model answered")?;
        if sent == (stored.size, stored.crc) { Ok(()) } else { Err("its file is not what the model sent".to_owned()) }
    }

    /// Tasks that nobody was promised come from requests that got no answer, and end as well.
    fn strangers(&mut self, ledger: &Ledger, listed: &[Value]) {
        let unanswered = ledger.unanswered.lock().unwrap();
        let mut seen = HashSet::new();
        for row in listed {
            let (id, state) = (row["taskId"].as_str().unwrap(), row["state"].as_i64().unwrap());
            if !seen.insert(id.to_owned()) {
                continue;
            }
            if state < 2 && !self.accepted.contains_key(id) {
                self.verdict.rows[0].stuck += 1;
                self.wrong(format!("STUCK: {id} never ended: {row}"));
            }
            let payload: Payload = serde_json::from_value(row["requestPayload"].clone()).unwrap();
            if !self.accepted.contains_key(id) && !unanswered.contains_key(&payload.n) {
                self.wrong(format!("{id} was created by nobody"));
            }
        }
        for id in self.accepted.keys().filter(|id| !seen.contains(*id)).cloned().collect::<Vec<_>>() {
            self.verdict.rows[0].lost += 1;
            self.wrong(format!("LOST: listTask does not know {id}"));
        }
    }

    /// A call that did not fail by the model's own doing is only repeated where a fault tells why.
    fn repeated_calls(&mut self) {
        let calls = self.calls;
        for (id, calls) in by_task(calls) {
            for pair in calls.windows(2) {
                let (first, second) = (pair[0], pair[1]);
                let scenario = self.scenario_at(second.began);
                if second.attempt <= first.attempt {
                    self.verdict.rows[scenario].unexplained += 1;
                    let (now, before) = (second.attempt, first.attempt);
                    self.wrong(format!("UNEXPLAINED: attempt {now} of {id} was called after attempt {before}"));
                }
                if first.end == End::Failed {
                    continue;
                }
                self.verdict.rows[scenario].twice += 1;
                if !self.explained(first, second) {
                    self.verdict.rows[scenario].unexplained += 1;
                    let caller = self.caller(first);
                    self.wrong(format!(
                        "UNEXPLAINED: {id} attempt {} of node {caller:?} ended {:?}, and attempt {} of node {:?} was called",
                        first.attempt, first.end, second.attempt, self.caller(second),
                    ));
                }
            }
        }
    }

    fn explained(&self, first: &Call, second: &Call) -> bool {
        let caller = self.caller(first);
        self.faults.iter().any(|fault| {
            let (about_it, until) = match fault.what {
                What::Killed | What::Paused | What::Stopped | What::DiskFull => {
                    (fault.incarnation == caller, fault.until)
                }
                // A lease that could not be renewed meanwhile is given up within its length.
                What::Database | What::Stall => (true, fault.until + Duration::from_secs(LEASE)),
                What::Redis | What::Storage | What::Models => (false, fault.until),
            };
            about_it && fault.at <= second.began && until >= first.began
        })
    }

    fn caller(&self, call: &Call) -> Option<usize> {
        self.callers.get(&(call.task.clone(), call.attempt)).copied()
    }

    /// Calls of a lane, and of the shared model, that ran at once under live leases.
    fn limits(&mut self) {
        let mut limits: BTreeMap<String, usize> = LANES.iter().map(|lane| (lane.name(), lane.limit)).collect();
        limits.insert("shared".to_owned(), SHARED_TOTAL);
        for (name, limit) in limits {
            let mut edges: Vec<(Instant, i32)> = Vec::new();
            for call in self.calls.iter().filter(|call| call.lane == name || call.lane.ends_with(&format!("/{name}"))) {
                let end = self.end_of_lease(call);
                if end > call.began {
                    edges.extend([(call.began, 1), (end, -1)]);
                }
            }
            // Ends first where times are equal.
            edges.sort_by_key(|(at, step)| (*at, *step));
            let (mut running, mut over) = (0, false);
            for (at, step) in edges {
                running += step;
                let now_over = usize::try_from(running).unwrap_or_default() > limit;
                if now_over && !over {
                    let scenario = self.scenario_at(at);
                    self.verdict.rows[scenario].over_limit += 1;
                    self.wrong(format!("OVER THE LIMIT: {running} calls of {name} at once, {limit} are allowed"));
                }
                over = now_over;
            }
        }
    }

    /// When a call stopped counting: it ended, or its node died or was paused for too long.
    fn end_of_lease(&self, call: &Call) -> Instant {
        let end = match (call.ended, call.end) {
            (None, _) => Instant::now(),
            (Some(at), End::Dropped | End::Failed) => at.checked_sub(HANG_UP).unwrap_or(at),
            (Some(at), End::Answered | End::Open) => at,
        };
        let caller = self.caller(call);
        let cut = self.faults.iter().filter(|fault| fault.until >= call.began).filter_map(|fault| match fault.what {
            What::Killed if fault.incarnation == caller => Some(fault.at),
            What::Paused if fault.incarnation == caller => Some(fault.at + HELD_IN_PAUSE),
            What::Stall => Some(fault.at + HELD_IN_PAUSE),
            _ => None,
        });
        cut.fold(end, Instant::min)
    }

    /// The longest time until what a node held ran again, and until anything ended after an outage.
    fn recovery(&mut self) {
        let tasks = by_task(self.calls);
        let mut ends: Vec<Instant> = self.accepted.values().filter_map(|task| Some(task.done?.1)).collect();
        ends.sort_unstable();
        for fault in &self.faults {
            let interrupted = |call: &Call| {
                self.caller(call) == fault.incarnation
                    && call.began <= fault.at
                    && call.ended.is_none_or(|ended| ended >= fault.at)
            };
            let recovered = match fault.what {
                What::Killed | What::Paused | What::Stopped => tasks
                    .values()
                    .flat_map(|calls| calls.windows(2))
                    .filter(|pair| interrupted(pair[0]))
                    .map(|pair| pair[1].began.saturating_duration_since(fault.at))
                    .max(),
                What::Stall => None,
                What::DiskFull | What::Redis | What::Database | What::Storage | What::Models => {
                    ends.iter().find(|end| **end > fault.until).map(|end| *end - fault.until)
                }
            };
            let row = &mut self.verdict.rows[fault.scenario];
            row.recovery = row.recovery.max(recovered.unwrap_or_default());
        }
    }

    /// The scenario of the last fault before then.
    fn scenario_at(&self, at: Instant) -> usize {
        let before = self.faults.iter().filter(|fault| fault.at <= at).max_by_key(|fault| fault.at);
        before.map_or(0, |fault| fault.scenario)
    }
}

impl Row {
    /// Adds another scenario's to this one; the longest recovery stays.
    pub fn add(&mut self, other: &Row) {
        self.tasks += other.tasks;
        self.faults += other.faults;
        self.lost += other.lost;
        self.twice += other.twice;
        self.unexplained += other.unexplained;
        self.over_limit += other.over_limit;
        self.stuck += other.stuck;
        self.recovery = self.recovery.max(other.recovery);
    }

    pub fn json(&self, scenario: &str) -> Value {
        json!({
            "scenario": scenario, "tasks": self.tasks, "faults": self.faults, "lost": self.lost,
            "runTwice": self.twice, "unexplained": self.unexplained, "limitExceeded": self.over_limit,
            "stuck": self.stuck, "recoverySeconds": self.recovery.as_secs_f64(),
        })
    }
}
