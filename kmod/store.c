// SPDX-License-Identifier: GPL-2.0
/*
 * The crash-safe store of a tracked disk: what is dirty survives a restart, and
 * after a power cut only the extents that were in use are dirty besides.
 *
 * The gate lets a write go on if its extents are hot; what is not is parked, and the
 * park worker hands it to the store's worker. That one, and nobody else, changes
 * the store (store_state.h has the states of an extent and the order of writes):
 *
 *	waiting writes	their intents are made durable, all with one batch of
 *			pages, and they go back to be submitted
 *	retirement	in the background: see enum step
 *	refresh		what was committed is forgotten by the store as well
 *
 * The store may lie on the tracked disk itself. Its writes pass the gate as any other: they
 * are marked, for the target is to equal the disk, and they may be held or preserved. They
 * never wait for an intent: the extents where the store lies are in use for good, and a
 * region that has one is not refreshed, or each epoch would make work for the next.
 * Nobody ever waits in the park worker for the store, so the store's own parked
 * write is let go like any other.
 *
 * A write waits for the store for at most the deadline of a batch (store_place.c). Then, or
 * on an error of the device, the store is given up: writes go on, tracking goes on
 * in memory, and the superblock is made invalid as soon as that can be done. If it
 * never can be, and the store's device has its old content after the next
 * restart, it would be believed: user space knows better (%BLKCBT_EVENT_STORE), and
 * asks for a later generation than this store can have.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/random.h>
#include <linux/reboot.h>
#include <linux/uuid.h>
#include "store.h"

/* How long retirement and saving wait for writes that are under way. */
#define DRAIN		(5 * HZ)
#define POLL		max(HZ / 100, 1)
#define RETRY		(5 * HZ)
#define REFRESH_REGIONS	512u
#define LEARNED		16u

/**
 * enum step - where a retirement is
 * @STEADY: there is none
 * @CLEARED: extents are not hot any more; a grace period later the gate has let
 *	nobody through who saw them hot
 * @FLIPPED: and a grace period after the counts have changed, nobody adds to those
 *	of before
 * @DRAINING: until all of them have completed, and are marked
 * @FLUSHED: what they wrote is durable
 *
 * Then the regions are staged and written. A write that wants an extent which is
 * retiring takes it back before that.
 */
enum step {
	STEADY,
	CLEARED,
	FLIPPED,
	DRAINING,
	FLUSHED,
};

/**
 * struct blkcbt_store - the store of a disk
 *
 * Set once:
 * @d: the disk
 * @place: where it lies
 * @wq: its own, for it must go on when memory is short
 * @hot_max: extents in use before some are retired though they are written
 *
 * The worker, or under blkcbt_ctl_mutex when it is @stopped:
 * @st: the state; the gate looks at its hot bits
 * @batch: for writing
 * @loaded: what the store said is dirty; until it is started
 * @found: what loading found
 * @step: of the retirement
 * @grace: cookie of its grace period
 * @since: when it began to wait, in jiffies
 * @next_pass: when the next one is due, in jiffies
 * @undrained: the counts of before the last flip have not come to zero
 * @invalidated: it is given up, and its superblock says so
 * @generation_min: asked for
 * @identity: asked for
 * @why: why it was given up
 * @learned: granules of extents that a write of the store's own has turned out to touch
 * @nr_learned: how many
 * @leaving: granules that are at risk no more once what is staged is written
 * @block: where the pages of @batch go
 * @work: runs the worker
 *
 * Any context:
 * @task: who is just sending a write to the store
 * @upset: why not every write was recorded; a constant
 * @parked: writes that waited
 * @writes: blocks written
 *
 * @lock:
 * @waiting: writes that wait for an intent
 * @failed: given up; also read without
 * @stopped: the worker is not to run; also read without
 */
struct blkcbt_store {
	struct blkcbt_disk *d;
	struct blkcbt_store_place *place;
	struct workqueue_struct *wq;
	u32 hot_max;

	struct blkcbt_store_state *st;
	struct blkcbt_store_batch *batch;
	struct blkcbt_map *loaded;
	struct blkcbt_store_found found;
	enum step step;
	unsigned long grace;
	unsigned long since;
	unsigned long next_pass;
	bool undrained;
	bool invalidated;
	u64 generation_min;
	u8 identity[BLKCBT_IDENTITY_BYTES];
	char why[BLKCBT_STORE_WHY_LEN];
	u64 learned[LEARNED];
	u32 nr_learned;
	u64 leaving;
	u64 block[BLKCBT_STORE_BATCH];

	struct task_struct *task;
	const char *upset;
	atomic64_t parked;
	atomic64_t writes;

	spinlock_t lock; /* waiting, failed, stopped */
	struct bio_list waiting;
	bool failed;
	bool stopped;
	struct delayed_work work;
};

/* The running boot of the machine. */
static u8 boot_id[16];

static struct blkcbt_store *store_of(struct blkcbt_disk *d)
{
	return rcu_dereference_protected(d->store, lockdep_is_held(&blkcbt_ctl_mutex));
}

/* The map of the open epoch, NULL if there is none. */
static const struct blkcbt_map *open_map(struct blkcbt_disk *d)
{
	return d->old_open ? blkcbt_map_of(d->old) : NULL;
}

static void kick(struct blkcbt_store *s)
{
	mod_delayed_work(s->wq, &s->work, 0);
}

/*
 * Writers
 */

/**
 * blkcbt_store_cold() - must a write wait for its extent to be made durable?
 * @d: the disk
 * @first: first granule that is written, of extents that are not all hot
 *
 * Context: between blkcbt_read_lock() and blkcbt_read_unlock().
 */
bool notrace blkcbt_store_cold(struct blkcbt_disk *d, u64 first)
{
	struct blkcbt_store *s = rcu_dereference_raw(d->store);

	if (!s || READ_ONCE(s->failed) || blkcbt_fault_store_skip())
		return false;
	if (READ_ONCE(s->task) == current) {
		/* The store's own, by way of a device above: in this very task, so no race. */
		if (s->nr_learned < LEARNED)
			s->learned[s->nr_learned++] = first;
		return false;
	}
	atomic64_inc(&s->parked);
	return true;
}

/**
 * blkcbt_store_upset() - the disk was written past the gate
 * @d: the disk
 * @reason: a constant
 *
 * After a power cut the store must not be trusted: the write was not recorded in
 * time. In memory it is marked, so what is saved is exact again.
 *
 * Context: between blkcbt_read_lock() and blkcbt_read_unlock(), or blkcbt_ctl_mutex.
 */
void blkcbt_store_upset(struct blkcbt_disk *d, const char *reason)
{
	struct blkcbt_store *s = rcu_dereference_raw(d->store);

	if (!s || cmpxchg(&s->upset, NULL, reason))
		return;
	if (!READ_ONCE(s->stopped))
		kick(s);
}

/**
 * blkcbt_store_take() - a parked write waits for the store, if it must
 * @d: the disk
 * @bio: the first of its parked writes
 *
 * Context: the park worker of the disk.
 * Return: true if the write is not parked any more: the store's worker has it.
 */
bool blkcbt_store_take(struct blkcbt_disk *d, struct bio *bio)
{
	struct blkcbt_store *s;
	bool taken = false;
	u64 first, last;

	if (!test_bit(BLKCBT_SLOW_STORE, &d->slow))
		return false;
	blkcbt_bio_granules(d, bio, &first, &last);
	rcu_read_lock();
	s = rcu_dereference(d->store);
	if (s && !blkcbt_store_hot(s->st, first, last)) {
		spin_lock_irq(&s->lock);
		if (!s->failed) {
			spin_lock(&d->park_lock);
			bio_list_pop(&d->park_list);
			spin_unlock(&d->park_lock);
			bio_list_add(&s->waiting, bio);
			taken = true;
			if (!s->stopped)
				kick(s);
		}
		spin_unlock_irq(&s->lock);
	}
	rcu_read_unlock();
	return taken;
}

/* Those who wait; they are the caller's. */
static void take_waiting(struct blkcbt_store *s, struct bio_list *bios)
{
	spin_lock_irq(&s->lock);
	*bios = s->waiting;
	bio_list_init(&s->waiting);
	spin_unlock_irq(&s->lock);
}

/*
 * Writing
 */

static void give_up(struct blkcbt_store *s, const char *what, int err)
{
	struct blkcbt_disk *d = s->d;
	struct bio_list bios;

	snprintf(s->why, sizeof(s->why), "%s: %s (error %d)", what, err == -ETIMEDOUT ?
		 "the store took longer than 10 s" : "the store cannot be written", err);
	spin_lock_irq(&s->lock);
	/* Whoever sees it failed finds the reason. */
	smp_wmb();
	WRITE_ONCE(s->failed, true);
	spin_unlock_irq(&s->lock);
	clear_bit(BLKCBT_SLOW_STORE, &d->slow);
	take_waiting(s, &bios);
	blkcbt_park_again(d, &bios);
	pr_warn("disk %s: its store is given up: %s; writes and tracking go on, but a power cut would now cost a resync\n",
		d->gd->disk_name, s->why);
	blkcbt_disk_raise(d, BLKCBT_EVENT_STORE);
}

static void send(struct blkcbt_store *s, u32 i, u64 block, bool durable)
{
	WRITE_ONCE(s->task, current);
	blkcbt_store_batch_write(s->batch, i, block, durable);
	WRITE_ONCE(s->task, NULL);
	atomic64_inc(&s->writes);
}

static void *buffer(struct blkcbt_store *s, u32 i)
{
	return page_address(s->batch->page[i]);
}

/*
 * What the target has got was read from the disk, and may be in the disk's volatile cache
 * only: a power cut would take it back. So an extent stays in use until it is durable.
 */
static int flush_disk(struct blkcbt_store *s)
{
	blkcbt_store_batch_begin(s->batch);
	if (!blkcbt_fault_store_flush())
		blkcbt_store_batch_flush(s->batch);
	return blkcbt_store_batch_end(s->batch);
}

/* Both copies, one after the other. */
static int write_super(struct blkcbt_store *s)
{
	struct blkcbt_store_super *super = &s->st->super;
	u32 copy;
	int err = 0;

	super->head.seq = cpu_to_le64(le64_to_cpu(super->head.seq) + 1);
	super->head.committed = cpu_to_le64(READ_ONCE(s->d->epoch.committed));
	for (copy = 0; copy < BLKCBT_STORE_SUPERS && !err; copy++) {
		blkcbt_store_batch_begin(s->batch);
		blkcbt_store_super_encode(super, copy, buffer(s, 0));
		send(s, 0, copy, true);
		err = blkcbt_store_batch_end(s->batch);
	}
	return err;
}

static void apply_learned(struct blkcbt_store *s)
{
	while (s->nr_learned) {
		u64 first = s->learned[--s->nr_learned];

		blkcbt_store_own(s->st, first, first);
	}
}

/* All intent pages that have to be; what is in use by them is hot then. */
static int write_pages(struct blkcbt_store *s)
{
	struct blkcbt_store_state *st = s->st;
	u64 committed = READ_ONCE(s->d->epoch.committed);
	u32 page[BLKCBT_STORE_BATCH], n, i, at;
	int err = 0;

	for (;;) {
		apply_learned(s);
		blkcbt_store_batch_begin(s->batch);
		n = 0;
		for (at = blkcbt_store_page_next(st, 0);
		     at < st->geo.nr_pages && n < BLKCBT_STORE_BATCH;
		     at = blkcbt_store_page_next(st, at + 1)) {
			page[n] = at;
			s->block[n] = blkcbt_store_page_encode(st, at, committed, buffer(s, n));
			n++;
		}
		for (i = 0; i < n; i++)
			send(s, i, s->block[i], true);
		err = blkcbt_store_batch_end(s->batch);
		if (!n || err)
			return err;
		/* Only now is anything hot. */
		for (i = 0; i < n; i++)
			blkcbt_store_page_written(st, page[i]);
	}
}

/* Encodes the regions of @st->region. Under blkcbt_ctl_mutex. */
static void stage(struct blkcbt_store *s, u32 from, u32 n, const u32 *region)
{
	const struct blkcbt_map *cur = blkcbt_map_of(s->d->cur);
	const struct blkcbt_map *old = open_map(s->d);
	u64 committed = s->d->epoch.committed;
	u32 i;

	for (i = 0; i < n; i++)
		s->block[i] = blkcbt_store_stage(s->st, region ? region[i] : from + i, cur, old,
						 committed, buffer(s, i));
}

/* The fine pages that were staged. */
static int write_staged(struct blkcbt_store *s, u32 n)
{
	u32 i;

	blkcbt_store_batch_begin(s->batch);
	for (i = 0; i < n; i++)
		if (s->block[i])
			send(s, i, s->block[i], false);
	return blkcbt_store_batch_end(s->batch);
}

/*
 * The worker
 */

/* Those who wait get their intents. */
static int activate(struct blkcbt_store *s)
{
	struct bio_list bios;
	struct bio *bio;
	u64 first, last;
	int err;

	take_waiting(s, &bios);
	bio_list_for_each(bio, &bios) {
		blkcbt_bio_granules(s->d, bio, &first, &last);
		blkcbt_store_intend(s->st, first, last);
	}
	err = write_pages(s);
	if (err)
		give_up(s, "writing intents", err);
	blkcbt_park_again(s->d, &bios);
	return err;
}

static void flip(struct blkcbt_disk *d)
{
	WRITE_ONCE(d->flight, !d->flight);
}

/* Has everything completed that was let through before the last flip? */
static bool drained(struct blkcbt_disk *d)
{
	return !blkcbt_shim_count(d, !d->flight);
}

/* What is retiring is so by now: write it. Returns when to look again. */
static unsigned long retire_write(struct blkcbt_store *s)
{
	u32 n = s->st->nr_region;
	u64 risk, staged;
	int err;

	/* Held for long: by a cut, say. Who holds it may wait for this worker. */
	if (!mutex_trylock(&blkcbt_ctl_mutex))
		return POLL;
	risk = blkcbt_store_risk(s->st);
	stage(s, 0, n, s->st->region);
	staged = blkcbt_store_risk(s->st);
	WRITE_ONCE(s->leaving, risk > staged ? risk - staged : 0);
	mutex_unlock(&blkcbt_ctl_mutex);
	s->step = STEADY;
	err = write_staged(s, n);
	if (!err)
		err = write_pages(s);
	if (err)
		give_up(s, "retiring extents", err);
	WRITE_ONCE(s->leaving, 0);
	return 0;
}

/* Nothing is under way to what is retiring. */
static unsigned long retire_drained(struct blkcbt_store *s)
{
	int err = flush_disk(s);

	if (err) {
		give_up(s, "flushing the disk", err);
		return 0;
	}
	s->step = FLUSHED;
	return retire_write(s);
}

static unsigned long tick(void)
{
	return max(msecs_to_jiffies(READ_ONCE(blkcbt_store_tick_ms)), 1ul);
}

/* Nothing is retiring: choose. */
static unsigned long retire_begin(struct blkcbt_store *s)
{
	struct blkcbt_store_state *st = s->st;
	bool over = st->nr_hot > s->hot_max * 3 / 4;
	unsigned long wait = tick();

	if (s->undrained && !drained(s->d))
		return over ? POLL : wait;
	s->undrained = false;
	if (!over && time_before(jiffies, s->next_pass))
		return s->next_pass - jiffies;
	if (blkcbt_store_retire_pick(st, 4 * BLKCBT_STORE_BATCH, st->nr_hot > s->hot_max)) {
		s->grace = start_poll_synchronize_rcu();
		s->step = CLEARED;
		s->since = jiffies;
		return POLL;
	}
	if (time_before(jiffies, s->next_pass))
		return min(s->next_pass - jiffies, over ? HZ / 10 : wait);
	if (!mutex_trylock(&blkcbt_ctl_mutex))
		return POLL;
	if (blkcbt_store_refresh_pick(st, blkcbt_map_of(s->d->cur), open_map(s->d),
				      REFRESH_REGIONS)) {
		mutex_unlock(&blkcbt_ctl_mutex);
		return retire_write(s);
	}
	mutex_unlock(&blkcbt_ctl_mutex);
	s->next_pass = jiffies + wait;
	return wait;
}

/* A step of retirement. Returns when to look again. */
static unsigned long retire(struct blkcbt_store *s)
{
	switch (s->step) {
	case STEADY:
		return retire_begin(s);
	case CLEARED:
		if (!poll_state_synchronize_rcu(s->grace))
			return POLL;
		flip(s->d);
		s->grace = start_poll_synchronize_rcu();
		s->step = FLIPPED;
		return POLL;
	case FLIPPED:
		if (!poll_state_synchronize_rcu(s->grace))
			return POLL;
		s->step = DRAINING;
		fallthrough;
	case DRAINING:
		if (drained(s->d) || blkcbt_fault_store_drain())
			return retire_drained(s);
		if (time_before(jiffies, s->since + DRAIN))
			return POLL;
		blkcbt_store_retire_cancel(s->st);
		s->undrained = true;
		s->step = STEADY;
		return POLL;
	case FLUSHED:
		return retire_write(s);
	}
	return POLL;
}

/* Not every write was recorded: say so, before the next power cut if there is time. */
static int write_doubt(struct blkcbt_store *s)
{
	struct blkcbt_store_super *super = &s->st->super;
	const char *reason = READ_ONCE(s->upset);

	if (!reason || super->flags & cpu_to_le32(BLKCBT_STORE_F_DOUBT))
		return 0;
	super->flags |= cpu_to_le32(BLKCBT_STORE_F_DOUBT);
	strscpy((char *)super->reason, reason, sizeof(super->reason));
	blkcbt_disk_raise(s->d, BLKCBT_EVENT_STORE);
	return write_super(s);
}

/* It was given up: so that nobody believes it later. */
static void invalidate(struct blkcbt_store *s)
{
	struct blkcbt_store_super *super = &s->st->super;

	/* What was sent before is still under way, and may not be overtaken. */
	if (s->invalidated || kref_read(&s->batch->kref) != 1)
		return;
	super->flags = cpu_to_le32(BLKCBT_STORE_F_INVALID);
	strscpy((char *)super->reason, s->why, sizeof(super->reason));
	s->invalidated = !write_super(s);
}

static void store_work(struct work_struct *work)
{
	struct blkcbt_store *s = container_of(to_delayed_work(work), struct blkcbt_store, work);
	unsigned long wait = 0;

	if (READ_ONCE(s->stopped))
		return;
	if (!s->failed && !activate(s)) {
		int err = write_doubt(s);

		if (err)
			give_up(s, "writing the superblock", err);
		else
			wait = retire(s);
	}
	if (s->failed) {
		invalidate(s);
		wait = RETRY;
		if (s->invalidated)
			return;
	}
	/* Whoever came meanwhile has queued it already. */
	queue_delayed_work(s->wq, &s->work, wait);
}

/*
 * Whoever has blkcbt_ctl_mutex may stop the worker, and is in its place then.
 */

static void stop(struct blkcbt_store *s)
{
	spin_lock_irq(&s->lock);
	s->stopped = true;
	spin_unlock_irq(&s->lock);
	cancel_delayed_work_sync(&s->work);
}

static bool wait_drained(struct blkcbt_disk *d)
{
	unsigned long end = jiffies + DRAIN;

	while (!drained(d)) {
		if (time_after(jiffies, end))
			return false;
		schedule_timeout_uninterruptible(POLL);
	}
	return true;
}

static void resume(struct blkcbt_store *s)
{
	spin_lock_irq(&s->lock);
	s->stopped = false;
	spin_unlock_irq(&s->lock);
	kick(s);
}

/* Writes wait; those that did not are to complete. False: some take too long. */
static bool quiesce(struct blkcbt_disk *d)
{
	synchronize_rcu();
	if (!wait_drained(d))
		return false;
	flip(d);
	synchronize_rcu();
	return wait_drained(d);
}

/**
 * blkcbt_store_marked() - granules were marked that nobody has written
 * @d: the disk; perhaps without a store
 * @first: first granule
 * @last: last granule, inclusive
 *
 * When this returns they are dirty after a power cut as well, unless the store fails.
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 */
void blkcbt_store_marked(struct blkcbt_disk *d, u64 first, u64 last)
{
	struct blkcbt_store *s = store_of(d);
	int err;

	if (!s)
		return;
	stop(s);
	if (!s->failed) {
		blkcbt_store_intend(s->st, first, last);
		err = write_pages(s);
		if (err)
			give_up(s, "recording what was marked", err);
	}
	resume(s);
}

/*
 * Beginning
 */

static void store_free(struct blkcbt_store *s)
{
	if (s->wq)
		destroy_workqueue(s->wq);
	blkcbt_map_free(s->loaded);
	blkcbt_store_state_free(s->st);
	blkcbt_store_batch_put(s->batch);
	if (s->place)
		blkcbt_store_place_put(s->place);
	kfree(s);
}

/* What the store must fit; @writes: to the disk, in this boot, before it was tracked. */
static struct blkcbt_store_expect expect(const struct blkcbt_store *s, u64 writes)
{
	return (struct blkcbt_store_expect) {
		.identity = s->identity,
		.disk_bytes = (u64)s->d->nr_sectors << SECTOR_SHIFT,
		.granule_bytes = 1u << (s->d->granule_sector_shift + SECTOR_SHIFT),
		.boot = boot_id,
		.writes = writes,
		.generation_min = s->generation_min,
	};
}

/* Reads what is there. 0, or an error after which it is not to be used. */
static int store_load(struct blkcbt_store *s, struct blkcbt_store_super *super, char *why)
{
	struct blkcbt_store_source src = {
		blkcbt_store_place_read, s->place, s->place->nr_blocks
	};
	struct blkcbt_store_expect fits = expect(s, 0);
	struct blkcbt_store_geo geo;
	int err;

	err = blkcbt_store_read_super(&src, super, super + 1, why);
	if (err)
		return err;
	if (blkcbt_store_judge(super, &src, &fits, why) == BLKCBT_STORE_REFUSED)
		return -EINVAL;
	err = blkcbt_store_geometry(&geo, fits.disk_bytes, fits.granule_bytes,
				    le32_to_cpu(super->extent_bytes));
	if (err)
		return err;
	s->st = blkcbt_store_state_alloc(&geo);
	s->loaded = blkcbt_map_alloc(s->d->nr_granules);
	s->batch = blkcbt_store_batch_alloc(s->d, s->place);
	if (!s->st || !s->loaded || !s->batch)
		return -ENOMEM;
	s->st->super = *super;
	return blkcbt_store_load(super, &src, s->st->pages, s->loaded, &s->found);
}

/**
 * blkcbt_store_prepare() - open and read a store
 * @d: the disk; perhaps not in the table yet
 * @ask: the store
 *
 * Context: blkcbt_ctl_mutex; sleeps, for as long as reading takes.
 * Return: the store, to be installed; NULL if it cannot be used, then
 * @d->store_why says why.
 */
struct blkcbt_store *blkcbt_store_prepare(struct blkcbt_disk *d,
					  const struct blkcbt_store_ask *ask)
{
	struct blkcbt_store_super *super = NULL;
	struct blkcbt_store_place *place;
	struct blkcbt_store *s;
	int err = -ENOMEM;

	d->store_verdict = BLKCBT_STORE_REFUSED;
	strscpy(d->store_why, "no memory", sizeof(d->store_why));
	if (!(blkcbt_observers() & BLKCBT_OBSERVER_GATE)) {
		strscpy(d->store_why, "there is no gate (INFO says why)", sizeof(d->store_why));
		return NULL;
	}
	s = kzalloc(sizeof(*s), GFP_KERNEL);
	if (!s)
		return NULL;
	s->d = d;
	spin_lock_init(&s->lock);
	bio_list_init(&s->waiting);
	INIT_DELAYED_WORK(&s->work, store_work);
	s->stopped = true;
	s->hot_max = ask->hot_max;
	s->generation_min = ask->generation_min;
	memcpy(s->identity, ask->identity, sizeof(s->identity));
	s->wq = alloc_workqueue("blkcbt-store-%u", WQ_MEM_RECLAIM | WQ_UNBOUND | WQ_HIGHPRI, 1,
				d->index);
	super = kvzalloc(2 * sizeof(*super), GFP_KERNEL);
	if (s->wq && super) {
		place = blkcbt_store_place_open(ask->file, d->store_why);
		err = PTR_ERR_OR_ZERO(place);
		s->place = err ? NULL : place;
	}
	if (!err)
		err = store_load(s, super, d->store_why);
	kvfree(super);
	if (!err)
		return s;
	store_free(s);
	return NULL;
}

/**
 * blkcbt_store_install() - from now on no write goes on without an intent
 * @d: the disk
 * @s: what was prepared; not started, so every write waits
 *
 * Context: blkcbt_ctl_mutex.
 */
void blkcbt_store_install(struct blkcbt_disk *d, struct blkcbt_store *s)
{
	rcu_assign_pointer(d->store, s);
	rcu_assign_pointer(d->store_state, s->st);
	set_bit(BLKCBT_SLOW_STORE, &d->slow);
}

/*
 * A device above other disks may end on the very disk that is tracked. To know where,
 * every block is written as it is, once: see blkcbt_store_cold().
 */
static int touch(struct blkcbt_store *s)
{
	u64 block, nr = s->st->geo.nr_blocks;
	u32 n, i;
	int err = 0;

	for (block = 0; block < nr && !err; block += n) {
		n = min_t(u64, LEARNED / 2, nr - block);
		blkcbt_store_batch_begin(s->batch);
		for (i = 0; i < n && !err; i++)
			err = blkcbt_store_place_read(s->place, block + i, 1, buffer(s, i));
		for (i = 0; i < n && !err; i++)
			send(s, i, block + i, false);
		err = blkcbt_store_batch_end(s->batch) ?: err;
		apply_learned(s);
	}
	return err;
}

/* The extents where the store lies. */
static int find_own(struct blkcbt_store *s)
{
	const struct blkcbt_store_place *p = s->place;
	struct blkcbt_disk *d = s->d;
	u32 i;

	if (p->bdev->bd_disk != d->gd)
		return queue_is_mq(bdev_get_queue(p->bdev)) ? 0 : touch(s);
	for (i = 0; i < p->nr_ranges; i++) {
		sector_t from = p->range[i].sector + p->bdev->bd_start_sect;
		sector_t to = from + p->range[i].nr * (BLKCBT_STORE_BLOCK >> SECTOR_SHIFT) - 1;

		blkcbt_store_own(s->st, from >> d->granule_sector_shift,
				 to >> d->granule_sector_shift);
	}
	return 0;
}

/* Whatever is dirty is in use. */
static void intend_dirty(struct blkcbt_store *s)
{
	blkcbt_store_intend_map(s->st, blkcbt_map_of(s->d->cur));
	if (open_map(s->d))
		blkcbt_store_intend_map(s->st, open_map(s->d));
}

/**
 * blkcbt_store_start() - decide what the store is worth, and let writes go on
 * @d: the disk; in the table
 * @s: its store, installed
 * @live: its map is known, and no write is under way: what the store says does not matter
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 */
void blkcbt_store_start(struct blkcbt_disk *d, struct blkcbt_store *s, bool live)
{
	struct blkcbt_map *cur = blkcbt_map_of(d->cur);
	struct blkcbt_store_source src = { NULL, NULL, s->place->nr_blocks };
	struct blkcbt_store_expect fits = expect(s, d->attach_sectors);
	bool trusted;
	int err;

	/* Everybody in the gate knows of the store. */
	synchronize_rcu();
	d->store_why[0] = '\0';
	if (live) {
		d->store_verdict = BLKCBT_STORE_RESYNC;
	} else if (d->attach_sectors == U64_MAX) {
		d->store_verdict = BLKCBT_STORE_RESYNC;
		strscpy(d->store_why, "the disk does not count its writes (turn on queue/iostats)",
			sizeof(d->store_why));
	} else {
		d->store_verdict = blkcbt_store_judge(&s->st->super, &src, &fits, d->store_why);
	}
	if (d->store_verdict == BLKCBT_STORE_TRUSTED && s->found.newer) {
		d->store_verdict = BLKCBT_STORE_RESYNC;
		strscpy(d->store_why, "the superblock is older than the pages",
			sizeof(d->store_why));
	}
	trusted = d->store_verdict == BLKCBT_STORE_TRUSTED;
	blkcbt_store_super_open(&s->st->super, !trusted);
	if (trusted) {
		blkcbt_store_begin(s->st, s->loaded);
		if (!d->epoch.last) {
			d->epoch.last = s->found.committed;
			d->epoch.committed = s->found.committed;
		}
		/* What was written while it awaited the store may be under way still. */
		intend_dirty(s);
		blkcbt_map_put_back(cur, s->loaded, 0, 0);
	} else if (live && blkcbt_map_count(cur) < d->nr_granules) {
		blkcbt_store_begin_clean(s->st);
		intend_dirty(s);
	} else {
		blkcbt_store_begin_anew(s->st);
		blkcbt_map_mark_all(cur);
	}
	if (!trusted && !live)
		pr_warn("disk %s: its store is not trusted, everything is dirty: %s\n",
			d->gd->disk_name, d->store_why);
	blkcbt_map_free(s->loaded);
	s->loaded = NULL;
	d->awaits_store = false;
	err = find_own(s);
	if (!err)
		err = write_super(s);
	if (!err)
		err = write_pages(s);
	if (err)
		give_up(s, "opening it", err);
	s->next_pass = jiffies + tick();
	resume(s);
	pr_info("disk %s: store of generation %llu, %llu extents in use\n", d->gd->disk_name,
		le64_to_cpu(s->st->super.head.generation), s->st->nr_hot);
	blkcbt_disk_raise(d, BLKCBT_EVENT_STORE);
}

/**
 * blkcbt_store_give_up() - go on without the store that a disk awaits
 * @d: the disk
 *
 * Context: blkcbt_ctl_mutex.
 */
void blkcbt_store_give_up(struct blkcbt_disk *d)
{
	if (!d->awaits_store)
		return;
	blkcbt_map_mark_all(blkcbt_map_of(d->cur));
	d->awaits_store = false;
	blkcbt_disk_raise(d, BLKCBT_EVENT_STORE);
}

/**
 * blkcbt_store_add() - give a store to a disk that is tracked
 * @d: the disk
 * @ask: the store
 * @why: set to a text on error
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 * Return: 0, or an error as documented for BLKCBT_CMD_STORE_ADD.
 */
int blkcbt_store_add(struct blkcbt_disk *d, const struct blkcbt_store_ask *ask, char *why)
{
	bool live = !d->awaits_store;
	struct blkcbt_store *s;

	if (store_of(d)) {
		why_err(why, "disk %s: cannot add a store: it has one (drop it first)",
			d->gd->disk_name);
		return -EEXIST;
	}
	if (!d->shims) {
		why_err(why, "disk %s: cannot add a store: writes may be under way that nobody counts (attach it with the store, or awaiting it)",
			d->gd->disk_name);
		return -EOPNOTSUPP;
	}
	s = blkcbt_store_prepare(d, ask);
	if (!s) {
		why_err(why, "disk %s: cannot add this store: %.150s", d->gd->disk_name,
			d->store_why);
		return -EINVAL;
	}
	blkcbt_store_install(d, s);
	/* A write let through before, which completes once its epoch is committed, is in no map. */
	if (live && !quiesce(d)) {
		blkcbt_store_remove(d);
		why_err(why, "disk %s: cannot add a store: writes are under way for longer than 5 s (try again)",
			d->gd->disk_name);
		return -EBUSY;
	}
	blkcbt_store_start(d, s, live);
	return 0;
}

/*
 * Saving
 */

/* Nothing is in use any more, and nothing under way. */
static bool retire_everything(struct blkcbt_store *s)
{
	bool ok;

	if (s->step != STEADY)
		blkcbt_store_retire_cancel(s->st);
	s->step = STEADY;
	blkcbt_store_retire_all(s->st);
	ok = quiesce(s->d);
	s->undrained = !ok;
	if (!ok)
		blkcbt_store_retire_cancel(s->st);
	return ok;
}

static int save_pages(struct blkcbt_store *s)
{
	u32 region, n;
	int err = 0;

	for (region = 0; region < s->st->geo.nr_regions && !err; region += n) {
		n = min(BLKCBT_STORE_BATCH, s->st->geo.nr_regions - region);
		stage(s, region, n, NULL);
		err = write_staged(s, n);
		cond_resched();
	}
	return err ?: write_pages(s);
}

/*
 * The disk's counter of writes as it will be once the superblock is written, which may
 * itself be on the disk: one writing of it tells what another one adds.
 */
static int save_super(struct blkcbt_store *s, enum blkcbt_store_saved how)
{
	struct blkcbt_store_super *super = &s->st->super;
	u64 before = blkcbt_disk_written(s->d), after;
	int err;

	super->flags = 0;
	super->saved = cpu_to_le32(how);
	if (how != BLKCBT_STORE_SAVED_COUNT)
		return write_super(s);
	super->saved = cpu_to_le32(BLKCBT_STORE_OPEN);
	err = write_super(s);
	after = blkcbt_disk_written(s->d);
	if (err || after == U64_MAX)
		return err;
	super->saved = cpu_to_le32(how);
	super->saved_writes = cpu_to_le64(after + (after - before));
	memcpy(super->saved_boot, boot_id, sizeof(super->saved_boot));
	return write_super(s);
}

/**
 * blkcbt_store_save() - make the store of a disk exact, if it has one
 * @d: the disk
 * @how: until when it will be
 *
 * No write is let into the disk meanwhile. After BLKCBT_STORE_SAVED_BOOT writes go on, and
 * make intents again; after BLKCBT_STORE_SAVED_COUNT they wait until the store is
 * removed. If writes stay under way too long nothing is saved: after that the store
 * is what it is after a power cut.
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 */
void blkcbt_store_save(struct blkcbt_disk *d, enum blkcbt_store_saved how)
{
	struct blkcbt_store *s = store_of(d);
	int err;

	if (!s)
		return;
	stop(s);
	if (s->failed) {
		invalidate(s);
	} else if (!retire_everything(s)) {
		pr_warn("disk %s: its store is not saved: writes are under way\n",
			d->gd->disk_name);
	} else {
		/* What comes from now on is doubted again. */
		WRITE_ONCE(s->upset, NULL);
		err = flush_disk(s) ?: save_pages(s);
		if (!err)
			err = save_super(s, how);
		if (err) {
			give_up(s, "saving it", err);
			invalidate(s);
		}
	}
	if (how == BLKCBT_STORE_SAVED_BOOT)
		resume(s);
}

/**
 * blkcbt_store_remove() - let go of the store of a disk, if it has one
 * @d: the disk; saved
 *
 * Context: blkcbt_ctl_mutex; sleeps for a grace period.
 */
void blkcbt_store_remove(struct blkcbt_disk *d)
{
	struct blkcbt_store *s = store_of(d);
	struct bio_list bios;

	clear_bit(BLKCBT_SLOW_STORE, &d->slow);
	RCU_INIT_POINTER(d->store_state, NULL);
	RCU_INIT_POINTER(d->store, NULL);
	synchronize_rcu();
	if (!s)
		return;
	stop(s);
	take_waiting(s, &bios);
	blkcbt_park_again(d, &bios);
	store_free(s);
}

/*
 * Control
 */

/*
 * The kernel's own number of this boot. It is to be had from this file alone; without it
 * a store that was saved for an unload is not trusted.
 */
static void read_boot_id(void)
{
	struct file *file = filp_open("/proc/sys/kernel/random/boot_id", O_RDONLY, 0);
	char text[UUID_STRING_LEN + 1] = "";
	loff_t pos = 0;
	uuid_t uuid;

	get_random_bytes(boot_id, sizeof(boot_id));
	if (IS_ERR(file))
		return;
	if (kernel_read(file, text, UUID_STRING_LEN, &pos) == UUID_STRING_LEN &&
	    !uuid_parse(text, &uuid))
		memcpy(boot_id, &uuid, sizeof(boot_id));
	fput(file);
}

/**
 * blkcbt_store_format() - make a store
 * @dev: the disk that it is for
 * @ask: where to, and the disk's identity
 * @granule_bytes: of the disk's map
 * @extent_bytes: what an intent covers
 * @why: set to a text on error
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 * Return: 0, or an error as documented for BLKCBT_CMD_STORE_FORMAT.
 */
int blkcbt_store_format(dev_t dev, const struct blkcbt_store_ask *ask, u32 granule_bytes,
			u32 extent_bytes, char *why)
{
	struct blkcbt_store_super *super;
	struct blkcbt_store_place *place;
	struct blkcbt_store_geo geo;
	struct blkcbt_bdev b;
	u64 disk_bytes;
	u8 uuid[BLKCBT_STORE_UUID_BYTES];
	u32 copy;
	int err;

	err = blkcbt_bdev_open(dev, NULL, &b);
	if (err) {
		why_err(why, "disk %u:%u: cannot make a store: no such disk", MAJOR(dev),
			MINOR(dev));
		return -ENODEV;
	}
	disk_bytes = bdev_nr_bytes(b.bdev);
	blkcbt_bdev_close(&b);
	err = blkcbt_store_geometry(&geo, disk_bytes, granule_bytes, extent_bytes);
	if (err) {
		why_err(why, "disk %u:%u: cannot make a store: granules of %u and extents of %u bytes do not fit it (use powers of two; at most 16384 granules in an extent)",
			MAJOR(dev), MINOR(dev), granule_bytes, extent_bytes);
		return -EINVAL;
	}
	place = blkcbt_store_place_open(ask->file, why);
	if (IS_ERR(place))
		return PTR_ERR(place);
	super = kvzalloc(2 * sizeof(*super), GFP_KERNEL);
	if (!super) {
		err = -ENOMEM;
	} else if (place->nr_blocks < geo.nr_blocks) {
		why_err(why, "disk %u:%u: cannot make a store: it needs %llu bytes, and there are %llu",
			MAJOR(dev), MINOR(dev), geo.nr_blocks * BLKCBT_STORE_BLOCK,
			place->nr_blocks * BLKCBT_STORE_BLOCK);
		err = -ENOSPC;
	}
	if (!err) {
		get_random_bytes(uuid, sizeof(uuid));
		blkcbt_store_super_init(super, uuid, ask->identity, disk_bytes, granule_bytes,
					extent_bytes);
		super->flags = cpu_to_le32(BLKCBT_STORE_F_DOUBT);
		strscpy((char *)super->reason, "it is new", sizeof(super->reason));
		/* Whoever opens it begins anew: what the pages hold now is of another store. */
		for (copy = 0; copy < BLKCBT_STORE_SUPERS && !err; copy++) {
			blkcbt_store_super_encode(super, copy, super + 1);
			err = blkcbt_store_place_write(place, copy, super + 1);
		}
	}
	kvfree(super);
	blkcbt_store_place_put(place);
	flush_workqueue(blkcbt_wq);
	return err;
}

/**
 * blkcbt_store_stats() - what GET tells of the store of a disk
 * @d: the disk
 * @stats: filled in
 *
 * Context: between rcu_read_lock() and rcu_read_unlock(), or blkcbt_ctl_mutex.
 */
void blkcbt_store_stats(struct blkcbt_disk *d, struct blkcbt_store_stats *stats)
{
	struct blkcbt_store *s = rcu_dereference_check(d->store,
						       lockdep_is_held(&blkcbt_ctl_mutex));
	u64 size = (u64)d->nr_sectors << SECTOR_SHIFT;
	unsigned int shift = d->granule_sector_shift + SECTOR_SHIFT;
	struct blkcbt_store_state *st;

	*stats = (struct blkcbt_store_stats) { .risk_bytes = size, .reason = d->store_why };
	stats->state = d->awaits_store ? BLKCBT_STORE_ID_AWAITED : BLKCBT_STORE_ID_NONE;
	if (!s)
		return;
	st = s->st;
	stats->state = BLKCBT_STORE_ID_ACTIVE;
	stats->generation = le64_to_cpu(st->super.head.generation);
	stats->hot = READ_ONCE(st->nr_hot);
	stats->writes = atomic64_read(&s->writes);
	stats->parked = atomic64_read(&s->parked);
	stats->memory_bytes = blkcbt_store_state_bytes(st) +
			      BLKCBT_STORE_BATCH * (u64)PAGE_SIZE +
			      s->place->nr_ranges * sizeof(*s->place->range);
	if (READ_ONCE(s->failed)) {
		stats->state = BLKCBT_STORE_ID_FAILED;
		/* Pairs with give_up(): the reason is there. */
		smp_rmb();
		stats->reason = s->why;
	} else if (READ_ONCE(s->upset)) {
		stats->reason = READ_ONCE(s->upset);
	} else {
		stats->risk_bytes = min(size, (blkcbt_store_risk(st) +
					       READ_ONCE(s->leaving)) << shift);
	}
}

/* The machine goes down in order: nothing is in use when it comes up again. */
static int on_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	struct blkcbt_disk *d;

	mutex_lock(&blkcbt_ctl_mutex);
	list_for_each_entry(d, &blkcbt_disks, list)
		blkcbt_store_save(d, BLKCBT_STORE_SAVED_BOOT);
	mutex_unlock(&blkcbt_ctl_mutex);
	return NOTIFY_DONE;
}

static struct notifier_block reboot_nb = {
	.notifier_call = on_reboot,
};

/**
 * blkcbt_store_init() - get ready
 *
 * Return: 0 or an error.
 */
int blkcbt_store_init(void)
{
	int err;

	read_boot_id();
	err = blkcbt_store_place_init();
	if (err)
		return err;
	err = register_reboot_notifier(&reboot_nb);
	if (err)
		blkcbt_store_place_exit();
	return err;
}

/**
 * blkcbt_store_exit() - undo blkcbt_store_init(); no disk is tracked, and every bio has
 *	come back
 */
void blkcbt_store_exit(void)
{
	unregister_reboot_notifier(&reboot_nb);
	blkcbt_store_place_exit();
}
