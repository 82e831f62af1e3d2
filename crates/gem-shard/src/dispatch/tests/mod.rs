//! Dispatch held to a naive model: scripts that read as a story, and random events.

mod load;
mod model;
mod random;
mod scripts;
mod world;
