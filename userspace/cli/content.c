// SPDX-License-Identifier: GPL-2.0-or-later
/* content: see content.h. */
#include "content.h"

#include <blkid/blkid.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "conf.h"
#include "util.h"

#define SECTOR 512u /* in which libblkid counts */
#define DOS_PREP 0x41

static void cleanup_probe(blkid_probe *probe) { blkid_free_probe(*probe); }
#define CLEANUP_PROBE __attribute__((cleanup(cleanup_probe)))

static void value(blkid_probe probe, const char *name, char *out, size_t out_bytes)
{
	const char *text = NULL;

	if (!blkid_probe_lookup_value(probe, name, &text, NULL))
		snprintf(out, out_bytes, "%s", text);
}

/* What is in the item's range of the disk. */
static int look(int fd, struct content_item *item)
{
	CLEANUP_PROBE blkid_probe probe = blkid_new_probe();
	int rc;

	if (!probe || blkid_probe_set_device(probe, fd, (blkid_loff_t)item->offset_bytes, (blkid_loff_t)item->size_bytes))
		return -ENOMEM;
	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL);
	errno = 0;
	rc = blkid_do_safeprobe(probe); /* 0 found, 1 nothing, -2 several, -1 error */
	if (rc == -1)
		return errno ? -errno : -EIO;
	item->ambiguous = rc == -2;
	if (!rc) {
		value(probe, "TYPE", item->type, sizeof(item->type));
		value(probe, "USAGE", item->usage, sizeof(item->usage));
		value(probe, "LABEL", item->label, sizeof(item->label));
	}
	return 0;
}

static bool is_bare(blkid_partition partition)
{
	static const char *const types[] = { "21686148-6449-6e6f-744e-656564454649", "9e1a2d38-c612-4316-aa26-8b49521e5a8b",
					     "e3c9e316-0b5c-4db8-817d-f92df00215ae" };
	const char *type = blkid_partition_get_type_string(partition);

	for (size_t i = 0; type && i < ARRAY_LENGTH(types); i++)
		if (!strcasecmp(type, types[i]))
			return true;
	return blkid_partition_get_type(partition) == DOS_PREP;
}

/* The partitions, without extended ones, which only hold others. */
static void partitions(blkid_partlist list, struct content *content)
{
	int count = blkid_partlist_numof_partitions(list);

	for (int i = 0; i < count && content->count < CONTENT_ITEMS_MAX; i++) {
		blkid_partition partition = blkid_partlist_get_partition(list, i);

		if (blkid_partition_is_extended(partition))
			continue;
		content->items[content->count++] = (struct content_item){
			.partition = (unsigned)blkid_partition_get_partno(partition),
			.offset_bytes = (uint64_t)blkid_partition_get_start(partition) * SECTOR,
			.size_bytes = (uint64_t)blkid_partition_get_size(partition) * SECTOR,
			.bare = is_bare(partition),
		};
	}
}

int content_find(int fd, struct content *content)
{
	CLEANUP_PROBE blkid_probe probe = blkid_new_probe();
	blkid_parttable table;
	blkid_partlist list;
	uint64_t bytes = 0;
	int rc;

	memset(content, 0, sizeof(*content));
	if (!probe || blkid_probe_set_device(probe, fd, 0, 0))
		return -ENOMEM;
	rc = util_device_bytes(fd, &bytes);
	if (rc)
		return rc;
	list = blkid_probe_get_partitions(probe); /* NULL, or without a table: there is none */
	table = list ? blkid_partlist_get_table(list) : NULL;
	if (table) {
		snprintf(content->table, sizeof(content->table), "%s", blkid_parttable_get_type(table));
		partitions(list, content);
	}
	if (!*content->table)
		content->items[content->count++] = (struct content_item){ .size_bytes = bytes };
	for (size_t i = 0; i < content->count; i++) {
		rc = look(fd, &content->items[i]);
		if (rc)
			return rc;
	}
	return 0;
}

static bool mountable(const struct content_item *item)
{
	return !strcmp(item->usage, "filesystem");
}

static void describe(const struct content *content, char *out, size_t out_bytes)
{
	size_t used = 0;

	*out = '\0';
	for (size_t i = 0; i < content->count && used < out_bytes; i++) {
		const struct content_item *item = &content->items[i];
		char bytes[32], number[24];

		snprintf(number, sizeof(number), item->partition ? "%u" : "the whole disk", item->partition);
		used += (size_t)snprintf(out + used, out_bytes - used, "%s%s: %s%s%s%s, %s", used ? "; " : "", number,
					 item->ambiguous ? "several signatures" :
					 *item->type	 ? item->type :
							   "nothing known",
					 *item->label ? " \"" : "", item->label, *item->label ? "\"" : "",
					 conf_format_bytes(item->size_bytes, bytes, sizeof(bytes)));
	}
}

const struct content_item *content_choose(const struct content *content, unsigned partition, char *error, size_t error_bytes,
					  const char **remedy)
{
	const struct content_item *found = NULL;
	size_t count = 0;
	char all[1024];

	describe(content, all, sizeof(all));
	for (size_t i = 0; i < content->count; i++) {
		const struct content_item *item = &content->items[i];

		if (partition ? item->partition == partition : mountable(item)) {
			found = item;
			count++;
		}
	}
	*remedy = NULL;
	if (partition && !found)
		snprintf(error, error_bytes, "there is no partition %u (there is %s)", partition, *all ? all : "none");
	else if (partition && !mountable(found))
		snprintf(error, error_bytes, "partition %u holds no file system (there is %s)", partition, all);
	else if (!found) {
		snprintf(error, error_bytes, "there is no file system that can be mounted (there is %s)",
			 *all ? all : "an empty partition table");
		*remedy = "for LVM and the like: reprotect points export --writable, and nbd-client";
	} else if (count > 1) {
		snprintf(error, error_bytes, "there are several file systems (%s)", all);
		*remedy = "choose one with --partition NUMBER";
	} else
		return found;
	return NULL;
}

const char *content_device(const char *disk, unsigned partition, char *out, size_t out_bytes)
{
	size_t length = strlen(disk);

	if (!partition)
		snprintf(out, out_bytes, "%s", disk);
	else
		snprintf(out, out_bytes, "%s%s%u", disk, length && isdigit((unsigned char)disk[length - 1]) ? "p" : "", partition);
	return out;
}

const char *content_mount_type(const char *type)
{
	return !strcmp(type, "ntfs") ? "ntfs3" : type;
}

const char *content_mount_data(const char *type, bool read_only)
{
	static const struct {
		const char *type, *writable, *read_only;
	} known[] = {
		{ "ext3", "", "noload" },
		{ "ext4", "", "noload" },
		{ "xfs", "nouuid", "nouuid,norecovery" },
		{ "btrfs", "", "rescue=nologreplay" },
		{ "f2fs", "", "norecovery" },
		{ "nilfs2", "", "norecovery" },
	};

	for (size_t i = 0; i < ARRAY_LENGTH(known); i++)
		if (!strcmp(known[i].type, type))
			return read_only ? known[i].read_only : known[i].writable;
	return "";
}
