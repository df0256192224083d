/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_map: see undo_map.h. Runs of pieces and their merging. Called by readers of the past (undo_view.c), by the
 * restore and by the merge of layers. Pure.
 */
#include "undo_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t piece_end(const struct undo_piece *piece)
{
	return piece->offset + piece->length;
}

/* What is left of @piece from @offset on, which lies inside. */
static void cut_front(struct undo_piece *piece, uint64_t offset)
{
	uint32_t cut = (uint32_t)(offset - piece->offset);

	piece->offset = offset;
	piece->length -= cut;
	piece->skip += cut;
}

static bool lies_before(const struct undo_piece *a, const struct undo_piece *b)
{
	return a->disk < b->disk || (a->disk == b->disk && piece_end(a) <= b->offset);
}

/*
 * Both into one, in order: of @newer what shows between the pieces of @older. Returns how many pieces that
 * makes; @out may be NULL to count only.
 */
static size_t merge(const struct undo_run *older, const struct undo_run *newer, struct undo_piece *out)
{
	size_t o = 0, n = 0, count = 0;
	struct undo_piece rest; /* of newer->pieces[n] */
	bool cut = false;

#define PUT(piece) do { if (out) out[count] = (piece); count++; } while (0)
	while (n < newer->count) {
		const struct undo_piece *old = o < older->count ? &older->pieces[o] : NULL;

		if (!cut)
			rest = newer->pieces[n];
		if (old && lies_before(old, &rest)) {
			PUT(*old);
			o++;
			cut = true;
			continue;
		}
		if (!old || lies_before(&rest, old)) {
			PUT(rest);
			n++;
			cut = false;
			continue;
		}
		/* They overlap: what is in front of the old piece shows, then what is behind it is looked at again. */
		if (rest.offset < old->offset) {
			struct undo_piece front = rest;

			front.length = (uint32_t)(old->offset - rest.offset);
			PUT(front);
		}
		cut = piece_end(&rest) > piece_end(old);
		if (cut)
			cut_front(&rest, piece_end(old));
		else
			n++;
	}
	for (; o < older->count; o++)
		PUT(older->pieces[o]);
#undef PUT
	return count;
}

/* Make one of runs [@at] and [@at + 1]. */
static int join(struct undo_map *map, size_t at)
{
	struct undo_run *older = &map->runs[at], *newer = &map->runs[at + 1];
	struct undo_run whole = { .count = merge(older, newer, NULL) };

	whole.pieces = calloc(whole.count, sizeof(*whole.pieces));
	if (!whole.pieces)
		return -ENOMEM;
	merge(older, newer, whole.pieces);
	free(older->pieces);
	free(newer->pieces);
	map->runs[at] = whole;
	map->count--;
	memmove(newer, newer + 1, (map->count - at - 1) * sizeof(*newer));
	return 0;
}

int undo_map_add(struct undo_map *map, const struct undo_record *records, size_t count, uint16_t layer)
{
	struct undo_run *runs;
	struct undo_piece *pieces;

	if (!count)
		return 0;
	runs = realloc(map->runs, (map->count + 1) * sizeof(*runs));
	if (!runs)
		return -ENOMEM;
	map->runs = runs;
	pieces = malloc(count * sizeof(*pieces));
	if (!pieces)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		pieces[i] = (struct undo_piece){
			.offset = records[i].offset,
			.place = records[i].place,
			.disk = records[i].disk,
			.length = records[i].length,
			.record_length = records[i].length,
			.crc = records[i].crc,
			.layer = layer,
			.flags = (uint16_t)records[i].flags,
		};
	runs[map->count++] = (struct undo_run){ pieces, count };
	/* Each run more than twice as long as the next. Where memory is short they stay apart, which is as right. */
	while (map->count > 1 && runs[map->count - 2].count <= 2 * runs[map->count - 1].count)
		if (join(map, map->count - 2))
			break;
	return 0;
}

int undo_map_join(struct undo_map *map)
{
	while (map->count > 1) {
		int error = join(map, map->count - 2);

		if (error)
			return error;
	}
	return 0;
}

/* The first piece of @run that ends behind @offset of @disk; run->count: none. */
static size_t first_behind(const struct undo_run *run, uint32_t disk, uint64_t offset)
{
	size_t low = 0, high = run->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct undo_piece *piece = &run->pieces[middle];

		if (piece->disk < disk || (piece->disk == disk && piece_end(piece) <= offset))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool undo_map_find(const struct undo_map *map, uint32_t disk, uint64_t offset, uint64_t *length,
		   struct undo_piece *piece)
{
	for (size_t r = 0; r < map->count; r++) {
		const struct undo_run *run = &map->runs[r];
		size_t at = first_behind(run, disk, offset);
		uint64_t most;

		if (at == run->count || run->pieces[at].disk != disk)
			continue;
		if (run->pieces[at].offset <= offset) {
			*piece = run->pieces[at];
			cut_front(piece, offset);
			if (*length > piece->length)
				*length = piece->length;
			piece->length = (uint32_t)*length;
			return true;
		}
		/* A newer run answers only for what is in front of that piece. */
		most = run->pieces[at].offset - offset;
		if (*length > most)
			*length = most;
	}
	return false;
}

size_t undo_map_bytes(const struct undo_map *map)
{
	size_t bytes = map->count * sizeof(*map->runs);

	for (size_t r = 0; r < map->count; r++)
		bytes += map->runs[r].count * sizeof(struct undo_piece);
	return bytes;
}

void undo_map_clear(struct undo_map *map)
{
	for (size_t r = 0; r < map->count; r++)
		free(map->runs[r].pieces);
	free(map->runs);
	*map = (struct undo_map){ 0 };
}
