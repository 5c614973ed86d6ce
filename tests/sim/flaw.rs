//! Rules broken on purpose, to see that the simulator notices.

use crate::faults::Fault;

/// One broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// A write asks for the state only.
    GuardWithoutAttempt,
    /// A write asks for the attempt and the owner only.
    GuardWithoutState,
    /// A write asks for the state and the attempt only.
    GuardWithoutOwner,
    /// A claim leaves the attempt as it is.
    ClaimWithoutFence,
    /// A claim does not count what runs and believes in permits.
    ClaimWithoutCount,
    /// A parked result is adopted whatever attempt it is of.
    AdoptWithoutAttempt,
    /// `queueLimit` is not looked at.
    QueueWithoutLimit,
    /// Rows are deleted before their time.
    PurgeTooEarly,
    /// Lost attempts are counted but not capped.
    LostWithoutEnd,
    /// A node goes on whether or not its lease is renewed.
    BeliefWithoutEnd,
    /// The dead are buried by whoever comes, without a watch.
    BuriedWithoutWatch,
    /// A watcher that says nothing counts as cut off.
    SilenceTaken,
    /// One watcher that is cut off counts as all of them.
    OneWordTaken,
    /// The watchers' word is believed for longer than it is good.
    WordGoodForLong,
    /// After a claim of unknown outcome the node does not look what it got.
    DoubtIgnored,
    /// After a claim of unknown outcome the node hands back what it works on, too.
    DoubtWithoutLooking,
    /// A write of unknown outcome is not repeated.
    WriteForgotten,
    /// The row says that the result is stored before it is.
    SuccessBeforeUpload,
    /// The table is never scanned for lanes whose wake-up got lost.
    ScanForgotten,
    /// Retries do not count what was tried.
    RetryWithoutEnd,
    /// A permit that was granted and not used is kept.
    PermitLeaked,
}

impl Flaw {
    /// The faults under which it shows, where that is in few of the ordinary seeds.
    pub fn shows_under(self) -> Option<&'static [Fault]> {
        match self {
            Flaw::SilenceTaken => Some(&[Fault::CutDatabase, Fault::CutRedis]),
            Flaw::OneWordTaken => Some(&[Fault::CutDatabase]),
            Flaw::WordGoodForLong => Some(&[Fault::CutDatabase, Fault::DatabaseDown]),
            Flaw::GuardWithoutAttempt => Some(&[Fault::CutDatabase, Fault::Pause]),
            Flaw::GuardWithoutOwner => Some(&[Fault::Kill, Fault::Flaky, Fault::StorageDown]),
            _ => None,
        }
    }
}
