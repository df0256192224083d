// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mounts: see mounts.h.
 */
#include "mounts.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "util.h"

#define DEPTH_MAX 16

/* The next field of @*at, with \ooo escapes resolved, into @out. */
static int field(const char **at, char *out, size_t out_bytes)
{
	const char *p = *at;
	size_t used = 0;

	while (*p == ' ')
		p++;
	if (!*p || *p == '\n')
		return -EINVAL;
	while (*p && *p != ' ' && *p != '\n') {
		char c = *p++;

		if (c == '\\' && p[0] >= '0' && p[0] <= '3' && p[1] >= '0' && p[1] <= '7' &&
		    p[2] >= '0' && p[2] <= '7') {
			c = (char)((p[0] - '0') * 64 + (p[1] - '0') * 8 + (p[2] - '0'));
			p += 3;
		}
		if (used + 1 >= out_bytes)
			return -EINVAL;
		out[used++] = c;
	}
	out[used] = '\0';
	*at = p;
	return 0;
}

/* Whether the comma-separated @options hold @word. */
static bool has_option(const char *options, const char *word)
{
	size_t length = strlen(word);

	while (*options) {
		size_t n = strcspn(options, ",");

		if (n == length && !strncmp(options, word, n))
			return true;
		options += n + (options[n] == ',');
	}
	return false;
}

int mounts_parse(const char *line, struct mount_entry *entry)
{
	/* id parent major:minor root point options [optional]... - type source superoptions */
	char skip[2048], device[64], word[64];
	unsigned major_number, minor_number;

	memset(entry, 0, sizeof(*entry));
	if (field(&line, word, sizeof(word)) || field(&line, word, sizeof(word)) ||
	    field(&line, device, sizeof(device)) || field(&line, skip, sizeof(skip)) ||
	    field(&line, entry->point, sizeof(entry->point)) || field(&line, skip, sizeof(skip)))
		return -EINVAL;
	do {
		if (field(&line, skip, sizeof(skip)))
			return -EINVAL;
	} while (strcmp(skip, "-") != 0);
	if (field(&line, entry->type, sizeof(entry->type)) ||
	    field(&line, entry->source, sizeof(entry->source)) || field(&line, skip, sizeof(skip)))
		return -EINVAL;
	if (sscanf(device, "%u:%u", &major_number, &minor_number) != 2)
		return -EINVAL;
	entry->dev = makedev(major_number, minor_number);
	entry->writable = !has_option(skip, "ro");
	return 0;
}

static bool dev_in(dev_t dev, const dev_t *devs, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (devs[i] == dev)
			return true;
	return false;
}

static int read_dev(const char *path, dev_t *dev)
{
	unsigned major_number, minor_number;
	CLEANUP_FILE FILE *file = fopen(path, "re");

	if (!file)
		return -errno;
	if (fscanf(file, "%u:%u", &major_number, &minor_number) != 2)
		return -EINVAL;
	*dev = makedev(major_number, minor_number);
	return 0;
}

static bool lives_on(dev_t dev, const dev_t *devs, size_t count, int depth);

/* A loop device lives where its backing file does. */
static bool loop_lives_on(const char *sys, const dev_t *devs, size_t count, int depth)
{
	char path[PATH_MAX + 32], backing[PATH_MAX];
	struct stat st;
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "%s/loop/backing_file", sys);
	file = fopen(path, "re");
	if (!file)
		return false;
	if (fgets(backing, sizeof(backing), file)) {
		backing[strcspn(backing, "\n")] = '\0';
		if (!stat(backing, &st))
			found = lives_on(S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev, devs, count,
					 depth);
	}
	fclose(file);
	return found;
}

static bool lives_on(dev_t dev, const dev_t *devs, size_t count, int depth)
{
	char sys[64], path[PATH_MAX];
	struct dirent *entry;
	struct stat st;
	bool found = false;
	dev_t below;
	DIR *slaves;

	if (dev_in(dev, devs, count))
		return true;
	if (!major(dev) || depth >= DEPTH_MAX)
		return false;
	snprintf(sys, sizeof(sys), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	snprintf(path, sizeof(path), "%s/partition", sys);
	if (!stat(path, &st)) {
		snprintf(path, sizeof(path), "%s/../dev", sys);
		return !read_dev(path, &below) && lives_on(below, devs, count, depth + 1);
	}
	snprintf(path, sizeof(path), "%s/slaves", sys);
	slaves = opendir(path);
	while (slaves && !found && (entry = readdir(slaves))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/slaves/%s/dev", sys, entry->d_name);
		found = !read_dev(path, &below) && lives_on(below, devs, count, depth + 1);
	}
	if (slaves)
		closedir(slaves);
	return found || loop_lives_on(sys, devs, count, depth + 1);
}

int mounts_on(const dev_t *devs, size_t dev_count, struct mount_entry **list, size_t *count)
{
	CLEANUP_FREE char *line = NULL;
	CLEANUP_FREE struct mount_entry *found = NULL;
	CLEANUP_FILE FILE *file = fopen("/proc/self/mountinfo", "re");
	size_t line_bytes = 0, used = 0;

	if (!file)
		return -errno;
	found = calloc(MOUNTS_MAX, sizeof(*found));
	if (!found)
		return -ENOMEM;
	while (getline(&line, &line_bytes, file) > 0) {
		struct mount_entry *entry = &found[used];
		struct stat st;
		bool seen = false;
		dev_t dev;

		if (mounts_parse(line, entry) || !entry->writable)
			continue;
		dev = entry->dev;
		if (!major(dev)) {
			/* btrfs and the like have no device number of their own: ask the source. */
			if (entry->source[0] != '/' || stat(entry->source, &st) ||
			    !S_ISBLK(st.st_mode))
				continue;
			dev = st.st_rdev;
		}
		for (size_t i = 0; i < used && !seen; i++)
			seen = found[i].dev == entry->dev;
		if (seen || !lives_on(dev, devs, dev_count, 0))
			continue;
		if (++used == MOUNTS_MAX)
			return -E2BIG;
	}
	for (size_t i = 0; i < used / 2; i++) {
		struct mount_entry swap = found[i];

		found[i] = found[used - 1 - i];
		found[used - 1 - i] = swap;
	}
	*list = found;
	*count = used;
	found = NULL;
	return 0;
}
