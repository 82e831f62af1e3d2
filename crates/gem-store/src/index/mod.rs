//! The index: what a shard's log determines (*state*), and where this replica keeps each batch
//! (*locations*), in one ordered store per shard replica.

pub mod ordered;
pub mod locations;
pub mod rocks;
pub mod model;

mod varint;

#[cfg(test)]
mod locations_tests;
