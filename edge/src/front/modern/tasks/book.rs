//! The tasks that there are, and how much room the results of each principal take.
//!
//! ```text
//! reserved ──▶ running ──▶ kept ──fetched──▶ spent      (spent tasks make room for others, the oldest first)
//!                 └─── failed, cancelled ────▶ spent
//! ```
//! Guarantees: tasks and bytes stay within their bounds; a result that was not fetched yet makes room for nobody; no
//! principal takes more room than it leaves for the others; each task has room for a small result from its start. It
//! must not know of time, locks or what a task is.

use std::collections::HashMap;

use crate::call::Caller;
use crate::permit::Bound;

/// The bounds of all tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) tasks: usize,
    /// Of all results together.
    pub(super) bytes: usize,
}

impl Bounds {
    /// The bytes that each task may take in any case. A quarter of an equal share, so that the maximum number of tasks
    /// leaves room for larger results, even if all belong to one principal.
    fn least(self) -> usize {
        self.bytes / self.tasks.max(1) / 4
    }

    /// The bytes that must be free for one more task, because most results are larger than the minimum: 1 MiB of 64.
    fn ahead(self) -> usize {
        self.least().max(self.bytes / 64).max(1)
    }
}

/// The table of tasks.
pub(super) struct Book<T> {
    bounds: Bounds,
    entries: HashMap<Box<str>, Entry<T>>,
    /// The number of the latest one.
    latest: u64,
    /// Tasks that had to make room, until the caller takes them.
    gone: Vec<T>,
}

struct Entry<T> {
    caller: Caller,
    number: u64,
    bytes: usize,
    /// Nobody waits for it: it was fetched, has failed or was cancelled.
    spent: bool,
    /// `None` while it is a reserved place.
    task: Option<T>,
}

/// What becomes of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Kept,
    Full,
    /// The task was cancelled, or forgotten.
    Unwanted,
}

impl<T> Book<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, entries: HashMap::new(), latest: 0, gone: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A place for a task of `caller`.
    ///
    /// # Errors
    /// The bound that is reached.
    pub(super) fn reserve(&mut self, id: Box<str>, caller: &Caller) -> Result<(), Bound> {
        if !self.may_have(caller, self.bounds.ahead()) {
            return Err(Bound::TaskBytes);
        }
        if self.entries.len() >= self.bounds.tasks && self.forget_spent(|_| true).is_none() {
            return Err(Bound::Tasks);
        }
        let bytes = self.bounds.least();
        self.make_room(bytes);
        self.latest += 1;
        let entry = Entry { caller: caller.clone(), number: self.latest, bytes, spent: false, task: None };
        self.entries.insert(id, entry);
        Ok(())
    }

    /// Puts a task into its place.
    pub(super) fn fill(&mut self, id: &str, task: T) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.task = Some(task);
        }
    }

    /// Gives a place back in which there is no task.
    pub(super) fn give_back(&mut self, id: &str) {
        if self.entries.get(id).is_some_and(|entry| entry.task.is_none()) {
            self.entries.remove(id);
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&T> {
        self.entries.get(id)?.task.as_ref()
    }

    /// Takes room for what came of a task. A failure is spent at once.
    pub(super) fn settle(&mut self, id: &str, bytes: usize, failed: bool) -> Settled {
        let Some(entry) = self.entries.get_mut(id).filter(|entry| !entry.spent) else {
            return Settled::Unwanted;
        };
        let (before, caller) = (std::mem::take(&mut entry.bytes), entry.caller.clone());
        let fits = bytes <= before || self.may_have(&caller, bytes);
        if fits {
            self.make_room(bytes);
        }
        if let Some(entry) = self.entries.get_mut(id) {
            entry.bytes = if fits { bytes } else { 0 };
            entry.spent = failed || !fits;
        }
        if fits { Settled::Kept } else { Settled::Full }
    }

    /// Marks it as evictable; with `empty` it holds no bytes either.
    pub(super) fn spend(&mut self, id: &str, empty: bool) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.spent = true;
            if empty {
                entry.bytes = 0;
            }
        }
    }

    /// Takes out the tasks that are `over`.
    pub(super) fn take(&mut self, over: impl Fn(&T) -> bool) -> Vec<T> {
        let over = self.entries.extract_if(|_, entry| entry.task.as_ref().is_some_and(&over));
        over.filter_map(|(_, entry)| entry.task).collect()
    }

    /// Those that had to make room, to be dropped where no lock is held.
    pub(super) fn take_gone(&mut self) -> Vec<T> {
        std::mem::take(&mut self.gone)
    }

    /// Whether `caller` would still leave as much free for others as it takes itself. So one alone gets half of the
    /// room, two a third each, and there is always some for the next.
    fn may_have(&self, caller: &Caller, more: usize) -> bool {
        let (mut own, mut all) = (more, more);
        for entry in self.entries.values().filter(|entry| !entry.spent) {
            all = all.saturating_add(entry.bytes);
            if entry.caller == *caller {
                own = own.saturating_add(entry.bytes);
            }
        }
        own <= self.bounds.bytes.saturating_sub(all)
    }

    /// Forgets what is spent until `more` fit. They do in the end: what is not spent leaves that room.
    fn make_room(&mut self, more: usize) {
        let all: usize = self.entries.values().map(|entry| entry.bytes).sum();
        let mut over = all.saturating_add(more).saturating_sub(self.bounds.bytes);
        while over > 0
            && let Some(bytes) = self.forget_spent(|entry| entry.bytes > 0)
        {
            over = over.saturating_sub(bytes);
        }
    }

    /// Forgets the oldest that is spent; what it took.
    fn forget_spent(&mut self, among: impl Fn(&Entry<T>) -> bool) -> Option<usize> {
        let spent = self.entries.iter().filter(|(_, entry)| entry.spent && among(entry));
        let oldest = spent.min_by_key(|(_, entry)| entry.number).map(|(id, _)| id.clone())?;
        let entry = self.entries.remove(&oldest)?;
        self.gone.extend(entry.task);
        Some(entry.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn book(tasks: usize, bytes: usize) -> Book<usize> {
        Book::new(Bounds { tasks, bytes })
    }

    fn start(book: &mut Book<usize>, number: usize, principal: &str) -> Result<(), Bound> {
        book.reserve(number.to_string().into(), &Caller::new(principal))?;
        book.fill(&number.to_string(), number);
        Ok(())
    }

    #[test]
    fn what_was_not_fetched_makes_room_for_nobody() {
        let mut book = book(100, 6400);
        for number in 1..=3 {
            start(&mut book, number, "ann").unwrap();
        }
        assert_eq!(book.settle("1", 3000, false), Settled::Kept);
        assert_eq!(book.settle("2", 1000, false), Settled::Full, "half of it is for others");
        assert_eq!(book.settle("3", 16, false), Settled::Kept, "what each may take in any case");
        assert_eq!(start(&mut book, 4, "ann"), Ok(()));
        assert_eq!(book.settle("4", 150, false), Settled::Kept);
        assert_eq!(start(&mut book, 5, "ann"), Err(Bound::TaskBytes));
        assert_eq!(start(&mut book, 6, "bob"), Ok(()), "there is room for others");
        assert_eq!(book.settle("6", 1500, false), Settled::Kept);
        assert!(book.take_gone().is_empty());
        book.spend("1", false);
        assert_eq!(start(&mut book, 7, "ann"), Ok(()));
        assert_eq!(book.settle("7", 2000, false), Settled::Kept);
        assert_eq!(book.take_gone(), [1], "and not the one that failed, which takes nothing");
    }

    #[test]
    fn the_oldest_that_is_spent_goes_first_and_a_place_is_one_persons() {
        let mut book = book(3, 6400);
        for number in 1..=3 {
            start(&mut book, number, "ann").unwrap();
        }
        assert_eq!(start(&mut book, 4, "bob"), Err(Bound::Tasks));
        book.spend("3", true);
        assert_eq!(book.settle("3", 1, false), Settled::Unwanted);
        assert_eq!(book.settle("2", 1, true), Settled::Kept);
        book.reserve("4".into(), &Caller::new("bob")).unwrap();
        book.reserve("5".into(), &Caller::new("bob")).unwrap();
        assert_eq!(book.take_gone(), [2, 3]);
        assert_eq!(start(&mut book, 6, "bob"), Err(Bound::Tasks), "a place counts without its task");
        book.give_back("5");
        book.give_back("1");
        assert_eq!((book.get("5"), book.get("1"), book.len()), (None, Some(&1), 2));
    }

    proptest! {
        #[test]
        fn bounds_hold_and_nobody_takes_all(steps in prop::collection::vec((0usize..4, 0usize..12, 0usize..700), 0..120)) {
            let bounds = Bounds { tasks: 8, bytes: 2000 };
            let mut book = Book::new(bounds);
            for (step, number, size) in steps {
                let id = number.to_string();
                match step {
                    0 if book.get(&id).is_none() => drop(start(&mut book, number, &(number % 3).to_string())),
                    1 => drop(book.settle(&id, size, size % 5 == 0)),
                    2 => book.spend(&id, size % 2 == 0),
                    _ => drop(book.take(|task| *task == size)),
                }
                prop_assert!(book.len() <= bounds.tasks);
                prop_assert!(book.entries.values().map(|entry| entry.bytes).sum::<usize>() <= bounds.bytes);
                let unspent: usize = book.entries.values().filter(|entry| !entry.spent).map(|entry| entry.bytes).sum();
                prop_assert!(unspent < bounds.bytes);
            }
        }
    }
}
