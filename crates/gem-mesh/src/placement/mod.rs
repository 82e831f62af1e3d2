//! Who should hold which part of the ring.
