//! How RocksDB is set up: for some thousand small records, few megabytes of
//! memory, and commits that are on the disk when they return.

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options,
    TransactionDBOptions, TransactionOptions,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// How long a transaction waits for a row that another one holds, in
/// milliseconds. A commit that waits for a slow disk holds its rows.
const LOCK_TIMEOUT_MS: i64 = 2000;

/// Options of the store.
pub(super) fn database() -> Options {
    let mut o = Options::default();
    o.create_if_missing(true);
    // A log whose end is torn or was never written is replayed up to there.
    // The stricter modes would refuse to open after a power loss that left
    // unsynced blocks in another order than they were written in.
    o.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    o.set_write_buffer_size(4 * MIB);
    o.set_max_write_buffer_number(2);
    o.set_arena_block_size(64 * KIB);
    o.set_max_total_wal_size(16 * MIB as u64);
    o.set_target_file_size_base(4 * MIB as u64);
    o.set_max_bytes_for_level_base(16 * MIB as u64);
    o.set_compression_type(DBCompressionType::Lz4);
    o.set_block_based_table_factory(&blocks());
    o.set_max_background_jobs(2);
    o.set_max_open_files(64);
    o.set_max_file_opening_threads(1);
    o.set_table_cache_num_shard_bits(2);
    o.set_skip_stats_update_on_db_open(true);
    o.set_stats_dump_period_sec(0);
    o.set_stats_persist_period_sec(0);
    o.set_log_level(LogLevel::Warn);
    o.set_keep_log_file_num(2);
    o.set_max_log_file_size(MIB);
    o
}

fn blocks() -> BlockBasedOptions {
    let mut b = BlockBasedOptions::default();
    b.set_block_cache(&Cache::new_lru_cache(4 * MIB));
    // Indexes and filters count against the cache, so that it bounds them.
    b.set_cache_index_and_filter_blocks(true);
    b.set_pin_l0_filter_and_index_blocks_in_cache(true);
    b.set_bloom_filter(10.0, false);
    b
}

/// Options of the locks.
pub(super) fn transactions() -> TransactionDBOptions {
    let mut o = TransactionDBOptions::default();
    o.set_default_lock_timeout(LOCK_TIMEOUT_MS);
    o.set_txn_lock_timeout(LOCK_TIMEOUT_MS);
    o.set_num_stripes(16);
    o
}

/// Options of one transaction.
pub(super) fn transaction() -> TransactionOptions {
    let mut o = TransactionOptions::default();
    // Two that wait for each other are told at once instead of at the timeout.
    o.set_deadlock_detect(true);
    o.set_lock_timeout(LOCK_TIMEOUT_MS);
    o
}
