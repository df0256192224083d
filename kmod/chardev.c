// SPDX-License-Identifier: GPL-2.0
/*
 * The character device of a tracked disk: read() enumerates the extents of the
 * open epoch, write() releases them, as documented in <linux/blkcbt.h>.
 *
 * A descriptor belongs to the epoch that it read first, and says ESTALE once
 * that is over: whoever enumerates epoch 7 is never served epoch 8. It keeps
 * the memory of the disk, not the disk: detach goes on, and the reader gets
 * ENODEV.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include "disk.h"
#include "extent.h"
#include "preserve.h"

#define RECORDS		(PAGE_SIZE / sizeof(struct blkcbt_extent))

static dev_t first_dev;
static struct cdev cdev;

static struct class class = {
	.name = "blkcbt",
};

/**
 * struct reader - an open descriptor
 * @disk: a reference of its @kref is held
 * @epoch: the epoch that is enumerated, 0: none yet; blkcbt_ctl_mutex
 */
struct reader {
	struct blkcbt_disk *disk;
	u64 epoch;
};

static int chardev_open(struct inode *inode, struct file *file)
{
	struct blkcbt_disk *d;
	struct reader *r;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	r = kzalloc(sizeof(*r), GFP_KERNEL);
	if (!r)
		return -ENOMEM;

	mutex_lock(&blkcbt_ctl_mutex);
	d = blkcbt_disk_by_index(iminor(inode) - MINOR(first_dev));
	if (d)
		kref_get(&d->kref);
	mutex_unlock(&blkcbt_ctl_mutex);
	if (!d) {
		kfree(r);
		return -ENODEV;
	}
	r->disk = d;
	file->private_data = r;
	return 0;
}

static int chardev_release(struct inode *inode, struct file *file)
{
	struct reader *r = file->private_data;

	blkcbt_disk_put(r->disk);
	kfree(r);
	return 0;
}

/* Under blkcbt_ctl_mutex: does this descriptor's epoch go on? */
static int check_epoch(struct reader *r)
{
	struct blkcbt_disk *d = r->disk;

	if (d->detached)
		return -ENODEV;
	if (d->epoch.state != BLKCBT_EPOCH_OPEN)
		return r->epoch ? -ESTALE : -ENODATA;
	if (r->epoch && r->epoch != d->epoch.last)
		return -ESTALE;
	r->epoch = d->epoch.last;
	return 0;
}

/* Under blkcbt_ctl_mutex: how many records, or an error. */
static ssize_t fill(struct reader *r, struct blkcbt_extent *records, size_t max, loff_t *pos)
{
	struct blkcbt_disk *d = r->disk;
	struct blkcbt_extent_iter it = {
		.size_bytes = (u64)d->nr_sectors << SECTOR_SHIFT,
		.pos_bytes = *pos,
		.granule_shift = d->granule_sector_shift + SECTOR_SHIFT,
	};
	int err = check_epoch(r);
	size_t n = 0;

	if (err)
		return err;
	it.map = blkcbt_map_of(d->old);
	while (n < max && blkcbt_extent_next(&it, &records[n]))
		n++;
	*pos = it.pos_bytes;
	return n;
}

static ssize_t chardev_read(struct file *file, char __user *buf, size_t count, loff_t *ppos)
{
	size_t want = count / sizeof(struct blkcbt_extent);
	struct reader *r = file->private_data;
	struct blkcbt_extent *records;
	loff_t pos = *ppos;
	ssize_t done = 0;

	if (!want)
		return -EINVAL;
	want = min_t(size_t, want, MAX_RW_COUNT / sizeof(struct blkcbt_extent));
	records = (struct blkcbt_extent *)__get_free_page(GFP_KERNEL);
	if (!records)
		return -ENOMEM;

	do {
		size_t max = min_t(size_t, want, RECORDS);
		ssize_t n;

		if (mutex_lock_interruptible(&blkcbt_ctl_mutex)) {
			done = done ?: -EINTR;
			break;
		}
		n = fill(r, records, max, &pos);
		mutex_unlock(&blkcbt_ctl_mutex);
		if (n < 0) {
			/* Also after some records: an enumeration across two epochs is none. */
			done = n;
			break;
		}
		if (copy_to_user(buf + done, records, n * sizeof(*records))) {
			done = done ?: -EFAULT;
			break;
		}
		*ppos = pos;
		done += n * sizeof(*records);
		want -= n;
		if ((size_t)n < max)
			break;
	} while (want);

	free_page((unsigned long)records);
	return done;
}

/* Under blkcbt_ctl_mutex. */
static int release(struct reader *r, const struct blkcbt_extent *records, size_t n)
{
	struct blkcbt_disk *d = r->disk;
	unsigned int shift = d->granule_sector_shift + SECTOR_SHIFT;
	u64 size = (u64)d->nr_sectors << SECTOR_SHIFT;
	struct blkcbt_preserve *p;
	int err = check_epoch(r);
	size_t i;

	if (err)
		return err;
	for (i = 0; i < n; i++)
		if (!records[i].length_bytes || records[i].offset_bytes >= size ||
		    records[i].length_bytes > size - records[i].offset_bytes)
			return -EINVAL;
	p = rcu_dereference_protected(d->preserve, lockdep_is_held(&blkcbt_ctl_mutex));
	for (i = 0; p && i < n; i++) {
		u64 from = records[i].offset_bytes;
		u64 first, end;

		blkcbt_extent_inner(from, from + records[i].length_bytes, size, shift, &first,
				    &end);
		if (first < end)
			blkcbt_preserve_release(p, first, end - 1);
	}
	return 0;
}

static ssize_t chardev_write(struct file *file, const char __user *buf, size_t count, loff_t *ppos)
{
	struct reader *r = file->private_data;
	struct blkcbt_extent *records;
	size_t left = count / sizeof(*records);
	ssize_t done = 0;
	int err = 0;

	if (!count || count % sizeof(*records))
		return -EINVAL;
	records = (struct blkcbt_extent *)__get_free_page(GFP_KERNEL);
	if (!records)
		return -ENOMEM;
	while (left && !err) {
		size_t n = min_t(size_t, left, RECORDS);

		if (copy_from_user(records, buf + done, n * sizeof(*records))) {
			err = -EFAULT;
			break;
		}
		if (mutex_lock_interruptible(&blkcbt_ctl_mutex)) {
			err = -EINTR;
			break;
		}
		err = release(r, records, n);
		mutex_unlock(&blkcbt_ctl_mutex);
		if (!err) {
			done += n * sizeof(*records);
			left -= n;
		}
	}
	free_page((unsigned long)records);
	return done ?: err;
}

static loff_t chardev_llseek(struct file *file, loff_t offset, int whence)
{
	struct reader *r = file->private_data;

	return fixed_size_llseek(file, offset, whence,
				 (loff_t)r->disk->nr_sectors << SECTOR_SHIFT);
}

static const struct file_operations chardev_fops = {
	.owner		= THIS_MODULE,
	.open		= chardev_open,
	.release	= chardev_release,
	.read		= chardev_read,
	.write		= chardev_write,
	.llseek		= chardev_llseek,
};

/**
 * blkcbt_chardev_add() - make the device of a disk, /dev/blkcbt/INDEX
 * @d: the disk, in the list
 *
 * Return: 0 or an error.
 */
int blkcbt_chardev_add(struct blkcbt_disk *d)
{
	struct device *dev = device_create(&class, NULL, first_dev + d->index, NULL,
					   "blkcbt/%u", d->index);

	return PTR_ERR_OR_ZERO(dev);
}

/**
 * blkcbt_chardev_del() - remove the device of a disk
 * @d: the disk
 */
void blkcbt_chardev_del(struct blkcbt_disk *d)
{
	device_destroy(&class, first_dev + d->index);
}

/**
 * blkcbt_chardev_init() - get ready
 *
 * Return: 0 or an error.
 */
int blkcbt_chardev_init(void)
{
	int err = alloc_chrdev_region(&first_dev, 0, BLKCBT_DISKS_MAX, "blkcbt");

	if (err)
		return err;
	cdev_init(&cdev, &chardev_fops);
	cdev.owner = THIS_MODULE;
	err = cdev_add(&cdev, first_dev, BLKCBT_DISKS_MAX);
	if (err)
		goto out_region;
	err = class_register(&class);
	if (err)
		goto out_cdev;
	return 0;
out_cdev:
	cdev_del(&cdev);
out_region:
	unregister_chrdev_region(first_dev, BLKCBT_DISKS_MAX);
	return err;
}

/**
 * blkcbt_chardev_exit() - undo blkcbt_chardev_init()
 */
void blkcbt_chardev_exit(void)
{
	class_unregister(&class);
	cdev_del(&cdev);
	unregister_chrdev_region(first_dev, BLKCBT_DISKS_MAX);
}
