/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_build: writes layers of an undo log for tests, plainly. Included by unit tests. Whatever cannot be written aborts.
 */
#ifndef REPROTECT_TESTS_UNDO_BUILD_H
#define REPROTECT_TESTS_UNDO_BUILD_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "undo_format.h"
#include "wire.h"

/** struct build_record - a range as it was; @content NULL: zeros */
struct build_record {
	uint64_t offset;
	const uint8_t *content;
	uint32_t disk, length;
};

/**
 * struct build - a layer under construction
 * @at: where the next batch goes
 * @index: the records so far
 * @durable: what the next batch says; build_batch() makes it all before that
 */
struct build {
	int fd;
	struct undo_head head;
	uint64_t at, seq, durable;
	struct undo_record *index;
	size_t count;
};

static inline void build_put(int fd, const void *data, size_t bytes, uint64_t offset)
{
	if (pwrite(fd, data, bytes, (off_t)offset) != (ssize_t)bytes)
		abort();
}

/** build_begin - @meta: JSON */
static inline void build_begin(struct build *build, int dir, const uint8_t *log, uint64_t base, uint64_t last, const char *meta)
{
	char name[UNDO_NAME_BYTES];
	uint32_t meta_bytes = (uint32_t)strlen(meta);
	uint8_t *head = malloc(undo_head_room(meta_bytes));

	*build = (struct build){ .head = { .base = base, .last = last, .meta_bytes = meta_bytes } };
	memcpy(build->head.log, log, UNDO_UUID_BYTES);
	undo_layer_name(name, base, last);
	build->fd = openat(dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (build->fd < 0 || !head)
		abort();
	undo_head_encode(&build->head, meta, head);
	build->at = undo_head_room(meta_bytes);
	build_put(build->fd, head, build->at, 0);
	free(head);
}

/** build_batch - one batch; content is packed at multiples of 512 */
static inline void build_batch(struct build *build, const struct build_record *records, uint32_t count)
{
	struct undo_batch *batch = calloc(1, sizeof(*batch));
	size_t bytes = UNDO_BLOCK, room = 2 * UNDO_BLOCK;
	uint8_t *data;

	for (uint32_t i = 0; i < count; i++)
		room += records[i].content ? records[i].length : 0;
	data = calloc(1, room);
	build->index = realloc(build->index, (build->count + count + 1) * sizeof(*build->index));
	if (!batch || !data || !build->index || count > UNDO_BATCH_RECORDS)
		abort();
	for (uint32_t i = 0; i < count; i++) {
		struct undo_record *record = &batch->records[i];

		*record = (struct undo_record){ .offset = records[i].offset, .length = records[i].length, .disk = records[i].disk };
		if (records[i].content) {
			record->place = build->at + bytes;
			record->crc = wire_crc(records[i].content, record->length);
			memcpy(data + bytes, records[i].content, record->length);
			bytes += record->length;
		} else {
			record->flags = UNDO_ZERO;
		}
		build->index[build->count++] = *record;
	}
	bytes = (bytes + UNDO_BLOCK - 1) / UNDO_BLOCK * UNDO_BLOCK;
	if (bytes > UNDO_BATCH_BYTES)
		abort();
	batch->last = build->head.last;
	batch->seq = build->seq;
	batch->durable = build->durable;
	batch->count = count;
	batch->bytes = (uint32_t)bytes;
	undo_batch_encode(batch, build->head.log, data);
	build_put(build->fd, data, bytes, build->at);
	build->at += bytes;
	build->durable = ++build->seq;
	free(batch);
	free(data);
}

/** build_seal - index and foot */
static inline void build_seal(struct build *build)
{
	size_t index_bytes = build->count * UNDO_RECORD_BYTES;
	size_t room = (index_bytes + UNDO_BLOCK - 1) / UNDO_BLOCK * UNDO_BLOCK;
	uint8_t *data = calloc(1, room + UNDO_BLOCK);
	struct undo_foot foot = { .base = build->head.base, .last = build->head.last, .index_at = build->at,
				  .index_count = build->count, .batches = build->seq };

	if (!data)
		abort();
	if (build->count)
		qsort(build->index, build->count, sizeof(*build->index), undo_record_order);
	for (size_t i = 0; i < build->count; i++) {
		foot.range_bytes += build->index[i].length;
		foot.content_bytes += build->index[i].flags & UNDO_ZERO ? 0 : build->index[i].length;
	}
	memcpy(foot.log, build->head.log, UNDO_UUID_BYTES);
	undo_records_encode(build->index, build->count, data);
	foot.index_crc = wire_crc(data, index_bytes);
	undo_foot_encode(&foot, data + room);
	build_put(build->fd, data, room + UNDO_BLOCK, build->at);
	if (ftruncate(build->fd, (off_t)(build->at + room + UNDO_BLOCK)))
		abort();
	free(data);
}

static inline void build_end(struct build *build)
{
	close(build->fd);
	free(build->index);
	*build = (struct build){ .fd = -1 };
}

/** build_layer - a whole layer with @per_batch records in a batch (0: as many as fit) */
static inline void build_layer(int dir, const uint8_t *log, uint64_t base, uint64_t last, const char *meta,
			       const struct build_record *records, size_t count, uint32_t per_batch, bool sealed)
{
	struct build build;

	build_begin(&build, dir, log, base, last, meta);
	for (size_t at = 0; at < count;) {
		size_t bytes = UNDO_BLOCK;
		uint32_t n = 0;

		while (at + n < count && n < (per_batch ? per_batch : UNDO_BATCH_RECORDS)) {
			bytes += records[at + n].content ? records[at + n].length : 0;
			if (n && bytes > UNDO_BATCH_BYTES)
				break;
			n++;
		}
		build_batch(&build, records + at, n);
		at += n;
	}
	if (sealed)
		build_seal(&build);
	build_end(&build);
}

#endif
