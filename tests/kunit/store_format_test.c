// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The store's format (kmod/store_format.c, kmod/store_load.c): sizes, superblocks, and that a page
 * which cannot be trusted makes dirty what it covers, and nothing else.
 */
#include "../../kmod/store_format.h"
#include "harness.h"

#define MIB		(1024ull * 1024)
#define TIB		(MIB * 1024 * 1024)
/* Two intent pages: 600 regions of 32 extents of one granule. */
#define REGIONS		600u
#define GRANULES	(REGIONS * 32ull)
#define DISK_BYTES	(GRANULES * 4096)

struct store {
	struct blkcbt_store_geo geo;
	u8 *block;
	u64 unreadable;
	struct blkcbt_store_super super;
	struct blkcbt_store_source src;
	struct blkcbt_store_page *pages;
	struct blkcbt_map *map;
	struct blkcbt_store_found found;
	u8 identity[BLKCBT_IDENTITY_BYTES];
	u8 boot[16];
	char why[BLKCBT_STORE_WHY_LEN];
	u8 buf[BLKCBT_STORE_BLOCK];
	struct blkcbt_store_page good;
};

static int store_read(void *ctx, u64 block, u32 n, void *to)
{
	struct store *s = ctx;

	if (block <= s->unreadable && s->unreadable < block + n)
		return -EIO;
	memcpy(to, s->block + block * BLKCBT_STORE_BLOCK, (size_t)n * BLKCBT_STORE_BLOCK);
	return 0;
}

static void *block_at(struct store *s, u64 block)
{
	return s->block + block * BLKCBT_STORE_BLOCK;
}

static void put_supers(struct store *s, u32 copy, u64 seq)
{
	struct blkcbt_store_super *to = block_at(s, copy);

	s->super.head.seq = cpu_to_le64(seq);
	memcpy(to, &s->super, sizeof(*to));
	to->head.index = cpu_to_le32(copy);
	blkcbt_store_seal(to);
}

/* An intent page of clean regions, to be changed and sealed. */
static struct blkcbt_store_page *put_intents(struct store *s, u32 page, u64 seq)
{
	struct blkcbt_store_page *to = block_at(s, blkcbt_store_page_block(&s->geo, page, seq));
	u32 i;

	to->head = s->super.head;
	to->head.magic = cpu_to_le32(BLKCBT_STORE_INTENT_MAGIC);
	to->head.seq = cpu_to_le64(seq);
	to->head.index = cpu_to_le32(page);
	for (i = 0; i < BLKCBT_STORE_RECORDS; i++) {
		to->record[i].intents = 0;
		to->record[i].fine = cpu_to_le32(BLKCBT_STORE_CLEAN);
	}
	blkcbt_store_seal(to);
	return to;
}

static struct blkcbt_store_fine *put_bits(struct store *s, u32 region, u32 seq, u8 bits)
{
	struct blkcbt_store_fine *to = block_at(s, blkcbt_store_fine_block(&s->geo, region, seq));

	memset(to, 0, sizeof(*to));
	to->head = s->super.head;
	to->head.magic = cpu_to_le32(BLKCBT_STORE_FINE_MAGIC);
	to->head.seq = cpu_to_le64(seq);
	to->head.index = cpu_to_le32(region);
	to->bits[0] = bits;
	blkcbt_store_seal(to);
	return to;
}

static int store_format_test_init(struct kunit *test)
{
	struct store *s = kunit_kzalloc(test, sizeof(*s), GFP_KERNEL);

	if (!s || blkcbt_store_geometry(&s->geo, DISK_BYTES, 4096, 4096))
		return -ENOMEM;
	test->priv = s;
	s->block = blkcbt_pure_zalloc(s->geo.nr_blocks * BLKCBT_STORE_BLOCK);
	s->pages = blkcbt_pure_zalloc(s->geo.nr_pages * sizeof(*s->pages));
	s->map = blkcbt_map_alloc(GRANULES);
	if (!s->block || !s->pages || !s->map)
		return -ENOMEM;
	s->unreadable = ~0ull;
	s->src.read = store_read;
	s->src.ctx = s;
	s->src.nr_blocks = s->geo.nr_blocks;
	memcpy(s->identity, "serial 1", 8);
	memcpy(s->boot, "boot 1", 6);
	s->super.head.magic = cpu_to_le32(BLKCBT_STORE_SUPER_MAGIC);
	memcpy(s->super.head.uuid, "a store's number", 16);
	memcpy(s->super.identity, s->identity, sizeof(s->identity));
	s->super.head.generation = cpu_to_le64(5);
	s->super.base_generation = cpu_to_le64(3);
	s->super.version = cpu_to_le32(BLKCBT_STORE_VERSION);
	s->super.disk_bytes = cpu_to_le64(DISK_BYTES);
	s->super.granule_bytes = cpu_to_le32(4096);
	s->super.extent_bytes = cpu_to_le32(4096);
	put_supers(s, 0, 1);
	put_supers(s, 1, 1);
	put_intents(s, 0, 7);
	put_intents(s, 1, 7);
	return 0;
}

static void store_format_test_exit(struct kunit *test)
{
	struct store *s = test->priv;

	if (!s)
		return;
	blkcbt_pure_free(s->block);
	blkcbt_pure_free(s->pages);
	blkcbt_map_free(s->map);
}

static void load(struct kunit *test)
{
	struct store *s = test->priv;

	blkcbt_map_free(s->map);
	s->map = blkcbt_map_alloc(GRANULES);
	KUNIT_ASSERT_EQ(test, blkcbt_store_read_super(&s->src, &s->super, s->buf, s->why), 0);
	KUNIT_ASSERT_EQ(test, blkcbt_store_load(&s->super, &s->src, s->pages, s->map, &s->found),
			0);
}

/* Exactly the granules [first, last] are dirty; none if last is less. */
static void expect_dirty(struct kunit *test, u64 first, u64 last)
{
	struct store *s = test->priv;

	KUNIT_EXPECT_EQ(test, s->found.dirty, last + 1 - first);
	KUNIT_EXPECT_EQ(test, blkcbt_map_count(s->map), last + 1 - first);
	if (last + 1 == first)
		return;
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_dirty(s->map, 0), first);
	KUNIT_EXPECT_EQ(test, blkcbt_map_next_clean(s->map, first), last + 1);
}

/*
 * Sizes
 */

struct size_row {
	const char *name;
	u64 disk_bytes;
	u32 granule_bytes;
	u32 extent_bytes;
	int error;
	u32 region_extents;
	u32 nr_regions;
	u64 store_kib_max;
};

static const struct size_row sizes[] = {
	{ "one sector", 512, 4096, 4 * MIB, 0, 31, 1, 64 },
	{ "1 GiB", 1024 * MIB, 4096, 4 * MIB, 0, 31, 9, 128 },
	{ "1 TiB", TIB, 4096, 4 * MIB, 0, 31, 8457, 68 * 1024 },
	{ "16 TiB", 16 * TIB, 4096, 4 * MIB, 0, 31, 135301, 1060 * 1024 },
	{ "16 TiB, extents of 64 MiB", 16 * TIB, 4096, 64 * MIB, 0, 1, 262144, 2060 * 1024 },
	{ "granules of 1 MiB", TIB, MIB, 4 * MIB, 0, 32, 8192, 66 * 1024 },
	{ "extents of a granule", 1024 * MIB, 65536, 65536, 0, 32, 512, 5 * 1024 },
	{ "no disk", 0, 4096, 4 * MIB, -EINVAL, 0, 0, 0 },
	{ "odd granule", TIB, 5000, 4 * MIB, -EINVAL, 0, 0, 0 },
	{ "odd extent", TIB, 4096, 3 * MIB, -EINVAL, 0, 0, 0 },
	{ "no extent", TIB, 4096, 0, -EINVAL, 0, 0, 0 },
	{ "extent below a granule", TIB, 65536, 4096, -EINVAL, 0, 0, 0 },
	{ "extent too large for a page", TIB, 4096, 128 * MIB, -EINVAL, 0, 0, 0 },
	{ "disk too large for its extents", 1ull << 60, 4096, 4096, -EFBIG, 0, 0, 0 },
};

static void size_desc(const struct size_row *row, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s", row->name);
}

KUNIT_ARRAY_PARAM(size, sizes, size_desc);

static void size(struct kunit *test)
{
	const struct size_row *row = test->param_value;
	struct blkcbt_store_geo geo;
	u64 first, last;

	KUNIT_ASSERT_EQ(test, blkcbt_store_geometry(&geo, row->disk_bytes, row->granule_bytes,
						    row->extent_bytes), row->error);
	if (row->error)
		return;
	KUNIT_EXPECT_EQ(test, geo.region_extents, row->region_extents);
	KUNIT_EXPECT_EQ(test, geo.nr_regions, row->nr_regions);
	KUNIT_EXPECT_TRUE(test, geo.nr_blocks * 4 <= row->store_kib_max);
	/* Every granule is in a region, every region has one. */
	KUNIT_EXPECT_EQ(test, blkcbt_store_region_last(&geo, geo.nr_regions - 1),
			geo.nr_granules - 1);
	KUNIT_EXPECT_TRUE(test, blkcbt_store_extent(&geo, geo.nr_regions - 1, 0, &first, &last));
	KUNIT_EXPECT_TRUE(test, geo.region_granules <= BLKCBT_STORE_FINE_BITS);
	/* No two blocks are one. */
	KUNIT_EXPECT_TRUE(test, blkcbt_store_page_block(&geo, geo.nr_pages - 1, 0) <
			  blkcbt_store_page_block(&geo, 0, 1));
	KUNIT_EXPECT_TRUE(test, blkcbt_store_page_block(&geo, geo.nr_pages - 1, 1) <
			  blkcbt_store_fine_block(&geo, 0, 0));
	KUNIT_EXPECT_TRUE(test, blkcbt_store_fine_block(&geo, geo.nr_regions - 1, 0) <
			  blkcbt_store_fine_block(&geo, 0, 1));
	KUNIT_EXPECT_EQ(test, blkcbt_store_fine_block(&geo, geo.nr_regions - 1, 1) + 1,
			geo.nr_blocks);
}

/* CRC32C of 4096 bytes, whose field for it is zero: as any other program computes it. */
static void checksum(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_store_head *head = (void *)s->buf;
	u32 i;

	blkcbt_store_seal(s->buf);
	KUNIT_EXPECT_EQ(test, le32_to_cpu(head->crc), 0x98f94189u);
	for (i = 0; i < BLKCBT_STORE_BLOCK * 8; i += 97) {
		s->buf[i / 8] ^= 1u << (i & 7);
		KUNIT_ASSERT_EQ_MSG(test, blkcbt_store_sealed(s->buf), false, "bit %u", i);
		s->buf[i / 8] ^= 1u << (i & 7);
	}
	KUNIT_EXPECT_TRUE(test, blkcbt_store_sealed(s->buf));
}

/*
 * Superblocks
 */

static void super_copies(struct kunit *test)
{
	struct store *s = test->priv;

	put_supers(s, 0, 9);
	load(test);
	KUNIT_EXPECT_EQ(test, le64_to_cpu(s->super.head.seq), 9);
	put_supers(s, 1, 10);
	load(test);
	KUNIT_EXPECT_EQ(test, le64_to_cpu(s->super.head.seq), 10);
	/* Torn while it was written, or not to be read: the other one counts. */
	((u8 *)block_at(s, 1))[4000] ^= 1;
	load(test);
	KUNIT_EXPECT_EQ(test, le64_to_cpu(s->super.head.seq), 9);
	s->unreadable = 1;
	load(test);
	KUNIT_EXPECT_EQ(test, le64_to_cpu(s->super.head.seq), 9);
	s->unreadable = 0;
	KUNIT_EXPECT_EQ(test, blkcbt_store_read_super(&s->src, &s->super, s->buf, s->why), -EIO);
}

static void super_none(struct kunit *test)
{
	struct store *s = test->priv;

	((u8 *)block_at(s, 0))[100] ^= 1;
	/* A copy in the other's place is none. */
	memcpy(block_at(s, 1), block_at(s, 0), BLKCBT_STORE_BLOCK);
	((u8 *)block_at(s, 1))[100] ^= 1;
	KUNIT_EXPECT_EQ(test, blkcbt_store_read_super(&s->src, &s->super, s->buf, s->why),
			-ENODATA);
	memset(block_at(s, 0), 0, 2 * BLKCBT_STORE_BLOCK);
	KUNIT_EXPECT_EQ(test, blkcbt_store_read_super(&s->src, &s->super, s->buf, s->why),
			-EMEDIUMTYPE);
	s->src.nr_blocks = 0;
	KUNIT_EXPECT_EQ(test, blkcbt_store_read_super(&s->src, &s->super, s->buf, s->why),
			-EMEDIUMTYPE);
}

static void super_newer(struct kunit *test)
{
	struct store *s = test->priv;

	s->super.version = cpu_to_le32(BLKCBT_STORE_VERSION + 1);
	put_supers(s, 1, 2);
	KUNIT_EXPECT_EQ(test, blkcbt_store_read_super(&s->src, &s->super, s->buf, s->why),
			-EPROTONOSUPPORT);
	s->super.version = cpu_to_le32(BLKCBT_STORE_VERSION);
	s->super.features = cpu_to_le32(1);
	put_supers(s, 1, 3);
	KUNIT_EXPECT_EQ(test, blkcbt_store_read_super(&s->src, &s->super, s->buf, s->why),
			-EPROTONOSUPPORT);
}

enum field { NOTHING, IDENTITY, SIZE, GRANULE, EXTENT, BLOCKS, MINIMUM, INVALID, DOUBT, WRITES,
	     SAVED_BOOT, SAVED_BOOT_WRITES, SAVED_COUNT, SAVED_COUNT_BOOT, SAVED_COUNT_WRITES,
	     SAVED_NONSENSE, BEGAN, BEGAN_BEFORE, BEGAN_TWICE };

struct judge_row {
	const char *name;
	enum field field;
	enum blkcbt_store_verdict verdict;
	const char *why;
};

static const struct judge_row verdicts[] = {
	{ "after a power cut", NOTHING, BLKCBT_STORE_TRUSTED, "" },
	{ "another disk", IDENTITY, BLKCBT_STORE_REFUSED, "another disk" },
	{ "resized", SIZE, BLKCBT_STORE_REFUSED, "bytes and had" },
	{ "another granule", GRANULE, BLKCBT_STORE_REFUSED, "granules" },
	{ "odd extents", EXTENT, BLKCBT_STORE_REFUSED, "makes no sense" },
	{ "truncated", BLOCKS, BLKCBT_STORE_REFUSED, "and needs" },
	{ "an old copy", MINIMUM, BLKCBT_STORE_RESYNC, "old copy" },
	{ "given up", INVALID, BLKCBT_STORE_RESYNC, "given up: the reason" },
	{ "an escape", DOUBT, BLKCBT_STORE_RESYNC, "not every write" },
	{ "written before", WRITES, BLKCBT_STORE_RESYNC, "not tracked" },
	{ "after a restart", SAVED_BOOT, BLKCBT_STORE_TRUSTED, "" },
	{ "after a restart, written before", SAVED_BOOT_WRITES, BLKCBT_STORE_RESYNC,
	  "not tracked" },
	{ "begun in this boot", BEGAN, BLKCBT_STORE_TRUSTED, "" },
	{ "begun in another boot, never opened", BEGAN_BEFORE, BLKCBT_STORE_RESYNC,
	  "started, and stopped again" },
	{ "begun in another boot, and then in this one", BEGAN_TWICE, BLKCBT_STORE_RESYNC,
	  "started, and stopped again" },
	{ "after an unload", SAVED_COUNT, BLKCBT_STORE_TRUSTED, "" },
	{ "after an unload, in another boot", SAVED_COUNT_BOOT, BLKCBT_STORE_RESYNC,
	  "restarted" },
	{ "after an unload, written since", SAVED_COUNT_WRITES, BLKCBT_STORE_RESYNC,
	  "not tracked" },
	{ "saved in no known way", SAVED_NONSENSE, BLKCBT_STORE_RESYNC, "not tracked" },
};

static void judge_desc(const struct judge_row *row, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s", row->name);
}

KUNIT_ARRAY_PARAM(judge, verdicts, judge_desc);

static void judge(struct kunit *test)
{
	const struct judge_row *row = test->param_value;
	struct store *s = test->priv;
	struct blkcbt_store_expect expect = {
		.identity = s->identity, .disk_bytes = DISK_BYTES, .granule_bytes = 4096,
		.boot = s->boot, .generation_min = 5,
	};
	static const u8 other[16] = "another boot";

	memcpy(s->super.saved_boot, s->boot, sizeof(s->boot));
	s->super.saved_writes = cpu_to_le64(1000);
	memcpy(s->super.reason, "the reason", 10);
	if (row->field >= SAVED_COUNT && row->field <= SAVED_COUNT_WRITES) {
		s->super.saved = cpu_to_le32(BLKCBT_STORE_SAVED_COUNT);
		expect.writes = 1000;
	}
	switch (row->field) {
	case IDENTITY:
		s->identity[7] = '2';
		break;
	case SIZE:
		expect.disk_bytes += 4096;
		break;
	case GRANULE:
		expect.granule_bytes = 8192;
		break;
	case EXTENT:
		s->super.extent_bytes = cpu_to_le32(12288);
		break;
	case BLOCKS:
		s->src.nr_blocks--;
		break;
	case MINIMUM:
		expect.generation_min = 6;
		break;
	case INVALID:
		s->super.flags = cpu_to_le32(BLKCBT_STORE_F_INVALID);
		break;
	case DOUBT:
		s->super.flags = cpu_to_le32(BLKCBT_STORE_F_DOUBT);
		break;
	case WRITES:
		expect.writes = 1;
		break;
	case SAVED_BOOT_WRITES:
		expect.writes = 1;
		s->super.saved = cpu_to_le32(BLKCBT_STORE_SAVED_BOOT);
		break;
	case SAVED_BOOT:
		s->super.saved = cpu_to_le32(BLKCBT_STORE_SAVED_BOOT);
		break;
	case SAVED_COUNT_BOOT:
		s->boot[0] = 'B';
		expect.writes = 0;
		break;
	case SAVED_COUNT_WRITES:
		expect.writes++;
		break;
	case BEGAN:
		blkcbt_store_super_mark(&s->super, s->boot);
		break;
	case BEGAN_BEFORE:
		blkcbt_store_super_mark(&s->super, other);
		break;
	case BEGAN_TWICE:
		memset(s->super.reason, 0, sizeof(s->super.reason));
		blkcbt_store_super_mark(&s->super, other);
		blkcbt_store_super_mark(&s->super, s->boot);
		break;
	case SAVED_NONSENSE:
		s->super.saved = cpu_to_le32(9);
		break;
	default:
		break;
	}
	s->why[0] = '\0';
	KUNIT_EXPECT_EQ(test, blkcbt_store_judge(&s->super, &s->src, &expect, s->why),
			row->verdict);
	KUNIT_EXPECT_TRUE_MSG(test, strstr(s->why, row->why), "%s", s->why);
}

/* Written once in a boot, and what opening it makes of it. */
static void mark(struct kunit *test)
{
	struct store *s = test->priv;
	u64 seq = le64_to_cpu(s->super.head.seq);

	KUNIT_EXPECT_TRUE(test, blkcbt_store_super_mark(&s->super, s->boot));
	KUNIT_EXPECT_EQ(test, le64_to_cpu(s->super.head.seq), seq + 1);
	KUNIT_EXPECT_FALSE(test, blkcbt_store_super_mark(&s->super, s->boot));
	KUNIT_EXPECT_EQ(test, le64_to_cpu(s->super.head.seq), seq + 1);
}

/*
 * Pages
 */

static void page_clean(struct kunit *test)
{
	struct store *s = test->priv;

	load(test);
	expect_dirty(test, 0, -1);
	KUNIT_EXPECT_EQ(test, s->found.in_use, 0);
	KUNIT_EXPECT_EQ(test, s->found.bad_pages, 0);
}

static void page_records(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_store_page *page = put_intents(s, 1, 8);

	/* Region 505, extent 3, and extent 40, which there is not. */
	page->record[1].intents = cpu_to_le32(1u << 3);
	blkcbt_store_seal(page);
	load(test);
	expect_dirty(test, 505 * 32 + 3, 505 * 32 + 3);
	KUNIT_EXPECT_EQ(test, s->found.in_use, 1);

	page->record[1].intents = 0;
	page->record[1].fine = cpu_to_le32(BLKCBT_STORE_ALL | 17);
	blkcbt_store_seal(page);
	load(test);
	expect_dirty(test, 505 * 32, 505 * 32 + 31);
}

/* The later of two slots; a later one that is torn, unreadable, foreign, void or elsewhere. */
static void page_slots(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_store_page *page = put_intents(s, 0, 8);
	u64 block = blkcbt_store_page_block(&s->geo, 0, 8);

	page->record[0].intents = cpu_to_le32(1);
	blkcbt_store_seal(page);
	s->good = *page;
	load(test);
	expect_dirty(test, 0, 0);

	page->head.crc ^= cpu_to_le32(1);
	load(test);
	expect_dirty(test, 0, -1);
	*page = s->good;
	s->unreadable = block;
	load(test);
	expect_dirty(test, 0, -1);
	s->unreadable = ~0ull;
	page->head.uuid[0] ^= 1;
	blkcbt_store_seal(page);
	load(test);
	expect_dirty(test, 0, -1);
	*page = s->good;
	page->head.generation = cpu_to_le64(2);
	blkcbt_store_seal(page);
	load(test);
	expect_dirty(test, 0, -1);
	*page = s->good;
	page->head.index = cpu_to_le32(1);
	blkcbt_store_seal(page);
	load(test);
	expect_dirty(test, 0, -1);
	/* Of slot 1, found in slot 0. */
	*page = s->good;
	page->head.seq = cpu_to_le64(9);
	blkcbt_store_seal(page);
	load(test);
	expect_dirty(test, 0, -1);
}

/* Neither slot: what the page covers is dirty, the rest is not. */
static void page_none(struct kunit *test)
{
	struct store *s = test->priv;

	memset(block_at(s, blkcbt_store_page_block(&s->geo, 0, 7)), 0, BLKCBT_STORE_BLOCK);
	load(test);
	expect_dirty(test, 0, 504 * 32 - 1);
	KUNIT_EXPECT_EQ(test, s->found.bad_pages, 1);
	put_intents(s, 0, 7);
	memset(block_at(s, blkcbt_store_page_block(&s->geo, 1, 7)), 0, BLKCBT_STORE_BLOCK);
	load(test);
	expect_dirty(test, 504 * 32, GRANULES - 1);
}

/* A page of a later generation than the superblock: that is an old copy. */
static void page_newer(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_store_page *page = put_intents(s, 0, 8);

	load(test);
	KUNIT_EXPECT_FALSE(test, s->found.newer);
	page->head.generation = cpu_to_le64(6);
	blkcbt_store_seal(page);
	load(test);
	KUNIT_EXPECT_TRUE(test, s->found.newer);
}

static void page_committed(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_store_page *page = put_intents(s, 0, 8);

	page->head.committed = cpu_to_le64(77);
	blkcbt_store_seal(page);
	load(test);
	KUNIT_EXPECT_EQ(test, s->found.committed, 77);
}

/* Only the very version that the record names. */
static void fine_version(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_store_page *page = put_intents(s, 0, 8);
	struct blkcbt_store_fine *fine;

	page->record[9].fine = cpu_to_le32(6);
	blkcbt_store_seal(page);
	put_bits(s, 9, 6, 1u << 2);
	load(test);
	expect_dirty(test, 9 * 32 + 2, 9 * 32 + 2);
	/* The next one, not named yet, is of no account. */
	put_bits(s, 9, 7, 0xff);
	load(test);
	expect_dirty(test, 9 * 32 + 2, 9 * 32 + 2);
	/* One before, or behind, or torn, or unreadable, or of another region. */
	put_bits(s, 9, 4, 0);
	load(test);
	expect_dirty(test, 9 * 32, 9 * 32 + 31);
	put_bits(s, 9, 8, 0);
	load(test);
	expect_dirty(test, 9 * 32, 9 * 32 + 31);
	fine = put_bits(s, 9, 6, 0);
	fine->bits[1000] ^= 1;
	load(test);
	expect_dirty(test, 9 * 32, 9 * 32 + 31);
	fine = put_bits(s, 9, 6, 0);
	s->unreadable = blkcbt_store_fine_block(&s->geo, 9, 6);
	load(test);
	expect_dirty(test, 9 * 32, 9 * 32 + 31);
	s->unreadable = ~0ull;
	fine->head.index = cpu_to_le32(10);
	blkcbt_store_seal(fine);
	load(test);
	expect_dirty(test, 9 * 32, 9 * 32 + 31);
	KUNIT_EXPECT_EQ(test, s->found.bad_pages, 1);
}

/* Many that lie together are read at a time; one bad among them is one bad. */
static void fine_many(struct kunit *test)
{
	struct store *s = test->priv;
	struct blkcbt_store_page *page = put_intents(s, 0, 8);
	u32 i;

	for (i = 0; i < 200; i++) {
		page->record[i].fine = cpu_to_le32(2);
		put_bits(s, i, 2, 0);
	}
	blkcbt_store_seal(page);
	load(test);
	expect_dirty(test, 0, -1);
	s->unreadable = blkcbt_store_fine_block(&s->geo, 100, 2);
	load(test);
	expect_dirty(test, 100 * 32, 100 * 32 + 31);
}

static struct kunit_case store_format_cases[] = {
	KUNIT_CASE_PARAM(size, size_gen_params),
	KUNIT_CASE(checksum),
	KUNIT_CASE(super_copies),
	KUNIT_CASE(super_none),
	KUNIT_CASE(super_newer),
	KUNIT_CASE_PARAM(judge, judge_gen_params),
	KUNIT_CASE(mark),
	KUNIT_CASE(page_clean),
	KUNIT_CASE(page_records),
	KUNIT_CASE(page_slots),
	KUNIT_CASE(page_none),
	KUNIT_CASE(page_newer),
	KUNIT_CASE(page_committed),
	KUNIT_CASE(fine_version),
	KUNIT_CASE(fine_many),
	{}
};

static struct kunit_suite store_format_suite = {
	.name = "store_format",
	.init = store_format_test_init,
	.exit = store_format_test_exit,
	.test_cases = store_format_cases,
};

kunit_test_suite(store_format_suite);
