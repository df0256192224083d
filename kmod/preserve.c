// SPDX-License-Identifier: GPL-2.0
/*
 * Preserving, copy-before-write. While a consistent epoch is open, a write to a
 * granule of the epoch that has not been read yet is parked (park.c) until the
 * content at the cut is in memory:
 *
 *	granule			in @granules	in @done	a write
 *	not of the epoch	no		any		goes on
 *	untouched		no		no		is parked: a batch reads it
 *	being read by a batch	not ready	no		is parked
 *	preserved		ready		yes *		goes on
 *	released by the reader	no		yes		goes on
 *
 *	* or no, where there was no memory for the bit; @granules tells as well
 *
 * A batch is what the park worker does for the bios that it has at hand: it
 * reads what they are about to overwrite, all at once, waits, and lets them
 * go. The worker is the only one that adds granules, so it needs no lock
 * against itself.
 *
 * The image (image.c) reads the live disk without keeping writers off and asks
 * afterwards, in blkcbt_preserve_settle(), whether a writer could have been there
 * before: only one that had its granule preserved, and then that content counts.
 *
 * Nobody waits for memory or budget: where they end, or a read fails or takes
 * longer than DEADLINE, the epoch is downgraded on all disks of its cut, and
 * writers go on.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include <linux/completion.h>
#include <linux/highmem.h>
#include "disk.h"
#include "preserve.h"

/* How long a writer may wait for the reads before it. */
#define DEADLINE	(5 * HZ)
#define READ_VECS	64u

/* Never waits for write-back, which may wait for whoever is parked. */
#define GFP_TRY		(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN)

/**
 * struct granule - one granule, preserved or being so
 * @nr: its number
 * @next: in its batch
 * @rcu: readers copy from @pages under RCU
 * @bytes: of content; less than a granule only at the end of the disk
 * @ready: @pages have the content
 * @pages: the content
 */
struct granule {
	u64 nr;
	struct granule *next;
	struct rcu_head rcu;
	unsigned int bytes;
	bool ready;
	struct page *pages[];
};

/**
 * struct batch - granules that are being read
 * @kref: one for the worker, one for each read under way
 * @pending: reads under way, and one for the worker until all are sent
 * @done: the last has come back
 * @failed: one has failed
 * @p: a reference is held
 * @bio: the read that is being put together
 * @first: granules of this batch
 * @tail: where the next one is linked
 */
struct batch {
	struct kref kref;
	atomic_t pending;
	struct completion done;
	bool failed;
	struct blkcbt_preserve *p;
	struct bio *bio;
	struct granule *first;
	struct granule **tail;
};

/*
 * Groups and downgrading
 */

/**
 * blkcbt_cut_group_alloc() - what the disks of a cut will share
 * @budget_bytes: memory for all of them
 *
 * Return: the group, or NULL without memory.
 */
struct blkcbt_cut_group *blkcbt_cut_group_alloc(u64 budget_bytes)
{
	struct blkcbt_cut_group *group = kzalloc(sizeof(*group), GFP_KERNEL);

	if (!group)
		return NULL;
	kref_init(&group->kref);
	group->budget_bytes = budget_bytes;
	return group;
}

static void group_free(struct kref *kref)
{
	kfree(container_of(kref, struct blkcbt_cut_group, kref));
}

/**
 * blkcbt_cut_group_put() - let go of a group
 * @group: the group, or NULL
 */
void blkcbt_cut_group_put(struct blkcbt_cut_group *group)
{
	if (group)
		kref_put(&group->kref, group_free);
}

/* @reason: a constant. Any context; the first reason counts. */
static void downgrade(struct blkcbt_preserve *p, const char *reason)
{
	struct blkcbt_cut_group *group = p->group;

	if (READ_ONCE(p->over) || cmpxchg(&group->reason, NULL, reason))
		return;
	/* Who sees it off finds the reason. */
	smp_store_release(&group->off, true);
	blkcbt_disk_raise(p->disk, BLKCBT_EVENT_DOWNGRADED);
}

/**
 * blkcbt_preserve_upset() - the disk was written past the gate
 * @d: the disk
 *
 * Context: between blkcbt_read_lock() and blkcbt_read_unlock(), before the
 * hardware gets the write.
 */
void blkcbt_preserve_upset(struct blkcbt_disk *d)
{
	struct blkcbt_preserve *p = rcu_dereference_raw(d->preserve);

	if (p)
		downgrade(p, "a write came that the gate does not see (SG_IO or the like)");
}

/*
 * Granules
 */

static unsigned int granule_pages(unsigned int bytes)
{
	return DIV_ROUND_UP(bytes, PAGE_SIZE);
}

static u64 granule_cost(unsigned int bytes)
{
	return sizeof(struct granule) + granule_pages(bytes) * (PAGE_SIZE + sizeof(struct page *));
}

static void granule_free(struct granule *g)
{
	unsigned int i;

	for (i = 0; i < granule_pages(g->bytes); i++)
		if (g->pages[i])
			__free_page(g->pages[i]);
	kfree(g);
}

static void granule_free_rcu(struct rcu_head *rcu)
{
	granule_free(container_of(rcu, struct granule, rcu));
}

static void uncharge(struct blkcbt_preserve *p, const struct granule *g)
{
	atomic64_sub(granule_cost(g->bytes), &p->group->used_bytes);
	if (READ_ONCE(g->ready))
		atomic64_sub(g->bytes, &p->bytes);
}

/* Forget a granule that is ready and in @done. */
static void granule_drop(struct blkcbt_preserve *p, struct granule *g)
{
	/* Whoever takes it out frees it: the worker and the reader's release may meet. */
	if (xa_cmpxchg(&p->granules, g->nr, g, NULL, GFP_NOWAIT) != g)
		return;
	uncharge(p, g);
	call_rcu(&g->rcu, granule_free_rcu);
}

static struct granule *granule_alloc(struct blkcbt_preserve *p, u64 nr)
{
	unsigned int shift = p->disk->granule_sector_shift;
	u64 sectors = p->disk->nr_sectors - (nr << shift);
	unsigned int bytes = min_t(u64, sectors, 1u << shift) << SECTOR_SHIFT;
	struct granule *g = kzalloc(struct_size(g, pages, granule_pages(bytes)), GFP_TRY);
	unsigned int i;

	if (!g)
		return NULL;
	g->nr = nr;
	g->bytes = bytes;
	for (i = 0; i < granule_pages(bytes); i++) {
		g->pages[i] = alloc_page(GFP_TRY);
		if (!g->pages[i]) {
			granule_free(g);
			return NULL;
		}
	}
	return g;
}

/*
 * Life
 */

static void preserve_free_work(struct work_struct *work)
{
	struct blkcbt_preserve *p = container_of(work, struct blkcbt_preserve, free_work);
	struct granule *g;
	unsigned long nr;

	/* Out of reach for a grace period or longer: see blkcbt_preserve_stop(). */
	xa_for_each(&p->granules, nr, g) {
		uncharge(p, g);
		granule_free(g);
		cond_resched();
	}
	xa_destroy(&p->granules);
	blkcbt_map_free(p->done);
	blkcbt_cut_group_put(p->group);
	blkcbt_disk_put(p->disk);
	kfree(p);
}

static void preserve_last(struct kref *kref)
{
	struct blkcbt_preserve *p = container_of(kref, struct blkcbt_preserve, kref);

	/* Perhaps in an interrupt. */
	queue_work(blkcbt_wq, &p->free_work);
}

/**
 * blkcbt_preserve_put() - let go
 * @p: what blkcbt_preserve_get(), _alloc() or _stop() gave, or NULL
 *
 * Any context.
 */
void blkcbt_preserve_put(struct blkcbt_preserve *p)
{
	if (p)
		kref_put(&p->kref, preserve_last);
}

/**
 * blkcbt_preserve_get() - the open consistent epoch of a disk
 * @d: the disk
 *
 * Any context.
 * Return: with a reference, or NULL if there is none.
 */
struct blkcbt_preserve *blkcbt_preserve_get(struct blkcbt_disk *d)
{
	struct blkcbt_preserve *p;

	rcu_read_lock();
	p = rcu_dereference(d->preserve);
	if (p && !kref_get_unless_zero(&p->kref))
		p = NULL;
	rcu_read_unlock();
	return p;
}

/**
 * blkcbt_preserve_alloc() - get ready for a consistent cut
 * @d: the disk
 * @group: what it shares with the other disks of the cut
 * @mode: consistent or snapshot
 *
 * Context: may sleep.
 * Return: to be installed or put; NULL without memory.
 */
struct blkcbt_preserve *blkcbt_preserve_alloc(struct blkcbt_disk *d,
					      struct blkcbt_cut_group *group,
					      enum blkcbt_epoch_mode mode)
{
	struct blkcbt_preserve *p = kzalloc(sizeof(*p), GFP_KERNEL);

	if (!p)
		return NULL;
	p->done = blkcbt_map_alloc(d->nr_granules);
	if (!p->done) {
		kfree(p);
		return NULL;
	}
	p->disk = d;
	kref_get(&d->kref);
	p->group = group;
	kref_get(&group->kref);
	p->mode = mode;
	xa_init(&p->granules);
	kref_init(&p->kref);
	INIT_WORK(&p->free_work, preserve_free_work);
	return p;
}

/**
 * blkcbt_preserve_install() - from now on
 * @p: the disk's reference goes with it
 * @covers: the map of the epoch that has just been cut
 *
 * Context: during the hold of the cut: nobody is in the gate.
 */
void blkcbt_preserve_install(struct blkcbt_preserve *p, const struct blkcbt_map *covers)
{
	struct blkcbt_disk *d = p->disk;

	p->covers = p->mode == BLKCBT_MODE_SNAPSHOT ? NULL : covers;
	rcu_assign_pointer(d->preserve, p);
	set_bit(BLKCBT_SLOW_PRESERVE, &d->slow);
}

/**
 * blkcbt_preserve_stop() - the epoch is over: preserve no more
 * @d: the disk
 *
 * Context: blkcbt_ctl_mutex. Before the epoch's map changes or goes there must
 * be a grace period.
 * Return: to be put after that grace period, or NULL if there was none.
 */
struct blkcbt_preserve *blkcbt_preserve_stop(struct blkcbt_disk *d)
{
	struct blkcbt_preserve *p = rcu_dereference_protected(d->preserve,
							lockdep_is_held(&blkcbt_ctl_mutex));

	if (!p)
		return NULL;
	if (READ_ONCE(p->group->off)) {
		d->downgrades++;
		d->downgrade_reason = p->group->reason;
	}
	clear_bit(BLKCBT_SLOW_PRESERVE, &d->slow);
	RCU_INIT_POINTER(d->preserve, NULL);
	WRITE_ONCE(p->over, true);
	return p;
}

/**
 * blkcbt_preserve_exit() - wait until the last granule is freed
 */
void blkcbt_preserve_exit(void)
{
	rcu_barrier();
}

/*
 * Writers
 */

/**
 * blkcbt_preserve_needed() - must a write wait for content to be preserved?
 * @d: the disk
 * @first: first granule that is written
 * @last: last one, inclusive
 *
 * Context: between blkcbt_read_lock() and blkcbt_read_unlock().
 */
bool notrace blkcbt_preserve_needed(struct blkcbt_disk *d, u64 first, u64 last)
{
	struct blkcbt_preserve *p = rcu_dereference_raw(d->preserve);
	u64 nr;

	if (!p || READ_ONCE(p->group->off) || first >= d->nr_granules)
		return false;
	last = min(last, d->nr_granules - 1);
	for (nr = blkcbt_map_next_only(p->covers, p->done, first, last); nr <= last;
	     nr = blkcbt_map_next_only(p->covers, p->done, nr + 1, last)) {
		const struct granule *g = xa_load(&p->granules, nr);

		/* Where there was no memory for its bit in @done. */
		if (g && smp_load_acquire(&g->ready))
			continue;
		return !blkcbt_fault_preserve_skip();
	}
	return false;
}

static void batch_free(struct kref *kref)
{
	struct batch *b = container_of(kref, struct batch, kref);
	struct blkcbt_disk *d = b->p->disk;

	blkcbt_preserve_put(b->p);
	percpu_ref_put(&d->ref);
	kfree(b);
}

static void batch_one_done(struct batch *b)
{
	if (atomic_dec_and_test(&b->pending))
		complete(&b->done);
	kref_put(&b->kref, batch_free);
}

static void batch_end_io(struct bio *bio)
{
	struct batch *b = bio->bi_private;

	if (bio->bi_status || blkcbt_fault_preserve_read())
		WRITE_ONCE(b->failed, true);
	bio_put(bio);
	batch_one_done(b);
}

static struct batch *batch_alloc(struct blkcbt_preserve *p)
{
	struct batch *b = kzalloc(sizeof(*b), GFP_TRY);

	if (!b)
		return NULL;
	kref_init(&b->kref);
	atomic_set(&b->pending, 1);
	init_completion(&b->done);
	b->tail = &b->first;
	b->p = p;
	kref_get(&p->kref);
	percpu_ref_get(&p->disk->ref);
	return b;
}

static void batch_send(struct batch *b)
{
	struct bio *bio = b->bio;

	if (!bio)
		return;
	b->bio = NULL;
	kref_get(&b->kref);
	atomic_inc(&b->pending);
	submit_bio_noacct(bio);
}

/* Add the pages of a granule to the reads of the batch. */
static bool batch_read(struct batch *b, struct granule *g)
{
	struct blkcbt_disk *d = b->p->disk;
	sector_t sector = g->nr << d->granule_sector_shift;
	unsigned int at;

	for (at = 0; at < g->bytes; at += PAGE_SIZE) {
		unsigned int n = min_t(unsigned int, g->bytes - at, PAGE_SIZE);
		sector_t here = sector + (at >> SECTOR_SHIFT);
		struct page *page = g->pages[at / PAGE_SIZE];

		if (b->bio && (bio_end_sector(b->bio) != here || !bio_add_page(b->bio, page, n, 0)))
			batch_send(b);
		else if (b->bio)
			continue;
		/* Without waiting: where there is none, the epoch is downgraded. */
		b->bio = bio_alloc(d->gd->part0, READ_VECS, REQ_OP_READ,
				   GFP_NOWAIT | __GFP_NOWARN);
		if (!b->bio)
			return false;
		b->bio->bi_iter.bi_sector = here;
		b->bio->bi_end_io = batch_end_io;
		b->bio->bi_private = b;
		__bio_add_page(b->bio, page, n, 0);
	}
	return true;
}

/* The next granule in [nr, last] that has to be preserved; @last + 1 if none. */
static u64 next_to_preserve(struct blkcbt_preserve *p, u64 nr, u64 last)
{
	rcu_read_lock();
	if (READ_ONCE(p->over) || READ_ONCE(p->group->off))
		nr = last + 1;
	else
		nr = blkcbt_map_next_only(p->covers, p->done, nr, last);
	rcu_read_unlock();
	return nr;
}

/* What this bio will overwrite. NULL, or why it cannot be preserved. */
static const char *batch_add(struct batch *b, struct bio *bio)
{
	struct blkcbt_preserve *p = b->p;
	struct blkcbt_disk *d = p->disk;
	u64 nr, last;

	blkcbt_bio_granules(d, bio, &nr, &last);
	if (nr >= d->nr_granules)
		return NULL;
	last = min(last, d->nr_granules - 1);
	for (nr = next_to_preserve(p, nr, last); nr <= last;
	     nr = next_to_preserve(p, nr + 1, last)) {
		struct blkcbt_cut_group *group = p->group;
		struct granule *g;
		u64 cost;

		/* Of this batch already, or ready. */
		if (xa_load(&p->granules, nr))
			continue;
		g = granule_alloc(p, nr);
		if (!g)
			return "no memory to preserve more";
		cost = granule_cost(g->bytes);
		if (atomic64_add_return(cost, &group->used_bytes) > group->budget_bytes) {
			atomic64_sub(cost, &group->used_bytes);
			granule_free(g);
			return "the budget for preserved content is used up (give it more)";
		}
		if (xa_insert(&p->granules, nr, g, GFP_TRY)) {
			atomic64_sub(cost, &group->used_bytes);
			granule_free(g);
			return "no memory to preserve more";
		}
		*b->tail = g;
		b->tail = &g->next;
		if (!batch_read(b, g))
			return "no memory to preserve more";
		cond_resched();
	}
	return NULL;
}

static void batch_ready(struct batch *b)
{
	struct blkcbt_preserve *p = b->p;
	struct granule *g, *next;

	for (g = b->first; g; g = next) {
		u64 nr = g->nr;

		next = g->next;
		atomic64_add(g->bytes, &p->bytes);
		atomic64_inc(&p->disk->preserves);
		/* The content is there before anybody believes it. */
		smp_store_release(&g->ready, true);
		/* Pairs with blkcbt_preserve_release(): one of the two sees the other. */
		smp_mb();
		if (blkcbt_map_test(p->done, nr, nr))
			granule_drop(p, g);
		else
			blkcbt_map_try_mark(p->done, nr, nr);
	}
}

/**
 * blkcbt_preserve_before() - preserve what these writes are about to overwrite
 * @d: the disk
 * @first: a parked bio
 * @last: the last of the bios that are linked behind it
 *
 * When this returns, each of them may go: what it overwrites is preserved, or
 * the epoch is over or downgraded.
 *
 * Context: the park worker of the disk. Waits for reads, not longer than
 * DEADLINE.
 */
void blkcbt_preserve_before(struct blkcbt_disk *d, struct bio *first, struct bio *last)
{
	struct blkcbt_preserve *p = blkcbt_preserve_get(d);
	const char *reason = NULL;
	struct batch *b;
	struct bio *bio;

	if (!p)
		return;
	b = batch_alloc(p);
	if (!b) {
		downgrade(p, "no memory to preserve more");
		blkcbt_preserve_put(p);
		return;
	}
	for (bio = first; ; bio = bio->bi_next) {
		reason = batch_add(b, bio);
		if (reason || bio == last)
			break;
	}
	batch_send(b);
	if (atomic_dec_and_test(&b->pending))
		complete(&b->done);
	if (reason)
		downgrade(p, reason);
	else if (!wait_for_completion_timeout(&b->done, DEADLINE))
		downgrade(p, "the disk took too long to read what was to be preserved");
	else if (READ_ONCE(b->failed))
		downgrade(p, "the disk could not be read to preserve its content");
	else
		batch_ready(b);
	/* Granules that are not ready stay where they are until the epoch is over. */
	kref_put(&b->kref, batch_free);
	blkcbt_preserve_put(p);
}

/*
 * Readers
 */

/* Copy a part of a granule over a part of what a bio has read. */
static void copy_out(const struct granule *g, unsigned int from, struct bio *bio,
		     unsigned int at, unsigned int bytes)
{
	struct bvec_iter iter = bio->bi_iter;

	bio_advance_iter(bio, &iter, at);
	while (bytes) {
		struct bio_vec bv = bio_iter_iovec(bio, iter);
		unsigned int in_page = from % PAGE_SIZE;
		unsigned int n = min3(bytes, bv.bv_len, (unsigned int)PAGE_SIZE - in_page);
		void *to = bvec_kmap_local(&bv);

		memcpy(to, page_address(g->pages[from / PAGE_SIZE]) + in_page, n);
		kunmap_local(to);
		bio_advance_iter_single(bio, &iter, n);
		from += n;
		bytes -= n;
	}
}

/* The granule, if its content is preserved. Under RCU. */
static const struct granule *preserved(struct blkcbt_preserve *p, u64 nr)
{
	const struct granule *g = xa_load(&p->granules, nr);

	/* Pairs with the release in batch_ready(): the content is there. */
	return g && smp_load_acquire(&g->ready) ? g : NULL;
}

/* Is what was read of this granule what it was at the cut? Under RCU. */
static bool live_is_exact(struct blkcbt_preserve *p, u64 nr)
{
	const struct blkcbt_map *cur = rcu_dereference(p->disk->cur);

	if (blkcbt_map_next_only(p->covers, p->done, nr, nr) == nr)
		return true;
	/* Free to be overwritten: exact only if nobody has. */
	return !blkcbt_map_test(cur, nr, nr);
}

/**
 * blkcbt_preserve_settle() - make what was read from the live disk what it was
 *	at the cut
 * @p: the epoch
 * @bio: the read, of the image, with its content as the live disk had it
 * @readable: the live disk could be read
 *
 * Any context.
 * Return: false if the content at the cut cannot be had; then the content of @bio
 * means nothing.
 */
bool blkcbt_preserve_settle(struct blkcbt_preserve *p, struct bio *bio, bool readable)
{
	unsigned int shift = p->disk->granule_sector_shift + SECTOR_SHIFT;
	u64 pos = (u64)bio->bi_iter.bi_sector << SECTOR_SHIFT;
	unsigned int left = bio->bi_iter.bi_size;
	unsigned int at = 0;
	bool exact = true;

	rcu_read_lock();
	while (left && exact) {
		u64 nr = pos >> shift;
		unsigned int from = pos & ((1u << shift) - 1);
		unsigned int n = min_t(unsigned int, left, (1u << shift) - from);
		const struct granule *g;

		if (READ_ONCE(p->over) || READ_ONCE(p->group->off)) {
			exact = false;
			break;
		}
		g = preserved(p, nr);
		/* Not preserved by now: nobody was let into it while it was read. */
		if (!g && !(readable && live_is_exact(p, nr))) {
			/* It may have been preserved in this moment. */
			smp_rmb();
			g = preserved(p, nr);
			exact = g;
		}
		if (g)
			copy_out(g, from, bio, at, n);
		pos += n;
		at += n;
		left -= n;
	}
	rcu_read_unlock();
	return exact;
}

/**
 * blkcbt_preserve_release() - the reader has these granules
 * @p: the epoch
 * @first: first granule
 * @last: last granule, inclusive
 *
 * Context: blkcbt_ctl_mutex; may sleep.
 */
void blkcbt_preserve_release(struct blkcbt_preserve *p, u64 first, u64 last)
{
	struct granule *g;
	unsigned long nr;

	blkcbt_map_try_mark(p->done, first, last);
	/* Pairs with batch_ready(). */
	smp_mb();
	xa_for_each_range(&p->granules, nr, g, first, last)
		if (READ_ONCE(g->ready) && blkcbt_map_test(p->done, nr, nr))
			granule_drop(p, g);
}
