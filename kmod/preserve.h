/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Preserving: what keeps the content at the cut of a granule that is about to be
 * overwritten. Used by the gate, the park worker, the image, the cut.
 */
#ifndef BLKCBT_PRESERVE_H
#define BLKCBT_PRESERVE_H

#include <linux/blkcbt.h>
#include <linux/kref.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include "map.h"

struct bio;
struct blkcbt_disk;

/**
 * struct blkcbt_cut_group - what the disks of one consistent cut share
 * @kref: one for each disk, one for the cut while it is being made
 * @off: the epoch is fuzzy on all of its disks; set, never cleared
 * @reason: why, a constant; set before @off
 * @used_bytes: preserved content, and what it costs to keep it
 * @budget_bytes: most of it
 */
struct blkcbt_cut_group {
	struct kref kref;
	bool off;
	const char *reason;
	atomic64_t used_bytes;
	u64 budget_bytes;
};

/**
 * struct blkcbt_preserve - one disk's part of a consistent epoch
 *
 * Set once:
 * @disk: its memory is held
 * @group: a reference is held
 * @covers: the granules that count, NULL: all; the epoch's map, so it is good
 *	only under RCU and while @over is not set
 * @mode: consistent or snapshot
 *
 * Any context:
 * @done: granules that may be overwritten: preserved, or released by the reader
 * @granules: struct granule by number: preserved, or being so
 * @bytes: content preserved
 * @over: the epoch is; set, never cleared, a grace period before @covers goes
 *
 * @kref: one for the disk, one for each reader and batch under way
 */
struct blkcbt_preserve {
	struct blkcbt_disk *disk;
	struct blkcbt_cut_group *group;
	const struct blkcbt_map *covers;
	enum blkcbt_epoch_mode mode;
	struct blkcbt_map *done;
	struct xarray granules;
	atomic64_t bytes;
	bool over;
	struct kref kref;
	struct work_struct free_work;
};

struct blkcbt_cut_group *blkcbt_cut_group_alloc(u64 budget_bytes);
void blkcbt_cut_group_put(struct blkcbt_cut_group *group);

struct blkcbt_preserve *blkcbt_preserve_alloc(struct blkcbt_disk *d,
					      struct blkcbt_cut_group *group,
					      enum blkcbt_epoch_mode mode);
void blkcbt_preserve_install(struct blkcbt_preserve *p, const struct blkcbt_map *covers);
struct blkcbt_preserve *blkcbt_preserve_stop(struct blkcbt_disk *d);
struct blkcbt_preserve *blkcbt_preserve_get(struct blkcbt_disk *d);
void blkcbt_preserve_put(struct blkcbt_preserve *p);

/**
 * blkcbt_preserve_off() - has the epoch been downgraded?
 * @p: the epoch
 *
 * Any context. If so, @p->group->reason says why.
 */
static inline bool blkcbt_preserve_off(const struct blkcbt_preserve *p)
{
	/* Pairs with the release in downgrade(): the reason is there. */
	return smp_load_acquire(&p->group->off);
}

bool blkcbt_preserve_needed(struct blkcbt_disk *d, u64 first, u64 last);
void blkcbt_preserve_before(struct blkcbt_disk *d, struct bio *first, struct bio *last);
bool blkcbt_preserve_settle(struct blkcbt_preserve *p, struct bio *bio, bool readable);
void blkcbt_preserve_release(struct blkcbt_preserve *p, u64 first, u64 last);
void blkcbt_preserve_upset(struct blkcbt_disk *d);
void blkcbt_preserve_exit(void);

#endif /* BLKCBT_PRESERVE_H */
