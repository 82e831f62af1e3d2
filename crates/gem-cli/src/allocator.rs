//! jemalloc, told to give memory back soon: a node's resident memory follows its budget.

use std::ffi::c_char;

#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A pointer to a constant, as jemalloc reads its options.
#[repr(transparent)]
pub struct Options(*const c_char);

// SAFETY: it points to a string literal, which nobody writes.
unsafe impl Sync for Options {}

/// Freed pages go back to the system after a second, by a thread of jemalloc's own; few arenas, since
/// each keeps pages of its own.
// SAFETY: jemalloc looks for a symbol of this name and of type `const char *`, and for no other.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static OPTIONS: Options =
    Options(c"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:8".as_ptr());
