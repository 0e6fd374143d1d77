//! What a double has received, oldest first: appended, amended, read, and waited for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// More than any test sends, and little enough that a demo may run for a week: older entries are forgotten.
const KEPT: usize = 16_384;

/// A shared list of entries that others can wait for.
#[derive(Debug)]
pub(crate) struct Ledger<T>(Arc<Inner<T>>);

/// One entry of a ledger, to be amended later.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    ledger: Ledger<T>,
    number: usize,
}

#[derive(Debug)]
struct Inner<T> {
    entries: Mutex<Entries<T>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Entries<T> {
    kept: VecDeque<T>,
    forgotten: usize,
}

impl<T> Ledger<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            entries: Mutex::new(Entries { kept: VecDeque::new(), forgotten: 0 }),
            changed: watch::Sender::new(()),
        }))
    }

    pub(crate) fn push(&self, entry: T) -> Entry<T> {
        let mut entries = self.lock();
        if entries.kept.len() == KEPT {
            entries.kept.pop_front();
            entries.forgotten += 1;
        }
        entries.kept.push_back(entry);
        let number = entries.forgotten + entries.kept.len() - 1;
        drop(entries);
        self.0.changed.send_replace(());
        Entry { ledger: self.clone(), number }
    }

    /// How many were ever pushed.
    pub(crate) fn total(&self) -> usize {
        let entries = self.lock();
        entries.forgotten + entries.kept.len()
    }

    /// Waits until `condition` holds; it is asked again after every change.
    pub(crate) async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut changed = self.0.changed.subscribe();
        while !condition(self) {
            changed.changed().await.expect("the sender lives in self");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Ledger<T> {
    pub(crate) fn snapshot(&self) -> Vec<T> {
        self.lock().kept.iter().cloned().collect()
    }
}

impl<T> Clone for Ledger<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { ledger: self.ledger.clone(), number: self.number }
    }
}

impl<T> Entry<T> {
    /// Changes the entry, unless it has been forgotten.
    pub(crate) fn amend(&self, change: impl FnOnce(&mut T)) {
        let mut entries = self.ledger.lock();
        let at = self.number.checked_sub(entries.forgotten);
        if let Some(entry) = at.and_then(|at| entries.kept.get_mut(at)) {
            change(entry);
        }
        drop(entries);
        self.ledger.0.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_entries_are_forgotten_and_still_counted() {
        let ledger = Ledger::new();
        let first = ledger.push(0);
        for number in 1..=KEPT {
            ledger.push(number);
        }
        first.amend(|entry| *entry = 7);
        assert_eq!(ledger.total(), KEPT + 1);
        assert_eq!(ledger.snapshot().first(), Some(&1));
    }

    #[tokio::test]
    async fn waiting_sees_an_amendment() {
        let ledger = Ledger::new();
        let entry = ledger.push(1);
        tokio::join!(ledger.until(|ledger| ledger.snapshot() == [2]), async { entry.amend(|number| *number = 2) });
    }
}
