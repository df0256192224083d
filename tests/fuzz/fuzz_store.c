// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The loader of the crash-safe store over whatever the fuzzer likes. The input damages a store that
 * was right, in as many places as it says; where it says so, the checksum of a damaged block is made
 * right again, so that what lies behind the checksums is reached. The loader must end and count what
 * it marks, and what it says is dirty must still be dirty after it was saved and loaded once more.
 *
 * LINK: kmod/map.c kmod/store_format.c kmod/store_load.c kmod/store_state.c
 */
#include <stdint.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include "kmod/store_state.h"

/* 520 regions of 32 extents of two granules: two intent pages. */
#define REGION		64u
#define GRANULES	(520ull * REGION - 3)
#define DISK_BYTES	(GRANULES * 4096)

unsigned int blkcbt_test_page_fail;

static struct blkcbt_store_geo geo;
static uint8_t *pristine, *disk;
static bool *touched;
static const uint8_t identity[BLKCBT_IDENTITY_BYTES] = "serial", boot[16] = "boot";

static int read_blocks(void *ctx, u64 block, u32 n, void *to)
{
	(void)ctx;
	if (block + n > geo.nr_blocks)
		abort();
	/* One that cannot be read. */
	if (disk[block * BLKCBT_STORE_BLOCK + 4095] == 0xee)
		return -EIO;
	memcpy(to, disk + block * BLKCBT_STORE_BLOCK, (size_t)n * BLKCBT_STORE_BLOCK);
	return 0;
}

static void put(uint8_t *to, u64 block, const void *from)
{
	memcpy(to + block * BLKCBT_STORE_BLOCK, from, BLKCBT_STORE_BLOCK);
	touched[block] = true;
}

static void save(struct blkcbt_store_state *st, const struct blkcbt_map *map, uint8_t *to)
{
	uint8_t buf[BLKCBT_STORE_BLOCK];
	u64 block;

	blkcbt_store_retire_all(st);
	for (u32 i = 0; i < geo.nr_regions; i++) {
		block = blkcbt_store_stage(st, i, map, NULL, 3, buf);
		if (block)
			put(to, block, buf);
	}
	for (u32 i = 0; i < geo.nr_pages; i++) {
		put(to, blkcbt_store_page_encode(st, i, 3, buf), buf);
		blkcbt_store_page_written(st, i);
	}
	st->super.head.seq = cpu_to_le64(le64_to_cpu(st->super.head.seq) + 1);
	for (u32 i = 0; i < BLKCBT_STORE_SUPERS; i++) {
		blkcbt_store_super_encode(&st->super, i, buf);
		put(to, i, buf);
	}
}

static void prepare(void)
{
	struct blkcbt_store_state *st;
	struct blkcbt_map *map = blkcbt_map_alloc(GRANULES);
	uint8_t buf[BLKCBT_STORE_BLOCK];

	if (blkcbt_store_geometry(&geo, DISK_BYTES, 4096, 8192))
		abort();
	pristine = calloc(geo.nr_blocks, BLKCBT_STORE_BLOCK);
	disk = calloc(geo.nr_blocks, BLKCBT_STORE_BLOCK);
	touched = calloc(geo.nr_blocks, sizeof(*touched));
	st = blkcbt_store_state_alloc(&geo);
	blkcbt_store_super_init(&st->super, (const uint8_t *)"a store's number", identity, DISK_BYTES, 4096, 8192);
	blkcbt_store_super_open(&st->super, true);
	blkcbt_store_begin_anew(st);
	for (u64 g = 0; g < GRANULES; g += 1501)
		blkcbt_map_mark(map, g, g + 2 < GRANULES ? g + 2 : g);
	save(st, map, pristine);
	save(st, map, pristine);
	blkcbt_store_intend(st, 1000, 1010);
	blkcbt_store_intend(st, GRANULES - 1, GRANULES - 1);
	for (u32 i = 0; i < geo.nr_pages; i++)
		put(pristine, blkcbt_store_page_encode(st, i, 3, buf), buf);
	blkcbt_store_state_free(st);
	blkcbt_map_free(map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct blkcbt_store_source src = { read_blocks, NULL, 0 };
	struct blkcbt_store_expect expect = {
		.identity = identity, .disk_bytes = DISK_BYTES, .granule_bytes = 4096, .boot = boot,
	};
	struct blkcbt_store_found found, again;
	struct blkcbt_store_super super;
	struct blkcbt_store_state *st;
	struct blkcbt_map *map, *second;
	uint8_t buf[BLKCBT_STORE_BLOCK];
	char why[BLKCBT_STORE_WHY_LEN];
	bool resave = bytes % 4 == 0;

	if (!pristine)
		prepare();
	/* Only what the last input has touched. */
	for (u64 block = 0; block < geo.nr_blocks; block++) {
		if (touched[block])
			memcpy(disk + block * BLKCBT_STORE_BLOCK, pristine + block * BLKCBT_STORE_BLOCK, BLKCBT_STORE_BLOCK);
		touched[block] = false;
	}
	src.nr_blocks = geo.nr_blocks;
	/* Damage: block, offset, whether it is sealed again, length, and what to write. */
	while (bytes > 5) {
		u64 block = (data[0] | data[1] << 8) % geo.nr_blocks;
		size_t at = (data[2] | (data[3] & 15) << 8) % BLKCBT_STORE_BLOCK, n = data[4];
		uint8_t *to = disk + block * BLKCBT_STORE_BLOCK;

		if (n > bytes - 5)
			n = bytes - 5;
		if (n > BLKCBT_STORE_BLOCK - at)
			n = BLKCBT_STORE_BLOCK - at;
		memcpy(to + at, data + 5, n);
		touched[block] = true;
		if (data[3] & 16)
			blkcbt_store_seal(to);
		if (data[3] & 32)
			src.nr_blocks = block;
		data += 5 + n;
		bytes -= 5 + n;
	}
	if (blkcbt_store_read_super(&src, &super, buf, why) ||
	    blkcbt_store_judge(&super, &src, &expect, why) != BLKCBT_STORE_TRUSTED)
		return 0;
	if (blkcbt_store_geometry(&geo, DISK_BYTES, 4096, le32_to_cpu(super.extent_bytes)) || geo.nr_blocks > src.nr_blocks)
		abort();
	st = blkcbt_store_state_alloc(&geo);
	map = blkcbt_map_alloc(GRANULES);
	second = blkcbt_map_alloc(GRANULES);
	if (!st || !map || !second)
		abort();
	st->super = super;
	if (blkcbt_store_load(&super, &src, st->pages, map, &found))
		abort();
	if (found.dirty != blkcbt_map_count(map))
		abort();
	if (!found.newer && resave) {
		blkcbt_store_begin(st, map);
		blkcbt_store_super_open(&st->super, false);
		save(st, map, disk);
		src.nr_blocks = geo.nr_blocks;
		if (le64_to_cpu(st->super.head.seq) && le64_to_cpu(st->super.head.generation) &&
		    disk[4095] != 0xee && disk[2 * BLKCBT_STORE_BLOCK - 1] != 0xee) {
			if (blkcbt_store_read_super(&src, &super, buf, why) ||
			    blkcbt_store_load(&super, &src, st->pages, second, &again) ||
			    blkcbt_map_next_only(map, second, 0, GRANULES - 1) != GRANULES)
				abort();
		}
	}
	blkcbt_store_state_free(st);
	blkcbt_map_free(map);
	blkcbt_map_free(second);
	if (blkcbt_store_geometry(&geo, DISK_BYTES, 4096, 8192))
		abort();
	return 0;
}
