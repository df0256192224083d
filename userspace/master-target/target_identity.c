// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * target_identity: recognises a target after a reboot, when its path may have come to mean
 * another disk. Called by target_open(). Reads sysfs only.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "target.h"
#include "util.h"

/* The first line of a sysfs attribute of block device @dev, spaces trimmed; false: none. */
static bool attribute(dev_t dev, const char *name, char *out, size_t out_bytes)
{
	char path[256];
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(dev), minor(dev), name);
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	n = read(fd, out, out_bytes - 1);
	if (n <= 0)
		return false;
	out[n] = 0;
	out[strcspn(out, "\n")] = 0;
	for (size_t i = strlen(out); i > 0 && isspace((unsigned char)out[i - 1]); i--)
		out[i - 1] = 0;
	memmove(out, out + strspn(out, " \t"), strlen(out + strspn(out, " \t")) + 1);
	return out[0] != 0;
}

static void add(json_t *identity, dev_t dev, const char *key, const char *name)
{
	char text[1024];

	if (attribute(dev, name, text, sizeof(text)))
		json_object_set_new(identity, key, json_string(text));
}

/* The uuid of the file system on @dev, as udev knows it; false: unknown. */
static bool fs_uuid(dev_t dev, char *out, size_t out_bytes)
{
	CLEANUP_FREE char *line = NULL;
	char path[64];
	size_t size = 0;

	snprintf(path, sizeof(path), "/run/udev/data/b%u:%u", major(dev), minor(dev));
	CLEANUP_FILE FILE *file = fopen(path, "re");

	while (file && getline(&line, &size, file) > 0)
		if (!strncmp(line, "E:ID_FS_UUID=", 13)) {
			snprintf(out, out_bytes, "%.*s", (int)strcspn(line + 13, "\n"), line + 13);
			return true;
		}
	return false;
}

/* Device numbers may change with every boot; one of these does not. */
static void file_identity(json_t *identity, int fd, const struct stat *st)
{
	char uuid[128];
	struct statfs fs;
	uint64_t id = 0;

	json_object_set_new(identity, "kind", json_string("file"));
	json_object_set_new(identity, "device",
			    json_sprintf("%u:%u", major(st->st_dev), minor(st->st_dev)));
	json_object_set_new(identity, "inode", json_integer((json_int_t)st->st_ino));
	if (fs_uuid(st->st_dev, uuid, sizeof(uuid)))
		json_object_set_new(identity, "fs_uuid", json_string(uuid));
	if (fstatfs(fd, &fs) == 0)
		memcpy(&id, &fs.f_fsid, sizeof(id) < sizeof(fs.f_fsid) ? sizeof(id) : sizeof(fs.f_fsid));
	if (id)
		json_object_set_new(identity, "fs_id", json_sprintf("%016llx", (unsigned long long)id));
}

static bool same_key(const json_t *a, const json_t *b, const char *key)
{
	json_t *x = json_object_get(a, key), *y = json_object_get(b, key);

	return x && y && json_equal(x, y);
}

json_t *target_identity(int fd, const struct stat *st, uint64_t bytes)
{
	static const struct {
		const char *key, *name, *of_disk; /* the same, seen from a partition */
	} attributes[] = {
		{ "wwid", "device/wwid", "../device/wwid" },
		{ "wwid", "wwid", "../wwid" }, /* nvme */
		{ "serial", "serial", "../serial" }, /* virtio */
		{ "serial", "device/serial", "../device/serial" },
		{ "dm_uuid", "dm/uuid", "../dm/uuid" },
		{ "loop_backing", "loop/backing_file", "../loop/backing_file" },
	};
	json_t *identity = json_object();
	char text[1024];

	if (!S_ISBLK(st->st_mode)) {
		file_identity(identity, fd, st);
		return identity;
	}
	json_object_set_new(identity, "kind", json_string("block"));
	json_object_set_new(identity, "size_bytes", json_integer((json_int_t)bytes));
	bool partition = attribute(st->st_rdev, "partition", text, sizeof(text));

	for (size_t i = 0; i < ARRAY_LENGTH(attributes); i++)
		add(identity, st->st_rdev, attributes[i].key,
		    partition ? attributes[i].of_disk : attributes[i].name);
	bool strong = json_object_size(identity) > 2;

	if (partition) {
		json_object_set_new(identity, "partition", json_string(text));
		add(identity, st->st_rdev, "start_sector", "start");
	}
	if (!strong) {
		char link[256], to[512];
		ssize_t n;

		snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(st->st_rdev),
			 minor(st->st_rdev));
		n = readlink(link, to, sizeof(to) - 1);
		if (n > 0) {
			to[n] = 0;
			const char *slash = strrchr(to, '/');

			json_object_set_new(identity, "kernel_name", json_string(slash ? slash + 1 : to));
		}
	}
	return identity;
}

/* Size alone may grow where something stronger says that it is the same disk. */
bool target_identity_same(const json_t *then, const json_t *now, char *why, size_t why_bytes)
{
	static const char *const keys[] = { "kind",	 "device",    "inode",	      "wwid",
					    "serial",	 "dm_uuid",   "loop_backing", "partition",
					    "start_sector", "kernel_name" };
	bool strong = json_object_get(then, "wwid") || json_object_get(then, "serial") ||
		      json_object_get(then, "dm_uuid") || json_object_get(then, "loop_backing");

	for (size_t i = 0; i < ARRAY_LENGTH(keys); i++) {
		json_t *a = json_object_get(then, keys[i]);
		json_t *b = json_object_get(now, keys[i]);

		/* Of a block device a new key (a newer kernel shows more) says nothing. */
		if (!a || (b && json_equal(a, b)))
			continue;
		if (!strcmp(keys[i], "device") &&
		    (same_key(then, now, "fs_uuid") || same_key(then, now, "fs_id")))
			continue;
		CLEANUP_FREE char *was = json_dumps(a, JSON_ENCODE_ANY);
		CLEANUP_FREE char *is = b ? json_dumps(b, JSON_ENCODE_ANY) : NULL;

		snprintf(why, why_bytes, "%s was %s and is %s", keys[i], was ? was : "?",
			 is ? is : "unknown");
		return false;
	}
	uint64_t was = (uint64_t)json_integer_value(json_object_get(then, "size_bytes"));
	uint64_t is = (uint64_t)json_integer_value(json_object_get(now, "size_bytes"));

	if (is < was || (!strong && is != was)) {
		snprintf(why, why_bytes, "its size was %llu bytes and is %llu", (unsigned long long)was,
			 (unsigned long long)is);
		return false;
	}
	return true;
}
