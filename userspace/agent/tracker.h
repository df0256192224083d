/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tracker: who remembers which blocks changed, as the agent sees it. The product has one,
 * the kernel module (tracker_cbt.c); the testing build has a second that keeps the
 * dirty extents in files (tracker_file.c), so that everything above this line runs
 * without the module.
 *
 * Calls are synchronous and short. Errors are negative errno, the text is in error().
 * The words are those of uapi/linux/blkcbt.h.
 */
#ifndef REPROTECT_AGENT_TRACKER_H
#define REPROTECT_AGENT_TRACKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cbt.h"

struct tracker;
struct tracker_extents;
struct tracker_image;

/**
 * struct tracker_ops - a kind of tracker
 * @open: @argument: path of the module or NULL (cbt), directory (file). @error gets a text.
 * @resolve: the dev_t under which @path (block device) is known here
 * @store_format, @store_add, @store_drop, @attach, @detach, @get, @cut, @commit, @abort, @mark: as in cbt.h
 * @extents_open: enumerate the open epoch of @disk from byte @from_bytes
 * @extents_read: up to @max records, ascending; 0 at the end
 * @image_path: where the image of @disk is found
 * @image_open: read the open consistent epoch of @disk through its image; ended by image_close
 * @image_fd: descriptor to read from
 * @image_release: @extents were read (whole granules): they need not be kept any more
 * @events_fd: to wait on for events, or -1
 * @events_read: report what came
 */
struct tracker_ops {
	const char *name;
	int (*open)(const char *argument, struct tracker **tracker, char *error, size_t error_bytes);
	void (*close)(struct tracker *tracker);
	const char *(*error)(const struct tracker *tracker);
	int (*info)(struct tracker *tracker, struct cbt_info *info);
	int (*resolve)(struct tracker *tracker, const char *path, dev_t *dev);
	int (*attach)(struct tracker *tracker, const char *path, dev_t dev, uint32_t granule_bytes,
		      const struct cbt_store *store, struct cbt_disk *disk);
	int (*store_format)(struct tracker *tracker, dev_t dev, const struct cbt_store *store, uint32_t granule_bytes);
	int (*store_add)(struct tracker *tracker, dev_t dev, const struct cbt_store *store, struct cbt_disk *disk);
	int (*store_drop)(struct tracker *tracker, dev_t dev);
	int (*detach)(struct tracker *tracker, dev_t dev, bool force);
	int (*get)(struct tracker *tracker, dev_t dev, struct cbt_disk *disk);
	int (*cut)(struct tracker *tracker, struct cbt_cut *cut, const dev_t *devs, size_t count);
	int (*commit)(struct tracker *tracker, uint64_t epoch, const struct cbt_range *ranges,
		      size_t count);
	int (*abort)(struct tracker *tracker, uint64_t epoch, const dev_t *devs, size_t count);
	int (*mark)(struct tracker *tracker, const struct cbt_range *range);
	int (*extents_open)(struct tracker *tracker, const struct cbt_disk *disk,
			    uint64_t from_bytes, struct tracker_extents **extents);
	int (*extents_read)(struct tracker_extents *extents, struct blkcbt_extent *out, size_t max);
	void (*extents_close)(struct tracker_extents *extents);
	void (*image_path)(struct tracker *tracker, const struct cbt_disk *disk, char *out,
			   size_t out_bytes);
	int (*image_open)(struct tracker *tracker, const struct cbt_disk *disk,
			  struct tracker_image **image);
	int (*image_fd)(const struct tracker_image *image);
	int (*image_release)(struct tracker_image *image, const struct blkcbt_extent *extents,
			     size_t count);
	void (*image_close)(struct tracker_image *image);
	int (*events_fd)(const struct tracker *tracker);
	int (*events_read)(struct tracker *tracker,
			   void (*event)(uint32_t what, const struct cbt_disk *disk, void *user),
			   void *user);
};

extern const struct tracker_ops tracker_cbt_ops;
#ifdef REPROTECT_TESTING
extern const struct tracker_ops tracker_file_ops;
#endif

#endif
