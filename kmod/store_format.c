// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The crash-safe store's format and its loader. See store_format.h for the
 * layout and for what is believed when.
 */
#include "store_format.h"

#define CHUNK_BLOCKS	64u

#define say(why, fmt, ...)	snprintf(why, BLKCBT_STORE_WHY_LEN, fmt, ##__VA_ARGS__)

/* The layout is what it is, whatever a compiler thinks. */
static_assert(sizeof(struct blkcbt_store_head) == 64, "head");
static_assert(sizeof(struct blkcbt_store_super) == BLKCBT_STORE_BLOCK, "super");
static_assert(sizeof(struct blkcbt_store_page) == BLKCBT_STORE_BLOCK, "page");
static_assert(sizeof(struct blkcbt_store_fine) == BLKCBT_STORE_BLOCK, "fine");
static_assert(offsetof(struct blkcbt_store_super, version) == 64, "version");
static_assert(offsetof(struct blkcbt_store_super, saved_boot) == 112, "saved_boot");

/*
 * CRC32C (Castagnoli, reflected, as in iSCSI), a table lookup for each byte of
 * eight at a time. Of its own: the kernel's is in a module that insmod would
 * not bring along, under another name from kernel to kernel.
 */
static u32 crc_table[8][256];
static bool crc_ready;

static void crc_init(void)
{
	u32 i, j;

	if (READ_ONCE(crc_ready))
		return;
	/* Two at a time write the same. */
	for (i = 0; i < 256; i++) {
		u32 crc = i;

		for (j = 0; j < 8; j++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
		crc_table[0][i] = crc;
	}
	for (i = 0; i < 256; i++)
		for (j = 1; j < 8; j++)
			crc_table[j][i] = crc_table[j - 1][i] >> 8 ^
					  crc_table[0][crc_table[j - 1][i] & 255];
	blkcbt_pure_wmb();
	WRITE_ONCE(crc_ready, true);
}

/* @n: a multiple of 8 */
static u32 crc32c_add(u32 crc, const u8 *p, size_t n)
{
	for (; n; n -= 8, p += 8) {
		u32 lo = crc ^ ((u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24);

		crc = crc_table[7][lo & 255] ^ crc_table[6][lo >> 8 & 255] ^
		      crc_table[5][lo >> 16 & 255] ^ crc_table[4][lo >> 24] ^
		      crc_table[3][p[4]] ^ crc_table[2][p[5]] ^
		      crc_table[1][p[6]] ^ crc_table[0][p[7]];
	}
	return crc;
}

static u32 block_crc(const void *block)
{
	struct blkcbt_store_head head;

	crc_init();
	memcpy(&head, block, sizeof(head));
	head.crc = 0;
	return ~crc32c_add(crc32c_add(~0u, (const u8 *)&head, sizeof(head)),
			   (const u8 *)block + sizeof(head), BLKCBT_STORE_BLOCK - sizeof(head));
}

/**
 * blkcbt_store_seal() - set the checksum of a block
 * @block: the block
 */
void blkcbt_store_seal(void *block)
{
	struct blkcbt_store_head *head = block;

	head->crc = cpu_to_le32(block_crc(block));
}

/**
 * blkcbt_store_sealed() - is its checksum right?
 * @block: a block
 */
bool blkcbt_store_sealed(const void *block)
{
	const struct blkcbt_store_head *head = block;

	return head->crc == cpu_to_le32(block_crc(block));
}

/*
 * Sizes
 */

/**
 * blkcbt_store_geometry() - the sizes of the store of a disk
 * @geo: filled in
 * @disk_bytes: size of the disk
 * @granule_bytes: of its map
 * @extent_bytes: what an intent is to cover
 *
 * Return: 0, -EINVAL sizes that do not fit together, -EFBIG too large a disk for
 * such small extents.
 */
int blkcbt_store_geometry(struct blkcbt_store_geo *geo, u64 disk_bytes, u32 granule_bytes,
			  u32 extent_bytes)
{
	u32 granule_shift = 0;
	u64 regions;

	if (!disk_bytes || !is_power_of_2(granule_bytes) || !is_power_of_2(extent_bytes) ||
	    granule_bytes < BLKCBT_GRANULE_MIN || granule_bytes > BLKCBT_GRANULE_MAX ||
	    extent_bytes < granule_bytes)
		return -EINVAL;
	memset(geo, 0, sizeof(*geo));
	while ((1u << granule_shift) < granule_bytes)
		granule_shift++;
	while (((u64)granule_bytes << geo->extent_shift) < extent_bytes)
		geo->extent_shift++;
	if (geo->extent_shift > BLKCBT_STORE_EXTENT_SHIFT_MAX)
		return -EINVAL;
	geo->nr_granules = ((disk_bytes - 1) >> granule_shift) + 1;
	geo->nr_extents = ((geo->nr_granules - 1) >> geo->extent_shift) + 1;
	geo->region_extents = min_t(u32, BLKCBT_STORE_REGION_EXTENTS,
				    BLKCBT_STORE_FINE_BITS >> geo->extent_shift);
	geo->region_granules = geo->region_extents << geo->extent_shift;
	regions = blkcbt_pure_div(geo->nr_granules - 1, geo->region_granules) + 1;
	if (regions > BLKCBT_STORE_REGIONS_MAX)
		return -EFBIG;
	geo->nr_regions = (u32)regions;
	geo->nr_pages = (geo->nr_regions - 1) / BLKCBT_STORE_RECORDS + 1;
	geo->nr_blocks = BLKCBT_STORE_SUPERS + 2 * ((u64)geo->nr_pages + geo->nr_regions);
	return 0;
}

/**
 * blkcbt_store_page_block() - where an intent page is
 * @geo: the sizes
 * @page: which one
 * @seq: its sequence number
 *
 * Return: the block.
 */
u64 blkcbt_store_page_block(const struct blkcbt_store_geo *geo, u32 page, u64 seq)
{
	return BLKCBT_STORE_SUPERS + (seq & 1) * geo->nr_pages + page;
}

/**
 * blkcbt_store_fine_block() - where a fine page is
 * @geo: the sizes
 * @region: of which region
 * @seq: its version
 *
 * Return: the block.
 */
u64 blkcbt_store_fine_block(const struct blkcbt_store_geo *geo, u32 region, u32 seq)
{
	return BLKCBT_STORE_SUPERS + 2 * (u64)geo->nr_pages + (u64)(seq & 1) * geo->nr_regions +
	       region;
}

/*
 * The superblock
 */

/**
 * blkcbt_store_read_super() - find the superblock
 * @src: the store
 * @super: filled in: the later of the good copies
 * @buf: of one block
 * @why: set to a text on error
 *
 * Context: as @src reads.
 * Return: 0; -EIO it cannot be read; -ENODATA there is none that is whole;
 * -EPROTONOSUPPORT it is of a newer version, or has features unknown to this one.
 */
int blkcbt_store_read_super(const struct blkcbt_store_source *src, struct blkcbt_store_super *super,
			    void *buf, char *why)
{
	bool found = false, failed = false, magic = false;
	u32 i;

	for (i = 0; i < BLKCBT_STORE_SUPERS && i < src->nr_blocks; i++) {
		const struct blkcbt_store_super *copy = buf;

		if (src->read(src->ctx, i, 1, buf)) {
			failed = true;
			continue;
		}
		if (copy->head.magic != cpu_to_le32(BLKCBT_STORE_SUPER_MAGIC))
			continue;
		magic = true;
		if (!blkcbt_store_sealed(copy) || copy->head.index != cpu_to_le32(i))
			continue;
		if (found && le64_to_cpu(copy->head.seq) <= le64_to_cpu(super->head.seq))
			continue;
		memcpy(super, copy, sizeof(*super));
		found = true;
	}
	if (!found) {
		say(why, "%s", failed ? "the store cannot be read" :
		    magic ? "no copy of the superblock is whole" : "there is no store in it");
		return failed ? -EIO : -ENODATA;
	}
	if (le32_to_cpu(super->version) != BLKCBT_STORE_VERSION || super->features) {
		say(why, "it is of version %u, features 0x%x; this module knows version %u",
		    le32_to_cpu(super->version), le32_to_cpu(super->features),
		    BLKCBT_STORE_VERSION);
		return -EPROTONOSUPPORT;
	}
	return 0;
}

static const char never_opened[] =
	"the machine was started, and stopped again before the store was opened";

/**
 * blkcbt_store_super_mark() - a boot has begun in which the store is not open yet
 * @super: the superblock
 * @boot: the boot
 *
 * For whoever comes before the disk is written for the first time in a boot. Of a boot before,
 * in which the store was never opened, the evidence stays.
 *
 * Return: true if it has changed and must be written, both copies, before that.
 */
bool blkcbt_store_super_mark(struct blkcbt_store_super *super, const u8 *boot)
{
	u32 flags = le32_to_cpu(super->flags);

	if (flags & BLKCBT_STORE_F_BOOT) {
		if (!memcmp(super->began_boot, boot, sizeof(super->began_boot)))
			return false;
		if (!(flags & (BLKCBT_STORE_F_INVALID | BLKCBT_STORE_F_DOUBT))) {
			flags |= BLKCBT_STORE_F_DOUBT;
			memset(super->reason, 0, sizeof(super->reason));
			memcpy(super->reason, never_opened, sizeof(never_opened));
		}
	}
	super->flags = cpu_to_le32(flags | BLKCBT_STORE_F_BOOT);
	memcpy(super->began_boot, boot, sizeof(super->began_boot));
	super->head.seq = cpu_to_le64(le64_to_cpu(super->head.seq) + 1);
	return true;
}

/**
 * blkcbt_store_super_encode() - a copy of the superblock as it is written
 * @super: the superblock; the caller has raised its @seq
 * @copy: which copy; also the block that it goes to
 * @buf: of one block
 */
void blkcbt_store_super_encode(const struct blkcbt_store_super *super, u32 copy, void *buf)
{
	struct blkcbt_store_super *to = buf;

	memcpy(to, super, sizeof(*to));
	to->head.index = cpu_to_le32(copy);
	blkcbt_store_seal(to);
}

/**
 * blkcbt_store_judge() - may this store be used, and is it to be believed?
 * @super: its superblock
 * @src: the store
 * @expect: what it must fit
 * @why: set to the reason if it is not trusted
 *
 * Return: the verdict.
 */
enum blkcbt_store_verdict blkcbt_store_judge(const struct blkcbt_store_super *super,
					     const struct blkcbt_store_source *src,
					     const struct blkcbt_store_expect *expect, char *why)
{
	u32 flags = le32_to_cpu(super->flags), saved = le32_to_cpu(super->saved);
	struct blkcbt_store_geo geo;

	if (memcmp(super->identity, expect->identity, sizeof(super->identity))) {
		say(why, "it is the store of another disk, \"%.*s\"",
		    (int)sizeof(super->identity), (const char *)super->identity);
		return BLKCBT_STORE_REFUSED;
	}
	if (le64_to_cpu(super->disk_bytes) != expect->disk_bytes) {
		say(why, "the disk has %llu bytes and had %llu",
		    (unsigned long long)expect->disk_bytes,
		    (unsigned long long)le64_to_cpu(super->disk_bytes));
		return BLKCBT_STORE_REFUSED;
	}
	if (le32_to_cpu(super->granule_bytes) != expect->granule_bytes) {
		say(why, "the store is for granules of %u bytes, not %u",
		    le32_to_cpu(super->granule_bytes), expect->granule_bytes);
		return BLKCBT_STORE_REFUSED;
	}
	if (blkcbt_store_geometry(&geo, expect->disk_bytes, expect->granule_bytes,
				  le32_to_cpu(super->extent_bytes))) {
		say(why, "the superblock makes no sense: extents of %u bytes",
		    le32_to_cpu(super->extent_bytes));
		return BLKCBT_STORE_REFUSED;
	}
	if (geo.nr_blocks > src->nr_blocks) {
		say(why, "the store has %llu blocks of 4096 bytes and needs %llu",
		    (unsigned long long)src->nr_blocks, (unsigned long long)geo.nr_blocks);
		return BLKCBT_STORE_REFUSED;
	}
	if (le64_to_cpu(super->head.generation) < expect->generation_min) {
		say(why, "the store is an old copy: generation %llu, and %llu was seen before",
		    (unsigned long long)le64_to_cpu(super->head.generation),
		    (unsigned long long)expect->generation_min);
		return BLKCBT_STORE_RESYNC;
	}
	if (flags & (BLKCBT_STORE_F_INVALID | BLKCBT_STORE_F_DOUBT)) {
		say(why, "%s: %.*s", flags & BLKCBT_STORE_F_INVALID ?
		    "the store was given up" : "not every write was recorded",
		    (int)sizeof(super->reason) - 1, (const char *)super->reason);
		return BLKCBT_STORE_RESYNC;
	}
	if (flags & BLKCBT_STORE_F_BOOT &&
	    memcmp(super->began_boot, expect->boot, sizeof(super->began_boot))) {
		say(why, "%s", never_opened);
		return BLKCBT_STORE_RESYNC;
	}
	if (saved == BLKCBT_STORE_SAVED_COUNT &&
	    memcmp(super->saved_boot, expect->boot, sizeof(super->saved_boot))) {
		say(why, "the disk was not tracked when the machine was restarted");
		return BLKCBT_STORE_RESYNC;
	}
	if (saved > BLKCBT_STORE_SAVED_COUNT ||
	    expect->writes != (saved == BLKCBT_STORE_SAVED_COUNT ?
			       le64_to_cpu(super->saved_writes) : 0)) {
		say(why, "the disk was written while it was not tracked");
		return BLKCBT_STORE_RESYNC;
	}
	return BLKCBT_STORE_TRUSTED;
}

/*
 * Pages
 */

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
