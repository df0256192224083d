// SPDX-License-Identifier: GPL-2.0
/*
 * Where a store lies, and the bios that go there. A block device is opened for
 * nobody else to use. A file is taken as swapon takes one: written in all of its
 * length, its blocks looked up once, and pinned (S_SWAPFILE), so that it can be
 * neither truncated nor written nor moved nor shared nor removed; from then on no
 * file system is asked any more. ext4 and xfs alone: they alone are known to leave a
 * block where it is.
 *
 * Writes are sent in batches, with a deadline: whatever is below may hang. Then the
 * store is given up, and the batch lives on until its last bio has come back.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/pagemap.h>
#include <linux/swap.h>
#include "store.h"

/* Longer than a hold, or a preserve, which may keep a write of the store's own. */
#define DEADLINE	(10 * HZ)
#define BIOS		64
#define BLOCK_SECTORS	(BLKCBT_STORE_BLOCK >> SECTOR_SHIFT)
/* 24 bytes each. A file in more pieces than that is not laid out for this. */
#define RANGES_MAX	16384u

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC	0x58465342
#endif

static struct bio_set bios;

/*
 * Files
 */

static bool add_block(struct blkcbt_store_place *p, u64 block, sector_t sector)
{
	struct blkcbt_store_range *last = p->range + p->nr_ranges - 1;

	if (p->nr_ranges && last->sector + last->nr * BLOCK_SECTORS == sector) {
		last->nr++;
		return true;
	}
	if (p->nr_ranges == RANGES_MAX)
		return false;
	p->range[p->nr_ranges].block = block;
	p->range[p->nr_ranges].nr = 1;
	p->range[p->nr_ranges].sector = sector;
	p->nr_ranges++;
	return true;
}

/* The sector of a block of 4 KiB; 0 if it has none, or is in pieces. */
static sector_t file_sector(struct inode *inode, u64 block)
{
	unsigned int per = BLKCBT_STORE_BLOCK >> inode->i_blkbits, i;
	sector_t first = 0;

	for (i = 0; i < per; i++) {
		sector_t at = block * per + i;

		if (bmap(inode, &at) || !at || (i && at != first + i))
			return 0;
		if (!i)
			first = at;
	}
	return first << (inode->i_blkbits - SECTOR_SHIFT);
}

static int file_map(struct blkcbt_store_place *p, struct inode *inode, char *why)
{
	u64 block;

	p->range = kvcalloc(RANGES_MAX, sizeof(*p->range), GFP_KERNEL);
	if (!p->range)
		return -ENOMEM;
	p->nr_blocks = i_size_read(inode) / BLKCBT_STORE_BLOCK;
	for (block = 0; block < p->nr_blocks; block++) {
		sector_t sector = file_sector(inode, block);

		if (!sector) {
			why_err(why, "the file has a hole or unwritten blocks at %llu (write all of it, with zeros)",
				block * BLKCBT_STORE_BLOCK);
			return -EINVAL;
		}
		if (!add_block(p, block, sector)) {
			why_err(why, "the file is in more than %u pieces (make it again, with fallocate first)",
				RANGES_MAX);
			return -EOPNOTSUPP;
		}
		cond_resched();
	}
	return 0;
}

static int file_pin(struct inode *inode, char *why)
{
	int err = 0;

	inode_lock(inode);
	if (IS_SWAPFILE(inode))
		err = -EBUSY;
	else
		inode->i_flags |= S_SWAPFILE;
	inode_unlock(inode);
	if (err)
		why_err(why, "the file is in use, as a store or as swap");
	return err;
}

static void file_unpin(struct inode *inode)
{
	inode_lock(inode);
	inode->i_flags &= ~S_SWAPFILE;
	inode_unlock(inode);
}

static int open_file(struct blkcbt_store_place *p, struct file *file, char *why)
{
	struct inode *inode = file_inode(file);
	unsigned long magic = inode->i_sb->s_magic;
	int err;

	if ((magic != EXT4_SUPER_MAGIC && magic != XFS_SUPER_MAGIC) || !inode->i_sb->s_bdev ||
	    inode->i_blkbits > PAGE_SHIFT || inode->i_blkbits > ilog2(BLKCBT_STORE_BLOCK)) {
		why_err(why, "a file on %s cannot be a store, for its blocks may move (use a partition or volume, or a file on ext4 or xfs)",
			inode->i_sb->s_type->name);
		return -EOPNOTSUPP;
	}
	err = file_pin(inode, why);
	if (err)
		return err;
	p->file = get_file(file);
	p->bdev = inode->i_sb->s_bdev;
	err = vfs_fsync(file, 0);
	if (!err)
		err = file_map(p, inode, why);
	/* What the page cache has of it would be written over the store some day. */
	if (!err)
		err = invalidate_inode_pages2(inode->i_mapping);
	return err;
}

static int open_bdev(struct blkcbt_store_place *p, dev_t dev, char *why)
{
	int err;

	p->range = kvzalloc(sizeof(*p->range), GFP_KERNEL);
	if (!p->range)
		return -ENOMEM;
	err = blkcbt_bdev_open(dev, p, &p->b);
	if (err) {
		why_err(why, "device %u:%u cannot be opened for nobody else to use: %s", MAJOR(dev),
			MINOR(dev), err == -EBUSY ? "it is in use (mounted, or part of something)" :
			"is it read-only?");
		return err;
	}
	p->bdev = p->b.bdev;
	p->nr_blocks = bdev_nr_sectors(p->bdev) / BLOCK_SECTORS;
	p->range->nr = p->nr_blocks;
	p->nr_ranges = 1;
	return 0;
}

static void place_close(struct blkcbt_store_place *p)
{
	if (p->file) {
		file_unpin(file_inode(p->file));
		fput(p->file);
	} else if (p->bdev) {
		blkcbt_bdev_close(&p->b);
	}
	kvfree(p->range);
	kfree(p);
}

static void place_free_work(struct work_struct *work)
{
	place_close(container_of(work, struct blkcbt_store_place, free_work));
}

static void place_last(struct kref *kref)
{
	struct blkcbt_store_place *p = container_of(kref, struct blkcbt_store_place, kref);

	queue_work(blkcbt_wq, &p->free_work);
}

/**
 * blkcbt_store_place_put() - let go of a place
 * @place: the place
 *
 * Any context.
 */
void blkcbt_store_place_put(struct blkcbt_store_place *place)
{
	kref_put(&place->kref, place_last);
}

/**
 * blkcbt_store_place_open() - take a file or a block device for a store
 * @file: what was opened
 * @why: set to a text on error
 *
 * Context: may sleep.
 * Return: the place, to be put; or -EOPNOTSUPP, -EBUSY, -EINVAL, -ENOMEM, what
 * the file system says.
 */
struct blkcbt_store_place *blkcbt_store_place_open(struct file *file, char *why)
{
	struct inode *inode = file_inode(file);
	struct blkcbt_store_place *p;
	int err;

	p = kzalloc(sizeof(*p), GFP_KERNEL);
	if (!p)
		return ERR_PTR(-ENOMEM);
	kref_init(&p->kref);
	INIT_WORK(&p->free_work, place_free_work);
	if (S_ISBLK(inode->i_mode)) {
		err = open_bdev(p, inode->i_rdev, why);
	} else if (S_ISREG(inode->i_mode)) {
		err = open_file(p, file, why);
	} else {
		why_err(why, "a store is a block device or a regular file");
		err = -EINVAL;
	}
	if (!err)
		return p;
	place_close(p);
	return ERR_PTR(err);
}

/*
 * Bios
 */

/* The sector of a block, and how many more lie behind it. */
static sector_t place_sector(const struct blkcbt_store_place *p, u64 block, u64 *more)
{
	u32 lo = 0, hi = p->nr_ranges - 1;

	while (lo < hi) {
		u32 mid = (lo + hi + 1) / 2;

		if (p->range[mid].block <= block)
			lo = mid;
		else
			hi = mid - 1;
	}
	*more = p->range[lo].nr - (block - p->range[lo].block);
	return p->range[lo].sector + (block - p->range[lo].block) * BLOCK_SECTORS;
}

/**
 * blkcbt_store_place_read() - read blocks; struct blkcbt_store_source.read
 * @place: the place
 * @block: the first
 * @n: how many; at most BLKCBT_STORE_BATCH
 * @to: where to
 *
 * Context: may sleep, for as long as the device takes.
 * Return: 0 or an error.
 */
int blkcbt_store_place_read(void *place, u64 block, u32 n, void *to)
{
	struct blkcbt_store_place *p = place;
	u32 i, at = 0;
	int err = 0;

	if (n > BLKCBT_STORE_BATCH || block + n > p->nr_blocks)
		return -EINVAL;
	while (at < n && !err) {
		struct page *page[BLKCBT_STORE_BATCH];
		sector_t sector;
		u64 more;
		u32 m;
		struct bio *bio;

		sector = place_sector(p, block + at, &more);
		m = min_t(u64, n - at, more);
		bio = bio_alloc_bioset(p->bdev, m, REQ_OP_READ | REQ_META, GFP_KERNEL, &bios);
		bio->bi_iter.bi_sector = sector;
		for (i = 0; i < m; i++) {
			page[i] = alloc_page(GFP_KERNEL);
			if (!page[i])
				break;
			__bio_add_page(bio, page[i], BLKCBT_STORE_BLOCK, 0);
		}
		m = i;
		err = m ? submit_bio_wait(bio) : -ENOMEM;
		bio_put(bio);
		for (i = 0; i < m; i++) {
			if (!err)
				memcpy(to + (size_t)(at + i) * BLKCBT_STORE_BLOCK,
				       page_address(page[i]), BLKCBT_STORE_BLOCK);
			__free_page(page[i]);
		}
		at += m;
	}
	return err;
}

/**
 * blkcbt_store_place_write() - write one block durably
 * @place: the place
 * @block: which one
 * @from: what
 *
 * Context: may sleep, for as long as the device takes.
 * Return: 0 or an error.
 */
int blkcbt_store_place_write(struct blkcbt_store_place *place, u64 block, const void *from)
{
	struct page *page = alloc_page(GFP_KERNEL);
	struct bio *bio;
	u64 more;
	int err;

	if (!page)
		return -ENOMEM;
	memcpy(page_address(page), from, BLKCBT_STORE_BLOCK);
	bio = bio_alloc_bioset(place->bdev, 1, REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH | REQ_FUA,
			       GFP_KERNEL, &bios);
	bio->bi_iter.bi_sector = place_sector(place, block, &more);
	__bio_add_page(bio, page, BLKCBT_STORE_BLOCK, 0);
	err = submit_bio_wait(bio);
	bio_put(bio);
	__free_page(page);
	return err;
}

static void batch_free(struct kref *kref)
{
	struct blkcbt_store_batch *b = container_of(kref, struct blkcbt_store_batch, kref);
	u32 i;

	for (i = 0; i < BLKCBT_STORE_BATCH; i++)
		if (b->page[i])
			__free_page(b->page[i]);
	blkcbt_store_place_put(b->place);
	kfree(b);
}

/**
 * blkcbt_store_batch_put() - let go of a batch
 * @b: the batch, or NULL
 */
void blkcbt_store_batch_put(struct blkcbt_store_batch *b)
{
	if (b)
		kref_put(&b->kref, batch_free);
}

/**
 * blkcbt_store_batch_alloc() - memory for writing, so that none is needed later
 * @d: the disk
 * @place: where its store is
 *
 * Return: the batch, or NULL without memory.
 */
struct blkcbt_store_batch *blkcbt_store_batch_alloc(struct blkcbt_disk *d,
						    struct blkcbt_store_place *place)
{
	struct blkcbt_store_batch *b = kzalloc(sizeof(*b), GFP_KERNEL);
	u32 i;

	if (!b)
		return NULL;
	kref_init(&b->kref);
	init_completion(&b->done);
	b->d = d;
	b->place = place;
	kref_get(&place->kref);
	for (i = 0; i < BLKCBT_STORE_BATCH; i++) {
		b->page[i] = alloc_page(GFP_KERNEL);
		if (!b->page[i]) {
			blkcbt_store_batch_put(b);
			return NULL;
		}
	}
	return b;
}

/**
 * blkcbt_store_batch_begin() - begin to write
 * @b: the batch; nothing of it is under way
 */
void blkcbt_store_batch_begin(struct blkcbt_store_batch *b)
{
	atomic_set(&b->pending, 1);
	reinit_completion(&b->done);
	b->error = 0;
}

static void batch_end_io(struct bio *bio)
{
	struct blkcbt_store_batch *b = bio->bi_private;
	struct blkcbt_disk *d = b->d;

	if (bio->bi_status || blkcbt_fault_store())
		WRITE_ONCE(b->error, bio->bi_status ? blk_status_to_errno(bio->bi_status) : -EIO);
	bio_put(bio);
	if (atomic_dec_and_test(&b->pending))
		complete(&b->done);
	kref_put(&b->kref, batch_free);
	percpu_ref_put(&d->ref);
}

static void batch_send(struct blkcbt_store_batch *b, struct bio *bio)
{
	bio->bi_end_io = batch_end_io;
	bio->bi_private = b;
	kref_get(&b->kref);
	atomic_inc(&b->pending);
	percpu_ref_get(&b->d->ref);
	submit_bio(bio);
}

/**
 * blkcbt_store_batch_write() - send a page of the batch
 * @b: the batch
 * @i: which page
 * @block: where it goes
 * @durable: it, and what was written before this batch was begun
 *
 * Context: may sleep, but not for memory that only writing can give back.
 */
void blkcbt_store_batch_write(struct blkcbt_store_batch *b, u32 i, u64 block, bool durable)
{
	struct bio *bio;
	u64 more;

	bio = bio_alloc_bioset(b->place->bdev, 1, REQ_OP_WRITE | REQ_SYNC | REQ_META |
			       (durable ? REQ_PREFLUSH | REQ_FUA : 0), GFP_NOIO, &bios);
	bio->bi_iter.bi_sector = place_sector(b->place, block, &more);
	__bio_add_page(bio, b->page[i], BLKCBT_STORE_BLOCK, 0);
	batch_send(b, bio);
}

/**
 * blkcbt_store_batch_flush() - make durable what was written to the tracked disk
 * @b: the batch; the flush is one of its writes
 *
 * Context: as blkcbt_store_batch_write().
 */
void blkcbt_store_batch_flush(struct blkcbt_store_batch *b)
{
	batch_send(b, bio_alloc_bioset(b->d->gd->part0, 0, REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH,
				       GFP_NOIO, &bios));
}

/**
 * blkcbt_store_batch_end() - wait until what was sent has come back
 * @b: the batch
 *
 * Context: sleeps, not longer than DEADLINE.
 * Return: 0; -ETIMEDOUT, after which the batch cannot be used any more; an error
 * of the device.
 */
int blkcbt_store_batch_end(struct blkcbt_store_batch *b)
{
	if (atomic_dec_and_test(&b->pending))
		complete(&b->done);
	if (!wait_for_completion_timeout(&b->done, DEADLINE))
		return -ETIMEDOUT;
	return READ_ONCE(b->error);
}

/**
 * blkcbt_store_place_init() - get ready
 *
 * Return: 0 or -ENOMEM.
 */
int blkcbt_store_place_init(void)
{
	return bioset_init(&bios, BIOS, 0, BIOSET_NEED_BVECS);
}

/**
 * blkcbt_store_place_exit() - undo blkcbt_store_place_init(); every bio has come back
 */
void blkcbt_store_place_exit(void)
{
	bioset_exit(&bios);
}
