// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Extents (kmod/extent.c): the enumeration of a map's dirty granules in bytes,
 * and the granules that a byte range holds whole.
 */
#include "../../kmod/extent.h"
#include "harness.h"

#define BITS	((u64)BLKCBT_MAP_PAGE_BITS)

struct fixture {
	struct blkcbt_map *map;
	struct blkcbt_extent_iter it;
	struct blkcbt_extent extent;
	struct harness_rnd rnd;
};

static int extent_test_init(struct kunit *test)
{
	struct fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);

	if (!f)
		return -ENOMEM;
	f->rnd.seed = 7;
	test->priv = f;
	return 0;
}

static void extent_test_exit(struct kunit *test)
{
	struct fixture *f = test->priv;

	if (f)
		blkcbt_map_free(f->map);
}

/* A clean disk of @size_bytes, about to be enumerated from its start. */
static struct fixture *new_disk(struct kunit *test, u64 size_bytes, unsigned int granule_shift)
{
	struct fixture *f = test->priv;
	u64 granule_bytes = 1ULL << granule_shift;

	blkcbt_map_free(f->map);
	f->map = blkcbt_map_alloc((size_bytes + granule_bytes - 1) >> granule_shift);
	KUNIT_ASSERT_NOT_NULL(test, f->map);
	f->it.map = f->map;
	f->it.size_bytes = size_bytes;
	f->it.granule_shift = granule_shift;
	f->it.pos_bytes = 0;
	return f;
}

static void expect_extent(struct kunit *test, u64 offset_bytes, u64 length_bytes)
{
	struct fixture *f = test->priv;

	KUNIT_ASSERT_EQ_MSG(test, blkcbt_extent_next(&f->it, &f->extent), true,
			    "extent at %llu", offset_bytes);
	KUNIT_EXPECT_EQ(test, f->extent.offset_bytes, offset_bytes);
	KUNIT_EXPECT_EQ(test, f->extent.length_bytes, length_bytes);
	KUNIT_EXPECT_EQ(test, f->it.pos_bytes, offset_bytes + length_bytes);
}

/* Over, and it stays over. */
static void expect_end(struct kunit *test)
{
	struct fixture *f = test->priv;

	KUNIT_EXPECT_FALSE(test, blkcbt_extent_next(&f->it, &f->extent));
	KUNIT_EXPECT_EQ(test, f->it.pos_bytes, f->it.size_bytes);
	KUNIT_EXPECT_FALSE(test, blkcbt_extent_next(&f->it, &f->extent));
}

struct disk {
	u64 size_bytes;
	unsigned int granule_shift;
};

static const struct disk disks[] = {
	{ 512, 12 },
	{ 4096, 12 },
	{ 4608, 12 },
	{ BITS << 12, 12 },
	{ (BITS << 12) + 512, 12 },
	{ (3 * BITS << 12) - 512, 12 },
	{ (100 << 16) + 4096, 16 },
	{ 1 << 20, 20 },
	{ (5 << 20) + 512, 20 },
};

static void disk_desc(const struct disk *disk, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%llu bytes in granules of %llu",
		 disk->size_bytes, 1ULL << disk->granule_shift);
}

KUNIT_ARRAY_PARAM(disk, disks, disk_desc);

static void empty_and_full(struct kunit *test)
{
	const struct disk *disk = test->param_value;
	struct fixture *f = new_disk(test, disk->size_bytes, disk->granule_shift);
	u64 last = f->map->nr_granules - 1;

	expect_end(test);
	/* the last granule ends with the disk */
	f->it.pos_bytes = 0;
	blkcbt_map_mark(f->map, last, last);
	expect_extent(test, last << disk->granule_shift,
		      disk->size_bytes - (last << disk->granule_shift));
	expect_end(test);
	/* one extent, however many regions */
	f->it.pos_bytes = 0;
	blkcbt_map_mark(f->map, 0, last);
	expect_extent(test, 0, disk->size_bytes);
	expect_end(test);
	f = new_disk(test, disk->size_bytes, disk->granule_shift);
	blkcbt_map_mark_all(f->map);
	expect_extent(test, 0, disk->size_bytes);
	expect_end(test);
}

/* Neighbours become one extent, also across words and regions; a gap of one granule parts. */
static void merging(struct kunit *test)
{
	struct fixture *f = new_disk(test, 4 * BITS << 12, 12);

	blkcbt_map_mark(f->map, 3, 3);
	blkcbt_map_mark(f->map, 4, 4);
	blkcbt_map_mark(f->map, 6, 6);
	blkcbt_map_mark(f->map, 63, 64);
	blkcbt_map_mark(f->map, BITS - 1, BITS - 1);
	blkcbt_map_mark(f->map, BITS, 2 * BITS - 1);	/* no page: whole */
	blkcbt_map_mark(f->map, 2 * BITS, 2 * BITS + 1);
	blkcbt_map_mark(f->map, 3 * BITS - 1, 3 * BITS - 1);
	blkcbt_map_mark(f->map, 3 * BITS + 1, 3 * BITS + 1);
	expect_extent(test, 3 << 12, 2 << 12);
	expect_extent(test, 6 << 12, 1 << 12);
	expect_extent(test, 63 << 12, 2 << 12);
	expect_extent(test, (BITS - 1) << 12, (BITS + 3) << 12);
	expect_extent(test, (3 * BITS - 1) << 12, 1 << 12);
	expect_extent(test, (3 * BITS + 1) << 12, 1 << 12);
	expect_end(test);
}

/* Granules of one sector at the end: the last extent is no longer than the disk. */
static void partial_last_granule(struct kunit *test)
{
	struct fixture *f = new_disk(test, (100 << 12) + 512, 12);

	blkcbt_map_mark(f->map, 3, 4);
	blkcbt_map_mark(f->map, 99, 100);
	expect_extent(test, 3 << 12, 2 << 12);
	expect_extent(test, 99 << 12, (1 << 12) + 512);
	expect_end(test);
}

struct position {
	u64 pos_bytes, offset_bytes, length_bytes;	/* length 0: the end */
};

/* Dirty: granules 3, 4 and 100, the last, of one sector. */
static const struct position positions[] = {
	{ 0, 3 << 12, 2 << 12 },
	{ (3 << 12) - 1, 3 << 12, 2 << 12 },
	{ 3 << 12, 3 << 12, 2 << 12 },
	/* within a granule: from its start */
	{ (3 << 12) + 1, 3 << 12, 2 << 12 },
	{ (4 << 12) - 1, 3 << 12, 2 << 12 },
	/* within a run: the rest of it */
	{ 4 << 12, 4 << 12, 1 << 12 },
	{ (4 << 12) + 4095, 4 << 12, 1 << 12 },
	{ 5 << 12, 100 << 12, 512 },
	{ 100 << 12, 100 << 12, 512 },
	{ (100 << 12) + 511, 100 << 12, 512 },
	/* at the end and behind it */
	{ (100 << 12) + 512, 0, 0 },
	{ (100 << 12) + 513, 0, 0 },
	{ ~0ULL, 0, 0 },
};

static void position_desc(const struct position *position, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "from %llu", position->pos_bytes);
}

KUNIT_ARRAY_PARAM(position, positions, position_desc);

static void resume(struct kunit *test)
{
	const struct position *p = test->param_value;
	struct fixture *f = new_disk(test, (100 << 12) + 512, 12);

	blkcbt_map_mark(f->map, 3, 4);
	blkcbt_map_mark(f->map, 100, 100);
	f->it.pos_bytes = p->pos_bytes;
	if (p->length_bytes)
		expect_extent(test, p->offset_bytes, p->length_bytes);
	else
		KUNIT_EXPECT_FALSE(test, blkcbt_extent_next(&f->it, &f->extent));
}

/* A position behind the disk's end is not taken back: the enumeration is over. */
static void position_behind_end_stays(struct kunit *test)
{
	struct fixture *f = new_disk(test, 4096, 12);

	blkcbt_map_mark_all(f->map);
	f->it.pos_bytes = 1 << 20;
	KUNIT_EXPECT_FALSE(test, blkcbt_extent_next(&f->it, &f->extent));
	KUNIT_EXPECT_EQ(test, f->it.pos_bytes, 1 << 20);
}

/* What the reader of the character device does: some records, later the next ones. */
static void enumerate_in_pieces(struct kunit *test)
{
	struct fixture *f = new_disk(test, 2 * BITS << 12, 12);
	u64 g;

	for (g = 0; g < 2 * BITS; g += 100)
		blkcbt_map_mark(f->map, g, g + g % 3);
	for (g = 0; g < 2 * BITS; g += 100) {
		struct blkcbt_extent_iter it = {
			.map = f->map,
			.size_bytes = f->it.size_bytes,
			.pos_bytes = f->it.pos_bytes,
			.granule_shift = 12,
		};

		f->it = it;
		expect_extent(test, g << 12, (1 + g % 3) << 12);
	}
	expect_end(test);
}

/* Beyond 32 bits of granules and far beyond 32 bits of bytes. */
static void huge(struct kunit *test)
{
	static const struct disk huge_disks[] = {
		{ (16ULL << 40) + 512, 12 },
		{ 64ULL << 40, 12 },
		{ (1ULL << 50) + 512, 16 },
		{ 1ULL << 54, 20 },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(huge_disks); i++) {
		u64 size_bytes = huge_disks[i].size_bytes;
		unsigned int shift = huge_disks[i].granule_shift;
		struct fixture *f = new_disk(test, size_bytes, shift);
		u64 last = f->map->nr_granules - 1;
		u64 first, end;

		blkcbt_map_mark(f->map, 1, 1);
		blkcbt_map_mark(f->map, last / 2, last / 2 + 1);
		blkcbt_map_mark(f->map, last, last);
		expect_extent(test, 1ULL << shift, 1ULL << shift);
		expect_extent(test, last / 2 << shift, 2ULL << shift);
		expect_extent(test, last << shift, size_bytes - (last << shift));
		expect_end(test);
		blkcbt_extent_inner(0, size_bytes, size_bytes, shift, &first, &end);
		KUNIT_EXPECT_EQ(test, first, 0);
		KUNIT_EXPECT_EQ(test, end, last + 1);
		blkcbt_extent_inner((last << shift) - 1, size_bytes, size_bytes, shift,
				    &first, &end);
		KUNIT_EXPECT_EQ(test, first, last);
		KUNIT_EXPECT_EQ(test, end, last + 1);
	}
}

/* Random runs against one byte a granule. */
static void random_runs(struct kunit *test)
{
	u64 nr = 5000, g;
	unsigned char *model = kunit_kzalloc(test, nr, GFP_KERNEL);
	int round, i;

	KUNIT_ASSERT_NOT_NULL(test, model);
	for (round = 0; round < 40; round++) {
		unsigned int shift = 12 + round % 9;
		u64 size_bytes = (nr << shift) - (round % 8) * 512;
		struct fixture *f = new_disk(test, size_bytes, shift);
		u64 seen_to = 0;

		memset(model, 0, nr);
		for (i = 0; i < round * 4; i++) {
			u64 first = harness_rnd(&f->rnd, nr);
			u64 last = first + harness_rnd(&f->rnd, 30);

			if (last >= nr)
				last = nr - 1;
			blkcbt_map_mark(f->map, first, last);
			memset(model + first, 1, last - first + 1);
		}
		while (blkcbt_extent_next(&f->it, &f->extent)) {
			u64 first = f->extent.offset_bytes >> shift;
			u64 bytes = f->extent.offset_bytes + f->extent.length_bytes;
			u64 end = (bytes + (1ULL << shift) - 1) >> shift;

			KUNIT_ASSERT_EQ(test, first << shift, f->extent.offset_bytes);
			KUNIT_ASSERT_EQ(test, bytes == size_bytes || end << shift == bytes, true);
			KUNIT_ASSERT_LT(test, first, end);
			/* clean up to here, and at least one granule from the last extent */
			KUNIT_ASSERT_EQ(test, first > seen_to || !seen_to, true);
			for (g = seen_to; g < first; g++)
				KUNIT_ASSERT_EQ_MSG(test, model[g], 0, "granule %llu", g);
			for (g = first; g < end; g++)
				KUNIT_ASSERT_EQ_MSG(test, model[g], 1, "granule %llu", g);
			seen_to = end;
		}
		for (g = seen_to; g < nr; g++)
			KUNIT_ASSERT_EQ_MSG(test, model[g], 0, "granule %llu", g);
	}
}

#define INNER_SIZE	((u64)(100 << 12) + 512)

struct inner {
	u64 from_bytes, to_bytes, first, end;	/* first == end: none */
};

static const struct inner inners[] = {
	{ 0, INNER_SIZE, 0, 101 },
	{ 0, INNER_SIZE - 1, 0, 100 },
	{ 0, ~0ULL, 0, 101 },
	{ 1, INNER_SIZE, 1, 101 },
	{ 4095, 4096, 0, 0 },
	{ 4096, 8192, 1, 2 },
	{ 4096, 8191, 0, 0 },
	{ 4097, 8192, 0, 0 },
	{ 1, 3 << 12, 1, 3 },
	{ 1, 4095, 0, 0 },
	{ 0, 0, 0, 0 },
	{ 100 << 12, INNER_SIZE, 100, 101 },
	{ (100 << 12) + 1, INNER_SIZE, 0, 0 },
	{ 100 << 12, INNER_SIZE - 1, 0, 0 },
	{ 8192, 4096, 0, 0 },
	{ ~0ULL, ~0ULL, 0, 0 },
};

static void inner_desc(const struct inner *inner, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%llu to %llu", inner->from_bytes, inner->to_bytes);
}

KUNIT_ARRAY_PARAM(inner, inners, inner_desc);

static void inner_granules(struct kunit *test)
{
	const struct inner *p = test->param_value;
	u64 first, end;

	blkcbt_extent_inner(p->from_bytes, p->to_bytes, INNER_SIZE, 12, &first, &end);
	if (p->first == p->end) {
		KUNIT_EXPECT_GE(test, first, end);
		return;
	}
	KUNIT_EXPECT_EQ(test, first, p->first);
	KUNIT_EXPECT_EQ(test, end, p->end);
}

/* Every range in units of 512 bytes on two small disks, granule by granule. */
static void inner_every_range(struct kunit *test)
{
	static const u64 disk_sizes[] = { 4 * 4096, 4 * 4096 + 512 };
	u64 from, to, g, first, end;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(disk_sizes); i++) {
		u64 size = disk_sizes[i], nr = (size + 4095) / 4096;

		for (from = 0; from <= size + 512; from += 512) {
			for (to = 0; to <= size + 512; to += 512) {
				blkcbt_extent_inner(from, to, size, 12, &first, &end);
				for (g = 0; g < nr; g++) {
					u64 g_end = min_t(u64, g * 4096 + 4096, size);
					bool whole = from <= g * 4096 && to >= g_end;

					KUNIT_ASSERT_EQ_MSG(test, g >= first && g < end, whole,
							    "granule %llu in %llu to %llu",
							    g, from, to);
				}
			}
		}
	}
}

static struct kunit_case extent_cases[] = {
	KUNIT_CASE_PARAM(empty_and_full, disk_gen_params),
	KUNIT_CASE(merging),
	KUNIT_CASE(partial_last_granule),
	KUNIT_CASE_PARAM(resume, position_gen_params),
	KUNIT_CASE(position_behind_end_stays),
	KUNIT_CASE(enumerate_in_pieces),
	KUNIT_CASE(huge),
	KUNIT_CASE(random_runs),
	KUNIT_CASE_PARAM(inner_granules, inner_gen_params),
	KUNIT_CASE(inner_every_range),
	{}
};

static struct kunit_suite extent_suite = {
	.name = "extent",
	.init = extent_test_init,
	.exit = extent_test_exit,
	.test_cases = extent_cases,
};

kunit_test_suite(extent_suite);
