//! Tokens: what a member shows to settle a message.
//!
//! ```text
//!  partition  offset  term  attempt  seeks   MAC
//! ┌──────────┬───────┬─────┬────────┬───────┬────┐
//! │    16    │   8   │  8  │   4    │   4   │ 16 │   56 bytes, big-endian, in base64url without padding
//! └──────────┴───────┴─────┴────────┴───────┴────┘
//! ```
//!
//! The MAC is SipHash-2-4 with a 128-bit result (Aumasson and Bernstein 2012) over the 40 bytes
//! before it. Its key belongs to one life of one group: HMAC-SHA-256 (RFC 2104) of partition,
//! group and life under the node's secret, cut to 128 bits. So a delivery costs one short keyed
//! hash and no SHA-256, and a token of another group, of an earlier life, or of nobody's making
//! fails its MAC.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gem_types::{Offset, PartitionId};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use siphasher::sip128::{Hash128, SipHasher24};

use crate::log::GroupRef;

const BODY_LEN: usize = 40;
const TOKEN_LEN: usize = 56;
/// 56 bytes in base64 without padding.
const TEXT_LEN: usize = 75;

/// A token as text, in place: one goes out with every delivery.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenText {
    bytes: [u8; TEXT_LEN],
    is_some: bool,
}

impl TokenText {
    /// No token: the message was not handed out by a group.
    pub const NONE: TokenText = TokenText { bytes: [0; TEXT_LEN], is_some: false };

    /// `text` as a token, where it has a token's length and is ASCII; it is not checked.
    pub fn of(text: &str) -> Option<TokenText> {
        let bytes = text.is_ascii().then(|| text.as_bytes().try_into().ok()).flatten()?;
        Some(TokenText { bytes, is_some: true })
    }

    /// The text; empty where there is none.
    pub fn as_str(&self) -> &str {
        // Base64 is ASCII.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The text's bytes, all ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        if self.is_some { &self.bytes } else { &[] }
    }
}

impl fmt::Display for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a token says. Equal offset, seeks and attempt name one delivery, for ever: no attempt of
/// a message is handed out twice between seeks, whoever leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub offset: Offset,
    /// The term of the leader that issued it.
    pub term: u64,
    pub attempt: u32,
    pub seeks: u32,
}

/// Makes and checks the tokens of one life of a group.
#[derive(Clone)]
pub(super) struct TokenKey {
    partition: PartitionId,
    hasher: SipHasher24,
}

/// 16 bytes that depend on `secret` and `parts`; each part is preceded by its length.
pub(super) fn derive(secret: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    // HMAC takes a key of any length: there is nothing to fail.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    let mut out = [0; 16];
    out.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    out
}

impl TokenKey {
    pub fn new(secret: &[u8; 32], group: &GroupRef, life: u64) -> Self {
        let parts: [&[u8]; 4] =
            [b"gem token", &group.partition.0, group.group.as_str().as_bytes(), &life.to_be_bytes()];
        TokenKey { partition: group.partition, hasher: SipHasher24::new_with_key(&derive(secret, &parts)) }
    }

    /// The token as text.
    pub fn seal(&self, token: Token) -> TokenText {
        let mut bytes = [0; TOKEN_LEN];
        bytes[..16].copy_from_slice(&self.partition.0);
        bytes[16..24].copy_from_slice(&token.offset.to_be_bytes());
        bytes[24..32].copy_from_slice(&token.term.to_be_bytes());
        bytes[32..36].copy_from_slice(&token.attempt.to_be_bytes());
        bytes[36..40].copy_from_slice(&token.seeks.to_be_bytes());
        let mac = self.mac(&bytes[..BODY_LEN]);
        bytes[BODY_LEN..].copy_from_slice(&u128::from(mac).to_be_bytes());
        let mut text = TokenText { bytes: [0; TEXT_LEN], is_some: true };
        // The length is that of any 56 bytes: nothing can fail.
        text.is_some = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text.bytes) == Ok(TEXT_LEN);
        text
    }

    /// What the text says, if this group made it.
    pub fn open(&self, text: &str) -> Option<Token> {
        let bytes = decode(text)?;
        let (body, mac) = bytes.split_at(BODY_LEN);
        let shown = Hash128::from(u128::from_be_bytes(*mac.first_chunk()?));
        // `Hash128` compares in constant time.
        if shown != self.mac(body) || body.get(..16)? != self.partition.0.as_slice() {
            return None;
        }
        Some(Token {
            offset: u64::from_be_bytes(*body.get(16..)?.first_chunk()?),
            term: u64::from_be_bytes(*body.get(24..)?.first_chunk()?),
            attempt: u32::from_be_bytes(*body.get(32..)?.first_chunk()?),
            seeks: u32::from_be_bytes(*body.get(36..)?.first_chunk()?),
        })
    }

    fn mac(&self, body: &[u8]) -> Hash128 {
        self.hasher.hash(body)
    }
}

fn decode(text: &str) -> Option<[u8; TOKEN_LEN]> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let mut bytes = [0; TOKEN_LEN];
    let len = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (len == TOKEN_LEN).then_some(bytes)
}

/// The partition that a token names, so that a gateway finds the shard to ask. The token is not
/// checked: only its own group can do that.
pub fn partition_of(token: &str) -> Option<PartitionId> {
    decode(token).and_then(|bytes| bytes.first_chunk().map(|id| PartitionId(*id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gem_types::{GroupName, TopicName};
    use proptest::prelude::*;

    fn group(name: &str) -> GroupRef {
        let topic = TopicName::new("orders").unwrap();
        GroupRef { partition: PartitionId::new(&topic, 0, b"made"), topic, group: GroupName::new(name).unwrap() }
    }

    fn key(name: &str, life: u64) -> TokenKey {
        TokenKey::new(&[7; 32], &group(name), life)
    }

    #[test]
    fn only_the_same_life_of_the_same_group_knows_a_token() {
        let token = Token { offset: 9, term: 3, attempt: 2, seeks: 1 };
        let text = key("a", 1).seal(token).to_string();
        assert_eq!(key("a", 1).open(&text), Some(token));
        assert_eq!(key("a", 2).open(&text), None, "the group was deleted and made again");
        assert_eq!(key("b", 1).open(&text), None);
        assert_eq!(TokenKey::new(&[8; 32], &group("a"), 1).open(&text), None, "another mesh's secret");
        assert_eq!(partition_of(&text), Some(group("a").partition));
    }

    #[test]
    fn nonsense_is_no_token() {
        for text in ["", "x", &"A".repeat(TEXT_LEN), &"!".repeat(TEXT_LEN), &"é".repeat(40)] {
            assert_eq!(key("a", 1).open(text), None, "{text}");
        }
        assert_eq!(partition_of("short"), None);
    }

    proptest! {
        #[test]
        fn a_changed_token_is_refused(offset: u64, term: u64, attempt: u32, seeks: u32, at in 0..TEXT_LEN, to in "[A-Za-z0-9_-]") {
            let token = Token { offset, term, attempt, seeks };
            let text = key("a", 1).seal(token).to_string();
            prop_assert_eq!(key("a", 1).open(&text), Some(token));
            let mut forged = text.clone();
            forged.replace_range(at..at + 1, &to);
            if forged != text {
                prop_assert_eq!(key("a", 1).open(&forged), None);
            }
        }
    }
}
