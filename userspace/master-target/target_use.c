// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * target_use: finds out who else uses a disk or an image file, and names them, before the
 * exclusive open that would only say "busy". Called by target_open(). Reads /proc and sysfs.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sysmacros.h>

#include "disk_tree.h"
#include "target.h"
#include "util.h"

/* Where something with major:minor is mounted. */
static bool mounted(dev_t dev, char *where, size_t where_bytes)
{
	CLEANUP_FILE FILE *file = fopen("/proc/self/mountinfo", "re");
	CLEANUP_FREE char *line = NULL;
	size_t size = 0;

	while (file && getline(&line, &size, file) > 0) {
		unsigned ma, mi;
		char at[512];

		if (sscanf(line, "%*u %*u %u:%u %*s %511s", &ma, &mi, at) == 3 &&
		    makedev(ma, mi) == dev) {
			snprintf(where, where_bytes, "%s", at);
			return true;
		}
	}
	return false;
}

static bool swap(dev_t dev)
{
	CLEANUP_FILE FILE *file = fopen("/proc/swaps", "re");
	CLEANUP_FREE char *line = NULL;
	size_t size = 0;

	while (file && getline(&line, &size, file) > 0) {
		char path[512];
		struct stat st;

		if (sscanf(line, "%511s", path) == 1 && !stat(path, &st) && S_ISBLK(st.st_mode) &&
		    st.st_rdev == dev)
			return true;
	}
	return false;
}

/* The first entry of a directory of sysfs, such as "holders". */
static bool first_entry(const char *path, char *name, size_t name_bytes)
{
	CLEANUP_DIR DIR *dir = opendir(path);
	const struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.') {
			snprintf(name, name_bytes, "%s", entry->d_name);
			return true;
		}
	return false;
}

/* One device, without its partitions. */
static bool used(dev_t dev, const char *what, char *who, size_t who_bytes, const char **remedy)
{
	char text[512], path[128];

	if (mounted(dev, text, sizeof(text))) {
		snprintf(who, who_bytes, "%s is mounted on %s", what, text);
		*remedy = "unmount it, or name another target in the configuration";
		return true;
	}
	if (swap(dev)) {
		snprintf(who, who_bytes, "%s is in use as swap space", what);
		*remedy = "swapoff it, or name another target in the configuration";
		return true;
	}
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders", major(dev), minor(dev));
	if (first_entry(path, text, sizeof(text))) {
		snprintf(who, who_bytes, "%s is held by %s (LVM, RAID, multipath or encryption on it)", what,
			 text);
		*remedy = "deactivate what is on it (vgchange -an, mdadm --stop, multipath -f), or name "
			  "another target";
		return true;
	}
	return false;
}

static int block_in_use(dev_t dev, char *who, size_t who_bytes, const char **remedy)
{
	char base[64];

	if (used(dev, "it", who, who_bytes, remedy))
		return 1;
	snprintf(base, sizeof(base), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	CLEANUP_DIR DIR *dir = opendir(base);
	const struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char path[512], what[300];
		dev_t part;

		snprintf(path, sizeof(path), "%s/%s/partition", base, entry->d_name);
		if (entry->d_name[0] == '.' || access(path, F_OK))
			continue;
		snprintf(path, sizeof(path), "%s/%s/dev", base, entry->d_name);
		snprintf(what, sizeof(what), "its partition %s", entry->d_name);
		if (disk_tree_read_dev(path, &part) && used(part, what, who, who_bytes, remedy))
			return 1;
	}
	return 0;
}

static int file_in_use(int fd, const struct stat *st, char *who, size_t who_bytes, const char **remedy)
{
	CLEANUP_DIR DIR *dir = opendir("/sys/block");
	const struct dirent *entry;
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	while (dir && (entry = readdir(dir))) {
		char path[512], backing[PATH_MAX];
		struct stat other;

		if (strncmp(entry->d_name, "loop", 4))
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", entry->d_name);
		CLEANUP_FILE FILE *file = fopen(path, "re");

		if (!file || !fgets(backing, sizeof(backing), file))
			continue;
		backing[strcspn(backing, "\n")] = 0;
		if (!stat(backing, &other) && other.st_dev == st->st_dev && other.st_ino == st->st_ino) {
			snprintf(who, who_bytes, "it is attached to the loop device /dev/%s", entry->d_name);
			*remedy = "detach it (losetup -d), or name the loop device itself as the target";
			return 1;
		}
	}
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return -errno;
		snprintf(who, who_bytes, "another process has locked it");
		*remedy = "find it with lsof or fuser and end it, or name another target";
		return 1;
	}
	/* What virtual machine monitors take. */
	if (fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK) {
		snprintf(who, who_bytes, "another process has locked it (a running virtual machine?)");
		*remedy = "shut down the virtual machine that uses it, or name another target";
		return 1;
	}
	return 0;
}

int target_in_use(int fd, const struct stat *st, char *who, size_t who_bytes, const char **remedy)
{
	return S_ISBLK(st->st_mode) ? block_in_use(st->st_rdev, who, who_bytes, remedy) :
				      file_in_use(fd, st, who, who_bytes, remedy);
}

bool target_shares_disk(dev_t dev, const char *path)
{
	struct stat st;

	return !stat(path, &st) && disk_tree_shares_disk(dev, st.st_dev);
}
