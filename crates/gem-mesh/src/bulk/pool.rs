//! The links that this node dials, and which of them a call takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gem_types::NodeId;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::calling::{Calling, NotAdded, Waiting};
use super::dialling;
use super::shared::Shared;
use super::stream::lock;
use crate::seams::{CallError, PARCEL_BYTES_MAX, PARCEL_PARTS_MAX, Parcel};

/// A node, and the number of a link to it.
pub(super) type Place = (NodeId, usize);

/// The links' tasks; each tells what it served.
pub(super) type Tasks = JoinSet<(Place, Arc<Calling>)>;

/// The links that this node dials. Each has a task, which the pool owns.
pub(super) struct Pool {
    links: Mutex<Links>,
    runtime: Handle,
}

#[derive(Default)]
struct Links {
    all: HashMap<Place, Arc<Calling>>,
    tasks: Tasks,
    is_closed: bool,
}

impl Pool {
    /// Its tasks run in `runtime`.
    pub(super) fn new(runtime: Handle) -> Self {
        Pool { links: Mutex::default(), runtime }
    }

    /// Adds a call to the link of its lane.
    pub(super) fn add(
        &self,
        shared: &Arc<Shared>,
        to: NodeId,
        lane: u64,
        mut request: Parcel,
        wait: Duration,
    ) -> Result<Waiting, CallError> {
        let bytes = request.len();
        if bytes > PARCEL_BYTES_MAX || request.parts.len() > PARCEL_PARTS_MAX {
            return Err(CallError::TooLarge { bytes });
        }
        let place = (to, link_of(lane, shared.limits.links));
        let now = Instant::now();
        let deadline = now.checked_add(wait).unwrap_or_else(|| now + Duration::from_secs(86_400));
        let mut links = lock(&self.links);
        if links.is_closed {
            return Err(CallError::Unreachable { to, why: "this node is stopping".into() });
        }
        links.reap();
        // A link's task may close just before it is reaped: then a new one takes its place.
        if let Some(calling) = links.all.get(&place) {
            match calling.add(lane, request, deadline, wait) {
                Ok(waiting) => return Ok(waiting),
                Err(NotAdded::Refused(error)) => return Err(error),
                Err(NotAdded::Closed(parcel)) => request = parcel,
            }
        } else if links.all.len() >= shared.limits.dialled {
            return Err(CallError::Unreachable { to, why: "this node has as many links as it may".into() });
        }
        let calling = Arc::new(Calling::new(to, &shared.limits));
        links.all.insert(place, Arc::clone(&calling));
        let added = calling.add(lane, request, deadline, wait);
        let keep = dialling::keep(Arc::clone(shared), Arc::clone(&calling));
        links.tasks.spawn_on(
            async move {
                keep.await;
                (place, calling)
            },
            &self.runtime,
        );
        match added {
            Ok(waiting) => Ok(waiting),
            Err(NotAdded::Refused(error)) => Err(error),
            Err(NotAdded::Closed(_)) => Err(CallError::Unreachable { to, why: "its link was closed".into() }),
        }
    }

    /// Takes no more calls; the tasks, which end by themselves.
    pub(super) fn close(&self) -> Tasks {
        let mut links = lock(&self.links);
        links.is_closed = true;
        links.all.clear();
        std::mem::take(&mut links.tasks)
    }
}

impl Links {
    /// Forgets links whose tasks have ended.
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Ok((place, calling)) = ended
                && self.all.get(&place).is_some_and(|current| Arc::ptr_eq(current, &calling))
            {
                self.all.remove(&place);
            }
        }
    }
}

/// The link that calls of `lane` take: spread evenly (Fibonacci hashing), the same each time.
fn link_of(lane: u64, links: usize) -> usize {
    let spread = lane.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (spread as usize) % links.max(1)
}
