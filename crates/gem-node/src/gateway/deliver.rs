//! From what a shard hands out to messages with tokens.

use gem_shard::log::Delivered;
use gem_types::{Error, Result};

use super::read::Item;

/// Reads the messages of `delivered`, all of one partition. A run of messages from one batch walks
/// that batch once.
pub fn unpack(partition: u32, delivered: Vec<Delivered>) -> Result<Vec<Item>> {
    let mut items = Vec::with_capacity(delivered.len());
    let mut rest = delivered.into_iter().peekable();
    while let Some(first) = rest.next() {
        let (batch, base) = (first.batch.clone(), first.batch.base_offset());
        let mut records = batch.records().shared();
        let mut walked = 0;
        let mut current = Some((first.index, first.delivery, first.token));
        while let Some((index, delivery, token)) = current.take() {
            let record = records.nth((index - walked) as usize).ok_or_else(|| damaged("it ends early"))?;
            walked = index + 1;
            items.push(Item { partition, record: record.map_err(damaged)?, delivery, token });
            let next = rest.next_if(|d| d.batch.base_offset() == base && d.index >= walked);
            current = next.map(|d| (d.index, d.delivery, d.token));
        }
    }
    Ok(items)
}

fn damaged(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("a stored batch is damaged: {error}"))
}
