/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mounts: which mounted, writable filesystems live on given disks, directly or through
 * partitions, LVM, md, dm and loop devices. Called by failback.c. Reads
 * /proc/self/mountinfo and /sys/dev/block; changes nothing.
 */
#ifndef REPROTECT_AGENT_MOUNTS_H
#define REPROTECT_AGENT_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MOUNTS_MAX 256

/**
 * struct mount_entry - a line of mountinfo
 * @dev: of the filesystem (0:x for btrfs and those without a device)
 * @point: where, unescaped
 * @source: what, unescaped
 * @writable: the filesystem is (whatever this mount of it is)
 */
struct mount_entry {
	dev_t dev;
	char point[1024];
	char type[32];
	char source[512];
	bool writable;
};

/** mounts_parse - read one line of mountinfo. Return: 0 or -EINVAL. Pure. */
int mounts_parse(const char *line, struct mount_entry *entry);

/**
 * mounts_on - the writable filesystems on the disks @devs, each once, in the order in which
 * they should be frozen: last mounted first, so the root comes last
 * @list: malloc'ed
 */
int mounts_on(const dev_t *devs, size_t dev_count, struct mount_entry **list, size_t *count);

#endif
