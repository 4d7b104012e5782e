//! Fair shares of limited resources.
//!
//! A client may hold as much of a resource as is left free after it took it (the dynamic threshold
//! of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). So one client gets at
//! most half, two that want everything get a third each, and a third client still has room.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::ready,
};

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// A resource that clients share: places, or bytes.
#[derive(Clone, Debug)]
pub(super) struct Shares(Arc<Mutex<Holdings>>);

/// Some of a resource, held until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Shares,
    client: IpAddr,
    amount: usize,
}

#[derive(Debug)]
struct Holdings {
    free: usize,
    /// What each client holds. Clients that hold nothing are left out.
    held: HashMap<IpAddr, usize>,
}

impl Shares {
    pub(super) fn new(capacity: usize) -> Shares {
        let (free, held) = (capacity, HashMap::new());
        Shares(Arc::new(Mutex::new(Holdings { free, held })))
    }

    /// Takes an amount for a client. `None` if the client would then hold more than what is left.
    pub(super) fn take(&self, client: IpAddr, amount: usize) -> Option<Share> {
        let mut holdings = self.lock();
        let held = holdings.held.get(&client).copied().unwrap_or_default() + amount;
        let left = holdings.free.checked_sub(amount)?;
        if held > left {
            return None;
        }
        holdings.free = left;
        holdings.held.insert(client, held);
        Some(Share {
            shares: self.clone(),
            client,
            amount,
        })
    }

    /// How much all clients hold together.
    pub(super) fn held(&self) -> usize {
        self.lock().held.values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, Holdings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut holdings = self.shares.lock();
        holdings.free += self.amount;
        let left = holdings.held.get(&self.client).copied().unwrap_or_default();
        match left.saturating_sub(self.amount) {
            0 => holdings.held.remove(&self.client),
            left => holdings.held.insert(self.client, left),
        };
    }
}

/// Turns of clients. A client's tasks that work one at a time leave the processor to tasks of other
/// clients in between, however many tasks and connections it has.
#[derive(Debug, Default)]
pub(super) struct ClientTurns(Mutex<KnownTurns>);

#[derive(Debug, Default)]
struct KnownTurns {
    /// A semaphore with one permit for each client.
    by_client: HashMap<IpAddr, Weak<Semaphore>>,
    /// The number of clients at which those without tasks are removed.
    prune_at: usize,
}

impl ClientTurns {
    /// The turns of a client: a semaphore with one permit.
    pub(super) fn of(&self, client: IpAddr) -> Arc<Semaphore> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = turns.by_client.get(&client).and_then(Weak::upgrade) {
            return known;
        }
        if turns.by_client.len() >= turns.prune_at {
            turns.by_client.retain(|_, it| it.strong_count() > 0);
            // So a client's removal costs the same however many there are.
            turns.prune_at = 2 * turns.by_client.len();
        }
        let new = Arc::new(Semaphore::new(1));
        turns.by_client.insert(client, Arc::downgrade(&new));
        new
    }

    /// Runs a task of a client: each time it can go on, it waits for a turn. A turn is given back
    /// when the task waits for something else, so tasks of a client wait for the network at the
    /// same time.
    pub(super) fn run<F: Future>(
        &self,
        client: IpAddr,
        task: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let mut turns = PollSemaphore::new(self.of(client));
        async move {
            let mut task = pin!(task);
            poll_fn(|context| {
                let _turn = ready!(turns.poll_acquire(context));
                task.as_mut().poll(context)
            })
            .await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread,
        time::{Duration, Instant},
    };

    use futures_util::poll;
    use proptest::prelude::*;
    use tokio::{
        task::{self, JoinSet},
        time::timeout,
    };

    use super::*;

    fn client(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    /// Takes one after another in turn for these clients, until none gets more.
    fn take_all(shares: &Shares, clients: &[u8]) -> Vec<Share> {
        let mut taken = Vec::new();
        loop {
            let before = taken.len();
            let clients = clients.iter();
            taken.extend(clients.filter_map(|number| shares.take(client(*number), 1)));
            if taken.len() == before {
                return taken;
            }
        }
    }

    #[test]
    fn greedy_clients_leave_room_for_another() {
        for (greedy, expected) in [(1, 60), (2, 40), (3, 30), (5, 20)] {
            let shares = Shares::new(120);
            let numbers: Vec<u8> = (0..greedy).collect();
            let taken = take_all(&shares, &numbers);
            assert_eq!(taken.len(), expected * usize::from(greedy), "{greedy}");
            assert!(shares.take(client(99), 1).is_some());
        }
    }

    #[test]
    fn what_is_dropped_is_free_again() {
        let shares = Shares::new(100);
        drop(take_all(&shares, &[1, 2, 3]));
        assert_eq!(take_all(&shares, &[4]).len(), 50);
        assert!(shares.take(client(5), 51).is_none());
        assert_eq!(shares.lock().held.len(), 0);
    }

    #[test]
    fn a_client_has_the_same_turns_while_they_are_held() {
        let turns = ClientTurns::default();
        let (one, other) = (turns.of(client(1)), turns.of(client(2)));
        assert!(Arc::ptr_eq(&one, &turns.of(client(1))) && !Arc::ptr_eq(&one, &other));
        drop(one);
        turns.of(client(3));
        assert_eq!(turns.0.lock().unwrap().by_client.len(), 2);
    }

    /// Counts how often tasks run at the same time: each occupies its thread for a while, and goes
    /// on later.
    async fn count_overlaps(running: Arc<AtomicUsize>, overlaps: Arc<AtomicUsize>) {
        for _ in 0..10 {
            if running.fetch_add(1, SeqCst) > 0 {
                overlaps.fetch_add(1, SeqCst);
            }
            let started = Instant::now();
            while started.elapsed() < Duration::from_micros(100) {
                thread::yield_now();
            }
            running.fetch_sub(1, SeqCst);
            task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn tasks_of_a_client_run_one_at_a_time() {
        let turns = ClientTurns::default();
        let (running, overlaps) = (Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        for _ in 0..50 {
            let count = count_overlaps(Arc::clone(&running), Arc::clone(&overlaps));
            tasks.spawn(turns.run(client(1), count));
        }
        tasks.join_all().await;
        assert_eq!(overlaps.load(SeqCst), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_does_not_wait_for_the_turns_of_another() {
        let turns = ClientTurns::default();
        let held = turns.of(client(1)).acquire_owned().await.unwrap();
        let limit = Duration::from_secs(60);
        timeout(limit, turns.run(client(2), async {}))
            .await
            .unwrap();
        let waiting = turns.run(client(1), async {});
        let mut waiting = pin!(waiting);
        assert!(poll!(&mut waiting).is_pending());
        drop(held);
        timeout(limit, waiting).await.unwrap();
    }

    proptest! {
        #[test]
        fn no_client_holds_more_than_is_left(
            steps in prop::collection::vec((0u8..6, 0usize..40, any::<bool>()), 0..200),
        ) {
            const CAPACITY: usize = 100;
            let shares = Shares::new(CAPACITY);
            let mut taken: Vec<Share> = Vec::new();
            for (number, amount, takes) in steps {
                if takes {
                    let share = shares.take(client(number), amount);
                    let holdings = shares.lock();
                    let held = holdings.held.get(&client(number)).copied().unwrap_or_default();
                    prop_assert!(share.is_none() || held <= holdings.free);
                    drop(holdings);
                    taken.extend(share);
                } else if !taken.is_empty() {
                    taken.swap_remove(amount % taken.len());
                }
                let all: usize = taken.iter().map(|share| share.amount).sum();
                let holdings = shares.lock();
                prop_assert_eq!(holdings.free, CAPACITY - all);
                prop_assert_eq!(holdings.held.values().sum::<usize>(), all);
            }
        }
    }
}
