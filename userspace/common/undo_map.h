/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_map: which record counts for each block of a machine's disks: the oldest one. Layers are added
 * from the oldest to the newest; what an older one has is not taken from a newer one. Pure.
 *
 * A map is a list of runs, each sorted and without overlaps, older before newer. Runs of similar size are joined as they come, so
 * n records cost n log n, a look-up a few binary searches, and the memory is 40 bytes for each piece
 * (a record, or a part of one that shows through).
 */
#ifndef REPROTECT_UNDO_MAP_H
#define REPROTECT_UNDO_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "undo_format.h"

/**
 * struct undo_piece - a part of a record that counts
 * @offset, @length: of the disk
 * @skip: bytes of the record before it
 * @record_length, @place, @crc, @flags: of the whole record
 * @layer: what undo_map_add() was told
 */
struct undo_piece {
	uint64_t offset, place;
	uint32_t disk, length, skip, record_length, crc;
	uint16_t layer, flags;
};

#define UNDO_MAP_LAYERS_MAX 65535u /* what undo_piece.layer can number */

struct undo_run {
	struct undo_piece *pieces;
	size_t count;
};

struct undo_map {
	struct undo_run *runs; /* oldest first */
	size_t count;
};

/**
 * undo_map_add - the next newer layer; @records are sorted by undo_record_order() and do not overlap
 * Return: 0 or -ENOMEM (the map is as before).
 */
int undo_map_add(struct undo_map *map, const struct undo_record *records, size_t count, uint16_t layer);
/** undo_map_join - make one run of all: map->runs[0] then is the whole, in order. 0 or -ENOMEM */
int undo_map_join(struct undo_map *map);
/**
 * undo_map_find - what counts at @offset of @disk
 * @length: in: how much is wanted; out: for how much the answer holds (1 or more)
 * @piece: the part of a record for exactly that range, when true is returned
 * Return: true: a record; false: no layer has that range.
 */
bool undo_map_find(const struct undo_map *map, uint32_t disk, uint64_t offset, uint64_t *length,
		   struct undo_piece *piece);
/** undo_map_bytes - memory that it takes */
size_t undo_map_bytes(const struct undo_map *map);
void undo_map_clear(struct undo_map *map);

#endif
