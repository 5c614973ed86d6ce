//! The right to have one call running on this node: a permit of the lane, and one of the node's
//! own `worker.concurrency` calls. Both go back when the slot is dropped, and the dispatcher hears
//! of it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{permits::Permit, task::Lane};

/// Calls running on this node, and where the end of one is told. The channel holds at most one
/// message for each call that ended and each outcome that was written.
#[derive(Clone)]
pub(super) struct Slots {
    calling: Arc<AtomicUsize>,
    room: UnboundedSender<Lane>,
}

/// See the module.
pub(super) struct Slot {
    slots: Slots,
    lane: Lane,
    permit: Option<Permit>,
}

impl Slots {
    /// Slots that tell `room` of every lane that gets some.
    pub(super) fn new(room: UnboundedSender<Lane>) -> Slots {
        Slots { calling: Arc::default(), room }
    }

    /// Calls running now.
    pub(super) fn calling(&self) -> usize {
        self.calling.load(Ordering::Acquire)
    }

    /// Takes one for a call under that permit.
    pub(super) fn take(&self, lane: Lane, permit: Permit) -> Slot {
        self.calling.fetch_add(1, Ordering::AcqRel);
        Slot { slots: self.clone(), lane, permit: Some(permit) }
    }

    /// A task of the lane is not running any more, or not calling its model.
    pub(super) fn tell(&self, lane: Lane) {
        // A dispatcher that is gone needs no telling.
        self.room.send(lane).ok();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The permit first: whoever hears of the room must find it.
        drop(self.permit.take());
        self.slots.calling.fetch_sub(1, Ordering::AcqRel);
        self.slots.tell(self.lane);
    }
}
