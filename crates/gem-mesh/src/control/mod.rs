//! The control swarm: finding nodes, and small messages between them.
