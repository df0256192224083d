/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of wire.c: the format does not move, and what is wrong is refused. */
#include "wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct wire_frame data_frame = {
	.type = WIRE_DATA,
	.flags = 0x01020304,
	.payload_bytes = 4096,
	.payload_crc = 0x11223344,
	.epoch = 0x1122334455667788,
	.attempt = 0x99aabbccddeeff00,
	.offset = 0x10000,
	.length = 4096,
	.disk = 3,
	.seq = 9,
};

static int recode(struct wire_frame frame, const char **why)
{
	uint8_t header[WIRE_HEADER_BYTES];
	struct wire_frame out;

	wire_encode(&frame, header);
	return wire_decode(header, &out, why);
}

static void crc_is_crc32c(void **state)
{
	uint8_t buffer[300];

	(void)state;
	assert_int_equal(wire_crc("123456789", 9), 0xe3069283);
	assert_int_equal(wire_crc("", 0), 0);
	memset(buffer, 0, 32);
	assert_int_equal(wire_crc(buffer, 32), 0x8a9136aa); /* RFC 3720, B.4 */
	memset(buffer, 0xff, 32);
	assert_int_equal(wire_crc(buffer, 32), 0x62a8ab43);
}

static void header_bytes_are_fixed(void **state)
{
	static const uint8_t expected[28] = {
		'R', 'P', 'T', '1', 2, 0, 4, 0, 4, 3, 2, 1, 0, 0x10, 0, 0,
		0x44, 0x33, 0x22, 0x11, 3, 0, 0, 0, 9, 0, 0, 0,
	};
	uint8_t header[WIRE_HEADER_BYTES], crc_zero[WIRE_HEADER_BYTES];
	uint32_t crc;

	(void)state;
	wire_encode(&data_frame, header);
	assert_memory_equal(header, expected, sizeof(expected));
	assert_int_equal(header[32], 0x88);
	assert_int_equal(header[39], 0x11);
	assert_int_equal(header[47], 0x99);
	assert_int_equal(header[50], 0x01);
	assert_int_equal(header[57], 0x10);
	memcpy(crc_zero, header, sizeof(header));
	memset(crc_zero + 28, 0, 4);
	crc = wire_crc(crc_zero, sizeof(crc_zero));
	assert_int_equal(header[28], crc & 0xff);
	assert_int_equal(header[31], crc >> 24);
}

static void round_trip(void **state)
{
	uint8_t header[WIRE_HEADER_BYTES];
	struct wire_frame out;
	const char *why = "x";

	(void)state;
	wire_encode(&data_frame, header);
	assert_int_equal(wire_decode(header, &out, &why), 0);
	assert_null(why);
	assert_int_equal(out.type, data_frame.type);
	assert_int_equal(out.flags, data_frame.flags);
	assert_int_equal(out.payload_bytes, data_frame.payload_bytes);
	assert_int_equal(out.payload_crc, data_frame.payload_crc);
	assert_true(out.epoch == data_frame.epoch);
	assert_true(out.attempt == data_frame.attempt);
	assert_true(out.offset == data_frame.offset);
	assert_true(out.length == data_frame.length);
	assert_int_equal(out.disk, data_frame.disk);
	assert_int_equal(out.seq, data_frame.seq);
}

static void every_flipped_bit_is_noticed(void **state)
{
	uint8_t header[WIRE_HEADER_BYTES];
	struct wire_frame out;

	(void)state;
	wire_encode(&data_frame, header);
	for (unsigned bit = 0; bit < WIRE_HEADER_BYTES * 8; bit++) {
		int expected = bit < 32 ? -EPROTO : bit < 48 ? -EPROTONOSUPPORT : -EBADMSG;

		header[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(wire_decode(header, &out, NULL), expected);
		header[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(wire_decode(header, &out, NULL), 0);
}

#define REFUSED(change)                                                \
	do {                                                           \
		struct wire_frame frame = data_frame;                  \
		const char *why = NULL;                                \
		change;                                                \
		assert_int_equal(recode(frame, &why), -EINVAL);        \
		assert_non_null(why);                                  \
	} while (0)

#define ACCEPTED(change)                                               \
	do {                                                           \
		struct wire_frame frame = data_frame;                  \
		change;                                                \
		assert_int_equal(recode(frame, NULL), 0);              \
	} while (0)

static void nonsense_is_refused(void **state)
{
	(void)state;
	REFUSED(frame.type = 0);
	REFUSED(frame.type = WIRE_TYPE_MAX + 1);
	REFUSED(frame.type = 0xffff);
	REFUSED(frame.disk = 0);
	REFUSED(frame.epoch = 0);
	REFUSED(frame.seq = 0);
	REFUSED(frame.length = 8192);
	REFUSED(frame.offset = 1);
	REFUSED(frame.offset = UINT64_MAX - 511);
	REFUSED(frame.offset = (1ull << 63) - 2048);
	REFUSED(frame.length = frame.payload_bytes = 100);
	REFUSED(frame.length = frame.payload_bytes = WIRE_PAYLOAD_MAX + 512);
	REFUSED(frame.length = frame.payload_bytes = 0);
	REFUSED(frame.type = WIRE_ZERO);
	REFUSED(frame.type = WIRE_ZERO; frame.payload_bytes = 0); /* checksum of nothing */
	REFUSED(frame.type = WIRE_VERIFY; frame.payload_bytes = 15);
	REFUSED(frame.type = WIRE_VERIFY; frame.payload_bytes = 16;
		frame.length = WIRE_VERIFY_BYTES_MAX + 512);
	REFUSED(frame.type = WIRE_BEGIN; frame.payload_bytes = 0; frame.payload_crc = 0);
	REFUSED(frame.type = WIRE_PING; frame.payload_bytes = 1);
	REFUSED(frame.type = WIRE_TAG; frame.offset = frame.length = 0); /* of a disk */
	REFUSED(frame.type = WIRE_TAG; frame.disk = 0; frame.length = 0);
	REFUSED(frame.type = WIRE_TAG; frame.disk = 0; frame.offset = 0);
	REFUSED(frame.type = WIRE_TAG; frame.disk = 0; frame.offset = frame.length = 0; frame.seq = 0);
	REFUSED(frame.type = WIRE_TAG; frame.disk = 0; frame.offset = frame.length = 0;
		frame.payload_bytes = WIRE_TAG_MAX + 1);
	REFUSED(frame.type = WIRE_HELLO; frame.payload_bytes = 0; frame.payload_crc = 0);
	REFUSED(frame.type = WIRE_HELLO; frame.payload_bytes = WIRE_JSON_MAX + 1);
}

static void sense_is_accepted(void **state)
{
	(void)state;
	ACCEPTED(frame.length = frame.payload_bytes = WIRE_PAYLOAD_MAX);
	ACCEPTED(frame.type = WIRE_ZERO; frame.payload_bytes = 0; frame.payload_crc = 0;
		 frame.length = 1ull << 40);
	ACCEPTED(frame.type = WIRE_VERIFY; frame.payload_bytes = 16;
		 frame.length = WIRE_VERIFY_BYTES_MAX);
	ACCEPTED(frame.type = WIRE_BEGIN; frame.payload_bytes = 0; frame.payload_crc = 0;
		 frame.seq = 0; frame.offset = 7; frame.length = 13);
	ACCEPTED(frame.type = WIRE_END; frame.payload_bytes = 0; frame.payload_crc = 0;
		 frame.offset = UINT64_MAX; frame.length = 0);
	ACCEPTED(frame.type = WIRE_TAG; frame.disk = 0; frame.offset = frame.length = 0;
		 frame.payload_bytes = WIRE_TAG_MAX);
	ACCEPTED(frame.type = WIRE_ACK; frame.payload_bytes = 0; frame.payload_crc = 0);
	ACCEPTED(frame.type = WIRE_ACK; frame.payload_bytes = 30);
}

static void digest_counts_every_frame_in_any_order(void **state)
{
	struct wire_frame a = data_frame, b = data_frame;
	uint64_t ab, ba;

	(void)state;
	b.seq++;
	ab = wire_digest_add(wire_digest_add(0, &a), &b);
	ba = wire_digest_add(wire_digest_add(0, &b), &a);
	assert_true(ab == ba);
	assert_true(ab != wire_digest_add(0, &a));
	assert_true(ab != wire_digest_add(ab, &a));
	b.payload_crc ^= 1;
	assert_true(ab != wire_digest_add(wire_digest_add(0, &a), &b));
}

/* A tag that is lost or changed has to be noticed like data. */
static void digest_covers_what_an_epoch_says(void **state)
{
	(void)state;
	for (unsigned type = 0; type <= WIRE_TYPE_MAX + 1; type++)
		assert_int_equal(wire_in_digest(type), type == WIRE_DATA || type == WIRE_ZERO ||
							       type == WIRE_VERIFY || type == WIRE_TAG);
}

static void zeros_are_found(void **state)
{
	static uint8_t buffer[8192];

	(void)state;
	assert_true(wire_is_zero(buffer, sizeof(buffer)));
	for (size_t i = 0; i < sizeof(buffer); i += 61) {
		buffer[i] = 1;
		assert_false(wire_is_zero(buffer, sizeof(buffer)));
		buffer[i] = 0;
	}
	buffer[8191] = 0x80;
	assert_false(wire_is_zero(buffer, sizeof(buffer)));
	assert_true(wire_is_zero(buffer, 4096));
}

static void hash_of_pieces_is_hash_of_the_whole(void **state)
{
	/* XXH3-128 of nothing, canonical, from the xxHash specification */
	static const uint8_t empty[16] = { 0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
					   0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f };
	uint8_t text[5000], whole[16], pieces[16];
	struct wire_hasher *hasher = wire_hasher_new();

	(void)state;
	assert_non_null(hasher);
	wire_hash("", 0, whole);
	assert_memory_equal(whole, empty, 16);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 7);
	wire_hash(text, sizeof(text), whole);
	wire_hasher_add(hasher, "x", 1);
	wire_hasher_reset(hasher);
	wire_hasher_add(hasher, text, 1);
	wire_hasher_add(hasher, text + 1, 4000);
	wire_hasher_add(hasher, text + 4001, 999);
	wire_hasher_end(hasher, pieces);
	assert_memory_equal(whole, pieces, 16);
	wire_hasher_free(hasher);
	wire_hasher_free(NULL);
}

static void types_have_names(void **state)
{
	(void)state;
	assert_string_equal(wire_type_name(WIRE_DATA), "DATA");
	assert_string_equal(wire_type_name(WIRE_PONG), "PONG");
	assert_string_equal(wire_type_name(WIRE_TAG), "TAG");
	assert_string_equal(wire_type_name(0), "?");
	assert_string_equal(wire_type_name(99), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc_is_crc32c),
		cmocka_unit_test(header_bytes_are_fixed),
		cmocka_unit_test(round_trip),
		cmocka_unit_test(every_flipped_bit_is_noticed),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(sense_is_accepted),
		cmocka_unit_test(digest_counts_every_frame_in_any_order),
		cmocka_unit_test(digest_covers_what_an_epoch_says),
		cmocka_unit_test(zeros_are_found),
		cmocka_unit_test(hash_of_pieces_is_hash_of_the_whole),
		cmocka_unit_test(types_have_names),
	};

	return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
