/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disk_names: see disk_names.h. Partition table and content are read with libblkid; the links are
 * udev's. Called by the agent when a disk is attached, and by reprotect-early.
 */
#include "disk_names.h"

#include <blkid/blkid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "util.h"

#define BLOCK_DIRECTORY "/sys/block"

static int device_of(const char *path, dev_t *dev)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return -errno;
	if (!S_ISBLK(status.st_mode))
		return -ENOTBLK;
	*dev = status.st_rdev;
	return 0;
}

/* Which of two links of by-id says more: the disk's own number, not a model with a number. */
static int rank(const char *name)
{
	static const char *const order[] = { "wwn-", "nvme-eui.", "nvme-uuid.", "dm-uuid-", "md-uuid-",
					     "scsi-3", "virtio-" };

	/* Names of a layer that may be changed, or that lie on top. */
	if (!strncmp(name, "lvm-pv-uuid-", 12) || !strncmp(name, "dm-name-", 8))
		return INT_MAX;
	for (size_t i = 0; i < ARRAY_LENGTH(order); i++)
		if (!strncmp(name, order[i], strlen(order[i])))
			return (int)i;
	return (int)ARRAY_LENGTH(order);
}

/* The best link in @directory/@kind that leads to @dev, into @out (160 bytes). */
static void find_link(const char *directory, const char *kind, dev_t dev, char out[160])
{
	char path[PATH_MAX];
	struct dirent *entry;
	int best = INT_MAX;
	DIR *links;

	out[0] = '\0';
	snprintf(path, sizeof(path), "%s/%s", directory, kind);
	links = opendir(path);
	if (!links)
		return;
	while ((entry = readdir(links))) {
		int this = rank(entry->d_name);
		dev_t other = 0;
		int bytes = snprintf(path, sizeof(path), "%s/%s/%s", directory, kind, entry->d_name);

		if (bytes >= 160 || device_of(path, &other) || other != dev)
			continue;
		/* The first in the alphabet among equals: the order of a directory is nobody's. */
		if (this < best || (this == best && this != INT_MAX && strcmp(path, out) < 0)) {
			best = this;
			memcpy(out, path, (size_t)bytes + 1);
		}
	}
	closedir(links);
}

bool disk_names_device(const char *directory, dev_t dev, char *out, size_t out_bytes)
{
	static const char *const kinds[] = { "by-partuuid", "by-id" };
	char link[160], path[64], line[256];

	for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
		find_link(directory, kinds[i], dev, link);
		if (link[0])
			return (size_t)snprintf(out, out_bytes, "%s", link) < out_bytes;
	}
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/uevent", major(dev), minor(dev));
	CLEANUP_FILE FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		if (strncmp(line, "DEVNAME=", 8) != 0)
			continue;
		line[strcspn(line, "\n")] = '\0';
		return (size_t)snprintf(out, out_bytes, "/dev/%s", line + 8) < out_bytes;
	}
	return false;
}

static void take(blkid_probe probe, const char *key, char out[64])
{
	const char *value = NULL;

	out[0] = '\0';
	if (!blkid_probe_lookup_value(probe, key, &value, NULL) && value && strlen(value) < 64)
		strcpy(out, value);
}

/* Partition table and content of a disk; both empty when it cannot be read. */
static void probe_disk(const char *path, char ptuuid[64], char uuid[64])
{
	CLEANUP_FD int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	blkid_probe probe;

	ptuuid[0] = uuid[0] = '\0';
	probe = fd < 0 ? NULL : blkid_new_probe();
	if (!probe)
		return;
	if (!blkid_probe_set_device(probe, fd, 0, 0)) {
		blkid_probe_enable_partitions(probe, 1);
		blkid_probe_enable_superblocks(probe, 1);
		blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_UUID);
		/* -2: several contents at once, of which none is believed */
		if (blkid_do_safeprobe(probe) == 0) {
			take(probe, "PTUUID", ptuuid);
			take(probe, "UUID", uuid);
		}
	}
	blkid_free_probe(probe);
}

void disk_names_of(const char *directory, const char *device, struct disk_names *names)
{
	dev_t dev = 0;

	memset(names, 0, sizeof(*names));
	if (device_of(device, &dev))
		return;
	find_link(directory, "by-id", dev, names->by_id);
	find_link(directory, "by-path", dev, names->by_path);
	probe_disk(device, names->ptuuid, names->uuid);
}

int disk_names_any(const struct disk_names *names)
{
	return names->by_id[0] || names->by_path[0] || names->ptuuid[0] || names->uuid[0];
}

/* Worth opening: a disk with a size, and no drive for media that one waits for. */
static bool is_candidate(const char *name)
{
	static const char *const others[] = { "fd", "sr", "ram", "zram", "blkcbt_image" };
	unsigned long long sectors = 0;
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_LENGTH(others); i++)
		if (!strncmp(name, others[i], strlen(others[i])))
			return false;
	snprintf(path, sizeof(path), BLOCK_DIRECTORY "/%s/size", name);
	CLEANUP_FILE FILE *file = fopen(path, "re");
	return name[0] != '.' && file && fscanf(file, "%llu", &sectors) == 1 && sectors;
}

/* A dm or md disk that consists of one disk shows that one's content: the upper one is meant. */
static bool is_held(const char *name)
{
	char path[PATH_MAX];
	struct dirent *entry;
	bool held = false;
	DIR *holders;

	snprintf(path, sizeof(path), BLOCK_DIRECTORY "/%s/holders", name);
	holders = opendir(path);
	while (holders && (entry = readdir(holders)))
		held |= entry->d_name[0] != '.';
	if (holders)
		closedir(holders);
	return held;
}

/* The one disk with this partition table, or this content. */
static int find_content(const char *ptuuid, const char *uuid, dev_t *dev)
{
	DIR *disks = opendir(BLOCK_DIRECTORY);
	int found = 0, found_held = 0;
	struct dirent *entry;
	dev_t held = 0;

	while (disks && (entry = readdir(disks))) {
		char path[PATH_MAX], its_ptuuid[64], its_uuid[64];
		dev_t this = 0;

		if (!is_candidate(entry->d_name))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		if (device_of(path, &this))
			continue;
		probe_disk(path, its_ptuuid, its_uuid);
		if (*ptuuid ? strcmp(ptuuid, its_ptuuid) : strcmp(uuid, its_uuid))
			continue;
		if (is_held(entry->d_name)) {
			found_held++;
			held = this;
		} else {
			found++;
			*dev = this;
		}
	}
	if (disks)
		closedir(disks);
	if (!found && found_held == 1) {
		*dev = held;
		return 0;
	}
	return found == 1 ? 0 : found || found_held ? -ENOTUNIQ : -ENOENT;
}

/* 0 ends the search. The first error that says more than "not there" is kept. */
static bool searched(int rc, int *kept, const char *kind, const char *name, char *found,
		     size_t found_bytes)
{
	if (!rc)
		snprintf(found, found_bytes, "%s%s", kind, name);
	else if (*kept == -ENOENT)
		*kept = rc;
	return !rc;
}

int disk_names_resolve(const struct disk_names *names, const char *device, dev_t *dev, char *found,
		       size_t found_bytes)
{
	int rc = -ENOENT;

	if (names->by_id[0] &&
	    searched(device_of(names->by_id, dev), &rc, "", names->by_id, found, found_bytes))
		return 0;
	if (names->ptuuid[0] && searched(find_content(names->ptuuid, "", dev), &rc, "PTUUID=",
					 names->ptuuid, found, found_bytes))
		return 0;
	if (names->uuid[0] && searched(find_content("", names->uuid, dev), &rc, "UUID=", names->uuid,
				       found, found_bytes))
		return 0;
	if (names->by_path[0] &&
	    searched(device_of(names->by_path, dev), &rc, "", names->by_path, found, found_bytes))
		return 0;
	if (!disk_names_any(names) && device && *device &&
	    searched(device_of(device, dev), &rc, "", device, found, found_bytes))
		return 0;
	return rc;
}
