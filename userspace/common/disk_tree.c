// SPDX-License-Identifier: GPL-2.0-or-later
/* disk_tree: see disk_tree.h. One walk down sysfs; the questions differ in what they do at each device. */
#include "disk_tree.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "util.h"

#define DEPTH_MAX 16u /* of stacked devices; also ends a walk that sysfs changes under */
#define DISKS_MAX 64u

void disk_tree_sysfs(dev_t dev, char out[64])
{
	snprintf(out, 64, "/sys/dev/block/%u:%u", major(dev), minor(dev));
}

bool disk_tree_read_dev(const char *path, dev_t *dev)
{
	CLEANUP_FILE FILE *file = fopen(path, "re");
	unsigned ma, mi;

	if (!file || fscanf(file, "%u:%u", &ma, &mi) != 2)
		return false;
	*dev = makedev(ma, mi);
	return true;
}

/* The disk of a partition. */
static bool disk_of(dev_t dev, dev_t *disk)
{
	char base[64], path[128];

	disk_tree_sysfs(dev, base);
	snprintf(path, sizeof(path), "%s/partition", base);
	if (access(path, F_OK))
		return false;
	snprintf(path, sizeof(path), "%s/../dev", base);
	return disk_tree_read_dev(path, disk);
}

bool disk_tree_backing_file(dev_t dev, char *path, size_t path_bytes)
{
	char base[64], name[128];

	while (disk_of(dev, &dev))
		;
	disk_tree_sysfs(dev, base);
	snprintf(name, sizeof(name), "%s/loop/backing_file", base);
	CLEANUP_FILE FILE *file = fopen(name, "re");

	if (!file || !fgets(path, (int)path_bytes, file))
		return false;
	path[strcspn(path, "\n")] = 0;
	return true;
}

/**
 * struct walk - what is done at each device
 * @visit: @bottom: nothing is below it. True ends the walk.
 * @loops: a loop device's file is below it
 */
struct walk {
	bool (*visit)(dev_t dev, bool bottom, void *user);
	void *user;
	bool loops;
};

static bool walk_down(const struct walk *walk, dev_t dev, unsigned depth);

/* Whether the walk ended in a member of dm or md; *@any: there are members. */
static bool walk_members(const struct walk *walk, dev_t dev, unsigned depth, bool *any)
{
	char base[64], path[512];

	disk_tree_sysfs(dev, base);
	snprintf(path, sizeof(path), "%s/slaves", base);
	CLEANUP_DIR DIR *dir = opendir(path);
	const struct dirent *entry;
	dev_t lower;

	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/slaves/%s/dev", base, entry->d_name);
		if (!disk_tree_read_dev(path, &lower))
			continue;
		*any = true;
		if (walk_down(walk, lower, depth + 1))
			return true;
	}
	return false;
}

static bool walk_down(const struct walk *walk, dev_t dev, unsigned depth)
{
	char file[4096];
	struct stat st;
	bool any = false;
	dev_t lower;

	if (depth > DEPTH_MAX)
		return false;
	if (disk_of(dev, &lower))
		return walk->visit(dev, false, walk->user) || walk_down(walk, lower, depth + 1);
	if (walk_members(walk, dev, depth, &any))
		return true;
	if (walk->loops && !any && disk_tree_backing_file(dev, file, sizeof(file)) && !stat(file, &st)) {
		any = true;
		if (walk_down(walk, st.st_dev, depth + 1))
			return true;
	}
	return walk->visit(dev, !any, walk->user);
}

static bool is_it(dev_t dev, bool bottom, void *user)
{
	(void)bottom;
	return dev == *(const dev_t *)user;
}

bool disk_tree_stands_on(dev_t upper, dev_t lower)
{
	const struct walk walk = { .visit = is_it, .user = &lower, .loops = true };

	return walk_down(&walk, upper, 0);
}

struct disks {
	dev_t devs[DISKS_MAX];
	size_t count;
};

static bool gather(dev_t dev, bool bottom, void *user)
{
	struct disks *disks = user;

	if (bottom && disks->count < DISKS_MAX)
		disks->devs[disks->count++] = dev;
	return false;
}

bool disk_tree_shares_disk(dev_t a, dev_t b)
{
	struct disks of_a = { .count = 0 }, of_b = { .count = 0 };

	walk_down(&(struct walk){ .visit = gather, .user = &of_a }, a, 0);
	walk_down(&(struct walk){ .visit = gather, .user = &of_b }, b, 0);
	for (size_t i = 0; i < of_a.count; i++)
		for (size_t j = 0; j < of_b.count; j++)
			if (of_a.devs[i] == of_b.devs[j])
				return true;
	return false;
}
