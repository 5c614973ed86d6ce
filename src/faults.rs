//! Kill points: places between two steps where a test may have the process die as by `kill -9`.
//!
//! They are compiled in with the feature `kill-points`, which `cargo test` turns on and no build of
//! the service does. `MODEL_ASYNCH_KILL_AT=after-claim:2` then kills the process when it passes
//! [`Point::AfterClaim`] for the second time: no unwinding, no flushing, no goodbye.

/// A place between two steps. What is lost there and what is not is in `docs/crash-matrix.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// createTask has checked the task and stored nothing.
    BeforeEnqueue,
    /// The task is durable, and createTask has not answered.
    AfterEnqueue,
    /// Permits are granted and nothing is claimed.
    AfterPermit,
    /// The claim is committed and the model was not called.
    AfterClaim,
    /// The model's answer has come in whole, its end is not on disk.
    AfterCall,
    /// The result lies on disk under a name that says it is not whole.
    HalfPark,
    /// The result lies on disk under its own name.
    AfterPark,
    /// Storage has got a part of the result.
    HalfUpload,
    /// Storage has got all of it, the row does not say so.
    AfterUpload,
    /// The row says succeeded, the parked result is still there.
    AfterFinish,
    /// A failed call is about to be written.
    BeforeRetry,
    /// A failed upload is written to the row.
    AfterParkedMark,
    /// A parked result of a dead process is in this one's folder and in its name, no more.
    AfterAdoption,
    /// A dead node's lease row is gone, its tasks are not handed back.
    DuringReaping,
    /// A dead node's tasks are handed back, nobody was woken.
    AfterReaping,
    /// The service stops, and a call that did not end in time is about to be handed back.
    BeforeHandBack,
    /// getTaskBatch has marked results as picked up and not answered.
    AfterPickUp,
    /// The job `retention` has done one of its steps.
    DuringRetention,
}

impl Point {
    /// Every point: those that a task comes by, in that order, and the others.
    pub const ALL: [Point; 18] = [
        Point::BeforeEnqueue,
        Point::AfterEnqueue,
        Point::AfterPermit,
        Point::AfterClaim,
        Point::AfterCall,
        Point::HalfPark,
        Point::AfterPark,
        Point::HalfUpload,
        Point::AfterUpload,
        Point::AfterFinish,
        Point::BeforeRetry,
        Point::AfterParkedMark,
        Point::AfterAdoption,
        Point::DuringReaping,
        Point::AfterReaping,
        Point::BeforeHandBack,
        Point::AfterPickUp,
        Point::DuringRetention,
    ];

    /// True for those that a task comes by.
    pub const fn is_of_a_task(self) -> bool {
        !matches!(self, Point::DuringRetention)
    }

    /// Its name, such as `after-claim`.
    pub const fn name(self) -> &'static str {
        match self {
            Point::BeforeEnqueue => "before-enqueue",
            Point::AfterEnqueue => "after-enqueue",
            Point::AfterPermit => "after-permit",
            Point::AfterClaim => "after-claim",
            Point::AfterCall => "after-call",
            Point::HalfPark => "half-park",
            Point::AfterPark => "after-park",
            Point::HalfUpload => "half-upload",
            Point::AfterUpload => "after-upload",
            Point::AfterFinish => "after-finish",
            Point::BeforeRetry => "before-retry",
            Point::AfterParkedMark => "after-parked-mark",
            Point::AfterAdoption => "after-adoption",
            Point::DuringReaping => "during-reaping",
            Point::AfterReaping => "after-reaping",
            Point::BeforeHandBack => "before-hand-back",
            Point::AfterPickUp => "after-pick-up",
            Point::DuringRetention => "during-retention",
        }
    }
}

#[cfg(feature = "kill-points")]
pub use self::armed::{VARIABLE, pass};

/// Nothing, in every build but those of tests.
#[cfg(not(feature = "kill-points"))]
#[inline(always)]
pub const fn pass(_: Point) {}

/// As [`pass`], where something happened at all.
#[inline(always)]
pub fn pass_if(so: bool, point: Point) {
    if so {
        pass(point);
    }
}

#[cfg(feature = "kill-points")]
mod armed {
    use std::sync::{
        LazyLock,
        atomic::{AtomicI64, Ordering},
    };

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    /// Names the point to die at, and after a colon the pass, from 1.
    pub const VARIABLE: &str = "MODEL_ASYNCH_KILL_AT";

    struct Armed {
        point: Point,
        /// Passes left, this one included.
        left: AtomicI64,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, pass) = text.split_once(':').unwrap_or((&text, "1"));
        let point = Point::ALL.into_iter().find(|point| point.name() == name);
        let Some((point, pass)) = point.zip(pass.parse().ok()) else {
            eprintln!("{VARIABLE}: {text} is not a kill point and a pass, such as after-claim:1");
            std::process::exit(2);
        };
        Some(Armed { point, left: AtomicI64::new(pass) })
    });

    /// Dies here if this is the point and the pass that the environment asks for.
    pub fn pass(point: Point) {
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.point == point) else { return };
        if armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        eprintln!("{VARIABLE}: dying at {}", point.name());
        if let Err(error) = kill_process(getpid(), Signal::KILL) {
            eprintln!("{VARIABLE}: cannot: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let mut names = Point::ALL.map(Point::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
