// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * retention_look: gathers what is to be known about a retention volume; see retention_volume.h.
 *
 * Where something lies is told by /proc/self/mountinfo, not by st_dev: subvolumes of btrfs each have their own st_dev,
 * and are one file system.
 */
#include "retention_volume.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include "disk_tree.h"
#include "util.h"

#define TRY_BYTES (1024u * 1024u) /* allocated by the attempt to write */

/**
 * struct place - the file system that something lies on
 * @dev: tells it from others
 * @device: block device that it is on, or the same as @dev
 */
struct place {
	dev_t dev, device;
	char type[32];
};

static bool mount_id(int fd, unsigned *id)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	CLEANUP_FILE FILE *file = fopen(path, "re");
	CLEANUP_FREE char *line = NULL;
	size_t size = 0;

	while (file && getline(&line, &size, file) > 0)
		if (sscanf(line, "mnt_id: %u", id) == 1)
			return true;
	return false;
}

/* One line of mountinfo, when it is that of mount @id. */
static bool parse_mount(char *line, unsigned id, struct place *place)
{
	char *rest = strstr(line, " - "), source[4096];
	unsigned this_id, ma, mi;
	struct stat st;

	if (!rest || sscanf(line, "%u %*u %u:%u", &this_id, &ma, &mi) != 3 || this_id != id ||
	    sscanf(rest, " - %31s %4095s", place->type, source) != 2)
		return false;
	place->dev = place->device = makedev(ma, mi);
	if (source[0] == '/' && !stat(source, &st) && S_ISBLK(st.st_mode))
		place->device = st.st_rdev;
	return true;
}

static bool place_of_fd(int fd, struct place *place)
{
	CLEANUP_FILE FILE *file = fopen("/proc/self/mountinfo", "re");
	CLEANUP_FREE char *line = NULL;
	size_t size = 0;
	unsigned id;

	memset(place, 0, sizeof(*place));
	if (!file || !mount_id(fd, &id))
		return false;
	while (getline(&line, &size, file) > 0)
		if (parse_mount(line, id, place))
			return true;
	return false;
}

/* Of a file, a directory, or what will be there: then of the directory in which it would be made. */
static bool place_of(const char *path, struct place *place)
{
	char at[4096], *slash;

	snprintf(at, sizeof(at), "%s", path);
	for (;;) {
		CLEANUP_FD int fd = open(at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0 && (errno == ENOTDIR || errno == EACCES))
			fd = open(at, O_PATH | O_CLOEXEC);
		if (fd >= 0)
			return place_of_fd(fd, place);
		slash = strrchr(at, '/');
		if (!slash || !at[1])
			return false;
		slash[slash == at] = 0;
	}
}

/* ---- what lies on it ----------------------------------------------------------- */

static bool lies_on(const char *path, const struct place *volume)
{
	struct place place;

	return place_of(path, &place) && place.dev == volume->dev;
}

static bool target_on(const char *path, const struct place *volume, char *text, size_t text_bytes)
{
	char file[4096];
	struct stat st;

	if (stat(path, &st) || !S_ISBLK(st.st_mode)) {
		snprintf(text, text_bytes, "the target image %s", path);
		return lies_on(path, volume);
	}
	if (disk_tree_stands_on(volume->device, st.st_rdev)) {
		snprintf(text, text_bytes, "the target disk %s: it lies on that disk itself", path);
		return true;
	}
	snprintf(text, text_bytes, "the file of the target disk %s", path);
	return disk_tree_backing_file(st.st_rdev, file, sizeof(file)) && lies_on(file, volume);
}

static void look_for_contents(const struct retention_others *others, const struct place *volume,
			      struct retention_facts *facts)
{
	static const char *const installation[] = { "/usr", "/boot", NULL };
	const char *const *path;

	for (path = others ? others->targets : NULL; path && *path; path++)
		if (target_on(*path, volume, facts->holds, sizeof(facts->holds)))
			return;
	facts->holds[0] = 0;
	for (path = others && facts->own_filesystem ? others->directories : NULL; path && *path; path++)
		if (lies_on(*path, volume)) {
			snprintf(facts->holds, sizeof(facts->holds), "the directory %s", *path);
			return;
		}
	for (path = installation; facts->own_filesystem && *path; path++)
		if (lies_on(*path, volume)) {
			snprintf(facts->holds, sizeof(facts->holds), "the installation of this machine (%s)", *path);
			return;
		}
}

/* ---- what can be done with it --------------------------------------------------- */

static int try_file(int fd)
{
	static const char pattern[4096] = "reprotect";
	char back[sizeof(pattern)];
	ssize_t done;

	if (fallocate(fd, 0, 0, TRY_BYTES) < 0)
		return -errno;
	done = pwrite(fd, pattern, sizeof(pattern), TRY_BYTES - sizeof(pattern));
	if (done < 0 || fsync(fd) < 0)
		return -errno;
	if (done != sizeof(pattern))
		return -EIO;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -errno;
	done = pread(fd, back, sizeof(back), TRY_BYTES - sizeof(back));
	if (done < 0)
		return -errno;
	return done == sizeof(back) && !memcmp(back, pattern, sizeof(back)) ? 0 : -EIO;
}

/* The name is gone before anything else is done, so that nothing stays behind, whatever happens. */
static int try_write(const char *path)
{
	CLEANUP_FREE char *name = NULL;
	CLEANUP_FD int fd = -1;

	if (asprintf(&name, "%s/.reprotect-preflight.XXXXXX", path) < 0) {
		name = NULL;
		return -ENOMEM;
	}
	fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0 || unlink(name) < 0)
		return -errno;
	return try_file(fd);
}

static void look_at_lock(const char *path, struct retention_facts *facts)
{
	CLEANUP_FREE char *name = NULL;
	char text[16] = "";

	if (asprintf(&name, "%s/" RETENTION_LOCK, path) < 0) {
		name = NULL;
		return;
	}
	CLEANUP_FD int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	facts->locked = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
	if (facts->locked && pread(fd, text, sizeof(text) - 1, 0) > 0)
		facts->lock_owner = (pid_t)strtol(text, NULL, 10);
}

void retention_volume_look(const char *path, const struct retention_others *others, struct retention_facts *facts)
{
	struct place volume = { .dev = 0 }, root;
	struct statvfs vfs;
	struct stat st;

	memset(facts, 0, sizeof(*facts));
	snprintf(facts->path, sizeof(facts->path), "%s", path);
	if (stat(path, &st) < 0) {
		facts->look_error = errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
		return;
	}
	facts->exists = true;
	facts->directory = S_ISDIR(st.st_mode);
	if (!facts->directory)
		return;
	if (!place_of(path, &volume) || !place_of("/", &root) || statvfs(path, &vfs) < 0) {
		facts->look_error = errno ? -errno : -EIO;
		return;
	}
	snprintf(facts->type, sizeof(facts->type), "%s", volume.type);
	facts->own_filesystem = volume.dev != root.dev;
	facts->read_only = vfs.f_flag & ST_RDONLY;
	facts->bytes_total = (uint64_t)vfs.f_blocks * vfs.f_frsize;
	facts->bytes_free = (uint64_t)vfs.f_bfree * vfs.f_frsize;
	facts->own_lock = others && others->own_lock;
	look_at_lock(path, facts);
	look_for_contents(others, &volume, facts);
	if (!facts->read_only)
		facts->write_error = try_write(path);
}
