/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tracked disk: what the gate, the auditor and the control plane share.
 *
 * Life:
 *	attach		in the table; readers find it by its gendisk under RCU
 *	detach		out of the table and the list; a grace period later no new
 *			reader has it
 *	drained		the last shim has come back: @ref is killed; the last parked bio and
 *			event let it go: maps are freed, the gendisk is put
 *	freed		the last open character device lets @kref go
 *
 * Nothing holds the disk open: only the gendisk's memory and its driver's
 * module are pinned, so removal, deactivation and hot-unplug go on working.
 */
#ifndef BLKCBT_DISK_H
#define BLKCBT_DISK_H

#include <linux/blkcbt.h>
#include <linux/blkdev.h>
#include <linux/hash.h>
#include <linux/kref.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu-refcount.h>
#include <linux/rculist.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include "compat.h"
#include "epoch.h"
#include "fault.h"
#include "map.h"
#include "store_format.h"

#define BLKCBT_HASH_BITS	7
/* Not THIS_MODULE->version, which is a copy that there may have been no memory for. */
#define BLKCBT_VERSION		"0.1.0"
#define BLKCBT_DISKS_MAX	1024u

/**
 * struct blkcbt_inflight - shims on one processor, by the &blkcbt_disk.flight of their writes
 * @begun: were put under a write there
 * @ended: of this disk's, completed there
 */
struct blkcbt_inflight {
	unsigned long begun[2];
	unsigned long ended[2];
};

/**
 * struct blkcbt_disk - a tracked disk
 *
 * Set once, before the disk is in the table:
 * @gd: the disk; a reference is held
 * @nr_granules: size of the maps
 * @granule_sector_shift: log2 of the granule in sectors
 * @bio_based: has no requests
 * @shims: writes carry a completion shim: it is bio-based, or has or awaits a store
 * @scsi: its passthrough requests are SCSI commands
 * @nr_sectors: size when attached
 * @diskseq: tells the medium from another one in the same drive
 * @owner: the driver's module, pinned
 * @index: number of the character device
 * @id: random number of this attachment
 * @shim_pool: reserve of shims, for parked bios; of a disk whose writes carry them
 * @attach_sectors: what its counter of writes said when it came into the table
 * @park_wq: preserves, and resubmits parked bios; of its own, so that a disk on
 *	top of another never waits behind it
 *
 * RCU, changed under blkcbt_ctl_mutex:
 * @node: in the table by @gd
 * @cur: the current map; readers mark it
 * @old: the map of the open epoch or, after its commit, of the last epoch (so that
 *	a write that took long from gate to hardware is known); NULL after abort
 *
 * blkcbt_ctl_mutex:
 * @list: in blkcbt_disks, by index
 * @epoch: the transaction
 * @cut_ns: time of the last cut, CLOCK_BOOTTIME
 * @detached: for open character devices
 *
 * Written under blkcbt_ctl_mutex, read by the auditor without:
 * @old_open: @old is an open epoch's
 * @commit_ns: time of the last commit, as in request.start_time_ns
 * @cut_once: there has been a cut
 *
 * Changed under blkcbt_ctl_mutex and by the end of a hold, read by the gate
 * without:
 * @slow: bits of enum blkcbt_slow: why the gate must look closer
 *
 * RCU, changed under blkcbt_ctl_mutex:
 * @preserve: the open consistent epoch
 * @store: the crash-safe store
 * @store_state: and what the gate looks at of it
 *
 * Changed under blkcbt_ctl_mutex or by the worker of @store:
 * @flight: which of the two counts of @inflight a write belongs to that is let
 *	through now
 *
 * blkcbt_ctl_mutex:
 * @awaits_store: nothing may be cut before its store was added, or given up
 * @store_verdict: what the last store that was given was worth
 * @store_why: why it was not trusted
 * @image: block device that shows it, from the first consistent cut on
 * @downgrades: epochs that became fuzzy
 * @downgrade_reason: why the last of them did; a constant
 *
 * Any context:
 * @ref: one until the last shim has come back after the detach, one for each parked bio (its
 *	shim has it later) and queued event
 * @resized: sticky
 * @escapes, @late, @passthrough, @parked, @held, @preserves: statistics
 * @held_from_ns: when the first of the writes that are held now came, 0: none is
 * @held_max_ns: the longest that a write was held; changed by the park worker
 * @fallbacks: of maps that are freed already
 * @inflight: shims under way, per processor
 * @events: bits of enum blkcbt_event to be sent by @event_work
 * @escape_after: jiffies before which no further escape is reported
 *
 * @park_lock:
 * @park_list: bios that wait
 *
 * @kref: memory of this object: one for @ref, one for each open descriptor
 */
struct blkcbt_disk {
	struct hlist_node node;
	struct gendisk *gd;
	struct blkcbt_map __rcu *cur;
	u64 nr_granules;
	u8 granule_sector_shift;
	bool bio_based;
	bool shims;
	bool scsi;
	bool cut_once;
	bool old_open;
	bool resized;
	unsigned long slow;
	struct blkcbt_map __rcu *old;
	struct blkcbt_preserve __rcu *preserve;
	struct blkcbt_store __rcu *store;
	struct blkcbt_store_state __rcu *store_state;
	unsigned int flight;
	u64 commit_ns;

	struct percpu_ref ref;
	struct blkcbt_inflight __percpu *inflight;
	mempool_t *shim_pool;
	struct workqueue_struct *park_wq;
	struct work_struct park_work;
	spinlock_t park_lock; /* park_list */
	struct bio_list park_list;

	sector_t nr_sectors;
	u64 diskseq;
	u64 attach_sectors;
	struct module *owner;
	unsigned int index;
	u64 id;

	struct list_head list;
	struct blkcbt_epoch epoch;
	u64 cut_ns;
	bool detached;
	bool awaits_store;
	enum blkcbt_store_verdict store_verdict;
	char store_why[BLKCBT_STORE_WHY_LEN];
	struct gendisk *image;
	u64 downgrades;
	const char *downgrade_reason;

	atomic64_t escapes;
	atomic64_t late;
	atomic64_t passthrough;
	atomic64_t parked;
	atomic64_t held;
	atomic64_t held_from_ns;
	u64 held_max_ns;
	atomic64_t preserves;
	u64 fallbacks;

	unsigned long events;
	unsigned long escape_after;
	struct work_struct event_work;
	struct delayed_work drain_work;
	struct work_struct free_work;
	struct kref kref;
};

/**
 * enum blkcbt_slow - bits of &blkcbt_disk.slow
 * @BLKCBT_SLOW_HOLD: writes wait
 * @BLKCBT_SLOW_PRESERVE: a write may have to wait until what it overwrites is
 *	preserved
 * @BLKCBT_SLOW_STORE: a write may have to wait until the store knows of it, and
 *	carries a shim
 */
enum blkcbt_slow {
	BLKCBT_SLOW_HOLD,
	BLKCBT_SLOW_PRESERVE,
	BLKCBT_SLOW_STORE,
};

/**
 * struct blkcbt_group_item - one disk of a cut, commit or abort
 * @disk: the disk
 * @from_bytes: commit: start of what is forgotten
 * @to_bytes: commit: end of what is forgotten
 * @fresh: cut: the map that becomes current
 * @stale: the map that is freed a grace period later
 * @preserve: cut: what is installed; end: what is let go a grace period later
 */
struct blkcbt_group_item {
	struct blkcbt_disk *disk;
	u64 from_bytes;
	u64 to_bytes;
	struct blkcbt_map *fresh;
	struct blkcbt_map *stale;
	struct blkcbt_preserve *preserve;
};

/**
 * struct blkcbt_cut - a cut that is asked for
 * @epoch: number of the epoch that ends
 * @mode: what it is to be read as
 * @budget_bytes: memory for what is preserved
 * @hold_id: cut within this hold; 0: hold for the cut alone
 * @cut_ns: set to its time, CLOCK_BOOTTIME
 * @hold_ns: set to how long writers were held, 0 within a hold
 */
struct blkcbt_cut {
	u64 epoch;
	enum blkcbt_epoch_mode mode;
	u64 budget_bytes;
	u64 hold_id;
	u64 cut_ns;
	u64 hold_ns;
};

struct blkcbt_store_ask;

extern struct mutex blkcbt_ctl_mutex;
extern struct list_head blkcbt_disks;
extern unsigned int blkcbt_disks_seq;
extern struct hlist_head blkcbt_table[1 << BLKCBT_HASH_BITS];
extern struct workqueue_struct *blkcbt_wq;

/* disk.c: under blkcbt_ctl_mutex; @why, of BLKCBT_WHY_LEN bytes, says what went wrong */
#define BLKCBT_WHY_LEN	240
#define why_err(why, fmt, ...)	snprintf(why, BLKCBT_WHY_LEN, fmt, ##__VA_ARGS__)
struct blkcbt_disk *blkcbt_disk_by_dev(dev_t dev);
struct blkcbt_disk *blkcbt_disk_by_index(unsigned int index);
struct blkcbt_disk *blkcbt_disk_attach(dev_t dev, u32 granule_bytes, bool awaits_store,
				       const struct blkcbt_store_ask *store, char *why);
int blkcbt_disk_detach(struct blkcbt_disk *d, bool force, char *why);
int blkcbt_disk_mark_bytes(struct blkcbt_disk *d, u64 from_bytes, u64 to_bytes, char *why);
u32 blkcbt_disk_flags(struct blkcbt_disk *d);
u64 blkcbt_disk_written(struct blkcbt_disk *d);
bool blkcbt_disk_gone(struct blkcbt_disk *d);
bool blkcbt_disk_resized(struct blkcbt_disk *d);

/* epochs.c: under blkcbt_ctl_mutex */
int blkcbt_group_cut(struct blkcbt_group_item *items, unsigned int n, struct blkcbt_cut *cut,
		     char *why);
int blkcbt_group_end(struct blkcbt_group_item *items, unsigned int n, u64 epoch,
		     enum blkcbt_epoch_step step, char *why);

/* hold.c */
typedef void (blkcbt_swap_fn)(struct blkcbt_group_item *items, unsigned int n,
			      struct blkcbt_cut *cut);
DECLARE_PER_CPU(unsigned int, blkcbt_in_gate);
int blkcbt_hold_take(struct blkcbt_group_item *items, unsigned int n, unsigned int deadline_ms,
		     u32 owner, u64 *id, char *why);
int blkcbt_hold_release(u64 id);
void blkcbt_hold_owner_gone(u32 owner);
int blkcbt_hold_swap(struct blkcbt_group_item *items, unsigned int n, struct blkcbt_cut *cut,
		     blkcbt_swap_fn *at_once, char *why);
void blkcbt_holds_get(struct blkcbt_holds *holds);
void blkcbt_hold_exit(void);

/* image.c */
int blkcbt_image_add(struct blkcbt_disk *d);
void blkcbt_image_del(struct blkcbt_disk *d);
int blkcbt_image_init(void);
void blkcbt_image_exit(void);

/* disk.c: any context */
void blkcbt_disk_put(struct blkcbt_disk *d);
void blkcbt_disk_raise(struct blkcbt_disk *d, enum blkcbt_event event);
void blkcbt_disk_escape(struct blkcbt_disk *d, sector_t sector, sector_t sectors);
void blkcbt_disk_mark_odd(struct blkcbt_disk *d, sector_t sector, sector_t sectors);
void blkcbt_disk_mark_whole(struct blkcbt_disk *d);
void blkcbt_disks_wait(void);

/* observe.c */
#define BLKCBT_REASON_LEN	400
int blkcbt_observe_start(void);
void blkcbt_observe_stop(void);
const char *blkcbt_observe_refuse(bool bio_based);
bool blkcbt_observe_degraded(bool bio_based);
enum blkcbt_gate_mode blkcbt_observe_mode(const char **why);
const char *blkcbt_observe_mode_name(void);
u32 blkcbt_observers(void);

/* gate.c */
int blkcbt_gate_start(const char **why);
void blkcbt_gate_stop(void);

/* auditor.c */
int blkcbt_auditor_start(bool gate, u32 *observers);
void blkcbt_auditor_stop(void);

/* shim.c */
struct blkcbt_shim;
extern struct kmem_cache *blkcbt_shim_cache;
int blkcbt_shim_init(void);
void blkcbt_shim_exit(void);
bool blkcbt_shim_present(struct blkcbt_disk *d, struct bio *bio, sector_t sector, sector_t sectors);
bool blkcbt_shim_try(struct blkcbt_disk *d, struct bio *bio, sector_t sector, sector_t sectors);
bool blkcbt_shim_reserve(struct blkcbt_disk *d, struct bio *bio);
unsigned long blkcbt_shim_count(struct blkcbt_disk *d, unsigned int flight);
bool blkcbt_shim_completes(struct blkcbt_disk *d, struct bio *bio);

/* park.c */
void blkcbt_park_stub(struct bio *bio);
int blkcbt_park_init_disk(struct blkcbt_disk *d);
void blkcbt_park_again(struct blkcbt_disk *d, struct bio_list *bios);
void blkcbt_park_exit_disk(struct blkcbt_disk *d);
void blkcbt_park_kick(struct blkcbt_disk *d);
void blkcbt_park_exit(void);
void blkcbt_park_fault_locks(struct blkcbt_disk *d, bool orphans_first);

/* event.c */
void blkcbt_event_work(struct work_struct *work);

/* chardev.c */
int blkcbt_chardev_init(void);
void blkcbt_chardev_exit(void);
int blkcbt_chardev_add(struct blkcbt_disk *d);
void blkcbt_chardev_del(struct blkcbt_disk *d);

/* genl.c */
int blkcbt_genl_init(void);
void blkcbt_genl_exit(void);
void blkcbt_genl_multicast(struct blkcbt_disk *d, enum blkcbt_event event);

/**
 * blkcbt_map_of() - a map of a disk, for whoever changes control's state
 * @map: @cur or @old of the disk
 *
 * Context: blkcbt_ctl_mutex.
 * Return: the map, or NULL.
 */
static inline struct blkcbt_map *blkcbt_map_of(struct blkcbt_map __rcu *map)
{
	return rcu_dereference_protected(map, lockdep_is_held(&blkcbt_ctl_mutex));
}

/**
 * blkcbt_disk_find() - the tracked disk of a gendisk
 * @gd: the gendisk
 *
 * Context: between blkcbt_read_lock() and blkcbt_read_unlock(), which is also
 * how long the result is good.
 * Return: the disk, or NULL if it is not tracked.
 */
static __always_inline struct blkcbt_disk *blkcbt_disk_find(const struct gendisk *gd)
{
	struct blkcbt_disk *d;

	hlist_for_each_entry_rcu_notrace(d, &blkcbt_table[hash_ptr(gd, BLKCBT_HASH_BITS)], node)
		if (d->gd == gd)
			return d;
	return NULL;
}

/**
 * blkcbt_disk_mark() - mark a write in the current map
 * @d: the disk
 * @sector: first sector, on the whole disk
 * @sectors: how many, at least one
 *
 * Context: between blkcbt_read_lock() and blkcbt_read_unlock().
 */
static __always_inline void blkcbt_disk_mark(struct blkcbt_disk *d, sector_t sector,
					     sector_t sectors)
{
	u64 first = sector >> d->granule_sector_shift;
	u64 last = (sector + sectors - 1) >> d->granule_sector_shift;

	if (unlikely(last >= d->nr_granules || first > last))
		blkcbt_disk_mark_odd(d, sector, sectors);
	else
		blkcbt_map_mark(rcu_dereference_raw(d->cur), first, last);
}

/* The place of a bio on the whole disk. */
static __always_inline sector_t blkcbt_bio_sector(struct bio *bio)
{
	sector_t sector = bio->bi_iter.bi_sector;

	if (!bio_flagged(bio, BIO_REMAPPED))
		sector += bio->bi_bdev->bd_start_sect;
	return sector;
}

/**
 * blkcbt_bio_granules() - the granules that a bio touches
 * @d: the disk
 * @bio: the bio; it has sectors
 * @first: set to the first
 * @last: set to the last, inclusive; perhaps behind the disk
 */
static inline void blkcbt_bio_granules(const struct blkcbt_disk *d, struct bio *bio, u64 *first,
				       u64 *last)
{
	sector_t sector = blkcbt_bio_sector(bio);

	*first = sector >> d->granule_sector_shift;
	*last = (sector + bio_sectors(bio) - 1) >> d->granule_sector_shift;
}

#endif /* BLKCBT_DISK_H */
