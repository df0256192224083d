// SPDX-License-Identifier: GPL-2.0-or-later
/* merge_write: see merge_write.h. A batch is filled in memory and written; its records are kept for the index. */
#include "merge_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io.h"
#include "undo_file.h"
#include "util.h"
#include "wire.h"

#define ALLOCATE_BYTES (64 * MIB)

struct merge_writer {
	int fd;
	struct undo_head head;
	uint64_t at, allocated; /* end of what is written; of what is allocated */
	char *data;		/* the batch: UNDO_BATCH_BYTES */
	struct undo_batch batch; /* place: in @data, until it is written */
	uint32_t used;		 /* of @data, to the byte */
	struct undo_record *records;
	size_t count, slots;
	struct undo_foot foot;
};

static uint64_t whole_blocks(uint64_t bytes)
{
	return (bytes + UNDO_BLOCK - 1) / UNDO_BLOCK * UNDO_BLOCK;
}

/* Far ahead; where there is no space for that, just what is needed. */
static int reserve(struct merge_writer *writer, uint64_t end)
{
	uint64_t step = ALLOCATE_BYTES;
	int r;

	if (end <= writer->allocated)
		return 0;
	if (writer->allocated + step < end)
		step = end - writer->allocated;
	r = undo_allocate(writer->fd, writer->allocated, step);
	if ((r == -ENOSPC || r == -EDQUOT) && writer->allocated + step > end) {
		step = end - writer->allocated;
		r = undo_allocate(writer->fd, writer->allocated, step);
	}
	if (!r)
		writer->allocated += step;
	return r;
}

static int append(struct merge_writer *writer, const void *data, uint64_t bytes)
{
	int r = reserve(writer, writer->at + bytes);

	if (!r)
		r = undo_pwrite(writer->fd, data, bytes, writer->at);
	if (!r)
		writer->at += bytes;
	return r;
}

static void begin_batch(struct merge_writer *writer)
{
	writer->batch.count = 0;
	writer->used = UNDO_BLOCK;
}

static int open_direct(int dir, const char *name)
{
	const int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC;
	int fd = openat(dir, name, flags | O_DIRECT, 0600);

	if (fd < 0 && errno == EINVAL)
		fd = openat(dir, name, flags, 0600);
	return fd < 0 ? -errno : fd;
}

int merge_writer_new(struct merge_writer **out, int dir, const char *name, const struct undo_head *head,
		     const char *meta)
{
	struct merge_writer *writer = calloc(1, sizeof(*writer));
	int r;

	if (!writer)
		return -ENOMEM;
	writer->head = *head;
	writer->data = io_buffer_alloc(UNDO_BATCH_BYTES);
	writer->fd = writer->data ? open_direct(dir, name) : -ENOMEM;
	r = writer->fd < 0 ? writer->fd : 0;
	if (!r) {
		undo_head_encode(head, meta, writer->data);
		r = append(writer, writer->data, undo_head_room(head->meta_bytes));
	}
	if (r) {
		merge_writer_free(writer);
		return r;
	}
	begin_batch(writer);
	*out = writer;
	return 0;
}

/* ---- batches ----------------------------------------------------------------- */

static int remember(struct merge_writer *writer, const struct undo_record *records, size_t count)
{
	if (writer->count + count > writer->slots) {
		size_t slots = writer->slots ? writer->slots * 2 : 1024;
		struct undo_record *more = reallocarray(writer->records, slots, sizeof(*more));

		if (!more)
			return -ENOMEM;
		writer->records = more;
		writer->slots = slots;
	}
	memcpy(writer->records + writer->count, records, count * sizeof(*records));
	writer->count += count;
	return 0;
}

/* Write the batch, if there is anything in it. */
static int flush(struct merge_writer *writer)
{
	struct undo_batch *batch = &writer->batch;
	int r;

	if (!batch->count)
		return 0;
	batch->bytes = (uint32_t)whole_blocks(writer->used);
	memset(writer->data + writer->used, 0, batch->bytes - writer->used);
	for (uint32_t i = 0; i < batch->count; i++) {
		struct undo_record *record = &batch->records[i];

		if (record->flags & UNDO_ZERO)
			continue;
		record->crc = wire_crc(writer->data + record->place, record->length);
		record->place += writer->at;
		writer->foot.content_bytes += record->length;
	}
	for (uint32_t i = 0; i < batch->count; i++)
		writer->foot.range_bytes += batch->records[i].length;
	batch->last = writer->head.last;
	batch->seq = writer->foot.batches; /* none is known to be durable before the end */
	undo_batch_encode(batch, writer->head.log, writer->data);
	r = append(writer, writer->data, batch->bytes);
	if (!r)
		r = remember(writer, batch->records, batch->count);
	writer->foot.batches++;
	begin_batch(writer);
	return r;
}

/* Whether it was possible to make the last record longer. */
static bool extend(struct merge_writer *writer, uint32_t disk, uint64_t offset, uint32_t length, const void *data)
{
	struct undo_record *last = writer->batch.count ? &writer->batch.records[writer->batch.count - 1] : NULL;

	if (!last || last->disk != disk || last->offset + last->length != offset ||
	    (last->flags & UNDO_ZERO) != (data ? 0 : UNDO_ZERO))
		return false;
	if (!data) {
		if (length > UNDO_ZERO_MAX - last->length)
			return false;
	} else {
		if (length > UNDO_RECORD_MAX - last->length || length > UNDO_BATCH_BYTES - writer->used)
			return false;
		memcpy(writer->data + writer->used, data, length);
		writer->used += length;
	}
	last->length += length;
	return true;
}

int merge_write(struct merge_writer *writer, uint32_t disk, uint64_t offset, uint32_t length, const void *data)
{
	struct undo_batch *batch = &writer->batch;
	uint32_t place = (uint32_t)whole_blocks(writer->used);
	int r;

	if (extend(writer, disk, offset, length, data))
		return 0;
	if (batch->count == UNDO_BATCH_RECORDS || (data && length > UNDO_BATCH_BYTES - place)) {
		r = flush(writer);
		if (r)
			return r;
		place = writer->used;
	}
	batch->records[batch->count++] = (struct undo_record){ .disk = disk, .offset = offset, .length = length,
							       .place = data ? place : 0, .flags = data ? 0 : UNDO_ZERO };
	if (data) {
		memset(writer->data + writer->used, 0, place - writer->used);
		memcpy(writer->data + place, data, length);
		writer->used = place + length;
	}
	return 0;
}

/* ---- the end ------------------------------------------------------------------- */

/* Index and foot are one write. */
static int write_index(struct merge_writer *writer)
{
	struct undo_foot *foot = &writer->foot;
	uint64_t records_bytes = writer->count * UNDO_RECORD_BYTES, room = whole_blocks(records_bytes);
	CLEANUP_FREE char *out = io_buffer_alloc(room + UNDO_BLOCK);

	if (!out)
		return -ENOMEM;
	undo_records_encode(writer->records, writer->count, out);
	memset(out + records_bytes, 0, room - records_bytes);
	memcpy(foot->log, writer->head.log, sizeof(foot->log));
	foot->base = writer->head.base;
	foot->last = writer->head.last;
	foot->index_at = writer->at;
	foot->index_count = writer->count;
	foot->index_crc = wire_crc(out, records_bytes);
	undo_foot_encode(foot, out + room);
	return append(writer, out, room + UNDO_BLOCK);
}

int merge_writer_end(struct merge_writer *writer, struct undo_foot *foot, uint64_t *bytes)
{
	int r = flush(writer);

	if (!r)
		r = write_index(writer);
	if (!r)
		r = undo_ftruncate(writer->fd, writer->at);
	if (!r)
		r = undo_fdatasync(writer->fd);
	*foot = writer->foot;
	*bytes = writer->at;
	return r;
}

void merge_writer_free(struct merge_writer *writer)
{
	if (!writer)
		return;
	if (writer->fd >= 0)
		close(writer->fd);
	free(writer->data);
	free(writer->records);
	free(writer);
}
