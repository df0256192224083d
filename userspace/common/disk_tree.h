/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disk_tree: what a block device lies on: a partition on its disk, dm and md on their members. Reads sysfs.
 * Called where something must not lie on the same disk as something else.
 */
#ifndef REPROTECT_DISK_TREE_H
#define REPROTECT_DISK_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/**
 * disk_tree_stands_on - whether @lower is @upper or something that @upper lies on
 * A loop device lies on the disk of the file system that has its file. Two volumes of one group, or two partitions
 * of one disk, do not stand on each other.
 */
bool disk_tree_stands_on(dev_t upper, dev_t lower);

/** disk_tree_shares_disk - whether @a and @b have a disk in common; loop devices count as disks */
bool disk_tree_shares_disk(dev_t a, dev_t b);

/**
 * disk_tree_backing_file - the file of the loop device that @dev is, or is a partition of
 * Return: false: it is no loop device, or one without a file.
 */
bool disk_tree_backing_file(dev_t dev, char *path, size_t path_bytes);

/** disk_tree_sysfs - sysfs directory of a block device: @out[64] */
void disk_tree_sysfs(dev_t dev, char out[64]);

/** disk_tree_read_dev - the major:minor in a file of sysfs */
bool disk_tree_read_dev(const char *path, dev_t *dev);

#endif
