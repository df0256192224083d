// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tracker_file: a test double for the kernel module, in the testing build only. A directory
 * holds for each disk (named by the last part of its path)
 *
 *	NAME.state	"id size granule epoch committed"
 *	NAME.dirty	lines "offset length": changed, not cut
 *	NAME.open	the same of the open epoch; exists exactly while one is open
 *
 * cut renames dirty to open, commit unlinks open (what lies outside the range goes back),
 * abort appends it to dirty. Whoever writes to a disk in a test appends to NAME.dirty
 * under flock(DIR/lock), before it writes the disk. Regular files may stand in for disks.
 *
 * A consistent cut copies what is dirty to NAME.image, a sparse file that is the image device of
 * this double; what is released of it is overwritten with 0xdb, so that reading it afterwards shows. A
 * writer that holds the lock while it marks and writes is wholly before a cut or wholly after it.
 * Test knobs, files in DIR: "degraded" consistent cuts are refused; "downgrade" the open
 * consistent epoch becomes fuzzy when the state is next asked for, for the reason that stands in the file;
 * "tiny-budget" the same, once the image is opened, and its reads fail; "die" the agent is killed at the step that
 * stands in the file: cut, cut-done, extents, image, release, get (of the open epoch), commit, commit-first (one disk of
 * several is committed), commit-done, abort; "gone" the disk that stands in the file is.
 */
#ifdef REPROTECT_TESTING

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "tracker.h"
#include "util.h"

#define FILE_DISKS_MAX 64

struct file_disk {
	dev_t dev;
	char name[32];
	char path[256];
	uint64_t id, size_bytes, epoch, committed;
	uint32_t granule_bytes;
	uint32_t mode;
	uint64_t budget_bytes, downgrades;
	char reason[160];
};

struct tracker {
	char *directory;
	int lock;
	struct file_disk disks[FILE_DISKS_MAX];
	size_t count;
	char error[256];
};

struct tracker_image {
	struct tracker *tracker;
	int fd;
};

struct tracker_extents {
	struct blkcbt_extent *list;
	size_t count, next;
};

static void file_path(const struct tracker *tracker, const char *name, const char *suffix,
		      char out[PATH_MAX])
{
	snprintf(out, PATH_MAX, "%s/%s.%s", tracker->directory, name, suffix);
}

static int file_fail(struct tracker *tracker, int rc, const char *text)
{
	snprintf(tracker->error, sizeof(tracker->error), "test tracker: %s", text);
	return rc;
}

static struct file_disk *file_find(struct tracker *tracker, dev_t dev)
{
	for (size_t i = 0; i < tracker->count; i++)
		if (tracker->disks[i].dev == dev)
			return &tracker->disks[i];
	return NULL;
}

static int file_save(struct tracker *tracker, const struct file_disk *disk)
{
	char path[PATH_MAX], text[256];
	int length;

	file_path(tracker, disk->name, "state", path);
	length = snprintf(text, sizeof(text),
			  "%" PRIu64 " %" PRIu64 " %u %" PRIu64 " %" PRIu64 "\n", disk->id,
			  disk->size_bytes, disk->granule_bytes, disk->epoch, disk->committed);
	return util_write_file(path, text, (size_t)length);
}

static int extent_compare(const void *a, const void *b)
{
	const struct blkcbt_extent *x = a, *y = b;

	return x->offset_bytes < y->offset_bytes ? -1 : x->offset_bytes > y->offset_bytes;
}

/* The extents in a file: granule aligned, sorted, merged, inside the disk. */
static int file_extents(struct tracker *tracker, const struct file_disk *disk, const char *suffix,
			struct blkcbt_extent **out, size_t *out_count)
{
	char path[PATH_MAX];
	struct blkcbt_extent *list = NULL;
	size_t count = 0, room = 0, merged = 0;
	uint64_t offset, length, granule = disk->granule_bytes;

	file_path(tracker, disk->name, suffix, path);
	CLEANUP_FILE FILE *file = fopen(path, "re");
	*out = NULL;
	*out_count = 0;
	if (!file)
		return errno == ENOENT ? 0 : -errno;
	while (fscanf(file, "%" SCNu64 " %" SCNu64, &offset, &length) == 2) {
		uint64_t end = offset + length;

		if (offset >= disk->size_bytes || !length)
			continue;
		offset = offset / granule * granule;
		end = (end + granule - 1) / granule * granule;
		if (end > disk->size_bytes)
			end = disk->size_bytes;
		if (count == room) {
			struct blkcbt_extent *more;

			room = room ? room * 2 : 256;
			more = realloc(list, room * sizeof(*list));
			if (!more) {
				free(list);
				return -ENOMEM;
			}
			list = more;
		}
		list[count].offset_bytes = offset;
		list[count++].length_bytes = end - offset;
	}
	if (count)
		qsort(list, count, sizeof(*list), extent_compare);
	for (size_t i = 0; i < count; i++) {
		uint64_t end = list[i].offset_bytes + list[i].length_bytes;

		if (merged && list[i].offset_bytes <=
				      list[merged - 1].offset_bytes + list[merged - 1].length_bytes) {
			struct blkcbt_extent *last = &list[merged - 1];

			if (end > last->offset_bytes + last->length_bytes)
				last->length_bytes = end - last->offset_bytes;
		} else {
			list[merged++] = list[i];
		}
	}
	*out = list;
	*out_count = merged;
	return 0;
}

static uint64_t file_bytes(struct tracker *tracker, const struct file_disk *disk, const char *suffix)
{
	CLEANUP_FREE struct blkcbt_extent *list = NULL;
	size_t count = 0;
	uint64_t bytes = 0;

	if (file_extents(tracker, disk, suffix, &list, &count) < 0)
		return disk->size_bytes;
	for (size_t i = 0; i < count; i++)
		bytes += list[i].length_bytes;
	return bytes;
}

static int file_append(struct tracker *tracker, const char *name, const struct blkcbt_extent *list,
		       size_t count)
{
	char path[PATH_MAX];

	file_path(tracker, name, "dirty", path);
	CLEANUP_FILE FILE *file = fopen(path, "ae");
	if (!file)
		return -errno;
	for (size_t i = 0; i < count; i++)
		if (list[i].length_bytes)
			fprintf(file, "%" PRIu64 " %" PRIu64 "\n", (uint64_t)list[i].offset_bytes,
				(uint64_t)list[i].length_bytes);
	return fflush(file) ? -errno : 0;
}

static bool file_open_epoch(struct tracker *tracker, const struct file_disk *disk)
{
	char path[PATH_MAX];

	file_path(tracker, disk->name, "open", path);
	return access(path, F_OK) == 0;
}

static void file_unlock(struct tracker **tracker)
{
	flock((*tracker)->lock, LOCK_UN);
}

#define FILE_LOCKED(tracker)                                                                       \
	__attribute__((cleanup(file_unlock), unused)) struct tracker *locked = (tracker);          \
	flock((tracker)->lock, LOCK_EX)

static void file_close(struct tracker *tracker)
{
	if (!tracker)
		return;
	if (tracker->lock >= 0)
		close(tracker->lock);
	free(tracker->directory);
	free(tracker);
}

static int file_open(const char *argument, struct tracker **out, char *error, size_t error_bytes)
{
	struct tracker *tracker = calloc(1, sizeof(*tracker));
	char path[PATH_MAX];

	if (!tracker)
		return -ENOMEM;
	tracker->lock = -1;
	tracker->directory = strdup(argument);
	snprintf(path, sizeof(path), "%s/lock", argument);
	tracker->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (!tracker->directory || tracker->lock < 0) {
		int rc = -errno;

		snprintf(error, error_bytes, "test tracker: %s: %s", path, strerror(-rc));
		file_close(tracker);
		return rc;
	}
	*out = tracker;
	return 0;
}

static const char *file_error(const struct tracker *tracker)
{
	return tracker->error;
}

/* Whether the knob is set; what stands in it into @out. */
static bool file_knob(struct tracker *tracker, const char *name, char *out, size_t out_bytes)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", tracker->directory, name);
	CLEANUP_FILE FILE *file = fopen(path, "re");
	if (!file)
		return false;
	if (out && !fgets(out, (int)out_bytes, file))
		snprintf(out, out_bytes, "the test says so");
	if (out)
		out[strcspn(out, "\n")] = '\0';
	return true;
}

static void file_die(struct tracker *tracker, const char *step)
{
	char at[32];

	if (file_knob(tracker, "die", at, sizeof(at)) && !strcmp(at, step))
		kill(getpid(), SIGKILL);
}

static bool file_gone(struct tracker *tracker, const char *name)
{
	char gone[32];

	return file_knob(tracker, "gone", gone, sizeof(gone)) && !strcmp(gone, name);
}

static int file_info(struct tracker *tracker, struct cbt_info *info)
{
	memset(info, 0, sizeof(*info));
	if (file_knob(tracker, "degraded", NULL, 0)) {
		info->gate_mode = BLKCBT_GATE_AUDIT_ONLY;
		snprintf(info->gate_reason, sizeof(info->gate_reason), "the test says so");
	}
	snprintf(info->version, sizeof(info->version), "test");
	info->holds = (struct blkcbt_holds){ .count = 3, .total_ns = 70000, .max_ns = 40000 };
	info->holds.bucket[13] = 2;
	info->holds.bucket[15] = 1;
	return 0;
}

static int file_resolve(struct tracker *tracker, const char *path, dev_t *dev)
{
	struct stat st;

	(void)tracker;
	if (stat(path, &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode))
		*dev = st.st_rdev;
	else if (S_ISREG(st.st_mode))
		*dev = makedev(4095, (unsigned)(st.st_ino & 0xfffff));
	else
		return -ENOTBLK;
	return 0;
}

/* The cut of the open epoch is not exact any more, on all disks. */
static void file_downgrade(struct tracker *tracker, const char *reason)
{
	for (size_t i = 0; i < tracker->count; i++) {
		struct file_disk *disk = &tracker->disks[i];

		if (disk->mode == BLKCBT_MODE_FUZZY)
			continue;
		disk->mode = BLKCBT_MODE_FUZZY;
		disk->downgrades++;
		if (reason != disk->reason)
			snprintf(disk->reason, sizeof(disk->reason), "%s", reason);
	}
}

static int file_get(struct tracker *tracker, dev_t dev, struct cbt_disk *out)
{
	struct file_disk *disk = file_find(tracker, dev);

	if (!disk)
		return file_fail(tracker, -ENOENT, "not tracked");
	if (file_gone(tracker, disk->name)) {
		*disk = tracker->disks[--tracker->count];
		return file_fail(tracker, -ENODEV, "gone");
	}
	FILE_LOCKED(tracker);
	memset(out, 0, sizeof(*out));
	out->dev = dev;
	snprintf(out->name, sizeof(out->name), "%s", disk->name);
	out->id = disk->id;
	out->size_bytes = disk->size_bytes;
	out->store_risk_bytes = disk->size_bytes;
	out->granule_bytes = disk->granule_bytes;
	out->epoch = disk->epoch;
	out->epoch_committed = disk->committed;
	out->flags = disk->committed ? 0 : BLKCBT_DISK_F_UNSYNCED;
	out->epoch_state = file_open_epoch(tracker, disk) ? BLKCBT_EPOCH_OPEN : BLKCBT_EPOCH_NONE;
	if (out->epoch_state == BLKCBT_EPOCH_OPEN)
		file_die(tracker, "get");
	if (out->epoch_state == BLKCBT_EPOCH_OPEN && disk->mode != BLKCBT_MODE_FUZZY &&
	    file_knob(tracker, "downgrade", disk->reason, sizeof(disk->reason)))
		file_downgrade(tracker, disk->reason);
	out->epoch_mode = out->epoch_state == BLKCBT_EPOCH_OPEN ? disk->mode : BLKCBT_MODE_FUZZY;
	out->budget_bytes = disk->budget_bytes;
	out->downgrades = disk->downgrades;
	snprintf(out->downgrade_reason, sizeof(out->downgrade_reason), "%s", disk->reason);
	out->dirty_bytes = file_bytes(tracker, disk, "dirty");
	out->open_bytes = file_bytes(tracker, disk, "open");
	return 0;
}

/* Its dirty extents outlive the agent as the module does; there is no restart of a machine here. */
static int file_store_format(struct tracker *tracker, dev_t dev, const struct cbt_store *store,
			     uint32_t granule_bytes)
{
	(void)dev;
	(void)store;
	(void)granule_bytes;
	return file_fail(tracker, -EOPNOTSUPP, "this tracker has no stores");
}

static int file_store_add(struct tracker *tracker, dev_t dev, const struct cbt_store *store, struct cbt_disk *out)
{
	(void)out;
	return file_store_format(tracker, dev, store, 0);
}

static int file_store_drop(struct tracker *tracker, dev_t dev)
{
	return file_store_format(tracker, dev, NULL, 0);
}

static int file_attach(struct tracker *tracker, const char *path, dev_t dev, uint32_t granule_bytes,
		       const struct cbt_store *store, struct cbt_disk *out)
{
	(void)store;
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	struct file_disk *disk = file_find(tracker, dev);
	char state[PATH_MAX];
	bool fresh = true;

	if (disk)
		return file_fail(tracker, -EEXIST, "already tracked");
	if (file_gone(tracker, base))
		return file_fail(tracker, -ENODEV, "gone");
	if (tracker->count == FILE_DISKS_MAX)
		return file_fail(tracker, -ENOSPC, "too many disks");
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return file_fail(tracker, -errno, "cannot open the disk");
	disk = &tracker->disks[tracker->count];
	memset(disk, 0, sizeof(*disk));
	disk->dev = dev;
	snprintf(disk->name, sizeof(disk->name), "%.31s", base);
	snprintf(disk->path, sizeof(disk->path), "%s", path);
	file_path(tracker, disk->name, "state", state);
	FILE *file = fopen(state, "re");
	if (file) {
		fresh = fscanf(file, "%" SCNu64 " %" SCNu64 " %" SCNu32 " %" SCNu64 " %" SCNu64,
			       &disk->id, &disk->size_bytes, &disk->granule_bytes, &disk->epoch,
			       &disk->committed) != 5;
		fclose(file);
	}
	tracker->count++;
	if (fresh) {
		struct blkcbt_extent all = { 0 };
		int rc;

		disk->id = util_random();
		disk->granule_bytes = granule_bytes ? granule_bytes : BLKCBT_GRANULE_DEFAULT;
		disk->epoch = disk->committed = 0;
		rc = util_device_bytes(fd, &disk->size_bytes);
		if (!rc)
			rc = file_save(tracker, disk);
		all.length_bytes = disk->size_bytes;
		if (!rc)
			rc = file_append(tracker, disk->name, &all, 1);
		if (rc) {
			tracker->count--;
			return file_fail(tracker, rc, "cannot attach");
		}
	}
	return file_get(tracker, dev, out);
}

static int file_detach(struct tracker *tracker, dev_t dev, bool force)
{
	static const char *const suffixes[] = { "dirty", "open", "state", "image" };
	struct file_disk *disk = file_find(tracker, dev);
	char path[PATH_MAX];

	if (!disk)
		return file_fail(tracker, -ENOENT, "not tracked");
	FILE_LOCKED(tracker);
	if (!force && file_open_epoch(tracker, disk))
		return file_fail(tracker, -EBUSY, "an epoch is open");
	for (size_t i = 0; i < ARRAY_LENGTH(suffixes); i++) {
		file_path(tracker, disk->name, suffixes[i], path);
		unlink(path);
	}
	*disk = tracker->disks[--tracker->count];
	return 0;
}

/* What is dirty, or all of the disk, into its image. */
static int file_copy(struct tracker *tracker, const struct file_disk *disk, bool all)
{
	CLEANUP_FREE struct blkcbt_extent *list = NULL;
	struct blkcbt_extent whole = { .length_bytes = disk->size_bytes };
	char path[PATH_MAX];
	CLEANUP_FREE char *buffer = aligned_alloc(4096, MIB);
	size_t count = 0;
	int rc = file_extents(tracker, disk, "open", &list, &count);

	file_path(tracker, disk->name, "image", path);
	CLEANUP_FD int to = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CLEANUP_FD int from = open(disk->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (from < 0)
		from = open(disk->path, O_RDONLY | O_CLOEXEC);
	if (rc || !buffer || to < 0 || from < 0 || ftruncate(to, (off_t)disk->size_bytes) < 0)
		return rc ? rc : -EIO;
	for (size_t i = 0; i < (all ? 1 : count); i++) {
		const struct blkcbt_extent *e = all ? &whole : &list[i];

		for (uint64_t at = 0; at < e->length_bytes;) {
			uint64_t left = e->length_bytes - at;
			ssize_t n = pread(from, buffer, left < MIB ? left : MIB,
					  (off_t)(e->offset_bytes + at));

			if (n <= 0 || pwrite(to, buffer, (size_t)n, (off_t)(e->offset_bytes + at)) != n)
				return -EIO;
			at += (uint64_t)n;
		}
	}
	return 0;
}

static int file_cut(struct tracker *tracker, struct cbt_cut *cut, const dev_t *devs, size_t count)
{
	uint64_t epoch = cut->epoch;

	if (cut->mode != BLKCBT_MODE_FUZZY && file_knob(tracker, "degraded", NULL, 0))
		return file_fail(tracker, -EOPNOTSUPP, "there is no gate");
	file_die(tracker, "cut");
	FILE_LOCKED(tracker);
	for (size_t i = 0; i < count; i++) {
		struct file_disk *disk = file_find(tracker, devs[i]);

		if (!disk)
			return file_fail(tracker, -ENOENT, "not tracked");
		if (file_open_epoch(tracker, disk))
			return file_fail(tracker, -EBUSY, "an epoch is open");
		if (epoch <= disk->epoch)
			return file_fail(tracker, -EINVAL, "epoch number is not above the last");
	}
	for (size_t i = 0; i < count; i++) {
		struct file_disk *disk = file_find(tracker, devs[i]);
		char dirty[PATH_MAX], open_path[PATH_MAX];

		disk->epoch = epoch;
		file_save(tracker, disk);
		file_append(tracker, disk->name, NULL, 0);
		file_path(tracker, disk->name, "dirty", dirty);
		file_path(tracker, disk->name, "open", open_path);
		if (rename(dirty, open_path) < 0)
			return file_fail(tracker, -errno, "cannot rename the dirty list");
		disk->mode = cut->mode;
		disk->budget_bytes = cut->budget_bytes;
		if (cut->mode != BLKCBT_MODE_FUZZY &&
		    file_copy(tracker, disk, cut->mode == BLKCBT_MODE_SNAPSHOT))
			return file_fail(tracker, -EIO, "cannot copy to the image");
	}
	cut->cut_ns = util_now_ns();
	cut->hold_ns = 12345;
	file_die(tracker, "cut-done");
	return 0;
}

/* Put back of the open epoch what lies outside [from, to). */
static int file_close_epoch(struct tracker *tracker, struct file_disk *disk, uint64_t from,
			    uint64_t to)
{
	CLEANUP_FREE struct blkcbt_extent *list = NULL;
	size_t count = 0;
	char path[PATH_MAX];
	int rc = file_extents(tracker, disk, "open", &list, &count);

	for (size_t i = 0; !rc && i < count; i++) {
		uint64_t start = list[i].offset_bytes, end = start + list[i].length_bytes;
		struct blkcbt_extent back[2] = { 0 };

		if (end <= from || start >= to || from >= to) {
			back[0] = list[i];
		} else {
			if (start < from) {
				back[0].offset_bytes = start;
				back[0].length_bytes = from - start;
			}
			if (end > to) {
				back[1].offset_bytes = to;
				back[1].length_bytes = end - to;
			}
		}
		rc = file_append(tracker, disk->name, back, 2);
	}
	if (rc)
		return file_fail(tracker, rc, "cannot put the rest back");
	file_path(tracker, disk->name, "open", path);
	unlink(path);
	return 0;
}

static int file_commit(struct tracker *tracker, uint64_t epoch, const struct cbt_range *ranges,
		       size_t count)
{
	file_die(tracker, "commit");
	FILE_LOCKED(tracker);
	for (size_t i = 0; i < count; i++) {
		struct file_disk *disk = file_find(tracker, ranges[i].dev);
		int rc;

		if (!disk)
			return file_fail(tracker, -ENOENT, "not tracked");
		if (disk->epoch != epoch || !file_open_epoch(tracker, disk))
			return file_fail(tracker, -ESRCH, "not the open epoch");
		rc = file_close_epoch(tracker, disk, ranges[i].from_bytes,
				      ranges[i].to_bytes ? ranges[i].to_bytes : UINT64_MAX);
		if (rc)
			return rc;
		disk->committed = epoch;
		file_save(tracker, disk);
		if (i + 1 < count)
			file_die(tracker, "commit-first");
	}
	file_die(tracker, "commit-done");
	return 0;
}

static int file_abort(struct tracker *tracker, uint64_t epoch, const dev_t *devs, size_t count)
{
	file_die(tracker, "abort");
	FILE_LOCKED(tracker);
	for (size_t i = 0; i < count; i++) {
		struct file_disk *disk = file_find(tracker, devs[i]);
		int rc;

		if (!disk)
			return file_fail(tracker, -ENOENT, "not tracked");
		if (disk->epoch != epoch || !file_open_epoch(tracker, disk))
			return file_fail(tracker, -ESRCH, "not the open epoch");
		rc = file_close_epoch(tracker, disk, 0, 0);
		if (rc)
			return rc;
	}
	return 0;
}

static int file_mark(struct tracker *tracker, const struct cbt_range *range)
{
	struct file_disk *disk = file_find(tracker, range->dev);
	struct blkcbt_extent extent;

	if (!disk)
		return file_fail(tracker, -ENOENT, "not tracked");
	FILE_LOCKED(tracker);
	extent.offset_bytes = range->from_bytes;
	extent.length_bytes = (range->to_bytes ? range->to_bytes : disk->size_bytes) -
			      range->from_bytes;
	return file_append(tracker, disk->name, &extent, 1);
}

static int file_extents_open(struct tracker *tracker, const struct cbt_disk *info,
			     uint64_t from_bytes, struct tracker_extents **out)
{
	struct file_disk *disk = file_find(tracker, info->dev);
	struct tracker_extents *extents;
	size_t i;
	int rc;

	if (!disk)
		return file_fail(tracker, -ENODEV, "not tracked");
	file_die(tracker, "extents");
	extents = calloc(1, sizeof(*extents));
	if (!extents)
		return -ENOMEM;
	rc = file_extents(tracker, disk, "open", &extents->list, &extents->count);
	if (rc) {
		free(extents);
		return rc;
	}
	for (i = 0; i < extents->count; i++) {
		struct blkcbt_extent *e = &extents->list[i];
		uint64_t end = e->offset_bytes + e->length_bytes;

		if (end <= from_bytes)
			continue;
		if (e->offset_bytes < from_bytes) {
			e->offset_bytes = from_bytes;
			e->length_bytes = end - from_bytes;
		}
		break;
	}
	extents->next = i;
	*out = extents;
	return 0;
}

static int file_extents_read(struct tracker_extents *extents, struct blkcbt_extent *out, size_t max)
{
	size_t count = 0;

	while (count < max && extents->next < extents->count)
		out[count++] = extents->list[extents->next++];
	return (int)count;
}

static void file_extents_close(struct tracker_extents *extents)
{
	free(extents->list);
	free(extents);
}

static void file_image_path(struct tracker *tracker, const struct cbt_disk *disk, char *out,
			    size_t out_bytes)
{
	snprintf(out, out_bytes, "%s/%s.image", tracker->directory, disk->name);
}

static int file_image_open(struct tracker *tracker, const struct cbt_disk *info,
			   struct tracker_image **out)
{
	bool tiny = file_knob(tracker, "tiny-budget", NULL, 0);
	struct tracker_image *image = malloc(sizeof(*image));
	char path[PATH_MAX];
	int rc;

	if (!image)
		return -ENOMEM;
	file_die(tracker, "image");
	image->tracker = tracker;
	file_image_path(tracker, info, path, sizeof(path));
	if (tiny)
		file_downgrade(tracker, "budget exhausted, the test says");
	/* Write-only: its reads fail, as those of the image of an epoch that was downgraded. */
	image->fd = open(path, (tiny ? O_WRONLY : O_RDWR) | O_CLOEXEC);
	if (image->fd < 0) {
		rc = -errno;
		free(image);
		return rc;
	}
	*out = image;
	return 0;
}

static int file_image_fd(const struct tracker_image *image)
{
	return image->fd;
}

static int file_image_release(struct tracker_image *image, const struct blkcbt_extent *extents,
			      size_t count)
{
	static char junk[65536];

	file_die(image->tracker, "release");
	memset(junk, 0xdb, sizeof(junk));
	for (size_t i = 0; i < count; i++)
		for (uint64_t at = 0; at < extents[i].length_bytes; at += sizeof(junk)) {
			uint64_t left = extents[i].length_bytes - at;

			if (pwrite(image->fd, junk, left < sizeof(junk) ? left : sizeof(junk),
				   (off_t)(extents[i].offset_bytes + at)) < 0)
				return -errno;
		}
	return 0;
}

static void file_image_close(struct tracker_image *image)
{
	if (!image)
		return;
	close(image->fd);
	free(image);
}

static int file_events_fd(const struct tracker *tracker)
{
	(void)tracker;
	return -1;
}

static int file_events_read(struct tracker *tracker,
			    void (*event)(uint32_t what, const struct cbt_disk *disk, void *user),
			    void *user)
{
	(void)tracker;
	(void)event;
	(void)user;
	return 0;
}

const struct tracker_ops tracker_file_ops = {
	.name = "test files",
	.open = file_open,
	.close = file_close,
	.error = file_error,
	.info = file_info,
	.resolve = file_resolve,
	.attach = file_attach,
	.store_format = file_store_format,
	.store_add = file_store_add,
	.store_drop = file_store_drop,
	.detach = file_detach,
	.get = file_get,
	.cut = file_cut,
	.commit = file_commit,
	.abort = file_abort,
	.mark = file_mark,
	.extents_open = file_extents_open,
	.extents_read = file_extents_read,
	.extents_close = file_extents_close,
	.image_path = file_image_path,
	.image_open = file_image_open,
	.image_fd = file_image_fd,
	.image_release = file_image_release,
	.image_close = file_image_close,
	.events_fd = file_events_fd,
	.events_read = file_events_read,
};

#else
typedef int tracker_file_is_for_tests_only;
#endif
