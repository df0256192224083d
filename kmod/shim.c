// SPDX-License-Identifier: GPL-2.0
/*
 * The completion shim. Bio-based disks (dm, md, brd) have no requests, and the
 * crash-safe store must know when what was let through has completed; so the
 * gate puts a shim under each write of such a disk: it takes the place of bi_private and
 * bi_end_io, marks the write once more in the map that is current when it
 * completes (of a disk with requests, the auditor does that), puts both fields back and
 * calls the saved function, as bio_endio() would have.
 *
 * But for bio_chain_endio(), which is not to be called: there bio_endio() goes on with the
 * parent in a loop, where a chain of bios with shims would recurse. Such a bio is
 * completed once more, from a work item. A second pass through
 * bio_endio() finds nothing left to do (6.1, 6.12 and 7.3 read): BIO_CHAIN is
 * clear, the integrity payload is gone, rq_qos and throttling look at bi_blkg,
 * which is put and NULL, and BIO_TRACE_COMPLETION is clear.
 *
 * A driver may resubmit the bio itself: dm sends the remainder of a split round
 * again, nvme multipath retries on another path. A shim of the same disk that
 * covers the range is then there already. dm keeps a list in bi_private of
 * polled bios, so a bio with a shim is not polled.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include <linux/irqflags.h>
#include <linux/llist.h>
#include "disk.h"

/**
 * struct blkcbt_shim - what was in a bio, and where it writes
 * @disk: the disk; it stays while a shim is counted
 * @end_io: saved
 * @private: saved
 * @sector: first sector on the whole disk
 * @sectors: how many
 * @flight: which of the disk's counts it is in
 * @pooled: of the disk's reserve; a reference of its @ref is held
 * @bio: the bio, while on the list of chained ones
 * @node: on that list
 * @spare: the next one, while it is spare
 */
struct blkcbt_shim {
	struct blkcbt_disk *disk;
	bio_end_io_t *end_io;
	void *private;
	sector_t sector;
	sector_t sectors;
	unsigned int flight;
	bool pooled;
	struct bio *bio;
	union {
		struct llist_node node;
		struct blkcbt_shim *spare;
	};
};

/*
 * What the last completions on this processor left over is under the next writes: the
 * allocator is most of what a shim costs. None with KASAN, which sees what is used too late
 * only if the allocator has it back.
 */
#define SPARES		(IS_ENABLED(CONFIG_KASAN) ? 0u : 32u)

static DEFINE_PER_CPU(struct {
	struct blkcbt_shim *first;
	unsigned int nr;
}, spares);

struct kmem_cache *blkcbt_shim_cache;
static bio_end_io_t *chain_end_io;
static LLIST_HEAD(chained);
/* Of its own: what completes bios must not wait behind what submits them. */
static struct workqueue_struct *end_wq;

/* Any context. */
static struct blkcbt_shim *shim_alloc(void)
{
	struct blkcbt_shim *s;
	unsigned long flags;

	raw_local_irq_save(flags);
	s = __this_cpu_read(spares.first);
	if (s) {
		__this_cpu_write(spares.first, s->spare);
		__this_cpu_dec(spares.nr);
	}
	raw_local_irq_restore(flags);
	if (!s) {
		s = kmem_cache_alloc(blkcbt_shim_cache, GFP_ATOMIC | __GFP_NOWARN);
		if (unlikely(!s))
			return NULL;
	}
	s->pooled = false;
	return s;
}

/* Any context; the disk stays. */
static void shim_free(struct blkcbt_shim *s)
{
	unsigned long flags;

	if (unlikely(s->pooled)) {
		mempool_free(s, s->disk->shim_pool);
		return;
	}
	raw_local_irq_save(flags);
	if (__this_cpu_read(spares.nr) < SPARES) {
		s->spare = __this_cpu_read(spares.first);
		__this_cpu_write(spares.first, s);
		__this_cpu_inc(spares.nr);
		s = NULL;
	}
	raw_local_irq_restore(flags);
	if (unlikely(s))
		kmem_cache_free(blkcbt_shim_cache, s);
}

/* What it was under has completed, and is marked. */
static __always_inline void shim_done(struct blkcbt_shim *s)
{
	struct blkcbt_disk *d = s->disk;
	bool pooled = s->pooled;

	/* Whoever frees the disk sees the count, and waits for this section. */
	blkcbt_read_lock();
	/* Pairs with blkcbt_shim_count(): who sees the count sees the mark. */
	smp_wmb();
	this_cpu_inc(d->inflight->ended[s->flight]);
	shim_free(s);
	blkcbt_read_unlock();
	if (unlikely(pooled)) {
		blkcbt_park_kick(d);
		percpu_ref_put(&d->ref);
	}
}

static void chained_work(struct work_struct *work)
{
	struct llist_node *list = llist_reverse_order(llist_del_all(&chained));
	struct blkcbt_shim *s, *next;

	llist_for_each_entry_safe(s, next, list, node) {
		struct bio *bio = s->bio;

		shim_done(s);
		bio_endio(bio);
		cond_resched();
	}
}

static DECLARE_WORK(chained_item, chained_work);

static void shim_end_io(struct bio *bio)
{
	struct blkcbt_shim *s = bio->bi_private;
	struct blkcbt_disk *d = s->disk;
	bio_end_io_t *end_io = s->end_io;

	if (d->bio_based && !blkcbt_fault_blind()) {
		blkcbt_read_lock();
		blkcbt_disk_mark(d, s->sector, s->sectors);
		blkcbt_read_unlock();
	}

	bio->bi_private = s->private;
	bio->bi_end_io = end_io;
	if (unlikely(end_io == chain_end_io)) {
		s->bio = bio;
		if (llist_add(&s->node, &chained))
			queue_work(end_wq, &chained_item);
		return;
	}

	shim_done(s);
	if (end_io)
		end_io(bio);
}

/*
 * Under RCU: a grace period after @d->flight has changed, nobody adds to the other
 * count; and one after the disk has left the table, only what was parked adds to any.
 */
static void shim_put_under(struct blkcbt_shim *s, struct blkcbt_disk *d, struct bio *bio,
			   sector_t sector, sector_t sectors)
{
	s->disk = d;
	s->sector = sector;
	s->sectors = sectors;
	s->end_io = bio->bi_end_io;
	s->private = bio->bi_private;
	bio->bi_end_io = shim_end_io;
	bio->bi_private = s;
	/* As bio_clear_polled() does: a cached bio is put where it was polled. */
	bio->bi_opf &= ~(REQ_POLLED | REQ_ALLOC_CACHE);
	s->flight = READ_ONCE(d->flight);
	this_cpu_inc(d->inflight->begun[s->flight]);
}

/**
 * blkcbt_shim_present() - does this bio carry a shim that will mark this range?
 * @d: the disk
 * @bio: a bio that is being submitted
 * @sector: first sector on the whole disk
 * @sectors: how many
 *
 * Any context.
 */
bool blkcbt_shim_present(struct blkcbt_disk *d, struct bio *bio, sector_t sector, sector_t sectors)
{
	bio_end_io_t *end_io = bio->bi_end_io;
	void *private = bio->bi_private;

	while (end_io == shim_end_io) {
		const struct blkcbt_shim *s = private;

		if (s->disk == d && s->sector <= sector &&
		    sector + sectors <= s->sector + s->sectors)
			return true;
		end_io = s->end_io;
		private = s->private;
	}
	return false;
}

/**
 * blkcbt_shim_try() - put a shim under a write that has none
 * @d: the disk
 * @bio: the write
 * @sector: first sector on the whole disk
 * @sectors: how many
 *
 * Context: between blkcbt_read_lock() and blkcbt_read_unlock().
 * Return: false without memory (the bio must be parked).
 */
bool blkcbt_shim_try(struct blkcbt_disk *d, struct bio *bio, sector_t sector, sector_t sectors)
{
	struct blkcbt_shim *s;

	if (blkcbt_shim_present(d, bio, sector, sectors))
		return true;
	if (blkcbt_fault_shim())
		return false;
	s = shim_alloc();
	if (unlikely(!s))
		return false;
	shim_put_under(s, d, bio, sector, sectors);
	return true;
}

/**
 * blkcbt_shim_reserve() - put a shim under a parked write, from the reserve if
 *	there is no memory
 * @d: the disk; the caller's reference of its @ref goes to the shim
 * @bio: the write
 *
 * Never waits: a shim of this disk that comes back kicks the worker again.
 *
 * Return: false if the reserve is empty as well, so that some shim of this disk
 * is under way.
 */
bool blkcbt_shim_reserve(struct blkcbt_disk *d, struct bio *bio)
{
	struct blkcbt_shim *s = mempool_alloc(d->shim_pool, GFP_NOWAIT | __GFP_NOWARN);

	if (!s)
		return false;
	s->pooled = true;
	blkcbt_read_lock();
	shim_put_under(s, d, bio, blkcbt_bio_sector(bio), bio_sectors(bio));
	blkcbt_read_unlock();
	return true;
}

/**
 * blkcbt_shim_count() - how many shims are under way?
 * @d: the disk
 * @flight: which of its counts
 *
 * Whoever finds none sees what they have marked, and that is so even while others begin.
 *
 * Return: how many at least were when it was called, and have not ended.
 */
unsigned long blkcbt_shim_count(struct blkcbt_disk *d, unsigned int flight)
{
	unsigned long begun = 0, ended = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		ended += READ_ONCE(per_cpu_ptr(d->inflight, cpu)->ended[flight]);
	/* Each that has ended is among those that began; what it marked is read later. */
	smp_rmb();
	for_each_possible_cpu(cpu)
		begun += READ_ONCE(per_cpu_ptr(d->inflight, cpu)->begun[flight]);
	return begun - ended;
}

/**
 * blkcbt_shim_completes() - will the completion of this bio be marked?
 * @d: the disk
 * @bio: a bio that is being completed (not its owner told)
 *
 * A part that the driver split off (a clone) has no shim: it is chained to the
 * bio that has it, which was submitted first. Chained bios that are not clones
 * are not followed: their parent may be on its way through the gate just now.
 *
 * Any context.
 */
bool blkcbt_shim_completes(struct blkcbt_disk *d, struct bio *bio)
{
	bio_end_io_t *end_io = bio->bi_end_io;
	void *private = bio->bi_private;

	for (;;) {
		if (end_io == shim_end_io) {
			const struct blkcbt_shim *s = private;

			if (s->disk == d)
				return true;
			end_io = s->end_io;
			private = s->private;
		} else if (end_io == chain_end_io && bio_flagged(bio, BIO_CLONED)) {
			bio = private;
			end_io = bio->bi_end_io;
			private = bio->bi_private;
		} else {
			return false;
		}
	}
}

/**
 * blkcbt_shim_init() - get ready
 *
 * bio_chain_endio() is not exported; a chained bio shows it.
 *
 * Return: 0 or -ENOMEM.
 */
int blkcbt_shim_init(void)
{
	struct bio *pair = kcalloc(2, sizeof(*pair), GFP_KERNEL);

	if (!pair)
		return -ENOMEM;
	bio_init(&pair[0], NULL, NULL, 0, REQ_OP_WRITE);
	bio_init(&pair[1], NULL, NULL, 0, REQ_OP_WRITE);
	bio_chain(&pair[0], &pair[1]);
	chain_end_io = pair[0].bi_end_io;
	bio_uninit(&pair[0]);
	bio_uninit(&pair[1]);
	kfree(pair);

	blkcbt_shim_cache = kmem_cache_create("blkcbt_shim", sizeof(struct blkcbt_shim), 0,
					      SLAB_HWCACHE_ALIGN, NULL);
	end_wq = alloc_workqueue("blkcbt-end", WQ_MEM_RECLAIM | WQ_HIGHPRI | WQ_UNBOUND, 0);
	if (blkcbt_shim_cache && end_wq)
		return 0;
	blkcbt_shim_exit();
	return -ENOMEM;
}

/**
 * blkcbt_shim_exit() - undo blkcbt_shim_init(); every shim has come back
 */
void blkcbt_shim_exit(void)
{
	struct blkcbt_shim *s;
	int cpu;

	if (end_wq)
		destroy_workqueue(end_wq);
	for_each_possible_cpu(cpu) {
		while ((s = per_cpu(spares, cpu).first)) {
			per_cpu(spares, cpu).first = s->spare;
			kmem_cache_free(blkcbt_shim_cache, s);
		}
	}
	kmem_cache_destroy(blkcbt_shim_cache);
}
