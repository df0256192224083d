/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The blocks of an undo log: what is encoded comes back, a flipped bit anywhere is noticed, and what is whole but makes no sense
 * is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "undo_format.h"
#include "util.h"
#include "wire.h"

static const uint8_t log_uuid[UNDO_UUID_BYTES] = "0123456789abcde";

/* Where the checksums are. */
#define HEAD_CRC_AT 12u
#define BATCH_CRC_AT 8u
#define FOOT_CRC_AT 8u

static void seal(uint8_t *block, size_t bytes, size_t crc_at)
{
	uint32_t crc;

	memset(block + crc_at, 0, 4);
	crc = htole32(wire_crc(block, bytes));
	memcpy(block + crc_at, &crc, 4);
}

static void put32(uint8_t *at, uint32_t value)
{
	value = htole32(value);
	memcpy(at, &value, sizeof(value));
}

static void put64(uint8_t *at, uint64_t value)
{
	value = htole64(value);
	memcpy(at, &value, sizeof(value));
}

/* ---- head ---------------------------------------------------------------------- */

static void make_head(uint8_t *out, uint32_t meta_bytes)
{
	CLEANUP_FREE char *meta = malloc(meta_bytes + 1);
	struct undo_head head = { .base = 7, .last = 9, .meta_bytes = meta_bytes };

	for (uint32_t i = 0; i < meta_bytes; i++)
		meta[i] = (char)('a' + i % 26);
	memcpy(head.log, log_uuid, sizeof(head.log));
	undo_head_encode(&head, meta, out);
}

static void test_head_comes_back(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 4032, 4033, UNDO_META_MAX };
	CLEANUP_FREE uint8_t *block = malloc(undo_head_room(UNDO_META_MAX));
	struct undo_head head;
	const char *meta;

	(void)state;
	for (unsigned i = 0; i < ARRAY_LENGTH(sizes); i++) {
		size_t room = undo_head_room(sizes[i]);

		assert_int_equal(room % UNDO_BLOCK, 0);
		make_head(block, sizes[i]);
		if (room > UNDO_BLOCK) {
			assert_int_equal(undo_head_decode(block, UNDO_BLOCK, &head, &meta), -EAGAIN);
			assert_int_equal(head.batches_at, room);
		}
		assert_int_equal(undo_head_decode(block, room, &head, &meta), 0);
		assert_memory_equal(head.log, log_uuid, sizeof(head.log));
		assert_int_equal(head.base, 7);
		assert_int_equal(head.last, 9);
		assert_int_equal(head.meta_bytes, sizes[i]);
		assert_int_equal(head.batches_at, room);
		for (uint32_t at = 0; at < sizes[i]; at++)
			assert_int_equal(meta[at], 'a' + at % 26);
	}
}

static void test_any_bit_of_a_head_counts(void **state)
{
	uint8_t block[2 * UNDO_BLOCK];
	struct undo_head head;
	const char *meta;

	(void)state;
	make_head(block, 5000);
	for (size_t at = 0; at < sizeof(block); at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			block[at] ^= (uint8_t)(1u << bit);
			assert_int_equal(undo_head_decode(block, sizeof(block), &head, &meta), at < 8 ? -ENODATA : -EBADMSG);
			block[at] ^= (uint8_t)(1u << bit);
		}
	assert_int_equal(undo_head_decode(block, sizeof(block), &head, &meta), 0);
	assert_int_equal(undo_head_decode(block, UNDO_HEAD_BYTES - 1, &head, &meta), -ENODATA);
}

static void test_a_head_that_makes_no_sense(void **state)
{
	static const struct {
		size_t at;
		uint32_t value;
		int error;
	} cases[] = {
		{ 8, UNDO_VERSION + 1, -EPROTONOSUPPORT },
		{ 32, 9, -EBADMSG },		      /* base == last */
		{ 32, 10, -EBADMSG },		      /* base > last */
		{ 48, UNDO_META_MAX + 1, -EBADMSG },  /* meta_bytes */
		{ 48, 5000, -EBADMSG },		      /* does not fit batches_at */
		{ 52, 2 * UNDO_BLOCK, -EBADMSG },     /* batches_at */
		{ 52, UINT32_MAX, -EBADMSG },
		{ 60, 1, -EBADMSG },		      /* reserved */
	};
	uint8_t block[UNDO_BLOCK];
	struct undo_head head;
	const char *meta;

	(void)state;
	for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
		make_head(block, 100);
		put32(block + cases[i].at, cases[i].value);
		seal(block, UNDO_HEAD_BYTES, HEAD_CRC_AT);
		assert_int_equal(undo_head_decode(block, sizeof(block), &head, &meta), cases[i].error);
	}
}

/* ---- batch --------------------------------------------------------------------- */

#define AT (10ull * UNDO_BLOCK)

static void make_batch(struct undo_batch *batch, uint8_t *block)
{
	memset(batch, 0, sizeof(*batch));
	batch->last = 9;
	batch->seq = 5;
	batch->durable = 3;
	batch->count = UNDO_BATCH_RECORDS;
	batch->bytes = UNDO_BLOCK + 128 * 512;
	for (uint32_t i = 0; i < batch->count; i++)
		batch->records[i] = i % 5 == 4 ? (struct undo_record){ .offset = i * 4096u, .length = 1u << 30, .disk = i, .flags = UNDO_ZERO } :
			(struct undo_record){ .offset = i * 4096u, .place = AT + UNDO_BLOCK + i * 512, .length = 512, .disk = 1, .crc = i + 1 };
	undo_batch_encode(batch, log_uuid, block);
}

static void test_batch_comes_back(void **state)
{
	uint8_t block[UNDO_BLOCK];
	struct undo_batch batch, again;

	(void)state;
	make_batch(&batch, block);
	memset(&again, 0xff, sizeof(again));
	assert_int_equal(undo_batch_decode(block, log_uuid, 9, AT, &again), 0);
	assert_memory_equal(&batch, &again, sizeof(batch));
	/* Of another layer, of another log. */
	assert_int_equal(undo_batch_decode(block, log_uuid, 10, AT, &again), -ENODATA);
	assert_int_equal(undo_batch_decode(block, (const uint8_t *)"0123456789abcdef", 9, AT, &again), -ENODATA);
	/* In another place. */
	assert_int_equal(undo_batch_decode(block, log_uuid, 9, AT + UNDO_BLOCK, &again), -EBADMSG);
	assert_int_equal(undo_batch_decode(block, log_uuid, 9, AT - UNDO_BLOCK, &again), -EBADMSG);
	/* Without records. */
	batch.count = 0;
	undo_batch_encode(&batch, log_uuid, block);
	assert_int_equal(undo_batch_decode(block, log_uuid, 9, AT, &again), 0);
	assert_int_equal(again.count, 0);
}

static void test_any_bit_of_a_batch_counts(void **state)
{
	uint8_t block[UNDO_BLOCK];
	struct undo_batch batch;

	(void)state;
	make_batch(&batch, block);
	for (size_t at = 0; at < sizeof(block); at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			bool other = at < 8 || (at >= 16 && at < 40); /* magic, log, last */

			block[at] ^= (uint8_t)(1u << bit);
			assert_int_equal(undo_batch_decode(block, log_uuid, 9, AT, &batch), other ? -ENODATA : -EBADMSG);
			block[at] ^= (uint8_t)(1u << bit);
		}
	assert_int_equal(undo_batch_decode(block, log_uuid, 9, AT, &batch), 0);
}

/* A record as it lies in the first place of a batch, and in an index. */
static const struct wrong {
	uint64_t offset, place;
	uint32_t length, disk, crc, flags;
} wrong_records[] = {
	{ 0, AT + UNDO_BLOCK, 0, 1, 1, 0 },			/* no length */
	{ 0, AT + UNDO_BLOCK, 513, 1, 1, 0 },
	{ 0, AT + UNDO_BLOCK, UNDO_RECORD_MAX + 512, 1, 1, 0 },
	{ 100, AT + UNDO_BLOCK, 512, 1, 1, 0 },
	{ 0, AT + UNDO_BLOCK + 1, 512, 1, 1, 0 },
	{ 0, AT + UNDO_BLOCK + 128 * 512, 512, 1, 1, 0 },	/* behind the batch */
	{ 0, AT + UNDO_BLOCK + 127 * 512, 1024, 1, 1, 0 },	/* over its end */
	{ 0, UNDO_BLOCK, 512, 1, 1, 0 },			/* before it, and where no content can be */
	{ 0, 0, 512, 1, 1, 0 },
	{ 0, UINT64_MAX - 511, 512, 1, 1, 0 },
	{ UINT64_MAX - 511, AT + UNDO_BLOCK, 512, 1, 1, 0 },	/* overflow */
	{ INT64_MAX - 511, AT + UNDO_BLOCK, 512, 1, 1, 0 },
	{ 0, 0, 512, 1, 0, 2 },					/* flag unknown */
	{ 0, 0, 512, 1, 0, UNDO_ZERO | 1u << 31 },
	{ 0, 512, 512, 1, 0, UNDO_ZERO },			/* zero with a place */
	{ 0, 0, 512, 1, 1, UNDO_ZERO },				/* and with a checksum */
	{ 0, 0, UNDO_ZERO_MAX + 512, 1, 0, UNDO_ZERO },
	{ 0, 0, 0, 1, 0, UNDO_ZERO },
};

static void put_record(uint8_t *at, const struct wrong *record)
{
	put64(at, record->offset);
	put64(at + 8, record->place);
	put32(at + 16, record->length);
	put32(at + 20, record->disk);
	put32(at + 24, record->crc);
	put32(at + 28, record->flags);
}

static void test_records_that_make_no_sense(void **state)
{
	const struct wrong right = { 512, AT + UNDO_BLOCK, UNDO_RECORD_MAX, 1, 1, 0 };
	uint8_t block[UNDO_BLOCK];
	struct undo_batch batch;
	struct undo_record record;

	(void)state;
	make_batch(&batch, block);
	put_record(block + 64, &right);
	seal(block, sizeof(block), BATCH_CRC_AT);
	assert_int_equal(undo_batch_decode(block, log_uuid, 9, AT, &batch), 0);
	assert_int_equal(undo_records_decode(block + 64, 1, AT + UNDO_BLOCK + UNDO_RECORD_MAX, &record), 0);
	assert_memory_equal(&record, &batch.records[0], sizeof(record));
	for (unsigned i = 0; i < ARRAY_LENGTH(wrong_records); i++) {
		put_record(block + 64, &wrong_records[i]);
		seal(block, sizeof(block), BATCH_CRC_AT);
		assert_int_equal(undo_batch_decode(block, log_uuid, 9, AT, &batch), -EBADMSG);
		assert_int_equal(undo_records_decode(block + 64, 1, AT + UNDO_BLOCK + 128 * 512, &record), -EBADMSG);
	}
}

static void test_a_batch_that_makes_no_sense(void **state)
{
	static const struct {
		size_t at;
		uint32_t value;
	} cases[] = {
		{ 12, UNDO_BATCH_RECORDS + 1 }, { 12, UINT32_MAX },		      /* count */
		{ 48, 6 },							      /* durable > seq */
		{ 56, 0 }, { 56, UNDO_BLOCK + 512 }, { 56, UNDO_BATCH_BYTES + UNDO_BLOCK }, /* bytes */
		{ 56, UNDO_BLOCK },						      /* records lie behind it */
		{ 60, 1 },							      /* reserved */
	};
	uint8_t block[UNDO_BLOCK];
	struct undo_batch batch;

	(void)state;
	for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
		make_batch(&batch, block);
		put32(block + cases[i].at, cases[i].value);
		seal(block, sizeof(block), BATCH_CRC_AT);
		assert_int_equal(undo_batch_decode(block, log_uuid, 9, AT, &batch), -EBADMSG);
	}
	/* So far behind that its end is no file offset. */
	batch.count = 0;
	batch.bytes = UNDO_BLOCK;
	undo_batch_encode(&batch, log_uuid, block);
	assert_int_equal(undo_batch_decode(block, log_uuid, 9, UINT64_MAX - UNDO_BLOCK + 1, &batch), -EBADMSG);
}

/* ---- index --------------------------------------------------------------------- */

static void test_index_comes_back_in_its_own_memory(void **state)
{
	struct undo_record records[100], again[100];

	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		records[i] = (struct undo_record){ .offset = i % 50 * 4096u, .place = 65536 + i * 4096u, .length = 4096,
						   .disk = i / 50, .crc = i };
	undo_records_encode(records, 100, again);
	assert_int_equal(undo_records_decode(again, 100, 65536 + 100 * 4096, again), 0);
	assert_memory_equal(records, again, sizeof(records));
}

static void test_an_index_is_in_order(void **state)
{
	struct undo_record records[2], out[2];
	uint8_t block[2 * UNDO_RECORD_BYTES];

	(void)state;
	for (unsigned which = 0; which < 5; which++) {
		records[0] = (struct undo_record){ .offset = 8192, .length = 4096, .disk = 2, .flags = UNDO_ZERO };
		records[1] = (struct undo_record){ .offset = 12288, .length = 4096, .disk = 2, .flags = UNDO_ZERO };
		if (which == 1)
			records[1].offset -= 512; /* overlap */
		if (which == 2)
			records[1].disk = 1;
		if (which == 3)
			records[1].offset = 0;
		if (which == 4) {
			records[1].offset = 0;
			records[1].disk = 3;
		}
		undo_records_encode(records, 2, block);
		assert_int_equal(undo_records_decode(block, 2, 65536, out), which == 0 || which == 4 ? 0 : -EBADMSG);
		assert_int_equal(undo_record_order(&records[0], &records[1]) < 0, which < 2 || which == 4);
		assert_int_equal(undo_record_order(&records[1], &records[0]) > 0, which < 2 || which == 4);
		assert_int_equal(undo_record_order(&records[1], &records[1]), 0);
	}
}

/* ---- foot ---------------------------------------------------------------------- */

#define FOOT_FILE (100ull * UNDO_BLOCK)

static void make_foot(struct undo_foot *foot, uint8_t *block)
{
	*foot = (struct undo_foot){ .base = 7, .last = 9, .index_at = FOOT_FILE - 3 * UNDO_BLOCK, .index_count = 200,
				    .batches = 2, .content_bytes = 8192, .range_bytes = 1u << 30, .index_crc = 77 };
	memcpy(foot->log, log_uuid, sizeof(foot->log));
	undo_foot_encode(foot, block);
}

static void test_foot_comes_back(void **state)
{
	uint8_t block[UNDO_BLOCK];
	struct undo_foot foot, again;

	(void)state;
	memset(&again, 0xff, sizeof(again));
	make_foot(&foot, block);
	assert_int_equal(undo_foot_decode(block, FOOT_FILE, &again), 0);
	assert_memory_equal(foot.log, again.log, sizeof(foot.log));
	assert_true(again.base == foot.base && again.last == foot.last && again.index_at == foot.index_at &&
		    again.index_count == foot.index_count && again.batches == foot.batches &&
		    again.content_bytes == foot.content_bytes && again.range_bytes == foot.range_bytes &&
		    again.index_crc == foot.index_crc);
	/* The last block of another file. */
	assert_int_equal(undo_foot_decode(block, FOOT_FILE + UNDO_BLOCK, &again), -EBADMSG);
	assert_int_equal(undo_foot_decode(block, FOOT_FILE - UNDO_BLOCK, &again), -EBADMSG);
	assert_int_equal(undo_foot_decode(block, FOOT_FILE + 512, &again), -EBADMSG);
}

static void test_any_bit_of_a_foot_counts(void **state)
{
	uint8_t block[UNDO_BLOCK];
	struct undo_foot foot;

	(void)state;
	make_foot(&foot, block);
	for (size_t at = 0; at < sizeof(block); at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			block[at] ^= (uint8_t)(1u << bit);
			assert_int_equal(undo_foot_decode(block, FOOT_FILE, &foot), at < 8 ? -ENODATA : -EBADMSG);
			block[at] ^= (uint8_t)(1u << bit);
		}
}

static void test_a_foot_that_makes_no_sense(void **state)
{
	static const struct {
		size_t at;
		uint64_t value;
	} cases[] = {
		{ 32, 9 },				      /* base == last */
		{ 48, FOOT_FILE - 3 * UNDO_BLOCK + 512 },     /* index_at */
		{ 48, FOOT_FILE - 4 * UNDO_BLOCK }, { 48, 0 }, { 48, UINT64_MAX - UNDO_BLOCK + 1 },
		{ 56, 257 }, { 56, 100 }, { 56, UINT64_MAX }, { 56, UINT64_MAX / 32 + 1 }, /* index_count */
		{ 64, 1 }, { 64, 1000 }, { 64, UINT64_MAX }, /* batches */
		{ 72, FOOT_FILE }, { 80, 4096 },	      /* content, range */
	};
	uint8_t block[UNDO_BLOCK];
	struct undo_foot foot;

	(void)state;
	for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
		make_foot(&foot, block);
		put64(block + cases[i].at, cases[i].value);
		seal(block, sizeof(block), FOOT_CRC_AT);
		assert_int_equal(undo_foot_decode(block, FOOT_FILE, &foot), -EBADMSG);
	}
}

/* ---- names --------------------------------------------------------------------- */

static void test_names(void **state)
{
	static const char *const wrong[] = {
		"", ".", "tail", "marks.json", "0000000000000001-0000000000000002.undo.tmp", "1-2.undo",
		"0000000000000001-0000000000000002.und", "0000000000000001-0000000000000002.undo ",
		"000000000000000A-000000000000000B.undo", "0000000000000001_0000000000000002.undo",
		"0000000000000002-0000000000000001.undo", "0000000000000002-0000000000000002.undo",
		"0000000000000001-000000000000000g.undo", "+000000000000001-0000000000000002.undo",
	};
	char name[UNDO_NAME_BYTES];
	uint64_t base, last;

	(void)state;
	undo_layer_name(name, 0xabcdef, UINT64_MAX);
	assert_string_equal(name, "0000000000abcdef-ffffffffffffffff.undo");
	assert_true(undo_layer_parse(name, &base, &last));
	assert_true(base == 0xabcdef && last == UINT64_MAX);
	for (unsigned i = 0; i < ARRAY_LENGTH(wrong); i++)
		assert_false(undo_layer_parse(wrong[i], &base, &last));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_head_comes_back),
		cmocka_unit_test(test_any_bit_of_a_head_counts),
		cmocka_unit_test(test_a_head_that_makes_no_sense),
		cmocka_unit_test(test_batch_comes_back),
		cmocka_unit_test(test_any_bit_of_a_batch_counts),
		cmocka_unit_test(test_records_that_make_no_sense),
		cmocka_unit_test(test_a_batch_that_makes_no_sense),
		cmocka_unit_test(test_index_comes_back_in_its_own_memory),
		cmocka_unit_test(test_an_index_is_in_order),
		cmocka_unit_test(test_foot_comes_back),
		cmocka_unit_test(test_any_bit_of_a_foot_counts),
		cmocka_unit_test(test_a_foot_that_makes_no_sense),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
