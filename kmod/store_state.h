/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The crash-safe store in memory: which extents are in use, which of that is
 * durable, and what has to be written next. One thread (the store's worker)
 * changes it; the gate looks at the hot bits.
 *
 *	extent		intent	hot	retiring	a write into it
 *	cold		no	no	no		waits: the worker sets the intent
 *	in use		yes	no	no		waits until the intent is durable
 *	hot		yes	yes	no		goes on
 *	retiring	yes	no	yes		waits: the worker takes the retirement back
 *
 * An extent becomes hot in blkcbt_store_page_written() and nowhere else: after its
 * intent is durable. It is retired in this order, and a power cut between any
 * two steps reports more, never less:
 *
 *	1. blkcbt_store_retire_pick(): not hot any more: later writes wait
 *	2. the caller waits for whoever has seen the hot bit, and for the writes
 *	   that were let through to complete: they are marked by then
 *	3. blkcbt_store_stage(): the fine page of the region, in the other slot, from
 *	   the maps; the caller makes it durable
 *	4. the intent page that names it and has the intent cleared is written
 *
 * Between 3 and 4 nothing else may be written of the same store.
 *
 * Pure: compiled by the unit tests as well.
 */
#ifndef BLKCBT_STORE_STATE_H
#define BLKCBT_STORE_STATE_H

#include "store_format.h"

/* Regions that one retirement or refresh touches at most. */
#define BLKCBT_STORE_BATCH	64u

/**
 * struct blkcbt_store_word - the bits of as many extents as a word has
 * @hot: the intent is durable
 * @used: a write came since the bit was cleared last; set by the gate
 * @own: never retired: the store itself lies there
 * @retiring: see above
 */
struct blkcbt_store_word {
	unsigned long hot;
	unsigned long used;
	unsigned long own;
	unsigned long retiring;
};

/**
 * struct blkcbt_store_state - see above
 * @geo: the sizes
 * @super: the superblock as it was written last, or is about to be
 * @pages: the intent pages as they were written last, or are about to be; the
 *	sequence number is that of the last one written
 * @stale: bit for each intent page that has to be written
 * @word: the extents
 * @stored: for each region, how many granules the fine page has at most
 * @region: regions with extents that are retiring
 * @nr_region: how many
 * @nr_retiring: extents that are retiring
 * @nr_hot: extents that are hot
 * @hand: where retirement goes on looking
 * @cursor: where refreshing goes on looking
 * @stored_granules: sum of @stored
 */
struct blkcbt_store_state {
	struct blkcbt_store_geo geo;
	struct blkcbt_store_super super;
	struct blkcbt_store_page *pages;
	unsigned long *stale;
	struct blkcbt_store_word *word;
	u32 *stored;
	u32 region[BLKCBT_STORE_BATCH];
	u32 nr_region;
	u64 nr_retiring;
	u64 nr_hot;
	u64 hand;
	u32 cursor;
	u64 stored_granules;
};

struct blkcbt_store_state *blkcbt_store_state_alloc(const struct blkcbt_store_geo *geo);
void blkcbt_store_state_free(struct blkcbt_store_state *st);
u64 blkcbt_store_state_bytes(const struct blkcbt_store_state *st);
u64 blkcbt_store_risk(const struct blkcbt_store_state *st);

void blkcbt_store_super_init(struct blkcbt_store_super *super, const u8 *uuid, const u8 *identity,
			     u64 disk_bytes, u32 granule_bytes, u32 extent_bytes);
void blkcbt_store_super_open(struct blkcbt_store_super *super, bool anew);

void blkcbt_store_begin(struct blkcbt_store_state *st, const struct blkcbt_map *map);
void blkcbt_store_begin_anew(struct blkcbt_store_state *st);
void blkcbt_store_begin_clean(struct blkcbt_store_state *st);
void blkcbt_store_own(struct blkcbt_store_state *st, u64 first, u64 last);

u32 blkcbt_store_intend(struct blkcbt_store_state *st, u64 first, u64 last);
void blkcbt_store_intend_map(struct blkcbt_store_state *st, const struct blkcbt_map *map);
u32 blkcbt_store_page_next(const struct blkcbt_store_state *st, u32 from);
u64 blkcbt_store_page_encode(const struct blkcbt_store_state *st, u32 page, u64 committed,
			     void *buf);
void blkcbt_store_page_written(struct blkcbt_store_state *st, u32 page);

u64 blkcbt_store_retire_pick(struct blkcbt_store_state *st, u64 max, bool used_too);
void blkcbt_store_retire_all(struct blkcbt_store_state *st);
void blkcbt_store_retire_cancel(struct blkcbt_store_state *st);
bool blkcbt_store_refresh_pick(struct blkcbt_store_state *st, const struct blkcbt_map *cur,
			       const struct blkcbt_map *old, u32 look_at);
u64 blkcbt_store_stage(struct blkcbt_store_state *st, u32 region, const struct blkcbt_map *cur,
		       const struct blkcbt_map *old, u64 committed, void *buf);

/**
 * blkcbt_store_hot() - may a write into these granules go on?
 * @st: the store
 * @first: first granule
 * @last: last granule, inclusive
 *
 * Looks at one cache line for an extent, and writes it once after each look that
 * retirement has taken at it. Any context; the gate calls it.
 */
static __always_inline bool blkcbt_store_hot(struct blkcbt_store_state *st, u64 first, u64 last)
{
	u64 e = first >> st->geo.extent_shift, end = last >> st->geo.extent_shift;

	for (; e <= end; e++) {
		struct blkcbt_store_word *w;

		/* Behind the disk: the block layer will refuse it. */
		if (unlikely(e >= st->geo.nr_extents))
			return true;
		w = &st->word[e / BITS_PER_LONG];
		if (!test_bit(e % BITS_PER_LONG, &w->hot))
			return false;
		if (!test_bit(e % BITS_PER_LONG, &w->used))
			set_bit(e % BITS_PER_LONG, &w->used);
	}
	return true;
}

#endif /* BLKCBT_STORE_STATE_H */
