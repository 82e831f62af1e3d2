//! What drives a [`Writer`]: a thread on a node, a task in a simulation.

use std::thread::JoinHandle;

use super::handle::Journal;
use super::writer::Writer;
use crate::StoreError;

/// The thread of a journal's writer. Dropping it closes the journal and waits for the thread.
#[derive(Debug)]
pub struct WriterThread {
    journal: Journal,
    thread: Option<JoinHandle<()>>,
}

impl WriterThread {
    /// Flushes what is queued and ends the thread. Blocks for about one flush.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.journal.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the writer has poisoned the journal and was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Runs the writer on a thread of its own until the journal is closed. Callbacks are called on
/// that thread.
pub fn spawn_writer_thread(mut writer: Writer) -> Result<WriterThread, StoreError> {
    let journal = Journal { shared: writer.shared.clone() };
    let body = move || {
        while writer.wait() {
            writer.step();
        }
        writer.finish();
    };
    let thread = std::thread::Builder::new().name("gem-journal".into()).spawn(body)?;
    Ok(WriterThread { journal, thread: Some(thread) })
}

/// Runs the writer as a task until the journal is closed. It blocks in every flush: for simulated
/// disks.
pub async fn run_writer(mut writer: Writer) {
    while writer.ready().await {
        writer.step();
        // Others run between two flushes, so that what they submit gathers.
        tokio::task::yield_now().await;
    }
    writer.finish();
}
