// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mount: reprotect points mount and unmount: a disk of a recovery point exported, connected as a block device, and its file
 * system mounted, in one step and back again. When a step fails, those before it are undone in order.
 *
 *	step			undone by
 *	export (nbdkit)		end of its nbdkit
 *	/dev/nbd<N>		disconnect
 *	mount			umount
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "cli.h"
#include "content.h"
#include "exports.h"
#include "nbd.h"
#include "run.h"
#include "util.h"

#define MOUNTS_DIR "/run/reprotect/mnt"

/* How far it is. */
struct steps {
	const struct cli_options *options;
	json_t *entry;		       /* exported */
	char device[NBD_DEVICE_BYTES]; /* connected, "" not */
	char dir[PATH_MAX];
	bool made_dir, mounted;
	char type[32];
	unsigned partition;
};

static void undo(struct steps *steps)
{
	char error[512];

	run_undo();
	if (steps->mounted && umount(steps->dir) < 0)
		cli_error("umount it by hand", "%s: cannot be unmounted: %s", steps->dir, strerror(errno));
	if (steps->made_dir)
		rmdir(steps->dir);
	if (*steps->device && nbd_disconnect(steps->device, error, sizeof(error)))
		cli_error(NULL, "%s", error);
	if (steps->entry)
		exports_end(steps->options, steps->entry);
}

/* Where it is mounted: a directory that is there, or one that is made for it. */
static bool prepare_dir(struct steps *steps, const char *dir)
{
	struct stat st;
	int rc;

	if (dir) {
		if (!realpath(dir, steps->dir) || stat(steps->dir, &st) < 0 || !S_ISDIR(st.st_mode)) {
			cli_error("make it first", "%s: is no directory", dir);
			return false;
		}
		return true;
	}
	snprintf(steps->dir, sizeof(steps->dir), MOUNTS_DIR "/%s", cli_text(steps->entry, "name"));
	rc = util_mkdirs(steps->dir);
	steps->made_dir = !rc;
	if (rc)
		cli_error("run this as root", "%s: cannot be made: %s", steps->dir, strerror(-rc));
	return !rc;
}

static bool choose(struct steps *steps)
{
	CLEANUP_FD int fd = open(steps->device, O_RDONLY | O_CLOEXEC);
	const struct content_item *item;
	CLEANUP_FREE struct content *content = malloc(sizeof(*content));
	const char *remedy;
	char error[1536];
	int rc = !content ? -ENOMEM : fd < 0 ? -errno : content_find(fd, content);

	if (rc) {
		cli_error(NULL, "disk %s: cannot look at what is on it: %s", cli_text(steps->entry, "disk_name"), strerror(-rc));
		return false;
	}
	item = content_choose(content, (unsigned)steps->options->partition, error, sizeof(error), &remedy);
	if (!item) {
		cli_error(remedy, "disk %s: %s", cli_text(steps->entry, "disk_name"), error);
		return false;
	}
	steps->partition = item->partition;
	snprintf(steps->type, sizeof(steps->type), "%s", item->type);
	return true;
}

static bool mount_it(struct steps *steps)
{
	bool read_only = steps->options->read_only;
	char device[NBD_DEVICE_BYTES + 16];

	content_device(steps->device, steps->partition, device, sizeof(device));
	if (mount(device, steps->dir, content_mount_type(steps->type), MS_NOSUID | MS_NODEV | (read_only ? MS_RDONLY : 0),
		  content_mount_data(steps->type, read_only)) < 0) {
		cli_error("dmesg says more", "disk %s: %s: cannot mount %s at %s: %s", cli_text(steps->entry, "disk_name"), device,
			  steps->type, steps->dir, strerror(errno));
		return false;
	}
	steps->mounted = true;
	return true;
}

static bool remember(const struct steps *steps)
{
	int rc = exports_use(steps->options, steps->entry, steps->device, steps->mounted ? steps->dir : NULL);

	if (rc)
		cli_error(NULL, "export %s: cannot be marked as in use: %s", cli_text(steps->entry, "name"), strerror(-rc));
	return !rc;
}

static bool connect_it(struct steps *steps)
{
	char error[512];
	int rc = nbd_connect(cli_text(steps->entry, "socket"), cli_number(steps->entry, "size_bytes"), steps->options->read_only,
			     steps->device, error, sizeof(error));

	if (rc) {
		*steps->device = '\0';
		cli_error(NULL, "disk %s: %s", cli_text(steps->entry, "disk_name"), error);
	}
	return !rc;
}

static void tell(const struct steps *steps)
{
	if (steps->options->json) {
		json_object_set_new(steps->entry, "used_by",
				    json_pack("{s:s, s:s}", "device", steps->device, "mount", steps->dir));
		json_object_set_new(steps->entry, "partition", json_integer(steps->partition));
		json_object_set_new(steps->entry, "type", json_string(steps->type));
		cli_print_json(steps->entry);
		return;
	}
	printf("%s\n", steps->dir);
	fprintf(stderr, "reprotect: disk %s as of %s (point %" PRIu64 ") is mounted there, %s; end it: reprotect points unmount %s\n",
		cli_text(steps->entry, "disk_name"), cli_text(steps->entry, "time"), cli_number(steps->entry, "point"),
		steps->options->read_only ? "read-only" : "writable: what is written is thrown away at the end", steps->dir);
}

enum cli_exit command_points_mount(const struct cli_options *options)
{
	struct steps steps = { .options = options };
	CLEANUP_JSON json_t *answer = NULL;
	const json_t *disk;
	char error[512];
	enum cli_exit rc;

	if (options->argc != 3 && options->argc != 4) {
		cli_error("reprotect points mount MACHINE POINT DISK [DIR] [--partition NUMBER] [--read-only]",
			  "points mount: name a machine, a point and a disk");
		return CLI_USAGE;
	}
	rc = point_resolve(options, options->argv[0], options->argv[1], options->argv[2], &answer);
	if (rc != CLI_OK)
		return rc;
	disk = point_disk(answer, options->argv[2]);
	if (!disk)
		return CLI_FAILED;
	if (nbd_ready(error, sizeof(error))) {
		cli_error("use it without the kernel: reprotect points export", "disk %s: cannot be mounted: %s", options->argv[2], error);
		return CLI_FAILED;
	}
	run_catch();
	rc = exports_start(options, answer, disk, !options->read_only, &steps.entry);
	if (rc == CLI_OK && !(prepare_dir(&steps, options->argc == 4 ? options->argv[3] : NULL) && connect_it(&steps) &&
			      remember(&steps) && choose(&steps) && mount_it(&steps) && remember(&steps)))
		rc = CLI_FAILED;
	if (rc == CLI_OK && run_interrupted()) {
		cli_error(NULL, "points mount: interrupted");
		rc = CLI_FAILED;
	}
	if (rc == CLI_OK)
		tell(&steps);
	else
		undo(&steps);
	json_decref(steps.entry);
	return rc;
}

/* By its name, or by where it is mounted. */
static const json_t *find(const json_t *list, const char *what)
{
	char real[PATH_MAX];
	const char *path = realpath(what, real);
	const json_t *entry;
	size_t i;

	json_array_foreach(list, i, entry)
	{
		const char *dir = cli_text(json_object_get(entry, "used_by"), "mount");

		if (!strcmp(cli_text(entry, "name"), what) || (*dir && (!strcmp(dir, what) || (path && !strcmp(dir, path)))))
			return entry;
	}
	return NULL;
}

/* Disconnected behind our back, and now another's. */
static bool taken_over(const json_t *list, const json_t *entry, const char *device)
{
	const json_t *other;
	size_t i;

	json_array_foreach(list, i, other)
		if (other != entry && cli_number(other, "started_ms") > cli_number(entry, "started_ms") &&
		    !strcmp(cli_text(json_object_get(other, "used_by"), "device"), device))
			return true;
	return false;
}

enum cli_exit command_points_unmount(const struct cli_options *options)
{
	CLEANUP_JSON json_t *list = NULL;
	const char *dir, *device;
	const json_t *entry, *user;
	char error[512];

	if (options->argc != 1) {
		cli_error("reprotect points unmount DIR|NAME", "points unmount: name one that is mounted (see: reprotect points exports)");
		return CLI_USAGE;
	}
	list = exports_list(options);
	entry = find(list, options->argv[0]);
	user = json_object_get(entry, "used_by");
	if (!json_is_object(user)) {
		cli_error("see: reprotect points exports", "%s: no recovery point is mounted there", options->argv[0]);
		return CLI_FAILED;
	}
	dir = cli_text(user, "mount");
	device = cli_text(user, "device");
	/* EINVAL, ENOENT: somebody has unmounted it already. */
	if (*dir && umount2(dir, UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT) {
		snprintf(error, sizeof(error), "who uses it: fuser -vm %s", dir);
		cli_error(errno == EBUSY ? error : "run this as root", "%s: cannot be unmounted: %s", dir, strerror(errno));
		return CLI_FAILED;
	}
	if (*device && !taken_over(list, entry, device) && nbd_disconnect(device, error, sizeof(error))) {
		cli_error("run the command again", "%s", error);
		return CLI_FAILED;
	}
	if (exports_end(options, entry) != CLI_OK)
		return CLI_FAILED;
	if (!strncmp(dir, MOUNTS_DIR "/", strlen(MOUNTS_DIR "/")))
		rmdir(dir);
	if (!options->json)
		printf("%s: ended\n", cli_text(entry, "name"));
	return CLI_OK;
}
