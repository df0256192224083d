/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * content: what is on a disk: its partition table, and what each partition, or the disk as a whole, holds. By libblkid, which
 * only reads. Called by points mount and points verify.
 */
#ifndef REPROTECT_CLI_CONTENT_H
#define REPROTECT_CLI_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTENT_ITEMS_MAX 128u

/**
 * struct content_item - a partition, or the whole disk
 * @partition: its number, 0: the whole disk
 * @usage: of what is on it: "filesystem", "raid" (LVM and md too), "crypto", "other" (swap); "" when nothing is known of it
 * @type: "ext4", "xfs", "LVM2_member", "swap", ...; ""
 * @ambiguous: more than one signature: none is believed
 * @bare: the partition is of a type that has no signature (BIOS boot, PReP, Microsoft reserved)
 */
struct content_item {
	unsigned partition;
	uint64_t offset_bytes, size_bytes;
	char usage[16], type[32], label[64];
	bool ambiguous, bare;
};

/** struct content - @table: "gpt", "dos", ..., "" for none */
struct content {
	char table[16];
	struct content_item items[CONTENT_ITEMS_MAX];
	size_t count;
};

/** content_find - of the block device or image open at @fd. 0 or negative errno */
int content_find(int fd, struct content *content);
/**
 * content_choose - which one is meant to be mounted: number @partition, or where that is 0 the only one that can be. Pure.
 * Return: it, or NULL with what there is and how to choose in @error and @remedy
 */
const struct content_item *content_choose(const struct content *content, unsigned partition, char *error, size_t error_bytes,
					  const char **remedy);
/** content_device - "/dev/nbd0p2" */
const char *content_device(const char *disk, unsigned partition, char *out, size_t out_bytes);
/** content_mount_type - what the kernel calls the file system */
const char *content_mount_type(const char *type);
/**
 * content_mount_data - the options with which a copy of a file system is mounted: its uuid may be there twice; with @read_only
 * nothing is replayed. Pure.
 */
const char *content_mount_data(const char *type, bool read_only);

#endif
