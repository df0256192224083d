// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The crash-safe store in memory. See store_state.h for the states of an extent
 * and for the order in which things become durable.
 */
#include "store_state.h"

static u64 nr_words(const struct blkcbt_store_geo *geo)
{
	return (geo->nr_extents - 1) / BITS_PER_LONG + 1;
}

/**
 * blkcbt_store_state_alloc() - memory for a store that is in use
 * @geo: its sizes
 *
 * Context: may sleep.
 * Return: the state, to be begun; NULL without memory.
 */
struct blkcbt_store_state *blkcbt_store_state_alloc(const struct blkcbt_store_geo *geo)
{
	struct blkcbt_store_state *st = blkcbt_pure_zalloc(sizeof(*st));

	if (!st)
		return NULL;
	st->geo = *geo;
	st->pages = blkcbt_pure_zalloc((size_t)geo->nr_pages * sizeof(*st->pages));
	st->stale = blkcbt_pure_zalloc((geo->nr_pages / BITS_PER_LONG + 1) * sizeof(*st->stale));
	st->word = blkcbt_pure_zalloc((size_t)nr_words(geo) * sizeof(*st->word));
	st->stored = blkcbt_pure_zalloc((size_t)geo->nr_regions * sizeof(*st->stored));
	if (st->pages && st->stale && st->word && st->stored)
		return st;
	blkcbt_store_state_free(st);
	return NULL;
}

/**
 * blkcbt_store_state_free() - undo blkcbt_store_state_alloc()
 * @st: the state, or NULL
 */
void blkcbt_store_state_free(struct blkcbt_store_state *st)
{
	if (!st)
		return;
	blkcbt_pure_free(st->pages);
	blkcbt_pure_free(st->stale);
	blkcbt_pure_free(st->word);
	blkcbt_pure_free(st->stored);
	blkcbt_pure_free(st);
}

/**
 * blkcbt_store_state_bytes() - memory that a state holds
 * @st: the state
 *
 * Return: bytes.
 */
u64 blkcbt_store_state_bytes(const struct blkcbt_store_state *st)
{
	return sizeof(*st) + (u64)st->geo.nr_pages * (sizeof(*st->pages)) +
	       st->geo.nr_pages / 8 + nr_words(&st->geo) * sizeof(*st->word) +
	       (u64)st->geo.nr_regions * sizeof(*st->stored);
}

/*
 * Superblock
 */

/**
 * blkcbt_store_super_init() - the superblock of a new store
 * @super: filled in
 * @uuid: a new one
 * @identity: of the disk
 * @disk_bytes: its size
 * @granule_bytes: of its map
 * @extent_bytes: what an intent covers
 */
void blkcbt_store_super_init(struct blkcbt_store_super *super, const u8 *uuid, const u8 *identity,
			     u64 disk_bytes, u32 granule_bytes, u32 extent_bytes)
{
	memset(super, 0, sizeof(*super));
	super->head.magic = cpu_to_le32(BLKCBT_STORE_SUPER_MAGIC);
	memcpy(super->head.uuid, uuid, sizeof(super->head.uuid));
	memcpy(super->identity, identity, sizeof(super->identity));
	super->head.generation = cpu_to_le64(1);
	super->base_generation = cpu_to_le64(1);
	super->version = cpu_to_le32(BLKCBT_STORE_VERSION);
	super->disk_bytes = cpu_to_le64(disk_bytes);
	super->granule_bytes = cpu_to_le32(granule_bytes);
	super->extent_bytes = cpu_to_le32(extent_bytes);
}

/**
 * blkcbt_store_super_open() - a new generation
 * @super: the superblock, to be written before anything relies on the store
 * @anew: whatever was in the store is void
 */
void blkcbt_store_super_open(struct blkcbt_store_super *super, bool anew)
{
	u64 generation = le64_to_cpu(super->head.generation) + 1;

	super->head.generation = cpu_to_le64(generation);
	if (anew)
		super->base_generation = cpu_to_le64(generation);
	super->saved = cpu_to_le32(BLKCBT_STORE_OPEN);
	super->flags = 0;
	memset(super->reason, 0, sizeof(super->reason));
}

/*
 * Beginning
 */

/* Extents are counted from the disk's start; a region has a whole number of them. */
static u64 extent_nr(const struct blkcbt_store_geo *geo, u32 region, u32 i)
{
	return (u64)region * geo->region_extents + i;
}

static void set_stored(struct blkcbt_store_state *st, u32 region, u32 count)
{
	st->stored_granules += count;
	st->stored_granules -= st->stored[region];
	st->stored[region] = count;
}

static void make_hot(struct blkcbt_store_state *st, u64 e)
{
	struct blkcbt_store_word *w = &st->word[e / BITS_PER_LONG];

	if (test_bit(e % BITS_PER_LONG, &w->hot))
		return;
	set_bit(e % BITS_PER_LONG, &w->used);
	set_bit(e % BITS_PER_LONG, &w->hot);
	st->nr_hot++;
}

static void not_retiring(struct blkcbt_store_state *st, u64 e)
{
	clear_bit(e % BITS_PER_LONG, &st->word[e / BITS_PER_LONG].retiring);
	st->nr_retiring--;
}

/* A retirement is taken back: the intent is still durable. */
static void hot_again(struct blkcbt_store_state *st, u64 e)
{
	make_hot(st, e);
	not_retiring(st, e);
}

/**
 * blkcbt_store_risk() - what would be dirty after a power cut
 * @st: the state
 *
 * An extent that is retiring counts until it is staged, for its intent is durable: its
 * granules are dirty after a power cut, though nothing may be under way to them any more.
 *
 * Context: any; the worker may be changing it.
 * Return: granules, at most; what is staged counts as written.
 */
u64 blkcbt_store_risk(const struct blkcbt_store_state *st)
{
	u64 extents = READ_ONCE(st->nr_hot) + READ_ONCE(st->nr_retiring);

	return READ_ONCE(st->stored_granules) + (extents << st->geo.extent_shift);
}

/* Heads a page of the store and sets its checksum. */
static void seal_page(const struct blkcbt_store_state *st, struct blkcbt_store_head *head,
		      u32 magic, u32 index, u64 seq, u64 committed)
{
	*head = st->super.head;
	head->magic = cpu_to_le32(magic);
	head->index = cpu_to_le32(index);
	head->seq = cpu_to_le64(seq);
	head->committed = cpu_to_le64(committed);
	blkcbt_store_seal(head);
}

/* What is in use by a page's records, and not retiring, is hot. */
static void page_hot(struct blkcbt_store_state *st, u32 page)
{
	u32 region = page * BLKCBT_STORE_RECORDS, i, n;

	for (n = 0; n < BLKCBT_STORE_RECORDS && region < st->geo.nr_regions; n++, region++) {
		u32 intents = le32_to_cpu(st->pages[page].record[n].intents);

		for (i = 0; intents && i < st->geo.region_extents; i++) {
			u64 e = extent_nr(&st->geo, region, i);

			if (intents >> i & 1 && e < st->geo.nr_extents &&
			    !test_bit(e % BITS_PER_LONG, &st->word[e / BITS_PER_LONG].retiring))
				make_hot(st, e);
		}
	}
}

/* Granules of a region that are dirty in one of two maps; @bits, if any, tells which. */
static u32 region_bits(const struct blkcbt_store_geo *geo, u32 region,
		       const struct blkcbt_map *cur, const struct blkcbt_map *old, u8 *bits)
{
	u64 start = (u64)region * geo->region_granules;
	u64 last = blkcbt_store_region_last(geo, region), at, end;
	const struct blkcbt_map *maps[2] = { cur, old };
	u32 count = 0, m, i;

	memset(bits, 0, BLKCBT_STORE_FINE_BITS / 8);
	for (m = 0; m < 2; m++) {
		if (!maps[m])
			continue;
		for (at = blkcbt_map_next_dirty(maps[m], start); at <= last;
		     at = blkcbt_map_next_dirty(maps[m], end)) {
			end = blkcbt_map_next_clean(maps[m], at);
			for (; at < end && at <= last; at++) {
				i = (u32)(at - start);
				if (!(i & 7) && at + 8 <= end && at + 7 <= last) {
					bits[i / 8] = 0xff;
					at += 7;
				} else {
					bits[i / 8] |= 1u << (i & 7);
				}
			}
		}
	}
	for (i = 0; i < BLKCBT_STORE_FINE_BITS / 8; i++)
		count += hweight32(bits[i]);
	return count;
}

/**
 * blkcbt_store_begin() - go on with a store that was loaded into @st->pages
 * @st: the state
 * @map: what loading said is dirty
 *
 * What was in use is hot at once: its intent is durable.
 *
 * Context: may sleep.
 */
void blkcbt_store_begin(struct blkcbt_store_state *st, const struct blkcbt_map *map)
{
	u32 region, page;
	u64 at = 0, last, end;

	for (page = 0; page < st->geo.nr_pages; page++)
		page_hot(st, page);
	/* From one dirty granule to the next: most regions of a large disk are clean. */
	for (at = blkcbt_map_next_dirty(map, 0); at < st->geo.nr_granules;
	     at = blkcbt_map_next_dirty(map, end)) {
		end = blkcbt_map_next_clean(map, at);
		while (at < end) {
			region = (u32)blkcbt_pure_div(at, st->geo.region_granules);
			last = blkcbt_store_region_last(&st->geo, region);
			if (last >= end)
				last = end - 1;
			set_stored(st, region, st->stored[region] + (u32)(last - at) + 1);
			at = last + 1;
		}
	}
}

/**
 * blkcbt_store_begin_anew() - everything is dirty, nothing in use
 * @st: the state
 */
void blkcbt_store_begin_anew(struct blkcbt_store_state *st)
{
	u32 region, page;

	for (page = 0; page < st->geo.nr_pages; page++)
		blkcbt_store_page_void(&st->pages[page]);
	for (region = 0; region < st->geo.nr_regions; region++)
		set_stored(st, region, blkcbt_store_region_size(&st->geo, region));
}

/**
 * blkcbt_store_begin_clean() - nothing is dirty, nothing in use
 * @st: the state
 *
 * For a disk whose map is known: what it has is to be intended next.
 */
void blkcbt_store_begin_clean(struct blkcbt_store_state *st)
{
	u32 region, page;

	for (page = 0; page < st->geo.nr_pages; page++) {
		memset(&st->pages[page], 0, sizeof(st->pages[page]));
		/* Of an older generation, it would be void: everything dirty. */
		set_bit(page, st->stale);
	}
	for (region = 0; region < st->geo.nr_regions; region++)
		blkcbt_store_record(st->pages, region)->fine = cpu_to_le32(BLKCBT_STORE_CLEAN);
}

/**
 * blkcbt_store_own() - the store itself lies here: in use for good
 * @st: the state
 * @first: first granule
 * @last: last granule, inclusive
 *
 * So that the store's own writes never wait for the store. To be made durable
 * as any intent.
 */
void blkcbt_store_own(struct blkcbt_store_state *st, u64 first, u64 last)
{
	u64 e;

	blkcbt_store_intend(st, first, last);
	for (e = first >> st->geo.extent_shift;
	     e <= last >> st->geo.extent_shift && e < st->geo.nr_extents; e++)
		set_bit(e % BITS_PER_LONG, &st->word[e / BITS_PER_LONG].own);
}

/*
 * Intents
 */

static void record_of(struct blkcbt_store_state *st, u64 e, struct blkcbt_store_record **record,
		      u32 *region, u32 *i)
{
	*region = (u32)blkcbt_pure_div(e, st->geo.region_extents);
	*i = (u32)(e - (u64)*region * st->geo.region_extents);
	*record = blkcbt_store_record(st->pages, *region);
}

/**
 * blkcbt_store_intend() - these granules are about to be written
 * @st: the state
 * @first: first granule
 * @last: last granule, inclusive
 *
 * Of every extent that it touches, not only of the first. One that is retiring
 * becomes hot again: its intent is still durable.
 *
 * Return: how many extents have to be made durable for it.
 */
u32 blkcbt_store_intend(struct blkcbt_store_state *st, u64 first, u64 last)
{
	u64 e = first >> st->geo.extent_shift, end = last >> st->geo.extent_shift;
	u32 added = 0;

	for (; e <= end && e < st->geo.nr_extents; e++) {
		struct blkcbt_store_word *w = &st->word[e / BITS_PER_LONG];
		struct blkcbt_store_record *record;
		u32 region, i;

		if (test_bit(e % BITS_PER_LONG, &w->retiring)) {
			hot_again(st, e);
			continue;
		}
		record_of(st, e, &record, &region, &i);
		if (le32_to_cpu(record->intents) >> i & 1)
			continue;
		record->intents |= cpu_to_le32(1u << i);
		set_bit(region / BLKCBT_STORE_RECORDS, st->stale);
		added++;
	}
	return added;
}

/**
 * blkcbt_store_intend_map() - all that is dirty may still be under way
 * @st: the state
 * @map: what is dirty
 *
 * Context: may sleep.
 */
void blkcbt_store_intend_map(struct blkcbt_store_state *st, const struct blkcbt_map *map)
{
	u64 at, end;

	for (at = blkcbt_map_next_dirty(map, 0); at < st->geo.nr_granules;
	     at = blkcbt_map_next_dirty(map, end)) {
		end = blkcbt_map_next_clean(map, at);
		blkcbt_store_intend(st, at, end - 1);
	}
}

/**
 * blkcbt_store_page_next() - the next intent page that has to be written
 * @st: the state
 * @from: where to look
 *
 * Return: the page, nr_pages if there is none.
 */
u32 blkcbt_store_page_next(const struct blkcbt_store_state *st, u32 from)
{
	return (u32)find_next_bit(st->stale, st->geo.nr_pages, from);
}

/**
 * blkcbt_store_page_encode() - an intent page as it has to be written
 * @st: the state
 * @page: which one
 * @committed: last epoch that was committed
 * @buf: of one block
 *
 * To be written with a flush before and durably (REQ_PREFLUSH | REQ_FUA).
 *
 * Return: the block that it goes to.
 */
u64 blkcbt_store_page_encode(const struct blkcbt_store_state *st, u32 page, u64 committed,
			     void *buf)
{
	struct blkcbt_store_page *to = buf;
	u64 seq = le64_to_cpu(st->pages[page].head.seq) + 1;

	memcpy(to, &st->pages[page], sizeof(*to));
	seal_page(st, &to->head, BLKCBT_STORE_INTENT_MAGIC, page, seq, committed);
	return blkcbt_store_page_block(&st->geo, page, seq);
}

/**
 * blkcbt_store_page_written() - an intent page is durable, as it was encoded
 * @st: the state
 * @page: which one
 *
 * Its extents are hot from now on.
 */
void blkcbt_store_page_written(struct blkcbt_store_state *st, u32 page)
{
	u64 seq = le64_to_cpu(st->pages[page].head.seq) + 1;

	st->pages[page].head.seq = cpu_to_le64(seq);
	clear_bit(page, st->stale);
	page_hot(st, page);
}

/*
 * Retirement
 */

static bool note_region(struct blkcbt_store_state *st, u32 region)
{
	u32 i;

	for (i = st->nr_region; i > 0; i--)
		if (st->region[i - 1] == region)
			return true;
	if (st->nr_region == BLKCBT_STORE_BATCH)
		return false;
	st->region[st->nr_region++] = region;
	return true;
}

static void make_retiring(struct blkcbt_store_state *st, u64 e)
{
	struct blkcbt_store_word *w = &st->word[e / BITS_PER_LONG];

	set_bit(e % BITS_PER_LONG, &w->retiring);
	clear_bit(e % BITS_PER_LONG, &w->hot);
	st->nr_retiring++;
	st->nr_hot--;
}

/**
 * blkcbt_store_retire_pick() - choose extents to be retired
 * @st: the state; nothing is retiring
 * @max: how many at most
 * @used_too: also such as were written lately
 *
 * Goes round like the hand of a clock: what was written since the hand was there
 * last stays.
 *
 * Return: how many were chosen; @st->region has their regions.
 */
u64 blkcbt_store_retire_pick(struct blkcbt_store_state *st, u64 max, bool used_too)
{
	u64 n = 0, looked;

	st->nr_region = 0;
	for (looked = 0; looked < st->geo.nr_extents && n < max; looked++, st->hand++) {
		struct blkcbt_store_word *w;
		u64 e;

		if (st->hand >= st->geo.nr_extents)
			st->hand = 0;
		e = st->hand;
		w = &st->word[e / BITS_PER_LONG];
		if (!READ_ONCE(w->hot) && !(e % BITS_PER_LONG)) {
			looked += BITS_PER_LONG - 1;
			st->hand += BITS_PER_LONG - 1;
			continue;
		}
		if (!test_bit(e % BITS_PER_LONG, &w->hot) || test_bit(e % BITS_PER_LONG, &w->own))
			continue;
		if (test_bit(e % BITS_PER_LONG, &w->used)) {
			clear_bit(e % BITS_PER_LONG, &w->used);
			if (!used_too)
				continue;
		}
		if (!note_region(st, (u32)blkcbt_pure_div(e, st->geo.region_extents)))
			break;
		make_retiring(st, e);
		n++;
	}
	return n;
}

/**
 * blkcbt_store_retire_all() - everything is to be retired, but the store's own
 * @st: the state; nothing is retiring
 */
void blkcbt_store_retire_all(struct blkcbt_store_state *st)
{
	u64 e;

	for (e = 0; e < st->geo.nr_extents; e++) {
		const struct blkcbt_store_word *w = &st->word[e / BITS_PER_LONG];

		if (test_bit(e % BITS_PER_LONG, &w->hot) && !test_bit(e % BITS_PER_LONG, &w->own))
			make_retiring(st, e);
	}
}

/**
 * blkcbt_store_retire_cancel() - what is retiring is hot again
 * @st: the state
 */
void blkcbt_store_retire_cancel(struct blkcbt_store_state *st)
{
	u64 e;

	for (e = 0; st->nr_retiring && e < st->geo.nr_extents; e++) {
		struct blkcbt_store_word *w = &st->word[e / BITS_PER_LONG];

		if (test_bit(e % BITS_PER_LONG, &w->retiring))
			hot_again(st, e);
	}
	st->nr_region = 0;
}

/* Does the store itself lie in this region? Then each write of it changes it again. */
static bool region_own(const struct blkcbt_store_state *st, u32 region)
{
	u32 i;

	for (i = 0; i < st->geo.region_extents; i++) {
		u64 e = extent_nr(&st->geo, region, i);

		if (e < st->geo.nr_extents &&
		    test_bit(e % BITS_PER_LONG, &st->word[e / BITS_PER_LONG].own))
			return true;
	}
	return false;
}

/**
 * blkcbt_store_refresh_pick() - choose regions of which the store says much more
 *	than is true
 * @st: the state; nothing is retiring
 * @cur: the current map
 * @old: the open epoch's, or NULL
 * @look_at: regions to look at
 *
 * After commits. Worth a write: half of what the store has is gone.
 *
 * Context: may sleep; the maps do not go meanwhile.
 * Return: whether @st->region has any.
 */
bool blkcbt_store_refresh_pick(struct blkcbt_store_state *st, const struct blkcbt_map *cur,
			       const struct blkcbt_map *old, u32 look_at)
{
	u8 *bits = blkcbt_pure_zalloc(BLKCBT_STORE_FINE_BITS / 8);
	u32 looked, region;

	st->nr_region = 0;
	for (looked = 0; bits && looked < st->geo.nr_regions && look_at; looked++) {
		if (st->cursor >= st->geo.nr_regions)
			st->cursor = 0;
		region = st->cursor++;
		if (!st->stored[region] || region_own(st, region))
			continue;
		look_at--;
		if (region_bits(&st->geo, region, cur, old, bits) * 2 <= st->stored[region] &&
		    !note_region(st, region))
			break;
		cond_resched();
	}
	blkcbt_pure_free(bits);
	return st->nr_region;
}

/**
 * blkcbt_store_stage() - the next version of what the store says of a region
 * @st: the state
 * @region: the region
 * @cur: the current map
 * @old: the open epoch's, or NULL
 * @committed: last epoch that was committed
 * @buf: of one block
 *
 * Extents of the region that are retiring are not in use any more, once the intent
 * page is written.
 *
 * Context: may sleep; the maps do not go meanwhile.
 * Return: the block that @buf has to be written to and made durable in before any
 * intent page is written; 0: none is needed.
 */
u64 blkcbt_store_stage(struct blkcbt_store_state *st, u32 region, const struct blkcbt_map *cur,
		       const struct blkcbt_map *old, u64 committed, void *buf)
{
	struct blkcbt_store_record *record = blkcbt_store_record(st->pages, region);
	u32 was = le32_to_cpu(record->fine), seq = was & BLKCBT_STORE_FINE_SEQ;
	u32 intents = le32_to_cpu(record->intents), count, i;
	struct blkcbt_store_fine *fine = buf;

	for (i = 0; i < st->geo.region_extents; i++) {
		u64 e = extent_nr(&st->geo, region, i);
		struct blkcbt_store_word *w = &st->word[e / BITS_PER_LONG];

		if (e >= st->geo.nr_extents || !test_bit(e % BITS_PER_LONG, &w->retiring))
			continue;
		not_retiring(st, e);
		intents &= ~(1u << i);
	}
	count = region_bits(&st->geo, region, cur, old, fine->bits);
	if (!count) {
		seq |= BLKCBT_STORE_CLEAN;
	} else if (count == blkcbt_store_region_size(&st->geo, region)) {
		seq |= BLKCBT_STORE_ALL;
	} else {
		seq = (seq + 1) & BLKCBT_STORE_FINE_SEQ;
		seal_page(st, &fine->head, BLKCBT_STORE_FINE_MAGIC, region, seq, committed);
	}
	set_stored(st, region, count);
	if (seq == was && intents == le32_to_cpu(record->intents))
		return 0;
	record->fine = cpu_to_le32(seq);
	record->intents = cpu_to_le32(intents);
	set_bit(region / BLKCBT_STORE_RECORDS, st->stale);
	return seq & (BLKCBT_STORE_CLEAN | BLKCBT_STORE_ALL) ? 0 :
	       blkcbt_store_fine_block(&st->geo, region, seq);
}
