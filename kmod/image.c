// SPDX-License-Identifier: GPL-2.0
/*
 * The image: a read-only block device that shows a tracked disk as it was at the
 * cut of its open consistent epoch.
 *
 * A read goes to the live disk and is then made what it was at the cut, or an
 * error: see blkcbt_preserve_settle(). Writers are never kept waiting for a
 * reader.
 *
 * It comes with the first consistent cut of a disk and goes when the disk is
 * detached, whoever has it open. Partitions on it are not looked for: nothing
 * can be read before the cut is made.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include <linux/module.h>
#include "disk.h"
#include "preserve.h"

#define POOL	64

/**
 * struct image_io - a read of the image under way
 * @bio: the read
 * @p: a reference is held
 * @clone: the read of the live disk
 */
struct image_io {
	struct bio *bio;
	struct blkcbt_preserve *p;
	struct bio clone;
};

static struct bio_set pool;

static void image_error(struct bio *bio)
{
	/* An epoch that is over is nothing for the kernel's log. */
	bio_set_flag(bio, BIO_QUIET);
	bio_io_error(bio);
}

static void image_end_io(struct bio *clone)
{
	struct image_io *io = container_of(clone, struct image_io, clone);
	struct blkcbt_preserve *p = io->p;
	struct blkcbt_disk *d = p->disk;
	struct bio *bio = io->bio;

	if (blkcbt_preserve_settle(p, bio, !clone->bi_status))
		bio_endio(bio);
	else
		image_error(bio);
	bio_put(clone);
	blkcbt_preserve_put(p);
	percpu_ref_put(&d->ref);
}

static void image_submit_bio(struct bio *bio)
{
	struct blkcbt_disk *d = bio->bi_bdev->bd_disk->private_data;
	struct blkcbt_preserve *p;
	struct image_io *io;
	struct bio *clone;

	if (bio_op(bio) != REQ_OP_READ) {
		image_error(bio);
		return;
	}
	p = blkcbt_preserve_get(d);
	if (!p) {
		image_error(bio);
		return;
	}
	percpu_ref_get(&d->ref);
	clone = bio_alloc_clone(d->gd->part0, bio, GFP_NOIO, &pool);
	clone->bi_opf &= ~(REQ_POLLED | REQ_ALLOC_CACHE);
	clone->bi_end_io = image_end_io;
	io = container_of(clone, struct image_io, clone);
	io->bio = bio;
	io->p = p;
	submit_bio_noacct(clone);
}

static const struct block_device_operations image_fops = {
	.owner		= THIS_MODULE,
	.submit_bio	= image_submit_bio,
};

/**
 * blkcbt_image_add() - make the image device of a disk, if it is not there
 * @d: the disk
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 * Return: 0 or an error.
 */
int blkcbt_image_add(struct blkcbt_disk *d)
{
	struct gendisk *image;
	int err;

	if (d->image)
		return 0;
	image = blkcbt_alloc_image_disk(d->gd);
	if (IS_ERR(image))
		return PTR_ERR(image);
	image->fops = &image_fops;
	image->private_data = d;
	snprintf(image->disk_name, sizeof(image->disk_name), "blkcbt_image%u", d->index);
	set_bit(GD_SUPPRESS_PART_SCAN, &image->state);
	set_capacity(image, d->nr_sectors);
	set_disk_ro(image, true);
	err = add_disk(image);
	if (err) {
		put_disk(image);
		return err;
	}
	d->image = image;
	return 0;
}

/**
 * blkcbt_image_del() - remove the image device of a disk, if there is one
 * @d: the disk; still whole
 *
 * Context: blkcbt_ctl_mutex; sleeps.
 */
void blkcbt_image_del(struct blkcbt_disk *d)
{
	if (!d->image)
		return;
	del_gendisk(d->image);
	put_disk(d->image);
	d->image = NULL;
}

/**
 * blkcbt_image_init() - get ready
 *
 * Return: 0 or -ENOMEM.
 */
int blkcbt_image_init(void)
{
	return bioset_init(&pool, POOL, offsetof(struct image_io, clone), 0);
}

/**
 * blkcbt_image_exit() - undo blkcbt_image_init(); every read has come back
 */
void blkcbt_image_exit(void)
{
	bioset_exit(&pool);
}
