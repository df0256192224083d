/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_format: see undo_format.h. Encoding and checking of the blocks of a layer of the undo log. Called by whoever
 * writes or reads layers. Pure: no I/O, no state; everything a decoder returns was checked.
 */
#include "undo_format.h"
#include "wire.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HEAD_MAGIC 0x3144414548444e55ull  /* "UNDHEAD1" */
#define BATCH_MAGIC 0x3148435442444e55ull /* "UNDBTCH1" */
#define FOOT_MAGIC 0x31544f4f46444e55ull  /* "UNDFOOT1" */
#define SECTOR 512u

/* All little endian. Each crc is the CRC32C of what it covers with the field itself 0. */

struct head_block {
	uint64_t magic;
	uint32_t version;
	uint32_t crc; /* of this struct */
	uint8_t log[UNDO_UUID_BYTES];
	uint64_t base;
	uint64_t last;
	uint32_t meta_bytes;
	uint32_t batches_at;
	uint32_t meta_crc; /* of what is between this struct and batches_at */
	uint32_t reserved;
};

struct record_block {
	uint64_t offset;
	uint64_t place;
	uint32_t length;
	uint32_t disk;
	uint32_t crc;
	uint32_t flags;
};

struct batch_block {
	uint64_t magic;
	uint32_t crc; /* of the block */
	uint32_t count;
	uint8_t log[UNDO_UUID_BYTES];
	uint64_t last;
	uint64_t seq;
	uint64_t durable;
	uint32_t bytes;
	uint32_t reserved;
	struct record_block records[UNDO_BATCH_RECORDS];
	uint8_t pad[32];
};

struct foot_block {
	uint64_t magic;
	uint32_t crc; /* of the block */
	uint32_t index_crc;
	uint8_t log[UNDO_UUID_BYTES];
	uint64_t base;
	uint64_t last;
	uint64_t index_at;
	uint64_t index_count;
	uint64_t batches;
	uint64_t content_bytes;
	uint64_t range_bytes;
	uint8_t pad[UNDO_BLOCK - 88];
};

_Static_assert(sizeof(struct head_block) == UNDO_HEAD_BYTES, "head size");
_Static_assert(offsetof(struct head_block, crc) == 12, "head CRC offset");
_Static_assert(offsetof(struct head_block, log) == 16, "head log offset");
_Static_assert(offsetof(struct head_block, meta_crc) == 56, "head JSON CRC offset");
_Static_assert(sizeof(struct record_block) == UNDO_RECORD_BYTES, "record size");
_Static_assert(offsetof(struct record_block, crc) == 24, "record CRC offset");
_Static_assert(sizeof(struct batch_block) == UNDO_BLOCK, "batch size");
_Static_assert(offsetof(struct batch_block, seq) == 40, "batch number offset");
_Static_assert(offsetof(struct batch_block, records) == 64, "batch records offset");
_Static_assert(sizeof(struct foot_block) == UNDO_BLOCK, "foot size");
_Static_assert(offsetof(struct foot_block, index_at) == 48, "foot index offset");
_Static_assert(offsetof(struct foot_block, range_bytes) == 80, "foot range bytes offset");
_Static_assert(UNDO_HEAD_BYTES + UNDO_META_MAX <= UNDO_RECORD_MAX, "a head fits into one read");

static uint64_t whole_blocks(uint64_t bytes)
{
	return (bytes + UNDO_BLOCK - 1) / UNDO_BLOCK * UNDO_BLOCK;
}

/* ---- head ---------------------------------------------------------------------- */

size_t undo_head_room(size_t meta_bytes)
{
	return (size_t)whole_blocks(UNDO_HEAD_BYTES + meta_bytes);
}

void undo_head_encode(const struct undo_head *head, const char *meta, void *out)
{
	size_t room = undo_head_room(head->meta_bytes);
	uint8_t *behind = (uint8_t *)out + UNDO_HEAD_BYTES;
	struct head_block block = {
		.magic = htole64(HEAD_MAGIC),
		.version = htole32(UNDO_VERSION),
		.base = htole64(head->base),
		.last = htole64(head->last),
		.meta_bytes = htole32(head->meta_bytes),
		.batches_at = htole32((uint32_t)room),
	};

	memset(behind, 0, room - UNDO_HEAD_BYTES);
	if (head->meta_bytes)
		memcpy(behind, meta, head->meta_bytes);
	memcpy(block.log, head->log, sizeof(block.log));
	block.meta_crc = htole32(wire_crc(behind, room - UNDO_HEAD_BYTES));
	block.crc = htole32(wire_crc(&block, sizeof(block)));
	memcpy(out, &block, sizeof(block));
}

int undo_head_decode(const void *in, size_t bytes, struct undo_head *head, const char **meta)
{
	const uint8_t *behind = (const uint8_t *)in + UNDO_HEAD_BYTES;
	struct head_block block;
	uint32_t crc;

	if (bytes < sizeof(block))
		return -ENODATA;
	memcpy(&block, in, sizeof(block));
	if (le64toh(block.magic) != HEAD_MAGIC)
		return -ENODATA;
	crc = le32toh(block.crc);
	block.crc = 0;
	if (wire_crc(&block, sizeof(block)) != crc)
		return -EBADMSG;
	if (le32toh(block.version) != UNDO_VERSION)
		return -EPROTONOSUPPORT;
	memcpy(head->log, block.log, sizeof(head->log));
	head->base = le64toh(block.base);
	head->last = le64toh(block.last);
	head->meta_bytes = le32toh(block.meta_bytes);
	head->batches_at = le32toh(block.batches_at);
	if (head->base >= head->last || head->meta_bytes > UNDO_META_MAX || block.reserved ||
	    head->batches_at != undo_head_room(head->meta_bytes))
		return -EBADMSG;
	if (bytes < head->batches_at)
		return -EAGAIN;
	if (wire_crc(behind, head->batches_at - UNDO_HEAD_BYTES) != le32toh(block.meta_crc))
		return -EBADMSG;
	*meta = (const char *)behind;
	return 0;
}

/* ---- records ------------------------------------------------------------------- */

static void record_encode(const struct undo_record *record, struct record_block *block)
{
	bool zero = record->flags & UNDO_ZERO;

	*block = (struct record_block){
		.offset = htole64(record->offset),
		.place = htole64(zero ? 0 : record->place),
		.length = htole32(record->length),
		.disk = htole32(record->disk),
		.crc = htole32(zero ? 0 : record->crc),
		.flags = htole32(record->flags),
	};
}

/* Whether it makes sense, its content in [@from, @end) of the file. */
static bool record_decode(const struct record_block *block, uint64_t from, uint64_t end, struct undo_record *record)
{
	*record = (struct undo_record){
		.offset = le64toh(block->offset),
		.place = le64toh(block->place),
		.length = le32toh(block->length),
		.disk = le32toh(block->disk),
		.crc = le32toh(block->crc),
		.flags = le32toh(block->flags),
	};
	if (record->flags & ~UNDO_ZERO || !record->length || record->length % SECTOR || record->offset % SECTOR ||
	    record->offset > (uint64_t)INT64_MAX - record->length)
		return false;
	if (record->flags & UNDO_ZERO)
		return record->length <= UNDO_ZERO_MAX && !record->place && !record->crc;
	return record->length <= UNDO_RECORD_MAX && record->place % SECTOR == 0 && record->place >= from &&
	       record->place <= end && record->length <= end - record->place;
}

void undo_records_encode(const struct undo_record *records, size_t count, void *out)
{
	for (size_t i = 0; i < count; i++) {
		struct record_block block;

		record_encode(&records[i], &block);
		memcpy((uint8_t *)out + i * sizeof(block), &block, sizeof(block));
	}
}

int undo_records_decode(const void *in, size_t count, uint64_t content_end, struct undo_record *records)
{
	for (size_t i = 0; i < count; i++) {
		const struct undo_record *before = i ? &records[i - 1] : NULL;
		struct record_block block;

		memcpy(&block, (const uint8_t *)in + i * sizeof(block), sizeof(block));
		/* Before any content there are a head and a batch's first block. */
		if (!record_decode(&block, 2ull * UNDO_BLOCK, content_end, &records[i]))
			return -EBADMSG;
		if (before && (before->disk > records[i].disk ||
			       (before->disk == records[i].disk && before->offset + before->length > records[i].offset)))
			return -EBADMSG;
	}
	return 0;
}

int undo_record_order(const void *a, const void *b)
{
	const struct undo_record *one = a, *other = b;

	if (one->disk != other->disk)
		return one->disk < other->disk ? -1 : 1;
	return (one->offset > other->offset) - (one->offset < other->offset);
}

/* ---- batches ------------------------------------------------------------------- */

void undo_batch_encode(const struct undo_batch *batch, const uint8_t log[UNDO_UUID_BYTES], void *out)
{
	struct batch_block block = {
		.magic = htole64(BATCH_MAGIC),
		.count = htole32(batch->count),
		.last = htole64(batch->last),
		.seq = htole64(batch->seq),
		.durable = htole64(batch->durable),
		.bytes = htole32(batch->bytes),
	};

	memcpy(block.log, log, sizeof(block.log));
	for (uint32_t i = 0; i < batch->count; i++)
		record_encode(&batch->records[i], &block.records[i]);
	block.crc = htole32(wire_crc(&block, sizeof(block)));
	memcpy(out, &block, sizeof(block));
}

int undo_batch_decode(const void *in, const uint8_t log[UNDO_UUID_BYTES], uint64_t last, uint64_t at,
		      struct undo_batch *batch)
{
	struct batch_block block;
	uint32_t crc;

	/* Looked for in every block behind a torn tail: most are told by the first word. */
	memcpy(&block.magic, in, sizeof(block.magic));
	if (le64toh(block.magic) != BATCH_MAGIC)
		return -ENODATA;
	memcpy(&block, in, sizeof(block));
	if (memcmp(block.log, log, sizeof(block.log)) || le64toh(block.last) != last)
		return -ENODATA;
	crc = le32toh(block.crc);
	block.crc = 0;
	if (wire_crc(&block, sizeof(block)) != crc)
		return -EBADMSG;
	batch->last = last;
	batch->seq = le64toh(block.seq);
	batch->durable = le64toh(block.durable);
	batch->count = le32toh(block.count);
	batch->bytes = le32toh(block.bytes);
	if (batch->count > UNDO_BATCH_RECORDS || batch->bytes % UNDO_BLOCK || batch->bytes < UNDO_BLOCK ||
	    batch->bytes > UNDO_BATCH_BYTES || batch->durable > batch->seq || block.reserved ||
	    at > (uint64_t)INT64_MAX - batch->bytes)
		return -EBADMSG;
	for (uint32_t i = 0; i < batch->count; i++)
		if (!record_decode(&block.records[i], at + UNDO_BLOCK, at + batch->bytes, &batch->records[i]))
			return -EBADMSG;
	return 0;
}

/* ---- foot ---------------------------------------------------------------------- */

void undo_foot_encode(const struct undo_foot *foot, void *out)
{
	struct foot_block block = {
		.magic = htole64(FOOT_MAGIC),
		.index_crc = htole32(foot->index_crc),
		.base = htole64(foot->base),
		.last = htole64(foot->last),
		.index_at = htole64(foot->index_at),
		.index_count = htole64(foot->index_count),
		.batches = htole64(foot->batches),
		.content_bytes = htole64(foot->content_bytes),
		.range_bytes = htole64(foot->range_bytes),
	};

	memcpy(block.log, foot->log, sizeof(block.log));
	block.crc = htole32(wire_crc(&block, sizeof(block)));
	memcpy(out, &block, sizeof(block));
}

int undo_foot_decode(const void *in, uint64_t file_bytes, struct undo_foot *foot)
{
	struct foot_block block;
	uint64_t room;
	uint32_t crc;

	memcpy(&block, in, sizeof(block));
	if (le64toh(block.magic) != FOOT_MAGIC)
		return -ENODATA;
	crc = le32toh(block.crc);
	block.crc = 0;
	if (wire_crc(&block, sizeof(block)) != crc)
		return -EBADMSG;
	memcpy(foot->log, block.log, sizeof(foot->log));
	foot->index_crc = le32toh(block.index_crc);
	foot->base = le64toh(block.base);
	foot->last = le64toh(block.last);
	foot->index_at = le64toh(block.index_at);
	foot->index_count = le64toh(block.index_count);
	foot->batches = le64toh(block.batches);
	foot->content_bytes = le64toh(block.content_bytes);
	foot->range_bytes = le64toh(block.range_bytes);
	if (foot->base >= foot->last || file_bytes % UNDO_BLOCK || file_bytes > INT64_MAX ||
	    foot->index_count > file_bytes / UNDO_RECORD_BYTES || foot->index_at % UNDO_BLOCK ||
	    foot->index_at < UNDO_BLOCK || foot->index_at > file_bytes)
		return -EBADMSG;
	/* Head, batches, index, foot, and nothing else. */
	room = whole_blocks(foot->index_count * UNDO_RECORD_BYTES) + UNDO_BLOCK;
	if (file_bytes - foot->index_at != room || foot->batches > (foot->index_at - UNDO_BLOCK) / UNDO_BLOCK ||
	    foot->index_count > foot->batches * UNDO_BATCH_RECORDS || foot->content_bytes > foot->index_at ||
	    foot->content_bytes > foot->range_bytes)
		return -EBADMSG;
	return 0;
}

/* ---- names --------------------------------------------------------------------- */

void undo_layer_name(char out[UNDO_NAME_BYTES], uint64_t base, uint64_t last)
{
	snprintf(out, UNDO_NAME_BYTES, "%016" PRIx64 "-%016" PRIx64 ".undo", base, last);
}

static bool parse_number(const char *text, uint64_t *number)
{
	*number = 0;
	for (unsigned i = 0; i < 16; i++) {
		char c = text[i];

		if (c >= '0' && c <= '9')
			*number = *number << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			*number = *number << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	return true;
}

const char *undo_uuid_text(const uint8_t uuid[UNDO_UUID_BYTES], char out[UNDO_UUID_TEXT])
{
	for (size_t i = 0; i < UNDO_UUID_BYTES; i++)
		snprintf(out + 2 * i, 3, "%02x", uuid[i]);
	return out;
}

bool undo_uuid_parse(const char *text, uint8_t uuid[UNDO_UUID_BYTES])
{
	uint64_t half[2];

	if (strlen(text) != UNDO_UUID_TEXT - 1 || !parse_number(text, &half[0]) || !parse_number(text + 16, &half[1]))
		return false;
	for (size_t i = 0; i < UNDO_UUID_BYTES; i++)
		uuid[i] = (uint8_t)(half[i / 8] >> (56 - i % 8 * 8));
	return true;
}

bool undo_layer_parse(const char *name, uint64_t *base, uint64_t *last)
{
	return parse_number(name, base) && name[16] == '-' && parse_number(name + 17, last) &&
	       !strcmp(name + 33, ".undo") && *base < *last;
}
