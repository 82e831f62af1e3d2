//! The members of a group: who was seen when, and how much each holds.

use std::collections::BTreeMap;

use gem_types::TimestampMs;

use super::actions::Now;
use super::leases::NO_MEMBER;
use crate::log::MemberInfo;

/// A member, by name; known until it is silent and holds nothing.
#[derive(Debug)]
pub(super) struct Member {
    name: String,
    seen_ms: u64,
    seen_wall_ms: TimestampMs,
    /// By its last heartbeat: no lease of its ends before.
    pub extended_ms: u64,
    /// Leases.
    pub pending: u64,
    /// Open streams: each shows that the member lives.
    streams: Vec<u64>,
    /// Waiting pulls: each is a caller on the line.
    waiting: usize,
}

/// A group's members. Indexes are used again once a member is forgotten, which is not before no
/// lease names it.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_name: BTreeMap<String, u32>,
    table: Vec<Option<Member>>,
    free: Vec<u32>,
    /// Not before this is anyone silent for too long.
    check_ms: Option<u64>,
}

impl Members {
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub fn get(&self, index: u32) -> Option<&Member> {
        self.table.get(index as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut Member> {
        self.table.get_mut(index as usize)?.as_mut()
    }

    /// The member of that name was seen; it is remembered from now on.
    pub fn seen(&mut self, name: &str, now: Now, timeout_ms: u64) -> u32 {
        let index = self.find(name).unwrap_or_else(|| self.add(name, now));
        self.seen_again(index, now);
        let check = now.mono_ms.saturating_add(timeout_ms);
        self.check_ms = Some(self.check_ms.map_or(check, |at| at.min(check)));
        index
    }

    fn add(&mut self, name: &str, now: Now) -> u32 {
        let member = Member {
            name: name.to_owned(),
            seen_ms: now.mono_ms,
            seen_wall_ms: now.wall_ms,
            extended_ms: 0,
            pending: 0,
            streams: Vec::new(),
            waiting: 0,
        };
        let index = self.free.pop().unwrap_or(self.table.len() as u32);
        match self.table.get_mut(index as usize) {
            Some(slot) => *slot = Some(member),
            None => self.table.push(Some(member)),
        }
        self.by_name.insert(name.to_owned(), index);
        index
    }

    /// A member that is known was seen.
    pub fn seen_again(&mut self, index: u32, now: Now) {
        if let Some(member) = self.get_mut(index) {
            member.seen_ms = now.mono_ms;
            member.seen_wall_ms = now.wall_ms;
        }
    }

    pub fn open_stream(&mut self, index: u32, stream: u64) {
        if let Some(member) = self.get_mut(index)
            && !member.streams.contains(&stream)
        {
            member.streams.push(stream);
        }
    }

    pub fn close_stream(&mut self, index: u32, stream: u64) {
        if let Some(member) = self.get_mut(index) {
            member.streams.retain(|open| *open != stream);
        }
    }

    pub fn begin_wait(&mut self, index: u32) {
        if let Some(member) = self.get_mut(index) {
            member.waiting += 1;
        }
    }

    pub fn end_wait(&mut self, index: u32, now: Now) {
        if let Some(member) = self.get_mut(index) {
            member.waiting = member.waiting.saturating_sub(1);
        }
        self.seen_again(index, now);
    }

    pub fn lease(&mut self, index: u32, count: u64) {
        if let Some(member) = self.get_mut(index) {
            member.pending += count;
        }
    }

    pub fn unlease(&mut self, index: u32) {
        if index != NO_MEMBER
            && let Some(member) = self.get_mut(index)
        {
            member.pending = member.pending.saturating_sub(1);
        }
    }

    /// All leases ended (a seek).
    pub fn unlease_all(&mut self) {
        self.table.iter_mut().flatten().for_each(|member| member.pending = 0);
    }

    /// Members that were silent for too long. Those without leases are forgotten here; the
    /// others' leases are the caller's to free, and they are forgotten at the next check.
    pub fn silent(&mut self, now_ms: u64, timeout_ms: u64) -> Vec<u32> {
        if self.check_ms.is_none_or(|at| at > now_ms) {
            return Vec::new();
        }
        let mut lost = Vec::new();
        let mut next: Option<u64> = None;
        for (index, entry) in self.table.iter_mut().enumerate() {
            let Some(member) = entry else { continue };
            let lives = !member.streams.is_empty() || member.waiting > 0;
            let end = if lives { now_ms } else { member.seen_ms }.saturating_add(timeout_ms);
            if end > now_ms {
                next = Some(next.map_or(end, |at| at.min(end)));
            } else if member.pending > 0 {
                lost.push(index as u32);
                next = Some(now_ms.saturating_add(timeout_ms));
            } else {
                self.by_name.remove(&member.name);
                self.free.push(index as u32);
                *entry = None;
            }
        }
        self.check_ms = next;
        lost
    }

    pub fn next_deadline(&self) -> Option<u64> {
        self.check_ms
    }

    /// As users see them.
    pub fn infos(&self) -> Vec<MemberInfo> {
        let info = |member: &Member| MemberInfo {
            consumer: member.name.clone(),
            pending: member.pending,
            last_seen_ms: member.seen_wall_ms,
        };
        self.by_name.values().filter_map(|index| self.get(*index)).map(info).collect()
    }

    pub fn bytes(&self) -> usize {
        self.table.capacity() * size_of::<Member>() + self.by_name.len() * 96
    }
}
