// SPDX-License-Identifier: GPL-2.0-or-later
/* merge_read: see merge_read.h. */
#include "merge_read.h"

#include <errno.h>
#include <stdlib.h>

#include "io.h"
#include "undo_file.h"
#include "util.h"
#include "wire.h"

#define PIECES_MAX 8192u
#define ROOM_BYTES (8 * MIB) /* of records that are looked at together */
/* A gap is read over if it is no longer than what is behind it: twice the room at most. */
#define ARENA_BYTES (2 * ROOM_BYTES)
#define READ_MAX (1 * MIB)

/* The blocks that a record lies in. */
struct fetch {
	uint64_t from, to;
	uint32_t piece; /* index */
	uint16_t layer;
};

struct merge_reader {
	const struct undo_layer *layers;
	char *arena;
	size_t fetch_count;
	struct fetch fetches[PIECES_MAX];
	const char *data[PIECES_MAX];
};

static struct fetch fetch_of(const struct undo_piece *piece, size_t index)
{
	uint64_t end = piece->place + piece->record_length;

	return (struct fetch){ .from = piece->place / UNDO_BLOCK * UNDO_BLOCK,
			       .to = (end + UNDO_BLOCK - 1) / UNDO_BLOCK * UNDO_BLOCK,
			       .piece = (uint32_t)index,
			       .layer = piece->layer };
}

struct merge_reader *merge_reader_new(const struct undo_layer *layers, const struct undo_piece *pieces, size_t count)
{
	struct merge_reader *reader = calloc(1, sizeof(*reader));
	uint64_t bytes = 0;

	if (!reader)
		return NULL;
	for (size_t i = 0; i < count && bytes < ROOM_BYTES; i++) {
		const struct fetch fetch = fetch_of(&pieces[i], i);

		bytes += pieces[i].flags & UNDO_ZERO ? 0 : fetch.to - fetch.from;
	}
	reader->layers = layers;
	reader->arena = io_buffer_alloc(bytes < ROOM_BYTES ? 2 * bytes + UNDO_BLOCK : ARENA_BYTES);
	if (reader->arena)
		return reader;
	free(reader);
	return NULL;
}

void merge_reader_free(struct merge_reader *reader)
{
	if (!reader)
		return;
	free(reader->arena);
	free(reader);
}

/* Which pieces are looked at together. */
static size_t take(struct merge_reader *reader, const struct undo_piece *pieces, size_t count)
{
	uint64_t bytes = 0;
	size_t i;

	reader->fetch_count = 0;
	for (i = 0; i < count && i < PIECES_MAX; i++) {
		struct fetch fetch;

		reader->data[i] = NULL;
		if (pieces[i].flags & UNDO_ZERO)
			continue;
		fetch = fetch_of(&pieces[i], i);
		bytes += fetch.to - fetch.from;
		if (bytes > ROOM_BYTES)
			break;
		reader->fetches[reader->fetch_count++] = fetch;
	}
	return i;
}

static int fetch_order(const void *a, const void *b)
{
	const struct fetch *one = a, *other = b;

	if (one->layer != other->layer)
		return one->layer < other->layer ? -1 : 1;
	return (one->from > other->from) - (one->from < other->from);
}

/* How many fetches from @first on are one read, up to *@to. */
static size_t read_together(const struct merge_reader *reader, size_t first, uint64_t *to)
{
	const struct fetch *begin = &reader->fetches[first];
	size_t i = first + 1;

	*to = begin->to;
	for (; i < reader->fetch_count; i++) {
		const struct fetch *next = &reader->fetches[i];

		if (next->layer != begin->layer || next->to - begin->from > READ_MAX ||
		    (next->from > *to && next->from - *to > next->to - next->from))
			break;
		if (next->to > *to)
			*to = next->to;
	}
	return i - first;
}

/* Whether the record of @piece was checked with the one before it: several pieces show of it. */
static bool same_record(const struct undo_piece *piece, const struct undo_piece *before)
{
	return before && piece->layer == before->layer && piece->place == before->place &&
	       piece->record_length == before->record_length && piece->crc == before->crc;
}

int merge_read(struct merge_reader *reader, const struct undo_piece *pieces, size_t count, size_t *taken, size_t *failed)
{
	const struct undo_piece *before = NULL;
	char *room = reader->arena;
	size_t together;

	*taken = take(reader, pieces, count);
	qsort(reader->fetches, reader->fetch_count, sizeof(*reader->fetches), fetch_order);
	for (size_t first = 0; first < reader->fetch_count; first += together) {
		const struct fetch *begin = &reader->fetches[first];
		uint64_t to;
		int r;

		together = read_together(reader, first, &to);
		*failed = begin->piece;
		r = undo_pread(reader->layers[begin->layer].fd, room, to - begin->from, begin->from);
		if (r)
			return r == -ENODATA ? -EBADMSG : r; /* the file is shorter than it says */
		for (size_t i = first; i < first + together; i++) {
			const struct undo_piece *piece = &pieces[reader->fetches[i].piece];
			const char *record = room + (piece->place - begin->from);

			*failed = reader->fetches[i].piece;
			if (!same_record(piece, before) && wire_crc(record, piece->record_length) != piece->crc)
				return -EBADMSG;
			before = piece;
			reader->data[reader->fetches[i].piece] = record + piece->skip;
		}
		room += to - begin->from;
	}
	return 0;
}

const void *merge_read_data(const struct merge_reader *reader, size_t index)
{
	return reader->data[index];
}
