//! When this node's worker last did what shows that it is not deaf: renewed its lease, and looked
//! for work. A process can answer requests for hours while its worker does neither.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::clock;

/// The signs of life; cheap to clone.
#[derive(Clone)]
pub struct Pulse {
    beats: Arc<Mutex<Beats>>,
    /// Longer than this without one of them is deaf.
    patience: Duration,
}

struct Beats {
    renewed: Instant,
    looked: Instant,
}

impl Pulse {
    /// Of a worker that begins now. `patience` is the length of a lease, but at least some rounds of
    /// the dispatcher, which looks for work that often.
    pub(super) fn new(lease: Duration, round: Duration) -> Pulse {
        let now = clock::tick();
        Pulse { beats: Arc::new(Mutex::new(Beats { renewed: now, looked: now })), patience: lease.max(round * 4) }
    }

    /// The lease was registered or renewed.
    pub(super) fn renewed(&self) {
        self.beats().renewed = clock::tick();
    }

    /// The dispatcher claimed, or found nothing to claim.
    pub(super) fn looked(&self) {
        self.beats().looked = clock::tick();
    }

    /// What it has not done for too long, in words for a probe; nothing where all is well.
    pub fn deaf(&self) -> Option<String> {
        self.deaf_at(clock::tick())
    }

    fn deaf_at(&self, now: Instant) -> Option<String> {
        let beats = self.beats();
        let signs = [("renewed its lease", beats.renewed), ("looked for work", beats.looked)];
        signs.into_iter().find_map(|(sign, last)| {
            let silent = now.saturating_duration_since(last);
            (silent > self.patience).then(|| format!("the worker has not {sign} for {} s", silent.as_secs()))
        })
    }

    fn beats(&self) -> MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_one_thing_but_not_the_other_is_deaf() {
        let (lease, round) = (Duration::from_secs(30), Duration::from_secs(1));
        let pulse = Pulse::new(lease, round);
        let later = clock::tick() + lease * 2;
        assert_eq!(pulse.deaf(), None);
        assert!(pulse.deaf_at(later).unwrap().starts_with("the worker has not renewed its lease for "));
        pulse.beats().renewed = later;
        assert!(pulse.deaf_at(later).unwrap().starts_with("the worker has not looked for work for "));
        pulse.beats().looked = later;
        assert_eq!(pulse.deaf_at(later), None);
    }

    #[test]
    fn rare_rounds_are_not_taken_for_deafness() {
        let pulse = Pulse::new(Duration::from_secs(2), Duration::from_secs(60));
        assert_eq!(pulse.deaf_at(clock::tick() + Duration::from_secs(200)), None);
    }
}
