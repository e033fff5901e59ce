//! Calls under way, so that whoever wants the same shares one. A call runs in a task of its own:
//! whoever gives up waiting does not end it for the others.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::sync::oneshot;
use tracing::Instrument;

use crate::{
    error::{Error, Result},
    lifecycle::Tasks,
};

/// A call under way, for everyone who wants its answer.
pub(super) type Flight<V> = Shared<BoxFuture<'static, Result<V, Arc<Error>>>>;

/// The calls under way, by what they ask for; bounded by the calls that may wait for their turn.
pub(super) struct Flights<K, V> {
    under_way: Arc<Mutex<UnderWay<K, V>>>,
    tasks: Tasks,
}

struct UnderWay<K, V> {
    flights: HashMap<K, (u64, Flight<V>)>,
    next: u64,
}

impl<K, V> Flights<K, V>
where
    K: Copy + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            under_way: Arc::new(Mutex::new(UnderWay {
                flights: HashMap::new(),
                next: 0,
            })),
            tasks,
        }
    }

    /// The flights that bring the answers for `keys`, of which none is there twice: those under way,
    /// and for the other keys new ones, each made by `call` for at most `keys_max` of them.
    pub(super) fn join<F>(
        &self,
        keys: &[K],
        keys_max: usize,
        call: impl Fn(Vec<K>) -> F,
    ) -> Vec<Flight<V>>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut joined = HashMap::new();
        let mut starting = Vec::new();
        let mut under_way = self.lock();
        let mut lacking = Vec::new();
        for key in keys {
            match under_way.flights.get(key) {
                Some((id, flight)) => {
                    joined.entry(*id).or_insert_with(|| flight.clone());
                }
                None => lacking.push(*key),
            }
        }
        for keys in lacking.chunks(keys_max) {
            let id = under_way.next;
            under_way.next += 1;
            let (answered, answer) = oneshot::channel();
            let flight = flight(answer);
            for key in keys {
                under_way.flights.insert(*key, (id, flight.clone()));
            }
            joined.insert(id, flight);
            starting.push((id, keys, answered));
        }
        drop(under_way);
        // A runtime that is shutting down drops a task while it is spawned, and its landing locks.
        for (id, keys, answered) in starting {
            self.start(id, keys.to_vec(), call(keys.to_vec()), answered);
        }
        joined.into_values().collect()
    }

    /// Lets nobody join the flights under way for keys that are `outdated`: what they bring may be
    /// older than what has just happened. Those who wait for them still get it.
    pub(super) fn forget(&self, outdated: impl Fn(&K) -> bool) {
        self.lock().flights.retain(|key, _| !outdated(key));
    }

    fn start<F>(&self, id: u64, keys: Vec<K>, call: F, answered: oneshot::Sender<Result<V>>)
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let landing = Landing {
            under_way: Arc::clone(&self.under_way),
            id,
            keys,
        };
        let stop = self.tasks.stop().clone();
        let call = async move {
            let answered = answered;
            let landing = landing;
            // At the stop nobody waits any more.
            let answer = stop.run_until_cancelled(call).await;
            let stopped = || Err(Error::try_again("the server stops, try again later"));
            drop(landing);
            // Everybody may have given up waiting.
            let _nobody_waits = answered.send(answer.unwrap_or_else(stopped));
        };
        self.tasks.spawn(call.in_current_span());
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay<K, V>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

fn flight<V: Clone + Send + Sync + 'static>(answer: oneshot::Receiver<Result<V>>) -> Flight<V> {
    let answer = async move {
        match answer.await {
            Ok(answer) => answer.map_err(Arc::new),
            Err(_) => Err(Arc::new(Error::internal("a call was cut off"))),
        }
    };
    answer.boxed().shared()
}

/// A flight, listed until this is dropped.
struct Landing<K: Eq + Hash, V> {
    under_way: Arc<Mutex<UnderWay<K, V>>>,
    id: u64,
    keys: Vec<K>,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            // It may have been forgotten, and another one begun.
            if matches!(under_way.flights.get(key), Some((id, _)) if *id == self.id) {
                under_way.flights.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::FutureExt;
    use tokio::sync::Semaphore;

    use super::{Error, Flight, Flights, Result, Tasks};
    use crate::error::Code;

    /// Calls that are answered when they are told to, each with the number that it has.
    struct Calls {
        flights: Flights<i64, usize>,
        made: Arc<AtomicUsize>,
        answers: Arc<Semaphore>,
    }

    impl Calls {
        fn new() -> Self {
            Self {
                flights: Flights::new(Tasks::default()),
                made: Arc::default(),
                answers: Arc::new(Semaphore::new(0)),
            }
        }

        fn join(&self, keys: &[i64]) -> Vec<Flight<usize>> {
            self.flights.join(keys, 2, |_| {
                let made = self.made.fetch_add(1, Ordering::SeqCst);
                let answers = Arc::clone(&self.answers);
                async move {
                    let _answer = answers.acquire().await;
                    Result::Ok(made)
                }
            })
        }
    }

    #[tokio::test]
    async fn those_who_want_the_same_share_a_call() {
        let calls = Calls::new();
        let (first, second) = (calls.join(&[1, 2]), calls.join(&[1, 2]));
        assert_eq!((first.len(), second.len()), (1, 1));
        let third = calls.join(&[2, 3, 4, 5]);
        assert_eq!(third.len(), 3, "one under way, and two for three keys");
        drop(first);
        calls.answers.add_permits(1);
        for flight in second {
            assert_eq!(flight.await.unwrap(), 0);
        }
        for flight in third {
            flight.await.unwrap();
        }
        assert_eq!(calls.made.load(Ordering::SeqCst), 3);
        assert!(calls.flights.lock().flights.is_empty());
    }

    #[tokio::test]
    async fn a_forgotten_call_is_not_joined_but_answers_who_waits() {
        let calls = Calls::new();
        let before = calls.join(&[1]);
        calls.flights.forget(|key| *key == 1);
        let after = calls.join(&[1]);
        calls.answers.add_permits(2);
        for (flights, number) in [(before, 0), (after, 1)] {
            for flight in flights {
                assert_eq!(flight.await.unwrap(), number);
            }
        }
        assert!(calls.flights.lock().flights.is_empty());
    }

    #[tokio::test]
    async fn a_call_that_panics_or_is_stopped_is_answered() {
        let tasks = Tasks::default();
        let flights = Flights::<i64, ()>::new(tasks.clone());
        let crash = flights.join(&[1], 1, |_| async { panic!("on purpose") });
        let error: Arc<Error> = crash[0].clone().await.unwrap_err();
        assert_eq!(error.code(), None);
        let hang = flights.join(&[2], 1, |_| std::future::pending());
        tasks.stop().cancel();
        let error = hang[0].clone().await.unwrap_err();
        assert!(error.is(Code::TryAgain));
        assert!(flights.lock().flights.is_empty());
    }

    #[test]
    fn a_runtime_that_is_shut_down_hinders_nobody() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _entered = handle.enter();
        let flights = Flights::<i64, ()>::new(Tasks::default());
        let [never] = &flights.join(&[1], 1, |_| std::future::pending())[..] else {
            panic!("one flight");
        };
        let answer = never.clone().now_or_never().expect("an answer at once");
        assert_eq!(answer.unwrap_err().code(), None);
        assert!(flights.lock().flights.is_empty());
    }
}
