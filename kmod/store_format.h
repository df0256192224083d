/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The crash-safe store as it lies on its device: what is where, how a page is
 * made and recognised, and what a loader may believe.
 *
 * Everything is in blocks of 4 KiB, each with its own checksum:
 *
 *	block			what
 *	0, 1			superblock, two copies
 *	2 ...			intent pages, slot 0
 *	... + nr_pages		intent pages, slot 1
 *	...			fine pages, slot 0, one for each region
 *	... + nr_regions	fine pages, slot 1
 *
 * The disk is divided into regions of up to 32 extents. An intent page holds
 * the records of 504 regions. A record has one bit for each extent, "in use: some
 * of it may have been written since", and names the version of the region's
 * fine page, which has one bit for each granule.
 *
 *	granule dirty		its extent is in use, or its bit is set in the fine
 *				page of exactly the version that the record names, or
 *				a page that would say cannot be trusted
 *
 * An intent page of sequence number n is in slot n % 2, so that a torn write leaves
 * the one before; the greater number counts. A fine page of version n is in
 * slot n % 2 as well, is written while the record still names n - 1, and counts
 * from the moment that an intent page names it: an older or a later one is
 * no answer.
 *
 * A store that is begun anew gets a new base generation: pages of a generation
 * before it are void, which means dirty, and nothing has to be erased.
 *
 * Not told from a torn write: an intent page that was good and has decayed in
 * place. The device's own error (or a checksum below) tells.
 *
 * Pure: compiled by the unit tests as well.
 */
#ifndef BLKCBT_STORE_FORMAT_H
#define BLKCBT_STORE_FORMAT_H

#include <linux/blkcbt.h>
#include "map.h"

#define BLKCBT_STORE_BLOCK		4096u
#define BLKCBT_STORE_SUPER_MAGIC	0x74736273u	/* "sbst" */
#define BLKCBT_STORE_INTENT_MAGIC	0x69736273u	/* "sbsi" */
#define BLKCBT_STORE_FINE_MAGIC		0x66736273u	/* "sbsf" */
#define BLKCBT_STORE_VERSION		1u
#define BLKCBT_STORE_UUID_BYTES		16u
#define BLKCBT_STORE_WHY_LEN		240u

#define BLKCBT_STORE_SUPERS		2u
#define BLKCBT_STORE_RECORDS		504u
#define BLKCBT_STORE_REGION_EXTENTS	32u
#define BLKCBT_STORE_FINE_BITS		32256u
#define BLKCBT_STORE_EXTENT_SHIFT_MAX	14u
/* 2^27 regions: 16 PiB with extents of 4 MiB. */
#define BLKCBT_STORE_REGIONS_MAX	0x8000000u

/* In blkcbt_store_record.fine, besides the version. */
#define BLKCBT_STORE_CLEAN	0x80000000u	/* no granule is dirty: there is no page */
#define BLKCBT_STORE_ALL	0x40000000u	/* every granule is: there is no page */
#define BLKCBT_STORE_FINE_SEQ	(BLKCBT_STORE_ALL - 1)

/**
 * struct blkcbt_store_head - how every block begins
 * @magic: what it is
 * @crc: CRC32C of the whole block, with this field zero
 * @uuid: the store's
 * @generation: of the store, when this was written; one more at each opening
 * @seq: which of several versions
 * @committed: last epoch that was committed when this was written
 * @index: which intent page, which region, which copy of the superblock
 * @reserved: zero
 */
struct blkcbt_store_head {
	__le32 magic;
	__le32 crc;
	__u8 uuid[BLKCBT_STORE_UUID_BYTES];
	__le64 generation;
	__le64 seq;
	__le64 committed;
	__le32 index;
	__le32 reserved[3];
};

/**
 * struct blkcbt_store_record - one region
 * @intents: bit i: extent i of the region is in use
 * @fine: version of the fine page, BLKCBT_STORE_CLEAN, _ALL
 */
struct blkcbt_store_record {
	__le32 intents;
	__le32 fine;
};

/**
 * struct blkcbt_store_page - an intent page
 * @head: its head
 * @record: one for each region
 */
struct blkcbt_store_page {
	struct blkcbt_store_head head;
	struct blkcbt_store_record record[BLKCBT_STORE_RECORDS];
};

/**
 * struct blkcbt_store_fine - a fine page
 * @head: its head
 * @bits: bit i, least significant first: granule i of the region is dirty
 */
struct blkcbt_store_fine {
	struct blkcbt_store_head head;
	__u8 bits[BLKCBT_STORE_FINE_BITS / 8];
};

/* blkcbt_store_super.flags */
#define BLKCBT_STORE_F_INVALID	0x1u	/* given up: what it says is not true any more */
#define BLKCBT_STORE_F_DOUBT	0x2u	/* a write came that was not recorded */
#define BLKCBT_STORE_F_BOOT	0x4u	/* a boot has begun: in another one, do not believe it */

/**
 * enum blkcbt_store_saved - how the store was left
 * @BLKCBT_STORE_OPEN: it was not: a power cut, or it is in use
 * @BLKCBT_STORE_SAVED_BOOT: exact; the disk is tracked until the machine restarts
 * @BLKCBT_STORE_SAVED_COUNT: exact as long as the disk has not been written since,
 *	which its own counter tells, in the same boot
 */
enum blkcbt_store_saved {
	BLKCBT_STORE_OPEN,
	BLKCBT_STORE_SAVED_BOOT,
	BLKCBT_STORE_SAVED_COUNT,
};

/**
 * struct blkcbt_store_super - the superblock
 * @head: its head; @seq counts its versions. Magic, checksum and @version are
 *	where they are in every version of the format.
 * @version: of the format
 * @features: bits that a loader must know; none so far
 * @disk_bytes: size of the disk
 * @granule_bytes: of its map
 * @extent_bytes: what one intent covers
 * @flags: BLKCBT_STORE_F_*
 * @base_generation: pages of generations before are void
 * @saved: enum blkcbt_store_saved
 * @saved_boot: SAVED_COUNT: the boot
 * @saved_writes: SAVED_COUNT: what the disk's counter of writes must be
 * @identity: of the disk, as user space names it
 * @reason: why INVALID or DOUBT is set
 * @began_boot: F_BOOT: the boot that has begun. Until the store is opened in it, the
 *	disk may be written without a record, so a restart before that costs a resync.
 * @reserved: zero
 */
struct blkcbt_store_super {
	struct blkcbt_store_head head;
	__le32 version;
	__le32 features;
	__le64 disk_bytes;
	__le32 granule_bytes;
	__le32 extent_bytes;
	__le32 flags;
	__le32 saved;
	__le64 base_generation;
	__le64 saved_writes;
	__u8 saved_boot[16];
	__u8 identity[BLKCBT_IDENTITY_BYTES];
	__u8 reason[128];
	__u8 began_boot[16];
	__u8 reserved[4096 - 64 - 64 - BLKCBT_IDENTITY_BYTES - 128 - 16];
};

/**
 * struct blkcbt_store_geo - the sizes of a store
 * @nr_granules: of the disk
 * @nr_extents: of the disk
 * @nr_blocks: of the store
 * @region_granules: what a fine page covers
 * @nr_regions: fine pages of a slot
 * @nr_pages: intent pages of a slot
 * @region_extents: extents of a region
 * @extent_shift: log2 of the extent in granules
 */
struct blkcbt_store_geo {
	u64 nr_granules;
	u64 nr_extents;
	u64 nr_blocks;
	u32 region_granules;
	u32 nr_regions;
	u32 nr_pages;
	u32 region_extents;
	u32 extent_shift;
};

/**
 * struct blkcbt_store_source - where a store is read from
 * @read: reads @n blocks from @block on; 0 or an error
 * @ctx: for @read
 * @nr_blocks: how many there are
 */
struct blkcbt_store_source {
	int (*read)(void *ctx, u64 block, u32 n, void *to);
	void *ctx;
	u64 nr_blocks;
};

/**
 * struct blkcbt_store_expect - what the store must fit
 * @identity: of the disk
 * @disk_bytes: its size
 * @granule_bytes: of its map
 * @boot: the running boot
 * @writes: how much was written to the disk in this boot before it was tracked
 * @generation_min: the store's must not be less
 */
struct blkcbt_store_expect {
	const u8 *identity;
	u64 disk_bytes;
	u32 granule_bytes;
	const u8 *boot;
	u64 writes;
	u64 generation_min;
};

/**
 * enum blkcbt_store_verdict - what a superblock is worth
 * @BLKCBT_STORE_TRUSTED: its pages say what is dirty
 * @BLKCBT_STORE_RESYNC: it is the disk's own store, but everything is dirty
 * @BLKCBT_STORE_REFUSED: it must not be used, nor written to
 */
enum blkcbt_store_verdict {
	BLKCBT_STORE_TRUSTED,
	BLKCBT_STORE_RESYNC,
	BLKCBT_STORE_REFUSED,
};

/**
 * struct blkcbt_store_found - what loading found
 * @dirty: granules that are dirty, bits of extents in use counted as well
 * @in_use: extents in use
 * @bad_pages: pages that could not be trusted
 * @committed: the greatest epoch that any page says was committed
 * @newer: a page is of a later generation than the superblock: it is an old copy
 */
struct blkcbt_store_found {
	u64 dirty;
	u64 in_use;
	u64 bad_pages;
	u64 committed;
	bool newer;
};

int blkcbt_store_geometry(struct blkcbt_store_geo *geo, u64 disk_bytes, u32 granule_bytes,
			  u32 extent_bytes);
u64 blkcbt_store_page_block(const struct blkcbt_store_geo *geo, u32 page, u64 seq);
u64 blkcbt_store_fine_block(const struct blkcbt_store_geo *geo, u32 region, u32 seq);
void blkcbt_store_seal(void *block);
bool blkcbt_store_sealed(const void *block);
int blkcbt_store_read_super(const struct blkcbt_store_source *src, struct blkcbt_store_super *super,
			    void *buf, char *why);
enum blkcbt_store_verdict blkcbt_store_judge(const struct blkcbt_store_super *super,
					     const struct blkcbt_store_source *src,
					     const struct blkcbt_store_expect *expect, char *why);
bool blkcbt_store_super_mark(struct blkcbt_store_super *super, const u8 *boot);
void blkcbt_store_super_encode(const struct blkcbt_store_super *super, u32 copy, void *buf);
void blkcbt_store_page_void(struct blkcbt_store_page *page);
int blkcbt_store_load(const struct blkcbt_store_super *super,
		      const struct blkcbt_store_source *src, struct blkcbt_store_page *pages,
		      struct blkcbt_map *map, struct blkcbt_store_found *found);

/* The record of a region. */
static inline struct blkcbt_store_record *
blkcbt_store_record(struct blkcbt_store_page *pages, u32 region)
{
	return &pages[region / BLKCBT_STORE_RECORDS].record[region % BLKCBT_STORE_RECORDS];
}

/* The granules [*first, *last] of extent @i of a region; false: it has none. */
static inline bool blkcbt_store_extent(const struct blkcbt_store_geo *geo, u32 region, u32 i,
				       u64 *first, u64 *last)
{
	*first = (u64)region * geo->region_granules + ((u64)i << geo->extent_shift);
	*last = *first + (1ull << geo->extent_shift) - 1;
	if (*last >= geo->nr_granules)
		*last = geo->nr_granules - 1;
	return *first < geo->nr_granules && i < geo->region_extents;
}

/* The last granule of a region. */
static inline u64 blkcbt_store_region_last(const struct blkcbt_store_geo *geo, u32 region)
{
	u64 last = ((u64)region + 1) * geo->region_granules - 1;

	return last < geo->nr_granules ? last : geo->nr_granules - 1;
}

/* How many granules a region has. */
static inline u32 blkcbt_store_region_size(const struct blkcbt_store_geo *geo, u32 region)
{
	return (u32)(blkcbt_store_region_last(geo, region) -
		     (u64)region * geo->region_granules) + 1;
}

#endif /* BLKCBT_STORE_FORMAT_H */
