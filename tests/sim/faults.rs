//! What goes wrong, and when: each seed takes some kinds of fault and lets episodes of them begin and
//! end, with calm in between.

use std::{rc::Rc, sync::Arc, time::Duration};

use model_asynch::task::TenantId;

use crate::{process::Process, runtime::WORLD, world::Sim};

const SECOND: Duration = Duration::from_secs(1);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Pause,
    Stop,
    CutDatabase,
    CutRedis,
    DatabaseDown,
    RedisDown,
    RedisFlushed,
    Flaky,
    StorageDown,
    ModelsDown,
    BusDown,
    ResultLost,
    DiskFull,
    ModelChanged,
    ModelDeleted,
}

const ALL: [Fault; 16] = [
    Fault::Kill,
    Fault::Pause,
    Fault::Stop,
    Fault::CutDatabase,
    Fault::CutRedis,
    Fault::DatabaseDown,
    Fault::RedisDown,
    Fault::RedisFlushed,
    Fault::Flaky,
    Fault::StorageDown,
    Fault::ModelsDown,
    Fault::BusDown,
    Fault::ResultLost,
    Fault::DiskFull,
    Fault::ModelChanged,
    Fault::ModelDeleted,
];

/// Faults that are worth a scene of their own: who is cut off from whom, and who knows; what the dead
/// had parked, and still had on its way to the database.
pub const SCENES: [&[Fault]; 5] = [
    &[Fault::CutDatabase],
    &[Fault::CutDatabase, Fault::CutRedis],
    &[Fault::CutDatabase, Fault::DatabaseDown],
    &[Fault::CutDatabase, Fault::Pause],
    &[Fault::Kill, Fault::Flaky, Fault::StorageDown],
];

/// Lets faults happen until their time is over, then puts everything right.
pub async fn rage(sim: Sim) {
    let kinds: Vec<Fault> = match sim.scene {
        Some(kinds) => kinds.to_vec(),
        None => ALL.into_iter().filter(|_| sim.rt.chance(0.4)).collect(),
    };
    sim.rt.note(|| format!("faults of this seed: {kinds:?}"));
    let until = sim.rt.now() + sim.settings.chaos_for.as_micros() as i64;
    while sim.rt.now() < until {
        sim.rt.sleep(sim.rt.between(SECOND / 10, 15 * SECOND)).await;
        let fault = sim.rt.rng().choice(kinds.iter().copied());
        if let Some(fault) = fault {
            let world = sim.clone();
            sim.trouble.borrow_mut().episodes += 1;
            sim.rt.spawn(WORLD, async move {
                episode(&world, fault).await;
                world.disturb();
                world.trouble.borrow_mut().episodes -= 1;
            });
        }
    }
    while sim.trouble.borrow().episodes > 0 {
        sim.rt.sleep(SECOND).await;
    }
    for registered in sim.table.borrow_mut().models.values_mut() {
        Arc::make_mut(&mut registered.model).spec.enabled = true;
    }
    if sim.processes.borrow().is_empty() {
        sim.start(sim.new_disk());
    }
    sim.disturb();
}

async fn episode(sim: &Sim, fault: Fault) {
    let lease = sim.settings.lease;
    let long = (lease * 2).mul_f64(sim.rt.rng().f64());
    sim.rt.note(|| format!("{fault:?} for {long:?}"));
    sim.disturb();
    match fault {
        Fault::Kill => {
            if let Some(process) = victim(sim) {
                sim.armed.borrow_mut().push(process.id);
                restart(sim, &process, long).await;
            }
        }
        Fault::Stop => {
            if let Some(process) = victim(sim) {
                process.stop.throw();
                process.stirred.notify_one();
                restart(sim, &process, long).await;
            }
        }
        Fault::Pause => {
            if let Some(process) = victim(sim) {
                sim.rt.pause(process.id);
                sim.rt.sleep(long).await;
                process.resumed.set(sim.rt.now());
                sim.rt.resume(process.id);
                sim.rt.note(|| format!("process {} goes on", process.id));
            }
        }
        Fault::CutDatabase => {
            if let Some(process) = victim(sim) {
                sim.trouble.borrow_mut().cut_from_database.insert(process.id);
                sim.rt.sleep(long).await;
                sim.trouble.borrow_mut().cut_from_database.remove(&process.id);
                process.hurt.set(sim.rt.now());
            }
        }
        Fault::CutRedis => {
            if let Some(process) = victim(sim) {
                sim.trouble.borrow_mut().cut_from_redis.insert(process.id);
                sim.rt.sleep(long).await;
                sim.trouble.borrow_mut().cut_from_redis.remove(&process.id);
            }
        }
        Fault::DatabaseDown => {
            sim.trouble.borrow_mut().database_down += 1;
            sim.rt.sleep(long).await;
            let mut trouble = sim.trouble.borrow_mut();
            trouble.database_down -= 1;
            trouble.database_back = sim.rt.now();
            sim.rt.note(|| "the database is back".to_owned());
        }
        Fault::RedisDown => {
            sim.trouble.borrow_mut().redis_down += 1;
            sim.rt.sleep(long).await;
            if sim.rt.chance(0.5) {
                sim.redis_sets.borrow_mut().flush();
            }
            sim.trouble.borrow_mut().redis_down -= 1;
        }
        Fault::RedisFlushed => sim.redis_sets.borrow_mut().flush(),
        Fault::Flaky => {
            let before = sim.trouble.borrow().flaky;
            let probability = sim.rt.rng().f64() * 0.15;
            sim.trouble.borrow_mut().flaky = before + probability;
            sim.rt.sleep(long).await;
            let after = (sim.trouble.borrow().flaky - probability).max(0.0);
            sim.trouble.borrow_mut().flaky = if after < 1e-9 { 0.0 } else { after };
        }
        Fault::StorageDown => {
            sim.trouble.borrow_mut().storage_down += 1;
            sim.rt.sleep(long).await;
            sim.trouble.borrow_mut().storage_down -= 1;
        }
        Fault::ModelsDown => {
            sim.trouble.borrow_mut().models_down += 1;
            sim.rt.sleep(long).await;
            sim.trouble.borrow_mut().models_down -= 1;
        }
        Fault::BusDown => {
            sim.trouble.borrow_mut().bus_down += 1;
            sim.rt.sleep(long).await;
            sim.trouble.borrow_mut().bus_down -= 1;
        }
        Fault::ResultLost => {
            let mut files = sim.files.borrow_mut();
            if !files.is_empty() {
                let lost = sim.rt.rng().usize(..files.len());
                files.remove(lost);
            }
        }
        Fault::DiskFull => {
            if let Some(process) = victim(sim) {
                sim.trouble.borrow_mut().full_disks.insert(process.disk);
                sim.rt.sleep(long).await;
                sim.trouble.borrow_mut().full_disks.remove(&process.disk);
            }
        }
        Fault::ModelChanged => change_model(sim),
        Fault::ModelDeleted => {
            let mut table = sim.table.borrow_mut();
            // One in some seeds is enough: nothing happens in the lanes of a deleted model.
            if sim.rt.chance(0.2)
                && let Some(registered) = sim.rt.rng().choice(table.models.values_mut())
            {
                registered.deleted = true;
            }
        }
    }
}

fn change_model(sim: &Sim) {
    let mut table = sim.table.borrow_mut();
    let mut rng = sim.rt.rng();
    if let Some(cap) = table.caps.get_mut(&TenantId(1)).filter(|_| rng.bool()) {
        *cap = rng.i64(1..6);
    }
    let Some(registered) = rng.choice(table.models.values_mut()) else { return };
    let spec = &mut Arc::make_mut(&mut registered.model).spec;
    match rng.usize(..3) {
        0 => spec.max_concurrency = rng.i32(1..5),
        1 if spec.total_concurrency > 0 => spec.total_concurrency = rng.i32(1..6),
        _ => spec.enabled = !spec.enabled,
    }
}

fn victim(sim: &Sim) -> Option<Rc<Process>> {
    sim.any_process().filter(|process| !sim.rt.is_paused(process.id))
}

/// Another process in the place of one that ends, on its disk or on a new one.
async fn restart(sim: &Sim, process: &Rc<Process>, after: Duration) {
    while sim.processes.borrow().contains_key(&process.id) {
        sim.rt.sleep(SECOND / 10).await;
    }
    sim.rt.sleep(after).await;
    sim.start(if sim.rt.chance(0.7) { process.disk } else { sim.new_disk() });
}
