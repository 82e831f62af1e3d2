//! The values within calls and answers, each by a pair of functions.
//!
//! Numbers are varints, texts and lists begin with their length ([`crate::entry::wire`]).

use std::time::Duration;

use gem_types::{Code, Error, GroupName, Prefix};

use super::call::WAIT_MAX;
use crate::entry::wire::{Malformed, Reader, Writer};
use crate::entry::{mode_tag, put_config, take_config, take_mode};
use crate::log::{
    From, GroupInfo, MemberInfo, PartitionInfo, PartitionStats, Placed, Status, TokenText, TopicInfo, Verb,
};

pub(super) fn put_flag(out: &mut Writer, flag: bool) {
    out.u8(u8::from(flag));
}

pub(super) fn take_flag(input: &mut Reader<'_>) -> Result<bool, Malformed> {
    match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(input.malformed()),
    }
}

/// An optional value of any size, unlike [`Writer::option`].
pub(super) fn put_option<T>(out: &mut Writer, value: Option<T>, put: impl FnOnce(&mut Writer, T)) {
    put_flag(out, value.is_some());
    if let Some(value) = value {
        put(out, value);
    }
}

pub(super) fn take_option<'a, T>(
    input: &mut Reader<'a>,
    take: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    if take_flag(input)? { take(input).map(Some) } else { Ok(None) }
}

pub(super) fn put_number(out: &mut Writer, value: u64) {
    out.u64(value);
}

pub(super) fn put_text(out: &mut Writer, text: &str) {
    out.bytes(text.as_bytes());
}

pub(super) fn take_text(input: &mut Reader<'_>) -> Result<String, Malformed> {
    input.text().map(str::to_owned)
}

pub(super) fn put_list<T>(out: &mut Writer, list: &[T], mut put: impl FnMut(&mut Writer, &T)) {
    out.u64(list.len() as u64);
    list.iter().for_each(|item| put(out, item));
}

/// A list of items of at least `item_len_min` bytes each.
pub(super) fn take_list<'a, T>(
    input: &mut Reader<'a>,
    item_len_min: usize,
    mut take: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = input.count(item_len_min)?;
    // An item takes more in memory than its shortest encoding: it has to come first.
    let mut list = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        list.push(take(input)?);
    }
    Ok(list)
}

/// A size that the other side may not be able to count to.
pub(super) fn take_size(input: &mut Reader<'_>) -> Result<usize, Malformed> {
    usize::try_from(input.u64()?).map_err(|_| input.malformed())
}

/// A wait, in milliseconds, a begun one for a whole one; at most [`WAIT_MAX`].
pub(super) fn put_wait(out: &mut Writer, wait: Duration) {
    out.u64(wait.min(WAIT_MAX).as_nanos().div_ceil(1_000_000) as u64);
}

pub(super) fn take_wait(input: &mut Reader<'_>) -> Result<Duration, Malformed> {
    let wait = Duration::from_millis(input.u64()?);
    if wait <= WAIT_MAX { Ok(wait) } else { Err(input.malformed()) }
}

pub(super) fn put_prefix(out: &mut Writer, prefix: Prefix) {
    out.fixed(&prefix.to_bytes());
}

pub(super) fn take_prefix(input: &mut Reader<'_>) -> Result<Prefix, Malformed> {
    let (bits, length) = (u64::from_be_bytes(input.fixed()?), input.u8()?);
    // Bits beyond the length would make another name of the same prefix.
    let prefix = Prefix::new(bits, length).filter(|prefix| prefix.first().0 == bits);
    prefix.ok_or_else(|| input.malformed())
}

/// An error: code and detail as text, so that a code which this release does not know is told from
/// damage.
pub(super) fn put_error(out: &mut Writer, error: &Error) {
    put_text(out, error.code.as_str());
    put_text(out, &error.detail);
    put_option(out, error.retry_after_ms, put_number);
}

pub(super) fn take_error(input: &mut Reader<'_>) -> Result<Error, Malformed> {
    let code = input.text()?;
    // A newer release's code is a fault to an older one: the detail says more.
    let code = Code::parse(code).unwrap_or(Code::Internal);
    Ok(Error { code, detail: take_text(input)?, retry_after_ms: take_option(input, Reader::u64)? })
}

pub(super) fn put_from(out: &mut Writer, from: From) {
    match from {
        From::Earliest => out.u8(0),
        From::Latest => out.u8(1),
        From::Time(time) => out.u8(2).i64(time),
        From::At(number, offset) => out.u8(3).u64(number.into()).u64(offset),
    };
}

pub(super) fn take_from(input: &mut Reader<'_>) -> Result<From, Malformed> {
    Ok(match input.u8()? {
        0 => From::Earliest,
        1 => From::Latest,
        2 => From::Time(input.i64()?),
        3 => From::At(input.u32()?, input.u64()?),
        _ => return Err(input.malformed()),
    })
}

pub(super) fn put_verb(out: &mut Writer, verb: Verb) {
    match verb {
        Verb::Ack => out.u8(0),
        Verb::Nack { delay_ms } => out.u8(1).u64(delay_ms),
        Verb::Extend { by_ms } => out.u8(2).u64(by_ms),
    };
}

pub(super) fn take_verb(input: &mut Reader<'_>) -> Result<Verb, Malformed> {
    Ok(match input.u8()? {
        0 => Verb::Ack,
        1 => Verb::Nack { delay_ms: input.u64()? },
        2 => Verb::Extend { by_ms: input.u64()? },
        _ => return Err(input.malformed()),
    })
}

pub(super) fn put_status(out: &mut Writer, status: Status) {
    out.u8(match status {
        Status::Acked => 0,
        Status::Nacked => 1,
        Status::Extended => 2,
        Status::Expired => 3,
        Status::Unknown => 4,
    });
}

pub(super) fn take_status(input: &mut Reader<'_>) -> Result<Status, Malformed> {
    Ok(match input.u8()? {
        0 => Status::Acked,
        1 => Status::Nacked,
        2 => Status::Extended,
        3 => Status::Expired,
        4 => Status::Unknown,
        _ => return Err(input.malformed()),
    })
}

pub(super) fn put_token(out: &mut Writer, token: &TokenText) {
    out.bytes(token.as_bytes());
}

pub(super) fn take_token(input: &mut Reader<'_>) -> Result<TokenText, Malformed> {
    match input.text()? {
        "" => Ok(TokenText::NONE),
        text => TokenText::of(text).ok_or_else(|| input.malformed()),
    }
}

pub(super) fn put_topic(out: &mut Writer, topic: &TopicInfo) {
    put_text(out, topic.name.as_str());
    put_config(out, &topic.config);
    out.u64(topic.version);
    put_list(out, &topic.partitions, |out, partition| {
        out.u64(partition.number.into()).fixed(&partition.id.0);
        out.u64(partition.first_hash).u64(partition.last_hash);
        put_option(out, partition.sealed_at, put_number);
        put_list(out, &partition.parents, |out, parent| put_number(out, (*parent).into()));
    });
}

pub(super) fn take_topic(input: &mut Reader<'_>) -> Result<TopicInfo, Malformed> {
    let (name, config, version) = (input.topic()?, take_config(input)?, input.u64()?);
    let partitions = take_list(input, 21, |input| {
        Ok(PartitionInfo {
            number: input.u32()?,
            id: input.partition()?,
            first_hash: input.u64()?,
            last_hash: input.u64()?,
            sealed_at: take_option(input, Reader::u64)?,
            parents: take_list(input, 1, Reader::u32)?,
        })
    })?;
    Ok(TopicInfo { name, config, version, partitions })
}

pub(super) fn put_stats(out: &mut Writer, stats: &PartitionStats) {
    out.u64(stats.earliest).u64(stats.next).u64(stats.messages).u64(stats.bytes);
}

pub(super) fn take_stats(input: &mut Reader<'_>) -> Result<PartitionStats, Malformed> {
    let (earliest, next) = (input.u64()?, input.u64()?);
    Ok(PartitionStats { earliest, next, messages: input.u64()?, bytes: input.u64()? })
}

pub(super) fn put_placed(out: &mut Writer, placed: &Placed) {
    out.u64(placed.offset);
    put_flag(out, placed.duplicate);
}

pub(super) fn take_placed(input: &mut Reader<'_>) -> Result<Placed, Malformed> {
    Ok(Placed { offset: input.u64()?, duplicate: take_flag(input)? })
}

pub(super) fn put_group_info(out: &mut Writer, info: &GroupInfo) {
    put_text(out, info.group.as_str());
    out.u8(mode_tag(info.mode)).u64(info.lag).u64(info.pending).u64(info.redelivered).u64(info.dead_lettered);
    put_list(out, &info.members, |out, member| {
        put_text(out, &member.consumer);
        out.u64(member.pending).i64(member.last_seen_ms);
    });
}

pub(super) fn take_group_info(input: &mut Reader<'_>) -> Result<GroupInfo, Malformed> {
    let group = GroupName::new(input.text()?).map_err(|_| input.malformed())?;
    let (mode, lag, pending) = (take_mode(input)?, input.u64()?, input.u64()?);
    let (redelivered, dead_lettered) = (input.u64()?, input.u64()?);
    let members = take_list(input, 3, |input| {
        Ok(MemberInfo { consumer: take_text(input)?, pending: input.u64()?, last_seen_ms: input.i64()? })
    })?;
    Ok(GroupInfo { group, mode, lag, pending, redelivered, dead_lettered, members })
}
