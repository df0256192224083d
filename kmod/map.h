/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The dirty map: one bit for each granule of a disk, in pages that are
 * allocated as they are touched.
 *
 *	page[i]			meaning
 *	NULL			every granule of this region is clean
 *	blkcbt_map_ones		every granule of this region is dirty; no memory
 *	anything else		one bit a granule
 *
 * A map whose @all is set is dirty as a whole, whatever its pages say: that is
 * how a disk starts, and how it is marked when the place of a write cannot be
 * known. Where a page cannot be had, its region becomes blkcbt_map_ones: a map
 * may say dirty without need, never clean without right.
 *
 * Bits of a map are set, never cleared: a map is forgotten as a whole. Marking
 * may therefore run concurrently with itself and with every reader, in any
 * context. Who may free a map, and when, is the owner's affair (disk.c).
 *
 * Pure: compiled by the unit tests as well.
 */
#ifndef BLKCBT_MAP_H
#define BLKCBT_MAP_H

#include "pure.h"

#define BLKCBT_MAP_PAGE_SHIFT	(PAGE_SHIFT + 3)
#define BLKCBT_MAP_PAGE_BITS	(PAGE_SIZE * 8)
#define BLKCBT_MAP_PAGE_MASK	(BLKCBT_MAP_PAGE_BITS - 1)
#define BLKCBT_MAP_PAGE_WORDS	(PAGE_SIZE / sizeof(unsigned long))

/**
 * struct blkcbt_map - dirty map of one disk
 * @nr_granules: bits in use
 * @nr_pages: entries of @page
 * @all: the whole disk is dirty; set, never cleared
 * @pages: pages allocated
 * @fallbacks: pages that could not be had
 * @page: see above; entries change from NULL to something by cmpxchg
 */
struct blkcbt_map {
	u64 nr_granules;
	unsigned long nr_pages;
	bool all;
	atomic_long_t pages;
	atomic64_t fallbacks;
	unsigned long *page[];
};

extern const unsigned long blkcbt_map_ones[BLKCBT_MAP_PAGE_WORDS];

struct blkcbt_map *blkcbt_map_alloc(u64 nr_granules);
void blkcbt_map_free(struct blkcbt_map *map);
void blkcbt_map_mark_slow(struct blkcbt_map *map, u64 first, u64 last);
bool blkcbt_map_try_mark(struct blkcbt_map *map, u64 first, u64 last);
u64 blkcbt_map_next_only(const struct blkcbt_map *a, const struct blkcbt_map *b, u64 first,
			 u64 last);
bool blkcbt_map_test_slow(const struct blkcbt_map *a, const struct blkcbt_map *b,
			  u64 first, u64 last);
u64 blkcbt_map_next_dirty(const struct blkcbt_map *map, u64 from);
u64 blkcbt_map_next_clean(const struct blkcbt_map *map, u64 from);
u64 blkcbt_map_count(const struct blkcbt_map *map);
u64 blkcbt_map_bytes(const struct blkcbt_map *map);
void blkcbt_map_put_back(struct blkcbt_map *dst, struct blkcbt_map *src, u64 from, u64 to);

/**
 * blkcbt_map_mark() - mark granules dirty
 * @map: the map
 * @first: first granule
 * @last: last granule, inclusive, below @map->nr_granules
 *
 * Writes no cache line that already says dirty. Any context; never fails.
 */
static __always_inline void blkcbt_map_mark(struct blkcbt_map *map, u64 first, u64 last)
{
	if (likely(first == last)) {
		unsigned long *page = READ_ONCE(map->page[first >> BLKCBT_MAP_PAGE_SHIFT]);

		if (likely(page)) {
			unsigned long bit = first & BLKCBT_MAP_PAGE_MASK;

			/* blkcbt_map_ones is never written: its bits are set. */
			if (!test_bit(bit, page))
				set_bit(bit, page);
			return;
		}
	}
	blkcbt_map_mark_slow(map, first, last);
}

/**
 * blkcbt_map_mark_all() - mark the whole disk dirty
 * @map: the map
 *
 * Takes no memory and no time. Any context.
 */
static inline void blkcbt_map_mark_all(struct blkcbt_map *map)
{
	if (!READ_ONCE(map->all))
		WRITE_ONCE(map->all, true);
}

/**
 * blkcbt_map_test() - are all these granules dirty?
 * @map: the map
 * @first: first granule
 * @last: last granule, inclusive, below @map->nr_granules
 *
 * Any context.
 */
static __always_inline bool blkcbt_map_test(const struct blkcbt_map *map, u64 first, u64 last)
{
	if (likely(first == last)) {
		const unsigned long *page = READ_ONCE(map->page[first >> BLKCBT_MAP_PAGE_SHIFT]);

		if (likely(page) && likely(test_bit(first & BLKCBT_MAP_PAGE_MASK, page)))
			return true;
	}
	return blkcbt_map_test_slow(map, NULL, first, last);
}

#endif /* BLKCBT_MAP_H */
