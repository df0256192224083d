// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Extents: from bits to byte ranges and back. Called by the character device
 * (enumeration) and by commit (which granules a byte range holds whole).
 */
#include "extent.h"

/**
 * blkcbt_extent_next() - the next run of dirty granules
 * @it: the enumeration; a position within a granule counts from its start
 * @extent: where the run is put; the last one ends with the disk
 *
 * Adjacent granules are merged, so a clean granule lies between two extents.
 *
 * Context: may sleep.
 * Return: false when there is none.
 */
bool blkcbt_extent_next(struct blkcbt_extent_iter *it, struct blkcbt_extent *extent)
{
	u64 first, end;

	if (it->pos_bytes >= it->size_bytes)
		return false;
	first = blkcbt_map_next_dirty(it->map, it->pos_bytes >> it->granule_shift);
	if (first >= it->map->nr_granules) {
		it->pos_bytes = it->size_bytes;
		return false;
	}
	end = blkcbt_map_next_clean(it->map, first);
	extent->offset_bytes = first << it->granule_shift;
	it->pos_bytes = min_t(u64, end << it->granule_shift, it->size_bytes);
	extent->length_bytes = it->pos_bytes - extent->offset_bytes;
	return true;
}

/**
 * blkcbt_extent_inner() - the granules that lie wholly in a byte range
 * @from_bytes: start of the range
 * @to_bytes: its end; the last granule of the disk counts as whole when this
 *	is not below @size_bytes
 * @size_bytes: size of the disk
 * @granule_shift: log2 of the granule in bytes
 * @first: set to the first granule
 * @end: set to the granule behind the last; no granule if not above @first
 */
void blkcbt_extent_inner(u64 from_bytes, u64 to_bytes, u64 size_bytes, unsigned int granule_shift,
			 u64 *first, u64 *end)
{
	u64 rest = (1ULL << granule_shift) - 1;
	u64 nr = (size_bytes >> granule_shift) + !!(size_bytes & rest);

	*first = (from_bytes >> granule_shift) + !!(from_bytes & rest);
	*end = to_bytes >= size_bytes ? nr : to_bytes >> granule_shift;
}
