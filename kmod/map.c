// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The dirty map, out-of-line half. See map.h for the representation and for
 * what it promises.
 */
#include "map.h"

/*
 * The page of a region that is dirty as a whole. Constant: a set_bit() that
 * reached it would fault rather than go unnoticed.
 */
const unsigned long blkcbt_map_ones[BLKCBT_MAP_PAGE_WORDS] = {
	[0 ... BLKCBT_MAP_PAGE_WORDS - 1] = ~0UL,
};

#define map_ones	((unsigned long *)blkcbt_map_ones)

/* Bits [lo, hi] of one word. */
static unsigned long word_mask(unsigned long lo, unsigned long hi)
{
	return (~0UL << lo) & (~0UL >> (BITS_PER_LONG - 1 - hi));
}

/* The last granule of the region that page @i covers. */
static u64 page_last(const struct blkcbt_map *map, unsigned long i)
{
	u64 last = ((u64)i << BLKCBT_MAP_PAGE_SHIFT) + BLKCBT_MAP_PAGE_MASK;

	return min_t(u64, last, map->nr_granules - 1);
}

/* Bits of page @i that are in use. */
static unsigned long page_bits(const struct blkcbt_map *map, unsigned long i)
{
	return (unsigned long)(page_last(map, i) - ((u64)i << BLKCBT_MAP_PAGE_SHIFT) + 1);
}

/**
 * blkcbt_map_alloc() - make an empty map
 * @nr_granules: its size
 *
 * Context: may sleep.
 * Return: the map, or NULL without memory or when the map is too large to be
 * addressed (use a larger granule).
 */
struct blkcbt_map *blkcbt_map_alloc(u64 nr_granules)
{
	u64 nr_pages = (nr_granules + BLKCBT_MAP_PAGE_MASK) >> BLKCBT_MAP_PAGE_SHIFT;
	struct blkcbt_map *map;

	if (!nr_granules || nr_pages > (1UL << 27))
		return NULL;
	map = blkcbt_pure_zalloc(sizeof(*map) + (size_t)nr_pages * sizeof(map->page[0]));
	if (!map)
		return NULL;
	map->nr_granules = nr_granules;
	map->nr_pages = (unsigned long)nr_pages;
	return map;
}

/**
 * blkcbt_map_free() - free a map that nobody can reach any more
 * @map: the map, or NULL
 *
 * Context: may sleep.
 */
void blkcbt_map_free(struct blkcbt_map *map)
{
	unsigned long i;

	if (!map)
		return;
	for (i = 0; i < map->nr_pages; i++) {
		if (map->page[i] && map->page[i] != map_ones)
			blkcbt_pure_page_free(map->page[i]);
		if (!(i & 1023))
			cond_resched();
	}
	blkcbt_pure_free(map);
}

/*
 * The page in which to mark, made if it is not there. @whole: the region will be
 * dirty as a whole. @must: where there is no memory, all of the region becomes
 * dirty. NULL: the whole map is dirty, or, without @must, there is no memory.
 */
static unsigned long *page_to_mark(struct blkcbt_map *map, unsigned long i, bool whole, bool must)
{
	unsigned long *page = READ_ONCE(map->page[i]);
	unsigned long *there;

	if (page)
		return page;
	if (READ_ONCE(map->all))
		return NULL;

	page = whole ? map_ones : blkcbt_pure_page_alloc();
	if (!page) {
		if (!must)
			return NULL;
		atomic64_inc(&map->fallbacks);
		page = map_ones;
	}
	there = cmpxchg(&map->page[i], NULL, page);
	if (there) {
		if (page != map_ones)
			blkcbt_pure_page_free(page);
		return there;
	}
	if (page != map_ones)
		atomic_long_inc(&map->pages);
	return page;
}

static void page_mark(unsigned long *page, unsigned long lo, unsigned long hi)
{
	unsigned long w;

	for (w = BIT_WORD(lo); w <= BIT_WORD(hi); w++) {
		unsigned long mask = word_mask(w == BIT_WORD(lo) ? lo % BITS_PER_LONG : 0,
					       w == BIT_WORD(hi) ? hi % BITS_PER_LONG :
					       BITS_PER_LONG - 1);

		if ((READ_ONCE(page[w]) & mask) != mask)
			blkcbt_pure_or(&page[w], mask);
	}
}

static bool mark_range(struct blkcbt_map *map, u64 first, u64 last, bool must)
{
	bool marked = true;

	while (first <= last) {
		unsigned long i = (unsigned long)(first >> BLKCBT_MAP_PAGE_SHIFT);
		u64 end = min_t(u64, last, page_last(map, i));
		unsigned long lo = first & BLKCBT_MAP_PAGE_MASK;
		unsigned long *page = page_to_mark(map, i, !lo && end == page_last(map, i), must);

		if (!page)
			marked = marked && READ_ONCE(map->all);
		else if (page != map_ones)
			page_mark(page, lo, end & BLKCBT_MAP_PAGE_MASK);
		first = end + 1;
	}
	return marked;
}

/**
 * blkcbt_map_mark_slow() - blkcbt_map_mark() of more than one granule, or of
 *	the first in its region
 * @map: the map
 * @first: first granule
 * @last: last granule, inclusive, below @map->nr_granules
 *
 * Any context; never fails.
 */
void blkcbt_map_mark_slow(struct blkcbt_map *map, u64 first, u64 last)
{
	mark_range(map, first, last, true);
}

/**
 * blkcbt_map_try_mark() - mark these granules, and never another
 * @map: the map
 * @first: first granule
 * @last: last granule, inclusive, below @map->nr_granules
 *
 * For a map in which a mark too many does harm. Any context.
 *
 * Return: false if there was no memory and some are not marked.
 */
bool blkcbt_map_try_mark(struct blkcbt_map *map, u64 first, u64 last)
{
	return mark_range(map, first, last, false);
}

/**
 * blkcbt_map_next_only() - find a granule that is in one map and not in another
 * @a: the map that it is in; NULL: every granule is
 * @b: the map that it is not in; of the same size
 * @first: where to begin
 * @last: where to end, inclusive, below the maps' size
 *
 * Any context.
 * Return: the granule, or @last + 1 if there is none.
 */
u64 blkcbt_map_next_only(const struct blkcbt_map *a, const struct blkcbt_map *b, u64 first,
			 u64 last)
{
	while (first <= last) {
		unsigned long i = (unsigned long)(first >> BLKCBT_MAP_PAGE_SHIFT);
		const unsigned long *pa = blkcbt_map_ones;
		const unsigned long *pb = READ_ONCE(b->all) ? blkcbt_map_ones :
					  READ_ONCE(b->page[i]);
		u64 end = min_t(u64, last, page_last(b, i));
		unsigned long lo = first & BLKCBT_MAP_PAGE_MASK;
		unsigned long hi = end & BLKCBT_MAP_PAGE_MASK;
		unsigned long w;

		if (a && !READ_ONCE(a->all))
			pa = READ_ONCE(a->page[i]);
		first = end + 1;
		if (!pa || pb == blkcbt_map_ones)
			continue;
		for (w = BIT_WORD(lo); w <= BIT_WORD(hi); w++) {
			unsigned long word = READ_ONCE(pa[w]) & ~(pb ? READ_ONCE(pb[w]) : 0);

			word &= word_mask(w == BIT_WORD(lo) ? lo % BITS_PER_LONG : 0,
					  w == BIT_WORD(hi) ? hi % BITS_PER_LONG :
					  BITS_PER_LONG - 1);
			if (word)
				return ((u64)i << BLKCBT_MAP_PAGE_SHIFT) + w * BITS_PER_LONG +
				       __ffs(word);
		}
	}
	return first;
}

/**
 * blkcbt_map_test_slow() - is each of these granules dirty in one of two maps?
 * @a: a map
 * @b: another one of the same size, or NULL
 * @first: first granule
 * @last: last granule, inclusive, below the maps' size
 *
 * Any context.
 */
bool blkcbt_map_test_slow(const struct blkcbt_map *a, const struct blkcbt_map *b,
			  u64 first, u64 last)
{
	if (READ_ONCE(a->all) || (b && READ_ONCE(b->all)))
		return true;

	while (first <= last) {
		unsigned long i = (unsigned long)(first >> BLKCBT_MAP_PAGE_SHIFT);
		const unsigned long *pa = READ_ONCE(a->page[i]);
		const unsigned long *pb = b ? READ_ONCE(b->page[i]) : NULL;
		u64 end = min_t(u64, last, page_last(a, i));
		unsigned long lo = first & BLKCBT_MAP_PAGE_MASK;
		unsigned long hi = end & BLKCBT_MAP_PAGE_MASK;
		unsigned long w;

		first = end + 1;
		if (pa == blkcbt_map_ones || pb == blkcbt_map_ones)
			continue;
		for (w = BIT_WORD(lo); w <= BIT_WORD(hi); w++) {
			unsigned long mask = word_mask(w == BIT_WORD(lo) ? lo % BITS_PER_LONG : 0,
						       w == BIT_WORD(hi) ? hi % BITS_PER_LONG :
						       BITS_PER_LONG - 1);
			unsigned long word = (pa ? READ_ONCE(pa[w]) : 0) |
					     (pb ? READ_ONCE(pb[w]) : 0);

			if ((word & mask) != mask)
				return false;
		}
	}
	return true;
}

/* The next granule from @from on whose state is @dirty; nr_granules: none. */
static u64 map_next(const struct blkcbt_map *map, u64 from, bool dirty)
{
	while (from < map->nr_granules) {
		unsigned long i = (unsigned long)(from >> BLKCBT_MAP_PAGE_SHIFT);
		const unsigned long *page = READ_ONCE(map->page[i]);
		u64 start = (u64)i << BLKCBT_MAP_PAGE_SHIFT;

		if (READ_ONCE(map->all))
			return dirty ? from : map->nr_granules;
		if (page == blkcbt_map_ones || !page) {
			if (dirty == !!page)
				return from;
		} else {
			unsigned long bit = from & BLKCBT_MAP_PAGE_MASK;
			unsigned long bits = page_bits(map, i);

			bit = dirty ? find_next_bit(page, bits, bit) :
				      find_next_zero_bit(page, bits, bit);
			if (bit < bits)
				return start + bit;
		}
		from = start + BLKCBT_MAP_PAGE_BITS;
		if (!(i & 63))
			cond_resched();
	}
	return map->nr_granules;
}

/**
 * blkcbt_map_next_dirty() - find a dirty granule
 * @map: the map
 * @from: where to begin
 *
 * Context: may sleep.
 * Return: the first dirty granule at or after @from, nr_granules if none.
 */
u64 blkcbt_map_next_dirty(const struct blkcbt_map *map, u64 from)
{
	return map_next(map, from, true);
}

/**
 * blkcbt_map_next_clean() - find a clean granule
 * @map: the map
 * @from: where to begin
 *
 * Context: may sleep.
 * Return: the first clean granule at or after @from, nr_granules if none.
 */
u64 blkcbt_map_next_clean(const struct blkcbt_map *map, u64 from)
{
	return map_next(map, from, false);
}

/**
 * blkcbt_map_count() - how much is dirty
 * @map: the map
 *
 * Context: may sleep.
 * Return: dirty granules. A snapshot, when marking goes on.
 */
u64 blkcbt_map_count(const struct blkcbt_map *map)
{
	u64 count = 0;
	unsigned long i, w;

	if (READ_ONCE(map->all))
		return map->nr_granules;
	for (i = 0; i < map->nr_pages; i++) {
		const unsigned long *page = READ_ONCE(map->page[i]);

		if (page == blkcbt_map_ones) {
			count += page_bits(map, i);
		} else if (page) {
			for (w = 0; w < BLKCBT_MAP_PAGE_WORDS; w++)
				count += hweight_long(READ_ONCE(page[w]));
			cond_resched();
		}
	}
	return count;
}

/**
 * blkcbt_map_bytes() - memory that a map holds
 * @map: the map
 *
 * Return: bytes.
 */
u64 blkcbt_map_bytes(const struct blkcbt_map *map)
{
	return sizeof(*map) + (u64)map->nr_pages * sizeof(map->page[0]) +
	       (u64)atomic_long_read(&map->pages) * PAGE_SIZE;
}

/* Mark in @dst what is dirty in @src between @first and @last. */
static void put_back_range(struct blkcbt_map *dst, const struct blkcbt_map *src,
			   u64 first, u64 last)
{
	u64 at = blkcbt_map_next_dirty(src, first);

	while (at <= last) {
		u64 end = blkcbt_map_next_clean(src, at) - 1;

		blkcbt_map_mark_slow(dst, at, min_t(u64, end, last));
		at = blkcbt_map_next_dirty(src, end + 1);
	}
}

/*
 * Put back all of page @i. The page itself moves if there is none in @dst: a
 * reader that looks at @dst, then at @src, then at @dst again misses nothing,
 * for the page is in @dst (cmpxchg orders) before it leaves @src.
 */
static void put_back_page(struct blkcbt_map *dst, struct blkcbt_map *src, unsigned long i)
{
	unsigned long *page = src->page[i];
	u64 first = (u64)i << BLKCBT_MAP_PAGE_SHIFT;
	unsigned long *there;
	unsigned long w;

	if (page == map_ones) {
		blkcbt_map_mark_slow(dst, first, page_last(src, i));
		return;
	}
	there = cmpxchg(&dst->page[i], NULL, page);
	if (!there) {
		WRITE_ONCE(src->page[i], NULL);
		atomic_long_inc(&dst->pages);
		atomic_long_dec(&src->pages);
	} else if (there != map_ones) {
		for (w = 0; w < BLKCBT_MAP_PAGE_WORDS; w++)
			if (page[w] & ~READ_ONCE(there[w]))
				blkcbt_pure_or(&there[w], page[w]);
	}
}

/**
 * blkcbt_map_put_back() - put what an epoch held back into the dirty map
 * @dst: current map; may be marked by others meanwhile
 * @src: the epoch's map; marked by nobody any more, and good for nothing but
 *	to be freed (or to be tested) afterwards
 * @from: first granule that is forgotten
 * @to: granule behind the last that is forgotten; all is put back if it is not
 *	greater than @from
 *
 * Cannot fail: without memory, whole regions become dirty.
 * Context: may sleep; one caller at a time.
 */
void blkcbt_map_put_back(struct blkcbt_map *dst, struct blkcbt_map *src, u64 from, u64 to)
{
	unsigned long i;

	if (from >= to) {
		from = src->nr_granules;
		to = from;
	}
	if (READ_ONCE(src->all)) {
		if (from == src->nr_granules || !src->nr_granules) {
			blkcbt_map_mark_all(dst);
			return;
		}
		if (from)
			blkcbt_map_mark_slow(dst, 0, from - 1);
		if (to < src->nr_granules)
			blkcbt_map_mark_slow(dst, to, src->nr_granules - 1);
		return;
	}

	for (i = 0; i < src->nr_pages; i++) {
		u64 first = (u64)i << BLKCBT_MAP_PAGE_SHIFT;
		u64 last = page_last(src, i);

		if (!src->page[i] || (first >= from && last < to))
			continue;
		if (last < from || first >= to) {
			put_back_page(dst, src, i);
		} else {
			if (first < from)
				put_back_range(dst, src, first, from - 1);
			if (last >= to)
				put_back_range(dst, src, to, last);
		}
		cond_resched();
	}
}
