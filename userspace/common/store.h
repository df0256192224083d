/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store: what user space does with a crash-safe store by itself, without the kernel: how large one has
 * to be, whose one is, and the mark of a boot in which it is not open yet. Used by the agent and by
 * reprotect-early. The format is kmod/store_format.h.
 */
#ifndef REPROTECT_STORE_H
#define REPROTECT_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "linux/blkcbt.h"

#define STORE_SUPER_BYTES 8192u /* both copies of the superblock, at the start of a store */

/**
 * enum store_kind - what is found where a store should be
 * @STORE_BLANK: zeros at its start, or nothing at all
 * @STORE_OWN: the store of the disk that is asked for, of the right size and granule
 * @STORE_UNFIT: of that disk, and of another size or granule, or cut short
 * @STORE_FOREIGN: of another disk
 * @STORE_DAMAGED: a store of which no copy of the superblock is whole, or of a later version
 * @STORE_ALIEN: something else
 */
enum store_kind {
	STORE_BLANK,
	STORE_OWN,
	STORE_UNFIT,
	STORE_FOREIGN,
	STORE_DAMAGED,
	STORE_ALIEN,
};

/**
 * struct store_disk - the disk that a store is asked about
 * @identity: its name in the store
 */
struct store_disk {
	const char *identity;
	uint64_t size_bytes;
	uint32_t granule_bytes;
};

/** store_bytes - how large a store has to be; 0: no store can be made for such a disk */
uint64_t store_bytes(uint64_t disk_bytes, uint32_t granule_bytes);

/**
 * store_look - what is at @offset_bytes of @fd
 * @why: at least 256 bytes: whose it is, or what is wrong with it
 *
 * Return: enum store_kind, or negative errno: it cannot be read.
 */
int store_look(int fd, uint64_t offset_bytes, const struct store_disk *disk, char *why, size_t why_bytes);

/**
 * store_mark - say in the store at @offset_bytes of @path that this boot has begun
 *
 * To be called before the disk is written in this boot, and before @path is mounted (-EBUSY). From then on, and
 * until the kernel opens the store, nobody believes it after a restart. Only what is a store of @identity is
 * written to.
 *
 * Return: 0, it is durable; -ENOENT, -ENODATA no store, -ESTALE not this disk's, or another errno, with a text.
 */
int store_mark(const char *path, uint64_t offset_bytes, const char *identity, char *error, size_t error_bytes);

#endif
