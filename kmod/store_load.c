// SPDX-License-Identifier: GPL-2.0
/*
 * The loader of the crash-safe store: what its pages say is dirty. See store_format.h for
 * what is believed when. Pure: compiled by the unit tests as well.
 */
#include "store_format.h"

#define CHUNK_BLOCKS	64u

struct loading {
	const struct blkcbt_store_super *super;
	const struct blkcbt_store_source *src;
	struct blkcbt_store_geo geo;
	struct blkcbt_store_page *pages;
	struct blkcbt_map *map;
	struct blkcbt_store_found *found;
	u8 *buf;
};

/* Is this block what it must be, of this store and not void? */
static bool valid(const struct loading *l, const void *block, u32 magic, u32 index)
{
	const struct blkcbt_store_head *head = block;
	u64 generation = le64_to_cpu(head->generation);

	if (head->magic != cpu_to_le32(magic) || head->index != cpu_to_le32(index) ||
	    memcmp(head->uuid, l->super->head.uuid, sizeof(head->uuid)) ||
	    generation < le64_to_cpu(l->super->base_generation) || !blkcbt_store_sealed(block))
		return false;
	if (generation > le64_to_cpu(l->super->head.generation)) {
		l->found->newer = true;
		return false;
	}
	if (le64_to_cpu(head->committed) > l->found->committed)
		l->found->committed = le64_to_cpu(head->committed);
	return true;
}

/**
 * blkcbt_store_page_void() - the records of an intent page that is not there
 * @page: filled in: everything is dirty, nothing in use
 */
void blkcbt_store_page_void(struct blkcbt_store_page *page)
{
	u32 i;

	memset(page, 0, sizeof(*page));
	for (i = 0; i < BLKCBT_STORE_RECORDS; i++)
		page->record[i].fine = cpu_to_le32(BLKCBT_STORE_ALL);
}

/*
 * Both slots of the intent pages, a chunk at a time. A chunk that cannot be read as
 * a whole is read page by page: one bad sector is one bad page.
 */
static void load_slot(struct loading *l, u32 slot)
{
	u32 page, n, i;

	for (page = 0; page < l->geo.nr_pages; page += n) {
		u64 block = blkcbt_store_page_block(&l->geo, page, slot);
		bool whole;

		n = min_t(u32, CHUNK_BLOCKS, l->geo.nr_pages - page);
		whole = !l->src->read(l->src->ctx, block, n, l->buf);
		for (i = 0; i < n; i++) {
			struct blkcbt_store_page *to = &l->pages[page + i];
			u8 *at = l->buf + (size_t)i * BLKCBT_STORE_BLOCK;
			u64 seq;

			if (!whole && l->src->read(l->src->ctx, block + i, 1, at))
				continue;
			seq = le64_to_cpu(((struct blkcbt_store_head *)at)->seq);
			if (valid(l, at, BLKCBT_STORE_INTENT_MAGIC, page + i) &&
			    (seq & 1) == slot && seq > le64_to_cpu(to->head.seq))
				memcpy(to, at, sizeof(*to));
		}
		cond_resched();
	}
}

static void mark_region(struct loading *l, u32 region)
{
	blkcbt_map_mark(l->map, (u64)region * l->geo.region_granules,
			blkcbt_store_region_last(&l->geo, region));
}

/* Marks what a fine page says. */
static void mark_bits(struct loading *l, u32 region, const struct blkcbt_store_fine *fine)
{
	u64 start = (u64)region * l->geo.region_granules;
	u32 n = blkcbt_store_region_size(&l->geo, region);
	u32 i = 0;

	while (i < n) {
		u32 from;

		if (!(i & 7) && !fine->bits[i / 8]) {
			i += 8;
			continue;
		}
		if (!(fine->bits[i / 8] >> (i & 7) & 1)) {
			i++;
			continue;
		}
		for (from = i; i < n && fine->bits[i / 8] >> (i & 7) & 1; i++)
			;
		blkcbt_map_mark(l->map, start + from, start + i - 1);
	}
}

static void load_fine(struct loading *l, u32 region, const struct blkcbt_store_fine *fine)
{
	struct blkcbt_store_record *record = blkcbt_store_record(l->pages, region);
	u32 seq = le32_to_cpu(record->fine) & BLKCBT_STORE_FINE_SEQ;

	if (fine && valid(l, fine, BLKCBT_STORE_FINE_MAGIC, region) &&
	    fine->head.seq == cpu_to_le64(seq)) {
		mark_bits(l, region, fine);
		return;
	}
	l->found->bad_pages++;
	/* The version stays: the next page must be another one. */
	record->fine = cpu_to_le32(BLKCBT_STORE_ALL | seq);
	mark_region(l, region);
}

/* Does the record name a page in this slot? */
static bool names(const struct loading *l, u32 region, u32 slot)
{
	u32 fine = le32_to_cpu(blkcbt_store_record(l->pages, region)->fine);

	return !(fine & (BLKCBT_STORE_CLEAN | BLKCBT_STORE_ALL)) && (fine & 1) == slot;
}

/* The fine pages of a slot that are named, as many as lie together at a time. */
static void load_fine_slot(struct loading *l, u32 slot)
{
	u32 region = 0, n, i;

	while (region < l->geo.nr_regions) {
		u64 block = blkcbt_store_fine_block(&l->geo, region, slot);
		bool whole;

		if (!names(l, region, slot)) {
			region++;
			continue;
		}
		n = 1;
		while (n < CHUNK_BLOCKS && region + n < l->geo.nr_regions &&
		       names(l, region + n, slot))
			n++;
		whole = !l->src->read(l->src->ctx, block, n, l->buf);
		for (i = 0; i < n; i++) {
			u8 *at = l->buf + (size_t)i * BLKCBT_STORE_BLOCK;
			bool there = whole || !l->src->read(l->src->ctx, block + i, 1, at);

			load_fine(l, region + i, there ? (void *)at : NULL);
		}
		region += n;
		cond_resched();
	}
}

/* What the records say by themselves. */
static void load_records(struct loading *l)
{
	u32 region, i;

	for (region = 0; region < l->geo.nr_regions; region++) {
		struct blkcbt_store_record *record = blkcbt_store_record(l->pages, region);
		u32 intents = le32_to_cpu(record->intents);
		u64 first, last;

		if (le32_to_cpu(record->fine) & BLKCBT_STORE_ALL)
			mark_region(l, region);
		for (i = 0; intents && i < l->geo.region_extents; i++) {
			if (!(intents >> i & 1) ||
			    !blkcbt_store_extent(&l->geo, region, i, &first, &last))
				continue;
			l->found->in_use++;
			blkcbt_map_mark(l->map, first, last);
		}
		if (!(region & 1023))
			cond_resched();
	}
}

/**
 * blkcbt_store_load() - what does a trusted store say?
 * @super: its superblock
 * @src: the store
 * @pages: of blkcbt_store_geo.nr_pages; filled in
 * @map: what is dirty is marked; of the disk's size, empty
 * @found: filled in. If @newer is set the superblock is an old copy, and
 *	everything must be taken for dirty.
 *
 * Reads the intent pages, which is 1/500,000 of the disk's size in granules of
 * 4 KiB, and those fine pages that a record names.
 *
 * Context: as @src reads; may sleep.
 * Return: 0 or -ENOMEM.
 */
int blkcbt_store_load(const struct blkcbt_store_super *super,
		      const struct blkcbt_store_source *src, struct blkcbt_store_page *pages,
		      struct blkcbt_map *map, struct blkcbt_store_found *found)
{
	struct loading l = { super, src, { 0 }, pages, map, found, NULL };
	u32 i;

	memset(found, 0, sizeof(*found));
	found->committed = le64_to_cpu(super->head.committed);
	if (blkcbt_store_geometry(&l.geo, le64_to_cpu(super->disk_bytes),
				  le32_to_cpu(super->granule_bytes),
				  le32_to_cpu(super->extent_bytes)))
		return -EINVAL;
	l.buf = blkcbt_pure_zalloc(CHUNK_BLOCKS * BLKCBT_STORE_BLOCK);
	if (!l.buf)
		return -ENOMEM;
	for (i = 0; i < l.geo.nr_pages; i++)
		blkcbt_store_page_void(&pages[i]);
	load_slot(&l, 0);
	load_slot(&l, 1);
	for (i = 0; i < l.geo.nr_pages; i++)
		found->bad_pages += !pages[i].head.seq;
	/* Once: what load_fine() finds bad is marked there. */
	load_records(&l);
	load_fine_slot(&l, 0);
	load_fine_slot(&l, 1);
	blkcbt_pure_free(l.buf);
	found->dirty = blkcbt_map_count(map);
	return 0;
}
