//! The contract of a shard's log, run against a shard on a real disk with RocksDB, and on a
//! simulated disk with the model of the index under paused time.

mod harness;
mod appends;
mod topics;
mod groups;
mod restarts;

/// One test for each kind of node.
#[macro_export]
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod real {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let mut node = $crate::harness::Node::real();
                node.start().await;
                super::$name(&mut node).await;
                node.stop().await;
            })*
        }
        mod simulated {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                let mut node = $crate::harness::Node::sim();
                node.start().await;
                super::$name(&mut node).await;
                node.stop().await;
            })*
        }
    };
}
