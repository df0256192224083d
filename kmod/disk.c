// SPDX-License-Identifier: GPL-2.0
/*
 * Tracked disks: attach and detach, and what the hot path calls when something
 * is out of the ordinary.
 *
 * Control operations run one at a time under blkcbt_ctl_mutex. The hot path
 * knows nothing of it: it finds a disk and its current map under RCU.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/idr.h>
#include <linux/major.h>
#include <linux/module.h>
#include <linux/part_stat.h>
#include <linux/random.h>
#include <linux/wait.h>
#include "disk.h"
#include "preserve.h"
#include "store.h"

/* Serialises control: the list, the table's writers, epochs, the maps' owners. */
DEFINE_MUTEX(blkcbt_ctl_mutex);
LIST_HEAD(blkcbt_disks);
unsigned int blkcbt_disks_seq;
struct hlist_head blkcbt_table[1 << BLKCBT_HASH_BITS];

static DEFINE_IDA(indices);
static atomic_t nr_alive = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(none_alive);

/*
 * Lookup
 */

/**
 * blkcbt_disk_by_dev() - the tracked disk of this number
 * @dev: the number
 *
 * Context: blkcbt_ctl_mutex.
 * Return: the disk, also when it is gone; NULL if it is not tracked.
 */
struct blkcbt_disk *blkcbt_disk_by_dev(dev_t dev)
{
	struct blkcbt_disk *d;

	list_for_each_entry(d, &blkcbt_disks, list)
		if (disk_devt(d->gd) == dev)
			return d;
	return NULL;
}

/**
 * blkcbt_disk_by_index() - the tracked disk of this character device
 * @index: number of the character device
 *
 * Context: blkcbt_ctl_mutex.
 */
struct blkcbt_disk *blkcbt_disk_by_index(unsigned int index)
{
	struct blkcbt_disk *d;

	list_for_each_entry(d, &blkcbt_disks, list)
		if (d->index == index)
			return d;
	return NULL;
}

/**
 * blkcbt_disk_gone() - is it removed or, as a loop device or a drive of removable
 *	media can be, not what was attached?
 * @d: the disk
 */
bool blkcbt_disk_gone(struct blkcbt_disk *d)
{
	return test_bit(GD_DEAD, &d->gd->state) || d->gd->diskseq != d->diskseq;
}

/**
 * blkcbt_disk_resized() - has its size changed since it was attached?
 * @d: the disk
 */
bool blkcbt_disk_resized(struct blkcbt_disk *d)
{
	return READ_ONCE(d->resized) ||
	       (!blkcbt_disk_gone(d) && get_capacity(d->gd) != d->nr_sectors);
}

/**
 * blkcbt_disk_flags() - BLKCBT_DISK_F_* of a disk
 * @d: the disk
 */
u32 blkcbt_disk_flags(struct blkcbt_disk *d)
{
	return (d->bio_based ? BLKCBT_DISK_F_BIO_BASED : 0) |
	       (blkcbt_disk_gone(d) ? BLKCBT_DISK_F_GONE : 0) |
	       (blkcbt_disk_resized(d) ? BLKCBT_DISK_F_RESIZED : 0) |
	       (d->epoch.committed ? 0 : BLKCBT_DISK_F_UNSYNCED) |
	       (blkcbt_observe_degraded(d->bio_based) ? BLKCBT_DISK_F_DEGRADED : 0);
}

/*
 * Life
 */

static void disk_free(struct kref *kref)
{
	struct blkcbt_disk *d = container_of(kref, struct blkcbt_disk, kref);

	kfree(d);
}

/**
 * blkcbt_disk_put() - let go of the memory of a disk
 * @d: the disk
 */
void blkcbt_disk_put(struct blkcbt_disk *d)
{
	kref_put(&d->kref, disk_free);
}

/* Everything but the memory of the object itself; also of a half-made one. */
static void disk_dismantle(struct blkcbt_disk *d)
{
	blkcbt_map_free(rcu_dereference_raw(d->cur));
	blkcbt_map_free(rcu_dereference_raw(d->old));
	blkcbt_park_exit_disk(d);
	free_percpu(d->inflight);
	if (d->gd)
		put_device(disk_to_dev(d->gd));
	module_put(d->owner);
	ida_free(&indices, d->index);
}

/* On blkcbt_wq: @ref has reached zero, which may have been in an interrupt. */
static void free_work(struct work_struct *work)
{
	struct blkcbt_disk *d = container_of(work, struct blkcbt_disk, free_work);
	bool early = blkcbt_fault_early_free();

	/* The tail of percpu_ref_put() and the readers who dropped the last reference. */
	synchronize_rcu();
	percpu_ref_exit(&d->ref);
	if (early)
		blkcbt_disk_put(d);
	disk_dismantle(d);
	if (!early)
		blkcbt_disk_put(d);
	if (atomic_dec_and_test(&nr_alive))
		wake_up(&none_alive);
}

/* A detached disk: a grace period has passed, so only what was parked gets shims now. */
static void drain_work(struct work_struct *work)
{
	struct blkcbt_disk *d = container_of(to_delayed_work(work), struct blkcbt_disk, drain_work);

	if (blkcbt_shim_count(d, 0) || blkcbt_shim_count(d, 1)) {
		queue_delayed_work(blkcbt_wq, &d->drain_work, max(HZ / 100, 1));
		return;
	}
	percpu_ref_kill(&d->ref);
}

static void disk_drained(struct percpu_ref *ref)
{
	struct blkcbt_disk *d = container_of(ref, struct blkcbt_disk, ref);

	queue_work(blkcbt_wq, &d->free_work);
}

/*
 * A driver that sends the very bio on to another disk: it completes there, so a write that
 * was submitted before the disk was attached would complete unseen, perhaps after the first
 * cut. Every other bio-based driver completes what it was given.
 */
static const char *disk_hands_on(struct gendisk *gd)
{
	if (queue_is_mq(gd->queue))
		return NULL;
	if (str_has_prefix(gd->disk_name, "nvme"))
		return "it is a multipath head (boot with nvme_core.multipath=N)";
#ifdef blk_queue_io_stat
	if (str_has_prefix(gd->disk_name, "md") && !blk_queue_io_stat(gd->queue))
		return "its I/O statistics are off (write 1 to its queue/iostats)";
#endif
	return NULL;
}

/* Why this disk cannot be tracked: 0 if it can. */
static int disk_refuse(struct block_device *bdev, u32 granule_bytes, char *why)
{
	struct gendisk *gd = bdev->bd_disk;
	const char *bypass = blkcbt_disk_bypass(gd);
	const char *hands_on = disk_hands_on(gd);
	const char *unseen = blkcbt_observe_refuse(!queue_is_mq(gd->queue));

	if (bdev_is_partition(bdev)) {
		why_err(why, "%pg: cannot attach: it is a partition (attach the whole disk %s)",
			bdev, gd->disk_name);
		return -EINVAL;
	}
	if (bdev_is_zoned(bdev)) {
		why_err(why, "disk %s: cannot attach: it is zoned, and a zone append has no place when it is submitted (only disks without zones can be tracked)",
			gd->disk_name);
		return -EOPNOTSUPP;
	}
	if (bypass) {
		why_err(why, "disk %s: cannot attach: %s (track another disk, or the one below)",
			gd->disk_name, bypass);
		return -EOPNOTSUPP;
	}
	if (hands_on) {
		why_err(why, "disk %s: cannot attach: %s", gd->disk_name, hands_on);
		return -EOPNOTSUPP;
	}
	if (!get_capacity(gd)) {
		why_err(why, "disk %s: cannot attach: it has no size (set it up, or insert a medium, first)",
			gd->disk_name);
		return -EINVAL;
	}
	if (granule_bytes < bdev_logical_block_size(bdev)) {
		why_err(why, "disk %s: cannot attach: its blocks of %u bytes are larger than the granule (use a granule of %u or more)",
			gd->disk_name, bdev_logical_block_size(bdev),
			bdev_logical_block_size(bdev));
		return -EINVAL;
	}
	if (unseen) {
		why_err(why, "disk %s: cannot attach: %s (dmesg says what is missing%s)",
			gd->disk_name, unseen,
			queue_is_mq(gd->queue) ? "" : "; attach the disks below it");
		return -EOPNOTSUPP;
	}
	return 0;
}

/* The major numbers of drivers/scsi/sd.c, and nobody else's. */
static bool major_is_sd(unsigned int major)
{
	return major == SCSI_DISK0_MAJOR ||
	       (major >= SCSI_DISK1_MAJOR && major <= SCSI_DISK7_MAJOR) ||
	       (major >= SCSI_DISK8_MAJOR && major <= SCSI_DISK15_MAJOR);
}

static struct blkcbt_disk *disk_make(struct gendisk *gd, u32 granule_bytes, bool awaits_store,
				     char *why)
{
	unsigned int granule_sectors = granule_bytes >> SECTOR_SHIFT;
	struct blkcbt_disk *d = kzalloc(sizeof(*d), GFP_KERNEL);
	struct blkcbt_map *map;
	int index;

	if (!d)
		return ERR_PTR(-ENOMEM);
	index = ida_alloc_max(&indices, BLKCBT_DISKS_MAX - 1, GFP_KERNEL);
	if (index < 0) {
		kfree(d);
		if (index == -ENOSPC)
			why_err(why, "disk %s: cannot attach: no more than %u disks can be tracked (detach one first)",
				gd->disk_name, BLKCBT_DISKS_MAX);
		return ERR_PTR(index);
	}
	kref_init(&d->kref);
	d->index = index;
	d->id = get_random_u64();
	d->nr_sectors = get_capacity(gd);
	d->diskseq = gd->diskseq;
	d->granule_sector_shift = ilog2(granule_sectors);
	d->nr_granules = (d->nr_sectors + granule_sectors - 1) >> d->granule_sector_shift;
	d->bio_based = !queue_is_mq(gd->queue);
	d->shims = d->bio_based || awaits_store;
	d->awaits_store = awaits_store;
	d->scsi = major_is_sd(gd->major);
	d->escape_after = jiffies;
	INIT_WORK(&d->event_work, blkcbt_event_work);
	INIT_DELAYED_WORK(&d->drain_work, drain_work);
	INIT_WORK(&d->free_work, free_work);
	INIT_HLIST_NODE(&d->node);

	map = blkcbt_map_alloc(d->nr_granules);
	if (map && !awaits_store)
		blkcbt_map_mark_all(map);
	RCU_INIT_POINTER(d->cur, map);
	d->inflight = alloc_percpu(struct blkcbt_inflight);
	if (!map || !d->inflight || blkcbt_park_init_disk(d) ||
	    percpu_ref_init(&d->ref, disk_drained, 0, GFP_KERNEL)) {
		disk_dismantle(d);
		kfree(d);
		why_err(why, "disk %s: cannot attach: no memory for its map (use a larger granule)",
			gd->disk_name);
		return ERR_PTR(-ENOMEM);
	}

	/* Pin the memory of the gendisk and the code of its driver, not the device. */
	if (!try_module_get(gd->fops->owner)) {
		percpu_ref_exit(&d->ref);
		disk_dismantle(d);
		kfree(d);
		why_err(why, "disk %s: cannot attach: its driver is being unloaded", gd->disk_name);
		return ERR_PTR(-ENODEV);
	}
	d->owner = gd->fops->owner;
	get_device(disk_to_dev(gd));
	d->gd = gd;
	return d;
}

/**
 * blkcbt_disk_attach() - start tracking a disk; every granule starts dirty, or what
 *	its store says
 * @dev: its number
 * @granule_bytes: the granule
 * @awaits_store: nothing starts dirty, but nothing can be cut before a store was
 *	added or given up
 * @store: the store, or NULL; then @awaits_store is set
 * @why: set to a text on error
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 * Return: the disk or an error as documented for BLKCBT_CMD_ATTACH.
 */
struct blkcbt_disk *blkcbt_disk_attach(dev_t dev, u32 granule_bytes, bool awaits_store,
				       const struct blkcbt_store_ask *store, char *why)
{
	struct blkcbt_disk *d = blkcbt_disk_by_dev(dev);
	struct blkcbt_store *s = NULL;
	struct blkcbt_bdev b;
	int err;

	if (d) {
		why_err(why, "disk %s: cannot attach: %s (detach it first: reprotect disk detach /dev/%s)",
			d->gd->disk_name, blkcbt_disk_gone(d) ?
			"a removed disk of this number is still tracked" : "already tracked",
			d->gd->disk_name);
		return ERR_PTR(-EEXIST);
	}
	if (granule_bytes < BLKCBT_GRANULE_MIN || granule_bytes > BLKCBT_GRANULE_MAX ||
	    !is_power_of_2(granule_bytes)) {
		why_err(why, "disk %u:%u: cannot attach: granule of %u bytes (use a power of two from %u to %u)",
			MAJOR(dev), MINOR(dev), granule_bytes, BLKCBT_GRANULE_MIN,
			BLKCBT_GRANULE_MAX);
		return ERR_PTR(-EINVAL);
	}

	/* Not while the module is being unloaded: its exit waits for us. */
	if (!try_module_get(THIS_MODULE)) {
		why_err(why, "disk %u:%u: cannot attach: blkcbt is being unloaded", MAJOR(dev),
			MINOR(dev));
		return ERR_PTR(-ENODEV);
	}
	err = blkcbt_bdev_open(dev, NULL, &b);
	if (err) {
		module_put(THIS_MODULE);
		if (err == -ENXIO || err == -ENOENT)
			err = -ENODEV;
		why_err(why, "disk %u:%u: cannot attach: %s", MAJOR(dev), MINOR(dev),
			err == -ENODEV ? "no such disk (is its driver loaded?)" :
			"it cannot be opened (what does the kernel's log say?)");
		return ERR_PTR(err);
	}
	err = disk_refuse(b.bdev, granule_bytes, why);
	d = err ? ERR_PTR(err) : disk_make(b.bdev->bd_disk, granule_bytes, awaits_store, why);
	blkcbt_bdev_close(&b);
	if (IS_ERR(d)) {
		module_put(THIS_MODULE);
		return d;
	}

	atomic_inc(&nr_alive);
	list_add_tail(&d->list, &blkcbt_disks);
	err = blkcbt_chardev_add(d);
	if (err) {
		why_err(why, "disk %s: cannot attach: no character device for it (error %d)",
			d->gd->disk_name, err);
		list_del(&d->list);
		module_put(THIS_MODULE);
		percpu_ref_kill(&d->ref);
		return ERR_PTR(err);
	}
	if (store)
		s = blkcbt_store_prepare(d, store);
	if (s)
		blkcbt_store_install(d, s);
	if (blkcbt_fault_lock_order())
		blkcbt_park_fault_locks(d, false);
	hlist_add_head_rcu(&d->node, &blkcbt_table[hash_ptr(d->gd, BLKCBT_HASH_BITS)]);
	blkcbt_disks_seq++;
	d->attach_sectors = blkcbt_disk_written(d);
	if (s)
		blkcbt_store_start(d, s, false);
	else if (store)
		blkcbt_store_give_up(d);
	pr_info("disk %s: attached, granule %u bytes%s\n", d->gd->disk_name, granule_bytes,
		d->bio_based ? ", bio-based" : "");
	return d;
}

/**
 * blkcbt_disk_detach() - stop tracking a disk
 * @d: the disk; not to be used afterwards, unless the caller has a reference
 * @force: even with an open epoch
 * @why: set to a text on error
 *
 * What is under way through the disk finishes by itself; the disk is freed when
 * the last of it has.
 *
 * Context: blkcbt_ctl_mutex; sleeps for a grace period.
 * Return: 0, -EBUSY.
 */
int blkcbt_disk_detach(struct blkcbt_disk *d, bool force, char *why)
{
	int err = blkcbt_epoch_step(&d->epoch, force ? BLKCBT_STEP_DETACH_FORCE :
				    BLKCBT_STEP_DETACH, 0);
	struct blkcbt_preserve *preserve;

	if (err) {
		why_err(why, "disk %s: cannot detach: epoch %llu is open (commit or abort it, or detach with --force)",
			d->gd->disk_name, d->epoch.last);
		return err;
	}
	if (blkcbt_fault_lock_order())
		blkcbt_park_fault_locks(d, true);
	blkcbt_store_save(d, BLKCBT_STORE_SAVED_COUNT);
	hlist_del_init_rcu(&d->node);
	list_del(&d->list);
	blkcbt_disks_seq++;
	d->detached = true;
	blkcbt_chardev_del(d);
	blkcbt_image_del(d);
	preserve = blkcbt_preserve_stop(d);
	pr_info("disk %s: detached\n", d->gd->disk_name);
	blkcbt_store_remove(d);
	blkcbt_preserve_put(preserve);
	blkcbt_park_kick(d);
	queue_delayed_work(blkcbt_wq, &d->drain_work, 0);
	module_put(THIS_MODULE);
	return 0;
}

/**
 * blkcbt_disk_written() - how much has been written to a disk in this boot
 * @d: the disk
 *
 * By its own statistics, which count from before the module was there.
 *
 * Return: sectors written and discarded; U64_MAX if nobody counts.
 */
u64 blkcbt_disk_written(struct blkcbt_disk *d)
{
#ifdef blk_queue_io_stat
	if (!blk_queue_io_stat(d->gd->queue))
		return U64_MAX;
#endif
	return part_stat_read(d->gd->part0, sectors[STAT_WRITE]) +
	       part_stat_read(d->gd->part0, sectors[STAT_DISCARD]);
}

/**
 * blkcbt_disks_wait() - wait until every detached disk is freed
 */
void blkcbt_disks_wait(void)
{
	wait_event(none_alive, !atomic_read(&nr_alive));
}

/**
 * blkcbt_disk_mark_bytes() - mark a range dirty by command
 * @d: the disk
 * @from_bytes: its start
 * @to_bytes: its end; beyond the disk is the end of the disk
 * @why: set to a text on error
 *
 * Context: blkcbt_ctl_mutex; may sleep.
 * Return: 0, -EINVAL an empty range or one behind the disk.
 */
int blkcbt_disk_mark_bytes(struct blkcbt_disk *d, u64 from_bytes, u64 to_bytes, char *why)
{
	u64 size = (u64)d->nr_sectors << SECTOR_SHIFT;
	unsigned int shift = d->granule_sector_shift + SECTOR_SHIFT;

	to_bytes = min(to_bytes, size);
	if (from_bytes >= to_bytes) {
		why_err(why, "disk %s: cannot mark: there is nothing in the range (the disk has %llu bytes)",
			d->gd->disk_name, size);
		return -EINVAL;
	}
	if (!from_bytes && to_bytes == size)
		blkcbt_map_mark_all(blkcbt_map_of(d->cur));
	else
		blkcbt_map_mark_slow(blkcbt_map_of(d->cur), from_bytes >> shift,
				     (to_bytes - 1) >> shift);
	blkcbt_store_marked(d, from_bytes >> shift, (to_bytes - 1) >> shift);
	return 0;
}

/*
 * Out of the ordinary: called by the hot path, in any context, between
 * blkcbt_read_lock() and blkcbt_read_unlock()
 */

/**
 * blkcbt_disk_raise() - report an event from any context
 * @d: the disk
 * @event: what happened; an event that is pending is not reported twice
 */
void blkcbt_disk_raise(struct blkcbt_disk *d, enum blkcbt_event event)
{
	if (test_and_set_bit(event, &d->events))
		return;
	percpu_ref_get(&d->ref);
	if (!queue_work(blkcbt_wq, &d->event_work))
		percpu_ref_put(&d->ref);
}

/**
 * blkcbt_disk_escape() - the auditor found a write that the gate had not marked
 * @d: the disk
 * @sector: first sector, for the log
 * @sectors: how many; 0: not known
 */
void blkcbt_disk_escape(struct blkcbt_disk *d, sector_t sector, sector_t sectors)
{
	atomic64_inc(&d->escapes);
	blkcbt_preserve_upset(d);
	blkcbt_store_upset(d, "a write came that the gate does not see");
	if (time_before(jiffies, READ_ONCE(d->escape_after)))
		return;
	WRITE_ONCE(d->escape_after, jiffies + HZ);
	pr_warn_ratelimited("disk %s: a write at sector %llu (%llu sectors) was not seen by the gate; it is marked now (please report the kernel and the storage stack)\n",
			    d->gd->disk_name, (u64)sector, (u64)sectors);
	blkcbt_disk_raise(d, BLKCBT_EVENT_ESCAPE);
}

/**
 * blkcbt_disk_mark_odd() - mark a write that reaches beyond the map
 * @d: the disk
 * @sector: first sector
 * @sectors: how many, at least one
 *
 * The disk has grown, and cannot be cut until it is attached again; or the
 * write is nonsense, and the block layer will refuse it.
 */
void blkcbt_disk_mark_odd(struct blkcbt_disk *d, sector_t sector, sector_t sectors)
{
	u64 first = sector >> d->granule_sector_shift;

	if (get_capacity(d->gd) != d->nr_sectors && !READ_ONCE(d->resized)) {
		WRITE_ONCE(d->resized, true);
		blkcbt_disk_raise(d, BLKCBT_EVENT_RESIZED);
	}
	if (first < d->nr_granules)
		blkcbt_map_mark_slow(rcu_dereference_raw(d->cur), first, d->nr_granules - 1);
}

/**
 * blkcbt_disk_mark_whole() - mark the whole disk: a write's place is not known
 * @d: the disk
 */
void blkcbt_disk_mark_whole(struct blkcbt_disk *d)
{
	blkcbt_map_mark_all(rcu_dereference_raw(d->cur));
	blkcbt_store_upset(d, "the place of a write was not known");
	blkcbt_disk_raise(d, BLKCBT_EVENT_RESYNC);
}
