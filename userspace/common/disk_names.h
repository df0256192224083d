/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disk_names: the names of a whole disk that survive a reboot, and the disk that has such a
 * name. The kernel's own names (vda) follow the order in which drivers find disks. The agent
 * looks for the names of its disks, reprotect-early for the disks again.
 */
#ifndef REPROTECT_DISK_NAMES_H
#define REPROTECT_DISK_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define DISK_NAMES_DIRECTORY "/dev/disk" /* udev's; another one in tests */

/**
 * struct disk_names - what a disk is called; empty where it has no such name
 * @by_id, @by_path: paths below /dev/disk, from the disk's serial number and from where it is plugged
 * @ptuuid: identity of its partition table
 * @uuid: of what fills the whole disk: a file system, an LVM or md member
 */
struct disk_names {
	char by_id[160], by_path[160], ptuuid[64], uuid[64];
};

/** disk_names_of - find the names of @device. Reads the beginning and the end of the disk. */
void disk_names_of(const char *directory, const char *device, struct disk_names *names);

/**
 * disk_names_device - a path of any block device, a partition or volume as well, that survives a reboot
 *
 * The kernel's own when there is none. False: it has no path at all.
 */
bool disk_names_device(const char *directory, dev_t dev, char *out, size_t out_bytes);

/** disk_names_any - whether there is any at all */
int disk_names_any(const struct disk_names *names);

/**
 * disk_names_resolve - the disk with the first of these names that a disk has: by_id, ptuuid, uuid, by_path;
 * @device only when none of them is known
 * @found: the name that it was, for people
 *
 * Return: 0; -ENOENT no disk has such a name; -ENOTUNIQ several have (a copy of a disk beside it), and no
 * better name is known; -ENOTBLK it is the name of something else.
 */
int disk_names_resolve(const struct disk_names *names, const char *device, dev_t *dev, char *found,
		       size_t found_bytes);

#endif
