//! The contract of a shard's log, run against a shard on a real disk with RocksDB, and on a
//! simulated disk with the model of the index under paused time; of each directly, and as a shard
//! elsewhere, through encoded messages.

mod harness;
mod pipe;
mod appends;
mod topics;
mod groups;
mod restarts;

/// One test for each kind of node.
#[macro_export]
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        $crate::suite!(@real real, $crate::harness::Node::real(); $($name),*);
        $crate::suite!(@real real_elsewhere, $crate::harness::Node::real().elsewhere(); $($name),*);
        $crate::suite!(@simulated simulated, $crate::harness::Node::sim(); $($name),*);
        $crate::suite!(@simulated simulated_elsewhere, $crate::harness::Node::sim().elsewhere(); $($name),*);
    };
    (@real $kind:ident, $node:expr; $($name:ident),*) => {
        mod $kind {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let mut node = $node;
                node.start().await;
                super::$name(&mut node).await;
                node.stop().await;
            })*
        }
    };
    (@simulated $kind:ident, $node:expr; $($name:ident),*) => {
        mod $kind {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                let mut node = $node;
                node.start().await;
                super::$name(&mut node).await;
                node.stop().await;
            })*
        }
    };
}
