// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * writer: see writer.h. From the event loop only.
 *
 * A write is a small machine that walks its range. Nearly always there is one step. A range that
 * does not lie on the target's sectors (a 512-byte tail on a 4 KiB disk) has its first or last
 * sector read, changed and written back; that is safe, because the range that writer_overlaps()
 * guards is rounded outward to whole sectors. Long ZEROs go in steps, so that none blocks a
 * flush for minutes.
 *
 *	state    | next
 *	---------+-------------------------------------------------------------
 *	STEP     | cursor at the end: done; what is next is not saved in the undo log: SAVE; on a sector boundary with a
 *		 | sector to go: WHOLE; else PART_READ
 *	SAVE     | saved: STEP
 *	WHOLE    | transfer done: cursor moves on, STEP
 *	PART_READ| sector read and patched: PART_WRITE
 *	PART_WRITE| cursor moves on, STEP
 */
#include <errno.h>
#include <string.h>

#include "util.h"
#include "writer.h"

enum op_state { OP_STEP, OP_SAVE, OP_WHOLE, OP_PART_READ, OP_PART_WRITE };

/* An operation in the list of a MiB that it touches. */
struct writer_place {
	struct writer_op *op;
	struct writer_place *next, **link;
};

struct writer_op {
	struct io_request io;
	struct writer *writer;
	struct target *target;
	struct writer_place places[2];
	struct writer_op *next, **link; /* in the list of the wide ones */
	enum op_state state;
	bool zero;
	unsigned generation;
	char *payload;
	char *sector;		    /* bounce buffer, only for unaligned ranges */
	uint64_t offset, cursor, end; /* the frame's range */
	uint64_t base;		    /* offset that the first byte of payload belongs to */
	uint64_t step;		    /* bytes of the frame in the present step */
	struct undo_wait wait;
	uint64_t saved; /* what is before needs no saving any more */
};

struct flush {
	struct io_request io;
	struct writer *writer;
	struct target *target;
};

static uint64_t down(uint64_t value, uint32_t align)
{
	return value - value % align;
}

static uint64_t up(uint64_t value, uint32_t align)
{
	return down(value + align - 1, align);
}

/* ---- what is in flight, by its place ---------------------------------------- */

static bool touches(const struct writer_op *op, const struct target *target, uint64_t from, uint64_t to)
{
	return op->target == target && from < up(op->end, target->align) && down(op->offset, target->align) < to;
}

static struct writer_place **bucket(const struct writer *writer, const struct target *target, uint64_t mib)
{
	return (struct writer_place **)&writer->places[(mib + (uint64_t)target->id * 509) % WRITER_PLACES];
}

static uint64_t first_mib(const struct target *target, uint64_t offset)
{
	return down(offset, target->align) / MIB;
}

static uint64_t last_mib(const struct target *target, uint64_t end)
{
	return (up(end, target->align) - 1) / MIB;
}

static void place(struct writer_op *op)
{
	struct writer *writer = op->writer;
	uint64_t first = first_mib(op->target, op->offset), last = last_mib(op->target, op->end);

	if (last - first >= ARRAY_LENGTH(op->places)) {
		op->link = &writer->wide;
		op->next = writer->wide;
		if (op->next)
			op->next->link = &op->next;
		writer->wide = op;
		return;
	}
	for (uint64_t mib = first; mib <= last; mib++) {
		struct writer_place *place = &op->places[mib - first], **head = bucket(writer, op->target, mib);

		*place = (struct writer_place){ .op = op, .next = *head, .link = head };
		if (place->next)
			place->next->link = &place->next;
		*head = place;
	}
}

static void displace(struct writer_op *op)
{
	if (op->link) {
		*op->link = op->next;
		if (op->next)
			op->next->link = op->link;
	}
	for (size_t i = 0; i < ARRAY_LENGTH(op->places) && op->places[i].op; i++) {
		*op->places[i].link = op->places[i].next;
		if (op->places[i].next)
			op->places[i].next->link = op->places[i].link;
	}
}

bool writer_overlaps(const struct writer *writer, const struct target *target, uint64_t offset,
		     uint64_t length)
{
	uint64_t from = down(offset, target->align), to = up(offset + length, target->align);
	uint64_t first = first_mib(target, offset), last = last_mib(target, offset + length);

	for (const struct writer_op *op = writer->wide; op; op = op->next)
		if (touches(op, target, from, to))
			return true;
	if (last - first >= WRITER_PLACES) /* every bucket once */
		last = first + WRITER_PLACES - 1;
	for (uint64_t mib = first; writer_in_flight(writer) && mib <= last; mib++)
		for (const struct writer_place *p = *bucket(writer, target, mib); p; p = p->next)
			if (touches(p->op, target, from, to))
				return true;
	return false;
}

unsigned writer_in_flight(const struct writer *writer)
{
	return writer->count[0] + writer->count[1];
}

bool writer_full(const struct writer *writer)
{
	return writer_in_flight(writer) >= WRITER_OPS_MAX;
}

void writer_turn(struct writer *writer)
{
	writer->generation ^= 1;
}

unsigned writer_old_in_flight(const struct writer *writer)
{
	return writer->count[writer->generation ^ 1];
}

bool writer_flushing(const struct writer *writer)
{
	return writer->flushes != 0;
}

static void end(struct writer_op *op, int error)
{
	struct writer *writer = op->writer;
	struct target *target = op->target;
	uint64_t offset = op->offset, length = op->end - op->offset;
	const char *action = op->zero ? "zero" : "write";

	displace(op);
	writer->count[op->generation]--;
	writer->moved_ms = util_now_ms();
	if (op->payload)
		pool_put(writer->pool, writer->client, op->payload);
	free(op->sector);
	free(op);
	if (error)
		writer->failed(writer->user, target, action, offset, length, error);
	else
		writer->bytes_done += length;
	writer->progress(writer->user);
}

static void step_done(struct io_request *io, int result);

/* Hand the present step to the engine. */
static void transfer(struct writer_op *op, enum io_op what, void *data, uint64_t offset, uint64_t bytes)
{
	op->io = (struct io_request){
		.op = what,
		.fd = op->target->fd,
		.buffer = data == op->payload && data ? pool_index(op->writer->pool, data) : -1,
		.data = data,
		.bytes = bytes,
		.offset = offset,
		.done = step_done,
		.user = op,
	};
	io_submit(op->writer->io, &op->io);
}

static void step(struct writer_op *op);

static void save_done(struct undo_wait *wait, int error)
{
	struct writer_op *op = (struct writer_op *)((char *)wait - offsetof(struct writer_op, wait));

	if (error)
		end(op, error);
	else
		step(op);
}

/* Whether the next step may be done now; else save_done() comes, or has come (and @op may be gone). */
static bool save(struct writer_op *op)
{
	uint64_t from = op->cursor;

	if (!op->writer->undo || !undo_is_open(op->writer->undo) || op->cursor < op->saved)
		return true;
	op->saved = op->zero && op->end - from > WRITER_SAVE_BYTES ? down(from + WRITER_SAVE_BYTES, op->target->align) :
									op->end;
	op->state = OP_SAVE;
	return undo_save(op->writer->undo, op->target, from, op->saved - from, &op->wait);
}

static void step(struct writer_op *op)
{
	uint32_t align = op->target->align;
	uint64_t left = op->end - op->cursor;

	op->state = OP_STEP;
	if (!left) {
		end(op, 0);
		return;
	}
	if (!save(op))
		return;
	if (op->cursor % align || left < align) {
		if (!op->sector)
			op->sector = io_buffer_alloc(align);
		if (!op->sector) {
			end(op, -ENOMEM);
			return;
		}
		op->step = down(op->cursor, align) + align - op->cursor;
		if (op->step > left)
			op->step = left;
		op->state = OP_PART_READ;
		transfer(op, IO_READ, op->sector, down(op->cursor, align), align);
		return;
	}
	op->step = down(left, align);
	op->state = OP_WHOLE;
	if (op->zero) {
		if (op->step > WRITER_ZERO_BYTES)
			op->step = WRITER_ZERO_BYTES;
		if (op->saved > op->cursor && op->step > op->saved - op->cursor)
			op->step = op->saved - op->cursor;
		transfer(op, IO_ZERO, NULL, op->cursor, op->step);
		return;
	}
	/* After an unaligned head the rest moves to the start of its buffer, which is aligned. */
	uint64_t skipped = op->cursor - op->base;

	if (skipped % 4096) {
		memmove(op->payload, op->payload + skipped, left);
		op->base += skipped;
		skipped = 0;
	}
	transfer(op, IO_WRITE, op->payload + skipped, op->cursor, op->step);
}

static void step_done(struct io_request *io, int result)
{
	struct writer_op *op = io->user;
	uint32_t align = op->target->align;

	if (result) {
		end(op, result);
		return;
	}
	op->writer->moved_ms = util_now_ms();
	if (op->state == OP_PART_READ) {
		char *at = op->sector + op->cursor % align;

		if (op->zero)
			memset(at, 0, op->step);
		else
			memcpy(at, op->payload + (op->cursor - op->base), op->step);
		op->state = OP_PART_WRITE;
		transfer(op, IO_WRITE, op->sector, down(op->cursor, align), align);
		return;
	}
	op->cursor += op->step;
	step(op);
}

int writer_start(struct writer *writer, struct target *target, const struct wire_frame *frame,
		 void *payload)
{
	struct writer_op *op = calloc(1, sizeof(*op));

	if (!op)
		return -ENOMEM;
	op->writer = writer;
	op->target = target;
	op->zero = !payload;
	op->payload = payload;
	op->offset = op->base = op->cursor = frame->offset;
	op->end = frame->offset + frame->length;
	op->generation = writer->generation;
	op->wait.done = save_done;
	place(op);
	if (!writer_in_flight(writer))
		writer->moved_ms = util_now_ms();
	writer->count[op->generation]++;
	target->unsynced = true;
	step(op);
	return 0;
}

static void flush_done(struct io_request *io, int result)
{
	struct flush *flush = io->user;
	struct writer *writer = flush->writer;
	struct target *target = flush->target;

	free(flush);
	writer->flushes--;
	writer->moved_ms = util_now_ms();
	if (result) {
		target->unsynced = true;
		writer->failed(writer->user, target, "flush", 0, target->source_bytes, result);
	}
	writer->progress(writer->user);
}

int writer_flush(struct writer *writer, struct target *targets, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (!targets[i].unsynced)
			continue;
		struct flush *flush = calloc(1, sizeof(*flush));

		if (!flush)
			return -ENOMEM;
		flush->writer = writer;
		flush->target = &targets[i];
		flush->io = (struct io_request){
			.op = IO_SYNC, .fd = targets[i].fd, .buffer = -1, .done = flush_done, .user = flush
		};
		targets[i].unsynced = false; /* writes from now on are for the next flush */
		writer->flushes++;
		writer->moved_ms = util_now_ms();
		io_submit(writer->io, &flush->io);
	}
	return 0;
}
