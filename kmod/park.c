// SPDX-License-Identifier: GPL-2.0
/*
 * Parking: where a write waits. The gate diverts the submitter to
 * blkcbt_park_stub(), which queues the bio and returns as if it had been
 * submitted; a worker submits it once it may go:
 *
 *	writers are held		the end of the hold kicks the worker
 *	it overwrites what is not
 *	preserved yet			the worker preserves it (preserve.c)
 *	the store does not know that
 *	its extent is in use		it goes to the store's worker (store.c),
 *					which sends it back
 *	no memory for its shim		the worker gives it one from the disk's
 *					reserve; one that comes back kicks the worker
 *
 * A bio that the worker submits passes the gate again, which lets it go or parks
 * it again.
 *
 * Forward progress: each disk has its own reserve and its own workqueue with a
 * rescuer. The worker waits for reads of its disk, with a deadline, and for
 * nothing else. When the reserve is empty, a shim of this very disk is under way
 * below, and its return kicks the worker; nothing below waits for anything
 * parked above it.
 *
 * A bio whose disk is detached between gate and stub goes out through the
 * orphans' list: the stub itself must not submit, for submitting sleeps.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include "disk.h"
#include "preserve.h"
#include "store.h"

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

/* The hold is over: how long did it keep writes waiting? */
static void note_held(struct blkcbt_disk *d)
{
	u64 from_ns = atomic64_xchg(&d->held_from_ns, 0);

	if (from_ns)
		WRITE_ONCE(d->held_max_ns, max(d->held_max_ns, ktime_get_ns() - from_ns));
}

/*
 * A bio that has its shim already came back: dm sends the rest of a split round
 * again, or it has been parked twice. Such a one, and one of a disk whose writes
 * carry none, leaves its reference of the disk behind: *@spare.
 */
static bool give_shim(struct blkcbt_disk *d, struct bio *bio, bool *spare)
{
	*spare = !d->shims ||
		 blkcbt_shim_present(d, bio, blkcbt_bio_sector(bio), bio_sectors(bio));
	return *spare || blkcbt_shim_reserve(d, bio);
}

static void park_work(struct work_struct *work)
{
	struct blkcbt_disk *d = container_of(work, struct blkcbt_disk, park_work);
	struct bio *bio, *last;
	bool spare;

	for (;;) {
		/* What is parked again in the meantime comes behind @last. */
		spin_lock_irq(&d->park_lock);
		bio = bio_list_peek(&d->park_list);
		last = d->park_list.tail;
		spin_unlock_irq(&d->park_lock);
		if (!bio || test_bit(BLKCBT_SLOW_HOLD, &d->slow))
			return;
		note_held(d);
		blkcbt_preserve_before(d, bio, last);
		do {
			spin_lock_irq(&d->park_lock);
			bio = bio_list_peek(&d->park_list);
			spin_unlock_irq(&d->park_lock);
			if (blkcbt_store_take(d, bio))
				continue;
			/* Stays on the list until it has its shim: see blkcbt_park_kick(). */
			if (!give_shim(d, bio, &spare))
				return;
			spin_lock_irq(&d->park_lock);
			bio_list_pop(&d->park_list);
			spin_unlock_irq(&d->park_lock);
			submit_bio_noacct(bio);
			/* The disk may go, but not before this work has returned. */
			if (spare)
				percpu_ref_put(&d->ref);
			cond_resched();
		} while (bio != last);
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
 * blkcbt_park_kick() - a shim has come back, or a hold is over: look after those
 *	who wait for it
 * @d: the disk; the caller holds a reference of its @ref, or blkcbt_ctl_mutex
 *
 * Pairs with park_work(): a bio is on the list before the reserve is found
 * empty, and the shim is in the reserve before the list is looked at.
 *
 * Any context.
 */
void blkcbt_park_kick(struct blkcbt_disk *d)
{
	/* The shim is in the reserve, or the bit is cleared, before the list is looked at. */
	smp_mb();
	if (unlikely(!bio_list_empty(&d->park_list)))
		queue_work(d->park_wq, &d->park_work);
}

/**
 * blkcbt_park_again() - bios that were taken from the list go back to it
 * @d: the disk
 * @bios: the bios, each with its reference of @d->ref; empty afterwards
 *
 * Context: may not be in an interrupt.
 */
void blkcbt_park_again(struct blkcbt_disk *d, struct bio_list *bios)
{
	if (bio_list_empty(bios))
		return;
	spin_lock_irq(&d->park_lock);
	bio_list_merge(&d->park_list, bios);
	queue_work(d->park_wq, &d->park_work);
	spin_unlock_irq(&d->park_lock);
	bio_list_init(bios);
}

/**
 * blkcbt_park_init_disk() - worker of a disk, and reserve of shims
 * @d: the disk
 *
 * Return: 0 or -ENOMEM; blkcbt_park_exit_disk() cleans up in either case.
 */
int blkcbt_park_init_disk(struct blkcbt_disk *d)
{
	spin_lock_init(&d->park_lock);
	bio_list_init(&d->park_list);
	INIT_WORK(&d->park_work, park_work);
	d->park_wq = alloc_workqueue("blkcbt-%u", WQ_MEM_RECLAIM | WQ_UNBOUND | WQ_HIGHPRI, 1,
				     d->index);
	if (d->shims)
		d->shim_pool = mempool_create_slab_pool(RESERVE, blkcbt_shim_cache);
	return d->park_wq && (d->shim_pool || !d->shims) ? 0 : -ENOMEM;
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
