//! The watch of a process as `watch.rs` holds it, and the board on which watchers speak, as
//! `watch/redis.rs` has it, with the product's own rules.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use model_asynch::{
    task::NodeId,
    watch::rules::{CUT_OFF, Heard, Hold, RENEWALS, WORDS, Word},
};

use crate::{flaw::Flaw, process::Process, runtime::Micros, table::Table, world::Sim};

/// The words of watchers, each until it is not good any more.
#[derive(Default)]
pub struct Board {
    words: HashMap<NodeId, (Word, Micros)>,
    last_in_touch: Option<(NodeId, Micros)>,
}

impl Board {
    fn say(&mut self, watcher: NodeId, word: Word, until: Micros) {
        self.words.insert(watcher, (word, until));
        if word == Word::InTouch {
            self.last_in_touch = Some((watcher, until));
        }
    }

    fn hear(&self, watchers: &[NodeId], now: Micros) -> Heard {
        let word = |watcher| self.words.get(watcher).filter(|(_, until)| *until > now).map(|(word, _)| *word);
        let last = self.last_in_touch.filter(|(_, until)| *until > now);
        Heard { last_in_touch: last.map(|(watcher, _)| watcher), words: watchers.iter().map(word).collect() }
    }
}

/// The watch of one process.
pub struct Watch {
    process: Rc<Process>,
    sim: Sim,
    pub watcher: NodeId,
    hold: RefCell<Hold>,
}

impl Watch {
    pub fn new(sim: &Sim, process: &Rc<Process>) -> Watch {
        let hold = RefCell::new(Hold::new(sim.settings.lease, sim.rt.tick()));
        let watcher = sim.node_id();
        sim.checks.borrow_mut().watchers.insert(watcher, process.id);
        Watch { process: process.clone(), sim: sim.clone(), watcher, hold }
    }

    pub fn may_bury(&self) -> bool {
        self.hold.borrow().may_bury(self.sim.rt.tick())
    }

    /// Holds it until the process stops, and says how it goes.
    pub async fn run(&self) {
        tokio::select! {
            biased;
            () = self.process.stop.thrown() => {}
            () = self.hold() => {}
            () = self.speak() => {}
        }
        let (watcher, patience) = (self.watcher, self.sim.settings.lease / RENEWALS);
        let end = self.process.db(&self.sim, move |table, _| table.watch.remove(&watcher));
        self.sim.rt.within(patience, end).await;
    }

    async fn hold(&self) {
        let (lease, watcher) = (self.sim.settings.lease, self.watcher);
        let every = lease / RENEWALS;
        loop {
            let asked = self.sim.rt.tick();
            let cut_offs = self.hold.borrow().cut_offs();
            let hold = move |table: &mut Table, now| table.hold_watch(watcher, lease, cut_offs > 0, now);
            let renewal = self.process.db(&self.sim, hold);
            if let Some(Ok(may_bury)) = self.sim.rt.within(every, renewal).await {
                self.hold.borrow_mut().renewed(asked, may_bury, cut_offs);
            }
            self.sim.rt.sleep(every.saturating_sub(self.sim.rt.tick() - asked)).await;
        }
    }

    async fn speak(&self) {
        let (lease, watcher) = (self.sim.settings.lease, self.watcher);
        let every = lease / WORDS;
        loop {
            let spoke = self.sim.rt.tick();
            let word = self.hold.borrow_mut().word(spoke);
            let good_for = (lease / CUT_OFF).as_micros() as Micros;
            let say = self.sim.redis(&self.process, move |redis, now| redis.board.say(watcher, word, now + good_for));
            self.sim.rt.within(every, say).await;
            self.sim.rt.sleep(every.saturating_sub(self.sim.rt.tick() - spoke)).await;
        }
    }
}

/// As `Board::nobody_buries_for`.
pub async fn nobody_buries_for(sim: &Sim, process: &Rc<Process>, watchers: Vec<NodeId>) -> Option<Duration> {
    let (lease, asked) = (sim.settings.lease, watchers.clone());
    let hear = sim.redis(process, move |redis, now| redis.board.hear(&asked, now));
    let mut heard = sim.rt.within(lease / WORDS, hear).await?.ok()?;
    if sim.flaw == Some(Flaw::SilenceTaken) {
        heard.words.iter_mut().for_each(|word| *word = word.or(Some(Word::CutOff)));
    }
    if sim.flaw == Some(Flaw::OneWordTaken) && heard.words.contains(&Some(Word::CutOff)) {
        heard.words.fill(Some(Word::CutOff));
        heard.last_in_touch = None;
    }
    heard.nobody_buries_for(&watchers, lease)
}
