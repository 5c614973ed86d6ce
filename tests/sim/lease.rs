//! Keeping a node's lease as `worker/lease.rs` does, with the product's own [`Standing`].

use std::{cell::RefCell, rc::Rc, time::Instant};

use model_asynch::{
    task::NodeId,
    watch::rules::RENEWALS,
    worker::lease::{QUESTIONS, Standing},
};

use crate::{flaw::Flaw, process::Process, watch, world::Sim};

/// What a lease is kept with.
pub struct Keeper<'a> {
    pub sim: &'a Sim,
    pub process: &'a Rc<Process>,
    pub node: NodeId,
}

impl Keeper<'_> {
    /// Renews the lease, registered at `registered`, until it is lost.
    pub async fn keep(&self, registered: Instant) {
        let standing = RefCell::new(Standing::new(self.sim.settings.lease, registered));
        tokio::select! {
            biased;
            () = self.renew(&standing) => {}
            () = self.run_out(&standing) => {}
            () = self.ask_watchers(&standing) => {}
        }
    }

    fn is_endless(&self) -> bool {
        self.sim.flaw == Some(Flaw::BeliefWithoutEnd)
    }

    async fn renew(&self, standing: &RefCell<Standing>) {
        let (lease, node) = (self.sim.settings.lease, self.node);
        let patience = lease / RENEWALS;
        let rt = &self.sim.rt;
        loop {
            let asked = rt.tick();
            let renewal = self.process.db(self.sim, move |table, now| table.renew(node, lease, now));
            match rt.within(patience, renewal).await {
                Some(Ok(true)) => {
                    standing.borrow_mut().renewed(asked);
                    let watchers = self.process.db(self.sim, |table, _| table.watchers());
                    let watchers = rt.within(patience, watchers).await.and_then(Result::ok);
                    self.process.watched_by.replace(watchers.clone().unwrap_or_default());
                    standing.borrow_mut().watched_by(watchers);
                }
                Some(Ok(false)) if !self.is_endless() => return,
                Some(Ok(false) | Err(_)) | None => {
                    standing.borrow_mut().failed();
                }
            }
            let every = standing.borrow().every();
            rt.sleep(every.saturating_sub(rt.tick() - asked)).await;
        }
    }

    async fn run_out(&self, standing: &RefCell<Standing>) {
        if self.is_endless() {
            return std::future::pending().await;
        }
        loop {
            let left = standing.borrow().left(self.sim.rt.tick());
            if left.is_zero() {
                return;
            }
            self.sim.rt.sleep(left).await;
        }
    }

    async fn ask_watchers(&self, standing: &RefCell<Standing>) {
        let rt = &self.sim.rt;
        loop {
            rt.sleep(self.sim.settings.lease / QUESTIONS).await;
            let watchers = standing.borrow().whom_to_ask().map(<[NodeId]>::to_vec);
            let Some(watchers) = watchers else { continue };
            let asked = rt.tick();
            if let Some(mut safe_for) = watch::nobody_buries_for(self.sim, self.process, watchers).await {
                if self.sim.flaw == Some(Flaw::WordGoodForLong) {
                    safe_for *= 4;
                }
                if standing.borrow_mut().nobody_buries(asked, safe_for) {
                    rt.note(|| format!("process {} goes on by the watchers' word", self.process.id));
                    self.sim.checks.borrow_mut().counts.borrowed += 1;
                }
            }
        }
    }
}
