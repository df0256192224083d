/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * util: clocks, random numbers, and files that are replaced durably. Called by every
 * program. What util_write_file returned 0 for is there after a power cut.
 */
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#define READ_FILE_MAX (64u << 20) /* no state file of ours comes near */

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	/* Cannot fail: both clocks exist on every kernel that the module supports. */
	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

uint64_t util_now_ns(void)
{
	return clock_ns(CLOCK_BOOTTIME);
}

uint64_t util_now_ms(void)
{
	return util_now_ns() / 1000000ull;
}

uint64_t util_wall_ms(void)
{
	return clock_ns(CLOCK_REALTIME) / 1000000ull;
}

uint64_t util_random(void)
{
	uint64_t number = 0;

	/* Up to 256 bytes getrandom() is whole or not at all; it fails only before the pool is up.
	 */
	while (!number) {
		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			number = 0;
	}
	return number;
}

static int write_all(int fd, const void *data, size_t bytes)
{
	const char *at = data;

	while (bytes) {
		ssize_t put = write(fd, at, bytes);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		at += put;
		bytes -= (size_t)put;
	}
	return 0;
}

static int sync_parent(const char *path)
{
	CLEANUP_FREE char *parent = strdup(path);
	CLEANUP_FD int fd = -1;
	char *slash;

	if (!parent)
		return -ENOMEM;
	slash = strrchr(parent, '/');
	if (!slash)
		strcpy(parent, "."); /* a path without a slash has at least one character */
	else
		slash[slash == parent] = '\0';
	fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fsync(fd) ? -errno : 0;
}

static int write_temporary(const char *temporary, const void *data, size_t bytes)
{
	CLEANUP_FD int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int error;

	if (fd < 0)
		return -errno;
	error = write_all(fd, data, bytes);
	if (!error && fsync(fd))
		error = -errno;
	return error;
}

int util_write_file(const char *path, const void *data, size_t bytes)
{
	CLEANUP_FREE char *temporary = NULL;
	int error;

	if (!*path)
		return -ENOENT;
	/* One writer a file, so a fixed name: what a kill leaves behind is overwritten next time.
	 */
	if (asprintf(&temporary, "%s.new", path) < 0) {
		temporary = NULL;
		return -ENOMEM;
	}
	error = write_temporary(temporary, data, bytes);
	if (!error && rename(temporary, path))
		error = -errno;
	if (error) {
		unlink(temporary);
		return error;
	}
	return sync_parent(path);
}

int util_write_json(const char *path, const json_t *json)
{
	CLEANUP_FREE char *text = json_dumps(json, JSON_INDENT(2) | JSON_PRESERVE_ORDER);

	if (!text)
		return -ENOMEM;
	return util_write_file(path, text, strlen(text));
}

int util_read_json(const char *path, json_t **json, char *error, size_t error_bytes)
{
	CLEANUP_FILE FILE *file = fopen(path, "re");
	struct stat status;
	json_error_t why;

	*json = NULL;
	if (error_bytes)
		error[0] = '\0';
	if (!file) {
		int code = -errno;

		snprintf(error, error_bytes, "%s: cannot open: %s", path, strerror(-code));
		return code;
	}
	if (fstat(fileno(file), &status))
		return -errno;
	if (!S_ISREG(status.st_mode) || status.st_size > READ_FILE_MAX) {
		snprintf(error, error_bytes, "%s: not a state file (not a regular file, or larger "
			 "than %u MiB)", path, READ_FILE_MAX >> 20);
		return -EBADMSG;
	}
	*json = json_loadf(file, JSON_REJECT_DUPLICATES, &why);
	if (*json)
		return 0;
	if (json_error_code(&why) == json_error_out_of_memory) {
		snprintf(error, error_bytes, "%s: out of memory", path);
		return -ENOMEM;
	}
	if (ferror(file)) {
		snprintf(error, error_bytes, "%s: cannot read: input/output error", path);
		return -EIO;
	}
	snprintf(error, error_bytes, "%s: line %d: not valid JSON: %s", path, why.line, why.text);
	return -EBADMSG;
}

int util_mkdirs(const char *path)
{
	CLEANUP_FREE char *copy = strdup(path);
	struct stat status;

	if (!copy)
		return -ENOMEM;
	if (!*copy)
		return -ENOENT;
	for (char *at = copy + 1;; at++) {
		char saved = *at;

		if (saved != '/' && saved != '\0')
			continue;
		*at = '\0';
		if (mkdir(copy, 0700) && errno != EEXIST)
			return -errno;
		*at = saved;
		if (!saved)
			break;
	}
	if (stat(path, &status))
		return -errno;
	return S_ISDIR(status.st_mode) ? 0 : -ENOTDIR;
}

int util_device_bytes(int fd, uint64_t *bytes)
{
	struct stat status;

	if (fstat(fd, &status))
		return -errno;
	if (S_ISREG(status.st_mode)) {
		*bytes = (uint64_t)status.st_size;
		return 0;
	}
	if (!S_ISBLK(status.st_mode))
		return -ENOTBLK;
	return ioctl(fd, BLKGETSIZE64, bytes) ? -errno : 0;
}

uint64_t util_rss_bytes(void)
{
	CLEANUP_FILE FILE *file = fopen("/proc/self/statm", "re");
	unsigned long pages;

	if (!file || fscanf(file, "%*u %lu", &pages) != 1)
		return 0;
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
