// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The dirty map (kmod/map.c) against a model of one byte a granule: what is
 * marked is dirty, nothing else is, and where memory lacks only more is dirty.
 */
#include "../../kmod/map.h"
#include "harness.h"

#define BITS		((u64)BLKCBT_MAP_PAGE_BITS)
#define MAPS_MAX	4

struct fixture {
	struct blkcbt_map *map[MAPS_MAX];
	unsigned int nr;
	struct harness_rnd rnd;
};

static int map_test_init(struct kunit *test)
{
	struct fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);

	if (!f)
		return -ENOMEM;
	f->rnd.seed = 42;
	test->priv = f;
	return 0;
}

static void map_test_exit(struct kunit *test)
{
	struct fixture *f = test->priv;

	harness_page_fail(false);
	while (f && f->nr)
		blkcbt_map_free(f->map[--f->nr]);
}

/* A map that the test's end frees. */
static struct blkcbt_map *new_map(struct kunit *test, u64 nr_granules)
{
	struct fixture *f = test->priv;
	struct blkcbt_map *map;

	KUNIT_ASSERT_LT(test, f->nr, MAPS_MAX);
	map = blkcbt_map_alloc(nr_granules);
	KUNIT_ASSERT_NOT_NULL(test, map);
	f->map[f->nr++] = map;
	return map;
}

static void free_maps(struct kunit *test)
{
	struct fixture *f = test->priv;

	while (f->nr)
		blkcbt_map_free(f->map[--f->nr]);
}

static unsigned char *new_model(struct kunit *test, u64 nr_granules)
{
	unsigned char *model = kunit_kzalloc(test, nr_granules, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, model);
	return model;
}

static u64 rnd(struct kunit *test, u64 below)
{
	struct fixture *f = test->priv;

	return harness_rnd(&f->rnd, (unsigned int)below);
}

/* A last granule for a range from @g: near mostly, anywhere at times. */
static u64 any_end(struct kunit *test, u64 g, u64 nr)
{
	u64 last = g + rnd(test, rnd(test, 5) ? 70 : nr);

	return last < nr ? last : nr - 1;
}

static void mark_both(struct blkcbt_map *map, unsigned char *model, u64 first, u64 last)
{
	blkcbt_map_mark(map, first, last);
	memset(model + first, 1, last - first + 1);
}

/* The map says of each granule what the model says, by each of its questions. */
static void expect_is(struct kunit *test, const struct blkcbt_map *map, const unsigned char *model)
{
	u64 nr = map->nr_granules, count = 0, at = 0, g;

	for (g = 0; g < nr; g++) {
		KUNIT_ASSERT_EQ_MSG(test, blkcbt_map_test(map, g, g), !!model[g],
				    "granule %llu", g);
		KUNIT_ASSERT_EQ_MSG(test, blkcbt_map_test_slow(map, NULL, g, g), !!model[g],
				    "granule %llu, slow", g);
		count += model[g];
	}
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), count);
	for (at = blkcbt_map_next_dirty(map, 0); at < nr; at = blkcbt_map_next_dirty(map, g)) {
		KUNIT_ASSERT_EQ_MSG(test, blkcbt_map_next_clean(map, at) > at, true, "at %llu", at);
		KUNIT_ASSERT_EQ_MSG(test, !at || !model[at - 1], true, "run at %llu", at);
		for (g = blkcbt_map_next_clean(map, at); at < g; at++, count--)
			KUNIT_ASSERT_EQ_MSG(test, model[at], 1, "granule %llu", at);
	}
	KUNIT_EXPECT_EQ(test, count, 0);
}

static long pages(const struct blkcbt_map *map)
{
	return atomic_long_read(&map->pages);
}

static const u64 sizes[] = {
	1, 2, 63, 64, 65, BITS - 1, BITS, BITS + 1, 2 * BITS - 1, 2 * BITS, 3 * BITS + 7,
};

static void size_desc(const u64 *size, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%llu granules", *size);
}

KUNIT_ARRAY_PARAM(size, sizes, size_desc);

static void size_of_map(struct kunit *test)
{
	u64 nr = *(const u64 *)test->param_value;
	struct blkcbt_map *map = new_map(test, nr);

	KUNIT_EXPECT_EQ(test, map->nr_granules, nr);
	KUNIT_EXPECT_EQ(test, map->nr_pages, nr / BITS + !!(nr % BITS));
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), 0);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 0), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, 0), 0);
	KUNIT_EXPECT_FALSE(test, blkcbt_map_test(map, 0, nr - 1));
	/* the last granule alone */
	blkcbt_map_mark(map, nr - 1, nr - 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 0), nr - 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, nr - 1), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_test(map, 0, nr - 1), nr == 1);
	/* and all of them, with some there already */
	blkcbt_map_mark(map, 0, nr - 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, nr - 1), nr - 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, 0), nr);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, 0, nr - 1));
}

static void size_refused(struct kunit *test)
{
	KUNIT_EXPECT_NULL(test, blkcbt_map_alloc(0));
	/* more pages than the array of them may have */
	KUNIT_EXPECT_NULL(test, blkcbt_map_alloc((BITS << 27) + 1));
	KUNIT_EXPECT_NULL(test, blkcbt_map_alloc(1ULL << 60));
	blkcbt_map_free(NULL);
}

/* Pages come one by one, as their regions are touched, and are counted. */
static void page_on_demand(struct kunit *test)
{
	struct blkcbt_map *map = new_map(test, 4 * BITS);
	u64 empty = blkcbt_map_bytes(map);

	KUNIT_EXPECT_EQ(test, empty, sizeof(*map) + 4 * sizeof(map->page[0]));
	blkcbt_map_mark(map, BITS + 5, BITS + 5);
	KUNIT_EXPECT_EQ(test, pages(map), 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_bytes(map), empty + PAGE_SIZE);
	KUNIT_EXPECT_NULL(test, map->page[0]);
	KUNIT_EXPECT_NULL(test, map->page[2]);
	/* the same region, the same granule */
	blkcbt_map_mark(map, BITS, BITS);
	blkcbt_map_mark(map, BITS + 5, BITS + 5);
	blkcbt_map_mark(map, 2 * BITS - 9, 2 * BITS - 1);
	KUNIT_EXPECT_EQ(test, pages(map), 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), 11);
	/* one granule on each side of a boundary */
	blkcbt_map_mark(map, 3 * BITS - 1, 3 * BITS);
	KUNIT_EXPECT_EQ(test, pages(map), 3);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), 13);
	KUNIT_EXPECT_EQ(test, blkcbt_map_bytes(map), empty + 3 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, atomic64_read(&map->fallbacks), 0);
}

/* A region that becomes dirty as a whole takes no memory, the partial last one too. */
static void whole_region(struct kunit *test)
{
	u64 nr = 3 * BITS + 10;
	struct blkcbt_map *map = new_map(test, nr);

	blkcbt_map_mark(map, BITS, 2 * BITS - 1);
	KUNIT_EXPECT_TRUE(test, map->page[1] == blkcbt_map_ones);
	blkcbt_map_mark(map, 3 * BITS, nr - 1);
	KUNIT_EXPECT_TRUE(test, map->page[3] == blkcbt_map_ones);
	KUNIT_EXPECT_EQ(test, pages(map), 0);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), BITS + 10);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 0), BITS);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, BITS), 2 * BITS);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 2 * BITS), 3 * BITS);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, 3 * BITS), nr);
	/* marking within it writes to nothing */
	blkcbt_map_mark(map, BITS + 3, BITS + 3);
	blkcbt_map_mark(map, BITS + 3, BITS + 99);
	KUNIT_EXPECT_EQ(test, pages(map), 0);
	/* a page that is there already stays and is filled */
	blkcbt_map_mark(map, 7, 7);
	blkcbt_map_mark(map, 0, BITS - 1);
	KUNIT_EXPECT_EQ(test, pages(map), 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), 2 * BITS + 10);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, 0), 2 * BITS);
	KUNIT_EXPECT_EQ(test, atomic64_read(&map->fallbacks), 0);
	/* all but its last granule is not whole */
	blkcbt_map_mark(map, 2 * BITS, 3 * BITS - 2);
	KUNIT_EXPECT_FALSE(test, blkcbt_map_test(map, 3 * BITS - 1, 3 * BITS - 1));
	KUNIT_EXPECT_FALSE(test, blkcbt_map_test(map, 0, nr - 1));
	blkcbt_map_mark(map, 3 * BITS - 1, 3 * BITS - 1);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, 0, nr - 1));
}

#define RANGE_NR	(3 * BITS + 100)

struct mark_range {
	u64 first, last;
};

static const struct mark_range ranges[] = {
	{ 0, 0 },
	{ 0, 63 },
	{ 63, 64 },
	{ 64, 127 },
	{ 1, 128 },
	{ 0, BITS - 2 },
	{ 0, BITS - 1 },
	{ 0, BITS },
	{ 1, BITS - 1 },
	{ BITS - 1, BITS - 1 },
	{ BITS - 1, BITS },
	{ BITS, BITS },
	{ BITS - 1, 2 * BITS },
	{ BITS - 64, BITS + 63 },
	{ BITS + 1, 3 * BITS - 2 },
	{ 5, RANGE_NR - 6 },
	{ 0, RANGE_NR - 2 },
	{ 0, RANGE_NR - 1 },
	{ 3 * BITS, RANGE_NR - 1 },
	{ 3 * BITS + 1, RANGE_NR - 1 },
	{ RANGE_NR - 1, RANGE_NR - 1 },
};

static void range_desc(const struct mark_range *range, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%llu to %llu", range->first, range->last);
}

KUNIT_ARRAY_PARAM(range, ranges, range_desc);

/* One range in an empty map: it is dirty, its neighbours are not. */
static void one_range(struct kunit *test)
{
	const struct mark_range *r = test->param_value;
	unsigned char *model = new_model(test, RANGE_NR);
	struct blkcbt_map *map = new_map(test, RANGE_NR);

	mark_both(map, model, r->first, r->last);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, r->first, r->last));
	if (r->first)
		KUNIT_EXPECT_FALSE(test, blkcbt_map_test(map, r->first - 1, r->last));
	if (r->last < RANGE_NR - 1)
		KUNIT_EXPECT_FALSE(test, blkcbt_map_test(map, r->first, r->last + 1));
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 0), r->first);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, r->first), r->last + 1);
	expect_is(test, map, model);
}

/* Every range in three words: the masks of first and last word. */
static void every_range_of_words(struct kunit *test)
{
	u64 nr = 3 * BITS_PER_LONG, first, last;

	for (first = 0; first < nr; first++) {
		for (last = first; last < nr; last++) {
			struct blkcbt_map *map = new_map(test, nr + 1);

			blkcbt_map_mark_slow(map, first, last);
			KUNIT_ASSERT_EQ_MSG(test, blkcbt_map_count(map), last - first + 1,
					    "%llu to %llu", first, last);
			KUNIT_ASSERT_EQ(test, blkcbt_map_next_dirty(map, 0), first);
			KUNIT_ASSERT_EQ(test, blkcbt_map_next_clean(map, first), last + 1);
			KUNIT_ASSERT_EQ(test, blkcbt_map_next_dirty(map, last + 1), nr + 1);
			KUNIT_ASSERT_EQ(test, blkcbt_map_test(map, first, last), true);
			KUNIT_ASSERT_EQ(test, blkcbt_map_test(map, first, last + 1), false);
			if (first)
				KUNIT_ASSERT_EQ(test, blkcbt_map_test(map, first - 1, last), false);
			free_maps(test);
		}
	}
}

/* A single clean granule, wherever it is, is found by whoever asks for it. */
static void one_hole(struct kunit *test)
{
	static const u64 holes[] = {
		0, 1, 63, 64, BITS - 1, BITS, BITS + 64, 2 * BITS - 1, 2 * BITS, 2 * BITS + 99,
	};
	u64 nr = 2 * BITS + 100;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(holes); i++) {
		struct blkcbt_map *map = new_map(test, nr);
		u64 hole = holes[i];

		if (hole)
			blkcbt_map_mark(map, 0, hole - 1);
		if (hole < nr - 1)
			blkcbt_map_mark(map, hole + 1, nr - 1);
		KUNIT_EXPECT_FALSE_MSG(test, blkcbt_map_test(map, 0, nr - 1), "hole %llu", hole);
		KUNIT_EXPECT_FALSE(test, blkcbt_map_test(map, hole, hole));
		if (hole)
			KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, 0, hole - 1));
		if (hole < nr - 1)
			KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, hole + 1, nr - 1));
		KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, 0), hole);
		KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, hole + 1), nr);
		KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, hole), hole + 1);
		KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), nr - 1);
		free_maps(test);
	}
}

/* Searches cross clean, dirty and mixed regions, and end at the map's end. */
static void next_across_regions(struct kunit *test)
{
	u64 nr = 5 * BITS + 33;
	struct blkcbt_map *map = new_map(test, nr);

	blkcbt_map_mark(map, BITS, 2 * BITS - 1);		/* whole */
	blkcbt_map_mark(map, 2 * BITS, 2 * BITS + 9);		/* mixed */
	blkcbt_map_mark(map, 5 * BITS + 32, 5 * BITS + 32);	/* the last of all */
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 0), BITS);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, BITS + 77), BITS + 77);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, BITS - 1), BITS - 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, BITS), 2 * BITS + 10);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 2 * BITS + 10), nr - 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, nr - 1), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, nr), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, nr), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, nr + BITS), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, ~0ULL), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, ~0ULL), nr);
}

/* Dirty as a whole, whatever the pages say; marking takes no memory any more. */
static void mark_all(struct kunit *test)
{
	u64 nr = 2 * BITS + 100;
	struct blkcbt_map *map = new_map(test, nr), *other = new_map(test, nr);

	blkcbt_map_mark_all(map);
	blkcbt_map_mark_all(map);
	blkcbt_map_mark(map, 5, 5);
	blkcbt_map_mark(map, 5, BITS + 9);
	KUNIT_EXPECT_EQ(test, pages(map), 0);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, 0, nr - 1));
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, BITS, BITS));
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, 7), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 7), 7);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, nr), nr);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test_slow(map, other, 0, nr - 1));
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test_slow(other, map, 0, nr - 1));
	/* with pages from before */
	blkcbt_map_mark(other, 9, 9);
	blkcbt_map_mark_all(other);
	blkcbt_map_mark(other, 1, 1);
	KUNIT_EXPECT_EQ(test, pages(other), 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(other), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(other, 0), nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(other, 10), 10);
}

/* A page that cannot be had: its region, and no other, is dirty as a whole. */
static void no_memory(struct kunit *test)
{
	u64 nr = 4 * BITS + 10;
	struct blkcbt_map *map = new_map(test, nr);

	blkcbt_map_mark(map, 2 * BITS + 1, 2 * BITS + 1);
	harness_page_fail(true);
	blkcbt_map_mark(map, BITS + 3, BITS + 3);
	KUNIT_EXPECT_EQ(test, atomic64_read(&map->fallbacks), 1);
	KUNIT_EXPECT_TRUE(test, map->page[1] == blkcbt_map_ones);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), BITS + 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 0), BITS);
	/* a page that is there needs no memory; a region that is whole neither */
	blkcbt_map_mark(map, 2 * BITS, 2 * BITS + 2);
	blkcbt_map_mark(map, BITS, BITS + 5);
	blkcbt_map_mark(map, 3 * BITS, 4 * BITS - 1);
	KUNIT_EXPECT_EQ(test, atomic64_read(&map->fallbacks), 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), 2 * BITS + 3);
	/* the last region is only as long as the disk */
	blkcbt_map_mark(map, nr - 1, nr - 1);
	KUNIT_EXPECT_EQ(test, atomic64_read(&map->fallbacks), 2);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), 2 * BITS + 13);
	harness_page_fail(false);
	blkcbt_map_mark(map, 1, 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), 2 * BITS + 14);
	KUNIT_EXPECT_EQ(test, pages(map), 2);
	KUNIT_EXPECT_EQ(test, atomic64_read(&map->fallbacks), 2);
}

/* A range over several regions of which none can be had. */
static void no_memory_for_range(struct kunit *test)
{
	u64 nr = 4 * BITS;
	struct blkcbt_map *map = new_map(test, nr);

	harness_page_fail(true);
	blkcbt_map_mark(map, BITS - 1, 3 * BITS);
	harness_page_fail(false);
	/* both ends; the two in the middle are dirty by right and need no page */
	KUNIT_EXPECT_EQ(test, atomic64_read(&map->fallbacks), 2);
	KUNIT_EXPECT_EQ(test, pages(map), 0);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, 0, nr - 1));
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), nr);
}

/* 16 TiB and 64 TiB in granules of 4 KiB: numbers beyond 32 bits. */
static void huge(struct kunit *test)
{
	static const u64 disk_bytes[] = { 16ULL << 40, (16ULL << 40) + 512, 64ULL << 40 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(disk_bytes); i++) {
		u64 nr = (disk_bytes[i] + 4095) >> 12, at = 0xffffffffULL;
		struct blkcbt_map *map = new_map(test, nr), *dst = new_map(test, nr);

		if (at > nr - 2)
			at = nr - 2;
		blkcbt_map_mark(map, at - 1, at + 1);
		KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), 3);
		KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(map, 0), at - 1);
		KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(map, at - 1), at + 2);
		KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, at - 1, at + 1));
		KUNIT_EXPECT_FALSE(test, blkcbt_map_test(map, at - 2, at - 2));
		/* what 32 bits would make of it */
		KUNIT_EXPECT_FALSE(test, blkcbt_map_test(map, 0, 0));
		blkcbt_map_mark(map, nr - 1, nr - 1);
		KUNIT_EXPECT_TRUE(test, blkcbt_map_test(map, nr - 1, nr - 1));
		blkcbt_map_put_back(dst, map, at, at + 1);
		KUNIT_EXPECT_FALSE(test, blkcbt_map_test(dst, at, at));
		KUNIT_EXPECT_TRUE(test, blkcbt_map_test(dst, at - 1, at - 1));
		KUNIT_EXPECT_TRUE(test, blkcbt_map_test(dst, nr - 1, nr - 1));
		blkcbt_map_mark(dst, 0, nr - 1);
		KUNIT_EXPECT_EQ(test, blkcbt_map_count(dst), nr);
		KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(dst, 0), nr);
		/* no more than the pages of the three places above */
		KUNIT_EXPECT_GE(test, 3, pages(dst));
		free_maps(test);
	}
}

/* Dirty in one map or in the other, granule by granule. */
static void test_union(struct kunit *test)
{
	struct blkcbt_map *a = new_map(test, 3 * BITS), *b = new_map(test, 3 * BITS);

	blkcbt_map_mark(a, 0, 99);
	blkcbt_map_mark(b, 100, 199);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test_slow(a, b, 50, 150));
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test_slow(a, b, 0, 199));
	KUNIT_EXPECT_FALSE(test, blkcbt_map_test_slow(a, b, 0, 200));
	KUNIT_EXPECT_FALSE(test, blkcbt_map_test_slow(a, NULL, 99, 100));
	KUNIT_EXPECT_FALSE(test, blkcbt_map_test_slow(a, b, BITS, BITS));
	/* a page in one of them only; a whole region in one of them */
	blkcbt_map_mark(b, BITS, 2 * BITS - 1);
	blkcbt_map_mark(a, 200, BITS - 1);
	blkcbt_map_mark(b, 2 * BITS, 2 * BITS + 9);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test_slow(a, b, 0, 2 * BITS + 9));
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test_slow(b, a, 0, 2 * BITS + 9));
	KUNIT_EXPECT_FALSE(test, blkcbt_map_test_slow(a, b, 0, 2 * BITS + 10));
	KUNIT_EXPECT_FALSE(test, blkcbt_map_test_slow(b, NULL, 0, BITS));
}

static void random_marks(struct kunit *test)
{
	u64 nr = 3 * BITS + 1234, g;
	unsigned char *model = new_model(test, nr);
	struct blkcbt_map *map = new_map(test, nr);
	int i;

	for (i = 0; i < 300; i++) {
		u64 first = rnd(test, nr);
		u64 len = 1 + rnd(test, rnd(test, 8) ? 200 : nr);
		u64 last = min_t(u64, first + len - 1, nr - 1);
		bool was = true;

		for (g = first; g <= last; g++)
			was = was && model[g];
		KUNIT_ASSERT_EQ_MSG(test, blkcbt_map_test(map, first, last), was,
				    "%llu to %llu", first, last);
		mark_both(map, model, first, last);
		if (i == 5 || i == 20)
			expect_is(test, map, model);
		if (i > 40 && i % 50 == 0 && blkcbt_map_count(map) == nr)
			break;
	}
	expect_is(test, map, model);
}

/* Single granules only, in any order: the fast path, and the pages it needs. */
static void random_granules(struct kunit *test)
{
	u64 nr = 2 * BITS + 5, count = 0;
	unsigned char *model = new_model(test, nr);
	struct blkcbt_map *map = new_map(test, nr);
	int i;

	for (i = 0; i < 4000; i++) {
		u64 g = rnd(test, nr);

		KUNIT_ASSERT_EQ(test, blkcbt_map_test(map, g, g), !!model[g]);
		count += !model[g];
		mark_both(map, model, g, g);
	}
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(map), count);
	expect_is(test, map, model);
}

enum region { CLEAN, MIXED, WHOLE, NR_REGIONS };

struct forget {
	const char *name;
	u64 from, to;
};

/* What is forgotten, seen from the middle one of three regions. */
static const struct forget forgets[] = {
	{ "nothing", 0, 0 },
	{ "nothing, from behind to", 2 * BITS, BITS },
	{ "an empty range", BITS + 7, BITS + 7 },
	{ "everything", 0, ~0ULL },
	{ "the region", BITS, 2 * BITS },
	{ "all but its first granule", BITS + 1, 2 * BITS },
	{ "all but its last granule", BITS, 2 * BITS - 1 },
	{ "its first granule", BITS, BITS + 1 },
	{ "its last granule", 2 * BITS - 1, 2 * BITS },
	{ "a piece of it", BITS + 60, BITS + 70 },
	{ "across its start", BITS - 3, BITS + 3 },
	{ "across its end", 2 * BITS - 3, 2 * BITS + 3 },
	{ "the region before", 0, BITS },
	{ "the region behind", 2 * BITS, 3 * BITS },
};

static void forget_desc(const struct forget *forget, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s", forget->name);
}

KUNIT_ARRAY_PARAM(forget, forgets, forget_desc);

static void fill_region(struct blkcbt_map *map, unsigned char *model, enum region region,
			u64 first, u64 last)
{
	if (region == WHOLE)
		mark_both(map, model, first, last);
	if (region == MIXED) {
		mark_both(map, model, first, first);
		mark_both(map, model, first + 62, first + 66);
		mark_both(map, model, last, last);
	}
}

/* Each kind of region put back into each kind of region. */
static void put_back_regions(struct kunit *test)
{
	const struct forget *forget = test->param_value;
	u64 nr = 2 * BITS + 100, g;
	unsigned char *dst_model = new_model(test, nr), *src_model = new_model(test, nr);
	unsigned int kinds;

	for (kinds = 0; kinds < NR_REGIONS * NR_REGIONS; kinds++) {
		enum region dst_kind = (enum region)(kinds / NR_REGIONS);
		enum region src_kind = (enum region)(kinds % NR_REGIONS);
		struct blkcbt_map *dst = new_map(test, nr), *src = new_map(test, nr);

		memset(dst_model, 0, nr);
		memset(src_model, 0, nr);
		for (g = 0; g < nr; g += BITS) {
			u64 last = min_t(u64, g + BITS - 1, nr - 1);

			fill_region(dst, dst_model, dst_kind, g, last);
			fill_region(src, src_model, src_kind, g, last);
		}
		/* something that only the source has */
		if (src_kind == MIXED)
			mark_both(src, src_model, BITS + 68, BITS + 200);
		for (g = 0; g < nr; g++)
			if (forget->from >= forget->to || g < forget->from || g >= forget->to)
				dst_model[g] |= src_model[g];
		blkcbt_map_put_back(dst, src, forget->from, forget->to);
		expect_is(test, dst, dst_model);
		KUNIT_EXPECT_EQ(test, atomic64_read(&dst->fallbacks), 0);
		/* who looks at both misses nothing that the source held */
		for (g = 0; g < nr; g++)
			if (src_model[g])
				KUNIT_ASSERT_EQ(test, blkcbt_map_test_slow(dst, src, g, g), true);
		free_maps(test);
	}
}

/* A page that its target lacks moves there and is not copied. */
static void put_back_moves_pages(struct kunit *test)
{
	struct blkcbt_map *dst = new_map(test, 3 * BITS), *src = new_map(test, 3 * BITS);
	unsigned long *page;

	blkcbt_map_mark(src, 5, 9);
	blkcbt_map_mark(src, BITS + 5, BITS + 9);
	blkcbt_map_mark(dst, BITS, BITS);
	page = src->page[0];
	/* pages could not be had: none is needed */
	harness_page_fail(true);
	blkcbt_map_put_back(dst, src, 0, 0);
	harness_page_fail(false);
	KUNIT_EXPECT_TRUE(test, dst->page[0] == page);
	KUNIT_EXPECT_NULL(test, src->page[0]);
	KUNIT_EXPECT_EQ(test, pages(dst), 2);
	KUNIT_EXPECT_EQ(test, pages(src), 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(dst), 11);
	KUNIT_EXPECT_EQ(test, atomic64_read(&dst->fallbacks), 0);
}

/* Part of a page is put back, and its page cannot be had. */
static void put_back_no_memory(struct kunit *test)
{
	struct blkcbt_map *dst = new_map(test, 3 * BITS), *src = new_map(test, 3 * BITS);

	blkcbt_map_mark(src, BITS + 5, BITS + 9);
	blkcbt_map_mark(src, 2 * BITS, 2 * BITS);
	harness_page_fail(true);
	blkcbt_map_put_back(dst, src, BITS, BITS + 7);
	harness_page_fail(false);
	KUNIT_EXPECT_EQ(test, atomic64_read(&dst->fallbacks), 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(dst), BITS + 1);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(dst, BITS, 2 * BITS));
}

/* A map that is dirty as a whole is put back. */
static void put_back_all(struct kunit *test)
{
	u64 nr = 2 * BITS + 100;
	struct blkcbt_map *dst, *src;

	dst = new_map(test, nr);
	src = new_map(test, nr);
	blkcbt_map_mark_all(src);
	blkcbt_map_put_back(dst, src, 0, nr);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(dst), 0);
	blkcbt_map_put_back(dst, src, 10, nr - 1);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(dst), 11);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(dst, 0, 9));
	KUNIT_EXPECT_TRUE(test, blkcbt_map_test(dst, nr - 1, nr - 1));
	KUNIT_EXPECT_FALSE(test, dst->all);
	blkcbt_map_put_back(dst, src, 0, nr - 20);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(dst), 30);
	blkcbt_map_put_back(dst, src, 20, ~0ULL);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(dst), 40);
	blkcbt_map_put_back(dst, src, 0, 0);
	KUNIT_EXPECT_TRUE(test, dst->all);
	free_maps(test);
	/* and into one */
	dst = new_map(test, nr);
	src = new_map(test, nr);
	blkcbt_map_mark(src, 7, 8);
	blkcbt_map_mark_all(dst);
	blkcbt_map_put_back(dst, src, 0, 0);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(dst), nr);
}

/* Random maps, random ranges: what is not forgotten is in the target afterwards. */
static void put_back_random(struct kunit *test)
{
	u64 nr = 2 * BITS + 77, g, h;
	unsigned char *a = new_model(test, nr), *b = new_model(test, nr);
	int round, i;

	for (round = 0; round < 24; round++) {
		struct blkcbt_map *dst = new_map(test, nr), *src = new_map(test, nr);
		u64 from = rnd(test, nr), to = rnd(test, 4) ? rnd(test, nr + 1) : nr;

		if (round % 4 == 0) {
			from = 0;
			to = 0;
		}
		memset(a, 0, nr);
		memset(b, 0, nr);
		for (i = 0; i < (round % 6) * 3; i++) {
			g = rnd(test, nr);
			mark_both(dst, a, g, any_end(test, g, nr));
			g = rnd(test, nr);
			mark_both(src, b, g, any_end(test, g, nr));
		}
		for (g = 0; g < nr; g++)
			if (from >= to || g < from || g >= to)
				a[g] |= b[g];
		blkcbt_map_put_back(dst, src, from, to);
		expect_is(test, dst, a);
		for (h = 0; h < nr; h++)
			if (b[h])
				KUNIT_ASSERT_EQ(test, blkcbt_map_test_slow(dst, src, h, h), true);
		free_maps(test);
	}
}

/* Never a mark too many: where there is no page, what lies in it stays clean. */
static void try_mark_no_memory(struct kunit *test)
{
	struct blkcbt_map *map = new_map(test, 3 * BITS);
	unsigned char *model = new_model(test, 3 * BITS);

	KUNIT_EXPECT_TRUE(test, blkcbt_map_try_mark(map, 5, 9));
	memset(model + 5, 1, 5);
	harness_page_fail(true);
	/* where the page is there already it is marked, where it is not it is not */
	KUNIT_EXPECT_TRUE(test, blkcbt_map_try_mark(map, 20, 20));
	model[20] = 1;
	KUNIT_EXPECT_FALSE(test, blkcbt_map_try_mark(map, BITS - 2, BITS + 1));
	model[BITS - 2] = 1;
	model[BITS - 1] = 1;
	/* a whole region takes no page */
	KUNIT_EXPECT_TRUE(test, blkcbt_map_try_mark(map, 2 * BITS, 3 * BITS - 1));
	memset(model + 2 * BITS, 1, BITS);
	harness_page_fail(false);
	expect_is(test, map, model);
	KUNIT_EXPECT_EQ(test, atomic64_read(&map->fallbacks), 0);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_try_mark(map, BITS, BITS + 1));
	model[BITS] = 1;
	model[BITS + 1] = 1;
	expect_is(test, map, model);
	blkcbt_map_mark_all(map);
	harness_page_fail(true);
	KUNIT_EXPECT_TRUE(test, blkcbt_map_try_mark(map, 0, BITS));
}

/* The first in one and not in the other, from every place, against the model. */
static void expect_only(struct kunit *test, const struct blkcbt_map *a, const unsigned char *in_a,
			const struct blkcbt_map *b, const unsigned char *in_b, u64 last)
{
	u64 g, want = last + 1;

	for (g = last + 1; g-- > 0; ) {
		if ((!in_a || in_a[g]) && !in_b[g])
			want = g;
		KUNIT_ASSERT_EQ_MSG(test, blkcbt_map_next_only(a, b, g, last), want,
				    "from %llu to %llu", g, last);
	}
}

static void next_only(struct kunit *test)
{
	u64 nr = 2 * BITS + 70;
	unsigned char *in_a = new_model(test, nr), *in_b = new_model(test, nr);
	unsigned int round, i;
	u64 g;

	for (round = 0; round < 8; round++) {
		struct blkcbt_map *a = new_map(test, nr), *b = new_map(test, nr);

		memset(in_a, 0, nr);
		memset(in_b, 0, nr);
		for (i = 0; i < round * 4; i++) {
			g = rnd(test, nr);
			mark_both(a, in_a, g, any_end(test, g, nr));
			g = rnd(test, nr);
			mark_both(b, in_b, g, any_end(test, g, nr));
		}
		if (round == 5)
			mark_both(b, in_b, 0, BITS - 1);
		if (round == 6)
			mark_both(a, in_a, BITS, 2 * BITS - 1);
		expect_only(test, a, in_a, b, in_b, nr - 1);
		expect_only(test, a, in_a, b, in_b, rnd(test, nr));
		expect_only(test, NULL, NULL, b, in_b, nr - 1);
		free_maps(test);
	}
}

static void next_only_all(struct kunit *test)
{
	struct blkcbt_map *a = new_map(test, 100), *b = new_map(test, 100);

	KUNIT_EXPECT_EQ(test, blkcbt_map_next_only(a, b, 3, 99), 100);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_only(NULL, b, 3, 99), 3);
	blkcbt_map_mark_all(a);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_only(a, b, 3, 99), 3);
	blkcbt_map_mark(b, 3, 98);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_only(a, b, 3, 99), 99);
	blkcbt_map_mark_all(b);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_only(a, b, 0, 99), 100);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_only(NULL, b, 0, 99), 100);
}

static struct kunit_case map_cases[] = {
	KUNIT_CASE_PARAM(size_of_map, size_gen_params),
	KUNIT_CASE(size_refused),
	KUNIT_CASE(page_on_demand),
	KUNIT_CASE(whole_region),
	KUNIT_CASE_PARAM(one_range, range_gen_params),
	KUNIT_CASE(every_range_of_words),
	KUNIT_CASE(one_hole),
	KUNIT_CASE(next_across_regions),
	KUNIT_CASE(mark_all),
	KUNIT_CASE(no_memory),
	KUNIT_CASE(no_memory_for_range),
	KUNIT_CASE(huge),
	KUNIT_CASE(test_union),
	KUNIT_CASE(random_marks),
	KUNIT_CASE(random_granules),
	KUNIT_CASE_PARAM(put_back_regions, forget_gen_params),
	KUNIT_CASE(put_back_moves_pages),
	KUNIT_CASE(put_back_no_memory),
	KUNIT_CASE(put_back_all),
	KUNIT_CASE(put_back_random),
	KUNIT_CASE(try_mark_no_memory),
	KUNIT_CASE(next_only),
	KUNIT_CASE(next_only_all),
	{}
};

static struct kunit_suite map_suite = {
	.name = "map",
	.init = map_test_init,
	.exit = map_test_exit,
	.test_cases = map_cases,
};

kunit_test_suite(map_suite);
