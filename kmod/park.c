// SPDX-License-Identifier: GPL-2.0
/*
 * Parking: where a write to a bio-based disk waits when there was no memory for
 * its completion shim. The gate diverts the submitter to blkcbt_park_stub(),
 * which queues the bio and returns as if it had been submitted; a worker gives
 * it a shim from the disk's reserve and submits it. The gate sees the shim and
 * lets it pass.
 *
 * Forward progress: each disk has its own reserve and its own workqueue with a
 * rescuer, and the worker never waits for a shim. When the reserve is empty, a
 * shim of this very disk is under way below, and its return kicks the worker;
 * nothing below waits for anything parked above it.
 *
 * A bio whose disk is detached between gate and stub goes out through the
 * orphans' list: the stub itself must not submit, for submitting sleeps.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include "disk.h"

#define RESERVE		64

static DEFINE_SPINLOCK(orphan_lock);
static struct bio_list orphans = BIO_EMPTY_LIST;

static void orphan_work(struct work_struct *work)
{
	struct bio *bio;

	for (;;) {
		spin_lock_irq(&orphan_lock);
		bio = bio_list_pop(&orphans);
		spin_unlock_irq(&orphan_lock);
		if (!bio)
			return;
		submit_bio_noacct(bio);
		cond_resched();
	}
}

static DECLARE_WORK(orphan_item, orphan_work);

static void park_work(struct work_struct *work)
{
	struct blkcbt_disk *d = container_of(work, struct blkcbt_disk, park_work);
	struct bio *bio;

	for (;;) {
		/* Stays on the list until it has its shim: see blkcbt_park_kick(). */
		spin_lock_irq(&d->park_lock);
		bio = bio_list_peek(&d->park_list);
		spin_unlock_irq(&d->park_lock);
		if (!bio || !blkcbt_shim_reserve(d, bio))
			return;
		spin_lock_irq(&d->park_lock);
		bio_list_pop(&d->park_list);
		spin_unlock_irq(&d->park_lock);
		submit_bio_noacct(bio);
		cond_resched();
	}
}

/**
 * blkcbt_park_stub() - what a diverted submitter calls in place of
 *	submit_bio_noacct()
 * @bio: the bio
 *
 * Context: as submit_bio_noacct(), perhaps from within another driver's
 * submission; never sleeps, or unloading would not be safe.
 */
void notrace blkcbt_park_stub(struct bio *bio)
{
	struct blkcbt_disk *d;
	unsigned long flags;

	if (bio->bi_opf & REQ_NOWAIT) {
		bio_wouldblock_error(bio);
		return;
	}
	bio->bi_opf &= ~(REQ_POLLED | REQ_ALLOC_CACHE);

	blkcbt_read_lock();
	d = blkcbt_disk_find(bio->bi_bdev->bd_disk);
	if (d)
		percpu_ref_get(&d->ref);
	blkcbt_read_unlock();

	if (!d) {
		spin_lock_irqsave(&orphan_lock, flags);
		bio_list_add(&orphans, bio);
		spin_unlock_irqrestore(&orphan_lock, flags);
		queue_work(blkcbt_wq, &orphan_item);
		return;
	}
	atomic64_inc(&d->parked);
	spin_lock_irqsave(&d->park_lock, flags);
	bio_list_add(&d->park_list, bio);
	/* Under the lock: the list, and with it the reference, cannot drain meanwhile. */
	queue_work(d->park_wq, &d->park_work);
	spin_unlock_irqrestore(&d->park_lock, flags);
}

/**
 * blkcbt_park_kick() - a shim has come back: look after those who wait for one
 * @d: the disk; the caller holds a reference of its @ref
 *
 * Pairs with park_work(): a bio is on the list before the reserve is found
 * empty, and the shim is in the reserve before the list is looked at.
 *
 * Any context.
 */
void blkcbt_park_kick(struct blkcbt_disk *d)
{
	/* The shim is in the reserve before the list is looked at. */
	smp_mb();
	if (unlikely(!bio_list_empty(&d->park_list)))
		queue_work(d->park_wq, &d->park_work);
}

/**
 * blkcbt_park_init_disk() - reserve and worker of a bio-based disk
 * @d: the disk
 *
 * Return: 0 or -ENOMEM; blkcbt_park_exit_disk() cleans up in either case.
 */
int blkcbt_park_init_disk(struct blkcbt_disk *d)
{
	spin_lock_init(&d->park_lock);
	bio_list_init(&d->park_list);
	INIT_WORK(&d->park_work, park_work);
	if (!d->bio_based)
		return 0;
	d->shim_pool = mempool_create_slab_pool(RESERVE, blkcbt_shim_cache);
	d->park_wq = alloc_workqueue("blkcbt-%u", WQ_MEM_RECLAIM | WQ_UNBOUND, 1, d->index);
	return d->shim_pool && d->park_wq ? 0 : -ENOMEM;
}

/**
 * blkcbt_park_exit_disk() - undo blkcbt_park_init_disk()
 * @d: the disk; nothing is parked and every shim has come back
 */
void blkcbt_park_exit_disk(struct blkcbt_disk *d)
{
	if (d->park_wq)
		destroy_workqueue(d->park_wq);
	mempool_destroy(d->shim_pool);
}

/**
 * blkcbt_park_exit() - wait for the orphans; the gate is closed
 */
void blkcbt_park_exit(void)
{
	flush_work(&orphan_item);
}

#ifdef BLKCBT_FAULTS
/**
 * blkcbt_park_fault_locks() - take both locks of this file, for lockdep to see
 * @d: the disk
 * @orphans_first: in this order; false: in the other
 *
 * Nobody else ever holds both: the two orders meet in lockdep's records, never
 * in a deadlock, as long as no two callers run at a time (blkcbt_ctl_mutex).
 */
void blkcbt_park_fault_locks(struct blkcbt_disk *d, bool orphans_first)
{
	spinlock_t *outer = orphans_first ? &orphan_lock : &d->park_lock;
	spinlock_t *inner = orphans_first ? &d->park_lock : &orphan_lock;

	spin_lock_irq(outer);
	spin_lock(inner);
	spin_unlock(inner);
	spin_unlock_irq(outer);
}
#endif
