use super::*;
use crate::cache::TailCache;

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3600);

fn budget(total: u64) -> Budget {
    Budget::new(total, &[(Class::Connections, 30)])
}

#[test]
fn charges_are_bounded_and_come_back() {
    let budget = budget(100);
    let mut a = budget.try_charge(Class::Requests, 60).unwrap();
    assert!(budget.try_charge(Class::Raft, 41).is_none());
    let b = budget.try_charge(Class::Raft, 40).unwrap();
    assert_eq!((budget.used(), budget.used_by(Class::Requests), budget.used_by(Class::Raft)), (100, 60, 40));
    drop(b);
    let c = a.split(50);
    assert_eq!((a.bytes(), c.bytes()), (10, 50));
    a.reduce_to(5);
    assert_eq!(budget.used(), 55);
    drop((a, c));
    assert_eq!(budget.used(), 0);
    assert!(budget.try_charge(Class::Connections, 31).is_none(), "over the class's bound");
    let over = budget.charge_now(Class::Index, 500);
    assert_eq!(budget.used(), 500);
    assert!(budget.try_charge(Class::Requests, 1).is_none());
    drop(over);
}

#[tokio::test]
async fn waiters_are_served_in_order() {
    let budget = budget(100);
    let all = budget.try_charge(Class::Requests, 100).unwrap();
    let mut big = Box::pin(budget.charge(Class::Requests, 80, LONG));
    let mut small = Box::pin(budget.charge(Class::Requests, 10, LONG));
    assert!(futures_pending(&mut big).await && futures_pending(&mut small).await);
    let mut all = all;
    all.reduce_to(50);
    assert!(futures_pending(&mut small).await, "the small one does not overtake");
    assert!(budget.try_charge(Class::Raft, 1).is_none(), "nor does anyone else");
    all.reduce_to(20);
    let big = big.await.unwrap();
    assert!(futures_pending(&mut small).await);
    drop(all);
    let small = small.await.unwrap();
    assert_eq!(budget.used(), 90);
    drop((big, small));
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_class_at_its_bound_holds_up_only_itself() {
    let budget = budget(100);
    let held = budget.try_charge(Class::Connections, 30).unwrap();
    let mut waits = Box::pin(budget.charge(Class::Connections, 10, LONG));
    assert!(futures_pending(&mut waits).await);
    let other = budget.try_charge(Class::Raft, 60).unwrap();
    drop(held);
    assert_eq!(waits.await.unwrap().bytes(), 10);
    drop(other);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn the_deadline_refuses() {
    let budget = budget(100);
    let all = budget.try_charge(Class::Requests, 100).unwrap();
    let over = budget.charge(Class::Requests, 5, SHORT).await.unwrap_err();
    assert_eq!((over.bytes, over.total), (5, 100));
    assert_eq!(budget.waiting(), 0);
    assert!(budget.charge(Class::Requests, 101, LONG).await.is_err(), "what can never fit does not wait");
    drop(all);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_dropped_waiter_leaks_nothing_and_lets_others_pass() {
    let budget = budget(100);
    let mut all = budget.try_charge(Class::Requests, 100).unwrap();
    let mut big = Box::pin(budget.charge(Class::Requests, 90, LONG));
    let mut small = Box::pin(budget.charge(Class::Requests, 20, LONG));
    assert!(futures_pending(&mut big).await && futures_pending(&mut small).await);
    all.reduce_to(50);
    drop(big);
    let small = small.await.unwrap();
    assert_eq!(budget.used(), 70);
    // Served, but dropped before it looked.
    let mut late = Box::pin(budget.charge(Class::Requests, 40, LONG));
    assert!(futures_pending(&mut late).await);
    drop(small);
    assert_eq!(budget.used(), 90);
    drop(late);
    assert_eq!(budget.used(), 50);
    drop(all);
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

struct Cache {
    held: Mutex<Vec<Charge>>,
}

impl Shrink for Cache {
    fn shrink(&self, bytes: u64) {
        let mut held = self.held.lock().unwrap();
        let mut freed = 0;
        while freed < bytes {
            let Some(charge) = held.pop() else { return };
            freed += charge.bytes();
        }
    }
}

#[test]
fn a_request_pushes_out_what_is_cached() {
    let budget = budget(100);
    let cache = Arc::new(Cache { held: Mutex::default() });
    let weak: Weak<dyn Shrink> = Arc::downgrade(&(cache.clone() as Arc<dyn Shrink>));
    budget.register_cache(weak);
    while let Some(charge) = budget.try_charge(Class::TailCache, 10) {
        cache.held.lock().unwrap().push(charge);
    }
    assert_eq!(budget.used_by(Class::TailCache), 100);
    let request = budget.try_charge(Class::Requests, 25).unwrap();
    assert_eq!(budget.used_by(Class::TailCache), 70);
    assert!(budget.try_charge(Class::Requests, 90).is_none());
    drop(request);
    let _ = TailCache::new(budget, 10);
}

async fn futures_pending<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}
