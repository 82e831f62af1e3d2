//! The ordered store on RocksDB: one database per shard replica, in `DIR/index/<group>`
//! (later generations: `<group>.<generation>`).
//!
//! All databases of a node share one block cache, one write-buffer manager and one pool of
//! background threads, so that their number costs little. RocksDB's own log is off: the journal
//! is the log. `atomic_flush` makes every flush, asked for or not, take both families at one
//! point; the applied index is in the same batch as what it covers, so whatever survives a crash
//! is the state as of one applied index.
//!
//! RocksDB opens and removes its own files: this module is where the disk seam ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator, Env,
    ErrorKind, FlushOptions, LogLevel, Options, ReadOptions, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::ordered::{Change, Family, OrderedStore, OrderedStores, Row, StoreId};
use crate::StoreError;

const STATE: &str = "state";
const LOCATIONS: &str = "locations";
/// Wholly a guard: `DB::open` must name every family, and this one always exists.
const DEFAULT: &str = "default";

/// What the databases of a node take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksConfig {
    /// Block cache of all databases, in bytes. What is not in it is read from the disk.
    pub cache_bytes: usize,
    /// Write buffers of all databases, in bytes: beyond it, the database being written flushes.
    /// More of it means fewer, larger files and a longer replay after a crash.
    pub write_buffer_bytes: usize,
    /// Threads that flush and compact, for all databases.
    pub threads: usize,
    /// Open files of each database.
    pub open_files: usize,
}

impl Default for RocksConfig {
    fn default() -> Self {
        RocksConfig { cache_bytes: 64 << 20, write_buffer_bytes: 64 << 20, threads: 2, open_files: 48 }
    }
}

impl RocksConfig {
    /// What the databases keep in memory at the most, in bytes: to be charged to the budget.
    pub fn memory_bytes(&self) -> usize {
        self.cache_bytes.saturating_add(self.write_buffer_bytes)
    }
}

/// The databases of a node.
pub struct RocksStores {
    dir: PathBuf,
    config: RocksConfig,
    env: Env,
    cache: Cache,
    buffers: WriteBufferManager,
}

impl std::fmt::Debug for RocksStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStores").field("dir", &self.dir).field("config", &self.config).finish_non_exhaustive()
    }
}

impl RocksStores {
    /// The databases beneath `dir`/index. None is opened yet.
    pub fn open(dir: &Path, config: RocksConfig) -> Result<RocksStores, StoreError> {
        let dir = dir.join("index");
        #[expect(clippy::disallowed_methods, reason = "RocksDB's directories are the operating system's")]
        std::fs::create_dir_all(&dir)?;
        let mut env = Env::new().map_err(|e| failed(&dir, &e))?;
        let threads = i32::try_from(config.threads.max(1)).unwrap_or(i32::MAX);
        env.set_background_threads(threads);
        env.set_high_priority_background_threads(threads);
        let cache = Cache::new_lru_cache(config.cache_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager(config.write_buffer_bytes, false);
        Ok(RocksStores { dir, config, env, cache, buffers })
    }

    /// Bytes that the databases hold now in block cache and write buffers.
    pub fn memory_used(&self) -> usize {
        self.cache.get_usage().saturating_add(self.buffers.get_usage())
    }

    fn store_dir(&self, id: StoreId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    fn database_options(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_env(&self.env);
        options.set_atomic_flush(true);
        // RocksDB reserves 4 MiB for each manifest: 64 MiB over sixteen shards, of files that hold some KiB.
        options.set_manifest_preallocation_size(64 << 10);
        options.set_write_buffer_manager(&self.buffers);
        options.set_max_background_jobs(2);
        options.set_max_open_files(i32::try_from(self.config.open_files.max(16)).unwrap_or(i32::MAX));
        options.set_max_file_opening_threads(1);
        options.set_table_cache_num_shard_bits(1);
        options.set_skip_stats_update_on_db_open(true);
        options.set_bytes_per_sync(1 << 20);
        // A log file of its own in every database is of use only when something is wrong with it.
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }

    fn family_options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(8 << 10);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_bloom_filter(10.0, false);
        table.set_format_version(5);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        // The manager bounds the sum; a single database may use its share of a busy node.
        let buffer = (self.config.write_buffer_bytes / 8).clamp(1 << 20, 16 << 20);
        options.set_write_buffer_size(buffer);
        options.set_max_write_buffer_number(4);
        options.set_arena_block_size(64 << 10);
        options.set_target_file_size_base(16 << 20);
        options.set_max_bytes_for_level_base(64 << 20);
        options.set_level_compaction_dynamic_level_bytes(true);
        options
    }
}

impl OrderedStores for RocksStores {
    fn open_at(&self, id: StoreId) -> Result<Arc<dyn OrderedStore>, StoreError> {
        let dir = self.store_dir(id);
        let families = [DEFAULT, STATE, LOCATIONS].map(|name| ColumnFamilyDescriptor::new(name, self.family_options()));
        let db = DB::open_cf_descriptors(&self.database_options(), &dir, families).map_err(|e| failed(&dir, &e))?;
        let store = RocksStore { db, dir };
        store.family(Family::State)?;
        store.family(Family::Locations)?;
        Ok(Arc::new(store))
    }

    fn remove_at(&self, id: StoreId) -> Result<(), StoreError> {
        let dir = self.store_dir(id);
        if !dir.exists() {
            return Ok(());
        }
        // Takes RocksDB's lock, and so refuses a database that is open.
        DB::destroy(&self.database_options(), &dir).map_err(|e| failed(&dir, &e))?;
        #[expect(clippy::disallowed_methods, reason = "RocksDB's directories are the operating system's")]
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn copy(&self, from: &dyn OrderedStore, to: StoreId) -> Result<(), StoreError> {
        from.checkpoint(&self.store_dir(to))
    }

    fn list(&self) -> Result<Vec<StoreId>, StoreError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            // What has another name is a checkpoint that a crash cut off, or not GEM's.
            found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<StoreId>().ok()));
        }
        found.sort();
        Ok(found)
    }
}

/// The database of one group.
struct RocksStore {
    db: DB,
    dir: PathBuf,
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl RocksStore {
    fn family(&self, family: Family) -> Result<&ColumnFamily, StoreError> {
        let name = match family {
            Family::State => STATE,
            Family::Locations => LOCATIONS,
        };
        self.db.cf_handle(name).ok_or_else(|| StoreError::Damaged {
            place: self.dir.display().to_string(),
            what: format!("it has no column family {name:?}"),
        })
    }

    fn iterate(&self, family: Family, from: &[u8], to: &[u8]) -> Result<DBRawIterator<'_>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        Ok(self.db.raw_iterator_cf_opt(self.family(family)?, options))
    }

    fn collect(
        &self,
        mut rows: DBRawIterator<'_>,
        limit: usize,
        step: fn(&mut DBRawIterator<'_>),
    ) -> Result<Vec<Row>, StoreError> {
        let mut found = Vec::new();
        while found.len() < limit {
            let Some((key, value)) = rows.item() else { break };
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if found.len() < limit {
                step(&mut rows);
            }
        }
        rows.status().map_err(|e| failed(&self.dir, &e))?;
        Ok(found)
    }
}

impl OrderedStore for RocksStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.db.get_pinned_cf(self.family(family)?, key).map_err(|e| failed(&self.dir, &e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let mut rows = self.iterate(family, from, to)?;
        rows.seek_to_first();
        self.collect(rows, limit, |rows| rows.next())
    }

    fn scan_back(&self, family: Family, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let mut rows = self.iterate(family, from, to)?;
        rows.seek_to_last();
        self.collect(rows, limit, |rows| rows.prev())
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for change in &changes {
            match change {
                Change::Put(family, key, value) => batch.put_cf(self.family(*family)?, key, value),
                Change::Delete(family, key) => batch.delete_cf(self.family(*family)?, key),
                // RocksDB refuses a range whose end lies before its beginning.
                Change::DeleteRange(_, from, to) if from >= to => {}
                Change::DeleteRange(family, from, to) => batch.delete_range_cf(self.family(*family)?, from, to),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|e| failed(&self.dir, &e))
    }

    fn flush(&self) -> Result<(), StoreError> {
        let families = [self.family(Family::State)?, self.family(Family::Locations)?];
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families.each_ref(), &options).map_err(|e| failed(&self.dir, &e))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StoreError> {
        // Without a log of its own RocksDB flushes first, so the copy is complete.
        let checkpoint = rocksdb::checkpoint::Checkpoint::new(&self.db).map_err(|e| failed(&self.dir, &e))?;
        checkpoint.create_checkpoint(dir).map_err(|e| failed(&self.dir, &e))
    }
}

fn failed(dir: &Path, error: &rocksdb::Error) -> StoreError {
    let place = dir.display().to_string();
    match error.kind() {
        ErrorKind::Corruption => StoreError::Damaged { place, what: error.to_string() },
        _ => StoreError::from(std::io::Error::other(format!("{place}: {error}"))),
    }
}
