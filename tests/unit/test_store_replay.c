// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Power cuts: a disk with a store lives through random writes, cuts, commits,
 * aborts and retirements, and everything that reaches the two devices is recorded.
 * Then every moment of it is taken for the last: of what was not flushed by
 * then any part may be missing or torn at any sector. What the loader finds must hold every
 * granule in which disk and target may differ, and no page may have been destroyed,
 * so that nothing else is dirty for it. From some of these moments a new life goes on.
 *
 * The order in which things are written is what kmod/store.c does; what is
 * written and where is the module's own code. That this can tell is shown by
 * a bug of each kind that must be found.
 *
 * LINK: tests/unit/kunit.c
 */
#include "../kunit/harness.h"
#include "../../kmod/map.c"
#include "../../kmod/store_format.c"
#include "../../kmod/store_load.c"
#include "../../kmod/store_state.c"

#define GRANULES	20000u
#define FLIGHTS		24u
#define PENDING_MAX	512u
#define SECTORS		(BLKCBT_STORE_BLOCK / 512)

/* What is done wrong on purpose. */
enum bug {
	NO_BUG,
	HOT_BEFORE_DURABLE,	/* the write goes on while its intent is being written */
	RECORD_NOT_LOADED,	/* of the intent pages, the loader sees one slot only */
	COVERS_LESS,		/* an intent covers the first extent of a write only */
	NO_DRAIN,		/* retirement does not wait for what is under way */
	OLD_LEFT_OUT,		/* the fine page holds the current map, not the open epoch's */
	NO_FLUSH,		/* the intent page that names a fine page is not flushed before */
	NR_BUGS
};

static const char *const bug_names[] = {
	"none", "hot before durable", "record not loaded", "covers less", "no drain",
	"open epoch left out", "no flush",
};

struct flight {
	bool used;
	u32 first, last;
};

/* A write to the store that no flush has followed yet. */
struct pending {
	u64 block;
	u8 data[BLKCBT_STORE_BLOCK];
};

struct world {
	enum bug bug;
	struct harness_rnd rnd;
	struct blkcbt_store_state *st;
	struct blkcbt_map *cur, *old;
	u64 epoch, committed;
	bool open;

	/* the disk against the target */
	u64 now, cut_at, target_at;
	u64 done[GRANULES];		/* when the last write completed */
	u32 under_way[GRANULES];
	struct flight flight[FLIGHTS];

	/* the store's device: what is durable, and what may be */
	u8 *disk;
	struct pending *pending;
	u32 nr_pending;
	u8 (*torn)[BLKCBT_STORE_BLOCK];	/* of each pending one, what this power cut leaves */
	bool *there;

	u64 checks, missed, bad, lives, dirty_found, dirty_true;
	u8 buf[BLKCBT_STORE_BLOCK];	/* what is to be written */
	u8 super[BLKCBT_STORE_BLOCK];
};

static u32 roll(struct world *w, u32 below)
{
	return (u32)harness_rnd(&w->rnd, below);
}

/*
 * The power cut
 */

static int cut_read(void *ctx, u64 block, u32 n, void *to)
{
	struct world *w = ctx;

	for (u32 i = 0; i < n; i++) {
		u8 *at = (u8 *)to + (size_t)i * BLKCBT_STORE_BLOCK;

		memcpy(at, w->disk + (block + i) * BLKCBT_STORE_BLOCK, BLKCBT_STORE_BLOCK);
		for (u32 p = 0; p < w->nr_pending; p++)
			if (w->there[p] && w->pending[p].block == block + i)
				memcpy(at, w->torn[p], BLKCBT_STORE_BLOCK);
		if (w->bug == RECORD_NOT_LOADED && w->st->geo.nr_pages &&
		    (block + i - BLKCBT_STORE_SUPERS) / w->st->geo.nr_pages == 1 && roll(w, 2))
			memset(at, 0, BLKCBT_STORE_BLOCK);
	}
	return 0;
}

/* Of each pending write: nothing, all, or some sectors over what was there. @how 0: none, 1: all. */
static void tear(struct world *w, u32 how)
{
	memset(w->there, 0, PENDING_MAX * sizeof(*w->there));
	for (u32 p = 0; p < w->nr_pending; p++) {
		u32 mode = how < 2 ? how : roll(w, 3);
		u64 block = w->pending[p].block;

		if (!mode)
			continue;
		/* over what the ones before it have left */
		cut_read(w, block, 1, w->torn[p]);
		for (u32 s = 0; s < SECTORS; s++)
			if (mode == 1 || roll(w, 2))
				memcpy(w->torn[p] + s * 512, w->pending[p].data + s * 512, 512);
		w->there[p] = true;
	}
}

static bool may_differ(const struct world *w, u32 g)
{
	return w->under_way[g] || w->done[g] > w->target_at;
}

struct life {
	struct blkcbt_store_super super;
	struct blkcbt_store_page *pages;
	struct blkcbt_map *map;
	struct blkcbt_store_found found;
};

static void life_free(struct life *l)
{
	blkcbt_map_free(l->map);
	free(l->pages);
}

/* Loads what the power cut left. Whatever the loader does not trust is dirty. */
static void cut_load(struct world *w, struct life *l)
{
	static const u8 identity[BLKCBT_IDENTITY_BYTES] = "serial", boot[16];
	struct blkcbt_store_source src = { cut_read, w, w->st->geo.nr_blocks };
	struct blkcbt_store_expect expect = {
		.identity = identity, .disk_bytes = GRANULES * 4096ull, .granule_bytes = 4096, .boot = boot,
	};
	char why[BLKCBT_STORE_WHY_LEN];

	l->pages = calloc(w->st->geo.nr_pages, sizeof(*l->pages));
	l->map = blkcbt_map_alloc(GRANULES);
	if (blkcbt_store_read_super(&src, &l->super, w->super, why) ||
	    blkcbt_store_judge(&l->super, &src, &expect, why) != BLKCBT_STORE_TRUSTED ||
	    blkcbt_store_load(&l->super, &src, l->pages, l->map, &l->found) || l->found.newer)
		abort(); /* no full resync after a power cut */
}

static void judge(struct world *w, const struct life *l)
{
	w->checks++;
	for (u32 g = 0; g < GRANULES; g++) {
		if (may_differ(w, g)) {
			w->dirty_true++;
			if (!blkcbt_map_test(l->map, g, g))
				w->missed++;
		}
	}
	w->dirty_found += l->found.dirty;
	w->bad += l->found.bad_pages;
}

/* This moment may be the last. */
static void moment(struct world *w)
{
	for (u32 how = 0; how < 4; how++) {
		struct life l = { 0 };

		if (how && !w->nr_pending)
			return;
		tear(w, how);
		cut_load(w, &l);
		judge(w, &l);
		life_free(&l);
	}
}

/*
 * The store's device
 */

static void settle(struct world *w)
{
	for (u32 p = 0; p < w->nr_pending; p++)
		memcpy(w->disk + w->pending[p].block * BLKCBT_STORE_BLOCK, w->pending[p].data, BLKCBT_STORE_BLOCK);
	w->nr_pending = 0;
}

/* Under way, then in the cache; with @fua durable when it returns, and with @preflush what came before as well. */
static void write_block(struct world *w, u64 block, bool preflush, bool fua)
{
	u32 own;

	if (preflush)
		settle(w);
	if (w->nr_pending == PENDING_MAX)
		abort();
	own = w->nr_pending++;
	w->pending[own].block = block;
	memcpy(w->pending[own].data, w->buf, BLKCBT_STORE_BLOCK);
	w->now++;
	if (!roll(w, 4))
		moment(w);
	if (!fua)
		return;
	/* It alone. An earlier write to the same block is overwritten. */
	memcpy(w->disk + block * BLKCBT_STORE_BLOCK, w->buf, BLKCBT_STORE_BLOCK);
	w->nr_pending--;
	for (u32 p = 0; p < w->nr_pending; p++)
		if (w->pending[p].block == block)
			memcpy(w->pending[p].data, w->buf, BLKCBT_STORE_BLOCK);
	if (!roll(w, 4))
		moment(w);
}

/*
 * As kmod/store.c
 */

static void write_super(struct world *w)
{
	w->st->super.head.seq = cpu_to_le64(le64_to_cpu(w->st->super.head.seq) + 1);
	for (u32 copy = 0; copy < BLKCBT_STORE_SUPERS; copy++) {
		blkcbt_store_super_encode(&w->st->super, copy, w->buf);
		write_block(w, copy, true, true);
	}
}

static void write_pages(struct world *w)
{
	struct blkcbt_store_state *st = w->st;

	for (u32 page = blkcbt_store_page_next(st, 0); page < st->geo.nr_pages;
	     page = blkcbt_store_page_next(st, page + 1)) {
		u64 block = blkcbt_store_page_encode(st, page, w->committed, w->buf);

		write_block(w, block, w->bug != NO_FLUSH, true);
		blkcbt_store_page_written(st, page);
	}
}

static void complete_one(struct world *w, struct flight *f)
{
	if (!f->used)
		return;
	f->used = false;
	w->now++;
	blkcbt_map_mark(w->cur, f->first, f->last);
	for (u32 g = f->first; g <= f->last; g++) {
		w->under_way[g]--;
		w->done[g] = w->now;
	}
}

static void submit(struct world *w, u32 first, u32 last)
{
	struct flight *f = &w->flight[roll(w, FLIGHTS)];

	complete_one(w, f);
	if (!blkcbt_store_hot(w->st, first, last)) {
		blkcbt_store_intend(w->st, first, w->bug == COVERS_LESS ? first : last);
		if (w->bug != HOT_BEFORE_DURABLE)
			write_pages(w);
	}
	blkcbt_map_mark(w->cur, first, last);
	w->now++;
	*f = (struct flight){ true, first, last };
	for (u32 g = first; g <= last; g++)
		w->under_way[g]++;
	if (!roll(w, 8))
		moment(w);
	if (w->bug == HOT_BEFORE_DURABLE)
		write_pages(w);
}

static void stage_all(struct world *w)
{
	const struct blkcbt_map *old = w->open && w->bug != OLD_LEFT_OUT ? w->old : NULL;

	for (u32 i = 0; i < w->st->nr_region; i++) {
		u64 block = blkcbt_store_stage(w->st, w->st->region[i], w->cur, old, w->committed, w->buf);

		if (block)
			write_block(w, block, false, false);
	}
	write_pages(w);
}

static void retire(struct world *w)
{
	if (!blkcbt_store_retire_pick(w->st, 1 + roll(w, 20), roll(w, 2)))
		return;
	if (w->bug != NO_DRAIN) /* all that was let through while it was hot */
		for (u32 i = 0; i < FLIGHTS; i++)
			complete_one(w, &w->flight[i]);
	/* While it waits, a write may want an extent back. */
	if (!roll(w, 4)) {
		u32 g = (u32)(w->st->region[0] * w->st->geo.region_granules);

		submit(w, g, g);
	}
	stage_all(w);
}

static void cut(struct world *w)
{
	if (w->open)
		return;
	w->open = true;
	w->epoch++;
	w->old = w->cur;
	w->cur = blkcbt_map_alloc(GRANULES);
	w->cut_at = ++w->now;
}

static void end_epoch(struct world *w, bool commit)
{
	if (!w->open)
		return;
	if (commit) {
		w->committed = w->epoch;
		w->target_at = w->cut_at;
	} else {
		blkcbt_map_put_back(w->cur, w->old, 0, 0);
	}
	blkcbt_map_free(w->old);
	w->old = NULL;
	w->open = false;
}

/* All exact: a loader finds the maps, not more and not less. */
static void save(struct world *w, struct kunit *test)
{
	struct life l = { 0 };
	u32 region, n = 0;

	for (u32 i = 0; i < FLIGHTS; i++)
		complete_one(w, &w->flight[i]);
	blkcbt_store_retire_all(w->st);
	for (region = 0; region < w->st->geo.nr_regions; region++) {
		u64 block = blkcbt_store_stage(w->st, region, w->cur, w->open ? w->old : NULL, w->committed, w->buf);

		if (block && ++n < PENDING_MAX - 2)
			write_block(w, block, false, false);
		else if (block)
			write_block(w, block, true, true);
	}
	write_pages(w);
	w->st->super.saved = cpu_to_le32(BLKCBT_STORE_SAVED_BOOT);
	write_super(w);
	settle(w);
	cut_load(w, &l);
	for (u32 g = 0; g < GRANULES && !w->bug; g++)
		KUNIT_ASSERT_EQ_MSG(test, blkcbt_map_test(l.map, g, g),
				    blkcbt_map_test(w->cur, g, g) || (w->open && blkcbt_map_test(w->old, g, g)),
				    "granule %u", g);
	life_free(&l);
}

/* The power is cut now, and the machine comes up again. */
static void next_life(struct world *w)
{
	struct blkcbt_store_state *st;
	struct life l = { 0 };
	u32 p;

	tear(w, 2);
	cut_load(w, &l);
	judge(w, &l);
	for (p = 0; p < w->nr_pending; p++)
		if (w->there[p])
			memcpy(w->disk + w->pending[p].block * BLKCBT_STORE_BLOCK, w->torn[p], BLKCBT_STORE_BLOCK);
	w->nr_pending = 0;
	for (u32 i = 0; i < FLIGHTS; i++) { /* it got there, or not: nobody knows */
		struct flight *f = &w->flight[i];

		for (u32 g = f->first; f->used && g <= f->last; g++) {
			w->under_way[g]--;
			w->done[g] = w->now + 1;
		}
		f->used = false;
	}
	w->now++;
	end_epoch(w, false);
	blkcbt_map_free(w->cur);
	w->cur = l.map;
	st = blkcbt_store_state_alloc(&w->st->geo);
	memcpy(st->pages, l.pages, st->geo.nr_pages * sizeof(*st->pages));
	free(l.pages);
	blkcbt_store_state_free(w->st);
	w->st = st;
	st->super = l.super;
	blkcbt_store_begin(st, w->cur);
	blkcbt_store_super_open(&st->super, false);
	write_super(w);
	w->lives++;
}

static struct world *world_new(enum bug bug, u32 seed)
{
	static const u8 identity[BLKCBT_IDENTITY_BYTES] = "serial";
	struct world *w = calloc(1, sizeof(*w));
	struct blkcbt_store_geo geo;

	w->bug = bug;
	w->rnd.seed = seed * 7919 + 1;
	if (blkcbt_store_geometry(&geo, GRANULES * 4096ull, 4096, 4096u << seed % 5))
		abort();
	w->st = blkcbt_store_state_alloc(&geo);
	w->cur = blkcbt_map_alloc(GRANULES);
	w->disk = calloc(geo.nr_blocks, BLKCBT_STORE_BLOCK);
	w->pending = calloc(PENDING_MAX, sizeof(*w->pending));
	w->torn = calloc(PENDING_MAX, sizeof(*w->torn));
	w->there = calloc(PENDING_MAX, sizeof(*w->there));
	blkcbt_map_mark_all(w->cur);
	for (u32 g = 0; g < GRANULES; g++)
		w->done[g] = 1;
	w->now = 2;
	blkcbt_store_super_init(&w->st->super, (const u8 *)"a store's number", identity, GRANULES * 4096ull, 4096,
				4096u << seed % 5);
	blkcbt_store_super_open(&w->st->super, true);
	blkcbt_store_begin_anew(w->st);
	/* Two whole superblocks: what is torn later is one of them. */
	for (u32 copy = 0; copy < BLKCBT_STORE_SUPERS; copy++) {
		blkcbt_store_super_encode(&w->st->super, copy, w->buf);
		memcpy(w->disk + copy * BLKCBT_STORE_BLOCK, w->buf, BLKCBT_STORE_BLOCK);
	}
	/* And a whole copy of each intent page. */
	for (u32 page = 0; page < geo.nr_pages; page++) {
		u64 block = blkcbt_store_page_encode(w->st, page, 0, w->buf);

		memcpy(w->disk + block * BLKCBT_STORE_BLOCK, w->buf, BLKCBT_STORE_BLOCK);
		blkcbt_store_page_written(w->st, page);
	}
	return w;
}

static void world_free(struct world *w)
{
	blkcbt_store_state_free(w->st);
	blkcbt_map_free(w->cur);
	blkcbt_map_free(w->old);
	free(w->disk);
	free(w->pending);
	free(w->torn);
	free(w->there);
	free(w);
}

/* A write somewhere; most of them near the one before. */
static void write_somewhere(struct world *w, u32 *near)
{
	u32 first, last;

	if (!roll(w, 20))
		*near = roll(w, GRANULES);
	first = (*near + roll(w, 200)) % GRANULES;
	last = first + (roll(w, 4) ? 0 : roll(w, 40));
	submit(w, first, last < GRANULES ? last : GRANULES - 1);
}

static void live(struct world *w, struct kunit *test, u32 steps)
{
	u32 near = 0;

	/* the initial sync */
	cut(w);
	end_epoch(w, true);
	for (u32 i = 0; i < steps; i++) {
		switch (roll(w, 40)) {
		case 0:
		case 1:
			cut(w);
			break;
		case 2:
		case 3:
			end_epoch(w, true);
			break;
		case 4:
			end_epoch(w, false);
			break;
		case 5:
		case 6:
		case 7:
			retire(w);
			break;
		case 8:
		case 9:
			if (blkcbt_store_refresh_pick(w->st, w->cur, w->open ? w->old : NULL, 50))
				stage_all(w);
			break;
		case 10:
		case 11:
			complete_one(w, &w->flight[roll(w, FLIGHTS)]);
			break;
		case 12:
			if (!roll(w, 6))
				next_life(w);
			break;
		case 13:
			if (!roll(w, 12))
				save(w, test);
			break;
		default:
			write_somewhere(w, &near);
		}
	}
	save(w, test);
}

/* No power cut loses anything. */
static void nothing_missed(struct kunit *test)
{
	u64 checks = 0, lives = 0, found = 0, truth = 0;

	for (u32 seed = 1; seed <= 15; seed++) {
		struct world *w = world_new(NO_BUG, seed);

		live(w, test, 900);
		KUNIT_EXPECT_EQ_MSG(test, w->missed, 0, "seed %u", seed);
		KUNIT_EXPECT_EQ_MSG(test, w->bad, 0, "seed %u", seed);
		checks += w->checks;
		lives += w->lives;
		found += w->dirty_found;
		truth += w->dirty_true;
		world_free(w);
	}
	/* It is not all dirty, and it is not nothing that was looked at. */
	KUNIT_EXPECT_TRUE(test, checks > 5000);
	KUNIT_EXPECT_TRUE(test, lives > 15);
	KUNIT_EXPECT_TRUE(test, found / checks < GRANULES / 2 && truth / checks > 50);
	printf("# %llu power cuts, %llu lives; dirty on average %llu, found %llu of %u granules\n", checks, lives,
	       truth / checks, found / checks, GRANULES);
}

static void bug_desc(const enum bug *bug, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s", bug_names[*bug]);
}

static const enum bug bugs[] = {
	HOT_BEFORE_DURABLE, RECORD_NOT_LOADED, COVERS_LESS, NO_DRAIN, OLD_LEFT_OUT, NO_FLUSH,
};
KUNIT_ARRAY_PARAM(bug, bugs, bug_desc);

/*
 * Each is found, so that "nothing missed" means something. The last one loses nothing even so: a
 * fine page that is not the one that is named makes dirty what it covers. It is found by that.
 */
static void bug_found(struct kunit *test)
{
	const enum bug *bug = test->param_value;
	u64 missed = 0, bad = 0;

	for (u32 seed = 1; seed <= 15 && !missed && !(bad && *bug >= NO_FLUSH); seed++) {
		struct world *w = world_new(*bug, seed);

		live(w, test, 900);
		missed = w->missed;
		bad = w->bad;
		world_free(w);
	}
	KUNIT_EXPECT_TRUE(test, missed > 0 || (bad > 0 && *bug >= NO_FLUSH));
}

static struct kunit_case replay_cases[] = {
	KUNIT_CASE(nothing_missed),
	KUNIT_CASE_PARAM(bug_found, bug_gen_params),
	{}
};

static struct kunit_suite replay_suite = {
	.name = "store, power cuts",
	.test_cases = replay_cases,
};
kunit_test_suite(replay_suite);
