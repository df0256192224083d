// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nbdkit-reprotect-plugin: one disk of a machine as it was in a state of its undo log, read-only, over NBD; see
 * nbdkit-reprotect-plugin(1). Started by reprotect points export, which puts nbdkit's cow filter on top where it is
 * to be writable.
 *
 * One view (undo_view.h) for all connections. It is opened before nbdkit goes into the background, so that whoever starts it
 * sees why it cannot be had; the lock that it takes then keeps the state until nbdkit ends. A view is for one
 * thread: a mutex is held for a piece of a request, 1 MiB at most, so that a large request does not keep small ones waiting.
 *
 * A connection has one request at a time: with more of them nbdkit 1.32 is ended by an assertion (raw_send_socket) when
 * a client goes away without a word, and with it all other clients. Who wants more opens more connections (can_multi_conn).
 *
 * The undo log and the target disk are read by the block and past the page cache. What a client asks for need not be aligned:
 * it is widened to blocks and copied out of a buffer.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "undo_view.h"
#include "util.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS
#define PIECE_BYTES MIB
#define SECTOR 512u
#define REQUEST_MAX (32u * 1024 * 1024)

static struct {
	char *log, *target;
	uint64_t state, size_bytes;
	uint32_t disk;
	bool has_state, has_disk, has_size;
} config;

static struct {
	struct undo_view *view; /* under the mutex, like buffer */
	void *buffer;		/* PIECE_BYTES, aligned to a block */
	pthread_mutex_t mutex;
	int target;
	char description[256];
} export = { .mutex = PTHREAD_MUTEX_INITIALIZER, .target = -1 };

static void reprotect_unload(void)
{
	undo_view_close(export.view);
	if (export.target >= 0)
		close(export.target);
	free(export.buffer);
	free(config.log);
	free(config.target);
}

static int take_path(const char *key, const char *value, char **path)
{
	if (*path) {
		nbdkit_error("%s: was given twice", key);
		return -1;
	}
	*path = nbdkit_absolute_path(value); /* it goes to / when it goes into the background */
	return *path ? 0 : -1;
}

static int reprotect_config(const char *key, const char *value)
{
	int64_t size;

	if (!strcmp(key, "log"))
		return take_path(key, value, &config.log);
	if (!strcmp(key, "target"))
		return take_path(key, value, &config.target);
	if (!strcmp(key, "state")) {
		config.has_state = true;
		return nbdkit_parse_uint64_t(key, value, &config.state);
	}
	if (!strcmp(key, "disk")) {
		config.has_disk = true;
		return nbdkit_parse_uint32_t(key, value, &config.disk);
	}
	if (!strcmp(key, "size")) {
		size = nbdkit_parse_size(value);
		if (size < 0)
			return -1;
		if (!size || size % SECTOR) {
			nbdkit_error("size=%s: a disk has a multiple of %u bytes, and not none", value, SECTOR);
			return -1;
		}
		config.has_size = true;
		config.size_bytes = (uint64_t)size;
		return 0;
	}
	nbdkit_error("%s: no such parameter (there are: log, state, disk, size, target)", key);
	return -1;
}

static int reprotect_config_complete(void)
{
	const char *missing = !config.log	  ? "log" :
			      !config.has_state	  ? "state" :
			      !config.has_disk	  ? "disk" :
			      !config.has_size	  ? "size" :
			      !config.target	  ? "target" :
						    NULL;

	if (!missing)
		return 0;
	nbdkit_error("the parameter %s is missing (reprotect points export starts this with all that it needs)", missing);
	return -1;
}

#define reprotect_config_help                                            \
	"log=<DIRECTORY>  (required) The machine's undo log.\n"          \
	"state=<NUMBER>   (required) The state that is shown.\n"         \
	"disk=<NUMBER>    (required) Which disk of the machine.\n"       \
	"size=<BYTES>     (required) Size of the disk in that state.\n"  \
	"target=<DEVICE>  (required) The target disk."

/* Not every file system has O_DIRECT; a target that is a file may lie on one that has not. */
static int open_target(void)
{
	uint64_t bytes;
	int rc;

	export.target = open(config.target, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (export.target < 0 && errno == EINVAL)
		export.target = open(config.target, O_RDONLY | O_CLOEXEC);
	if (export.target < 0) {
		nbdkit_error("disk %" PRIu32 ": target %s: cannot open: %m", config.disk, config.target);
		return -1;
	}
	rc = util_device_bytes(export.target, &bytes);
	if (rc) {
		nbdkit_error("disk %" PRIu32 ": target %s: cannot find its size: %s", config.disk, config.target, strerror(-rc));
		return -1;
	}
	if (bytes < config.size_bytes) {
		nbdkit_error("disk %" PRIu32 ": target %s: has %" PRIu64 " bytes, the disk had %" PRIu64 " in state %" PRIu64
			     " (is it the right one?)",
			     config.disk, config.target, bytes, config.size_bytes, config.state);
		return -1;
	}
	return 0;
}

static void describe(void)
{
	const json_t *meta = undo_view_meta(export.view);
	const char *name = json_string_value(json_object_get(meta, "name"));
	const char *time = json_string_value(json_object_get(meta, "time"));

	snprintf(export.description, sizeof(export.description), "disk %" PRIu32 " in state %" PRIu64 "%s%s%s%s", config.disk,
		 config.state, name ? ": " : "", name ? name : "", time ? ", " : "", time ? time : "");
}

static int reprotect_get_ready(void)
{
	char error[512] = "";
	int rc;

	if (open_target() < 0)
		return -1;
	if (posix_memalign(&export.buffer, UNDO_BLOCK, PIECE_BYTES)) {
		nbdkit_error("out of memory");
		return -1;
	}
	rc = undo_view_open(&export.view, config.log, config.state, error, sizeof(error));
	if (rc) {
		export.view = NULL;
		nbdkit_error("undo log %s: cannot show state %" PRIu64 ": %s", config.log, config.state,
			     *error ? error : strerror(-rc));
		return -1;
	}
	describe();
	nbdkit_debug("%zu pieces, %zu bytes of memory", undo_view_pieces(export.view), undo_view_memory(export.view));
	return 0;
}

static void *reprotect_open(int readonly)
{
	(void)readonly;
	return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t reprotect_get_size(void *handle)
{
	(void)handle;
	return (int64_t)config.size_bytes;
}

static int reprotect_can_write(void *handle)
{
	(void)handle;
	return 0;
}

static int reprotect_can_multi_conn(void *handle)
{
	(void)handle;
	return 1;
}

static const char *reprotect_export_description(void *handle)
{
	(void)handle;
	return export.description;
}

static int reprotect_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
	(void)handle;
	*minimum = 1;
	*preferred = UNDO_BLOCK;
	*maximum = REQUEST_MAX;
	return 0;
}

/* [offset, offset + count) lies in one piece, widened to blocks. */
static int read_piece(char *out, uint32_t count, uint64_t offset)
{
	uint64_t from = offset / UNDO_BLOCK * UNDO_BLOCK;
	uint64_t to = (offset + count + UNDO_BLOCK - 1) / UNDO_BLOCK * UNDO_BLOCK;
	int rc;

	if (to > config.size_bytes)
		to = config.size_bytes;
	pthread_mutex_lock(&export.mutex);
	rc = undo_view_read(export.view, config.disk, export.target, from, to - from, export.buffer);
	if (!rc)
		memcpy(out, (const char *)export.buffer + (offset - from), count);
	pthread_mutex_unlock(&export.mutex);
	return rc;
}

static int reprotect_pread(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
	char *out = buffer;

	(void)handle;
	(void)flags;
	while (count) {
		uint64_t room = PIECE_BYTES - offset % UNDO_BLOCK;
		uint32_t some = count < room ? count : (uint32_t)room;
		int rc = read_piece(out, some, offset);

		if (rc) {
			nbdkit_error("disk %" PRIu32 ": cannot read %" PRIu32 " bytes at %" PRIu64 " as of state %" PRIu64 ": %s",
				     config.disk, some, offset, config.state,
				     rc == -EBADMSG ? "the undo log is damaged there (see: reprotect points verify)" :
						      strerror(-rc));
			nbdkit_set_error(EIO);
			return -1;
		}
		out += some;
		offset += some;
		count -= some;
	}
	return 0;
}

static struct nbdkit_plugin plugin = {
	.name = "reprotect",
	.longname = "reprotect recovery points",
	.version = REPROTECT_VERSION,
	.description = "a disk as it was at a recovery point",
	.unload = reprotect_unload,
	.config = reprotect_config,
	.config_complete = reprotect_config_complete,
	.config_help = reprotect_config_help,
	.get_ready = reprotect_get_ready,
	.open = reprotect_open,
	.get_size = reprotect_get_size,
	.can_write = reprotect_can_write,
	.can_multi_conn = reprotect_can_multi_conn,
	.export_description = reprotect_export_description,
	.block_size = reprotect_block_size,
	.pread = reprotect_pread,
};

NBDKIT_REGISTER_PLUGIN(plugin)
