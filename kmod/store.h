/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The crash-safe store of a tracked disk, in the kernel: where it lies
 * (store_place.c) and what is done with it (store.c). What is on it, and in
 * what order it changes, is pure: store_format.h, store_state.h.
 */
#ifndef BLKCBT_STORE_H
#define BLKCBT_STORE_H

#include <linux/bio.h>
#include <linux/rcupdate.h>
#include "disk.h"
#include "store_state.h"

struct file;

/* main.c: a parameter of the module: how often unwritten extents are retired */
extern unsigned int blkcbt_store_tick_ms;

/**
 * struct blkcbt_store_ask - a store that is given to a disk
 * @file: the file or block device
 * @identity: what it must be the store of
 * @generation_min: what is older is not trusted
 * @hot_max: extents in use before some are retired
 */
struct blkcbt_store_ask {
	struct file *file;
	u8 identity[BLKCBT_IDENTITY_BYTES];
	u64 generation_min;
	u32 hot_max;
};

/**
 * struct blkcbt_store_range - blocks of a store that lie together
 * @block: the first
 * @nr: how many
 * @sector: where it is on @bdev of the place
 */
struct blkcbt_store_range {
	u64 block;
	u64 nr;
	sector_t sector;
};

/**
 * struct blkcbt_store_place - where a store lies
 * @kref: one for the store, one for each batch of writes
 * @free_work: closes it; the last reference may go in an interrupt
 * @bdev: what its bios go to
 * @b: of a block device: open, and nobody else's
 * @file: of a file: kept open, pinned
 * @nr_blocks: its length
 * @nr_ranges: how many
 * @range: in ascending order, without holes
 */
struct blkcbt_store_place {
	struct kref kref;
	struct work_struct free_work;
	struct block_device *bdev;
	struct blkcbt_bdev b;
	struct file *file;
	u64 nr_blocks;
	u32 nr_ranges;
	struct blkcbt_store_range *range;
};

/**
 * struct blkcbt_store_batch - writes to a store, at a time
 * @kref: one for the store, one for each write under way
 * @pending: writes under way, and one until all are sent
 * @done: the last has come back
 * @error: one has failed
 * @d: a reference of its @ref is held for each write under way
 * @place: a reference is held
 * @page: content
 */
struct blkcbt_store_batch {
	struct kref kref;
	atomic_t pending;
	struct completion done;
	int error;
	struct blkcbt_disk *d;
	struct blkcbt_store_place *place;
	struct page *page[BLKCBT_STORE_BATCH];
};

/* store_place.c */
int blkcbt_store_place_init(void);
void blkcbt_store_place_exit(void);
struct blkcbt_store_place *blkcbt_store_place_open(struct file *file, char *why);
void blkcbt_store_place_put(struct blkcbt_store_place *place);
int blkcbt_store_place_read(void *place, u64 block, u32 n, void *to);
int blkcbt_store_place_write(struct blkcbt_store_place *place, u64 block, const void *from);
struct blkcbt_store_batch *blkcbt_store_batch_alloc(struct blkcbt_disk *d,
						    struct blkcbt_store_place *place);
void blkcbt_store_batch_put(struct blkcbt_store_batch *b);
void blkcbt_store_batch_begin(struct blkcbt_store_batch *b);
void blkcbt_store_batch_write(struct blkcbt_store_batch *b, u32 i, u64 block, bool durable);
void blkcbt_store_batch_flush(struct blkcbt_store_batch *b);
int blkcbt_store_batch_end(struct blkcbt_store_batch *b);

/* store.c: under blkcbt_ctl_mutex; may sleep */
struct blkcbt_store *blkcbt_store_prepare(struct blkcbt_disk *d,
					  const struct blkcbt_store_ask *ask);
void blkcbt_store_install(struct blkcbt_disk *d, struct blkcbt_store *s);
void blkcbt_store_start(struct blkcbt_disk *d, struct blkcbt_store *s, bool live);
void blkcbt_store_marked(struct blkcbt_disk *d, u64 first, u64 last);
int blkcbt_store_add(struct blkcbt_disk *d, const struct blkcbt_store_ask *ask, char *why);
void blkcbt_store_give_up(struct blkcbt_disk *d);
void blkcbt_store_save(struct blkcbt_disk *d, enum blkcbt_store_saved how);
void blkcbt_store_remove(struct blkcbt_disk *d);
int blkcbt_store_format(dev_t dev, const struct blkcbt_store_ask *ask, u32 granule_bytes,
			u32 extent_bytes, char *why);
int blkcbt_store_init(void);
void blkcbt_store_exit(void);

/**
 * struct blkcbt_store_stats - what GET tells of a store
 * @state: enum blkcbt_store_state_id
 * @reason: why it failed or was not trusted; empty if there is nothing to say
 * @generation: of the store
 * @hot: extents in use
 * @writes: blocks written
 * @parked: writes that waited
 * @risk_bytes: dirty after a power cut, at most
 * @memory_bytes: held
 */
struct blkcbt_store_stats {
	u32 state;
	const char *reason;
	u64 generation;
	u64 hot;
	u64 writes;
	u64 parked;
	u64 risk_bytes;
	u64 memory_bytes;
};

void blkcbt_store_stats(struct blkcbt_disk *d, struct blkcbt_store_stats *stats);

/* store.c: between blkcbt_read_lock() and blkcbt_read_unlock(), any context */
bool blkcbt_store_cold(struct blkcbt_disk *d, u64 first);
void blkcbt_store_upset(struct blkcbt_disk *d, const char *reason);

/* store.c: the park worker */
bool blkcbt_store_take(struct blkcbt_disk *d, struct bio *bio);

#endif /* BLKCBT_STORE_H */
