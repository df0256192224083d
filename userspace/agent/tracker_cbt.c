// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tracker_cbt: the tracker of the product, the kernel module blkcbt through common/cbt.h.
 * Called by the agent through tracker_ops. Adds nothing but the reading of the character
 * device and the subscription to events.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tracker.h"
#include "util.h"

struct tracker {
	struct cbt *cbt;
	struct cbt *events; /* NULL: no events, the agent polls anyway */
};

struct tracker_extents {
	int fd;
};

struct tracker_image {
	int fd, extents_fd;
};

static void cbt_tracker_close(struct tracker *tracker)
{
	if (!tracker)
		return;
	if (tracker->events)
		cbt_close(tracker->events);
	if (tracker->cbt)
		cbt_close(tracker->cbt);
	free(tracker);
}

static int cbt_tracker_open(const char *argument, struct tracker **out, char *error,
			    size_t error_bytes)
{
	struct tracker *tracker;
	int rc;

	rc = cbt_load(argument, error, error_bytes);
	if (rc < 0)
		return rc;
	tracker = calloc(1, sizeof(*tracker));
	if (!tracker) {
		snprintf(error, error_bytes, "out of memory");
		return -ENOMEM;
	}
	rc = cbt_open(&tracker->cbt);
	if (rc < 0) {
		snprintf(error, error_bytes,
			 "module blkcbt is loaded but its netlink family does not answer: %s",
			 strerror(-rc));
		cbt_tracker_close(tracker);
		return rc;
	}
	rc = cbt_events_open(&tracker->events);
	if (rc < 0)
		tracker->events = NULL;
	*out = tracker;
	return 0;
}

static const char *cbt_tracker_error(const struct tracker *tracker)
{
	const char *text = cbt_error(tracker->cbt);

	return text ? text : "";
}

static int cbt_tracker_info(struct tracker *tracker, struct cbt_info *info)
{
	return cbt_get_info(tracker->cbt, info);
}

static int cbt_tracker_resolve(struct tracker *tracker, const char *path, dev_t *dev)
{
	struct stat st;

	(void)tracker;
	if (stat(path, &st) < 0)
		return -errno;
	if (!S_ISBLK(st.st_mode))
		return -ENOTBLK;
	*dev = st.st_rdev;
	return 0;
}

static int cbt_tracker_attach(struct tracker *tracker, const char *path, dev_t dev,
			      uint32_t granule_bytes, const struct cbt_store *store, struct cbt_disk *disk)
{
	(void)path;
	return cbt_attach(tracker->cbt, dev, granule_bytes, store, disk);
}

static int cbt_tracker_store_format(struct tracker *tracker, dev_t dev, const struct cbt_store *store,
				    uint32_t granule_bytes)
{
	return cbt_store_format(tracker->cbt, dev, store, granule_bytes);
}

static int cbt_tracker_store_add(struct tracker *tracker, dev_t dev, const struct cbt_store *store,
				 struct cbt_disk *disk)
{
	return cbt_store_add(tracker->cbt, dev, store, disk);
}

static int cbt_tracker_store_drop(struct tracker *tracker, dev_t dev)
{
	return cbt_store_drop(tracker->cbt, dev);
}

static int cbt_tracker_detach(struct tracker *tracker, dev_t dev, bool force)
{
	return cbt_detach(tracker->cbt, dev, force);
}

static int cbt_tracker_get(struct tracker *tracker, dev_t dev, struct cbt_disk *disk)
{
	return cbt_get(tracker->cbt, dev, disk);
}

static int cbt_tracker_cut(struct tracker *tracker, struct cbt_cut *cut, const dev_t *devs,
			   size_t count)
{
	return cbt_cut(tracker->cbt, cut, devs, count);
}

static int cbt_tracker_commit(struct tracker *tracker, uint64_t epoch,
			      const struct cbt_range *ranges, size_t count)
{
	return cbt_commit(tracker->cbt, epoch, ranges, count);
}

static int cbt_tracker_abort(struct tracker *tracker, uint64_t epoch, const dev_t *devs,
			     size_t count)
{
	return cbt_abort(tracker->cbt, epoch, devs, count);
}

static int cbt_tracker_mark(struct tracker *tracker, const struct cbt_range *range)
{
	return cbt_mark(tracker->cbt, range);
}

static int cbt_tracker_extents_open(struct tracker *tracker, const struct cbt_disk *disk,
				    uint64_t from_bytes, struct tracker_extents **out)
{
	struct tracker_extents *extents;
	int fd;

	(void)tracker;
	fd = cbt_extents_open(disk);
	if (fd < 0)
		return fd;
	if (lseek(fd, (off_t)from_bytes, SEEK_SET) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	extents = malloc(sizeof(*extents));
	if (!extents) {
		close(fd);
		return -ENOMEM;
	}
	extents->fd = fd;
	*out = extents;
	return 0;
}

static int cbt_tracker_extents_read(struct tracker_extents *extents, struct blkcbt_extent *out,
				    size_t max)
{
	ssize_t bytes;

	do {
		bytes = read(extents->fd, out, max * sizeof(*out));
	} while (bytes < 0 && errno == EINTR);
	if (bytes < 0)
		return -errno;
	if ((size_t)bytes % sizeof(*out))
		return -EPROTO;
	return (int)((size_t)bytes / sizeof(*out));
}

static void cbt_tracker_extents_close(struct tracker_extents *extents)
{
	close(extents->fd);
	free(extents);
}

static void cbt_tracker_image_path(struct tracker *tracker, const struct cbt_disk *disk, char *out,
				   size_t out_bytes)
{
	(void)tracker;
	cbt_image_path(disk, out, out_bytes);
}

static void cbt_tracker_image_close(struct tracker_image *image)
{
	if (!image)
		return;
	if (image->fd >= 0)
		close(image->fd);
	if (image->extents_fd >= 0)
		close(image->extents_fd);
	free(image);
}

static int cbt_tracker_image_open(struct tracker *tracker, const struct cbt_disk *disk,
				  struct tracker_image **out)
{
	struct tracker_image *image = malloc(sizeof(*image));
	int rc;

	(void)tracker;
	if (!image)
		return -ENOMEM;
	image->extents_fd = cbt_extents_open(disk);
	image->fd = image->extents_fd < 0 ? image->extents_fd : cbt_image_open(disk);
	if (image->fd < 0) {
		rc = image->fd;
		cbt_tracker_image_close(image);
		return rc;
	}
	*out = image;
	return 0;
}

static int cbt_tracker_image_fd(const struct tracker_image *image)
{
	return image->fd;
}

static int cbt_tracker_image_release(struct tracker_image *image,
				     const struct blkcbt_extent *extents, size_t count)
{
	return cbt_extents_release(image->extents_fd, extents, count);
}

static int cbt_tracker_events_fd(const struct tracker *tracker)
{
	return tracker->events ? cbt_events_fd(tracker->events) : -1;
}

static int cbt_tracker_events_read(struct tracker *tracker,
				   void (*event)(uint32_t what, const struct cbt_disk *disk,
						 void *user),
				   void *user)
{
	return cbt_events_read(tracker->events, event, user);
}

const struct tracker_ops tracker_cbt_ops = {
	.name = "blkcbt",
	.open = cbt_tracker_open,
	.close = cbt_tracker_close,
	.error = cbt_tracker_error,
	.info = cbt_tracker_info,
	.resolve = cbt_tracker_resolve,
	.attach = cbt_tracker_attach,
	.store_format = cbt_tracker_store_format,
	.store_add = cbt_tracker_store_add,
	.store_drop = cbt_tracker_store_drop,
	.detach = cbt_tracker_detach,
	.get = cbt_tracker_get,
	.cut = cbt_tracker_cut,
	.commit = cbt_tracker_commit,
	.abort = cbt_tracker_abort,
	.mark = cbt_tracker_mark,
	.extents_open = cbt_tracker_extents_open,
	.extents_read = cbt_tracker_extents_read,
	.extents_close = cbt_tracker_extents_close,
	.image_path = cbt_tracker_image_path,
	.image_open = cbt_tracker_image_open,
	.image_fd = cbt_tracker_image_fd,
	.image_release = cbt_tracker_image_release,
	.image_close = cbt_tracker_image_close,
	.events_fd = cbt_tracker_events_fd,
	.events_read = cbt_tracker_events_read,
};
