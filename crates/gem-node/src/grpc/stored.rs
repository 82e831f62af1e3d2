//! Answers of the subscriber: stored messages, encoded straight from their batches, and what
//! became of tokens. A test holds every byte against the generated code's.

use gem_proto::answer::{Answer, Encode};
use gem_shard::log::{Settles, Status};
use gem_types::batch::{Headers, RecordRef};
use gem_types::message::ID_HEADER;
use gem_types::{TimestampMs, TopicName};
use prost::encoding::WireType;
use tonic::codec::EncodeBuf;

use super::encode::{Count, Out, Part, Sink, put_bytes, put_nested, put_number, put_present, put_text};
use crate::gateway::read::Item;

/// `Batch`, `ReadResponse` or `PullResponse`: messages, and a cursor where there is one.
#[derive(Debug)]
pub struct Messages {
    topic: TopicName,
    items: Vec<Item>,
    /// Each message's own length.
    lengths: Vec<usize>,
    cursor: String,
}

impl Messages {
    /// `items` of `topic`; an empty `cursor` is none.
    pub fn new(topic: TopicName, items: Vec<Item>, cursor: String) -> Self {
        let lengths = items.iter().map(|item| Stored { topic: &topic, item }.length()).collect();
        Messages { topic, items, lengths, cursor }
    }
}

impl Part for Messages {
    fn put(&self, sink: &mut impl Sink) {
        for (item, length) in self.items.iter().zip(&self.lengths) {
            put_nested(sink, 1, *length, &Stored { topic: &self.topic, item });
        }
        put_bytes(sink, 2, self.cursor.as_bytes());
    }

    fn length(&self) -> usize {
        let mut count = Count::default();
        for length in &self.lengths {
            count.key(1, WireType::LengthDelimited);
            count.varint(*length as u64);
            count.0 += length;
        }
        put_bytes(&mut count, 2, self.cursor.as_bytes());
        count.0
    }
}

/// `Settled`.
#[derive(Debug)]
pub struct Settled {
    /// Of which request.
    pub reference: u64,
    /// Its tokens.
    pub verbs: Settles,
    /// What became of each.
    pub statuses: Vec<Status>,
}

impl Part for Settled {
    fn put(&self, sink: &mut impl Sink) {
        put_number(sink, 1, self.reference);
        for ((token, _), status) in self.verbs.iter().zip(&self.statuses) {
            let one = Settlement(token, status.as_str());
            put_nested(sink, 2, one.length(), &one);
        }
    }
}

struct Settlement<'a>(&'a str, &'a str);

impl Part for Settlement<'_> {
    fn put(&self, sink: &mut impl Sink) {
        put_bytes(sink, 1, self.0.as_bytes());
        put_bytes(sink, 2, self.1.as_bytes());
    }
}

/// `StoredMessage`.
struct Stored<'a> {
    topic: &'a TopicName,
    item: &'a Item,
}

impl Part for Stored<'_> {
    fn put(&self, sink: &mut impl Sink) {
        let Item { partition, record, delivery, token } = self.item;
        let record = record.get();
        let mut headers = record.headers();
        put_id(sink, *partition, &record, &mut headers);
        put_bytes(sink, 2, self.topic.as_str().as_bytes());
        if let Some(key) = record.key {
            put_present(sink, 3, key);
        }
        for (name, value) in headers.map_while(Result::ok).filter(|(name, _)| *name != ID_HEADER.as_bytes()) {
            let header = Header(name, value);
            put_nested(sink, 4, header.length(), &header);
        }
        put_bytes(sink, 5, record.value.unwrap_or_default());
        let time = Timestamp(record.timestamp_ms);
        put_nested(sink, 6, time.length(), &time);
        put_number(sink, 7, (*partition).into());
        put_number(sink, 8, record.offset);
        put_number(sink, 9, (*delivery).into());
        put_bytes(sink, 10, token.as_bytes());
    }
}

/// A message's own id, or its place. The id is mostly the first header: `headers` then go on behind it.
fn put_id<'a>(sink: &mut impl Sink, partition: u32, record: &RecordRef<'a>, headers: &mut Headers<'a>) {
    let id = match headers.clone().next() {
        Some(Ok((name, id))) if name == ID_HEADER.as_bytes() => {
            headers.next();
            Some(id)
        }
        _ => record.header(ID_HEADER),
    };
    match id {
        Some(id) => put_text(sink, 1, id),
        None => {
            let length = digits(partition.into()) + 1 + digits(record.offset);
            sink.key(1, WireType::LengthDelimited);
            sink.varint(length as u64);
            sink.text(length, format_args!("{partition}:{}", record.offset));
        }
    }
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

struct Header<'a>(&'a [u8], &'a [u8]);

impl Part for Header<'_> {
    fn put(&self, sink: &mut impl Sink) {
        put_text(sink, 1, self.0);
        put_bytes(sink, 2, self.1);
    }
}

/// `google.protobuf.Timestamp`.
struct Timestamp(TimestampMs);

impl Part for Timestamp {
    fn put(&self, sink: &mut impl Sink) {
        // As protobuf encodes negative numbers: in two's complement.
        put_number(sink, 1, self.0.div_euclid(1000) as u64);
        put_number(sink, 2, (self.0.rem_euclid(1000) * 1_000_000) as u64);
    }
}

/// A whole answer: `P` itself, or as the field `tag` of a `SubscribeResponse`.
struct Whole<P> {
    tag: Option<u32>,
    part: P,
}

impl<P: Part> Part for Whole<P> {
    fn put(&self, sink: &mut impl Sink) {
        match self.tag {
            Some(tag) => put_nested(sink, tag, self.part.length(), &self.part),
            None => self.part.put(sink),
        }
    }

    fn length(&self) -> usize {
        let inner = self.part.length();
        let mut count = Count(inner);
        if let Some(tag) = self.tag {
            count.key(tag, WireType::LengthDelimited);
            count.varint(inner as u64);
        }
        count.0
    }
}

impl<P: Part + Send> Encode for Whole<P> {
    fn encoded_len(&self) -> usize {
        self.length()
    }

    fn encode(&self, out: &mut EncodeBuf<'_>) {
        self.put(&mut Out(out));
    }
}

/// `messages` as the answer to a read or a pull.
pub fn page(messages: Messages) -> Answer {
    Answer::new(Whole { tag: None, part: messages })
}

/// `messages` on a stream.
pub fn batch(messages: Messages) -> Answer {
    Answer::new(Whole { tag: Some(2), part: messages })
}

/// What became of tokens, on a stream.
pub fn settled(settled: Settled) -> Answer {
    Answer::new(Whole { tag: Some(3), part: settled })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use gem_proto::v1;
    use gem_proto::v1::subscribe_response::Response;
    use gem_shard::log::{TokenText, Verb};
    use gem_types::Message;
    use gem_types::batch::BatchBuilder;
    use proptest::prelude::*;
    use prost::Message as _;
    use std::sync::Arc;

    fn message() -> impl Strategy<Value = Message> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let headers = proptest::collection::vec(("[a-zé]{1,9}", bytes()), 0..4);
        (proptest::option::of("[a-z0-9é]{1,40}"), proptest::option::of(bytes()), headers, bytes())
            .prop_map(|(id, key, headers, payload)| Message { id, key, headers, payload })
    }

    fn generated(topic: &str, item: &Item, message: &Message) -> v1::StoredMessage {
        let record = item.record.get();
        let ms = record.timestamp_ms;
        v1::StoredMessage {
            id: message.id.clone().unwrap_or_else(|| format!("{}:{}", item.partition, record.offset)),
            topic: topic.to_owned(),
            key: message.key.clone(),
            headers: message
                .headers
                .iter()
                .map(|(name, value)| v1::Header { name: name.clone(), value: value.clone() })
                .collect(),
            payload: message.payload.clone(),
            timestamp: Some(crate::grpc::convert::timestamp(ms)),
            partition: item.partition,
            offset: record.offset,
            delivery: item.delivery,
            ack_token: item.token.to_string(),
        }
    }

    fn encoded(part: &impl Part) -> Vec<u8> {
        let mut out = Vec::new();
        part.put(&mut Out(&mut out));
        assert_eq!(out.len(), part.length(), "measured as it is written");
        out
    }

    proptest! {
        #[test]
        fn every_byte_is_as_the_generated_code_has_it(
            messages in proptest::collection::vec(message(), 1..6),
            (partition, base, time) in (any::<u32>(), 0..u64::MAX / 4, -5_000_000_000_000i64..5_000_000_000_000),
            (delivery, token, cursor) in (any::<u32>(), proptest::option::of("[A-Za-z0-9_-]{75}"), "[A-Za-z]{0,200}"),
        ) {
            let topic = TopicName::new("orders").unwrap();
            let mut builder = BatchBuilder::new();
            for message in &messages {
                builder.push(message, message.id.as_deref().unwrap_or_default());
            }
            let mut batch = builder.finish(time);
            batch.stamp(base, time);
            let token = token.map_or(TokenText::NONE, |text| TokenText::of(&text).unwrap());
            let records = batch.records().shared().map(Result::unwrap);
            let items: Vec<_> =
                records.map(|record| Item { partition, record, delivery, token }).collect();
            let theirs: Vec<_> = items.iter().zip(&messages).map(|(i, m)| generated("orders", i, m)).collect();
            let theirs = v1::Batch { messages: theirs, cursor: cursor.clone() };
            let ours = Messages::new(topic, items, cursor);
            prop_assert_eq!(encoded(&ours), theirs.encode_to_vec());
            let theirs = v1::SubscribeResponse { response: Some(Response::Batch(theirs)) };
            prop_assert_eq!(encoded(&Whole { tag: Some(2), part: ours }), theirs.encode_to_vec());
        }

        #[test]
        fn settlements_too(reference: u64, tokens in proptest::collection::vec(("[a-z]{0,75}", 0..5usize), 0..6)) {
            let all = [Status::Acked, Status::Nacked, Status::Extended, Status::Expired, Status::Unknown];
            let statuses: Vec<_> = tokens.iter().map(|(_, status)| all[*status]).collect();
            let verbs = Arc::new(tokens.into_iter().map(|(token, _)| (token, Verb::Ack)).collect::<Vec<_>>());
            let settlements = crate::grpc::convert::settlements(&verbs, &statuses);
            let theirs = v1::Settled { r#ref: reference, settlements };
            let ours = Settled { reference, verbs, statuses };
            prop_assert_eq!(encoded(&ours), theirs.encode_to_vec());
            let theirs = v1::SubscribeResponse { response: Some(Response::Settled(theirs)) };
            prop_assert_eq!(encoded(&Whole { tag: Some(3), part: ours }), theirs.encode_to_vec());
        }
    }
}
