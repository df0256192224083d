// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The store in memory (kmod/store_state.c): the states of an extent, what is written
 * and where, and that a loader finds what was in memory. Every prefix of what is
 * written: tests/unit/test_store_replay.c.
 */
#include "../../kmod/store_state.h"
#include "harness.h"

/* 600 regions of 32 extents of 4 granules, the last of them not whole. */
#define EXTENT		4u
#define REGION		(32u * EXTENT)
#define GRANULES	(599ull * REGION + 70)

struct store {
	struct blkcbt_store_state *st;
	struct blkcbt_map *cur;
	struct blkcbt_map *loaded;
	struct blkcbt_store_found found;
	u8 *block;
	u64 nr_written;
	struct blkcbt_store_super super;
	u8 buf[BLKCBT_STORE_BLOCK];
};

static int store_read(void *ctx, u64 block, u32 n, void *to)
{
	struct store *s = ctx;

	memcpy(to, s->block + block * BLKCBT_STORE_BLOCK, (size_t)n * BLKCBT_STORE_BLOCK);
	return 0;
}

static void put_block(struct store *s, u64 block)
{
	memcpy(s->block + block * BLKCBT_STORE_BLOCK, s->buf, BLKCBT_STORE_BLOCK);
	s->nr_written++;
}

static void put_supers(struct store *s)
{
	u32 copy;

	s->st->super.head.seq = cpu_to_le64(le64_to_cpu(s->st->super.head.seq) + 1);
	for (copy = 0; copy < BLKCBT_STORE_SUPERS; copy++) {
		blkcbt_store_super_encode(&s->st->super, copy, s->buf);
		put_block(s, copy);
	}
}

/* Writes what has to be; returns how many pages. */
static u32 put_intents(struct store *s)
{
	u32 page, n = 0;

	for (page = blkcbt_store_page_next(s->st, 0); page < s->st->geo.nr_pages;
	     page = blkcbt_store_page_next(s->st, page + 1)) {
		put_block(s, blkcbt_store_page_encode(s->st, page, 0, s->buf));
		blkcbt_store_page_written(s->st, page);
		n++;
	}
	return n;
}

static u64 stage(struct store *s, u32 region)
{
	u64 block = blkcbt_store_stage(s->st, region, s->cur, NULL, 0, s->buf);

	if (block)
		put_block(s, block);
	return block;
}

static void store_state_test_exit(struct kunit *test)
{
	struct store *s = test->priv;

	if (!s)
		return;
	blkcbt_store_state_free(s->st);
	blkcbt_map_free(s->cur);
	blkcbt_map_free(s->loaded);
	blkcbt_pure_free(s->block);
}

/* A store of which everything is clean. */
static int store_state_test_init(struct kunit *test)
{
	struct store *s = kunit_kzalloc(test, sizeof(*s), GFP_KERNEL);
	static const u8 identity[BLKCBT_IDENTITY_BYTES] = "serial";
	struct blkcbt_store_geo geo;
	u32 region;

	if (!s || blkcbt_store_geometry(&geo, GRANULES * 4096, 4096, EXTENT * 4096))
		return -ENOMEM;
	test->priv = s;
	s->st = blkcbt_store_state_alloc(&geo);
	s->cur = blkcbt_map_alloc(GRANULES);
	s->block = blkcbt_pure_zalloc(geo.nr_blocks * BLKCBT_STORE_BLOCK);
	if (!s->st || !s->cur || !s->block)
		return -ENOMEM;
	blkcbt_store_super_init(&s->st->super, (const u8 *)"a store's number", identity,
				GRANULES * 4096, 4096, EXTENT * 4096);
	blkcbt_store_super_open(&s->st->super, true);
	blkcbt_store_begin_anew(s->st);
	put_supers(s);
	for (region = 0; region < geo.nr_regions; region++)
		stage(s, region);
	put_intents(s);
	s->nr_written = 0;
	return 0;
}

static void load(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_store_source src = { store_read, s, s->st->geo.nr_blocks };
	struct blkcbt_store_page *pages = blkcbt_pure_zalloc(s->st->geo.nr_pages * sizeof(*pages));
	char why[BLKCBT_STORE_WHY_LEN];

	KUNIT_ASSERT_NOT_NULL(test, pages);
	blkcbt_map_free(s->loaded);
	s->loaded = blkcbt_map_alloc(GRANULES);
	KUNIT_EXPECT_EQ(test, blkcbt_store_read_super(&src, &s->super, s->buf, why), 0);
	KUNIT_EXPECT_EQ(test, blkcbt_store_load(&s->super, &src, pages, s->loaded, &s->found), 0);
	blkcbt_pure_free(pages);
}

/* What a loader finds now is dirty: @n granules, among them [first, last]. */
static void expect_found(struct kunit *test, u64 n, u64 first, u64 last)
{
	struct store *s = test->priv;

	load(test);
	KUNIT_EXPECT_EQ(test, s->found.dirty, n);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(s->loaded, first, last));
}

/* An intent counts for nothing before it is durable. */
static void intent(struct kunit *test)
{
	struct store *s = test->priv;

	KUNIT_EXPECT_FALSE(test, blkcbt_store_hot(s->st, 5, 5));
	KUNIT_EXPECT_EQ(test, blkcbt_store_intend(s->st, 5, 5), 1);
	KUNIT_EXPECT_FALSE(test, blkcbt_store_hot(s->st, 5, 5));
	KUNIT_EXPECT_EQ(test, s->st->nr_hot, 0);
	KUNIT_EXPECT_EQ(test, put_intents(s), 1);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, 4, 7));
	KUNIT_EXPECT_FALSE(test, blkcbt_store_hot(s->st, 3, 5));
	KUNIT_EXPECT_FALSE(test, blkcbt_store_hot(s->st, 7, 8));
	KUNIT_EXPECT_EQ(test, blkcbt_store_intend(s->st, 4, 7), 0);
	KUNIT_EXPECT_EQ(test, put_intents(s), 0);
	KUNIT_EXPECT_EQ(test, s->st->nr_hot, 1);
	expect_found(test, EXTENT, 4, 7);
}

/* Every extent that a write touches, over the border of a region and of a page. */
static void intent_range(struct kunit *test)
{
	u64 first = 504 * REGION - 2 * EXTENT + 1, last = 504 * REGION + EXTENT;
	struct store *s = test->priv;

	KUNIT_EXPECT_EQ(test, blkcbt_store_intend(s->st, first, last), 4);
	KUNIT_EXPECT_EQ(test, put_intents(s), 2);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, first, last));
	expect_found(test, 4 * EXTENT, first, last);
	/* The disk's last extent is not whole, and behind it there is nothing. */
	KUNIT_EXPECT_EQ(test, blkcbt_store_intend(s->st, GRANULES - 1, GRANULES + 100), 1);
	put_intents(s);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, GRANULES - 1, GRANULES + 100));
	expect_found(test, 4 * EXTENT + (GRANULES - 1) % EXTENT + 1, GRANULES - 1, GRANULES - 1);
}

/* Two writes of a page go to two places. */
static void slots(struct kunit *test)
{
	struct store *s = test->priv;
	u64 one, two, three;

	one = blkcbt_store_page_encode(s->st, 0, 0, s->buf);
	blkcbt_store_page_written(s->st, 0);
	two = blkcbt_store_page_encode(s->st, 0, 0, s->buf);
	blkcbt_store_page_written(s->st, 0);
	three = blkcbt_store_page_encode(s->st, 0, 0, s->buf);
	KUNIT_EXPECT_TRUE(test, one != two);
	KUNIT_EXPECT_EQ(test, one, three);
	blkcbt_map_mark(s->cur, 9, 9);
	one = stage(s, 0);
	KUNIT_EXPECT_TRUE(test, one != 0);
	put_intents(s);
	two = stage(s, 0);
	KUNIT_EXPECT_TRUE(test, two != 0 && two != one);
}

static void retire(struct kunit *test)
{
	struct store *s = test->priv;

	blkcbt_store_intend(s->st, 4, 7);
	blkcbt_store_intend(s->st, 8, 11);
	put_intents(s);
	blkcbt_map_mark(s->cur, 5, 5);
	/* Both were used since the hand came by. */
	KUNIT_EXPECT_EQ(test, blkcbt_store_retire_pick(s->st, 10, false), 0);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, 8, 11));
	KUNIT_EXPECT_EQ(test, blkcbt_store_risk(s->st), 2 * EXTENT);
	KUNIT_EXPECT_EQ(test, blkcbt_store_retire_pick(s->st, 10, false), 1);
	/* What is retiring is at risk as before: a loader finds its intent. */
	KUNIT_EXPECT_EQ(test, blkcbt_store_risk(s->st), 2 * EXTENT);
	KUNIT_EXPECT_EQ(test, s->st->nr_region, 1);
	KUNIT_EXPECT_FALSE(test, blkcbt_store_hot(s->st, 5, 5));
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, 8, 11));
	/* Until the intent page is written, nothing has changed for a loader. */
	KUNIT_EXPECT_TRUE(test, stage(s, 0) != 0);
	expect_found(test, 2 * EXTENT, 4, 11);
	KUNIT_EXPECT_EQ(test, put_intents(s), 1);
	expect_found(test, EXTENT + 1, 5, 5);
	KUNIT_EXPECT_FALSE(test, blkcbt_store_hot(s->st, 5, 5));
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, 8, 11));
	KUNIT_EXPECT_EQ(test, s->st->nr_hot, 1);
	KUNIT_EXPECT_EQ(test, s->st->nr_retiring, 0);
	/* Used or not, when it must be. */
	KUNIT_EXPECT_EQ(test, blkcbt_store_retire_pick(s->st, 10, true), 1);
	stage(s, 0);
	put_intents(s);
	expect_found(test, 1, 5, 5);
	KUNIT_EXPECT_EQ(test, s->st->stored_granules, 1);
	KUNIT_EXPECT_EQ(test, blkcbt_store_risk(s->st), 1);
}

/* A write wants what is retiring: it is hot again, and nothing need be written. */
static void retire_back(struct kunit *test)
{
	struct store *s = test->priv;

	blkcbt_store_intend(s->st, 4, 11);
	put_intents(s);
	KUNIT_EXPECT_EQ(test, blkcbt_store_retire_pick(s->st, 10, true), 2);
	KUNIT_EXPECT_EQ(test, blkcbt_store_intend(s->st, 4, 4), 0);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, 4, 4));
	KUNIT_EXPECT_EQ(test, put_intents(s), 0);
	/* A page that is written meanwhile makes nothing hot that is retiring. */
	blkcbt_store_intend(s->st, 20, 20);
	put_intents(s);
	KUNIT_EXPECT_FALSE(test, blkcbt_store_hot(s->st, 8, 8));
	stage(s, 0);
	put_intents(s);
	expect_found(test, 2 * EXTENT, 4, 7);
	/* All of it at once. */
	KUNIT_EXPECT_EQ(test, blkcbt_store_retire_pick(s->st, 10, true), 2);
	blkcbt_store_retire_cancel(s->st);
	KUNIT_EXPECT_EQ(test, s->st->nr_retiring, 0);
	KUNIT_EXPECT_EQ(test, s->st->nr_hot, 2);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, 4, 7));
	stage(s, 0);
	put_intents(s);
	expect_found(test, 2 * EXTENT, 4, 7);
}

/* No more regions at a time than there is room for. */
static void retire_many(struct kunit *test)
{
	struct store *s = test->priv;
	u64 n = 0, rounds = 0, now;
	u32 i;

	for (i = 0; i < 600; i++)
		blkcbt_store_intend(s->st, (u64)i * REGION, (u64)i * REGION);
	put_intents(s);
	KUNIT_EXPECT_EQ(test, s->st->nr_hot, 600);
	do {
		now = blkcbt_store_retire_pick(s->st, 1000, true);
		KUNIT_EXPECT_TRUE(test, s->st->nr_region <= BLKCBT_STORE_BATCH);
		for (i = 0; i < s->st->nr_region; i++)
			stage(s, s->st->region[i]);
		put_intents(s);
		n += now;
	} while (now && rounds++ < 100);
	KUNIT_EXPECT_EQ(test, n, 600);
	KUNIT_EXPECT_EQ(test, s->st->nr_hot, 0);
	load(test);
	KUNIT_EXPECT_EQ(test, s->found.dirty, 0);
}

/* Where the store itself lies. */
static void own(struct kunit *test)
{
	struct store *s = test->priv;

	blkcbt_store_own(s->st, 4, 7);
	put_intents(s);
	blkcbt_map_mark(s->cur, 5, 5);
	KUNIT_EXPECT_EQ(test, blkcbt_store_retire_pick(s->st, 10, true), 0);
	blkcbt_store_retire_all(s->st);
	KUNIT_EXPECT_EQ(test, s->st->nr_retiring, 0);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, 5, 5));
	/* Nor is it refreshed: each refresh would change it again. */
	s->st->cursor = 0;
	stage(s, 0);
	put_intents(s);
	KUNIT_EXPECT_FALSE(test, blkcbt_store_refresh_pick(s->st, s->cur, NULL, 1000));
}

/* Save: what a loader finds is exactly what was dirty. */
static void save(struct kunit *test)
{
	struct store *s = test->priv;
	struct harness_rnd rnd = { 7 };
	u32 region, i;
	u64 g;

	for (i = 0; i < 3000; i++) {
		g = harness_rnd(&rnd, GRANULES);
		blkcbt_store_intend(s->st, g, g);
		blkcbt_map_mark(s->cur, g, g);
	}
	/* A region that is wholly dirty, and the last one. */
	blkcbt_map_mark(s->cur, 10 * REGION, 11 * REGION - 1);
	blkcbt_map_mark(s->cur, GRANULES - 1, GRANULES - 1);
	put_intents(s);
	blkcbt_store_retire_all(s->st);
	KUNIT_EXPECT_EQ(test, s->st->nr_hot, 0);
	for (region = 0; region < s->st->geo.nr_regions; region++)
		stage(s, region);
	put_intents(s);
	KUNIT_EXPECT_EQ(test, s->st->nr_retiring, 0);
	load(test);
	KUNIT_EXPECT_EQ(test, s->found.dirty, blkcbt_map_count(s->cur));
	KUNIT_EXPECT_EQ(test, s->found.in_use, 0);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_only(s->cur, s->loaded, 0, GRANULES - 1), GRANULES);
	KUNIT_EXPECT_EQ(test, s->st->stored_granules, s->found.dirty);
}

/* After commits the store says more than is true, until it is refreshed. */
static void refresh(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_map *none;
	u32 i;

	for (i = 0; i < 100; i++)
		blkcbt_map_mark(s->cur, (u64)i * REGION, (u64)i * REGION + 9);
	for (i = 0; i < 100; i++)
		stage(s, i);
	put_intents(s);
	expect_found(test, 1000, 0, 9);
	KUNIT_EXPECT_FALSE(test, blkcbt_store_refresh_pick(s->st, s->cur, NULL, 1000));
	none = blkcbt_map_alloc(GRANULES);
	KUNIT_ASSERT_NOT_NULL(test, none);
	/* In an open epoch it is still dirty. */
	KUNIT_EXPECT_FALSE(test, blkcbt_store_refresh_pick(s->st, none, s->cur, 1000));
	blkcbt_map_free(s->cur);
	s->cur = none;
	blkcbt_map_mark(s->cur, 0, 5);
	s->nr_written = 0;
	while (blkcbt_store_refresh_pick(s->st, s->cur, NULL, 1000)) {
		KUNIT_ASSERT_LT(test, s->nr_written, 100);
		for (i = 0; i < s->st->nr_region; i++)
			stage(s, s->st->region[i]);
		put_intents(s);
	}
	/* Six of ten are not worth a write. Nothing dirty takes no page. */
	expect_found(test, 10, 0, 9);
	KUNIT_EXPECT_EQ(test, s->nr_written, 2);
}

/* What is dirty in memory when a store is added is in use. */
static void intend_map(struct kunit *test)
{
	struct store *s = test->priv;

	blkcbt_map_mark(s->cur, 9, 30);
	blkcbt_map_mark(s->cur, GRANULES - 1, GRANULES - 1);
	blkcbt_store_intend_map(s->st, s->cur);
	put_intents(s);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, 8, 31));
	expect_found(test, 24 + (GRANULES - 1) % EXTENT + 1, 8, 31);
	blkcbt_map_mark_all(s->cur);
	blkcbt_store_intend_map(s->st, s->cur);
	put_intents(s);
	expect_found(test, GRANULES, 0, GRANULES - 1);
}

/* Loaded again, it goes on where it was; begun anew, everything is dirty. */
static void begin(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_store_source src = { store_read, s, s->st->geo.nr_blocks };
	struct blkcbt_store_state *st;
	u64 first = 3 * REGION;

	blkcbt_store_intend(s->st, 4, 4);
	put_intents(s);
	blkcbt_map_mark(s->cur, first, first + 1);
	stage(s, 3);
	put_intents(s);
	st = blkcbt_store_state_alloc(&s->st->geo);
	KUNIT_ASSERT_NOT_NULL(test, st);
	st->super = s->st->super;
	s->loaded = blkcbt_map_alloc(GRANULES);
	KUNIT_EXPECT_EQ(test, blkcbt_store_load(&st->super, &src, st->pages, s->loaded, &s->found),
			0);
	blkcbt_store_begin(st, s->loaded);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(st, 4, 7));
	KUNIT_EXPECT_FALSE(test, blkcbt_store_hot(st, first, first));
	KUNIT_EXPECT_EQ(test, st->nr_hot, 1);
	KUNIT_EXPECT_EQ(test, st->stored_granules, EXTENT + 2);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_state_bytes(st) < 100000);
	blkcbt_store_super_open(&st->super, false);
	blkcbt_store_state_free(s->st);
	s->st = st;
	put_supers(s);
	expect_found(test, EXTENT + 2, first, first + 1);

	blkcbt_store_super_open(&st->super, true);
	put_supers(s);
	expect_found(test, GRANULES, 0, GRANULES - 1);
	KUNIT_EXPECT_EQ(test, s->found.in_use, 0);
}

/* Begun with a map that is known: that is dirty, and nothing else. */
static void begin_clean(struct kunit *test)
{
	struct store *s = test->priv;
	u64 first = 3 * REGION;

	blkcbt_map_mark(s->cur, first, first + 1);
	blkcbt_store_super_open(&s->st->super, true);
	put_supers(s);
	expect_found(test, GRANULES, 0, GRANULES - 1);
	blkcbt_store_begin_clean(s->st);
	blkcbt_store_intend_map(s->st, s->cur);
	put_intents(s);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_hot(s->st, first, first + 3));
	KUNIT_EXPECT_EQ(test, s->st->nr_hot, 1);
	expect_found(test, EXTENT, first, first + EXTENT - 1);
	KUNIT_EXPECT_EQ(test, s->found.bad_pages, 0);
}

static struct kunit_case store_state_cases[] = {
	KUNIT_CASE(intent),
	KUNIT_CASE(intent_range),
	KUNIT_CASE(slots),
	KUNIT_CASE(retire),
	KUNIT_CASE(retire_back),
	KUNIT_CASE(retire_many),
	KUNIT_CASE(own),
	KUNIT_CASE(save),
	KUNIT_CASE(refresh),
	KUNIT_CASE(intend_map),
	KUNIT_CASE(begin),
	KUNIT_CASE(begin_clean),
	{}
};

static struct kunit_suite store_state_suite = {
	.name = "store_state",
	.init = store_state_test_init,
	.exit = store_state_test_exit,
	.test_cases = store_state_cases,
};

kunit_test_suite(store_state_suite);
