// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store: see store.h. Reads and writes around the page cache: the kernel module does, too.
 */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-id128.h>
#include <unistd.h>

#include "../../kmod/store_format.h"
#include "util.h"

_Static_assert(STORE_SUPER_BYTES == BLKCBT_STORE_SUPERS * BLKCBT_STORE_BLOCK, "both copies");

/* An open file, and where the store begins in it. */
struct at {
	int fd;
	uint64_t offset_bytes;
	void *block; /* aligned, of one block */
};

static int at_read(void *user, u64 block, u32 count, void *to)
{
	const struct at *at = user;

	for (u32 i = 0; i < count; i++) {
		off_t offset = (off_t)(at->offset_bytes + (block + i) * BLKCBT_STORE_BLOCK);
		ssize_t bytes = pread(at->fd, at->block, BLKCBT_STORE_BLOCK, offset);

		if (bytes != (ssize_t)BLKCBT_STORE_BLOCK)
			return bytes < 0 ? -errno : -EIO;
		memcpy((char *)to + (size_t)i * BLKCBT_STORE_BLOCK, at->block, BLKCBT_STORE_BLOCK);
	}
	return 0;
}

/* Is it this disk's? Else the text says whose. */
static bool is_of(const struct blkcbt_store_super *super, const char *identity, char *why, size_t why_bytes)
{
	u8 padded[BLKCBT_IDENTITY_BYTES] = { 0 };

	memcpy(padded, identity, strnlen(identity, sizeof(padded)));
	if (!memcmp(super->identity, padded, sizeof(padded)))
		return true;
	snprintf(why, why_bytes, "it is the store of another disk, \"%.*s\"", BLKCBT_IDENTITY_BYTES,
		 (const char *)super->identity);
	return false;
}

uint64_t store_bytes(uint64_t disk_bytes, uint32_t granule_bytes)
{
	uint32_t extent = granule_bytes > BLKCBT_STORE_EXTENT_DEFAULT ? granule_bytes : BLKCBT_STORE_EXTENT_DEFAULT;
	struct blkcbt_store_geo geo;

	return blkcbt_store_geometry(&geo, disk_bytes, granule_bytes, extent) ?
		       0 :
		       geo.nr_blocks * BLKCBT_STORE_BLOCK;
}

/* Nothing but zeros where the superblock would be. */
static int blank(struct at *at, uint64_t bytes)
{
	static const char zeros[BLKCBT_STORE_BLOCK];

	for (u32 i = 0; i < BLKCBT_STORE_SUPERS && i < bytes / BLKCBT_STORE_BLOCK; i++) {
		char block[BLKCBT_STORE_BLOCK];
		int rc = at_read(at, i, 1, block);

		if (rc)
			return rc;
		if (memcmp(block, zeros, sizeof(zeros)) != 0)
			return 0;
	}
	return 1;
}

/* The superblock, or negative errno with a text. */
static int read_super(struct at *at, struct blkcbt_store_super *super, char *why, size_t why_bytes)
{
	struct blkcbt_store_source source = { at_read, at, BLKCBT_STORE_SUPERS };
	char text[BLKCBT_STORE_WHY_LEN] = "";
	char block[BLKCBT_STORE_BLOCK];
	int rc = blkcbt_store_read_super(&source, super, block, text);

	snprintf(why, why_bytes, "%s", text);
	return rc;
}

/* Is there room for what the superblock promises? */
static bool is_whole(const struct blkcbt_store_super *super, uint64_t bytes)
{
	struct blkcbt_store_geo geo;

	return !blkcbt_store_geometry(&geo, le64_to_cpu(super->disk_bytes), le32_to_cpu(super->granule_bytes),
				      le32_to_cpu(super->extent_bytes)) &&
	       geo.nr_blocks <= bytes / BLKCBT_STORE_BLOCK;
}

static int look(struct at *at, const struct store_disk *disk, char *why, size_t why_bytes)
{
	off_t end = lseek(at->fd, 0, SEEK_END);
	struct blkcbt_store_super super;
	uint64_t bytes;
	int rc;

	if (end < 0)
		return -errno;
	bytes = (uint64_t)end > at->offset_bytes ? (uint64_t)end - at->offset_bytes : 0;
	if (bytes && bytes < BLKCBT_STORE_BLOCK) {
		snprintf(why, why_bytes, "it is cut short, or something else");
		return STORE_ALIEN;
	}
	rc = blank(at, bytes);
	if (rc)
		return rc < 0 ? rc : STORE_BLANK;
	rc = read_super(at, &super, why, why_bytes);
	if (rc == -EIO)
		return rc;
	if (rc)
		return rc == -EMEDIUMTYPE ? STORE_ALIEN : STORE_DAMAGED;
	if (!is_of(&super, disk->identity, why, why_bytes))
		return STORE_FOREIGN;
	if (le64_to_cpu(super.disk_bytes) != disk->size_bytes ||
	    le32_to_cpu(super.granule_bytes) != disk->granule_bytes) {
		snprintf(why, why_bytes, "it is for another size or granule");
		return STORE_UNFIT;
	}
	if (is_whole(&super, bytes))
		return STORE_OWN;
	snprintf(why, why_bytes, "it is cut short");
	return STORE_UNFIT;
}

int store_look(int fd, uint64_t offset_bytes, const struct store_disk *disk, char *why, size_t why_bytes)
{
	CLEANUP_FREE void *block = aligned_alloc(BLKCBT_STORE_BLOCK, BLKCBT_STORE_BLOCK);
	struct at at = { fd, offset_bytes, block };

	why[0] = '\0';
	return block ? look(&at, disk, why, why_bytes) : -ENOMEM;
}

static int write_copies(const struct at *at, const struct blkcbt_store_super *super)
{
	for (u32 copy = 0; copy < BLKCBT_STORE_SUPERS; copy++) {
		off_t offset = (off_t)(at->offset_bytes + (uint64_t)copy * BLKCBT_STORE_BLOCK);
		ssize_t bytes;

		blkcbt_store_super_encode(super, copy, at->block);
		bytes = pwrite(at->fd, at->block, BLKCBT_STORE_BLOCK, offset);
		if (bytes != (ssize_t)BLKCBT_STORE_BLOCK)
			return bytes < 0 ? -errno : -EIO;
		/* One after the other: a torn one leaves the other. */
		if (fsync(at->fd) < 0)
			return -errno;
	}
	return 0;
}

static int mark(struct at *at, const char *identity, char *error, size_t error_bytes)
{
	struct blkcbt_store_super super;
	sd_id128_t boot;
	int rc;

	rc = sd_id128_get_boot(&boot);
	if (rc < 0) {
		snprintf(error, error_bytes, "the number of this boot cannot be read: %s", strerror(-rc));
		return rc;
	}
	rc = read_super(at, &super, error, error_bytes);
	if (rc)
		return rc;
	if (!is_of(&super, identity, error, error_bytes))
		return -ESTALE;
	if (!blkcbt_store_super_mark(&super, boot.bytes))
		return 0;
	rc = write_copies(at, &super);
	if (rc)
		snprintf(error, error_bytes, "the store cannot be written: %s", strerror(-rc));
	return rc;
}

int store_mark(const char *path, uint64_t offset_bytes, const char *identity, char *error, size_t error_bytes)
{
	CLEANUP_FREE void *block = aligned_alloc(BLKCBT_STORE_BLOCK, BLKCBT_STORE_BLOCK);
	/* Exclusive: what is mounted, or open as a store, is not ours to write to. */
	CLEANUP_FD int fd = open(path, O_RDWR | O_EXCL | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
	struct at at = { fd, offset_bytes, block };

	if (fd < 0 || !block) {
		int rc = fd < 0 ? -errno : -ENOMEM;

		snprintf(error, error_bytes, "%s: cannot be opened: %s", path,
			 rc == -EBUSY ? "it is in use (mounted, or part of something)" : strerror(-rc));
		return rc;
	}
	return mark(&at, identity, error, error_bytes);
}
