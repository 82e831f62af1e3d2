//! A way to a shard on another node, as far as bytes go: requests and answers are joined into one
//! buffer and cut again, as a link does, and nothing else passes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use gem_shard::Shard;
use gem_shard::remote::{Pipe, PipeError, answer, target};

/// The way to one shard.
pub struct BytePipe(Arc<Shard>);

impl BytePipe {
    pub fn to(shard: Arc<Shard>) -> Self {
        BytePipe(shard)
    }
}

impl Pipe for BytePipe {
    fn call(&self, request: Vec<Bytes>, wait: Duration) -> BoxFuture<'static, Result<Vec<Bytes>, PipeError>> {
        let shard = self.0.clone();
        async move {
            let request = across(request);
            let target = target(&request).unwrap();
            assert_eq!((target.group, target.prefix, target.epoch), (shard.id(), shard.prefix(), 1));
            let answer = tokio::time::timeout(wait, answer(shard, request)).await;
            answer.map(across).map_err(|_| PipeError::Lost("it took too long".into()))
        }
        .boxed()
    }
}

/// The same parts, all in one buffer of their own.
fn across(parts: Vec<Bytes>) -> Vec<Bytes> {
    let mut link = BytesMut::new();
    parts.iter().for_each(|part| link.put_slice(part));
    let mut arrived = link.freeze();
    parts.iter().map(|part| arrived.split_to(part.len())).collect()
}
