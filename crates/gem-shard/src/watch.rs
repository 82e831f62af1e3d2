//! A value that others wait for, as tokio's watch channels are but for one thing: those who wait are
//! woken in the order in which they began to. With tokio's the order is drawn, by a chance that
//! nobody can seed, and no run of several replicas would be repeatable. openraft's watch channels
//! are these too.
//!
//! Invariants:
//! - A change after a receiver last looked is never missed: it begins to wait before it looks.
//! - The lock is held for one look or one change, never across a wait.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use openraft::OptionalSend;
use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::base::OptionalSync;
use tokio::sync::Notify;

/// These channels, as openraft takes them.
#[derive(Debug)]
pub struct OrderedWatch;

/// A channel that holds `init`.
pub fn channel<T>(init: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(init);
    let receiver = sender.subscribe();
    (sender, receiver)
}

/// Nobody can change the value any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    /// Rises with every change.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    /// `Notify` wakes in order.
    changed: Notify,
}

impl<T> Shared<T> {
    fn look(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value; wakes those who wait where `change` says that it did.
    fn change(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.value.write().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut value) {
            return false;
        }
        // Under the lock: who sees the value sees the version too.
        self.version.fetch_add(1, Ordering::Release);
        drop(value);
        self.changed.notify_waiters();
        true
    }
}

/// Changes the value.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees the value, and waits for changes.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<T> Sender<T> {
    /// A channel that holds `init` and has no receivers yet.
    pub fn new(init: T) -> Self {
        Sender(Arc::new(Shared {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            changed: Notify::new(),
        }))
    }

    /// A receiver that has seen what is there now.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::Relaxed);
        let seen = self.0.version.load(Ordering::Acquire);
        Receiver { shared: self.0.clone(), seen }
    }

    /// Sets the value, with or without receivers.
    pub fn send_replace(&self, value: T) {
        self.send_modify(|current| *current = value);
    }

    /// Changes the value, and wakes those who wait.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.0.change(|current| {
            modify(current);
            true
        });
    }

    /// The value. It holds a lock: not to be kept across a wait, nor over a change.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.look()
    }

    /// How many see the value.
    pub fn receiver_count(&self) -> usize {
        self.0.receivers.load(Ordering::Acquire)
    }
}

impl<T> Receiver<T> {
    /// The value. It holds a lock: not to be kept across a wait, nor over a change.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.shared.look()
    }

    /// Waits for a change that this receiver has not seen. May be dropped at any time.
    ///
    /// # Errors
    /// No sender is left.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            let mut notified = std::pin::pin!(self.shared.changed.notified());
            // From here on no change goes by unheard.
            notified.as_mut().enable();
            let version = self.shared.version.load(Ordering::Acquire);
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.senders.load(Ordering::Acquire) == 0 {
                return Err(Closed);
            }
            notified.await;
        }
    }

    /// Waits until the value is as `is_so` says, and answers it.
    ///
    /// # Errors
    /// No sender is left, and the value is not so.
    pub async fn wait_for(&mut self, is_so: impl Fn(&T) -> bool) -> Result<T, Closed>
    where
        T: Clone,
    {
        loop {
            {
                let value = self.shared.look();
                self.seen = self.shared.version.load(Ordering::Acquire);
                if is_so(&value) {
                    return Ok(value.clone());
                }
            }
            self.changed().await?;
        }
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        channel(init)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.receiver_count() == 0 {
            return Err(SendError(value));
        }
        self.send_replace(value);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.change(modify)
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Sender::subscribe(self)
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        Receiver::changed(self).await.map_err(|_| RecvError(()))
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.look();
        self.seen = self.shared.version.load(Ordering::Acquire);
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_in_order() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for n in 0..50 {
            let (mut receiver, woken) = (receiver.clone(), woken.clone());
            tasks.spawn(async move {
                receiver.changed().await.unwrap();
                woken.lock().unwrap().push(n);
            });
        }
        tokio::task::yield_now().await;
        WatchSender::send(&sender, 1).unwrap();
        while tasks.join_next().await.is_some() {}
        assert_eq!(*woken.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn the_end_of_the_senders_is_told_after_the_last_change() {
        let (sender, mut receiver) = channel(0);
        WatchSender::send(&sender, 1).unwrap();
        drop(sender.clone());
        drop(sender);
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow(), 1);
        assert!(receiver.changed().await.is_err());
    }

    #[test]
    fn without_receivers_nothing_is_sent() {
        let (sender, receiver) = channel(0);
        drop(receiver);
        assert!(WatchSender::send(&sender, 1).is_err());
        assert_eq!(*sender.borrow(), 0);
    }
}
