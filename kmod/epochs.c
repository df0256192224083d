// SPDX-License-Identifier: GPL-2.0
/*
 * Epochs of a group of disks: cut, commit, abort; all disks or none.
 *
 * A cut swaps the maps of all its disks while writers are held (hold.c), so that
 * it is the same instant on each: a write belongs to the epoch that is current
 * when it passes the gate. A map that is replaced is freed only after a grace
 * period, and a cut returns only after one: from then on nobody marks the
 * epoch's map any more.
 *
 * A consistent cut installs what preserves the epoch's granules (preserve.c)
 * during the same hold: no later write can have been there before.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "disk.h"
#include "extent.h"
#include "preserve.h"

static int cut_refuse(struct blkcbt_disk *d, const struct blkcbt_cut *cut, char *why)
{
	u64 epoch = cut->epoch;
	int err;

	if (blkcbt_disk_gone(d)) {
		why_err(why, "disk %s: cannot cut: the disk is gone (detach it: reprotect disk detach /dev/%s)",
			d->gd->disk_name, d->gd->disk_name);
		return -ENODEV;
	}
	if (blkcbt_disk_resized(d)) {
		why_err(why, "disk %s: cannot cut: its size has changed (detach and attach it again)",
			d->gd->disk_name);
		return -ERANGE;
	}
	if (d->awaits_store) {
		why_err(why, "disk %s: cannot cut: it awaits its store (add it, or drop it)",
			d->gd->disk_name);
		return -EAGAIN;
	}
	if (cut->mode != BLKCBT_MODE_FUZZY && blkcbt_observe_degraded(d->bio_based)) {
		why_err(why, "disk %s: cannot cut a consistent epoch: not every write to it is seen before the disk gets it (INFO says what is missing; cut a fuzzy one)",
			d->gd->disk_name);
		return -EOPNOTSUPP;
	}
	err = blkcbt_epoch_check(&d->epoch, BLKCBT_STEP_CUT, epoch);
	if (err == -EBUSY)
		why_err(why, "disk %s: cannot cut: epoch %llu is open (commit or abort it first)",
			d->gd->disk_name, d->epoch.last);
	else if (err)
		why_err(why, "disk %s: cannot cut: epoch %llu is not greater than %llu (choose a greater number)",
			d->gd->disk_name, epoch, d->epoch.last);
	return err;
}

/* What a cut needs, before anybody is held. */
static int cut_prepare(struct blkcbt_group_item *item, const struct blkcbt_cut *cut,
		       struct blkcbt_cut_group *group, char *why)
{
	struct blkcbt_disk *d = item->disk;
	int err = -ENOMEM;

	item->fresh = blkcbt_map_alloc(d->nr_granules);
	if (item->fresh && cut->mode == BLKCBT_MODE_FUZZY)
		return 0;
	if (item->fresh)
		err = blkcbt_image_add(d);
	if (!err) {
		item->preserve = blkcbt_preserve_alloc(d, group, cut->mode);
		err = item->preserve ? 0 : -ENOMEM;
	}
	if (err == -ENOMEM)
		why_err(why, "disk %s: cannot cut: no memory for a map (tracking goes on; try again)",
			d->gd->disk_name);
	else if (err)
		why_err(why, "disk %s: cannot cut: no image device for it (error %d; cut a fuzzy epoch)",
			d->gd->disk_name, err);
	return err;
}

/* Nobody is in the gate. */
static void cut_swap(struct blkcbt_group_item *items, unsigned int n, struct blkcbt_cut *cut)
{
	unsigned int i;

	cut->cut_ns = ktime_get_boottime_ns();
	for (i = 0; i < n; i++) {
		struct blkcbt_disk *d = items[i].disk;
		struct blkcbt_map *cur = blkcbt_map_of(d->cur);

		items[i].stale = blkcbt_map_of(d->old);
		WRITE_ONCE(d->cut_once, true);
		WRITE_ONCE(d->old_open, true);
		/*
		 * In this order: the auditor, who finds a granule clean in the
		 * new map, must find it in the old one.
		 */
		rcu_assign_pointer(d->old, cur);
		rcu_assign_pointer(d->cur, items[i].fresh);
		if (items[i].preserve)
			blkcbt_preserve_install(items[i].preserve, cur);
		d->cut_ns = cut->cut_ns;
		blkcbt_epoch_step(&d->epoch, BLKCBT_STEP_CUT, cut->epoch);
	}
}

/**
 * blkcbt_group_cut() - end the current epoch on these disks, begin the next
 * @items: the disks
 * @n: how many
 * @cut: what is asked for, and where the cut's time goes
 * @why: set to a text on error
 *
 * When this returns, every write that the gate saw before the cut is in the
 * epoch's map, and nobody marks that map any more.
 *
 * Context: blkcbt_ctl_mutex; sleeps for a grace period.
 * Return: 0 or an error as documented for BLKCBT_CMD_CUT; then nothing is cut.
 */
int blkcbt_group_cut(struct blkcbt_group_item *items, unsigned int n, struct blkcbt_cut *cut,
		     char *why)
{
	struct blkcbt_cut_group *group = NULL;
	unsigned int i;
	int err = 0;

	for (i = 0; i < n && !err; i++)
		err = cut_refuse(items[i].disk, cut, why);
	if (!err && cut->mode != BLKCBT_MODE_FUZZY) {
		group = blkcbt_cut_group_alloc(cut->budget_bytes);
		err = group ? 0 : -ENOMEM;
	}
	for (i = 0; i < n && !err; i++)
		err = cut_prepare(&items[i], cut, group, why);
	if (!err)
		err = blkcbt_hold_swap(items, n, cut, cut_swap, why);
	blkcbt_cut_group_put(group);
	if (err) {
		for (i = 0; i < n; i++) {
			blkcbt_map_free(items[i].fresh);
			blkcbt_preserve_put(items[i].preserve);
		}
		return err;
	}
	synchronize_rcu();

	for (i = 0; i < n; i++) {
		struct blkcbt_map *stale = items[i].stale;

		if (stale)
			items[i].disk->fallbacks += atomic64_read(&stale->fallbacks);
		blkcbt_map_free(stale);
	}
	return 0;
}

static int end_refuse(const struct blkcbt_group_item *item, u64 epoch,
		      enum blkcbt_epoch_step step, char *why)
{
	const char *verb = step == BLKCBT_STEP_COMMIT ? "commit" : "abort";
	struct blkcbt_disk *d = item->disk;
	int err = blkcbt_epoch_check(&d->epoch, step, epoch);

	if (err && d->epoch.state == BLKCBT_EPOCH_OPEN)
		why_err(why, "disk %s: cannot %s epoch %llu: epoch %llu is the open one (name that, or abort it)",
			d->gd->disk_name, verb, epoch, d->epoch.last);
	else if (err)
		why_err(why, "disk %s: cannot %s epoch %llu: no epoch is open (cut one first)",
			d->gd->disk_name, verb, epoch);
	else if (item->from_bytes > item->to_bytes)
		err = -EINVAL;
	if (err == -EINVAL)
		why_err(why, "disk %s: cannot %s epoch %llu: the range ends before it starts",
			d->gd->disk_name, verb, epoch);
	return err;
}

/* Returns the map to be freed a grace period later, if any. */
static struct blkcbt_map *end_one(const struct blkcbt_group_item *item,
				  enum blkcbt_epoch_step step, u64 epoch)
{
	struct blkcbt_disk *d = item->disk;
	struct blkcbt_map *old = blkcbt_map_of(d->old);
	u64 first = 0, end = 0;

	if (step == BLKCBT_STEP_COMMIT)
		blkcbt_extent_inner(item->from_bytes, item->to_bytes,
				    (u64)d->nr_sectors << SECTOR_SHIFT,
				    d->granule_sector_shift + SECTOR_SHIFT, &first, &end);
	if (first || end < d->nr_granules)
		blkcbt_map_put_back(blkcbt_map_of(d->cur), old, first, end);

	blkcbt_epoch_step(&d->epoch, step, epoch);
	if (step == BLKCBT_STEP_COMMIT) {
		/* Kept until the next cut: see the auditor. */
		WRITE_ONCE(d->commit_ns, ktime_get_ns());
		WRITE_ONCE(d->old_open, false);
		return NULL;
	}
	/* All of it is in the current map by now. */
	smp_wmb();
	RCU_INIT_POINTER(d->old, NULL);
	WRITE_ONCE(d->old_open, false);
	return old;
}

/**
 * blkcbt_group_end() - commit or abort the open epoch of these disks
 * @items: the disks and, for commit, what is forgotten
 * @n: how many
 * @epoch: number of the open epoch
 * @step: %BLKCBT_STEP_COMMIT or %BLKCBT_STEP_ABORT
 * @why: set to a text on error
 *
 * Context: blkcbt_ctl_mutex; may sleep for a grace period.
 * Return: 0 or an error as documented for BLKCBT_CMD_COMMIT; then nothing has
 * changed.
 */
int blkcbt_group_end(struct blkcbt_group_item *items, unsigned int n, u64 epoch,
		     enum blkcbt_epoch_step step, char *why)
{
	bool stale = false, preserved = false;
	unsigned int i;
	int err;

	for (i = 0; i < n; i++) {
		err = end_refuse(&items[i], epoch, step, why);
		if (err)
			return err;
	}
	for (i = 0; i < n; i++) {
		items[i].preserve = blkcbt_preserve_stop(items[i].disk);
		preserved |= !!items[i].preserve;
	}
	/* Whoever preserves or reads looks at the epoch's map, which now changes. */
	if (preserved)
		synchronize_rcu();
	for (i = 0; i < n; i++) {
		blkcbt_preserve_put(items[i].preserve);
		items[i].stale = end_one(&items[i], step, epoch);
		stale |= !!items[i].stale;
	}
	if (!stale)
		return 0;
	synchronize_rcu();
	for (i = 0; i < n; i++) {
		if (!items[i].stale)
			continue;
		items[i].disk->fallbacks += atomic64_read(&items[i].stale->fallbacks);
		blkcbt_map_free(items[i].stale);
	}
	return 0;
}
