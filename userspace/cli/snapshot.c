// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * snapshot: reprotect disk snapshot. Has the agent open or release a snapshot of a disk, and
 * mounts its image when asked to, read-only and without replaying a journal.
 */
#include <blkid/blkid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

#include "cli.h"
#include "util.h"

#define POLL_MS 100u
#define TIMEOUT_MS 60000u

/* The type of the filesystem on @path, into @out. */
static bool filesystem(const char *path, char *out, size_t out_bytes)
{
	blkid_probe probe = blkid_new_probe_from_filename(path);
	const char *type = NULL;

	if (!probe)
		return false;
	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE);
	if (!blkid_do_safeprobe(probe) && !blkid_probe_lookup_value(probe, "TYPE", &type, NULL))
		snprintf(out, out_bytes, "%s", type);
	blkid_free_probe(probe);
	return type != NULL;
}

static enum cli_exit mount_image(const struct cli_options *options, const char *image)
{
	/* The image cannot be written, so no journal can be replayed, and its uuid is there twice. */
	static const struct {
		const char *type, *data;
	} options_of[] = { { "ext3", "noload" },
			   { "ext4", "noload" },
			   { "xfs", "norecovery,nouuid" } };
	const char *data = "";
	char type[64];

	if (!filesystem(image, type, sizeof(type))) {
		cli_error("a disk with partitions: losetup --find --show --read-only --partscan IMAGE, then mount those",
			  "snapshot %s: no filesystem on it that is known", image);
		return CLI_FAILED;
	}
	for (size_t i = 0; i < ARRAY_LENGTH(options_of); i++)
		if (!strcmp(options_of[i].type, type))
			data = options_of[i].data;
	if (mount(image, options->mount, type, MS_RDONLY | MS_NOSUID | MS_NODEV, data) < 0) {
		cli_error("dmesg says more; the snapshot is open all the same", "snapshot %s: cannot mount %s at %s: %s",
			  image, type, options->mount, strerror(errno));
		return CLI_FAILED;
	}
	return CLI_OK;
}

/* Where the image is mounted, into @out. */
static bool mounted(const char *image, char *out, size_t out_bytes)
{
	CLEANUP_FILE FILE *file = fopen("/proc/self/mounts", "re");
	char source[512], point[512];

	while (file && fscanf(file, "%511s %511s %*[^\n]", source, point) == 2)
		if (!strcmp(source, image)) {
			snprintf(out, out_bytes, "%s", point);
			return true;
		}
	return false;
}

static enum cli_exit release(const struct cli_options *options)
{
	CLEANUP_JSON json_t *status = NULL, *answer = NULL;
	char point[512];
	enum cli_exit rc;

	rc = cli_call(options, CLI_AGENT, json_pack("{s:s}", "command", "snapshot-status"), &status);
	if (rc != CLI_OK)
		return rc;
	if (mounted(cli_text(json_object_get(status, "snapshot"), "image"), point, sizeof(point))) {
		cli_error("umount it first", "snapshot of disk %s: is mounted on %s", options->argv[0], point);
		return CLI_FAILED;
	}
	rc = cli_call(options, CLI_AGENT,
		      json_pack("{s:s, s:s}", "command", "snapshot-release", "device", options->argv[0]), &answer);
	if (rc == CLI_OK)
		printf("snapshot released; replication goes on\n");
	return rc;
}

enum cli_exit command_disk_snapshot(const struct cli_options *options)
{
	uint64_t end = util_now_ms() + (options->timeout_ms ? options->timeout_ms : TIMEOUT_MS);
	CLEANUP_JSON json_t *answer = NULL;
	const json_t *snapshot, *error;
	enum cli_exit rc;

	if (options->argc != 1 || (options->mount && options->release)) {
		cli_error("reprotect disk snapshot DEVICE|NAME [--mount DIR | --release]",
			  "disk snapshot: name one disk");
		return CLI_USAGE;
	}
	if (options->release)
		return release(options);
	rc = cli_call(options, CLI_AGENT,
		      json_pack("{s:s, s:s}", "command", "snapshot", "device", options->argv[0]), &answer);
	for (;;) {
		struct timespec pause = { 0, (long)POLL_MS * 1000000L };

		if (rc != CLI_OK)
			return rc;
		snapshot = json_object_get(answer, "snapshot");
		if (strcmp(cli_text(snapshot, "state"), "waiting") != 0)
			break;
		if (util_now_ms() >= end) {
			cli_error("it opens when that is over; to give it up: reprotect disk snapshot --release DEVICE",
				  "snapshot of disk %s: the epoch under way is not over yet", options->argv[0]);
			return CLI_FAILED;
		}
		nanosleep(&pause, NULL);
		json_decref(answer);
		answer = NULL;
		rc = cli_call(options, CLI_AGENT, json_pack("{s:s}", "command", "snapshot-status"), &answer);
	}
	error = json_object_get(snapshot, "error");
	if (strcmp(cli_text(snapshot, "state"), "open") != 0) {
		cli_error(cli_text(error, "remedy"), "%s", cli_text(error, "message"));
		return CLI_FAILED;
	}
	if (options->json)
		cli_print_json(snapshot);
	else
		printf("%s\n", cli_text(snapshot, "image"));
	fprintf(stderr, "reprotect: replication waits until: reprotect disk snapshot --release %s\n",
		options->argv[0]);
	return options->mount ? mount_image(options, cli_text(snapshot, "image")) : CLI_OK;
}
