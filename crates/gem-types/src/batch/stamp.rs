//! Stamping: what the leader adds to a batch that a producer made.

use super::layout::APPEND_TIME;
use super::{RecordBatch, crc};
use crate::ids::{Offset, TimestampMs};

impl RecordBatch {
    /// Gives the batch its place and its time: every record's timestamp becomes `append_time_ms`
    /// (`LogAppendTime`). The records are not touched, and the checksum is updated without
    /// reading them.
    ///
    /// Panics if the batch would reach beyond offset 2^63 - 1, which no partition ever does.
    pub fn stamp(&mut self, base_offset: Offset, append_time_ms: TimestampMs) {
        let end = base_offset.checked_add(u64::from(self.count())).and_then(|end| i64::try_from(end).ok());
        assert!(end.is_some(), "a batch stamped with base offset {base_offset} would end beyond the last offset");
        let old_head = self.head.own_crc();
        self.head.base_offset = base_offset as i64;
        self.head.attributes |= APPEND_TIME;
        self.head.max_timestamp = append_time_ms;
        self.head.crc =
            crc::replace_head(self.head.crc, old_head, self.head.own_crc(), self.bytes.len() - super::HEAD_LEN);
        self.restamped = true;
    }
}
