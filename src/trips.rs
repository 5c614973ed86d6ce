//! Trips to the disk: what may block, done for many callers in one go.
//!
//! Handing a piece of work to a thread that may block and being woken by it costs more than most
//! small pieces of work do. Here a thread takes along whatever has come in while it was busy with
//! the last batch, as `store::group` does for transactions: an idle service makes a trip for one,
//! at once, and a busy one few trips for many.

use std::{
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::oneshot, task::spawn_blocking};

/// What is done with a batch.
pub(crate) trait Errand: Send + Sync + 'static {
    /// What one caller brings.
    type Item: Send;
    /// What it gets back. One that nobody waits for any more is dropped.
    type Answer: Send;

    /// Does it, with an answer for each item, in order. May block.
    fn run(&self, batch: Vec<Self::Item>) -> Vec<Self::Answer>;
}

/// The callers' end; cheap to clone.
pub(crate) struct Trips<E: Errand> {
    shared: Arc<Shared<E>>,
}

struct Shared<E: Errand> {
    errand: E,
    queue: Mutex<Queue<E>>,
    most: usize,
    /// So many items make a second thread set out while the first is on its way.
    worth_a_second: Option<usize>,
}

struct Queue<E: Errand> {
    items: Vec<E::Item>,
    answers: Vec<oneshot::Sender<E::Answer>>,
    /// Threads on their way. Each looks again before it ends.
    under_way: usize,
}

/// A thread on its way. However it ends, the next caller may send another one.
struct Traveller<E: Errand> {
    shared: Arc<Shared<E>>,
    /// Of the batch under way. Kept here, so that after a panic they are dropped last: whoever is
    /// told so and sends again must find that nobody is under way.
    answers: Vec<oneshot::Sender<E::Answer>>,
    /// Found nothing more to do.
    home: bool,
}

impl<E: Errand> Trips<E> {
    /// Trips that take along at most `most` items, one after the other.
    pub(crate) fn new(errand: E, most: usize) -> Trips<E> {
        Trips::over(errand, most, None)
    }

    /// As [`Trips::new`], but where `worth` items wait, a second trip begins before the first has
    /// ended: for errands that mostly wait for the disk.
    pub(crate) fn in_pairs(errand: E, most: usize, worth: usize) -> Trips<E> {
        Trips::over(errand, most, Some(worth))
    }

    fn over(errand: E, most: usize, worth_a_second: Option<usize>) -> Trips<E> {
        let queue = Mutex::new(Queue { items: Vec::new(), answers: Vec::new(), under_way: 0 });
        Trips { shared: Arc::new(Shared { errand, queue, most, worth_a_second }) }
    }

    /// What the trips are made for.
    pub(crate) fn errand(&self) -> &E {
        &self.shared.errand
    }

    /// Sends an item along and waits for its answer. Once polled, the item is on its way even if
    /// nobody waits any more.
    ///
    /// # Errors
    /// Where the process stops before the item's turn has come.
    pub(crate) async fn send(&self, item: E::Item) -> io::Result<E::Answer> {
        let (answer, answered) = oneshot::channel();
        let depart = {
            let mut queue = self.shared.queue();
            queue.items.push(item);
            queue.answers.push(answer);
            let depart = match queue.under_way {
                0 => true,
                1 => self.shared.worth_a_second.is_some_and(|worth| queue.items.len() >= worth),
                _ => false,
            };
            queue.under_way += usize::from(depart);
            depart
        };
        if depart {
            let traveller = Traveller { shared: Arc::clone(&self.shared), answers: Vec::new(), home: false };
            spawn_blocking(move || traveller.go());
        }
        answered.await.map_err(|_| io::Error::other("stopped before it was done"))
    }
}

impl<E: Errand> Clone for Trips<E> {
    fn clone(&self) -> Trips<E> {
        Trips { shared: Arc::clone(&self.shared) }
    }
}

impl<E: Errand> Shared<E> {
    fn queue(&self) -> MutexGuard<'_, Queue<E>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Errand> Traveller<E> {
    fn go(mut self) {
        loop {
            let (items, answers) = {
                let mut queue = self.shared.queue();
                if queue.items.is_empty() {
                    queue.under_way -= 1;
                    drop(queue);
                    self.home = true;
                    return;
                }
                let most = queue.items.len().min(self.shared.most);
                let (items, answers) = (queue.items.split_off(most), queue.answers.split_off(most));
                (mem::replace(&mut queue.items, items), mem::replace(&mut queue.answers, answers))
            };
            self.answers = answers;
            let done = self.shared.errand.run(items);
            for (answer, done) in mem::take(&mut self.answers).into_iter().zip(done) {
                answer.send(done).ok();
            }
        }
    }
}

impl<E: Errand> Drop for Traveller<E> {
    /// After a panic, or where the runtime stops before the thread has run: nobody waits for ever. What
    /// waits is left to the other thread, if there is one.
    fn drop(&mut self) {
        if self.home {
            return;
        }
        let (items, answers) = {
            let mut queue = self.shared.queue();
            queue.under_way -= 1;
            if queue.under_way > 0 {
                return;
            }
            (mem::take(&mut queue.items), mem::take(&mut queue.answers))
        };
        drop((items, answers));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Waits for a word before each batch, then answers with its size; a zero makes it panic.
    struct Sizes(Mutex<mpsc::Receiver<()>>);

    impl Errand for Sizes {
        type Item = u32;
        type Answer = usize;

        fn run(&self, batch: Vec<u32>) -> Vec<usize> {
            self.0.lock().unwrap().recv().ok();
            assert!(!batch.contains(&0), "a zero");
            vec![batch.len(); batch.len()]
        }
    }

    fn sizes(most: usize) -> (Trips<Sizes>, mpsc::Sender<()>) {
        let (word, words) = mpsc::channel();
        (Trips::new(Sizes(Mutex::new(words)), most), word)
    }

    /// Comes back when two are on their way at once.
    struct Meeting(std::sync::Barrier);

    impl Errand for Meeting {
        type Item = ();
        type Answer = ();

        fn run(&self, batch: Vec<()>) -> Vec<()> {
            self.0.wait();
            batch
        }
    }

    #[tokio::test]
    async fn what_comes_in_during_a_trip_goes_along_with_the_next() {
        let (trips, word) = sizes(5);
        let mut first = Box::pin(trips.send(1));
        assert!(futures::poll!(&mut first).is_pending());
        let mut rest = Box::pin(futures::future::join_all((0..7).map(|_| trips.send(1))));
        assert!(futures::poll!(&mut rest).is_pending());
        drop(word);
        let mut all = vec![first.await.unwrap()];
        all.extend(rest.await.into_iter().map(Result::unwrap));
        // The first trip may have left with the first item only, or not at all yet.
        assert!(matches!(all[..], [1, 5, 5, 5, 5, 5, 2, 2] | [5, 5, 5, 5, 5, 3, 3, 3]), "{all:?}");
    }

    #[tokio::test]
    async fn a_second_trip_begins_when_enough_waits_for_the_first() {
        let trips = Trips::in_pairs(Meeting(std::sync::Barrier::new(2)), 2, 2);
        let all = futures::future::join_all((0..4).map(|_| trips.send(()))).await;
        assert!(all.into_iter().all(|sent| sent.is_ok()));
    }

    #[tokio::test]
    async fn a_trip_that_ends_badly_is_told_and_the_next_one_goes() {
        let (trips, word) = sizes(5);
        drop(word);
        assert!(trips.send(0).await.is_err());
        assert_eq!(trips.send(1).await.unwrap(), 1);
    }
}
