//! Queries that have been received and not yet answered.
//!
//! They are answered in turns of the clients, and each client may have a share of the places. So a
//! client that sends more queries than the resolver can answer loses only its own.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

/// A queue with a queue for each client. A client may hold as many places as are left free, as in
/// [`Shares`](super::shares::Shares).
#[derive(Debug)]
pub(super) struct ReceivedQueries<T> {
    free: usize,
    /// The queries of each client that has some.
    by_client: HashMap<IpAddr, VecDeque<T>>,
    /// These clients, in the order of their next turns.
    turns: VecDeque<IpAddr>,
}

impl<T> ReceivedQueries<T> {
    pub(super) fn new(capacity: usize) -> ReceivedQueries<T> {
        ReceivedQueries {
            free: capacity,
            by_client: HashMap::new(),
            turns: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether the client may add a query.
    pub(super) fn has_place(&self, client: IpAddr) -> bool {
        let held = self.by_client.get(&client).map_or(0, VecDeque::len);
        held + 1 < self.free
    }

    /// Adds a query of a client that [has a place](ReceivedQueries::has_place).
    pub(super) fn push(&mut self, client: IpAddr, query: T) {
        self.free = self.free.saturating_sub(1);
        let queries = self.by_client.entry(client).or_default();
        if queries.is_empty() {
            self.turns.push_back(client);
        }
        queries.push_back(query);
    }

    /// The oldest query of the client whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let client = self.turns.pop_front()?;
        let queries = self.by_client.get_mut(&client)?;
        let query = queries.pop_front()?;
        self.free += 1;
        if queries.is_empty() {
            self.by_client.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        Some(query)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    /// Adds numbered queries of a client until it has no place. Returns their number.
    fn fill(received: &mut ReceivedQueries<(u8, usize)>, number: u8) -> usize {
        let mut count = 0;
        while received.has_place(client(number)) {
            received.push(client(number), (number, count));
            count += 1;
        }
        count
    }

    #[test]
    fn a_greedy_client_leaves_room_for_others() {
        let mut received = ReceivedQueries::new(100);
        assert_eq!(fill(&mut received, 1), 50);
        assert_eq!(fill(&mut received, 2), 25);
        assert!(received.has_place(client(3)));
    }

    #[test]
    fn clients_have_turns_and_queries_keep_their_order() {
        let mut received = ReceivedQueries::new(100);
        fill(&mut received, 1);
        received.push(client(2), (2, 0));
        received.push(client(2), (2, 1));
        let first: Vec<_> = (0..5).filter_map(|_| received.pop()).collect();
        assert_eq!(first, [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]);
        while received.pop().is_some() {}
        assert!(received.is_empty() && received.by_client.is_empty());
        assert_eq!(received.free, 100);
    }
}
