/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of the agent's slicer: what a slice covers, no byte twice, none left out. */
/* LINK: userspace/agent/slicer.c */
#include "userspace/agent/slicer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define G 4096u

struct list {
	const uint64_t (*extents)[2];
	size_t count, next;
};

static int list_next(uint64_t *offset, uint64_t *length, void *user)
{
	struct list *list = user;

	if (list->next == list->count)
		return 0;
	*offset = list->extents[list->next][0];
	*length = list->extents[list->next++][1];
	return 1;
}

static int fails(uint64_t *offset, uint64_t *length, void *user)
{
	(void)offset;
	(void)length;
	(void)user;
	return -5;
}

static void share_gives_small_needs_in_full(void **state)
{
	const uint64_t dirty[] = { 1000, 10, 0, 5000 };
	uint64_t share[4];

	(void)state;
	slicer_share(dirty, 4, 10000, share);
	assert_memory_equal(share, dirty, sizeof(share));
	slicer_share(dirty, 4, 3000, share);
	assert_int_equal(share[0], 1000);
	assert_int_equal(share[1], 10);
	assert_int_equal(share[2], 0);
	assert_int_equal(share[3], 1990);
	slicer_share(dirty, 4, 300, share);
	assert_int_equal(share[1], 10);
	assert_int_equal(share[0], 145);
	assert_int_equal(share[3], 145);
}

static void takes_all_that_fits(void **state)
{
	static const uint64_t extents[][2] = { { 0, 2 * G }, { 8 * G, G }, { 99 * G, 512 } };
	struct list list = { extents, 3, 0 };
	struct slice slice = { 0 };
	struct slice_cover cover;

	(void)state;
	assert_int_equal(slicer_take(&slice, 7, 99 * G + 512, G, 0, 100 * G, NULL, list_next, &list, &cover), 0);
	assert_int_equal(slice.count, 3);
	assert_int_equal(slice.bytes, 3 * G + 512);
	assert_int_equal(slice.extents[2].disk, 7);
	assert_true(cover.at_end);
	assert_int_equal(cover.from_bytes, 0);
	assert_int_equal(cover.to_bytes, 99 * G + 512);
	assert_int_equal(cover.next_bytes, 0);
	slice_free(&slice);
}

/* What is dirty is often exactly the budget: a share is what the disk needs. */
static void knows_that_it_took_all(void **state)
{
	static const uint64_t extents[][2] = { { G, 2 * G }, { 8 * G, G } };
	struct list list = { extents, 2, 0 };
	struct slice slice = { 0 };
	struct slice_cover cover;

	(void)state;
	slicer_take(&slice, 0, 100 * G, G, 0, 3 * G, NULL, list_next, &list, &cover);
	assert_int_equal(slice.bytes, 3 * G);
	assert_true(cover.at_end);
	assert_int_equal(cover.to_bytes, 100 * G);
	assert_int_equal(cover.next_bytes, 0);
	slice_free(&slice);

	list.next = 0;
	slicer_take(&slice, 0, 100 * G, G, 0, 2 * G, NULL, list_next, &list, &cover);
	assert_int_equal(slice.bytes, 2 * G);
	assert_false(cover.at_end);
	assert_int_equal(cover.next_bytes, 3 * G);
	slice_free(&slice);
}

static void cuts_at_a_granule_and_goes_on_there(void **state)
{
	static const uint64_t extents[][2] = { { 2 * G, 10 * G } }, rest[][2] = { { 5 * G, 7 * G } };
	struct list list = { extents, 1, 0 };
	struct slice slice = { 0 };
	struct slice_cover cover;

	(void)state;
	slicer_take(&slice, 0, 100 * G, G, 0, 3 * G + 100, NULL, list_next, &list, &cover);
	assert_int_equal(slice.bytes, 3 * G);
	assert_int_equal(cover.to_bytes, 5 * G);
	assert_int_equal(cover.next_bytes, 5 * G);
	assert_false(cover.at_end);
	list = (struct list){ rest, 1, 0 };
	slicer_take(&slice, 0, 100 * G, G, cover.next_bytes, 100 * G, NULL, list_next, &list, &cover);
	assert_int_equal(slice.bytes, 10 * G);
	assert_int_equal(cover.from_bytes, 5 * G);
	assert_true(cover.at_end);
	assert_int_equal(cover.next_bytes, 0);
	slice_free(&slice);
}

static void takes_a_granule_however_small_the_budget(void **state)
{
	static const uint64_t extents[][2] = { { 0, 4 * G } };
	struct list list = { extents, 1, 0 };
	struct slice slice = { 0 };
	struct slice_cover cover;

	(void)state;
	slicer_take(&slice, 0, 4 * G, G, 0, 1, NULL, list_next, &list, &cover);
	assert_int_equal(slice.bytes, G);
	list.next = 0;
	slicer_take(&slice, 0, 4 * G, G, 0, 0, NULL, list_next, &list, &cover);
	assert_int_equal(slice.bytes, G);
	assert_int_equal(cover.bytes, 0);
	slice_free(&slice);
}

static void goes_around_what_cannot_be_read(void **state)
{
	static const uint64_t extents[][2] = { { 0, 10 * G } };
	static const uint64_t bad_at[] = { 0, 4 * G };
	const struct slice_bad bad = { bad_at, 2, G };
	struct list list = { extents, 1, 0 };
	struct slice slice = { 0 };
	struct slice_cover cover;

	(void)state;
	slicer_take(&slice, 0, 10 * G, G, 0, 100 * G, &bad, list_next, &list, &cover);
	assert_int_equal(slice.count, 1);
	assert_int_equal(slice.extents[0].offset_bytes, G);
	assert_int_equal(slice.bytes, 3 * G);
	assert_int_equal(cover.from_bytes, G);
	assert_int_equal(cover.to_bytes, 4 * G);
	assert_int_equal(cover.next_bytes, 5 * G);
	assert_true(cover.skipped);
	assert_false(cover.at_end);
	slice_free(&slice);
}

static void only_unreadable_takes_nothing(void **state)
{
	static const uint64_t extents[][2] = { { 4 * G, G } };
	static const uint64_t bad_at[] = { 4 * G };
	const struct slice_bad bad = { bad_at, 1, G };
	struct list list = { extents, 1, 0 };
	struct slice slice = { 0 };
	struct slice_cover cover;

	(void)state;
	slicer_take(&slice, 0, 10 * G, G, 0, 100 * G, &bad, list_next, &list, &cover);
	assert_int_equal(slice.count, 0);
	assert_int_equal(cover.from_bytes, 5 * G);
	assert_true(cover.skipped);
	slice_free(&slice);
}

static void errors_come_through(void **state)
{
	struct slice slice = { 0 };
	struct slice_cover cover;

	(void)state;
	assert_int_equal(slicer_take(&slice, 0, G, G, 0, G, NULL, fails, NULL, &cover), -5);
}

/* Slices from a rotating cursor: a full turn covers every dirty granule exactly once. */
static void a_turn_covers_everything_once(void **state)
{
	uint8_t dirty[512], seen[512];

	(void)state;
	srand(7);
	for (int round = 0; round < 200; round++) {
		uint64_t cursor = 0, extents[512][2];
		unsigned turns = 0;

		for (int i = 0; i < 512; i++)
			dirty[i] = rand() % 3 == 0;
		memset(seen, 0, sizeof(seen));
		do {
			struct list list = { (const uint64_t(*)[2])extents, 0, 0 };
			struct slice slice = { 0 };
			struct slice_cover cover;

			for (uint64_t i = cursor / G; i < 512; i++) {
				if (!dirty[i])
					continue;
				if (list.count && extents[list.count - 1][0] + extents[list.count - 1][1] == i * G)
					extents[list.count - 1][1] += G;
				else
					extents[list.count][0] = i * G, extents[list.count++][1] = G;
			}
			assert_int_equal(slicer_take(&slice, 0, 512 * G, G, cursor, (uint64_t)(rand() % 60 + 1) * G,
						     NULL, list_next, &list, &cover), 0);
			for (size_t e = 0; e < slice.count; e++)
				for (uint64_t at = slice.extents[e].offset_bytes / G;
				     at < (slice.extents[e].offset_bytes + slice.extents[e].length_bytes) / G; at++)
					seen[at]++;
			slice_free(&slice);
			cursor = cover.next_bytes;
			assert_true(++turns < 1000);
		} while (cursor);
		assert_memory_equal(dirty, seen, sizeof(seen));
	}
}

static void add(struct slice *slice, uint32_t disk, uint64_t from, uint64_t to)
{
	if (!slice->extents)
		slice->extents = malloc(64 * sizeof(*slice->extents));
	slice->extents[slice->count++] = (struct slice_extent){ disk, from * G, (to - from) * G };
	slice->room = 64;
	slice->bytes += (to - from) * G;
}

static void is_at(const struct slice *slice, size_t at, uint32_t disk, uint64_t from, uint64_t to)
{
	assert_true(at < slice->count);
	assert_int_equal(slice->extents[at].disk, disk);
	assert_int_equal(slice->extents[at].offset_bytes, from * G);
	assert_int_equal(slice->extents[at].length_bytes, (to - from) * G);
}

static void what_was_written_before_comes_first(void **state)
{
	struct slice slice = { 0 }, before = { 0 };

	(void)state;
	add(&slice, 0, 0, 10);
	add(&slice, 0, 20, 24);
	add(&slice, 1, 0, 4);
	add(&slice, 1, 50, 60);
	/* as it was read: hot first, so not in order */
	add(&before, 1, 55, 99);
	add(&before, 0, 2, 4);
	add(&before, 0, 6, 7);
	add(&before, 0, 22, 30);
	assert_int_equal(slicer_hot_first(&slice, &before), (2 + 1 + 2 + 5) * G);
	assert_int_equal(slice.count, 10);
	assert_int_equal(slice.bytes, 28 * G);
	is_at(&slice, 0, 0, 2, 4);
	is_at(&slice, 1, 0, 6, 7);
	is_at(&slice, 2, 0, 22, 24);
	is_at(&slice, 3, 1, 55, 60);
	is_at(&slice, 4, 0, 0, 2);
	is_at(&slice, 5, 0, 4, 6);
	is_at(&slice, 6, 0, 7, 10);
	is_at(&slice, 7, 0, 20, 22);
	is_at(&slice, 8, 1, 0, 4);
	is_at(&slice, 9, 1, 50, 55);
	slice_free(&slice);
	slice_free(&before);
}

/* Whatever the two hold: every granule once, as before; hot ones in front. */
static void hot_first_keeps_every_granule(void **state)
{
	(void)state;
	srandom(7);
	for (int round = 0; round < 300; round++) {
		struct slice slice = { 0 }, before = { 0 };
		uint8_t now[2][200] = { 0 }, then[2][200] = { 0 }, seen[2][200] = { 0 };
		uint64_t hot, bytes = 0;

		for (uint32_t disk = 0; disk < 2; disk++)
			for (uint64_t at = (uint64_t)random() % 9; at < 190;) {
				uint64_t length = (uint64_t)random() % 9 + 1;

				if (random() % 2) {
					add(&slice, disk, at, at + length);
					memset(now[disk] + at, 1, length);
				}
				at += length + 1 + (uint64_t)random() % 9;
			}
		for (uint32_t disk = 0; disk < 2; disk++)
			for (uint64_t at = (uint64_t)random() % 9; at < 190;) {
				uint64_t length = (uint64_t)random() % 9 + 1;

				if (random() % 2) {
					add(&before, disk, at, at + length);
					memset(then[disk] + at, 1, length);
				}
				at += length + 1 + (uint64_t)random() % 9;
			}
		hot = slicer_hot_first(&slice, &before);
		for (size_t i = 0; i < slice.count; i++) {
			const struct slice_extent *e = &slice.extents[i];

			for (uint64_t g = e->offset_bytes / G; g < (e->offset_bytes + e->length_bytes) / G; g++) {
				assert_int_equal(seen[e->disk][g], 0);
				seen[e->disk][g] = 1;
				if (slice.count && before.count)
					assert_int_equal(then[e->disk][g], bytes < hot);
				bytes += G;
			}
		}
		assert_memory_equal(seen, now, sizeof(seen));
		assert_int_equal(bytes, slice.bytes);
		slice_free(&slice);
		slice_free(&before);
	}
}

static void zeros_are_found(void **state)
{
	static uint8_t data[1024 * 1024];
	bool zero;

	(void)state;
	assert_int_equal(zero_next(data, sizeof(data), &zero), sizeof(data));
	assert_true(zero);
	assert_int_equal(zero_next(data, 512, &zero), 512); /* small, but all of it */
	assert_true(zero);
	data[100000] = 1; /* block 24 */
	assert_int_equal(zero_next(data, sizeof(data), &zero), 24 * 4096);
	assert_true(zero);
	assert_int_equal(zero_next(data + 24 * 4096, sizeof(data) - 24 * 4096, &zero), 4096);
	assert_false(zero);
	data[100000 + 3 * 4096] = 1; /* 8 KiB of zeros between: not worth a frame */
	assert_int_equal(zero_next(data + 24 * 4096, sizeof(data) - 24 * 4096, &zero), 4 * 4096);
	assert_false(zero);
	memset(data, 1, sizeof(data));
	assert_int_equal(zero_next(data, sizeof(data), &zero), sizeof(data));
	assert_false(zero);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(share_gives_small_needs_in_full),
		cmocka_unit_test(takes_all_that_fits),
		cmocka_unit_test(knows_that_it_took_all),
		cmocka_unit_test(cuts_at_a_granule_and_goes_on_there),
		cmocka_unit_test(takes_a_granule_however_small_the_budget),
		cmocka_unit_test(goes_around_what_cannot_be_read),
		cmocka_unit_test(only_unreadable_takes_nothing),
		cmocka_unit_test(errors_come_through),
		cmocka_unit_test(a_turn_covers_everything_once),
		cmocka_unit_test(what_was_written_before_comes_first),
		cmocka_unit_test(hot_first_keeps_every_granule),
		cmocka_unit_test(zeros_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
