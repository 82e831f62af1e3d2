//! Two nodes and more, over real sockets on loopback.

mod calls;
mod flow;
mod hello;
mod measure;
mod world;
