/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * target: a disk or image file that receives the content of one source disk, opened only
 * after everything that can be checked has been: that it is what was used before, that nobody
 * else uses it, that nothing foreign is destroyed, that it is large enough.
 *
 * target_open() is called by machine.c for every disk of a HELLO; apply.c and write.c use
 * the open target. Blocking calls (open, sysfs, low-level probing), each short.
 */
#ifndef MASTER_TARGET_TARGET_H
#define MASTER_TARGET_TARGET_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "fault.h"
#include "state.h"

/**
 * struct target - an open target
 * @id, @name: the source disk, as the HELLO has it
 * @fd: for I/O
 * @claim: keeps others out: open exclusively (block device), or locked (file). Not @fd, on which a worker of io_uring may still have a
 *	reference for a moment after the completion, so that closing it would not end the claim
 * @source_bytes: its size; @bytes: the target's own
 * @align: what offsets and lengths of direct I/O are multiples of
 * @unsynced: written to since the last flush began
 * @data_from, @data_end: of an image file, no hole lay between them when it was last looked at (undo.c)
 */
struct target {
	char name[STATE_NAME_BYTES];
	char path[4096];
	uint32_t id;
	int fd, claim;
	bool block;
	bool created;
	bool unsynced;
	uint32_t align;
	uint64_t source_bytes;
	uint64_t bytes;
	uint64_t data_from, data_end;
	struct stat st;
	json_t *identity;
};

/**
 * struct target_request - what to open
 * @machine: host and disk, for messages ("web1/root")
 * @path: the target
 * @create: make it when it is missing (image file)
 * @overwrite: use it although it carries something else
 * @known: what the state has, or NULL at first use
 * @state_dir: must not be on the same disk
 */
struct target_request {
	const char *machine;
	const char *disk;
	uint32_t id;
	const char *path;
	bool create;
	bool overwrite;
	uint64_t source_bytes;
	const struct state_disk *known;
	const char *state_dir;
};

/** target_open - check and open. Return 0 or -1 with why in @fault ("target-refused"). */
int target_open(struct target *target, const struct target_request *request, struct fault *fault);
/** target_close - close; harmless on one that is not open (fd -1) */
void target_close(struct target *target);

/**
 * target_identity - what tells this target from any other, as JSON
 *
 * Files: inode, and the file system by device number, uuid or id (one of them has to agree). Block devices: size, and from sysfs wwid, serial, the partition's
 * uuid or number, dm uuid, the loop's backing file; only without any of them the kernel's name.
 */
json_t *target_identity(int fd, const struct stat *st, uint64_t bytes);
/** target_identity_same - whether @now is the one recorded as @then; else a text in @why */
bool target_identity_same(const json_t *then, const json_t *now, char *why, size_t why_bytes);

/**
 * target_in_use - who else uses a block device: mounts, swap, holders (dm, md), also
 * of its partitions; or a file: loop devices, locks. 1 with a text and a remedy, 0, or negative errno
 */
int target_in_use(int fd, const struct stat *st, char *who, size_t who_bytes, const char **remedy);

/** target_shares_disk - whether block device @dev lies on a disk under the file system of @path */
bool target_shares_disk(dev_t dev, const char *path);

#endif
