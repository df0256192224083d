/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Extents: runs of dirty granules, in bytes on the disk.
 *
 * Pure: compiled by the unit tests as well.
 */
#ifndef BLKCBT_EXTENT_H
#define BLKCBT_EXTENT_H

#include <linux/blkcbt.h>
#include "map.h"

/**
 * struct blkcbt_extent_iter - an enumeration of extents
 * @map: the map that is enumerated
 * @size_bytes: size of the disk
 * @pos_bytes: where to go on; behind the end, the enumeration is over
 * @granule_shift: log2 of the granule in bytes
 */
struct blkcbt_extent_iter {
	const struct blkcbt_map *map;
	u64 size_bytes;
	u64 pos_bytes;
	unsigned int granule_shift;
};

bool blkcbt_extent_next(struct blkcbt_extent_iter *it, struct blkcbt_extent *extent);
void blkcbt_extent_inner(u64 from_bytes, u64 to_bytes, u64 size_bytes, unsigned int granule_shift,
			 u64 *first, u64 *end);

#endif /* BLKCBT_EXTENT_H */
