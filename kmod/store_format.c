// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The crash-safe store's format: checksums, sizes, the superblock, and what it is
 * worth. See store_format.h for the layout and for what is believed when; the pages are
 * read by store_load.c. Compiled by user space as well, which marks a store in early
 * boot and looks at one before it is given to the kernel.
 */
#include "store_format.h"

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
 * Return: 0; -EIO it cannot be read; -EMEDIUMTYPE this is no store;
 * -ENODATA no copy is whole;
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
		return failed ? -EIO : magic ? -ENODATA : -EMEDIUMTYPE;
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
