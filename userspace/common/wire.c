/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wire: encoding, checking and digests of the frames that the programs
 * exchange and the process server spools. Called by conn.c, by the spool and by the
 * master target. Pure: no I/O, no state; everything a decoder returns was checked.
 */
#include "wire.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <isa-l/crc.h>
#include <isa-l/mem_routines.h>
#include <xxhash.h>

/* The header as it travels; docs/wire-format.md is the reference. All little endian. */
struct wire_header {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t flags;
	uint32_t payload_bytes;
	uint32_t payload_crc;
	uint32_t disk;
	uint32_t seq;
	uint32_t header_crc; /* CRC32C of the 64 bytes with this field 0 */
	uint64_t epoch;
	uint64_t attempt;
	uint64_t offset;
	uint64_t length;
};

_Static_assert(sizeof(struct wire_header) == WIRE_HEADER_BYTES, "header size");
_Static_assert(offsetof(struct wire_header, header_crc) == 28, "header CRC offset");
_Static_assert(offsetof(struct wire_header, epoch) == 32, "epoch offset");
_Static_assert(offsetof(struct wire_header, length) == 56, "length offset");

#define CRC_STEP (1u << 30) /* crc32_iscsi takes an int */

uint32_t wire_crc(const void *data, size_t bytes)
{
	const unsigned char *at = data;
	uint32_t crc = ~0u;

	/* isa-l takes and gives the bare register; the standard inverts it at both ends. */
	while (bytes) {
		size_t step = bytes < CRC_STEP ? bytes : CRC_STEP;

		crc = crc32_iscsi((unsigned char *)(uintptr_t)at, (int)step, crc);
		at += step;
		bytes -= step;
	}
	return ~crc;
}

static uint32_t header_crc(const struct wire_header *header)
{
	struct wire_header copy = *header;

	copy.header_crc = 0;
	return wire_crc(&copy, sizeof(copy));
}

void wire_encode(const struct wire_frame *frame, void *out)
{
	struct wire_header header = {
		.magic = htole32(WIRE_MAGIC),
		.version = htole16(WIRE_VERSION),
		.type = htole16(frame->type),
		.flags = htole32(frame->flags),
		.payload_bytes = htole32(frame->payload_bytes),
		.payload_crc = htole32(frame->payload_crc),
		.disk = htole32(frame->disk),
		.seq = htole32(frame->seq),
		.epoch = htole64(frame->epoch),
		.attempt = htole64(frame->attempt),
		.offset = htole64(frame->offset),
		.length = htole64(frame->length),
	};

	header.header_crc = htole32(header_crc(&header));
	memcpy(out, &header, sizeof(header));
}

/*
 * What each type may carry. @epoch: the epoch must not be 0; @range: offset and length are
 * a range of a disk; @first: seq is 0 (BEGIN), @inner: seq is not 0.
 */
static const struct type_rule {
	const char *name;
	uint32_t payload_min, payload_max;
	bool epoch, range, first, inner;
} type_rules[WIRE_TYPE_MAX + 1] = {
	[WIRE_HELLO] = { .name = "HELLO", .payload_min = 2, .payload_max = WIRE_JSON_MAX },
	[WIRE_HELLO_ACK] = { .name = "HELLO_ACK", .payload_min = 2, .payload_max = WIRE_JSON_MAX },
	[WIRE_BEGIN] = { .name = "BEGIN", .epoch = true, .first = true },
	[WIRE_DATA] = { .name = "DATA",
			.payload_min = WIRE_SECTOR,
			.payload_max = WIRE_PAYLOAD_MAX,
			.epoch = true,
			.range = true,
			.inner = true },
	[WIRE_ZERO] = { .name = "ZERO", .epoch = true, .range = true, .inner = true },
	[WIRE_VERIFY] = { .name = "VERIFY",
			  .payload_min = 16,
			  .payload_max = 16,
			  .epoch = true,
			  .range = true,
			  .inner = true },
	[WIRE_END] = { .name = "END", .epoch = true, .inner = true },
	[WIRE_ABORT] = { .name = "ABORT", .epoch = true },
	[WIRE_ACK] = { .name = "ACK", .payload_max = WIRE_JSON_MAX },
	[WIRE_ERROR] = { .name = "ERROR", .payload_min = 2, .payload_max = WIRE_JSON_MAX },
	[WIRE_PING] = { .name = "PING" },
	[WIRE_PONG] = { .name = "PONG" },
	[WIRE_TAG] = { .name = "TAG",
		       .payload_min = 2,
		       .payload_max = WIRE_TAG_MAX,
		       .epoch = true,
		       .inner = true },
};

const char *wire_type_name(unsigned type)
{
	if (type > WIRE_TYPE_MAX || !type_rules[type].name)
		return "?";
	return type_rules[type].name;
}

static const char *check_range(const struct wire_frame *frame)
{
	if (!frame->disk)
		return "disk number 0";
	if (!frame->length)
		return "empty range";
	if ((frame->offset | frame->length) % WIRE_SECTOR)
		return "range is not a whole number of sectors";
	/* INT64_MAX is as far as any file offset goes. */
	if (frame->offset > INT64_MAX || frame->length > (uint64_t)INT64_MAX - frame->offset)
		return "range ends beyond what can be addressed";
	if (frame->type == WIRE_DATA && frame->length != frame->payload_bytes)
		return "length differs from the payload's";
	if (frame->type == WIRE_VERIFY && frame->length > WIRE_VERIFY_BYTES_MAX)
		return "VERIFY range is too long";
	return NULL;
}

static const char *check_fields(const struct wire_frame *frame)
{
	const struct type_rule *rule;

	if (frame->type > WIRE_TYPE_MAX || !type_rules[frame->type].name)
		return "unknown type";
	rule = &type_rules[frame->type];
	if (frame->payload_bytes < rule->payload_min)
		return "payload is too short for the type";
	if (frame->payload_bytes > rule->payload_max)
		return "payload is too long for the type";
	if (!frame->payload_bytes && frame->payload_crc)
		return "checksum of a payload that is not there";
	if (rule->epoch && !frame->epoch)
		return "epoch number 0";
	if (rule->first && frame->seq)
		return "BEGIN is not frame 0";
	if (rule->inner && !frame->seq)
		return "frame 0 is not BEGIN";
	if (frame->type == WIRE_TAG && (frame->disk || frame->offset || frame->length))
		return "TAG names a range";
	return rule->range ? check_range(frame) : NULL;
}

static int refuse(const char **why, const char *text, int error)
{
	if (why)
		*why = text;
	return error;
}

int wire_decode(const void *in, struct wire_frame *frame, const char **why)
{
	struct wire_header header;
	const char *text;

	memcpy(&header, in, sizeof(header));
	if (le32toh(header.magic) != WIRE_MAGIC)
		return refuse(why, "not a frame (wrong magic)", -EPROTO);
	/*
	 * The version comes before the CRC: another version may have its CRC elsewhere, and
	 * "another version" is the answer that helps.
	 */
	if (le16toh(header.version) != WIRE_VERSION)
		return refuse(why, "another version of the wire format", -EPROTONOSUPPORT);
	if (le32toh(header.header_crc) != header_crc(&header))
		return refuse(why, "header checksum does not match", -EBADMSG);

	*frame = (struct wire_frame){
		.type = le16toh(header.type),
		.flags = le32toh(header.flags),
		.payload_bytes = le32toh(header.payload_bytes),
		.payload_crc = le32toh(header.payload_crc),
		.epoch = le64toh(header.epoch),
		.attempt = le64toh(header.attempt),
		.offset = le64toh(header.offset),
		.length = le64toh(header.length),
		.disk = le32toh(header.disk),
		.seq = le32toh(header.seq),
	};
	text = check_fields(frame);
	if (text)
		return refuse(why, text, -EINVAL);
	if (why)
		*why = NULL;
	return 0;
}

uint64_t wire_digest_add(uint64_t digest, const struct wire_frame *frame)
{
	uint8_t header[WIRE_HEADER_BYTES];

	/* A sum, so that the order does not matter; a frame counted twice does. */
	wire_encode(frame, header);
	return digest + XXH3_64bits(header, sizeof(header));
}

bool wire_in_digest(unsigned type)
{
	return type == WIRE_DATA || type == WIRE_ZERO || type == WIRE_VERIFY || type == WIRE_TAG;
}

bool wire_is_zero(const void *data, size_t bytes)
{
	return isal_zero_detect((void *)(uintptr_t)data, bytes) == 0;
}

static void hash_out(XXH128_hash_t hash, uint8_t out[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(out, canonical.digest, sizeof(canonical.digest));
}

void wire_hash(const void *data, size_t bytes, uint8_t out[16])
{
	hash_out(XXH3_128bits(data, bytes), out);
}

struct wire_hasher {
	XXH3_state_t *state;
};

/** wire_hasher_new - a hasher, ready to add to; NULL: no memory */
struct wire_hasher *wire_hasher_new(void)
{
	struct wire_hasher *hasher = malloc(sizeof(*hasher));

	if (!hasher)
		return NULL;
	hasher->state = XXH3_createState();
	if (!hasher->state) {
		free(hasher);
		return NULL;
	}
	wire_hasher_reset(hasher);
	return hasher;
}

/* XXH3 reports errors for NULL pointers only. */
void wire_hasher_reset(struct wire_hasher *hasher)
{
	(void)XXH3_128bits_reset(hasher->state);
}

void wire_hasher_add(struct wire_hasher *hasher, const void *data, size_t bytes)
{
	(void)XXH3_128bits_update(hasher->state, data, bytes);
}

void wire_hasher_end(struct wire_hasher *hasher, uint8_t out[16])
{
	hash_out(XXH3_128bits_digest(hasher->state), out);
}

void wire_hasher_free(struct wire_hasher *hasher)
{
	if (!hasher)
		return;
	XXH3_freeState(hasher->state);
	free(hasher);
}
