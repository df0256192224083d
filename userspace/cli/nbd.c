// SPDX-License-Identifier: GPL-2.0-or-later
/* nbd: see nbd.h. */
#include "nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <libkmod.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "module_load.h"
#include "run.h"
#include "util.h"

#define CLIENT_MS 30000u
#define WAIT_MS 10000u
#define POLL_MS 20u
#define DEVICES_MAX 1024u

static bool there(void)
{
	return !access("/sys/block/nbd0", F_OK);
}

static int load(void)
{
	struct kmod_ctx *context = kmod_new(NULL, NULL);
	int rc;

	if (!context)
		return -ENOMEM;
	kmod_set_log_priority(context, 0); /* what is to be said is said here */
	rc = module_load(context, "nbd");
	kmod_unref(context);
	return rc;
}

int nbd_ready(char *error, size_t error_bytes)
{
	uint64_t end = util_now_ms() + WAIT_MS;
	char path[4096];
	int rc = there() ? 0 : load();

	while (!rc && !there()) {
		if (util_now_ms() >= end)
			rc = -ENODEV;
		else
			run_pause(POLL_MS);
	}
	if (rc) {
		snprintf(error, error_bytes, "the kernel's module nbd cannot be loaded: %s",
			 rc == -ENOENT ? "this kernel has none" : strerror(-rc));
		return rc;
	}
	if (run_find("nbd-client", path, sizeof(path))) {
		snprintf(error, error_bytes, "there is no program nbd-client (install the package nbd-client)");
		return -ENOENT;
	}
	return 0;
}

bool nbd_connected(const char *device)
{
	const char *name = strrchr(device, '/');
	char path[96];

	snprintf(path, sizeof(path), "/sys/block/%.32s/pid", name ? name + 1 : device);
	return !access(path, F_OK);
}

static bool exists(unsigned index)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/nbd%u", index);
	return !access(path, F_OK);
}

/* Until the kernel has its size. */
static int wait_for_size(const char *device, uint64_t size_bytes)
{
	uint64_t end = util_now_ms() + WAIT_MS, bytes = 0;

	for (;; run_pause(POLL_MS)) {
		CLEANUP_FD int fd = open(device, O_RDONLY | O_CLOEXEC);

		if (fd >= 0 && !util_device_bytes(fd, &bytes) && bytes == size_bytes)
			return 0;
		if (run_interrupted())
			return -EINTR;
		if (util_now_ms() >= end)
			return -ETIMEDOUT;
	}
}

/* Have the kernel read the partition table, now: then its devices are there. Somebody (udev) may have one of them open. */
static int read_partitions(const char *device)
{
	uint64_t end = util_now_ms() + WAIT_MS;

	for (;; run_pause(POLL_MS)) {
		CLEANUP_FD int fd = open(device, O_RDONLY | O_CLOEXEC);

		if (fd >= 0 && !ioctl(fd, BLKRRPART))
			return 0;
		if (errno != EBUSY)
			return -errno;
		if (run_interrupted())
			return -EINTR;
		if (util_now_ms() >= end)
			return -EBUSY;
	}
}

/* With the smallest block, so that no size is rounded. */
static int connect_one(const char *socket, const char *device, bool read_only, struct run_result *result)
{
	const char *argv[] = { "nbd-client", "-unix", socket, device, "-block-size", "512", read_only ? "-readonly" : NULL, NULL };
	int rc = run_program(argv, NULL, CLIENT_MS, result);

	return rc ? rc : result->exit ? -EIO : 0;
}

int nbd_connect(const char *socket, uint64_t size_bytes, bool read_only, char device[NBD_DEVICE_BYTES], char *error,
		size_t error_bytes)
{
	struct run_result result = { 0 };
	char ignored[256];
	bool tried = false;
	int rc = -EBUSY;

	for (unsigned index = 0; rc && rc != -EINTR && index < DEVICES_MAX && exists(index); index++) {
		snprintf(device, NBD_DEVICE_BYTES, "/dev/nbd%u", index);
		if (nbd_connected(device))
			continue;
		tried = true;
		rc = connect_one(socket, device, read_only, &result); /* another may have been quicker */
	}
	if (rc) {
		snprintf(error, error_bytes, "%s%s",
			 tried ? "nbd-client cannot connect a device: " : "all devices /dev/nbd* are in use (raise nbds_max of the module nbd)",
			 !tried ? "" : rc == -EIO ? run_last_line(result.output) : strerror(-rc));
		return rc;
	}
	rc = wait_for_size(device, size_bytes);
	if (rc)
		snprintf(error, error_bytes, "device %s: does not have its size after being connected: %s", device, strerror(-rc));
	else {
		rc = read_partitions(device);
		if (rc)
			snprintf(error, error_bytes, "device %s: the kernel cannot read its partition table: %s", device, strerror(-rc));
	}
	if (rc)
		nbd_disconnect(device, ignored, sizeof(ignored));
	return rc;
}

int nbd_disconnect(const char *device, char *error, size_t error_bytes)
{
	const char *argv[] = { "nbd-client", "-d", device, NULL };
	uint64_t end = util_now_ms() + WAIT_MS;
	struct run_result result = { 0 };
	int rc;

	if (!nbd_connected(device))
		return 0;
	rc = run_program(argv, NULL, CLIENT_MS, &result);
	while (!rc && nbd_connected(device)) {
		if (util_now_ms() >= end)
			rc = -ETIMEDOUT;
		else
			run_pause(POLL_MS);
	}
	if (rc)
		snprintf(error, error_bytes, "device %s: cannot be disconnected: %s%s%s", device, strerror(-rc),
			 *result.output ? ": " : "", run_last_line(result.output));
	return rc;
}
