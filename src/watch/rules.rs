//! The decisions of the watch: what a watcher may do and say, and what a worker may make of that.
//! Values only; the watch and its board act on them. Public for `tests/sim` alone, which plays them
//! through in virtual time.

use std::time::{Duration, Instant};

use crate::task::NodeId;

/// A watch is renewed this many times before it would run out, and so is a worker's lease.
pub const RENEWALS: u32 = 6;

/// Watchers speak twice as often as that, so that one lost word is not silence.
pub const WORDS: u32 = 12;

/// The part of a lease after which a watcher without the database is cut off, and for which its
/// word is good.
pub const CUT_OFF: u32 = 3;

/// What a watcher says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It may bury.
    InTouch,
    /// It has not reached the database for a third of a lease.
    CutOff,
}

/// How a watch stands, as its holder knows.
#[derive(Debug, Clone, Copy)]
pub struct Hold {
    lease: Duration,
    /// When the last renewal that worked was sent.
    renewed: Instant,
    /// It has been held for a lease without a break.
    may_bury: bool,
    /// How often "cut off" was said since the watch began: the next renewal has to begin it anew.
    cut_offs: u32,
}

impl Hold {
    /// Still to be taken.
    pub fn new(lease: Duration, now: Instant) -> Hold {
        Hold { lease, renewed: now, may_bury: false, cut_offs: 0 }
    }

    /// How often "cut off" was said; a renewal that is sent while this is not 0 begins the watch anew.
    pub fn cut_offs(&self) -> u32 {
        self.cut_offs
    }

    /// A renewal worked that was sent at `asked`, when `cut_offs` were said.
    pub fn renewed(&mut self, asked: Instant, may_bury: bool, cut_offs: u32) {
        // What was said while the renewal was on its way counts for the next one.
        self.cut_offs = self.cut_offs.saturating_sub(cut_offs);
        self.may_bury = may_bury && self.cut_offs == 0;
        self.renewed = asked;
    }

    /// Whether its holder may look for the dead.
    pub fn may_bury(&self, now: Instant) -> bool {
        self.may_bury && self.is_in_touch(now)
    }

    /// What to say now; it counts as said.
    pub fn word(&mut self, now: Instant) -> Word {
        if self.is_in_touch(now) {
            return Word::InTouch;
        }
        self.cut_offs = self.cut_offs.saturating_add(1);
        Word::CutOff
    }

    fn is_in_touch(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.renewed) < self.lease / CUT_OFF
    }
}

/// What a worker hears when it asks after its watchers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Who was the last to say "in touch", if its word is still good.
    pub last_in_touch: Option<NodeId>,
    /// The word of each watcher that was asked after; `None` = silence.
    pub words: Vec<Option<Word>>,
}

impl Heard {
    /// How long from the question on nobody will be buried, going by the words of these watchers:
    /// nothing where one of them is in touch with the database, or might be, or a stranger is.
    pub fn nobody_buries_for(&self, watchers: &[NodeId], lease: Duration) -> Option<Duration> {
        let stranger = self.last_in_touch.is_some_and(|last| !watchers.contains(&last));
        let all_cut_off = !self.words.is_empty() && self.words.iter().all(|word| *word == Some(Word::CutOff));
        (all_cut_off && !stranger).then(|| lease - lease / CUT_OFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LEASE: Duration = Duration::from_secs(30);

    #[test]
    fn a_watcher_is_cut_off_after_a_third_of_a_lease_and_buries_nobody_from_then_on() {
        let start = clock::tick();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut hold = Hold::new(LEASE, start);
        assert!(!hold.may_bury(at(0)));
        hold.renewed(at(0), true, 0);
        assert!(hold.may_bury(at(9)));
        assert_eq!((hold.word(at(9)), hold.cut_offs()), (Word::InTouch, 0));
        assert!(!hold.may_bury(at(10)));
        assert_eq!((hold.word(at(10)), hold.cut_offs()), (Word::CutOff, 1));
    }

    #[test]
    fn whoever_said_cut_off_while_its_renewal_was_on_its_way_has_to_begin_anew() {
        let start = clock::tick();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut hold = Hold::new(LEASE, start);
        assert_eq!(hold.word(at(10)), Word::CutOff);
        let told = hold.cut_offs();
        assert_eq!(hold.word(at(12)), Word::CutOff);
        hold.renewed(at(11), true, told);
        assert_eq!(hold.cut_offs(), 1, "the database does not know of the second word");
        assert!(!hold.may_bury(at(13)));
        hold.renewed(at(15), true, 1);
        assert!(hold.may_bury(at(16)));
    }

    #[test]
    fn only_the_words_of_all_watchers_save_a_lease() {
        let [here, there] = [clock::node_id(), clock::node_id()];
        let safe = |last_in_touch, words: &[Option<Word>]| {
            let heard = Heard { last_in_touch, words: words.to_vec() };
            heard.nobody_buries_for(&[here, there][..words.len()], LEASE)
        };
        let cut_off = Some(Word::CutOff);
        assert_eq!(safe(None, &[cut_off, cut_off]), Some(Duration::from_secs(20)));
        assert_eq!(safe(Some(here), &[cut_off, cut_off]), Some(Duration::from_secs(20)), "it was in touch before");
        assert_eq!(safe(None, &[cut_off, None]), None, "silence");
        assert_eq!(safe(None, &[cut_off, Some(Word::InTouch)]), None);
        assert_eq!(safe(Some(clock::node_id()), &[cut_off, cut_off]), None, "a stranger");
        assert_eq!(safe(None, &[]), None, "nobody is there to ask");
    }
}
