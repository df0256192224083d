/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which record counts: random layers against a model that has one entry for each sector of each disk. Records are cut into
 * several pieces by older ones, are longer and shorter than they, with and without content, on several disks.
 *
 * Usage: test_undo_map [ROUNDS]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../random.h"
#include "undo_map.h"
#include "util.h"

#define DISKS 3u
#define SECTORS 400u
#define LAYERS 40u
#define SECTOR 512u

static unsigned rounds = 1500;
static uint64_t random_state = RANDOM_SEED;

static uint32_t random_below(uint32_t limit)
{
	return (uint32_t)((next_random(&random_state) >> 11) % limit);
}

/* For each sector: the record that counts, and which of its sectors it is. */
static struct cell {
	struct undo_record record;
	uint32_t skip;
	uint16_t layer; /* 0: none */
} model[DISKS][SECTORS];

static size_t make_layer(struct undo_record *records, uint16_t layer)
{
	uint32_t longest = 1 + random_below(random_below(3) ? 8 : 128), gap = 1 + random_below(random_below(3) ? 6 : 80);
	size_t count = 0;

	for (uint32_t disk = 0; disk < DISKS; disk++) {
		if (!random_below(4))
			continue;
		for (uint32_t at = random_below(gap); at < SECTORS;) {
			uint32_t length = 1 + random_below(longest);
			bool zero = !random_below(3);

			if (zero)
				length *= 1 + random_below(4);
			if (length > SECTORS - at)
				length = SECTORS - at;
			records[count] = (struct undo_record){
				.offset = at * SECTOR, .length = length * SECTOR, .disk = disk * 7,
				.place = zero ? 0 : 8192 + count * 65536 + layer * 512u, .crc = zero ? 0 : random_below(UINT32_MAX),
				.flags = zero ? UNDO_ZERO : 0 };
			for (uint32_t i = 0; i < length; i++)
				if (!model[disk][at + i].layer)
					model[disk][at + i] = (struct cell){ records[count], i * SECTOR, layer };
			count++;
			at += length + random_below(gap);
		}
	}
	return count;
}

static void check_piece(const struct undo_piece *piece)
{
	assert_true(piece->length && piece->length % SECTOR == 0 && piece->disk % 7 == 0 && piece->disk / 7 < DISKS);
	for (uint32_t i = 0; i < piece->length; i += SECTOR) {
		const struct cell *cell = &model[piece->disk / 7][(piece->offset + i) / SECTOR];

		assert_int_equal(cell->layer, piece->layer);
		assert_int_equal(cell->skip, piece->skip + i);
		assert_true(cell->record.place == piece->place && cell->record.crc == piece->crc &&
			    cell->record.length == piece->record_length && cell->record.flags == piece->flags);
	}
}

/* Walk over the disks in steps of what find answers, from random places and with random lengths. */
static void check_find(const struct undo_map *map)
{
	for (uint32_t disk = 0; disk < DISKS; disk++)
		for (uint64_t at = random_below(SECTORS); at < SECTORS;) {
			uint64_t wanted = (1 + random_below(2 * SECTORS)) * SECTOR, length = wanted;
			struct undo_piece piece;
			bool found = undo_map_find(map, disk * 7, at * SECTOR, &length, &piece);

			assert_true(length && length <= wanted && length % SECTOR == 0);
			if (found) {
				assert_true(piece.offset == at * SECTOR && piece.length == length && piece.disk == disk * 7);
				check_piece(&piece);
			}
			for (uint64_t i = 0; !found && i < length / SECTOR && at + i < SECTORS; i++)
				assert_int_equal(model[disk][at + i].layer, 0);
			at += length / SECTOR;
		}
}

static void check_order(const struct undo_map *map)
{
	size_t sectors[2] = { 0, 0 };

	assert_true(map->count <= 1);
	for (size_t i = 0; map->count && i < map->runs[0].count; i++) {
		const struct undo_piece *piece = &map->runs[0].pieces[i], *before = i ? piece - 1 : NULL;

		check_piece(piece);
		sectors[0] += piece->length / SECTOR;
		assert_true(!before || before->disk < piece->disk ||
			    (before->disk == piece->disk && before->offset + before->length <= piece->offset));
	}
	for (uint32_t disk = 0; disk < DISKS; disk++)
		for (uint32_t i = 0; i < SECTORS; i++)
			sectors[1] += model[disk][i].layer != 0;
	assert_int_equal(sectors[0], sectors[1]);
}

static void test_random_layers_against_the_model(void **state)
{
	CLEANUP_FREE struct undo_record *records = calloc(DISKS * SECTORS, sizeof(*records));

	(void)state;
	for (unsigned round = 0; round < rounds; round++) {
		unsigned layers = 1 + random_below(LAYERS);
		struct undo_map map = { 0 };

		memset(model, 0, sizeof(model));
		for (uint16_t layer = 1; layer <= layers; layer++) {
			size_t count = make_layer(records, layer);

			assert_int_equal(undo_map_add(&map, records, count, layer), 0);
			check_find(&map);
			/* Joined in between, too: more is added behind it. */
			if (!random_below(20)) {
				assert_int_equal(undo_map_join(&map), 0);
				check_order(&map);
			}
		}
		assert_int_equal(undo_map_join(&map), 0);
		check_order(&map);
		check_find(&map);
		undo_map_clear(&map);
		assert_int_equal(map.count, 0);
	}
}

static void test_what_is_in_between_shows(void **state)
{
	const struct undo_record old[] = {
		{ .offset = 4096, .length = 4096, .place = 8192, .disk = 1, .crc = 1 },
		{ .offset = 12288, .length = 4096, .disk = 1, .flags = UNDO_ZERO },
	}, new[] = { { .offset = 0, .length = 65536, .place = 65536, .disk = 1, .crc = 2 } };
	static const struct {
		uint64_t offset, length, skip;
		uint16_t layer;
	} expected[] = { { 0, 4096, 0, 9 }, { 4096, 4096, 0, 5 }, { 8192, 4096, 8192, 9 }, { 12288, 4096, 0, 5 },
			 { 16384, 49152, 16384, 9 } };
	struct undo_map map = { 0 };
	struct undo_piece piece;
	uint64_t length = UINT64_MAX;

	(void)state;
	assert_false(undo_map_find(&map, 1, 0, &length, &piece));
	assert_true(length == UINT64_MAX);
	assert_int_equal(undo_map_join(&map), 0);
	assert_int_equal(undo_map_add(&map, old, 2, 5), 0);
	assert_int_equal(undo_map_add(&map, new, 1, 9), 0);
	for (unsigned joined = 0; joined < 2; joined++) {
		for (unsigned i = 0; i < ARRAY_LENGTH(expected); i++) {
			length = UINT64_MAX;
			assert_true(undo_map_find(&map, 1, expected[i].offset, &length, &piece));
			assert_true(length == expected[i].length && piece.length == length && piece.skip == expected[i].skip &&
				    piece.layer == expected[i].layer);
		}
		length = UINT64_MAX;
		assert_false(undo_map_find(&map, 1, 65536, &length, &piece));
		assert_true(length == UINT64_MAX);
		length = 1 << 20;
		assert_false(undo_map_find(&map, 0, 0, &length, &piece));
		assert_false(undo_map_find(&map, 2, 0, &length, &piece));
		assert_int_equal(undo_map_join(&map), 0);
	}
	assert_int_equal(map.runs[0].count, 5);
	undo_map_clear(&map);
}

/* Many records that come one by one and in no order, and few runs at any time. */
static void test_many_small_layers_stay_cheap(void **state)
{
	struct undo_map map = { 0 };
	size_t most = 0, count = 100000;
	uint64_t length;
	struct undo_piece piece;

	(void)state;
	for (size_t i = 0; i < count; i++) {
		struct undo_record record = { .offset = i * 7919 % count * 8192, .length = 4096, .place = 8192, .disk = 0 };

		assert_int_equal(undo_map_add(&map, &record, 1, (uint16_t)(i % 1000)), 0);
		if (map.count > most)
			most = map.count;
	}
	assert_true(most < 20);
	assert_true(undo_map_bytes(&map) < count * 41);
	for (size_t i = 0; i < count; i++) {
		length = 1 << 20;
		assert_true(undo_map_find(&map, 0, i * 8192, &length, &piece));
		assert_int_equal(length, 4096);
	}
	undo_map_clear(&map);
	assert_int_equal(sizeof(struct undo_piece), 40);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_layers_against_the_model),
		cmocka_unit_test(test_what_is_in_between_shows),
		cmocka_unit_test(test_many_small_layers_stay_cheap),
	};

	if (argc > 1)
		rounds = (unsigned)strtoul(argv[1], NULL, 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
