//! Group commit: many callers, one transaction.
//!
//! A batch is whatever arrived while the last one was committing, and in a short pause after a large one:
//! an idle service commits a batch of one at once, and a busy one pays for few commits. Callers are
//! answered after their commit.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{StoreError, within};
use crate::{breath::Breath, clock, metrics::CommitMeter};

/// Requests that may wait for the next batches; beyond that callers wait in line, which is the
/// database's back-pressure.
const WAITING: usize = 10_000;

/// How long a caller waits for a place among the waiting before the store counts as out of reach.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a caller waits for its commit: a database that went silent is noticed by the committer
/// only when its own patience ends, which is longer than a caller's.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Most requests in one transaction: where measured throughput stops growing.
const MOST_REQUESTS: usize = 256;

/// Bytes after which a batch is closed, so that a few large payloads do not hold everyone up.
const MOST_BYTES: usize = 4 << 20;

/// How a batch is written.
pub(super) trait Commit {
    /// One request.
    type Item: Send + Sync;
    /// Its answer.
    type Answer: Send;

    /// Roughly how many bytes a request brings.
    fn weight(item: &Self::Item) -> usize;

    /// Writes the batch in one transaction and answers each request, in order.
    fn commit(&mut self, batch: &[Self::Item]) -> impl Future<Output = Result<Vec<Self::Answer>, StoreError>> + Send;
}

/// The callers' end.
pub(super) struct Group<C: Commit> {
    requests: mpsc::Sender<Request<C>>,
}

/// The committer's end.
pub(super) struct Committer<C: Commit> {
    requests: mpsc::Receiver<Request<C>>,
    commit: C,
    breath: Breath,
    meter: Option<CommitMeter>,
}

struct Request<C: Commit> {
    item: C::Item,
    answer: oneshot::Sender<Result<C::Answer, StoreError>>,
}

/// What goes into one transaction, and who waits for it.
struct Batch<C: Commit> {
    items: Vec<C::Item>,
    answers: Vec<oneshot::Sender<Result<C::Answer, StoreError>>>,
    bytes: usize,
}

/// Makes both ends.
pub(super) fn group<C: Commit>(commit: C, breath: Breath) -> (Group<C>, Committer<C>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Group { requests: sender }, Committer { requests: receiver, commit, breath, meter: None })
}

impl<C: Commit> Clone for Group<C> {
    fn clone(&self) -> Group<C> {
        Group { requests: self.requests.clone() }
    }
}

impl<C: Commit> Group<C> {
    /// Hands a request in and waits for its commit.
    pub(super) async fn ask(&self, item: C::Item) -> Result<C::Answer, StoreError> {
        let (answer, answered) = oneshot::channel();
        match self.requests.try_send(Request { item, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(request)) => self.wait_in_line(request).await?,
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(closing()),
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(closing())),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }

    async fn wait_in_line(&self, request: Request<C>) -> Result<(), StoreError> {
        self.requests.send_timeout(request, WAIT_TIMEOUT).await.map_err(|error| match error {
            mpsc::error::SendTimeoutError::Timeout(_) => StoreError::Unavailable("too many requests wait".to_owned()),
            mpsc::error::SendTimeoutError::Closed(_) => closing(),
        })
    }
}

impl<C: Commit> Committer<C> {
    /// Counts what is committed from now on.
    pub(super) fn measure(&mut self, meter: CommitMeter) {
        self.meter = Some(meter);
    }

    /// Commits batch after batch until `stop` is set and everything handed in before is committed.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while let Some(first) = self.next(&stop).await {
            let mut batch = Batch::default();
            batch.add(first);
            if batch.items.is_empty() {
                continue;
            }
            self.gather(&mut batch).await;
            let Batch { items, answers, .. } = batch;
            let results = self.commit_batch(&items).await;
            // As many again may come as are answered now, beside those who wait already.
            self.breath.took(items.len(), items.len() + self.requests.len());
            for (answer, result) in answers.into_iter().zip(results) {
                // A caller that went away does not want its answer.
                answer.send(result).ok();
            }
        }
    }

    /// Adds whoever comes until the pause is over, and then whoever is there.
    async fn gather(&mut self, batch: &mut Batch<C>) {
        while !batch.is_full() && !self.breath.is_over(batch.items.len()) {
            tokio::select! {
                biased;
                Some(request) = self.requests.recv() => batch.add(request),
                () = self.breath.end() => {}
            }
        }
        // One turn of the runtime: whoever is ready to ask comes along. Nobody is waited for, so it
        // costs an idle service nothing, while a busy one would otherwise commit a few at a time as
        // fast as it can, and have no time left to read requests.
        tokio::task::yield_now().await;
        while !batch.is_full() {
            let Ok(request) = self.requests.try_recv() else { break };
            batch.add(request);
        }
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Request<C>> {
        tokio::select! {
            biased;
            request = self.requests.recv() => request,
            () = stop.cancelled() => {
                self.requests.close();
                self.requests.recv().await
            }
        }
    }

    /// One result for each item. Where the batch as a whole is refused, its members are tried one
    /// by one, so that one bad request fails alone.
    async fn commit_batch(&mut self, items: &[C::Item]) -> Vec<Result<C::Answer, StoreError>> {
        match self.measured(items).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(StoreError::Broken(_)) if items.len() > 1 => {
                let mut results = Vec::with_capacity(items.len());
                for item in items {
                    results.push(self.commit_one(item).await);
                }
                results
            }
            Err(error) => items.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn measured(&mut self, items: &[C::Item]) -> Result<Vec<C::Answer>, StoreError> {
        let began = clock::tick();
        let committed = within(self.commit.commit(items)).await;
        match (&self.meter, &committed) {
            (Some(meter), Ok(_)) => meter.committed(began.elapsed(), items.len()),
            (Some(meter), Err(_)) => meter.failed(),
            (None, _) => {}
        }
        committed
    }

    async fn commit_one(&mut self, item: &C::Item) -> Result<C::Answer, StoreError> {
        let answers = self.measured(std::slice::from_ref(item)).await?;
        answers.into_iter().next().ok_or_else(|| StoreError::Broken("a request was not answered".to_owned()))
    }
}

impl<C: Commit> Batch<C> {
    /// Adds a request, unless nobody waits for it any more: whoever did was told that it failed.
    fn add(&mut self, request: Request<C>) {
        if !request.answer.is_closed() {
            self.bytes = self.bytes.saturating_add(C::weight(&request.item));
            self.items.push(request.item);
            self.answers.push(request.answer);
        }
    }

    fn is_full(&self) -> bool {
        self.items.len() >= MOST_REQUESTS || self.bytes >= MOST_BYTES
    }
}

impl<C: Commit> Default for Batch<C> {
    fn default() -> Batch<C> {
        Batch { items: Vec::new(), answers: Vec::new(), bytes: 0 }
    }
}

fn closing() -> StoreError {
    StoreError::Unavailable("the store is closing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the size of the batch; refuses every batch that holds a zero.
    struct Sizes;

    impl Commit for Sizes {
        type Item = usize;
        type Answer = usize;

        fn weight(item: &usize) -> usize {
            *item
        }

        async fn commit(&mut self, batch: &[usize]) -> Result<Vec<usize>, StoreError> {
            if batch.contains(&0) {
                return Err(StoreError::Broken("zero".to_owned()));
            }
            Ok(vec![batch.len(); batch.len()])
        }
    }

    async fn results(items: Vec<usize>) -> Vec<Result<usize, StoreError>> {
        let (group, committer) = group(Sizes, Breath::of_callers());
        let asked = futures::future::join_all(items.into_iter().map(|item| group.ask(item)));
        let stop = CancellationToken::new();
        let stopped = async {
            // Otherwise tokio would let the committer in after 128 of them.
            let results = tokio::task::unconstrained(asked).await;
            stop.cancel();
            results
        };
        tokio::join!(stopped, committer.run(stop.clone())).0
    }

    #[tokio::test]
    async fn what_waits_together_is_committed_together() {
        assert!(results(vec![1; 7]).await.into_iter().all(|size| matches!(size, Ok(7))));
    }

    #[tokio::test]
    async fn a_batch_ends_at_its_most_requests_and_bytes() {
        let many = results(vec![1; MOST_REQUESTS + 1]).await;
        assert!(matches!(many[0], Ok(MOST_REQUESTS)) && matches!(many[MOST_REQUESTS], Ok(1)));
        let large = results(vec![MOST_BYTES, 1]).await;
        assert!(matches!(large[0], Ok(1)) && matches!(large[1], Ok(1)));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_left_out() {
        let (group, committer) = group(Sizes, Breath::of_callers());
        let mut gone = Box::pin(group.ask(1));
        assert!(futures::poll!(&mut gone).is_pending());
        drop(gone);
        let stop = CancellationToken::new();
        let answered = async {
            let answer = group.ask(1).await;
            stop.cancel();
            answer
        };
        assert!(matches!(tokio::join!(answered, committer.run(stop.clone())).0, Ok(1)), "alone in its batch");
    }

    #[tokio::test]
    async fn one_bad_request_fails_alone() {
        let results = results(vec![1, 0, 1]).await;
        assert!(matches!(results[0], Ok(1)) && matches!(results[2], Ok(1)));
        assert!(matches!(results[1], Err(StoreError::Broken(_))));
    }

    #[tokio::test]
    async fn requests_before_the_stop_are_committed_and_later_ones_refused() {
        let (group, committer) = group(Sizes, Breath::of_callers());
        let stop = CancellationToken::new();
        let mut before = Box::pin(group.ask(1));
        assert!(futures::poll!(&mut before).is_pending());
        stop.cancel();
        committer.run(stop).await;
        assert!(matches!(before.await, Ok(1)));
        assert!(matches!(group.ask(1).await, Err(StoreError::Unavailable(_))));
    }
}
