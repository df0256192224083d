// SPDX-License-Identifier: GPL-2.0-or-later
/* undo: see undo.h. From the event loop only; creating the file and allocating space in it block shortly. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "log.h"
#include "undo.h"
#include "undo_file.h"
#include "util.h"
#include "wire.h"

#define CHUNK_BLOCKS 64u
#define CHUNK_BYTES ((uint64_t)CHUNK_BLOCKS * UNDO_BLOCK)
#define ALLOCATE_MIN (64 * KIB)
#define ALLOCATE_MAX (64 * MIB)

enum batch_state { BATCH_FREE, BATCH_FILLING, BATCH_READING, BATCH_WRITING, BATCH_WRITTEN };

/* A read of old content into a batch: consecutive records of it. */
struct undo_read {
	struct io_request io;
	struct undo_batch_buffer *batch;
	struct target *target;
};

struct undo_batch_buffer {
	struct io_request io;
	struct undo *undo;
	enum batch_state state;
	uint64_t seq;
	char *data; /* UNDO_BATCH_BYTES; the first block is the header */
	uint32_t used, count, reads;
	struct undo_record records[UNDO_BATCH_RECORDS]; /* place: in @data, until it is written */
	struct undo_read pieces[UNDO_BATCH_RECORDS];
};

/* Which blocks of 256 KiB of a disk are claimed, and in which batch the last one was. */
struct undo_chunk {
	uint64_t key; /* 0: empty */
	uint64_t mask;
	uint64_t batch; /* +1 */
};

static void turn(struct undo *undo);

/* ---- which blocks are saved already --------------------------------------- */

static uint64_t chunk_key(uint32_t disk, uint64_t offset)
{
	return ((uint64_t)disk << 40 | offset / CHUNK_BYTES) + 1;
}

static struct undo_chunk *chunk_slot(struct undo_chunk *chunks, size_t slots, uint64_t key)
{
	size_t at = (key * 0x9e3779b97f4a7c15ull >> 20) & (slots - 1);

	while (chunks[at].key && chunks[at].key != key)
		at = (at + 1) & (slots - 1);
	return &chunks[at];
}

static int chunks_grow(struct undo *undo)
{
	size_t slots = undo->chunk_slots ? undo->chunk_slots * 2 : 1024;
	struct undo_chunk *chunks = calloc(slots, sizeof(*chunks));

	if (!chunks)
		return -ENOMEM;
	for (size_t i = 0; i < undo->chunk_slots; i++)
		if (undo->chunks[i].key)
			*chunk_slot(chunks, slots, undo->chunks[i].key) = undo->chunks[i];
	free(undo->chunks);
	undo->chunks = chunks;
	undo->chunk_slots = slots;
	return 0;
}

/* The chunk of @offset, made when missing; NULL: no memory. */
static struct undo_chunk *chunk_get(struct undo *undo, uint32_t disk, uint64_t offset)
{
	uint64_t key = chunk_key(disk, offset);
	struct undo_chunk *chunk;

	if (undo->chunk_count * 2 >= undo->chunk_slots && chunks_grow(undo))
		return NULL;
	chunk = chunk_slot(undo->chunks, undo->chunk_slots, key);
	if (!chunk->key) {
		chunk->key = key;
		undo->chunk_count++;
	}
	return chunk;
}

/* ---- failing -------------------------------------------------------------- */

static void tell(struct undo_wait *wait, int error)
{
	struct undo_wait *next;

	for (; wait; wait = next) {
		next = wait->next;
		wait->done(wait, error);
	}
}

static struct undo_wait *take_waits(struct undo *undo)
{
	struct undo_wait *waits = undo->durable_head;

	*undo->durable_tail = undo->room_head;
	waits = undo->durable_head;
	undo->durable_head = undo->room_head = NULL;
	undo->durable_tail = &undo->durable_head;
	undo->room_tail = &undo->room_head;
	return waits;
}

static void fail(struct undo *undo, const struct target *target, const char *action, uint64_t offset,
		 uint64_t length, int error)
{
	if (undo->error)
		return;
	undo->error = error;
	undo->failed(undo->user, target, action, offset, length, error);
	tell(take_waits(undo), error);
}

/* ---- space in the file ----------------------------------------------------- */

/* The owner has given the layer up: nothing waits any more, nothing more is written. */
static void give_up(struct undo *undo)
{
	struct undo_wait *waits = take_waits(undo);
	char name[UNDO_NAME_BYTES];

	undo_layer_name(name, undo->base, undo->last);
	undo_unlink(undo->log->dir, name); /* else it is a stray, and goes at the next start */
	undo->error = -ENOSPC;		   /* what is in flight ends without a word */
	undo->last = 0;
	tell(waits, 0);
}

/* Make the file reach to @end. 0, or negative errno: failed (said), or given up. */
static int reserve(struct undo *undo, uint64_t end)
{
	uint64_t step = undo->allocated < ALLOCATE_MIN ? ALLOCATE_MIN :
			undo->allocated > ALLOCATE_MAX ? ALLOCATE_MAX :
							 undo->allocated;
	int r;

	if (end <= undo->allocated)
		return 0;
	if (undo->allocated + step < end)
		step = end - undo->allocated;
	for (;;) {
		r = undo_allocate(undo->fd, undo->allocated, step);
		if (r == -ENOSPC && undo->allocated + step > end) {
			step = end - undo->allocated; /* just what is needed */
			continue;
		}
		if (r != -ENOSPC && r != -EDQUOT)
			break;
		switch (undo->full(undo->user)) {
		case UNDO_FULL_AGAIN:
			continue;
		case UNDO_FULL_GIVE_UP:
			give_up(undo);
			return -ENOSPC;
		case UNDO_FULL_FAIL:
			break;
		}
		break;
	}
	if (!r)
		undo->allocated += step;
	else
		fail(undo, NULL, "allocate", undo->allocated, step, r);
	return r;
}

/* ---- batches --------------------------------------------------------------- */

static struct undo_batch_buffer *batch_of(struct undo *undo, uint64_t seq)
{
	return &undo->batches[seq % UNDO_BATCHES];
}

static void arm(struct undo *undo)
{
	sd_event_source_set_enabled(undo->idle, SD_EVENT_ONESHOT);
}

/* The batch that takes records, begun when there is a buffer free; NULL: none. */
static struct undo_batch_buffer *fill(struct undo *undo)
{
	struct undo_batch_buffer *batch = batch_of(undo, undo->filling);

	if (undo->fill_open)
		return batch;
	if (batch->state != BATCH_FREE)
		return NULL;
	if (!batch->data)
		batch->data = io_buffer_alloc(UNDO_BATCH_BYTES);
	if (!batch->data)
		return NULL;
	batch->undo = undo;
	batch->state = BATCH_FILLING;
	batch->seq = undo->filling;
	batch->used = UNDO_BLOCK;
	batch->count = batch->reads = 0;
	undo->fill_open = true;
	arm(undo);
	return batch;
}

static void fill_end(struct undo *undo)
{
	if (!undo->fill_open)
		return;
	batch_of(undo, undo->filling)->state = BATCH_READING;
	undo->filling++;
	undo->fill_open = false;
}

static void read_done(struct io_request *io, int result)
{
	struct undo_read *read = io->user;
	struct undo_batch_buffer *batch = read->batch;
	struct undo *undo = batch->undo;

	undo->in_flight--;
	batch->reads--;
	if (result)
		fail(undo, read->target, "read", io->offset, io->bytes, result);
	turn(undo);
}

static uint32_t round_block(uint64_t bytes)
{
	return (uint32_t)((bytes + UNDO_BLOCK - 1) / UNDO_BLOCK * UNDO_BLOCK);
}

static void record_add(struct undo_batch_buffer *batch, uint32_t disk, uint64_t offset, uint32_t length,
		       uint32_t place, uint32_t flags)
{
	batch->records[batch->count++] = (struct undo_record){
		.disk = disk, .offset = offset, .length = length, .place = place, .flags = flags
	};
}

/* Claim up to @bytes of unsaved content at @offset for the batch. Returns how much it took. */
static uint64_t take_content(struct undo_batch_buffer *batch, struct target *target, uint64_t offset, uint64_t bytes)
{
	struct undo_read *read = &batch->pieces[batch->count];
	uint64_t room = UNDO_BATCH_BYTES - batch->used;
	uint32_t from = batch->used;

	if (bytes > room)
		bytes = room;
	for (uint64_t done = 0; done < bytes;) {
		uint32_t length = (uint32_t)(bytes - done > UNDO_RECORD_MAX ? UNDO_RECORD_MAX : bytes - done);

		if (batch->count == UNDO_BATCH_RECORDS) {
			bytes = done;
			break;
		}
		record_add(batch, target->id, offset + done, length, from + (uint32_t)done, 0);
		done += length;
	}
	if (!bytes)
		return 0;
	batch->used += round_block(bytes);
	*read = (struct undo_read){
		.io = { .op = IO_READ, .fd = target->fd, .buffer = -1, .data = batch->data + from, .bytes = bytes,
			.offset = offset, .done = read_done, .user = read },
		.batch = batch,
		.target = target,
	};
	batch->reads++;
	batch->undo->in_flight++;
	io_submit(batch->undo->io, &read->io);
	return bytes;
}

/* How far from @offset the target is known to be zero without reading: a hole of an image file. */
static uint64_t known_zero(struct target *target, uint64_t offset, uint64_t end)
{
	off_t data, hole;

	/* What was data may be a hole by now, which only means to read zeros; the reverse would lose content. */
	if (target->block || (offset >= target->data_from && offset < target->data_end))
		return 0;
	data = lseek(target->fd, (off_t)offset, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? end - offset : 0;
	if ((uint64_t)data <= offset) {
		hole = lseek(target->fd, (off_t)offset, SEEK_HOLE);
		target->data_from = offset;
		target->data_end = hole < 0 ? offset : (uint64_t)hole;
		return 0;
	}
	return (uint64_t)data >= end ? end - offset : ((uint64_t)data - offset) / UNDO_BLOCK * UNDO_BLOCK;
}

/* Blocks from @offset on that have the same answer to "claimed already?"; in bytes, up to @end and the chunk's. */
static uint64_t alike(const struct undo_chunk *chunk, uint64_t offset, uint64_t end, bool *claimed)
{
	unsigned bit = (unsigned)(offset / UNDO_BLOCK % CHUNK_BLOCKS);
	uint64_t bits = chunk->mask >> bit, stop = offset - (uint64_t)bit * UNDO_BLOCK + CHUNK_BYTES;
	unsigned count;

	*claimed = bits & 1;
	if (*claimed)
		bits = ~bits;
	count = bits ? (unsigned)__builtin_ctzll(bits) : CHUNK_BLOCKS;
	if (stop > offset + (uint64_t)count * UNDO_BLOCK)
		stop = offset + (uint64_t)count * UNDO_BLOCK;
	return (stop < end ? stop : end) - offset;
}

static void chunk_claim(struct undo_chunk *chunk, uint64_t offset, uint64_t bytes, uint64_t batch)
{
	for (uint64_t done = 0; done < bytes; done += UNDO_BLOCK)
		chunk->mask |= 1ull << ((offset + done) / UNDO_BLOCK % CHUNK_BLOCKS);
	if (chunk->batch < batch + 1)
		chunk->batch = batch + 1;
}

/*
 * Go as far in @wait's range as there is room. Returns 1 at its end, 0 without room, negative errno (said).
 */
static int claim(struct undo *undo, struct undo_wait *wait)
{
	struct target *target = wait->target;

	while (wait->cursor < wait->end) {
		struct undo_chunk *chunk = chunk_get(undo, target->id, wait->cursor);
		struct undo_batch_buffer *batch;
		uint64_t bytes, zero;
		bool claimed;

		if (!chunk) {
			fail(undo, target, "remember what is saved of", wait->cursor, wait->end - wait->cursor, -ENOMEM);
			return -ENOMEM;
		}
		bytes = alike(chunk, wait->cursor, wait->end, &claimed);
		if (claimed) {
			if (wait->batch < chunk->batch)
				wait->batch = chunk->batch;
			wait->cursor += bytes;
			continue;
		}
		batch = fill(undo);
		if (!batch)
			return 0;
		zero = batch->count < UNDO_BATCH_RECORDS ? known_zero(target, wait->cursor, wait->cursor + bytes) : 0;
		if (zero) {
			bytes = zero;
			record_add(batch, target->id, wait->cursor, (uint32_t)bytes, 0, UNDO_ZERO);
		} else if (batch->count < UNDO_BATCH_RECORDS) {
			bytes = take_content(batch, target, wait->cursor, bytes);
		} else {
			bytes = 0;
		}
		if (!bytes) {
			fill_end(undo);
			continue;
		}
		chunk_claim(chunk, wait->cursor, bytes, batch->seq);
		wait->batch = batch->seq + 1;
		wait->cursor += bytes;
		if (batch->used == UNDO_BATCH_BYTES || batch->count == UNDO_BATCH_RECORDS)
			fill_end(undo);
	}
	return 1;
}

/* ---- writing --------------------------------------------------------------- */

/* Zero content is not kept; the rest moves together. */
static void compact(struct undo_batch_buffer *batch)
{
	uint32_t to = UNDO_BLOCK;

	for (uint32_t i = 0; i < batch->count; i++) {
		struct undo_record *record = &batch->records[i];
		uint32_t whole = record->length / 64 * 64;
		char *from = batch->data + record->place;

		if (record->flags & UNDO_ZERO)
			continue;
		if (whole == record->length && wire_is_zero(from, record->length)) {
			record->flags = UNDO_ZERO;
			record->place = 0;
			continue;
		}
		if (record->place != to)
			memmove(batch->data + to, from, record->length);
		if (round_block(record->length) != record->length)
			memset(batch->data + to + record->length, 0, round_block(record->length) - record->length);
		record->place = to;
		record->crc = wire_crc(batch->data + to, record->length);
		to += round_block(record->length);
	}
	batch->used = to;
}

/* The records of the batch, for the index. */
static int remember(struct undo *undo, const struct undo_batch_buffer *batch)
{
	if (undo->record_count + batch->count > undo->record_slots) {
		size_t slots = undo->record_slots ? undo->record_slots * 2 : 1024;
		struct undo_record *records = reallocarray(undo->records, slots, sizeof(*records));

		if (!records)
			return -ENOMEM;
		undo->records = records;
		undo->record_slots = slots;
	}
	for (uint32_t i = 0; i < batch->count; i++) {
		const struct undo_record *record = &batch->records[i];

		undo->range_bytes += record->length;
		if (!(record->flags & UNDO_ZERO))
			undo->content_bytes += record->length;
		undo->records[undo->record_count++] = *record;
	}
	return 0;
}

static void write_done(struct io_request *io, int result)
{
	struct undo_batch_buffer *batch = io->user;
	struct undo *undo = batch->undo;

	undo->in_flight--;
	batch->state = BATCH_WRITTEN;
	if (result)
		fail(undo, NULL, "write", io->offset, io->bytes, result);
	turn(undo);
}

/* All of the batch has been read: give it its place in the file and write it. */
static int finish(struct undo *undo, struct undo_batch_buffer *batch)
{
	struct undo_batch header = { .last = undo->last, .seq = batch->seq, .durable = undo->durable,
				     .count = batch->count };
	int r;

	compact(batch);
	r = reserve(undo, undo->at + batch->used);
	if (r)
		return r;
	for (uint32_t i = 0; i < batch->count; i++)
		if (!(batch->records[i].flags & UNDO_ZERO))
			batch->records[i].place += undo->at;
	r = remember(undo, batch);
	if (r) {
		fail(undo, NULL, "index", undo->at, batch->used, r);
		return r;
	}
	header.bytes = batch->used;
	memcpy(header.records, batch->records, batch->count * sizeof(header.records[0]));
	undo_batch_encode(&header, undo->log->uuid, batch->data);
	batch->state = BATCH_WRITING;
	batch->io = (struct io_request){ .op = IO_WRITE, .fd = undo->fd, .buffer = -1, .data = batch->data,
					 .bytes = batch->used, .offset = undo->at, .done = write_done, .user = batch };
	undo->at += batch->used;
	undo->total_bytes += batch->used;
	undo->finished++;
	undo->in_flight++;
	io_submit(undo->io, &batch->io);
	return 0;
}

static void publish(struct undo *undo)
{
	struct undo_tail tail = { .committed = undo->base, .open = undo->last, .batches = undo->durable };

	memcpy(tail.log, undo->log->uuid, sizeof(tail.log));
	undo_tail_publish(undo->log->tail, &tail);
}

static void sync_done(struct io_request *io, int result)
{
	struct undo *undo = io->user;
	struct undo_wait *wait, *go = NULL, **go_tail = &go, **at = &undo->durable_head;

	undo->in_flight--;
	undo->syncing = false;
	if (undo->error) {
		turn(undo);
		return;
	}
	if (result) {
		fail(undo, NULL, "flush", 0, undo->at, result);
		return;
	}
	for (; undo->durable < undo->sync_to; undo->durable++)
		batch_of(undo, undo->durable)->state = BATCH_FREE;
	publish(undo); /* before anything that waits is let go */
	while ((wait = *at)) {
		if (wait->batch > undo->durable) {
			at = &wait->next;
			continue;
		}
		*at = wait->next;
		*go_tail = wait;
		go_tail = &wait->next;
	}
	undo->durable_tail = at;
	*go_tail = NULL;
	turn(undo);
	tell(go, 0);
}

static void sync_begin(struct undo *undo)
{
	undo->syncing = true;
	undo->sync_to = undo->written;
	undo->in_flight++;
	undo->io_sync = (struct io_request){ .op = IO_SYNC, .fd = undo->fd, .buffer = -1, .done = sync_done, .user = undo };
	io_submit(undo->io, &undo->io_sync);
}

static void seal_turn(struct undo *undo);

static void room_turn(struct undo *undo)
{
	struct undo_wait *wait;

	while (!undo->error && (wait = undo->room_head)) {
		int r = claim(undo, wait);

		if (r <= 0)
			return;
		undo->room_head = wait->next;
		if (!undo->room_head)
			undo->room_tail = &undo->room_head;
		wait->next = NULL;
		*undo->durable_tail = wait;
		undo->durable_tail = &wait->next;
	}
}

/* Take every batch as far as it can go. */
static void turn(struct undo *undo)
{
	if (!undo->error)
		room_turn(undo);
	while (!undo->error && undo->finished < undo->filling) {
		struct undo_batch_buffer *batch = batch_of(undo, undo->finished);

		if (batch->state != BATCH_READING || batch->reads)
			break;
		if (finish(undo, batch))
			break;
	}
	while (undo->written < undo->finished && batch_of(undo, undo->written)->state == BATCH_WRITTEN)
		undo->written++;
	if (!undo->error && !undo->syncing && undo->written > undo->durable)
		sync_begin(undo);
	if (undo->fill_open)
		arm(undo);
	seal_turn(undo);
}

/* Nothing else wants to run: what there is, is a batch, unless enough is on its way already. */
static int on_idle(sd_event_source *source, void *user)
{
	struct undo *undo = user;

	(void)source;
	if (undo->error || !undo->fill_open)
		return 0;
	if (undo->filling - undo->durable < 2) {
		fill_end(undo);
		turn(undo);
	}
	return 0;
}

/* ---- sealing --------------------------------------------------------------- */

enum seal_step { SEAL_DRAIN, SEAL_INDEX, SEAL_FOOT, SEAL_SYNC };

struct undo_sealing {
	struct io_request io;
	struct undo *undo;
	enum seal_step step;
	struct undo_foot foot;
	size_t index_done;
	char *data; /* the buffer of a batch: all are free by then */
	bool busy;
};

static void seal_end(struct undo *undo, int error)
{
	struct undo_sealing *sealing = undo->sealing;

	undo->sealing = NULL;
	free(sealing);
	undo->sealed(undo->user, error);
}

static void seal_done(struct io_request *io, int result)
{
	struct undo_sealing *sealing = io->user;
	struct undo *undo = sealing->undo;

	undo->in_flight--;
	sealing->busy = false;
	if (result)
		fail(undo, NULL, io->op == IO_SYNC ? "flush" : "write", io->offset, io->bytes, result);
	seal_turn(undo);
}

static void seal_io(struct undo *undo, enum io_op op, uint64_t bytes, uint64_t offset)
{
	struct undo_sealing *sealing = undo->sealing;

	sealing->io = (struct io_request){ .op = op, .fd = undo->fd, .buffer = -1, .data = sealing->data, .bytes = bytes,
					   .offset = offset, .done = seal_done, .user = sealing };
	sealing->busy = true;
	undo->in_flight++;
	io_submit(undo->io, &sealing->io);
}

static void seal_index(struct undo *undo)
{
	struct undo_sealing *sealing = undo->sealing;
	size_t count = undo->record_count - sealing->index_done;
	uint32_t bytes;

	if (!count) {
		sealing->step = SEAL_FOOT;
		return;
	}
	if (count > UNDO_BATCH_BYTES / UNDO_RECORD_BYTES)
		count = UNDO_BATCH_BYTES / UNDO_RECORD_BYTES;
	bytes = round_block(count * UNDO_RECORD_BYTES);
	if (reserve(undo, undo->at + bytes + UNDO_BLOCK))
		return;
	memset(sealing->data + bytes - UNDO_BLOCK, 0, UNDO_BLOCK);
	undo_records_encode(undo->records + sealing->index_done, count, sealing->data);
	sealing->index_done += count;
	seal_io(undo, IO_WRITE, bytes, undo->at);
	undo->at += bytes;
}

static void seal_foot(struct undo *undo)
{
	struct undo_sealing *sealing = undo->sealing;
	int r;

	if (reserve(undo, undo->at + UNDO_BLOCK))
		return;
	r = undo_ftruncate(undo->fd, undo->at + UNDO_BLOCK);
	if (r) {
		fail(undo, NULL, "truncate", undo->at, UNDO_BLOCK, r);
		return;
	}
	sealing->foot.base = undo->base;
	sealing->foot.last = undo->last;
	memcpy(sealing->foot.log, undo->log->uuid, sizeof(sealing->foot.log));
	undo_foot_encode(&sealing->foot, sealing->data);
	undo->foot = sealing->foot;
	sealing->step = SEAL_SYNC;
	seal_io(undo, IO_WRITE, UNDO_BLOCK, undo->at);
	undo->at += UNDO_BLOCK;
}

/* CRC of the whole index as it goes out. Without memory it is wrong, and the index is made again from the batches when it is wanted. */
static uint32_t index_crc(const struct undo *undo)
{
	size_t bytes = undo->record_count * UNDO_RECORD_BYTES;
	CLEANUP_FREE char *all = malloc(bytes ? bytes : 1);

	if (!all)
		return 0;
	undo_records_encode(undo->records, undo->record_count, all);
	return wire_crc(all, bytes);
}

static void seal_begin(struct undo *undo)
{
	struct undo_sealing *sealing = undo->sealing;

	if (undo->record_count)
		qsort(undo->records, undo->record_count, sizeof(*undo->records), undo_record_order);
	sealing->foot = (struct undo_foot){ .index_at = undo->at, .index_count = undo->record_count,
					    .batches = undo->durable, .content_bytes = undo->content_bytes,
					    .range_bytes = undo->range_bytes, .index_crc = index_crc(undo) };
	sealing->step = SEAL_INDEX;
}

static void seal_turn(struct undo *undo)
{
	struct undo_sealing *sealing;

	while ((sealing = undo->sealing) && !sealing->busy) {
		if (undo->error) {
			if (!undo->in_flight)
				seal_end(undo, undo->error);
			return;
		}
		switch (sealing->step) {
		case SEAL_DRAIN:
			if (undo->fill_open || undo->durable < undo->filling)
				return;
			seal_begin(undo);
			break;
		case SEAL_INDEX:
			seal_index(undo);
			break;
		case SEAL_FOOT:
			seal_foot(undo);
			break;
		case SEAL_SYNC:
			if (sealing->io.op == IO_SYNC) {
				seal_end(undo, 0);
				return;
			}
			seal_io(undo, IO_SYNC, 0, 0);
			break;
		}
	}
}

void undo_seal(struct undo *undo)
{
	struct undo_sealing *sealing = calloc(1, sizeof(*sealing));
	char **data = &undo->batches[0].data;

	if (!*data)
		*data = io_buffer_alloc(UNDO_BATCH_BYTES);
	if (!sealing || !*data) {
		free(sealing);
		fail(undo, NULL, "index", undo->at, 0, -ENOMEM);
		undo->sealed(undo->user, -ENOMEM);
		return;
	}
	sealing->undo = undo;
	sealing->data = *data;
	undo->sealing = sealing;
	fill_end(undo);
	turn(undo);
}

void undo_entry(const struct undo *undo, struct undo_entry *entry)
{
	*entry = (struct undo_entry){ .base = undo->base, .last = undo->last, .bytes = undo->at, .sealed = true, .foot = undo->foot };
}

/* ---- the owner's calls ------------------------------------------------------ */

int undo_init(struct undo *undo)
{
	int r;

	undo->fd = -1;
	undo->durable_tail = &undo->durable_head;
	undo->room_tail = &undo->room_head;
	undo->batches = calloc(UNDO_BATCHES, sizeof(*undo->batches));
	if (!undo->batches)
		return -ENOMEM;
	r = sd_event_add_defer(undo->event, &undo->idle, on_idle, undo);
	if (r >= 0)
		r = sd_event_source_set_enabled(undo->idle, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_source_set_priority(undo->idle, SD_EVENT_PRIORITY_IDLE);
	return r < 0 ? r : 0;
}

void undo_destroy(struct undo *undo)
{
	undo_close(undo);
	sd_event_source_disable_unref(undo->idle);
	undo->idle = NULL;
	for (unsigned i = 0; undo->batches && i < UNDO_BATCHES; i++)
		free(undo->batches[i].data);
	free(undo->batches);
	undo->batches = NULL;
}

bool undo_is_open(const struct undo *undo)
{
	return undo->last != 0;
}

bool undo_quiet(const struct undo *undo)
{
	return !undo->in_flight;
}

bool undo_failed(const struct undo *undo)
{
	return undo->error != 0;
}

void undo_abandon(struct undo *undo)
{
	char name[UNDO_NAME_BYTES];

	undo_layer_name(name, undo->base, undo->last);
	undo_close(undo);
	undo_unlink(undo->log->dir, name); /* else it is a stray, and goes at the next start */
}

void undo_close(struct undo *undo)
{
	if (undo->fd >= 0)
		close(undo->fd);
	undo->fd = -1;
	for (unsigned i = 0; undo->batches && i < UNDO_BATCHES; i++)
		undo->batches[i].state = BATCH_FREE;
	if (undo->idle)
		sd_event_source_set_enabled(undo->idle, SD_EVENT_OFF);
	free(undo->chunks);
	free(undo->records);
	undo->chunks = NULL;
	undo->records = NULL;
	undo->chunk_slots = undo->chunk_count = undo->record_slots = undo->record_count = 0;
	undo->base = undo->last = undo->at = undo->allocated = 0;
	undo->filling = undo->finished = undo->written = undo->durable = 0;
	undo->content_bytes = undo->range_bytes = 0;
	undo->fill_open = undo->syncing = false;
	undo->error = 0;
}

static int write_head(struct undo *undo, const json_t *meta)
{
	CLEANUP_FREE char *text = meta ? json_dumps(meta, JSON_COMPACT) : strdup("{}");
	CLEANUP_FREE char *block = NULL;
	struct undo_head head = { .base = undo->base, .last = undo->last };
	size_t bytes;

	if (!text)
		return -ENOMEM;
	head.meta_bytes = (uint32_t)strlen(text);
	bytes = undo_head_room(head.meta_bytes);
	head.batches_at = (uint32_t)bytes;
	memcpy(head.log, undo->log->uuid, sizeof(head.log));
	block = io_buffer_alloc(bytes);
	if (!block)
		return -ENOMEM;
	memset(block, 0, bytes);
	undo_head_encode(&head, text, block);
	undo->at = bytes;
	return undo_pwrite(undo->fd, block, bytes, 0);
}

int undo_open(struct undo *undo, uint64_t base, uint64_t last, const json_t *meta)
{
	char name[UNDO_NAME_BYTES];
	int r;

	undo_layer_name(name, base, last);
	undo->fd = openat(undo->log->dir, name, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
	if (undo->fd < 0 && errno == EINVAL)
		undo->fd = openat(undo->log->dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (undo->fd < 0)
		return -errno;
	undo->base = base;
	undo->last = last;
	r = reserve(undo, ALLOCATE_MIN);
	if (!r)
		r = write_head(undo, meta);
	if (!r)
		r = undo_fdatasync(undo->fd);
	if (!r)
		r = undo_sync_dir(undo->log->dir);
	if (r) {
		undo_close(undo);
		undo_unlink(undo->log->dir, name);
	}
	return r;
}

bool undo_save(struct undo *undo, struct target *target, uint64_t offset, uint64_t length, struct undo_wait *wait)
{
	uint64_t end = offset + length;
	int r;

	if (!undo_is_open(undo))
		return true;
	wait->target = target;
	wait->batch = 0;
	wait->next = NULL;
	wait->cursor = offset / UNDO_BLOCK * UNDO_BLOCK;
	wait->end = (end + UNDO_BLOCK - 1) / UNDO_BLOCK * UNDO_BLOCK;
	if (wait->end > target->bytes)
		wait->end = target->bytes;
	if (undo->error) {
		/* Nobody may go on; said already. The caller hears of it as of any other failure. */
		wait->done(wait, undo->error);
		return false;
	}
	if (undo->room_head) {
		r = 0; /* behind the others */
	} else {
		r = claim(undo, wait);
		if (r > 0 && wait->batch <= undo->durable)
			return true;
		if (r < 0) {
			wait->done(wait, r);
			return false;
		}
	}
	if (r) {
		*undo->durable_tail = wait;
		undo->durable_tail = &wait->next;
	} else {
		*undo->room_tail = wait;
		undo->room_tail = &wait->next;
	}
	if (undo->fill_open && batch_of(undo, undo->filling)->state == BATCH_FILLING)
		arm(undo);
	turn(undo);
	return false;
}
