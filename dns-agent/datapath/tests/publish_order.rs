//! A model of the order of the publisher's stores, for readers on weak memory. Loom runs each test
//! in every order that the C11 memory model allows, within its bounds.
//!
//! The model has the stores and loads of `hash_table.rs`, `publication.rs` and `settings.rs` on one
//! side, and of the kernel program's `records.rs` and `authority.rs` on the other:
//!
//! * The publisher stores the bytes of records and of copies of the settings as `Relaxed`, and the
//!   words that refer to them as `Release`.
//! * The program loads such a word, and then what it refers to. This is an address dependency,
//!   which all processors keep (Linux's Documentation/memory-barriers.txt). Loom has no
//!   dependencies, so these loads are `Acquire` here. All other loads are `Relaxed`: no order is
//!   assumed between the settings and the directory, or between two words of the directory.
//! * A run of the program is a read-side critical section of RCU, and the publisher waits for a
//!   grace period (`grace.rs`). A lock stands for RCU: readers share it, and a grace period takes
//!   it alone. So a reader either ends before the grace period ends, or sees all stores before it,
//!   which is what RCU promises (Linux's Documentation/RCU/Design/Requirements).

#![forbid(unsafe_code)]

use loom::{
    sync::{
        Arc, RwLock,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread,
};

/// A directory word or number of settings that refers to nothing.
const NOTHING: usize = 0;

/// RCU.
#[derive(Clone)]
struct ModelRcu(Arc<RwLock<()>>);

impl ModelRcu {
    fn new() -> ModelRcu {
        ModelRcu(Arc::new(RwLock::new(())))
    }

    /// Runs the program once.
    fn read(&self, program: impl FnOnce()) {
        let guard = self.0.read().unwrap();
        program();
        drop(guard);
    }

    /// Waits for a grace period.
    fn wait(&self) {
        drop(self.0.write().unwrap());
    }
}

/// Two slots of a record with two words each. Slots are counted from 1.
type ModelSlots = [[AtomicUsize; 2]; 2];

#[test]
fn a_reader_sees_whole_records_though_slots_are_reused() {
    loom::model(|| {
        let rcu = ModelRcu::new();
        let slots: Arc<ModelSlots> = Arc::new(std::array::from_fn(|_| {
            std::array::from_fn(|_| AtomicUsize::new(0))
        }));
        let word = Arc::new(AtomicUsize::new(NOTHING));
        let reader = {
            let (rcu, slots, word) = (rcu.clone(), slots.clone(), word.clone());
            thread::spawn(move || {
                rcu.read(|| {
                    let number = word.load(Acquire);
                    if number != NOTHING {
                        let [one, two] = &slots[number - 1];
                        assert_eq!(one.load(Relaxed), two.load(Relaxed));
                    }
                });
            })
        };
        // A new record, its replacement, and another one in the slot of the first.
        for (version, number) in [(1, 1), (2, 2), (3, 1)] {
            if version == 3 {
                rcu.wait();
            }
            for part in &slots[number - 1] {
                part.store(version, Relaxed);
            }
            word.store(number, Release);
        }
        reader.join().unwrap();
    });
}

#[test]
fn a_name_is_denied_neither_before_nor_after_it_is_published() {
    loom::model(|| {
        let rcu = ModelRcu::new();
        let is_authoritative = Arc::new(AtomicUsize::new(0));
        let word = Arc::new(AtomicUsize::new(NOTHING));
        let reader = {
            let (rcu, is_authoritative) = (rcu.clone(), is_authoritative.clone());
            let word = word.clone();
            thread::spawn(move || {
                rcu.read(|| {
                    let denies = is_authoritative.load(Relaxed) == 1;
                    assert!(
                        !denies || word.load(Relaxed) != NOTHING,
                        "an existing name is denied"
                    );
                });
            })
        };
        // The name is published before absent names are denied.
        word.store(1, Release);
        rcu.wait();
        is_authoritative.store(1, Release);
        // The name no longer fits, so absent names pass before its record is removed.
        is_authoritative.store(0, Release);
        rcu.wait();
        word.store(NOTHING, Release);
        reader.join().unwrap();
    });
}

#[test]
fn a_name_that_moves_to_its_second_bucket_is_always_found() {
    loom::model(|| {
        const NAME: usize = 1;
        const ANOTHER: usize = 2;
        let rcu = ModelRcu::new();
        let first = Arc::new(AtomicUsize::new(NAME));
        let second = Arc::new(AtomicUsize::new(NOTHING));
        let reader = {
            let (rcu, first, second) = (rcu.clone(), first.clone(), second.clone());
            thread::spawn(move || {
                rcu.read(|| {
                    let is_found = first.load(Relaxed) == NAME || second.load(Relaxed) == NAME;
                    assert!(is_found, "the name is in neither bucket");
                });
            })
        };
        second.store(NAME, Release);
        rcu.wait();
        first.store(ANOTHER, Release);
        reader.join().unwrap();
    });
}
